"""Golden scripts: SQL in, the bound tree or the utility statement out."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from pydistdb.sql.bind import analyze, parse
from pydistdb.sql.tree import BoundStatement
from pydistdb.sql.tree_printer import print_statement
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import EvalContext, SqlType

from tests.sql.bind_answers import SCHEMA
from tests.support import golden
from tests.support.fake_catalog import FakeCatalog

FOLDER = Path(__file__).parent / "golden_bind"


def compact(value: object) -> str:
    """A utility statement without the fields that are at their defaults, and without positions."""
    if isinstance(value, SqlType):
        return registry.format_type(value.oid, value.modifier)
    if isinstance(value, tuple):
        return "(" + ", ".join(compact(item) for item in value) + ")"
    if is_dataclass(value) and not isinstance(value, type):
        parts = []
        for field in fields(value):
            item = getattr(value, field.name)
            if field.name != "position" and item != field.default and item not in ((), {}, None, False):
                parts.append(f"{field.name}={compact(item)}")
        return f"{type(value).__name__}({', '.join(parts)})"
    return repr(value)


class Script:
    def __init__(self) -> None:
        self.catalog = FakeCatalog(SCHEMA)
        self.context = EvalContext()
        self.context.catalog = self.catalog

    def execute(self, command: golden.Command) -> str:
        text = f"{command.name} {command.text}".strip()
        lines = []
        for parsed in parse(text):
            bound = analyze(parsed, self.catalog, self.context)
            lines.append(
                print_statement(bound) if isinstance(bound, BoundStatement) else f"{parsed.kind}: {compact(bound)}"
            )
        return "\n".join(lines)


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("tree_*.txt")))
def test_trees(name: str) -> None:
    golden.run(Script().execute, FOLDER / f"{name}.txt")
