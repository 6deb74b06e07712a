"""Projection pruning: no operator produces a column that nobody above it reads.

Scans decode just the columns they must, joins carry narrow rows, and a projection drops expressions that are not used
(none is dropped that could have an effect, since a volatile one keeps its place).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pydistdb.sql.plan.expressions import (
    columns_of,
    direct_parts,
    free_columns,
    is_volatile,
    map_parts,
    map_subqueries,
    output_ids,
)
from pydistdb.sql.tree import (
    Aggregate,
    Delete,
    Distinct,
    Expr,
    Filter,
    FirstRows,
    Insert,
    Join,
    Limit,
    LockRows,
    Merge,
    OutputColumn,
    Project,
    Rel,
    Scan,
    Sort,
    Subquery,
    Update,
    Values,
    VirtualScan,
    Window,
)


def prune(relation: Rel) -> Rel:
    return _prune(relation, output_ids(relation))


def _in_expression(subquery: Subquery) -> Expr:
    needed: set[int] = set() if subquery.kind == "exists" else output_ids(subquery.query)
    query = subquery.query if isinstance(subquery.query, Limit) and not needed else _prune(subquery.query, needed)
    return replace(subquery, query=query)


def _used(expressions: Iterable[Expr]) -> set[int]:
    return set().union(*map(columns_of, expressions), ())


def _chosen(columns: tuple[OutputColumn, ...], needed: set[int]) -> tuple[OutputColumn, ...]:
    kept = tuple(column for column in columns if column.id in needed)
    return columns if len(kept) == len(columns) else kept


def _prune(relation: Rel, needed: set[int]) -> Rel:
    relation = map_subqueries(relation, _in_expression)
    match relation:
        case Scan():
            kept = [pair for pair in zip(relation.columns, relation.numbers, strict=True) if pair[0].id in needed]
            return replace(
                relation, columns=tuple(column for column, _ in kept), numbers=tuple(number for _, number in kept)
            )
        case VirtualScan():
            pairs = [pair for pair in zip(relation.columns, relation.positions, strict=True) if pair[0].id in needed]
            return replace(
                relation, columns=tuple(column for column, _ in pairs), positions=tuple(place for _, place in pairs)
            )
        case Values():
            places = [place for place, column in enumerate(relation.columns) if column.id in needed]
            if len(places) == len(relation.columns) or any(is_volatile(cell) for row in relation.rows for cell in row):
                return relation
            rows = tuple(tuple([row[place] for place in places]) for row in relation.rows)
            return Values(tuple([relation.columns[place] for place in places]), rows)
        case Project():
            parts = [
                pair
                for pair in zip(relation.columns, relation.expressions, strict=True)
                if pair[0].id in needed or is_volatile(pair[1])
            ]
            expressions = tuple(expression for _, expression in parts)
            source = _prune(relation.input, _used(expressions))
            return Project(tuple(column for column, _ in parts), source, expressions)
        case Filter() | Sort() | Limit() | LockRows() | Distinct() | FirstRows():
            return _prune_transparent(relation, needed)
        case Join():
            return _prune_join(relation, needed)
        case Aggregate():
            return _prune_aggregate(relation, needed)
        case Window():
            count = len(relation.columns) - len(relation.calls)
            used = _used(direct_parts(relation)[0])
            source = _prune(
                relation.input, {*used, *(column.id for column in relation.columns[:count] if column.id in needed)}
            )
            return replace(relation, input=source, columns=source.columns + relation.columns[count:])
        case Insert():
            return replace(relation, source=_prune(relation.source, output_ids(relation.source)))
        case Update() | Delete() | Merge():
            # The row that is put out for a column of the table may come from the old or the new row.
            used = _used(direct_parts(relation)[0]) | set(relation.old_ids.values()) | {relation.key_id}
            return replace(relation, source=_prune(relation.source, used))
    return map_parts(relation, on_relation=prune)


def _prune_transparent(relation: Filter | Sort | Limit | LockRows | Distinct | FirstRows, needed: set[int]) -> Rel:
    """Operators that hand their input's columns on."""
    wanted = needed | _used(direct_parts(relation)[0])
    if isinstance(relation, Distinct) and not relation.on:
        wanted = output_ids(relation.input)
    if isinstance(relation, LockRows):
        wanted |= {key for _, key in relation.targets}
    source = _prune(relation.input, wanted)
    return replace(relation, input=source, columns=source.columns)


def _prune_join(relation: Join, needed: set[int]) -> Rel:
    wanted = needed | columns_of(relation.condition)
    right_wanted = set(wanted)
    left_wanted = set(wanted)
    if relation.lateral:
        left_wanted |= free_columns(relation.right)
    left = _prune(relation.left, left_wanted)
    right = _prune(relation.right, right_wanted)
    available = left.columns if relation.kind in ("semi", "anti") else left.columns + right.columns
    return replace(relation, left=left, right=right, columns=_chosen(available, needed))


def _prune_aggregate(relation: Aggregate, needed: set[int]) -> Rel:
    count = len(relation.groups)
    rest = relation.columns[count + len(relation.calls) :]
    calls = [pair for pair in zip(relation.columns[count:], relation.calls, strict=False) if pair[0].id in needed]
    kept = replace(
        relation,
        columns=relation.columns[:count] + tuple(column for column, _ in calls) + rest,
        calls=tuple(call for _, call in calls),
    )
    return replace(kept, input=_prune(relation.input, _used(direct_parts(kept)[0])))
