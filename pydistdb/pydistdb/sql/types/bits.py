"""bit(n) and bit varying(n): strings of zeros and ones.

A value is the str of its digits: Python orders and hashes such strings as Postgres does its bits (a prefix comes first).

    B'101', X'2A'          text: 101, 00101010
    101 as bit(5)          10100: an explicit cast cuts or fills on the right, an implicit one refuses

Source: PostgreSQL 15 manual, 8.10; varbit.c.
"""

from __future__ import annotations

import struct

from pydistdb.sql.errors import DatabaseError, InvalidTextRepresentation
from pydistdb.sql.types.base import EvalContext, TypeIO
from pydistdb.sql.types.integers import wrong_binary_length

MOST_BITS = 83_886_080
"""Longer bit strings have no modifier in Postgres either."""

_HEXADECIMAL = {f"{value:x}": f"{value:04b}" for value in range(16)}


def digits_of(text: str) -> str:
    """The bits of ``101``, ``b101`` or ``x2a``."""
    if text[:1] in ("x", "X"):
        words = []
        for character in text[1:]:
            word = _HEXADECIMAL.get(character.lower())
            if word is None:
                raise InvalidTextRepresentation(f'"{character}" is not a valid hexadecimal digit')
            words.append(word)
        return "".join(words)
    digits = text[1:] if text[:1] in ("b", "B") else text
    for character in digits:
        if character not in "01":
            raise InvalidTextRepresentation(f'"{character}" is not a valid binary digit')
    return digits


def coerce_bit(value: str, modifier: int, explicit: bool) -> str:
    if modifier <= 0 or len(value) == modifier:
        return value
    if not explicit:
        raise DatabaseError.of("22026", f"bit string length {len(value)} does not match type bit({modifier})")
    return value[:modifier].ljust(modifier, "0")


def coerce_varbit(value: str, modifier: int, explicit: bool) -> str:
    if modifier <= 0 or len(value) <= modifier:
        return value
    if not explicit:
        raise DatabaseError.of("22001", f"bit string too long for type bit varying({modifier})")
    return value[:modifier]


def _parse(text: str, modifier: int, context: EvalContext | None) -> str:
    return digits_of(text)


def _encode(value: str) -> bytes:
    size = len(value)
    if not size:
        return struct.pack("!i", 0)
    padded = value.ljust(-(-size // 8) * 8, "0")
    return struct.pack("!i", size) + int(padded, 2).to_bytes(len(padded) // 8, "big")


def _decode(data: bytes) -> str:
    if len(data) < 4:
        raise wrong_binary_length()
    (size,) = struct.unpack_from("!i", data)
    if size < 0 or len(data) != 4 + -(-size // 8):
        raise DatabaseError.of("22P03", "invalid length in external bit string")
    return f"{int.from_bytes(data[4:], 'big'):0{8 * (len(data) - 4)}b}"[:size] if size else ""


_BITS = TypeIO(_parse, lambda value, context: value, _decode, _encode, "text")
IO = {"bit": _BITS, "varbit": _BITS}
