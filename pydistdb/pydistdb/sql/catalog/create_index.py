"""CREATE INDEX: writers are kept off the table while its rows are read; readers go on.

The new index becomes visible with the commit; plans made before it simply do not use it.
"""

from __future__ import annotations

from msgspec.structs import replace

from pydistdb.sql.catalog import constraints
from pydistdb.sql.catalog.backfill import fill_index
from pydistdb.sql.catalog.context import DdlContext, not_supported_for
from pydistdb.sql.catalog.descriptors import Index, Table
from pydistdb.sql.catalog.garbage import index_garbage
from pydistdb.sql.catalog.index_elements import index_column, key_label, predicate_text
from pydistdb.sql.catalog.naming import choose, clip, distinct_names, join_columns
from pydistdb.sql.catalog.options import INDEX_PARAMETERS, checked_options
from pydistdb.sql.errors import (
    ActiveTransaction,
    DuplicateTable,
    FeatureNotSupported,
    ProgramLimitExceeded,
    UndefinedColumn,
    UndefinedObject,
    WrongObjectType,
)
from pydistdb.sql.schema_statements import CreateIndex
from pydistdb.sql.statements import Name

_OTHER_METHODS = ("gist", "brin", "spgist")


async def create_index(ddl: DdlContext, statement: CreateIndex) -> str:
    if statement.concurrently and ddl.in_transaction_block:
        raise ActiveTransaction("CREATE INDEX CONCURRENTLY cannot run inside a transaction block")
    jobs = ddl.store.index_jobs
    _check_kind(ddl, statement.table)
    ddl.require_table_owner(ddl.table(statement.table, "rm"))
    if statement.concurrently and jobs is not None:
        process_id = getattr(ddl.context.extra, "process_id", 0)
        await jobs.create(ddl, statement, process_id)
        return "CREATE INDEX"
    table = await ddl.locked_table(statement.table, "rm", exclusive=False)
    ddl.check_not_in_use(table, "CREATE INDEX")
    check_method(statement)
    found = await define_index(ddl, table, statement)
    if found is not None:
        await build_index(ddl, table, found)
    return "CREATE INDEX"


def _check_kind(ddl: DdlContext, name: Name) -> None:
    relation = ddl.view.relation(name.name, name.schema)
    if isinstance(relation, Table) and relation.kind not in "rm":
        message = f'cannot create index on relation "{name.name}"'
        raise WrongObjectType(message, detail=not_supported_for(relation.kind))


async def define_index(ddl: DdlContext, table: Table, statement: CreateIndex) -> Index | None:
    """The descriptor that the statement asks for, part of no table yet; None if IF NOT EXISTS has found one."""
    name = clip(statement.name) if statement.name is not None else None
    if name is not None and ddl.view.is_name_taken(table.schema, name):
        if not statement.if_not_exists:
            raise DuplicateTable(f'relation "{name}" already exists')
        ddl.tell(f'relation "{name}" already exists, skipping', "42P07")
        return None
    columns = tuple(index_column(ddl, table, element, statement.method) for element in statement.columns)
    labels = [key_label(table, column) for column in columns]
    included = included_columns(table, statement.include)
    predicate = "" if statement.where is None else predicate_text(ddl, table, statement.where)
    if name is None:
        parts = [table.name, join_columns(distinct_names([*labels, *statement.include]))]
        name = choose(parts, "idx", lambda n: constraints.relation_name_taken(ddl, table, n))
    draft = await constraints.add_index(
        ddl,
        table,
        name,
        columns,
        unique=statement.unique,
        predicate=predicate,
        include=included,
        nulls_not_distinct=statement.nulls_not_distinct,
        method=statement.method if statement.method == "gin" else "btree",
        is_global=True if statement.method == "gin" else None,
    )
    options = checked_options(statement.options.items(), INDEX_PARAMETERS[statement.method])
    return replace(draft.indexes[-1], options=options)


async def build_index(ddl: DdlContext, table: Table, index: Index) -> Table:
    """Add an index to a table that may have rows, and fill it; returns the new descriptor."""
    table = with_index(table, index)
    ddl.ddl.overlay.made_storage.append(index_garbage(table, index))
    await fill_index(ddl, table, index)
    ddl.put_table(table)
    return table


def with_index(table: Table, index: Index) -> Table:
    """The next descriptor, with one more index."""
    return replace(
        table,
        indexes=(*table.indexes, index),
        next_index_id=max(table.next_index_id, index.storage_id + 1),
        version=table.version + 1,
    )


def included_columns(table: Table, names: tuple[str, ...]) -> tuple[int, ...]:
    numbers = []
    for name in names:
        column = constraints.column_named(table, name)
        if column is None:
            raise UndefinedColumn(f'column "{name}" does not exist')
        numbers.append(column.number)
    return tuple(numbers)


def check_method(statement: CreateIndex) -> None:
    """Refuse what the access method cannot do; a hash index is kept as an ordered one."""
    method = statement.method
    if method in ("hash", "gin"):
        elements = statement.columns
        refused = {
            "unique indexes": statement.unique,
            "included columns": statement.include,
            "multicolumn indexes": method == "hash" and len(elements) > 1,
            "ASC/DESC options": any(element.descending for element in elements),
            "NULLS FIRST/LAST options": any(element.nulls_first is not None for element in elements),
        }
        for what, asked in refused.items():
            if asked:
                raise FeatureNotSupported(f'access method "{method}" does not support {what}')
    elif method in _OTHER_METHODS:
        raise FeatureNotSupported(f"access method {method} is not supported")
    elif method != "btree":
        raise UndefinedObject(f'access method "{method}" does not exist')
    if len(statement.columns) + len(statement.include) > constraints.MOST_INDEX_COLUMNS:
        raise ProgramLimitExceeded(f"cannot use more than {constraints.MOST_INDEX_COLUMNS} columns in an index")
    checked_options(statement.options.items(), INDEX_PARAMETERS[method])
    if statement.tablespace not in (None, "pg_default"):
        raise UndefinedObject(f'tablespace "{statement.tablespace}" does not exist')
