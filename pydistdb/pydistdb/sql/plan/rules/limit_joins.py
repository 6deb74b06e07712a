"""A LIMIT over a LEFT JOIN holds for the left side: each of its rows has one row of the join at least.

With an ORDER BY of the left side's columns it is the first of its rows that matter, which an index may deliver and shards can
find for themselves; the right side is then asked for the partners of a few rows::

    (t LEFT JOIN c ON …) ORDER BY t.v LIMIT 10   ->   ((t ORDER BY t.v LIMIT 10) LEFT JOIN c ON …) ORDER BY t.v LIMIT 10

The LIMIT itself stays, and so does the ORDER BY, which goes where the order is kept.  Keys of the right side may stand behind
such as tell the left side's rows apart.  Conditions and keys that differ each time they are computed are left alone, and so is
what ``limit_arms`` leaves alone: numbers that are not known or large, WITH TIES.

Source: PostgreSQL 15 has no such rule; CockroachDB's PushLimitIntoLeftJoin (norm/rules/limit.opt) is the same.
"""

from __future__ import annotations

from dataclasses import replace

from pydistdb.sql.plan.expressions import (
    columns_of,
    has_subquery,
    is_volatile,
    output_ids,
    relation_is_volatile,
)
from pydistdb.sql.plan.keys import keys_of, settling
from pydistdb.sql.plan.limits import below, carry_down
from pydistdb.sql.tree import Const, Expr, Join, Limit, Project, Rel, Sort, SortKey

MOST_ROWS = 10_000
"""For more than that the join is left where it can be done best."""


def limit_joins(relation: Rel) -> Rel:
    return carry_down(relation, MOST_ROWS, lambda source, taken: _limited(source, (), taken))


def _limited(relation: Rel, keys: tuple[SortKey, ...], most: Expr) -> Rel:
    """The relation with the left side of its LEFT JOIN limited to the first ``most`` by ``keys``; itself if there is none."""
    match relation:
        case Project():
            source = _limited(relation.input, below(keys, relation), most)
            return relation if source is relation.input else replace(relation, input=source)
        case Sort() if not keys:
            source = _limited(relation.input, relation.keys, most)
            return relation if source is relation.input else replace(relation, input=source)
        case Join(kind="left") if not is_volatile(relation.condition) and not relation_is_volatile(relation.right):
            left = _first(relation.left, keys, most)
            return relation if left is None else replace(relation, left=left)
    return relation


def _first(left: Rel, keys: tuple[SortKey, ...], most: Expr) -> Rel | None:
    """The first rows of the left side; None where it takes more than its columns to tell which they are."""
    if isinstance(left, Limit) and isinstance(left.limit, Const):
        return None  # few as it is
    own = output_ids(left)
    count = next((count for count, key in enumerate(keys) if not columns_of(key.expression) <= own), len(keys))
    leading = keys[:count]
    if any(is_volatile(key.expression) or has_subquery(key.expression) for key in leading):
        return None
    if keys and (not leading or (count < len(keys) and settling(leading, keys_of(left)) is None)):
        return None
    return Limit(left.columns, Sort(left.columns, left, leading) if leading else left, most, None)
