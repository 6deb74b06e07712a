"""Operators and functions on bit strings.

    B'1100' & B'1010'  1000        B'1100' << 1  1000        1 | position of the first match

Source: PostgreSQL 15 manual, 9.6; varbit.c.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

from pydistdb.sql.errors import DatabaseError, NumericValueOutOfRange, ProgramLimitExceeded
from pydistdb.sql.functions.aggregates import fold
from pydistdb.sql.functions.casts import add_length_coercion
from pydistdb.sql.functions.comparison import define_comparisons
from pydistdb.sql.functions.define import define, define_aggregate, implements
from pydistdb.sql.types import known
from pydistdb.sql.types.bits import coerce_bit, coerce_varbit
from pydistdb.sql.types.ordering import comparator

MOST_BITS = 1 << 30


def _combined(word: str, combine: Callable[[int, int], int]) -> Callable[[str, str], str]:
    def body(left: str, right: str) -> str:
        if len(left) != len(right):
            raise DatabaseError.of("22026", f"cannot {word} bit strings of different sizes")
        return f"{combine(int(left, 2), int(right, 2)):0{len(left)}b}" if left else ""

    return body


bit_and, bit_or, bit_xor = (
    _combined("AND", operator.and_),
    _combined("OR", operator.or_),
    _combined("XOR", operator.xor),
)
_FLIP = str.maketrans("01", "10")


@implements("bitnot(bit)")
def bit_not(value: str) -> str:
    return value.translate(_FLIP)


@implements("bitcat(varbit,varbit)")
def concatenate(left: str, right: str) -> str:
    if len(left) + len(right) > MOST_BITS:
        raise ProgramLimitExceeded(f"bit string length exceeds the maximum allowed ({MOST_BITS})")
    return left + right


@implements("bitshiftleft(bit,int4)")
def shift_left(value: str, count: int) -> str:
    if count < 0:
        return shift_right(value, -count)
    return (value[count:] + "0" * min(count, len(value)))[: len(value)]


@implements("bitshiftright(bit,int4)")
def shift_right(value: str, count: int) -> str:
    if count < 0:
        return shift_left(value, -count)
    return ("0" * min(count, len(value)) + value)[: len(value)]


# ------------------------------------------------------------------------------------------------ pieces


def _piece(value: str, start: int, end: int) -> str:
    """From ``start`` (from 1) up to, not including, ``end``."""
    return value[max(start, 1) - 1 : max(end, 1) - 1]


@implements("substring(bit,int4)")
def substring_from(value: str, start: int) -> str:
    return _piece(value, start, len(value) + 1)


@implements("substring(bit,int4,int4)")
def substring(value: str, start: int, length: int) -> str:
    if length < 0:
        raise DatabaseError.of("22011", "negative substring length not allowed")
    return _piece(value, start, start + length)


@implements("overlay(bit,bit,int4,int4)")
def overlay(value: str, new: str, start: int, length: int) -> str:
    if start <= 0:
        raise DatabaseError.of("22011", "negative substring length not allowed")
    return concatenate(_piece(value, 1, start) + new, _piece(value, start + length, len(value) + 1))


@implements("overlay(bit,bit,int4)")
def overlay_from(value: str, new: str, start: int) -> str:
    return overlay(value, new, start, len(new))


@implements("position(bit,bit)")
def position(value: str, searched: str) -> int:
    return value.find(searched) + 1 if value else 0


def _check_index(value: str, index: int) -> None:
    if not 0 <= index < len(value):
        raise DatabaseError.of("2202E", f"bit index {index} out of valid range (0..{len(value) - 1})")


@implements("get_bit(bit,int4)")
def get_bit(value: str, index: int) -> int:
    _check_index(value, index)
    return int(value[index])


@implements("set_bit(bit,int4,int4)")
def set_bit(value: str, index: int, new: int) -> str:
    _check_index(value, index)
    if new not in (0, 1):
        raise DatabaseError.of("22023", "new bit must be 0 or 1")
    return value[:index] + str(new) + value[index + 1 :]


# ------------------------------------------------------------------------------------------------ numbers


def _from_integer(width: int) -> Callable[[int, int], str]:
    def convert(value: int, modifier: int) -> str:
        size = modifier if modifier > 0 else 1
        digits = f"{value & (1 << width) - 1:0{width}b}"
        if size <= width:
            return digits[width - size :]
        return digits.rjust(size, "1" if value < 0 else "0")

    return convert


def _to_integer(width: int, name: str) -> Callable[[str], int]:
    def convert(value: str) -> int:
        if len(value) > width:
            raise NumericValueOutOfRange(f"{name} out of range")
        number = int(value, 2) if value else 0
        return number - (1 << width) if number >> (width - 1) else number

    return convert


def _define() -> None:
    define("bitand(bit,bit)", bit_and)
    define("bitor(bit,bit)", bit_or)
    define("bitxor(bit,bit)", bit_xor)
    define("bit_count(bit)", lambda value: value.count("1"))
    define("length(bit)", len)
    define("bit_length(bit)", len)
    define("octet_length(bit)", lambda value: -(-len(value) // 8))
    define("bit(int4,int4)", _from_integer(32))
    define("bit(int8,int4)", _from_integer(64))
    define("int4(bit)", _to_integer(32, "integer"))
    define("int8(bit)", _to_integer(64, "bigint"))
    for name in ("bit", "varbit"):
        define_comparisons(f"{name}*", name, name, None, None)
        define(f"{name}cmp({name},{name})", comparator(known.TEXT.oid))
    define_aggregate("bit_and(bit)", fold(bit_and))
    define_aggregate("bit_or(bit)", fold(bit_or))
    define_aggregate("bit_xor(bit)", fold(bit_xor))
    add_length_coercion(1685, known.BIT, coerce_bit)
    add_length_coercion(1687, known.VARBIT, coerce_varbit)


_define()
