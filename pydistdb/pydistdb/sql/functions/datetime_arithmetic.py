"""Arithmetic with dates, times and intervals.

Months and days of an interval move along the calendar (in the session's zone for timestamptz), its microseconds along the
clock: in New York, one day after noon before the change of clocks is noon, 24 hours after is one o'clock.

    >>> timestamp_plus_interval(days_of(2024, 1, 31) * MICROSECONDS_PER_DAY, Interval(1, 0, 0)) // MICROSECONDS_PER_DAY
    8825

(8825 is 2024-02-29: the last day of a shorter month stands in.)

Source: PostgreSQL 15 manual, 9.9.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydistdb.sql.errors import DatetimeFieldOverflow
from pydistdb.sql.functions.arithmetic import division_by_zero
from pydistdb.sql.functions.datetime_casts import TimeTz, date_to_timestamp, timestamp_to_timestamptz
from pydistdb.sql.functions.define import define, implements
from pydistdb.sql.types.base import EvalContext, Interval
from pydistdb.sql.types.calendar import (
    DATE_INFINITY,
    DATE_NEGATIVE_INFINITY,
    MICROSECONDS_PER_DAY,
    MICROSECONDS_PER_SECOND,
    add_months,
)
from pydistdb.sql.types.datetime import (
    check_date,
    check_timestamp,
    date_out_of_range,
    is_finite_timestamp,
    session_zone,
)
from pydistdb.sql.types.interval import checked, out_of_range

# ------------------------------------------------------------------------------------------------ intervals


@implements("interval_pl(interval,interval)")
def interval_plus(left: Interval, right: Interval) -> Interval:
    return checked(left[0] + right[0], left[1] + right[1], left[2] + right[2])


@implements("interval_mi(interval,interval)")
def interval_minus(left: Interval, right: Interval) -> Interval:
    return checked(left[0] - right[0], left[1] - right[1], left[2] - right[2])


@implements("interval_um(interval)")
def negated(value: Interval) -> Interval:
    return checked(-value[0], -value[1], -value[2])


def _to_microseconds(seconds: float) -> float:
    """Round to microseconds, to hide the noise of binary fractions."""
    return round(seconds * 1e6) / 1e6


def _scaled(value: Interval, scale: Callable[[int], float]) -> Interval:
    """Scale each field; fractions of months go to days (of 30 a month), fractions of days to seconds."""
    try:
        months, days = int(scale(value[0])), int(scale(value[1]))
        month_rest_days = _to_microseconds((scale(value[0]) - months) * 30)
        rest_seconds = (scale(value[1]) - days + month_rest_days - int(month_rest_days)) * 86400
        rest_seconds = _to_microseconds(rest_seconds)
        if abs(rest_seconds) >= 86400:
            whole = int(rest_seconds / 86400)
            days += whole
            rest_seconds -= whole * 86400
        days += int(month_rest_days)
        microseconds = round(scale(value[2]) + rest_seconds * 1e6)
    except (OverflowError, ValueError):
        # infinities and NaN
        raise out_of_range() from None
    return checked(months, days, microseconds)


@implements("interval_mul(interval,float8)")
def interval_times(value: Interval, factor: float) -> Interval:
    return _scaled(value, lambda part: part * factor)


define("mul_d_interval(float8,interval)", lambda factor, value: interval_times(value, factor))


@implements("interval_div(interval,float8)")
def interval_divided(value: Interval, divisor: float) -> Interval:
    if divisor == 0.0:
        raise division_by_zero()
    return _scaled(value, lambda part: part / divisor)


def justify_hours(value: Interval) -> Interval:
    months, days, microseconds = value
    carry, microseconds = _truncated(microseconds, MICROSECONDS_PER_DAY)
    days += carry
    if days > 0 and microseconds < 0:
        days, microseconds = days - 1, microseconds + MICROSECONDS_PER_DAY
    elif days < 0 and microseconds > 0:
        days, microseconds = days + 1, microseconds - MICROSECONDS_PER_DAY
    return checked(months, days, microseconds)


def justify_days(value: Interval) -> Interval:
    months, days, microseconds = value
    carry, days = _truncated(days, 30)
    months += carry
    if months > 0 and days < 0:
        months, days = months - 1, days + 30
    elif months < 0 and days > 0:
        months, days = months + 1, days - 30
    return checked(months, days, microseconds)


def justify_interval(value: Interval) -> Interval:
    months, days, microseconds = value
    if (days > 0 and microseconds > 0) or (days < 0 and microseconds < 0):
        carry, days = _truncated(days, 30)
        months += carry
    carry, microseconds = _truncated(microseconds, MICROSECONDS_PER_DAY)
    days += carry
    carry, days = _truncated(days, 30)
    months += carry
    if months > 0 and (days < 0 or (days == 0 and microseconds < 0)):
        months, days = months - 1, days + 30
    elif months < 0 and (days > 0 or (days == 0 and microseconds > 0)):
        months, days = months + 1, days - 30
    if days > 0 and microseconds < 0:
        days, microseconds = days - 1, microseconds + MICROSECONDS_PER_DAY
    elif days < 0 and microseconds > 0:
        days, microseconds = days + 1, microseconds - MICROSECONDS_PER_DAY
    return checked(months, days, microseconds)


def _truncated(value: int, unit: int) -> tuple[int, int]:
    quotient, remainder = divmod(abs(value), unit)
    return (quotient, remainder) if value >= 0 else (-quotient, -remainder)


define("justify_hours(interval)", justify_hours)
define("justify_days(interval)", justify_days)
define("justify_interval(interval)", justify_interval)

# ------------------------------------------------------------------------------------------------ dates


@implements("date_pli(date,int4)")
def date_plus(days: int, count: int) -> int:
    if days in (DATE_INFINITY, DATE_NEGATIVE_INFINITY):
        return days
    if days + count in (DATE_INFINITY, DATE_NEGATIVE_INFINITY):
        raise date_out_of_range()
    return check_date(days + count)


define("integer_pl_date(int4,date)", lambda count, days: date_plus(days, count))
define("date_mii(date,int4)", lambda days, count: date_plus(days, -count))


@implements("date_mi(date,date)")
def date_minus(left: int, right: int) -> int:
    ends = (DATE_INFINITY, DATE_NEGATIVE_INFINITY)
    if left in ends or right in ends:
        raise DatetimeFieldOverflow("cannot subtract infinite dates")
    return left - right


@implements("datetime_pl(date,time)", "timestamp(date,time)")
def date_and_time(days: int, time: int) -> int:
    value = date_to_timestamp(days)
    return check_timestamp(value + time) if is_finite_timestamp(value) else value


define("timedate_pl(time,date)", lambda time, days: date_and_time(days, time))


@implements("datetimetz_pl(date,timetz)", "timestamptz(date,timetz)")
def date_and_timetz(days: int, time: TimeTz) -> int:
    value = date_to_timestamp(days)
    if not is_finite_timestamp(value):
        return value
    return check_timestamp(value + time[0] + time[1] * MICROSECONDS_PER_SECOND)


define("timetzdate_pl(timetz,date)", lambda time, days: date_and_timetz(days, time))


@implements("timestamptz(date,time)", context=True)
def local_date_and_time(context: EvalContext, days: int, time: int) -> int:
    return timestamp_to_timestamptz(context, date_and_time(days, time))


# ------------------------------------------------------------------------------------------------ timestamps


def timestamp_plus_interval(value: int, span: Interval) -> int:
    if not is_finite_timestamp(value):
        return value
    months, days, microseconds = span
    if months or days:
        date, time = divmod(value, MICROSECONDS_PER_DAY)
        if months:
            date = add_months(date, months)
        value = check_timestamp((date + days) * MICROSECONDS_PER_DAY + time)
    return check_timestamp(value + microseconds)


def timestamptz_plus_interval(context: EvalContext, value: int, span: Interval) -> int:
    if not is_finite_timestamp(value):
        return value
    months, days, microseconds = span
    if months or days:
        zone = session_zone(context)
        value = zone.to_utc(timestamp_plus_interval(zone.to_local(value), Interval(months, days, 0)))
    return check_timestamp(value + microseconds)


def _opposite(span: Interval) -> Interval:
    return Interval(-span[0], -span[1], -span[2])


define("timestamp_pl_interval(timestamp,interval)", timestamp_plus_interval)
define("interval_pl_timestamp(interval,timestamp)", lambda span, value: timestamp_plus_interval(value, span))
define(
    "timestamp_mi_interval(timestamp,interval)",
    lambda value, span: timestamp_plus_interval(value, _opposite(span)),
)
define("timestamptz_pl_interval(timestamptz,interval)", timestamptz_plus_interval, context=True)
define(
    "interval_pl_timestamptz(interval,timestamptz)",
    lambda context, span, value: timestamptz_plus_interval(context, value, span),
    context=True,
)
define(
    "timestamptz_mi_interval(timestamptz,interval)",
    lambda context, value, span: timestamptz_plus_interval(context, value, _opposite(span)),
    context=True,
)
define("date_pl_interval(date,interval)", lambda days, span: timestamp_plus_interval(date_to_timestamp(days), span))
define("interval_pl_date(interval,date)", lambda span, days: timestamp_plus_interval(date_to_timestamp(days), span))
define(
    "date_mi_interval(date,interval)",
    lambda days, span: timestamp_plus_interval(date_to_timestamp(days), _opposite(span)),
)


@implements("timestamp_mi(timestamp,timestamp)", "timestamptz_mi(timestamptz,timestamptz)")
def timestamp_minus(left: int, right: int) -> Interval:
    if not is_finite_timestamp(left) or not is_finite_timestamp(right):
        raise DatetimeFieldOverflow("cannot subtract infinite timestamps")
    return justify_hours(Interval(0, 0, left - right))


# ------------------------------------------------------------------------------------------------ times of day


@implements("time_mi_time(time,time)")
def time_minus(left: int, right: int) -> Interval:
    return Interval(0, 0, left - right)


def time_plus_interval(value: int, span: Interval) -> int:
    return (value + span[2]) % MICROSECONDS_PER_DAY


define("time_pl_interval(time,interval)", time_plus_interval)
define("interval_pl_time(interval,time)", lambda span, value: time_plus_interval(value, span))
define("time_mi_interval(time,interval)", lambda value, span: (value - span[2]) % MICROSECONDS_PER_DAY)
define(
    "timetz_pl_interval(timetz,interval)", lambda value, span: ((value[0] + span[2]) % MICROSECONDS_PER_DAY, value[1])
)
define(
    "interval_pl_timetz(interval,timetz)", lambda span, value: ((value[0] + span[2]) % MICROSECONDS_PER_DAY, value[1])
)
define(
    "timetz_mi_interval(timetz,interval)", lambda value, span: ((value[0] - span[2]) % MICROSECONDS_PER_DAY, value[1])
)

# ------------------------------------------------------------------------------------------------ overlaps


def _overlap(first: Any, first_end: Any, second: Any, second_end: Any) -> bool | None:
    """SQL's OVERLAPS: half-open periods given by two ends in either order; a missing end may leave it unknown."""
    if first is None:
        first, first_end = first_end, None
    if second is None:
        second, second_end = second_end, None
    if first is None or second is None:
        return None
    if first_end is not None and first > first_end:
        first, first_end = first_end, first
    if second_end is not None and second > second_end:
        second, second_end = second_end, second
    if first > second:
        first, first_end, second, second_end = second, second_end, first, first_end
    elif first == second:
        return None if first_end is None or second_end is None else True
    # Now the first begins earlier.
    if first_end is None:
        return None
    return bool(second < first_end)


for _type in ("time", "timestamp", "timestamptz"):
    define(f"overlaps({_type},{_type},{_type},{_type})", _overlap)


def _later(value: int | None, span: Interval | None) -> int | None:
    return None if value is None or span is None else timestamp_plus_interval(value, span)


def _later_instant(context: EvalContext, value: int | None, span: Interval | None) -> int | None:
    return None if value is None or span is None else timestamptz_plus_interval(context, value, span)


def _later_time(value: int | None, span: Interval | None) -> int | None:
    return None if value is None or span is None else time_plus_interval(value, span)


define(
    "overlaps(time,interval,time,interval)",
    lambda a, b, c, d: _overlap(a, _later_time(a, b), c, _later_time(c, d)),
)
define("overlaps(time,time,time,interval)", lambda a, b, c, d: _overlap(a, b, c, _later_time(c, d)))
define("overlaps(time,interval,time,time)", lambda a, b, c, d: _overlap(a, _later_time(a, b), c, d))
define(
    "overlaps(timestamp,interval,timestamp,interval)",
    lambda a, b, c, d: _overlap(a, _later(a, b), c, _later(c, d)),
)
define("overlaps(timestamp,timestamp,timestamp,interval)", lambda a, b, c, d: _overlap(a, b, c, _later(c, d)))
define("overlaps(timestamp,interval,timestamp,timestamp)", lambda a, b, c, d: _overlap(a, _later(a, b), c, d))
define(
    "overlaps(timestamptz,interval,timestamptz,interval)",
    lambda context, a, b, c, d: _overlap(a, _later_instant(context, a, b), c, _later_instant(context, c, d)),
    context=True,
)
define(
    "overlaps(timestamptz,timestamptz,timestamptz,interval)",
    lambda context, a, b, c, d: _overlap(a, b, c, _later_instant(context, c, d)),
    context=True,
)
define(
    "overlaps(timestamptz,interval,timestamptz,timestamptz)",
    lambda context, a, b, c, d: _overlap(a, _later_instant(context, a, b), c, d),
    context=True,
)
