"""Clearing the storage of dropped tables and indexes.

A range-sharded table's storage is one span.  The rows of a hash-sharded table lie among those of its colocation group, so
its storage is found key by key: look for the next key of the table, clear that hash prefix of it, go on behind it.  This
runs in the background and lets other work in between.

With the rows go the ranges: those that begin in a span that is cleared are merged away (kv/placement/sweeping.py).  The ranges of
a colocation group stay for its next table, until its database is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec.structs import replace
from pydistdb_storage.keys import prefix_end

from pydistdb.kv.api import Database, Isolation, KVError
from pydistdb.sql.catalog import keys
from pydistdb.sql.catalog.descriptors import Garbage, Index, Table, table_to_be
from pydistdb.sql.layout import HASH_IDENTITY_START, IDENTITY, RANGE_HEAD, group_prefix, picks_of, storage_prefix
from pydistdb.tasks import Scheduler, gather, pause, sleep

ATTEMPTS = 20
RETRY_NS = 1_000_000_000
SCAN_ROWS = 256
CLEARED_AT_ONCE = 16
"""Hash prefixes: they share the rounds of commits."""


def _is_hashed(table: Table, index: Index) -> bool:
    is_first = index.storage_id == table.indexes[0].storage_id
    return table.sharding is not None and (is_first or not index.is_global)


def table_garbage(table: Table) -> list[Garbage]:
    """All storage of a table."""
    garbage = []
    prefix = RANGE_HEAD.pack(4, table.storage_id, 0)[:5]
    if table.sharding is None or any(not _is_hashed(table, index) for index in table.indexes):
        garbage.append(Garbage(((prefix, prefix_end(prefix)),)))
    if table.sharding is not None:
        garbage.append(Garbage((_group_span(table),), table.storage_id.to_bytes(4, "big")))
    if table.resharding is not None:
        garbage += table_garbage(table_to_be(table))
    return garbage


def dropped_garbage(table: Table, others: Iterable[Table]) -> list[Garbage]:
    """All storage of a table that goes for good, with the ranges that were cut for it; not if one of the ``others``, which stay,
    is colocated with it."""
    garbage = table_garbage(table)
    has_ranges = table.reference or (table.sharding is not None and table.sharding.strategy != "hash")
    if has_ranges and not any(beside(replace(table, resharding=None), others)):
        garbage.append(_whole(storage_prefix(table)))
    return garbage


def beside(table: Table, others: Iterable[Table]) -> Iterator[Table]:
    """The other tables whose rows lie in numbered shards that this one has or will have."""
    groups = numbered_groups(table)
    if groups:
        for other in others:
            if other.oid != table.oid and not groups.isdisjoint(numbered_groups(other)):
                yield other


def numbered_groups(table: Table) -> set[int]:
    """The groups whose numbered shards the table has or will have."""
    found = (table.sharding, None if table.resharding is None else table.resharding.sharding)
    return {sharding.group for sharding in found if sharding is not None and sharding.strategy != "hash"}


def group_garbage(group: int) -> Garbage:
    """The key space of a colocation group whose tables are gone."""
    return _whole(group_prefix(group))


def _whole(prefix: bytes) -> Garbage:
    # A range was cut off behind it, too: it begins at the very end.
    return Garbage(((prefix, prefix_end(prefix) + b"\x00"),))


def index_garbage(table: Table, index: Index) -> Garbage:
    """The storage of one secondary index."""
    if _is_hashed(table, index):
        return Garbage((_group_span(table),), IDENTITY.pack(table.storage_id, index.storage_id))
    head = RANGE_HEAD.pack(4, table.storage_id, index.storage_id)
    return Garbage(((head, prefix_end(head)),))


def _group_span(table: Table) -> tuple[bytes, bytes]:
    start = storage_prefix(table)
    return start, prefix_end(start)


async def clear_garbage(database: Database, scheduler: Scheduler, garbage: Garbage) -> bool:
    """Remove everything the garbage names; False if that did not work out."""
    for _ in range(ATTEMPTS):
        try:
            for start, end in garbage.spans:
                if garbage.identity:
                    await _clear_identity(database, scheduler, start, end, garbage.identity)
                else:
                    await database.clear_range(start, end)
            return True
        except KVError:
            await sleep(scheduler, RETRY_NS)
    return False


async def _clear_identity(database: Database, scheduler: Scheduler, start: bytes, end: bytes, identity: bytes) -> None:
    transaction = database.begin(Isolation.READ_COMMITTED, read_only=True)
    prefix_length = HASH_IDENTITY_START + len(identity)
    try:
        position: bytes | None = start
        while position is not None:
            transaction.begin_statement()
            batch = await transaction.scan(position, end, limit=SCAN_ROWS, picks=picks_of(identity))
            found = [key[:prefix_length] for key in batch.keys if key[HASH_IDENTITY_START:].startswith(identity)]
            prefixes = list(dict.fromkeys(found))
            for first in range(0, len(prefixes), CLEARED_AT_ONCE):
                some = prefixes[first : first + CLEARED_AT_ONCE]
                await gather(scheduler, [database.clear_range(prefix, prefix_end(prefix)) for prefix in some])
            position = batch.resume
            await pause(scheduler)
    finally:
        transaction.rollback()


async def forget_garbage(database: Database, scheduler: Scheduler, garbage_id: int, garbage: Garbage) -> None:
    """Clear the garbage, then its record."""
    if not await clear_garbage(database, scheduler, garbage):
        return
    transaction = database.begin(Isolation.READ_COMMITTED)
    try:
        transaction.begin_statement()
        transaction.delete(keys.garbage_key(garbage_id))
        await transaction.commit()
    except KVError:
        transaction.rollback()  # the next node that starts clears it again, which does no harm


async def recorded_garbage(database: Database) -> list[tuple[int, Garbage]]:
    """What is to be cleared, by number: of dropped tables and indexes, and of layouts that tables had before."""
    transaction = database.begin(Isolation.READ_COMMITTED, read_only=True)
    transaction.begin_statement()
    try:
        end = prefix_end(keys.GARBAGE_PREFIX)
        batch = await transaction.scan(keys.GARBAGE_PREFIX, end, limit=SCAN_ROWS)
    finally:
        transaction.rollback()
    return [
        (keys.unpack_key(key)[1][0], keys.decode_object(key, value))
        for key, value in zip(batch.keys, batch.values, strict=True)
    ]


async def clear_leftovers(database: Database, scheduler: Scheduler) -> int:
    """Clear the garbage that earlier processes recorded and did not get to; returns how many pieces there were."""
    found = await recorded_garbage(database)
    for garbage_id, garbage in found:
        await forget_garbage(database, scheduler, garbage_id, garbage)
    return len(found)
