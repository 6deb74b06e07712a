"""DROP INDEX, and what hangs on an index: constraints forbid it, foreign keys backed by a unique index go along or forbid it.

    CREATE TABLE a (k int); CREATE UNIQUE INDEX u ON a (k); CREATE TABLE b (k int REFERENCES a (k));
    DROP INDEX u                2BP01: constraint b_k_fkey on table b depends on index u
    DROP INDEX u CASCADE        the foreign key goes, and table a forgets that b refers to it

The storage of a dropped index becomes garbage (garbage.py) when the transaction commits.
"""

from __future__ import annotations

from msgspec.structs import replace

from pydistdb.sql.catalog.access import PG_CLASS, PG_NAMESPACE
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.dependencies import described
from pydistdb.sql.catalog.descriptors import ForeignKey, Index, Table
from pydistdb.sql.catalog.drop_plan import DependentText, removal_hint, report_dependents
from pydistdb.sql.catalog.garbage import index_garbage
from pydistdb.sql.errors import (
    ActiveTransaction,
    DependentObjectsStillExist,
    FeatureNotSupported,
    InvalidSchemaName,
    UndefinedObject,
    WrongObjectType,
)
from pydistdb.sql.schema_statements import DropObjects
from pydistdb.sql.statements import Name


def check_concurrently(ddl: DdlContext, statement: DropObjects) -> None:
    """DROP INDEX CONCURRENTLY takes the index off like any other DROP, but is as particular as Postgres's."""
    if ddl.in_transaction_block:
        raise ActiveTransaction("DROP INDEX CONCURRENTLY cannot run inside a transaction block")
    if len(statement.names) > 1:
        raise FeatureNotSupported("DROP INDEX CONCURRENTLY does not support dropping multiple objects")
    if statement.cascade:
        raise FeatureNotSupported("DROP INDEX CONCURRENTLY does not support CASCADE")


async def drop_index(ddl: DdlContext, name: Name, statement: DropObjects) -> None:
    found = ddl.view.index_by_name(name.name, name.schema)
    if found is None:
        other = ddl.view.relation(name.name, name.schema)
        if other is not None:
            hint = removal_hint(other.kind if isinstance(other, Table) else "r")
            raise WrongObjectType(f'"{name.name}" is not an index', hint=hint)
        if name.schema is not None and ddl.view.schema_named(name.schema) is None and not statement.missing_ok:
            raise InvalidSchemaName(f'schema "{name.schema}" does not exist')
        if not statement.missing_ok:
            raise UndefinedObject(f'index "{ddl.written(name)}" does not exist')
        ddl.tell(f'index "{name.name}" does not exist, skipping', "00000")
        return
    table, index = found
    role = ddl.view.role
    if role is not None and not ddl.view.access.owns(role, PG_NAMESPACE, table.schema):
        ddl.require_owner(PG_CLASS, index.oid, "index", index.name)
    if index.constraint:
        raise DependentObjectsStillExist(
            f"cannot drop index {index.name} because constraint {index.name} on table {table.name} requires it",
            hint=f"You can drop constraint {index.name} on table {table.name} instead.",
        )
    users = foreign_keys_using(ddl, table, index)
    if users:
        dependents = [
            DependentText(key.oid, f"constraint {key.name} on {described(ddl, other)}", f"index {index.name}")
            for other, key in users
        ]
        report_dependents(ddl, dependents, statement.cascade, [f"index {index.name}"])
    await ddl.ddl.lock_tables([table.oid, *(other.oid for other, _ in users)])
    drop_foreign_keys(ddl, users)
    table = ddl.view.state.tables[table.oid]
    ddl.put_table(without_index(ddl, table, index))


def without_index(ddl: DdlContext, table: Table, index: Index) -> Table:
    """The table without a secondary index, whose storage becomes garbage."""
    ddl.ddl.dropped_storage(index_garbage(table, index))
    left = tuple(i for i in table.indexes if i.storage_id != index.storage_id)
    return replace(table, indexes=left, version=table.version + 1)


def foreign_keys_using(ddl: DdlContext, table: Table, index: Index) -> list[tuple[Table, ForeignKey]]:
    """The foreign keys to ``table`` that only this unique index backs."""
    if not index.unique:
        return []
    columns = sorted(column.column for column in index.columns)
    others = [i for i in table.indexes if i.unique and i.storage_id != index.storage_id]
    if any(sorted(column.column for column in other.columns) == columns for other in others if other.oid):
        return []
    users = []
    for oid in table.referenced_by:
        other = ddl.view.state.tables.get(oid)
        if other is not None:
            users += [
                (other, key)
                for key in other.foreign_keys
                if key.referenced_table == table.oid and sorted(key.referenced_columns) == columns
            ]
    return users


def drop_foreign_keys(ddl: DdlContext, users: list[tuple[Table, ForeignKey]]) -> None:
    """Take foreign keys off their tables, and the tables off the referenced ones."""
    for other, key in users:
        table = ddl.view.state.tables[other.oid]
        left = tuple(k for k in table.foreign_keys if k.oid != key.oid)
        table = replace(table, foreign_keys=left, version=table.version + 1)
        ddl.put_table(table)
        if not any(k.referenced_table == key.referenced_table for k in left):
            referenced = ddl.view.state.tables[key.referenced_table]
            by = tuple(oid for oid in referenced.referenced_by if oid != table.oid)
            ddl.put_table(replace(referenced, referenced_by=by, version=referenced.version + 1))
