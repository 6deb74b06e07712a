"""From SQL values to JSON: to_json, row_to_json, json_build_*, json_object, and the json aggregates.

``encoder(type)`` gives the function that writes a value of a type as JSON text: numbers and booleans bare, json as it is,
arrays and rows as arrays and objects, timestamps with a T, everything else as a string.

    >>> encoder(INT4)(7, None), encoder(TEXT)('a"b', None)
    ('7', '"a\\\\"b"')

json keeps the text as it is put together, spaces included, which differ from function to function; jsonb goes through the
canonical form.

Source: PostgreSQL 15 manual, 9.16.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.functions.arrays import join_lists
from pydistdb.sql.functions.define import AggregateBody, Body, define, define_aggregate, specializes
from pydistdb.sql.functions.limits import joined
from pydistdb.sql.types import domains, known
from pydistdb.sql.types.arrays import PgArray
from pydistdb.sql.types.base import EvalContext, SqlType
from pydistdb.sql.types.calendar import (
    MICROSECONDS_PER_DAY,
    MICROSECONDS_PER_SECOND,
    date_text,
    offset_text,
    time_text,
)
from pydistdb.sql.types.composite import to_record
from pydistdb.sql.types.datetime import format_date, format_timestamp, is_finite_timestamp, session_zone
from pydistdb.sql.types.json import canonical, elements, members, quote
from pydistdb.sql.types.pseudo import Record, field_types
from pydistdb.sql.types.registry import element_of, io
from pydistdb.sql.types.user import derived_from_types

Encoder = Callable[[Any, EvalContext | None], str]

_NUMBERS = frozenset(t.oid for t in (known.INT2, known.INT4, known.INT8, known.FLOAT4, known.FLOAT8, known.NUMERIC))
_NOT_FINITE = frozenset(("NaN", "Infinity", "-Infinity"))


def _encode_bool(value: bool, context: EvalContext | None) -> str:
    return "true" if value else "false"


def _encode_date(value: int, context: EvalContext | None) -> str:
    return quote(format_date(value, None))  # whatever DateStyle says


def _encode_timestamp(value: int, context: EvalContext | None) -> str:
    if not is_finite_timestamp(value):
        return quote(format_timestamp(value, context))
    days, microseconds = divmod(value, MICROSECONDS_PER_DAY)
    date, era = date_text(days)
    return f'"{date}T{time_text(microseconds)}{era}"'


def _encode_timestamptz(value: int, context: EvalContext | None) -> str:
    if not is_finite_timestamp(value):
        return quote(format_timestamp(value, context))
    east = session_zone(context).offset_at(value)
    days, microseconds = divmod(value + east * MICROSECONDS_PER_SECOND, MICROSECONDS_PER_DAY)
    date, era = date_text(days)
    offset = offset_text(east)
    # Unlike output elsewhere, the minutes of the offset are always there.
    return f'"{date}T{time_text(microseconds)}{offset if ":" in offset else offset + ":00"}{era}"'


def _encode_json(value: str, context: EvalContext | None) -> str:
    return value


def encode_record(value: tuple[Any, ...], context: EvalContext | None) -> str:
    names = value.names if isinstance(value, Record) else [f"f{n}" for n in range(1, len(value) + 1)]
    members = [
        f"{quote(name)}:{'null' if item is None else encoder(sql_type)(item, context)}"
        for name, item, sql_type in zip(names, value, field_types(value), strict=True)
    ]
    return "{" + ",".join(members) + "}"


_ENCODERS: dict[int, Encoder] = {
    known.BOOL.oid: _encode_bool,
    known.DATE.oid: _encode_date,
    known.TIMESTAMP.oid: _encode_timestamp,
    known.TIMESTAMPTZ.oid: _encode_timestamptz,
    known.JSON.oid: _encode_json,
    known.JSONB.oid: _encode_json,
    known.RECORD.oid: encode_record,
}


derived_from_types(_ENCODERS)


def encoder(sql_type: SqlType) -> Encoder:
    """Find how values of a type are written as JSON."""
    found = _ENCODERS.get(sql_type.oid)
    if found is None:
        found = _ENCODERS[sql_type.oid] = _make_encoder(sql_type)
    return found


def _make_encoder(sql_type: SqlType) -> Encoder:
    if sql_type.is_array:
        return _array_encoder(encoder(element_of(sql_type)))
    if domains.is_domain(sql_type.oid):
        return encoder(domains.base_type(sql_type.oid))
    if sql_type.category == "C":
        oid = sql_type.oid
        return lambda value, context: encode_record(to_record(oid, value, context), context)
    format_: Callable[[Any, Any], str] = io(sql_type.oid).format
    if sql_type.oid in _NUMBERS:

        def encode_number(value: Any, context: EvalContext | None) -> str:
            text = format_(value, context)
            return f'"{text}"' if text in _NOT_FINITE else text

        return encode_number
    return lambda value, context: quote(format_(value, context))


def _array_encoder(item: Encoder) -> Encoder:
    def encode(array: PgArray, context: EvalContext | None) -> str:
        if not array.dimensions:
            return "[]"
        words = ["null" if value is None else item(value, context) for value in array.items]
        for extent in reversed(array.dimensions):
            words = ["[" + ",".join(words[i : i + extent]) + "]" for i in range(0, len(words), extent)]
        return words[0]

    return encode


# ------------------------------------------------------------------------------------------------ to_json


@specializes("to_json(anyelement)", context=True)
def _to_json(argument_types: tuple[SqlType, ...], return_type: SqlType) -> Body:
    encode = encoder(argument_types[0])
    return lambda context, value: encode(value, context)


@specializes("to_jsonb(anyelement)", context=True)
def _to_jsonb(argument_types: tuple[SqlType, ...], return_type: SqlType) -> Body:
    encode = encoder(argument_types[0])
    if argument_types[0].oid == known.JSONB.oid:
        return lambda context, value: value
    return lambda context, value: canonical(encode(value, context))


@specializes("array_to_json(anyarray)", context=True)
def _array_to_json(argument_types: tuple[SqlType, ...], return_type: SqlType) -> Body:
    encode = encoder(argument_types[0])
    return lambda context, value: encode(value, context)


@specializes("array_to_json(anyarray,bool)", context=True)
def _array_to_json_pretty(argument_types: tuple[SqlType, ...], return_type: SqlType) -> Body:
    item = encoder(element_of(argument_types[0]))
    whole = encoder(argument_types[0])

    def encode(context: EvalContext, array: PgArray, pretty: bool) -> str:
        if not pretty:
            return whole(array, context)
        if len(array.dimensions) != 1:
            return "[" + ",\n ".join(elements(whole(array, context))) + "]"
        return "[" + ",\n ".join(["null" if v is None else item(v, context) for v in array.items]) + "]"

    return encode


def _record_in_lines(context: EvalContext, value: Any, pretty: bool) -> str:
    text = encode_record(value, context)
    return "{" + ",\n ".join(f"{quote(name)}:{part}" for name, part in members(text)) + "}" if pretty else text


define("row_to_json(record)", lambda context, value: encode_record(value, context), context=True)
define(
    "row_to_json(record,bool)",
    _record_in_lines,
    context=True,
)

# ------------------------------------------------------------------------------------------------ json_build_*


def _keyed(sql_type: SqlType) -> Callable[[Any, EvalContext | None], str]:
    """Write a value as an object's key; only scalars can be keys."""
    if (
        sql_type.is_array
        or sql_type.oid in (known.RECORD.oid, known.JSON.oid, known.JSONB.oid)
        or sql_type.category == "C"
    ):

        def refuse(value: Any, context: EvalContext | None) -> str:
            raise DatabaseError.of("22023", "key value must be scalar, not array, composite, or json")

        return refuse
    encode = encoder(sql_type)

    def key(value: Any, context: EvalContext | None) -> str:
        text = encode(value, context)
        return text if text.startswith('"') else f'"{text}"'

    return key


def _build_object(argument_types: tuple[SqlType, ...], function: str) -> Body:
    keys = [_keyed(sql_type) for sql_type in argument_types[::2]]
    encoders = [encoder(sql_type) for sql_type in argument_types[1::2]]

    def build(context: EvalContext, *values: Any) -> str:
        if len(values) % 2:
            raise DatabaseError.of(
                "22023",
                "argument list must have even number of elements",
                hint=f"The arguments of {function}() must consist of alternating keys and values.",
            )
        members = []
        for position, (key, encode) in enumerate(zip(keys, encoders, strict=True)):
            name, value = values[2 * position], values[2 * position + 1]
            if name is None:
                if function.startswith("jsonb"):
                    raise DatabaseError.of("22023", f"argument {2 * position + 1}: key must not be null")
                raise DatabaseError.of(
                    "22023", f"argument {2 * position + 1} cannot be null", hint="Object keys should be text."
                )
            members.append(f"{key(name, context)} : {'null' if value is None else encode(value, context)}")
        return "{" + ", ".join(members) + "}"

    return build


def _build_array(argument_types: tuple[SqlType, ...]) -> Body:
    encoders = [encoder(sql_type) for sql_type in argument_types]

    def build(context: EvalContext, *values: Any) -> str:
        items = ["null" if v is None else encode(v, context) for encode, v in zip(encoders, values, strict=True)]
        return "[" + ", ".join(items) + "]"

    return build


def _through_canonical(body: Body) -> Body:
    return lambda context, *values: canonical(body(context, *values))


define("json_build_object()", lambda: "{}")
define("jsonb_build_object()", lambda: "{}")
define("json_build_array()", lambda: "[]")
define("jsonb_build_array()", lambda: "[]")
define("json_build_object(any)", specialize=lambda types, _: _build_object(types, "json_build_object"), context=True)
define(
    "jsonb_build_object(any)",
    specialize=lambda types, _: _through_canonical(_build_object(types, "jsonb_build_object")),
    context=True,
)
define("json_build_array(any)", specialize=lambda types, _: _build_array(types), context=True)
define("jsonb_build_array(any)", specialize=lambda types, _: _through_canonical(_build_array(types)), context=True)

# ------------------------------------------------------------------------------------------------ json_object


def _pairs(array: PgArray) -> tuple[list[Any], list[Any]]:
    items = list(array.items)
    match array.dimensions:
        case ():
            return [], []
        case (_,):
            if len(items) % 2:
                raise DatabaseError.of("2202E", "array must have even number of elements")
        case (_, width):
            if width != 2:
                raise DatabaseError.of("2202E", "array must have two columns")
        case _:
            raise DatabaseError.of("2202E", "wrong number of array subscripts")
    return items[::2], items[1::2]


def _object(keys: list[Any], values: list[Any]) -> str:
    if None in keys:
        raise DatabaseError.of("22004", "null value not allowed for object key")
    members = [
        f"{quote(key)} : {'null' if value is None else quote(value)}" for key, value in zip(keys, values, strict=True)
    ]
    return "{" + ", ".join(members) + "}"


def object_of_pairs(array: PgArray) -> str:
    return _object(*_pairs(array))


def object_of_lists(keys: PgArray, values: PgArray) -> str:
    if len(keys.dimensions) > 1 or len(keys.dimensions) != len(values.dimensions):
        raise DatabaseError.of("2202E", "wrong number of array subscripts")
    if len(keys.items) != len(values.items):
        raise DatabaseError.of("2202E", "mismatched array dimensions")
    return _object(list(keys.items), list(values.items))


define("json_object(_text)", object_of_pairs)
define("json_object(_text,_text)", object_of_lists)
define("jsonb_object(_text)", lambda array: canonical(object_of_pairs(array)))
define("jsonb_object(_text,_text)", lambda keys, values: canonical(object_of_lists(keys, values)))

# ------------------------------------------------------------------------------------------------ aggregates


def _accumulate(state: list[Any] | None, *values: Any) -> list[Any]:
    if state is None:
        state = []
    state.append(values[0] if len(values) == 1 else values)
    return state


def _list_aggregate(finish: Callable[..., Any]) -> AggregateBody:
    return AggregateBody(lambda: None, _accumulate, finish, join_lists, strict=False, needs_context=True)


def _array_aggregate(argument_types: tuple[SqlType, ...], finish_text: Callable[[str], str]) -> AggregateBody:
    encode = encoder(argument_types[0])

    def finish(state: list[Any] | None, context: EvalContext | None = None) -> str | None:
        if state is None:
            return None
        words = ["null" if value is None else encode(value, context) for value in state]
        item = argument_types[0]
        is_composite = item.is_array or item.oid == known.RECORD.oid or item.category == "C"
        return finish_text("[" + joined(words, ", \n " if is_composite else ", ") + "]")

    return _list_aggregate(finish)


def _object_aggregate(argument_types: tuple[SqlType, ...], finish_text: Callable[[str], str]) -> AggregateBody:
    key, encode = _keyed(argument_types[0]), encoder(argument_types[1])

    def accumulate(state: list[Any] | None, name: Any, value: Any) -> list[Any]:
        if name is None:
            raise DatabaseError.of("22023", "field name must not be null")
        return _accumulate(state, name, value)

    def finish(state: list[Any] | None, context: EvalContext | None = None) -> str | None:
        if state is None:
            return None
        members = [
            f"{key(name, context)} : {'null' if value is None else encode(value, context)}" for name, value in state
        ]
        return finish_text("{ " + joined(members, ", ") + " }")

    return _list_aggregate(finish)._replace(accumulate=accumulate)


def _as_it_is(text: str) -> str:
    return text


define_aggregate("json_agg(anyelement)", specialize=lambda types, _: _array_aggregate(types, _as_it_is))
define_aggregate("jsonb_agg(anyelement)", specialize=lambda types, _: _array_aggregate(types, canonical))
define_aggregate("json_object_agg(any,any)", specialize=lambda types, _: _object_aggregate(types, _as_it_is))
define_aggregate("jsonb_object_agg(any,any)", specialize=lambda types, _: _object_aggregate(types, canonical))
