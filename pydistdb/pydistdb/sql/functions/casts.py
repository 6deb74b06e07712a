"""Casts: between numeric types, to and from text, between arrays, and to a declared length.

pg_cast lists casts with a function of their own and those that need none (*binary-coercible*: varchar to text).  All
other conversions that Postgres makes go through a value's text: to a string type in assignments, from one when asked for
explicitly.  An array is converted item by item if its items' types are.

    >>> cast(TEXT.oid, INT4.oid).context, cast(VARCHAR.oid, TEXT.oid).function
    ('e', None)

Fitting a value to a modifier (varchar(3), numeric(5,2)) is a step of its own: ``length_coercion``.

Source: PostgreSQL 15 manual, 10.4 and CREATE CAST; catalog pg_cast.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from pydistdb.sql.errors import FeatureNotSupported, NumericValueOutOfRange
from pydistdb.sql.functions.arithmetic import check_int2, check_int4, check_int8, single
from pydistdb.sql.functions.define import FUNCTIONS_BY_OID, Body, define, read_table
from pydistdb.sql.types import domains, known, numeric
from pydistdb.sql.types.arrays import PgArray
from pydistdb.sql.types.base import Cast, EvalContext, Function, SqlType
from pydistdb.sql.types.floats import NAN, to_single
from pydistdb.sql.types.integers import OID_MAX
from pydistdb.sql.types.registry import element_of, io, type_by_oid
from pydistdb.sql.types.text import coerce_bpchar, coerce_varchar, format_char, truncate_name
from pydistdb.sql.types.transactions import xid_of
from pydistdb.sql.types.user import derived_from_types

# ------------------------------------------------------------------------------------------------ numbers


def _float_to(check: Callable[[int], int], type_name: str) -> Callable[[float], int]:
    def convert(value: float) -> int:
        if not math.isfinite(value):
            raise NumericValueOutOfRange(f"{type_name} out of range")
        return check(round(value))

    return convert


def _numeric_to(check: Callable[[int], int], type_name: str) -> Callable[[Decimal], int]:
    def convert(value: Decimal) -> int:
        if not value.is_finite():
            kind = "NaN" if value.is_nan() else "infinity"
            raise FeatureNotSupported(f"cannot convert {kind} to {type_name}")
        if value and value.adjusted() > 19:
            raise NumericValueOutOfRange(f"{type_name} out of range")
        return check(int(numeric.rescale(value, 0)))

    return convert


def float8_to_numeric(value: float) -> Decimal:
    """Keep 15 significant digits: more would be noise."""
    if not math.isfinite(value):
        return numeric.NAN if value != value else numeric.INFINITY if value > 0 else numeric.NEGATIVE_INFINITY
    return numeric.parse(f"{value:.15g}", -1, None)


def float4_to_numeric(value: float) -> Decimal:
    if not math.isfinite(value):
        return float8_to_numeric(value)
    return numeric.parse(f"{value:.6g}", -1, None)


def numeric_to_float8(value: Decimal) -> float:
    result = float(value) if not value.is_nan() else NAN
    if (math.isinf(result) and value.is_finite()) or (result == 0.0 and value):
        raise NumericValueOutOfRange(f'"{numeric.format_numeric(value)}" is out of range for type double precision')
    return result


def numeric_to_float4(value: Decimal) -> float:
    result = float(value) if not value.is_nan() else NAN
    try:
        rounded = to_single(result)
    except OverflowError:
        rounded = math.inf
    if (math.isinf(rounded) and value.is_finite()) or (rounded == 0.0 and value):
        raise NumericValueOutOfRange(f'"{numeric.format_numeric(value)}" is out of range for type real')
    return rounded if rounded == rounded else NAN


def int8_to_oid(value: int) -> int:
    if 0 <= value <= OID_MAX:
        return value
    raise NumericValueOutOfRange("OID out of range")


def _define_numbers() -> None:
    for name, check, type_name in (
        ("int2", check_int2, "smallint"),
        ("int4", check_int4, "integer"),
        ("int8", check_int8, "bigint"),
    ):
        for source in ("int2", "int4", "int8"):
            if source < name:
                define(f"{name}({source})", lambda value: value, inline="{0}")
            elif source > name:
                define(f"{name}({source})", check)
        for source in ("float4", "float8"):
            define(f"{name}({source})", _float_to(check, type_name))
            define(f"{source}({name})", float if source == "float8" else lambda value: to_single(float(value)))
        define(f"{name}(numeric)", _numeric_to(check, type_name))
        define(f"numeric({name})", Decimal)
    define("float8(float4)", lambda value: value, inline="{0}")
    define("float4(float8)", single)
    define("numeric(float4)", float4_to_numeric)
    define("numeric(float8)", float8_to_numeric)
    define("float4(numeric)", numeric_to_float4)
    define("float8(numeric)", numeric_to_float8)
    define("oid(int8)", int8_to_oid)
    define("int8(oid)", lambda value: value, inline="{0}")
    define("int4(bool)", int, inline="int({0})")
    define("bool(int4)", bool, inline="({0} != 0)")
    define("xid(xid8)", xid_of)


# ------------------------------------------------------------------------------------------------ strings


def char_to_int(value: str) -> int:
    code = ord(value[0]) if value else 0
    return code - 256 if code > 127 else code


def int_to_char(value: int) -> str:
    if not -128 <= value <= 127:
        raise NumericValueOutOfRange('"char" out of range')
    return chr(value & 0xFF) if value else ""


def text_to_char(value: str) -> str:
    return known_char_parse(value, -1, None)


def without_trailing_blanks(value: str) -> str:
    return value.rstrip(" ")


def _define_strings() -> None:
    define("text(bool)", lambda value: "true" if value else "false")
    define("text(name)", lambda value: value, inline="{0}")
    define("text(bpchar)", without_trailing_blanks, inline='{0}.rstrip(" ")')
    define("name(text)", truncate_name)
    define("name(varchar)", truncate_name)
    define("name(bpchar)", lambda value: truncate_name(value.rstrip(" ")))
    define("varchar(name)", lambda value: value, inline="{0}")
    define("bpchar(name)", lambda value: value, inline="{0}")
    define("char(text)", text_to_char)
    define("text(char)", lambda value: format_char(value, None))
    define("bpchar(char)", lambda value: value, inline="{0}")
    define("int4(char)", char_to_int)
    define("char(int4)", int_to_char)


def known_char_parse(value: str, modifier: int, context: EvalContext | None) -> str:
    return io(known.CHAR.oid).parse(value, modifier, context)  # type: ignore[arg-type,no-any-return]


_define_numbers()
_define_strings()

# ------------------------------------------------------------------------------------------------ the cast table

_CASTS: dict[tuple[int, int], Cast | None] = derived_from_types({})
_LISTED: list[Cast] = []
_STABLE_TYPES = known.REG_TYPES | {
    sql_type.oid
    for sql_type in (known.DATE, known.TIMESTAMP, known.TIMESTAMPTZ, known.TIMETZ, known.TIME, known.INTERVAL)
}

# An int4 becomes an unsigned oid and back by looking at the same bits another way.
_INT4_TO_OID = Function(0, "oid", (known.INT4,), known.OID, lambda value: value & OID_MAX, inline="({0} & 4294967295)")
_OID_TO_INT4 = Function(0, "int4", (known.OID,), known.INT4, lambda value: value - 2**32 if value >= 2**31 else value)


def read_casts() -> None:
    """Read pg_cast; to be called when all functions are defined."""
    unsigned = {known.OID.oid} | known.REG_TYPES
    for source_name, target_name, function_oid, context, method in read_table("pg_cast.txt"):
        source, target = known.TYPES_BY_NAME[source_name], known.TYPES_BY_NAME[target_name]
        if source is target:
            continue
        function: Function | None = None
        if method == "f":
            found = FUNCTIONS_BY_OID.get(int(function_oid))
            if not isinstance(found, Function):
                continue
            function = found
        elif method == "i":
            function = _through_text(source, target)
        elif source is known.INT4 and target.oid in unsigned:
            function = _INT4_TO_OID
        elif target is known.INT4 and source.oid in unsigned:
            function = _OID_TO_INT4
        listed = Cast(source, target, context, function)
        _LISTED.append(listed)
        _CASTS[source.oid, target.oid] = listed


def listed_casts() -> Sequence[Cast]:
    return tuple(_LISTED)


def cast(source_oid: int, target_oid: int) -> Cast | None:
    if source_oid == target_oid:
        return None
    key = (source_oid, target_oid)
    if key not in _CASTS:
        if domains.is_domain(source_oid) or domains.is_domain(target_oid):
            _CASTS[key] = _domain_cast(type_by_oid(source_oid), type_by_oid(target_oid))
        else:
            _CASTS[key] = _make_cast(type_by_oid(source_oid), type_by_oid(target_oid))
    return _CASTS[key]


def _domain_cast(source: SqlType, target: SqlType) -> Cast | None:
    """Between domains and other types: what the base types do, and the target's constraints."""
    from_oid, to_oid = domains.base_oid(source.oid), domains.base_oid(target.oid)
    inner = cast(from_oid, to_oid)
    if inner is None and from_oid != to_oid:
        return None
    context = "i" if inner is None else inner.context
    function = None if inner is None else inner.function
    if not domains.is_domain(target.oid):
        return Cast(source, target, context, function)
    convert = _with_context(function)
    fit = length_coercion(domains.base_type(target.oid)) if domains.base_type(target.oid).modifier >= 0 else None
    modifier, oid = domains.base_type(target.oid).modifier, target.oid

    def body(evaluation: EvalContext, value: Any) -> Any:
        if value is not None:
            value = convert(evaluation, value)
            if fit is not None:
                value = fit.implementation(value, modifier, False)
        return domains.check_value(oid, value, evaluation)

    coerce = Function(0, target.name, (source,), target, body, strict=False, volatility="s", needs_context=True)
    return Cast(source, target, context, coerce)


def _with_context(function: Function | None) -> Body:
    """A conversion as a function of the context and the value."""
    if function is None:
        return lambda context, value: value
    if function.needs_context:
        return function.implementation
    implementation = function.implementation
    return lambda context, value: implementation(value)


def _make_cast(source: SqlType, target: SqlType) -> Cast | None:
    if source is known.UNKNOWN:
        return Cast(source, target, "i", _through_text(source, target)) if target.category != "P" else None
    is_vector = target in (known.OIDVECTOR, known.INT2VECTOR)  # Postgres casts from these, never to them
    if source.element_oid and target.element_oid and source.category == target.category == "A" and not is_vector:
        if source.element_oid == target.element_oid:
            return Cast(source, target, "i", None)
        item = cast(source.element_oid, target.element_oid)
        if item is not None:
            return Cast(source, target, item.context, _item_by_item(source, target, item))
    if target.category == "S":
        return Cast(source, target, "a", _through_text(source, target))
    if source.category == "S" and target.category != "P":
        return Cast(source, target, "e", _through_text(source, target))
    return None


def _is_stable(sql_type: SqlType) -> bool:
    return sql_type.oid in _STABLE_TYPES or sql_type.element_oid in _STABLE_TYPES or sql_type is known.RECORD


_INTEGERS = (known.INT2.oid, known.INT4.oid, known.INT8.oid, known.OID.oid)


def _through_text(source: SqlType, target: SqlType) -> Function:
    if source.oid in _INTEGERS and target.oid in (known.TEXT.oid, known.VARCHAR.oid):
        return Function(0, target.name, (source,), target, str, inline="str({0})")
    format_ = io(source.oid).format
    parse = io(target.oid).parse
    plain_source = source.oid in (
        known.TEXT.oid,
        known.VARCHAR.oid,
        known.UNKNOWN.oid,
        known.BPCHAR.oid,
        known.NAME.oid,
    )

    def convert(context: EvalContext, value: Any) -> Any:
        return parse(format_(value, context), -1, context)

    def convert_text(context: EvalContext, value: str) -> Any:
        return parse(value, -1, context)

    return Function(
        oid=0,
        name=target.name,
        argument_types=(source,),
        return_type=target,
        implementation=convert_text if plain_source else convert,
        volatility="s" if _is_stable(source) or _is_stable(target) else "i",
        needs_context=True,
    )


def _item_by_item(source: SqlType, target: SqlType, item: Cast) -> Function | None:
    function = item.function
    if function is None:
        return None
    convert = function.implementation
    if not function.strict:

        def body_with_nulls(context: EvalContext, array: PgArray) -> PgArray:
            return array.with_items([convert(context, value) for value in array.items])

        body: Body = body_with_nulls
    elif function.needs_context:

        def body_with_context(context: EvalContext, array: PgArray) -> PgArray:
            return array.with_items([None if value is None else convert(context, value) for value in array.items])

        body = body_with_context
    else:

        def body_alone(array: PgArray) -> PgArray:
            return array.with_items([None if value is None else convert(value) for value in array.items])

        body = body_alone
    return Function(
        oid=0,
        name=target.name,
        argument_types=(source,),
        return_type=target,
        implementation=body,
        volatility=function.volatility,
        needs_context=function.needs_context or not function.strict,
    )


# ------------------------------------------------------------------------------------------------ lengths

_COERCIONS: dict[int, Function | None] = derived_from_types({})
_COERCION_BODIES: dict[int, tuple[int, Callable[[Any, int, bool], Any]]] = {}


def add_length_coercion(oid: int, sql_type: SqlType, body: Callable[[Any, int, bool], Any]) -> None:
    """Enter the function that fits values of a type to its modifier, under Postgres's oid for it."""
    _COERCION_BODIES[sql_type.oid] = (oid, body)


add_length_coercion(669, known.VARCHAR, coerce_varchar)
add_length_coercion(668, known.BPCHAR, coerce_bpchar)
add_length_coercion(1703, known.NUMERIC, lambda value, modifier, explicit: numeric.apply_modifier(value, modifier))


def length_coercion(sql_type: SqlType) -> Function | None:
    oid = sql_type.oid
    if oid not in _COERCIONS:
        _COERCIONS[oid] = _make_coercion(sql_type)
    return _COERCIONS[oid]


def _make_coercion(sql_type: SqlType) -> Function | None:
    plain = type_by_oid(sql_type.oid)
    if plain.category == "A" and plain.element_oid in _COERCION_BODIES:
        function_oid, coerce = _COERCION_BODIES[plain.element_oid]

        def body(array: PgArray, modifier: int, explicit: bool) -> PgArray:
            return array.with_items(
                [None if value is None else coerce(value, modifier, explicit) for value in array.items]
            )

        name = element_of(plain).name
    elif plain.oid in _COERCION_BODIES:
        function_oid, body = _COERCION_BODIES[plain.oid]  # type: ignore[assignment]
        name = plain.name
    else:
        return None
    return Function(function_oid, name, (plain, known.INT4, known.BOOL), plain, body)
