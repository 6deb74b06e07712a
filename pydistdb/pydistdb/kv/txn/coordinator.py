"""One client transaction at its gateway: snapshot, buffered writes, locks held, and the way to commit.

Reads go to the leaseholders at ``read_timestamp``, with the buffer laid over what they return.  Locks are taken as the
statements go, and the version found under each lock is kept: the commit hands it over as the expected one, so that it
is safe whatever happened to the lock in between.

Commit, from the cheapest to the general way::

    nothing buffered                       release the locks
    all in one range whose lease is here   one proposal, by direct call                   (Writer.commit_here)
    all in one range elsewhere             one request, one proposal, with a record       (CommitOnePhase)
    several ranges, or very much           intents, record, resolution                    (two_phase.py)

A buffer beyond SPILL_BYTES is laid down as intents early, in the background: the transaction then commits in two phases,
and its reads see those intents as its own at the leaseholders.  While a savepoint may still be rolled back to, nothing
is spilled, and the buffer may grow to MAX_BUFFER_BYTES.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from pydistdb_storage import mvcc
from pydistdb_storage.errors import KeyTooLong
from pydistdb_storage.mvcc import MAX_MVCC_KEY_BYTES, MAX_TIMESTAMP

from pydistdb.kv.api import (
    FragmentAnswer,
    Isolation,
    KeyExists,
    KVError,
    LockedValue,
    LockStrength,
    MustWait,
    OutcomeUnknown,
    RangeUnavailable,
    ReadRestart,
    ScanBatch,
    SerializationConflict,
    SpanPart,
    Timestamp,
    TransactionAborted,
    TransactionTooLarge,
    WaitPolicy,
)
from pydistdb.kv.command import ProposalLost
from pydistdb.kv.descriptor import KEY_MAX
from pydistdb.kv.fragments import Evaluate, Evaluated
from pydistdb.kv.hlc import COUNTER_BITS
from pydistdb.kv.leases import RangeLocal
from pydistdb.kv.overlay import Chunk, covered_span, lay_over
from pydistdb.kv.reads import Blocked
from pydistdb.kv.requests import (
    BLIND,
    INSERT,
    NO_TRANSACTION,
    OWN_INTENT,
    SKIPPED,
    Applied,
    CommitAmbiguous,
    CommitOnePhase,
    Condition,
    EndTransaction,
    Entries,
    GetMany,
    Lock,
    Locked,
    Number,
    PushTransaction,
    QueryVersion,
    ReleaseLocks,
    Scan,
    TransactionId,
    TransactionState,
    TransactionStatus,
    Values,
    Write,
    WrongRange,
    new_transaction_id,
)
from pydistdb.kv.txn.buffer import LockUndo, WriteBuffer
from pydistdb.kv.txn.read_set import MOST_READS_AT_ONCE, ReadSet
from pydistdb.kv.txn.two_phase import TwoPhase
from pydistdb.tasks import Completion

if TYPE_CHECKING:
    from pydistdb.kv.gateway import Gateway

SPILL_BYTES = 4 << 20
MAX_BUFFER_BYTES = 256 << 20
MAX_TRANSACTION_BYTES = 8 << 30
MAX_ONE_PHASE_BYTES = 1 << 20
RELEASE_TIMEOUT_NS = 2_000_000_000

_MISSING = object()
_CONFLICT_TEXT = "could not serialize access due to concurrent update"
_DELETED_TEXT = "could not serialize access due to concurrent delete"


class Coordinator:
    """kv.api.Transaction over the ranges of a cluster."""

    __slots__ = (
        "_buffer",
        "_failure",
        "_first_statement",
        "_gateway",
        "_giving_back",
        "_id",
        "_leases",
        "_lock_starts",
        "_locked",
        "_observed",
        "_over",
        "_reads",
        "_spilled_bytes",
        "_spilling",
        "_spilling_buffer",
        "_two_phase",
        "isolation",
        "lock_timeout_ns",
        "process_id",
        "read_only",
        "read_timestamp",
        "waits_for_lock",
    )

    def __init__(self, gateway: Gateway, isolation: Isolation, read_only: bool) -> None:
        self._gateway = gateway
        self._leases = gateway.leases
        self.isolation = isolation
        self.read_only = read_only
        self.read_timestamp: Timestamp = gateway.leases.clock.now()
        self.lock_timeout_ns = 0
        """How long ``lock`` waits for one range's locks; 0: as long as it takes."""
        self.process_id = 0
        self.waits_for_lock = False
        self._first_statement = True
        self._id: TransactionId = NO_TRANSACTION
        self._buffer = WriteBuffer()
        self._locked: dict[bytes, tuple[int, int]] = {}
        self._lock_starts: dict[bytes, None] = {}
        self._observed: dict[int, Timestamp] | None = None
        self._over = False
        self._two_phase: TwoPhase | None = None
        self._spilling: Completion[None] | None = None
        self._spilling_buffer: WriteBuffer | None = None
        self._spilled_bytes = 0
        self._failure: KVError | None = None
        self._giving_back: Completion[None] | None = None
        """Done once locks that a savepoint had are given back to other nodes."""
        self._reads: ReadSet | None = None
        """What was read, of a SERIALIZABLE transaction (serializable.py)."""

    # -------------------------------------------------------------------------------------------------- snapshots

    def begin_statement(self, at_least: Timestamp = 0) -> None:
        """Take the statement's snapshot; with ``at_least`` the statement is run again (ReadRestart)."""
        self._check_open()
        if self._first_statement or self.isolation is Isolation.READ_COMMITTED or at_least > self.read_timestamp:
            leases = self._leases
            leases.clock.check()
            if at_least:
                leases.hear(at_least)
            else:
                self._observed = None
            self.read_timestamp = leases.clock.now()
            self._first_statement = False

    def snapshot(self) -> Coordinator:
        self._check_open()
        if self._two_phase is not None or self._spilling is not None or self._buffer.size_bytes > SPILL_BYTES:
            raise MustWait
        reader = self._reader()
        reader.read_timestamp = self.read_timestamp
        reader._first_statement = False
        reader._observed = dict(self._seen())
        reader._buffer = self._buffer.copy()
        return reader

    def _reader(self) -> Coordinator:
        return Coordinator(self._gateway, Isolation.REPEATABLE_READ, True)

    def _limit(self) -> Timestamp:
        return self.read_timestamp + (self._leases.clock.max_offset_us << COUNTER_BITS)

    def _seen(self) -> dict[int, Timestamp]:
        """What the nodes' clocks said when this statement first heard of them."""
        if self._observed is None:
            self._observed = {self._leases.node_id: self.read_timestamp}
        return self._observed

    @property
    def transaction_id(self) -> TransactionId:
        """The id, made (and announced to this node) when it is first needed."""
        if not self._id:
            self._id = new_transaction_id(self.read_timestamp, self._leases.node_id)
            self._gateway.active[self._id] = self
        return self._id

    @property
    def known_id(self) -> TransactionId:
        """The id if others may know it."""
        return self._id

    def _check_open(self) -> None:
        if self._over:
            raise TransactionAborted("the transaction is over")
        if self._failure is not None:
            raise self._failure

    # ------------------------------------------------------------------------------------------------------ reads

    def try_get(self, key: bytes) -> bytes | None:
        # The hot path of point reads: about 1.5 µs on top of the seek.
        if self._buffer.entries or self._two_phase is not None:
            value = self._buffered(key)
            if value is not _MISSING:
                return value  # type: ignore[return-value]
            if self._two_phase is not None:
                raise MustWait
        leases = self._leases
        local = leases.find(key)
        read_timestamp = self.read_timestamp
        if (
            local is None
            or key in local.pending.by_key
            or key in local.intents.writes
            or local.lease_start > read_timestamp
            or leases.threshold() > read_timestamp
        ):
            raise MustWait
        local.requests += 1
        found = mvcc.get(leases.latest(), key, read_timestamp)[0]
        if not local.replica.is_leaseholder():
            raise MustWait
        return found

    def _buffered(self, key: bytes) -> object:
        value = self._buffer.entries.get(key, _MISSING)
        if value is _MISSING and self._spilling_buffer is not None:
            value = self._spilling_buffer.entries.get(key, _MISSING)
        return value

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self._check_open()
        found: dict[bytes, bytes | None] = {}
        wanted: list[bytes] = []
        for key in keys:
            try:
                found[key] = self.try_get(key)
            except MustWait:
                wanted.append(key)
        if wanted:
            own = self._id if self._two_phase is not None else NO_TRANSACTION
            observed = self._seen()

            async def get_range(part: list[bytes]) -> None:
                request = GetMany(part, self.read_timestamp, self._limit(), own)
                answer: Values = await self._gateway.router.send(request, observed=observed)
                found.update(zip(part, answer.values, strict=True))

            await self._gateway.router.each_range(sorted(set(wanted)), get_range)
            for key in wanted:
                value = self._buffered(key)
                if value is not _MISSING:
                    found[key] = value  # type: ignore[assignment]
        return [found[key] for key in keys]

    def try_scan(self, start: bytes, end: bytes, *, limit: int, reverse: bool = False) -> ScanBatch:
        self._check_open()
        if self._two_phase is not None:
            raise MustWait
        leases = self._leases
        end = min(end, KEY_MAX)
        if start >= end:
            return ScanBatch([], [], None)
        local = leases.find_before(end) if reverse else leases.find(start)
        if local is None or local.lease_start > self.read_timestamp:
            raise MustWait
        local.requests += 1
        first, last = max(start, local.start), min(end, local.end)
        now = self.read_timestamp
        try:
            request = Scan(first, last, limit, reverse, now, self._limit(), observed=now)
            chunk = self._gateway.server.reader.try_scan(local, request)
        except (Blocked, ReadRestart):
            raise MustWait from None
        if not local.replica.is_leaseholder():
            raise MustWait
        return self._finish_chunk(chunk, start, end, first, last, limit, reverse)

    def _finish_chunk(
        self, chunk: Chunk, start: bytes, end: bytes, first: bytes, last: bytes, limit: int, reverse: bool
    ) -> ScanBatch:
        """Lay the buffer over a range's chunk of [first, last), and say where [start, end) goes on."""
        keys, values, resume = chunk
        if self._buffer.entries or self._spilling_buffer is not None:
            span = covered_span(first, last, resume, reverse)
            overlay: list[tuple[bytes, bytes | None]] = []
            if self._spilling_buffer is not None:
                overlay += self._spilling_buffer.span(*span, reverse=reverse)
            overlay += self._buffer.span(*span, reverse=reverse)
            keys, values, resume = lay_over(chunk, overlay, limit, reverse=reverse)
        if resume is None:
            if reverse and first > start:
                resume = first
            elif not reverse and last < end:
                resume = last
        return ScanBatch(keys, values, resume)

    async def scan(self, start: bytes, end: bytes, *, limit: int, reverse: bool = False) -> ScanBatch:
        self._check_open()
        end = min(end, KEY_MAX)
        keys: list[bytes] = []
        values: list[bytes] = []
        while start < end and len(keys) < limit:
            batch = await self._scan_range(start, end, limit - len(keys), reverse)
            if not keys:
                keys, values = batch.keys, batch.values
            else:
                keys += batch.keys
                values += batch.values
            if batch.resume is None:
                return ScanBatch(keys, values, None)
            if reverse:
                end = batch.resume
            else:
                start = batch.resume
        if start >= end:
            return ScanBatch(keys, values, None)
        return ScanBatch(keys, values, end if reverse else start)

    async def _scan_range(self, start: bytes, end: bytes, limit: int, reverse: bool) -> ScanBatch:
        """One chunk from the range at the scan's head."""
        try:
            return self.try_scan(start, end, limit=limit, reverse=reverse)
        except MustWait:
            pass
        router = self._gateway.router
        own = self._id if self._two_phase is not None else NO_TRANSACTION
        lower, upper = start, end
        while True:
            descriptor = await (router.locate_before(upper) if reverse else router.locate(lower))
            first, last = max(lower, descriptor.start), min(upper, descriptor.end)
            try:
                request = Scan(first, last, limit, reverse, self.read_timestamp, self._limit(), own)
                answer: Entries = await router.send(request, observed=self._seen())
            except WrongRange as wrong:
                lower, upper = self._narrowed(wrong, lower, upper, last, reverse)
                continue
            return self._finish_chunk(
                (answer.keys, answer.values, answer.resume), start, end, first, last, limit, reverse
            )

    def _narrowed(
        self, wrong: WrongRange, lower: bytes, upper: bytes, last: bytes, reverse: bool
    ) -> tuple[bytes, bytes]:
        """Learn where the range that was asked really lies: the bounds within which to look for the head of [lower, upper)
        again."""
        self._gateway.router.cache.insert(wrong.descriptor)
        if not reverse:
            return lower, min(upper, max(wrong.descriptor.end, lower + b"\0"))
        if wrong.descriptor.end < last:
            return max(lower, wrong.descriptor.end), upper
        return lower, upper

    # -------------------------------------------------------------------------------------------------- fragments

    def is_local(self, start: bytes, end: bytes) -> bool:
        # About 1 µs per range: every scan asks.
        end = min(end, KEY_MAX)
        while start < end:
            local = self._leases.find(start)
            if local is None:
                return False
            start = local.end
        return True

    async def part_at(self, start: bytes, end: bytes, *, reverse: bool = False) -> SpanPart:
        router = self._gateway.router
        end = min(end, KEY_MAX)
        descriptor = await (router.locate_before(end) if reverse else router.locate(start))
        first, last = max(start, descriptor.start), min(end, descriptor.end)
        if first >= last:  # a stale descriptor: whoever reads will find out
            first, last = start, end
        return SpanPart(first, last, descriptor.range_id, self.is_local(first, last))

    async def evaluate(
        self, fragment: bytes, arguments: bytes, start: bytes, end: bytes, *, reverse: bool = False
    ) -> FragmentAnswer | None:
        router = self._gateway.router
        own = self._id if self._two_phase is not None else NO_TRANSACTION
        lower, upper = start, min(end, KEY_MAX)
        while True:
            self._check_open()
            if self._spilling_buffer is not None or (self._buffer.entries and self._buffer.span(start, end)):
                return None
            first, last, _, _ = await self.part_at(lower, upper, reverse=reverse)
            request = Evaluate(first, last, reverse, self.read_timestamp, self._limit(), fragment, arguments, own)
            try:
                answer: Evaluated = await router.send(request, observed=self._seen())
            except WrongRange as wrong:
                lower, upper = self._narrowed(wrong, lower, upper, last, reverse)
                continue
            if answer.refused:
                return None
            self._note_evaluated(*covered_span(first, last, answer.resume, reverse), answer.entries)
            resume = answer.resume
            if resume is None:
                resume = (first if first > start else None) if reverse else (last if last < min(end, KEY_MAX) else None)
            return FragmentAnswer(answer.output, resume, answer.entries)

    def _note_evaluated(self, first: bytes, last: bytes, entries: int) -> None:
        """A fragment has read the span (serializable.py)."""

    # ------------------------------------------------------------------------------------------------------ locks

    def try_lock(self, key: bytes, strength: LockStrength) -> LockedValue:
        self._check_open()
        leases = self._leases
        local = leases.find(key)
        if local is None or self._two_phase is not None or not local.replica.is_leaseholder():
            raise MustWait
        local.requests += 1
        self._lock_starts[local.start] = None
        if not self._gateway.server.locker.try_lock_one(local, self._id or self.transaction_id, key, strength):
            raise MustWait
        value, version = mvcc.get(leases.latest(), key, MAX_TIMESTAMP)
        return self._note_lock(key, value, version, strength)

    async def lock(
        self, keys: Sequence[bytes], strength: LockStrength, wait: WaitPolicy = WaitPolicy.WAIT
    ) -> list[LockedValue]:
        if len(keys) == 1:
            try:
                return [self.try_lock(keys[0], strength)]
            except MustWait:
                pass
        return await self._lock_general(keys, strength, wait)

    async def _lock_general(self, keys: Sequence[bytes], strength: LockStrength, wait: WaitPolicy) -> list[LockedValue]:
        if self._giving_back is not None:
            await self._giving_back  # else that might take away again what is locked now
            self._giving_back = None
        found: dict[bytes, tuple[bytes | None, int]] = {}
        router = self._gateway.router
        transaction_id = self.transaction_id

        async def lock_range(part: list[bytes]) -> None:
            descriptor = await router.locate(part[0])
            self._lock_starts[descriptor.start] = None
            request = Lock(transaction_id, part, int(strength), int(wait), self.lock_timeout_ns)
            self.waits_for_lock = True
            try:
                answer: Locked = await router.send(request)
            finally:
                self.waits_for_lock = False
            found.update(zip(part, zip(answer.values, answer.versions, strict=True), strict=True))

        await router.each_range(sorted(set(keys)), lock_range)
        return [self._note_lock(key, *found[key], strength) for key in keys]

    def _note_lock(self, key: bytes, value: bytes | None, version: int, strength: int) -> LockedValue:
        if version == SKIPPED:
            return LockedValue(None, False, True)
        known = self._locked.get(key)
        if known is not None:
            if known[0] != version and version != OWN_INTENT and key in self._buffer.entries:
                # The lock was lost with a lease, and somebody else has written since.
                raise SerializationConflict(_CONFLICT_TEXT)
            strength = max(strength, known[1])
        changed = version > self.read_timestamp
        if changed and self.isolation is not Isolation.READ_COMMITTED:
            raise SerializationConflict(_DELETED_TEXT if value is None else _CONFLICT_TEXT)
        if self._buffer.undo is not None and (known is None or known[1] < strength):
            self._buffer.note_lock(key, known)
        self._locked[key] = (version, strength)
        own = self._buffered(key)
        return LockedValue(value if own is _MISSING else own, changed)  # type: ignore[arg-type]

    # ----------------------------------------------------------------------------------------------------- writes

    def put(self, key: bytes, value: bytes) -> None:
        assert value, "a value is never empty: an empty one stands for a delete"
        self._write(key, value, False)

    def put_all(self, entries: dict[bytes, bytes]) -> None:
        if self._over or self._failure is not None:
            self._check_open()
        longest = max(map(len, entries), default=0)
        if longest > MAX_MVCC_KEY_BYTES:
            raise KeyTooLong(longest, MAX_MVCC_KEY_BYTES)
        assert all(entries.values()), "a value is never empty: an empty one stands for a delete"
        buffer = self._buffer
        buffer.write_all(entries)
        if buffer.size_bytes > SPILL_BYTES:
            self._overflow()

    def insert(self, key: bytes, value: bytes) -> None:
        assert value, "a value is never empty: an empty one stands for a delete"
        own = self._buffered(key)
        if own is _MISSING:
            self._write(key, value, True)
        elif own is not None:
            raise KeyExists(key)
        else:
            self._write(key, value, False)

    def delete(self, key: bytes) -> None:
        self._write(key, None, False)

    def _write(self, key: bytes, value: bytes | None, insert: bool) -> None:
        if self._over or self._failure is not None:
            self._check_open()
        if len(key) > MAX_MVCC_KEY_BYTES:
            raise KeyTooLong(len(key), MAX_MVCC_KEY_BYTES)
        buffer = self._buffer
        buffer.write(key, value, insert)
        if buffer.size_bytes > SPILL_BYTES:
            self._overflow()

    def savepoint(self) -> int:
        self._check_open()
        return self._buffer.savepoint()

    def rollback_to(self, mark: int, *, release_locks: bool = False) -> None:
        if self._over:
            self._check_open()
        locks = self._buffer.rollback_to(mark, release_locks=release_locks)
        if locks:
            self._give_back(locks)

    def _give_back(self, locks: list[LockUndo]) -> None:
        """Give back what was locked since a savepoint, at once where the range is led here."""
        remote: dict[bytes, int] = {}
        for key, strength in {lock.key: lock.before[1] if lock.before else 0 for lock in locks}.items():
            version, _ = self._locked.pop(key)
            if strength:
                self._locked[key] = (version, strength)
            if self._reads is not None:
                self._reads.add_point(key)  # under the lock it was read
            local = self._leases.find(key)
            if local is None:
                remote[key] = strength
            else:
                local.locks.give_back(self._id, [(key, strength)])
        if remote:
            self._spawn(self._give_back_remote(remote, self._giving_back))

    async def _give_back_remote(self, strengths: dict[bytes, int], earlier: Completion[None] | None) -> None:
        done = self._giving_back = Completion[None]()
        if earlier is not None:
            await earlier
        router = self._gateway.router

        async def release(part: list[bytes]) -> None:
            request = ReleaseLocks(self._id, part[0], [(key, strengths[key]) for key in part])
            await router.send(request, timeout_ns=RELEASE_TIMEOUT_NS)

        try:
            await router.each_range(sorted(strengths), release)
        except KVError:
            pass  # they go with the others at the end
        finally:
            done.set(None)

    def forget_savepoints(self) -> None:
        self._buffer.forget_savepoints()

    @property
    def has_writes(self) -> bool:
        return bool(self._buffer.entries) or self._two_phase is not None

    # ------------------------------------------------------------------------------------------------------ spill

    def _overflow(self) -> None:
        """The buffer is large: start laying it down, unless that is under way or a savepoint needs it."""
        buffer = self._buffer
        if self._spilled_bytes + buffer.size_bytes > MAX_TRANSACTION_BYTES:
            raise TransactionTooLarge("the transaction writes too much")
        if self._spilling is None and not buffer.has_savepoint:
            self._spilling = Completion()
            self._spilling_buffer = buffer
            self._spilled_bytes += buffer.size_bytes
            self._buffer = WriteBuffer()
            self._leases.scheduler.call_soon(lambda: self._spawn(self._spill(buffer)))
        elif buffer.size_bytes > MAX_BUFFER_BYTES:
            raise TransactionTooLarge("the transaction's write buffer is full")

    async def _spill(self, buffer: WriteBuffer) -> None:
        spilling = self._spilling
        assert spilling is not None
        try:
            await self._lay_down(buffer, [])
        except KVError as error:
            self._failure = error
        finally:
            self._spilling = None
            self._spilling_buffer = None
            spilling.set(None)

    async def _lay_down(self, buffer: WriteBuffer, conditions: list[Condition]) -> None:
        if self._two_phase is None:
            self._two_phase = TwoPhase(self._leases, self._gateway.router, self.transaction_id)
        writes = self._writes_of(buffer)
        writes.sort(key=_key_of)
        await self._two_phase.lay_down(writes, conditions)
        if self._locked:
            for write in writes:
                self._locked.pop(write[0], None)

    async def relieve(self) -> None:
        """Wait while much more is buffered than has been laid down; bulk writers await this between batches.

        Raises what laying down the earlier part ran into."""
        self._check_open()
        while self._spilling is not None and self._buffer.size_bytes > SPILL_BYTES // 2:
            await self._spilling
            self._check_open()

    # ----------------------------------------------------------------------------------------------------- commit

    def _writes_of(self, buffer: WriteBuffer) -> list[Write]:
        inserted = buffer.inserted
        locked = self._locked
        if not locked:
            if not inserted:
                return [(key, value, BLIND) for key, value in buffer.entries.items()]
            return [(key, value, INSERT if key in inserted else BLIND) for key, value in buffer.entries.items()]
        return [
            (key, value, INSERT if key in inserted else locked[key][0] if key in locked else BLIND)
            for key, value in buffer.entries.items()
        ]

    def _conditions(self) -> list[Condition]:
        """What was locked but is not written."""
        locked = self._locked
        entries = self._buffer.entries
        if len(locked) == 1 and len(entries) >= 1 and next(iter(locked)) in entries:
            return []
        return [
            (key, version, strength)
            for key, (version, strength) in locked.items()
            if key not in entries and version != OWN_INTENT
        ]

    async def commit(self) -> Timestamp:
        self._check_open()
        try:
            while self._spilling is not None:
                await self._spilling
            self._check_open()
            if self._two_phase is not None:
                timestamp = await self._commit_two_phase()
            elif not self._buffer.entries:
                self._end()
                return self.read_timestamp
            else:
                timestamp = await self._commit_buffer()
        except BaseException:
            if not self._over:
                self.rollback()
            raise
        return timestamp

    async def _commit_buffer(self) -> Timestamp:
        buffer = self._buffer
        leases = self._leases
        writes = self._writes_of(buffer)
        conditions = self._conditions() if self._locked else []
        if buffer.size_bytes > MAX_ONE_PHASE_BYTES:
            return await self._commit_two_phase()
        if self._reads is not None and self._reads.rows > MOST_READS_AT_ONCE:
            return await self._commit_two_phase()
        local = leases.find(writes[0][0])
        if (
            local is not None
            and local.replica.is_leaseholder()
            and _lies_in(local, writes, conditions)
            and (self._reads is None or self._reads.lies_in(local.start, local.end))
        ):
            local.requests += 1
            request = CommitOnePhase(self._id or self.transaction_id, writes, conditions, False)
            if self._reads is not None:
                request.spans, request.since = tuple(self._reads.spans()), self.read_timestamp
            try:
                timestamp = await self._gateway.server.writer.commit_here(local, request)
                self._end()
                return timestamp
            except CommitAmbiguous as ambiguous:
                known = await self._learn(writes[0][0], ambiguous)
                if known:
                    self._end()
                    return known
            except ProposalLost:
                pass  # certainly not applied: go and find out where the range is now
        return await self._commit_elsewhere(writes, conditions)

    async def _commit_elsewhere(self, writes: list[Write], conditions: list[Condition]) -> Timestamp:
        router = self._gateway.router
        descriptor = await router.locate(writes[0][0])
        if all(descriptor.contains(item[0]) for item in (*writes, *conditions)) and (
            self._reads is None or self._reads.lies_in(descriptor.start, descriptor.end)
        ):
            request = CommitOnePhase(self.transaction_id, writes, conditions, True)
            if self._reads is not None:
                request.spans, request.since = tuple(self._reads.spans()), self.read_timestamp
            try:
                done: Applied = await router.send(request)
            except WrongRange as wrong:
                # If an earlier attempt may have got through before the split, its record decides.
                router.cache.insert(wrong.descriptor)
                if wrong.ambiguous:
                    return await self._learn_from_record(min(write[0] for write in writes))
            else:
                self._leases.hear(done.timestamp)
                self._end()
                return done.timestamp
        return await self._commit_two_phase()

    async def _learn(self, key: bytes, ambiguous: CommitAmbiguous) -> Timestamp:
        """What became of a proposal whose lease was lost: its timestamp if it was applied, else 0."""
        try:
            request = QueryVersion(key, ambiguous.timestamp, ambiguous.epoch)
            answer: Number = await self._gateway.router.send(request)
        except RangeUnavailable:
            raise OutcomeUnknown("the outcome of the commit could not be learnt in time") from None
        return ambiguous.timestamp if answer.value else 0

    async def _learn_from_record(self, anchor: bytes) -> Timestamp:
        """What became of a one-phase commit that left a record, or else never will."""
        router = self._gateway.router
        try:
            await router.send(EndTransaction(self.transaction_id, anchor, False, 0, 0))
            status: TransactionStatus = await router.send(PushTransaction(self.transaction_id, anchor))
        except RangeUnavailable:
            raise OutcomeUnknown("the outcome of the commit could not be learnt in time") from None
        if status.state != TransactionState.COMMITTED:
            raise SerializationConflict("the range was split during the commit")
        self._leases.hear(status.timestamp)
        self._end()
        return status.timestamp

    async def _commit_two_phase(self) -> Timestamp:
        conditions = self._conditions()
        if self._buffer.entries or conditions:
            await self._lay_down_last(conditions)
        two_phase = self._two_phase
        assert two_phase is not None
        try:
            if self._reads:
                timestamp = await two_phase.decide_exactly(self._validate)
            else:
                timestamp = await two_phase.decide()
        except OutcomeUnknown:
            self._over = True
            self._spawn(self._finish(two_phase, None))
            raise
        self._over = True
        self._spawn(self._finish(two_phase, timestamp))
        return timestamp

    async def _validate(self, timestamp: Timestamp) -> None:
        raise NotImplementedError  # serializable.py

    async def _lay_down_last(self, conditions: list[Condition]) -> None:
        if self._buffer.entries:
            await self._lay_down(self._buffer, conditions)
        else:
            assert self._two_phase is not None
            await self._two_phase.lay_down([], conditions)

    async def _finish(self, two_phase: TwoPhase, timestamp: Timestamp | None) -> None:
        """In the background: resolve what was laid down (None: the outcome is yet to be learnt; 0: aborted)."""
        try:
            if timestamp is None:
                await two_phase.settle()
            else:
                await two_phase.resolve(timestamp)
        except KVError:
            pass  # the sweep of the ranges finishes it
        finally:
            self._end()

    def rollback(self) -> None:
        if self._over:
            return
        self._over = True
        if self._two_phase is None and self._spilling is None:
            self._end()
        else:
            self._spawn(self._abort())

    async def _abort(self) -> None:
        if self._spilling is not None:
            await self._spilling
        if self._two_phase is not None:
            await self._finish(self._two_phase, 0)
        else:
            self._end()

    def _end(self) -> None:
        """The transaction is over: release its locks and forget it."""
        self._over = True
        if not self._id:
            return
        for start in self._lock_starts:
            local = self._leases.find(start)
            if local is not None:
                local.locks.release(self._id)
            else:
                self._spawn(self._release(start))
        self._gateway.active.pop(self._id, None)

    async def _release(self, start: bytes) -> None:
        try:
            await self._gateway.router.send(ReleaseLocks(self._id, start), timeout_ns=RELEASE_TIMEOUT_NS)
        except KVError:
            pass  # whoever waits for such a lock finds that this transaction is gone

    def _spawn(self, coroutine: Coroutine[Any, None, None]) -> None:
        self._leases.scheduler.spawn(coroutine, "end of a transaction")


def _key_of(write: Write) -> bytes:
    return write[0]


def _lies_in(local: RangeLocal, writes: list[Write], conditions: list[Condition]) -> bool:
    start, end = local.start, local.end
    if len(writes) == 1:
        if not start <= writes[0][0] < end:
            return False
    elif not all(start <= write[0] < end for write in writes):
        return False
    return not conditions or all(start <= condition[0] < end for condition in conditions)
