"""CREATE TABLE AS: the query's columns make the table, its rows go into the new storage directly."""

from __future__ import annotations

from msgspec.structs import replace

from pydistdb.sql.catalog import keys, temporary
from pydistdb.sql.catalog.backfill import copy_rows
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.create_table import already_exists, check_on_commit, new_table
from pydistdb.sql.catalog.garbage import dropped_garbage
from pydistdb.sql.catalog.materialized_views import bind_definition, defined, query_rows
from pydistdb.sql.catalog.needs import require
from pydistdb.sql.catalog.options import STORAGE_PARAMETERS, checked_options
from pydistdb.sql.catalog.queries import bind_query
from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.schema_statements import ColumnSpec, CreateTableAs
from pydistdb.sql.types import registry


async def create_table_as(ddl: DdlContext, statement: CreateTableAs) -> str:
    options = checked_options(statement.options.items(), STORAGE_PARAMETERS)
    tag = "CREATE MATERIALIZED VIEW" if statement.materialized else "CREATE TABLE AS"
    recording = None
    if statement.materialized:
        query, recording = bind_definition(ddl, statement.query, statement.position)
    else:
        query = bind_query(ddl, statement.query, position=statement.position)
    schema = await temporary.place(ddl, statement.name, statement.temporary)
    check_on_commit(schema, statement.on_commit)
    if already_exists(ddl, schema, statement.name, statement.if_not_exists):
        return tag
    if len(statement.columns) > len(query.columns):
        raise DatabaseError.of("42601", "too many column names were specified")
    names = [*statement.columns, *(column.name for column in query.columns[len(statement.columns) :])]
    types = [registry.TEXT if c.type.oid == registry.UNKNOWN.oid else c.type for c in query.columns]
    specs = [ColumnSpec(name, sql_type) for name, sql_type in zip(names, types, strict=True)]
    table = await new_table(ddl, schema, statement.name.name, specs, kind="m" if statement.materialized else "r")
    persistence = "u" if statement.unlogged and table.persistence == "p" else table.persistence
    table = replace(table, on_commit=statement.on_commit, persistence=persistence, options=options)
    temporary.note_commit_action(ddl, table)
    for garbage in dropped_garbage(table, ddl.view.state.tables.values()):
        ddl.ddl.made_storage(garbage, table.storage_id)
    if recording is not None:
        table = defined(ddl, table, statement.query, query, recording)
    if not statement.with_data:
        ddl.put_table(table)
        return tag
    require(query.bound.needs, ddl.view)
    await ddl.ddl.claim([(keys.table_key(table.database, table.oid), table)])  # rather wait now than when all is copied
    count = await copy_rows(ddl, table, query_rows(ddl, query))
    ddl.put_table(replace(table, populated=True))
    return f"SELECT {count}"
