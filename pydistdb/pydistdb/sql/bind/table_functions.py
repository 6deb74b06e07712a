"""Functions in FROM: one, or several side by side (ROWS FROM, unnest with several arrays).

Every function sees the items before it, as LATERAL does.  ``ROWS FROM (f(), g())`` runs both in step and pads the shorter
with NULLs, which is just what set-returning functions in a select list do: it becomes a ProjectSet.

Source: PostgreSQL 15 manual, 7.2.1.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pydistdb.sql.bind.calls as calls
import pydistdb.sql.bind.from_clause as from_clause
import pydistdb.sql.bind.query as queries
import pydistdb.sql.bind.routines as routines
from pydistdb.sql.bind.binder import Binder
from pydistdb.sql.bind.coerce import resolve_unknown
from pydistdb.sql.bind.composites import composite_fields, field_of, is_composite
from pydistdb.sql.bind.dispatch import bind
from pydistdb.sql.bind.locations import location_of
from pydistdb.sql.bind.parse import Node
from pydistdb.sql.bind.rewrite import has_set_call
from pydistdb.sql.bind.scope import NO_ROWS_OF_NOTHING, FromItem, Scope, ScopeColumn
from pydistdb.sql.bind.typenames import resolve_type
from pydistdb.sql.errors import FeatureNotSupported, InvalidSyntax
from pydistdb.sql.functions.json_records import TAKES_COLUMNS, with_columns
from pydistdb.sql.tree import (
    Call,
    ColumnRef,
    Expr,
    FieldAccess,
    FunctionScan,
    OutputColumn,
    Project,
    ProjectSet,
    Rel,
    RoutineScan,
    SetCall,
    Subquery,
    Window,
    WindowCall,
)
from pydistdb.sql.types.base import Function, SqlType
from pydistdb.sql.types.registry import ANY, INT8, RECORD

ONE_ROW = Function(0, "one_row", (ANY,), ANY, lambda value: (value,), strict=False, returns_set=True)
"""A plain expression among set-returning functions: a set of one row."""


def bind_function(b: Binder, scope: Scope, node: Node, items: Sequence[FromItem]) -> FromItem:
    """A RangeFunction node."""
    parts_of_calls = [wrapper["List"]["items"] for wrapper in node["functions"]]
    definitions = [_column_definitions(parts) or node.get("coldeflist", []) for parts in parts_of_calls]
    wrappers = [single for parts in parts_of_calls for single in _one_array_each(parts[0])]
    seeing = Scope(from_clause.lateral_scope(scope, items, True), "FROM")
    expressions = [bind(b, seeing, wrapper) for wrapper in wrappers]
    if node.get("coldeflist") and node.get("ordinality"):
        raise InvalidSyntax(
            "WITH ORDINALITY cannot be used with a column definition list",
            hint="Put the column definition list inside ROWS FROM().",
            position=b.position(node["coldeflist"][0]["ColumnDef"].get("location", -1)),
        )
    if any(definitions):
        expressions = [_with_columns(b, *pair) for pair in zip(expressions, definitions, strict=True)]
    labels = [queries.column_label(wrapper) for wrapper in wrappers]
    alias = node.get("alias")
    name = alias["aliasname"] if alias else labels[0]
    ordinality = node.get("ordinality", False)
    if len(expressions) > 1:
        rel, columns = _side_by_side(b, expressions, labels, ordinality)
        return from_clause.source_item(rel, name, columns, alias)
    expr = expressions[0]
    scan = routines.called(expr)
    if scan is not None and ordinality and isinstance(expr, SetCall):
        rel, columns = _side_by_side(b, expressions, labels, ordinality)
        return from_clause.source_item(rel, name, columns, alias)
    if scan is not None and not ordinality:
        rel, columns = routines.routine_in_from(b, scan, name if alias else labels[0], name)
        item = from_clause.source_item(rel, name, columns, alias)
        item.sources[0].scalar = not scan.function.returns_row
        return item
    inlined = _inlined(b, wrappers[0])
    if not isinstance(expr, Call | SetCall) or inlined is not None:
        out = inlined.out_columns if inlined is not None else ()
        label = out[0][0] if len(out) == 1 and out[0][0] else name
        if ordinality:
            rel, columns = _side_by_side(b, expressions, [label], ordinality)
            return from_clause.source_item(rel, name, columns, alias)
        column = ScopeColumn(label, b.new_id(), expr.type)
        made = (resolve_unknown(b, expr),)
        rel = Project(from_clause.outputs([column]), NO_ROWS_OF_NOTHING, made)
        return from_clause.source_item(rel, name, [column], alias)
    for argument, node_of in zip(expr.arguments, wrappers[0].get("FuncCall", {}).get("args", ()), strict=False):
        if has_set_call(argument):
            message = "set-returning functions must appear at top level of FROM"
            raise FeatureNotSupported(message, position=b.position(location_of(node_of)))
    if is_composite(expr.type) and not expr.function.out_columns:
        return _rows_of_composite(b, expr, name, alias, ordinality)
    columns = _function_columns(b, expr.function, expr, name if alias else labels[0])
    if ordinality:
        columns.append(ScopeColumn("ordinality", b.new_id(), INT8, nullable=False))
    rel = FunctionScan(from_clause.outputs(columns), expr.function, expr.arguments, ordinality, name)
    item = from_clause.source_item(rel, name, columns, alias)
    item.sources[0].scalar = len(columns) == 1 and expr.type.oid != RECORD.oid
    return item


def _rows_of_composite(b: Binder, expr: Call | SetCall, name: str, alias: Node | None, ordinality: bool) -> FromItem:
    """A function whose values are rows of a composite type: one column per field."""
    whole = ScopeColumn(name, b.new_id(), expr.type)
    scanned = [whole, ScopeColumn("ordinality", b.new_id(), INT8, nullable=False)] if ordinality else [whole]
    scan = FunctionScan(from_clause.outputs(scanned), expr.function, expr.arguments, ordinality, name)
    fields = composite_fields(b, expr.type)
    columns = [ScopeColumn(each.name, b.new_id(), each.type) for each in fields]
    row = ColumnRef(expr.type, whole.id, name)
    made: list[Expr] = [field_of(row, each) for each in fields]
    if ordinality:
        columns.append(ScopeColumn("ordinality", b.new_id(), INT8, nullable=False))
        made.append(ColumnRef(INT8, scanned[1].id, "ordinality", False))
    return from_clause.source_item(Project(from_clause.outputs(columns), scan, tuple(made)), name, columns, alias)


def _inlined(b: Binder, wrapper: Node) -> Function | None:
    """The function in SQL whose call has become an expression."""
    words = [part["String"]["sval"] for part in wrapper.get("FuncCall", {}).get("funcname", ())]
    named = b.catalog.routines(words[-1], words[-2] if len(words) > 1 else None) if words and b.called else ()
    return next((each for each in named if each.oid in b.called and not each.returns_set), None)


def _column_definitions(parts: Sequence[Node]) -> list[Node]:
    """``f() AS (a int, …)`` inside ROWS FROM."""
    found = parts[1].get("List", {}).get("items", []) if len(parts) > 1 and parts[1] else []
    return list(found)


def _with_columns(b: Binder, expr: Expr, definitions: Sequence[Node]) -> Expr:
    """A call whose columns the query lists."""
    if not definitions:
        return expr
    position = b.position(definitions[0]["ColumnDef"].get("location", -1))
    scan = routines.called(expr)
    if scan is not None and scan.function.routine.return_type == RECORD.oid and not scan.function.out_columns:
        function = replace(scan.function, out_columns=tuple(_defined(b, definitions)), listed=True)
        return _with_scan(expr, replace(scan, function=function))
    if scan is not None and scan.function.returns_row and scan.function.routine.return_type != RECORD.oid:
        raise InvalidSyntax(
            "a column definition list is redundant for a function returning a named composite type", position=position
        )
    if scan is not None and scan.function.returns_row:
        raise InvalidSyntax(
            "a column definition list is redundant for a function with OUT parameters", position=position
        )
    if scan is not None or not isinstance(expr, Call | SetCall) or expr.type.oid != RECORD.oid:
        raise InvalidSyntax(
            'a column definition list is only allowed for functions returning "record"', position=position
        )
    if expr.function.out_columns:
        raise InvalidSyntax(
            "a column definition list is redundant for a function with OUT parameters", position=position
        )
    if expr.function.oid not in TAKES_COLUMNS:
        raise FeatureNotSupported(f"a column definition list for function {expr.function.name} is not supported")
    columns = _defined(b, definitions)
    result = columns[0][1] if len(columns) == 1 else expr.type
    return replace(expr, type=result, function=with_columns(expr.function, columns))


def _defined(b: Binder, definitions: Sequence[Node]) -> list[tuple[str, SqlType]]:
    columns = [wrapper["ColumnDef"] for wrapper in definitions]
    return [(column["colname"], resolve_type(column["typeName"], b.position, b.catalog)) for column in columns]


def _with_scan(expr: Expr, scan: RoutineScan) -> Expr:
    """A call of a function in SQL (see routines.called) with another scan behind it."""
    if isinstance(expr, SetCall):
        rows = expr.arguments[0]
        assert isinstance(rows, Subquery)
        function = replace(expr.function, out_columns=scan.function.out_columns)
        return replace(expr, function=function, arguments=(replace(rows, query=scan),))
    assert isinstance(expr, Subquery)
    return replace(expr, query=scan)


def _one_array_each(wrapper: Node) -> list[Node]:
    """unnest(a, b) as the calls unnest(a), unnest(b)."""
    call = wrapper.get("FuncCall")
    if call is None or len(call.get("args", ())) < 2 or call["funcname"][-1]["String"]["sval"] != "unnest":
        return [wrapper]
    return [{"FuncCall": {**call, "args": [argument]}} for argument in call["args"]]


def _function_columns(b: Binder, function: Function, expr: Expr, label: str) -> list[ScopeColumn]:
    out = function.out_columns
    if len(out) > 1 or (out and expr.type.oid == RECORD.oid):
        return [ScopeColumn(name, b.new_id(), sql_type) for name, sql_type in out]
    if expr.type.oid == RECORD.oid and not out:
        raise InvalidSyntax('a column definition list is required for functions returning "record"')
    if out and out[0][0]:
        label = out[0][0]  # whatever the alias
    return [ScopeColumn(label, b.new_id(), expr.type)]


def _side_by_side(
    b: Binder, expressions: Sequence[Expr], labels: Sequence[str], ordinality: bool
) -> tuple[Rel, list[ScopeColumn]]:
    """Several set-returning functions in step."""
    made: list[OutputColumn] = []
    columns: list[ScopeColumn] = []
    outputs: list[Expr] = []
    calls_in_step: list[Expr] = []
    for expr, label in zip(expressions, labels, strict=True):
        if not isinstance(expr, SetCall):
            expr = resolve_unknown(b, expr)
            scan = routines.called(expr)
            columns_of_row = scan.function.out_columns if scan is not None and scan.function.returns_row else ()
            expr = SetCall(
                expr.type, replace(ONE_ROW, out_columns=columns_of_row) if columns_of_row else ONE_ROW, (expr,)
            )
        calls_in_step.append(expr)
        whole = OutputColumn(b.new_id(), label, expr.type)
        made.append(whole)
        reference = ColumnRef(expr.type, whole.id, label)
        own = _function_columns(b, expr.function, expr, label)
        columns += own
        if expr.type.oid == RECORD.oid:
            outputs += [FieldAccess(column.type, reference, position) for position, column in enumerate(own)]
        else:
            outputs.append(reference)
    rel: Rel = ProjectSet(tuple(made), NO_ROWS_OF_NOTHING, tuple(calls_in_step))
    if ordinality:
        function = calls.resolve(b, "row_number", "pg_catalog", (), -1).function
        number = OutputColumn(b.new_id(), "ordinality", INT8)
        rel = Window((*rel.columns, number), rel, (WindowCall(function, ()),))
        columns.append(ScopeColumn("ordinality", b.new_id(), INT8, nullable=False))
        outputs.append(ColumnRef(INT8, number.id, "ordinality", False))
    return Project(from_clause.outputs(columns), rel, tuple(outputs)), columns
