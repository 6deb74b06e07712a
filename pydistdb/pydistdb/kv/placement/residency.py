"""Rules that bind spans of keys to places: PLACED IN, and tables that every node has a copy of.

What a rule says comes before all that the allocator weighs.  For a range under a rule it is asked with a view of the cluster in
which nodes elsewhere are gone for good: so it moves what they hold to where it belongs, and never takes them again.  As
many voters are wanted as the nodes of the place allow; a single node there means a single copy::

    nodes 1 @us, 2 @us, 3 @eu;  the rule: region = eu     voters 1 2 3  →  the allocator sees 1, 2 gone  →  voters 3

If no node at all is at the place any more, nothing moves: data stays rather than goes where it must not be.

REFERENCE tables have the usual voters, and a learner on each other node, which serves reads in the past (kv/follower.py) and
is the first to be promoted when a voter is lost.

The rules come from above, where tables are known: ``ReplicateQueue.rules``.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from msgspec import structs

from pydistdb.kv.descriptor import NodeId, NodeRecord, RangeDescriptor, ReplicaRole
from pydistdb.kv.placement.allocator import AddLearner, NodeView, Promote, Remove, Step, next_step, wanted_voters

Place = tuple[tuple[str, str], ...]
"""Tiers that must all hold: (("region", "eu"), ("zone", "a")), or (("node", "node3"),) by name or number."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Where the keys of [start, end) must be: at a place, or (``everywhere``) on every node."""

    start: bytes
    end: bytes
    place: Place = ()
    everywhere: bool = False


def is_at(place: Place, node_id: NodeId, name: str, locality: Place) -> bool:
    """Whether a node is at the place."""
    tiers = dict(locality)
    return all(value in (name, str(node_id)) if tier == "node" else tiers.get(tier) == value for tier, value in place)


class Residency:
    """The rules in force, by key."""

    def __init__(self, rules: Sequence[Rule] = ()) -> None:
        self._rules = sorted(rules, key=lambda rule: rule.start)
        self._starts = [rule.start for rule in self._rules]
        self._borders = {key for rule in self._rules for key in (rule.start, rule.end)}

    def rule(self, descriptor: RangeDescriptor) -> Rule | None:
        """The rule that a range begins under."""
        position = bisect_right(self._starts, descriptor.start) - 1
        if position < 0 or self._rules[position].end <= descriptor.start:
            return None
        return self._rules[position]

    def parts(self, key: bytes) -> bool:
        """Whether what lies right and left of the key has rules of its own."""
        return key in self._borders

    def is_everywhere(self, descriptor: RangeDescriptor) -> bool:
        rule = self.rule(descriptor) if self._rules else None
        return rule is not None and rule.everywhere

    def views(
        self, descriptor: RangeDescriptor, nodes: Mapping[NodeId, NodeView], records: Mapping[NodeId, NodeRecord]
    ) -> Mapping[NodeId, NodeView]:
        """The nodes as the allocator is to see them for this range."""
        rule = self.rule(descriptor) if self._rules else None
        if rule is None or not rule.place:
            return nodes
        return {
            node_id: view if _is_there(rule, node_id, records) else replace(view, gone=True)
            for node_id, view in nodes.items()
        }

    def step(
        self,
        descriptor: RangeDescriptor,
        leader: NodeId,
        nodes: Mapping[NodeId, NodeView],
        records: Mapping[NodeId, NodeRecord],
        replication_factor: int,
    ) -> Step | None:
        """``next_step`` under the rules."""
        rule = self.rule(descriptor) if self._rules else None
        if rule is None:
            return next_step(descriptor, leader, nodes, replication_factor)
        if rule.everywhere:
            return _everywhere(descriptor, leader, nodes, replication_factor)
        views = self.views(descriptor, nodes, records)
        there = sum(1 for view in views.values() if not view.gone)
        if not there:
            return None
        return next_step(descriptor, leader, views, wanted_voters(replication_factor, there))


def _is_there(rule: Rule, node_id: NodeId, records: Mapping[NodeId, NodeRecord]) -> bool:
    record = records.get(node_id)
    return record is not None and is_at(rule.place, node_id, record.name, record.locality)


def _everywhere(
    descriptor: RangeDescriptor, leader: NodeId, nodes: Mapping[NodeId, NodeView], replication_factor: int
) -> Step | None:
    """The next step towards voters as usual and a learner on each other node."""
    if descriptor.is_changing:
        return None
    voters = descriptor.voters()
    learners = [replica for replica in descriptor.replicas if replica.role is ReplicaRole.LEARNER]
    for learner in learners:
        node = nodes.get(learner.node_id)
        if node is None or node.gone:
            return Remove((learner,))
    live = [learner for learner in learners if nodes[learner.node_id].takes_replicas]
    usable = sum(1 for node in nodes.values() if node.takes_replicas)
    missing = wanted_voters(replication_factor, usable) - len(voters)
    lost = [voter for voter in voters if voter.node_id not in nodes or nodes[voter.node_id].gone]
    if 0 < missing <= len(live):
        return Promote(tuple(live[:missing]), None)
    if lost and live:
        return Promote((live[0],), lost[0])
    held = {replica.node_id for replica in descriptor.replicas}
    free = sorted(node.node_id for node in nodes.values() if node.takes_replicas and node.node_id not in held)
    if free:
        return AddLearner(free[0])
    step = next_step(_without_learners(descriptor), leader, nodes, replication_factor)
    return step if isinstance(step, Remove) else None


def _without_learners(descriptor: RangeDescriptor) -> RangeDescriptor:
    voters = tuple(replica for replica in descriptor.replicas if replica.role is not ReplicaRole.LEARNER)
    return structs.replace(descriptor, replicas=voters)
