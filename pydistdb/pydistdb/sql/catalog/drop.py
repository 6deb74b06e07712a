"""DROP TABLE, INDEX, VIEW, SEQUENCE, SCHEMA with their dependencies.

What depends on a dropped object goes with it under CASCADE and is listed otherwise (2BP01)::

    ERROR:  cannot drop table users because other objects depend on it
    DETAIL:  constraint orders_user_id_fkey on table orders depends on table users
    HINT:  Use DROP ... CASCADE to drop the dependent objects too.

The statement itself is read here; drop_plan.py collects and removes, drop_index.py and drop_type.py have their own rules.
All names of the statement are dropped together, so ``DROP TABLE orders, users`` needs no CASCADE.
"""

from __future__ import annotations

from pydistdb.sql.catalog import drop_type, keys, sequences
from pydistdb.sql.catalog.access import PG_NAMESPACE
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.dependencies import described
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.catalog.drop_index import check_concurrently, drop_index
from pydistdb.sql.catalog.drop_plan import DependentText, DropPlan, carry_out, collect_dependents, removal_hint
from pydistdb.sql.catalog.routine_names import described_routine
from pydistdb.sql.catalog.state import SYSTEM_SCHEMAS
from pydistdb.sql.catalog.statistics_names import described_statistics, everything_of
from pydistdb.sql.catalog.statistics_objects import drop_statistics
from pydistdb.sql.catalog.type_names import shown
from pydistdb.sql.errors import (
    DependentObjectsStillExist,
    FeatureNotSupported,
    InvalidSchemaName,
    UndefinedTable,
    WrongObjectType,
)
from pydistdb.sql.schema_statements import DropObjects
from pydistdb.sql.statements import Name

_KIND_LETTERS = {"table": "r", "view": "v", "materialized view": "m", "sequence": "S"}


async def drop_objects(ddl: DdlContext, statement: DropObjects) -> str:
    if statement.concurrently:
        check_concurrently(ddl, statement)
    match statement.kind:
        case "table" | "view" | "materialized view" | "sequence":
            await _drop_relations(ddl, statement)
        case "index":
            for name in statement.names:
                await drop_index(ddl, name, statement)
        case "schema":
            await _drop_schemas(ddl, statement)
        case "type" | "domain":
            await drop_type.drop_types(ddl, statement)
        case "statistics":
            drop_statistics(ddl, statement)
        case _:
            raise FeatureNotSupported(f"DROP {statement.kind.upper()} is not supported")
    return f"DROP {statement.kind.upper()}"


async def _drop_relations(ddl: DdlContext, statement: DropObjects) -> None:
    plan = DropPlan()
    letter = _KIND_LETTERS[statement.kind]
    for name in statement.names:
        table = _find(ddl, name, statement, letter)
        if table is None:
            continue
        _check_owner(ddl, table)
        if table.kind == "S":
            definition = sequences.definition_of(table)
            if definition.identity and definition.owner_table in ddl.view.state.tables:
                _refuse_owned(ddl, table, definition)
        plan.tables[table.oid] = table
    subject = list(plan.tables.values())
    collect_dependents(ddl, plan)
    await carry_out(ddl, plan, statement.cascade, [described(ddl, table) for table in subject])


def _check_owner(ddl: DdlContext, table: Table) -> None:
    """The owner of the schema may drop what is in it, too."""
    role = ddl.view.role
    if role is not None and not ddl.view.access.owns(role, PG_NAMESPACE, table.schema):
        ddl.require_table_owner(table)


def _find(ddl: DdlContext, name: Name, statement: DropObjects, letter: str) -> Table | None:
    """The relation to drop; None (with a notice) if it is missing and may be."""
    if name.schema is not None and ddl.view.schema_named(name.schema) is None:
        if not statement.missing_ok:
            raise InvalidSchemaName(f'schema "{name.schema}" does not exist')
        ddl.tell(f'schema "{name.schema}" does not exist, skipping')
        return None
    try:
        table = ddl.find(name, letter)
    except WrongObjectType as error:
        found = ddl.view.relation(name.name, name.schema)
        kind = found.kind if isinstance(found, Table) else "i"
        error.hint = removal_hint(kind)
        raise
    if table is None:
        message = f'{statement.kind} "{name.name}" does not exist'
        if not statement.missing_ok:
            raise UndefinedTable(message)
        ddl.tell(f'{statement.kind} "{name.name}" does not exist, skipping', "00000")
    return table


def _refuse_owned(ddl: DdlContext, table: Table, definition: sequences.SequenceDefinition) -> None:
    owner = ddl.view.state.tables[definition.owner_table]
    column = next(c for c in owner.columns if c.number == definition.owner_column)
    raise DependentObjectsStillExist(
        f"cannot drop sequence {table.name} because column {column.name} of table {owner.name} requires it",
        hint=f"You can drop column {column.name} of table {owner.name} instead.",
    )


async def _drop_schemas(ddl: DdlContext, statement: DropObjects) -> None:
    system = {schema.oid for schema in SYSTEM_SCHEMAS}
    for name in statement.names:
        schema = ddl.view.schema_named(name.name)
        if schema is None:
            if not statement.missing_ok:
                raise InvalidSchemaName(f'schema "{name.name}" does not exist')
            ddl.tell(f'schema "{name.name}" does not exist, skipping', "00000")
            continue
        ddl.require_owner(PG_NAMESPACE, schema.oid, "schema", schema.name)
        if schema.oid in system:
            raise DependentObjectsStillExist(
                f"cannot drop schema {schema.name} because it is required by the database system"
            )
        plan = DropPlan()
        members = [table for table in ddl.view.tables() if table.schema == schema.oid]
        for table in members:
            plan.tables[table.oid] = table
            if table.kind != "S" or not sequences.definition_of(table).owner_table:
                plan.dependents.append(DependentText(table.oid, described(ddl, table), f"schema {schema.name}"))
        for routine in ddl.view.state.routines.values():
            if routine.schema == schema.oid:
                plan.routines[routine.oid] = routine
                text = described_routine(ddl, routine)
                plan.dependents.append(DependentText(routine.oid, text, f"schema {schema.name}"))
        for table, statistics in everything_of(ddl.view.state):
            if statistics.schema == schema.oid and table.oid not in plan.tables:
                plan.statistics.append(statistics.oid)
                text = described_statistics(ddl.view, statistics)
                plan.dependents.append(DependentText(statistics.oid, text, f"schema {schema.name}"))
        collect_dependents(ddl, plan)
        types = {oid: entry for oid, entry in ddl.view.state.types.items() if entry.definition.schema == schema.oid}
        dropped, users = drop_type.collect(ddl, types)
        users = [user for user in users if user.table is None or user.table.oid not in plan.tables]
        plan.dependents += [DependentText(oid, f"type {shown(ddl, oid)}", f"schema {schema.name}") for oid in types]
        plan.dependents += [DependentText(user.oid, user.description, user.on) for user in users]
        await carry_out(ddl, plan, statement.cascade, [f"schema {schema.name}"])
        await drop_type.carry_out(ddl, dropped, users)
        ddl.apply([(keys.schema_key(ddl.database_oid, schema.oid), None)])
