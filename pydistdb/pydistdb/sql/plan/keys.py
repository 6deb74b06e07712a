"""Which columns tell the rows of a relation apart, as far as the tree says.

A key is a set of columns that no two rows have in common: those of a unique index without NULLs, the groups of a GROUP BY, all
columns of a DISTINCT.  It is followed upwards from there through what neither repeats rows nor renames the columns away, and gets
smaller where a condition leaves a column one value.  A relation of at most one row has the empty key::

    c (primary key (a, b))                          {a, b}
    c WHERE a = 5                                   {b}
    c WHERE a = 5 AND b = $1; SELECT max(x) …       {}
    t LEFT JOIN c ON c.a = t.v AND c.b = t.w        what t has: each of its rows stays one
"""

from __future__ import annotations

from collections.abc import Sequence, Set

from pydistdb.sql.plan.comparisons import comparison_terms
from pydistdb.sql.plan.expressions import columns_of, conjuncts, has_subquery, is_volatile, output_ids
from pydistdb.sql.tree import (
    Aggregate,
    ColumnId,
    ColumnRef,
    Const,
    Distinct,
    Expr,
    Filter,
    FirstRows,
    Join,
    Limit,
    Project,
    Rel,
    Scan,
    SetOperation,
    Sort,
    SortKey,
    Values,
    Window,
)

Key = frozenset[ColumnId]
AT_MOST_ONE_ROW: Key = frozenset()
MOST_KEYS = 2
"""Of each side of a join: there would be all their pairs."""


def keys_of(relation: Rel, fixed: Set[ColumnId] = AT_MOST_ONE_ROW) -> list[Key]:
    """The keys, among its own columns, of a relation's rows in which the columns ``fixed`` have one value each, not NULL."""
    match relation:
        case Scan():
            found = _of_table(relation, fixed)
        case Filter():
            found = keys_of(relation.input, fixed | fixed_columns(relation.condition, output_ids(relation.input)))
        case FirstRows() | Sort() | Window():
            found = keys_of(relation.input, fixed)
        case Limit():
            found = [AT_MOST_ONE_ROW] if _takes_one(relation) else keys_of(relation.input, fixed)
        case Distinct():
            found = [*keys_of(relation.input, fixed), *_of_distinct(relation)]
        case Join():
            found = _of_join(relation, fixed)
        case Project():
            found = _of_project(relation, fixed)
        case Aggregate(grouping_sets=(), groupings=()):
            found = [frozenset([column.id for column in relation.columns[: len(relation.groups)]])]
        case SetOperation(all=False):
            found = [frozenset([column.id for column in relation.columns])]
        case Values(rows=() | (_,)):
            found = [AT_MOST_ONE_ROW]
        case _:
            return []
    own = output_ids(relation)
    return list(dict.fromkeys([key - fixed for key in found if key - fixed <= own]))


def settling(order: Sequence[SortKey], keys: Sequence[Key]) -> int | None:
    """How many of the first sort keys it takes for no two rows to tie; None if all of them may not do."""
    seen: set[ColumnId] = set()
    if AT_MOST_ONE_ROW in keys:
        return 0
    for count, key in enumerate(order, 1):
        if isinstance(key.expression, ColumnRef):
            seen.add(key.expression.id)
            if any(each <= seen for each in keys):
                return count
    return None


def fixed_columns(condition: Expr, own: Set[ColumnId]) -> set[ColumnId]:
    """The columns among ``own`` that a condition says to be equal to what is the same for all their rows."""
    bound: set[ColumnId] = set()
    for term in conjuncts(condition):
        found = comparison_terms(term)
        if found is None or found[0] != "=":
            continue
        for column, value in ((found[1], found[2]), (found[2], found[1])):
            if not isinstance(column, ColumnRef) or column.id not in own or columns_of(value) & own:
                continue
            if not is_volatile(value) and not has_subquery(value):
                bound.add(column.id)
    return bound


def _of_table(scan: Scan, fixed: Set[ColumnId]) -> list[Key]:
    ids = {number: column.id for column, number in zip(scan.columns, scan.numbers, strict=True)}
    never_null = {column.number for column in scan.table.columns if column.not_null}
    never_null |= {number for number, id in ids.items() if id in fixed}
    return [
        frozenset(ids[column.column] for column in index.columns)
        for index in scan.table.indexes
        if index.unique
        and index.is_plain
        and index.is_readable
        and not index.deferrable
        and all(column.column in ids and (index.primary or column.column in never_null) for column in index.columns)
    ]


def _takes_one(relation: Limit) -> bool:
    limit = relation.limit
    return not relation.with_ties and isinstance(limit, Const) and limit.value in (0, 1)


def _of_distinct(relation: Distinct) -> list[Key]:
    if not relation.on:
        return [frozenset([column.id for column in relation.columns])]
    refs = [expression.id for expression in relation.on if isinstance(expression, ColumnRef)]
    return [frozenset(refs)] if len(refs) == len(relation.on) else []


def _of_join(join: Join, fixed: Set[ColumnId]) -> list[Key]:
    if join.kind in ("semi", "anti"):
        return keys_of(join.left, fixed)
    if join.kind not in ("inner", "left"):
        return []
    left = keys_of(join.left, fixed)
    if _is_one_partner(join, join.right):
        return left
    right = keys_of(join.right, fixed)
    if join.kind == "inner" and not join.lateral and _is_one_partner(join, join.left):
        return right
    return [one | other for one in left[:MOST_KEYS] for other in right[:MOST_KEYS]]


def _is_one_partner(join: Join, side: Rel) -> bool:
    """Whether no row of the other side meets two rows of this one.  A side of several tables is not looked into: it has been
    already, and each level would double the work."""
    below = side
    while isinstance(below, Filter | Project | Sort | Limit | Distinct | Window | FirstRows):
        below = below.input
    if isinstance(below, Join):
        return False
    return AT_MOST_ONE_ROW in keys_of(side, fixed_columns(join.condition, output_ids(side)))


def _of_project(relation: Project, fixed: Set[ColumnId]) -> list[Key]:
    named: dict[ColumnId, ColumnId] = {}
    for column, expression in zip(relation.columns, relation.expressions, strict=True):
        if isinstance(expression, ColumnRef):
            if column.id in fixed:
                named[expression.id] = column.id
            named.setdefault(expression.id, column.id)
    below = keys_of(relation.input, {id for id, outer in named.items() if outer in fixed})
    return [frozenset([named[id] for id in key]) for key in below if key <= named.keys()]
