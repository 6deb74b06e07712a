"""SELECT: from the parser's node to a relation, clause by clause.

The tree of one query level, bottom up::

    FROM, WHERE -> Filter, GROUP BY -> Aggregate, HAVING -> Filter, window functions -> Window,
    select list -> Project (ProjectSet if it holds set-returning functions), DISTINCT, ORDER BY -> Sort,
    DISTINCT ON, FOR UPDATE -> LockRows, LIMIT, and a last Project that drops columns only sorted by.

Set operations and VALUES are in ``set_operations.py``, WITH in ``with_queries.py``.

Source: PostgreSQL 15, analyze.c and parse_clause.c.
"""

from __future__ import annotations

from collections.abc import Sequence

import pydistdb.sql.bind.set_operations as set_operations
import pydistdb.sql.bind.with_queries as with_queries
from pydistdb.sql.bind.binder import Binder
from pydistdb.sql.bind.coerce import coerce, coerce_to_target, resolve_unknown, type_named
from pydistdb.sql.bind.dispatch import STATEMENT_BINDERS, bind, bind_condition
from pydistdb.sql.bind.from_clause import bind_from
from pydistdb.sql.bind.grouping import Aggregation, Groups, bind_groups, position_target
from pydistdb.sql.bind.late_targets import late_expression, postpone
from pydistdb.sql.bind.locations import location_of
from pydistdb.sql.bind.locking import (
    LockTarget,
    check_locking,
    check_no_locking,
    lock_targets,
    strength_and_wait,
    wants_lock,
)
from pydistdb.sql.bind.parse import Node
from pydistdb.sql.bind.rewrite import same_expression, walk
from pydistdb.sql.bind.scope import Scope
from pydistdb.sql.bind.set_calls import project
from pydistdb.sql.bind.sort_keys import check_sortable, sort_key
from pydistdb.sql.bind.targets import Target, bind_targets, column_label
from pydistdb.sql.errors import (
    DatabaseError,
    DatatypeMismatch,
    FeatureNotSupported,
    InvalidColumnReference,
    InvalidSyntax,
)
from pydistdb.sql.tree import (
    ColumnRef,
    Const,
    Distinct,
    Expr,
    Filter,
    Limit,
    LockRows,
    OutputColumn,
    Project,
    Rel,
    Sort,
    SortKey,
    Window,
)
from pydistdb.sql.types.registry import INT8

locations_of = set_operations.locations_of

__all__ = ["bind_query_node", "bind_statement_query", "bind_subquery", "column_label", "single_projection"]


def bind_subquery(b: Binder, scope: Scope, wrapper: Node) -> Rel:
    """A subquery in an expression."""
    return bind_query_node(b, scope, wrapper)


def bind_query_node(b: Binder, parent: Scope | None, wrapper: Node) -> Rel:
    """A wrapped SelectStmt."""
    node = wrapper.get("SelectStmt")
    if node is None:
        raise FeatureNotSupported("data-modifying statements are not supported here")
    return bind_statement_query(b, parent, node)


def bind_statement_query(b: Binder, parent: Scope | None, node: Node, keep_unknown: bool = False) -> Rel:
    """A SelectStmt of any form, with its WITH clause.

    ``keep_unknown``: output columns that are still untyped literals or parameters stay so (the caller types them)."""
    if "withClause" in node:
        outside = Scope(parent, parent.clause if parent is not None else "SELECT")
        wrap = with_queries.bind_with(b, outside, node["withClause"])
        return wrap(_bind_body(b, outside, node, keep_unknown))
    return _bind_body(b, parent, node, keep_unknown)


def _bind_body(b: Binder, parent: Scope | None, node: Node, keep_unknown: bool) -> Rel:
    if "intoClause" in node:
        location = node["intoClause"]["rel"]["location"]
        raise InvalidSyntax("SELECT ... INTO is not allowed here", position=b.position(location))
    if node.get("op", "SETOP_NONE") != "SETOP_NONE":
        return set_operations.bind_set_operation(b, parent, node)
    if "valuesLists" in node:
        check_no_locking(node, "VALUES")
        return set_operations.bind_values(b, parent, node, keep_unknown)
    return _bind_select(b, parent, node, keep_unknown)


def single_projection(b: Binder, rel: Rel, expr: Expr) -> Rel:
    """A relation of one computed column."""
    return Project((OutputColumn(b.new_id(), "", expr.type),), rel, (expr,))


# ------------------------------------------------------------------------------------------------ SELECT


def _bind_select(b: Binder, parent: Scope | None, node: Node, keep_unknown: bool) -> Rel:
    scope = Scope(parent)
    scope.node = node
    scope.wants_keys = wants_lock(node)
    scope.locking = node.get("lockingClause", ())
    rel = bind_from(b, scope, node.get("fromClause", ()))
    for wrapper in node.get("windowClause", ()):
        definition = wrapper["WindowDef"]
        name = definition["name"]
        if name in scope.window_definitions:
            raise DatabaseError.of(
                "42P20", f'window "{name}" is already defined', position=b.position(definition["location"])
            )
        scope.window_definitions[name] = definition
    targets = bind_targets(b, scope, node.get("targetList", ()))
    if "whereClause" in node:
        condition = bind_condition(b, scope, node["whereClause"], "WHERE")
        rel = Filter(rel.columns, rel, condition)
    having = bind_condition(b, scope, node["havingClause"], "HAVING") if "havingClause" in node else None
    keys = _order_targets(b, scope, node.get("sortClause", ()), targets)
    groups = Groups()
    if "groupClause" in node:
        groups = bind_groups(b, scope, node["groupClause"], targets, node.get("groupDistinct", False))
    distinct_on = _distinct_targets(b, scope, node, targets, keys)
    if not keep_unknown:
        for target in targets:
            target.expr = resolve_unknown(b, target.expr)
    locks = lock_targets(b, scope, node) if "lockingClause" in node else []
    for _, key_id, key_type in locks:
        targets.append(Target("", ColumnRef(key_type, key_id, "", True), hidden=True))
    if "lockingClause" in node:
        check_locking(b, node, scope, bool(groups.expressions or groups.sets is not None))
    if scope.reads_itself and scope.aggregates:
        raise DatabaseError.of(
            "42P19",
            "aggregate functions are not allowed in a recursive query's recursive term",
            position=b.position(b.location_of_id(scope.aggregates[0][0])),
        )
    if groups.expressions or groups.sets is not None or scope.aggregates or scope.groupings or having is not None:
        rel = _aggregate(b, scope, rel, groups, targets, having)
    if scope.windows:
        rel = _windows(b, scope, rel)
    late: dict[int, Target] = {}
    if keys and b.volatile and not scope.set_calls and "distinctClause" not in node:
        late = postpone(targets, [target for target, _, _ in keys], len(locks))
    rel = project(b, scope, rel, targets)
    return _finish(b, scope, node, rel, targets, keys, distinct_on, locks, late)


def _finish(
    b: Binder,
    scope: Scope,
    node: Node,
    rel: Rel,
    targets: list[Target],
    keys: list[tuple[Target, Node, int]],
    distinct_on: list[Target] | None,
    locks: list[LockTarget],
    late: dict[int, Target],
) -> Rel:
    """DISTINCT, ORDER BY, locking, LIMIT over the projected select list."""
    distinct = "distinctClause" in node
    if distinct and distinct_on is None:
        for target in targets:
            check_sortable(b, target.expr, target.location, "equality")
        rel = Distinct(rel.columns, rel)
    if keys:
        made = tuple(
            sort_key(b, ColumnRef(target.expr.type, target.id, target.name), sort_node, location)
            for target, sort_node, location in keys
        )
        rel = Sort(rel.columns, rel, _without_repetition(made))
    if distinct_on is not None:
        on = tuple(ColumnRef(target.expr.type, target.id, target.name) for target in distinct_on)
        rel = Distinct(rel.columns, rel, on)
    if locks:
        rel = _lock_rows(rel, node, targets, locks)
    rel = bind_limit(b, scope, node, rel)
    if late:
        return _with_late(b, rel, targets, late)
    if any(target.hidden for target in targets):
        kept = tuple(OutputColumn(t.id, t.name, t.expr.type) for t in targets if not t.hidden)
        shown = tuple(OutputColumn(b.new_id(), column.name, column.type) for column in kept)
        for column, new in zip(kept, shown, strict=True):
            if column.id in b.record_fields:
                b.record_fields[new.id] = b.record_fields[column.id]
        rel = Project(shown, rel, tuple(ColumnRef(column.type, column.id, column.name) for column in kept))
    return rel


def _with_late(b: Binder, rel: Rel, targets: Sequence[Target], late: dict[int, Target]) -> Rel:
    """The select list as it was written, with what was postponed."""
    shown = [target for target in targets if not target.hidden]
    for position in sorted(late):
        shown.insert(position, late[position])
    columns, expressions = [], []
    for position, target in enumerate(shown):
        column = OutputColumn(b.new_id(), target.name, target.expr.type)
        columns.append(column)
        if position in late:
            expressions.append(late_expression(target))
            continue
        expressions.append(ColumnRef(target.expr.type, target.id, target.name))
        if target.id in b.record_fields:
            b.record_fields[column.id] = b.record_fields[target.id]
    return Project(tuple(columns), rel, tuple(expressions))


def _without_repetition(keys: tuple[SortKey, ...]) -> tuple[SortKey, ...]:
    seen: list[SortKey] = []
    for key in keys:
        if all(key.expression != other.expression for other in seen):
            seen.append(key)
    return tuple(seen)


def _lock_rows(rel: Rel, node: Node, targets: list[Target], locks: list[LockTarget]) -> Rel:
    strength, wait = strength_and_wait(node)
    hidden = targets[len(targets) - len(locks) :]
    pairs = tuple((table, target.id) for (table, _, _), target in zip(locks, hidden, strict=True))
    return LockRows(rel.columns, rel, pairs, strength, wait)


def _aggregate(b: Binder, scope: Scope, rel: Rel, groups: Groups, targets: list[Target], having: Expr | None) -> Rel:
    aggregation = Aggregation(b, scope, groups)
    for target in targets:
        target.expr = aggregation.target(target)
    condition = aggregation.above(having) if having is not None else None
    scope.windows = [(id, aggregation.window(call)) for id, call in scope.windows]
    rel = aggregation.build(rel)
    if condition is not None:
        rel = Filter(rel.columns, rel, condition)
    return rel


def _windows(b: Binder, scope: Scope, rel: Rel) -> Rel:
    columns = rel.columns + tuple(
        OutputColumn(id, call.function.name, b.aggregate_types[id]) for id, call in scope.windows
    )
    return Window(columns, rel, tuple(call for _, call in scope.windows))


# ------------------------------------------------------------------------------------------------ ORDER BY, DISTINCT


def _order_targets(
    b: Binder, scope: Scope, items: Sequence[Node], targets: list[Target]
) -> list[tuple[Target, Node, int]]:
    """Find or add the select list entry that each ORDER BY item means."""
    before, scope.clause = scope.clause, "ORDER BY"
    keys = []
    for item in items:
        sort_node = item["SortBy"]
        location = location_of(sort_node["node"])
        target = find_target(b, scope, sort_node["node"], targets, "ORDER BY")
        keys.append((target, sort_node, location))
    scope.clause = before
    return keys


def find_target(b: Binder, scope: Scope, node: Node, targets: list[Target], clause: str) -> Target:
    """An output name, a position, or an expression (added as a hidden entry if it is new)."""
    if "ColumnRef" in node and len(node["ColumnRef"]["fields"]) == 1:
        name = node["ColumnRef"]["fields"][0].get("String", {}).get("sval")
        matching = [target for target in targets if target.name == name and not target.hidden]
        if matching:
            if any(target.expr != matching[0].expr for target in matching[1:]):
                raise InvalidColumnReference.of(
                    "42702", f'{clause} "{name}" is ambiguous', position=b.position(location_of(node))
                )
            matching[0].expr = resolve_unknown(b, matching[0].expr)
            return matching[0]
    elif "A_Const" in node:
        target = position_target(b, node["A_Const"], targets, clause)
        target.expr = resolve_unknown(b, target.expr)
        return target
    expr = resolve_unknown(b, bind(b, scope, node))
    for target in targets:
        if same_expression(target.expr, expr):
            return target
    target = Target("", expr, location_of(node), hidden=True)
    targets.append(target)
    return target


def _distinct_targets(
    b: Binder, scope: Scope, node: Node, targets: list[Target], keys: list[tuple[Target, Node, int]]
) -> list[Target] | None:
    """The DISTINCT ON entries; None for no DISTINCT or a plain one."""
    clause = node.get("distinctClause")
    if clause is None:
        return None
    if not clause or not clause[0]:
        for target, _, location in keys:
            if target.hidden:
                raise InvalidColumnReference(
                    "for SELECT DISTINCT, ORDER BY expressions must appear in select list",
                    position=b.position(location),
                )
        return None
    before, scope.clause = scope.clause, "DISTINCT ON"
    on: list[Target] = []
    for item in clause:
        target = find_target(b, scope, item, targets, "SELECT DISTINCT ON")
        if target not in on:
            on.append(target)
        check_sortable(b, target.expr, location_of(item), "equality")
    scope.clause = before
    leading = []
    for target, _, _ in keys:
        if target not in leading:
            leading.append(target)
    matched = leading[: len(on)]
    for target in matched:
        if target not in on:
            raise InvalidColumnReference(
                "SELECT DISTINCT ON expressions must match initial ORDER BY expressions",
                position=b.position(location_of(clause[0])),
            )
    return on


# ------------------------------------------------------------------------------------------------ LIMIT


def bind_limit(b: Binder, scope: Scope, node: Node, rel: Rel) -> Rel:
    """LIMIT, OFFSET and FETCH FIRST."""
    if "limitCount" not in node and "limitOffset" not in node:
        return rel
    limit = _row_count(b, scope, node.get("limitCount"), "LIMIT")
    offset = _row_count(b, scope, node.get("limitOffset"), "OFFSET")
    with_ties = node.get("limitOption") == "LIMIT_OPTION_WITH_TIES"
    if with_ties and "sortClause" not in node:
        raise InvalidSyntax("WITH TIES cannot be specified without ORDER BY clause")
    if with_ties and node.get("limitCount", {}).get("A_Const", {}).get("isnull"):
        raise DatabaseError.of("2201W", "row count cannot be null in FETCH FIRST ... WITH TIES clause")
    if limit is None and offset is None:
        return rel
    return Limit(rel.columns, rel, limit, offset, with_ties)


def _row_count(b: Binder, scope: Scope, node: Node | None, what: str) -> Expr | None:
    if node is None:
        return None
    before, scope.clause = scope.clause, what
    expr = bind(b, scope, node)
    scope.clause = before
    is_null = isinstance(expr, Const) and expr.value is None
    converted = expr if is_null else coerce_to_target(b, expr, INT8, "a", location_of(node))
    if converted is None:
        raise DatatypeMismatch(
            f"argument of {what} must be type bigint, not type {type_named(expr.type.oid)}",
            position=b.position(location_of(node)),
        )
    own = {column.id for source in scope.sources for column in source.columns}
    for part in walk(expr):
        if isinstance(part, ColumnRef) and part.id in own:
            raise InvalidColumnReference(
                f"argument of {what} must not contain variables", position=b.position(b.location_of(part))
            )
    if is_null:
        return None
    return coerce(b, converted, INT8, "a")


STATEMENT_BINDERS["SelectStmt"] = bind_statement_query
