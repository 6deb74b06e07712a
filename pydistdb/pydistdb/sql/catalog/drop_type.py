"""DROP TYPE and DROP DOMAIN: what depends on the type goes along under CASCADE and is listed otherwise (2BP01).

    ERROR:  cannot drop type mood because other objects depend on it
    DETAIL:  column m of table u depends on type mood

Source: PostgreSQL 15 manual, DROP TYPE, DROP DOMAIN, 5.14.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from pydistdb.sql.catalog import keys
from pydistdb.sql.catalog.access import PG_NAMESPACE, PG_TYPE
from pydistdb.sql.catalog.alter_columns import drop_column
from pydistdb.sql.catalog.composites import dropped_attribute
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.dependencies import described
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.catalog.drop_plan import DependentText, drop_found_routines, forget_table, report_dependents
from pydistdb.sql.catalog.state import Change
from pydistdb.sql.catalog.statistics_names import forget_comments, without_statistics
from pydistdb.sql.catalog.type_dependencies import Dependent, dependents
from pydistdb.sql.catalog.type_names import find_type, put_type, row_type_owner, shown
from pydistdb.sql.errors import DependentObjectsStillExist, InvalidSchemaName, UndefinedObject, WrongObjectType
from pydistdb.sql.schema_statements import AlterTableAction, DropObjects
from pydistdb.sql.statements import Name
from pydistdb.sql.types.user import TypeEntry


async def drop_types(ddl: DdlContext, statement: DropObjects) -> None:
    """DROP TYPE or DOMAIN, of one or several."""
    subjects: dict[int, TypeEntry] = {}
    for name in statement.names:
        entry = _find(ddl, name, statement)
        if entry is not None:
            role = ddl.view.role
            if role is not None and not ddl.view.access.owns(role, PG_NAMESPACE, entry.definition.schema):
                ddl.require_owner(PG_TYPE, entry.definition.oid, "type", shown(ddl, entry.definition.oid))
            subjects[entry.definition.oid] = entry
    await drop_entries(ddl, subjects, statement.cascade)


def _find(ddl: DdlContext, name: Name, statement: DropObjects) -> TypeEntry | None:
    try:
        sql_type = find_type(ddl, name)
    except InvalidSchemaName as error:
        if not statement.missing_ok:
            raise
        ddl.tell(f"{error.message}, skipping")
        return None
    if sql_type is None:
        message = f'type "{ddl.written(name)}" does not exist'
        if not statement.missing_ok:
            raise UndefinedObject(message)
        ddl.tell(message + ", skipping")
        return None
    entry = ddl.view.type_entry(sql_type.oid)
    if statement.kind == "domain" and (entry is None or entry.definition.kind != "d"):
        raise WrongObjectType(f'"{ddl.written(name)}" is not a domain')
    what = shown(ddl, sql_type.oid)
    if sql_type.element_oid and ddl.view.type_entry(sql_type.element_oid) is not None:
        element = shown(ddl, sql_type.element_oid)
        raise DependentObjectsStillExist(
            f"cannot drop type {what} because type {element} requires it", hint=f"You can drop type {element} instead."
        )
    if entry is None:
        raise DependentObjectsStillExist(f"cannot drop type {what} because it is required by the database system")
    table = row_type_owner(ddl, sql_type)
    if table is not None:
        relation = described(ddl, table)
        raise DependentObjectsStillExist(
            f"cannot drop type {what} because {relation} requires it", hint=f"You can drop {relation} instead."
        )
    return entry


async def drop_entries(ddl: DdlContext, subjects: dict[int, TypeEntry], cascade: bool) -> None:
    """Drop these types with whatever depends on them."""
    dropped, found = collect(ddl, subjects)
    if found:
        names = [f"type {shown(ddl, oid)}" for oid in subjects]
        report_dependents(ddl, [DependentText(each.oid, each.description, each.on) for each in found], cascade, names)
    await carry_out(ddl, dropped, found)


def collect(ddl: DdlContext, subjects: dict[int, TypeEntry]) -> tuple[dict[int, TypeEntry], list[Dependent]]:
    """All types that go if these go (domains over them), and what depends on any of them."""
    found: list[Dependent] = []
    dropped = dict(subjects)
    todo = list(subjects.values())
    while todo:
        for dependent in dependents(ddl, todo.pop(0)):
            if dependent.kind == "type" and dependent.entry is not None:
                if dependent.entry.definition.oid in dropped:
                    continue
                dropped[dependent.entry.definition.oid] = dependent.entry
                todo.append(dependent.entry)
            of_dropped = dependent.entry is not None and dependent.entry.definition.oid in dropped
            if dependent.kind != "attribute" or not of_dropped:
                found.append(dependent)
    return dropped, found


def users_of_row_types(ddl: DdlContext, tables: Mapping[int, Table]) -> tuple[dict[int, TypeEntry], list[Dependent]]:
    """What outside of some tables depends on their row types, and the types that go with it."""
    state = ddl.view.state
    used: set[int] = set()
    for entry in state.types.values():
        used.update(each.type_oid for each in entry.definition.attributes)
        used.add(entry.definition.base_oid)
    own = {table.row_type_oid for table in tables.values() if table.row_type_oid}
    entries: dict[int, TypeEntry] = {}
    for oid in own:
        row_type = state.row_types.get(oid)
        is_used = bool(state.users_of(oid) or state.users_of(oid + 1)) or not used.isdisjoint({oid, oid + 1})
        if row_type is not None and is_used:
            entries[oid] = row_type
    if not entries:
        return {}, []
    dropped, found = collect(ddl, entries)
    found = [each for each in found if each.table is None or each.table.oid not in tables]
    return {oid: entry for oid, entry in dropped.items() if oid not in entries}, found


async def carry_out(ddl: DdlContext, dropped: dict[int, TypeEntry], found: list[Dependent]) -> None:
    """Drop types after what depends on them."""
    await ddl.ddl.lock_tables([each.table.oid for each in found if each.table is not None])
    for dependent in sorted(found, key=lambda each: each.kind == "column"):  # a column's dependents before itself
        await _drop_dependent(ddl, dependent)
    ddl.apply([change for entry in dropped.values() for change in forget_type(ddl, entry)])


async def _drop_dependent(ddl: DdlContext, dependent: Dependent) -> None:
    table = ddl.view.state.tables.get(dependent.table.oid) if dependent.table is not None else None
    match dependent.kind:
        case "column" if table is not None:
            if any(column.name == dependent.name and not column.dropped for column in table.columns):
                await drop_column(ddl, table, AlterTableAction("drop_column", dependent.name, cascade=True))
        case "default" if table is not None:
            columns = tuple(
                replace(column, default=None) if column.name == dependent.name else column for column in table.columns
            )
            ddl.put_table(replace(table, columns=columns, version=table.version + 1))
        case "check" if table is not None:
            checks = tuple(check for check in table.checks if check.name != dependent.name)
            ddl.put_table(replace(table, checks=checks, version=table.version + 1))
        case "statistics" if table is not None:
            gone = {each.oid for each in table.statistics_objects if each.name == dependent.name}
            ddl.apply(forget_comments(ddl, gone))
            ddl.put_table(replace(without_statistics(table, gone), version=table.version + 1))
        case "view" if table is not None:
            ddl.apply(forget_table(ddl, table))
        case "routine" if dependent.routine is not None:
            await drop_found_routines(ddl, [dependent.routine], True)
        case "attribute" if dependent.entry is not None:
            definition = ddl.view.state.types[dependent.entry.definition.oid].definition
            for attribute in definition.attributes:
                if attribute.name == dependent.name:
                    put_type(ddl, dropped_attribute(ddl, definition, attribute))


def forget_type(ddl: DdlContext, entry: TypeEntry) -> list[Change]:
    """The changes that remove a type with its comment."""
    definition = entry.definition
    changes: list[Change] = [(keys.type_key(definition.database, definition.oid), None)]
    mine = {definition.oid, definition.relation, *(check.oid for check in definition.checks)}
    comments = [comment for comment in ddl.view.state.comments if comment[1] in mine]
    changes += [(keys.comment_key(definition.database, *comment), None) for comment in comments]
    return changes
