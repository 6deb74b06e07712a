"""Two projections, or two filters, on top of each other become one.

``SELECT a + 1 FROM (SELECT x AS a FROM t) s`` becomes a single projection over t.  The inner expression is copied to where it
is used, unless it is costly (or volatile) and used more than once.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from pydistdb.sql.plan.expressions import (
    conjoin,
    conjuncts,
    direct_parts,
    is_volatile,
    map_parts,
    map_queries,
    substitute,
    walk,
)
from pydistdb.sql.tree import ColumnRef, Const, Expr, Filter, Param, Project, Rel, Subquery


def merge_projects(relation: Rel) -> Rel:
    relation = map_parts(map_queries(relation, merge_projects), on_relation=merge_projects)
    match relation:
        case Project(input=Project() as inner):
            if _may_copy(relation.expressions, inner):
                replacements = dict(zip([column.id for column in inner.columns], inner.expressions, strict=True))
                expressions = tuple(substitute(expression, replacements) for expression in relation.expressions)
                return replace(relation, input=inner.input, expressions=expressions)
        case Filter(input=Filter() as inner):
            terms = [*conjuncts(inner.condition), *conjuncts(relation.condition)]
            return Filter(inner.columns, inner.input, conjoin(terms))
    return relation


def _may_copy(users: tuple[Expr, ...], inner: Project) -> bool:
    uses: Counter[int] = Counter()
    for user in users:
        for node in walk(user):
            if isinstance(node, ColumnRef):
                uses[node.id] += 1
            elif isinstance(node, Subquery):
                uses.update(dict.fromkeys((column.id for column in inner.columns), 2))
    for column, expression in zip(inner.columns, inner.expressions, strict=True):
        if isinstance(expression, ColumnRef | Const | Param):
            continue
        if is_volatile(expression) or uses[column.id] > 1 or (_is_costly(expression) and uses[column.id] != 1):
            return False
    return True


def _is_costly(expression: Expr) -> bool:
    return bool(direct_parts(expression)[0])
