r"""Transaction records: the one place where a transaction that spans ranges is decided.

The record lies beside the transaction's anchor key, in the replicated state of that range.  There are three ways to be::

    (no record)   open: the coordinator may still decide            ── EndTransaction ──►  COMMITTED at T
                                                                    ── push, coordinator gone ──►  ABORTED
                                                                    ── PrepareRecord ──►  PREPARED
    PREPARED      open, for as long as it takes (txn/prepared.py)   ── EndTransaction(prepared) ──►  COMMITTED, ABORTED

What is written first stays, unless it is PREPARED: such a transaction has no coordinator, is never aborted for want of
one, and can be ended by any node.  COMMITTED names the spans of the intents, so that anybody can finish the resolution;
when all is resolved the record goes.  An ABORTED one must outlive every commit request that may still be under way: such
a request expires EXPIRY_NS after it was made, the record stays ABORTED_RETENTION_US.  Where others have aborted it, it must
outlive the coordinator too, which may only have been cut off, or stopped: it stays SILENT_RETENTION_US, and a transaction can
be decided for LONGEST_TRANSACTION_US.

The commit timestamp is taken here: at least the largest of the prepare timestamps, and above this leaseholder's clock.
So a reader that asks (``push``) with its read timestamp T, raising this clock to T, knows that a transaction without a
record can only commit above T.  The clock of a later leaseholder is above T too.

A SERIALIZABLE transaction has validated its reads at one timestamp C, and can commit at no other (``exact``).  It tries
the largest of the prepare timestamps; if a reader was promised meanwhile that it would commit above C (``promises``),
or the lease is younger than C, it gets a new C from the clock here.  That one is kept for it (``staged``) while it
validates again: readers above C wait for the decision instead of pushing it further.

A push finds out whether the coordinator is alive by asking its gateway.  One that answers "unknown" (restarted, or done)
or does not answer for SILENCE_NS is gone: an ABORTED record is written, and a late commit fails on it.  That is for those who
wait for the transaction.  Readers go on with the promise that it commits later, and a sweep has time: they take the silence
of a coordinator for its end after PATIENCE_NS only (``patient``), since a node that is starved for some seconds comes back.

Of a one-phase commit of a remote gateway there is no record but word of its outcome (outcomes.py), which counts as one that says
DONE.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec
from pydistdb_storage.engine import Space

from pydistdb.kv.advisory import ADVISORY_PREFIX
from pydistdb.kv.answers import Applied, TransactionState, TransactionStatus
from pydistdb.kv.api import KVError, OutcomeUnknown, Timestamp, TransactionAborted
from pydistdb.kv.command import ProposalLost, transaction_prefix
from pydistdb.kv.command import Write as EngineWrite
from pydistdb.kv.descriptor import RangeId
from pydistdb.kv.hlc import COUNTER_BITS
from pydistdb.kv.intents import IntentInfo
from pydistdb.kv.journal import Journal
from pydistdb.kv.leases import Leases, bounded
from pydistdb.kv.locking import Fate, Locker
from pydistdb.kv.names import TransactionId, begin_of, gateway_of
from pydistdb.kv.outcomes import LONGEST_KEY, RETENTION_US, find_outcome, outcome_write, sweep_outcomes
from pydistdb.kv.range_local import RangeLocal
from pydistdb.kv.requests import EndTransaction, ForgetRecord, PrepareRecord, PushTransaction
from pydistdb.kv.resolution import resolve_span
from pydistdb.kv.versions import Feature
from pydistdb.tasks import Completion, pause, sleep

EXPIRY_NS = 60_000_000_000
ABORTED_RETENTION_US = 120_000_000
LONGEST_TRANSACTION_US = 12 * 3_600_000_000
"""A transaction that was begun longer ago cannot be decided any more, if it has laid anything down."""
SILENT_RETENTION_US = 2 * LONGEST_TRANSACTION_US
"""How long it is known of a transaction that it was aborted because its coordinator was silent.  That may be back at any time,
and must not decide what others have undone."""
ORPHAN_AGE_US = 10_000_000
"""A committed record or an intent of this age is looked after by the sweep."""

STAGED = b"staged"
"""``resume`` of the answer to an exact EndTransaction that has to be asked again, at another timestamp."""

STAGED_WAIT_NS = 500_000_000
"""A reader waits so long for a transaction that commits at an exact timestamp, before it takes that away from it."""

_GONE_TEXT = "the transaction was aborted because its coordinator seemed to be gone"

SWEEP_INTERVAL_NS = 5_000_000_000
MAX_RECORDS_PER_SWEEP = 1_000
SWEPT_PER_TURN = 20_000
"""Intents in memory that are looked at in a row: about a millisecond."""


class RecordState(IntEnum):
    COMMITTED = 2
    ABORTED = 3
    DONE = 4
    """Committed in one phase: there never were intents.  Written only where outcomes.py cannot say it."""
    PREPARED = 5


class Record(msgspec.Struct, array_like=True):
    anchor: bytes
    state: int
    timestamp: Timestamp
    created_us: int
    spans: list[tuple[bytes, bytes]] = []


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Record).decode


def record_key(range_id: RangeId, transaction_id: TransactionId) -> bytes:
    return transaction_prefix(range_id) + transaction_id


def record_write(range_id: RangeId, transaction_id: TransactionId, record: Record) -> EngineWrite:
    """The write that puts a record down."""
    return (int(Space.STATE), record_key(range_id, transaction_id), _encode(record))


class Records:
    """Evaluates EndTransaction, PrepareRecord, PushTransaction and ForgetRecord, and sweeps up after the dead."""

    def __init__(self, leases: Leases, locker: Locker, journal: Journal) -> None:
        self._leases = leases
        self._journal = journal
        self._locker = locker
        self._sweeping = False
        self._stopped = False
        locker.forsake = self.forsake

    def find(self, local: RangeLocal, transaction_id: TransactionId, anchor: bytes = b"") -> Record | None:
        """What is known of a transaction; of a commit in one phase only with its ``anchor``, the first of its keys."""
        view = self._leases.latest()
        if anchor and (timestamp := find_outcome(view, anchor, transaction_id)):
            # First: whoever found no more of the transaction than its locks may have taken it for gone since (``forsake``).
            return Record(anchor, RecordState.DONE, timestamp, _us(timestamp))
        data = view.get(Space.STATE, record_key(local.range_id, transaction_id))
        return None if data is None else _decode(data)

    def outcome(
        self, local: RangeLocal, transaction_id: TransactionId, anchor: bytes, timestamp: Timestamp
    ) -> EngineWrite:
        """The write that leaves word of a commit in one phase."""
        if len(anchor) <= LONGEST_KEY and self._leases.is_active(Feature.OUTCOMES_BY_KEY):
            return outcome_write(anchor, transaction_id, timestamp)
        record = Record(anchor, RecordState.DONE, timestamp, _us(timestamp))
        return record_write(local.range_id, transaction_id, record)

    async def end(self, request: EndTransaction) -> Applied:
        leases = self._leases
        leases.clock.check()
        leases.hear(request.timestamp)
        local, record = await self._decided(request.anchor, request.transaction_id)
        if record is not None and not (request.prepared and record.state == RecordState.PREPARED):
            return _known(record, request)
        now = leases.clock.now()
        if record is None and (request.prepared or (request.commit and now > request.expires)):
            raise TransactionAborted("the request came too late")
        if request.exact:
            if not local.can_commit_at(request.transaction_id, request.timestamp):
                local.check_lease()
                local.stage(request.transaction_id, now)
                return Applied(now, STAGED)
            now = request.timestamp
        state = RecordState.COMMITTED if request.commit else RecordState.ABORTED
        record = Record(request.anchor, state, now if request.commit else 0, _us(now), request.spans)
        await self._write(local, request.transaction_id, record)
        return Applied(record.timestamp)

    async def prepare(self, request: PrepareRecord) -> Applied:
        leases = self._leases
        leases.clock.check()
        leases.hear(request.timestamp)
        local, record = await self._decided(request.anchor, request.transaction_id)
        if record is None:
            now = leases.clock.now()
            if now > request.expires:
                raise TransactionAborted("the request to prepare came too late")
            record = Record(request.anchor, RecordState.PREPARED, 0, _us(now), request.spans)
            await self._write(local, request.transaction_id, record)
        elif record.state != RecordState.PREPARED:
            raise TransactionAborted(_GONE_TEXT)
        return Applied()

    async def push(self, request: PushTransaction) -> TransactionStatus:
        leases = self._leases
        transaction_id = request.transaction_id
        leases.hear(request.read_timestamp)
        while True:
            local, record = await self._decided(request.anchor, transaction_id)
            fate = Fate.GONE
            if record is None:
                fate = await self._locker.fate(transaction_id, patient=request.patient)
            if fate is Fate.ALIVE:
                # The answer about the coordinator took time; only a look at this moment counts.
                local = leases.need(request.anchor)
                if transaction_id in local.deciding:
                    continue
                record = self.find(local, transaction_id)
                if record is None:
                    local.check_lease()
                    floor = await self._promise(local, request)
                    if floor is None:
                        continue
                    return TransactionStatus(TransactionState.PENDING, floor)
            if record is not None and record.state == RecordState.PREPARED:
                local.check_lease()
                floor = await self._promise(local, request)
                if floor is None:
                    continue
                return TransactionStatus(TransactionState.PENDING, floor, prepared=True)
            if record is None:
                local, record = await self._decided(request.anchor, transaction_id)
                if record is None:
                    await self._write(local, transaction_id, self._abort_of(request.anchor, fate))
                    self._note_recovered(transaction_id, "ABORTED")
                continue  # with what stands there now: the coordinator may have come back, and prepared it
            local.check_lease()
            if record.state == RecordState.ABORTED:
                return TransactionStatus(TransactionState.ABORTED)
            return TransactionStatus(TransactionState.COMMITTED, record.timestamp)

    def _abort_of(self, anchor: bytes, fate: Fate) -> Record:
        """ABORTED; of a coordinator that may come back, made as much later as it is to stay longer than others."""
        created_us = _us(self._leases.clock.now())
        if fate is Fate.SILENT:
            created_us += SILENT_RETENTION_US - ABORTED_RETENTION_US
        return Record(anchor, RecordState.ABORTED, 0, created_us)

    async def _promise(self, local: RangeLocal, request: PushTransaction) -> Timestamp | None:
        """Above what an open transaction can only commit from now on; None: it may have been decided meanwhile."""
        staged = local.staged.get(request.transaction_id)
        if staged is not None:
            timestamp, decided = staged
            if request.read_timestamp < timestamp or not request.wait:
                return timestamp - 1
            if not await bounded(self._leases.scheduler, decided, STAGED_WAIT_NS):
                local.unstage(request.transaction_id)
            return None
        if not request.read_timestamp:
            return 0
        floor = self._leases.clock.now()
        local.promise(request.transaction_id, floor)
        return floor

    async def forget(self, request: ForgetRecord) -> Applied:
        local, record = await self._decided(request.anchor, request.transaction_id)
        if record is not None:
            await local.propose([(int(Space.STATE), record_key(local.range_id, request.transaction_id), None)], 0)
        return Applied()

    async def _decided(self, anchor: bytes, transaction_id: TransactionId) -> tuple[RangeLocal, Record | None]:
        """The record as it stands when nothing about it is under way."""
        while True:
            local = self._leases.need(anchor)
            deciding = local.deciding.get(transaction_id)
            if deciding is None:
                return local, self.find(local, transaction_id, anchor)
            await deciding

    async def _write(self, local: RangeLocal, transaction_id: TransactionId, record: Record) -> None:
        """Put the record down; raises ProposalLost where that may not have happened.

        Whoever waits for it may be told to stop meanwhile (a scan that met an intent); those who wait for the decision are
        let go all the same."""
        local.deciding[transaction_id] = Completion()
        local.may_have_records = True
        proposed = local.propose([record_write(local.range_id, transaction_id, record)], max(record.timestamp, 1))

        def settle(done: Completion[None]) -> None:
            error = done.error()
            if isinstance(error, OutcomeUnknown):
                # Only the log can tell: nothing may be answered about this transaction before it does.
                self._leases.scheduler.spawn(self._settle(local, transaction_id))
                return
            if error is None:
                local.promises.pop(transaction_id, None)
                local.unstage(transaction_id)
            self.decided(local, transaction_id)

        proposed.on_done(settle)
        try:
            await proposed
        except OutcomeUnknown:
            raise ProposalLost("the outcome of a proposal is not known yet") from None

    def decided(self, local: RangeLocal, transaction_id: TransactionId) -> None:
        """Let those go on who wait for the record."""
        deciding = local.deciding.pop(transaction_id, None)
        if deciding is not None:
            deciding.set(None)

    async def _settle(self, local: RangeLocal, transaction_id: TransactionId) -> None:
        if await settle_log(self._leases, local):
            self.decided(local, transaction_id)

    # ------------------------------------------------------------------------------------------------------ sweep

    def start_sweeping(self) -> None:
        """Look every few seconds for records and intents whose coordinators are gone."""
        self._schedule_sweep()

    def stop(self) -> None:
        self._stopped = True

    def _schedule_sweep(self) -> None:
        scheduler = self._leases.scheduler

        def run() -> None:
            if not self._stopped:
                if not self._sweeping:
                    scheduler.spawn(self._sweep_all(), "sweep transaction records")
                self._schedule_sweep()

        scheduler.call_at(scheduler.now_ns() + SWEEP_INTERVAL_NS, run)

    async def _sweep_all(self) -> None:
        self._sweeping = True
        try:
            for start in [local.start for local in self._leases.all()]:
                # As it is now: where nobody asks for anything, nobody else notices that the replicas have changed.
                local = self._leases.find(start)
                if local is None or not (local.may_have_records or local.intents or local.locks.owner_count):
                    continue
                if not local.replica.is_leaseholder() or local.detached:
                    continue
                try:
                    if local.may_have_records:
                        await self.sweep_records(local)
                    if local.intents:
                        await self.sweep_intents(local)
                    if local.locks.owner_count:
                        await self.sweep_locks(local)
                except KVError:
                    continue  # the range is on the move; the next sweep finds what is left
        finally:
            self._sweeping = False

    async def sweep_records(self, local: RangeLocal) -> None:
        """Finish orphaned commits of this range, and drop records and outcomes that nobody can ask for any more."""
        local.may_have_records = False  # whoever writes one from now on says so again
        stay = True
        try:
            stay = await sweep_outcomes(self._leases, local)
            stay = await self._sweep_records(local) or stay
        finally:
            if stay or local.deciding:
                local.may_have_records = True

    async def _sweep_records(self, local: RangeLocal) -> bool:
        """The records; tells whether there were any."""
        prefix = transaction_prefix(local.range_id)
        cut = len(prefix)
        now_us = self._leases.clock.physical_us()
        found = []
        stays = False
        for key, data in self._leases.latest().scan(Space.STATE, prefix, prefix + b"\xff" * 17):
            record = _decode(data)
            if record.created_us > now_us + ABORTED_RETENTION_US:
                stays = True  # of a coordinator that was silent
                continue
            found.append((key[cut:], record))
            if len(found) >= MAX_RECORDS_PER_SWEEP:
                break
        if not found:
            return stays
        gone: list[EngineWrite] = []
        for transaction_id, record in found:
            age_us = now_us - record.created_us
            match record.state:
                case RecordState.DONE:
                    over = age_us > RETENTION_US
                case RecordState.ABORTED:
                    over = age_us > ABORTED_RETENTION_US
                case RecordState.PREPARED:
                    over = False
                case _:
                    over = age_us > ORPHAN_AGE_US and await self._finish(transaction_id, record)
            if over:
                gone.append((int(Space.STATE), prefix + transaction_id, None))
        if gone:
            local.check_lease()
            await local.propose(gone, 0)
        return True

    async def _finish(self, transaction_id: TransactionId, record: Record) -> bool:
        """Resolve every intent of a committed transaction whose coordinator is gone."""
        if await self._locker.is_alive(transaction_id):
            return False
        for start, end in record.spans:
            await resolve_span(self._leases, transaction_id, record.timestamp, start, end)
        self._note_recovered(transaction_id, "COMMITTED")
        return True

    def _note_recovered(self, transaction_id: TransactionId, state: str) -> None:
        detail = f"its coordinator, node {gateway_of(transaction_id)}, was gone"
        self._journal.note(transaction_id, state, [], detail=detail, recovered=True)

    async def sweep_intents(self, local: RangeLocal) -> None:
        """Resolve intents here whose transactions have ended without their coordinators coming by."""
        old = (self._leases.clock.physical_us() - ORPHAN_AGE_US) << COUNTER_BITS
        suspects: dict[TransactionId, IntentInfo] = {}
        infos = [*local.intents.writes.values(), *(span.info for span in local.intents.fresh.values())]
        for number, info in enumerate(infos, 1):
            if info.timestamp < old:
                suspects[info.transaction_id] = info
            if number % SWEPT_PER_TURN == 0:
                await pause(self._leases.scheduler)
        for conditions in local.intents.conditions.values():
            suspects.update(
                (info.intent.transaction_id, info.intent) for info in conditions.values() if info.intent.timestamp < old
            )
        for transaction_id, info in suspects.items():
            status = await self._leases.send(PushTransaction(transaction_id, info.anchor, patient=True))
            if status.state == TransactionState.PENDING or await self._locker.is_alive(transaction_id):
                continue
            timestamp = status.timestamp if status.state == TransactionState.COMMITTED else 0
            await resolve_span(self._leases, transaction_id, timestamp, local.start, local.end)

    async def sweep_locks(self, local: RangeLocal) -> None:
        """Release row locks whose transactions are gone, though nobody waits for them (advisory ones have their own rules)."""
        old = (self._leases.clock.physical_us() - ORPHAN_AGE_US) << COUNTER_BITS
        for owner in local.locks.owners():
            if begin_of(owner) >= old or local.locks.holds_any(owner, ADVISORY_PREFIX):
                continue
            match await self._locker.fate(owner, patient=True):
                case Fate.SILENT:
                    await self.forsake(local, owner)
                case Fate.GONE:
                    local.locks.release(owner)

    async def forsake(self, local: RangeLocal, transaction_id: TransactionId) -> None:
        """Let go of the locks of a transaction whose gateway is silent.

        If that is back one day it must not claim them at the next leaseholder (reclaim.py): a record says so first."""
        if transaction_id in local.deciding:
            return  # it is just committing
        if local.locks.owner(transaction_id) and self.find(local, transaction_id) is None:
            try:
                await self._write(local, transaction_id, self._abort_of(local.start, Fate.SILENT))
            except KVError:
                return  # whoever waits comes by again
        local.locks.release(transaction_id)


async def settle_log(leases: Leases, local: RangeLocal) -> bool:
    """Wait until every earlier proposal of this lease is applied or lost; False if the lease went first.

    A proposal that is applied proves it of all before it: they stand earlier in the same log."""
    while not local.detached:
        try:
            await local.propose([], 0)
            return True
        except KVError:
            await sleep(leases.scheduler, 100_000_000)
    return False


def _known(record: Record, request: EndTransaction) -> Applied:
    """What a transaction that has ended already, or is none of the asker's business, is told."""
    match record.state:
        case RecordState.ABORTED:
            if request.commit:
                raise TransactionAborted(_GONE_TEXT)
            return Applied(0)
        case RecordState.PREPARED:
            return Applied(0)
        case _:
            return Applied(record.timestamp if request.commit or request.prepared else 0)


def _us(timestamp: Timestamp) -> int:
    return timestamp >> COUNTER_BITS
