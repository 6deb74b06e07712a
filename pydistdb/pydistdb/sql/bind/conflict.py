"""ON CONFLICT: finding the arbiter index, and binding what to do with the row that is already there.

Source: PostgreSQL 15 manual, INSERT, "ON CONFLICT Clause"; plancat.c (infer_arbiter_indexes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydistdb.sql.bind.assignments import bind_assignments, ids_by_number, row_columns
from pydistdb.sql.bind.binder import Binder
from pydistdb.sql.bind.dispatch import bind, bind_condition
from pydistdb.sql.bind.needs import RelationNote
from pydistdb.sql.bind.parse import Node
from pydistdb.sql.bind.scope import NO_ROWS_OF_NOTHING, FromItem, Scope, ScopeColumn, Source
from pydistdb.sql.bind.stored import bind_text, row_scope
from pydistdb.sql.bind.view_targets import ViewTarget
from pydistdb.sql.catalog.descriptors import Index, Table
from pydistdb.sql.errors import (
    DatabaseError,
    InvalidColumnReference,
    InvalidSyntax,
    UndefinedColumn,
    UndefinedObject,
)
from pydistdb.sql.plan.expressions import conjuncts
from pydistdb.sql.plan.implication import implied, same
from pydistdb.sql.plan.rules.fold import fold_expression
from pydistdb.sql.tree import ColumnRef, Expr, OnConflict


@dataclass(frozen=True, slots=True)
class ChangedRow:
    """The row that INSERT makes: as the table has it, and as the view shows it that it is made through."""

    table: Table
    row: list[ScopeColumn]
    base: RelationNote
    names: Table
    shown: list[ScopeColumn]
    note: RelationNote
    through: ViewTarget | None

    def read(self, numbers: set[int]) -> None:
        """Note columns as read."""
        self.base.selected |= numbers
        if self.through is not None:
            self.note.selected.update(self.through.numbers_in_view(self.shown, numbers))

    def update(self, numbers: Sequence[int]) -> None:
        """Note columns as changed."""
        self.base.update(numbers)
        if self.through is not None:
            self.through.refuse_repeated(numbers)
            self.note.update(self.through.numbers_in_view(self.shown, numbers))


def bind_conflict(
    b: Binder,
    parent: Scope | None,
    clause: Node,
    changed: ChangedRow,
    name: str,
    schema: str | None,
) -> OnConflict:
    """An ON CONFLICT clause; ``changed`` is the row as it will be, ``excluded`` the one that was proposed."""
    table, row, through = changed.table, changed.shown, changed.through
    indexes = _arbiters(b, clause, changed, name)
    if indexes is not None:
        deciding = [index for index in table.indexes if index.storage_id in indexes]
        changed.read({part.column for index in deciding for part in index.columns if part.column})
    if clause["action"] == "ONCONFLICT_NOTHING":
        return OnConflict(indexes)
    if indexes is None:
        raise InvalidSyntax(
            "ON CONFLICT DO UPDATE requires inference specification or constraint name",
            hint="For example, ON CONFLICT (column_name).",
            position=b.position(clause.get("location", -1)),
        )
    if name == "excluded":
        raise DatabaseError.of("42P09", 'table reference "excluded" is ambiguous')
    excluded = row_columns(b, table)
    for column in excluded:
        column.nullable = True
    ids = ids_by_number(excluded)
    if through is None:
        changed.base.read(excluded)
    else:
        excluded, _ = through.shown(b, excluded, changed.note, changed.base)
        for wrapper in clause["targetList"]:
            through.refuse_computed(row, wrapper["ResTarget"]["name"], "INSERT")
    scope = Scope(parent, "UPDATE")
    scope.add(FromItem(NO_ROWS_OF_NOTHING, [Source(name, row, schema, table)], row))
    # Not by add_sources: a table that is called excluded itself makes the name ambiguous where it is used.
    scope.sources.append(Source("excluded", excluded, None, None))
    for column in excluded:  # a bare name is ambiguous, as in Postgres: both rows have it
        scope.by_name[column.name] = None
    for column in row:
        scope.by_name[column.name] = None
    assignments = bind_assignments(b, scope, changed.names, clause["targetList"])
    changed.update([number for number, _ in assignments])
    condition = None
    if "whereClause" in clause:
        condition = bind_condition(b, scope, clause["whereClause"], "WHERE")
    return OnConflict(indexes, tuple(assignments), condition, ids)


def _arbiters(b: Binder, clause: Node, changed: ChangedRow, name: str) -> tuple[int, ...] | None:
    """The storage ids of the unique indexes that decide; None if any may."""
    table, row = changed.table, changed.shown
    infer = clause.get("infer")
    if infer is None:
        if any(index.unique and index.deferrable for index in table.indexes):
            raise _deferrable()
        return None
    if "conname" in infer:
        return _constraint_named(changed, infer["conname"])
    scope = Scope(None, "ON CONFLICT")
    scope.add(FromItem(NO_ROWS_OF_NOTHING, [Source(name, row, None, table)], row))
    by_id = {column.id: column.number for column in row}
    columns: set[int] = set()
    expressions: list[Expr] = []
    for wrapper in infer["indexElems"]:
        element = wrapper["IndexElem"]
        column_name = element.get("name")
        if column_name is not None:
            column = next((column for column in row if column.name == column_name), None)
            if column is None:
                position = b.position(infer.get("location", -1))
                raise UndefinedColumn(f'column "{column_name}" does not exist', position=position)
            columns.add(column.number)
            continue
        expression = fold_expression(bind(b, scope, element["expr"]))
        if isinstance(expression, ColumnRef) and expression.id in by_id:
            columns.add(by_id[expression.id])
        else:
            expressions.append(expression)
    condition: list[Expr] = []
    if "whereClause" in infer:
        condition = conjuncts(fold_expression(bind_condition(b, scope, infer["whereClause"], "WHERE")))
    ids = ids_by_number(changed.row)
    matching = [
        index
        for index in table.indexes
        if index.unique
        and not index.state
        and {part.column for part in index.columns if not part.expression} == columns
        and _same_expressions(b, table, index, ids, expressions)
        and (not index.predicate or _implied(b, table, index, ids, condition))
    ]
    if any(index.deferrable for index in matching):
        raise _deferrable()
    if not matching:
        raise InvalidColumnReference(
            "there is no unique or exclusion constraint matching the ON CONFLICT specification"
        )
    return tuple(index.storage_id for index in matching)


def _deferrable() -> DatabaseError:
    return DatabaseError.of(
        "55000", "ON CONFLICT does not support deferrable unique constraints/exclusion constraints as arbiters"
    )


def _constraint_named(changed: ChangedRow, name: str) -> tuple[int, ...]:
    table = changed.table
    for index in table.indexes if changed.through is None else ():  # a view has no constraints
        if index.name == name and index.constraint and index.unique:
            if index.deferrable:
                raise _deferrable()
            # A primary key without the shard columns is kept unique by an index beside it, of the same name.
            return tuple(each.storage_id for each in table.indexes if each.name == name)
    raise UndefinedObject(f'constraint "{name}" for table "{changed.names.name}" does not exist')


def _bound(b: Binder, table: Table, ids: dict[int, int], text: str) -> Expr:
    return fold_expression(bind_text(b, row_scope(table, ids, "ON CONFLICT"), text))


def _same_expressions(b: Binder, table: Table, index: Index, ids: dict[int, int], wanted: Sequence[Expr]) -> bool:
    own = [_bound(b, table, ids, part.expression) for part in index.columns if part.expression]
    return all(any(same(one, other) for other in wanted) for one in own) and all(
        any(same(one, other) for other in own) for one in wanted
    )


def _implied(b: Binder, table: Table, index: Index, ids: dict[int, int], condition: Sequence[Expr]) -> bool:
    return implied(conjuncts(_bound(b, table, ids, index.predicate)), condition)
