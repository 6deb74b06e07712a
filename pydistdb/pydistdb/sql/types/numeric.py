"""numeric: exact decimals with a display scale, on decimal.Decimal.

A Postgres numeric remembers how many digits to show after the point (its *display scale*); here that is minus the
Decimal's exponent, so a finite runtime value never has an exponent above zero, and ``Decimal("1.50")`` prints as 1.50.
There is one NaN object (``NAN``), equal to itself and above everything, as Postgres orders it.

    >>> divide(Decimal(1), Decimal(3))
    Decimal('0.33333333333333333333')

Division has no natural scale: Postgres chooses one that gives at least 16 significant digits, counting in digits of base
10000 (``select_div_scale``); the rule is visible in results, hence repeated here.

A modifier packs precision and scale: ``((precision << 16) | (scale & 0x7ff)) + 4``; the scale may be negative.

Source: PostgreSQL 15 manual, 8.1.2; scales checked against a server.
"""

from __future__ import annotations

import re
import struct
from decimal import MAX_EMAX, MIN_EMIN, ROUND_DOWN, ROUND_HALF_UP, Context, Decimal, InvalidOperation

from pydistdb.sql.errors import DatabaseError, DivisionByZero, InvalidTextRepresentation, NumericValueOutOfRange
from pydistdb.sql.types.base import EvalContext, TypeIO
from pydistdb.sql.types.integers import wrong_binary_length

MOST_DIGITS_BEFORE_POINT = 131072
MOST_DIGITS_AFTER_POINT = 16383
MOST_DISPLAY_SCALE = 1000
LEAST_SIGNIFICANT_DIGITS = 16

EXACT = Context(prec=400_000, rounding=ROUND_HALF_UP, Emin=MIN_EMIN, Emax=MAX_EMAX, clamp=0, traps=[InvalidOperation])
"""Wide enough for any sum or product of two numerics: nothing is ever rounded in it unasked."""

NAN = Decimal("NaN")
INFINITY = Decimal("Infinity")
NEGATIVE_INFINITY = Decimal("-Infinity")
ZERO = Decimal(0)
ONE = Decimal(1)

_NUMBER = re.compile(r"[ \t\n\r\v\f]*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)[ \t\n\r\v\f]*")
_SPECIAL = {
    "nan": NAN,
    "infinity": INFINITY,
    "+infinity": INFINITY,
    "-infinity": NEGATIVE_INFINITY,
    "inf": INFINITY,
    "+inf": INFINITY,
    "-inf": NEGATIVE_INFINITY,
}


def overflow() -> DatabaseError:
    return NumericValueOutOfRange("value overflows numeric format")


def scale_of(value: Decimal) -> int:
    """Tell the display scale of a finite value."""
    return -value.as_tuple().exponent  # type: ignore[operator]


def rescale(value: Decimal, scale: int) -> Decimal:
    """Round half away from zero (or pad with zeros) to ``scale`` digits after the point."""
    result = value.quantize(Decimal((0, (1,), -scale)), ROUND_HALF_UP, EXACT)
    # There is no negative zero.
    return result if result else result.copy_abs()


def truncate(value: Decimal, scale: int) -> Decimal:
    result = value.quantize(Decimal((0, (1,), -scale)), ROUND_DOWN, EXACT)
    return result if result else result.copy_abs()


def normal(value: Decimal) -> Decimal:
    """Give a finite Decimal of any origin the shape of a runtime value; refuse one beyond the format's limits."""
    if not value.is_finite():
        return NAN if value.is_nan() else value
    if not value:
        value = value.copy_abs()
    elif value.adjusted() >= MOST_DIGITS_BEFORE_POINT:
        raise overflow()
    exponent = value.as_tuple().exponent
    if exponent > 0:  # type: ignore[operator]
        return rescale(value, 0)
    if exponent < -MOST_DIGITS_AFTER_POINT:  # type: ignore[operator]
        return rescale(value, MOST_DIGITS_AFTER_POINT)
    return value


def precision_and_scale(modifier: int) -> tuple[int, int]:
    packed = modifier - 4
    return (packed >> 16) & 0xFFFF, ((packed & 0x7FF) ^ 1024) - 1024


def apply_modifier(value: Decimal, modifier: int) -> Decimal:
    """Round to a column's declared scale and refuse what exceeds its precision."""
    if modifier < 4:
        return value
    precision, scale = precision_and_scale(modifier)
    if not value.is_finite():
        if value.is_nan():
            return value
        raise NumericValueOutOfRange(
            "numeric field overflow",
            detail=f"A field with precision {precision}, scale {scale} cannot hold an infinite value.",
        )
    rounded = rescale(value, scale)
    if rounded and rounded.adjusted() >= precision - scale:
        limit = "1" if precision == scale else f"10^{precision - scale}"
        raise NumericValueOutOfRange(
            "numeric field overflow",
            detail=f"A field with precision {precision}, scale {scale} "
            f"must round to an absolute value less than {limit}.",
        )
    return rounded if scale >= 0 else rescale(rounded, 0)


def parse(text: str, modifier: int, context: EvalContext | None) -> Decimal:
    match = _NUMBER.fullmatch(text)
    if match is None:
        special = _SPECIAL.get(text.strip(" \t\n\r\v\f").lower())
        if special is None:
            raise InvalidTextRepresentation(f'invalid input syntax for type numeric: "{text}"')
        return apply_modifier(special, modifier)
    digits = match[1]
    if "e" in digits or "E" in digits:
        exponent = digits.lower().partition("e")[2]
        if len(exponent) > 10 or abs(int(exponent)) > 2**30:
            raise overflow()
    value = EXACT.create_decimal(digits)
    if value.as_tuple().exponent < -MOST_DIGITS_AFTER_POINT:  # type: ignore[operator]
        raise overflow()
    value = normal(value)
    return value if modifier < 4 else apply_modifier(value, modifier)


def format_numeric(value: Decimal, context: EvalContext | None = None) -> str:
    text = format(value, "f")
    if text[0] == "-" and not value:
        return text[1:]
    return text


# ------------------------------------------------------------------------------------------------ arithmetic


def compare(left: Decimal, right: Decimal) -> int:
    """Order like Postgres: NaN equals NaN and is above everything."""
    if left.is_nan() or right.is_nan():
        return left.is_nan() - right.is_nan()
    return (left > right) - (left < right)


def add(left: Decimal, right: Decimal) -> Decimal:
    if left.is_finite() and right.is_finite():
        result = EXACT.add(left, right)
        return result if result.adjusted() < MOST_DIGITS_BEFORE_POINT else normal(result)
    if left.is_nan() or right.is_nan() or (left.is_infinite() and right.is_infinite() and left != right):
        return NAN
    return left if left.is_infinite() else right


def subtract(left: Decimal, right: Decimal) -> Decimal:
    return add(left, negate(right))


def negate(value: Decimal) -> Decimal:
    return value.copy_negate() if value or not value.is_finite() else value


def multiply(left: Decimal, right: Decimal) -> Decimal:
    if left.is_finite() and right.is_finite():
        return normal(EXACT.multiply(left, right))
    if left.is_nan() or right.is_nan() or not left or not right:
        return NAN
    return INFINITY if (left > 0) == (right > 0) else NEGATIVE_INFINITY


def _leading(value: Decimal) -> tuple[int, int]:
    """Weight and value of the first digit in base 10000."""
    if not value:
        return 0, 0
    weight = value.adjusted() // 4
    return weight, abs(int(value.scaleb(-4 * weight, EXACT)))


def division_scale(left: Decimal, right: Decimal) -> int:
    left_weight, left_digit = _leading(left)
    right_weight, right_digit = _leading(right)
    quotient_weight = left_weight - right_weight - (left_digit <= right_digit)
    scale = max(LEAST_SIGNIFICANT_DIGITS - quotient_weight * 4, scale_of(left), scale_of(right), 0)
    return min(scale, MOST_DISPLAY_SCALE)


def divide_at(left: Decimal, right: Decimal, scale: int) -> Decimal:
    """Divide finite values exactly and round half away from zero at ``scale``."""
    left_scale, right_scale = scale_of(left), scale_of(right)
    dividend = abs(int(left.scaleb(left_scale, EXACT)))
    divisor = abs(int(right.scaleb(right_scale, EXACT)))
    shift = scale + right_scale - left_scale
    if shift >= 0:
        dividend *= 10**shift
    else:
        divisor *= 10**-shift
    quotient, remainder = divmod(dividend, divisor)
    if remainder * 2 >= divisor:
        quotient += 1
    if (left < 0) != (right < 0):
        quotient = -quotient
    return EXACT.create_decimal(quotient).scaleb(-scale, EXACT)


def divide(left: Decimal, right: Decimal) -> Decimal:
    if left.is_finite() and right.is_finite():
        if not right:
            raise DivisionByZero("division by zero")
        return normal(divide_at(left, right, division_scale(left, right)))
    if left.is_nan() or right.is_nan():
        return NAN
    if left.is_infinite():
        if right.is_infinite():
            return NAN
        if not right:
            raise DivisionByZero("division by zero")
        return left if right > 0 else left.copy_negate()
    return ZERO


def modulo(left: Decimal, right: Decimal) -> Decimal:
    if left.is_nan() or right.is_nan():
        return NAN
    if not right:
        raise DivisionByZero("division by zero")
    if left.is_infinite():
        return NAN
    if right.is_infinite():
        return left
    remainder = EXACT.remainder(left, right)
    return remainder if remainder else remainder.copy_abs()


# ------------------------------------------------------------------------------------------------ binary format

_POSITIVE, _NEGATIVE, _NAN, _PLUS_INFINITY, _MINUS_INFINITY = 0x0000, 0x4000, 0xC000, 0xD000, 0xF000
_header = struct.Struct("!hhHH")


def encode(value: Decimal) -> bytes:
    """Header (digit count, weight, sign, display scale), then base-10000 digits."""
    if not value.is_finite():
        sign = _NAN if value.is_nan() else _PLUS_INFINITY if value > 0 else _MINUS_INFINITY
        # Postgres gives its infinities a display scale of 32; nobody reads it.
        return _header.pack(0, 0, sign, 0 if value.is_nan() else 32)
    scale = scale_of(value)
    if not value:
        return _header.pack(0, 0, _POSITIVE, scale)
    whole, _, fraction = format(value.copy_abs(), "f").partition(".")
    text = whole.rjust((len(whole) + 3) // 4 * 4, "0")
    weight = len(text) // 4 - 1
    text += fraction.ljust((len(fraction) + 3) // 4 * 4, "0")
    digits = [int(text[i : i + 4]) for i in range(0, len(text), 4)]
    while digits and not digits[0]:
        del digits[0]
        weight -= 1
    while digits and not digits[-1]:
        digits.pop()
    sign = _NEGATIVE if value < 0 else _POSITIVE
    return _header.pack(len(digits), weight, sign, scale) + struct.pack(f"!{len(digits)}h", *digits)


def decode(data: bytes) -> Decimal:
    try:
        count, weight, sign, scale = _header.unpack_from(data)
        digits = struct.unpack_from(f"!{count}H", data, 8)
    except struct.error:
        raise wrong_binary_length() from None
    match sign:
        case 0xC000:
            return NAN
        case 0xD000:
            return INFINITY
        case 0xF000:
            return NEGATIVE_INFINITY
        case 0x0000 | 0x4000:
            pass
        case _:
            raise DatabaseError.of("22P03", 'invalid sign in external "numeric" value')
    if scale > MOST_DIGITS_AFTER_POINT:
        raise DatabaseError.of("22P03", 'invalid scale in external "numeric" value')
    if any(digit >= 10000 for digit in digits):
        raise DatabaseError.of("22P03", 'invalid digit in external "numeric" value')
    text = "".join(f"{digit:04d}" for digit in digits) or "0"
    value = EXACT.create_decimal(text).scaleb(4 * (weight + 1 - count) if count else 0, EXACT)
    if sign == _NEGATIVE:
        value = negate(value)
    return truncate(value, scale)


def from_storage(text: str) -> Decimal:
    value = Decimal(text)
    return NAN if value.is_nan() else value


IO = {"numeric": TypeIO(parse, format_numeric, decode, encode, "decimal", str, from_storage)}
