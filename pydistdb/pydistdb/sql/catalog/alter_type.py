"""ALTER TYPE and ALTER DOMAIN: one action after the other, each seeing the type as the one before left it.

Defaults, checks and views are kept as SQL text, so a type whose name stands in one of them keeps its name and schema:
renaming it is refused.

Source: PostgreSQL 15 manual, ALTER TYPE, ALTER DOMAIN.
"""

from __future__ import annotations

from msgspec.structs import replace

from pydistdb.sql.catalog.access import PG_TYPE
from pydistdb.sql.catalog.alter_domain import alter_domain
from pydistdb.sql.catalog.composites import alter_composite
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.enums import add_value, rename_value
from pydistdb.sql.catalog.naming import clip
from pydistdb.sql.catalog.type_dependencies import texts_using
from pydistdb.sql.catalog.type_names import alterable, put_type, refuse_taken, shown
from pydistdb.sql.errors import DuplicateObject, FeatureNotSupported
from pydistdb.sql.statements import Name
from pydistdb.sql.type_statements import AlterType, AlterTypeAction
from pydistdb.sql.types.user import TypeEntry


async def alter_type(ddl: DdlContext, statement: AlterType) -> str:
    entry = alterable(ddl, statement.name, statement.kind, statement.actions[0].kind in ("add_value", "rename_value"))
    ddl.require_owner(PG_TYPE, entry.definition.oid, "type", shown(ddl, entry.definition.oid))
    for action in statement.actions:
        entry = ddl.view.state.types[entry.definition.oid]
        await _apply(ddl, entry, action)
    return f"ALTER {statement.kind.upper()}"


async def _apply(ddl: DdlContext, entry: TypeEntry, action: AlterTypeAction) -> None:
    match action.kind:
        case "add_value":
            await add_value(ddl, entry, action)
        case "rename_value":
            rename_value(ddl, entry, action)
        case "rename":
            _rename(ddl, entry, action)
        case "set_schema":
            _set_schema(ddl, entry, action)
        case _ if entry.definition.kind == "d":
            await alter_domain(ddl, entry, action)
        case _:
            await alter_composite(ddl, entry.definition, action)


def _rename(ddl: DdlContext, entry: TypeEntry, action: AlterTypeAction) -> None:
    definition = entry.definition
    name = clip(action.new_name)
    refuse_taken(ddl, definition.schema, name)
    _refuse_texts(ddl, entry, "rename")
    put_type(ddl, replace(definition, name=name))


def _set_schema(ddl: DdlContext, entry: TypeEntry, action: AlterTypeAction) -> None:
    definition = entry.definition
    schema = ddl.target_schema(Name(definition.name, action.name))
    if schema.oid == definition.schema:
        return
    state = ddl.view.state
    if (schema.oid, definition.name) in state.types_by_name or (schema.oid, definition.name) in state.relations:
        raise DuplicateObject(f'type "{definition.name}" already exists in schema "{schema.name}"')
    _refuse_texts(ddl, entry, "move")
    put_type(ddl, replace(definition, schema=schema.oid))


def _refuse_texts(ddl: DdlContext, entry: TypeEntry, what: str) -> None:
    users = texts_using(ddl, entry)
    if users:
        raise FeatureNotSupported(
            f"cannot {what} type {shown(ddl, entry.definition.oid)} while its name stands in a stored expression",
            detail=f"It stands in {users[0]}.",
        )
