"""Filling a new index, or a table's new storage, from the rows that are there.

Rows are read in chunks at the transaction's snapshot (its own uncommitted rows included) and written by
``Database.ingest``: the new storage is private until the DDL commits, so it needs neither locks nor the transaction's
buffer, and other work gets its turn between two chunks.  A transaction with a fixed snapshot would not see what it
ingests now, so its entries go through the buffer.

Unique indexes are checked while they are built: the entries of a chunk against one another and against what was
written so far.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from pydistdb_storage.keys import prefix_end

from pydistdb.kv.api import Isolation
from pydistdb.sql.catalog.constraints import column_numbered
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.descriptors import Index, Table
from pydistdb.sql.errors import UniqueViolation
from pydistdb.sql.ingest import Ingest
from pydistdb.sql.layout import HASH_IDENTITY_END, HASH_IDENTITY_START, IndexLayout, TableLayout, picks_of
from pydistdb.sql.types import registry
from pydistdb.tasks import pause

CHUNK_ROWS = 512
MOST_REMEMBERED_KEYS = 1_000_000
"""Keys of a unique index being built that are kept in memory to find duplicates; beyond that they are looked up."""


async def stored_rows(ddl: DdlContext, table: Table) -> AsyncIterator[list[tuple[bytes, list[Any]]]]:
    """Every row of the table as (key, values), in chunks."""
    layout = TableLayout.of(table)
    span = layout.table_span()
    picks = picks_of(span.identity)
    decode = layout.decode
    position: bytes | None = span.start
    while position is not None:
        batch = await ddl.transaction.scan(position, span.end, limit=CHUNK_ROWS, picks=picks)
        if span.identity is None:
            yield [(key, decode(value)) for key, value in zip(batch.keys, batch.values, strict=True)]
        else:
            yield [
                (key, decode(value))
                for key, value in zip(batch.keys, batch.values, strict=True)
                if key[HASH_IDENTITY_START:HASH_IDENTITY_END] == span.identity
            ]
        position = batch.resume
        ddl.ddl.check_interrupt()
        await pause(ddl.store.scheduler)


class BulkWriter:
    """Writes entries to storage that only this transaction knows."""

    def __init__(self, ddl: DdlContext) -> None:
        self._ddl = ddl
        self._direct = ddl.transaction.isolation is Isolation.READ_COMMITTED
        self._ingest = Ingest(ddl.store.database.ingest, ddl.store.scheduler)

    async def write(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        if self._direct:
            await self._ingest.add(entries)
        else:
            for key, value in entries:
                self._ddl.transaction.put(key, value)

    async def finish(self) -> None:
        """Wait until everything is written."""
        await self._ingest.finish()

    async def __aenter__(self) -> BulkWriter:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        await (self._ingest.finish() if kind is None else self._ingest.settle())


class UniqueGuard:
    """Finds the second entry with a key."""

    def __init__(self, ddl: DdlContext, table: Table, index: Index, writer: BulkWriter | None = None) -> None:
        self._ddl = ddl
        self._writer = writer
        self._table = table
        self._index = index
        self._seen: set[bytes] = set()
        self._forgot = False

    async def check(self, entries: Sequence[tuple[bytes, list[Any]]]) -> None:
        """Check (key, row) pairs before they are written; raises UniqueViolation."""
        for key, row in entries:
            if key in self._seen:
                raise self.violation(row)
            self._seen.add(key)
        if self._forgot:
            if self._writer is not None:
                await self._writer.finish()  # what is to be found must be there
            await self._look_up(entries)
        if len(self._seen) > MOST_REMEMBERED_KEYS:
            self._seen.clear()
            self._forgot = True

    async def _look_up(self, entries: Sequence[tuple[bytes, list[Any]]]) -> None:
        transaction = self._ddl.store.database.begin(Isolation.READ_COMMITTED, read_only=True)
        transaction.begin_statement()
        try:
            if self._index.deferrable:  # entries end with their rows' keys
                for key, row in entries:
                    if (await transaction.scan(key, prefix_end(key), limit=1)).keys:
                        raise self.violation(row)
                return
            values = await transaction.get_many([key for key, _ in entries])
        finally:
            transaction.rollback()
        for (_, row), value in zip(entries, values, strict=True):
            if value is not None:
                raise self.violation(row)

    def violation(self, row: list[Any]) -> UniqueViolation:
        """The error for a second row with the key of ``row``."""
        from pydistdb.sql.exec.violations import index_key_text

        table, index = self._table, self._index
        layout = TableLayout.of(table).by_storage_id[index.storage_id]
        text = index_key_text(layout, layout.values(row), self._ddl.context)
        return UniqueViolation(
            f'could not create unique index "{index.name}"',
            detail=f"Key {text} is duplicated.",
            schema=self._ddl.view.state.schemas[table.schema].name,
            table=table.name,
            constraint=index.name,
        )


def describe_key(ddl: DdlContext, table: Table, numbers: Sequence[int], row: Sequence[Any]) -> str:
    """``(a, b)=(1, x)``, as in a DETAIL."""
    names = [column_numbered(table, number) for number in numbers]
    texts = [
        "null" if row[c.number - 1] is None else registry.io(c.type_oid).format(row[c.number - 1], ddl.context)
        for c in names
    ]
    return f"({', '.join(c.name for c in names)})=({', '.join(texts)})"


async def fill_index(ddl: DdlContext, table: Table, index: Index) -> None:
    """Write the entries of a new secondary index (``table`` has it already)."""
    layout = bound_layout_of(ddl, table)
    index_layout = layout.by_storage_id[index.storage_id]
    async with BulkWriter(ddl) as writer:
        guard = UniqueGuard(ddl, table, index, writer) if index.unique else None
        async for rows in stored_rows(ddl, table):
            entries = [(entry, row) for key, row in rows for entry in layout.entries_in(index_layout, row, key)]
            if guard is not None:
                await guard.check(unique_keys(layout, index_layout, (row for _, row in entries)))
            await writer.write([(entry.key, entry.value) for entry, _ in entries])


def unique_keys(layout: TableLayout, index: IndexLayout, rows: Iterable[list[Any]]) -> list[tuple[bytes, list[Any]]]:
    """The keys that rows must have for themselves in a unique index, with the rows."""
    keys = [(layout.unique_key(index, row), row) for row in rows]
    return [(key, row) for key, row in keys if key is not None]


def bound_layout_of(ddl: DdlContext, table: Table) -> TableLayout:
    """The table's layout, with the expressions of its indexes ready."""
    from pydistdb.sql.exec.index_keys import bound_layout

    return bound_layout(table, ddl.view)


async def copy_rows(
    ddl: DdlContext, target: Table, rows: AsyncIterator[list[list[Any]]], *, guard_keys: bool = True
) -> int:
    """Write rows into the empty storage of ``target`` with all its indexes; returns how many."""
    layout = bound_layout_of(ddl, target)
    count = 0
    async with BulkWriter(ddl) as writer:
        guards = {
            index.index.storage_id: UniqueGuard(ddl, target, index.index, writer)
            for index in layout.indexes
            if index.index.unique and guard_keys
        }
        async for chunk in rows:
            row_ids: Sequence[int | None] = [None] * len(chunk)
            if layout.has_row_id and chunk:
                first = await allocate_row_ids(ddl, target, len(chunk))
                row_ids = range(first, first + len(chunk))
            entries: list[tuple[bytes, bytes]] = []
            for row, row_id in zip(chunk, row_ids, strict=True):
                key = layout.primary_key(row, row_id)
                entries.append((key, layout.row_value(row)))
                entries += [(entry.key, entry.value) for entry in layout.entries(row, key)]
            for storage_id, guard in guards.items():
                await guard.check(unique_keys(layout, layout.by_storage_id[storage_id], chunk))
            await writer.write(entries)
            count += len(chunk)
    return count


async def allocate_row_ids(ddl: DdlContext, table: Table, count: int) -> int:
    """Hidden row ids for a table without primary key."""
    return await ddl.store.database.allocate_ids(row_id_counter(table), count)


def row_id_counter(table: Table) -> bytes:
    return b"rowid/%d" % table.oid
