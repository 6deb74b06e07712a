"""Closed timestamps: up to when a copy of a range is complete, so that it may be read without asking the leaseholder.

A leaseholder picks the timestamp of a write from its clock at the moment it proposes it, so whatever it proposes after a
reading C of its clock is later than C.  Hence one sentence makes its followers useful, and costs no write anything::

    "range 7: everything at or below C lies at or before log index 41"        said under the lease, with C = the clock now

A replica that has applied entry 41 answers reads at or below C from its own store.  The sentence stays true for ever: the
next leaseholder begins above C for the same reason that it begins above every read that was served (lease.py; C is such
a reading), and a leader's log holds every earlier entry that can still be applied.  So it survives transfers, crashes, and
elections.  A split leaves it to the left part; the right part's own leaseholder begins above it.  A snapshot stands for
all entries up to its index.  A restarted node has forgotten what it was told, and is told all of it anew.

**Carried cheaply.**  Together with a ping, every ``closed_ns`` each node sends each other one message for all ranges that
it leases::

    #12  C=1000  changed: {7: 41, 9: 12}                range 7 and 9: as said above
    #13  C=1600  changed: {7: 55}                       range 9 still ends at 12, so 1600 is closed there too
    #14  C=2200  changed: {}  removed: [9]              nothing is said about range 9 any more; 7 stands at 55

Idle ranges are not mentioned at all.  A message that is missing (the number tells) makes the receiver keep to what it
knew and ask for a full one.  While a range is written to without a pause, its newest index may never be applied when the
next message comes: the receiver holds on to one earlier sentence until it can use that (``_Range``).

**A clock that is wrong.**  A reading C far ahead of the other nodes' clocks must not be given away: the next leaseholder waits no
longer than max_offset, and would write below it.  Others' pings tell a node that it is wrong, some tenths of a second too
late; that its wall clock has jumped it sees by itself, against the monotonic one, and says nothing until they have had time to.

Intents at or below C lie at or before the index as well; whether their transaction committed below C is another question
(follower.py).  After CockroachDB's side transport of closed timestamps; that writes need not be pushed is a consequence
of commit timestamps that come from the leaseholder's clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydistdb.kv.api import Timestamp
from pydistdb.kv.descriptor import NodeId, RangeId
from pydistdb.kv.hlc import COUNTER_BITS
from pydistdb.kv.replica import Replica
from pydistdb.kv.transport import ClosedUpTo, ClosedWanted, RaftEnvelope

if TYPE_CHECKING:
    from pydistdb.kv.store_base import StoreBase

MAX_RANGES = 1_000_000
"""Of how many ranges a node remembers what it was told."""

SILENT_US = 10_000_000
"""A range that was closed so long ago does not hold ``resolved`` back any more."""

RESOLVED_KEPT_NS = 100_000_000
"""So long ``resolved`` is taken for granted: it takes about 0.5 µs a range to find out."""


class _Peer:
    """What another node (or this one) has been told."""

    __slots__ = ("sequence", "told")

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        self.told: dict[RangeId, int] | None = None
        """Ranges and their indexes; None: it needs a full message."""


class _Sender:
    """What a leaseholder's node has said last."""

    __slots__ = ("sequence", "timestamp")

    def __init__(self) -> None:
        self.sequence = 0
        self.timestamp: Timestamp = 0


class _Range:
    """What is known of one range: the sender's newest index, one earlier sentence, and what has been usable already."""

    __slots__ = ("held", "held_index", "index", "ready", "sender")

    def __init__(self) -> None:
        self.sender: NodeId = 0
        """Whose messages close the range at ``index`` (0: nobody's)."""
        self.index = 0
        self.held: Timestamp = 0
        self.held_index = 0
        self.ready: Timestamp = 0

    def usable(self, applied: int, timestamp: Timestamp) -> Timestamp:
        """Up to when a replica that has applied so much is complete; ``timestamp``: the sender's newest."""
        ready = self.ready
        if self.held_index <= applied and self.held > ready:
            ready = self.ready = self.held
        if self.sender and self.index <= applied and timestamp > ready:
            return timestamp
        return ready

    def fold(self, applied: int, timestamp: Timestamp) -> None:
        """Keep what follows from the newest sentence, before another one takes its place."""
        if not self.sender:
            return
        self.ready = self.usable(applied, timestamp)
        if self.index > applied and (not self.held or self.held_index <= applied):
            self.held, self.held_index = timestamp, self.index


class ClosedTimestamps:
    """One node's part: closes the ranges leased here, and remembers what others have closed."""

    def __init__(self, store: StoreBase) -> None:
        self._store = store
        self._peers: dict[NodeId, _Peer] = {}
        self._senders: dict[NodeId, _Sender] = {}
        self._ranges: dict[RangeId, _Range] = {}
        self._next_ns = 0
        self._ahead_us: int | None = None
        """How far the wall clock was ahead of the monotonic one when ranges were to be closed last."""
        self._resolved: Timestamp = 0
        self._resolved_until_ns = 0
        self.last: Timestamp = 0
        """The newest timestamp closed here: nothing may be written at or below it under a lease of this node."""

    # --------------------------------------------------------------------------------------------------------- closing

    def close(self, others: list[NodeId]) -> None:
        """Close every range leased here and tell ``others``, if it is time."""
        store = self._store
        now_ns = store.scheduler.now_ns()
        if now_ns < self._next_ns:
            return
        # Half a ping early rather than half a ping late.
        self._next_ns = now_ns + store.config.closed_ns - store.config.ping_ns // 2
        if not self._is_right(now_ns):
            return
        timestamp = store.clock.now()
        mine: dict[NodeId, dict[RangeId, int]] = {store.node_id: {}, **{node_id: {} for node_id in others}}
        for range_id, replica in store.leased.items():
            # The lease is checked after the clock was read, as it is after a read.
            if replica.is_leaseholder():
                index = replica.raft.last_index
                for held in replica.descriptor.replicas:
                    indexes = mine.get(held.node_id)
                    if indexes is not None:
                        indexes[range_id] = index
        self.last = timestamp
        for node_id in [node_id for node_id in self._peers if node_id not in mine]:
            del self._peers[node_id]
        for node_id, indexes in mine.items():
            message = self._message(node_id, timestamp, indexes)
            if message is None:
                continue
            if node_id == store.node_id:
                self.receive(node_id, message)
            else:
                store.send_envelope(node_id, RaftEnvelope(0, 0, message))

    def _is_right(self, now_ns: int) -> bool:
        """Whether this node's clock is near the others', as far as it can know."""
        clock = self._store.clock
        physical_us = clock.physical_us()
        ahead_us, self._ahead_us = self._ahead_us, physical_us - now_ns // 1_000
        has_jumped = ahead_us is not None and abs(self._ahead_us - ahead_us) > clock.max_offset_us
        # What the clock has heard of, or said itself, before it was set back.
        is_drawn = (clock.last() >> COUNTER_BITS) - physical_us > clock.max_offset_us
        return not (clock.out_of_bounds or has_jumped or is_drawn)

    def _message(self, node_id: NodeId, timestamp: Timestamp, indexes: dict[RangeId, int]) -> ClosedUpTo | None:
        """What a node is to be told; None: it has no copy of anything here, nor had."""
        peer = self._peers.get(node_id)
        if peer is None:
            # Above all numbers of an earlier process on this node.
            peer = self._peers[node_id] = _Peer(self._store.identity.incarnation << 32)
        told = peer.told
        if not indexes and not told:
            return None
        peer.sequence += 1
        peer.told = indexes
        if told is None:
            return ClosedUpTo(peer.sequence, timestamp, True, indexes)
        changed = {range_id: index for range_id, index in indexes.items() if told.get(range_id) != index}
        removed = [range_id for range_id in told if range_id not in indexes]
        return ClosedUpTo(peer.sequence, timestamp, False, changed, removed)

    def wanted(self, node_id: NodeId) -> None:
        """A node has missed something: the next message to it is a full one."""
        peer = self._peers.get(node_id)
        if peer is not None:
            peer.told = None

    # ------------------------------------------------------------------------------------------------------- receiving

    def receive(self, node_id: NodeId, message: ClosedUpTo) -> None:
        """Take in what a leaseholder's node says about its ranges."""
        sender = self._senders.get(node_id)
        if sender is None:
            sender = self._senders[node_id] = _Sender()
        if message.sequence <= sender.sequence:
            return  # overtaken by a later one
        if not message.full and message.sequence != sender.sequence + 1:
            self._store.send_envelope(node_id, RaftEnvelope(0, 0, ClosedWanted()))
            return
        if message.full:
            for range_id, known in self._ranges.items():
                if known.sender == node_id and range_id not in message.changed:
                    self._detach(range_id, known, sender)
        for range_id in message.removed:
            removed = self._ranges.get(range_id)
            if removed is not None and removed.sender == node_id:
                self._detach(range_id, removed, sender)
        for range_id, index in message.changed.items():
            self._attach(range_id, node_id, index)
        sender.sequence = message.sequence
        sender.timestamp = message.timestamp

    def _applied(self, range_id: RangeId) -> int:
        replica = self._store.replicas.get(range_id)
        return 0 if replica is None else replica.durable_applied

    def _detach(self, range_id: RangeId, known: _Range, sender: _Sender) -> None:
        known.fold(self._applied(range_id), sender.timestamp)
        known.sender = 0

    def _attach(self, range_id: RangeId, node_id: NodeId, index: int) -> None:
        known = self._ranges.get(range_id)
        if known is None:
            if len(self._ranges) >= MAX_RANGES:
                self._forget_absent()
            known = self._ranges[range_id] = _Range()
        elif known.sender:
            known.fold(self._applied(range_id), self._senders[known.sender].timestamp)
        known.sender = node_id
        known.index = index

    def _forget_absent(self) -> None:
        replicas = self._store.replicas
        self._ranges = {range_id: known for range_id, known in self._ranges.items() if range_id in replicas}

    # --------------------------------------------------------------------------------------------------------- reading

    def at(self, replica: Replica) -> Timestamp:
        """Up to when this replica holds everything; 0: it cannot tell."""
        known = self._ranges.get(replica.range_id)
        if known is None or replica.installing or replica.destroyed:
            return 0
        sender = self._senders.get(known.sender)
        return known.usable(replica.durable_applied, 0 if sender is None else sender.timestamp)

    def resolved(self) -> Timestamp:
        """The newest timestamp up to which every copy here is complete; 0 if nothing is known.

        Ranges that nobody has closed for SILENT_US are left out: they have no leaseholder, or their copy here is stuck."""
        now_ns = self._store.scheduler.now_ns()
        if now_ns >= self._resolved_until_ns:
            self._resolved_until_ns = now_ns + RESOLVED_KEPT_NS
            oldest = self._store.clock.last() - (SILENT_US << COUNTER_BITS)
            times = [closed for replica in self._store.replicas.values() if (closed := self.at(replica)) > oldest]
            self._resolved = min(times, default=0)
        return self._resolved
