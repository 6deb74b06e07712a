"""Aggregate calls, and GROUPING().

Binding ``sum(x)`` puts an ``AggregateCall`` into the list of the query level it belongs to and leaves a ``ColumnRef`` to
its result; the level's ``Aggregate`` is built from the list afterwards (``grouping.py``).  That level is the innermost
one whose columns the arguments mention: in ``(SELECT max(o.x) FROM t)`` with o from outside, the maximum is taken
outside.  A call with an OVER clause is a window function's (``windows.py``), always of its own level; what both kinds have
in common is in ``call_parts.py``.

Source: PostgreSQL 15 manual, 4.2.7; parse_agg.c.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydistdb.sql.bind.binder import Binder
from pydistdb.sql.bind.call_parts import CLAUSE_WORDS, bind_parts
from pydistdb.sql.bind.dispatch import BINDERS, bind
from pydistdb.sql.bind.locations import location_of
from pydistdb.sql.bind.parse import Node
from pydistdb.sql.bind.rewrite import walk
from pydistdb.sql.bind.scope import Scope
from pydistdb.sql.bind.windows import window_call
from pydistdb.sql.errors import DatabaseError, GroupingError, WrongObjectType
from pydistdb.sql.tree import AggregateCall, ColumnRef, Expr, SetCall
from pydistdb.sql.types.base import Function, SqlType
from pydistdb.sql.types.registry import INT4

AGGREGATE_CLAUSES = frozenset({"SELECT", "HAVING", "ORDER BY", "DISTINCT ON", "WINDOW"})
MOST_GROUPING_ARGUMENTS = 32
"""Their bits make an int4."""


def bind_aggregate(b: Binder, scope: Scope, node: Node, name: str, schema: str | None) -> Expr:
    """A FuncCall whose name is an aggregate's or a window function's, or which has an OVER clause."""
    location = node["location"]
    tracker: list[Scope] = []
    b.references.append(tracker)
    inside_before = scope.in_aggregate
    over = node.get("over")
    if over is None:
        scope.in_aggregate = True
    try:
        made = bind_parts(b, scope, node, name, schema)
    finally:
        b.references.pop()
        scope.in_aggregate = inside_before
    function = made.function
    if over is not None:
        return window_call(b, scope, node, made, over)
    if isinstance(function, Function):
        raise WrongObjectType(f"window function {name} requires an OVER clause", position=b.position(location))
    owner = _owner(scope, tracker)
    _check_place(b, owner, location)
    call = AggregateCall(function, made.arguments, made.distinct, made.filter, made.order_by)
    _check_not_nested(b, owner, call)
    if not any(argument.__class__ is SetCall for argument in made.arguments):
        for id, other in owner.aggregates:
            if other == call and not b.volatile:
                return _result(b, made.result, id, name, location, owner)
    id = b.new_id()
    owner.aggregates.append((id, call))
    b.aggregate_types[id] = made.result
    return _result(b, made.result, id, name, location, owner)


def bind_grouping(b: Binder, scope: Scope, node: Node) -> Expr:
    """GROUPING(…): left, like an aggregate, to the query level whose columns it mentions."""
    location = node["location"]
    tracker: list[Scope] = []
    b.references.append(tracker)
    try:
        arguments = tuple(bind(b, scope, argument) for argument in node["args"])
    finally:
        b.references.pop()
    if len(arguments) >= MOST_GROUPING_ARGUMENTS:
        raise DatabaseError.of("54023", "GROUPING must have fewer than 32 arguments", position=b.position(location))
    owner = _owner(scope, tracker)
    _check_place(b, owner, location, "grouping operations")
    id = next((known for known, same, _ in owner.groupings if same == arguments), 0)
    if not id:
        id = b.new_id()
        owner.groupings.append((id, arguments, tuple(map(location_of, node["args"]))))
    expr = ColumnRef(INT4, id, "grouping", False)
    b.locations[identity(expr)] = (expr, location)
    for seen in b.references:
        seen.append(owner)
    return expr


BINDERS["GroupingFunc"] = bind_grouping


def _check_not_nested(b: Binder, owner: Scope, call: AggregateCall) -> None:
    """An aggregate of an outer query may stand inside an aggregate of this one, but not inside one of its own level."""
    if owner.aggregates:
        ids = {id for id, _ in owner.aggregates}
        for part in walk(call):
            if isinstance(part, ColumnRef) and part.id in ids:
                position = b.position(b.location_of(part))
                raise GroupingError("aggregate function calls cannot be nested", position=position)


def _result(b: Binder, result: SqlType, id: int, name: str, location: int, owner: Scope) -> Expr:
    expr = ColumnRef(result, id, name, name != "count")
    b.locations[identity(expr)] = (expr, location)
    for seen in b.references:
        seen.append(owner)
    return expr


def identity(expr: Expr) -> int:
    return id(expr)


def _owner(scope: Scope, tracker: Sequence[Scope]) -> Scope:
    """The innermost query level, from here outwards, whose columns the arguments mention."""
    if tracker:
        for level in scope.levels():
            if any(seen is level for seen in tracker):
                return level
    return scope


def _check_place(b: Binder, owner: Scope, location: int, what: str = "aggregate functions") -> None:
    position = b.position(location)
    if owner.in_aggregate:
        raise GroupingError("aggregate function calls cannot be nested", position=position)
    if owner.clause not in AGGREGATE_CLAUSES:
        words = CLAUSE_WORDS.get(owner.clause, owner.clause)
        raise GroupingError(f"{what} are not allowed in {words}", position=position)
