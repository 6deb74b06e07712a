"""The integer types: int2, int4, int8, oid and its plain relatives xid, cid, xid8.

Postgres reads digits until the value no longer fits, so ``99999999999x`` is *out of range* while ``12x`` is *invalid
syntax*; the two have different SQLSTATEs and are kept apart here.

>>> parse_int4(" 42 ", -1, None)
42

Source: PostgreSQL 15 manual, 8.1.1; behaviour checked against a server.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from pydistdb_storage.keys import add_kind

from pydistdb.sql.errors import DatabaseError, InvalidTextRepresentation, NumericValueOutOfRange
from pydistdb.sql.types.base import EvalContext, TypeIO

INT2_MIN, INT2_MAX = -(2**15), 2**15 - 1
INT4_MIN, INT4_MAX = -(2**31), 2**31 - 1
INT8_MIN, INT8_MAX = -(2**63), 2**63 - 1
OID_MAX = 2**32 - 1

_INTEGER = re.compile(r"[ \t\n\r\v\f]*([+-]?[0-9]+)[ \t\n\r\v\f]*")


_C_NUMBER = re.compile(r"[ \t\n\r\v\f]*([+-]?)(?:0[xX]([0-9a-fA-F]{1,40})|(0[0-7]{0,60})|([0-9]+))")
_LONG_MAX = 2**64 - 1


def _significant_digits(digits: str) -> str:
    """Cut an overlong digit string short: still out of range, and cheap for int()."""
    if len(digits) <= 30:
        return digits
    sign = digits[0] if digits[0] in "+-" else ""
    return sign + (digits.lstrip("+-0")[:30] or "0")


def parse_integer(text: str, least: int, most: int, type_name: str) -> int:
    match = _INTEGER.match(text)
    if match is None:
        raise InvalidTextRepresentation(f'invalid input syntax for type {type_name}: "{text}"')
    value = int(_significant_digits(match[1]))
    if not least <= value <= most:
        raise NumericValueOutOfRange(f'value "{text}" is out of range for type {type_name}')
    if match.end() != len(text):
        raise InvalidTextRepresentation(f'invalid input syntax for type {type_name}: "{text}"')
    return value


def parse_int2(text: str, modifier: int, context: EvalContext | None) -> int:
    return parse_integer(text, INT2_MIN, INT2_MAX, "smallint")


def parse_int4(text: str, modifier: int, context: EvalContext | None) -> int:
    return parse_integer(text, INT4_MIN, INT4_MAX, "integer")


def parse_int8(text: str, modifier: int, context: EvalContext | None) -> int:
    return parse_integer(text, INT8_MIN, INT8_MAX, "bigint")


def parse_oid(text: str, modifier: int, context: EvalContext | None) -> int:
    """Read an oid; as strtoul does, Postgres takes negative numbers and wraps them round."""
    return parse_integer(text, INT4_MIN, OID_MAX, "oid") & OID_MAX


def _parse_unsigned(most: int) -> Callable[[str, int, EvalContext], int]:
    """What C's strtoul makes of a text: Postgres asks no more of these types."""

    def parse(text: str, modifier: int, context: EvalContext) -> int:
        match = _C_NUMBER.match(text)
        if match is None:
            return 0
        sign, hexadecimal, octal, decimal = match.groups()
        value = int(hexadecimal, 16) if hexadecimal else int(octal, 8) if octal else int(_significant_digits(decimal))
        return (min(value, _LONG_MAX) if sign != "-" else -value) & most

    return parse


def wrong_binary_length() -> DatabaseError:
    return DatabaseError.of("22P03", "incorrect binary data format")


def packed(code: str) -> tuple[Callable[[bytes], int], Callable[[int], bytes]]:
    """Make the binary codec of a fixed-length integer."""
    codec = struct.Struct(code)
    unpack, pack = codec.unpack, codec.pack

    def decode(data: bytes) -> int:
        try:
            return unpack(data)[0]  # type: ignore[no-any-return]
        except struct.error:
            raise wrong_binary_length() from None

    return decode, pack


def _encode_unsigned(value: int) -> bytes:
    """The key of an xid8: that of an int8 as far as that reaches, which is how such keys have always been written."""
    above = value - INT8_MAX
    return _UNSIGNED.pack(value + 2**63) if above < 0 else _UNSIGNED_TOP + _UNSIGNED.pack(above)


def _decode_unsigned(data: bytes, offset: int) -> tuple[int, int]:
    if data[offset : offset + 8] == _UNSIGNED_TOP:
        return int(_UNSIGNED.unpack_from(data, offset + 8)[0]) + INT8_MAX, offset + 16
    return int(_UNSIGNED.unpack_from(data, offset)[0]) - 2**63, offset + 8


_UNSIGNED, _UNSIGNED_TOP = struct.Struct(">Q"), b"\xff" * 8
add_kind("unsigned", _encode_unsigned, _decode_unsigned)


def _integer_io(parse: Callable[[str, int, EvalContext], int], code: str, key_kind: str | None = "int") -> TypeIO:
    decode, encode = packed(code)
    return TypeIO(parse, lambda value, context: str(value), decode, encode, key_kind)


IO = {
    "int2": _integer_io(parse_int2, "!h"),
    "int4": _integer_io(parse_int4, "!i"),
    "int8": _integer_io(parse_int8, "!q"),
    "oid": _integer_io(parse_oid, "!I"),
    "xid": _integer_io(_parse_unsigned(OID_MAX), "!I", None),
    "cid": _integer_io(_parse_unsigned(OID_MAX), "!I", None),
    "xid8": _integer_io(_parse_unsigned(_LONG_MAX), "!Q", "unsigned"),
}
