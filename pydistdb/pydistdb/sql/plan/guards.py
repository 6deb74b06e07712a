"""When a part of an expression is evaluated at all: CASE, COALESCE, AND and OR stop as soon as they know enough.

Queries in expressions become columns computed below the operator (build.py), which would be too early for these::

    CASE WHEN n > 0 THEN n * fact(n - 1) ELSE 1 END     fact(n - 1) only for rows of which n > 0 IS TRUE holds

Source: PostgreSQL 15 manual, 4.2.14 and 9.18.
"""

from __future__ import annotations

from collections.abc import Callable

from pydistdb.sql.plan.expressions import conjoin, conjuncts, map_parts
from pydistdb.sql.tree import And, BooleanTest, Case, Coalesce, Expr, IsNull, Or
from pydistdb.sql.types.known import BOOL

Guarded = Callable[[Expr, Expr | None], Expr]
"""Maps a part of an expression, given the condition under which it is evaluated (None: always)."""


def _both(left: Expr | None, right: Expr) -> Expr:
    return conjoin([*conjuncts(left), right]) if left is not None else right


def map_guarded(expression: Expr, function: Guarded, guard: Expr | None) -> Expr:
    """Map the direct parts of an expression, each with its own guard."""
    match expression:
        case Case():
            branches = []
            for condition, value in expression.branches:
                condition = function(condition, guard)
                branches.append((condition, function(value, _both(guard, BooleanTest(BOOL, condition, True)))))
                guard = _both(guard, BooleanTest(BOOL, condition, True, True))
            return Case(expression.type, tuple(branches), function(expression.default, guard))
        case Coalesce():
            arguments = []
            for argument in expression.arguments:
                argument = function(argument, guard)
                arguments.append(argument)
                guard = _both(guard, IsNull(BOOL, argument))
            return Coalesce(expression.type, tuple(arguments))
        case And() | Or():
            decisive = isinstance(expression, Or)
            terms = []
            for term in expression.arguments:
                term = function(term, guard)
                terms.append(term)
                guard = _both(guard, BooleanTest(BOOL, term, decisive, True))
            return And(expression.type, tuple(terms)) if not decisive else Or(expression.type, tuple(terms))
    return map_parts(expression, lambda part: function(part, guard))
