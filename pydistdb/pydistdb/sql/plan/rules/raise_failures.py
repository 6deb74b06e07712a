"""Constants that cannot be computed fail when the statement is planned, whether or not there is a row to compute them for.

``SELECT * FROM empty WHERE 1 / 0 = 1`` raises 22012.  What folding has left of constants alone is what fails, if it stands
where it would be looked at: not in an arm of CASE or COALESCE, nor behind a term of AND or OR, that constants rule out::

    CASE WHEN x > 0 THEN 1 / 0 END        fails
    CASE WHEN false THEN 1 / 0 END        folded to NULL
    COALESCE(1, 1 / 0)                    folded to 1

Columns that nobody uses are gone by now, and with them what they would be computed from.  CHECK conditions and generated columns
are the business of the rows that are written.

Source: PostgreSQL 15, clauses.c (eval_const_expressions).
"""

from __future__ import annotations

from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.plan.expressions import direct_parts, walk
from pydistdb.sql.tree import (
    And,
    Call,
    Coalesce,
    Const,
    Delete,
    Expr,
    Insert,
    Merge,
    Or,
    Param,
    Project,
    Rel,
    Subquery,
    Update,
)


def raise_failures(relation: Rel) -> Rel:
    """The relation as it is; raises what computing its constants raises."""
    expressions, relations = direct_parts(relation)
    match relation:
        case Insert():
            expressions = [*relation.defaults.values(), *relation.returning]
            if relation.on_conflict is not None:
                expressions += direct_parts(relation.on_conflict)[0]
        case Update():
            expressions = [*(value for _, value in relation.assignments), *relation.returning]
        case Delete():
            expressions = [*relation.returning]
        case Merge():
            expressions = [part for action in relation.actions for part in direct_parts(action)[0]]
    for expression in expressions:
        _look_at(expression)
    for part in relations:
        raise_failures(part)
    return relation


def _look_at(expression: Expr) -> None:
    match expression:
        case Call() if is_constant_call(expression):
            try:
                expression.function.implementation(*(each.value for each in expression.arguments))  # type: ignore[attr-defined]
            except DatabaseError:
                raise
            except (ArithmeticError, ValueError, TypeError):
                return  # the run knows how to put it
        case And() | Or():
            for argument in expression.arguments:
                if isinstance(argument, Const) and argument.value is isinstance(expression, Or):
                    return
                _look_at(argument)
        case Coalesce():
            for argument in expression.arguments:
                if isinstance(argument, Const) and argument.value is not None:
                    return
                _look_at(argument)
        case Subquery():
            if expression.test is not None:
                _look_at(expression.test)
            query = expression.query
            # What EXISTS would return is not computed.
            raise_failures(query.input if expression.kind == "exists" and isinstance(query, Project) else query)
        case _:
            for part in direct_parts(expression)[0]:
                _look_at(part)


def is_constant_call(expression: Expr) -> bool:
    """A call that folding tried and could not do."""
    if not isinstance(expression, Call) or not all(isinstance(each, Const) for each in expression.arguments):
        return False
    function = expression.function
    if function.strict and any(each.value is None for each in expression.arguments):  # type: ignore[attr-defined]
        return False  # it is NULL; the constant has come here from a CTE since
    return function.volatility == "i" and not function.needs_context and not function.returns_set


def _is_of_literals(call: Call) -> bool:
    return all(isinstance(part, Const | Param | Call) for part in walk(call))


def divides_literals(relation: Rel) -> bool:
    """Whether literals that were lifted out of the text are divided by one another: then the plan depends on them."""
    expressions, relations = direct_parts(relation)
    for expression in expressions:
        for part in walk(expression):
            if isinstance(part, Subquery):
                relations.append(part.query)
            elif isinstance(part, Call) and part.function.name.endswith(("div", "mod")) and _is_of_literals(part):
                return True
    return any(map(divides_literals, relations))
