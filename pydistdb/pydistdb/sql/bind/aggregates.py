"""Aggregate and window function calls.

Binding ``sum(x)`` puts an ``AggregateCall`` into the list of the query level it belongs to and leaves a ``ColumnRef`` to
its result; the level's ``Aggregate`` is built from the list afterwards (``grouping.py``).  That level is the innermost
one whose columns the arguments mention: in ``(SELECT max(o.x) FROM t)`` with o from outside, the maximum is taken
outside.  Window functions likewise, always at their own level.

Source: PostgreSQL 15 manual, 4.2.7 and 4.2.8; parse_agg.c.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pydistdb.sql.bind.calls as calls
from pydistdb.sql.bind.binder import Binder
from pydistdb.sql.bind.coerce import (
    UNKNOWN_OID,
    coerce,
    coerce_to_boolean,
    coerce_to_common,
    coerce_to_target,
    common_type,
    resolve_unknown,
    type_named,
)
from pydistdb.sql.bind.dispatch import BINDERS, bind
from pydistdb.sql.bind.locations import location_of
from pydistdb.sql.bind.operators import ordering
from pydistdb.sql.bind.parse import Node
from pydistdb.sql.bind.rewrite import walk
from pydistdb.sql.bind.scope import Scope
from pydistdb.sql.errors import (
    DatabaseError,
    FeatureNotSupported,
    GroupingError,
    InvalidColumnReference,
    UndefinedFunction,
    UndefinedObject,
    WrongObjectType,
)
from pydistdb.sql.functions import registry as functions
from pydistdb.sql.tree import AggregateCall, ColumnRef, Expr, RowExpr, SetCall, SortKey, WindowCall
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import AggregateFunction, Function, SqlType
from pydistdb.sql.types.registry import INT4, INT8, INTERVAL

AGGREGATE_CLAUSES = frozenset({"SELECT", "HAVING", "ORDER BY", "DISTINCT ON", "WINDOW"})
MOST_GROUPING_ARGUMENTS = 32
"""Their bits make an int4."""
WINDOW_CLAUSES = frozenset({"SELECT", "ORDER BY", "DISTINCT ON"})


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
        made = _bind_parts(b, scope, node, name, schema)
    finally:
        b.references.pop()
        scope.in_aggregate = inside_before
    function = made.function
    if over is not None:
        return _window_call(b, scope, node, made, over)
    if isinstance(function, Function):
        raise WrongObjectType(f"window function {name} requires an OVER clause", position=b.position(location))
    owner = _owner(scope, tracker)
    _check_place(b, owner, location)
    call = AggregateCall(function, made.arguments, made.distinct, made.filter, made.order_by)
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


def _result(b: Binder, result: SqlType, id: int, name: str, location: int, owner: Scope) -> Expr:
    expr = ColumnRef(result, id, name, name != "count")
    b.locations[identity(expr)] = (expr, location)
    for seen in b.references:
        seen.append(owner)
    return expr


def identity(expr: Expr) -> int:
    return id(expr)


class _Parts(NamedTuple):
    function: Function | AggregateFunction
    arguments: tuple[Expr, ...]
    result: SqlType
    distinct: bool
    filter: Expr | None
    order_by: tuple[SortKey, ...]


def _bind_parts(b: Binder, scope: Scope, node: Node, name: str, schema: str | None) -> _Parts:
    location = node["location"]
    argument_nodes = node.get("args", [])
    if any("NamedArgExpr" in argument for argument in argument_nodes):
        raise FeatureNotSupported("aggregates cannot use named arguments", position=b.position(location))
    arguments = [bind(b, scope, argument) for argument in argument_nodes]
    locations = [location_of(argument) for argument in argument_nodes]
    within = node.get("agg_within_group", False)
    keys = sort_keys(b, scope, node.get("agg_order", []))
    if within:
        arguments += [key.expression for key in keys]
        locations += [location_of(item["SortBy"]["node"]) for item in node["agg_order"]]
    if not arguments and not node.get("agg_star") and not within and "over" not in node:
        known = functions.functions(name, schema)
        if known and all(isinstance(f, AggregateFunction) and not f.argument_types for f in known):
            raise WrongObjectType(
                f"{name}(*) must be used to call a parameterless aggregate function", position=b.position(location)
            )
        if name == "count":
            raise WrongObjectType(
                "count(*) must be used to call a parameterless aggregate function", position=b.position(location)
            )
    if within and _is_hypothetical(name, schema):
        arguments = _hypothetical(b, name, schema, arguments, locations, len(keys), location)
    found = calls.resolve(b, name, schema, arguments, location, node.get("func_variadic", False))
    function = found.function
    _check_kind(b, node, name, function)
    converted = calls.convert_arguments(b, found, arguments, locations, node.get("func_variadic", False))
    if within:
        count = len(keys)
        keys = [
            SortKey(expression, key.descending, key.nulls_first)
            for key, expression in zip(keys, converted[len(converted) - count :], strict=True)
        ]
    elif keys:
        keys = [_matched(key, arguments, converted) for key in keys]
    condition = None
    if "agg_filter" in node:
        before, scope.clause = scope.clause, "FILTER"
        condition = coerce_to_boolean(b, bind(b, scope, node["agg_filter"]), "FILTER", location_of(node["agg_filter"]))
        scope.clause = before
    for argument in converted:
        if any(isinstance(part, SetCall) for part in walk(argument)):
            kind = "window" if isinstance(function, Function) else "aggregate"
            raise FeatureNotSupported(
                f"{kind} function calls cannot contain set-returning function calls",
                hint="You might be able to move the set-returning function into a LATERAL FROM item.",
                position=b.position(locations[0]),
            )
    distinct = node.get("agg_distinct", False)
    if distinct:
        for key, item in zip(keys, node.get("agg_order", ()), strict=True):
            if key.expression not in converted and not within:
                raise InvalidColumnReference(
                    "in an aggregate with DISTINCT, ORDER BY expressions must appear in argument list",
                    position=b.position(location_of(item["SortBy"]["node"])),
                )
        for argument, at in zip(converted, locations, strict=False):
            check_sortable(b, argument, at, "equality")
    if isinstance(function, Function) and function.volatility == "v":
        b.volatile = True
    return _Parts(function, converted, found.result, distinct, condition, tuple(keys))


def _is_hypothetical(name: str, schema: str | None) -> bool:
    return any(isinstance(f, AggregateFunction) and f.hypothetical for f in functions.functions(name, schema))


def _hypothetical(
    b: Binder,
    name: str,
    schema: str | None,
    arguments: Sequence[Expr],
    locations: Sequence[int],
    count: int,
    location: int,
) -> list[Expr]:
    """Bring each direct argument and the expression that it is compared with to one type."""
    if len(arguments) != 2 * count:
        error = calls.no_function(b, name, schema, arguments, location)
        error.hint = (
            f"To use the hypothetical-set aggregate {name}, the number of hypothetical direct arguments "
            f"(here {len(arguments) - count}) must match the number of ordering columns (here {count})."
        )
        raise error
    result = list(arguments)
    for index in range(count):
        pair = (index + count, index)
        target = common_type(b, [arguments[at] for at in pair], "WITHIN GROUP", [locations[at] for at in pair])
        assert target is not None
        for at in pair:
            result[at] = coerce_to_common(b, arguments[at], target, "WITHIN GROUP", locations[at])
    return result


def _matched(key: SortKey, arguments: Sequence[Expr], converted: Sequence[Expr]) -> SortKey:
    """Sort by an argument as it was converted, if the key is that argument as written."""
    for argument, result in zip(arguments, converted, strict=False):
        if key.expression == argument:
            return SortKey(result, key.descending, key.nulls_first)
    return key


def _check_kind(b: Binder, node: Node, name: str, function: Function | AggregateFunction) -> None:
    position = b.position(node["location"])
    over = "over" in node
    if isinstance(function, AggregateFunction):
        if function.ordered_set and not node.get("agg_within_group"):
            raise WrongObjectType(f"WITHIN GROUP is required for ordered-set aggregate {name}", position=position)
        if not function.ordered_set and node.get("agg_within_group"):
            raise WrongObjectType(
                f"{name} is not an ordered-set aggregate, so it cannot have WITHIN GROUP", position=position
            )
        if over and function.ordered_set:
            raise FeatureNotSupported(f"OVER is not supported for ordered-set aggregate {name}", position=position)
        if function.ordered_set and node.get("agg_distinct"):
            raise FeatureNotSupported("cannot use DISTINCT with WITHIN GROUP", position=position)
        if over and node.get("agg_distinct"):
            raise FeatureNotSupported("DISTINCT is not implemented for window functions", position=position)
        if over and node.get("agg_order"):
            raise FeatureNotSupported("aggregate ORDER BY is not implemented for window functions", position=position)
        return
    if over and not function.window:
        raise WrongObjectType(
            f"OVER specified, but {name} is not a window function nor an aggregate function", position=position
        )
    if node.get("agg_filter"):
        raise FeatureNotSupported("FILTER is not implemented for non-aggregate window functions", position=position)
    if node.get("agg_distinct"):
        raise FeatureNotSupported("DISTINCT is not implemented for window functions", position=position)


def _owner(scope: Scope, tracker: Sequence[Scope]) -> Scope:
    """The innermost query level, from here outwards, whose columns the arguments mention."""
    if tracker:
        for level in scope.levels():
            if any(seen is level for seen in tracker):
                return level
    return scope


_CLAUSE_WORDS = {
    "JOIN/ON": "JOIN conditions",
    "FROM": "functions in FROM",
    "CHECK": "check constraints",
    "INDEX": "index expressions",
    "INDEX WHERE": "index predicates",
    "DEFAULT": "DEFAULT expressions",
    "LATERAL": "FROM clause of their own query level",
}


def _check_place(b: Binder, owner: Scope, location: int, what: str = "aggregate functions") -> None:
    position = b.position(location)
    if owner.in_aggregate:
        raise GroupingError("aggregate function calls cannot be nested", position=position)
    if owner.clause not in AGGREGATE_CLAUSES:
        words = _CLAUSE_WORDS.get(owner.clause, owner.clause)
        raise GroupingError(f"{what} are not allowed in {words}", position=position)


# ------------------------------------------------------------------------------------------------ sort keys


def sort_keys(b: Binder, scope: Scope, items: Sequence[Node]) -> list[SortKey]:
    """ORDER BY inside an aggregate or a window: expressions only, no positions or aliases."""
    keys = []
    for item in items:
        node = item["SortBy"]
        expression = resolve_unknown(b, bind(b, scope, node["node"]))
        keys.append(sort_key(b, expression, node, location_of(node["node"])))
    return keys


def sort_key(b: Binder, expression: Expr, node: Node, location: int) -> SortKey:
    """Give an expression the direction that a SortBy node asks for."""
    check_sortable(b, expression, location, "ordering")
    descending = node.get("sortby_dir") == "SORTBY_DESC"
    if node.get("sortby_dir") == "SORTBY_USING":
        name = node["useOp"][-1]["String"]["sval"]
        if name not in ("<", ">"):
            raise WrongObjectType(
                f"operator {name} is not a valid ordering operator",
                hint='Ordering operators must be "<" or ">" members of btree operator families.',
                position=b.position(location),
            )
        descending = name == ">"
    nulls = node.get("sortby_nulls", "SORTBY_NULLS_DEFAULT")
    nulls_first = descending if nulls == "SORTBY_NULLS_DEFAULT" else nulls == "SORTBY_NULLS_FIRST"
    return SortKey(expression, descending, nulls_first)


_unsortable_checked: dict[int, bool] = {}


def is_sortable(oid: int) -> bool:
    """Tell whether values of a type have an order (and so an equality)."""
    answer = _unsortable_checked.get(oid)
    if answer is None:
        sql_type = registry.type_by_oid(oid)
        if sql_type.is_array:
            answer = is_sortable(sql_type.element_oid)
        else:
            answer = ordering(oid) is not None or sql_type.name == "record"
        _unsortable_checked[oid] = answer
    return answer


def check_sortable(b: Binder, expression: Expr, location: int, what: str) -> None:
    """Refuse json and the like; ``what``: "ordering" or "equality"."""
    if is_sortable(expression.type.oid):
        return
    if isinstance(expression, RowExpr):
        for item in expression.items:
            check_sortable(b, item, location, what)
        return
    hint = "Use an explicit ordering operator or modify the query." if what == "ordering" else None
    raise UndefinedFunction(
        f"could not identify an {what} operator for type {type_named(expression.type.oid)}",
        hint=hint,
        position=b.position(location),
    )


# ------------------------------------------------------------------------------------------------ windows

_RANGE, _ROWS, _GROUPS = 0x2, 0x4, 0x8
_NONDEFAULT = 0x1
_STARTS = {
    0x20: "unbounded preceding",
    0x80: "unbounded following",
    0x200: "current row",
    0x800: "preceding",
    0x2000: "following",
}
_ENDS = {
    0x40: "unbounded preceding",
    0x100: "unbounded following",
    0x400: "current row",
    0x1000: "preceding",
    0x4000: "following",
}
_EXCLUSIONS = {0x8000: "current row", 0x10000: "group", 0x20000: "ties"}


def _window_call(b: Binder, scope: Scope, node: Node, made: _Parts, over: Node) -> Expr:
    location = node["location"]
    position = b.position(location)
    if scope.in_aggregate:
        raise GroupingError("aggregate function calls cannot contain window function calls", position=position)
    if scope.in_window:
        raise DatabaseError.of("42P20", "window function calls cannot be nested", position=position)
    if scope.clause not in WINDOW_CLAUSES:
        words = _CLAUSE_WORDS.get(scope.clause, scope.clause)
        raise DatabaseError.of("42P20", f"window functions are not allowed in {words}", position=position)
    definition = _definition(b, scope, over)
    scope.in_window = True
    try:
        partition_by = tuple(resolve_unknown(b, bind(b, scope, item)) for item in definition.get("partitionClause", []))
        order_by = tuple(sort_keys(b, scope, definition.get("orderClause", [])))
        frame = _frame(b, scope, definition, order_by)
    finally:
        scope.in_window = False
    for expression in partition_by:
        check_sortable(b, expression, location, "equality")
    call = WindowCall(made.function, made.arguments, partition_by, order_by, frame, made.filter)
    for id, other in scope.windows:
        if other == call:
            return ColumnRef(made.result, id, made.function.name)
    id = b.new_id()
    scope.windows.append((id, call))
    b.aggregate_types[id] = made.result
    return ColumnRef(made.result, id, made.function.name)


def _definition(b: Binder, scope: Scope, over: Node) -> Node:
    """An OVER clause with the named window it is or extends."""
    name = over.get("name") or over.get("refname")
    if name is None:
        return over
    base = scope.window_definitions.get(name)
    if base is None:
        raise UndefinedObject(f'window "{name}" does not exist', position=b.position(over.get("location", -1)))
    base = _definition(b, scope, {key: value for key, value in base.items() if key != "name"})
    if "name" in over:
        return base
    position = b.position(over.get("location", -1))
    if over.get("partitionClause"):
        raise DatabaseError.of("42P20", f'cannot override PARTITION BY clause of window "{name}"', position=position)
    if over.get("orderClause") and base.get("orderClause"):
        raise DatabaseError.of("42P20", f'cannot override ORDER BY clause of window "{name}"', position=position)
    if base.get("frameOptions", 0) & _NONDEFAULT:
        raise DatabaseError.of("42P20", f'cannot copy window "{name}" because it has a frame clause', position=position)
    merged = {**base, **{key: value for key, value in over.items() if key != "refname"}}
    return merged


def _frame(b: Binder, scope: Scope, definition: Node, order_by: tuple[SortKey, ...]) -> tuple[Any, ...]:
    """``(unit, (start, offset), (end, offset), exclusion)``; empty for the default frame."""
    options = definition.get("frameOptions", 0)
    if not options & _NONDEFAULT:
        return ()
    unit = "rows" if options & _ROWS else "groups" if options & _GROUPS else "range"
    start = next(words for bit, words in _STARTS.items() if options & bit)
    end = next(words for bit, words in _ENDS.items() if options & bit)
    exclusion = next((words for bit, words in _EXCLUSIONS.items() if options & bit), "")
    position = b.position(definition.get("location", -1))
    offsets = [words for words in (start, end) if words in ("preceding", "following")]
    if unit == "range" and offsets and len(order_by) != 1:
        raise DatabaseError.of(
            "42P20",
            "RANGE with offset PRECEDING/FOLLOWING requires exactly one ORDER BY column",
            position=position,
        )
    if unit == "groups" and not order_by:
        raise DatabaseError.of("42P20", "GROUPS mode requires an ORDER BY clause", position=position)
    return (
        unit,
        (start, _offset(b, scope, definition.get("startOffset"), unit, order_by)),
        (end, _offset(b, scope, definition.get("endOffset"), unit, order_by)),
        exclusion,
    )


def _offset(b: Binder, scope: Scope, node: Node | None, unit: str, order_by: tuple[SortKey, ...]) -> Expr | None:
    if node is None:
        return None
    expr = bind(b, scope, node)
    location = location_of(node)
    for part in walk(expr):
        if isinstance(part, ColumnRef) and scope.source_of(part.id) is not None:
            raise InvalidColumnReference(
                f"argument of {unit.upper()} must not contain variables", position=b.position(b.location_of(part))
            )
    if unit == "range":
        key = order_by[0].expression.type
        if key.category == "D" or key.oid == INTERVAL.oid:
            target = INTERVAL
        elif key.category == "N":
            target = registry.type_by_oid(key.oid)
        else:
            raise FeatureNotSupported(
                f"RANGE with offset PRECEDING/FOLLOWING is not supported for column type {type_named(key.oid)}",
                position=b.position(location),
            )
    else:
        target = INT8
    if expr.type.oid == UNKNOWN_OID:
        return coerce(b, expr, target, "i", location)
    result = coerce_to_target(b, expr, target, "a", location)
    if result is None:
        raise WrongObjectType(
            f"argument of {unit.upper()} must be type {type_named(target.oid)}, not type {type_named(expr.type.oid)}",
            position=b.position(location),
        )
    return result
