"""Mathematical functions: rounding, roots and powers, logarithms, trigonometry, number theory, random numbers.

    >>> round_numeric(Decimal("1234.567"), -2), greatest_common_divisor(12, 18)
    (Decimal('1200'), 6)

round() of numeric rounds halves away from zero, of floats to even, as the C library does.

Source: PostgreSQL 15 manual, 9.3.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Callable
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from pydistdb.sql.errors import DatabaseError, NumericValueOutOfRange
from pydistdb.sql.functions import degrees
from pydistdb.sql.functions.arithmetic import (
    bigint_out_of_range,
    check_float,
    division_by_zero,
    float_overflow,
    float_underflow,
    integer_out_of_range,
)
from pydistdb.sql.functions.define import Body, define, implements
from pydistdb.sql.functions.transcendental import (
    exponential,
    logarithm,
    logarithm_10,
    natural_logarithm,
    power,
    square_root,
)
from pydistdb.sql.types import numeric
from pydistdb.sql.types.arrays import PgArray
from pydistdb.sql.types.floats import NAN
from pydistdb.sql.types.integers import INT4_MAX, INT8_MAX
from pydistdb.sql.types.ordering import float_key, numeric_key

# ------------------------------------------------------------------------------------------------ numeric


def round_numeric(value: Decimal, scale: int = 0) -> Decimal:
    if not value.is_finite():
        return value
    # One place beyond the largest number's: what is rounded there is zero.
    scale = max(-numeric.MOST_DIGITS_BEFORE_POINT - 1, min(scale, numeric.MOST_DIGITS_AFTER_POINT))
    return numeric.normal(numeric.rescale(value, scale))


def truncate_numeric(value: Decimal, scale: int = 0) -> Decimal:
    if not value.is_finite():
        return value
    scale = max(-numeric.MOST_DIGITS_BEFORE_POINT, min(scale, numeric.MOST_DIGITS_AFTER_POINT))
    return numeric.normal(numeric.truncate(value, scale))


def _integral(rounding: str) -> Callable[[Decimal], Decimal]:
    def convert(value: Decimal) -> Decimal:
        if not value.is_finite():
            return value
        result = value.quantize(numeric.ONE, rounding, numeric.EXACT)
        return result if result else result.copy_abs()

    return convert


def sign_numeric(value: Decimal) -> Decimal:
    if value.is_nan():
        return value
    return Decimal((value > 0) - (value < 0))


@implements("div(numeric,numeric)", "numeric_div_trunc(numeric,numeric)")
def divide_to_integer(left: Decimal, right: Decimal) -> Decimal:
    if left.is_finite() and right.is_finite():
        if not right:
            raise division_by_zero()
        remainder = numeric.EXACT.remainder(left, right)
        quotient = numeric.EXACT.divide(numeric.EXACT.subtract(left, remainder), right)
        return numeric.rescale(quotient, 0)
    result = numeric.divide(left, right)
    return numeric.ZERO if result.is_finite() else result


@implements("scale(numeric)")
def scale(value: Decimal) -> int | None:
    return numeric.scale_of(value) if value.is_finite() else None


def _trimmed(value: Decimal) -> Decimal:
    if not value:
        return numeric.ZERO
    trimmed = numeric.EXACT.normalize(value)
    return numeric.rescale(trimmed, 0) if trimmed.as_tuple().exponent > 0 else trimmed  # type: ignore[operator]


define("min_scale(numeric)", lambda value: numeric.scale_of(_trimmed(value)) if value.is_finite() else None)
define("trim_scale(numeric)", lambda value: _trimmed(value) if value.is_finite() else value)


@implements("factorial(int8)")
def factorial(value: int) -> Decimal:
    if value < 0:
        raise NumericValueOutOfRange("factorial of a negative number is undefined")
    if value > 32177:
        raise numeric.overflow()
    # Written out in digits only here; int() to str would stop at 4300 of them.
    product = numeric.ONE
    for factor in range(2, value + 1):
        product = numeric.EXACT.multiply(product, Decimal(factor))
    return product


def numeric_gcd(left: Decimal, right: Decimal) -> Decimal:
    if not (left.is_finite() and right.is_finite()):
        return numeric.NAN
    scale = max(numeric.scale_of(left), numeric.scale_of(right))
    first, second = abs(left), abs(right)
    while second:
        first, second = second, numeric.EXACT.remainder(first, second)
    return numeric.rescale(first, scale)


def numeric_lcm(left: Decimal, right: Decimal) -> Decimal:
    if not (left.is_finite() and right.is_finite()):
        return numeric.NAN
    scale = max(numeric.scale_of(left), numeric.scale_of(right))
    if not left or not right:
        return numeric.rescale(numeric.ZERO, scale)
    quotient = numeric.EXACT.divide(left, numeric_gcd(left, right))
    return numeric.rescale(numeric.normal(abs(numeric.EXACT.multiply(quotient, right))), scale)


def _define_numeric() -> None:
    define("round(numeric,int4)", round_numeric)
    define("round(numeric)", round_numeric)
    define("trunc(numeric,int4)", truncate_numeric)
    define("trunc(numeric)", truncate_numeric)
    define("ceil(numeric)", _integral(ROUND_CEILING))
    define("ceiling(numeric)", _integral(ROUND_CEILING))
    define("floor(numeric)", _integral(ROUND_FLOOR))
    define("sign(numeric)", sign_numeric)
    for prefix in ("", "numeric_"):
        define(f"{prefix}sqrt(numeric)", square_root)
        define(f"{prefix}exp(numeric)", exponential)
        define(f"{prefix}ln(numeric)", natural_logarithm)
        define(f"{prefix}log(numeric,numeric)", logarithm)
        define(f"{prefix}power(numeric,numeric)", power)
    define("pow(numeric,numeric)", power)
    define("log(numeric)", logarithm_10)
    define("log10(numeric)", logarithm_10)
    define("gcd(numeric,numeric)", numeric_gcd)
    define("lcm(numeric,numeric)", numeric_lcm)


# ------------------------------------------------------------------------------------------------ integers


def _check_gcd(value: int, most: int) -> int:
    if value > most:
        raise integer_out_of_range() if most == INT4_MAX else bigint_out_of_range()
    return value


def greatest_common_divisor(left: int, right: int) -> int:
    return math.gcd(left, right)


def _define_integers() -> None:
    for name, most in (("int4", INT4_MAX), ("int8", INT8_MAX)):
        define(f"gcd({name},{name})", lambda left, right, most=most: _check_gcd(math.gcd(left, right), most))
        define(f"lcm({name},{name})", lambda left, right, most=most: _check_gcd(math.lcm(left, right), most))


# ------------------------------------------------------------------------------------------------ floats


def _input_out_of_range() -> DatabaseError:
    return NumericValueOutOfRange("input is out of range")


def _guarded(compute: Callable[[float], float]) -> Callable[[float], float]:
    """Turn Python's complaints into Postgres's, and let NaN through."""

    def function(value: float) -> float:
        if value != value:
            return NAN
        try:
            return check_float(compute(value), value)
        except ValueError:
            raise _input_out_of_range() from None
        except OverflowError:
            raise float_overflow() from None

    return function


def float_square_root(value: float) -> float:
    if value < 0:
        raise DatabaseError.of("2201F", "cannot take square root of a negative number")
    return math.sqrt(value) if value == value else NAN


def float_exponential(value: float) -> float:
    if value != value:
        return NAN
    if math.isinf(value):
        return value if value > 0 else 0.0
    try:
        result = math.exp(value)
    except OverflowError:
        raise float_overflow() from None
    if result == 0.0:
        raise float_underflow()
    return result


def _float_logarithm(compute: Callable[[float], float]) -> Callable[[float], float]:
    def function(value: float) -> float:
        if value == 0.0:
            raise DatabaseError.of("2201E", "cannot take logarithm of zero")
        if value < 0.0:
            raise DatabaseError.of("2201E", "cannot take logarithm of a negative number")
        return compute(value) if value == value else NAN

    return function


def float_power(base: float, exponent: float) -> float:
    if base != base:
        return 1.0 if exponent == 0.0 else NAN
    if exponent != exponent:
        return 1.0 if base == 1.0 else NAN
    if base == 0.0 and exponent < 0.0:
        raise DatabaseError.of("2201F", "zero raised to a negative power is undefined")
    if base < 0.0 and not math.isinf(exponent) and exponent != math.floor(exponent):
        raise DatabaseError.of("2201F", "a negative number raised to a non-integer power yields a complex result")
    try:
        result = math.pow(base, exponent)
    except OverflowError:
        raise float_overflow() from None
    if result == 0.0 and base != 0.0 and not math.isinf(base) and not math.isinf(exponent):
        raise float_underflow()
    return result


def float_sign(value: float) -> float:
    return float((value > 0) - (value < 0))


def _whole(convert: Callable[[float], int]) -> Callable[[float], float]:
    def function(value: float) -> float:
        if value != value or math.isinf(value):
            return value
        return math.copysign(float(convert(value)), value)

    return function


def _cotangent(value: float) -> float:
    if math.isinf(value):
        raise _input_out_of_range()
    tangent = math.tan(value)
    return math.copysign(math.inf, tangent) if tangent == 0.0 else 1.0 / tangent


def _infinite_allowed(compute: Callable[[float], float]) -> Callable[[float], float]:
    """As the C library: too large is infinite, not an error."""

    def function(value: float) -> float:
        try:
            return compute(value)
        except OverflowError:
            return math.copysign(math.inf, value)

    return function


def _inverse_hyperbolic_tangent(value: float) -> float:
    if abs(value) == 1.0:
        return math.copysign(math.inf, value)
    try:
        return math.atanh(value)
    except ValueError:
        raise _input_out_of_range() from None


def _define_floats() -> None:
    for names, body in _FLOAT_FUNCTIONS:
        for name in names.split():
            define(f"{name}(float8)", body)
    for name in ("power", "pow", "dpow"):
        define(f"{name}(float8,float8)", float_power)
    define("atan2(float8,float8)", lambda y, x: NAN if y != y or x != x else math.atan2(y, x))
    define("atan2d(float8,float8)", lambda y, x: NAN if y != y or x != x else degrees.inverse_tangent_2(y, x))
    define("pi()", lambda: math.pi, inline="3.141592653589793")


_FLOAT_FUNCTIONS: list[tuple[str, Body]] = [
    ("ceil ceiling", _whole(math.ceil)),
    ("floor", _whole(math.floor)),
    ("round dround", _whole(round)),
    ("trunc dtrunc", _whole(math.trunc)),
    ("sign", float_sign),
    ("sqrt dsqrt", float_square_root),
    ("cbrt dcbrt", math.cbrt),
    ("exp dexp", float_exponential),
    ("ln dlog1", _float_logarithm(math.log)),
    ("log log10 dlog10", _float_logarithm(math.log10)),
    ("sin", _guarded(math.sin)),
    ("cos", _guarded(math.cos)),
    ("tan", _guarded(math.tan)),
    ("cot", _cotangent),
    ("asin", _guarded(math.asin)),
    ("acos", _guarded(math.acos)),
    ("atan", _guarded(math.atan)),
    ("sinh", _infinite_allowed(math.sinh)),
    ("cosh", _infinite_allowed(lambda value: math.cosh(abs(value)))),
    ("tanh", _guarded(math.tanh)),
    ("asinh", _guarded(math.asinh)),
    ("acosh", _guarded(math.acosh)),
    ("atanh", _inverse_hyperbolic_tangent),
    ("degrees", _guarded(lambda value: value / (math.pi / 180.0))),
    ("radians", _guarded(math.radians)),
    ("sind", degrees.sine),
    ("cosd", degrees.cosine),
    ("tand", degrees.tangent),
    ("cotd", degrees.cotangent),
    ("asind", degrees.inverse_sine),
    ("acosd", degrees.inverse_cosine),
    ("atand", degrees.inverse_tangent),
]

# ------------------------------------------------------------------------------------------------ buckets


def _bucket_error(message: str) -> DatabaseError:
    return DatabaseError.of("2201G", message)


def _width_bucket(operand: Decimal | float, low: Decimal | float, high: Decimal | float, count: int) -> int:
    if count <= 0:
        raise _bucket_error("count must be greater than zero")
    if operand != operand or low != low or high != high:
        raise _bucket_error("operand, lower bound, and upper bound cannot be NaN")
    if any(isinstance(bound, float) and math.isinf(bound) for bound in (low, high)) or any(
        isinstance(bound, Decimal) and bound.is_infinite() for bound in (low, high)
    ):
        raise _bucket_error("lower and upper bounds must be finite")
    if low == high:
        raise _bucket_error("lower bound cannot equal upper bound")
    if low < high:
        if operand < low:
            return 0
        if operand >= high:
            return _past_last(count)
    else:
        if operand > low:
            return 0
        if operand <= high:
            return _past_last(count)
    first, second, width = (Decimal(value) for value in (operand, low, high))
    context = numeric.EXACT
    part = context.multiply(context.subtract(first, second), Decimal(count))
    return int(numeric.EXACT.divide_int(part, context.subtract(width, second))) + 1


def _past_last(count: int) -> int:
    if count >= INT4_MAX:
        raise integer_out_of_range()
    return count + 1


@implements("width_bucket(anycompatible,anycompatiblearray)")
def width_bucket_array(operand: object, thresholds: PgArray) -> int:
    if len(thresholds.dimensions) > 1:
        raise DatabaseError.of("2202E", "thresholds must be one-dimensional array")
    if None in thresholds.items:
        raise DatabaseError.of("22004", "thresholds array must not contain NULLs")

    if isinstance(operand, float):
        return bisect_right(thresholds.items, float_key(operand), key=float_key)
    if isinstance(operand, Decimal):
        return bisect_right(thresholds.items, numeric_key(operand), key=numeric_key)
    return bisect_right(thresholds.items, operand)


# ------------------------------------------------------------------------------------------------ random numbers

_generator = random.Random()
"""One generator per process; setseed() gives it a known state, as it does in one of Postgres's sessions."""


@implements("random()")
def random_number() -> float:
    return _generator.random()


@implements("setseed(float8)")
def set_seed(seed: float) -> str:
    if not -1.0 <= seed <= 1.0:
        raise DatabaseError.of("22023", f"setseed parameter {seed:g} is out of allowed range [-1,1]")
    _generator.seed(seed)
    return ""


_define_numeric()
_define_integers()
_define_floats()
define("width_bucket(numeric,numeric,numeric,int4)", _width_bucket)
define("width_bucket(float8,float8,float8,int4)", _width_bucket)
