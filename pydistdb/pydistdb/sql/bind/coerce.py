"""Conversions: which are allowed where, making them explicit, and finding one type for several expressions.

After this module every implicit conversion is spelt out in the tree: a literal of yet unknown type has been read as the
type that its place asks for, a parameter has taken that type, and everything else is wrapped in a ``Call`` of the cast's
function, followed by a second ``Call`` that fits the value to a modifier (varchar(3), numeric(5,2)).  Casts of constants
are computed here, so that a million-row INSERT does not carry a million calls; if one fails it is left as a call, for it
may stand in a branch that is never taken.

Conversions happen in one of three contexts: "i" implicit, "a" assignment, "e" explicit; each allows what the former do.

Source: PostgreSQL 15 manual, chapter 10; parse_coerce.c describes the same rules.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pydistdb.sql.bind.composites import composite_maker, is_composite, row_to_composite, to_record
from pydistdb.sql.errors import CannotCoerce, DatabaseError, DatatypeMismatch
from pydistdb.sql.functions import registry as functions
from pydistdb.sql.tree import ArrayLiteral, Call, Const, Expr, Param, RowExpr
from pydistdb.sql.types import domains, registry
from pydistdb.sql.types.base import Function, SqlType
from pydistdb.sql.types.reg import name_in_catalog
from pydistdb.sql.types.registry import (
    ANY,
    ANYARRAY,
    ANYCOMPATIBLE,
    ANYCOMPATIBLEARRAY,
    ANYCOMPATIBLENONARRAY,
    ANYELEMENT,
    ANYENUM,
    ANYNONARRAY,
    BOOL,
    INT4,
    RECORD,
    TEXT,
    UNKNOWN,
    VOID,
)
from pydistdb.sql.types.user import FIRST_USER_OID, derived_from_types

if TYPE_CHECKING:
    from pydistdb.sql.bind.binder import Binder
    from pydistdb.sql.catalog.view import CatalogView

UNKNOWN_OID = UNKNOWN.oid
TEXT_OID = TEXT.oid
BOOL_OID = BOOL.oid
RECORD_OID = RECORD.oid

_CONTEXT_RANK = {"i": 0, "a": 1, "e": 2}
_POLYMORPHIC_ARRAYS = frozenset({ANYARRAY.oid, ANYCOMPATIBLEARRAY.oid})
_POLYMORPHIC_PLAIN = frozenset({ANYELEMENT.oid, ANYCOMPATIBLE.oid})
_POLYMORPHIC_NONARRAYS = frozenset({ANYNONARRAY.oid, ANYCOMPATIBLENONARRAY.oid})

_MOMENT = re.compile("now|today|tomorrow|yesterday", re.IGNORECASE)

_can_coerce: dict[tuple[int, int, str], bool] = derived_from_types({})
"""Answers of ``can_coerce``."""
MOST_ANSWERS = 100_000


_naming: list[CatalogView] = []
"""The catalog of the statement that is being bound (binding is never interrupted): its search_path decides which types
are named with their schema."""


def name_types_by(catalog: CatalogView) -> None:
    _naming[:] = (catalog,)


def type_named(oid: int) -> str:
    """A type as error messages spell it."""
    if oid >= FIRST_USER_OID and _naming:
        return name_in_catalog(oid, _naming[0]) or registry.format_type(oid)
    return registry.format_type(oid)


def can_coerce(source_oid: int, target_oid: int, context: str = "i") -> bool:
    """Tell whether there is a conversion that this context allows."""
    if source_oid in (target_oid, UNKNOWN_OID):
        return True
    key = (source_oid, target_oid, context)
    answer = _can_coerce.get(key)
    if answer is None:
        if len(_can_coerce) >= MOST_ANSWERS:
            _can_coerce.clear()
        answer = _can_coerce[key] = _find_coercion(source_oid, target_oid, context)
    return answer


def _find_coercion(source_oid: int, target_oid: int, context: str) -> bool:
    if target_oid == ANY.oid or target_oid in _POLYMORPHIC_PLAIN:
        return True
    source_oid = domains.base_oid(source_oid)
    target_oid = domains.base_oid(target_oid)
    if source_oid == target_oid:
        return True
    source = registry.type_by_oid(source_oid)
    if RECORD_OID in (source_oid, target_oid):
        other = registry.type_by_oid(target_oid) if source_oid == RECORD_OID else source
        if is_composite(other):
            return True
    if target_oid in _POLYMORPHIC_ARRAYS:
        return source.is_array or source_oid == ANYARRAY.oid
    if target_oid in _POLYMORPHIC_NONARRAYS:
        return not source.is_array
    if target_oid == ANYENUM.oid:
        return source.category == "E"
    if source_oid == VOID.oid:
        return False
    cast = functions.cast(source_oid, target_oid)
    return cast is not None and _CONTEXT_RANK[cast.context] <= _CONTEXT_RANK[context]


# ------------------------------------------------------------------------------------------------ making conversions


def coerce(b: Binder, expr: Expr, target: SqlType, context: str, location: int = -1) -> Expr:
    """Convert an expression to a type (and fit it to the type's modifier); the caller knows that it is possible."""
    oid = target.oid
    if expr.type.oid != oid:
        expr = _convert(b, expr, target, context, location)
    if target.modifier >= 0 and expr.type.modifier != target.modifier:
        expr = fit_to_modifier(b, expr, target, context == "e")
    return expr


def _convert(b: Binder, expr: Expr, target: SqlType, context: str, location: int) -> Expr:
    if domains.is_domain(target.oid):
        inner = coerce(b, expr, domains.base_type(target.oid), context, location)
        return Call(target, domains.coercion(target.oid), (inner,))
    plain = target if target.modifier < 0 else registry.type_by_oid(target.oid)
    source_oid = expr.type.oid
    if domains.is_domain(source_oid) and target.category != "P":
        expr = relabelled(b, expr, domains.base_type(source_oid))
        source_oid = expr.type.oid
        if source_oid == target.oid:
            return expr
    if source_oid == UNKNOWN_OID:
        if isinstance(expr, Const):
            return literal(b, expr, plain, location, target.modifier)
        if isinstance(expr, Param):
            return b.parameters.resolve(expr.index, plain, b.position(location))
    if target.oid == RECORD_OID and is_composite(expr.type):
        return to_record(b, expr)
    if is_composite(target) and isinstance(expr, RowExpr):
        return row_to_composite(b, expr, plain, context, location, coerce_to_target)
    if is_composite(target) and source_oid == RECORD_OID:
        return Call(plain, composite_maker(target.oid), (expr,))
    if target.oid == ANY.oid or target.category == "P":
        return expr
    if isinstance(expr, Const) and expr.value is None:
        return Const(plain, None)
    if isinstance(expr, ArrayLiteral) and plain.is_array:
        element = registry.element_of(plain)
        items = tuple(coerce(b, item, plain if item.type.is_array else element, context) for item in expr.items)
        return ArrayLiteral(plain, items)
    cast = functions.cast(source_oid, target.oid)
    if cast is None:
        raise cannot_coerce(b, expr.type, target, location)
    if cast.function is None:
        return relabelled(b, expr, plain)
    arguments: tuple[Expr, ...] = (expr,)
    if len(cast.function.argument_types) == 2:  # an integer becomes as many bits as the type has
        arguments = (expr, Const(INT4, target.modifier))
        plain = target
    return call(b, cast.function, arguments, plain)


def relabelled(b: Binder, expr: Expr, target: SqlType) -> Expr:
    """The same value under another type (varchar as text)."""
    result = replace(expr, type=target)
    location = b.locations.get(id(expr))
    if location is not None and location[0] is expr:
        b.locations[id(result)] = (result, location[1])
    return result


def cannot_coerce(b: Binder, source: SqlType, target: SqlType, location: int) -> DatabaseError:
    return CannotCoerce(
        f"cannot cast type {type_named(source.oid)} to {type_named(target.oid)}", position=b.position(location)
    )


def literal(b: Binder, constant: Const, target: SqlType, location: int, modifier: int = -1) -> Expr:
    """Read a literal of unknown type as a value of ``target``."""
    value = constant.value
    if value is None or target.oid == TEXT_OID:
        return Const(target, value)
    if target.category == "P":
        if target.oid == RECORD_OID:
            raise DatabaseError.of(
                "0A000", "input of anonymous composite types is not implemented", position=b.position(location)
            )
        return constant
    # Only interval wants to see the modifier while reading, because it says what a bare number counts.
    modifier = modifier if target.name == "interval" else -1
    try:
        parsed = registry.io(target.oid).parse(value, modifier, b.context)
        if target.category == "D" and _MOMENT.search(value):
            # "now" means the moment of execution, and plans are kept.
            cast = functions.cast(UNKNOWN_OID, target.oid)
            if cast is not None and cast.function is not None:
                return Call(target, cast.function, (constant,))
        return Const(target, parsed)
    except DatabaseError as error:
        if error.position is None:
            error.position = b.position(location)
        raise


def call(b: Binder, function: Function, arguments: tuple[Expr, ...], result: SqlType) -> Expr:
    """A call of a cast or coercion; computed at once if it is immutable and its arguments are constants."""
    if function.volatility == "i" and not function.needs_context:
        values = []
        for argument in arguments:
            if not isinstance(argument, Const):
                break
            values.append(argument.value)
        else:
            if function.strict and None in values:
                return Const(result, None)
            try:
                return Const(result, function.implementation(*values))
            except DatabaseError:
                pass
    return Call(result, function, arguments)


def fit_to_modifier(b: Binder, expr: Expr, target: SqlType, explicit: bool) -> Expr:
    """Apply a modifier to a value that is already of the type."""
    function = functions.length_coercion(target)
    if function is None:
        return replace(expr, type=target)
    if isinstance(expr, Const) and expr.value is None:
        return Const(target, None)
    return call(b, function, (expr, Const(INT4, target.modifier), Const(BOOL, explicit)), target)


def coerce_to_target(b: Binder, expr: Expr, target: SqlType, context: str, location: int = -1) -> Expr | None:
    """Convert if the context allows it; None if not."""
    if expr.type is target:
        return expr
    source_oid = expr.type.oid
    if source_oid == RECORD_OID and isinstance(expr, RowExpr) and target.oid != RECORD_OID:
        if target.category == "S" and can_coerce(source_oid, target.oid, context):
            return coerce(b, resolve_unknown(b, expr), target, context, location)
        return coerce(b, expr, target, context, location) if is_composite(target) else None
    if not can_coerce(source_oid, target.oid, context):
        return None
    return coerce(b, expr, target, context, location)


def coerce_to_boolean(b: Binder, expr: Expr, what: str, location: int) -> Expr:
    """Make a condition boolean; ``what`` is the construct, as in "argument of WHERE must be type boolean"."""
    if expr.type.oid == BOOL_OID:
        return expr
    result = coerce_to_target(b, expr, BOOL, "a", location)
    if result is None:
        raise DatatypeMismatch(
            f"argument of {what} must be type boolean, not type {type_named(expr.type.oid)}",
            position=b.position(location),
        )
    return result


def resolve_unknown(b: Binder, expr: Expr) -> Expr:
    """Let what has no type yet be text, in a row's fields too."""
    if expr.type.oid == UNKNOWN_OID:
        return coerce(b, expr, TEXT, "i")
    if isinstance(expr, RowExpr) and any(item.type.oid in (UNKNOWN_OID, RECORD_OID) for item in expr.items):
        return RowExpr(expr.type, tuple(resolve_unknown(b, item) for item in expr.items), expr.names)
    return expr


# ------------------------------------------------------------------------------------------------ common types


def common_type(
    b: Binder, expressions: Sequence[Expr], what: str | None, locations: Sequence[int] = ()
) -> SqlType | None:
    """Find the type that UNION, CASE and the like give to several expressions (manual, 10.5).

    ``what`` names the construct in the error message; with None the answer to a mismatch is None."""
    oids = [expr.type.oid for expr in expressions]
    if UNKNOWN_OID not in oids and oids.count(oids[0]) == len(oids):
        return _with_common_modifier(registry.type_by_oid(oids[0]), expressions)
    chosen: SqlType | None = None
    oids = [domains.base_oid(oid) for oid in oids]
    for index, oid in enumerate(oids):
        if oid == UNKNOWN_OID or (chosen is not None and oid == chosen.oid):
            continue
        candidate = registry.type_by_oid(oid)
        if chosen is None:
            chosen = candidate
        elif candidate.category != chosen.category:
            if what is None:
                return None
            location = locations[index] if locations else -1
            raise DatatypeMismatch(
                f"{what} types {type_named(chosen.oid)} and {type_named(oid)} cannot be matched",
                position=b.position(location),
            )
        elif not chosen.preferred and can_coerce(chosen.oid, oid) and not can_coerce(oid, chosen.oid):
            chosen = candidate
    if chosen is None:
        return TEXT
    return _with_common_modifier(chosen, expressions)


def _with_common_modifier(chosen: SqlType, expressions: Sequence[Expr]) -> SqlType:
    """Keep a modifier that all expressions share."""
    modifier = expressions[0].type.modifier
    if modifier >= 0 and all(e.type.oid == chosen.oid and e.type.modifier == modifier for e in expressions):
        return chosen.with_modifier(modifier)
    return chosen


def coerce_to_common(b: Binder, expr: Expr, target: SqlType, what: str, location: int) -> Expr:
    """Convert one of several expressions to their common type."""
    if not can_coerce(expr.type.oid, target.oid):
        raise CannotCoerce(
            f"{what} could not convert type {type_named(expr.type.oid)} to {type_named(target.oid)}",
            position=b.position(location),
        )
    return coerce(b, expr, target, "i", location)


def unify(b: Binder, expressions: Sequence[Expr], what: str, locations: Sequence[int]) -> tuple[SqlType, list[Expr]]:
    """Bring expressions to their common type."""
    target = common_type(b, expressions, what, locations)
    assert target is not None
    return target, [
        coerce_to_common(b, expr, target, what, location) for expr, location in zip(expressions, locations, strict=True)
    ]
