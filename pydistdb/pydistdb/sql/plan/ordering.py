"""In which order the rows of a physical relation come, so that a Sort that asks for it can go.

An order is a list of (column id, descending, nulls first).  Columns with a single value fit anywhere: rows read by ``a = 1`` from
an index on (a, b) come ordered by (b), (a, b) and (b, a) alike.
"""

from __future__ import annotations

from pydistdb.sql.plan.access import shards_ascend
from pydistdb.sql.plan.paths import OrderKey
from pydistdb.sql.plan.physical import Apply, IncrementalSort, LockedRows, LookupJoin, NestedLoop, TableScan, TopN
from pydistdb.sql.tree import ColumnRef, Const, Filter, Limit, Project, Rel, Sort, SortKey


def useful_keys(keys: tuple[SortKey, ...]) -> tuple[SortKey, ...]:
    """Sort keys without constants and repetitions."""
    seen: set[int] = set()
    useful: list[SortKey] = []
    for key in keys:
        if isinstance(key.expression, Const):
            continue
        if isinstance(key.expression, ColumnRef):
            if key.expression.id in seen:
                continue
            seen.add(key.expression.id)
        useful.append(key)
    return tuple(useful) or keys[:1]


def ordering(relation: Rel) -> tuple[tuple[OrderKey, ...], frozenset[int]]:
    """The order in which a physical relation's rows come, and its columns with a single value."""
    match relation:
        case TableScan():
            return _scan_ordering(relation)
        case Filter() | Limit() | Apply() | LockedRows():
            return ordering(relation.input)
        case Sort() | TopN() | IncrementalSort():
            keys = [key for key in relation.keys if isinstance(key.expression, ColumnRef)]
            if len(keys) < len(relation.keys):
                return (), frozenset()
            order = tuple(
                (key.expression.id, key.descending, key.nulls_first)
                for key in keys
                if isinstance(key.expression, ColumnRef)
            )
            return order, frozenset()
        case NestedLoop() | LookupJoin() if relation.kind in ("inner", "left", "semi", "anti"):
            return ordering(relation.left)
        case Project():
            order, constant = ordering(relation.input)
            renamed: dict[int, int] = {}
            for column, expression in zip(relation.columns, relation.expressions, strict=True):
                if isinstance(expression, ColumnRef):
                    renamed.setdefault(expression.id, column.id)
            kept: list[OrderKey] = []
            for key in order:
                if key[0] in renamed:
                    kept.append((renamed[key[0]], key[1], key[2]))
                elif key[0] not in constant:
                    break
            return tuple(kept), frozenset(renamed[column] for column in constant if column in renamed)
    return (), frozenset()


def _scan_ordering(scan: TableScan) -> tuple[tuple[OrderKey, ...], frozenset[int]]:
    index = scan.access.index
    if index.is_inverted:
        return (), frozenset()
    ids = {number: column.id for column, number in zip(scan.columns, scan.numbers, strict=True)}
    single = [
        column.column
        for column, term in zip(index.columns, scan.access.equal, strict=False)
        if term.array is None and (len(term.alternatives) == 1 or term.is_null) and not column.expression
    ]
    sharding = scan.table.sharding
    hashed = sharding is not None and (index is scan.table.indexes[0] or not index.is_global)
    scattered = sharding is not None and hashed and not set(single) >= set(sharding.columns)
    if scattered and not shards_ascend(scan.table, index):
        return (), frozenset()
    reverse = scan.access.reverse
    order: list[OrderKey] = []
    for column, position in zip(index.columns, range(len(index.columns)), strict=True):
        if column.expression or column.column not in ids:
            if column.column in single or (column.expression and _is_fixed(scan, position)):
                continue
            break
        order.append((ids[column.column], column.descending != reverse, column.nulls_first != reverse))
    return tuple(order), frozenset(ids[number] for number in single if number in ids)


def _is_fixed(scan: TableScan, position: int) -> bool:
    """Whether all entries read have one value at this place of the key."""
    equal = scan.access.equal
    if position >= len(equal):
        return False
    return equal[position].array is None and (len(equal[position].alternatives) == 1 or equal[position].is_null)
