"""What a session keeps of a transaction's DDL, from the first DDL statement to the end of the transaction.

    ddl = DdlTransaction(store, transaction)
    ddl.lock_deadline_ns = …                  # per statement, from lock_timeout
    tag = await execute(statement, DdlContext(ddl, …))
    view = store.view(database, path, ddl.overlay)       # the session's own view from now on
    mark = ddl.savepoint(); ddl.rollback_to(mark)
    …
    await ddl.prepare_commit()                # then transaction.commit()
    await ddl.committed()                     # or ddl.rolled_back(), or ddl.outcome_unknown()

Storage that is dropped is recorded as garbage in the same transaction and cleared in the background after the commit;
the record goes when that is done.  A node that starts clears what an earlier one left.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from pydistdb.kv.api import Isolation, KVError, LockStrength, Transaction
from pydistdb.sql.catalog import keys
from pydistdb.sql.catalog.descriptors import Garbage, Table
from pydistdb.sql.catalog.garbage import clear_garbage, forget_garbage
from pydistdb.sql.catalog.overlay import Overlay, OverlayMark
from pydistdb.sql.catalog.state import Change
from pydistdb.sql.catalog.store import CatalogStore
from pydistdb.sql.errors import LockNotAvailable

T = TypeVar("T")


class DdlTransaction:
    """See the module's docstring."""

    def __init__(self, store: CatalogStore, transaction: Transaction) -> None:
        self.store = store
        self.transaction = transaction
        self.overlay = Overlay()
        self.lock_deadline_ns: int | None = None
        self.check_interrupt: Callable[[], None] = lambda: None
        self._version: int | None = None
        self._garbage_ids: list[int] = []

    # ------------------------------------------------------------------------------------------ during the transaction

    async def open(self) -> None:
        """Lock the catalog against other DDL and start from its newest state; does nothing the second time."""
        overlay = self.overlay
        if overlay.is_open:
            return
        store = self.store
        store.gate.waiting_for_catalog(self.transaction, True)
        try:
            version = await self._lock_version()
        finally:
            store.gate.waiting_for_catalog(self.transaction, False)
        if version > store.version:
            await store.refresh(version)
        overlay.open(store.state)

    async def _lock_version(self) -> int:
        scheduler = self.store.scheduler
        locking = scheduler.spawn(self.transaction.lock([keys.VERSION_KEY], LockStrength.UPDATE), "catalog lock")
        if self.lock_deadline_ns is None:
            locked = await locking.completion
        else:
            error = LockNotAvailable("canceling statement due to lock timeout")
            timer = scheduler.call_at(self.lock_deadline_ns, lambda: locking.cancel(error))
            try:
                locked = await locking.completion
            finally:
                timer.cancel()
        raw = locked[0].value
        return 0 if raw is None else int(keys.decode_object(keys.VERSION_KEY, raw))

    async def lock_tables(self, tables: Iterable[int], *, exclusive: bool = True) -> None:
        """Keep everybody else off the tables until the transaction ends (tables made here need no lock)."""
        databases = self.overlay.base.databases.values()
        existing = [table for table in tables if any(table in database.tables for database in databases)]
        if existing:
            await self.store.gate.block(
                self.transaction,
                existing,
                exclusive=exclusive,
                deadline_ns=self.lock_deadline_ns,
                check_interrupt=self.check_interrupt,
            )

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

    # ------------------------------------------------------------------------------------------ its end

    async def prepare_commit(self) -> None:
        """Put the changes into the transaction; call right before ``transaction.commit()``."""
        overlay = self.overlay
        if not overlay.has_changes:
            return
        await self.store.gate.confirm(self.transaction)
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
    """Run DDL in a transaction of its own, and see it committed everywhere."""
    transaction = store.database.begin(Isolation.READ_COMMITTED)
    own = DdlTransaction(store, transaction)
    try:
        transaction.begin_statement()
        result = await work(own)
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
