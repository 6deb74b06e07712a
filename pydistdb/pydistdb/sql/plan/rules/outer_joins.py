"""An outer join below a condition that no NULL-extended row can meet is an inner (or one-sided) join.

``a LEFT JOIN b ON … WHERE b.x > 5``: a row of a without partner has b.x NULL, and NULL > 5 is not true.  RIGHT joins become
LEFT joins with the sides exchanged, so that later rules see one form.
"""

from __future__ import annotations

from dataclasses import replace

from pydistdb.sql.plan.expressions import conjuncts, map_parts, map_queries, output_ids
from pydistdb.sql.tree import (
    And,
    AnyAll,
    BooleanTest,
    Call,
    ColumnRef,
    Expr,
    Filter,
    InList,
    IsNull,
    Join,
    Not,
    Or,
    Project,
    Rel,
)


def simplify_outer_joins(relation: Rel) -> Rel:
    return _simplify(relation, frozenset())


def _simplify(relation: Rel, rejected: frozenset[int]) -> Rel:
    """``rejected``: rows in which one of these columns is NULL will not get through above."""
    relation = map_queries(relation, simplify_outer_joins)
    match relation:
        case Filter():
            strict = rejected.union(*(null_rejected(term) for term in conjuncts(relation.condition)), ())
            return replace(relation, input=_simplify(relation.input, frozenset(strict)))
        case Project():
            passed = {
                expression.id
                for column, expression in zip(relation.columns, relation.expressions, strict=True)
                if column.id in rejected and isinstance(expression, ColumnRef)
            }
            return replace(relation, input=_simplify(relation.input, frozenset(passed)))
        case Join():
            return _simplify_join(relation, rejected)
    return map_parts(relation, on_relation=simplify_outer_joins)


def _simplify_join(join: Join, rejected: frozenset[int]) -> Rel:
    if join.kind == "right" and not join.lateral:
        join = replace(join, kind="left", left=join.right, right=join.left)
    left_ids, right_ids = output_ids(join.left), output_ids(join.right)
    kind = join.kind
    if kind == "full" and rejected & left_ids:
        kind = "left"
        if rejected & right_ids:
            kind = "inner"
    elif kind == "full" and rejected & right_ids:
        join = replace(join, left=join.right, right=join.left)
        left_ids, right_ids = right_ids, left_ids
        kind = "left"
    elif kind == "left" and rejected & right_ids:
        kind = "inner"
    strict = frozenset().union(*(null_rejected(term) for term in conjuncts(join.condition)), ())
    below_left = rejected & left_ids if kind in ("inner", "left", "semi", "anti") else frozenset()
    below_right = rejected & right_ids if kind == "inner" else frozenset()
    if kind in ("inner", "semi"):
        below_left |= strict & left_ids
    if kind in ("inner", "left", "semi"):
        below_right |= strict & right_ids
    return replace(
        join,
        kind=kind,
        left=_simplify(join.left, frozenset(below_left)),
        right=_simplify(join.right, frozenset(below_right)),
    )


def null_rejected(term: Expr) -> set[int]:
    """Columns that must not be NULL if ``term`` is to be true."""
    match term:
        case Call() if term.function.strict:
            return set().union(*map(_strict_columns, term.arguments), ())
        case ColumnRef():
            return {term.id}
        case InList(negated=False):
            return _strict_columns(term.argument)
        case AnyAll(all=False) if term.function.strict:
            return _strict_columns(term.left)
        case IsNull(negated=True) | BooleanTest(value=True | False, negated=False):
            return _strict_columns(term.argument)
        case And():
            return set().union(*map(null_rejected, term.arguments), ())
        case Or():
            sets = [null_rejected(argument) for argument in term.arguments]
            return set.intersection(*sets) if sets else set()
        case Not(argument=Call() as call) if call.function.strict:
            return null_rejected(call)
    return set()


def _strict_columns(expression: Expr) -> set[int]:
    """Columns whose being NULL makes the expression NULL."""
    match expression:
        case ColumnRef():
            return {expression.id}
        case Call() if expression.function.strict:
            return set().union(*map(_strict_columns, expression.arguments), ())
    return set()
