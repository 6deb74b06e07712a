"""The first rows of each group are found before they are numbered, wherever they lie.

A condition on ``row_number()``, ``rank()`` or ``dense_rank()`` keeps a few rows of each partition, and those that it keeps depend
on no row behind them.  So does DISTINCT ON, which wants the first row of each group of an order::

    Filter(rn <= 2, Window(rn = row_number() OVER (PARTITION BY g ORDER BY v), t))
                ->   Filter(rn <= 2, Window(…, FirstRows(t, by g, order v, 2)))
    without PARTITION BY
                ->   Filter(rn <= 2, Window(…, Limit(2, Sort(v, t))))
    DistinctOn(g, Sort(g, v; t))
                ->   DistinctOn(g, Sort(g, v; FirstRows(t, by g, order v, 1)))

FirstRows may give more rows than asked for, and drops none of those wanted: what stands above it decides, as before.  Hence each
shard can do it for its rows, and for any part of them (distribute.py).  Where a rank is asked for, all rows that tie are kept.

Left alone: windows in which other functions look at the rows behind, or at other partitions or orders; and what differs each time
it is computed.

Source: PostgreSQL 15, "run conditions" (nodeWindowAgg.c), which stop a partition early; here its other rows are not even sorted.
"""

from __future__ import annotations

from dataclasses import replace

from pydistdb.sql.plan.comparisons import MIRRORED, comparison_terms, family
from pydistdb.sql.plan.expressions import conjuncts, has_subquery, is_volatile, map_parts, map_queries
from pydistdb.sql.tree import (
    ColumnRef,
    Const,
    Distinct,
    Expr,
    Filter,
    FirstRows,
    Limit,
    Param,
    Rel,
    Sort,
    Window,
    WindowCall,
)
from pydistdb.sql.types.base import AggregateFunction
from pydistdb.sql.types.known import INT8

MOST_FIRST_ROWS = 10_000
"""Greater numbers leave hardly anything out."""
_COUNTING = ("row_number", "rank", "dense_rank")


def first_rows(relation: Rel) -> Rel:
    relation = map_parts(map_queries(relation, first_rows), on_relation=first_rows)
    match relation:
        case Filter(input=Window() as window):
            found = _limited(window, conjuncts(relation.condition))
            return relation if found is None else replace(relation, input=replace(window, input=found))
        case Distinct(on=on, input=Sort() as sort) if on:
            keys = tuple([key for key in sort.keys if key.expression not in on])
            if _is_steady([*on, *(key.expression for key in keys)]):
                first = FirstRows(sort.input.columns, sort.input, on, keys, Const(INT8, 1), "row_number")
                return replace(relation, input=replace(sort, input=first))
    return relation


def _limited(window: Window, terms: list[Expr]) -> Rel | None:
    """The window's input without rows that cannot pass; None if nothing is known of them."""
    first = window.calls[0]
    groups, keys = first.partition_by, first.order_by
    if any(not _counts(call) or call.partition_by != groups or call.order_by != keys for call in window.calls):
        return None
    if not _is_steady([*groups, *(key.expression for key in keys)]):
        return None
    numbered = dict(zip([c.id for c in window.columns[-len(window.calls) :]], window.calls, strict=True))
    for term in terms:
        found = _at_most(term, numbered)
        if found is None:
            continue
        counting, most = found
        if counting != "row_number" and not keys:
            continue  # all rows of a partition tie
        if not groups and counting == "row_number" and isinstance(most, Const):
            ordered = Sort(window.input.columns, window.input, keys) if keys else window.input
            return Limit(window.input.columns, ordered, most, None)
        return FirstRows(window.input.columns, window.input, groups, keys, most, counting)
    return None


def _at_most(term: Expr, numbered: dict[int, WindowCall]) -> tuple[str, Expr] | None:
    """Which call has to be at most what, by a term: ``rn <= 3``, ``rn < 3``, ``rn = 3`` (where up to 3 rows must be kept)."""
    found = comparison_terms(term)
    if found is None:
        return None
    name, left, right, _ = found
    if isinstance(right, ColumnRef):
        name, left, right = MIRRORED[name], right, left
    if name not in ("<=", "<", "=") or not isinstance(left, ColumnRef) or left.id not in numbered:
        return None
    if family(right.type.oid) != INT8.oid:
        return None
    if isinstance(right, Const):
        if not isinstance(right.value, int) or not 1 <= right.value <= MOST_FIRST_ROWS:
            return None
        right = Const(INT8, right.value)
    return (numbered[left.id].function.name, right) if isinstance(right, Const | Param) else None


def _counts(call: WindowCall) -> bool:
    return not isinstance(call.function, AggregateFunction) and call.function.name in _COUNTING


def _is_steady(expressions: list[Expr]) -> bool:
    return not any(is_volatile(each) or has_subquery(each) for each in expressions)
