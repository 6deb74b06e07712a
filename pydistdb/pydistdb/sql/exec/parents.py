"""The parents that new references need: found and locked FOR KEY SHARE, so that they stay until the transaction ends.

A reference to the primary key locks that key.  One to another unique key goes by its index entry, and locks the row only:
whoever changes a row has that locked from its statement on, but takes the entry away as it commits::

    t1 UPDATE parent SET code = 7 WHERE code = 5     has the row; the entry 5 will go
    t2 INSERT INTO child … (5)                       sees the entry 5, waits for the row
    t1 COMMIT                                        the entry goes; t2 has the row, whose code is 7: looks again, no parent

With the entry locked as well t1 would wait for t2 now, and t2 for t1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydistdb.kv.api import Isolation, LockStrength
from pydistdb.sql.catalog.descriptors import ForeignKey, Table
from pydistdb.sql.errors import FeatureNotSupported, SerializationFailure
from pydistdb.sql.exec import violations
from pydistdb.sql.exec.foreign_values import KeyMatch
from pydistdb.sql.exec.run import State
from pydistdb.sql.exec.scan import get_many
from pydistdb.sql.exec.writes import ChildEvent
from pydistdb.sql.layout import IndexLayout, TableLayout

MOST_LOOKS = 1_000
"""How often a key may have gone to another row while that was waited for."""


async def check_parents(events: Sequence[ChildEvent], state: State) -> None:
    """Lock the rows that new references mean; raises ForeignKeyViolation where there is none."""
    by_key: dict[int, dict[tuple[Any, ...], ChildEvent]] = {}
    for event in events:
        if None in event.values:
            raise violations.mixed_key(state.run.catalog, event.table, event.key)
        by_key.setdefault(event.key.oid, {})[event.values] = event
    missing: set[tuple[int, tuple[Any, ...]]] = set()
    for oid, group in by_key.items():
        event = next(iter(group.values()))
        key = event.key
        found = await _lock_parents(event.table, table_of(key.referenced_table, state), key, list(group), state)
        missing.update((oid, values) for values in group if values not in found)
        await state.breathe()
    for event in events if missing else ():
        if (event.key.oid, event.values) in missing:
            parent = table_of(event.key.referenced_table, state)
            raise violations.parent_missing(
                state.run.catalog, event.table, event.key, parent, event.values, state.context
            )


async def _lock_parents(
    child: Table, parent: Table, key: ForeignKey, wanted: Sequence[tuple[Any, ...]], state: State
) -> set[tuple[Any, ...]]:
    """Lock the parent rows with these key values; returns the values found."""
    layout = TableLayout.of(parent)
    index = referenced_index(layout, key)
    match = KeyMatch(child, parent, key)
    keys = []
    possible = []
    for values in wanted:
        theirs = match.to_parent(values, state.context)
        if theirs is not None:
            by_column = dict(zip(key.referenced_columns, theirs, strict=True))
            keys.append(full_key(layout, index, [by_column[column] for column in index.columns]))
            possible.append(values)
    if index is layout.primary:
        answers = await state.transaction.lock(keys, LockStrength.KEY_SHARE)
        return {values for values, answer in zip(possible, answers, strict=True) if answer.value is not None}
    return await _lock_by_entries(layout, index, dict(zip(possible, keys, strict=True)), state)


async def _lock_by_entries(
    layout: TableLayout, index: IndexLayout, wanted: dict[tuple[Any, ...], bytes], state: State
) -> set[tuple[Any, ...]]:
    """Lock the rows that the entries of an index lead to; ``wanted``: entries by key values.  Returns the values found.

    The row is looked at once it is locked: if its key has become another one, somebody else may have that key now."""
    found: set[tuple[Any, ...]] = set()
    transaction = state.transaction
    for _ in range(MOST_LOOKS):
        if transaction.isolation is Isolation.READ_COMMITTED:
            transaction.begin_statement()
        entries = await get_many(transaction, list(wanted.values()))
        present_now = {values: entry for values, entry in zip(wanted, entries, strict=True) if entry is not None}
        if not present_now:
            break
        row_keys = index.row_keys(list(present_now.values()))
        rows = await transaction.lock(row_keys, LockStrength.KEY_SHARE)
        moved: dict[tuple[Any, ...], bytes] = {}
        for values, row_key, row in zip(present_now, row_keys, rows, strict=True):
            entry = None if row.value is None else layout.entry(index, layout.decode(row.value), row_key)
            if entry is not None and entry.key == wanted[values]:
                found.add(values)
            elif row.changed:
                moved[values] = wanted[values]
        wanted = moved
        if not wanted or transaction.isolation is not Isolation.READ_COMMITTED:
            break
    return found


def full_key(layout: TableLayout, index: IndexLayout, values: Sequence[Any]) -> bytes:
    """The key of the entry with these values."""
    key = layout.point_key(index, values)
    if key is None:
        raise FeatureNotSupported("a foreign key must refer to a key that includes the shard columns, or a global one")
    return key


def referenced_index(layout: TableLayout, key: ForeignKey) -> IndexLayout:
    """The index of the parent that tells whether a key is there."""
    wanted = set(key.referenced_columns)
    for index in layout.indexes:
        told = not index.hashed or index.shard_positions is not None  # else another one keeps the key unique everywhere
        usable = told and index.index.is_arbiter and index.index.is_plain and not index.is_row_id
        if usable and set(index.columns) == wanted:
            return index
    raise FeatureNotSupported(f'the key that foreign key "{key.name}" refers to is gone')


def table_of(oid: int, state: State) -> Table:
    """The table as the statement knows it."""
    table = state.run.catalog.table_by_oid(oid)
    if table is None:
        raise SerializationFailure(f"table {oid} was dropped while a foreign key was checked")
    return table
