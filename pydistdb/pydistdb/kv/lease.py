"""The lease of a range: when this replica alone may serve it.

Whoever leads may serve reads by itself while no other leader can exist: until the Raft lease runs out,
or longer, as far as the nodes of a majority support this node as a whole (liveness.py), which is what keeps an idle
range readable without heartbeats of its own.  Leading is not enough, though: the old leaseholder may have served reads
at timestamps that this node's clock has not reached.  Nobody's clock is more than max_offset ahead of ours, so a new
leaseholder waits that long before it serves; its clock then is above all that was served before (also if it is set back
meanwhile: what it read at the beginning, and the offset, is a floor).  A handover carries the old leaseholder's clock, and
needs no wait.  Of a transaction that was prepared under the old lease and commits under the new one the new leaseholder
need not have heard: see reads.py.  ``leased`` is set and the observers are told once all of this holds.
"""

from __future__ import annotations

from typing import Any

from pydistdb import raft
from pydistdb.kv.api import Timestamp
from pydistdb.kv.descriptor import NodeId, RangeDescriptor, ReplicaId
from pydistdb.kv.hlc import COUNTER_BITS
from pydistdb.kv.proposals import ReplicaOwner
from pydistdb.kv.range_log import RangeLog

LEASE_CHECK_NS = 200_000_000
"""A lease once checked is taken for granted no longer than this, so that a clock fault is noticed (the lease of an only voter is
checked again when there is one: membership.py)."""


class RangeLease:
    """The part of a replica that knows about its lease; ``Replica`` is the whole."""

    replica_id: ReplicaId
    raft: raft.RaftNode
    log: RangeLog
    nodes: dict[ReplicaId, NodeId]
    support_epochs: dict[ReplicaId, int]
    destroyed: bool

    def __init__(self, owner: ReplicaOwner) -> None:
        self.owner = owner
        self.local: Any = None
        self.leased = False
        self.leased_since_ns = 0
        self.lease_until_ns = 0
        self.is_stored = True
        """Whether the replica is durable: not yet when a split brings it, and the store may not show all that lies in it."""
        self.previous_epoch = 0
        """The term of the lease directly before this one."""
        self.membership_pending = 0
        """Membership changes proposed here and not applied yet."""
        self._complete_index = 0
        self._lease_start_ns = 0
        self._clock_floor: Timestamp = 0
        self._handover_term = 0
        self._lease_timer_set = False

    @property
    def descriptor(self) -> RangeDescriptor:
        raise NotImplementedError

    @property
    def commits_alone(self) -> bool:
        raise NotImplementedError

    def lease_changed(self, acquired: bool) -> None:
        raise NotImplementedError

    def lease_needs_wait(self) -> bool:
        raise NotImplementedError

    # --------------------------------------------------------------------------------------------------------- holding

    def is_leaseholder(self) -> bool:
        """Whether this node alone may serve the range right now."""
        return self.owner.scheduler.now_ns() < self.lease_until_ns or self._extend_lease()

    def _extend_lease(self) -> bool:
        if not self.leased or self.owner.clock.out_of_bounds or self.descriptor.frozen:
            return False
        now = self.owner.scheduler.now_ns()
        expiry = self.raft.lease_expiry_ns
        if expiry == 0 or self.raft.role is not raft.Role.LEADER:
            return False
        if expiry <= now:
            expiry = self._supported_until()
        if not (self.raft.transfer_target or self.membership_pending or self.descriptor.is_joint):
            # While leadership or membership is about to change the lease may end any moment.  The only voter's ends only by
            # what is done on this node: looking again would cost every read 2 µs where reads are spread over thousands of ranges.
            self.lease_until_ns = expiry if expiry == raft.NEVER_NS else min(expiry, now + LEASE_CHECK_NS)
        return now < expiry

    def _supported_until(self) -> int:
        """The end of the lease that the nodes of a majority give us, in every half of the configuration."""
        membership = self.log.membership
        since = self._majority_since(membership.voters)
        if membership.outgoing:
            since = min(since, self._majority_since(membership.outgoing))
        return since + self.owner.lease_duration_ns()

    def _majority_since(self, voters: tuple[ReplicaId, ...]) -> int:
        owner, epochs, nodes, me = self.owner, self.support_epochs, self.nodes, self.replica_id
        since: list[int] = []
        for voter in voters:
            if voter == me:
                since.append(owner.scheduler.now_ns())
            else:
                epoch = epochs.get(voter, 0)
                since.append(owner.supported_since_ns(nodes.get(voter, 0), epoch) if epoch else 0)
        since.sort(reverse=True)
        # Without support since some moment in the past the lease would end before it began.
        return since[len(voters) // 2] or -self.owner.lease_duration_ns()

    # ------------------------------------------------------------------------------------------- beginning and ending it

    def expect_handover(self) -> None:
        """The leader offers leadership: the next term here begins where its lease ends, and its clock came along."""
        self._handover_term = self.raft.term + 1

    def inherit_lease(self) -> None:
        """The term for which this node was elected just now, else the next one, begins where its own lease of the whole range
        ends: no wait is needed."""
        self._handover_term = self.raft.term + (self.raft.role is not raft.Role.LEADER)

    def begin_term(self, term: int) -> None:
        """This replica leads from now on."""
        self._complete_index = self.raft.complete_index
        self.previous_epoch = self.raft.previous_term
        self._lease_start_ns = self.owner.scheduler.now_ns()
        if self._handover_term != term and self.lease_needs_wait():
            clock = self.owner.clock
            self._lease_start_ns += clock.max_offset_us * 1_000
            self._clock_floor = clock.physical_us() + clock.max_offset_us << COUNTER_BITS
        if not self.commits_alone:
            self.raft.send_heartbeats()  # answered by the time the first entry is committed, when the lease may begin

    def try_lease(self) -> None:
        """Begin to serve if nothing stands in the way any more: call it after whatever may have been the last that did."""
        node = self.raft
        if node.role is not raft.Role.LEADER or self.leased or self.destroyed:
            return
        if not self.is_stored or node.applied_index < self._complete_index or not node.is_confirmed:
            return
        now = self.owner.scheduler.now_ns()
        if now < self._lease_start_ns:
            if not self._lease_timer_set:
                self._lease_timer_set = True
                self.owner.scheduler.call_at(self._lease_start_ns, self._lease_due)
            return
        self.owner.clock.raise_to(self._clock_floor)
        self.leased = True
        self.leased_since_ns = now
        self.published_generation = -1
        self.lease_changed(True)

    def _lease_due(self) -> None:
        self._lease_timer_set = False
        self.try_lease()

    def drop_lease(self) -> None:
        self.leased = False
        self.lease_until_ns = 0
        self.lease_changed(False)
        self.local = None
