"""EXPLAIN's line on shards: where the condition on the shard columns leads a scan.

Shards: eu (1 of 3)               region = 'de', of a table sharded by list
Shards: 1, 2 (2 of 4)             id < 20, of one sharded by range
Shards: one, by hash              id = $1
Shards: by hash of each value     id IN (1, 2, 3), id BETWEEN 1 AND 3
Shards: by hash of each value if there are few, else all      id BETWEEN $1 AND $2
Shards: all                       nothing is said of the shard columns
"""

from __future__ import annotations

from typing import Any

from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.layout import TableLayout
from pydistdb.sql.plan.physical import Access, Term
from pydistdb.sql.tree import Const

MOST_SHARD_NAMES = 8


def shards_note(access: Access, table: Table) -> str:
    """Which shards of a sharded table a scan looks into."""
    sharding = table.sharding
    assert sharding is not None
    if access.index.is_global and access.index is not table.indexes[0]:
        return "global index"
    equal = dict(zip([column.column for column in access.index.columns], access.equal, strict=False))
    terms = [equal[number] for number in sharding.columns if number in equal]
    if len(terms) < len(sharding.columns):
        terms = list(access.shards)
    if not (terms or access.shard_lower or access.shard_upper):
        return "all"
    if sharding.strategy != "hash":
        names = _shard_names(TableLayout.of(table), terms, access)
        if names is not None:
            return names
    if not terms:
        return f"some, by {sharding.strategy}"
    if any(not isinstance(value, Const) for term in terms for value, _ in term.between):
        return f"by {sharding.strategy} of each value if there are few, else all"
    one = all(len(term.alternatives) == 1 or term.is_null for term in terms)
    return f"one, by {sharding.strategy}" if one else f"by {sharding.strategy} of each value"


def _shard_names(layout: TableLayout, terms: list[Term], access: Access) -> str | None:
    """The shards that a scan looks into, where the plan tells: by name, and how many there are."""
    shards = layout.shards
    assert shards is not None
    bounds = (*access.shard_lower, *access.shard_upper) if not terms else ()
    values: list[Any] = [None for term in terms if term.is_null]
    for expression in [*(each for term in terms for each in term.alternatives), *(each for each, _ in bounds)]:
        if not isinstance(expression, Const):
            return None
        values.append(expression.value)
    if any(term.array is not None or term.between for term in terms):
        return None
    if terms:
        found = {shards.number([value]) for value in values}
    else:
        lower = (values[0], True) if access.shard_lower else None
        found = set(shards.between(lower, (values[-1], True) if access.shard_upper else None))
    every = shards.sharding.shards
    names = [each.name for number, each in enumerate(every) if number in found]
    shown = ", ".join([*names[:MOST_SHARD_NAMES], *(["…"] if len(names) > MOST_SHARD_NAMES else [])])
    return f"{shown} ({len(names)} of {len(every)})" if names else "none"
