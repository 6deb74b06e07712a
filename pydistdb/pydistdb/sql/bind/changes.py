"""INSERT, UPDATE and DELETE; MERGE is in ``merge.py``.

The relation below an Insert yields one value per target column, already of the column's type; defaults, checks and
RETURNING are expressions over the new row, whose columns have ids of their own (``row_ids``, ``new_ids``).  Update and
Delete read their target with its key (column number 0) and all its columns.

Source: PostgreSQL 15, analyze.c and parse_target.c; manual, pages of the three statements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pydistdb.sql.bind.with_queries as with_queries
from pydistdb.sql.bind.assignments import (
    bind_assignments,
    bind_returning,
    ids_by_number,
    row_columns,
    target_name,
    target_table,
)
from pydistdb.sql.bind.binder import Binder
from pydistdb.sql.bind.dispatch import STATEMENT_BINDERS, bind_condition
from pydistdb.sql.bind.from_clause import TRUE, qualifier, table_item, tracked_item
from pydistdb.sql.bind.inserts import bind_insert
from pydistdb.sql.bind.merge import bind_merge
from pydistdb.sql.bind.needs import RelationNote, note_relation
from pydistdb.sql.bind.parse import Node
from pydistdb.sql.bind.scope import FromItem, Scope, ScopeColumn, Source
from pydistdb.sql.bind.stored import bind_checks, generated_columns
from pydistdb.sql.bind.system_columns import name_written
from pydistdb.sql.bind.view_targets import ViewTarget, view_target
from pydistdb.sql.catalog.acl import DELETE, UPDATE
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.errors import (
    FeatureNotSupported,
    InvalidColumnReference,
)
from pydistdb.sql.tree import (
    VERSION_NUMBER,
    And,
    ColumnId,
    Delete,
    Expr,
    Filter,
    Join,
    Rel,
    Scan,
    Update,
)
from pydistdb.sql.types.registry import BOOL


def bind_change(b: Binder, parent: Scope | None, wrapper: Node) -> Rel:
    """An INSERT, UPDATE, DELETE or MERGE, at the top or (not MERGE) in WITH."""
    for kind, node in wrapper.items():
        outside = parent
        wrap: with_queries.Wrap | None = None
        if "withClause" in node:
            outside = Scope(parent)
            wrap = with_queries.bind_with(b, outside, node["withClause"])
        match kind:
            case "InsertStmt":
                rel: Rel = bind_insert(b, outside, node)
            case "UpdateStmt":
                rel = _update(b, outside, node)
            case "DeleteStmt":
                rel = _delete(b, outside, node)
            case "MergeStmt":
                rel = bind_merge(b, outside, node)
            case _:
                raise FeatureNotSupported(f"{kind.removesuffix('Stmt').upper()} is not supported")
        return rel if wrap is None else wrap(rel)
    raise FeatureNotSupported("empty statement")


# ------------------------------------------------------------------------------------------------ UPDATE, DELETE


def _changed_rows(
    b: Binder,
    parent: Scope | None,
    node: Node,
    table: Table,
    others: Sequence[Node],
    through: ViewTarget | None,
    note: RelationNote,
) -> tuple[Scope, FromItem, list[FromItem], Rel, list[Expr]]:
    """The rows to change: the target with its key, joined with what FROM or USING brings, where the condition holds.

    The last of the result: the conditions of the views that the table is changed through."""
    name, alias = target_name(node["relation"])
    scope = Scope(parent)
    target = table_item(b, table, name, alias, qualifier(b, node["relation"], table), True)
    conditions: list[Expr] = []
    if through is None:
        note.read(target.sources[0].columns)
    else:
        conditions = _show_view(b, through, target, note)
    scope.add(target)
    current_of = node.get("whereClause", {}).get("CurrentOfExpr")
    if current_of is not None:
        assert isinstance(target.rel, Scan)
        target.rel = replace(target.rel, current_of=current_of["cursor_name"])
    rel = target.rel
    for condition in conditions:
        rel = Filter(rel.columns, rel, condition)
    items = [target]
    target.sources[0].problem = lambda position: InvalidColumnReference(
        f'invalid reference to FROM-clause entry for table "{alias or name}"',
        hint=f'There is an entry for table "{alias or name}", but it cannot be referenced from this part of the query.',
        position=position,
    )
    for other in others:
        item, lateral = tracked_item(b, scope, other, items)
        scope.add(item)
        items.append(item)
        rel = Join(rel.columns + item.rel.columns, "inner", rel, item.rel, TRUE, lateral)
    target.sources[0].problem = None
    return scope, target, items, rel, conditions


def _show_view(b: Binder, through: ViewTarget, target: FromItem, note: RelationNote) -> list[Expr]:
    """Make the target look like the view; returns the views' conditions."""
    source = target.sources[0]
    exposed, conditions = through.shown(b, source.columns, note, b.notes[-1])
    source.stored = source.columns
    source.columns = exposed
    source.schema = None
    target.columns = exposed
    return [condition for _, condition in conditions]


def _behind(b: Binder, table: Table, command: str, privilege: int) -> tuple[Table, ViewTarget | None]:
    """The stored table that is changed, and the views in between."""
    if table.kind != "v":
        return table, None
    through = view_target(b, table, command, privilege)
    return through.table, through


def _recheck(condition: Expr | None, conditions: Sequence[Expr]) -> Expr | None:
    terms = [*conditions, *([] if condition is None else [condition])]
    if not terms:
        return None
    return terms[0] if len(terms) == 1 else And(BOOL, tuple(terms))


def _filtered(b: Binder, scope: Scope, node: Node, rel: Rel) -> tuple[Rel, Expr | None]:
    if "whereClause" not in node or "CurrentOfExpr" in node["whereClause"]:
        return rel, None
    condition = bind_condition(b, scope, node["whereClause"], "WHERE")
    return Filter(rel.columns, rel, condition), condition


def _old_ids(stored: Sequence[ScopeColumn], source: Source) -> dict[int, ColumnId]:
    ids = ids_by_number(stored)
    if source.version_id is not None:
        ids[VERSION_NUMBER] = source.version_id
    return ids


def _update(b: Binder, parent: Scope | None, node: Node) -> Update:
    table = target_table(b, node["relation"])
    note = note_relation(b, table, UPDATE)
    table, through = _behind(b, table, "UPDATE", UPDATE)
    base = b.notes[-1]
    others = node.get("fromClause", ())
    scope, target, items, rel, conditions = _changed_rows(b, parent, node, table, others, through, note)
    scope.clause = "UPDATE"
    source = target.sources[0]
    names = table
    if through is not None:
        for wrapper in node["targetList"]:
            through.refuse_computed(source.columns, wrapper["ResTarget"]["name"], "UPDATE")
        names = through.with_own_defaults(source.columns).names(source.columns)
        whole = {w["ResTarget"]["name"] for w in node["targetList"] if "indirection" not in w["ResTarget"]}
        through.refuse_repeated([column.number for column in names.columns if column.name in whole])
    assignments = bind_assignments(b, scope, names, node["targetList"])
    numbers = [number for number, _ in assignments]
    base.update(numbers)
    if through is not None:
        note.update(through.numbers_in_view(source.columns, numbers))
    rel, condition = _filtered(b, scope, node, rel)
    stored = source.stored or source.columns
    new_row = row_columns(b, table)
    if through is None:
        labels = {column.number: column.name for column in source.columns}
        for column in new_row:
            column.name = labels[column.number]
    new_ids = ids_by_number(new_row)
    checks = bind_checks(b, table, new_ids)
    if through is None:
        note.read(new_row)
    else:
        new_row, of_new_row = through.shown(b, new_row, note, base)
        checks += through.checks(of_new_row)
    new_item = FromItem(rel, [Source(source.name, new_row, source.schema, table)], new_row)
    name_written(b, new_item.sources[0], new_ids)
    columns, returning = bind_returning(b, parent, node, [new_item, *items[1:]])
    assert source.key_id is not None
    return Update(
        columns,
        table,
        rel,
        source.key_id,
        _old_ids(stored, source),
        tuple(assignments),
        new_ids,
        checks,
        _recheck(condition, conditions),
        returning,
        generated_columns(b, table, new_ids),
    )


def _delete(b: Binder, parent: Scope | None, node: Node) -> Delete:
    table = target_table(b, node["relation"])
    note = note_relation(b, table, DELETE)
    table, through = _behind(b, table, "DELETE", DELETE)
    others = node.get("usingClause", ())
    scope, target, items, rel, conditions = _changed_rows(b, parent, node, table, others, through, note)
    rel, condition = _filtered(b, scope, node, rel)
    source = target.sources[0]
    assert source.key_id is not None
    old_ids = _old_ids(source.stored or source.columns, source)
    name_written(b, source, old_ids, False)
    columns, returning = bind_returning(b, parent, node, items)
    recheck = _recheck(condition, conditions)
    return Delete(columns, table, rel, source.key_id, old_ids, recheck, returning)


for _kind in ("InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"):
    STATEMENT_BINDERS[_kind] = lambda b, parent, node, kind=_kind: bind_change(b, parent, {kind: node})  # type: ignore[misc]
