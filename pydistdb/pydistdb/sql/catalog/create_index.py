"""CREATE INDEX: writers are kept off the table while its rows are read; readers go on.

The new index becomes visible with the commit; plans made before it simply do not use it.  CONCURRENTLY is accepted: in
a cluster without it the build is already done in chunks that let other work in between.
"""

from __future__ import annotations

from msgspec.structs import replace

from pydistdb.sql.catalog import constraints
from pydistdb.sql.catalog.backfill import fill_index
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.descriptors import IndexColumn, Table
from pydistdb.sql.catalog.garbage import index_garbage
from pydistdb.sql.catalog.naming import choose, clip, distinct_names, join_columns
from pydistdb.sql.errors import (
    ActiveTransaction,
    DuplicateTable,
    FeatureNotSupported,
    ProgramLimitExceeded,
    UndefinedColumn,
    UndefinedObject,
)
from pydistdb.sql.statements import CreateIndex


async def create_index(ddl: DdlContext, statement: CreateIndex) -> str:
    if statement.concurrently and ddl.in_transaction_block:
        raise ActiveTransaction("CREATE INDEX CONCURRENTLY cannot run inside a transaction block")
    _check_supported(statement)
    table = await ddl.locked_table(statement.table, exclusive=False)
    columns = index_columns(table, statement)
    names = distinct_names([constraints.column_numbered(table, column.column).name for column in columns])
    name = clip(statement.name) if statement.name is not None else None
    if name is not None and ddl.view.is_name_taken(table.schema, name):
        if not statement.if_not_exists:
            raise DuplicateTable(f'relation "{name}" already exists')
        ddl.tell(f'relation "{name}" already exists, skipping', "42P07")
        return "CREATE INDEX"
    if name is None:
        parts = [table.name, join_columns(names)]
        name = choose(parts, "idx", lambda n: constraints.relation_name_taken(ddl, table, n))
    await build_index(ddl, table, name, columns, unique=statement.unique)
    return "CREATE INDEX"


async def build_index(
    ddl: DdlContext,
    table: Table,
    name: str,
    columns: tuple[IndexColumn, ...],
    *,
    unique: bool,
    constraint: bool = False,
    hidden: bool = False,
) -> Table:
    """Add an index to a table that may have rows, and fill it; returns the new descriptor."""
    table = await constraints.add_index(ddl, table, name, columns, unique=unique, constraint=constraint, hidden=hidden)
    table = replace(table, version=table.version + 1)
    index = table.indexes[-1]
    ddl.ddl.overlay.made_storage.append(index_garbage(table, index))
    await fill_index(ddl, table, index)
    ddl.put_table(table)
    return table


def _check_supported(statement: CreateIndex) -> None:
    if statement.method not in ("btree", "hash"):
        if statement.method in ("gin", "gist", "brin", "spgist"):
            raise FeatureNotSupported(f"access method {statement.method} is not supported")
        raise UndefinedObject(f'access method "{statement.method}" does not exist')
    if statement.where is not None:
        raise FeatureNotSupported("partial indexes are not supported")
    if statement.include:
        raise FeatureNotSupported("indexes with INCLUDE columns are not supported")
    if any(name is None for name, _, _, _ in statement.columns):
        raise FeatureNotSupported("indexes on expressions are not supported")
    if len(statement.columns) > constraints.MOST_INDEX_COLUMNS:
        raise ProgramLimitExceeded(f"cannot use more than {constraints.MOST_INDEX_COLUMNS} columns in an index")


def index_columns(table: Table, statement: CreateIndex) -> tuple[IndexColumn, ...]:
    columns = []
    for name, _, descending, nulls_first in statement.columns:
        assert name is not None
        column = constraints.column_named(table, name)
        if column is None:
            raise UndefinedColumn(f'column "{name}" does not exist')
        constraints.check_indexable(column)
        columns.append(IndexColumn(column.number, descending, descending if nulls_first is None else nulls_first))
    return tuple(columns)
