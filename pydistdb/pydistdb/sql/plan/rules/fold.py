"""Constant folding: what can be computed from constants alone is, once.

``1 + 1 < x AND true`` becomes ``2 < x``.  Only immutable functions are called.  A call that fails is left as it is: whether that
fails the statement is decided when all rules are through (raise_failures.py).
"""

from __future__ import annotations

from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.plan.expressions import rewrite_deep, rewrite_relation_expressions, walk
from pydistdb.sql.plan.rules.raise_failures import is_constant_call
from pydistdb.sql.tree import And, ArrayLiteral, Call, Case, Coalesce, Const, Expr, InList, IsNull, Not, Or, Rel
from pydistdb.sql.types.arrays import PgArray
from pydistdb.sql.types.known import BOOL

LONGEST_RESULT = 10_000
"""A folded string may not be longer: repeat('x', 10 ^ 8) belongs to the run, not into the plan."""


def fold(relation: Rel) -> Rel:
    return rewrite_relation_expressions(relation, _fold_node)


def fold_expression(expression: Expr) -> Expr:
    return rewrite_deep(expression, _fold_node)


def _fold_node(expression: Expr) -> Expr:
    match expression:
        case Call():
            return _fold_call(expression)
        case And():
            return _fold_connective(expression, True)
        case Or():
            return _fold_connective(expression, False)
        case Not(argument=Const(value=value)):
            return Const(BOOL, None if value is None else not value)
        case Not(argument=Not(argument=inner)):
            return inner
        case IsNull(argument=Const(value=value), negated=negated):
            return Const(BOOL, (value is None) is not negated)
        case Case():
            return _fold_case(expression)
        case Coalesce(arguments=(Const(value=value) as first, *_)) if value is not None:
            return first
        case InList(argument=Const()) if all(isinstance(item, Const) for item in expression.items):
            return _fold_list(expression)
        case ArrayLiteral(items=items) if items and all(
            isinstance(item, Const) and not item.type.is_array for item in items
        ):
            return Const(expression.type, PgArray.of([item.value for item in items if isinstance(item, Const)]))
    return expression


def _fold_call(call: Call) -> Expr:
    function = call.function
    if function.returns_set:
        return call
    if function.strict and any(isinstance(argument, Const) and argument.value is None for argument in call.arguments):
        return Const(call.type, None)  # whatever the others are: they are not even computed
    if function.volatility != "i" or function.needs_context:
        return call
    values = []
    for argument in call.arguments:
        if not isinstance(argument, Const):
            return call
        values.append(argument.value)
    try:
        value = function.implementation(*values)
    except (DatabaseError, ArithmeticError, ValueError, TypeError):
        return call
    if isinstance(value, str | bytes) and len(value) > LONGEST_RESULT:
        return call
    return Const(call.type, value)


def _fold_list(listed: InList) -> Expr:
    equal = [_fold_node(Call(BOOL, listed.equality, (listed.argument, item))) for item in listed.items]
    found = _fold_connective(Or(BOOL, tuple(equal)), False)
    if not isinstance(found, Const):
        return listed if not all(isinstance(each, Const) for each in equal) else Const(BOOL, None)
    return Const(BOOL, None if found.value is None else found.value is not listed.negated)


def _fold_connective(expression: And | Or, neutral: bool) -> Expr:
    arguments: list[Expr] = []
    for argument in expression.arguments:
        if isinstance(argument, Const) and argument.value is not None:
            if argument.value is not neutral:
                return argument if not any(map(fails, arguments)) else _connected(expression, [*arguments, argument])
            continue
        if type(argument) is type(expression):
            arguments.extend(argument.arguments)
        else:
            arguments.append(argument)
    if not arguments:
        return Const(BOOL, neutral)
    return _connected(expression, arguments)


def _connected(expression: And | Or, arguments: list[Expr]) -> Expr:
    if len(arguments) == 1:
        return arguments[0]
    if len(arguments) == len(expression.arguments):
        return expression
    return type(expression)(BOOL, tuple(arguments))


def fails(expression: Expr) -> bool:
    """A constant in it could not be computed: it comes before what would decide (raise_failures.py)."""
    return any(is_constant_call(part) for part in walk(expression))


def _fold_case(expression: Case) -> Expr:
    branches: list[tuple[Expr, Expr]] = []
    for condition, result in expression.branches:
        if isinstance(condition, Const):
            if condition.value is True:
                return Case(expression.type, tuple(branches), result) if branches else result
            continue
        branches.append((condition, result))
    if len(branches) == len(expression.branches):
        return expression
    return Case(expression.type, tuple(branches), expression.default) if branches else expression.default
