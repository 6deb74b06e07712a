"""Running SQL from within DDL: validating constraints, converting columns, CREATE TABLE AS.

The query runs in the DDL's own transaction against its own view of the catalog, so it sees what earlier statements of
the transaction did.  Names are written out in full, so no search_path can change what they mean.

    async for rows in run_query(ddl, 'SELECT 1 FROM "public"."t" WHERE NOT (a > 0) LIMIT 1'): …
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydistdb.sql import bind
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.descriptors import Column, Table
from pydistdb.sql.errors import DatabaseError, InternalError
from pydistdb.sql.tree import BoundStatement, OutputColumn
from pydistdb.sql.types import registry


@dataclass(frozen=True, slots=True)
class BoundQuery:
    """A query, bound: its output columns, and what running it takes."""

    bound: BoundStatement
    columns: tuple[OutputColumn, ...]


def bind_query(ddl: DdlContext, text: str, catalog: Any = None, position: int = 0) -> BoundQuery:
    """Bind a SELECT against the transaction's catalog (or a given view of it).

    ``position``: where it starts in the client's text, for errors."""
    parsed = bind.parse(text)
    if len(parsed) != 1:
        raise InternalError("expected one statement")
    try:
        bound = bind.analyze(parsed[0], ddl.view if catalog is None else catalog, ddl.context)
    except DatabaseError as error:
        if error.position is not None:
            error.position += position
        raise
    if not isinstance(bound, BoundStatement):
        raise InternalError("expected a query")
    return BoundQuery(bound, bound.query.columns)


async def run_bound(ddl: DdlContext, query: BoundQuery) -> AsyncIterator[list[tuple[Any, ...]]]:
    """Run a bound query; yields batches of rows."""
    from pydistdb.sql.exec import RunContext, compile_plan
    from pydistdb.sql.plan import plan

    compiled = compile_plan(plan(query.bound, ddl.view))
    run = RunContext(
        ddl.transaction,
        ddl.store.database,
        ddl.view,
        ddl.context,
        (),
        ddl.store.scheduler,
        ddl.ddl.check_interrupt,
    )
    async for batch in compiled.run(run):
        yield batch


async def run_query(ddl: DdlContext, text: str) -> AsyncIterator[list[tuple[Any, ...]]]:
    """Run a query given as text; yields batches of rows."""
    async for batch in run_bound(ddl, bind_query(ddl, text)):
        yield batch


async def first_row(ddl: DdlContext, text: str) -> tuple[Any, ...] | None:
    """The first row of a query's result."""
    async for batch in run_query(ddl, text):
        if batch:
            return batch[0]
    return None


def quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def full_name(ddl: DdlContext, table: Table) -> str:
    return f"{quote(ddl.view.state.schemas[table.schema].name)}.{quote(table.name)}"


def type_text(ddl: DdlContext, column: Column) -> str:
    """The column's type, written so that every search_path finds it."""
    sql_type = registry.type_by_oid(column.type_oid)
    entry = ddl.view.type_entry(sql_type.element_oid or sql_type.oid)
    if entry is None:
        return registry.format_type(column.type_oid, column.modifier)
    schema = ddl.view.state.schemas[entry.definition.schema].name
    return f"{quote(schema)}.{quote(entry.definition.name)}" + ("[]" if sql_type.element_oid else "")


def live_columns(table: Table) -> Sequence[Column]:
    return [column for column in table.columns if not column.dropped]
