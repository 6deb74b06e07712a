"""What ALTER TABLE says about how Postgres stores, samples and replicates a table: kept, shown by psql, dumped by pg_dump.

    ALTER TABLE t SET (fillfactor = 70)                         pg_class.reloptions
    ALTER TABLE t ALTER c SET STORAGE EXTERNAL                  pg_attribute.attstorage
    ALTER TABLE t ALTER c SET STATISTICS 500                    pg_attribute.attstattarget, which ANALYZE heeds
    ALTER TABLE t REPLICA IDENTITY USING INDEX t_pkey           pg_class.relreplident, pg_index.indisreplident

There is no TOAST and no logical replication here, so the rest changes nothing but what is shown.

Source: PostgreSQL 15, tablecmds.c (ATExecSetStatistics, ATExecSetStorage, ATExecReplicaIdentity).
"""

from __future__ import annotations

from msgspec.structs import replace

from pydistdb.sql.catalog.constraints import column_named
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.descriptors import Column, Index, Table
from pydistdb.sql.catalog.options import COLUMN_PARAMETERS, STORAGE_PARAMETERS, merged_options
from pydistdb.sql.errors import (
    FeatureNotSupported,
    InvalidParameterValue,
    UndefinedColumn,
    UndefinedObject,
    WrongObjectType,
)
from pydistdb.sql.pg_catalog.type_facts import facts_of_type
from pydistdb.sql.schema_statements import AlterTableAction
from pydistdb.sql.types import registry

OF_COLUMNS = frozenset({"set_statistics", "set_storage", "set_compression", "set_column_options"})
MOST_STATISTICS = 10_000
_STORAGES = {"plain": "p", "external": "e", "extended": "x", "main": "m"}
_COMPRESSIONS = {"pglz": "p", "lz4": "l", "default": ""}
_PLAIN = "p"


def set_options(ddl: DdlContext, table: Table, action: AlterTableAction) -> None:
    """SET (…) and RESET (…) of a table or materialized view."""
    options = merged_options(table.options, action.options, STORAGE_PARAMETERS)
    ddl.put_table(replace(table, options=options, version=table.version + 1))


def with_index_options(table: Table, index: Index, options: tuple[str, ...]) -> Table:
    indexes = tuple(replace(each, options=options) if each.oid == index.oid else each for each in table.indexes)
    return replace(table, indexes=indexes, version=table.version + 1)


def set_column(ddl: DdlContext, table: Table, action: AlterTableAction) -> None:
    """ALTER COLUMN … SET STATISTICS, STORAGE, COMPRESSION or (n_distinct = …)."""
    column = column_named(table, action.name or "")
    if column is None:
        raise UndefinedColumn(f'column "{action.name}" of relation "{table.name}" does not exist')
    match action.kind:
        case "set_statistics":
            changed = replace(column, statistics=statistics_target(ddl, int(action.options[0][1] or 0)))
        case "set_storage":
            changed = replace(column, storage=_storage(column, (action.new_name or "").lower()))
        case "set_compression":
            word = (action.new_name or "").lower()
            changed = replace(column, compression=checked_compression(column.name, column.type_oid, word))
        case _:
            changed = replace(column, options=merged_options(column.options, action.options, COLUMN_PARAMETERS))
    columns = tuple(changed if each.number == column.number else each for each in table.columns)
    ddl.put_table(replace(table, columns=columns, version=table.version + 1))


def set_index_statistics(ddl: DdlContext, table: Table, index: Index, action: AlterTableAction) -> None:
    """ALTER INDEX … ALTER COLUMN number SET STATISTICS: only of a column that is an expression."""
    number = int(action.name or 0)
    if not 1 <= number <= len(index.columns) + len(index.include):
        raise UndefinedColumn(f'column number {number} of relation "{index.name}" does not exist')
    if number > len(index.columns):
        name = next(
            each.name for each in table.columns if each.number == index.include[number - len(index.columns) - 1]
        )
        raise FeatureNotSupported(f'cannot alter statistics on included column "{name}" of index "{index.name}"')
    element = index.columns[number - 1]
    if not element.expression:
        name = next(each.name for each in table.columns if each.number == element.column)
        raise FeatureNotSupported(
            f'cannot alter statistics on non-expression column "{name}" of index "{index.name}"',
            hint="Alter statistics on table column instead.",
        )
    changed = replace(element, statistics=statistics_target(ddl, int(action.options[0][1] or 0)))
    columns = (*index.columns[: number - 1], changed, *index.columns[number:])
    indexes = tuple(replace(each, columns=columns) if each.oid == index.oid else each for each in table.indexes)
    ddl.put_table(replace(table, indexes=indexes, version=table.version + 1))


def statistics_target(ddl: DdlContext, target: int) -> int:
    if target < -1:
        raise InvalidParameterValue(f"statistics target {target} is too low")
    if target > MOST_STATISTICS:
        ddl.tell(f"lowering statistics target to {MOST_STATISTICS}", "22023", severity="WARNING")
    return min(target, MOST_STATISTICS)


def _storage(column: Column, word: str) -> str:
    if word not in _STORAGES:
        raise InvalidParameterValue(f'invalid storage type "{word}"')
    own = facts_of_type(column.type_oid).storage
    if own == _PLAIN and word != "plain":
        name = registry.format_type(column.type_oid)
        raise FeatureNotSupported(f"column data type {name} can only have storage PLAIN")
    return "" if _STORAGES[word] == own else _STORAGES[word]


def checked_compression(name: str, type_oid: int, word: str) -> str:
    """pg_attribute.attcompression for COMPRESSION ``word`` (or for what pg_attribute has)."""
    if word in ("", *_COMPRESSIONS.values()):
        return word
    if facts_of_type(type_oid).storage == _PLAIN and word != "default":
        raise FeatureNotSupported(f"column data type {registry.format_type(type_oid)} does not support compression")
    if word not in _COMPRESSIONS:
        raise InvalidParameterValue(f'invalid compression method "{word}"')
    return _COMPRESSIONS[word]


def set_replica_identity(ddl: DdlContext, table: Table, action: AlterTableAction) -> None:
    identity, oid = action.name or "d", 0
    if identity == "i":
        oid = _identity_index(table, action.new_name or "").oid
    ddl.put_table(replace(table, replica_identity=identity, replica_index=oid, version=table.version + 1))


def _identity_index(table: Table, name: str) -> Index:
    index = next((each for each in table.indexes if each.oid and each.name == name), None)
    if index is None:
        raise UndefinedObject(f'index "{name}" for table "{table.name}" does not exist')
    if not index.unique:
        raise WrongObjectType(f'cannot use non-unique index "{name}" as replica identity')
    if index.deferrable:
        raise FeatureNotSupported(f'cannot use non-immediate index "{name}" as replica identity')
    if any(column.expression for column in index.columns):
        raise FeatureNotSupported(f'cannot use expression index "{name}" as replica identity')
    if index.predicate:
        raise FeatureNotSupported(f'cannot use partial index "{name}" as replica identity')
    nullable = {column.number: column.name for column in table.columns if not column.not_null}
    for entry in index.columns:
        if entry.column in nullable:
            raise WrongObjectType(
                f'index "{name}" cannot be used as replica identity because column "{nullable[entry.column]}" is nullable'
            )
    return index
