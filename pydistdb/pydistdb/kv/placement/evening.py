"""Load that spreads: leases, and where that is not enough replicas, go from nodes that do much to nodes that do less.

Every node looks at what it leads.  Where it does ``BUSIER`` times what another one does, it hands over the lease that
leaves least to the busier one of the two, and the next ones that still help, if it is the busiest of all; if every other
voter of its busy ranges is as busy as itself, it moves one voter of such a range to a node with less to do, and hands the lease
over once that one votes::

    requests a second     node 1: 900 (ranges 600, 300)   node 2: 100   node 3: 800
    lease of the second   node 1: 600                     node 2: 400   node 3: 800     if node 2 has a replica of it
    replica and lease     range 300's voter on node 3 goes to node 2, then the lease      if not

Load is requests, and what scans go through counted as requests (load.py).

Hysteresis: a move must halve the difference at least or not turn it round, must be called for in several looks, and none is made
soon after a split or another move, when the rates say nothing yet.  Followers do a part of the work too (they apply), which is
not counted.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping

from pydistdb.kv.descriptor import NodeId, RangeId
from pydistdb.kv.placement.allocator import NodeView, diversity
from pydistdb.kv.range_local import RangeLocal
from pydistdb.kv.store import Store

logger = logging.getLogger(__name__)

SETTLING_NS = 8_000_000_000
"""After a split or a move the rates need so long to tell anything."""
PATIENCE = 3
"""A single long scan moves nothing."""
BUSIER = 1.2
MOST_LEASES = 4
"""Handed over in one go."""
_MUCH = 8
"""Differences below this part of ``range.split_qps`` are not worth a move."""

Voters = Mapping[RangeId, list[NodeId]]


class Evener:
    """One node's part."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._settled_ns = 0
        self._looks = 0
        """How often in a row there was something to move."""
        self.leases_moved = 0
        self.replicas_moved = 0

    def wait(self) -> None:
        """The rates say nothing for a while."""
        self._settled_ns = self._store.scheduler.now_ns() + SETTLING_NS

    def even_out(self, busy: list[RangeLocal], split_rate: float) -> None:
        """Make one move, if it makes this node and another more even."""
        store = self._store
        if store.scheduler.now_ns() < self._settled_ns:
            return
        rates = {local.range_id: local.load for local in busy}
        voters = {
            local.range_id: [voter.node_id for voter in local.replica.descriptor.voters()]
            for local in busy
            if not local.replica.descriptor.is_changing
        }
        views, least = store.queue.node_views(), split_rate / _MUCH
        allowed = {range_id: store.queue.views_for(store.replicas[range_id]) for range_id in voters}
        leases = leases_for_load(store.node_id, rates, voters, views, least)
        replica = None if leases else replica_for_load(store.node_id, rates, voters, allowed, least)
        self._looks = self._looks + 1 if leases or replica else 0
        if self._looks < PATIENCE:
            return
        for range_id, to in leases:
            if store.transfer_lease(store.replicas[range_id], to):
                self.leases_moved += 1
                self.wait()
                logger.info("the lease of range %d goes to node %d, which has less to do", range_id, to)
        if replica is not None:
            range_id, away, to = replica
            if store.queue.move(store.replicas[range_id], away, to) is not None:
                return
            self.replicas_moved += 1
            self.wait()
            logger.info("the replica of range %d on node %d goes to node %d, which has less to do", range_id, away, to)


def _gain(here: float, there: float, rate: float, least: float) -> tuple[float, float] | None:
    """What the busier one of two nodes, and the receiver, have if ``rate`` moves; None if that is not worth it."""
    before, after = here - there, abs((here - rate) - (there + rate))
    is_step = here - rate >= there + rate  # one of several, none of which does much by itself
    if before < least or here < BUSIER * there or not (is_step or after <= before / 2):
        return None
    return max(here - rate, there + rate), there + rate


def leases_for_load(
    here: NodeId, rates: Mapping[RangeId, float], voters: Voters, nodes: Mapping[NodeId, NodeView], least: float
) -> list[tuple[RangeId, NodeId]]:
    """Which leases to hand over at once, and where to.

    Only the busiest node moves several, for two that did would both fill up the same idle one."""
    mine, left, known = sum(rates.values()), dict(rates), dict(nodes)
    is_busiest = all(mine >= node.load for node_id, node in nodes.items() if node_id != here)
    found: list[tuple[RangeId, NodeId]] = []
    while len(found) < (MOST_LEASES if is_busiest else 1):
        remaining = {range_id: voters[range_id] for range_id in voters if range_id in left}
        best = lease_for_load(here, left, remaining, known, least)
        if best is None:
            break
        range_id, to = best
        known[to] = dataclasses.replace(known[to], load=known[to].load + left.pop(range_id))
        found.append(best)
    return found


def lease_for_load(
    here: NodeId, rates: Mapping[RangeId, float], voters: Voters, nodes: Mapping[NodeId, NodeView], least: float
) -> tuple[RangeId, NodeId] | None:
    """Which lease to hand over, and where to: the one that leaves least to the busier one of the two nodes.

    ``least``: differences below are not worth a move."""
    mine = sum(rates.values())
    best: tuple[tuple[float, float], RangeId, NodeId] | None = None
    for range_id, nodes_of in sorted(voters.items()):
        for node_id in nodes_of:
            node = nodes.get(node_id)
            if node_id == here or node is None or not node.takes_replicas:
                continue
            after = _gain(mine, node.load, rates[range_id], least)
            if after is not None and (best is None or after < best[0]):
                best = (after, range_id, node_id)
    return None if best is None else best[1:]


def replica_for_load(
    here: NodeId,
    rates: Mapping[RangeId, float],
    voters: Voters,
    nodes_for: Mapping[RangeId, Mapping[NodeId, NodeView]],
    least: float,
) -> tuple[RangeId, NodeId, NodeId] | None:
    """Which range needs a voter elsewhere to be led there, which voter is to go, and where to.

    ``nodes_for``: the nodes as each range may use them.
    The voters stand as far apart afterwards as before; of several that may go, the one on the busiest node does."""
    mine = sum(rates.values())
    best: tuple[tuple[float, float], RangeId, NodeId, NodeId] | None = None
    for range_id, nodes_of in sorted(voters.items()):
        nodes = nodes_for[range_id]
        others = [node_id for node_id in nodes_of if node_id != here and node_id in nodes]
        for node_id, node in sorted(nodes.items()):
            if node_id in nodes_of or not node.takes_replicas or not others:
                continue
            after = _gain(mine, node.load, rates[range_id], least)
            if after is None or (best is not None and after >= best[0]):
                continue
            leaving = [away for away in others if _keeps_apart(away, node, nodes_of, nodes)]
            if leaving:
                best = (after, range_id, max(leaving, key=lambda away: nodes[away].load), node_id)
    return None if best is None else best[1:]


def _keeps_apart(away: NodeId, newcomer: NodeView, nodes_of: list[NodeId], nodes: Mapping[NodeId, NodeView]) -> bool:
    """Whether the newcomer stands as far from the voters that stay as the one that leaves."""
    staying = [nodes[node_id].locality for node_id in nodes_of if node_id != away and node_id in nodes]
    return diversity(newcomer.locality, staying) >= diversity(nodes[away].locality, staying) - 1e-9
