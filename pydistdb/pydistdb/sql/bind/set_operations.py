"""UNION, INTERSECT, EXCEPT and VALUES: queries whose columns get a common type, position by position.

Literals of unknown type in a branch take the common type (``SELECT 1 UNION SELECT '2'`` is an integer); every other
difference becomes a cast in that branch's projection, or in one put on top of it.

Source: PostgreSQL 15 manual, 10.5; analyze.c (transformSetOperationStmt).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pydistdb.sql.bind.query as queries
from pydistdb.sql.bind.binder import Binder
from pydistdb.sql.bind.coerce import UNKNOWN_OID, coerce, coerce_to_common, common_type, resolve_unknown, unify
from pydistdb.sql.bind.dispatch import bind
from pydistdb.sql.bind.grouping import position_target
from pydistdb.sql.bind.locations import location_of
from pydistdb.sql.bind.locking import check_no_locking
from pydistdb.sql.bind.parse import Node, into_clause
from pydistdb.sql.bind.scope import Scope, ScopeColumn, undefined_column
from pydistdb.sql.bind.sort_keys import check_sortable, sort_key
from pydistdb.sql.bind.targets import Target
from pydistdb.sql.errors import FeatureNotSupported, InvalidSyntax
from pydistdb.sql.tree import ColumnRef, Const, Expr, OutputColumn, Param, Project, Rel, SetOperation, Sort, Values
from pydistdb.sql.types.base import SqlType

_KINDS = {"SETOP_UNION": "union", "SETOP_INTERSECT": "intersect", "SETOP_EXCEPT": "except"}


def bind_set_operation(b: Binder, parent: Scope | None, node: Node) -> Rel:
    """A set operation with its ORDER BY and LIMIT."""
    check_no_locking(node, "UNION/INTERSECT/EXCEPT")
    rel = _operation(b, parent, node)
    return finish(b, parent, node, rel, True)


def finish(b: Binder, parent: Scope | None, node: Node, rel: Rel, is_set_operation: bool) -> Rel:
    """ORDER BY and LIMIT over output columns."""
    scope = Scope(parent)
    if "sortClause" in node:
        rel = _sort(b, scope, node["sortClause"], rel, is_set_operation)
    return queries.bind_limit(b, scope, node, rel)


def _is_operation(node: Node) -> bool:
    return node.get("op", "SETOP_NONE") != "SETOP_NONE" and not any(
        key in node for key in ("sortClause", "limitCount", "limitOffset", "withClause", "lockingClause")
    )


def _operation(b: Binder, parent: Scope | None, node: Node) -> Rel:
    kind = _KINDS[node["op"]]
    into = into_clause(node["rarg"])
    if into is not None:
        raise InvalidSyntax(
            "INTO is only allowed on first SELECT of UNION/INTERSECT/EXCEPT",
            position=b.position(into["rel"]["location"]),
        )
    left = _branch(b, parent, node["larg"])
    right = _branch(b, parent, node["rarg"])
    is_all = node.get("all", False)
    words = node["op"].removeprefix("SETOP_")
    return combine(b, kind, words, is_all, left, right, locations_of(node["larg"]), locations_of(node["rarg"]))


def _branch(b: Binder, parent: Scope | None, node: Node) -> Rel:
    if _is_operation(node):
        return _operation(b, parent, node)
    if "withClause" in node and parent is None:
        parent = Scope(None)  # a branch is not the top of the statement, where alone WITH may change rows
    return queries.bind_statement_query(b, parent, node, keep_unknown=True)


def locations_of(node: Node) -> list[int]:
    """Where the columns of a branch stand in the text."""
    while "larg" in node:
        node = node["larg"]
    if "valuesLists" in node:
        return [location_of(item) for item in node["valuesLists"][0]["List"]["items"]]
    return [
        location_of(item["ResTarget"]["val"]) if "val" in item["ResTarget"] else -1
        for item in node.get("targetList", [])
    ]


def _location(locations: Sequence[int], index: int) -> int:
    return locations[index] if index < len(locations) else -1


def column_expressions(rel: Rel) -> list[Expr]:
    """An expression for each output column: the literal or parameter itself where it is one of unknown type."""
    if isinstance(rel, Project):
        return [
            expr
            if expr.type.oid == UNKNOWN_OID and isinstance(expr, Const | Param)
            else ColumnRef(column.type, column.id, column.name)
            for column, expr in zip(rel.columns, rel.expressions, strict=True)
        ]
    return [ColumnRef(column.type, column.id, column.name) for column in rel.columns]


def combine(
    b: Binder,
    kind: str,
    words: str,
    is_all: bool,
    left: Rel,
    right: Rel,
    left_locations: Sequence[int],
    right_locations: Sequence[int],
) -> Rel:
    """Make the set operation of two bound queries."""
    if len(left.columns) != len(right.columns):
        raise InvalidSyntax(
            f"each {words} query must have the same number of columns",
            position=b.position(_location(right_locations, 0)),
        )
    types: list[SqlType] = []
    pairs = zip(column_expressions(left), column_expressions(right), strict=True)
    for index, (one, other) in enumerate(pairs):
        places = (_location(left_locations, index), _location(right_locations, index))
        target = common_type(b, (one, other), words, places)
        assert target is not None
        for expr, place in ((one, places[0]), (other, places[1])):
            if not isinstance(expr, Const | Param):
                coerce_to_common(b, expr, target, words, place)
        if not is_all:
            check_sortable(b, Const(target, None), places[0], "equality")
        types.append(target)
    left = with_types(b, left, types, left_locations)
    right = with_types(b, right, types, right_locations)
    columns = tuple(
        OutputColumn(b.new_id(), column.name, target) for column, target in zip(left.columns, types, strict=True)
    )
    return SetOperation(columns, kind, is_all, left, right)


def with_types(b: Binder, rel: Rel, types: Sequence[SqlType], locations: Sequence[int] = (), context: str = "i") -> Rel:
    """Bring the columns of a query to the types given."""
    if all(
        column.type.oid == target.oid and column.type.modifier == target.modifier
        for column, target in zip(rel.columns, types, strict=True)
    ):
        return rel
    if isinstance(rel, Project):
        expressions = tuple(
            coerce(b, expr, target, context, _location(locations, index))
            for index, (expr, target) in enumerate(zip(rel.expressions, types, strict=True))
        )
        columns = tuple(replace(c, type=target) for c, target in zip(rel.columns, types, strict=True))
        return Project(columns, rel.input, expressions)
    expressions = tuple(
        coerce(b, expr, target, context, _location(locations, index))
        for index, (expr, target) in enumerate(zip(column_expressions(rel), types, strict=True))
    )
    columns = tuple(
        OutputColumn(b.new_id(), column.name, target) for column, target in zip(rel.columns, types, strict=True)
    )
    return Project(columns, rel, expressions)


def _sort(b: Binder, scope: Scope, clause: Sequence[Node], rel: Rel, is_set_operation: bool) -> Rel:
    targets = []
    for column in rel.columns:
        target = Target(column.name, ColumnRef(column.type, column.id, column.name))
        target.id = column.id
        targets.append(target)
        scope.by_name.setdefault(column.name, ScopeColumn(column.name, column.id, column.type))
    keys = []
    for item in clause:
        sort_node = item["SortBy"]
        node = sort_node["node"]
        location = location_of(node)
        expr: Expr
        if "A_Const" in node:
            expr = position_target(b, node["A_Const"], targets, "ORDER BY").expr
        elif "ColumnRef" in node and len(node["ColumnRef"]["fields"]) == 1:
            name = node["ColumnRef"]["fields"][0].get("String", {}).get("sval")
            matching = [target for target in targets if target.name == name]
            if not matching:
                raise undefined_column(scope, str(name), None, b.position(location))
            expr = matching[0].expr
        elif is_set_operation:
            raise FeatureNotSupported(
                "invalid UNION/INTERSECT/EXCEPT ORDER BY clause",
                detail="Only result column names can be used, not expressions or functions.",
                hint="Add the expression/function to every SELECT, or move the UNION into a FROM clause.",
                position=b.position(location),
            )
        else:
            expr = resolve_unknown(b, bind(b, scope, node))
        keys.append(sort_key(b, expr, sort_node, location))
    return Sort(rel.columns, rel, tuple(keys))


def bind_values(b: Binder, parent: Scope | None, node: Node, keep_unknown: bool = False) -> Rel:
    """VALUES as a query of its own; its columns are column1, column2 …"""
    scope = Scope(parent, "VALUES")
    lists = [row["List"]["items"] for row in node["valuesLists"]]
    width = len(lists[0])
    rows: list[list[Expr]] = []
    for row in lists:
        if len(row) != width:
            raise InvalidSyntax("VALUES lists must all be the same length", position=b.position(location_of(row[0])))
        rows.append([bind(b, scope, item) for item in row])
    columns = []
    for index in range(width):
        items = [row[index] for row in rows]
        if len(rows) == 1 and keep_unknown and items[0].type.oid == UNKNOWN_OID:
            columns.append(OutputColumn(b.new_id(), f"column{index + 1}", items[0].type))
            continue
        target, made = unify(b, items, "VALUES", [location_of(row[index]) for row in lists])
        for row, item in zip(rows, made, strict=True):
            row[index] = item
        columns.append(OutputColumn(b.new_id(), f"column{index + 1}", target))
    if len(rows) == 1 and keep_unknown:
        # A projection, whose literals the caller can still give a type.
        from pydistdb.sql.bind.scope import NO_ROWS_OF_NOTHING

        rel: Rel = Project(tuple(columns), NO_ROWS_OF_NOTHING, tuple(rows[0]))
        if "sortClause" in node or "limitCount" in node:
            rel = with_types(b, rel, [resolve_unknown(b, item).type for item in rows[0]])
    else:
        rel = Values(tuple(columns), tuple(tuple(row) for row in rows))
    return finish(b, parent, node, rel, False)
