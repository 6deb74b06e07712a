"""Functions that fit nowhere else: the running query, sizes and collations of values, identifiers, units, escapes.

    >>> size_bytes("1.5 GB"), unescaped(r"caf\\00E9")
    (1610612736, 'café')

Source: PostgreSQL 15 manual, 9.4 and 9.26; dbsize.c, misc.c, varlena.c.
"""

from __future__ import annotations

import re
import time
from decimal import Decimal, InvalidOperation
from typing import Any

from pydistdb.sql.errors import DatabaseError, DatatypeMismatch, InvalidParameterValue, InvalidSyntax
from pydistdb.sql.functions.define import Body, define, implements, specializes
from pydistdb.sql.types import registry
from pydistdb.sql.types.arrays import PgArray
from pydistdb.sql.types.base import EvalContext, SqlType
from pydistdb.sql.types.zones import find_zone

EPOCH_MICROSECONDS = 946_684_800 * 1_000_000
"""From 1970 to 2000."""

define("current_query()", lambda context: getattr(context.extra, "query", None) or None, context=True)

# ------------------------------------------------------------------------------------------------ values


@specializes("pg_column_size(any)")
def _column_size(argument_types: tuple[SqlType, ...], return_type: SqlType) -> Body:
    """The bytes of a value in binary format, with a header of 4 bytes where the length varies."""
    sql_type = argument_types[0]
    encode = registry.io(sql_type.oid).encode

    def size(value: Any) -> int:
        if sql_type.length > 0:
            return sql_type.length
        return len(encode(value)) + 4

    return size


@specializes("pg_collation_for(any)")
def _collation_for(argument_types: tuple[SqlType, ...], return_type: SqlType) -> Body:
    sql_type = argument_types[0]
    if sql_type.category != "S" and sql_type.name not in ("name", "unknown"):
        raise DatatypeMismatch(f"collations are not supported by type {registry.format_type(sql_type.oid)}")
    if sql_type.name == "unknown":
        return lambda value: None
    return lambda value: '"C"' if sql_type.name == "name" else '"default"'


# ------------------------------------------------------------------------------------------------ units

_SIZE = re.compile(r"\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\s*(.*?)\s*", re.DOTALL)
_UNITS = {"": 0, "bytes": 0, "b": 0, "kb": 10, "mb": 20, "gb": 30, "tb": 40, "pb": 50}


@implements("pg_size_bytes(text)")
def size_bytes(text: str) -> int:
    match = _SIZE.fullmatch(text)
    if match is None:
        raise InvalidParameterValue(f'invalid size: "{text}"')
    shift = _UNITS.get(match[2].lower())
    if shift is None:
        raise InvalidParameterValue(
            f'invalid size: "{text}"',
            detail=f'Invalid size unit: "{match[2]}".',
            hint='Valid units are "bytes", "kB", "MB", "GB", "TB", and "PB".',
        )
    try:
        value = int((Decimal(match[1]) * (1 << shift)).to_integral_value())
    except InvalidOperation:
        raise DatabaseError.of("22003", "value overflows numeric format") from None
    if not -(2**63) <= value < 2**63:
        raise DatabaseError.of("22003", "bigint out of range")
    return value


@implements("timeofday()", context=True)
def time_of_day(context: EvalContext) -> str:
    now = time.time()
    local = time.gmtime(now)
    instant = int(now * 1_000_000) - EPOCH_MICROSECONDS
    zone = find_zone(context.timezone)
    name = "UTC"
    if zone is not None:
        name = zone.abbreviation_at(instant)
        local = time.gmtime(now + zone.offset_at(instant))
    fraction = f"{int(now % 1 * 1e6):06d}"
    return time.strftime(f"%a %b %d %H:%M:%S.{fraction} %Y {name}", local)


# ------------------------------------------------------------------------------------------------ identifiers


def _bad_identifier(text: str, detail: str | None = None) -> DatabaseError:
    return InvalidParameterValue(f'string is not a valid identifier: "{text}"', detail=detail)


def parse_identifier(text: str, strict: bool = True) -> PgArray:
    """Split ``a."B c".d`` into its parts, folded as the parser does."""
    rest = text.lstrip()
    parts: list[str] = []
    while True:
        if rest.startswith('"'):
            end = 1
            while (end := rest.find('"', end)) >= 0 and rest[end + 1 : end + 2] == '"':
                end += 2
            if end < 0:
                raise _bad_identifier(text, "String has unclosed double quotes.")
            part, rest = rest[1:end].replace('""', '"'), rest[end + 1 :]
            if not part:
                raise _bad_identifier(text, "Quoted identifier must not be empty.")
        else:
            match = re.match(r"[^\W\d][\w$]*", rest)
            if match is None:
                if rest.startswith("."):
                    raise _bad_identifier(text, 'No valid identifier before ".".')
                if parts:
                    raise _bad_identifier(text, 'No valid identifier after ".".')
                raise _bad_identifier(text)
            part, rest = match[0].lower(), rest[match.end() :]
        parts.append(part)
        rest = rest.lstrip()
        if rest.startswith("."):
            rest = rest[1:].lstrip()
        elif not rest or not strict:
            return PgArray.of(parts)
        else:
            raise _bad_identifier(text)


define("parse_ident(text,bool)", parse_identifier, defaults=(True,))

# ------------------------------------------------------------------------------------------------ escapes

_ESCAPE = re.compile(r"\\(?:\\|([0-9A-Fa-f]{4})|\+([0-9A-Fa-f]{6})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|)")


@implements("unistr(text)")
def unescaped(text: str) -> str:
    """Replace Unicode escapes; pairs of surrogates make one character."""
    first: int | None = None
    output: list[str] = []
    position = 0
    for match in _ESCAPE.finditer(text):
        digits = match[1] or match[2] or match[3] or match[4]
        if digits is None and match[0] != "\\\\":
            raise InvalidSyntax(
                "invalid Unicode escape", hint="Unicode escapes must be \\XXXX, \\+XXXXXX, \\uXXXX, or \\UXXXXXXXX."
            )
        if first is not None and (match.start() > position or digits is None):
            raise InvalidSyntax("invalid Unicode surrogate pair")
        output.append(text[position : match.start()])
        position = match.end()
        if digits is None:
            output.append("\\")
            continue
        code = int(digits, 16)
        if code == 0 or code > 0x10FFFF:
            raise InvalidParameterValue(f"invalid Unicode code point: {code:04X}")
        if first is not None:
            if not 0xDC00 <= code < 0xE000:
                raise InvalidSyntax("invalid Unicode surrogate pair")
            output.append(chr(0x10000 + ((first & 0x3FF) << 10) + (code & 0x3FF)))
            first = None
        elif 0xD800 <= code < 0xDC00:
            first = code
        elif 0xDC00 <= code < 0xE000:
            raise InvalidSyntax("invalid Unicode surrogate pair")
        else:
            output.append(chr(code))
    if first is not None:
        raise InvalidSyntax("invalid Unicode surrogate pair")
    return "".join(output) + text[position:]
