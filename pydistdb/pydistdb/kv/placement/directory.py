"""The records of range 1: where every range is, which nodes there are, which numbers are taken.

**Addressing.**  The leaseholder of a range publishes its descriptor, under ``meta_key(end)``, whenever that has a greater
generation than what it last published, and once when it acquires the lease: so a crash between a split and its
publication is made good by whoever leads next.  A record only ever gives way to one of a greater generation over the same
keys.  A range that has taken in its neighbour replaces that one's record and takes its own former one away.  A split's
halves go out left first, so that a look-up meets the old descriptor (too wide, which its holder will say) or the
new ones, but no hole::

    before       \\x01z → [a, z) g3
    left out     \\x01m → [a, m) g4    \\x01z → [a, z) g3
    right out    \\x01m → [a, m) g4    \\x01z → [m, z) g4

Whoever uses a record treats it as a hint: the range's own replicas know better.

**Writing.**  Records are written by the leaseholder of range 1 alone, one writer at a time (``write``), as ordinary
versions at its clock's reading.  Counters for node and range ids live here too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydistdb_storage import mvcc
from pydistdb_storage.engine import Snapshot, Space, WriteBatch
from pydistdb_storage.keys import prefix_end

from pydistdb.kv.api import KVError, RangeUnavailable
from pydistdb.kv.command import ANY_GENERATION, Command, NotLeaseholder, ProposalLost, Write
from pydistdb.kv.descriptor import (
    COUNTER_PREFIX,
    FIRST_RANGE_ID,
    META_PREFIX,
    NodeId,
    RangeDescriptor,
    RangeId,
    decode_descriptor,
    encode_descriptor,
    meta_key,
)
from pydistdb.kv.multiraft import MultiRaft
from pydistdb.kv.replica import Replica
from pydistdb.kv.transport import Message, NodeUnreachable, RemoteError, register
from pydistdb.tasks import Completion, sleep

MAX_PUBLISHED_TOGETHER = 200
MAX_LOOKED_UP_TOGETHER = 1_000
MAX_CHECKS_AT_ONCE = 10
_RETRY_NS = 100_000_000
_TIMEOUT_NS = 10_000_000_000


class PublishDescriptors(Message):
    """Answered by Done."""

    descriptors: list[RangeDescriptor]


class AllocateNumbers(Message):
    """Advance a counter of range 1; answered by Allocated."""

    counter: bytes
    count: int


class Allocated(Message):
    first: int


class LookUpRanges(Message):
    """Ask for the ranges that overlap [start, end), at most ``limit``; answered by FoundRanges."""

    start: bytes
    end: bytes
    limit: int = MAX_LOOKED_UP_TOGETHER


class FoundRanges(Message):
    """Descriptors in key order, as published (they may be out of date, overlap, or leave holes)."""

    descriptors: list[RangeDescriptor]


class Done(Message):
    pass


class NotHere(Message):
    """The receiver is not the leaseholder; ``leader`` may be."""

    leader: NodeId


register(PublishDescriptors, AllocateNumbers, Allocated, LookUpRanges, FoundRanges, Done, NotHere)


class Directory:
    """This node's part in keeping the records of range 1, and its way to them."""

    def __init__(self, store: MultiRaft) -> None:
        self._store = store
        self._first_range: RangeDescriptor | None = None
        self._first_leader: NodeId = 0
        self._writing = False
        self._writers: list[Completion[None]] = []
        self._unpublished: dict[RangeId, None] = {}
        self._publishing = False
        self._checking: set[RangeId] = set()
        store.register(PublishDescriptors, self._on_publish)
        store.register(AllocateNumbers, self._on_allocate)
        store.register(LookUpRanges, self._on_look_up)

    # ----------------------------------------------------------------------------------------------- the way to range 1

    def learn_first_range(self, descriptor: RangeDescriptor, leader: NodeId) -> None:
        """Take in what a holder of range 1 says about it."""
        if self._first_range is None or descriptor.generation >= self._first_range.generation:
            self._first_range = descriptor
            if leader:
                self._first_leader = leader

    def _own_first_range(self) -> Replica | None:
        """The replica of range 1 that is here, unless its node was told of a newer state of the range.

        It may have been removed without hearing of it, and then knows no leader, or one of long ago."""
        replica = self._store.replicas.get(FIRST_RANGE_ID)
        if replica is None or not replica.is_initialized:
            return None
        told = self._first_range
        return replica if told is None or told.generation <= replica.descriptor.generation else None

    def first_range(self) -> RangeDescriptor | None:
        """The descriptor of range 1, as well as this node knows."""
        replica = self._own_first_range()
        return self._first_range if replica is None else replica.descriptor

    def first_range_leader(self) -> NodeId:
        """The node that probably leads range 1; 0 if unknown."""
        replica = self._own_first_range()
        return self._first_leader if replica is None else replica.leader_hint or 0

    async def ask(self, request: Message, timeout_ns: int = _TIMEOUT_NS) -> Any:
        """Send a request to range 1's leaseholder, wherever that is by now; raises RangeUnavailable."""
        store = self._store
        deadline = store.scheduler.now_ns() + timeout_ns
        leader = self.first_range_leader()
        while True:
            if leader:
                try:
                    reply = await store.call(leader, request)
                    if not isinstance(reply, NotHere):
                        return reply
                    leader = reply.leader if reply.leader != leader else 0
                except (NodeUnreachable, RemoteError, ProposalLost):
                    leader = 0
            else:
                leader = self.first_range_leader()
            if store.stopped or store.scheduler.now_ns() >= deadline:
                raise RangeUnavailable("range 1 does not answer")
            if not leader:
                await sleep(store.scheduler, _RETRY_NS)
                leader = self.first_range_leader()

    # --------------------------------------------------------------------------------------------------------- writing

    async def write(self, build: Callable[[Snapshot], list[tuple[bytes, bytes]]]) -> None:
        """On range 1's leaseholder: write the records that ``build`` makes of the present ones.

        Raises NotLeaseholder, ProposalLost, OutcomeUnknown, DiskFull."""
        while self._writing:
            turn: Completion[None] = Completion()
            self._writers.append(turn)
            await turn
        self._writing = True
        try:
            store = self._store
            replica = store.replicas.get(FIRST_RANGE_ID)
            if replica is None or not replica.is_leaseholder():
                raise NotLeaseholder(FIRST_RANGE_ID, self.first_range_leader())
            records = build(store.engine.latest())
            if not records:
                return
            now = store.clock.now()
            writes: list[Write] = [(int(Space.VERSIONS), mvcc.versioned(key, now), value) for key, value in records]
            await replica.propose(Command(replica.lease_epoch, ANY_GENERATION, now, writes))
        finally:
            self._writing = False
            if self._writers:
                self._writers.pop(0).set(None)

    async def _on_allocate(self, from_node: NodeId, request: AllocateNumbers) -> Message:
        key = COUNTER_PREFIX + request.counter
        first = 0

        def build(view: Snapshot) -> list[tuple[bytes, bytes]]:
            nonlocal first
            last = int(mvcc.get(view, key, mvcc.MAX_TIMESTAMP)[0] or b"0")
            first = last + 1
            return [(key, str(last + request.count).encode())]

        try:
            await self.write(build)
        except NotLeaseholder as error:
            return NotHere(error.leader)
        return Allocated(first)

    async def allocate(self, counter: bytes, count: int = 1) -> int:
        """Take ``count`` numbers that nobody else gets; returns the first."""
        reply = await self.ask(AllocateNumbers(counter, count))
        assert isinstance(reply, Allocated)
        return reply.first

    # ------------------------------------------------------------------------------------------------------ addressing

    def publish_soon(self, replica: Replica) -> None:
        """Have the descriptor of a range leased here published, once it is durable."""
        self._unpublished[replica.range_id] = None
        if not self._publishing:
            self._publishing = True
            self._store.background(self._publish(), "publish descriptors")

    async def _publish(self) -> None:
        store = self._store
        try:
            while self._unpublished and not store.stopped:
                await store.write(WriteBatch())  # what is to be published must have reached the disk
                chosen = list(self._unpublished)[:MAX_PUBLISHED_TOGETHER]
                replicas = [store.replicas[i] for i in chosen if i in store.replicas and store.replicas[i].leased]
                for range_id in chosen:
                    del self._unpublished[range_id]
                descriptors = [r.descriptor for r in replicas if r.published_generation < r.descriptor.generation]
                descriptors.sort(key=lambda descriptor: descriptor.start)
                if not descriptors:
                    continue
                try:
                    await self.ask(PublishDescriptors(descriptors))
                except KVError:
                    for descriptor in descriptors:
                        self._unpublished[descriptor.range_id] = None
                    await sleep(store.scheduler, _RETRY_NS)
                    continue
                for replica, descriptor in zip(sorted(replicas, key=_start), descriptors, strict=False):
                    if replica.range_id == descriptor.range_id:
                        replica.published_generation = descriptor.generation
        finally:
            self._publishing = False

    async def _on_publish(self, from_node: NodeId, request: PublishDescriptors) -> Message:
        def build(view: Snapshot) -> list[tuple[bytes, bytes]]:
            records: list[tuple[bytes, bytes]] = []
            for descriptor in request.descriptors:
                records += _replaced(view, descriptor)
            return records

        try:
            await self.write(build)
        except NotLeaseholder as error:
            return NotHere(error.leader)
        return Done()

    def check_soon(self, replica: Replica) -> None:
        """A replica knows no leader: find out whether it is still part of its range."""
        if replica.range_id not in self._checking and len(self._checking) < MAX_CHECKS_AT_ONCE:
            self._checking.add(replica.range_id)
            self._store.background(self._check(replica), "check replica")

    async def _check(self, replica: Replica) -> None:
        start = replica.descriptor.start
        try:
            found = await self.look_up(start, start + b"\x00")
        finally:
            self._checking.discard(replica.range_id)
        store = self._store
        for descriptor in found:
            newer = descriptor.range_id == replica.range_id and descriptor.generation > replica.descriptor.generation
            if newer and descriptor.replica(replica.replica_id) is None:
                store.destroy(replica)
            elif store.is_merged_away(replica, descriptor) and store.replica_ending_at(start) is None:
                store.destroy(replica)  # else the left neighbour here will take it in, or give way to a snapshot

    async def _on_look_up(self, from_node: NodeId, request: LookUpRanges) -> Message:
        replica = self._store.replicas.get(FIRST_RANGE_ID)
        if replica is None or not replica.is_leaseholder():
            return NotHere(self.first_range_leader())
        return FoundRanges(self.published(request.start, request.end, request.limit))

    def published(self, start: bytes, end: bytes, limit: int) -> list[RangeDescriptor]:
        """The published descriptors of ranges that overlap [start, end) (on a holder of range 1)."""
        view = self._store.engine.latest()
        # One more than asked for: a range that ends at `start` lies left of it.
        found = mvcc.scan(view, meta_key(start), prefix_end(META_PREFIX), mvcc.MAX_TIMESTAMP, limit + 1)
        descriptors: list[RangeDescriptor] = []
        for value in found.values:
            descriptor = decode_descriptor(value)
            if descriptor.start >= end or len(descriptors) >= limit:
                break
            if descriptor.end > start:
                descriptors.append(descriptor)
        return descriptors

    async def look_up(self, start: bytes, end: bytes, limit: int = MAX_LOOKED_UP_TOGETHER) -> list[RangeDescriptor]:
        """Ask for the published descriptors of ranges that overlap [start, end)."""
        reply = await self.ask(LookUpRanges(start, end, limit))
        assert isinstance(reply, FoundRanges)
        return reply.descriptors


def _replaced(view: Snapshot, descriptor: RangeDescriptor) -> list[tuple[bytes, bytes]]:
    """The records to write (empty: to remove) so that ``descriptor`` is published; none if something younger is."""
    key = meta_key(descriptor.end)
    after = mvcc.scan(view, key, prefix_end(META_PREFIX), mvcc.MAX_TIMESTAMP, 1)
    for value in after.values:
        known = decode_descriptor(value)
        if known.start < descriptor.end and known.generation >= descriptor.generation:
            return []
    within = mvcc.scan(view, meta_key(descriptor.start), key, mvcc.MAX_TIMESTAMP, MAX_PUBLISHED_TOGETHER)
    records = [(key, encode_descriptor(descriptor))]
    for record, value in zip(within.keys, within.values, strict=True):
        known = decode_descriptor(value)
        if known.end > descriptor.start and known.generation < descriptor.generation:
            records.append((record, b""))
    return records


def _start(replica: Replica) -> bytes:
    return replica.descriptor.start
