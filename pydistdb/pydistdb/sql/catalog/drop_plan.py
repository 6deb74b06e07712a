"""What goes when something is dropped: dependents are collected, reported or taken along, and all of it is removed at once.

A ``DropPlan`` starts with what the statement names.  ``collect_dependents`` follows foreign keys, views, functions,
defaults and owned sequences from there until nothing new turns up; ``carry_out`` refuses (2BP01) or tells of them, locks
every table concerned, and writes one set of changes.  Tables that stay but lose something (a constraint, a default) get a
new version.

    DROP TABLE users        plan: users; dependent: (constraint orders_user_id_fkey on table orders, table users)
    … CASCADE               orders stays, without the constraint

Source: PostgreSQL manual, chapter 5.14 (dependency tracking).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec.structs import replace

from pydistdb.sql.catalog import keys, sequences
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.dependencies import depending_columns, depending_views, described, visible_name
from pydistdb.sql.catalog.dependents import uses_of
from pydistdb.sql.catalog.descriptors import Check, ForeignKey, Routine, Schema, Table
from pydistdb.sql.catalog.garbage import dropped_garbage
from pydistdb.sql.catalog.routine_names import described_routine
from pydistdb.sql.catalog.state import Change
from pydistdb.sql.catalog.statistics_names import described_statistics, forget_comments, without_statistics
from pydistdb.sql.errors import DependentObjectsStillExist
from pydistdb.sql.pg_catalog.objects import CONSTRAINT_OID_OFFSET

MOST_LISTED = 100


PG_PROC = 1255


class DependentText(NamedTuple):
    """A dependent and what it depends on, each as Postgres describes it."""

    oid: int
    dependent: str
    on: str


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
    statistics: list[int] = field(default_factory=list)
    """Statistics objects (oids) of tables that may stay."""
    dependents: list[DependentText] = field(default_factory=list)


def removal_hint(kind: str) -> str:
    word = {"r": "TABLE", "v": "VIEW", "m": "MATERIALIZED VIEW", "S": "SEQUENCE", "i": "INDEX"}[kind]
    return f"Use DROP {word} to remove {'an' if word == 'INDEX' else 'a'} {word.lower()}."


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
                    text = f"constraint {key.name} on {described(ddl, other)}"
                    plan.dependents.append(DependentText(key.oid, text, described(ddl, table)))
        if table.kind == "S":
            for other, number in depending_columns(ddl, table):
                if other.oid not in plan.tables:
                    plan.defaults.append((other, number))
                    column = next(c for c in other.columns if c.number == number)
                    text = f"default value for column {column.name} of {described(ddl, other)}"
                    plan.dependents.append(DependentText(other.oid, text, described(ddl, table)))
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
            plan.dependents.append(DependentText(view.oid, described(ddl, view), what))
            found.append(view)
    for routine in ddl.view.state.routines.values():
        if (used.oid in routine.depends_on or routine.row_of == used.oid) and routine.oid not in plan.routines:
            plan.routines[routine.oid] = routine
            reason = (
                f"type {visible_name(ddl, used)}" if isinstance(used, Table) and routine.row_of == used.oid else what
            )
            plan.dependents.append(DependentText(routine.oid, described_routine(ddl, routine), reason))
            found.append(routine)
    if isinstance(used, Routine):
        for use in uses_of(ddl, used):
            if use.table.oid in plan.tables:
                continue
            if use.kind == "default":
                plan.defaults.append((use.table, use.number))
                column = next(c for c in use.table.columns if c.number == use.number)
                subject = f"default value for column {column.name}"
                text = f"{subject} of {described(ddl, use.table)}"
                plan.dependents.append(DependentText(use.table.oid, text, what))
            elif use.kind == "statistics":
                plan.statistics.append(use.number)
                statistics = next(each for each in use.table.statistics_objects if each.oid == use.number)
                text = described_statistics(ddl.view, statistics)
                plan.dependents.append(DependentText(use.number, text, what))
            else:
                check = next(c for c in use.table.checks if c.oid == use.number)
                plan.checks.append((use.table, check))
                text = f"constraint {check.name} on {described(ddl, use.table)}"
                plan.dependents.append(DependentText(check.oid, text, what))
    return found


async def drop_found_routines(ddl: DdlContext, routines: Sequence[Routine], cascade: bool) -> None:
    """Drop functions that were found by name."""
    plan = DropPlan(routines={routine.oid: routine for routine in routines})
    subjects = [described_routine(ddl, routine) for routine in routines]
    collect_dependents(ddl, plan)
    await carry_out(ddl, plan, cascade, subjects)


async def drop_tables(ddl: DdlContext, tables: Iterable[Table], routines: Iterable[Routine] = ()) -> None:
    """Drop relations (and functions) and all that depends on them, without a word: the end of a session, ON COMMIT DROP."""
    plan = DropPlan({table.oid: table for table in tables}, routines={routine.oid: routine for routine in routines})
    collect_dependents(ddl, plan)
    plan.dependents.clear()
    await carry_out(ddl, plan, True, [])


def owned_sequences(ddl: DdlContext, table_oid: int, column: int | None = None) -> list[Table]:
    """The sequences owned by a table's columns (serial, identity)."""
    found = []
    for relation in ddl.view.state.users_of(table_oid):
        if relation.kind == "S":
            definition = sequences.definition_of(relation)
            if definition.owner_table == table_oid and column in (None, definition.owner_column):
                found.append(relation)
    return found


async def carry_out(ddl: DdlContext, plan: DropPlan, cascade: bool, subjects: list[str]) -> None:
    """Drop what is planned; ``subjects`` are named in messages (without any there are none)."""
    from pydistdb.sql.catalog import drop_type

    dropped, users = drop_type.users_of_row_types(ddl, plan.tables)
    plan.dependents += [DependentText(user.oid, user.description, user.on) for user in users]
    if plan.dependents and subjects:
        report_dependents(ddl, _in_order(plan.dependents), cascade, subjects)
    referenced = {key.referenced_table for table in plan.tables.values() for key in table.foreign_keys}
    locked = {*plan.tables, *referenced, *(table.oid for table, _ in plan.foreign_keys)}
    locked.update(table.oid for table, _ in (*plan.defaults, *plan.checks))
    doomed = [found for oid in plan.statistics if (found := ddl.view.state.statistics_object(oid)) is not None]
    doomed = [found for found in doomed if found[0].oid not in plan.tables]
    locked.update(table.oid for table, _ in doomed)
    for table in plan.tables.values():
        ddl.check_not_in_use(table, "DROP TABLE")
    await ddl.ddl.lock_tables(locked)
    if users:
        await drop_type.carry_out(ddl, dropped, users)
    changes: list[Change] = []
    survivors = _survivors(ddl, plan, referenced)
    changes += [(keys.table_key(table.database, table.oid), table) for table in survivors]
    for table in plan.tables.values():
        changes += forget_table(ddl, table, plan.tables)
    changes += forget_comments(ddl, {statistics.oid for _, statistics in doomed})
    for routine in plan.routines.values():
        changes.append((keys.routine_key(routine.database, routine.oid), None))
        comment = (PG_PROC, routine.oid, 0)
        if comment in ddl.view.state.comments:
            changes.append((keys.comment_key(routine.database, *comment), None))
    ddl.apply(changes)


def _in_order(found: Sequence[DependentText]) -> list[DependentText]:
    """As Postgres lists them: the oldest first, and what depends on one of them right behind it."""
    by_parent: dict[str, list[DependentText]] = {}
    for each in sorted(found, key=lambda each: each.oid):
        by_parent.setdefault(each.on, []).append(each)
    dependents = {each.dependent for group in by_parent.values() for each in group}
    roots = [each for group in by_parent.values() for each in group if each.on not in dependents]
    listed: list[DependentText] = []
    todo = sorted(roots, key=lambda each: each.oid)[::-1]
    while todo:
        each = todo.pop()
        listed.append(each)
        todo += reversed(by_parent.pop(each.dependent, []))
    rest = [each for each in found if each not in listed] if len(listed) < len(found) else []
    return listed + rest


def report_dependents(ddl: DdlContext, found: Sequence[DependentText], cascade: bool, subjects: list[str]) -> None:
    """Refuse to drop because of dependents, or (CASCADE) tell what goes along."""
    dependents = [(each.dependent, each.on) for each in found]
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
    for oid in plan.statistics:
        found = ddl.view.state.statistics_object(oid)
        if found is not None:
            table = changed.get(found[0].oid, found[0])
            changed[table.oid] = without_statistics(table, {oid})
    for oid in referenced:
        if oid in tables and oid not in plan.tables:
            table = changed.get(oid, tables[oid])
            left_by = tuple(other for other in table.referenced_by if other not in plan.tables)
            changed[oid] = replace(table, referenced_by=left_by)
    return [replace(t, version=t.version + 1) for oid, t in changed.items() if oid not in plan.tables]


def forget_table(ddl: DdlContext, table: Table, leaving: Collection[int] = ()) -> list[Change]:
    """The changes that remove a relation with its comments and statistics; its storage becomes garbage.  Other tables are
    ``leaving`` with it."""
    changes: list[Change] = [(keys.table_key(table.database, table.oid), None)]
    state = ddl.view.state
    mine = {table.oid, *(i.oid for i in table.indexes), *(c.oid for c in table.checks)}
    mine.update(key.oid for key in table.foreign_keys)
    mine.update(index.oid + CONSTRAINT_OID_OFFSET for index in table.indexes if index.constraint)
    mine.update(each.oid for each in table.statistics_objects)
    changes += [(keys.comment_key(table.database, *comment), None) for comment in state.comments if comment[1] in mine]
    if table.oid in state.statistics:
        changes.append((keys.statistics_key(table.database, table.oid), None))
    if table.kind != "v":
        staying = (other for oid, other in state.tables.items() if oid not in leaving)
        for garbage in dropped_garbage(table, staying):
            ddl.ddl.dropped_storage(garbage)
    return changes
