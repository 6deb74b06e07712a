"""What of a step can be done where the rows are, and what the gateway finishes.

A scan over ranges that other nodes lead is done there, with its filter and its projection; so is the first half of the
step above it, its *tail*.  The other half stays what it was, and gets fewer rows::

    count(*), avg(v) … GROUP BY g     at each shard: groups with count and [count, sum]      gateway: adds the states up
    … GROUP BY ROLLUP (a, b)          at each shard: groups by a and b                        gateway: of these all sets
    … GROUP BY GROUPING SETS (a, b)   at each shard: groups by a, and groups by b             gateway: adds the states up
    array_agg(v ORDER BY d)           at each shard: lists of v and d, in order               gateway: one list, in order
    count(DISTINCT v), sum(…)         at each shard: lists of different v, sums               gateway: different ones of all
    ORDER BY v LIMIT 10               at each shard: its first 10                            gateway: the first 10 of all
    DISTINCT                          at each shard: its distinct rows                       gateway: DISTINCT of all
    LIMIT 10                          at each shard: 10 rows, shard after shard               gateway: the first 10
    row_number() OVER (PARTITION BY   at each shard: the first 2 of each of its groups        gateway: the first 2 of each
      g ORDER BY v) <= 2

The second half gives the same result whether rows come raw or worked on: aggregates are told apart by ``Partials``
(exec/aggregate.py).  So the plan is one and the same for local and for distant rows, and which is which is found out
when it runs, range by range.

What stands below a step may be a scan, or a part of the plan with joins that the shards do for themselves (cut.py).

Source: P. Larson, "Data reduction by partial preaggregation" (2002).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydistdb.sql.plan.physical import AtShards, Repartitioned, TableScan, TopN
from pydistdb.sql.tree import (
    Aggregate,
    AggregateCall,
    Const,
    Distinct,
    Expr,
    FirstRows,
    Limit,
    Param,
    Project,
    Rel,
    SortKey,
)
from pydistdb.sql.types.registry import FLOAT4, FLOAT8

DECOMPOSABLE = frozenset({"count", "sum", "avg", "min", "max", "bool_and", "bool_or", "every"})
DECOMPOSABLE |= {"bit_and", "bit_or", "bit_xor", "approx_count_distinct"}
_OF_SQUARES = frozenset({"variance", "var_samp", "var_pop", "stddev", "stddev_samp", "stddev_pop"})
_OF_SQUARES |= {"corr", "covar_pop", "covar_samp", "regr_avgx", "regr_avgy", "regr_count", "regr_intercept"}
_OF_SQUARES |= {"regr_r2", "regr_slope", "regr_sxx", "regr_sxy", "regr_syy"}
"""Of floats their joined states round in other places than one pass does: where a table is split must not show."""
DECOMPOSABLE |= _OF_SQUARES
"""Aggregates whose states are small and can be joined."""
LISTS = frozenset({"array_agg", "string_agg", "json_agg", "jsonb_agg", "json_object_agg", "jsonb_object_agg"})
"""Those whose states are lists: joined in the order of the rows, wherever these lie."""
FIRST_OF_GROUPS = frozenset({"row_number", "rank", "dense_rank"})
"""Tails by which the rows of each group are kept that are at most so many by this count (tree.FirstRows)."""
_WITHOUT_ORDER = FIRST_OF_GROUPS | {"sort", "distinct", "aggregate"}
"""Tails whose rows are wanted in no order of their own."""


@dataclass(frozen=True, slots=True)
class Tail:
    """The half of a step that is done at the shards.  ``kind``: limit, sort, distinct, aggregate, or one of FIRST_OF_GROUPS.

    ``most``: expressions whose sum is how many rows are wanted (limit, sort), of each group (FIRST_OF_GROUPS)."""

    kind: str
    keys: tuple[SortKey, ...] = ()
    most: tuple[Expr, ...] = ()
    groups: tuple[Expr, ...] = ()
    calls: tuple[AggregateCall, ...] = ()
    grows: bool = False
    """A group takes more room with every row: its states are lists, which belong in the order of the rows."""
    sets: tuple[tuple[int, ...], ...] = ()
    """Grouping sets, as positions into ``groups``; none: all of them together.  With each group goes its set's GROUPING()."""

    @property
    def is_ordered(self) -> bool:
        """Whether what it gives is wanted in the order of the rows."""
        return self.grows or self.kind not in _WITHOUT_ORDER


def tail_of(node: Rel) -> Tail | None:
    """What of ``node``, which stands on a scan, can be done at the shards, and leaves less."""
    match node:
        case Aggregate() if all(map(_splits, node.calls)):
            return _partial(node)
        case TopN(keys=keys):
            most = _most(node.limit, node.offset)
            return Tail("sort", keys, most) if most else None
        case Limit(with_ties=False):
            most = _most(node.limit, node.offset)
            return Tail("limit", (), most) if most else None
        case FirstRows(keys=keys):
            return Tail(node.counting, keys, (node.limit,), node.groups)
        case Distinct(on=()):
            return Tail("distinct")
    return None


def long_tail_of(node: Rel) -> Tail | None:
    """The same, even if all that it leaves together is the work: then states are lists of what is in the rows."""
    match node:
        case Aggregate() if all(_splits(call) or _is_list(call) for call in node.calls):
            return _partial(node)
    return tail_of(node)


def _partial(node: Aggregate) -> Tail:
    sets = largest_sets(node.grouping_sets)
    return Tail(
        "aggregate",
        groups=node.groups,
        calls=node.calls,
        grows=any(map(grows, node.calls)),
        sets=sets if len(sets) > 1 else (),
    )


def largest_sets(sets: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """The grouping sets that are part of no other: of their groups those of all can be made."""
    different = dict.fromkeys(tuple(sorted(set(each))) for each in sets)
    return tuple([one for one in different if not any(set(one) < set(other) for other in different)])


def _most(limit: Expr | None, offset: Expr | None) -> tuple[Expr, ...]:
    """Empty where the number is not at hand, or is none."""
    parts = tuple([part for part in (limit, offset) if part is not None])
    known = limit is not None and all(isinstance(part, Const | Param) for part in parts)
    return parts if known else ()


def _splits(call: AggregateCall) -> bool:
    function = call.function
    return (
        function.name in DECOMPOSABLE
        and not (function.name in _OF_SQUARES and _of_floats(call))
        and function.combine is not None
        and not (call.distinct or call.order_by or function.ordered_set or function.needs_context)
        and not function.return_type.is_array
    )


def grows(call: AggregateCall) -> bool:
    """Whether its state takes more room with every row."""
    return call.distinct or bool(call.order_by) or call.function.name not in DECOMPOSABLE


def _is_list(call: AggregateCall) -> bool:
    function = call.function
    if function.ordered_set or function.schema != "pg_catalog":
        return False
    if call.distinct and len(call.arguments) > 1 and function.name not in LISTS:
        return False
    if any(part.type.is_array for part in (*call.arguments, *(key.expression for key in call.order_by))):
        return False
    return bool(call.distinct or call.order_by) or (function.name in LISTS and function.combine is not None)


def _of_floats(call: AggregateCall) -> bool:
    return any(argument.type.oid in (FLOAT4.oid, FLOAT8.oid) for argument in call.arguments)


def scan_below(node: Rel) -> TableScan | AtShards | Repartitioned | None:
    """The scan that ``node`` stands on directly, or with a projection in between; or what is done at the shards."""
    below = getattr(node, "input", None)
    if isinstance(below, AtShards | Repartitioned):
        return below
    if isinstance(below, Project):
        below = below.input
    return below if isinstance(below, TableScan) else None
