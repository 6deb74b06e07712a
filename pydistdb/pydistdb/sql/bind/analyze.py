"""The way in: a parsed statement to a bound one, or to a utility statement.

    parse("SELECT name FROM users WHERE id = $1")      ParsedStatement
    analyze(…, catalog, context)                       BoundStatement, its tree as in the example of ``sql/tree.py``

``bind_expression`` and ``bind_scalar`` do the same for expressions that the catalog or EXECUTE keep as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pydistdb.sql.bind.subqueries as subqueries
from pydistdb.sql.bind.binder import Binder, Parameters
from pydistdb.sql.bind.changes import bind_change
from pydistdb.sql.bind.coerce import coerce_to_boolean, coerce_to_target, resolve_unknown, type_named
from pydistdb.sql.bind.cursors import CursorQuery, check_cursor_query, cursor_query, declare_cursor
from pydistdb.sql.bind.dispatch import COPY_CONDITIONS, bind, bind_condition
from pydistdb.sql.bind.locations import location_of
from pydistdb.sql.bind.needs import finish
from pydistdb.sql.bind.parse import ParsedStatement, stack_depth_exceeded, without_collector
from pydistdb.sql.bind.query import bind_statement_query
from pydistdb.sql.bind.scope import NO_ROWS_OF_NOTHING, FromItem, Scope, ScopeColumn, Source
from pydistdb.sql.bind.stored import bind_text, parsed_expression, row_scope
from pydistdb.sql.bind.targets import column_label
from pydistdb.sql.bind.utility import to_utility
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.catalog.view import CatalogView
from pydistdb.sql.errors import DatatypeMismatch, FeatureNotSupported, InvalidColumnReference, UndefinedParameter
from pydistdb.sql.plan.expressions import walk
from pydistdb.sql.statements import Utility
from pydistdb.sql.tree import BoundStatement, ColumnRef, Expr, Subquery
from pydistdb.sql.types.base import EvalContext, SqlType
from pydistdb.sql.types.registry import BOOL

assert subqueries, "imported because it enters its binders"

_TAGS = {
    "SelectStmt": "SELECT",
    "InsertStmt": "INSERT",
    "UpdateStmt": "UPDATE",
    "DeleteStmt": "DELETE",
    "MergeStmt": "MERGE",
}


def analyze(
    parsed: ParsedStatement, catalog: CatalogView, context: EvalContext, parameter_oids: Sequence[int] = ()
) -> BoundStatement | Utility:
    """Bind a statement; ``parameter_oids`` are the types that the client declared (0: not said)."""
    if not parsed.is_query:
        return to_utility(replace(parsed, catalog=catalog))
    return bind_query(parsed, catalog, context, Parameters(parameter_oids))


def bind_query(
    parsed: ParsedStatement, catalog: CatalogView, context: EvalContext, parameters: Parameters
) -> BoundStatement:
    """Bind a SELECT, INSERT, UPDATE, DELETE or MERGE."""
    b = Binder(parsed, catalog, context, parameters)
    try:
        with without_collector(len(parsed.text)):
            if parsed.name == "SelectStmt":
                query = bind_statement_query(b, None, parsed.node)
                has_rows = True
            else:
                query = bind_change(b, None, {parsed.name: parsed.node})
                has_rows = bool(query.columns)
    except RecursionError:
        raise stack_depth_exceeded() from None
    return BoundStatement(
        query, parameters.finish(), _TAGS[parsed.name], has_rows, frozenset(b.tables), b.volatile, finish(b)
    )


def analyze_cursor(
    parsed: ParsedStatement, catalog: CatalogView, context: EvalContext, parameter_oids: Sequence[int] = ()
) -> CursorQuery:
    """Bind DECLARE with its query."""
    utility = declare_cursor(parsed, parsed.node)
    wrapper = parsed.node["query"]
    node = wrapper["SelectStmt"]
    b = Binder(parsed, catalog, context, Parameters(parameter_oids))
    try:
        query = bind_statement_query(b, None, node)
    except RecursionError:
        raise stack_depth_exceeded() from None
    check_cursor_query(utility, node, query)
    shown = BoundStatement(query, b.parameters.finish(), "SELECT", True, frozenset(b.tables), b.volatile, finish(b))
    return cursor_query(b, utility, shown)


def bind_arguments(
    parsed: ParsedStatement, targets: Sequence[SqlType], catalog: CatalogView, context: EvalContext
) -> list[Expr]:
    """Bind the arguments of EXECUTE, for parameters of these types."""
    b = Binder(parsed, catalog, context, Parameters(()))
    scope = Scope(None, "EXECUTE")
    found: list[Expr] = []
    for number, (node, target) in enumerate(zip(parsed.node.get("params", ()), targets, strict=True), 1):
        position = b.position(location_of(node))
        try:
            expr = bind(b, scope, node)
            result = coerce_to_target(b, expr, target, "a", location_of(node))
        except RecursionError:
            raise stack_depth_exceeded() from None
        if any(isinstance(part, Subquery) for part in walk(expr)):
            raise FeatureNotSupported("cannot use subquery in EXECUTE parameter", position=position)
        if result is None:
            raise DatatypeMismatch(
                f"parameter ${number} of type {type_named(expr.type.oid)} cannot be coerced to the expected type "
                f"{type_named(target.oid)}",
                hint="You will need to rewrite or cast the expression.",
                position=position,
            )
        found.append(result)
    return found


def _binder_for(text: str, catalog: CatalogView, context: EvalContext) -> Binder:
    return Binder(ParsedStatement(text, 0, "", "", {}, text), catalog, context, Parameters(()))


def _converted(b: Binder, expr: Expr, target: SqlType | None, clause: str = "CHECK") -> Expr:
    if target is None:
        return resolve_unknown(b, expr)
    if target.oid == BOOL.oid:
        return coerce_to_boolean(b, expr, clause, -1)
    result = coerce_to_target(b, expr, target, "a")
    if result is None:
        raise DatatypeMismatch(
            f"expression is of type {type_named(expr.type.oid)} but should be of type {type_named(target.oid)}"
        )
    return result


def bind_expression(
    text: str,
    table: Table,
    catalog: CatalogView,
    context: EvalContext,
    target: SqlType | None = None,
    clause: str = "CHECK",
) -> Expr:
    """Bind stored text over a table's row: the ids of ColumnRefs are column numbers.  ``clause``: for messages."""
    b = _binder_for(text, catalog, context)
    ids = {column.number: column.number for column in table.columns}
    b._next_id = max(ids, default=0)
    try:
        return _converted(b, bind_text(b, row_scope(table, ids, clause), text), target, clause.removeprefix("INDEX "))
    except RecursionError:
        raise stack_depth_exceeded() from None


def refuse_parameters(parsed: ParsedStatement) -> None:
    """Raise UndefinedParameter at the first ``$1``: nobody supplies it."""
    pending: list[Any] = [parsed.node]
    found: list[tuple[int, int]] = []
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            reference = item.get("ParamRef")
            if reference is not None:
                found.append((reference.get("location", 0), reference.get("number", 0)))
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
    if found:
        location, number = min(found)
        raise UndefinedParameter(f"there is no parameter ${number}", position=parsed.position_at(location))


def bind_copy_condition(parsed: ParsedStatement, table: Table, catalog: CatalogView, context: EvalContext) -> Expr:
    """Bind the WHERE clause of COPY FROM over a table's row: the ids of ColumnRefs are column numbers."""
    b = Binder(parsed, catalog, context, Parameters(()))
    ids = {column.number: column.number for column in table.columns}
    b._next_id = max(ids, default=0)
    try:
        condition = bind_condition(b, row_scope(table, ids, ""), parsed.node["whereClause"], COPY_CONDITIONS)
    except RecursionError:
        raise stack_depth_exceeded() from None
    for number, position in b.parameters.positions.items():
        raise UndefinedParameter(f"there is no parameter ${number + 1}", position=position)
    used = {part.id for part in walk(condition) if isinstance(part, ColumnRef)}
    for column in table.columns:
        if column.generated and column.number in used:
            raise InvalidColumnReference(
                "generated columns are not supported in COPY FROM WHERE conditions",
                detail=f'Column "{column.name}" is a generated column.',
            )
    return condition


def expression_label(text: str) -> str | None:
    """What an expression would be called as an output column; None if it has no name."""
    label = column_label(parsed_expression(text))
    return None if label == "?column?" else label


DOMAIN_VALUE_ID = 1
"""The id of VALUE in a domain's CHECK condition."""


def bind_domain_check(text: str, base: SqlType, catalog: CatalogView, context: EvalContext) -> Expr:
    """Bind a domain's CHECK condition over VALUE."""
    b = _binder_for(text, catalog, context)
    b._next_id = DOMAIN_VALUE_ID
    scope = Scope(None, "CHECK")
    columns = [ScopeColumn("value", DOMAIN_VALUE_ID, base)]
    scope.add(FromItem(NO_ROWS_OF_NOTHING, [Source("", columns)], columns))
    try:
        return _converted(b, bind_text(b, scope, text), BOOL)
    except RecursionError:
        raise stack_depth_exceeded() from None


def bind_scalar(text: str, catalog: CatalogView, context: EvalContext, target: SqlType | None = None) -> Expr:
    """Bind an expression that mentions no columns: an argument of EXECUTE, a column's default."""
    b = _binder_for(text, catalog, context)
    try:
        return _converted(b, bind_text(b, Scope(None, "DEFAULT"), text), target)
    except RecursionError:
        raise stack_depth_exceeded() from None
