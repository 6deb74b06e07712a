"""SHARD BY HASH: choosing the colocation group of a new table, and cutting a new group's key space into shards.

Tables whose shard columns have the same key kinds share a group unless they say otherwise, so ``orders SHARD BY HASH
(user_id)`` lies beside ``users SHARD BY HASH (id)`` without being told.  ``SHARDS n`` asks for a group of n pieces;
``COLOCATE WITH t`` names the group.  The 65,536 hash values are cut evenly; the ranges then live, split and move like
all others.
"""

from __future__ import annotations

from msgspec.structs import replace
from pydistdb_storage.keys import prefix_end

from pydistdb.sql.catalog import keys
from pydistdb.sql.catalog.constraints import column_named, column_numbered
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.descriptors import ColocationGroup, Sharding, Table
from pydistdb.sql.errors import DuplicateColumn, InvalidTableDefinition, UndefinedColumn
from pydistdb.sql.layout import HASH_HEAD
from pydistdb.sql.schema_statements import ShardBy
from pydistdb.sql.types import registry

LEAST_SHARDS = 3
MOST_SHARDS = 1_024
PING_TOPIC = "catalog.ping"
PING_TIMEOUT_NS = 1_000_000_000


async def shard(ddl: DdlContext, table: Table, shard_by: ShardBy) -> Table:
    """The new table as a hash-sharded one."""
    numbers = []
    for name in shard_by.columns:
        column = column_named(table, name)
        if column is None:
            raise UndefinedColumn(f'column "{name}" named in SHARD BY does not exist')
        if column.number in numbers:
            raise DuplicateColumn(f'column "{name}" appears twice in SHARD BY')
        numbers.append(column.number)
    kinds = tuple(shard_kind(table, number) for number in numbers)
    group = await _group(ddl, kinds, shard_by)
    return replace(table, sharding=Sharding(tuple(numbers), group))


def shard_kind(table: Table, number: int) -> str:
    """The key kind of a shard column: columns of equal kinds hash alike."""
    column = column_numbered(table, number)
    kind = registry.io(column.type_oid).key_kind
    if kind is None or kind == "interval":
        name = registry.format_type(column.type_oid, -1)
        raise InvalidTableDefinition(f'cannot use column "{column.name}" of type {name} in SHARD BY HASH')
    return kind


async def _group(ddl: DdlContext, kinds: tuple[str, ...], shard_by: ShardBy) -> int:
    state = ddl.view.catalog_state
    if shard_by.colocate_with is not None:
        other = ddl.table(shard_by.colocate_with)
        if other.sharding is None:
            raise InvalidTableDefinition(f'cannot colocate with table "{other.name}": it is not sharded by hash')
        if tuple(shard_kind(other, number) for number in other.sharding.columns) != kinds:
            raise InvalidTableDefinition(
                f'cannot colocate with table "{other.name}": the types of the shard columns differ'
            )
        return other.sharding.group
    requested = shard_by.shards or 0
    database = ddl.database_oid
    for group in state.groups.values():
        if (group.database, group.kinds, group.requested_shards) == (database, kinds, requested):
            return group.group
    shards = requested or max(LEAST_SHARDS, await node_count(ddl))
    number = await ddl.store.allocate_oids()
    ddl.apply([(keys.group_key(number), ColocationGroup(number, database, kinds, shards, requested))])
    await split_group(ddl, number, shards)
    return number


async def split_group(ddl: DdlContext, group: int, shards: int) -> None:
    """Cut a group's key space into ``shards`` even pieces (empty ranges do no harm if the DDL is rolled back)."""
    start = HASH_HEAD.pack(5, group, 0, 0, 0)[:5]
    boundaries = [start]
    boundaries += [HASH_HEAD.pack(5, group, piece * 65_536 // shards, 0, 0)[:7] for piece in range(1, shards)]
    await ddl.store.database.split([*boundaries, prefix_end(start)])


async def node_count(ddl: DdlContext) -> int:
    """How many nodes the cluster counts as alive."""
    return len(await ddl.store.database.broadcast(PING_TOPIC, b"", PING_TIMEOUT_NS))
