"""ALTER TYPE and ALTER DOMAIN: one action after the other, each seeing the type as the one before left it.

Defaults, checks and views are kept as SQL text: those that name a type are written anew when it is renamed or moved (follow.py).

Source: PostgreSQL 15 manual, ALTER TYPE, ALTER DOMAIN.
"""

from __future__ import annotations

from msgspec.structs import replace

from pydistdb.sql.catalog.access import PG_TYPE
from pydistdb.sql.catalog.alter_domain import alter_domain
from pydistdb.sql.catalog.composites import alter_composite
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.enums import add_value, rename_value
from pydistdb.sql.catalog.follow import put_renamed_type
from pydistdb.sql.catalog.naming import clip
from pydistdb.sql.catalog.type_names import alterable, refuse_taken, shown
from pydistdb.sql.errors import DuplicateObject
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
            await rename_value(ddl, entry, action)
        case "rename":
            await _rename(ddl, entry, action)
        case "set_schema":
            await _set_schema(ddl, entry, action)
        case _ if entry.definition.kind == "d":
            await alter_domain(ddl, entry, action)
        case _:
            await alter_composite(ddl, entry.definition, action)


async def _rename(ddl: DdlContext, entry: TypeEntry, action: AlterTypeAction) -> None:
    definition = entry.definition
    name = clip(action.new_name)
    refuse_taken(ddl, definition.schema, name)
    await put_renamed_type(ddl, definition, replace(definition, name=name))


async def _set_schema(ddl: DdlContext, entry: TypeEntry, action: AlterTypeAction) -> None:
    definition = entry.definition
    schema = ddl.target_schema(Name(definition.name, action.name))
    if schema.oid == definition.schema:
        return
    state = ddl.view.state
    if (schema.oid, definition.name) in state.types_by_name or (schema.oid, definition.name) in state.relations:
        raise DuplicateObject(f'type "{definition.name}" already exists in schema "{schema.name}"')
    await put_renamed_type(ddl, definition, replace(definition, schema=schema.oid))
