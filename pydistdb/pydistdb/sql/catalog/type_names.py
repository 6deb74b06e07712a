"""Finding the types that DDL statements name, and describing them in messages.

Source: PostgreSQL 15, the wording of its errors about types.
"""

from __future__ import annotations

from pydistdb.sql.catalog import keys
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.errors import (
    DatabaseError,
    DuplicateObject,
    DuplicateTable,
    InvalidSchemaName,
    UndefinedObject,
    WrongObjectType,
)
from pydistdb.sql.statements import Name
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import SqlType
from pydistdb.sql.types.user import TypeEntry, UserType, shown_name


def find_type(ddl: DdlContext, name: Name) -> SqlType | None:
    """The type of that name; a schema that does not exist is an error."""
    if name.schema is not None and ddl.view.schema_named(name.schema) is None:
        raise InvalidSchemaName(f'schema "{name.schema}" does not exist')
    return ddl.view.type_named(name.name, name.schema)


def existing_type(ddl: DdlContext, name: Name) -> SqlType:
    sql_type = find_type(ddl, name)
    if sql_type is None:
        raise UndefinedObject(f'type "{ddl.written(name)}" does not exist')
    return sql_type


def shown(ddl: DdlContext, oid: int) -> str:
    """The type as messages name it: with its schema if it is not on the search path."""
    sql_type = registry.type_by_oid(oid)
    if sql_type.element_oid and ddl.view.type_entry(sql_type.element_oid) is not None:
        return shown_name(sql_type.element_oid, ddl.context) + "[]"
    if ddl.view.type_entry(oid) is not None:
        return shown_name(oid, ddl.context)
    return registry.format_type(oid)


def row_type_owner(ddl: DdlContext, sql_type: SqlType) -> Table | None:
    """The table that a row type belongs to."""
    entry = ddl.view.type_entry(sql_type.oid)
    if entry is None or entry.definition.kind != "c" or not entry.definition.relation:
        return None
    return ddl.view.state.tables.get(entry.definition.relation)


def alterable(ddl: DdlContext, name: Name, kind: str, enum_only: bool = False) -> TypeEntry:
    """The user's type to change; ``kind`` is type or domain, as the statement says."""
    sql_type = existing_type(ddl, name)
    what = shown(ddl, sql_type.oid)
    if sql_type.element_oid and ddl.view.type_entry(sql_type.element_oid) is not None:
        element = shown(ddl, sql_type.element_oid)
        raise WrongObjectType(
            f"cannot alter array type {what}",
            hint=f"You can alter type {element}, which will alter the array type as well.",
        )
    entry = ddl.view.type_entry(sql_type.oid)
    if kind == "domain" and (entry is None or entry.definition.kind != "d"):
        raise WrongObjectType(f"{what} is not a domain")
    if entry is None and enum_only:
        raise WrongObjectType(f"{what} is not an enum")
    if entry is None:
        raise DatabaseError.of("42501", f"must be owner of type {what}")
    if not enum_only and row_type_owner(ddl, sql_type) is not None:
        raise WrongObjectType(f"{what} is a table's row type", hint="Use ALTER TABLE instead.")
    return entry


def refuse_taken(ddl: DdlContext, schema_oid: int, name: str) -> None:
    """A type needs a name that no other type (and so no table) of the schema has."""
    state = ddl.view.state
    if (schema_oid, name) in state.types_by_name or (schema_oid, name) in state.relations:
        raise DuplicateObject(f'type "{name}" already exists')
    if name.startswith("_") and (schema_oid, name[1:]) in state.types_by_name:
        raise DuplicateObject(f'type "{name}" already exists')


def refuse_type_of_that_name(ddl: DdlContext, schema_oid: int, name: str) -> None:
    """A relation brings a type of its own name, which must be free."""
    entry = ddl.view.state.types_by_name.get((schema_oid, name))
    if entry is not None and entry.definition.kind == "c":
        raise DuplicateTable(f'relation "{name}" already exists')
    if entry is not None:
        raise DuplicateObject(
            f'type "{name}" already exists',
            hint="A relation has an associated type of the same name, so you must use a name that doesn't conflict "
            "with any existing type.",
        )


def put_type(ddl: DdlContext, definition: UserType) -> None:
    ddl.apply([(keys.type_key(definition.database, definition.oid), definition)])
