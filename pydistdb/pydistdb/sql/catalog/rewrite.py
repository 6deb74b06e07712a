"""Giving a table new storage: its rows are read, changed and written again under a new storage id.

The old rows stay where they are until the transaction commits; a rollback only has to clear the new ones.  Needed where
the rows themselves change (ALTER TYPE, a volatile default) or their keys (a primary key comes or goes).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from msgspec.structs import replace

from pydistdb.kv.api import Isolation
from pydistdb.sql.bind.cutting import Cut
from pydistdb.sql.catalog.backfill import copy_rows, stored_rows
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.descriptors import Column, Table
from pydistdb.sql.catalog.garbage import table_garbage
from pydistdb.sql.catalog.queries import bind_query, full_name, live_columns, quote, run_bound
from pydistdb.sql.catalog.sharding import split_off
from pydistdb.sql.errors import DatabaseError, NotNullViolation
from pydistdb.sql.exec.violations import schema_name
from pydistdb.sql.functions import registry as functions
from pydistdb.sql.layout import TableLayout
from pydistdb.sql.types import registry

Rows = AsyncIterator[list[list[Any]]]


async def with_new_storage(ddl: DdlContext, table: Table, old: Table | None = None) -> Table:
    """The descriptor with empty storage of its own; the old storage goes when the transaction commits.

    ``old`` is the descriptor of that storage if ``table`` already has other indexes."""
    for garbage in table_garbage(old or table):
        ddl.ddl.dropped_storage(garbage)
    storage_id = await ddl.store.allocate_oids()
    table = replace(table, storage_id=storage_id, version=table.version + 1)
    await split_off(ddl, table)
    for garbage in table_garbage(table):
        ddl.ddl.made_storage(garbage, storage_id)
    return table


async def rewrite(ddl: DdlContext, old: Table, new: Table, rows: Rows | None = None) -> Table:
    """Fill new storage for ``new`` with the rows of ``old`` (or those given), and put it into the overlay."""
    new = await with_new_storage(ddl, new, old)
    await copy_rows(ddl, new, _checked(ddl, new, same_rows(ddl, old) if rows is None else rows))
    # The rows hold every column now: nothing is missing any more.
    new = replace(new, columns=tuple(replace(column, missing=None) for column in new.columns))
    ddl.put_table(new)
    if ddl.transaction.isolation is Isolation.READ_COMMITTED:
        ddl.transaction.begin_statement()  # what comes next in the same statement sees the rows just written
    return new


async def same_rows(ddl: DdlContext, table: Table) -> Rows:
    async for chunk in stored_rows(ddl, table):
        yield [row for _, row in chunk]


async def _checked(ddl: DdlContext, table: Table, rows: Rows) -> Rows:
    """Pass rows on, all NOT NULL columns checked and all rows as long as the table is wide."""
    width = max((column.number for column in table.columns), default=0)
    required = [column for column in table.columns if column.not_null and not column.dropped]
    async for chunk in rows:
        for row in chunk:
            row.extend([None] * (width - len(row)))
            for column in required:
                if row[column.number - 1] is None:
                    raise contains_nulls(ddl, table, column)
        yield chunk


def contains_nulls(ddl: DdlContext, table: Table, column: Column) -> NotNullViolation:
    return NotNullViolation(
        f'column "{column.name}" of relation "{table.name}" contains null values',
        schema=schema_name(ddl.view, table),
        table=table.name,
        column=column.name,
    )


async def computed_rows(ddl: DdlContext, old: Table, computed: Sequence[tuple[Column, str]]) -> Rows:
    """The rows of ``old`` with columns computed from them by SQL expressions, and fitted to their modifiers."""
    numbers = {column.number for column, _ in computed}
    others = [each for each in live_columns(old) if each.number not in numbers]
    items = [quote(each.name) for each in others] + [_converted(column, expression) for column, expression in computed]
    text = f"SELECT {', '.join(items)} FROM {full_name(ddl, old)}"
    try:
        query = bind_query(ddl, text)
    except DatabaseError as error:
        if error.position is not None:
            error.position = _place(text, computed, error.position)
        raise
    fits: list[tuple[int, Callable[[Any], Any]]] = [(each.number - 1, _as_it_is) for each in others]
    fits += [(column.number - 1, fitting(column)) for column, _ in computed]
    width = max(TableLayout.of(old).column_count, *numbers)
    async for batch in run_bound(ddl, query):
        chunk = []
        for values in batch:
            row: list[Any] = [None] * width
            for (position, fit), value in zip(fits, values, strict=False):
                row[position] = fit(value)
            chunk.append(row)
        yield chunk


def _converted(column: Column, expression: str) -> str:
    is_char = column.type_oid == registry.BPCHAR.oid
    return f"CAST(({expression}) AS {'bpchar' if is_char else registry.format_type(column.type_oid, -1)})"


def _place(text: str, computed: Sequence[tuple[Column, str]], position: int) -> int | None:
    """Where an error in the query made of expressions lies in what the client has written."""
    for column, expression in computed:
        first = text.index(_converted(column, expression)) + 6
        if isinstance(expression, Cut) and first < position <= first + len(expression):
            return position + expression.start - first
    return None


def _as_it_is(value: Any) -> Any:
    return value


def fitting(column: Column) -> Callable[[Any], Any]:
    """Fits a value to the column's length or precision, as an assignment does."""
    sql_type = registry.type_by_oid(column.type_oid).with_modifier(column.modifier)
    coercion = functions.length_coercion(sql_type) if column.modifier >= 0 else None
    if coercion is None:
        return _as_it_is
    implementation, modifier = coercion.implementation, column.modifier
    return lambda value: None if value is None else implementation(value, modifier, False)
