"""Walking and rewriting the typed tree, for rules: every function here is pure and shares what it does not change.

parts.py knows where a node keeps its parts; ``map_parts(node, on_expression, on_relation)`` rebuilds a node with other parts,
and everything else is written with that::

    def double_constants(expression):           # 1 + x  ->  2 + x
        expression = map_parts(expression, double_constants)
        return Const(expression.type, 2 * expression.value) if isinstance(expression, Const) else expression
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pydistdb.sql.plan.parts import OnExpression, OnRelation, expressions_of, mapped, relations_of
from pydistdb.sql.tree import (
    And,
    Call,
    ColumnRef,
    Const,
    Delete,
    Expr,
    Insert,
    Join,
    LockRows,
    Merge,
    Or,
    Param,
    Rel,
    SetCall,
    Subquery,
    Update,
)
from pydistdb.sql.types.known import BOOL

Node = TypeVar("Node", bound="Expr | Rel | Any")

TRUE = Const(BOOL, True)
FALSE = Const(BOOL, False)
_LEAVES = (ColumnRef, Const, Param)


def _same(value: Any) -> Any:
    return value


def map_parts(node: Node, on_expression: OnExpression = _same, on_relation: OnRelation = _same) -> Node:
    """Rebuild ``node`` with its direct parts mapped; returns ``node`` itself if none changed."""
    return mapped[type(node)](node, on_expression, on_relation)  # type: ignore[no-any-return]


def direct_parts(node: Any) -> tuple[list[Expr], list[Rel]]:
    """The expressions and the relations that are direct parts of ``node``."""
    return list(expressions_of[type(node)](node)), list(relations_of[type(node)](node))


def inputs(relation: Rel) -> list[Rel]:
    """The direct inputs of a relation (queries in its expressions are not)."""
    return list(relations_of[type(relation)](relation))


def rewrite(expression: Expr, function: OnExpression) -> Expr:
    """Map every node of an expression bottom-up; queries inside are left alone."""
    if isinstance(expression, _LEAVES):
        return function(expression)
    return function(map_parts(expression, lambda part: rewrite(part, function)))


def rewrite_deep(expression: Expr, function: OnExpression) -> Expr:
    """As ``rewrite``, in queries inside too (which may refer to the columns around them)."""
    if isinstance(expression, _LEAVES):
        return function(expression)
    return function(
        map_parts(
            expression,
            lambda part: rewrite_deep(part, function),
            lambda query: rewrite_relation_expressions(query, function),
        )
    )


def rewrite_relation_expressions(relation: Rel, function: OnExpression) -> Rel:
    """Apply ``rewrite_deep`` to every expression anywhere in a relation."""
    return map_parts(
        relation,
        lambda expression: rewrite_deep(expression, function),
        lambda query: rewrite_relation_expressions(query, function),
    )


def map_subqueries(node: Node, function: Callable[[Subquery], Expr]) -> Node:
    """``node`` with the queries in its own expressions mapped; almost no statement has one, so that is looked at first."""
    if not any(map(has_subquery, expressions_of[type(node)](node))):
        return node

    def mapped_part(part: Expr) -> Expr:
        return rewrite(part, lambda each: function(each) if isinstance(each, Subquery) else each)

    return map_parts(node, mapped_part)


def map_queries(node: Node, function: OnRelation) -> Node:
    """``node`` with a pass applied to the queries in its own expressions."""
    return map_subqueries(node, lambda subquery: map_parts(subquery, on_relation=function))


def walk(expression: Expr) -> list[Expr]:
    """Every node of an expression, itself first; queries inside are not entered."""
    found = [expression]
    for node in found:  # grows while it is gone through
        found += expressions_of[type(node)](node)
    return found


def columns_of(expression: Expr) -> set[int]:
    """Ids of the columns an expression refers to, those that queries inside take from outside included."""
    found: set[int] = set()
    inner: set[int] = set()
    for node in walk(expression):
        if isinstance(node, ColumnRef):
            found.add(node.id)
        elif isinstance(node, Subquery):
            found |= free_columns(node.query)
            inner |= output_ids(node.query)
    return found - inner


def _references(relation: Rel, references: set[int], produced: set[int]) -> None:
    produced.update(column.id for column in relation.columns)
    for name in ("row_ids", "old_ids", "new_ids"):
        produced.update(getattr(relation, name, {}).values())
    on_conflict = getattr(relation, "on_conflict", None)
    if on_conflict is not None:
        produced.update(on_conflict.excluded_ids.values())
    relations = inputs(relation)
    for expression in expressions_of[type(relation)](relation):
        for node in walk(expression):
            if isinstance(node, ColumnRef):
                references.add(node.id)
            elif isinstance(node, Subquery):
                relations.append(node.query)
    for part in relations:
        _references(part, references, produced)


def free_columns(relation: Rel) -> set[int]:
    """Ids that a relation refers to and does not produce: its correlation with the queries around it."""
    references: set[int] = set()
    produced: set[int] = set()
    _references(relation, references, produced)
    return references - produced


def output_ids(relation: Rel) -> set[int]:
    return {column.id for column in relation.columns}


def all_relations(relation: Rel) -> list[Rel]:
    """Every relation in a tree, itself first, those in expressions included."""
    found = [relation]
    for node in found:  # grows while it is gone through
        found += relations_of[type(node)](node)
        for expression in expressions_of[type(node)](node):
            found += [part.query for part in walk(expression) if isinstance(part, Subquery)]
    return found


def greatest_id(relation: Rel) -> int:
    """The greatest column or CTE id in a statement, so that new ones can start behind it."""
    greatest = 0
    for part in all_relations(relation):
        greatest = max([greatest, getattr(part, "cte_id", 0), *(column.id for column in part.columns)])
        for name in ("row_ids", "old_ids", "new_ids"):
            greatest = max([greatest, *getattr(part, name, {}).values()])
        on_conflict = getattr(part, "on_conflict", None)
        if on_conflict is not None:
            greatest = max([greatest, *on_conflict.excluded_ids.values()])
    return greatest


def conjuncts(expression: Expr | None) -> list[Expr]:
    """The terms of a conjunction, flattened; TRUE has none."""
    if expression is None or (isinstance(expression, Const) and expression.value is True):
        return []
    if isinstance(expression, And):
        return [term for argument in expression.arguments for term in conjuncts(argument)]
    return [expression]


def conjoin(terms: Sequence[Expr]) -> Expr:
    """The conjunction of ``terms``."""
    if not terms:
        return TRUE
    return terms[0] if len(terms) == 1 else And(BOOL, tuple(terms))


def said_of(term: Or, ids: set[int]) -> Or | None:
    """What an OR says of some columns alone: (a = 1 AND b = 2) OR (a = 3 AND b = 4) lets a be 1 or 3; None: nothing."""
    arms = [[part for part in conjuncts(arm) if columns_of(part) <= ids] for arm in term.arguments]
    return Or(term.type, tuple([conjoin(arm) for arm in arms])) if all(arms) else None


def flatten_joins(relation: Rel, sides: list[Rel], terms: list[Expr]) -> None:
    """Collect the relations and terms of nested inner joins."""
    if isinstance(relation, Join) and relation.kind == "inner" and not relation.lateral:
        terms.extend(conjuncts(relation.condition))
        flatten_joins(relation.left, sides, terms)
        flatten_joins(relation.right, sides, terms)
    else:
        sides.append(relation)


def has_subquery(expression: Expr) -> bool:
    return any(isinstance(node, Subquery) for node in walk(expression))


def is_volatile(expression: Expr) -> bool:
    """Whether evaluating an expression more or less often could show."""
    for node in walk(expression):
        if isinstance(node, Call | SetCall) and node.function.volatility == "v":
            return True
        if isinstance(node, Subquery) and relation_is_volatile(node.query):
            return True
    return False


def relation_is_volatile(relation: Rel) -> bool:
    for part in all_relations(relation):
        if isinstance(part, Insert | Update | Delete | Merge | LockRows):
            return True
        function = getattr(part, "function", None)
        if getattr(function, "volatility", "i") == "v":
            return True
        if any(is_volatile_alone(expression) for expression in expressions_of[type(part)](part)):
            return True
    return False


def is_volatile_alone(expression: Expr) -> bool:
    return any(isinstance(node, Call | SetCall) and node.function.volatility == "v" for node in walk(expression))


def substitute(expression: Expr, replacements: dict[int, Expr]) -> Expr:
    """Replace columns by expressions, in queries inside too."""
    if not replacements:
        return expression

    def replace_column(node: Expr) -> Expr:
        return replacements.get(node.id, node) if isinstance(node, ColumnRef) else node

    return rewrite_deep(expression, replace_column)


def is_constant(expression: Expr) -> bool:
    """Whether the value is the same for every row of one run (parameters, constants and functions of those)."""
    for node in walk(expression):
        if isinstance(node, ColumnRef | Subquery | SetCall):
            return False
        if isinstance(node, Call) and node.function.volatility == "v":
            return False
    return True
