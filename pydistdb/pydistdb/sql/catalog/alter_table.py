"""ALTER TABLE (and VIEW, SEQUENCE, INDEX): takes the table's exclusive lock, then one action after the other.

Actions that only change the descriptor are done at once; those that concern rows validate or rewrite them
(alter_columns.py, alter_constraints.py, rewrite.py).  Every action sees the table as the one before left it.
"""

from __future__ import annotations

from itertools import groupby

from msgspec.structs import replace

from pydistdb.sql.catalog import alter_columns, alter_constraints, identity, storage_settings
from pydistdb.sql.catalog.access import PG_CLASS, PG_NAMESPACE
from pydistdb.sql.catalog.acl import CREATE
from pydistdb.sql.catalog.context import DdlContext, not_supported_for
from pydistdb.sql.catalog.dependencies import number_defaults
from pydistdb.sql.catalog.descriptors import Index, Table
from pydistdb.sql.catalog.follow import put_renamed
from pydistdb.sql.catalog.naming import clip
from pydistdb.sql.catalog.options import INDEX_PARAMETERS, merged_options
from pydistdb.sql.catalog.owners import alter_table_owner
from pydistdb.sql.catalog.reindex import set_clustered
from pydistdb.sql.catalog.sequence_numbers import definition_of
from pydistdb.sql.catalog.views import set_view_options
from pydistdb.sql.errors import (
    DuplicateTable,
    FeatureNotSupported,
    InvalidTableDefinition,
    UndefinedObject,
    UndefinedTable,
    WrongObjectType,
)
from pydistdb.sql.schema_statements import AlterTable, AlterTableAction
from pydistdb.sql.statements import Name

_LETTERS = {"table": "rvSm", "view": "v", "materialized view": "m", "sequence": "S", "foreign table": "r"}


async def alter_table(ddl: DdlContext, statement: AlterTable) -> str:
    tag = f"ALTER {statement.kind.upper()}"
    if statement.kind == "index":
        await _alter_index(ddl, statement)
        return tag
    letters = _LETTERS.get(statement.kind, "rvSm")
    table = ddl.find(statement.name, letters)
    if table is None:
        message = f'relation "{ddl.written(statement.name)}" does not exist'
        renames_index = [a for a in statement.actions if a.kind == "rename_table"]
        if renames_index and ddl.view.index_by_name(statement.name.name, statement.name.schema) is not None:
            await _alter_index(ddl, statement)
            return tag
        if not statement.missing_ok:
            raise UndefinedTable(message)
        ddl.tell(f'relation "{statement.name.name}" does not exist, skipping', "00000")
        return tag
    ddl.require_table_owner(table)
    ddl.check_not_in_use(table, tag)
    await ddl.ddl.lock_tables([table.oid])
    for kind, same in groupby(_in_passes(statement), key=lambda action: action.kind):
        actions = list(same)
        if kind == "alter_type" and table.kind == "r":
            for action in actions:
                await identity.follow_type(ddl, ddl.view.state.tables[table.oid], action)
            await alter_columns.alter_types(ddl, ddl.view.state.tables[table.oid], actions)
            continue
        for action in actions:
            await _apply(ddl, ddl.view.state.tables[table.oid], action)
    return tag


def _in_passes(statement: AlterTable) -> list[AlterTableAction]:
    passes = _PASSES
    if any(action.kind == "alter_type" and action.expression is not None for action in statement.actions):
        passes = {**passes, "drop_column": 2}  # USING may still name what goes
    added = {action.name for action in statement.actions if action.kind == "add_identity"}

    def place(action: AlterTableAction) -> int:
        if action.kind == "set_identity" and action.name in added:
            return passes["add_identity"]
        return passes.get(action.kind, _LAST_PASS)

    return sorted(statement.actions, key=place)


_PASSES = {
    "drop_column": 0,
    "drop_constraint": 0,
    "drop_identity": 0,
    "drop_expression": 0,
    "drop_not_null": 0,
    "alter_type": 1,
    "add_column": 4,
    "set_default": 9,
    "drop_default": 0,
    "set_not_null": 6,
    "set_identity": 6,
    "set_statistics": 6,
    "set_storage": 6,
    "set_compression": 6,
    "set_column_options": 6,
    "add_identity": 7,
    "add_constraint": 8,
}
_OF_COLUMNS = frozenset({"set_default", "drop_default", "set_not_null", "drop_not_null", *storage_settings.OF_COLUMNS})
_LAST_PASS = 10
"""A statement's actions run in passes, whatever their order in the text (tablecmds.c): a constraint may be about a column
that is added behind it."""


async def _apply(ddl: DdlContext, table: Table, action: AlterTableAction) -> None:
    match action.kind:
        case "rename_table":
            await _rename(ddl, table, action)
        case "set_schema":
            await _set_schema(ddl, table, action)
        case "owner_to":
            assert action.owner is not None
            alter_table_owner(ddl, table, action.owner)
        case "set_options":
            if table.kind == "v":
                set_view_options(ddl, table, action)
            else:
                storage_settings.set_options(ddl, table, action)
        case "set_tablespace":
            if action.name != "pg_default":
                raise UndefinedObject(f'tablespace "{action.name}" does not exist')
        case "set_default" | "drop_default" if table.kind == "v":
            alter_columns.change_default(ddl, table, action)
        case "set_logged" if table.kind == "S":
            ddl.put_table(replace(table, persistence=action.name or "p", version=table.version + 1))
        case _ if table.kind != "r" and not (table.kind in "vm" and action.kind == "rename_column"):
            words = action.kind.replace("_", " ").upper()
            what = f"ALTER COLUMN ... {words}" if action.kind in _OF_COLUMNS else words
            raise WrongObjectType(
                f'ALTER action {what} cannot be performed on relation "{table.name}"',
                detail=not_supported_for(table.kind),
            )
        case "enable_triggers" | "no_row_security":
            pass  # there are none
        case "disable_keys":
            if table.foreign_keys or table.referenced_by:
                raise FeatureNotSupported("DISABLE TRIGGER ALL of a table with foreign keys is not supported")
        case "trigger":
            raise UndefinedObject(f'trigger "{action.name}" for table "{table.name}" does not exist')
        case "rule":
            raise UndefinedObject(f'rule "{action.name}" for relation "{table.name}" does not exist')
        case "add_column":
            await alter_columns.add_column(ddl, table, action)
        case "drop_column":
            await alter_columns.drop_column(ddl, table, action)
        case "rename_column":
            await alter_columns.rename_column(ddl, table, action)
        case "set_default" | "drop_default":
            alter_columns.change_default(ddl, table, action)
        case "set_not_null":
            await alter_columns.set_not_null(ddl, table, action)
        case "drop_not_null":
            alter_columns.drop_not_null(ddl, table, action)
        case "add_constraint":
            await alter_constraints.add_constraint(ddl, table, action)
        case "drop_constraint":
            await alter_constraints.drop_constraint(ddl, table, action)
        case "rename_constraint":
            alter_constraints.rename_constraint(ddl, table, action)
        case "validate_constraint":
            await alter_constraints.validate_constraint(ddl, table, action)
        case "alter_constraint":
            alter_constraints.alter_constraint(ddl, table, action)
        case "add_identity":
            await identity.add_identity(ddl, table, action)
        case "set_identity":
            await identity.set_identity(ddl, table, action)
        case "drop_identity":
            identity.drop_identity(ddl, table, action)
        case "drop_expression":
            identity.drop_expression(ddl, table, action)
        case kind if kind in storage_settings.OF_COLUMNS:
            storage_settings.set_column(ddl, table, action)
        case "replica_identity":
            storage_settings.set_replica_identity(ddl, table, action)
        case "cluster_on" | "set_without_cluster":
            set_clustered(ddl, table, action.name)
        case "set_logged":
            _check_persistence(ddl, table, action.name or "p")
            ddl.put_table(replace(table, persistence=action.name or "p", version=table.version + 1))
        case _:
            raise FeatureNotSupported(f"ALTER TABLE {action.kind.replace('_', ' ').upper()} is not supported")


def _check_persistence(ddl: DdlContext, table: Table, persistence: str) -> None:
    """No row that lasts may refer to one that does not."""
    state = ddl.view.state
    if persistence == "p":
        others = [state.tables[key.referenced_table] for key in table.foreign_keys]
        into, of = "logged", "unlogged"
    else:
        others = [state.tables[oid] for oid in table.referenced_by]
        into, of = "unlogged", "logged"
    for other in others:
        if other.oid != table.oid and other.persistence != persistence:
            raise InvalidTableDefinition(
                f'could not change table "{table.name}" to {into} because it references {of} table "{other.name}"'
            )


async def _rename(ddl: DdlContext, table: Table, action: AlterTableAction) -> None:
    assert action.new_name is not None
    name = clip(action.new_name)
    schema = ddl.view.state.schemas[table.schema]
    if not schema.session:
        ddl.require(PG_NAMESPACE, schema.oid, CREATE, "schema", schema.name)
    if ddl.view.is_name_taken(table.schema, name):
        raise DuplicateTable(f'relation "{name}" already exists')
    renamed = replace(table, name=name, version=table.version + 1)
    if table.kind == "S":
        number_defaults(ddl, table)
    await put_renamed(ddl, table, renamed, f'rename relation "{table.name}"')


async def _set_schema(ddl: DdlContext, table: Table, action: AlterTableAction) -> None:
    from pydistdb.sql.catalog.drop_plan import owned_sequences

    assert action.name is not None
    schema = ddl.target_schema(Name(table.name, action.name))
    if schema.oid == table.schema:
        return
    if table.kind == "S":
        owner = ddl.view.state.tables.get(definition_of(table).owner_table)
        if owner is not None:
            raise FeatureNotSupported(
                "cannot move an owned sequence into another schema",
                detail=f'Sequence "{table.name}" is linked to table "{owner.name}".',
            )
    names = [table.name, *(index.name for index in table.indexes if index.oid)]
    for name in names:
        if ddl.view.is_name_taken(schema.oid, name):
            raise DuplicateTable(f'relation "{name}" already exists in schema "{schema.name}"')
    if table.kind == "S":
        number_defaults(ddl, table)
    moved = replace(table, schema=schema.oid, version=table.version + 1)
    await put_renamed(ddl, table, moved, f'move relation "{table.name}"')
    for sequence in owned_sequences(ddl, table.oid):
        ddl.put_table(replace(sequence, schema=schema.oid, version=sequence.version + 1))


async def _alter_index(ddl: DdlContext, statement: AlterTable) -> None:
    found = ddl.view.index_by_name(statement.name.name, statement.name.schema)
    if found is None and all(action.kind == "rename_table" for action in statement.actions):
        relation = (
            ddl.find(statement.name, "rvS") if ddl.view.relation(statement.name.name, statement.name.schema) else None
        )
        if relation is not None:  # ALTER INDEX renames any relation
            await ddl.ddl.lock_tables([relation.oid])
            for action in statement.actions:
                await _rename(ddl, relation, action)
            return
    if found is None:
        if ddl.view.relation(statement.name.name, statement.name.schema) is not None:
            raise WrongObjectType(f'"{statement.name.name}" is not an index')
        if not statement.missing_ok:
            raise UndefinedTable(f'relation "{ddl.written(statement.name)}" does not exist')
        ddl.tell(f'relation "{statement.name.name}" does not exist, skipping', "00000")
        return
    for action in statement.actions:
        if action.kind == "set_options":
            table, index = found
            ddl.require_owner(PG_CLASS, index.oid, "index", index.name)
            options = merged_options(index.options, action.options, INDEX_PARAMETERS[index.method])
            await ddl.ddl.lock_tables([table.oid])
            ddl.put_table(storage_settings.with_index_options(ddl.view.state.tables[table.oid], index, options))
            continue
        if action.kind == "set_statistics":
            table, index = found
            ddl.require_owner(PG_CLASS, index.oid, "index", index.name)
            await ddl.ddl.lock_tables([table.oid])
            storage_settings.set_index_statistics(ddl, ddl.view.state.tables[table.oid], index, action)
            continue
        if action.kind != "rename_table":
            raise FeatureNotSupported(f"ALTER INDEX {action.kind.replace('_', ' ').upper()} is not supported")
        assert action.new_name is not None
        table, index = found
        ddl.require_owner(PG_CLASS, index.oid, "index", index.name)
        name = clip(action.new_name)
        if ddl.view.is_name_taken(table.schema, name):
            raise DuplicateTable(f'relation "{name}" already exists')
        await ddl.ddl.lock_tables([table.oid])
        ddl.put_table(rename_index(ddl.view.state.tables[table.oid], index, name))


def rename_index(table: Table, index: Index, name: str) -> Table:
    """The table with an index (and the constraint that made it) renamed; a primary key's hidden guard goes along."""
    indexes = tuple(
        replace(each, name=name)
        if each.oid == index.oid or (index.primary and each.oid == 0 and each.name == index.name)
        else each
        for each in table.indexes
    )
    return replace(table, indexes=indexes, version=table.version + 1)
