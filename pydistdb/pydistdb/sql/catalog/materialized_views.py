"""Materialized views: a table that holds what its query gave when it was last refreshed.

    CREATE MATERIALIZED VIEW totals AS SELECT …        Table(kind "m", definition "SELECT …"), filled
    CREATE INDEX ON totals (name)                      as on a table
    REFRESH MATERIALIZED VIEW totals                   new storage, filled with all indexes, takes the old one's place

Nobody else sees a refresh before its transaction commits.  A plain one keeps readers off from its start, as in Postgres;
CONCURRENTLY computes the new rows first and takes the lock only for the exchange of the storage.

Source: PostgreSQL 15 manual, CREATE and REFRESH MATERIALIZED VIEW; matview.c.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from msgspec.structs import replace

from pydistdb.sql.catalog.backfill import copy_rows
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.catalog.needs import require
from pydistdb.sql.catalog.queries import BoundQuery, bind_query, run_bound
from pydistdb.sql.catalog.recording import RecordingView, direct_uses
from pydistdb.sql.catalog.rewrite import with_new_storage
from pydistdb.sql.catalog.temporary import has_temporary
from pydistdb.sql.catalog.views import stable_text
from pydistdb.sql.errors import DatabaseError, FeatureNotSupported, WrongObjectType
from pydistdb.sql.schema_statements import RefreshView


async def query_rows(ddl: DdlContext, query: BoundQuery) -> AsyncIterator[list[list[Any]]]:
    """The rows of a query in batches, as they are stored."""
    async for batch in run_bound(ddl, query):
        yield [list(row) for row in batch]


def bind_definition(ddl: DdlContext, text: str, position: int) -> tuple[BoundQuery, RecordingView]:
    """Bind the query of a new materialized view; temporary tables cannot be used."""
    recording = RecordingView(ddl.view)
    query = bind_query(ddl, text, recording, position)
    if has_temporary(ddl, recording.tables_found()):
        raise FeatureNotSupported("materialized views must not use temporary tables or views")
    return query, recording


def defined(ddl: DdlContext, table: Table, text: str, query: BoundQuery, recording: RecordingView) -> Table:
    """The descriptor with its definition and what that uses."""
    definition = stable_text(ddl, text, recording, query.columns)
    uses = (*direct_uses(recording.tables_found()), *recording.routine_oids)
    return replace(table, definition=definition, depends_on=uses, populated=False)


async def refresh_view(ddl: DdlContext, statement: RefreshView) -> str:
    if statement.concurrently and not statement.with_data:
        raise DatabaseError.of("42601", "REFRESH options CONCURRENTLY and WITH NO DATA cannot be used together")
    try:
        view = ddl.table(statement.name, "m")
    except WrongObjectType as error:
        raise FeatureNotSupported(error.message) from None
    ddl.require_table_owner(view)
    if statement.concurrently:
        _check_concurrently(ddl, view)
    else:
        await ddl.ddl.lock_tables([view.oid])
    fresh = await with_new_storage(ddl, ddl.view.state.tables[view.oid])
    if statement.with_data:
        query = bind_query(ddl, view.definition, ddl.view.unrestricted())
        superuser = ddl.roles.is_superuser(view.owner)
        require(query.bound.needs, ddl.view.restricted_to(None if superuser else view.owner))
        await copy_rows(ddl, fresh, query_rows(ddl, query))
    if statement.concurrently:
        await ddl.ddl.lock_tables([view.oid])
    ddl.put_table(replace(fresh, populated=statement.with_data))
    return "REFRESH MATERIALIZED VIEW"


def _check_concurrently(ddl: DdlContext, view: Table) -> None:
    if not view.populated:
        raise DatabaseError.of("55000", "CONCURRENTLY cannot be used when the materialized view is not populated")
    if not any(index.unique and index.oid and index.is_plain for index in view.indexes):
        schema = ddl.view.state.schemas[view.schema].name
        raise DatabaseError.of(
            "55000",
            f'cannot refresh materialized view "{schema}.{view.name}" concurrently',
            hint="Create a unique index with no WHERE clause on one or more columns of the materialized view.",
        )
