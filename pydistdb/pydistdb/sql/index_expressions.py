"""Expressions and predicates of indexes: from the catalog's text to typed trees and to functions of a row.

The catalog keeps text; binding it takes a view of the catalog, for the functions it names.  That is done once per
descriptor, by whoever comes first: the planner asks for trees, writers for functions of a row (exec/index_keys.py)::

    CREATE INDEX ON users (lower(email)) WHERE NOT gone
    bound_index(…)   keys (lower(#2),), predicate NOT #3        #n: column number n
    compute(row)     ["ann@example.org"], or None if gone

They are immutable by definition, so they are evaluated in a context of their own: no session's settings can make two
nodes disagree about a key.

Source: PostgreSQL 15 manual, 11.7 (indexes on expressions) and 11.8 (partial indexes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydistdb.sql import bind
from pydistdb.sql.catalog.descriptors import Index, Table
from pydistdb.sql.catalog.view import CatalogView
from pydistdb.sql.layout import TableLayout
from pydistdb.sql.plan.expressions import conjuncts
from pydistdb.sql.plan.rules.fold import fold_expression
from pydistdb.sql.tree import Expr
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import EvalContext


@dataclass(frozen=True, slots=True)
class BoundIndex:
    """An index's expressions over a row whose column ids are column numbers."""

    keys: tuple[Expr | None, ...]
    """One per key column; None for a plain column."""
    predicate: tuple[Expr, ...]
    """The terms that a row must all meet to have an entry."""


def neutral_context(catalog: CatalogView) -> EvalContext:
    """The context in which index expressions are evaluated, whoever's statement it is."""
    context = EvalContext()
    context.catalog = catalog
    return context


def bind_index(table: Table, index: Index, catalog: CatalogView) -> BoundIndex:
    context = neutral_context(catalog)
    keys = tuple(
        fold_expression(bind.bind_expression(column.expression, table, catalog, context)) if column.expression else None
        for column in index.columns
    )
    predicate: tuple[Expr, ...] = ()
    if index.predicate:
        condition = bind.bind_expression(index.predicate, table, catalog, context, registry.BOOL)
        predicate = tuple(conjuncts(fold_expression(condition)))
    return BoundIndex(keys, predicate)


def bound_expressions(table: Table, texts: Sequence[str], catalog: CatalogView) -> list[Expr]:
    """Stored expressions over the table's row, whose column ids are column numbers."""
    context = neutral_context(catalog)
    return [fold_expression(bind.bind_expression(text, table, catalog, context)) for text in texts]


def bound_index(table: Table, index: Index, catalog: CatalogView) -> BoundIndex:
    """The index's expressions, bound once per descriptor."""
    layout = TableLayout.of(table).by_storage_id[index.storage_id]
    if layout.bound is None:
        layout.bound = bind_index(table, index, catalog)
    bound: BoundIndex = layout.bound
    return bound
