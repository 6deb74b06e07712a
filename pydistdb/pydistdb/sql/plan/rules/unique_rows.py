"""DISTINCT of rows that are all different goes, and so do sort keys behind those that settle the order.

::

    SELECT DISTINCT id, name FROM t            id is t's primary key: the rows of t
    SELECT DISTINCT g, count(*) … GROUP BY g   one row per group as it is
    ORDER BY id, name                          ORDER BY id, which the primary key gives

A key is a set of columns that no two rows have in common: those of a unique index without NULLs, and the groups of a GROUP BY.
It is followed upwards from there through what neither repeats rows nor renames the columns away.
"""

from __future__ import annotations

from dataclasses import replace

from pydistdb.sql.plan.expressions import map_parts, map_queries
from pydistdb.sql.tree import (
    Aggregate,
    ColumnId,
    ColumnRef,
    Distinct,
    Filter,
    FirstRows,
    Join,
    Limit,
    Project,
    Rel,
    Scan,
    Sort,
    SortKey,
    Window,
)

Key = frozenset[ColumnId]


def unique_rows(relation: Rel) -> Rel:
    relation = map_parts(map_queries(relation, unique_rows), on_relation=unique_rows)
    match relation:
        case Distinct(on=()) if _keys(relation.input):
            return relation.input
        case Sort():
            return replace(relation, keys=_needed(relation.keys, _keys(relation.input)))
    return relation


def _needed(keys: tuple[SortKey, ...], unique: list[Key]) -> tuple[SortKey, ...]:
    """The sort keys up to those that settle the order."""
    seen: set[ColumnId] = set()
    for count, key in enumerate(keys, 1):
        if isinstance(key.expression, ColumnRef):
            seen.add(key.expression.id)
            if any(each <= seen for each in unique):
                return keys[:count]
    return keys


def _keys(relation: Rel) -> list[Key]:
    """The keys that are known of a relation, among its own columns."""
    match relation:
        case Scan():
            return _of_table(relation)
        case Filter() | FirstRows() | Sort() | Limit() | Distinct() | Window():
            found = _keys(relation.input)
        case Join(kind="semi" | "anti"):
            found = _keys(relation.left)
        case Project():
            named: dict[ColumnId, ColumnId] = {}
            for column, expression in zip(relation.columns, relation.expressions, strict=True):
                if isinstance(expression, ColumnRef):
                    named.setdefault(expression.id, column.id)
            return [frozenset(named[id] for id in key) for key in _keys(relation.input) if key <= named.keys()]
        case Aggregate(grouping_sets=(), groupings=()) if relation.groups:
            return [frozenset(column.id for column in relation.columns[: len(relation.groups)])]
        case _:
            return []
    own = {column.id for column in relation.columns}
    return [key for key in found if key <= own]


def _of_table(scan: Scan) -> list[Key]:
    ids = {number: column.id for column, number in zip(scan.columns, scan.numbers, strict=True)}
    never_null = {column.number for column in scan.table.columns if column.not_null}
    return [
        frozenset(ids[column.column] for column in index.columns)
        for index in scan.table.indexes
        if index.unique
        and index.is_plain
        and index.is_readable
        and not index.deferrable
        and all(column.column in ids and (index.primary or column.column in never_null) for column in index.columns)
    ]
