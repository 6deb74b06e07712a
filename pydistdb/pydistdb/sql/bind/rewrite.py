"""Rewriting of trees: replace some expressions, keep the rest as it is (identical, not just equal).

>>> from pydistdb.sql.tree import Const, Not
>>> from pydistdb.sql.types.registry import BOOL
>>> tree = Not(BOOL, Const(BOOL, True))
>>> transform(tree, lambda expr: None) is tree
True
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any, TypeVar

from pydistdb.sql.tree import (
    AggregateCall,
    ColumnRef,
    Cte,
    CteScan,
    Expr,
    MergeAction,
    OnConflict,
    OutputColumn,
    Rel,
    SetCall,
    SortKey,
    Subquery,
    WindowCall,
)

_NODES = (Expr, Rel, SortKey, AggregateCall, WindowCall, OnConflict, MergeAction)
_PLAIN_FIELDS = frozenset(
    {"type", "function", "columns", "table", "value", "equality", "less", "name", "kind", "numbers", "positions"}
)
_fields: dict[type, tuple[str, ...]] = {}
_T = TypeVar("_T")


def _node_fields(cls: type) -> tuple[str, ...]:
    names = _fields.get(cls)
    if names is None:
        names = _fields[cls] = tuple(f.name for f in fields(cls) if f.name not in _PLAIN_FIELDS)
    return names


def transform(node: _T, visit: Callable[[Expr], Expr | None]) -> _T:
    """Replace every expression for which ``visit`` returns one; where it returns None, look inside."""
    result = _transform(node, visit)
    return result  # type: ignore[no-any-return]


def _transform(node: Any, visit: Callable[[Expr], Expr | None]) -> Any:
    if isinstance(node, tuple):
        items = [_transform(item, visit) for item in node]
        if all(new is old for new, old in zip(items, node, strict=True)):
            return node
        return tuple(items)
    if isinstance(node, Expr):
        replacement = visit(node)
        if replacement is not None:
            return replacement
    elif not isinstance(node, _NODES):
        return node
    changes = {}
    for name in _node_fields(type(node)):
        old = getattr(node, name)
        if old is None or old.__class__ in (int, bool, str):
            continue
        new = _transform(old, visit)
        if new is not old:
            changes[name] = new
    return replace(node, **changes) if changes else node


def walk(node: Any, *, into_queries: bool = True) -> Iterator[Expr]:
    """All expressions in a tree, outer ones first, those of subqueries included unless they are not wanted."""
    if isinstance(node, tuple):
        for item in node:
            yield from walk(item, into_queries=into_queries)
        return
    if isinstance(node, Expr):
        yield node
    elif not isinstance(node, _NODES) or not into_queries:
        return
    for name in _node_fields(type(node)):
        child = getattr(node, name)
        if child is not None and child.__class__ not in (int, bool, str):
            yield from walk(child, into_queries=into_queries)


def has_set_call(expr: Expr) -> bool:
    """Whether a set-returning call stands in the expression; those of queries in it are their own affair."""
    return any(isinstance(part, SetCall) for part in walk(expr, into_queries=False))


# ------------------------------------------------------------------------------------------------ comparison


def same_expression(left: Expr, right: Expr) -> bool:
    """Tell whether two expressions are the same, queries in them included, whose columns have ids of their own."""
    if left.__class__ is not right.__class__:
        return False
    if left == right:
        return True
    return any(isinstance(part, Subquery) for part in walk(left)) and _same(left, right, {})


def _same(left: Any, right: Any, ids: dict[tuple[str, int], int]) -> bool:
    """``ids`` maps the ids of columns and CTEs that the left side produces to those of the right side."""
    if left.__class__ is not right.__class__:
        return False
    if isinstance(left, ColumnRef):
        return bool(ids.get(("column", left.id), left.id) == right.id and left.type == right.type)
    if isinstance(left, OutputColumn):
        return bool(ids.setdefault(("column", left.id), right.id) == right.id and left.type == right.type)
    if isinstance(left, Cte | CteScan) and ids.setdefault(("cte", left.cte_id), right.cte_id) != right.cte_id:
        return False
    if isinstance(left, tuple):
        return len(left) == len(right) and all(_same(a, b, ids) for a, b in zip(left, right, strict=True))
    if isinstance(left, _NODES):
        names = [f.name for f in fields(left) if f.name != "cte_id"]
        return all(_same(getattr(left, name), getattr(right, name), ids) for name in names)
    return bool(left == right)
