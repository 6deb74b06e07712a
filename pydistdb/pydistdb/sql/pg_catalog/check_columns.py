"""Which columns a CHECK condition uses: found by the scanner among the table's column names, remembered per constraint."""

from __future__ import annotations

from functools import lru_cache

from pydistdb.sql.bind.cutting import Tokens
from pydistdb.sql.catalog.descriptors import Check, Table
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.types.base import EvalContext


def columns_used(view: StateView, context: EvalContext, table: Table, check: Check) -> tuple[int, ...]:
    """Column numbers, in column order."""
    names = tuple((column.name, column.number) for column in table.columns if not column.dropped)
    return _columns_used(check.expression, names)


@lru_cache(maxsize=2_000)
def _columns_used(expression: str, names: tuple[tuple[str, int], ...]) -> tuple[int, ...]:
    tokens = Tokens(expression)
    words = set()
    for start, end, name in zip(tokens.starts, tokens.ends, tokens.names, strict=True):
        if name not in ("SCONST", "USCONST"):
            written = expression[start:end]
            words.add(written[1:-1].replace('""', '"') if written.startswith('"') else written.lower())
    return tuple(number for name, number in names if name in words)
