"""CREATE INDEX CONCURRENTLY: an index built while everybody goes on reading and writing, through F1's states.

Theory of operation
-------------------
The index passes through states of its descriptor, each a small transaction of its own; at any time transactions know at most
two neighbouring ones::

    state         writers                              readers
    ------------  -----------------------------------  --------
    d             take entries away, make none         -
    w             keep entries, as for any index       -          the backfill runs
    (public)      the same                             use it
    i             the same                             -          the build has failed: INVALID, to be dropped

Between two states ``TableGate.drain`` waits for the writers that know only the older one; it keeps nobody waiting.  While
some writers are in ``d`` and others in ``w``, an entry made by these is taken away by those, so none can point to a row
that has gone.

The backfill goes through the rows in chunks, one transaction each.  It locks a chunk's rows against changes (SHARE), and
writes the entries of what they are now.  So a row's entry comes from the backfill or from a later writer, never from an
older state of the row.  A key of a unique index that another row has ends the build.

Every chunk's transaction also writes the build's record (``IndexJob``): how far it is, by whom, and a beat.  If the beat
stands still the builder is dead; any other node takes the record over and goes on where it says.  The record is locked
and read first in every chunk, so that a builder that was only asleep finds that it is one no longer.

Source: Rae et al., "Online, Asynchronous Schema Change in F1" (2013); PostgreSQL 15 manual, CREATE INDEX, "Building Indexes
Concurrently".
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

import msgspec
from msgspec.structs import replace

from pydistdb.kv.api import Isolation, KVError, LockStrength, Transaction
from pydistdb.sql.catalog import keys
from pydistdb.sql.catalog.backfill import bound_layout_of
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.create_index import check_method, define_index, with_index
from pydistdb.sql.catalog.descriptors import Index, IndexJob, Table
from pydistdb.sql.catalog.index_chunks import locked_rows, write_entries
from pydistdb.sql.catalog.state import DatabaseState
from pydistdb.sql.catalog.store import CatalogStore
from pydistdb.sql.catalog.transaction import DdlTransaction, in_own_transaction
from pydistdb.sql.errors import DatabaseError, InternalError, QueryCanceled
from pydistdb.sql.layout import TableLayout
from pydistdb.sql.schema_statements import CreateIndex
from pydistdb.sql.types.base import EvalContext
from pydistdb.tasks import Completion, pause, sleep

T = TypeVar("T")

logger = logging.getLogger(__name__)

CHUNK_ROWS = 128
"""Rows locked at a time: a writer waits for a chunk at most."""
PROGRESS_TOPIC = "index.progress"
PROGRESS_INTERVAL_NS = 500_000_000
PROGRESS_TIMEOUT_NS = 1_000_000_000
WATCH_INTERVAL_NS = 2_000_000_000
TAKEOVER_NS = 8_000_000_000
"""A record whose beat has stood still for this long has lost its builder."""
POLL_NS = 20_000_000
RETRY_NS = 50_000_000
MOST_RETRIES = 200
QUIET_RETRIES = 10
"""Nobody is told of so many: a range without a leader takes some."""
MOST_JOBS = 1_000

_encode = msgspec.msgpack.Encoder().encode
decode_job = msgspec.msgpack.Decoder(IndexJob).decode


class Chunk(NamedTuple):
    """What was written in one transaction: so many rows of a table, and the key to go on at (None: there are no more)."""

    layout: TableLayout
    rows: int
    resume: bytes | None


class Lost(Exception):
    """Somebody else builds the index now, or there is nothing left to build."""


class IndexJobs:
    """Builds indexes online on this node, and takes over from nodes that died."""

    def __init__(self, store: CatalogStore) -> None:
        self._store = store
        self._running: dict[int, Completion[None]] = {}
        self._canceled: set[int] = set()
        self._is_watching = False
        self._reported_ns = 0
        self.progress: dict[int, IndexJob] = {}
        """What is known of builds anywhere, by the index's oid."""
        store.index_jobs = self
        store.database.on_broadcast(PROGRESS_TOPIC, self._on_progress)
        if store.state.is_building:
            self.watch()

    # ------------------------------------------------------------------------------------------ the statement

    async def create(self, ddl: DdlContext, statement: CreateIndex, process_id: int) -> None:
        """CREATE INDEX CONCURRENTLY; ``ddl``'s own transaction stays untouched."""
        node = self._store.database.node_id

        async def define(own: DdlContext) -> Index | None:
            table = own.table(statement.table, "rm")
            check_method(statement)
            index = await define_index(own, table, statement)
            if index is None:
                return None
            index = replace(index, state="d")
            statistics = own.view.statistics(table.oid)
            total = 0 if statistics is None else int(statistics.rows)
            own.put_table(with_index(table, index))
            job = IndexJob(table.database, table.oid, index.oid, node, rows_total=total, process_id=process_id)
            own.transaction.put(keys.job_key(index.oid), keys.encode_object(job))
            return index

        index = await self._in_transaction(ddl, define)
        if index is not None:
            await self._finish(ddl, index.oid)

    async def _finish(self, ddl: DdlContext, oid: int) -> None:
        """Do a job while the statement waits; it is given up if that is interrupted."""
        done = self._start(oid)
        try:
            while not done.done:
                ddl.ddl.check_interrupt()
                await sleep(self._store.scheduler, POLL_NS)
        except DatabaseError:
            self._canceled.add(oid)
            try:
                await done
            except (DatabaseError, KVError):
                pass
            raise
        await done

    async def _in_transaction(self, ddl: DdlContext, work: Callable[[DdlContext], Awaitable[T]]) -> T:
        """Run DDL in a transaction of its own, and see it committed everywhere."""

        async def with_own(own: DdlTransaction) -> T:
            own.check_interrupt = ddl.ddl.check_interrupt
            own.lock_deadline_ns = ddl.ddl.lock_deadline_ns
            return await work(dataclasses.replace(ddl, ddl=own, _view=None))

        return await in_own_transaction(self._store, with_own)

    # ------------------------------------------------------------------------------------------ building

    def _start(self, oid: int) -> Completion[None]:
        done = self._running.get(oid)
        if done is None:
            done = self._running[oid] = Completion()
            self._store.scheduler.spawn(self._run(oid, done), "index build")
        return done

    async def _run(self, oid: int, done: Completion[None]) -> None:
        try:
            await self._build(oid)
        except Lost:
            done.set(None)
        except DatabaseError as error:
            await self._give_up(oid)
            done.fail(error)
        except BaseException as error:
            done.fail(error)  # the record stays: whoever sees its beat stand still goes on
            if not isinstance(error, KVError):
                raise
        else:
            done.set(None)
        finally:
            self._running.pop(oid, None)
            self._canceled.discard(oid)

    async def _build(self, oid: int) -> None:
        job = await self._retried(lambda: self._own(oid))
        _, index = self._descriptor(job)
        if index.state == "d":
            await self._drain(job)
            job = await self._retried(lambda: self._set_state(job, "w"))
        if not job.position:
            await self._drain(job)
        while True:
            self._check_canceled(oid)
            job, finished = await self._retried(lambda job=job: self._chunk(job))  # type: ignore[misc]
            self._report(job)
            if finished:
                break
            await pause(self._store.scheduler)
        await self._retried(lambda: self._set_state(job, ""))
        self._report(replace(job, phase=""), at_once=True)

    async def _retried(self, work: Callable[[], Awaitable[T]]) -> T:
        """Repeat what lost a conflict, or met a range without a leader."""
        for attempt in range(MOST_RETRIES):
            try:
                return await work()
            except KVError as error:
                if attempt == MOST_RETRIES - 1:
                    raise
                if attempt >= QUIET_RETRIES:
                    logger.warning("a build or re-sharding has failed %d times, now by %r", attempt + 1, error)
                await sleep(self._store.scheduler, RETRY_NS * min(attempt + 1, 20))
        raise InternalError("unreachable")

    def _check_canceled(self, oid: int) -> None:
        if oid in self._canceled:
            raise QueryCanceled("canceling statement due to user request")

    async def _drain(self, job: IndexJob) -> None:
        store = self._store
        self._report(replace(job, phase="waiting for writers before build"), at_once=True)
        await store.gate.drain(job.table, store.version, lambda: self._check_canceled(job.index))

    def _descriptor(self, job: IndexJob) -> tuple[Table, Index]:
        table = self._store.state.find_table(job.table)
        for index in () if table is None else table.indexes:
            if index.oid == job.index and not index.is_readable:
                assert table is not None
                return table, index
        raise Lost

    async def _locked_job(self, transaction: Transaction, oid: int) -> IndexJob:
        """The record, if it is this node's, locked until the transaction ends."""
        key = keys.job_key(oid)
        value = (await transaction.lock([key], LockStrength.UPDATE))[0].value
        if value is None:
            raise Lost
        job = decode_job(value)
        if job.node != self._store.database.node_id:
            raise Lost
        return job

    async def _own(self, oid: int) -> IndexJob:
        await self._store.refresh()
        transaction = self._begin()
        try:
            return await self._locked_job(transaction, oid)
        finally:
            transaction.rollback()

    def _begin(self) -> Transaction:
        transaction = self._store.database.begin(Isolation.READ_COMMITTED)
        transaction.begin_statement()
        return transaction

    async def _set_state(self, job: IndexJob, state: str) -> IndexJob:
        """Move the index to its next state; public or invalid, the record goes."""
        database = self._store.state.databases.get(job.database)
        if database is None:
            raise Lost
        next_job = replace(job, beat=job.beat + 1, phase="building index")

        async def change(own: DdlContext) -> None:
            await self._locked_job(own.transaction, job.index)
            key = keys.job_key(job.index)
            if state == "w":
                own.transaction.put(key, keys.encode_object(next_job))
            else:
                own.transaction.delete(key)
            table = own.view.state.tables.get(job.table)
            if table is None or not any(index.oid == job.index for index in table.indexes):
                return  # dropped meanwhile: only the record is left to remove
            indexes = tuple(replace(index, state=state) if index.oid == job.index else index for index in table.indexes)
            own.put_table(replace(table, indexes=indexes, version=table.version + 1))

        await self._in_transaction(self._context(database), change)
        return next_job

    def _context(self, database: DatabaseState) -> DdlContext:
        """Surroundings of DDL that no session asks for."""
        transaction = self._store.database.begin(Isolation.READ_COMMITTED)
        return DdlContext(DdlTransaction(self._store, transaction), database.descriptor.name, (), EvalContext())

    async def _give_up(self, oid: int) -> None:
        """Leave the index invalid, as Postgres does: writers maintain it, nobody reads it, DROP INDEX removes it."""
        try:
            job = await self._retried(lambda: self._own(oid))
            await self._retried(lambda: self._set_state(job, "i"))
            self._report(replace(job, phase=""), at_once=True)
        except (Lost, KVError):
            pass

    # ------------------------------------------------------------------------------------------ one chunk

    async def _chunk(self, job: IndexJob) -> tuple[IndexJob, bool]:
        """Build the entries of the next rows; returns the new record, and whether it was the last chunk."""
        return await self._advance(job, "building index", self._write_entries)

    async def _write_entries(self, transaction: Transaction, job: IndexJob) -> Chunk:
        table, index = self._descriptor(job)
        context = self._context(self._store.state.databases[job.database])
        layout = bound_layout_of(context, table)
        rows, resume = await locked_rows(transaction, layout, job.position, CHUNK_ROWS)
        await write_entries(context, transaction, layout, layout.by_storage_id[index.storage_id], rows)
        return Chunk(layout, len(rows), resume)

    async def _advance(
        self, job: IndexJob, phase: str, write: Callable[[Transaction, IndexJob], Awaitable[Chunk]]
    ) -> tuple[IndexJob, bool]:
        """Have the next rows written and the record moved on, in one transaction; the record, and whether they were the last."""
        store = self._store
        transaction = self._begin()
        try:
            await store.ensure_fresh()
            await store.gate.enter(transaction, frozenset((job.table,)), True)
            job = await self._locked_job(transaction, job.index)
            chunk = await write(transaction, job)
            job = replace(
                job,
                beat=job.beat + 1,
                position=chunk.resume or chunk.layout.table_span().end,
                rows_done=job.rows_done + chunk.rows,
                phase=phase,
            )
            transaction.put(keys.job_key(job.index), keys.encode_object(job))
            await store.check_commit(transaction)
            await transaction.commit()
        except BaseException:
            transaction.rollback()
            raise
        finally:
            store.gate.leave(transaction)
        return job, chunk.resume is None

    # ------------------------------------------------------------------------------------------ progress

    def _report(self, job: IndexJob, *, at_once: bool = False) -> None:
        """Note how far the build is, and tell every node now and then."""
        store = self._store
        self._note(job)
        now_ns = store.scheduler.now_ns()
        if at_once or now_ns - self._reported_ns >= PROGRESS_INTERVAL_NS:
            self._reported_ns = now_ns
            store.scheduler.spawn(self._announce(job), "index progress")

    async def _announce(self, job: IndexJob) -> None:
        try:
            await self._store.database.broadcast(PROGRESS_TOPIC, _encode(job), PROGRESS_TIMEOUT_NS)
        except KVError:
            pass

    async def _on_progress(self, sender: int, payload: bytes) -> bytes:
        self._note(decode_job(payload))
        return b"\x01"

    def _note(self, job: IndexJob) -> None:
        if not job.phase:
            self.progress.pop(job.index, None)
        elif len(self.progress) < MOST_JOBS or job.index in self.progress:
            self.progress[job.index] = job

    # ------------------------------------------------------------------------------------------ taking over

    def watch(self) -> None:
        """Look after the builds that the catalog shows, until there are none."""
        if not self._is_watching:
            self._is_watching = True
            self._store.scheduler.spawn(self._watch(), "index builds")

    async def _watch(self) -> None:
        store = self._store
        seen: dict[int, tuple[int, int, int]] = {}
        """(node, beat, when it was first seen) by index."""
        try:
            while store.state.is_building:
                await sleep(store.scheduler, WATCH_INTERVAL_NS)
                try:
                    await self._look(seen)
                except KVError:
                    continue
        finally:
            self._is_watching = False
            self.progress.clear()

    async def _look(self, seen: dict[int, tuple[int, int, int]]) -> None:
        now_ns = self._store.scheduler.now_ns()
        for job in await self._jobs():
            self.progress.setdefault(job.index, job)  # this node may have started since anybody told of it
            if job.index in self._running:
                continue
            node, beat, since_ns = seen.get(job.index, (0, -1, now_ns))
            if (node, beat) != (job.node, job.beat):
                since_ns = now_ns
                seen[job.index] = (job.node, job.beat, now_ns)
            # A record of this very node that nobody works at is one from before a restart.
            is_lost = now_ns - since_ns >= TAKEOVER_NS or job.node == self._store.database.node_id
            if is_lost and await self._take_over(job):
                self._start(job.index)

    async def _jobs(self) -> list[IndexJob]:
        transaction = self._begin()
        try:
            found = await transaction.scan(keys.JOB_PREFIX, keys.JOB_PREFIX + b"\xff", limit=MOST_JOBS)
        finally:
            transaction.rollback()
        return [decode_job(value) for value in found.values]

    async def _take_over(self, job: IndexJob) -> bool:
        """Become the builder, unless the record has moved since."""
        transaction = self._begin()
        try:
            key = keys.job_key(job.index)
            value = (await transaction.lock([key], LockStrength.UPDATE))[0].value
            if value is None or decode_job(value) != job:
                transaction.rollback()
                return False
            mine = replace(job, node=self._store.database.node_id, beat=job.beat + 1, process_id=0)
            transaction.put(key, keys.encode_object(mine))
            await transaction.commit()
        except BaseException:
            transaction.rollback()
            raise
        return True
