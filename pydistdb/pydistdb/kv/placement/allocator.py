"""Where replicas should be: pure decisions, one step at a time.

``next_step`` looks at one range and the nodes and names the single next thing to do, or nothing; the replicate queue
carries it out and asks again.  ``rebalance_step`` improves what is merely uneven; it is asked rarely, because several
leaseholders that see the same empty node would overfill it together.  Goals, in this order:

1. A change that has begun is brought to its end (learners are promoted, or dropped if their node is gone).
2. There are ``replication_factor`` voters, or the greatest odd number below it that the nodes allow: an even number of
   voters survives no more faults than one fewer, and waits for more of them.
3. A voter on a node that will not return is replaced (never just removed: a dead voter costs nothing that removing it
   would win back).
4. There are not more voters than that.
5. Nodes hold about equally many replicas; and voters stand as far apart as localities allow.

A replacement is one step for safety: the newcomer becomes a learner, gets the data, and then one joint change makes it
a voter and removes the other::

    voters 1 2 3, node 3 gone, node 4 free:   AddLearner(4) → (caught up) → Promote(4, remove=3)

Growing does not pass through an even number of voters either, where one more node that must not fail helps nobody::

    voters 1, nodes 2 and 3 come:             AddLearner(2), AddLearner(3) → (both caught up) → Promote(2 3)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from pydistdb.kv.descriptor import NodeId, RangeDescriptor, ReplicaDescriptor, ReplicaRole

Locality: TypeAlias = tuple[tuple[str, str], ...]

REBALANCE_DIFFERENCE = 2
"""A replica moves only where the loads then still differ the same way round: no ping-pong."""


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node as placement sees it."""

    node_id: NodeId
    live: bool
    gone: bool = False
    """Silent for too long, or replaced."""
    draining: bool = False
    locality: Locality = ()
    replica_count: int = 0
    lease_count: int = 0
    load: float = 0.0
    """Requests per second to the ranges that it leases."""

    @property
    def takes_replicas(self) -> bool:
        return self.live and not self.gone and not self.draining


@dataclass(frozen=True, slots=True)
class AddLearner:
    node_id: NodeId


@dataclass(frozen=True, slots=True)
class Promote:
    """Make learners that have caught up voters, and remove another replica in the same change."""

    learners: tuple[ReplicaDescriptor, ...]
    remove: ReplicaDescriptor | None


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove replicas in one change."""

    replicas: tuple[ReplicaDescriptor, ...]


Step: TypeAlias = AddLearner | Promote | Remove


def next_step(
    descriptor: RangeDescriptor, leader: NodeId, nodes: Mapping[NodeId, NodeView], replication_factor: int
) -> Step | None:
    """The next thing to do for a range led by ``leader``."""
    if descriptor.is_changing:
        return None  # Raft finishes joint changes by itself, the leaseholder merges
    voters = descriptor.voters()
    learners = [replica for replica in descriptor.replicas if replica.role is ReplicaRole.LEARNER]
    # The leader last: it can only leave once another voter takes the lease.
    gone = sorted((voter for voter in voters if _is_gone(voter, nodes)), key=lambda voter: voter.node_id == leader)
    for learner in learners:
        node = nodes.get(learner.node_id)
        if node is None or not node.takes_replicas:
            return Remove((learner,))
    usable = sum(1 for node in nodes.values() if node.takes_replicas)
    missing = wanted_voters(replication_factor, usable) - len(voters)
    if learners:
        if gone:
            return Promote((learners[0],), gone[0])
        if missing > 0 and len(learners) >= missing:
            return Promote(tuple(learners[:missing]), None)
        if missing <= 0 and len(voters) >= replication_factor:
            return Promote((learners[0],), _worst(voters, gone, leader, nodes))
        if missing <= 0:
            return None  # it waits for another one: an even number of voters is no gain
    candidates = _candidates(descriptor, nodes)
    if (missing > 0 or gone) and candidates:
        return AddLearner(candidates[0].node_id)
    excess = len(voters) - max(replication_factor, 1)
    if excess > 0:
        first = _worst(voters, gone, leader, nodes)
        if excess == 1:
            return Remove((first,))
        rest = [voter for voter in voters if voter is not first]
        return Remove((first, _worst(rest, [voter for voter in gone if voter is not first], leader, nodes)))
    return None


def rebalance_step(descriptor: RangeDescriptor, leader: NodeId, nodes: Mapping[NodeId, NodeView]) -> AddLearner | None:
    """Where a replica of a range for which ``next_step`` has nothing to do would be better placed."""
    voters = descriptor.voters()
    if (
        descriptor.is_changing
        or len(voters) != len(descriptor.replicas)
        or any(_is_gone(voter, nodes) for voter in voters)
    ):
        return None
    candidates = _candidates(descriptor, nodes)
    return _rebalance(voters, leader, nodes, candidates) if candidates else None


def wanted_voters(replication_factor: int, usable_nodes: int) -> int:
    """How many voters to aim at when adding."""
    if usable_nodes >= replication_factor:
        return replication_factor
    return usable_nodes if usable_nodes % 2 else max(usable_nodes - 1, 1)


def _is_gone(replica: ReplicaDescriptor, nodes: Mapping[NodeId, NodeView]) -> bool:
    node = nodes.get(replica.node_id)
    return node is None or node.gone


def _candidates(descriptor: RangeDescriptor, nodes: Mapping[NodeId, NodeView]) -> list[NodeView]:
    """Nodes that could take a replica, the best first."""
    held = {replica.node_id for replica in descriptor.replicas}
    present = [nodes[node_id].locality for node_id in held if node_id in nodes and not nodes[node_id].gone]
    free = [node for node in nodes.values() if node.takes_replicas and node.node_id not in held]

    def merit(node: NodeView) -> tuple[float, int, int]:
        # Among equals every range prefers another one, so that what several leaseholders decide at once spreads.
        spread = (descriptor.range_id * 40_503 + node.node_id * 2_654_435_761) & 0xFFFF
        return -diversity(node.locality, present), node.replica_count, spread

    return sorted(free, key=merit)


def diversity(locality: Locality, others: list[Locality]) -> float:
    """How far a place is from others, between 0 (all in the same place) and 1 (nothing in common), on average."""
    if not others:
        return 1.0
    return sum(_distance(locality, other) for other in others) / len(others)


def _distance(a: Locality, b: Locality) -> float:
    tiers = max(len(a), len(b))
    for depth in range(tiers):
        if depth >= len(a) or depth >= len(b) or a[depth] != b[depth]:
            return (tiers - depth) / tiers
    return 0.0


def _worst(
    voters: list[ReplicaDescriptor],
    gone: list[ReplicaDescriptor],
    leader: NodeId,
    nodes: Mapping[NodeId, NodeView],
) -> ReplicaDescriptor:
    """The voter that is missed least: gone, draining, silent, too near to others, on a full node; the leader last."""
    if gone:
        return gone[0]

    def merit(voter: ReplicaDescriptor) -> tuple[bool, bool, bool, float, int, int]:
        node = nodes[voter.node_id]
        others = [nodes[other.node_id].locality for other in voters if other is not voter]
        return (
            voter.node_id == leader,
            not node.draining,
            node.live,
            diversity(node.locality, others),
            -node.replica_count,
            -voter.replica_id,
        )

    return min(voters, key=merit)


def _rebalance(
    voters: list[ReplicaDescriptor],
    leader: NodeId,
    nodes: Mapping[NodeId, NodeView],
    candidates: list[NodeView],
) -> AddLearner | None:
    """Start a move to a better place: farther apart, or (as far apart) less loaded."""
    victim = _worst(voters, [], leader, nodes)
    if victim.node_id == leader:
        return None
    there = nodes[victim.node_id]
    others = [nodes[voter.node_id].locality for voter in voters if voter is not victim]
    now = diversity(there.locality, others)
    counts = [node.replica_count for node in nodes.values() if node.takes_replicas]
    fair = sum(counts) / max(len(counts), 1)
    for candidate in candidates:
        then = diversity(candidate.locality, others)
        # Only from more to less than a fair share: whatever moves between two empty nodes would have to move again.
        uneven = there.replica_count > fair > candidate.replica_count
        lighter = uneven and there.replica_count - candidate.replica_count >= REBALANCE_DIFFERENCE
        if then > now + 1e-9 or (then >= now - 1e-9 and lighter):
            return AddLearner(candidate.node_id)
    return None


def lease_target(
    descriptor: RangeDescriptor, leader: NodeId, nodes: Mapping[NodeId, NodeView], must_leave: bool
) -> NodeId | None:
    """Where the lease of a range should go: to the live voter's node with fewest leases, if that is better."""
    here = nodes.get(leader)
    others = [
        nodes[voter.node_id]
        for voter in descriptor.voters()
        if voter.node_id != leader and voter.node_id in nodes and nodes[voter.node_id].takes_replicas
    ]
    if not others or here is None:
        return None
    best = min(others, key=lambda node: (node.lease_count, node.node_id))
    if must_leave or here.lease_count - best.lease_count >= REBALANCE_DIFFERENCE:
        return best.node_id
    return None
