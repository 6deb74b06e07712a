"""EXPLAIN of what is done at several shards: a Gather, in Postgres's words for its parallel plans.

What stands below the Gather is done where the rows are, what stands above it at the gateway::

    Finalize HashAggregate
      Group Key: g
      ->  Gather
            Shards Planned: 2
            Strategy: partial aggregate
            Shard Query: SELECT g, count(*) AS partial_count FROM t GROUP BY g
            Range 41 (node 2): scanned=5000 rows=7 bytes=912 calls=1 time=4.112 memory=2kB
            Range 42 (node 3): scanned=5100 rows=7 bytes=915 calls=1 time=4.087 memory=2kB
            ->  Partial HashAggregate
                  Group Key: g
                  ->  Seq Scan on t

The line per range comes with ANALYZE.  ``rows`` counts what came of the entries scanned: rows, or groups; no calls were needed
where the range is led by the gateway's own node.  ``memory`` is the most that one request held there, of rows, groups and
tables; ``disk=96kB`` is added where that went to temporary files (tail_run.py, part_run.py).  ``replica=node 3`` is added
where node 3 answered from a copy, and where rows were locked that other transactions held, ``lock waits=2 lock wait
time=812.345``: for how many, and how long.  A step that locks rows without a Gather (LockRows, Update …) has such lines for
its waits alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pydistdb.sql.plan.cut import Cut
from pydistdb.sql.plan.distribute import FIRST_OF_GROUPS, long_tail_of, scan_below
from pydistdb.sql.plan.explain_formats import Actual, PlanNode, ShardActual, Value
from pydistdb.sql.plan.explain_text import ExpressionText
from pydistdb.sql.plan.partials import final_functions
from pydistdb.sql.plan.physical import Exchange, Repartitioned
from pydistdb.sql.tree import Aggregate, Distinct, Filter, Project, Rel, Window

MOST_LISTED = 8
"""So many shards are named where ANALYZE does not name them all."""


_TAIL_WORDS = {
    "aggregate": ["partial aggregate"],
    "sort": ["top-N"],
    "distinct": ["distinct"],
    "limit": ["limit"],
    **{kind: ["top-N per group"] for kind in FIRST_OF_GROUPS},
}


@dataclass(frozen=True, slots=True)
class Gathered:
    """A scan that is done on other nodes too.  ``kind``: rows, or that of its tail (distribute.py)."""

    kind: str
    leaders: dict[int, int]
    """The node that leads each range, by range id, in key order."""
    strategy: str = ""
    """In words."""
    nodes: tuple[int, ...] = ()
    """Of an exchange: those that take a share each."""


def strategy(
    kind: str, found: Cut | None = None, *, filters: bool = False, exchange: Repartitioned | None = None
) -> str:
    """What is done at the shards, or over an exchange, in words."""
    words: list[str] = []
    if exchange is not None:
        words.append(f"repartitioned {_what_is_dealt_for(exchange.input)}")
    if found is not None and found.joins:
        words.append("collocated join")
    if found is not None and found.references:
        words.append("reference join")
    if found is not None and len(found.broadcast) > found.references:
        words.append("broadcast join")
    if found is not None and found.whole_groups:
        words.append("whole groups")
    if found is not None and found.whole_partitions:
        words.append("whole partitions")
    if filters:
        words.append("key filter")
    words += _TAIL_WORDS.get(kind, [])
    return ", ".join(words) or "scan"


def _what_is_dealt_for(relation: Rel) -> str:
    match relation:
        case Aggregate():
            return "groups"
        case Distinct():
            return "distinct"
        case Window():
            return "partitions"
        case Filter() | Project():
            return _what_is_dealt_for(relation.input)
    return "join"


def dealt(exchange: Exchange, below: PlanNode, found: Gathered, actual: Actual | None, keys: list[str]) -> PlanNode:
    """The step that deals rows out over the nodes."""
    node = PlanNode(f"Repartition by hash ({', '.join(keys)})", [("Node Type", "Repartition")], [])
    if actual is None or not actual.shards:
        node.properties = [("Nodes", [f"node {number}" for number in found.nodes])]
    else:
        node.shards = [(f"To node {number}", shard) for number, shard in sorted(actual.shards.items())]
    node.rows, node.width = below.rows, below.width
    node.startup_cost, node.total_cost = below.startup_cost, below.total_cost
    node.relationship, node.label, below.relationship, below.label = below.relationship, below.label, "Outer", ""
    if below.title == "Gather":  # nothing is gathered: what is made there goes to the nodes
        below.title, below.head, below.actual = "At Shards", [("Node Type", "At Shards")], None
    node.children = [below]
    return node


def _gather(found: Gathered, below: PlanNode, actual: Actual | None, query: str | None) -> PlanNode:
    """The step that takes in what the shards give."""
    names = {number: f"Range {number} (node {leader})" for number, leader in found.leaders.items()}
    planned = "Nodes" if found.nodes else "Shards"
    names.update({number: f"Node {number}" for number in found.nodes})
    properties: list[tuple[str, Value]] = [(f"{planned} Planned", len(names)), ("Strategy", found.strategy)]
    if actual is None or not actual.shards:
        listed = list(names.values())
        more = [f"and {len(listed) - MOST_LISTED} more"] if len(listed) > MOST_LISTED else []
        properties.append((planned, [*listed[:MOST_LISTED], *more]))
    if query is not None:
        properties.append(("Shard Query", query))
    node = PlanNode("Gather", [("Node Type", "Gather")], properties)
    node.rows, node.width = below.rows, below.width
    node.startup_cost, node.total_cost = below.startup_cost, below.total_cost
    node.relationship, node.label, below.relationship, below.label = below.relationship, below.label, "Outer", ""
    node.actual = actual
    if actual is not None:
        for number, shard in actual.shards.items():
            shard.replicas = tuple(sorted(shard.nodes - {found.leaders.get(number, number if found.nodes else 0)}))
        node.shards = [(names.get(number, f"Range {number}"), shard) for number, shard in actual.shards.items()]
        _forget_actuals(below)
    node.children = [below]
    return node


def lock_waits(actual: Actual) -> list[tuple[str, ShardActual]]:
    """Where a step has waited for locks; noted with what else it did there."""
    found: list[tuple[str, ShardActual]] = []
    for number, waits in actual.lock_waits.items():
        shard = actual.shards.setdefault(number, ShardActual(nodes={waits.node}))
        shard.lock_waits, shard.lock_wait_seconds = waits.waits, waits.seconds
        found.append((f"Range {number} (node {waits.node})", shard))
    return found


def _forget_actuals(node: PlanNode) -> None:
    """What is done at the shards is told of by the Gather above."""
    node.actual = None
    for child in node.children:
        if child.title not in ("Gather", "At Shards"):
            _forget_actuals(child)


def with_gather(relation: Rel, node: PlanNode, gathered: Mapping[int, Gathered], text: ExpressionText) -> PlanNode:
    """The step of ``relation``, with a Gather in its place or below it where rows come from other nodes."""
    found = gathered.get(id(relation))
    if found is not None and found.kind == "rows":
        return _gather(found, node, node.actual, _query(found, relation, None, text))
    scan = scan_below(relation)
    found = gathered.get(id(scan)) if scan is not None else None
    if found is None or found.kind == "rows" or long_tail_of(relation) is None:
        return node
    below = node.children[0]
    partial = replace(node, actual=None, properties=[*node.properties], head=[*node.head], usage=[], usage_text="")
    if isinstance(relation, Aggregate):
        node.title, partial.title = f"Finalize {node.title}", f"Partial {node.title}"
        node.head.append(("Partial Mode", "Finalize"))
        if relation.calls:
            node.properties.append(("Functions", final_functions(relation.calls)))
        partial.head.append(("Partial Mode", "Partial"))
    assert scan is not None
    gather = _gather(found, partial, below.actual, _query(found, _projected(relation), relation, text))
    gather.relationship, gather.label = "Outer", ""
    node.children = [gather]
    return node


def _query(found: Gathered, relation: Rel, step: Rel | None, text: ExpressionText) -> str | None:
    """What a shard is asked to do, as SQL; None where there is none."""
    if found.nodes:
        return None
    from pydistdb.sql.plan.explain_sql import shard_query  # takes sqlglot along, which starts slowly

    return shard_query(relation, step, text.names, text.catalog)


def _projected(step: Rel) -> Rel:
    """What a step stands on."""
    below: Rel = getattr(step, "input")  # noqa: B009  # every step that has a tail has an input
    return below
