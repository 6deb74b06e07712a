"""The node's copy of the catalog: loaded at start, refreshed after DDL, and known to be fresh for a while.

Every DDL transaction bumps the version at ``keys.VERSION_KEY`` and lists the keys it changed in a history record, so a
node that knows version 7 and learns of 9 reads two history records and the objects they name.  A node learns of a new
version in two ways: the committing node broadcasts it (and waits for the answers, so that a statement started after a
DDL statement ended sees its effect on every reachable node), and each node looks at the version a few times a second.
The look renews the *catalog lease*: while it lasts, no DDL on an existing table can have been finished behind this
node's back, since such DDL needs the consent of every node that is not dead (gate.py).  A node whose lease ran out (it
was paused, or cut off, or has executed nothing for a few seconds and so looks less often) reads the version again before
it executes anything: ``ensure_fresh``.

Example::

    store = CatalogStore(database, scheduler)
    await store.start()
    view = store.view("postgres", ("public",))
    view.relation("accounts")
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from pydistdb.kv.api import Database, Isolation, KeyExists, KVError, ReadRestart, SerializationConflict, Transaction
from pydistdb.sql.catalog import keys
from pydistdb.sql.catalog.descriptors import DatabaseDescriptor, Schema
from pydistdb.sql.catalog.garbage import clear_leftovers
from pydistdb.sql.catalog.gate import TableGate
from pydistdb.sql.catalog.overlay import Overlay
from pydistdb.sql.catalog.roles import DATABASE_OWNER
from pydistdb.sql.catalog.sequence_numbers import SequenceNumbers
from pydistdb.sql.catalog.state import FIRST_USER_OID, PUBLIC_OID, CatalogState, Change
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.errors import InvalidCatalogName, SerializationFailure
from pydistdb.tasks import Completion, Scheduler, Timer

T = TypeVar("T")

CHANGED_TOPIC = "catalog.changed"
RENEWAL_INTERVAL_NS = 300_000_000
IDLE_RENEWAL_INTERVAL_NS = 5_000_000_000
"""Of a node that executes nothing: it lets the lease run out, and looks only so that its status pages are right."""
IDLE_AFTER_RENEWALS = 15
LEASE_NS = 900_000_000
"""Must be less than the time after which the cluster counts a silent node as dead."""
BROADCAST_TIMEOUT_NS = 2_000_000_000
SCAN_BATCH_ROWS = 1_000
MOST_VIEWS = 256
MOST_READ_RESTARTS = 20
OID_COUNTER = b"oid"
OIDS_PER_BLOCK = 32

PG_NAMESPACE_OID, PG_DATABASE_OID = 2615, 1262
PUBLIC_COMMENT = "standard public schema"
"""As in every new database of Postgres: pg_dump takes notice if it is another."""

BOOTSTRAP_OBJECTS: tuple[Change, ...] = tuple(
    change
    for oid, name, comment in (
        (1, "template1", "default template for new databases"),
        (4, "template0", "unmodifiable empty database"),
        (5, "postgres", "default administrative connection database"),
    )
    for change in (
        (keys.database_key(oid), DatabaseDescriptor(oid, name)),
        (keys.schema_key(oid, PUBLIC_OID), Schema(PUBLIC_OID, "public", oid, DATABASE_OWNER)),
        (keys.comment_key(oid, PG_NAMESPACE_OID, PUBLIC_OID, 0), PUBLIC_COMMENT),
        (keys.comment_key(oid, PG_DATABASE_OID, oid, 0), comment),
    )
)


async def at_snapshot(transaction: Transaction, read: Callable[[], Awaitable[T]]) -> T:
    """Read at a snapshot of this moment; at a newer one where somebody writes in the window of uncertainty."""
    at_least = 0
    for _ in range(MOST_READ_RESTARTS):
        transaction.begin_statement(at_least)
        try:
            return await read()
        except ReadRestart as restart:
            at_least = restart.timestamp
    raise SerializationConflict("too many read restarts")


class CatalogStore:
    """See the module's docstring.  ``state`` is the newest committed state this node knows."""

    def __init__(self, database: Database, scheduler: Scheduler) -> None:
        self.database = database
        self.scheduler = scheduler
        self.state = CatalogState.EMPTY
        self.gate = TableGate(database, scheduler, lambda: self.state, self.refresh)
        self.sequences = SequenceNumbers(database)
        self._views: dict[tuple[str, tuple[str, ...], str, int | None], StateView] = {}
        self._lease_until_ns = 0
        self._refreshing: Completion[None] | None = None
        self._free_oids: list[int] = []
        self.index_jobs: Any = None
        """Who builds indexes online (index_jobs.IndexJobs), if anybody does here."""
        self.analyze_begins: Callable[[int], None] = lambda table: None
        """Told when this node begins to analyse a table (auto_analyze.AutoAnalyze)."""
        self._running = False
        self._version_since = (-1, 0)
        """A version, and a timestamp at which it was the newest one already."""
        self._used = True
        """Whether anybody has relied on the lease since it was last renewed."""
        self._unused_renewals = 0
        self._next_renewal: Timer | None = None
        database.on_broadcast(CHANGED_TOPIC, self._on_changed)

    async def start(self, *, renew: bool = True) -> None:
        """Load the catalog, making the first one of a new cluster; then keep it fresh."""
        await self.refresh()
        if self.state.version == 0:
            await self._bootstrap()
            await self.refresh()
        if renew and not self._running:
            self._running = True
            self._schedule_renewal()
            self.scheduler.spawn(self._clear_leftovers(), "clear storage")

    async def _clear_leftovers(self) -> None:
        try:
            await clear_leftovers(self.database, self.scheduler)
        except KVError:
            pass  # it stays recorded

    def stop(self) -> None:
        self._running = False

    @property
    def version(self) -> int:
        return self.state.version

    def view(
        self,
        database_name: str,
        search_path: Sequence[str],
        transaction_overlay: Overlay | None = None,
        temporary_schema: str = "",
        role: int | None = None,
    ) -> StateView:
        """The catalog as a session sees it, with the session's own uncommitted DDL if it has any.

        ``role``: who looks, None for superusers."""
        if transaction_overlay is not None and transaction_overlay.is_open:
            return StateView(
                transaction_overlay.state,
                database_name,
                search_path,
                overlaid=True,
                numbers=self.sequences,
                temporary_schema=temporary_schema,
                role=role,
            )
        path = tuple(search_path)
        view = self._views.get((database_name, path, temporary_schema, role))
        if view is None:
            if database_name not in self.state.databases_by_name:
                raise InvalidCatalogName(f'database "{database_name}" does not exist')
            if len(self._views) >= MOST_VIEWS:
                self._views.clear()
            view = self._views[database_name, path, temporary_schema, role] = StateView(
                self.state,
                database_name,
                path,
                numbers=self.sequences,
                temporary_schema=temporary_schema,
                role=role,
            )
        return view

    # ------------------------------------------------------------------------------------------ freshness

    @property
    def is_fresh(self) -> bool:
        """Tell whether the catalog lease holds: no need to look at the version before executing a statement."""
        self._used = True
        return self.scheduler.now_ns() < self._lease_until_ns

    async def ensure_fresh(self) -> None:
        """Renew the lease if it ran out."""
        if not self.is_fresh:
            await self.refresh()

    async def check_commit(self, transaction: Transaction) -> None:
        """Make sure, right before a commit, that the tables it touched are still what the transaction took them for.

        While the lease holds they are.  A node that was paused or cut off for longer may have been counted as dead, and
        DDL may have gone on without it: then the transaction fails with 40001."""
        if self.is_fresh:
            return
        known = self.state.version
        await self.refresh()
        if self.state.version != known and self.state.changed_since(known, self.gate.pinned(transaction)):
            raise SerializationFailure(
                "could not serialize access due to concurrent change of a table's definition",
                hint="The transaction might succeed if retried.",
            )

    async def refresh(self, at_least: int = 0) -> None:
        """Read the version, and what changed if it is new; renews the lease."""
        while self._refreshing is not None:
            await self._refreshing
            if at_least and self.state.version >= at_least:
                return
        self._refreshing = Completion()
        try:
            started_ns = self.scheduler.now_ns()
            await self._with_snapshot(self._read_changes)
            self._lease_until_ns = max(self._lease_until_ns, started_ns + LEASE_NS)
            if self._used and self._is_idle and self._next_renewal is not None:
                self._next_renewal.cancel()
                self._schedule_renewal()
        finally:
            refreshing, self._refreshing = self._refreshing, None
            refreshing.set(None)

    def install(self, state: CatalogState) -> None:
        """Make ``state`` the current one, if it is newer."""
        if state.version > self.state.version:
            self.state = state
            self._views.clear()
            if self.index_jobs is not None and state.is_building:
                self.index_jobs.watch()

    async def _with_snapshot(self, read: Callable[[Transaction], Awaitable[T]]) -> T:
        transaction = self.database.begin(Isolation.READ_COMMITTED, read_only=True)
        try:
            return await at_snapshot(transaction, lambda: read(transaction))
        finally:
            transaction.rollback()

    async def version_at(self, transaction: Transaction) -> int:
        """The catalog's version at a transaction's snapshot, which lies in the past."""
        version, since = self._version_since
        if version == self.state.version and transaction.read_timestamp >= since:
            return version
        raw = (await transaction.get_many([keys.VERSION_KEY]))[0]
        found = 0 if raw is None else int(keys.decode_object(keys.VERSION_KEY, raw))
        if found == self.state.version:
            self._version_since = (found, transaction.read_timestamp)
        return found

    async def _read_changes(self, transaction: Transaction) -> None:
        raw = (await transaction.get_many([keys.VERSION_KEY]))[0]
        version = 0 if raw is None else keys.decode_object(keys.VERSION_KEY, raw)
        known = self.state
        if version <= known.version:
            return
        changes: list[Change] | None = None
        if known.version and version - known.version <= keys.HISTORY_LIMIT:
            changes = await self._read_history(transaction, known.version, version)
        if changes is not None:
            self.install(known.apply(changes, version))
        else:
            self.install(CatalogState.EMPTY.apply(await self._read_everything(transaction), version))

    async def _read_history(self, transaction: Transaction, known: int, version: int) -> list[Change] | None:
        """The objects changed since version ``known``; None if the history does not reach back that far."""
        records = await transaction.get_many([keys.history_key(v) for v in range(known + 1, version + 1)])
        changed: dict[bytes, None] = {}
        for record in records:
            if record is None:
                return None
            changed.update(dict.fromkeys(keys.decode_object(keys.HISTORY_PREFIX, record)))
        values = await transaction.get_many(list(changed))
        return [
            (key, None if value is None else keys.decode_object(key, value))
            for key, value in zip(changed, values, strict=True)
        ]

    async def _read_everything(self, transaction: Transaction) -> list[Change]:
        changes: list[Change] = []
        start: bytes | None = keys.PREFIX
        while start is not None:
            batch = await transaction.scan(start, keys.END, limit=SCAN_BATCH_ROWS)
            changes.extend(
                (key, keys.decode_object(key, value))
                for key, value in zip(batch.keys, batch.values, strict=True)
                if keys.is_object_key(key)
            )
            start = batch.resume
        # Databases first: objects of a database that does not exist (yet) would be dropped.
        changes.sort(key=lambda change: change[0][1:2] != b"D")
        return changes

    async def _bootstrap(self) -> None:
        transaction = self.database.begin(Isolation.READ_COMMITTED)
        try:
            transaction.begin_statement()
            transaction.insert(keys.VERSION_KEY, keys.encode_object(1))
            for key, value in BOOTSTRAP_OBJECTS:
                transaction.put(key, keys.encode_object(value))
            await transaction.commit()
        except (KeyExists, SerializationConflict):
            transaction.rollback()  # another node was faster

    @property
    def _is_idle(self) -> bool:
        return self._unused_renewals >= IDLE_AFTER_RENEWALS

    def _schedule_renewal(self) -> None:
        self._unused_renewals = 0 if self._used else self._unused_renewals + 1
        self._used = False
        interval_ns = IDLE_RENEWAL_INTERVAL_NS if self._is_idle else RENEWAL_INTERVAL_NS
        self._next_renewal = self.scheduler.call_at(self.scheduler.now_ns() + interval_ns, self._renew)

    def _renew(self) -> None:
        self._next_renewal = None

        async def renew() -> None:
            try:
                await self.refresh()
            except KVError:
                pass  # the lease runs out, and whoever executes a statement meets the error
            finally:
                if self._running:
                    self._schedule_renewal()

        if self._running:
            self.scheduler.spawn(renew(), "catalog lease")

    async def _on_changed(self, sender: int, payload: bytes) -> bytes:
        version = int(struct.unpack(">Q", payload)[0])
        if version > self.state.version:
            await self.refresh(version)
        return b"\x01"

    async def announce(self, version: int) -> None:
        """Tell every node about a version that was just committed; those that do not answer learn it by their leases."""
        await self.database.broadcast(CHANGED_TOPIC, struct.pack(">Q", version), BROADCAST_TIMEOUT_NS)

    # ------------------------------------------------------------------------------------------ identities

    async def allocate_oids(self, count: int = 1) -> int:
        """The first of ``count`` consecutive object ids, never used before."""
        free = self._free_oids
        if len(free) < count:
            block = max(count, OIDS_PER_BLOCK)
            first = FIRST_USER_OID - 1 + await self.database.allocate_ids(OID_COUNTER, block)
            free = self._free_oids = list(range(first, first + block))
        taken = free[0]
        del free[:count]
        return taken
