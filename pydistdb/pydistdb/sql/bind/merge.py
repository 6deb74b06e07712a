"""MERGE: a join of the source with the target, and what to do with each of its rows.

Every row of the source appears with each target row that the ON condition pairs it with, or once with NULLs; the first
WHEN clause of the right kind whose condition holds decides.  ::

    MERGE INTO t USING s ON t.a = s.a           Merge(when matched set b = s.v; when not matched insert 1 = s.a,
        WHEN MATCHED THEN UPDATE SET b = s.v        Join(left, s, Scan(t, key, …), t.a = s.a))
        WHEN NOT MATCHED THEN INSERT VALUES (s.a)

Source: PostgreSQL 15 manual, MERGE; parse_merge.c.
"""

from __future__ import annotations

from dataclasses import replace

from pydistdb.sql.bind import inserts
from pydistdb.sql.bind.assignments import (
    assign,
    bind_assignments,
    ids_by_number,
    row_columns,
    target_name,
    target_table,
)
from pydistdb.sql.bind.binder import Binder
from pydistdb.sql.bind.dispatch import bind, bind_condition
from pydistdb.sql.bind.from_clause import bind_item, find_relation, make_join, qualifier, table_item
from pydistdb.sql.bind.locations import location_of
from pydistdb.sql.bind.needs import RelationNote, note_relation
from pydistdb.sql.bind.parse import Node
from pydistdb.sql.bind.scope import Scope
from pydistdb.sql.bind.stored import bind_checks, column_default, generated_columns
from pydistdb.sql.catalog.acl import DELETE
from pydistdb.sql.catalog.descriptors import Column, Table
from pydistdb.sql.catalog.view import VirtualTable
from pydistdb.sql.errors import DuplicateAlias, FeatureNotSupported, InvalidSyntax
from pydistdb.sql.tree import VERSION_NUMBER, Expr, Merge, MergeAction

_MATCHED = "MERGE_WHEN_MATCHED"
_NOT_MATCHED = "MERGE_WHEN_NOT_MATCHED_BY_TARGET"


def bind_merge(b: Binder, parent: Scope | None, node: Node) -> Merge:
    _check_form(b, node)
    table = target_table(b, node["relation"])
    note = note_relation(b, table, 0)
    name, alias = target_name(node["relation"])
    target = table_item(b, table, name, alias, qualifier(b, node["relation"], table), True)
    note.read(target.sources[0].columns)
    outside = Scope(parent)
    outside.hidden = target.sources
    source = bind_item(b, outside, node["sourceRelation"], [])
    if any(other.name == name for other in source.sources):
        raise DuplicateAlias(
            f'name "{name}" specified more than once',
            detail="The name is used both as MERGE target table and data source.",
        )
    both = Scope(parent)
    both.add(source)
    both.add(target)
    condition = bind_condition(b, both, node["joinCondition"], "JOIN conditions")
    alone = Scope(parent)
    alone.add(source)
    alone.hidden = target.sources
    actions = tuple(_action(b, clause["MergeWhenClause"], table, both, alone) for clause in node["mergeWhenClauses"])
    for action, wrapper in zip(actions, node["mergeWhenClauses"], strict=True):
        _note(note, table, action, wrapper["MergeWhenClause"])
    kind = "inner" if all(action.matched for action in actions) else "left"
    rel = make_join(kind, source.rel, target.rel, condition)
    row_ids = ids_by_number(row_columns(b, table))
    key_id = target.sources[0].key_id
    assert key_id is not None
    old_ids = ids_by_number(target.sources[0].columns)
    if target.sources[0].version_id is not None:
        old_ids[VERSION_NUMBER] = target.sources[0].version_id
    return Merge(
        (),
        table,
        rel,
        key_id,
        old_ids,
        condition,
        actions,
        row_ids,
        bind_checks(b, table, row_ids),
        generated_columns(b, table, row_ids),
    )


def _note(note: RelationNote, table: Table, action: MergeAction, clause: Node) -> None:
    """What privileges an action takes."""
    match action.kind:
        case "update":
            note.update(number for number, _ in action.values)
        case "insert":
            named = {target["ResTarget"]["name"] for target in clause.get("targetList", ())}
            note.insert(c.number for c in table.columns if not c.dropped and (not named or c.name in named))
        case "delete":
            note.privileges |= DELETE


def _check_form(b: Binder, node: Node) -> None:
    """What Postgres's grammar or analysis refuses, and what later versions have added."""
    if node.get("withClause", {}).get("recursive"):
        raise FeatureNotSupported("WITH RECURSIVE is not supported for MERGE statement")
    if "returningClause" in node or "returningList" in node:
        raise FeatureNotSupported("MERGE with RETURNING is not supported")
    always: set[str] = set()
    for wrapper in node["mergeWhenClauses"]:
        clause = wrapper["MergeWhenClause"]
        kind = clause["matchKind"]
        if kind not in (_MATCHED, _NOT_MATCHED):
            raise FeatureNotSupported("WHEN NOT MATCHED BY SOURCE is not supported")
        if kind in always:
            raise InvalidSyntax("unreachable WHEN clause specified after unconditional WHEN clause")
        if "condition" not in clause:
            always.add(kind)
    relation = find_relation(b, node["relation"])
    if not isinstance(relation, VirtualTable) and relation.kind == "v":
        raise FeatureNotSupported(
            f'cannot execute MERGE on relation "{relation.name}"',
            detail="This operation is not supported for views.",
        )


def _action(b: Binder, clause: Node, table: Table, both: Scope, alone: Scope) -> MergeAction:
    matched = clause["matchKind"] == _MATCHED
    scope = both if matched else alone
    condition = None
    if "condition" in clause:
        condition = bind_condition(b, scope, clause["condition"], "MERGE WHEN conditions")
    kind = clause["commandType"].removeprefix("CMD_").lower()
    action = MergeAction(kind, matched, condition)
    if kind == "update":
        scope.clause = "UPDATE"
        return replace(action, values=tuple(bind_assignments(b, scope, table, clause["targetList"])))
    if kind == "insert":
        scope.clause = "VALUES"
        return replace(action, values=tuple(_inserted(b, scope, table, clause)))
    return action


def _inserted(b: Binder, scope: Scope, table: Table, clause: Node) -> list[tuple[int, Expr]]:
    """The values of a new row by column number; columns that are not among them are NULL."""
    items = clause.get("values", [])
    overriding = clause.get("override", "OVERRIDING_NOT_SET")
    given: dict[int, Expr] = {}
    if items:
        columns, places = inserts.insert_targets(
            b, table, {"cols": clause["targetList"]} if "targetList" in clause else {}
        )
        inserts.check_width(b, columns, places, items, len(items), "targetList" in clause)
        for column, item in zip(columns, items, strict=False):
            expr = None if "SetToDefault" in item else _value(b, scope, column, item, overriding)
            if expr is not None:
                given[column.number] = expr
    for column in table.columns:
        if not column.dropped and not column.generated and column.number not in given:
            default = column_default(b, column)
            if default is not None:
                given[column.number] = default
    return list(given.items())


def _value(b: Binder, scope: Scope, column: Column, item: Node, overriding: str) -> Expr | None:
    """A value for a column; None if its default is to be taken."""
    inserts.check_identity(column, overriding, False)
    expr = assign(b, bind(b, scope, item), column, location_of(item))
    return None if column.identity and overriding == "OVERRIDING_USER_VALUE" else expr
