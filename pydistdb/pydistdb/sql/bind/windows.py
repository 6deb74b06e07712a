"""Window function calls: OVER clauses, named windows and frames.

A call puts a ``WindowCall`` into the list of its own query level and leaves a ``ColumnRef`` to its result; equal calls share
one entry.

    WINDOW w AS (PARTITION BY a)   sum(x) OVER (w ORDER BY b)      the named window, extended by an order
    ROWS BETWEEN 1 PRECEDING AND CURRENT ROW                       ("rows", ("preceding", 1), ("current row", None), "")

The parser gives a frame as bits (FRAMEOPTION_…), of which NONDEFAULT says whether one was written.
Source: PostgreSQL 15 manual, 4.2.8; parse_agg.c and parse_clause.c.
"""

from __future__ import annotations

from typing import Any

from pydistdb.sql.bind.binder import Binder
from pydistdb.sql.bind.call_parts import CLAUSE_WORDS, CallParts
from pydistdb.sql.bind.coerce import UNKNOWN_OID, coerce, coerce_to_target, resolve_unknown, type_named
from pydistdb.sql.bind.dispatch import bind
from pydistdb.sql.bind.locations import location_of
from pydistdb.sql.bind.parse import Node
from pydistdb.sql.bind.rewrite import walk
from pydistdb.sql.bind.scope import Scope
from pydistdb.sql.bind.sort_keys import check_sortable, sort_keys
from pydistdb.sql.errors import (
    DatabaseError,
    FeatureNotSupported,
    GroupingError,
    InvalidColumnReference,
    UndefinedObject,
    WrongObjectType,
)
from pydistdb.sql.tree import ColumnRef, Expr, SortKey, WindowCall
from pydistdb.sql.types.base import SqlType
from pydistdb.sql.types.domains import base_oid
from pydistdb.sql.types.registry import (
    DATE,
    FLOAT4,
    FLOAT8,
    INT2,
    INT4,
    INT8,
    INTERVAL,
    NUMERIC,
    TEXT,
    TIME,
    TIMESTAMP,
    TIMESTAMPTZ,
    TIMETZ,
    VARCHAR,
)

WINDOW_CLAUSES = frozenset({"SELECT", "ORDER BY", "DISTINCT ON"})


_ROWS = 0x4


_GROUPS = 0x8


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


def window_call(b: Binder, scope: Scope, node: Node, made: CallParts, over: Node) -> Expr:
    location = node["location"]
    position = b.position(location)
    if scope.in_aggregate:
        raise GroupingError("aggregate function calls cannot contain window function calls", position=position)
    if scope.in_window:
        raise DatabaseError.of("42P20", "window function calls cannot be nested", position=position)
    if scope.clause not in WINDOW_CLAUSES:
        words = CLAUSE_WORDS.get(scope.clause, scope.clause)
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
        check_sortable(b, expression, location, "equality", False)
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
        return _range_offset(b, expr, order_by[0].expression.type, location)
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


_RANGE_OFFSETS = {
    INT2.oid: (INT2, INT4, INT8),
    INT4.oid: (INT4, INT2, INT8),
    INT8.oid: (INT8,),
    FLOAT4.oid: (FLOAT8,),
    FLOAT8.oid: (FLOAT8,),
    NUMERIC.oid: (NUMERIC,),
    **dict.fromkeys((each.oid for each in (DATE, TIME, TIMETZ, TIMESTAMP, TIMESTAMPTZ, INTERVAL)), (INTERVAL,)),
}
"""What can be added to a column in a RANGE frame; an untyped literal is of the first of these."""


def _range_offset(b: Binder, expr: Expr, key: SqlType, location: int) -> Expr:
    """An offset of RANGE, of a type that goes with the ORDER BY column's."""
    known = _RANGE_OFFSETS.get(base_oid(key.oid), ())
    shown = TEXT if key.oid == VARCHAR.oid else key
    refusal = f"RANGE with offset PRECEDING/FOLLOWING is not supported for column type {type_named(shown.oid)}"
    if not known:
        raise FeatureNotSupported(refusal, position=b.position(location))
    if expr.type.oid == UNKNOWN_OID:
        return coerce(b, expr, known[0], "i", location)
    for target in known:
        if target.oid == expr.type.oid:
            return expr
    for target in known:
        result = coerce_to_target(b, expr, target, "i", location)
        if result is not None:
            return result
    raise FeatureNotSupported(
        f"{refusal} and offset type {type_named(expr.type.oid)}",
        hint="Cast the offset value to an appropriate type.",
        position=b.position(location),
    )
