"""Checking and proposing writes, on the leaseholder.

Both kinds of commit go the same way; only the effect differs:

1. Clear the way: wait for locks, proposals and intents of other transactions on the keys (locking.py).  Waiting ends with
   a look at all keys in one go, without a pause: from there to the proposal nothing can come between.  Nobody can
   interrupt a commit that waits, so a statement that can begin anew does that instead (``gives_up``), and takes its locks
   first the next time.
2. Check what the writer expects: the newest version must be the one it saw, and its locks the ones under which it looked
   (a lock that was lost with a lease may have let others pass who only read).  An ``insert`` wants no live value.
3. Take a timestamp from the clock: above every read served here, since reads raise the clock.
4. Register the keys as pending and propose.  Applied once applied.  A statement that can begin anew lets its locks go
   here already, and others build on what it has proposed (pending.py).

One phase: the writes become versions at the timestamp, which is the commit timestamp.  Prepare: they become intents, and
the timestamp is a lower bound for the commit (records.py).  Conditions are checked alike; Prepare also lays them down,
so that they hold until the transaction has ended.

A proposal whose fate is not known keeps its keys pending until the log tells: a later proposal of the same lease is
applied, or the lease goes (and with it the whole table).
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from pydistdb_storage import mvcc
from pydistdb_storage.engine import Snapshot, Space
from pydistdb_storage.mvcc import MAX_TIMESTAMP, check_key, versioned

from pydistdb.kv.answers import OWN_INTENT, Applied, CommitAmbiguous, Number
from pydistdb.kv.api import (
    KeyExists,
    LockNotAvailable,
    LockStrength,
    OutcomeUnknown,
    SerializationConflict,
    Timestamp,
    TransactionAborted,
    WaitPolicy,
)
from pydistdb.kv.command import ProposalLost
from pydistdb.kv.command import Write as EngineWrite
from pydistdb.kv.intents import IntentInfo, condition_entry, intent_header, intent_value
from pydistdb.kv.leases import Leases
from pydistdb.kv.locking import Locker, WaitLimits
from pydistdb.kv.names import NO_TRANSACTION, TransactionId
from pydistdb.kv.pending import PendingGroup
from pydistdb.kv.range_local import RangeLocal
from pydistdb.kv.records import Records, RecordState, settle_log
from pydistdb.kv.requests import (
    BLIND,
    INSERT,
    CommitOnePhase,
    Condition,
    Increment,
    Prepare,
    PrepareFresh,
    Write,
)
from pydistdb.kv.validation import Validator
from pydistdb.tasks import Completion

_VERSIONS = int(Space.VERSIONS)
_INTENTS = int(Space.INTENTS)
_UPDATE = int(LockStrength.UPDATE)
_CONFLICT_TEXT = "could not serialize access due to concurrent update"

Blocker = tuple[bytes, int, PendingGroup | IntentInfo | None]
"""A key that is not free, the strength it is wanted at, and what stands there (None: a lock)."""


MOST_OFFERED = 16
"""A commit of more writes than this offers none of them (pending.py)."""

BULK_WRITES = 16
"""Requests of more writes than this are checked as sets first: about 0.1 µs a key."""


class Writer:
    """Evaluates CommitOnePhase, Prepare, PrepareFresh and Increment."""

    def __init__(self, leases: Leases, locker: Locker, records: Records, validator: Validator) -> None:
        self._leases = leases
        self._locker = locker
        self._records = records
        self._validator = validator
        self._under_way: dict[TransactionId, Completion[None]] = {}
        """One-phase commits of other nodes that are being carried out."""

    # ----------------------------------------------------------------------------------------------------- commit

    async def commit(self, request: CommitOnePhase, call_deadline_ns: int = 0) -> Applied:
        if not request.recorded:
            return await self._commit(request, call_deadline_ns)
        # One at a time: a request that came again must know what became of the first, or it takes that one's versions
        # for somebody else's, and tells of a conflict where there was a commit.
        transaction_id, under_way = request.transaction_id, self._under_way
        while (earlier := under_way.get(transaction_id)) is not None:
            await earlier
        done = under_way[transaction_id] = Completion[None]()
        try:
            return await self._commit(request, call_deadline_ns)
        finally:
            del under_way[transaction_id]
            done.set(None)

    async def _commit(self, request: CommitOnePhase, call_deadline_ns: int) -> Applied:
        limits = WaitLimits(0, call_deadline_ns) if call_deadline_ns else None
        local = self._leases.need(request.writes[0][0])
        if request.recorded:
            known = await self._known_outcome(local, request)
            if known is not None:
                return Applied(known)
        try:
            return Applied(await self.commit_here(local, request, limits))
        except CommitAmbiguous:
            if not request.recorded:
                raise
            # The record tells a repeated request what became of this one.
            raise ProposalLost("the outcome of a proposal is not known yet") from None

    async def _known_outcome(self, local: RangeLocal, request: CommitOnePhase) -> Timestamp | None:
        deciding = local.deciding.get(request.transaction_id)
        if deciding is not None:
            await deciding
            raise local.lost()
        record = self._records.find(local, request.transaction_id, min(write[0] for write in request.writes))
        if record is None:
            return None
        if record.state == RecordState.ABORTED:
            raise TransactionAborted("the transaction was aborted because its coordinator seemed to be gone")
        return record.timestamp

    async def commit_here(
        self, local: RangeLocal, request: CommitOnePhase, limits: WaitLimits | None = None
    ) -> Timestamp:
        """Commit under the lease of ``local``; releases the transaction's locks here when it has ended well."""
        leases = self._leases
        leases.clock.check()
        transaction_id = request.transaction_id
        writes = request.writes
        keys = [writes[0][0]] if len(writes) == 1 else sorted([write[0] for write in writes])
        if not local.locks_known:
            await self._locker.settle(local, limits.call_deadline_ns if limits else 0)
        span = _span_within(local, keys, request.conditions)
        try:
            await self._make_way(local, request, span, limits)
        except (ProposalLost, OutcomeUnknown):
            raise  # it goes on elsewhere, or comes again
        except BaseException:
            if request.offers or not request.recorded:
                local.locks.release(transaction_id)  # also those that it came to hold only here
            # Else its gateway does that: if the answer is lost it asks again, and elsewhere it may claim its locks until then.
            raise
        if request.recorded and transaction_id in local.deciding:
            raise ProposalLost(
                "somebody is just writing the record of this transaction"
            )  # and the next attempt heeds it
        timestamp = leases.clock.now()
        effect: list[EngineWrite] = [
            (_VERSIONS, versioned(key, timestamp), value or b"") for key, value, expected in writes
        ]
        if request.recorded:
            effect.append(self._records.outcome(local, transaction_id, keys[0], timestamp))
            local.deciding[transaction_id] = Completion()
            local.may_have_records = True
        group = local.pending.add(transaction_id, keys, timestamp)
        proposed = local.propose(effect, timestamp)
        if request.offers and len(writes) <= MOST_OFFERED and not proposed.done:
            group.offer(writes, local.generation)
        return await self._finish(local, group, proposed, recorded=request.recorded, is_commit=True)

    def commit_as_locked(
        self, local: RangeLocal, transaction_id: TransactionId, write: Write, *, offers: bool
    ) -> Coroutine[Any, Any, Timestamp] | None:
        """Propose a change of one row that certainly is as its writer has locked it; None where that takes a closer look.

        Nothing stands in its way then: what is locked here lies here (the locks of what is split off are gone), and nobody
        has laid down an intent there since.  Returns the wait for the commit timestamp, which ends as ``commit_here`` does."""
        key, value, expected = write
        owner = local.locks.owner(transaction_id)
        if owner is None or not owner.keeps(key, expected) or not local.locks_known:
            return None
        if key in local.pending.by_key:
            return None
        leases = self._leases
        leases.clock.check()
        local.check_lease()
        local.note_request(key)
        timestamp = leases.clock.now()
        group = local.pending.add(transaction_id, [key], timestamp)
        proposed = local.propose([(_VERSIONS, versioned(key, timestamp), value or b"")], timestamp)
        if offers and not proposed.done:
            group.offer([write], local.generation)
        return self._finish(local, group, proposed, is_commit=True)

    async def _make_way(
        self, local: RangeLocal, request: CommitOnePhase, span: tuple[bytes, bytes], limits: WaitLimits | None
    ) -> None:
        """Return when the commit may go on: nothing stands in its way, and everything is as its writer has found it."""
        transaction_id, writes, conditions = request.transaction_id, request.writes, request.conditions
        gives_up = request.gives_up
        await self._clear_and_check(local, transaction_id, writes, conditions, limits, span, gives_up=gives_up)
        if request.spans:
            await self._validator.learn_intents(local, request.spans, transaction_id)
            await self._clear_and_check(local, transaction_id, writes, conditions, limits, span, gives_up=gives_up)
            self._validator.check_here(local, request.spans, request.since, transaction_id)

    async def _finish(
        self,
        local: RangeLocal,
        group: PendingGroup,
        proposed: Completion[None],
        *,
        recorded: bool = False,
        is_commit: bool = False,
    ) -> Timestamp:
        """Wait for a proposal and take its keys out of the pending writes at the very moment it is done.

        A commit lets its locks go at that moment too, or, where it offers what it writes, now.  Whoever waits here may be
        told to stop: what becomes of the keys does not depend on that."""

        def settle(done: Completion[None]) -> None:
            error = done.error()
            if isinstance(error, OutcomeUnknown):
                self._leases.scheduler.spawn(self._settle(local, group, recorded))
                return
            # Whatever else it is (a full disk): nothing was written.
            if error is not None and group.is_offered:
                local.locks.forget_version(group.keys, group.timestamp)
            local.pending.remove(group)
            if recorded:
                self._records.decided(local, group.transaction_id)
            if error is None and is_commit and not group.is_offered:
                local.locks.release(group.transaction_id)

        proposed.on_done(settle)
        if group.is_offered:
            local.locks.release(group.transaction_id)
        try:
            await proposed
        except OutcomeUnknown:
            raise CommitAmbiguous(group.timestamp, local.epoch) from None
        return group.timestamp

    async def _settle(self, local: RangeLocal, group: PendingGroup, recorded: bool) -> None:
        if await settle_log(self._leases, local):
            local.locks.forget_version(group.keys, group.timestamp)  # it may have been refused
            local.pending.remove(group)
            if recorded:
                self._records.decided(local, group.transaction_id)

    async def _clear_and_check(
        self,
        local: RangeLocal,
        transaction_id: TransactionId,
        writes: list[Write],
        conditions: list[Condition],
        limits: WaitLimits | None,
        span: tuple[bytes, bytes],
        sequence: int = 0,
        *,
        gives_up: bool = False,
    ) -> None:
        """Return when nothing stands in the way and everything is as expected, at this very moment."""
        policy = WaitPolicy.NOWAIT if gives_up else WaitPolicy.WAIT
        while (blocker := _first_blocker(local, transaction_id, writes, conditions)) is not None:
            try:
                await self._unblock(local, transaction_id, blocker, writes, limits, policy)
            except LockNotAvailable as error:
                if not gives_up:
                    raise
                raise SerializationConflict(_CONFLICT_TEXT) from error
        local.check_lease()
        # Not only at the start: the range may have been split while this waited.
        local.check_span(*span)
        snapshot = self._leases.latest()
        _check_writes(local, transaction_id, writes, snapshot, sequence)
        if conditions:
            _check_conditions(local, transaction_id, conditions, snapshot)

    async def _unblock(
        self,
        local: RangeLocal,
        transaction_id: TransactionId,
        blocker: Blocker,
        writes: list[Write],
        limits: WaitLimits | None,
        policy: WaitPolicy,
    ) -> None:
        key, strength, by = blocker
        limits = limits or WaitLimits()
        match by:
            case PendingGroup():
                await by.done
            case IntentInfo():
                found = local.intents.writes
                same = [k for k, _, _ in writes if (i := found.get(k)) and i.transaction_id == by.transaction_id]
                await self._locker.clear_intent(
                    local, by, same if key in same else [*same, key], transaction_id, policy, limits
                )
            case None:
                await self._locker.acquire(local, transaction_id, key, strength, policy, limits)

    # ---------------------------------------------------------------------------------------------------- prepare

    async def prepare(self, request: Prepare, call_deadline_ns: int = 0) -> Applied:
        """Lay down intents and conditions; returns the lower bound of the commit timestamp."""
        leases = self._leases
        leases.clock.check()
        local = leases.need(request.routing_key)
        if not local.locks_known:
            await self._locker.settle(local, call_deadline_ns)
        transaction_id = request.transaction_id
        writes, conditions = request.writes, request.conditions
        keys = sorted([write[0] for write in writes])
        touched = keys + [condition[0] for condition in conditions] if conditions else keys
        span = (min(touched), max(touched)) if conditions else (keys[0], keys[-1])
        local.check_span(*span)
        limits = WaitLimits(0, call_deadline_ns) if call_deadline_ns else None
        settled = local.settling(transaction_id)
        await self._clear_and_check(
            local, transaction_id, writes, conditions, limits, span, request.sequence, gives_up=request.gives_up
        )
        if settled.done:
            # It came again while this one waited, and has ended since: an intent now would hide what others wrote after it.
            # (Or the range was split: then whoever asks comes again.)
            raise local.lost()
        writes, laid_down = _not_laid_down(local, request)
        if not writes and not conditions:
            local.locks.release_keys(transaction_id, touched)
            return Applied(laid_down)
        if len(writes) < len(keys):
            keys = sorted([write[0] for write in writes])
        timestamp = leases.clock.now()
        info = IntentInfo(transaction_id, timestamp, request.sequence, request.anchor)
        header = intent_header(info)
        effect: list[EngineWrite] = [(_INTENTS, key, header + (value or b"")) for key, value, expected in writes]
        for key, _, strength in conditions:
            check_key(key + bytes(8))  # the transaction's id follows the key
            effect.append((_INTENTS, *condition_entry(key, info, strength)))
        group = local.pending.add(transaction_id, keys, timestamp)
        proposed = local.propose(effect, timestamp)

        def remember(done: Completion[None]) -> None:
            if done.error() is None:
                local.intents.add_writes(keys, info)
                for key, _, strength in conditions:
                    local.intents.add_condition(key, info, strength)
                local.drop_foreign_intents(span[1])

        proposed.on_done(remember)
        try:
            await self._finish(local, group, proposed)
        except CommitAmbiguous:
            # Intents that were laid down after all are recognized by their sequence when the request comes again.
            raise ProposalLost("the outcome of a proposal is not known yet") from None
        local.locks.release_keys(transaction_id, touched)
        return Applied(timestamp)

    async def prepare_fresh(self, request: PrepareFresh) -> Applied:
        """As ``prepare``, of what cannot be in anybody's way."""
        leases = self._leases
        leases.clock.check()
        entries = request.entries
        keys = [key for key, _ in entries]
        local = leases.need(keys[0])
        local.check_span(keys[0], keys[-1])
        local.check_lease()
        timestamp = leases.clock.now()
        info = IntentInfo(request.transaction_id, timestamp, request.sequence, request.anchor)
        header = intent_header(info)
        local.intents.add_fresh(keys[0], keys[-1], info)
        group = local.pending.add_fresh(request.transaction_id, keys, timestamp)
        proposed = local.propose([(_INTENTS, key, header + value) for key, value in entries], timestamp)

        def remember(done: Completion[None]) -> None:
            # Once more: somebody may have resolved the transaction while this was on its way.
            if done.error() is None:
                local.intents.add_fresh(keys[0], keys[-1], info)
                local.drop_foreign_intents(keys[-1])

        proposed.on_done(remember)
        try:
            await self._finish(local, group, proposed)
        except CommitAmbiguous:
            raise ProposalLost("the outcome of a proposal is not known yet") from None
        return Applied(timestamp)

    # --------------------------------------------------------------------------------------------------- counters

    async def increment(self, request: Increment) -> Number:
        leases = self._leases
        key = request.key
        while True:
            local = leases.need(key)
            group = local.pending.by_key.get(key)
            if group is None:
                break
            await group.done
        local.check_lease()
        value, _ = mvcc.get(leases.latest(), key, MAX_TIMESTAMP)
        before = int(value or b"0")
        timestamp = leases.clock.now()
        effect: list[EngineWrite] = [(_VERSIONS, versioned(key, timestamp), b"%d" % (before + request.by))]
        group = local.pending.add(NO_TRANSACTION, [key], timestamp)
        try:
            await self._finish(local, group, local.propose(effect, timestamp))
        except CommitAmbiguous:
            # At worst some numbers are never used.
            raise ProposalLost("the outcome of a proposal is not known yet") from None
        return Number(before)


def _span_within(local: RangeLocal, keys: list[bytes], conditions: list[Condition]) -> tuple[bytes, bytes]:
    """Between the first and the last of some keys (sorted) and conditions; raises WrongRange unless all of them lie here."""
    span = (keys[0], keys[-1])
    if conditions:
        touched = [*span, *(condition[0] for condition in conditions)]
        span = (min(touched), max(touched))
    local.check_span(*span)
    return span


def _first_blocker(
    local: RangeLocal, transaction_id: TransactionId, writes: list[Write], conditions: list[Condition]
) -> Blocker | None:
    """What stands in the way of these writes; about 0.3 µs a key when nothing does."""
    pending = local.pending.by_key
    locks = local.locks
    owner = locks.owner(transaction_id)
    held = owner.keys if owner is not None else {}
    any_locks = locks.owner_count > (owner is not None)
    intents = local.intents if local.intents else None
    if len(writes) > BULK_WRITES and not any_locks and not conditions:
        keys = [write[0] for write in writes]
        free_of_intents = intents is None or not (
            intents.conditions or intents.fresh or not intents.writes.keys().isdisjoint(keys)
        )
        if free_of_intents and pending.keys().isdisjoint(keys):
            return None
    for key, _, expected in writes:
        group = pending.get(key)
        if group is not None and not group.bears(expected, local.generation):
            return key, _UPDATE, group
        strength = held.get(key, 0)
        if any_locks and strength < LockStrength.NO_KEY_UPDATE and not locks.is_free(transaction_id, key, _UPDATE):
            return key, _UPDATE, None
        if intents is not None:
            info = intents.blocking_write(key, transaction_id, strength or _UPDATE)
            if info is not None:
                return key, _UPDATE, info
    for key, _, strength in conditions:
        group = pending.get(key)
        if group is not None:
            return key, strength, group
        if held.get(key, 0) < strength and any_locks and not locks.is_free(transaction_id, key, strength):
            return key, strength, None
        if intents is not None:
            info = intents.blocking_write(key, transaction_id, strength)
            if info is not None:
                return key, strength, info
    return None


def _check_writes(
    local: RangeLocal, transaction_id: TransactionId, writes: list[Write], snapshot: Snapshot, sequence: int
) -> None:
    """Raise KeyExists or SerializationConflict where the store is not as the writer expects.

    What was locked and has stayed so under this lease need not be looked up again.  A lock may have been lost if there was
    nothing under it: whoever has had it since without writing found nothing there either, and has ended.  Inserts in key
    order skip the seek as long as they stay below the next key that exists (bulk loads)."""
    own_intents = local.intents.writes
    owner = local.locks.owner(transaction_id)
    free_from, free_to = b"\xff", b""
    for key, _, expected in writes:
        if expected in (BLIND, OWN_INTENT):
            continue
        info = own_intents.get(key) if own_intents else None
        if info is not None:
            if expected == INSERT and info.sequence != sequence:
                data = snapshot.get(Space.INTENTS, key)
                if data is not None and intent_value(data) is not None:
                    raise KeyExists(key)
            continue
        if expected == INSERT:
            if free_from <= key < free_to:
                continue
            entry = snapshot.seek(Space.VERSIONS, key)
            following = b"\xff" if entry is None else entry[0][:-8]
            if following == key:
                if mvcc.get(snapshot, key, MAX_TIMESTAMP)[0] is not None:
                    raise KeyExists(key)
            else:
                free_from, free_to = key, following
        elif owner is not None and owner.keeps(key, expected):
            continue
        else:
            is_held = not expected or (owner is not None and owner.unbroken(key))
            if not is_held or mvcc.newest_timestamp(snapshot, key) != expected:
                raise SerializationConflict(_CONFLICT_TEXT)


def _not_laid_down(local: RangeLocal, request: Prepare) -> tuple[list[Write], Timestamp]:
    """The writes whose intents are not here yet, and the newest timestamp of the others, 0 for none.

    What lies here stays as it is, whichever of the requests for it laid it down: the transaction may be decided, and commits
    above the timestamps that it was told."""
    laid_down = local.intents.writes
    if not laid_down:
        return request.writes, 0
    missing: list[Write] = []
    newest = 0
    for write in request.writes:
        info = laid_down.get(write[0])
        if info is None or info.transaction_id != request.transaction_id or info.sequence < request.sequence:
            missing.append(write)
        else:
            newest = max(newest, info.timestamp)
    return missing, newest


def _check_conditions(
    local: RangeLocal, transaction_id: TransactionId, conditions: list[Condition], snapshot: Snapshot
) -> None:
    owner = local.locks.owner(transaction_id)
    laid_down = local.intents.conditions
    for key, expected, strength in conditions:
        if expected == OWN_INTENT:
            continue
        if laid_down and transaction_id in laid_down.get(key, ()):
            continue  # the request comes again
        if owner is None or not owner.unbroken(key):
            raise SerializationConflict(_CONFLICT_TEXT)
        value, version = mvcc.get(snapshot, key, MAX_TIMESTAMP)
        # KEY SHARE lets the row change as long as it stays (a row's key never changes).
        if version != expected and (strength != LockStrength.KEY_SHARE or value is None):
            raise SerializationConflict(_CONFLICT_TEXT)
