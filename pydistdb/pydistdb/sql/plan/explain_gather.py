"""EXPLAIN of what is done at several shards: a Gather, in Postgres's words for its parallel plans.

What stands below the Gather is done where the rows are, what stands above it at the gateway::

    Finalize HashAggregate
      Group Key: g
      ->  Gather
            Shards Planned: 2
            Range 41 (node 2): scanned=5000 rows=7 bytes=912 calls=1 time=4.112
            Range 42 (node 3): scanned=5100 rows=7 bytes=915 calls=1 time=4.087
            ->  Partial HashAggregate
                  Group Key: g
                  ->  Seq Scan on t

The line per range comes with ANALYZE.  ``rows`` counts what came of the entries scanned: rows, or groups; no calls were needed
where the range is led by the gateway's own node.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pydistdb.sql.plan.distribute import scan_below, tail_of
from pydistdb.sql.plan.explain_formats import Actual, PlanNode
from pydistdb.sql.tree import Aggregate, Rel


@dataclass(frozen=True, slots=True)
class Gathered:
    """A scan that is done on other nodes too.  ``kind``: rows, or that of its tail (distribute.py)."""

    kind: str
    leaders: dict[int, int]
    """The node that leads each range, by range id, in key order."""


def _gather(found: Gathered, below: PlanNode, actual: Actual | None) -> PlanNode:
    """The step that takes in what the shards give."""
    names = {number: f"Range {number} (node {leader})" for number, leader in found.leaders.items()}
    node = PlanNode("Gather", [("Node Type", "Gather")], [("Shards Planned", len(names))])
    node.rows, node.width = below.rows, below.width
    node.startup_cost, node.total_cost = below.startup_cost, below.total_cost
    node.relationship, node.label, below.relationship, below.label = below.relationship, below.label, "Outer", ""
    node.actual = actual
    if actual is not None:
        node.shards = [(names.get(number, f"Range {number}"), shard) for number, shard in actual.shards.items()]
        if below.actual is actual:
            below.actual = None
    node.children = [below]
    return node


def with_gather(relation: Rel, node: PlanNode, gathered: Mapping[int, Gathered]) -> PlanNode:
    """The step of ``relation``, with a Gather in its place or below it where rows come from other nodes."""
    found = gathered.get(id(relation))
    if found is not None and found.kind == "rows":
        return _gather(found, node, node.actual)
    scan = scan_below(relation)
    found = gathered.get(id(scan)) if scan is not None else None
    if found is None or found.kind == "rows" or tail_of(relation) is None:
        return node
    below = node.children[0]
    partial = replace(node, actual=None, properties=[*node.properties], head=[*node.head])
    if isinstance(relation, Aggregate):
        node.title, partial.title = f"Finalize {node.title}", f"Partial {node.title}"
        node.head.append(("Partial Mode", "Finalize"))
        partial.head.append(("Partial Mode", "Partial"))
    gather = _gather(found, partial, below.actual)
    gather.relationship, gather.label = "Outer", ""
    node.children = [gather]
    below.actual = None
    return node
