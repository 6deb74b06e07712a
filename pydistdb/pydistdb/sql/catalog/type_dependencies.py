"""Who depends on a type: columns, domains, composite types, views, and stored expressions that name it.

Like other dependencies these are found by looking (dependencies.py).  Whether a default, a CHECK condition or a view
names the type is found out by binding its text with a catalog that notes which types were asked for; only texts in which
the name occurs at all are looked at.

    column m of table u depends on type mood
    type dm depends on type mood                (a domain over it)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from pydistdb.sql import bind
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.dependencies import described
from pydistdb.sql.catalog.descriptors import Column, Routine, Table
from pydistdb.sql.catalog.queries import bind_query
from pydistdb.sql.catalog.routine_names import described_routine
from pydistdb.sql.catalog.statistics_names import described_statistics
from pydistdb.sql.catalog.type_names import shown
from pydistdb.sql.errors import DatabaseError, InvalidTableDefinition
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import SqlType
from pydistdb.sql.types.user import TypeEntry


def columns_holding(ddl: DdlContext, type_oid: int) -> list[tuple[Table, Column]]:
    """The stored columns whose values hold values of a type: themselves, in arrays, in composite types, by domains."""
    holders = {type_oid}
    grown = True
    while grown:
        grown = False
        for entry in [*ddl.view.state.types.values(), *ddl.view.state.row_types.values()]:
            definition = entry.definition
            parts = [each.type_oid for each in definition.attributes if not each.dropped] + [definition.base_oid]
            held = {registry.type_by_oid(oid).element_oid or oid for oid in parts if oid}
            if definition.oid not in holders and not holders.isdisjoint(held):
                holders.add(definition.oid)
                grown = True
    found = []
    for table in ddl.view.tables():
        for column in table.columns:
            if table.kind in "rmp" and not column.dropped:
                sql_type = registry.type_by_oid(column.type_oid)
                if (sql_type.element_oid or sql_type.oid) in holders:
                    found.append((table, column))
    return found


def refuse_itself(ddl: DdlContext, row_type: int, type_oid: int) -> None:
    """A row must not hold rows of its own type, nor anything that holds them."""
    pending, seen = [type_oid], set()
    while pending:
        oid = pending.pop()
        oid = registry.type_by_oid(oid).element_oid or oid
        if oid == row_type:
            raise InvalidTableDefinition(f"composite type {shown(ddl, row_type)} cannot be made a member of itself")
        entry = ddl.view.type_entry(oid) if oid not in seen else None
        seen.add(oid)
        if entry is not None:
            pending += [each.type_oid for each in entry.definition.attributes if not each.dropped]
            pending += [entry.definition.base_oid] if entry.definition.base_oid else []


class TypeRecorder:
    """A CatalogView that remembers which types were asked for."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.found: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def type_named(self, name: str, schema: str | None = None) -> SqlType | None:
        sql_type: SqlType | None = self._inner.type_named(name, schema)
        if sql_type is not None:
            self.found.add(sql_type.element_oid or sql_type.oid)
        return sql_type


@dataclass(frozen=True, slots=True)
class Dependent:
    """What depends on a type, and how it would go along: ``kind`` is column, default, check, view, routine, type or attribute."""

    kind: str
    description: str
    on: str
    table: Table | None = None
    name: str = ""
    entry: TypeEntry | None = None
    routine: Routine | None = None

    @property
    def oid(self) -> int:
        """Of the object, or of the table or type that it is a part of."""
        if self.table is not None:
            return self.table.oid
        if self.routine is not None:
            return self.routine.oid
        return 0 if self.entry is None else self.entry.definition.oid


def _names_it(ddl: DdlContext, entry: TypeEntry, text: str | None, table: Table | None) -> bool:
    """Whether stored text names the type."""
    if text is None or entry.definition.name not in text:
        return False
    recorder = TypeRecorder(ddl.view)
    try:
        if table is None:
            bind_query(ddl, text, recorder)
        else:
            bind.bind_expression(text, table, recorder, ddl.context)
    except DatabaseError:
        return True  # what cannot be understood may well name it
    return entry.definition.oid in recorder.found


def expressions_using(ddl: DdlContext, entry: TypeEntry) -> Iterator[Dependent]:
    """Defaults, generated columns and CHECK constraints of tables, and views, whose text names the type."""
    on = f"type {shown(ddl, entry.definition.oid)}"
    for table in ddl.view.tables():
        if table.kind in "vm":
            if _names_it(ddl, entry, table.definition, None):
                yield Dependent("view", described(ddl, table), on, table)
            continue
        for column in table.columns:
            if not column.dropped and _names_it(ddl, entry, column.default, table):
                what = described(ddl, table)
                if column.generated:
                    yield Dependent("column", f"column {column.name} of {what}", on, table, column.name)
                else:
                    description = f"default value for column {column.name} of {what}"
                    yield Dependent("default", description, on, table, column.name)
        for check in table.checks:
            if _names_it(ddl, entry, check.expression, table):
                description = f"constraint {check.name} on {described(ddl, table)}"
                yield Dependent("check", description, on, table, check.name)
        for statistics in table.statistics_objects:
            if any(_names_it(ddl, entry, each.text, table) for each in statistics.expressions):
                description = described_statistics(ddl.view, statistics)
                yield Dependent("statistics", description, on, table, statistics.name)


def _routines_using(ddl: DdlContext, oids: set[int]) -> Iterator[Dependent]:
    """Functions and procedures with arguments or results of the type."""
    for routine in ddl.view.state.routines.values():
        for oid in (*(argument.type_oid for argument in routine.arguments), routine.return_type):
            if oid in oids and not routine.row_of:
                on = f"type {shown(ddl, oid)}"
                yield Dependent("routine", described_routine(ddl, routine), on, routine=routine)
                break


def dependents(ddl: DdlContext, entry: TypeEntry) -> list[Dependent]:
    """Everything that needs the type, in the order in which messages list it."""
    oids = {entry.type.oid, entry.array.oid}
    found: list[Dependent] = []
    views: list[Dependent] = []
    for table in ddl.view.tables():
        for column in table.columns:
            if column.dropped or column.type_oid not in oids:
                continue
            on = f"type {shown(ddl, column.type_oid)}"
            if table.kind in "vm":
                views.append(Dependent("view", described(ddl, table), on, table))
                break
            found.append(
                Dependent("column", f"column {column.name} of {described(ddl, table)}", on, table, column.name)
            )
    for view in views:  # most get the type from a column, and depend on that
        assert view.table is not None
        below = [d for d in found if d.table is not None and d.table.oid in view.table.depends_on]
        found.append(replace(view, on=below[0].description) if below else view)
    seen = {(dependent.kind, dependent.description) for dependent in found}
    columns = {(d.table.oid, d.name) for d in found if d.kind == "column" and d.table is not None}
    for dependent in expressions_using(ddl, entry):
        key = (dependent.kind, dependent.description)
        of_column = dependent.table is not None and (dependent.table.oid, dependent.name) in columns
        if key not in seen and not (dependent.kind == "default" and of_column):
            found.append(dependent)
            seen.add(key)
    found += _routines_using(ddl, oids)
    for other in ddl.view.state.types.values():
        definition = other.definition
        name = shown(ddl, definition.oid)
        if definition.base_oid in oids:
            on = f"type {shown(ddl, definition.base_oid)}"
            found.append(Dependent("type", f"type {name}", on, entry=other))
        for attribute in definition.attributes:
            if attribute.type_oid in oids and not attribute.dropped:
                on = f"type {shown(ddl, attribute.type_oid)}"
                description = f"column {attribute.name} of composite type {name}"
                found.append(Dependent("attribute", description, on, name=attribute.name, entry=other))
    return found
