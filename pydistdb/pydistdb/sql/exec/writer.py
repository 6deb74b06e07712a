"""What a statement writes: rows and index entries, held back until the statement has read all it reads.

A statement must not see its own changes (``INSERT INTO t SELECT … FROM t``; WITH queries that change data next to ones that
read it).  So its writes gather in ``StatementWrites.pending`` and go to the transaction in one go at the end, followed by the
foreign key checks.  Unique keys are checked row by row, against the transaction's state with the pending writes on top, as
Postgres does (``UPDATE t SET id = id + 1`` may fail on the way).

Two ways to know that a key is free: lock it and look; or, in an autocommit INSERT, write it as one that must be absent and
leave the check to the commit, which then costs a single proposal.  If the commit finds that somebody else holds such a key, it
does not wait, for that could not be interrupted: the statement runs again, and locks its keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from pydistdb.kv.api import Database, LockStrength, MustWait
from pydistdb.sql.catalog.descriptors import ForeignKey, Table
from pydistdb.sql.exec.deferred import UniqueCheck
from pydistdb.sql.exec.index_keys import bind_layout
from pydistdb.sql.exec.run import State
from pydistdb.sql.exec.violations import duplicate_key
from pydistdb.sql.exec.writes import ChildEvent, ParentEvent, StatementWrites
from pydistdb.sql.layout import ROW_ID, IndexEntry, IndexLayout, TableLayout, storage_ids_of

ROW_ID_BLOCK = 1_000
LOAD_BATCHES = 20
"""Batches of a load that one block of row ids is for: a block costs a durable write."""
MOST_LOCKED_FIRST = 1_000
"""Rows of an autocommit INSERT that are locked first when it runs again."""
_MISSING: Any = object()

Row = list[Any]


class RowIds:
    """Hidden row ids, taken from the cluster's counter in blocks."""

    _blocks: WeakKeyDictionary[Any, dict[int, tuple[int, int]]] = WeakKeyDictionary()

    @classmethod
    async def take(cls, database: Database, table: Table, count: int) -> Sequence[int]:
        """``count`` fresh ids."""
        blocks = cls._blocks.setdefault(database, {})
        start, end = blocks.get(table.oid, (0, 0))
        if end - start < count:
            size = count * LOAD_BATCHES if count >= ROW_ID_BLOCK else ROW_ID_BLOCK
            start = await database.allocate_ids(b"rowid/%d" % table.oid, size)
            end = start + size
        blocks[table.oid] = (start + count, end)
        return range(start, start + count)

    @classmethod
    def try_take(cls, database: Database, table: Table) -> int:
        """One fresh id out of this node's block; raises MustWait if it is used up."""
        blocks = cls._blocks.get(database)
        start, end = (0, 0) if blocks is None else blocks.get(table.oid, (0, 0))
        if blocks is None or start == end:
            raise MustWait
        blocks[table.oid] = (start + 1, end)
        return start


class TableWriter:
    """Inserts, updates and deletes rows of one table through a statement's writes.  Rows are lists by (number - 1)."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.layout = TableLayout.of(table)
        self.uniques = [index for index in self.layout.written if index.index.unique and not index.index.deferrable]
        self.deferrable = [index for index in self.layout.written if index.index.unique and index.index.deferrable]
        key_columns = {
            column.column for index in table.indexes if index.unique or index.primary for column in index.columns
        }
        if table.sharding is not None:
            key_columns |= set(table.sharding.columns)
        self.key_columns = frozenset(key_columns)
        self.unique_ids = {index.index.storage_id for index in self.layout.secondary if index.index.unique}

    def lock_strength(self, assigned: Iterable[int]) -> LockStrength:
        """How strongly an UPDATE of these columns locks its rows."""
        return LockStrength.UPDATE if self.key_columns & set(assigned) else LockStrength.NO_KEY_UPDATE

    def unique_among(self, writes: Mapping[bytes, bytes | None]) -> list[bytes]:
        """Of the keys that are deleted, those of unique indexes."""
        if not self.unique_ids:
            return []
        gone = [key for key, value in writes.items() if value is None]
        return [key for key in gone if storage_ids_of(key)[1] in self.unique_ids]

    def bind(self, state: State) -> None:
        """Make expressions and predicates of the table's indexes ready."""
        bind_layout(self.layout, state.run.catalog)

    def inserts_row_only(self) -> bool:
        """Whether nothing is left to check once a new row has its unique keys."""
        return not self.deferrable and not self.table.foreign_keys

    def changes_row_only(self, assigned: set[int]) -> bool:
        """Whether an UPDATE of these columns writes the row and nothing else, and has nothing to check afterwards."""
        return not (
            self.key_columns & assigned
            or any(index.depends_on(assigned) for index in self.layout.secondary)
            or any(assigned.intersection(foreign_key.columns) for foreign_key in self.table.foreign_keys)
        )

    # ------------------------------------------------------------------------------------------ insert

    async def keys_of(self, rows: Sequence[Row], state: State) -> list[bytes]:
        """The primary keys of new rows."""
        layout = self.layout
        if not layout.is_bound:
            self.bind(state)
        if not layout.has_row_id:
            return [layout.primary_key(row) for row in rows]
        ids = await RowIds.take(state.run.database, self.table, len(rows))
        if not layout.primary.hashed:
            head, pack = layout.primary.head, ROW_ID.pack
            return [head + pack(row_id) for row_id in ids]
        return [layout.primary_key(row, row_id) for row, row_id in zip(rows, ids, strict=True)]

    def unique_keys(self, row: Row, key: bytes) -> list[tuple[IndexLayout, bytes]]:
        """The keys that ``row`` must have for itself."""
        found = [] if self.layout.has_row_id else [(self.layout.primary, key)]
        for index in self.uniques:
            entry = self.layout.entry(index, row, key)
            if entry is not None and entry.unique:
                found.append((index, entry.key))
        return found

    async def insert(self, rows: Sequence[Row], state: State) -> list[bytes]:
        """Insert complete, checked rows; raises UniqueViolation.  Returns their keys."""
        keys = await self.keys_of(rows, state)
        writes = state.writes
        if state.run.autocommit and not (state.run.attempt and len(writes.touched) + len(rows) <= MOST_LOCKED_FIRST):
            for row, key in zip(rows, keys, strict=True):
                for index, unique_key in self.unique_keys(row, key):
                    known = writes.pending.get(unique_key, _MISSING)
                    if known is _MISSING:
                        writes.absent.add(unique_key)
                    elif known is not None:
                        raise self.duplicate(index, row, state)
                self.write_new(row, key, state)
            return keys
        wanted = [self.unique_keys(row, key) for row, key in zip(rows, keys, strict=True)]
        taken = await self.lock_free(dict.fromkeys(key for pairs in wanted for _, key in pairs), state)
        for row, key, pairs in zip(rows, keys, wanted, strict=True):
            for index, unique_key in pairs:
                if writes.pending.get(unique_key, taken.get(unique_key)) is not None:
                    raise self.duplicate(index, row, state)
            self.write_new(row, key, state)
        return keys

    async def lock_free(self, keys: Iterable[bytes], state: State) -> dict[bytes, bytes]:
        """Lock keys that should be free; returns those that are taken, with their values."""
        wanted = list(keys)
        if not wanted:
            return {}
        locked = await state.transaction.lock(wanted, LockStrength.UPDATE)
        return {key: answer.value for key, answer in zip(wanted, locked, strict=True) if answer.value is not None}

    def duplicate(self, index: IndexLayout, row: Row, state: State) -> Exception:
        """The error for a row whose unique key is taken."""
        return duplicate_key(state.run.catalog, index, index.values(row), state.context)

    def write_new(self, row: Row, key: bytes, state: State) -> None:
        """Write a row whose unique keys are known to be free."""
        writes = state.writes
        writes.pending[key] = self.layout.row_value(row)
        if self.layout.written:
            for entry in self.layout.entries(row, key):
                writes.pending[entry.key] = entry.value
        writes.touched.add(key)
        if self.deferrable:
            self._check_later(row, writes)
        for foreign_key in self.table.foreign_keys:
            self._refer(foreign_key, row, key, writes)

    def _refer(self, foreign_key: ForeignKey, row: Row, key: bytes, writes: StatementWrites) -> None:
        values = tuple([row[number - 1] for number in foreign_key.columns])
        if None not in values or (foreign_key.match_full and any(value is not None for value in values)):
            writes.child_events.append(ChildEvent(self.table, foreign_key, values, key))

    def _check_later(self, row: Row, writes: StatementWrites) -> None:
        """Note the keys of deferrable constraints that the row takes."""
        for index in self.deferrable:
            key = self.layout.unique_key(index, row)
            if key is not None:
                stored = index.index
                check = UniqueCheck(stored.oid, self.table.oid, stored.storage_id, key, tuple(index.values(row)))
                writes.unique_checks[check] = stored.deferred

    # ------------------------------------------------------------------------------------------ update, delete

    async def update(self, old: Row, new: Row, key: bytes, state: State) -> bytes:
        """Replace a locked row; returns its new key."""
        layout, writes = self.layout, state.writes
        if not layout.is_bound:
            self.bind(state)
        changed = {
            position + 1
            for position, value in enumerate(new)
            if value is not (before := old[position]) and (value != before or type(value) is not type(before))
        }
        new_key = key
        if changed & self.key_columns:
            if layout.has_row_id:
                new_key = layout.head_of_row(layout.primary, new) + layout.primary_suffix(key)
            else:
                new_key = layout.primary_key(new)
        moved = new_key != key
        if moved and not layout.has_row_id:
            await self._claim(layout.primary, new_key, new, state)
        if moved:
            writes.pending[key] = None
        for index in layout.secondary:
            if moved or index.depends_on(changed) or (index.hashed and changed & self.key_columns):
                await self._reindex(index, old, new, key, new_key, state)
        writes.pending[new_key] = layout.row_value(new)
        writes.touched.add(key)
        writes.touched.add(new_key)
        if self.deferrable and changed & self.key_columns:
            self._check_later(new, writes)
        for foreign_key in self.table.foreign_keys:
            if changed.intersection(foreign_key.columns) or (moved and foreign_key.deferrable):
                self._refer(foreign_key, new, new_key, writes)
        if self.table.referenced_by and changed & self.key_columns:
            writes.parent_events.append(ParentEvent(self.table, old, new))
        return new_key

    async def _reindex(self, index: IndexLayout, old: Row, new: Row, key: bytes, new_key: bytes, state: State) -> None:
        if index.has_many:
            self._reindex_many(index, old, new, key, new_key, state)
            return
        before = self.layout.entry(index, old, key)
        after = self.layout.entry(index, new, new_key) if index.index.state != "d" else None
        if before is not None and (after is None or before.key != after.key):
            self._remove(index, before, key, state)
        elif before is not None and before.unique and key != new_key:
            state.writes.given_up.add(before.key)
        if after is not None:
            if after.unique and (before is None or before.key != after.key):
                await self._claim(index, after.key, new, state)
            elif after.unique and index.index.state:
                await self._claim(index, after.key, new, state, key)
            state.writes.pending[after.key] = after.value

    def _reindex_many(self, index: IndexLayout, old: Row, new: Row, key: bytes, new_key: bytes, state: State) -> None:
        """Change the entries of an inverted index (or of a table that is re-sharded); while it is built, those that stay may
        not be there yet."""
        pending = state.writes.pending
        before = {entry.key for entry in self.layout.entries_in(index, old, key, old=True)}
        after = self.layout.entries_in(index, new, new_key) if index.index.state != "d" else []
        for gone in before.difference(entry.key for entry in after):
            pending[gone] = None
        for entry in after:
            if index.index.state or entry.key not in before:
                pending[entry.key] = entry.value

    async def _claim(self, index: IndexLayout, key: bytes, row: Row, state: State, own: bytes = b"") -> None:
        """Make sure that nobody (but the row at ``own``) has a unique key that an update moves to."""
        taken = await self.lock_free([key], state)
        value = state.writes.pending.get(key, taken.get(key))
        if value is None:
            return
        owner = index.row_keys([value])[0]
        if owner != own and (key, owner) not in state.writes.released:
            raise self.duplicate(index, row, state)

    def _remove(self, index: IndexLayout, entry: IndexEntry, key: bytes, state: State) -> None:
        """Delete the entry of the row at ``key``.

        In a unique index that is being built, a row may not have its entry yet while another row has that key: whose it
        is will be looked up before the statement's writes leave (``settle_released``)."""
        if entry.unique and index.index.state:
            state.writes.released[entry.key, key] = index
        else:
            state.writes.pending[entry.key] = None
            if entry.unique:
                state.writes.given_up.add(entry.key)

    def delete(self, old: Row, key: bytes, state: State) -> None:
        """Delete a locked row."""
        layout, writes = self.layout, state.writes
        if not layout.is_bound:
            self.bind(state)
        writes.pending[key] = None
        for index in layout.secondary:
            for entry in layout.entries_in(index, old, key, old=True):
                self._remove(index, entry, key, state)
        writes.touched.add(key)
        if self.table.referenced_by:
            writes.parent_events.append(ParentEvent(self.table, old, None))


async def hold_given_up(state: State) -> None:
    """In a transaction block, lock the keys that rows leave: who wants one waits until it is known whether it is free.

    A statement of its own is over in a moment: its commit takes the keys and lets them go."""
    writes = state.writes
    given_up, writes.given_up = writes.given_up, set()
    if given_up and not state.run.autocommit:
        await state.transaction.lock(sorted(given_up), LockStrength.UPDATE)


async def settle_released(state: State) -> None:
    """Delete the entries that were given up in unique indexes being built, where they are the rows' own."""
    writes = state.writes
    released, writes.released = writes.released, {}
    looked_up = list(dict.fromkeys(key for key, _ in released if key not in writes.pending))
    answers = await state.transaction.lock(looked_up, LockStrength.UPDATE) if looked_up else []
    stored = {key: answer.value for key, answer in zip(looked_up, answers, strict=True)}
    for (key, row_key), index in released.items():
        value = writes.pending[key] if key in writes.pending else stored[key]
        if value is not None and index.row_keys([value])[0] == row_key:
            writes.pending[key] = None
