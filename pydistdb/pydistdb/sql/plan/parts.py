"""Where each class of node keeps its parts: functions made once per class, out of the annotations of its fields.

A pass visits every node of a statement, and there are a dozen passes, so what a visit costs is most of what planning costs.  To
look at a node's fields, and at what stands in each, costs ten times what reading the right ones does.  For ``Join(kind, left,
right, condition …)`` there is made::

    expressions_of[Join]    lambda node: (node.condition,)
    relations_of[Join]      lambda node: (node.left, node.right,)
    mapped[Join]            def mapped(node, on_expression, on_relation):
                                p2, p3, p4 = on_relation(node.left), on_relation(node.right), on_expression(node.condition)
                                if p2 is node.left and p3 is node.right and p4 is node.condition:
                                    return node
                                return made(node.columns, node.kind, p2, p3, p4, …)

Fields that may hold parts in other ways (pairs, the calls of an Aggregate) are looked through when they are met.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from operator import is_
from typing import Any

from pydistdb.sql.generate import build
from pydistdb.sql.tree import Expr, Rel

OnExpression = Callable[[Expr], Expr]
OnRelation = Callable[[Rel], Rel]

_EXPRESSION, _OPTIONAL, _RELATION, _EXPRESSIONS = "Expr", "Expr | None", "Rel", "tuple[Expr, ...]"
_IF_ANY = "*({}(node.{{0}}) if node.{{0}} else ()),"
_WITH_EXPRESSIONS = (
    "Expr",
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
    "Skip",
)
"""What stands in the annotations of fields that may hold expressions; and of those that may hold relations."""
_WITH_RELATIONS = ("Rel", "OnConflict", "SubPlan")


def _kinds(cls: type, words: Sequence[str]) -> dict[str, str]:
    """The fields that may hold parts and what they are annotated with."""
    annotations = {field.name: str(field.type) for field in fields(cls)} if is_dataclass(cls) else {}
    return {name: text for name, text in annotations.items() if any(word in text for word in words)}


class _Expressions(dict[type, Callable[[Any], tuple[Expr, ...]]]):
    def __missing__(self, cls: type) -> Callable[[Any], tuple[Expr, ...]]:
        texts = {
            _EXPRESSION: "node.{0},",
            _EXPRESSIONS: "*node.{0},",
        }
        kinds = _kinds(cls, _WITH_EXPRESSIONS)
        items = "".join(
            [texts.get(kind, _IF_ANY.format("expressions_in")).format(name) for name, kind in kinds.items()]
        )
        if list(kinds.values()) == [_EXPRESSIONS]:
            items = f"node.{next(iter(kinds))}"
        self[cls] = build(f"get = lambda node: ({items})", {"expressions_in": _expressions_in}, "get")
        return self[cls]


class _Relations(dict[type, Callable[[Any], tuple[Rel, ...]]]):
    def __missing__(self, cls: type) -> Callable[[Any], tuple[Rel, ...]]:
        texts = {_RELATION: "node.{0},"}
        kinds = _kinds(cls, _WITH_RELATIONS)
        items = "".join([texts.get(kind, _IF_ANY.format("relations_in")).format(name) for name, kind in kinds.items()])
        self[cls] = build(f"get = lambda node: ({items})", {"relations_in": _relations_in}, "get")
        return self[cls]


class _Mapped(dict[type, Callable[[Any, OnExpression, OnRelation], Any]]):
    def __missing__(self, cls: type) -> Callable[[Any, OnExpression, OnRelation], Any]:
        texts = {
            _EXPRESSION: "on_expression(node.{0})",
            _OPTIONAL: "None if node.{0} is None else on_expression(node.{0})",
            _RELATION: "on_relation(node.{0})",
            _EXPRESSIONS: "map_items(node.{0}, on_expression)",
        }
        other = "map_value(node.{0}, on_expression, on_relation)"
        kinds = _kinds(cls, (*_WITH_EXPRESSIONS, *_WITH_RELATIONS))
        lines = ["def mapped(node, on_expression, on_relation):"]
        if kinds:
            places = {name: f"p{place}" for place, name in enumerate(kinds)}
            lines += [f"    {places[name]} = {texts.get(kind, other).format(name)}" for name, kind in kinds.items()]
            lines.append(f"    if {' and '.join([f'{place} is node.{name}' for name, place in places.items()])}:")
            lines.append("        return node")
            arguments = [places.get(field.name, f"node.{field.name}") for field in fields(cls)]
            lines.append(f"    return made({', '.join(arguments)})")
        else:
            lines.append("    return node")
        namespace = {"made": cls, "map_items": _map_items, "map_value": _map_value}
        self[cls] = build("\n".join(lines) + "\n", namespace, "mapped")
        return self[cls]


expressions_of = _Expressions()
"""By class: the expressions that are direct parts of a node, in the order of its fields."""
relations_of = _Relations()
"""By class: the relations that are."""
mapped = _Mapped()
"""By class: a node with its direct parts mapped; the node itself if none changed."""


def _expressions_in(value: Any) -> tuple[Expr, ...]:
    if isinstance(value, Expr):
        return (value,)
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, tuple):
        return tuple([part for item in value for part in _expressions_in(item)]) if value else value
    return () if isinstance(value, Rel) else expressions_of[type(value)](value)


def _relations_in(value: Any) -> tuple[Rel, ...]:
    if isinstance(value, Rel):
        return (value,)
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, tuple):
        return tuple([part for item in value for part in _relations_in(item)]) if value else value
    return () if isinstance(value, Expr) else relations_of[type(value)](value)


def _map_items(items: tuple[Expr, ...], function: OnExpression) -> tuple[Expr, ...]:
    changed = tuple(map(function, items))
    return items if all(map(is_, changed, items)) else changed


def _map_value(value: Any, on_expression: OnExpression, on_relation: OnRelation) -> Any:
    if value is None:
        return None
    if isinstance(value, Expr):
        return on_expression(value)
    if isinstance(value, Rel):
        return on_relation(value)
    if isinstance(value, tuple):
        items = [_map_value(item, on_expression, on_relation) for item in value]
        return value if all(map(is_, items, value)) else tuple(items)
    if isinstance(value, dict):
        changed = {key: _map_value(item, on_expression, on_relation) for key, item in value.items()}
        return value if all(changed[key] is value[key] for key in value) else changed
    return mapped[type(value)](value, on_expression, on_relation)
