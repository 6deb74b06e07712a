"""REINDEX and CLUSTER.

REINDEX builds secondary indexes anew from the rows, beside the old ones, which go with the commit.  The primary index *is* the
table, so there is nothing to build it from.  CLUSTER only remembers the index: rows always stand in the order of the primary
key.
"""

from __future__ import annotations

from msgspec.structs import replace

from pydistdb.sql.catalog import constraints
from pydistdb.sql.catalog.access import PG_CLASS, PG_DATABASE, PG_NAMESPACE
from pydistdb.sql.catalog.backfill import fill_index
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.descriptors import Index, Table
from pydistdb.sql.catalog.drop_index import without_index
from pydistdb.sql.catalog.garbage import index_garbage
from pydistdb.sql.errors import (
    ActiveTransaction,
    FeatureNotSupported,
    InvalidSchemaName,
    UndefinedObject,
    UndefinedTable,
    WrongObjectType,
)
from pydistdb.sql.schema_statements import Cluster, Reindex
from pydistdb.sql.statements import Name


async def reindex(ddl: DdlContext, statement: Reindex) -> str:
    if ddl.in_transaction_block:
        if statement.concurrently:
            raise ActiveTransaction("REINDEX CONCURRENTLY cannot run inside a transaction block")
        if statement.kind not in ("index", "table"):
            raise ActiveTransaction(f"REINDEX {statement.kind.upper()} cannot run inside a transaction block")
    for table, indexes in _chosen(ddl, statement):
        ddl.check_not_in_use(table, "REINDEX")
        await ddl.ddl.lock_tables([table.oid], exclusive=False)
        for index in indexes:
            await rebuild(ddl, ddl.view.state.tables[table.oid], index)
            if statement.verbose:
                ddl.tell(
                    f'index "{index.name}" was reindexed',
                    detail="CPU: user: 0.00 s, system: 0.00 s, elapsed: 0.00 s",
                    severity="INFO",
                )
    return "REINDEX"


def _chosen(ddl: DdlContext, statement: Reindex) -> list[tuple[Table, tuple[Index, ...]]]:
    name = statement.name
    match statement.kind:
        case "index":
            found = ddl.view.index_by_name(name.name, name.schema)
            if found is None:
                if ddl.view.relation(name.name, name.schema) is not None:
                    raise WrongObjectType(f'"{name.name}" is not an index')
                raise UndefinedTable(f'relation "{ddl.written(name)}" does not exist')
            ddl.require_owner(PG_CLASS, found[1].oid, "index", found[1].name)
            return [(found[0], (found[1],))]
        case "table":
            if ddl.view.index_by_name(name.name, name.schema) is not None:
                raise WrongObjectType(f'"{name.name}" is not a table or materialized view')
            table = ddl.table(Name(name.name, name.schema, name.catalog))
            ddl.require_table_owner(table)
            if not any(index.oid for index in table.indexes):
                ddl.tell(f'table "{table.name}" has no indexes to reindex')
            return [(table, _visible(table))]
        case "schema":
            schema = ddl.view.schema_named(name.name)
            if schema is None:
                raise InvalidSchemaName(f'schema "{name.name}" does not exist')
            ddl.require_owner(PG_NAMESPACE, schema.oid, "schema", schema.name)
            return [(table, _visible(table)) for table in _tables(ddl) if table.schema == schema.oid]
    if name.name and name.name != ddl.database_name:
        raise FeatureNotSupported("can only reindex the currently open database")
    ddl.require_owner(PG_DATABASE, ddl.database_oid, "database", ddl.database_name)
    return [(table, _visible(table)) for table in _tables(ddl)]


def _tables(ddl: DdlContext) -> list[Table]:
    return [table for table in ddl.view.tables() if table.kind == "r"]


def _visible(table: Table) -> tuple[Index, ...]:
    return tuple(index for index in table.indexes if index.oid)


async def rebuild(ddl: DdlContext, table: Table, index: Index) -> None:
    """Give an index new storage, filled from the rows."""
    if index.storage_id == table.indexes[0].storage_id:
        return
    fresh = replace(index, storage_id=table.next_index_id, state="")
    left = without_index(ddl, table, index)
    position = next(place for place, each in enumerate(table.indexes) if each.storage_id == index.storage_id)
    indexes = (*left.indexes[:position], fresh, *left.indexes[position:])
    table = replace(left, indexes=indexes, next_index_id=table.next_index_id + 1)
    ddl.ddl.overlay.made_storage.append(index_garbage(table, fresh))
    await fill_index(ddl, table, fresh)
    ddl.put_table(table)


# ---------------------------------------------------------------------------------------------------- CLUSTER


async def cluster(ddl: DdlContext, statement: Cluster) -> str:
    if statement.table is None:
        if ddl.in_transaction_block:
            raise ActiveTransaction("CLUSTER cannot run inside a transaction block")
        return "CLUSTER"  # rows are where they belong
    ddl.require_table_owner(ddl.table(statement.table))
    table = await ddl.locked_table(statement.table)
    if statement.index is not None:
        set_clustered(ddl, table, statement.index)
    elif not any(index.clustered for index in table.indexes):
        raise UndefinedObject(f'there is no previously clustered index for table "{table.name}"')
    return "CLUSTER"


def set_clustered(ddl: DdlContext, table: Table, name: str | None) -> None:
    """Remember the index that the table is clustered on (None: none)."""
    chosen = None if name is None else constraints.index_named_in(table, name)
    if name is not None and chosen is None:
        raise UndefinedObject(f'index "{name}" for table "{table.name}" does not exist')
    if chosen is not None and chosen.is_inverted:
        raise FeatureNotSupported(
            f'cannot cluster on index "{chosen.name}" because access method does not support clustering'
        )
    if chosen is not None and chosen.predicate:
        raise FeatureNotSupported(f'cannot cluster on partial index "{chosen.name}"')
    indexes = tuple(
        replace(index, clustered=chosen is not None and index.oid == chosen.oid)
        if index.clustered or index is chosen
        else index
        for index in table.indexes
    )
    ddl.put_table(replace(table, indexes=indexes, version=table.version + 1))
