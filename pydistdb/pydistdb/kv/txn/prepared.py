"""Transactions that stay prepared until somebody finishes them by name: PREPARE TRANSACTION and what follows.

What such a transaction has written and locked lies in the ranges as intents and conditions (two_phase.py).  A record in the
state PREPARED keeps them from being taken for those of a dead coordinator; an entry under its name says where they are.
Both are replicated, so nothing depends on any node's memory::

    prepare   ranges A, B: intents and conditions                 what every commit over several ranges does
              range 1:     entry "name" → id, anchor, spans       only if no other transaction has the name
              A:           record PREPARED                        from here on it survives everything
    finish    range 1:     lock the entry                          one at a time
              A:           record COMMITTED at T, or ABORTED       decided
              range 1:     delete the entry
              A, B:        resolve the intents, in the background

The entry comes before the record, and goes after the decision, so there is never a record that nobody can name.  An entry
without a PREPARED record is that of a transaction which is just being prepared, or what a crash has left in between: it
was never prepared, or it has ended.  It counts as absent, and whoever needs the name of one that has ended removes it.

A reader passes such intents as it does those of any open transaction: the record's leaseholder promises that the
transaction will commit above the reader's timestamp.  A writer waits.

After Gray & Reuter, "Transaction Processing: Concepts and Techniques" (1993), 10.4; X/Open, "Distributed Transaction
Processing: The XA Specification" (1991).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
from pydistdb_storage.keys import prefix_end

from pydistdb.kv.answers import TransactionState, TransactionStatus
from pydistdb.kv.api import (
    Isolation,
    KeyExists,
    KVError,
    LockNotAvailable,
    LockStrength,
    PreparedBusy,
    PreparedExists,
    PreparedMissing,
    PreparedTransaction,
    RangeUnavailable,
    ReadRestart,
    Timestamp,
    TooManyPrepared,
    TransactionAborted,
    WaitPolicy,
)
from pydistdb.kv.names import TransactionId
from pydistdb.kv.requests import PushTransaction
from pydistdb.kv.txn.two_phase import KeptPrepared, TwoPhase
from pydistdb.tasks import gather, sleep

if TYPE_CHECKING:
    from pydistdb.kv.gateway import Gateway
    from pydistdb.kv.txn.coordinator import Coordinator

PREPARED_PREFIX = b"\x02prepared/"
MAX_PREPARED = 200
"""max_prepared_transactions, of the whole cluster."""
MAX_PARALLEL = 16
MAX_RESTARTS = 20
RETRY_NS = 500_000_000


class Entry(msgspec.Struct, array_like=True):
    """What stands under a prepared transaction's name."""

    kept: KeptPrepared
    facts: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Entry).decode


def entry_key(name: str) -> bytes:
    return PREPARED_PREFIX + name.encode()


class PreparedTransactions:
    """See the module's docstring."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def all(self) -> list[PreparedTransaction]:
        """Those of the whole cluster, by name."""
        entries = await self._prepared(await self._entries())
        return [_shown(name, entry) for name, entry in entries.items()]

    async def names(self) -> dict[TransactionId, str]:
        """By id, of those that are prepared and those that are on the way to it."""
        return {entry.kept.transaction_id: name for name, entry in (await self._entries()).items()}

    # ------------------------------------------------------------------------------------------------------ prepare

    async def enter(self, name: str, two_phase: TwoPhase, facts: bytes) -> None:
        """Take the name for a transaction whose intents are in place."""
        entries = await self._entries()
        known = entries.pop(name, None)
        if known is not None:
            if (await self._status(known)).state == TransactionState.PENDING:
                raise PreparedExists(name)
            await self._remove(name, known.kept.transaction_id)
        if len(entries) >= MAX_PREPARED and len(await self._prepared(entries)) >= MAX_PREPARED:
            raise TooManyPrepared(str(MAX_PREPARED))
        transaction = self._begin()
        try:
            transaction.insert(entry_key(name), _encode(Entry(two_phase.kept(), facts)))
            await transaction.commit()
        except KeyExists:
            raise PreparedExists(name) from None

    async def withdraw(self, name: str, two_phase: TwoPhase) -> Timestamp:
        """It may or may not have become PREPARED: see to it that it is not, however long that takes.

        Returns the commit timestamp if somebody has known it by its name and committed it meanwhile, else 0."""
        while True:
            try:
                await two_phase.abort()
                timestamp = await two_phase.end_prepared(False)
                await self._remove(name, two_phase.kept().transaction_id)
                return timestamp
            except KVError:
                await sleep(self._gateway.leases.scheduler, RETRY_NS)

    # ------------------------------------------------------------------------------------------------------- finish

    async def finish(self, name: str, commit: bool, check: Callable[[PreparedTransaction], None]) -> None:
        key = entry_key(name)
        transaction = self._begin()
        try:
            [locked] = await transaction.lock([key], LockStrength.UPDATE, WaitPolicy.NOWAIT)
            if locked.value is None:
                raise PreparedMissing(name)
            entry = _decode(locked.value)
            check(_shown(name, entry))
            two_phase = TwoPhase.of(self._gateway.leases, self._gateway.router, entry.kept)
            status = await self._status(entry)
            if status.state == TransactionState.PENDING and not status.prepared:
                raise PreparedMissing(name)  # it is just being prepared
            timestamp = await self._decide(two_phase, commit) if status.prepared else None
        except LockNotAvailable:
            transaction.rollback()
            raise PreparedBusy(name) from None
        except BaseException:
            transaction.rollback()
            raise
        await self._delete(transaction, key)
        if timestamp is None:
            raise PreparedMissing(name)
        state = "COMMITTED" if commit else "ABORTED"
        self._gateway.journal.note(entry.kept.transaction_id, state, two_phase.listed(), name=name)
        self._gateway.leases.scheduler.spawn(_resolve(two_phase, timestamp), "end of a prepared transaction")

    async def _decide(self, two_phase: TwoPhase, commit: bool) -> Timestamp | None:
        """The timestamp of the commit, 0 of a rollback; None if another one was faster (the lock is lost with a lease)."""
        try:
            timestamp = await two_phase.end_prepared(commit)
        except TransactionAborted:
            return None
        return timestamp if bool(timestamp) is commit else None

    async def _delete(self, transaction: Coordinator, key: bytes) -> None:
        try:
            transaction.delete(key)
            await transaction.commit()
        except KVError:
            pass  # an entry without its record counts as absent

    # ------------------------------------------------------------------------------------------------------ entries

    def _begin(self) -> Coordinator:
        transaction = self._gateway.begin(Isolation.READ_COMMITTED)
        transaction.begin_statement()
        return transaction

    async def _entries(self) -> dict[str, Entry]:
        transaction = self._begin()
        cut = len(PREPARED_PREFIX)
        for _ in range(MAX_RESTARTS):
            try:
                found = await transaction.scan(PREPARED_PREFIX, prefix_end(PREPARED_PREFIX), limit=2 * MAX_PREPARED)
                pairs = zip(found.keys, found.values, strict=True)
                return {key[cut:].decode(): _decode(value) for key, value in pairs}
            except ReadRestart as restart:
                transaction.begin_statement(restart.timestamp)
        raise RangeUnavailable("too many read restarts")

    async def _status(self, entry: Entry) -> TransactionStatus:
        status = await self._gateway.router.send(PushTransaction(entry.kept.transaction_id, entry.kept.anchor))
        assert isinstance(status, TransactionStatus)
        return status

    async def _prepared(self, entries: dict[str, Entry]) -> dict[str, Entry]:
        """Those of them whose records say so."""
        found: dict[str, Entry] = {}
        items = list(entries.items())
        for first in range(0, len(items), MAX_PARALLEL):
            part = items[first : first + MAX_PARALLEL]
            statuses = await gather(self._gateway.leases.scheduler, [self._status(entry) for _, entry in part])
            found.update(item for item, status in zip(part, statuses, strict=True) if status.prepared)
        return found

    async def _remove(self, name: str, transaction_id: TransactionId) -> None:
        """Remove a transaction's entry, if it is still that."""
        key = entry_key(name)
        transaction = self._begin()
        try:
            [locked] = await transaction.lock([key], LockStrength.UPDATE)
            if locked.value is not None and _decode(locked.value).kept.transaction_id == transaction_id:
                transaction.delete(key)
            await transaction.commit()
        except BaseException:
            transaction.rollback()
            raise


def _shown(name: str, entry: Entry) -> PreparedTransaction:
    return PreparedTransaction(name, entry.kept.transaction_id, entry.facts)


async def _resolve(two_phase: TwoPhase, timestamp: Timestamp) -> None:
    try:
        await two_phase.resolve(timestamp)
    except KVError:
        pass  # the sweep of the ranges finishes it
