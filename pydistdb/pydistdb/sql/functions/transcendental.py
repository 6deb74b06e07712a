"""sqrt, exp, ln, log and power of numeric, with Postgres's choice of digits.

Irrational results have no natural scale; Postgres estimates the decimal weight of the result first and then shows at least
16 significant digits, never fewer digits after the point than the arguments have.  The estimates are done in floating
point there, so they are here.

    >>> square_root(Decimal(2))
    Decimal('1.414213562373095')

The values themselves are computed with a few more digits than are shown and rounded half away from zero.

Source: PostgreSQL 15 manual, 9.3; scales checked against a server.
"""

from __future__ import annotations

import math
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal

from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.types import numeric
from pydistdb.sql.types.numeric import (
    INFINITY,
    LEAST_SIGNIFICANT_DIGITS,
    MOST_DISPLAY_SCALE,
    NAN,
    ONE,
    ZERO,
    rescale,
    scale_of,
)

_SPARE_DIGITS = 12
MOST_EXPONENT = 6_000
"""Postgres computes exp() of less only (numeric.c, exp_var)."""
_LOG10_E = 0.434294481903252


def _context(digits: int) -> Context:
    return Context(prec=max(digits, 20) + _SPARE_DIGITS, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[])


def _clamp_scale(scale: int, *arguments: Decimal) -> int:
    return min(max(scale, 0, *(scale_of(argument) for argument in arguments)), MOST_DISPLAY_SCALE)


def _digits_for(weight: int, scale: int) -> int:
    """Significant digits of a number of this decimal weight, shown to this scale."""
    return max(weight, 0) + scale + 4


def _base_10000_weight(value: Decimal) -> int:
    return value.adjusted() // 4


# ------------------------------------------------------------------------------------------------ square root


def square_root(value: Decimal) -> Decimal:
    if value.is_nan():
        return NAN
    if value < 0:
        raise DatabaseError.of("2201F", "cannot take square root of a negative number")
    if value.is_infinite():
        return INFINITY
    weight = _base_10000_weight(value) * 2 + 1 if value else 1
    scale = _clamp_scale(LEAST_SIGNIFICANT_DIGITS - weight, value)
    return rescale(_context(_digits_for(weight + 4, scale)).sqrt(value), scale)


# ------------------------------------------------------------------------------------------------ exponential


def exponential(value: Decimal) -> Decimal:
    if not value.is_finite():
        return NAN if value.is_nan() else INFINITY if value > 0 else ZERO
    if value >= MOST_EXPONENT:
        raise numeric.overflow()
    weight = max(-2000.0, min(float(value) * _LOG10_E, 400_000.0))
    if weight > numeric.MOST_DIGITS_BEFORE_POINT:
        raise numeric.overflow()
    scale = _clamp_scale(LEAST_SIGNIFICANT_DIGITS - int(min(weight, 2000.0)), value)
    return rescale(_context(_digits_for(int(weight) + 2, scale)).exp(value), scale)


# ------------------------------------------------------------------------------------------------ logarithms


def _check_logarithm(value: Decimal) -> None:
    if value < 0:
        raise DatabaseError.of("2201E", "cannot take logarithm of a negative number")
    if value == 0:
        raise DatabaseError.of("2201E", "cannot take logarithm of zero")


def _leading_weight(value: Decimal) -> int:
    """Decimal weight of a number's first digit."""
    return value.adjusted()


def _logarithm_weight(value: Decimal) -> int:
    """Estimate the decimal weight of ln(value)."""
    if Decimal("0.9") <= value <= Decimal("1.1"):
        difference = numeric.EXACT.subtract(value, ONE)
        return _leading_weight(difference) if difference else 0
    logarithm = abs(math.log(float(value.scaleb(-value.adjusted(), numeric.EXACT))) + value.adjusted() * math.log(10))
    return int(math.log10(logarithm)) if logarithm else 0


def _ln(value: Decimal, digits: int) -> Decimal:
    # Near 1 the first digits cancel out: the logarithm of 1 + 1e-30 needs 30 more.
    cancelled = 0
    difference = numeric.EXACT.subtract(value, ONE)
    if difference and difference.adjusted() < 0:
        cancelled = -difference.adjusted()
    return _context(digits + cancelled).ln(value)


def natural_logarithm(value: Decimal) -> Decimal:
    if value.is_nan():
        return NAN
    _check_logarithm(value)
    if value.is_infinite():
        return INFINITY
    weight = _logarithm_weight(value)
    scale = _clamp_scale(LEAST_SIGNIFICANT_DIGITS - weight, value)
    return rescale(_ln(value, _digits_for(weight, scale)), scale)


def logarithm(base: Decimal, value: Decimal) -> Decimal:
    if base.is_nan() or value.is_nan():
        return NAN
    _check_logarithm(base)
    _check_logarithm(value)
    if base.is_infinite():
        return NAN if value.is_infinite() else ZERO
    if value.is_infinite():
        return INFINITY
    weight = _logarithm_weight(value) - _logarithm_weight(base)
    scale = _clamp_scale(LEAST_SIGNIFICANT_DIGITS - weight, base, value)
    digits = _digits_for(weight, scale) + 8
    denominator = _ln(base, digits)
    if not denominator:
        raise DatabaseError.of("22012", "division by zero")
    quotient = _context(digits).divide(_ln(value, digits), denominator)
    return rescale(quotient, scale)


def logarithm_10(value: Decimal) -> Decimal:
    return logarithm(Decimal(10), value)


# ------------------------------------------------------------------------------------------------ power


def power(base: Decimal, exponent: Decimal) -> Decimal:
    if not base.is_finite() or not exponent.is_finite():
        return _special_power(base, exponent)
    integral = exponent == exponent.to_integral_value(context=numeric.EXACT)
    if not base and exponent < 0:
        raise DatabaseError.of("2201F", "zero raised to a negative power is undefined")
    if base < 0 and not integral:
        raise DatabaseError.of("2201F", "a negative number raised to a non-integer power yields a complex result")
    if integral and -(2**31) <= exponent < 2**31:
        return _integer_power(base, int(exponent), scale_of(exponent))
    if not base:
        return rescale(ZERO, LEAST_SIGNIFICANT_DIGITS)
    negative = base < 0 and int(exponent) % 2 == 1
    base = base.copy_abs()  # abs() would round
    estimate = float(_context(30).multiply(exponent, _rough_logarithm(base)))
    weight = estimate * _LOG10_E
    if abs(weight) > 1.5 * numeric.MOST_DIGITS_BEFORE_POINT and weight > 0:
        raise numeric.overflow()
    if weight < -MOST_DISPLAY_SCALE - 16:
        return rescale(ZERO, MOST_DISPLAY_SCALE)
    scale = _clamp_scale(LEAST_SIGNIFICANT_DIGITS - int(weight), base, exponent)
    digits = _digits_for(int(weight) + 2, scale) + 8
    result = _context(digits + max(exponent.adjusted(), 0)).power(base, exponent)
    return numeric.normal(rescale(-result if negative else result, scale))


def _rough_logarithm(base: Decimal) -> Decimal:
    """ln(base) to some twenty digits, also where base is so close to 1 that ln(1 + d) is d."""
    distance = numeric.EXACT.subtract(base, ONE)
    if not distance or distance.adjusted() > -30:
        return _context(60).ln(base)
    return distance


def _integer_power(base: Decimal, exponent: int, exponent_scale: int) -> Decimal:
    if exponent == 0:
        return rescale(ONE, LEAST_SIGNIFICANT_DIGITS)
    if not base:
        return rescale(ZERO, _clamp_scale(LEAST_SIGNIFICANT_DIGITS, base))
    estimate = exponent * (math.log10(abs(float(base.scaleb(-base.adjusted(), numeric.EXACT)))) + base.adjusted())
    if estimate > (numeric.MOST_DIGITS_BEFORE_POINT + 4):
        raise numeric.overflow()
    # With integral exponents the scale does not depend on how large the result is.
    scale = _clamp_scale(max(LEAST_SIGNIFICANT_DIGITS, exponent_scale), base)
    if estimate + 1 < -scale:
        return rescale(ZERO, scale)
    digits = _digits_for(int(estimate) + 2, scale) + 8
    return numeric.normal(rescale(_context(digits).power(base, Decimal(exponent)), scale))


def _special_power(base: Decimal, exponent: Decimal) -> Decimal:
    """NaN to the 0 and 1 to the NaN are 1; infinities as POSIX's pow has them."""
    if base == 1 or (exponent.is_finite() and not exponent):
        return ONE if not (base.is_nan() or exponent.is_nan()) or base == 1 or exponent == 0 else NAN
    if base.is_nan() or exponent.is_nan():
        return NAN
    if exponent.is_infinite():
        if base == -1:
            return ONE
        if not base and exponent < 0:
            raise DatabaseError.of("2201F", "zero raised to a negative power is undefined")
        grows = (base.copy_abs() > 1) == (exponent > 0)
        return INFINITY if grows else ZERO
    if base > 0:
        return INFINITY if exponent > 0 else ZERO
    if exponent != exponent.to_integral_value():
        raise DatabaseError.of("2201F", "a negative number raised to a non-integer power yields a complex result")
    if exponent < 0:
        return ZERO
    return numeric.NEGATIVE_INFINITY if int(exponent) % 2 else INFINITY
