"""Tables SHARD BY RANGE or LIST that share their shards: how they come together, and what their group is called.

    CREATE TABLE users … SHARD BY RANGE (id) (SPLIT AT VALUES (10))       a group of its own, of which there is no record
    CREATE TABLE orders … SHARD BY RANGE (user_id) COLOCATE WITH users    the group gets a record with a name: users
    … SHARD BY RANGE (id) (SPLIT AT VALUES (10)) COLOCATE IN GROUP users  how both are shown, and dumped

The last form makes the group, or joins it if its shards are the same: pg_dump orders tables by their names, or leaves some
out, so whichever is restored first must be able to begin.  A record outlives its tables; the next table that asks for the
name then makes the group anew.
"""

from __future__ import annotations

from msgspec.structs import replace

from pydistdb.kv.versions import Feature
from pydistdb.sql.catalog import keys
from pydistdb.sql.catalog.constraints import column_numbered
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.descriptors import ColocationGroup, Shard, Sharding, Table
from pydistdb.sql.catalog.garbage import numbered_groups
from pydistdb.sql.errors import FeatureNotSupported, InvalidTableDefinition, ObjectInUse, UndefinedObject
from pydistdb.sql.schema_statements import ShardBy


def beside(ddl: DdlContext, table: Table, numbers: tuple[int, ...], shard_by: ShardBy) -> Sharding:
    """COLOCATE WITH: the shards of the other table, whose group has a name from now on."""
    assert shard_by.colocate_with is not None
    other = ddl.table(shard_by.colocate_with)
    found = _shared(ddl, table, numbers, shard_by, other, f'with table "{other.name}"')
    if found.group not in ddl.view.catalog_state.groups:
        name = other.name if _recorded(ddl, other.name) is None else f"{other.name}_{found.group}"
        record(ddl, found, name)
    return found


def in_group(
    ddl: DdlContext, table: Table, numbers: tuple[int, ...], shard_by: ShardBy, shards: tuple[Shard, ...]
) -> Sharding | None:
    """COLOCATE IN GROUP: the group's shards, which are those that the clause tells, if any.  None: there is no such group yet."""
    assert shard_by.colocation_group is not None
    _check_supported(ddl, shard_by)
    group = _recorded(ddl, shard_by.colocation_group)
    member = None if group is None else _member(ddl, table, group)
    if member is None:
        if not shards:
            raise UndefinedObject(f'colocation group "{shard_by.colocation_group}" does not exist')
        if group is not None:
            ddl.apply([(keys.group_key(group.group), None)])
        return None
    where = f'in group "{shard_by.colocation_group}"'
    found = _shared(ddl, table, numbers, shard_by, member, where)
    if shards and shards != found.shards:
        raise InvalidTableDefinition(f"cannot colocate {where}: it has other shards")
    return found


def record(ddl: DdlContext, sharding: Sharding, name: str) -> None:
    """Give a group its name."""
    group = ColocationGroup(sharding.group, ddl.database_oid, (), len(sharding.shards), name=name)
    ddl.apply([(keys.group_key(group.group), group)])


def _recorded(ddl: DdlContext, name: str) -> ColocationGroup | None:
    groups = ddl.view.catalog_state.groups.values()
    return next((group for group in groups if (group.database, group.name) == (ddl.database_oid, name)), None)


def _member(ddl: DdlContext, table: Table, group: ColocationGroup) -> Table | None:
    tables = ddl.view.state.tables.values()
    return next((other for other in tables if other.oid != table.oid and group.group in numbered_groups(other)), None)


def _shared(
    ddl: DdlContext, table: Table, numbers: tuple[int, ...], shard_by: ShardBy, other: Table, where: str
) -> Sharding:
    """The shards of a table that another is to be colocated with."""
    _check_supported(ddl, shard_by)
    if other.resharding is not None:
        raise ObjectInUse(f'cannot colocate {where}: table "{other.name}" is being re-sharded')
    if other.sharding is None or other.sharding.strategy != shard_by.strategy:
        raise InvalidTableDefinition(f"cannot colocate {where}: it is not sharded by {shard_by.strategy}")
    if column_numbered(table, numbers[0]).type_oid != column_numbered(other, other.sharding.columns[0]).type_oid:
        raise InvalidTableDefinition(f"cannot colocate {where}: the types of the shard columns differ")
    return replace(other.sharding, columns=numbers)


def _check_supported(ddl: DdlContext, shard_by: ShardBy) -> None:
    if not ddl.store.database.is_active(Feature.SHARED_SHARDS):
        raise FeatureNotSupported(
            f"COLOCATE is not supported for SHARD BY {shard_by.strategy.upper()} before the upgrade is done"
        )
