"""Keys of expression and partial indexes: the functions of a row that a ``TableLayout`` needs to make entries.

``bind_layout`` compiles, for ``CREATE INDEX ON t (lower(b), a) WHERE c > 0``::

    def compute(r):
        if not (r[2] is not None and r[2] > 0):
            return None                 # no entry
        return [lower(r[1]), r[0]]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.catalog.view import CatalogView
from pydistdb.sql.exec.codegen import Code
from pydistdb.sql.index_expressions import BoundIndex, bound_expressions, bound_index, neutral_context
from pydistdb.sql.layout import IndexLayout, TableLayout

Row = Sequence[Any]


class _Surroundings:
    """What generated code asks of a State, for code that belongs to no session."""

    def __init__(self, catalog: CatalogView) -> None:
        self.context = neutral_context(catalog)
        self.parameters = ()


def bind_layout(layout: TableLayout, catalog: CatalogView) -> None:
    """Make the layout's expressions and predicates ready."""
    surroundings = _Surroundings(catalog)
    for index in layout.secondary:
        if index.is_computed:
            index.compute = _compute(layout, index, bound_index(layout.table, index.index, catalog), surroundings)
    if layout.shadow is not None:
        bind_layout(layout.shadow.target, catalog)
    layout.is_bound = True


def bound_layout(table: Table, catalog: CatalogView) -> TableLayout:
    """The table's layout, ready to make entries."""
    layout = TableLayout.of(table)
    if not layout.is_bound:
        bind_layout(layout, catalog)
    return layout


def _compute(
    layout: TableLayout, index: IndexLayout, bound: BoundIndex, surroundings: _Surroundings
) -> Callable[[Row], list[Any] | None]:
    columns = {
        column.number: (f"r[{column.number - 1}]", not column.not_null)
        for column in layout.table.columns
        if not column.dropped
    }
    code = Code(columns, ("r",))
    code.namespace["S"] = surroundings
    lines = [line for term in bound.predicate for line in (f"if not {code.truth(term)}:", "    return None")]
    cells = [
        f"r[{column.column - 1}]" if key is None else code.value(key)
        for column, key in zip(index.index.columns, bound.keys, strict=True)
    ]
    lines.append(f"return [{', '.join(cells)}]")
    function: Callable[[Row], list[Any] | None] = code.build("f(r)", "\n".join(lines))
    return function


def row_function(table: Table, texts: Sequence[str], catalog: CatalogView) -> Callable[[Row], list[Any]]:
    """A function that computes some stored expressions over the table's row (of statistics objects)."""
    columns = {
        column.number: (f"r[{column.number - 1}]", not column.not_null)
        for column in table.columns
        if not column.dropped
    }
    code = Code(columns, ("r",))
    code.namespace["S"] = _Surroundings(catalog)
    cells = [code.value(expression) for expression in bound_expressions(table, texts, catalog)]
    function: Callable[[Row], list[Any]] = code.build("f(r)", f"return [{', '.join(cells)}]")
    return function
