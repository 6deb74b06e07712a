"""Walking and rewriting the typed tree, for rules: every function here is pure and shares what it does not change.

``map_parts(node, on_expression, on_relation)`` is the one place that knows where a node keeps its parts; everything else
is written with it::

    def double_constants(expression):           # 1 + x  ->  2 + x
        expression = map_parts(expression, double_constants)
        return Const(expression.type, 2 * expression.value) if isinstance(expression, Const) else expression
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.tree import (
    And,
    Call,
    ColumnRef,
    Const,
    Delete,
    Expr,
    Insert,
    LockRows,
    Merge,
    Param,
    Rel,
    SetCall,
    Subquery,
    Update,
)
from pydistdb.sql.types.known import BOOL

Node = TypeVar("Node", bound="Expr | Rel | Any")
OnExpression = Callable[[Expr], Expr]
OnRelation = Callable[[Rel], Rel]

TRUE = Const(BOOL, True)
FALSE = Const(BOOL, False)
_PARTS = (
    "Expr",
    "Rel",
    "SortKey",
    "AggregateCall",
    "WindowCall",
    "OnConflict",
    "MergeAction",
    "tuple[Any",
    "SubPlan",
    "Access",
    "Term",
    "Probe",
)
_LEAVES = (ColumnRef, Const, Param)


class _PartNames(dict[type, tuple[str, ...]]):
    """Which fields of a node class may hold expressions or relations."""

    def __missing__(self, cls: type) -> tuple[str, ...]:
        names: tuple[str, ...] = ()
        if is_dataclass(cls):
            names = tuple(field.name for field in fields(cls) if any(part in str(field.type) for part in _PARTS))
        self[cls] = names
        return names


_part_names = _PartNames()


def _same(value: Any) -> Any:
    return value


def _map_value(value: Any, on_expression: OnExpression, on_relation: OnRelation) -> Any:
    if isinstance(value, Expr):
        return on_expression(value)
    if isinstance(value, Rel):
        return on_relation(value)
    if isinstance(value, tuple):
        mapped = [_map_value(item, on_expression, on_relation) for item in value]
        if all(new is old for new, old in zip(mapped, value, strict=True)):
            return value
        return tuple(mapped)
    if isinstance(value, dict):
        changed = {key: _map_value(item, on_expression, on_relation) for key, item in value.items()}
        return value if all(changed[key] is value[key] for key in value) else changed
    if _part_names[type(value)]:
        return map_parts(value, on_expression, on_relation)
    return value


def map_parts(node: Node, on_expression: OnExpression = _same, on_relation: OnRelation = _same) -> Node:
    """Rebuild ``node`` with its direct parts mapped; returns ``node`` itself if none changed."""
    if isinstance(node, _LEAVES):
        return node
    changes: dict[str, Any] = {}
    for name in _part_names[type(node)]:
        old = getattr(node, name)
        if old is None:
            continue
        new = _map_value(old, on_expression, on_relation)
        if new is not old:
            changes[name] = new
    return replace(node, **changes) if changes else node


def direct_parts(node: Any) -> tuple[list[Expr], list[Rel]]:
    """The expressions and the relations that are direct parts of ``node``."""
    expressions: list[Expr] = []
    relations: list[Rel] = []
    if not isinstance(node, _LEAVES):
        for name in _part_names[type(node)]:
            _collect(getattr(node, name), expressions, relations)
    return expressions, relations


def _collect(value: Any, expressions: list[Expr], relations: list[Rel]) -> None:
    if isinstance(value, Expr):
        expressions.append(value)
    elif isinstance(value, Rel):
        relations.append(value)
    elif isinstance(value, tuple):
        for item in value:
            _collect(item, expressions, relations)
    elif isinstance(value, dict):
        for item in value.values():
            _collect(item, expressions, relations)
    elif value is not None:
        for name in _part_names[type(value)]:
            _collect(getattr(value, name), expressions, relations)


def inputs(relation: Rel) -> list[Rel]:
    """The direct inputs of a relation (queries in its expressions are not)."""
    return direct_parts(relation)[1]


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


def walk(expression: Expr) -> Iterator[Expr]:
    """Every node of an expression, itself first; queries inside are not entered."""
    stack = [expression]
    while stack:
        node = stack.pop()
        yield node
        if not isinstance(node, _LEAVES):
            stack.extend(direct_parts(node)[0])


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
    expressions, relations = direct_parts(relation)
    while expressions:
        for node in walk(expressions.pop()):
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


def all_relations(relation: Rel) -> Iterator[Rel]:
    """Every relation in a tree, those in expressions included."""
    stack: list[Any] = [relation]
    while stack:
        node = stack.pop()
        if isinstance(node, Rel):
            yield node
        expressions, relations = direct_parts(node)
        stack.extend(relations)
        for expression in expressions:
            stack.extend(part.query for part in walk(expression) if isinstance(part, Subquery))


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
        if any(is_volatile_alone(expression) for expression in direct_parts(part)[0]):
            return True
    return False


def changed_table(relation: Rel) -> Table | None:
    """The first table that a statement changes."""
    for part in all_relations(relation):
        if isinstance(part, Insert | Update | Delete | Merge):
            return part.table
    return None


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
