"""Who leads the ranges: ticks, campaigns, failover, and checks that what is believed still holds.

* **Ticks** go only to groups that have something to wait for.  A quiescent group costs nothing; a follower is not
  ticked as long as its leader's node is supported (liveness.py), for it would not campaign anyway.
* **Failover.**  When support for a node is withdrawn, the ranges that it led are campaigned for at once, staggered by
  rank so that candidates seldom collide, and with the rank rotated by range so that leadership spreads.
* **Pace.**  Thousands of ranges may need a new leader at once.  All campaigns wait in one queue, of which each turn takes
  CAMPAIGNS_A_TURN, a millisecond or more apart: pings and clients are served in between, and a node that cannot keep up takes
  its turns later instead of doing more in each.  The groups that have to hear from a node anew wait in such a queue too.
* **Audits.**  A node may be alive and not lead any more what others believe it leads; now and then everybody asks.  And a
  group may have gone to sleep before its leader heard that its followers support it anew; it is woken.
"""

from __future__ import annotations

from functools import partial

from pydistdb import raft
from pydistdb.kv.descriptor import (
    NodeId,
    RangeId,
    ReplicaId,
)
from pydistdb.kv.replica import Replica
from pydistdb.kv.store_base import StoreBase
from pydistdb.kv.transport import (
    LeadershipCheck,
    LeadershipDenied,
    RaftEnvelope,
)

_MILLISECOND = 1_000_000
LONGEST_PAUSE_NS = 300 * _MILLISECOND


class Elections(StoreBase):
    """See the module's docstring."""

    def processed(self, replica: Replica) -> None:
        if replica not in self._active and self.needs_ticks(replica):
            self.activate(replica)

    def leader_node(self, replica: Replica) -> NodeId:
        """The node that leads the range as far as this one knows, or is to lead it after a split."""
        leader = replica.raft.leader
        return replica.nodes.get(leader, 0) if leader else replica.expected_leader

    def transfer_lease(self, replica: Replica, to: NodeId) -> bool:
        """Begin to hand leadership to the replica on ``to``; tells whether that is possible."""
        target = replica.descriptor.replica_on(to)
        if target is None or not replica.is_leader:
            return False
        try:
            replica.raft.transfer_leadership(target.replica_id)
        except raft.RaftError:
            return False
        replica.lease_until_ns = 0
        for observer in self.observers:
            observer.lease_handed(replica, to)
        self.wake(replica)
        self.activate(replica)
        return True

    # --------------------------------------------------------------------------------------- what replicas ask and tell

    def supported_since_ns(self, node_id: NodeId, epoch: int) -> int:
        return self.liveness.supported_since_ns(node_id, epoch)

    def lease_duration_ns(self) -> int:
        return self.config.election_timeout_ns * (100 - self.config.clock_drift_percent) // 100

    def lease_needs_wait(self, replica: Replica) -> bool:
        # The only voter in a cluster of one: whatever was served was served by this node's clock.
        return not (replica.commits_alone and len(self.liveness.peers) == 0)

    def leadership_changed(self, replica: Replica) -> None:
        if replica.is_leader:
            self.metrics.elections += 1
            replica.leader_resigned = False
        elif replica.raft.leader:
            replica.leader_resigned = False

    def lease_changed(self, replica: Replica, acquired: bool) -> None:
        if acquired:
            self.metrics.leases_acquired += 1
            self.leased[replica.range_id] = replica
        else:
            self.leased.pop(replica.range_id, None)
        for observer in self.observers:
            if acquired:
                observer.lease_acquired(replica)
            else:
                observer.lease_lost(replica)
        if acquired:
            self.cluster_hooks.lease_acquired(replica)

    # --------------------------------------------------------------------------------------------------------- failover

    def node_lost(self, node_id: NodeId) -> None:
        """Support for a node is withdrawn: find new leaders for what it led, and doubt our own leases."""
        if self.stopped:
            return
        now = self.scheduler.now_ns()
        for replica in list(self.replicas.values()):  # one that is found to be removed is destroyed at once
            if self.leader_node(replica) == node_id:
                self.activate(replica)
                self.campaign_for(replica, self.rank_ns(replica, node_id), 20)
            elif replica.is_leader and node_id in replica.nodes.values() and not replica.is_leaseholder():
                # Whether a majority is left shows once Raft asks.
                self._to_wake.add(partial(self._wake_leader, replica), now)
                self.activate(replica)
            if replica.is_leader:
                for replica_id, other in replica.nodes.items():
                    if other == node_id:
                        replica.raft.report_snapshot(replica_id, False)  # lets go of the engine's snapshot
        self.cluster_hooks.node_lost(node_id)

    def node_found(self, node_id: NodeId) -> None:
        self.wake_led_with(node_id)
        self.cluster_hooks.node_found(node_id)

    def wake_led_with(self, node_id: NodeId) -> None:
        """Have every group led here hear anew from its replica on ``node_id``."""
        now = self.scheduler.now_ns()
        for replica in self.replicas.values():
            if replica.is_leader and node_id in replica.nodes.values():
                self._to_wake.add(partial(self._wake_leader, replica), now)

    def _wake_leader(self, replica: Replica) -> bool:
        if self.stopped or replica.destroyed or not replica.is_leader:
            return False
        replica.raft.wake(self.scheduler.now_ns())
        self.wake(replica)
        return True

    def rank_ns(self, replica: Replica, without: NodeId = 0) -> int:
        """How long to wait before campaigning, so that the voters of a range do it one after another."""
        if not replica.is_initialized:
            return self.config.election_timeout_ns
        voters = [r.node_id for r in replica.descriptor.voters() if r.node_id != without]
        if self.node_id not in voters:
            return self.config.election_timeout_ns
        rank = (voters.index(self.node_id) + replica.range_id) % len(voters)
        return rank * self.config.campaign_stagger_ns + self.rand(0, self.config.campaign_stagger_ns // 3)

    def campaign_for(self, replica: Replica, delay_ns: int, attempts: int, pause_ns: int = LONGEST_PAUSE_NS) -> None:
        """Campaign, again and again until somebody leads; the pauses grow."""

        def campaign() -> bool:
            node = replica.raft
            if self.stopped or replica.destroyed or node.role is raft.Role.LEADER:
                return False
            leader = self.leader_node(replica) if node.leader else 0
            if leader and not replica.leader_resigned and self.liveness.supports(leader):
                return False
            if node.role is raft.Role.CANDIDATE:
                node.ask_again()
            else:
                node.tick(self.scheduler.now_ns())
                node.campaign()
            self.wake(replica)
            if attempts > 1:
                later_ns = max(pause_ns, min(pause_ns * 3 // 2, LONGEST_PAUSE_NS))
                self.campaign_for(replica, pause_ns + self.rand(0, pause_ns), attempts - 1, later_ns)
            return True

        if delay_ns:
            self._campaigns.add(campaign, self.scheduler.now_ns() + delay_ns)
        else:
            campaign()

    # ------------------------------------------------------------------------------------------------------------ ticks

    def needs_ticks(self, replica: Replica) -> bool:
        node = replica.raft
        if node.quiescent or replica.destroyed:
            return False
        if node.role is not raft.Role.FOLLOWER or replica.leader_resigned:
            return True
        leader = self.leader_node(replica)
        return not (leader and self.liveness.supports(leader))

    def activate(self, replica: Replica) -> None:
        self._active[replica] = None
        if not self._tick_scheduled and not self.stopped:
            self._tick_scheduled = True
            self.scheduler.call_at(self.scheduler.now_ns() + self.config.tick_ns, self._tick)

    def _tick(self) -> None:
        self._tick_scheduled = False
        if self.stopped:
            return
        now = self.scheduler.now_ns()
        active, self._active = self._active, {}
        for replica in active:
            if self.needs_ticks(replica):
                self.metrics.ticks += 1
                replica.tick()
                replica.expire_proposals(now)
                self._active[replica] = None
            elif replica.pending_proposals and not replica.destroyed:
                replica.expire_proposals(now)
                self._active[replica] = None
        if self._active:
            self._tick_scheduled = True
            self.scheduler.call_at(now + self.config.tick_ns, self._tick)

    # ----------------------------------------------------------------------------------------------------------- audits

    def audit_later(self) -> None:
        self.scheduler.call_at(self.scheduler.now_ns() + self.config.audit_ns, self._audit)

    def _audit(self) -> None:
        """Ask whether the leaders that this node relies on still lead: a supported node may have lost a range.

        And see to it that what is led here is served."""
        if self.stopped:
            return
        asked: dict[NodeId, list[tuple[RangeId, int, ReplicaId]]] = {}
        for replica in list(self.replicas.values()):  # one that is found to be removed is destroyed at once
            leader = self.leader_node(replica)
            if (not leader or replica.leader_resigned) and replica.is_initialized:
                self.cluster_hooks.leaderless(replica)
                if replica.knows_removed(replica.replica_id):  # whoever leads the others now has yet to let it go
                    for other in replica.descriptor.voters():
                        asked.setdefault(other.node_id, []).append(_asked_by(replica))
            if leader and leader != self.node_id and replica.is_initialized:
                asked.setdefault(leader, []).append(_asked_by(replica))
            if replica.leased and not replica.commits_alone and not replica.is_leaseholder():
                # Asleep under support that has been renewed since: the answers that said so were lost.
                self._to_wake.add(partial(self._wake_leader, replica), self.scheduler.now_ns())
        for node_id, ranges in asked.items():
            self.send_envelope(node_id, RaftEnvelope(0, 0, LeadershipCheck(tuple(ranges))))
        self.audit_later()

    def answer_leadership(self, from_node: NodeId, check: LeadershipCheck) -> None:
        denied: list[tuple[RangeId, int]] = []
        for range_id, term, replica_id in check.ranges:
            replica = self.replicas.get(range_id)
            if replica is not None and replica.is_leader and replica.knows_removed(replica_id):
                self.tell_removed(replica, replica_id, from_node)
            elif replica is None or replica.raft.term > term or (replica.raft.term == term and not replica.is_leader):
                denied.append((range_id, term))
        if denied:
            self.send_envelope(from_node, RaftEnvelope(0, 0, LeadershipDenied(tuple(denied))))

    def leadership_denied(self, from_node: NodeId, denied: LeadershipDenied) -> None:
        for range_id, term in denied.ranges:
            replica = self.replicas.get(range_id)
            if replica is None or replica.raft.term != term or self.leader_node(replica) != from_node:
                continue
            replica.expected_leader = 0
            replica.leader_resigned = True
            replica.raft.wake(self.scheduler.now_ns())
            self.activate(replica)
            self.campaign_for(replica, self.rank_ns(replica), 5)


def _asked_by(replica: Replica) -> tuple[RangeId, int, ReplicaId]:
    """What a LeadershipCheck says of a replica."""
    return replica.range_id, replica.raft.term, replica.replica_id
