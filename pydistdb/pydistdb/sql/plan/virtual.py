"""Scans of system tables, and which of their look-ups (by oid, by name) narrows one down.

    WHERE c.oid = '16429'                    look-up by oid
    WHERE c.relname ~ '^(orders)$'           look-up by relname: a pattern that only one text matches, as psql writes names
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid      a look-up per row of i, where those are few

The condition is evaluated all the same: a look-up only spares making rows.  Nobody counts the rows of system tables; those that
can be looked up by something grow with the number of tables, and are taken to have a row for each.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from pydistdb.sql.plan.comparisons import comparison_terms, written_operator
from pydistdb.sql.plan.expressions import columns_of, conjoin, has_subquery
from pydistdb.sql.plan.physical import VirtualTableScan
from pydistdb.sql.tree import Call, ColumnRef, Const, Expr, Filter, Rel, VirtualScan

LOOKUP_ROWS = 5.0
LEAST_ROWS = 100.0

Lookup = tuple[str, Expr]
"""A column and the value it must have."""

_ONE_TEXT = re.compile(r"\^\(?([\w ]+)\)?\$")


def lookup_of(scan: VirtualScan, terms: Iterable[Expr]) -> Lookup | None:
    """The first of the terms that one of the table's look-ups can answer."""
    names = {
        column.id: scan.table.columns[position][0]
        for column, position in zip(scan.columns, scan.positions, strict=True)
    }
    for term in terms:
        for column, value in () if has_subquery(term) else _equalities(term):
            if isinstance(column, ColumnRef) and not columns_of(value) & names.keys():
                name = names.get(column.id)
                if name in scan.table.lookups:
                    return name, value
    return None


def _equalities(term: Expr) -> Iterable[tuple[Expr, Expr]]:
    """What a term says to be equal, both ways round."""
    found = comparison_terms(term)
    if found is not None and found[0] == "=":
        _, left, right, _ = found
        return (left, right), (right, left)
    if isinstance(term, Call) and len(term.arguments) == 2 and written_operator(term.function) == "~":
        column, pattern = term.arguments
        if isinstance(pattern, Const) and isinstance(pattern.value, str):
            text = _ONE_TEXT.fullmatch(pattern.value)
            if text is not None:
                return ((column, Const(pattern.type, text[1])),)
    return ()


def physical_scan(scan: VirtualScan, terms: Sequence[Expr], lookup: Lookup | None, tables: int) -> Rel:
    """The scan with its condition; ``tables``: how many there are in the database."""
    rows = LOOKUP_ROWS
    if lookup is None:
        rows = max(LEAST_ROWS, float(tables)) if scan.table.lookups else LEAST_ROWS
    column, value = lookup or ("", None)
    physical = VirtualTableScan(scan.columns, scan.table, scan.positions, scan.alias, column, value, rows)
    return Filter(physical.columns, physical, conjoin(terms)) if terms else physical
