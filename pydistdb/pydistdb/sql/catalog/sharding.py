"""SHARD BY: from the clause to a table's descriptor, and cutting a new key space into shards.

* HASH: tables whose shard columns have the same key kinds share a colocation group unless they say otherwise, so ``orders
  SHARD BY HASH (user_id)`` lies beside ``users SHARD BY HASH (id)`` without being told.  ``SHARDS n`` asks for a group of n
  pieces; ``COLOCATE WITH t`` names the group.  The 65,536 hash values are cut evenly.
* RANGE, LIST and DIRECTORY: the table has a group of its own, whose shards are numbered and begin each with a range.  A table
  of RANGE or LIST that is colocated with another (colocation.py) shares its group and shards, so rows of equal shards begin in
  one range, and are placed alike; the shards go with the last of the tables (garbage.py), which a claim on the others makes
  sure of.
* REFERENCE: the rows lie as in any table without shards; every node gets a copy (kv/placement/residency.py).

The ranges then live, split and move like all others.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from msgspec.structs import replace
from pydistdb_storage.keys import key_encoder, prefix_end

from pydistdb.kv.placement.residency import Place, is_at
from pydistdb.sql.catalog import colocation, keys
from pydistdb.sql.catalog.constraints import column_named, column_numbered
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.descriptors import ColocationGroup, Column, Shard, Sharding, Table
from pydistdb.sql.errors import (
    DuplicateColumn,
    FeatureNotSupported,
    InvalidParameterValue,
    InvalidTableDefinition,
    ProgramLimitExceeded,
    UndefinedColumn,
)
from pydistdb.sql.layout import HASH_HEAD, storage_prefix
from pydistdb.sql.pg_catalog import providers
from pydistdb.sql.schema_statements import ShardBy
from pydistdb.sql.shard_map import MOST_NUMBERED
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import EvalContext

LEAST_SHARDS = 3
MOST_ENTRIES = 10_000
"""Values that a directory assigns."""
PING_TOPIC = "catalog.ping"
PING_TIMEOUT_NS = 1_000_000_000
FIRST_USER_OID = 16_384
_SHARD_KINDS = frozenset({"bool", "int", "unsigned", "float", "decimal", "text", "bytes", "uuid", "timetz"})
"""Kinds whose equal values have equal bytes, whatever the version: what the shard of a stored row follows from."""


async def shard(ddl: DdlContext, table: Table, shard_by: ShardBy) -> Table:
    """The table (which has no rows under this clause yet) as the clause asks for."""
    if shard_by.strategy == "none":
        return replace(table, sharding=None, reference=False)
    if shard_by.strategy == "reference":
        table = replace(table, sharding=None, reference=True)
        await split_off(ddl, table)
        return table
    numbers = _shard_columns(table, shard_by)
    if shard_by.strategy == "hash":
        kinds = tuple(shard_kind(table, number) for number in numbers)
        group = await _group(ddl, kinds, shard_by)
        return replace(table, sharding=Sharding(numbers, group), reference=False)
    if len(numbers) > 1:
        raise FeatureNotSupported(f"SHARD BY {shard_by.strategy.upper()} takes a single column")
    if shard_by.colocate_with is not None:
        return replace(table, sharding=colocation.beside(ddl, table, numbers, shard_by), reference=False)
    column = column_numbered(table, numbers[0])
    shards = await _shards(ddl, column, table, shard_by)
    if len(shards) > MOST_NUMBERED:
        raise InvalidTableDefinition(f"a table can have at most {MOST_NUMBERED} shards")
    if shard_by.colocation_group is not None:
        joined = colocation.in_group(ddl, table, numbers, shard_by, shards)
        if joined is not None:
            return replace(table, sharding=joined, reference=False)
    directory = _directory(column, shard_by, len(shards)) if shard_by.strategy == "directory" else ()
    group = await ddl.store.allocate_oids()
    sharding = Sharding(numbers, group, shard_by.strategy, shards, directory)
    if shard_by.colocation_group is not None:
        colocation.record(ddl, sharding, shard_by.colocation_group)
    table = replace(table, sharding=sharding, reference=False)
    prefix = storage_prefix(table)
    boundaries = [prefix + number.to_bytes(2, "big") for number in range(len(shards))]
    await ddl.store.database.split([*boundaries, prefix_end(prefix)])
    return table


async def split_off(ddl: DdlContext, table: Table) -> None:
    """Give a table that every node has a copy of ranges of its own: a rule concerns whole ranges."""
    if table.reference:
        prefix = storage_prefix(table)
        await ddl.store.database.split([prefix, prefix_end(prefix)])


def _shard_columns(table: Table, shard_by: ShardBy) -> tuple[int, ...]:
    numbers: list[int] = []
    for name in shard_by.columns:
        column = column_named(table, name)
        if column is None:
            raise UndefinedColumn(f'column "{name}" named in SHARD BY does not exist')
        if column.number in numbers:
            raise DuplicateColumn(f'column "{name}" appears twice in SHARD BY')
        numbers.append(column.number)
    return tuple(numbers)


def shard_kind(table: Table, number: int, strategy: str = "hash") -> str:
    """The key kind of a shard column: columns of equal kinds hash alike."""
    column = column_numbered(table, number)
    kind = registry.io(column.type_oid).key_kind
    unusual = strategy != "hash" and column.type_oid >= FIRST_USER_OID
    if kind is None or kind not in _SHARD_KINDS or unusual:
        name = registry.format_type(column.type_oid, -1)
        raise InvalidTableDefinition(f'cannot use column "{column.name}" of type {name} in SHARD BY {strategy.upper()}')
    return kind


# ---------------------------------------------------------------------------------------------------- numbered shards


async def _shards(ddl: DdlContext, column: Column, table: Table, shard_by: ShardBy) -> tuple[Shard, ...]:
    shard_kind(table, column.number, shard_by.strategy)
    match shard_by.strategy:
        case "range":
            return _range_shards(column, shard_by) if shard_by.split_values else ()
        case "list":
            return _list_shards(ddl, column, shard_by)
    count = shard_by.shards or max(LEAST_SHARDS, await node_count(ddl))
    return tuple(Shard(str(number)) for number in range(1, min(count, MOST_NUMBERED + 1) + 1))


def _range_shards(column: Column, shard_by: ShardBy) -> tuple[Shard, ...]:
    values = [value_text(column, text) for text in shard_by.split_values]
    type_io = registry.io(column.type_oid)
    assert type_io.key_kind is not None
    encode = key_encoder([type_io.key_kind])
    encoded = [encode([type_io.parse(text, -1, EvalContext())]) for text in values]
    if any(after <= before for before, after in itertools.pairwise(encoded)):
        raise InvalidTableDefinition("the values of SPLIT AT must ascend")
    return (Shard("1"), *(Shard(str(number), (text,)) for number, text in enumerate(values, 2)))


def _list_shards(ddl: DdlContext, column: Column, shard_by: ShardBy) -> tuple[Shard, ...]:
    shards = []
    for piece in shard_by.pieces:
        _check_place(piece.placement)
        values = tuple(None if text is None else value_text(column, text) for text in piece.values)
        shards.append(Shard(piece.name, values, piece.is_default, piece.placement))
    _refuse_repeated([shard.name for shard in shards], 'shard "{}" is named twice')
    _refuse_repeated(
        [value for shard in shards for value in shard.values], 'value "{}" is listed twice in SHARD BY LIST'
    )
    if sum(shard.is_default for shard in shards) > 1:
        raise InvalidTableDefinition("there can be only one DEFAULT shard")
    return tuple(shards)


def _directory(column: Column, shard_by: ShardBy, count: int) -> tuple[tuple[str, int], ...]:
    """What the clause assigns to shards: each value with the number of its shard, counted from 0."""
    found: list[tuple[str, int]] = []
    for piece in shard_by.pieces:
        if not 1 <= int(piece.name) <= count:
            raise InvalidTableDefinition(f"there is no shard {piece.name}: the table has shards 1 to {count}")
        for text in piece.values:
            if text is None:
                raise InvalidTableDefinition("NULL cannot be assigned to a shard")
            found.append((value_text(column, text), int(piece.name) - 1))
    _refuse_repeated([text for text, _ in found], 'value "{}" is listed twice in SHARD BY DIRECTORY')
    if len(found) > MOST_ENTRIES:
        raise ProgramLimitExceeded(f"a directory can have at most {MOST_ENTRIES} entries")
    return tuple(found)


def _check_place(place: Place) -> None:
    """Raise unless a node of the cluster is there."""
    nodes = [node for node in providers.nodes() if node.is_live]
    if len({tier for tier, _ in place}) < len(place):
        raise InvalidTableDefinition("PLACED IN names a tier twice")
    for node in nodes:
        tiers = tuple((key, value) for key, _, value in (part.partition("=") for part in node.locality.split(",")))
        if is_at(place, node.node_id, node.name, tiers):
            return
    if nodes and place:
        named = ", ".join(f"{tier} {value}" for tier, value in place)
        raise InvalidParameterValue(f"no node is in {named}", hint="pydistdb_internal.nodes shows where the nodes are.")


def value_text(column: Column, text: str) -> str:
    """A value of the column as it is kept; raises what is wrong with it."""
    type_io = registry.io(column.type_oid)
    context = EvalContext()
    return type_io.format(type_io.parse(text, column.modifier, context), context)


def _refuse_repeated(found: Sequence[str | None], message: str) -> None:
    seen: set[str | None] = set()
    for each in found:
        if each in seen:
            raise InvalidTableDefinition(message.format("NULL" if each is None else each))
        seen.add(each)


# ---------------------------------------------------------------------------------------------------- hash


async def _group(ddl: DdlContext, kinds: tuple[str, ...], shard_by: ShardBy) -> int:
    state = ddl.view.catalog_state
    if shard_by.colocate_with is not None:
        other = ddl.table(shard_by.colocate_with)
        if other.sharding is None or other.sharding.strategy != "hash":
            raise InvalidTableDefinition(f'cannot colocate with table "{other.name}": it is not sharded by hash')
        if tuple(shard_kind(other, number) for number in other.sharding.columns) != kinds:
            raise InvalidTableDefinition(
                f'cannot colocate with table "{other.name}": the types of the shard columns differ'
            )
        group = state.groups.get(other.sharding.group)
        if shard_by.shards is not None and group is not None and group.shards != shard_by.shards:
            raise InvalidTableDefinition(
                f'cannot colocate with table "{other.name}": it has {group.shards} shards, not {shard_by.shards}'
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
