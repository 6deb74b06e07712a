"""Calls of functions written in SQL, and the binding of their bodies.

A call in an expression becomes a subquery over a ``RoutineScan``, a call in FROM the ``RoutineScan`` itself.  A body that is
one plain SELECT is put in the call's place instead (inlined), so that the planner sees through it::

    CREATE FUNCTION twice(a int) RETURNS int LANGUAGE sql AS 'SELECT a * 2'
    SELECT twice(x) FROM t                    ->  Project([x * 2], t)
    SELECT * FROM orders_of(7)                ->  the function's query with 7 for $1

Inside a body, ``$1`` and the names of arguments are parameters; a column of the same name wins.

Source: PostgreSQL 15 manual, 38.5; functions.c (check_sql_fn_retval), clauses.c (inline_function).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import pydistdb.sql.bind.stored as stored
from pydistdb.sql.bind.binder import Binder, Parameters, RoutineArguments
from pydistdb.sql.bind.coerce import coerce_to_target, resolve_unknown, type_named
from pydistdb.sql.bind.composites import composite_fields, field_of, is_composite
from pydistdb.sql.bind.dispatch import STATEMENT_BINDERS, bind
from pydistdb.sql.bind.needs import finish
from pydistdb.sql.bind.parse import Node, ParsedStatement, parse
from pydistdb.sql.bind.rewrite import transform, walk
from pydistdb.sql.bind.scope import Scope, ScopeColumn
from pydistdb.sql.catalog.view import CatalogView
from pydistdb.sql.errors import DatabaseError, FeatureNotSupported
from pydistdb.sql.routines import RECORD_OID, VOID_OID, RoutineFunction, default_text
from pydistdb.sql.tree import (
    BoundStatement,
    Call,
    ColumnRef,
    Const,
    Expr,
    OutputColumn,
    Param,
    Project,
    Rel,
    RoutineScan,
    RowExpr,
    SetCall,
    Subquery,
)
from pydistdb.sql.types.base import EvalContext, Function, SqlType

CALL_COLUMN = 0
"""The column id of a call's value: nothing refers to it, and equal calls must be equal trees (GROUP BY f(x))."""
MOST_STATEMENTS = 1_000
_QUERIES = frozenset({"SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"})
_PLAIN = frozenset({"targetList", "limitOption", "op"})
"""What the node of ``SELECT expression`` may have."""


T = TypeVar("T")


def _yield_rows(rows: list[object] | None) -> list[object]:
    return rows or []


def _rows_function(function: RoutineFunction) -> Function:
    """What a set-returning call in a select list calls: it yields the list that the subquery made."""
    return Function(
        0,
        function.name,
        (),
        function.return_type,
        _yield_rows,
        strict=False,
        volatility=function.volatility,
        returns_set=True,
        out_columns=function.out_columns,
    )


# ---------------------------------------------------------------------------------------------------- calls


def with_defaults(b: Binder, function: RoutineFunction, arguments: Sequence[Expr]) -> tuple[Expr, ...]:
    """The arguments with the defaults of those left out at the end."""
    missing = range(len(arguments), len(function.argument_types))
    return (*arguments, *(bound_default(b, function, index) for index in missing))


def bound_default(b: Binder, function: RoutineFunction, index: int) -> Expr:
    """The default of an argument as an expression of its type."""
    expr = stored.bind_text(b, Scope(None, "DEFAULT"), default_text(function, index))
    target = function.argument_types[index]
    result = coerce_to_target(b, expr, target, "a")
    if result is None:
        raise DatabaseError.of(
            "42804", f"argument of type {type_named(target.oid)} has a default of type {type_named(expr.type.oid)}"
        )
    return result


def routine_call(b: Binder, scope: Scope | None, function: RoutineFunction, arguments: tuple[Expr, ...]) -> Expr:
    """A call in an expression."""
    if function.routine.kind == "p":
        label = f"{function.name}({', '.join(type_named(t.oid) for t in function.argument_types)})"
        raise DatabaseError.of("42809", f"{label} is a procedure", hint="To call a procedure, use CALL.")
    arguments = with_defaults(b, function, arguments)
    b.called[function.oid] = function.name
    if function.volatility == "v":
        b.volatile = True
    if function.returns_set:
        scan = RoutineScan((OutputColumn(CALL_COLUMN, "", function.return_type),), function, arguments, True)
        rows = Subquery(function.return_type, "rows", scan)
        return SetCall(function.return_type, _rows_function(function), (rows,))
    inlined = _inlined_value(b, function, arguments)
    if inlined is not None:
        return inlined
    scan = RoutineScan((OutputColumn(CALL_COLUMN, "", function.return_type),), function, arguments, True)
    if scope is not None and scope.clause in ("CHECK", "GENERATED", "DEFAULT"):
        raise FeatureNotSupported(
            f"function {function.name} runs statements, which is not supported in {scope.clause} expressions"
        )
    return Subquery(function.return_type, "call", scan)


def called(expr: Expr) -> RoutineScan | None:
    """The scan behind a call of a function in SQL that was not inlined."""
    if isinstance(expr, SetCall) and expr.arguments and isinstance(expr.arguments[0], Subquery):
        expr = expr.arguments[0]
    if isinstance(expr, Subquery) and isinstance(expr.query, RoutineScan):
        return expr.query
    return None


def routine_in_from(b: Binder, scan: RoutineScan, label: str, name: str) -> tuple[Rel, list[ScopeColumn]]:
    """A call in FROM: the relation and its columns."""
    function = scan.function
    b.called[function.oid] = function.name
    out = function.out_columns
    if function.returns_row:
        if not out:
            raise DatabaseError.of("42601", 'a column definition list is required for functions returning "record"')
        columns = [ScopeColumn(column, b.new_id(), sql_type) for column, sql_type in out]
    else:
        if out and out[0][0]:
            label = out[0][0]
        columns = [ScopeColumn(label, b.new_id(), function.return_type)]
    inlined = _inlined_query(b, function, scan.arguments)
    if inlined is not None:
        references = tuple(ColumnRef(inner.type, inner.id, inner.name) for inner in inlined.columns[: len(columns)])
        outputs = tuple(OutputColumn(c.id, c.name, c.type) for c in columns)
        return Project(outputs, inlined, references), columns
    made = tuple(OutputColumn(column.id, column.name, column.type) for column in columns)
    return RoutineScan(made, function, scan.arguments, False, name), columns


# ---------------------------------------------------------------------------------------------------- bodies


def body_statements(function: RoutineFunction) -> list[ParsedStatement]:
    """The statements of a body; raises FeatureNotSupported for those that functions cannot run."""
    routine = function.routine
    text = f"SELECT {routine.body}" if routine.form == "return" else routine.body
    statements = parse(text)
    if len(statements) > MOST_STATEMENTS:
        raise DatabaseError.of("54000", f"a function can have at most {MOST_STATEMENTS} statements")
    for parsed in statements:
        if parsed.name not in _QUERIES or "intoClause" in parsed.node:
            if parsed.name == "TransactionStmt":
                raise DatabaseError.of("0A000", f"{parsed.kind} is not allowed in an SQL function")
            raise FeatureNotSupported(f"{parsed.kind} in an SQL function is not supported")
    return statements


def bind_body(
    function: RoutineFunction, catalog: CatalogView, context: EvalContext, *, with_positions: bool = False
) -> list[BoundStatement]:
    """Bind every statement; the last one returns the function's result, in its types.

    ``with_positions``: errors tell where in the body they are."""
    bound = []
    statements = body_statements(function)
    for number, parsed in enumerate(statements, 1):
        parameters = Parameters([t.oid for t in function.argument_types])
        b = Binder(parsed, catalog, context, parameters)
        b.arguments = RoutineArguments(function.name, function.argument_names)
        b.text_depth = 0 if with_positions else 1
        rel = _bind_statement(b, parsed)
        is_last = number == len(statements)
        has_rows = parsed.name == "SelectStmt" or bool(rel.columns)
        if is_last:
            rel = fit_result(b, function, rel, has_rows)
        bound.append(
            BoundStatement(
                rel, parameters.finish(), _tag(parsed), has_rows, frozenset(b.tables), b.volatile, needs=finish(b)
            )
        )
    if not statements:
        fit_result(None, function, None, False)
    return bound


def _tag(parsed: ParsedStatement) -> str:
    return parsed.name.removesuffix("Stmt").upper()


def _bind_statement(b: Binder, parsed: ParsedStatement) -> Rel:
    return STATEMENT_BINDERS[parsed.name](b, None, parsed.node)


def fit_result(b: Binder | None, function: RoutineFunction, rel: Rel | None, has_rows: bool) -> Rel:
    """The last statement with its columns as the function declares them; raises 42P13 where they cannot be."""
    if function.routine.return_type == VOID_OID and not function.out_columns:
        return rel if rel is not None else Project((), Rel(()), ())
    if rel is None or not has_rows or b is None:
        raise mismatch(function, "Function's final statement must be SELECT or INSERT/UPDATE/DELETE RETURNING.")
    if function.returns_row:
        targets = [sql_type for _, sql_type in function.out_columns]
        if not function.out_columns:
            return rel
        rel = _row_in_columns(b, function, rel, targets)
        if len(rel.columns) > len(targets):
            raise mismatch(function, "Final statement returns too many columns.")
        if len(rel.columns) < len(targets):
            raise mismatch(function, "Final statement returns too few columns.")
    else:
        targets = [function.return_type]
        if len(rel.columns) != 1:
            raise mismatch(function, "Final statement must return exactly one column.")
    expressions = []
    for number, (column, target) in enumerate(zip(rel.columns, targets, strict=True), 1):
        reference = ColumnRef(column.type, column.id, column.name)
        converted = coerce_to_target(b, reference, target, "a")
        if converted is None:
            actual, wanted = type_named(column.type.oid), type_named(target.oid)
            raise mismatch(
                function,
                f"Final statement returns {actual} instead of {wanted} at column {number}."
                if function.returns_row
                else f"Actual return type is {actual}.",
            )
        expressions.append(converted)
    if all(isinstance(expr, ColumnRef) for expr in expressions):
        return rel
    made = tuple(
        OutputColumn(b.new_id(), column.name, expr.type) for column, expr in zip(rel.columns, expressions, strict=True)
    )
    if type(rel).__name__ in ("Insert", "Update", "Delete"):
        raise FeatureNotSupported("RETURNING in an SQL function must have the types that the function declares")
    return Project(made, rel, tuple(expressions))


def _row_in_columns(b: Binder, function: RoutineFunction, rel: Rel, targets: Sequence[SqlType]) -> Rel:
    """``SELECT row`` as a query of the row's fields, where these are what the function declares; else as it was."""
    if len(rel.columns) != 1:
        return rel
    [whole] = rel.columns
    reference: Expr = ColumnRef(whole.type, whole.id, whole.name)
    if is_composite(whole.type):
        fields = composite_fields(b, whole.type)
        entry = b.catalog.type_entry(whole.type.oid)
        declared, row_of = function.routine.return_type, function.routine.row_of
        if declared not in (RECORD_OID, whole.type.oid) or (entry and row_of not in (0, entry.definition.relation)):
            return rel
        if [each.type.oid for each in fields] != [target.oid for target in targets]:
            return rel
        items = [field_of(reference, each) for each in fields]
    elif whole.type.oid == RECORD_OID and isinstance(rel, Project) and isinstance(rel.expressions[0], RowExpr):
        row = rel.expressions[0]
        if len(row.items) != len(targets):
            return rel
        columns = tuple(OutputColumn(b.new_id(), f"f{number}", item.type) for number, item in enumerate(row.items, 1))
        return Project(columns, rel.input, row.items)
    else:
        return rel
    columns = tuple(OutputColumn(b.new_id(), each.name, each.type) for each in fields)
    return Project(columns, rel, tuple(items))


def mismatch(function: RoutineFunction, detail: str) -> DatabaseError:
    declared = function.return_type.oid if function.actual_oids else function.routine.return_type
    name = type_named(declared) if not function.routine.row_of else "record"
    return DatabaseError.of("42P13", f"return type mismatch in function declared to return {name}", detail=detail)


# ---------------------------------------------------------------------------------------------------- inlining


def _single_select(function: RoutineFunction) -> Node | None:
    statements = body_statements(function)
    if len(statements) != 1 or statements[0].name != "SelectStmt":
        return None
    return statements[0].node


def _may_inline(b: Binder, function: RoutineFunction) -> bool:
    routine = function.routine
    alone = routine.security_definer or routine.strict or routine.search_path is not None
    return not (alone or routine.oid in b.inlining)


def _inlined_value(b: Binder, function: RoutineFunction, arguments: tuple[Expr, ...]) -> Expr | None:
    """The value of ``SELECT expression`` with the arguments in place of the parameters; None if that is not possible."""
    if not _may_inline(b, function) or function.returns_row or function.routine.return_type == VOID_OID:
        return None
    node = _single_select(function)
    if node is None or not node.keys() <= _PLAIN or node.get("op", "SETOP_NONE") != "SETOP_NONE":
        return None
    if len(node["targetList"]) != 1:
        return None
    scope = Scope(None, "SELECT")
    with _Inside(b, function):
        expr = bind(b, scope, node["targetList"][0]["ResTarget"]["val"])
        expr = resolve_unknown(b, expr)
        if scope.aggregates or scope.windows or scope.set_calls:
            return None
        value = coerce_to_target(b, expr, function.return_type, "a")
        if value is None:
            raise mismatch(function, f"Actual return type is {type_named(expr.type.oid)}.")
    if not _fits_volatility(function, value) or not _may_replace(value, arguments):
        return None
    return _with_arguments(value, arguments)


def _inlined_query(b: Binder, function: RoutineFunction, arguments: tuple[Expr, ...]) -> Rel | None:
    """The query of a set-returning function in FROM, with the arguments in place of the parameters."""
    if not _may_inline(b, function) or not function.returns_set or function.volatility == "v":
        return None
    node = _single_select(function)
    if node is None or any(_is_costly(argument) for argument in arguments):
        return None
    with _Inside(b, function):
        rel = STATEMENT_BINDERS["SelectStmt"](b, None, node)
        try:
            rel = fit_result(b, function, rel, True)
        except DatabaseError as error:
            error.where = f'SQL function "{function.name}" during startup'
            raise
    if any(isinstance(part, Call | SetCall) and part.function.volatility == "v" for part in walk(rel)):
        return None
    return _with_arguments(rel, arguments)


class _Inside:
    """While a body is bound into the statement around it: its own parameters, and no places in the client's text."""

    def __init__(self, b: Binder, function: RoutineFunction) -> None:
        self._b = b
        self._function = function

    def __enter__(self) -> None:
        b, function = self._b, self._function
        self._saved = (b.parameters, b.arguments, b.references, b.inlining, b.acting_role)
        b.acting_role = None  # whoever calls it needs the privileges, in views too
        b.parameters = Parameters([t.oid for t in function.argument_types])
        b.arguments = RoutineArguments(function.name, function.argument_names)
        b.references = []
        b.inlining = b.inlining | {function.oid}
        b.text_depth += 1

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        b = self._b
        if isinstance(error, DatabaseError) and error.where is None:
            error.where = f'SQL function "{self._function.name}" during inlining'
        b.parameters, b.arguments, b.references, b.inlining, b.acting_role = self._saved
        b.text_depth -= 1


_ORDER = "isv"


def _fits_volatility(function: RoutineFunction, value: Expr) -> bool:
    """A function that says it is IMMUTABLE must not become something less than that."""
    return all(
        _ORDER.index(part.function.volatility) <= _ORDER.index(function.volatility)
        for part in walk(value)
        if isinstance(part, Call | SetCall)
    )


def _is_costly(argument: Expr) -> bool:
    """Whether it matters how often an argument is evaluated."""
    return any(
        isinstance(part, Subquery | SetCall) or (isinstance(part, Call) and part.function.volatility == "v")
        for part in walk(argument)
    )


def _may_replace(value: Expr, arguments: Sequence[Expr]) -> bool:
    uses = [0] * len(arguments)
    for part in walk(value):
        if isinstance(part, Param):
            uses[part.index] += 1
    for argument, count in zip(arguments, uses, strict=True):
        if isinstance(argument, ColumnRef | Const | Param):
            continue
        if count != 1 and _is_costly(argument):
            return False
    return True


def _with_arguments(node: T, arguments: Sequence[Expr]) -> T:
    return transform(node, lambda expr: arguments[expr.index] if isinstance(expr, Param) else None)


# ---------------------------------------------------------------------------------------------------- names in bodies


def argument_reference(b: Binder, parts: Sequence[str]) -> Expr | None:
    """``name`` or ``function.name`` inside a body, or a field of such a row; None if it is no argument."""
    arguments = b.arguments
    if arguments is None:
        return None
    if len(parts) < 3 and (len(parts) == 1 or parts[0] == arguments.routine_name) and parts[-1] in arguments.names:
        return b.parameters.reference(arguments.names.index(parts[-1]) + 1, None) if parts[-1] else None
    row = argument_reference(b, parts[:-1]) if len(parts) > 1 else None
    if row is None or not is_composite(row.type):
        return None
    return next((field_of(row, each) for each in composite_fields(b, row.type) if each.name == parts[-1]), None)


def argument_fields(b: Binder, parts: Sequence[str]) -> list[tuple[str, Expr]] | None:
    """What ``name.*`` stands for inside a body; None if it is no argument that is a row."""
    row = argument_reference(b, parts)
    if row is None or not is_composite(row.type):
        return None
    return [(each.name, field_of(row, each)) for each in composite_fields(b, row.type)]
