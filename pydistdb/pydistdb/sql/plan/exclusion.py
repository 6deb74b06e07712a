"""What a table's CHECK constraints say of all its rows, held against a condition: ``SET constraint_exclusion = on``.

A condition that contradicts them finds nothing, and nothing is read::

    CHECK (day < '2024-01-01')     WHERE day > '2024-06-01'     no rows
    CHECK (kind IN ('a', 'b'))     WHERE kind = 'c'             no rows

A row with a NULL passes a CHECK that does not say so itself.  So a term of one counts only where it speaks of columns that are
NOT NULL, or that the condition lets be nothing else, and only terms that cannot be NULL of other values: comparisons with
constants, lists of them.  Binding the constraints takes longer than most plans do, hence the setting, off as in PostgreSQL
for tables by themselves.

Source: PostgreSQL 15 manual, 20.7.4 (constraint_exclusion); plancat.c, relation_excluded_by_constraints.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydistdb.sql.catalog.view import CatalogView
from pydistdb.sql.index_expressions import bound_expressions
from pydistdb.sql.plan.comparisons import comparison_terms
from pydistdb.sql.plan.expressions import columns_of, conjuncts, substitute
from pydistdb.sql.plan.rules.contradictions import consistent
from pydistdb.sql.plan.rules.outer_joins import null_rejected
from pydistdb.sql.tree import ColumnRef, Const, Expr, InList, Scan


def is_excluded(scan: Scan, terms: Sequence[Expr], catalog: CatalogView | None) -> bool:
    """Whether the table has no row that meets all terms, if its constraints hold."""
    texts = [check.expression for check in scan.table.checks if check.validated]
    if catalog is None or not texts or not terms:
        return False
    here: dict[int, Expr] = {
        number: ColumnRef(column.type, column.id, column.name)
        for column, number in zip(scan.columns, scan.numbers, strict=True)
        if number > 0
    }
    never_null = {column.number for column in scan.table.columns if column.not_null}
    known = {column.id for column, number in zip(scan.columns, scan.numbers, strict=True) if number in never_null}
    known = known.union(*map(null_rejected, terms))
    said: list[Expr] = []
    for expression in bound_expressions(scan.table, texts, catalog):
        for term in conjuncts(expression):
            if _is_certain(term) and columns_of(term) <= here.keys():
                moved = substitute(term, here)
                if columns_of(moved) <= known:
                    said.append(moved)
    return bool(said) and consistent([*terms, *said], scan) is None


def _is_certain(term: Expr) -> bool:
    """Whether a term is true or false of a row without NULLs."""
    match term:
        case InList(argument=ColumnRef()):
            return all(isinstance(item, Const) and item.value is not None for item in term.items)
    found = comparison_terms(term)
    return found is not None and all(
        isinstance(part, ColumnRef) or (isinstance(part, Const) and part.value is not None) for part in found[1:3]
    )
