"""Trigonometry in degrees, exact where the result is: sind(30) is 0.5, tand(45) is 1.

Everything is reduced to the first quadrant and scaled by what the C library gives at 30, 45 and 60 degrees, so that these
come out exact and the rest within an ulp; other ways of scaling would differ from Postgres in the last digit.

    >>> sine(30.0), cosine(60.0), tangent(45.0)
    (0.5, 0.5, 1.0)

Source: PostgreSQL 15 manual, 9.3, table of trigonometric functions.
"""

from __future__ import annotations

import math

from pydistdb.sql.errors import NumericValueOutOfRange

_RADIANS = math.pi / 180.0
_SINE_30 = math.sin(30.0 * _RADIANS)
_ONE_MINUS_COSINE_60 = 1.0 - math.cos(60.0 * _RADIANS)
_ASIN_HALF = math.asin(0.5)
_ACOS_HALF = math.acos(0.5)
_ATAN_ONE = math.atan(1.0)


def _sine_to_30(value: float) -> float:
    return math.sin(value * _RADIANS) / _SINE_30 / 2.0


def _cosine_to_60(value: float) -> float:
    return 1.0 - (1.0 - math.cos(value * _RADIANS)) / _ONE_MINUS_COSINE_60 / 2.0


def _quadrant_sine(value: float) -> float:
    return _sine_to_30(value) if value <= 30.0 else _cosine_to_60(90.0 - value)


def _quadrant_cosine(value: float) -> float:
    return _cosine_to_60(value) if value <= 60.0 else _sine_to_30(90.0 - value)


_TANGENT_45 = _quadrant_sine(45.0) / _quadrant_cosine(45.0)
_COTANGENT_45 = _quadrant_cosine(45.0) / _quadrant_sine(45.0)


def _out_of_range() -> NumericValueOutOfRange:
    return NumericValueOutOfRange("input is out of range")


def _reduced(value: float) -> float:
    """The angle without whole turns, sign kept."""
    if math.isinf(value):
        raise _out_of_range()
    return math.fmod(value, 360.0)


def sine(value: float) -> float:
    if value != value:
        return value
    angle, sign = _reduced(value), 1.0
    if angle < 0.0:
        angle, sign = -angle, -sign
    if angle > 180.0:
        angle, sign = 360.0 - angle, -sign
    if angle > 90.0:
        angle = 180.0 - angle
    return sign * _quadrant_sine(angle)


def cosine(value: float) -> float:
    if value != value:
        return value
    angle, sign = abs(_reduced(value)), 1.0
    if angle > 180.0:
        angle = 360.0 - angle
    if angle > 90.0:
        angle, sign = 180.0 - angle, -sign
    return sign * _quadrant_cosine(angle)


def _first_quadrant(value: float) -> tuple[float, float]:
    """Angle and sign for functions of period 180."""
    angle, sign = _reduced(value), 1.0
    if angle < 0.0:
        angle, sign = -angle, -sign
    if angle > 180.0:
        angle, sign = 360.0 - angle, -sign
    if angle > 90.0:
        angle, sign = 180.0 - angle, -sign
    return angle, sign


def _divided(numerator: float, denominator: float) -> float:
    return math.inf if denominator == 0.0 else numerator / denominator


def tangent(value: float) -> float:
    if value != value:
        return value
    angle, sign = _first_quadrant(value)
    result = sign * (_divided(_quadrant_sine(angle), _quadrant_cosine(angle)) / _TANGENT_45)
    return 0.0 if result == 0.0 else result


def cotangent(value: float) -> float:
    if value != value:
        return value
    angle, sign = _first_quadrant(value)
    result = sign * (_divided(_quadrant_cosine(angle), _quadrant_sine(angle)) / _COTANGENT_45)
    return 0.0 if result == 0.0 else result


def inverse_sine(value: float) -> float:
    if value != value:
        return value
    if not -1.0 <= value <= 1.0:
        raise _out_of_range()
    size = abs(value)
    angle = math.asin(size) / _ASIN_HALF * 30.0 if size <= 0.5 else 90.0 - math.acos(size) / _ACOS_HALF * 60.0
    return math.copysign(angle, value)


def inverse_cosine(value: float) -> float:
    if value != value:
        return value
    if not -1.0 <= value <= 1.0:
        raise _out_of_range()
    size = abs(value)
    angle = 90.0 - math.asin(size) / _ASIN_HALF * 30.0 if size <= 0.5 else math.acos(size) / _ACOS_HALF * 60.0
    return angle if value >= 0.0 else 180.0 - angle


def inverse_tangent(value: float) -> float:
    return math.atan(value) / _ATAN_ONE * 45.0


def inverse_tangent_2(y: float, x: float) -> float:
    return math.atan2(y, x) / _ATAN_ONE * 45.0
