"""What the calls of aggregates and of window functions have in common: arguments, FILTER, DISTINCT, ORDER BY, WITHIN GROUP.

``bind_parts`` resolves the function by its arguments' types, converts them, and refuses what Postgres refuses of this kind
of function.  To whom the call belongs is not decided here (aggregates.py, windows.py).

    string_agg(DISTINCT x, ',' ORDER BY x)          arguments (x, ','), distinct, sorted by x
    percentile_cont(0.5) WITHIN GROUP (ORDER BY x)  arguments (0.5, x): the keys are arguments of an ordered-set aggregate
    rank(1) WITHIN GROUP (ORDER BY x)               a hypothetical row: 1 and x are brought to one type

Source: PostgreSQL 15 manual, 4.2.7; parse_func.c.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pydistdb.sql.bind.calls as calls
from pydistdb.sql.bind.binder import Binder
from pydistdb.sql.bind.coerce import coerce_to_boolean, coerce_to_common, common_type, resolve_unknown
from pydistdb.sql.bind.dispatch import bind
from pydistdb.sql.bind.locations import location_of
from pydistdb.sql.bind.parse import Node
from pydistdb.sql.bind.rewrite import has_set_call
from pydistdb.sql.bind.scope import Scope
from pydistdb.sql.bind.sort_keys import check_sortable, sort_keys
from pydistdb.sql.errors import FeatureNotSupported, InvalidColumnReference, WrongObjectType
from pydistdb.sql.functions import registry as functions
from pydistdb.sql.tree import Expr, Param, SortKey
from pydistdb.sql.types.base import AggregateFunction, Function, SqlType


class CallParts(NamedTuple):
    function: Function | AggregateFunction
    arguments: tuple[Expr, ...]
    result: SqlType
    distinct: bool
    filter: Expr | None
    order_by: tuple[SortKey, ...]


def bind_parts(b: Binder, scope: Scope, node: Node, name: str, schema: str | None) -> CallParts:
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
        _check_takes_arguments(name, schema, b.position(location))
    if within and _is_hypothetical(name, schema):
        arguments = _hypothetical(b, name, schema, arguments, locations, len(keys), location)
    found = calls.resolve(b, name, schema, arguments, location, node.get("func_variadic", False))
    function = found.function
    _check_kind(b, node, name, function)
    if node.get("agg_distinct") and not within:
        _check_distinct(b, node, keys, arguments)
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
    kind = "window" if "over" in node else "aggregate"
    _refuse_set_calls(kind, converted, b.position(locations[0]) if locations else None)
    distinct = node.get("agg_distinct", False)
    if distinct:
        for argument, at in zip(converted, locations, strict=False):
            check_sortable(b, argument, at, "equality", False)
    if isinstance(function, Function) and function.volatility == "v":
        b.volatile = True
    return CallParts(function, converted, found.result, distinct, condition, tuple(keys))


def _check_takes_arguments(name: str, schema: str | None, position: int | None) -> None:
    """Refuse ``count()``: an aggregate without arguments is called with a star."""
    known = functions.functions(name, schema)
    if known and all(isinstance(f, AggregateFunction) and not f.argument_types for f in known):
        raise WrongObjectType(f"{name}(*) must be used to call a parameterless aggregate function", position=position)
    if name == "count":
        raise WrongObjectType("count(*) must be used to call a parameterless aggregate function", position=position)


def _refuse_set_calls(kind: str, arguments: Sequence[Expr], position: int | None) -> None:
    for argument in arguments:
        if has_set_call(argument):
            raise FeatureNotSupported(
                f"{kind} function calls cannot contain set-returning function calls",
                hint="You might be able to move the set-returning function into a LATERAL FROM item.",
                position=position,
            )


def _check_distinct(b: Binder, node: Node, keys: Sequence[SortKey], arguments: Sequence[Expr]) -> None:
    """Sorting by anything but an argument, as it is written, could tell equal arguments apart."""
    known = [resolve_unknown(b, each) if isinstance(each, Param) else each for each in arguments]
    for key, item in zip(keys, node.get("agg_order", ()), strict=True):
        if key.expression not in known:
            raise InvalidColumnReference(
                "in an aggregate with DISTINCT, ORDER BY expressions must appear in argument list",
                position=b.position(location_of(item["SortBy"]["node"])),
            )


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


CLAUSE_WORDS = {
    "JOIN/ON": "JOIN conditions",
    "FROM": "functions in FROM",
    "CHECK": "check constraints",
    "GENERATED": "column generation expressions",
    "INDEX": "index expressions",
    "INDEX WHERE": "index predicates",
    "STATISTICS": "statistics expressions",
    "DEFAULT": "DEFAULT expressions",
    "LATERAL": "FROM clause of their own query level",
}
