"""One client transaction at its gateway, and how it ends.

What it holds until then is in the classes below it (base.py says how they stand on one another): reads at its snapshot
with its buffer laid over them, locks with the versions found under them, buffered writes.

Commit, from the cheapest to the general way::

    nothing buffered                       release the locks
    one row, as it was locked here         one proposal, by direct call                   (Writer.commit_as_locked)
    all in one range whose lease is here   the same, once nothing stands in the way       (Writer.commit_here)
    all in one range elsewhere             one request, one proposal, with a record       (CommitOnePhase)
    several ranges, or very much           intents, record, resolution                    (two_phase.py)
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from pydistdb.kv.answers import Applied, CommitAmbiguous, Number, TransactionState, TransactionStatus, WrongRange
from pydistdb.kv.api import (
    CannotPrepare,
    Isolation,
    KVError,
    MustWait,
    OutcomeUnknown,
    SerializationConflict,
    Timestamp,
    TransactionAborted,
)
from pydistdb.kv.command import ProposalLost
from pydistdb.kv.journal import Participant
from pydistdb.kv.range_local import RangeLocal
from pydistdb.kv.requests import (
    CommitOnePhase,
    Condition,
    EndTransaction,
    PushTransaction,
    QueryVersion,
    ReleaseLocks,
    Write,
)
from pydistdb.kv.txn.changing import ChangingPart
from pydistdb.kv.txn.locking import RELEASE_TIMEOUT_NS
from pydistdb.kv.txn.prepared import entry_key
from pydistdb.kv.txn.read_set import MOST_READS_AT_ONCE
from pydistdb.kv.txn.two_phase import TwoPhase
from pydistdb.kv.txn.writing import SPILL_BYTES

MAX_ONE_PHASE_BYTES = 1 << 20


class Coordinator(ChangingPart):
    """kv.api.Transaction over the ranges of a cluster."""

    __slots__ = ()

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

    # ----------------------------------------------------------------------------------------------------- commit

    async def commit(self) -> Timestamp:
        if self._over or self._failure is not None:
            self._check_open()
        try:
            if self._spilling is not None:
                await self._spilled()
            if self._two_phase is not None:
                timestamp = await self._commit_two_phase()
            elif not self._buffer.entries:
                await self.confirm()
                self._end()
                return self.read_timestamp
            else:
                timestamp = await self._commit_buffer()
        except BaseException as error:
            if not self._over:
                self.rollback(str(error))
            raise
        return timestamp

    async def _commit_buffer(self) -> Timestamp:
        buffer = self._buffer
        if buffer.size_bytes > MAX_ONE_PHASE_BYTES or (
            self._reads is not None and self._reads.rows > MOST_READS_AT_ONCE
        ):
            return await self._commit_two_phase()
        writes = self._writes_of(buffer)
        local = self._leases.find(writes[0][0])
        if local is not None:
            try:
                committing = self._commit_here(local, writes)
                if committing is not None:
                    timestamp = await committing
                    self._end(local)
                    return timestamp
            except CommitAmbiguous as ambiguous:
                known = await self._learn(writes[0][0], ambiguous)
                if known:
                    self._end()
                    return known
            except ProposalLost:
                pass  # certainly not applied: go and find out where the range is now
        return await self._commit_elsewhere(writes, self._conditions())

    def _commit_here(self, local: RangeLocal, writes: list[Write]) -> Coroutine[Any, Any, Timestamp] | None:
        """One phase, under the lease of ``local``; None unless all that it is about lies there."""
        writer = self._gateway.server.writer
        reads = self._reads
        if len(writes) == len(self._locked) == 1 and writes[0][0] in self._locked and reads is None:
            committing = writer.commit_as_locked(local, self._id, writes[0], offers=self.starts_anew)
            if committing is not None:
                return committing
        conditions = self._conditions()
        if not _lies_in(local, writes, conditions) or not (reads is None or reads.lies_in(local.start, local.end)):
            return None
        local.note_request(writes[0][0])
        request = CommitOnePhase(
            self.transaction_id, writes, conditions, False, offers=self.starts_anew, gives_up=self.gives_up
        )
        if reads is not None:
            request.spans, request.since = tuple(reads.spans()), self.read_timestamp
        return writer.commit_here(local, request)

    async def _commit_elsewhere(self, writes: list[Write], conditions: list[Condition]) -> Timestamp:
        router = self._gateway.router
        descriptor = await router.locate(writes[0][0])
        if all(descriptor.contains(item[0]) for item in (*writes, *conditions)) and (
            self._reads is None or self._reads.lies_in(descriptor.start, descriptor.end)
        ):
            request = CommitOnePhase(
                self.transaction_id, writes, conditions, True, offers=self.starts_anew, gives_up=self.gives_up
            )
            if self._reads is not None:
                request.spans, request.since = tuple(self._reads.spans()), self.read_timestamp
            try:
                done: Applied = await router.send(request)
            except WrongRange as wrong:
                # If an earlier attempt may have got through before the split, its record decides.
                router.cache.insert(wrong.descriptor)
                if wrong.ambiguous:
                    return await self._learn_from_record(min(write[0] for write in writes))
            except BaseException:
                self._lock_starts[descriptor.start] = None  # it may have come to hold locks there
                raise
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
        except KVError as error:
            raise OutcomeUnknown("the outcome of the commit could not be learnt in time") from error
        return ambiguous.timestamp if answer.value else 0

    async def _learn_from_record(self, anchor: bytes) -> Timestamp:
        """What became of a one-phase commit that left a record, or else never will."""
        router = self._gateway.router
        try:
            await router.send(EndTransaction(self.transaction_id, anchor, False, 0, 0))
            status: TransactionStatus = await router.send(PushTransaction(self.transaction_id, anchor))
        except KVError as error:
            raise OutcomeUnknown("the outcome of the commit could not be learnt in time") from error
        if status.state != TransactionState.COMMITTED:
            raise SerializationConflict("the range was split during the commit")
        self._leases.hear(status.timestamp)
        self._end()
        return status.timestamp

    async def _commit_two_phase(self) -> Timestamp:
        conditions = self._conditions()
        if self._buffer.entries or conditions:
            await self._lay_down_rest(conditions)
        two_phase = self._two_phase
        assert two_phase is not None
        try:
            if self._reads:
                timestamp = await two_phase.decide_exactly(self._validate)
            else:
                timestamp = await two_phase.decide()
        except (SerializationConflict, TransactionAborted):
            raise  # it certainly is not committed
        except BaseException as error:
            # Whatever it is that interrupts this, the record may be written already: nothing else can tell what to resolve.
            self._over = True
            detail = str(error) if isinstance(error, OutcomeUnknown) else f"{type(error).__name__}: {error}"
            self._log_end(two_phase, "UNKNOWN", detail=detail)
            self._spawn(self._finish(two_phase, None))
            raise
        self._over = True
        self._log_end(two_phase, "COMMITTED")
        self._spawn(self._finish(two_phase, timestamp))
        return timestamp

    def _log_end(self, two_phase: TwoPhase, state: str, *, name: str = "", detail: str = "") -> None:
        """Enter it in this node's log (journal.py)."""
        self._gateway.journal.note(
            self.transaction_id, state, two_phase.listed(), two_phase.began_us, name=name, detail=detail
        )

    async def prepare(self, name: str, facts: bytes) -> None:
        """Make it last until somebody finishes it by name (prepared.py)."""
        self._check_open()
        prepared = self._gateway.prepared
        try:
            await self._spilled()
            if self._reads and self.has_writes:
                raise CannotPrepare("a SERIALIZABLE transaction that has read and written")
            conditions = self._conditions()
            two_phase = self._laying_down()
            if self._buffer.entries or conditions:
                await self._lay_down_rest(conditions)
            elif not two_phase.anchor:
                two_phase.anchor = entry_key(name)
            await prepared.enter(name, two_phase, facts)
        except BaseException as error:
            if not self._over:
                self.rollback(f"{type(error).__name__}: {error}")
            raise
        self._over = True
        try:
            await two_phase.keep()
        except BaseException as error:
            detail = str(error) if isinstance(error, KVError) else f"{type(error).__name__}: {error}"
            self._log_end(two_phase, "UNKNOWN", name=name, detail=detail)
            self._spawn(self._withdraw(name, two_phase))
            raise
        self._log_end(two_phase, "PREPARED", name=name)
        self._end()

    async def _withdraw(self, name: str, two_phase: TwoPhase) -> None:
        await self._finish(two_phase, await self._gateway.prepared.withdraw(name, two_phase))

    async def _validate(self, timestamp: Timestamp) -> None:
        raise NotImplementedError  # serializable.py

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

    def rollback(self, reason: str = "") -> None:
        if self._over:
            return
        self._over = True
        if self._two_phase is not None:
            self._log_end(self._two_phase, "ABORTED", detail=reason or "rolled back")
        elif reason and len(self._lock_starts) > 1:
            self._note_unasked(reason)
        if self._two_phase is None and self._spilling is None:
            self._end()
        else:
            self._spawn(self._abort())

    def _note_unasked(self, reason: str) -> None:
        """It held locks in several ranges, and failed before any of them was asked to prepare."""
        ranges = set()
        for start in self._lock_starts:
            local = self._leases.find(start)
            known = self._leases.find_replica(start) or self._gateway.router.cache.find(start)
            if local is not None:
                ranges.add(local.range_id)
            elif known is not None:
                ranges.add(known.descriptor.range_id)
        participants = [Participant(range_id) for range_id in sorted(ranges)]
        self._gateway.journal.note(self.transaction_id, "ABORTED", participants, detail=reason)

    async def _abort(self) -> None:
        if self._two_phase is not None:
            await self._two_phase.give_up()
        if self._spilling is not None:
            await self._spilling
        if self._two_phase is not None:
            await self._finish(self._two_phase, 0)
        else:
            self._end()

    def _end(self, released: RangeLocal | None = None) -> None:
        """The transaction is over: release its locks (in ``released`` that is done) and forget it."""
        self._over = True
        if not self._id:
            return
        leases = self._leases
        for start in self._lock_starts:
            if released is not None and released.start == start and not leases.parted_to:
                continue
            if not leases.release(self._id, start):
                self._spawn(self._release(start))
        self._gateway.active.pop(self._id, None)

    async def _release(self, start: bytes) -> None:
        try:
            await self._gateway.router.send(ReleaseLocks(self._id, start), timeout_ns=RELEASE_TIMEOUT_NS)
        except KVError:
            pass  # whoever waits for such a lock finds that this transaction is gone


def _lies_in(local: RangeLocal, writes: list[Write], conditions: list[Condition]) -> bool:
    start, end = local.start, local.end
    return all(start <= write[0] < end for write in writes) and all(start <= held[0] < end for held in conditions)
