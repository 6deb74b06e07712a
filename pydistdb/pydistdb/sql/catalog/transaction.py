"""What a session keeps of a transaction's DDL, from the first DDL statement to the end of the transaction.

    ddl = DdlTransaction(store, transaction)
    ddl.lock_deadline_ns = …                  # per statement, from lock_timeout
    tag = await execute(statement, DdlContext(ddl, …))   # by ddl.statement
    view = store.view(database, path, ddl.overlay)       # the session's own view from now on
    mark = ddl.savepoint(); ddl.rollback_to(mark)
    …
    await ddl.prepare_commit()                # then transaction.commit()
    await ddl.committed()                     # or ddl.rolled_back(), or ddl.outcome_unknown()

Transactions with DDL run side by side.  A statement works on the newest state and locks what it claims (claims.py); if
that has been changed by others before it had the lock, it is carried out again.  What others commit afterwards is
laid under the transaction's own changes.  Commits come one after the other: a lock is held from ``prepare_commit`` to the
end of the commit, a few milliseconds, in which nothing but the commit itself is waited for.

    T1: CREATE TABLE a       claims the name a              T2: CREATE TEMP TABLE x    claims nothing
    T1: COMMIT               version 8 = 7 + T1             T2: COMMIT                 version 9 = 8 + T2
    T3: DROP TABLE b, waits for T4, which has made a view on it; T4 commits; T3 starts over, and finds the view

Storage that is dropped is recorded as garbage in the same transaction and cleared in the background after the commit;
the record goes when that is done.  A node that starts clears what an earlier one left.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar

from pydistdb.kv.api import (
    Isolation,
    KeyExists,
    KVError,
    LockNotAvailable,
    LockStrength,
    ReadRestart,
    SerializationConflict,
    Transaction,
    TransactionAborted,
    WaitPolicy,
)
from pydistdb.sql import errors
from pydistdb.sql.catalog import keys
from pydistdb.sql.catalog.claims import Claims, claims_of, collide, lock_of
from pydistdb.sql.catalog.descriptors import Garbage, Table
from pydistdb.sql.catalog.garbage import clear_garbage, forget_garbage
from pydistdb.sql.catalog.overlay import Overlay, OverlayMark
from pydistdb.sql.catalog.state import CatalogState, Change
from pydistdb.sql.catalog.store import CatalogStore
from pydistdb.sql.layout import TableLayout
from pydistdb.tasks import sleep

T = TypeVar("T")

MOST_ATTEMPTS = 100
MOST_BEGINNINGS = 20
RETRY_NS = 5_000_000
SHARE, ACCESS_EXCLUSIVE = 5, 8
"""Table lock modes, by Postgres's numbers."""


class _Overtaken(Exception):
    """Somebody has committed a change of what the statement relied on."""


def _overtaken_too_often() -> errors.SerializationFailure:
    return errors.SerializationFailure(
        "could not serialize access due to a concurrent schema change", hint="The transaction might succeed if retried."
    )


class DdlTransaction:
    """See the module's docstring."""

    def __init__(self, store: CatalogStore, transaction: Transaction) -> None:
        self.store = store
        self.transaction = transaction
        self.overlay = Overlay()
        self.lock_deadline_ns: int | None = None
        self.check_interrupt: Callable[[], None] = lambda: None
        self.is_first_statement = False
        """Nothing has been read yet: the snapshot, if it is one for all statements, may still be taken anew."""
        self._in_statement = False
        self._version: int | None = None
        self._garbage_ids: list[int] = []

    # ------------------------------------------------------------------------------------------ during the transaction

    @property
    def state(self) -> CatalogState:
        """The catalog with this transaction's changes: over the newest state, except while one of its statements runs."""
        if not self.overlay.is_open:
            return self.store.state
        if not self._in_statement:
            self._catch_up()
        return self.overlay.state

    async def statement(self, work: Callable[[], Awaitable[T]]) -> T:
        """Carry out a schema statement, and lock what it claims.

        If others have changed what it relied on by the time it holds the locks, its changes are forgotten and it is
        carried out once more, against what is there now."""
        if self._in_statement:
            return await work()  # a part of another one
        self._in_statement = True
        try:
            for _ in range(MOST_ATTEMPTS):
                await self.store.refresh()
                self._catch_up()
                mark = self.overlay.mark()
                try:
                    result = await work()
                    await self._lock_claims(self.overlay.final(mark.changes))
                except _Overtaken:
                    self.overlay.rollback_to(mark)
                else:
                    return result
        finally:
            self._in_statement = False
        raise _overtaken_too_often()

    def _catch_up(self) -> None:
        """Lay the transaction's changes over what others have committed since."""
        overlay, newest = self.overlay, self.store.state
        if not overlay.is_open:
            overlay.open(newest)
        elif overlay.base is not newest:
            if overlay.changes and collide(self._claims(overlay.final()), overlay.base, newest, strict=False):
                raise _overtaken_too_often()  # locks were lost
            overlay.rebase(newest)

    def _claims(self, changes: Mapping[bytes, Any]) -> Claims:
        return claims_of(changes, self.overlay.base, self.overlay.state)

    async def claim(self, changes: list[Change]) -> None:
        """Lock what changes will claim that are yet to be made; for statements that take long."""
        await self._lock_claims(dict(changes))

    async def _lock_claims(self, changes: Mapping[bytes, Any]) -> None:
        if not changes:
            return
        claims = self._claims(changes)
        if any(self.overlay.state.object_at(key) is None for key in claims.references):
            raise errors.UndefinedObject("an object that the command refers to has been dropped meanwhile")
        locks = [
            (LockStrength.KEY_SHARE, [lock_of(key) for key in claims.references]),
            (LockStrength.NO_KEY_UPDATE, [lock_of(key) for key in claims.changed]),
            (LockStrength.UPDATE, [*(lock_of(key) for key in claims.dropped), *claims.names]),
        ]
        if any(found for _, found in locks):
            for strength, found in locks:
                await self._lock(found, strength)
            await self._check_overtaken(claims)

    async def _lock(self, lock_keys: list[bytes], strength: LockStrength, wait: WaitPolicy = WaitPolicy.WAIT) -> None:
        if lock_keys:
            await self.transaction.lock(sorted(lock_keys), strength, wait)

    async def _check_overtaken(self, claims: Claims) -> None:
        """Raise _Overtaken if what was locked is no longer what this statement has seen."""
        await self.store.refresh()
        base, newest = self.overlay.base, self.store.state
        if newest is not base and collide(claims, base, newest, strict=True):
            raise _Overtaken

    async def lock_tables(self, tables: Iterable[int], *, exclusive: bool = True) -> None:
        """Keep everybody else off the tables (off writing them) until the transaction ends; within ``statement``.

        Tables made here need no lock."""
        base = self.overlay.base
        existing = {oid: key for oid in tables if (key := base.key_of_table(oid)) is not None}
        if not existing:
            return
        strength = LockStrength.UPDATE if exclusive else LockStrength.NO_KEY_UPDATE
        await self._lock([lock_of(key) for key in existing.values()], strength)
        touched = frozenset(existing.values())
        await self._check_overtaken(Claims(dropped=touched if exclusive else frozenset(), changed=touched))
        await self._block(existing, exclusive)
        if self.transaction.isolation is Isolation.REPEATABLE_READ and not self.is_first_statement:
            # Its snapshot would miss rows that an index, a constraint or a new storage must have.  (A SERIALIZABLE one
            # has what it reads validated when it commits.)
            state = self.overlay.state
            found = [table for key in existing.values() if isinstance(table := state.object_at(key), Table)]
            spans = [TableLayout.of(table).table_span()[:2] for table in found]
            await self.store.database.require_unchanged(spans, self.transaction.read_timestamp)

    async def _block(self, tables: Iterable[int], exclusive: bool) -> None:
        await self.store.gate.block(
            self.transaction,
            tables,
            exclusive=exclusive,
            deadline_ns=self.lock_deadline_ns,
            check_interrupt=self.check_interrupt,
        )
        # Whoever was waited for has written rows that an index, a constraint or a new storage must not miss.
        transaction = self.transaction
        if transaction.isolation is Isolation.READ_COMMITTED:
            transaction.begin_statement()
        elif self.is_first_statement:
            transaction.begin_statement(transaction.read_timestamp + 1)

    async def lock_as(self, oids: Iterable[int], mode: int, *, nowait: bool = False) -> None:
        """What LOCK TABLE does in one of the stronger modes (4, SHARE UPDATE EXCLUSIVE, to 8, ACCESS EXCLUSIVE).

        SHARE goes with SHARE; the modes between keep one another out, and from SHARE on writers."""
        state = self.store.state
        found = {oid: key for oid in oids if (key := state.key_of_table(oid)) is not None}
        strength = LockStrength.UPDATE if mode == ACCESS_EXCLUSIVE else LockStrength.NO_KEY_UPDATE
        if mode == SHARE:
            strength = LockStrength.SHARE
        wait = WaitPolicy.NOWAIT if nowait else WaitPolicy.WAIT
        try:
            await self._lock([lock_of(key) for key in found.values()], strength, wait)
        except LockNotAvailable as error:
            raise errors.LockNotAvailable(str(error)) from None
        if mode >= SHARE:
            await self._block(found, mode == ACCESS_EXCLUSIVE)

    def apply(self, changes: list[Change]) -> None:
        self.overlay.apply(changes)

    def made_storage(self, garbage: Garbage, storage_id: int) -> None:
        """Note new storage: to be cleared again if the transaction does not commit."""
        self.overlay.made_storage.append(garbage)
        self.overlay.private_storage.add(storage_id)

    def dropped_storage(self, garbage: Garbage) -> None:
        """Note storage that nobody needs any more once the transaction has committed."""
        self.overlay.dropped_storage.append(garbage)

    def is_private_storage(self, table: Table) -> bool:
        """Tell whether rows of ``table`` may be written by ``Database.ingest``: its storage is new in this transaction.

        Only under READ COMMITTED, where the next statement's snapshot shows what was ingested."""
        return (
            table.storage_id in self.overlay.private_storage and self.transaction.isolation is Isolation.READ_COMMITTED
        )

    def savepoint(self) -> OverlayMark:
        return self.overlay.savepoint()

    def rollback_to(self, mark: OverlayMark) -> None:
        self.overlay.rollback_to(mark)

    @property
    def has_changes(self) -> bool:
        return self.overlay.has_changes

    @property
    def has_locked(self) -> bool:
        """Whether it holds tables or other objects of the catalog."""
        return any(key.startswith(keys.LOCK_PREFIX) for key in self.transaction.locked_keys())

    # ------------------------------------------------------------------------------------------ its end

    async def prepare_commit(self) -> None:
        """Put the changes into the transaction; call right before ``transaction.commit()``.

        From here to its end nobody else commits DDL."""
        overlay = self.overlay
        await self.store.gate.confirm(self.transaction)
        if not overlay.has_changes:
            return
        await self._lock([keys.COMMIT_LOCK], LockStrength.UPDATE)
        await self.store.refresh()
        self._catch_up()
        count = len(overlay.dropped_storage)
        if count:
            first = await self.store.allocate_oids(count)
            self._garbage_ids = list(range(first, first + count))
        self._version = overlay.write(self.transaction, self._garbage_ids)

    async def committed(self) -> None:
        """Make the new catalog current everywhere, unlock the tables and start clearing dropped storage."""
        store, overlay = self.store, self.overlay
        try:
            if self._version is not None:
                if store.version == overlay.base.version:
                    store.install(overlay.base.apply(overlay.changes, self._version))
                else:
                    await store.refresh(self._version)
                await store.announce(self._version)
        except KVError:
            pass  # committed it is; whoever was not told learns it by its lease
        finally:
            await self._release()
        for garbage_id, garbage in zip(self._garbage_ids, overlay.dropped_storage, strict=True):
            store.scheduler.spawn(forget_garbage(store.database, store.scheduler, garbage_id, garbage), "clear storage")
        self._clear(overlay.abandoned_storage)

    async def rolled_back(self) -> None:
        """Unlock the tables and clear what was ingested on the side."""
        await self._release()
        self._clear(self.overlay.made_storage)
        self._clear(self.overlay.abandoned_storage)

    def _clear(self, storage: Iterable[Garbage]) -> None:
        store = self.store
        for garbage in storage:
            store.scheduler.spawn(clear_garbage(store.database, store.scheduler, garbage), "clear storage")

    async def outcome_unknown(self) -> None:
        """The commit's fate is unknown: find out what the catalog is now, and leave all storage alone."""
        try:
            await self.store.refresh()
        except KVError:
            pass
        await self._release()

    async def _release(self) -> None:
        try:
            await self.store.gate.release(self.transaction)
        except KVError:
            pass  # blocks that could not be lifted lapse


async def in_own_transaction(store: CatalogStore, work: Callable[[DdlTransaction], Awaitable[T]]) -> T:
    """Run DDL in a transaction of its own, and see it committed everywhere; it begins anew where others were faster."""
    for attempt in range(MOST_BEGINNINGS):
        try:
            return await _once_in_own_transaction(store, work)
        except (KVError, errors.SerializationFailure) as error:
            if attempt == MOST_BEGINNINGS - 1 or not _can_begin_anew(error):
                raise
            await sleep(store.scheduler, RETRY_NS * attempt)
    raise AssertionError("unreachable")


def _can_begin_anew(error: Exception) -> bool:
    if isinstance(error, KeyExists):
        return error.key.startswith(keys.PREFIX)  # of the catalog: a lock was lost, and another node was faster
    return isinstance(error, (SerializationConflict, TransactionAborted, ReadRestart, errors.SerializationFailure))


async def _once_in_own_transaction(store: CatalogStore, work: Callable[[DdlTransaction], Awaitable[T]]) -> T:
    transaction = store.database.begin(Isolation.READ_COMMITTED)
    own = DdlTransaction(store, transaction)

    async def again() -> T:
        transaction.rollback_to(start)
        return await work(own)

    try:
        transaction.begin_statement()
        start = transaction.savepoint()
        result = await own.statement(again)
        await own.prepare_commit()
        if transaction.has_writes:
            await transaction.commit()
        else:
            transaction.rollback()
    except BaseException:
        transaction.rollback()
        await own.rolled_back()
        raise
    else:
        await own.committed()
    finally:
        store.gate.leave(transaction)
    return result
