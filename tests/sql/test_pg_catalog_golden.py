"""Golden scripts of what clients ask of the system tables.

``{oid users}`` in a query stands for the relation's oid, ``{type users}`` for that of its row type.  Long answers (lists of
functions, types, operators) are not written down, since they grow with the database.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support import golden
from tests.support.sql_client import SqlServer

SCRIPTS = sorted((Path(__file__).parent / "golden_pg_catalog").glob("*.txt"))
MOST_LINES = 30


class CatalogScript:
    def __init__(self) -> None:
        self.client = SqlServer().connect()

    def execute(self, command: golden.Command) -> str:
        text = re.sub(r"\{(oid|type) ([\w.]+)\}", self.oid, f"{command.name} {command.text}")
        lines = self.client.execute(text)
        if len(lines) > MOST_LINES and lines[-1].startswith("SELECT"):
            return "(many rows)"
        return "\n".join(lines)

    def oid(self, match: re.Match[str]) -> str:
        column = "oid" if match[1] == "oid" else "reltype"
        return self.client.rows(f"select {column} from pg_class where oid = '{match[2]}'::regclass")[0]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script(path: Path) -> None:
    golden.run(CatalogScript().execute, path)
