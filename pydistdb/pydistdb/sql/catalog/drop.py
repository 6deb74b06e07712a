"""DROP TABLE, INDEX, VIEW, SEQUENCE, SCHEMA with their dependencies.

What depends on a dropped object goes with it under CASCADE and is listed otherwise (2BP01)::

    ERROR:  cannot drop table users because other objects depend on it
    DETAIL:  constraint orders_user_id_fkey on table orders depends on table users
    HINT:  Use DROP ... CASCADE to drop the dependent objects too.

All names of the statement are dropped together, so ``DROP TABLE orders, users`` needs no CASCADE.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from pydistdb.sql.catalog import keys, sequences
from pydistdb.sql.catalog.access import PG_CLASS, PG_NAMESPACE
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.dependencies import depending_columns, depending_views, described, visible_name
from pydistdb.sql.catalog.dependents import uses_of
from pydistdb.sql.catalog.descriptors import Check, ForeignKey, Index, Routine, Schema, Table
from pydistdb.sql.catalog.garbage import index_garbage, table_garbage
from pydistdb.sql.catalog.routine_names import described_routine
from pydistdb.sql.catalog.state import SYSTEM_SCHEMAS, Change
from pydistdb.sql.catalog.type_names import shown
from pydistdb.sql.errors import (
    ActiveTransaction,
    DependentObjectsStillExist,
    FeatureNotSupported,
    InvalidSchemaName,
    UndefinedObject,
    UndefinedTable,
    WrongObjectType,
)
from pydistdb.sql.pg_catalog.objects import CONSTRAINT_OID_OFFSET
from pydistdb.sql.statements import DropObjects, Name

MOST_LISTED = 100
PG_PROC = 1255
_KIND_LETTERS = {"table": "r", "view": "v", "materialized view": "m", "sequence": "S"}


@dataclass(slots=True, eq=False)
class DropPlan:
    """What one DROP takes away."""

    tables: dict[int, Table] = field(default_factory=dict)
    foreign_keys: list[tuple[Table, ForeignKey]] = field(default_factory=list)
    defaults: list[tuple[Table, int]] = field(default_factory=list)
    """Columns whose default uses a dropped sequence."""
    checks: list[tuple[Table, Check]] = field(default_factory=list)
    """Constraints that call a dropped function."""
    routines: dict[int, Routine] = field(default_factory=dict)
    schemas: dict[int, Schema] = field(default_factory=dict)
    dependents: list[tuple[str, str]] = field(default_factory=list)
    """(dependent, what it depends on), each as Postgres describes it."""


async def drop_objects(ddl: DdlContext, statement: DropObjects) -> str:
    if statement.concurrently:
        _check_concurrently(ddl, statement)
    await ddl.ddl.open()
    match statement.kind:
        case "table" | "view" | "materialized view" | "sequence":
            await _drop_relations(ddl, statement)
        case "index":
            for name in statement.names:
                await _drop_index(ddl, name, statement)
        case "schema":
            await _drop_schemas(ddl, statement)
        case "type" | "domain":
            from pydistdb.sql.catalog.drop_type import drop_types

            await drop_types(ddl, statement)
        case _:
            raise FeatureNotSupported(f"DROP {statement.kind.upper()} is not supported")
    return f"DROP {statement.kind.upper()}"


# ---------------------------------------------------------------------------------------------------- relations


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
        error.hint = _removal_hint(kind)
        raise
    if table is None:
        message = f'{statement.kind} "{ddl.written(name)}" does not exist'
        if not statement.missing_ok:
            raise UndefinedTable(message)
        ddl.tell(f'{statement.kind} "{name.name}" does not exist, skipping', "00000")
    return table


def _removal_hint(kind: str) -> str:
    word = {"r": "TABLE", "v": "VIEW", "m": "MATERIALIZED VIEW", "S": "SEQUENCE", "i": "INDEX"}[kind]
    return f"Use DROP {word} to remove {'an' if word == 'INDEX' else 'a'} {word.lower()}."


def _refuse_owned(ddl: DdlContext, table: Table, definition: sequences.SequenceDefinition) -> None:
    owner = ddl.view.state.tables[definition.owner_table]
    column = next(c for c in owner.columns if c.number == definition.owner_column)
    raise DependentObjectsStillExist(
        f"cannot drop sequence {table.name} because column {column.name} of table {owner.name} requires it",
        hint=f"You can drop column {column.name} of table {owner.name} instead.",
    )


def collect_dependents(ddl: DdlContext, plan: DropPlan) -> None:
    """Add what depends on the plan's relations, and what depends on that."""
    tables = ddl.view.state.tables
    todo: list[Table | Routine] = [*plan.tables.values(), *plan.routines.values()]
    dropped_first = set(plan.tables)
    seen_keys: set[int] = set()
    while todo:
        table = todo.pop(0)
        todo += _users_of(ddl, plan, table)
        if isinstance(table, Routine):
            continue
        for oid in table.referenced_by:
            other = tables.get(oid)
            if other is None or oid in dropped_first or oid == table.oid:
                continue
            for key in other.foreign_keys:
                if key.referenced_table == table.oid and key.oid not in seen_keys:
                    seen_keys.add(key.oid)
                    plan.foreign_keys.append((other, key))
                    plan.dependents.append((f"constraint {key.name} on {described(ddl, other)}", described(ddl, table)))
        if table.kind == "S":
            for other, number in depending_columns(ddl, table):
                if other.oid not in plan.tables:
                    plan.defaults.append((other, number))
                    column = next(c for c in other.columns if c.number == number)
                    plan.dependents.append(
                        (
                            f"default value for column {column.name} of {described(ddl, other)}",
                            described(ddl, table),
                        )
                    )
        else:
            for sequence in owned_sequences(ddl, table.oid):
                if sequence.oid not in plan.tables:
                    plan.tables[sequence.oid] = sequence
                    todo.append(sequence)


def _users_of(ddl: DdlContext, plan: DropPlan, used: Table | Routine) -> list[Table | Routine]:
    """Add the views, functions and expressions that use a relation or a function; returns the objects among them."""
    what = described_routine(ddl, used) if isinstance(used, Routine) else described(ddl, used)
    found: list[Table | Routine] = []
    for view in depending_views(ddl, used.oid):
        if view.oid not in plan.tables:
            plan.tables[view.oid] = view
            plan.dependents.append((described(ddl, view), what))
            found.append(view)
    for routine in ddl.view.state.routines.values():
        if (used.oid in routine.depends_on or routine.row_of == used.oid) and routine.oid not in plan.routines:
            plan.routines[routine.oid] = routine
            reason = (
                f"type {visible_name(ddl, used)}" if isinstance(used, Table) and routine.row_of == used.oid else what
            )
            plan.dependents.append((described_routine(ddl, routine), reason))
            found.append(routine)
    if isinstance(used, Routine):
        for use in uses_of(ddl, used):
            if use.table.oid in plan.tables:
                continue
            if use.kind == "default":
                plan.defaults.append((use.table, use.number))
                column = next(c for c in use.table.columns if c.number == use.number)
                subject = f"default value for column {column.name}"
                plan.dependents.append((f"{subject} of {described(ddl, use.table)}", what))
            else:
                check = next(c for c in use.table.checks if c.oid == use.number)
                plan.checks.append((use.table, check))
                plan.dependents.append((f"constraint {check.name} on {described(ddl, use.table)}", what))
    return found


async def drop_found_routines(ddl: DdlContext, routines: Sequence[Routine], cascade: bool) -> None:
    """Drop functions that were found by name."""
    plan = DropPlan(routines={routine.oid: routine for routine in routines})
    subjects = [described_routine(ddl, routine) for routine in routines]
    collect_dependents(ddl, plan)
    await carry_out(ddl, plan, cascade, subjects)


async def drop_tables(ddl: DdlContext, tables: Iterable[Table]) -> None:
    """Drop relations and all that depends on them, without a word (the end of a session, ON COMMIT DROP)."""
    plan = DropPlan({table.oid: table for table in tables})
    collect_dependents(ddl, plan)
    plan.dependents.clear()
    await carry_out(ddl, plan, True, [])


def owned_sequences(ddl: DdlContext, table_oid: int, column: int | None = None) -> list[Table]:
    """The sequences owned by a table's columns (serial, identity)."""
    found = []
    for relation in ddl.view.state.tables.values():
        if relation.kind == "S":
            definition = sequences.definition_of(relation)
            if definition.owner_table == table_oid and column in (None, definition.owner_column):
                found.append(relation)
    return found


async def carry_out(ddl: DdlContext, plan: DropPlan, cascade: bool, subjects: list[str]) -> None:
    """Drop what is planned; ``subjects`` are named in messages (without any there are none)."""
    from pydistdb.sql.catalog import drop_type

    dropped, users = drop_type.users_of_row_types(ddl, plan.tables)
    plan.dependents += [(user.description, user.on) for user in users]
    if plan.dependents and subjects:
        report_dependents(ddl, plan.dependents, cascade, subjects)
    referenced = {key.referenced_table for table in plan.tables.values() for key in table.foreign_keys}
    locked = {*plan.tables, *referenced, *(table.oid for table, _ in plan.foreign_keys)}
    locked.update(table.oid for table, _ in (*plan.defaults, *plan.checks))
    for table in plan.tables.values():
        ddl.check_not_in_use(table, "DROP TABLE")
    await ddl.ddl.lock_tables(locked)
    if users:
        await drop_type.carry_out(ddl, dropped, users)
    changes: list[Change] = []
    survivors = _survivors(ddl, plan, referenced)
    changes += [(keys.table_key(table.database, table.oid), table) for table in survivors]
    for table in plan.tables.values():
        changes += forget_table(ddl, table)
    for routine in plan.routines.values():
        changes.append((keys.routine_key(routine.database, routine.oid), None))
        comment = (PG_PROC, routine.oid, 0)
        if comment in ddl.view.state.comments:
            changes.append((keys.comment_key(routine.database, *comment), None))
    ddl.apply(changes)


def report_dependents(ddl: DdlContext, dependents: list[tuple[str, str]], cascade: bool, subjects: list[str]) -> None:
    """Refuse to drop because of dependents, or (CASCADE) tell what goes along."""
    if not cascade:
        lines = [f"{dependent} depends on {what}" for dependent, what in dependents[:MOST_LISTED]]
        if len(dependents) > MOST_LISTED:
            lines.append(f"and {len(dependents) - MOST_LISTED} other objects (see server log for list)")
        subject = subjects[0] if len(subjects) == 1 else "desired object(s)"
        raise DependentObjectsStillExist(
            f"cannot drop {subject} because other objects depend on it"
            if len(subjects) == 1
            else "cannot drop desired object(s) because other objects depend on them",
            detail="\n".join(lines),
            hint="Use DROP ... CASCADE to drop the dependent objects too.",
        )
    if len(dependents) == 1:
        ddl.tell(f"drop cascades to {dependents[0][0]}")
    else:
        detail = "\n".join(f"drop cascades to {dependent}" for dependent, _ in dependents[:MOST_LISTED])
        ddl.tell(f"drop cascades to {len(dependents)} other objects", detail=detail)


def _survivors(ddl: DdlContext, plan: DropPlan, referenced: Iterable[int]) -> list[Table]:
    """The tables that stay, without what they lose."""
    changed: dict[int, Table] = {}
    tables = ddl.view.state.tables
    for other, key in plan.foreign_keys:
        table = changed.get(other.oid, tables[other.oid])
        left = tuple(k for k in table.foreign_keys if k.oid != key.oid)
        changed[other.oid] = replace(table, foreign_keys=left)
    for other, number in plan.defaults:
        table = changed.get(other.oid, tables[other.oid])
        columns = tuple(replace(c, default=None) if c.number == number else c for c in table.columns)
        changed[other.oid] = replace(table, columns=columns)
    for other, check in plan.checks:
        table = changed.get(other.oid, tables[other.oid])
        changed[other.oid] = replace(table, checks=tuple(c for c in table.checks if c.oid != check.oid))
    for oid in referenced:
        if oid in tables and oid not in plan.tables:
            table = changed.get(oid, tables[oid])
            left_by = tuple(other for other in table.referenced_by if other not in plan.tables)
            changed[oid] = replace(table, referenced_by=left_by)
    return [replace(t, version=t.version + 1) for oid, t in changed.items() if oid not in plan.tables]


def forget_table(ddl: DdlContext, table: Table) -> list[Change]:
    """The changes that remove a relation with its comments and statistics; its storage becomes garbage."""
    changes: list[Change] = [(keys.table_key(table.database, table.oid), None)]
    state = ddl.view.state
    mine = {table.oid, *(i.oid for i in table.indexes), *(c.oid for c in table.checks)}
    mine.update(key.oid for key in table.foreign_keys)
    mine.update(index.oid + CONSTRAINT_OID_OFFSET for index in table.indexes if index.constraint)
    changes += [(keys.comment_key(table.database, *comment), None) for comment in state.comments if comment[1] in mine]
    if table.oid in state.statistics:
        changes.append((keys.statistics_key(table.database, table.oid), None))
    if table.kind != "v":
        for garbage in table_garbage(table):
            ddl.ddl.dropped_storage(garbage)
    return changes


# ---------------------------------------------------------------------------------------------------- indexes


def _check_concurrently(ddl: DdlContext, statement: DropObjects) -> None:
    """DROP INDEX CONCURRENTLY takes the index off like any other DROP, but is as particular as Postgres's."""
    if ddl.in_transaction_block:
        raise ActiveTransaction("DROP INDEX CONCURRENTLY cannot run inside a transaction block")
    if len(statement.names) > 1:
        raise FeatureNotSupported("DROP INDEX CONCURRENTLY does not support dropping multiple objects")
    if statement.cascade:
        raise FeatureNotSupported("DROP INDEX CONCURRENTLY does not support CASCADE")


async def _drop_index(ddl: DdlContext, name: Name, statement: DropObjects) -> None:
    found = ddl.view.index_by_name(name.name, name.schema)
    if found is None:
        other = ddl.view.relation(name.name, name.schema)
        if other is not None:
            hint = _removal_hint(other.kind if isinstance(other, Table) else "r")
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
            (f"constraint {key.name} on {described(ddl, other)}", f"index {index.name}") for other, key in users
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


# ---------------------------------------------------------------------------------------------------- schemas


async def _drop_schemas(ddl: DdlContext, statement: DropObjects) -> None:
    from pydistdb.sql.catalog import drop_type

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
                plan.dependents.append((described(ddl, table), f"schema {schema.name}"))
        for routine in ddl.view.state.routines.values():
            if routine.schema == schema.oid:
                plan.routines[routine.oid] = routine
                plan.dependents.append((described_routine(ddl, routine), f"schema {schema.name}"))
        collect_dependents(ddl, plan)
        types = {oid: entry for oid, entry in ddl.view.state.types.items() if entry.definition.schema == schema.oid}
        dropped, users = drop_type.collect(ddl, types)
        users = [user for user in users if user.table is None or user.table.oid not in plan.tables]
        plan.dependents += [(f"type {shown(ddl, oid)}", f"schema {schema.name}") for oid in types]
        plan.dependents += [(user.description, user.on) for user in users]
        await carry_out(ddl, plan, statement.cascade, [f"schema {schema.name}"])
        await drop_type.carry_out(ddl, dropped, users)
        ddl.apply([(keys.schema_key(ddl.database_oid, schema.oid), None)])
