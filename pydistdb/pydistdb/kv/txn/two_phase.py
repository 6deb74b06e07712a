"""Commit of a transaction whose writes lie in several ranges, or are too many for one proposal.

Timeline, with ranges A (anchor) and B; every arrow is a proposal of its range::

    prepare   A: intents, at least ts 10      B: intents and conditions, at least ts 12        in parallel
    decide    A: record COMMITTED at 15       (15 ≥ 12, and above every read served at A: records.py)
    ──────── the client hears of it ────────
    resolve   A: intents → versions at 15     B: the same, in the background
    forget    A: the record goes

The coordinator may die at any point.  Before the record: whoever meets an intent asks for the record, finds the
coordinator gone, and the transaction aborted.  After it: whoever meets an intent, or the sweep of range A, finishes the
resolution.

Before the client hears of it, every node that holds intents raises its clock to the commit timestamp, so that a
transaction that begins there afterwards reads above it.

A large transaction lays its buffer down in rounds (``lay_down`` more than once) long before it decides.  All writes of
a round share a ``sequence``, by which a repeated request recognizes its own intents.  A round whose transaction is rolled
back meanwhile ends after the requests that are under way, and only then are its intents dropped: none can come later.

After Gray & Lamport, "Consensus on Transaction Commit" (2006), with the coordinator's decision itself replicated; and
Peng & Dabek, "Large-scale Incremental Processing" (Percolator, 2010), for intents that lead to one deciding record.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterator, Sequence

import msgspec
from pydistdb_storage.keys import prefix_end

from pydistdb.kv.answers import Applied, TransactionState, WrongRange
from pydistdb.kv.api import KVError, OutcomeUnknown, ReadConflict, Timestamp, TransactionAborted
from pydistdb.kv.chunks import CHUNK_BYTES, MAX_CHUNK_WRITES, even_chunks
from pydistdb.kv.descriptor import NodeId, RangeDescriptor, RangeId
from pydistdb.kv.hlc import COUNTER_BITS
from pydistdb.kv.journal import Participant
from pydistdb.kv.leases import Leases
from pydistdb.kv.names import TransactionId, begin_of
from pydistdb.kv.records import EXPIRY_NS, LONGEST_TRANSACTION_US, STAGED
from pydistdb.kv.requests import (
    Condition,
    EndTransaction,
    ForgetRecord,
    Prepare,
    PrepareFresh,
    PrepareRecord,
    PushTransaction,
    RaiseClock,
    ResolveIntents,
    Write,
)
from pydistdb.kv.resolution import resolve_span
from pydistdb.kv.router import Router
from pydistdb.kv.transport import NodeUnreachable, RemoteError
from pydistdb.tasks import Completion, gather, sleep

MAX_KEPT_KEYS = 2_000
"""Up to so many intents are resolved by key; more by walking their spans."""

MAX_KEPT_SPANS = 200
MAX_EXACT_ATTEMPTS = 5
"""How often a SERIALIZABLE transaction validates at a later timestamp because readers were promised it."""


class KeptPrepared(msgspec.Struct, array_like=True):
    """All that it takes to end a prepared transaction."""

    transaction_id: TransactionId
    anchor: bytes
    timestamp: Timestamp
    """It commits above this."""
    spans: list[tuple[bytes, bytes]]
    served: list[NodeId]
    """The nodes that have laid its intents down: they must know the time of its commit before the client does."""


class TwoPhase:
    """The prepared part of one transaction."""

    def __init__(self, leases: Leases, router: Router, transaction_id: TransactionId) -> None:
        self._leases = leases
        self._router = router
        self._id = transaction_id
        self.anchor = b""
        self._sequence = 0
        self._timestamp: Timestamp = 0
        self.served: set[NodeId] = set()
        """The nodes that have laid intents down."""
        self._keys: list[bytes] = []
        self._keys_complete = True
        self._spans: dict[bytes, tuple[bytes, bytes]] = {}
        self._changed: dict[bytes, tuple[bytes, bytes]] = {}
        """Spans whose leaseholders have laid intents down by themselves (changes.py), or may have."""
        self.participants: dict[RangeId, Participant] = {}
        self.began_us = 0
        """When the ranges were first asked to prepare."""
        self.gives_up = False
        """Whether a round fails where it would have to wait for others (requests.Prepare)."""
        self.is_given_up = False
        self._rounds = 0
        """How many are under way."""
        self._idle: Completion[None] | None = None
        """Done when none is."""
        self._kept_spans: list[tuple[bytes, bytes]] | None = None
        """Where the intents are, of a transaction that was prepared elsewhere."""

    async def lay_down(self, writes: Sequence[Write], conditions: Sequence[Condition] = ()) -> None:
        """Check and write intents for one round of writes (sorted by key) and conditions, in every range they touch."""
        if not self.anchor:
            self.anchor = writes[0][0] if writes else conditions[0][0]
            self.began_us = self._leases.clock.physical_us()
        self._sequence += 1
        sequence = self._sequence
        if conditions:
            await self._lay_down_mixed(writes, conditions, sequence)
            return
        keys = [write[0] for write in writes]
        self._note_keys(keys)

        async def prepare_range(part: list[bytes]) -> None:
            participant = await self._note_span(part)
            first = bisect_left(keys, part[0])
            for chunk in even_chunks(writes[first : first + len(part)]):
                await self._prepare(participant, chunk, [], sequence)

        await self._each_range(keys, prepare_range)

    async def lay_down_fresh(self, entries: list[tuple[bytes, bytes]]) -> None:
        """Lay down entries, sorted, on keys that nobody else can know before the commit."""
        if not self.anchor:
            self.anchor = entries[0][0]
        self._sequence += 1
        sequence = self._sequence
        self._keys_complete = False
        keys = [key for key, _ in entries]

        async def prepare_range(part: list[bytes]) -> None:
            await self._note_span(part)
            first = bisect_left(keys, part[0])
            for chunk in even_chunks(entries[first : first + len(part)]):
                self._check_wanted()
                done: Applied = await self._router.send(
                    PrepareFresh(self._id, self.anchor, sequence, chunk), served=self.served
                )
                self._timestamp = max(self._timestamp, done.timestamp)

        await self._each_range(keys, prepare_range)

    async def _lay_down_mixed(self, writes: Sequence[Write], conditions: Sequence[Condition], sequence: int) -> None:
        writes_by_key = {write[0]: write for write in writes}
        conditions_by_key = {condition[0]: condition for condition in conditions}
        keys = sorted({*writes_by_key, *conditions_by_key})
        self._note_keys(keys)

        async def prepare_range(part: list[bytes]) -> None:
            participant = await self._note_span(part)
            for chunk in _chunks(part, writes_by_key):
                own_writes = [write for key in chunk if (write := writes_by_key.get(key))]
                own_conditions = [condition for key in chunk if (condition := conditions_by_key.get(key))]
                await self._prepare(participant, own_writes, own_conditions, sequence)

        await self._each_range(keys, prepare_range)

    async def _each_range(self, keys: list[bytes], prepare_range: Callable[[list[bytes]], Awaitable[None]]) -> None:
        self._rounds += 1
        try:
            await self._router.each_range(keys, prepare_range)
        finally:
            self._rounds -= 1
            if not self._rounds and self._idle is not None:
                self._idle.set(None)

    async def give_up(self) -> None:
        """Nothing more is laid down, and nothing is on its way any more once this has returned."""
        self.is_given_up = True
        if self._rounds:
            self._idle = self._idle or Completion()
            await self._idle

    def _check_wanted(self) -> None:
        if self.is_given_up:
            raise TransactionAborted("the transaction is over")

    async def _prepare(
        self, participant: Participant, writes: list[Write], conditions: list[Condition], sequence: int
    ) -> None:
        self._check_wanted()
        request = Prepare(self._id, self.anchor, sequence, writes, conditions, self.gives_up)
        try:
            done: Applied = await self._router.send(request, served=self.served)
        except WrongRange:
            raise  # asked again where it lies now
        except KVError:
            participant.vote = "no"
            raise
        participant.vote = participant.vote or "yes"
        self._timestamp = max(self._timestamp, done.timestamp)

    def _note_keys(self, keys: list[bytes]) -> None:
        if self._keys_complete:
            self._keys += keys
            if len(self._keys) > MAX_KEPT_KEYS:
                self._keys_complete = False
                self._keys = []

    async def _note_span(self, part: list[bytes]) -> Participant:
        descriptor = await self._router.locate(part[0])
        participant = self.participants.setdefault(descriptor.range_id, Participant(descriptor.range_id))
        first, last = self._spans.get(descriptor.start, (part[0], part[-1]))
        self._spans[descriptor.start] = (min(first, part[0]), max(last, part[-1]))
        if len(self._spans) > MAX_KEPT_SPANS:
            spans = self._spans.values()
            self._spans = {b"": (min(span[0] for span in spans), max(span[1] for span in spans))}
        return participant

    def open_span(self, descriptor: RangeDescriptor, start: bytes, end: bytes) -> int:
        """The leaseholder of [start, end) is about to lay intents down by itself; returns the round's sequence."""
        if not self.anchor:
            self.anchor = start
            self.began_us = self._leases.clock.physical_us()
        self._keys_complete = False
        self._keys = []
        self.participants.setdefault(descriptor.range_id, Participant(descriptor.range_id))
        first, last = self._changed.get(descriptor.start, (start, end))
        self._changed[descriptor.start] = (min(first, start), max(last, end))
        if len(self._changed) > MAX_KEPT_SPANS:
            spans = self._changed.values()
            self._changed = {b"": (min(span[0] for span in spans), max(span[1] for span in spans))}
        self._sequence += 1
        return self._sequence

    def note_changed(self, descriptor: RangeDescriptor, timestamp: Timestamp) -> None:
        """The leaseholder has done so; what is committed is committed above ``timestamp``."""
        self.participants[descriptor.range_id].vote = "yes"
        self._timestamp = max(self._timestamp, timestamp)

    def laid_down_spans(self) -> list[tuple[bytes, bytes]]:
        """Where the intents are."""
        if self._kept_spans is not None:
            return self._kept_spans
        return [*((first, prefix_end(last)) for first, last in self._spans.values()), *self._changed.values()]

    async def decide(self) -> Timestamp:
        """Write the record; returns the commit timestamp.  Raises TransactionAborted, OutcomeUnknown."""
        anchored: set[NodeId] = set()
        done = await self._end(self._timestamp, anchored)
        return await self._decided(done.timestamp, anchored)

    async def decide_exactly(self, validate: Callable[[Timestamp], Awaitable[None]]) -> Timestamp:
        """As ``decide``, at a timestamp at which ``validate`` did not raise (ReadConflict)."""
        anchored: set[NodeId] = set()
        timestamp = self._timestamp
        for _ in range(MAX_EXACT_ATTEMPTS):
            await validate(timestamp)
            done = await self._end(timestamp, anchored, exact=True)
            if done.resume != STAGED:
                return await self._decided(done.timestamp, anchored)
            timestamp = done.timestamp
        raise ReadConflict("could not serialize access due to read/write dependencies among transactions")

    async def keep(self) -> None:
        """Write the record by which the transaction stays prepared until ``end_prepared``."""
        request = PrepareRecord(self._id, self.anchor, self._timestamp, self._expiry(), self.laid_down_spans())
        await self._router.send(request)

    async def end_prepared(self, commit: bool) -> Timestamp:
        """Decide a transaction whose record says that it is prepared; returns the commit timestamp, or 0.

        If it has been decided already, that stands, and is returned or raised as TransactionAborted."""
        anchored: set[NodeId] = set()
        request = EndTransaction(
            self._id, self.anchor, commit, self._timestamp, 0, self.laid_down_spans(), exact=False, prepared=True
        )
        done: Applied = await self._router.send(request, served=anchored)
        self._leases.hear(done.timestamp)
        return await self._decided(done.timestamp, anchored) if done.timestamp else 0

    def listed(self) -> list[Participant]:
        """The ranges that were asked, with their votes."""
        return sorted((each for each in self.participants.values() if each.vote), key=lambda each: each.range_id)

    def kept(self) -> KeptPrepared:
        """What another node needs to know to end it."""
        return KeptPrepared(self._id, self.anchor, self._timestamp, self.laid_down_spans(), sorted(self.served))

    @classmethod
    def of(cls, leases: Leases, router: Router, kept: KeptPrepared) -> TwoPhase:
        """A transaction that some node has prepared."""
        two_phase = cls(leases, router, kept.transaction_id)
        two_phase.anchor = kept.anchor
        two_phase._timestamp = kept.timestamp
        two_phase.served = set(kept.served)
        two_phase._keys_complete = False
        two_phase._kept_spans = kept.spans
        return two_phase

    def _expiry(self) -> Timestamp:
        soon = self._leases.clock.now() + (EXPIRY_NS // 1_000 << COUNTER_BITS)
        return min(soon, begin_of(self._id) + (LONGEST_TRANSACTION_US << COUNTER_BITS))

    async def _end(self, timestamp: Timestamp, anchored: set[NodeId], *, exact: bool = False) -> Applied:
        request = EndTransaction(self._id, self.anchor, True, timestamp, self._expiry(), self.laid_down_spans(), exact)
        done: Applied = await self._router.send(request, served=anchored)
        self._leases.hear(done.timestamp)
        return done

    async def _decided(self, timestamp: Timestamp, anchored: set[NodeId]) -> Timestamp:
        """Let every node that holds intents know the time before the client does."""
        behind = self.served - anchored - {self._leases.node_id}
        if behind:
            await gather(self._leases.scheduler, [self._raise_clock(node_id, timestamp) for node_id in behind])
        return timestamp

    async def _raise_clock(self, node_id: NodeId, timestamp: Timestamp) -> None:
        try:
            await self._router.ask_node(node_id, RaiseClock(timestamp))
        except (NodeUnreachable, RemoteError):
            # Let its clock, and that of whoever takes its ranges over, pass the timestamp.
            await sleep(self._leases.scheduler, self._leases.clock.max_offset_us * 1_000)

    async def resolve(self, commit_timestamp: Timestamp) -> None:
        """Resolve all intents (0: drop them), and forget the record."""
        if self._keys_complete:

            async def resolve_range(part: list[bytes]) -> None:
                end = prefix_end(part[-1])
                await self._router.send(ResolveIntents(self._id, commit_timestamp, part[0], end, part))

            await self._router.each_range(sorted(set(self._keys)), resolve_range)
        else:
            await gather(
                self._leases.scheduler,
                [resolve_span(self._leases, self._id, commit_timestamp, *span) for span in self.laid_down_spans()],
            )
        if commit_timestamp:
            await self._router.send(ForgetRecord(self._id, self.anchor))

    async def abort(self) -> None:
        """Write the record of an abort, unless there is a record."""
        await self._router.send(EndTransaction(self._id, self.anchor, False, 0, 0))

    async def settle(self) -> None:
        """After OutcomeUnknown: make sure that the transaction has ended one way or the other, then resolve it."""
        while True:
            try:
                await self.abort()
                status = await self._router.send(PushTransaction(self._id, self.anchor))
                await self.resolve(status.timestamp if status.state == TransactionState.COMMITTED else 0)
                return
            except (OutcomeUnknown, TransactionAborted, KVError):
                await sleep(self._leases.scheduler, 1_000_000_000)


def _chunks(keys: list[bytes], writes: dict[bytes, Write]) -> Iterator[list[bytes]]:
    """Cut a range's keys into proposals of bounded size."""
    chunk: list[bytes] = []
    size = 0
    for key in keys:
        write = writes.get(key)
        size += len(key) + (len(write[1]) if write is not None and write[1] else 0) + 60
        chunk.append(key)
        if size >= CHUNK_BYTES or len(chunk) >= MAX_CHUNK_WRITES:
            yield chunk
            chunk = []
            size = 0
    if chunk:
        yield chunk
