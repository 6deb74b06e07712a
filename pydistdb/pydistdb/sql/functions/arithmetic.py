"""Arithmetic on int2, int4, int8, float4, float8 and numeric, and bitwise operators on integers.

Integers overflow with an error, never silently; division truncates towards zero and the remainder takes the sign of the
dividend, as in C.

    >>> int4_divide(-7, 2), modulo(-7, 2)
    (-3, -1)

Source: PostgreSQL 15 manual, 9.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal

from pydistdb.sql.errors import DatabaseError, DivisionByZero, NumericValueOutOfRange
from pydistdb.sql.functions.define import define
from pydistdb.sql.types import numeric
from pydistdb.sql.types.floats import NAN, to_single
from pydistdb.sql.types.integers import INT2_MAX, INT2_MIN, INT4_MAX, INT4_MIN, INT8_MAX, INT8_MIN

Binary = Callable[[int, int], int]
FloatBinary = Callable[[float, float], float]


def smallint_out_of_range() -> DatabaseError:
    return NumericValueOutOfRange("smallint out of range")


def integer_out_of_range() -> DatabaseError:
    return NumericValueOutOfRange("integer out of range")


def bigint_out_of_range() -> DatabaseError:
    return NumericValueOutOfRange("bigint out of range")


def division_by_zero() -> DatabaseError:
    return DivisionByZero("division by zero")


def float_overflow() -> DatabaseError:
    return NumericValueOutOfRange("value out of range: overflow")


def float_underflow() -> DatabaseError:
    return NumericValueOutOfRange("value out of range: underflow")


# ------------------------------------------------------------------------------------------------ integers


def check_int2(value: int) -> int:
    if INT2_MIN <= value <= INT2_MAX:
        return value
    raise smallint_out_of_range()


def check_int4(value: int) -> int:
    if INT4_MIN <= value <= INT4_MAX:
        return value
    raise integer_out_of_range()


def check_int8(value: int) -> int:
    if INT8_MIN <= value <= INT8_MAX:
        return value
    raise bigint_out_of_range()


def int4_add(left: int, right: int) -> int:
    value = left + right
    if INT4_MIN <= value <= INT4_MAX:
        return value
    raise integer_out_of_range()


def int4_subtract(left: int, right: int) -> int:
    value = left - right
    if INT4_MIN <= value <= INT4_MAX:
        return value
    raise integer_out_of_range()


def int4_multiply(left: int, right: int) -> int:
    value = left * right
    if INT4_MIN <= value <= INT4_MAX:
        return value
    raise integer_out_of_range()


def int8_add(left: int, right: int) -> int:
    value = left + right
    if INT8_MIN <= value <= INT8_MAX:
        return value
    raise bigint_out_of_range()


def int8_subtract(left: int, right: int) -> int:
    value = left - right
    if INT8_MIN <= value <= INT8_MAX:
        return value
    raise bigint_out_of_range()


def int8_multiply(left: int, right: int) -> int:
    value = left * right
    if INT8_MIN <= value <= INT8_MAX:
        return value
    raise bigint_out_of_range()


def divide_truncating(left: int, right: int) -> int:
    if right == 0:
        raise division_by_zero()
    quotient = abs(left) // abs(right)
    return quotient if (left < 0) == (right < 0) else -quotient


def int2_divide(left: int, right: int) -> int:
    return check_int2(divide_truncating(left, right))


def int4_divide(left: int, right: int) -> int:
    return check_int4(divide_truncating(left, right))


def int8_divide(left: int, right: int) -> int:
    return check_int8(divide_truncating(left, right))


def modulo(left: int, right: int) -> int:
    if right == 0:
        raise division_by_zero()
    remainder = abs(left) % abs(right)
    return -remainder if left < 0 else remainder


def _checked(compute: Binary, check: Callable[[int], int]) -> Binary:
    return lambda left, right: check(compute(left, right))


def _wrap(value: int, bits: int) -> int:
    """Cut to a two's complement integer, as shifts in C do."""
    half = 1 << (bits - 1)
    return ((value + half) & ((1 << bits) - 1)) - half


def _shifts(bits: int) -> tuple[Binary, Binary]:
    # The processor takes the shift count modulo 32 (int2, int4) or 64, and Postgres leaves it at that.
    mask = 63 if bits == 64 else 31

    def left_shift(value: int, count: int) -> int:
        return _wrap(value << (count & mask), bits)

    def right_shift(value: int, count: int) -> int:
        return value >> (count & mask)

    return left_shift, right_shift


def _define_integers() -> None:
    checks = {"2": check_int2, "4": check_int4, "8": check_int8}
    adds: dict[str, dict[str, Binary]] = {
        "2": {
            "pl": _checked(int.__add__, check_int2),
            "mi": _checked(int.__sub__, check_int2),
            "mul": _checked(int.__mul__, check_int2),
            "div": int2_divide,
        },
        "4": {"pl": int4_add, "mi": int4_subtract, "mul": int4_multiply, "div": int4_divide},
        "8": {"pl": int8_add, "mi": int8_subtract, "mul": int8_multiply, "div": int8_divide},
    }
    for left in "248":
        for right in "248":
            name = left if left == right else left + right
            for operation, body in adds[max(left, right)].items():
                define(f"int{name}{operation}(int{left},int{right})", body)
    for width, check in checks.items():
        bits = int(width) * 8
        pair = f"(int{width},int{width})"
        left_shift, right_shift = _shifts(bits)
        define(f"int{width}mod{pair}", modulo)
        define(f"mod{pair}", modulo)
        define(f"int{width}um(int{width})", lambda value, check=check: check(-value))
        define(f"int{width}up(int{width})", lambda value: value, inline="{0}")
        for name in (f"int{width}abs", "abs"):
            define(f"{name}(int{width})", lambda value, check=check: check(abs(value)))
        define(f"int{width}and{pair}", int.__and__, inline="({0} & {1})")
        define(f"int{width}or{pair}", int.__or__, inline="({0} | {1})")
        define(f"int{width}xor{pair}", int.__xor__, inline="({0} ^ {1})")
        define(f"int{width}not(int{width})", int.__invert__, inline="(~{0})")
        define(f"int{width}shl(int{width},int4)", left_shift)
        define(f"int{width}shr(int{width},int4)", right_shift)
        define(f"int{width}larger{pair}", max)
        define(f"int{width}smaller{pair}", min)


# ------------------------------------------------------------------------------------------------ floats


def check_float(value: float, *operands: float) -> float:
    """Refuse an infinity that no operand brought in, and settle on one NaN."""
    if value - value == 0.0:
        return value
    if value != value:
        return NAN
    if any(math.isinf(operand) for operand in operands):
        return value
    raise float_overflow()


def float_add(left: float, right: float) -> float:
    value = left + right
    return value if value - value == 0.0 else check_float(value, left, right)


def float_subtract(left: float, right: float) -> float:
    value = left - right
    return value if value - value == 0.0 else check_float(value, left, right)


def float_multiply(left: float, right: float) -> float:
    value = left * right
    if value == 0.0 and left != 0.0 and right != 0.0:
        raise float_underflow()
    return value if value - value == 0.0 else check_float(value, left, right)


def float_divide(left: float, right: float) -> float:
    if right == 0.0:
        if left != left:
            return NAN
        raise division_by_zero()
    value = left / right
    if value == 0.0 and left != 0.0 and not math.isinf(right):
        raise float_underflow()
    return value if value - value == 0.0 else check_float(value, left)


def single(value: float) -> float:
    """Round a result to float4, which may overflow or underflow on the way."""
    try:
        rounded = to_single(value)
    except OverflowError:
        raise float_overflow() from None
    if rounded == 0.0 and value != 0.0:
        raise float_underflow()
    return rounded if rounded == rounded else NAN


def _define_floats() -> None:
    bodies: dict[str, FloatBinary] = {
        "pl": float_add,
        "mi": float_subtract,
        "mul": float_multiply,
        "div": float_divide,
    }
    for name, body in bodies.items():
        define(f"float8{name}(float8,float8)", body)
        define(f"float48{name}(float4,float8)", body)
        define(f"float84{name}(float8,float4)", body)
        define(f"float4{name}(float4,float4)", lambda left, right, body=body: single(body(left, right)))
    for width in "48":
        define(f"float{width}um(float{width})", float.__neg__, inline="(-{0})")
        define(f"float{width}up(float{width})", lambda value: value, inline="{0}")
        define(f"float{width}abs(float{width})", abs, inline="abs({0})")
        define(f"abs(float{width})", abs, inline="abs({0})")


# ------------------------------------------------------------------------------------------------ numeric


def numeric_absolute(value: Decimal) -> Decimal:
    return value if value.is_nan() else value.copy_abs()


def _define_numeric() -> None:
    define("numeric_add(numeric,numeric)", numeric.add)
    define("numeric_sub(numeric,numeric)", numeric.subtract)
    define("numeric_mul(numeric,numeric)", numeric.multiply)
    define("numeric_div(numeric,numeric)", numeric.divide)
    define("numeric_mod(numeric,numeric)", numeric.modulo)
    define("mod(numeric,numeric)", numeric.modulo)
    define("numeric_uminus(numeric)", numeric.negate)
    define("numeric_uplus(numeric)", lambda value: value, inline="{0}")
    define("numeric_abs(numeric)", numeric_absolute)
    define("abs(numeric)", numeric_absolute)


_define_integers()
_define_floats()
_define_numeric()
