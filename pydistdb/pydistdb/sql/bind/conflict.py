"""ON CONFLICT: finding the arbiter index, and binding what to do with the row that is already there.

Source: PostgreSQL 15 manual, INSERT, "ON CONFLICT Clause"; plancat.c (infer_arbiter_indexes).
"""

from __future__ import annotations

from pydistdb.sql.bind.assignments import bind_assignments, ids_by_number, row_columns
from pydistdb.sql.bind.binder import Binder
from pydistdb.sql.bind.dispatch import bind_condition
from pydistdb.sql.bind.from_clause import NO_ROWS_OF_NOTHING
from pydistdb.sql.bind.parse import Node
from pydistdb.sql.bind.scope import FromItem, Scope, ScopeColumn, Source
from pydistdb.sql.catalog.descriptors import Index, Table
from pydistdb.sql.errors import (
    FeatureNotSupported,
    InvalidColumnReference,
    InvalidSyntax,
    UndefinedColumn,
    UndefinedObject,
)
from pydistdb.sql.tree import OnConflict


def bind_conflict(
    b: Binder, parent: Scope | None, clause: Node, table: Table, name: str, row: list[ScopeColumn]
) -> OnConflict:
    """An ON CONFLICT clause; ``row`` is the row as it will be, ``excluded`` the one that was proposed."""
    index = _arbiter(b, clause, table)
    if clause["action"] == "ONCONFLICT_NOTHING":
        return OnConflict(index)
    if index is None:
        raise InvalidSyntax(
            "ON CONFLICT DO UPDATE requires inference specification or constraint name",
            hint="For example, ON CONFLICT (column_name).",
            position=b.position(clause.get("location", -1)),
        )
    excluded = row_columns(b, table)
    for column in excluded:
        column.nullable = True
    scope = Scope(parent, "UPDATE")
    scope.add(FromItem(NO_ROWS_OF_NOTHING, [Source(name, row, None, table)], row))
    scope.add_sources([Source("excluded", excluded, None, None)])
    for column in excluded:  # a bare name is ambiguous, as in Postgres: both rows have it
        scope.by_name[column.name] = None
    for column in row:
        scope.by_name[column.name] = None
    assignments = bind_assignments(b, scope, table, clause["targetList"])
    condition = None
    if "whereClause" in clause:
        condition = bind_condition(b, scope, clause["whereClause"], "WHERE")
    return OnConflict(index, tuple(assignments), condition, ids_by_number(excluded))


def _arbiter(b: Binder, clause: Node, table: Table) -> int | None:
    """The storage id of the unique index that decides; None if any may."""
    infer = clause.get("infer")
    if infer is None:
        return None
    if "conname" in infer:
        for index in table.indexes:
            if index.name == infer["conname"] and index.unique:
                return index.storage_id
        raise UndefinedObject(f'constraint "{infer["conname"]}" for table "{table.name}" does not exist')
    if "whereClause" in infer:
        raise FeatureNotSupported(
            "ON CONFLICT over partial indexes is not supported", position=b.position(infer.get("location", -1))
        )
    by_name = {column.name: column.number for column in table.columns if not column.dropped}
    wanted: set[int] = set()
    for wrapper in infer["indexElems"]:
        element = wrapper["IndexElem"]
        name = element.get("name")
        if name is None:
            raise FeatureNotSupported("ON CONFLICT over expressions is not supported")
        if name not in by_name:
            raise UndefinedColumn(f'column "{name}" does not exist', position=b.position(infer.get("location", -1)))
        wanted.add(by_name[name])
    for index in table.indexes:
        if _fits(index, wanted):
            return index.storage_id
    raise InvalidColumnReference("there is no unique or exclusion constraint matching the ON CONFLICT specification")


def _fits(index: Index, wanted: set[int]) -> bool:
    return (index.unique or index.primary) and {part.column for part in index.columns} == wanted
