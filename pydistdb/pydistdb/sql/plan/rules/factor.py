"""What all arms of an OR have in common is asked once, before it.

``(a = b AND c = 1) OR (a = b AND d = 2)`` becomes ``a = b AND (c = 1 OR d = 2)``: the common term can join two tables or bound
an index, the OR cannot.  Equalities of one expression become a list: ``a = 1 OR a = 2`` is ``a IN (1, 2)``.  Both hold in
three-valued logic as well (distributivity and absorption).
"""

from __future__ import annotations

from pydistdb.sql.plan.comparisons import comparison_terms
from pydistdb.sql.plan.expressions import (
    columns_of,
    conjoin,
    conjuncts,
    has_subquery,
    is_constant,
    is_volatile,
    rewrite_relation_expressions,
)
from pydistdb.sql.tree import And, Call, Expr, InList, Or, Rel
from pydistdb.sql.types.known import BOOL


def factor(relation: Rel) -> Rel:
    return rewrite_relation_expressions(relation, _factor_node)


def _factor_node(expression: Expr) -> Expr:
    if not isinstance(expression, Or) or is_volatile(expression):
        return expression
    arms = [conjuncts(arm) for arm in expression.arguments]
    if not all(arms):
        return expression  # an arm is TRUE: folding has left it for a reason, or it will go away
    common = [term for term in arms[0] if all(term in arm for arm in arms[1:])]
    if not common:
        return _lists(expression)
    rest = [[term for term in arm if term not in common] for arm in arms]
    if not all(rest):
        return conjoin(common)  # x OR (x AND y) is x
    return And(BOOL, (*common, _lists(Or(BOOL, tuple([conjoin(terms) for terms in rest])))))


def _lists(expression: Or) -> Expr:
    """``a = 1 OR b OR a = 2`` as ``a IN (1, 2) OR b``."""
    arms: list[Expr] = []
    found: list[tuple[Expr, Call, list[Expr], int]] = []
    for arm in expression.arguments:
        pair = _equality(arm)
        if pair is None:
            arms.append(arm)
            continue
        argument, value, call = pair
        for known, first, values, _ in found:
            if known == argument and first.function is call.function and values[0].type == value.type:
                values.append(value)
                break
        else:
            found.append((argument, call, [value], len(arms)))
            arms.append(arm)
    for argument, call, values, place in found:
        if len(values) > 1:
            arms[place] = InList(BOOL, argument, tuple(values), call.function)
    if len(arms) == len(expression.arguments):
        return expression
    return arms[0] if len(arms) == 1 else Or(BOOL, tuple(arms))


def _equality(arm: Expr) -> tuple[Expr, Expr, Call] | None:
    """``expression = constant`` the way round that it is written; None for anything else."""
    found = comparison_terms(arm)
    if found is None or found[0] != "=" or has_subquery(arm):
        return None
    _, left, right, call = found
    return (left, right, call) if columns_of(left) and is_constant(right) else None
