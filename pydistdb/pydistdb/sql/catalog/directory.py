"""The directory of a table that is SHARD BY DIRECTORY: which values have a shard of their own choosing.

    proddb.directory_assign('tenants', '7', 2)     from now on rows with tenant = 7 go to shard 2; refused if there are such rows
                                                   in another shard
    proddb.directory_move('tenants', '7', 2)       the same, and takes the rows along

The directory is part of the table's descriptor, so every node has it, and it changes as any descriptor does: under the
table's lock, in one transaction with the rows that move.  Readers and writers of the table wait for that long.
"""

from __future__ import annotations

from msgspec.structs import replace

from pydistdb.sql.catalog.constraints import column_numbered
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.descriptors import Sharding, Table
from pydistdb.sql.catalog.sharding import MOST_ENTRIES, value_text
from pydistdb.sql.errors import InvalidParameterValue, ObjectInUse, ProgramLimitExceeded, UndefinedTable
from pydistdb.sql.layout import TableLayout

MOST_MOVED_ROWS = 100_000
CHUNK_ROWS = 512


async def assign(ddl: DdlContext, oid: int, text: str, shard: int, *, move: bool) -> int:
    """Enter a value's shard (counted from 1) in the directory; returns how many rows went there."""
    from pydistdb.sql.exec.index_keys import bound_layout

    ddl.require_table_owner(_table(ddl, oid))
    await ddl.ddl.lock_tables([oid])
    table = _table(ddl, oid)
    sharding = table.sharding
    if sharding is None or sharding.strategy != "directory":
        raise InvalidParameterValue(f'table "{table.name}" is not sharded by directory')
    if not 1 <= shard <= len(sharding.shards):
        raise InvalidParameterValue(f'table "{table.name}" has shards 1 to {len(sharding.shards)}')
    if table.resharding is not None:
        raise ObjectInUse(f'table "{table.name}" is being re-sharded')
    text = value_text(column_numbered(table, sharding.columns[0]), text)
    after = replace(table, sharding=_with_entry(sharding, text, shard - 1), version=table.version + 1)
    count = await _move_rows(ddl, bound_layout(table, ddl.view), bound_layout(after, ddl.view), text, table, move=move)
    ddl.put_table(after)
    return count


def _table(ddl: DdlContext, oid: int) -> Table:
    table = ddl.view.state.tables.get(oid)
    if table is None:
        raise UndefinedTable(f"relation with OID {oid} does not exist")
    return table


def _with_entry(sharding: Sharding, text: str, number: int) -> Sharding:
    directory = dict(sharding.directory) | {text: number}
    if len(directory) > MOST_ENTRIES:
        raise ProgramLimitExceeded(f"a directory can have at most {MOST_ENTRIES} entries")
    return replace(sharding, directory=tuple(directory.items()))


async def _move_rows(
    ddl: DdlContext, before: TableLayout, after: TableLayout, text: str, table: Table, *, move: bool
) -> int:
    """Write the rows of a value, and their index entries, where the new directory has them."""
    assert before.shards is not None and table.sharding is not None
    number = table.sharding.columns[0]
    value = before.types[number].parse(text, -1, ddl.context)
    former = before.shard_number([value])
    if former == after.shard_number([value]):
        return 0
    transaction, primary = ddl.transaction, before.primary
    leads = primary.shard_positions == (0,)
    span = before.bounds(primary, [value] if leads else [], shard=former)
    assert span is not None
    start: bytes | None = span.start
    count = 0
    while start is not None:
        batch = await transaction.scan(start, span.end, limit=CHUNK_ROWS)
        for key, stored in zip(batch.keys, batch.values, strict=True):
            row = before.decode(stored)
            if before.shards.key([row[number - 1]]) != before.shards.key([value]):
                continue
            if not move:
                raise ObjectInUse(
                    f'table "{table.name}" has rows with this key in shard {former + 1}',
                    hint="proddb.directory_move takes them along.",
                )
            count += 1
            if count > MOST_MOVED_ROWS:
                raise ProgramLimitExceeded(f"at most {MOST_MOVED_ROWS} rows can be moved at a time")
            new_key = after.head_of_row(after.primary, row) + before.primary_suffix(key)
            transaction.delete(key)
            for index in before.secondary:
                for entry in before.entries_in(index, row, key):
                    transaction.delete(entry.key)
            transaction.put(new_key, after.row_value(row))
            for entry in after.entries(row, new_key):
                transaction.put(entry.key, entry.value)
        start = batch.resume
        ddl.ddl.check_interrupt()
    return count
