"""ALTER TABLE … SHARD BY: a table gets another layout while everybody goes on reading and writing.

Theory of operation
-------------------
The table as it will be is a second set of rows and index entries under a storage id of its own, described by
``Table.resharding``.  To writers it is one more index of the table (layout.ShadowIndex), and it passes through the same states
as an index that is built online (index_jobs.py), whose machinery carries the job::

    phase        state   writers                                     readers     undone by
    -----------  ------  ------------------------------------------  ----------  -------------------------
    preparing    d       take rows away there, make none             old rows    dropping the new storage
    copying      w       write every row there as well               old rows    the same
    verifying    w       the same                                    old rows    the same
    cutting over  -      wait for the table's lock, a moment         new rows    nothing: it is done
    cleaning up   -      the new layout only                         new rows    -

* Copying goes through the old rows in chunks, one transaction each: it locks them against changes and writes what they are
  now, so a new row comes from the copy or from a later writer, never from an older state.
* Verifying reads both at one timestamp, whatever is written meanwhile: the sum of the hashes of all keys and values that the
  old rows call for must be that of what stands in the new storage, row for row and entry for entry.
* The cutover is one catalog transaction under the table's exclusive lock: the descriptor takes the new storage, and the old one
  becomes garbage, which is cleared in the background.

Unique keys are guarded by the old indexes until the cutover; the new ones hold the same keys.

The job's record says in every transaction who works at it and how far it is.  If its beat stands still, another node takes
over and goes on from there.  A job that fails or is canceled (the statement is interrupted, ``proddb.reshard_cancel``) is
undone: first state d again, so that no writer adds anything, then the new storage goes.  That is in the record, too, so
whoever takes over goes on undoing it.

Source: Rae et al., "Online, Asynchronous Schema Change in F1" (2013).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from msgspec.structs import replace
from xxhash import xxh3_64_intdigest

from pydistdb.kv.api import Isolation, KVError, LockStrength, Transaction
from pydistdb.sql.catalog import keys
from pydistdb.sql.catalog.backfill import bound_layout_of
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.descriptors import IndexJob, Resharding, Table, table_to_be
from pydistdb.sql.catalog.garbage import table_garbage
from pydistdb.sql.catalog.index_chunks import locked_rows
from pydistdb.sql.catalog.index_jobs import Chunk, IndexJobs, Lost, decode_job
from pydistdb.sql.catalog.reshard import check_ready, table_to_become
from pydistdb.sql.errors import DatabaseError, QueryCanceled
from pydistdb.sql.layout import HASH_IDENTITY_END, HASH_IDENTITY_START, TableLayout, picks_of
from pydistdb.sql.schema_statements import Reshard
from pydistdb.tasks import pause, sleep

logger = logging.getLogger(__name__)

KIND = "reshard"
COPY_ROWS = 128
"""Rows locked at a time: a writer waits for a chunk at most."""
VERIFY_ROWS = 1_024
BEAT_INTERVAL_NS = 1_000_000_000
MOST_ATTEMPTS = 60
_HASHES = 1 << 64


class SchemaJobs(IndexJobs):
    """Index builds, and tables that are re-sharded."""

    async def reshard(self, ddl: DdlContext, statement: Reshard, process_id: int) -> None:
        """ALTER TABLE … SHARD BY; ``ddl``'s own transaction stays untouched."""
        node = self._store.database.node_id

        async def define(own: DdlContext) -> int:
            table = own.table(statement.name)
            check_ready(table)
            number = await own.store.allocate_oids()
            to_be = await table_to_become(own, table, statement.shard_by)
            resharding = Resharding(
                number,
                "d",
                to_be.version,
                to_be.storage_id,
                to_be.indexes,
                to_be.next_index_id,
                to_be.sharding,
                to_be.reference,
            )
            own.put_table(replace(table, resharding=resharding, version=table.version + 1))
            statistics = own.view.statistics(table.oid)
            job = IndexJob(
                table.database,
                table.oid,
                number,
                node,
                rows_total=0 if statistics is None else int(statistics.rows),
                process_id=process_id,
                phase="preparing",
                kind=KIND,
            )
            own.transaction.put(keys.job_key(number), keys.encode_object(job))
            return number

        await self._finish(ddl, await self._in_transaction(ddl, define))

    async def cancel(self, number: int) -> bool:
        """Have a job undone, wherever it runs; False if there is none any more."""

        async def note() -> bool:
            transaction = self._begin()
            try:
                key = keys.job_key(number)
                value = (await transaction.lock([key], LockStrength.UPDATE))[0].value
                if value is None:
                    return False
                transaction.put(key, keys.encode_object(replace(decode_job(value), canceled=True)))
                await transaction.commit()
            finally:
                transaction.rollback()
            return True

        return await self._retried(note)

    # ------------------------------------------------------------------------------------------ the phases

    async def _build(self, oid: int) -> None:
        job = await self._retried(lambda: self._own(oid))
        if job.kind != KIND:
            await super()._build(oid)
            return
        try:
            await self._reshard(job)
        except Lost:
            await self._retried(lambda: self._forget(job))
            raise

    async def _reshard(self, job: IndexJob) -> None:
        _check_wanted(job)
        if self._resharding(job).state == "d":
            await self._drain(job)
            job = await self._retried(lambda: self._move_to(job, "w", "copying"))
        if not job.position:
            await self._drain(job)
        finished = False
        while not finished:
            self._check_canceled(job.index)
            job, finished = await self._retried(lambda job=job: self._copy_chunk(job))  # type: ignore[misc]
            self._report(job)
            await pause(self._store.scheduler)
        job = await self._retried(lambda: self._verify(job))
        self._report(replace(job, phase="cutting over"), at_once=True)
        await self._patiently(lambda: self._cut_over(job))
        self._report(replace(job, phase=""), at_once=True)

    async def _patiently(self, work: Callable[[], Awaitable[None]]) -> None:
        """Repeat also what lost against other DDL or a transaction that did not end."""
        for attempt in range(MOST_ATTEMPTS):
            try:
                await self._retried(work)
                return
            except DatabaseError as error:
                if error.sqlstate not in ("40001", "40P01", "55P03") or attempt == MOST_ATTEMPTS - 1:
                    raise
                await sleep(self._store.scheduler, BEAT_INTERVAL_NS)

    async def _forget(self, job: IndexJob) -> None:
        """Remove the record of a job whose table was dropped."""
        transaction = self._begin()
        try:
            await self._locked_job(transaction, job.index)
            if self._store.state.find_table(job.table) is None:
                transaction.delete(keys.job_key(job.index))
                await transaction.commit()
                self._report(replace(job, phase=""), at_once=True)
        except Lost:
            pass
        finally:
            transaction.rollback()

    def _resharding(self, job: IndexJob) -> Resharding:
        table = self._store.state.find_table(job.table)
        if table is None or table.resharding is None or table.resharding.job != job.index:
            raise Lost
        return table.resharding

    async def _move_to(self, job: IndexJob, state: str, phase: str, *, canceled: bool = False) -> IndexJob:
        """Set the state of the table to be, in a transaction of its own."""
        done = replace(job, beat=job.beat + 1, phase=phase, canceled=canceled)

        async def change(own: DdlContext) -> None:
            current = await self._locked_job(own.transaction, job.index)
            if not canceled:
                _check_wanted(current)
            table = _resharded(own, job)
            assert table.resharding is not None
            own.transaction.put(keys.job_key(job.index), keys.encode_object(done))
            own.put_table(replace(table, resharding=replace(table.resharding, state=state), version=table.version + 1))

        await self._in_transaction(self._context_of(job), change)
        self._report(done, at_once=True)
        return done

    async def _copy_chunk(self, job: IndexJob) -> tuple[IndexJob, bool]:
        """Write the next rows where they will be; returns the new record, and whether they were the last."""
        return await self._advance(job, "copying", self._copy)

    async def _copy(self, transaction: Transaction, job: IndexJob) -> Chunk:
        self._resharding(job)
        _check_wanted(job)
        layout = self._layout(job)
        assert layout.shadow is not None
        rows, resume = await locked_rows(transaction, layout, job.position, COPY_ROWS)
        for key, row in rows:
            for entry in layout.entries_in(layout.shadow, row, key):
                transaction.put(entry.key, entry.value)
        return Chunk(layout, len(rows), resume)

    async def _verify(self, job: IndexJob) -> IndexJob:
        """Compare what the rows call for with what stands in the new storage, both at one timestamp."""
        job = await self._beat(job, "verifying", at_once=True)
        store = self._store
        layout = self._layout(job)
        assert layout.shadow is not None
        # All has been copied by ``now``.  A snapshot of exactly then has no window of uncertainty (what was acknowledged before
        # it need not be in it, only the same on both sides), so that no writer can make it begin anew, and again for ever.
        now = store.database.now()
        snapshot = store.database.begin_stale(Isolation.REPEATABLE_READ, lambda: now, exact=True)
        snapshot.begin_statement()
        snapshot.schema_checked = True
        told_ns = store.scheduler.now_ns()
        wanted = found = 0
        wanted_count = found_count = 0
        try:
            span = layout.table_span()
            parts: list[tuple[bytes, bytes, bytes, bool]] = [(span.start, span.end, span.identity or b"", True)]
            for garbage in table_garbage(layout.shadow.target.table):
                parts += [(start, end, garbage.identity, False) for start, end in garbage.spans]
            for start, end, identity, is_old in parts:
                position: bytes | None = start
                while position is not None:
                    batch = await snapshot.scan(position, end, limit=VERIFY_ROWS, picks=picks_of(identity))
                    position = batch.resume
                    for key, value in zip(batch.keys, batch.values, strict=True):
                        if not key[HASH_IDENTITY_START:HASH_IDENTITY_END].startswith(identity):
                            continue
                        if is_old:
                            for entry in layout.entries_in(layout.shadow, layout.decode(value), key):
                                wanted += _hash(entry.key, entry.value)
                                wanted_count += 1
                        else:
                            found += _hash(key, value)
                            found_count += 1
                    self._check_canceled(job.index)
                    if store.scheduler.now_ns() - told_ns > BEAT_INTERVAL_NS:
                        job = await self._beat(job, "verifying")
                        told_ns = store.scheduler.now_ns()
                    await pause(store.scheduler)
        finally:
            snapshot.rollback()
        if (wanted % _HASHES, wanted_count) != (found % _HASHES, found_count):
            raise DatabaseError.of(
                "XX001",
                "the re-sharded copy differs from the table",
                detail=f"{wanted_count} rows and index entries were expected, {found_count} were found.",
            )
        return job

    async def _beat(self, job: IndexJob, phase: str, *, at_once: bool = False) -> IndexJob:
        """Tell that the job goes on, and find out whether it still should."""
        transaction = self._begin()
        try:
            job = await self._locked_job(transaction, job.index)
            _check_wanted(job)
            job = replace(job, beat=job.beat + 1, phase=phase)
            transaction.put(keys.job_key(job.index), keys.encode_object(job))
            await transaction.commit()
        finally:
            transaction.rollback()
        self._report(job, at_once=at_once)
        return job

    async def _cut_over(self, job: IndexJob) -> None:
        async def change(own: DdlContext) -> None:
            await own.ddl.lock_tables([job.table])
            _check_wanted(await self._locked_job(own.transaction, job.index))
            table = _resharded(own, job)
            for garbage in table_garbage(replace(table, resharding=None)):
                own.ddl.dropped_storage(garbage)
            own.put_table(replace(table_to_be(table), version=table.version + 1))
            own.transaction.delete(keys.job_key(job.index))

        await self._in_transaction(self._context_of(job), change)

    async def _give_up(self, oid: int) -> None:
        """Undo the job; if that does not work out now, whoever sees its record stand still goes on undoing it."""
        try:
            job = await self._retried(lambda: self._own(oid))
            if job.kind != KIND:
                await super()._give_up(oid)
            else:
                await self._undo(job)
        except (Lost, KVError, DatabaseError) as error:
            logger.warning("job %d could not be undone yet: %r", oid, error)

    async def _undo(self, job: IndexJob) -> None:
        """Nobody writes to the new storage any more; then it goes."""
        self._canceled.discard(job.index)
        job = await self._retried(lambda: self._move_to(job, "d", "undoing", canceled=True))
        await self._drain(job)

        async def remove(own: DdlContext) -> None:
            await self._locked_job(own.transaction, job.index)
            table = _resharded(own, job)
            for garbage in table_garbage(table_to_be(table)):
                own.ddl.dropped_storage(garbage)
            own.put_table(replace(table, resharding=None, version=table.version + 1))
            own.transaction.delete(keys.job_key(job.index))

        await self._patiently(lambda: self._in_transaction(self._context_of(job), remove))
        self._report(replace(job, phase=""), at_once=True)

    # ------------------------------------------------------------------------------------------ surroundings

    def _context_of(self, job: IndexJob) -> DdlContext:
        database = self._store.state.databases.get(job.database)
        if database is None:
            raise Lost
        return self._context(database)

    def _layout(self, job: IndexJob) -> TableLayout:
        self._resharding(job)
        table = self._store.state.find_table(job.table)
        assert table is not None
        return bound_layout_of(self._context_of(job), table)


def _hash(key: bytes, value: bytes) -> int:
    return xxh3_64_intdigest(len(key).to_bytes(2, "big") + key + value)


def _check_wanted(job: IndexJob) -> None:
    if job.canceled:
        raise QueryCanceled("canceling statement due to user request")


def _resharded(own: DdlContext, job: IndexJob) -> Table:
    table = own.view.state.tables.get(job.table)
    if table is None or table.resharding is None or table.resharding.job != job.index:
        raise Lost
    return table
