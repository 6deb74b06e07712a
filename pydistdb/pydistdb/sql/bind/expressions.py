"""Scalar expressions: the parser's nodes to typed expressions.

Here are constants, logic, conditionals, casts and SQL value functions; columns are in ``columns.py``, rows and arrays in
``rows.py``.  Function calls, aggregates and windows are in
``calls.py``, subqueries in ``subqueries.py``, operators with their row and array forms in ``comparisons.py``.

Source: PostgreSQL 15, parse_expr.c for what is checked when and how errors are worded.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import pydistdb.sql.bind.rows as rows
from pydistdb.sql.bind.binder import Binder
from pydistdb.sql.bind.calls import call_by_name
from pydistdb.sql.bind.coerce import (
    UNKNOWN_OID,
    coerce,
    coerce_to_boolean,
    coerce_to_common,
    coerce_to_target,
    common_type,
    relabelled,
    resolve_unknown,
    type_named,
)
from pydistdb.sql.bind.comparisons import compare
from pydistdb.sql.bind.composites import is_composite, to_record
from pydistdb.sql.bind.dispatch import BINDERS, ExpressionBinder, bind, bind_list
from pydistdb.sql.bind.locations import location_of
from pydistdb.sql.bind.operators import ordering
from pydistdb.sql.bind.parse import Node
from pydistdb.sql.bind.scope import Scope
from pydistdb.sql.bind.typenames import COLLATABLE, resolve_type
from pydistdb.sql.errors import (
    CannotCoerce,
    DatabaseError,
    DatatypeMismatch,
    FeatureNotSupported,
    InvalidSyntax,
    UndefinedFunction,
)
from pydistdb.sql.tree import (
    And,
    BooleanTest,
    Call,
    Case,
    Coalesce,
    Const,
    Expr,
    IsNull,
    MinMax,
    Not,
    Or,
    RowExpr,
)
from pydistdb.sql.types import domains, registry
from pydistdb.sql.types.base import Function, SqlType
from pydistdb.sql.types.bits import digits_of
from pydistdb.sql.types.known import BIT
from pydistdb.sql.types.registry import (
    BOOL,
    DATE,
    INT4,
    INT8,
    NAME,
    NUMERIC,
    RECORD,
    TIME,
    TIMESTAMP,
    TIMESTAMPTZ,
    TIMETZ,
    UNKNOWN,
)

INT4_MIN, INT4_MAX = -(2**31), 2**31 - 1
INT8_MIN, INT8_MAX = -(2**63), 2**63 - 1


# ------------------------------------------------------------------------------------------------ constants, parameters


def _constant(b: Binder, scope: Scope, node: Node) -> Expr:
    if "sval" in node:
        return Const(UNKNOWN, node["sval"].get("sval", ""))
    if "ival" in node:
        return Const(INT4, node["ival"].get("ival", 0))
    if "fval" in node:
        return number(node["fval"]["fval"])
    if "boolval" in node:
        return Const(BOOL, node["boolval"].get("boolval", False))
    if "bsval" in node:
        try:
            return Const(BIT, digits_of(node["bsval"].get("bsval", "")))
        except DatabaseError as error:
            error.position = b.position(node["location"])
            raise
    return Const(UNKNOWN, None)


def number(text: str) -> Const:
    """A number that is not a plain int4: int8 if it fits, else numeric."""
    digits = text[1:] if text.startswith("-") else text
    if digits.isdigit():
        if len(digits) < 20:
            value = int(text)
            if INT4_MIN <= value <= INT4_MAX:
                return Const(INT4, value)
            if INT8_MIN <= value <= INT8_MAX:
                return Const(INT8, value)
    elif digits[:1] == "0" and digits[1:2] in "xXoObB" and digits[1:2]:
        value = int(text.replace("_", ""), 0)
        if INT4_MIN <= value <= INT4_MAX:
            return Const(INT4, value)
        return Const(INT8, value) if INT8_MIN <= value <= INT8_MAX else Const(NUMERIC, Decimal(value))
    return Const(NUMERIC, registry.io(NUMERIC.oid).parse(text.replace("_", ""), -1, None))  # type: ignore[arg-type]


def _parameter(b: Binder, scope: Scope, node: Node) -> Expr:
    parameter = b.parameters.reference(node.get("number", 0), b.position(node["location"]))
    domain = b.parameters.domains.get(parameter.index)
    return parameter if domain is None else coerce(b, parameter, domain, "i")


# ------------------------------------------------------------------------------------------------ logic


def _logic(b: Binder, scope: Scope, node: Node) -> Expr:
    kind = node["boolop"]
    word = kind.removesuffix("_EXPR")
    arguments = tuple(
        coerce_to_boolean(b, bind(b, scope, argument), word, location_of(argument)) for argument in node["args"]
    )
    if kind == "AND_EXPR":
        return And(BOOL, arguments)
    if kind == "OR_EXPR":
        return Or(BOOL, arguments)
    return Not(BOOL, arguments[0])


def _null_test(b: Binder, scope: Scope, node: Node) -> Expr:
    argument = bind(b, scope, node["arg"])  # a parameter that is only tested stays without a type: an error
    negated = node["nulltesttype"] == "IS_NOT_NULL"
    if is_composite(argument.type):
        argument = to_record(b, argument)
    if isinstance(argument, RowExpr):
        # A row is null if all its fields are, and not null if none is; a row among these is a value, whatever it holds.
        tests = tuple(IsNull(BOOL, _as_scalar(resolve_unknown(b, item)), negated) for item in argument.items)
        return And(BOOL, tests) if len(tests) > 1 else tests[0] if tests else Const(BOOL, True)
    return IsNull(BOOL, argument, negated)


_IS_THERE = Function(0, "row_is_there", (RECORD,), BOOL, lambda row: True)


def _as_scalar(item: Expr) -> Expr:
    """What is NULL just where the item as a whole is."""
    if isinstance(item, RowExpr):
        return Const(BOOL, True)
    return Call(BOOL, _IS_THERE, (item,)) if item.type.oid == RECORD.oid else item


_BOOLEAN_TESTS: dict[str, tuple[bool | None, bool, str]] = {
    "IS_TRUE": (True, False, "IS TRUE"),
    "IS_NOT_TRUE": (True, True, "IS NOT TRUE"),
    "IS_FALSE": (False, False, "IS FALSE"),
    "IS_NOT_FALSE": (False, True, "IS NOT FALSE"),
    "IS_UNKNOWN": (None, False, "IS UNKNOWN"),
    "IS_NOT_UNKNOWN": (None, True, "IS NOT UNKNOWN"),
}


def _boolean_test(b: Binder, scope: Scope, node: Node) -> Expr:
    value, negated, words = _BOOLEAN_TESTS[node["booltesttype"]]
    argument = coerce_to_boolean(b, bind(b, scope, node["arg"]), words, location_of(node["arg"]))
    return BooleanTest(BOOL, argument, value, negated)


# ------------------------------------------------------------------------------------------------ conditionals


def _case(b: Binder, scope: Scope, node: Node) -> Expr:
    subject = node.get("arg")
    subject_expr = resolve_unknown(b, bind(b, scope, subject)) if subject is not None else None
    conditions: list[Expr] = []
    results: list[Expr] = []
    locations: list[int] = []
    for wrapper in node["args"]:
        when = wrapper["CaseWhen"]
        if subject_expr is None:
            condition = bind(b, scope, when["expr"])
        else:
            sides = (-1, location_of(when["expr"]))
            condition = compare(b, "=", subject_expr, bind(b, scope, when["expr"]), when["location"], sides)
        conditions.append(coerce_to_boolean(b, condition, "CASE/WHEN", location_of(when["expr"])))
        results.append(bind(b, scope, when["result"]))
        locations.append(location_of(when["result"]))
    if "defresult" in node:
        default = bind(b, scope, node["defresult"])
        default_location = location_of(node["defresult"])
    else:
        default, default_location = Const(UNKNOWN, None), node["location"]
    # The default has its say first: it decides the type where categories agree.
    target = common_type(b, [default, *results], "CASE", [default_location, *locations])
    assert target is not None
    branches = tuple(
        (condition, coerce_to_common(b, result, target, "CASE/WHEN", location))
        for condition, result, location in zip(conditions, results, locations, strict=True)
    )
    return Case(target, branches, coerce_to_common(b, default, target, "CASE/ELSE", default_location))


def _coalesce(b: Binder, scope: Scope, node: Node) -> Expr:
    target, arguments = _unify(b, scope, node["args"], "COALESCE")
    return Coalesce(target, tuple(arguments))


def _unify(b: Binder, scope: Scope, nodes: Sequence[Node], what: str) -> tuple[SqlType, list[Expr]]:
    expressions = bind_list(b, scope, nodes)
    locations = [location_of(node) for node in nodes]
    target = common_type(b, expressions, what, locations)
    assert target is not None
    return target, [
        coerce_to_common(b, expr, target, what, location) for expr, location in zip(expressions, locations, strict=True)
    ]


def _min_max(b: Binder, scope: Scope, node: Node) -> Expr:
    greatest = node.get("op") == "IS_GREATEST"
    target, arguments = _unify(b, scope, node["args"], "GREATEST" if greatest else "LEAST")
    less = ordering(target.oid)
    if less is None or not isinstance(less.function, Function):
        raise UndefinedFunction(
            f"could not identify a comparison function for type {type_named(target.oid)}",
            position=b.position(node["location"]),
        )
    return MinMax(target, tuple(arguments), less.function, greatest)


# ------------------------------------------------------------------------------------------------ casts, collations


def _cast(b: Binder, scope: Scope, node: Node) -> Expr:
    target = resolve_type(node["typeName"], b.position, b.catalog)
    argument = node["arg"]
    array = registry.type_by_oid(domains.base_oid(target.oid))
    if "A_ArrayExpr" in argument and array.is_array:
        expr = rows.bind_array(b, scope, argument["A_ArrayExpr"], array)
    else:
        expr = bind(b, scope, argument)
    location = node.get("location", -1)
    if location < 0:
        location = location_of(argument) if expr.type.oid == UNKNOWN_OID else node["typeName"].get("location", -1)
    return cast_to(b, expr, target, location, location_of(argument))


def cast_to(b: Binder, expr: Expr, target: SqlType, location: int, argument_location: int = -1) -> Expr:
    """An explicit cast."""
    if expr.type.oid == UNKNOWN_OID:
        return coerce(b, expr, target, "e", argument_location)
    result = coerce_to_target(b, expr, target, "e", location)
    if result is None:
        raise CannotCoerce(
            f"cannot cast type {type_named(expr.type.oid)} to {type_named(target.oid)}", position=b.position(location)
        )
    # numeric(5,2) is any numeric behind ::numeric
    return relabelled(b, result, target) if result.type.modifier >= 0 > target.modifier else result


def _collate(b: Binder, scope: Scope, node: Node) -> Expr:
    expr = bind(b, scope, node["arg"])
    names = [part["String"]["sval"] for part in node["collname"]]
    item_type = registry.element_of(expr.type) if expr.type.is_array else expr.type
    if item_type.category not in COLLATABLE:
        raise DatatypeMismatch(
            f"collations are not supported by type {type_named(expr.type.oid)}", position=b.position(node["location"])
        )
    check_collation(b, names, node["location"])
    return expr


def check_collation(b: Binder, names: Sequence[str], location: int) -> None:
    """Text orders bytewise whatever it is called: accept the names that mean just that."""
    if names[-1] in ("default", "C", "POSIX", "ucs_basic") and (len(names) == 1 or names[0] == "pg_catalog"):
        return
    if names[-1] in ("en_US", "en_US.utf8", "en-x-icu", "und-x-icu", "en-US-x-icu"):
        raise FeatureNotSupported(f'collation "{names[-1]}" is not supported', position=b.position(location))
    raise DatabaseError.of(
        "42704", f'collation "{".".join(names)}" for encoding "UTF8" does not exist', position=b.position(location)
    )


# ------------------------------------------------------------------------------------------------ SQL value functions

_VALUE_FUNCTIONS: dict[str, tuple[str, SqlType]] = {
    "SVFOP_CURRENT_DATE": ("current_date", DATE),
    "SVFOP_CURRENT_TIME": ("current_time", TIMETZ),
    "SVFOP_CURRENT_TIME_N": ("current_time", TIMETZ),
    "SVFOP_CURRENT_TIMESTAMP": ("current_timestamp", TIMESTAMPTZ),
    "SVFOP_CURRENT_TIMESTAMP_N": ("current_timestamp", TIMESTAMPTZ),
    "SVFOP_LOCALTIME": ("localtime", TIME),
    "SVFOP_LOCALTIME_N": ("localtime", TIME),
    "SVFOP_LOCALTIMESTAMP": ("localtimestamp", TIMESTAMP),
    "SVFOP_LOCALTIMESTAMP_N": ("localtimestamp", TIMESTAMP),
    "SVFOP_CURRENT_ROLE": ("current_user", NAME),
    "SVFOP_CURRENT_USER": ("current_user", NAME),
    "SVFOP_USER": ("current_user", NAME),
    "SVFOP_SESSION_USER": ("session_user", NAME),
    "SVFOP_CURRENT_CATALOG": ("current_database", NAME),
    "SVFOP_CURRENT_SCHEMA": ("current_schema", NAME),
}


def _value_function(b: Binder, scope: Scope, node: Node) -> Expr:
    """CURRENT_DATE and its kin: now() in the session's time zone, or a function of the catalog."""
    name, result = _VALUE_FUNCTIONS[node["op"]]
    location = node["location"]
    if result is NAME:
        return call_by_name(b, name, [], location)
    modifier = node.get("typmod", -1)
    moment = call_by_name(b, "now", [], location)
    target = result if modifier < 0 else result.with_modifier(min(modifier, 6))
    return coerce(b, moment, target, "e", location)


def _default_marker(b: Binder, scope: Scope, node: Node) -> Expr:
    raise InvalidSyntax("DEFAULT is not allowed in this context", position=b.position(node["location"]))


def _without_sets(binder: ExpressionBinder, words: str) -> ExpressionBinder:
    """CASE and COALESCE do not evaluate all their arguments: there must be no set-returning function in them."""

    def bind_without_sets(b: Binder, scope: Scope, node: Node) -> Expr:
        before, scope.set_calls = scope.set_calls, False
        expr = binder(b, scope, node)
        if scope.set_calls:
            raise FeatureNotSupported(
                f"set-returning functions are not allowed in {words}",
                hint="You might be able to move the set-returning function into a LATERAL FROM item.",
                position=b.position(scope.set_location),
            )
        scope.set_calls = before
        return expr

    return bind_without_sets


BINDERS.update(
    {
        "A_Const": _constant,
        "ParamRef": _parameter,
        "BoolExpr": _logic,
        "TypeCast": _cast,
        "NullTest": _null_test,
        "BooleanTest": _boolean_test,
        "CaseExpr": _without_sets(_case, "CASE"),
        "CoalesceExpr": _without_sets(_coalesce, "COALESCE"),
        "MinMaxExpr": _min_max,
        "SQLValueFunction": _value_function,
        "CollateClause": _collate,
        "SetToDefault": _default_marker,
    }
)
