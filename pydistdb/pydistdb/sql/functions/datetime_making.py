"""Making dates and times: age, make_*, to_timestamp(epoch), AT TIME ZONE, the clock, sums and averages of intervals.

    >>> age(days_of(2001, 4, 10) * MICROSECONDS_PER_DAY, days_of(1957, 6, 13) * MICROSECONDS_PER_DAY)
    Interval(months=525, days=27, microseconds=0)

Source: PostgreSQL 15 manual, 9.9 and 9.9.4.
"""

from __future__ import annotations

import time as clock_module

from pydistdb.sql.errors import (
    DatabaseError,
    DatetimeFieldOverflow,
    InvalidDatetimeFormat,
    InvalidParameterValue,
)
from pydistdb.sql.functions.datetime_arithmetic import interval_divided, interval_plus
from pydistdb.sql.functions.datetime_casts import to_local
from pydistdb.sql.functions.define import AggregateBody, define, define_aggregate, implements
from pydistdb.sql.types.base import EvalContext, Interval
from pydistdb.sql.types.calendar import (
    DATE_INFINITY,
    DATE_NEGATIVE_INFINITY,
    MICROSECONDS_PER_DAY,
    MICROSECONDS_PER_HOUR,
    MICROSECONDS_PER_MINUTE,
    MICROSECONDS_PER_SECOND,
    TIMESTAMP_INFINITY,
    UNIX_EPOCH_MICROSECONDS,
    civil_of,
    days_in_month,
    days_of,
)
from pydistdb.sql.types.datetime import (
    FIRST_DATE,
    check_timestamp,
    is_finite_timestamp,
    session_zone,
    timestamp_out_of_range,
)
from pydistdb.sql.types.datetime_parse import Rules, parse_offset
from pydistdb.sql.types.interval import checked, format_interval
from pydistdb.sql.types.zones import Zone, zone_or_abbreviation

# ------------------------------------------------------------------------------------------------ age


def age(later: int, earlier: int) -> Interval:
    """Subtract field by field: years and months as a person would count them."""
    if not is_finite_timestamp(later) or not is_finite_timestamp(earlier):
        raise timestamp_out_of_range()
    sign = 1
    if later < earlier:
        later, earlier, sign = earlier, later, -1
    later_days, later_time = divmod(later, MICROSECONDS_PER_DAY)
    earlier_days, earlier_time = divmod(earlier, MICROSECONDS_PER_DAY)
    year, month, day = civil_of(later_days)
    earlier_year, earlier_month, earlier_day = civil_of(earlier_days)
    microseconds = later_time - earlier_time
    days = day - earlier_day
    months = (year - earlier_year) * 12 + month - earlier_month
    if microseconds < 0:
        microseconds += MICROSECONDS_PER_DAY
        days -= 1
    if days < 0:
        # Borrow the month in which the earlier time lies.
        days += days_in_month(earlier_year, earlier_month)
        months -= 1
    return Interval(sign * months, sign * days, sign * microseconds)


define("age(timestamp,timestamp)", age)
define(
    "age(timestamptz,timestamptz)",
    lambda context, later, earlier: age(to_local(context, later), to_local(context, earlier)),
    context=True,
)


def _today(context: EvalContext) -> int:
    local = to_local(context, context.transaction_timestamp)
    return local // MICROSECONDS_PER_DAY * MICROSECONDS_PER_DAY


define("age(timestamp)", lambda context, value: age(_today(context), value), context=True)
define("age(timestamptz)", lambda context, value: age(_today(context), to_local(context, value)), context=True)

# ------------------------------------------------------------------------------------------------ making


def _field_error(kind: str, shown: str) -> DatabaseError:
    return DatetimeFieldOverflow(f"{kind} field value out of range: {shown}")


@implements("make_date(int4,int4,int4)")
def make_date(year: int, month: int, day: int) -> int:
    error = _field_error("date", f"{year}-{month:02d}-{day:02d}")
    if year == 0 or not 1 <= month <= 12:
        raise error
    if year < 0:
        year += 1
    if not 1 <= day <= days_in_month(year, month):
        raise error
    days = days_of(year, month, day)
    if days < FIRST_DATE:
        raise DatetimeFieldOverflow(f"date out of range: {year}-{month:02d}-{day:02d}")
    return days


@implements("make_time(int4,int4,float8)")
def make_time(hour: int, minute: int, second: float) -> int:
    shown = f"{hour}:{minute:02d}:{second:02g}"
    if not (0 <= hour <= 24 and 0 <= minute <= 59 and 0 <= second <= 60):
        raise _field_error("time", shown)
    value = (hour * 60 + minute) * MICROSECONDS_PER_MINUTE + round(second * MICROSECONDS_PER_SECOND)
    if value > MICROSECONDS_PER_DAY:
        raise _field_error("time", shown)
    return value


@implements("make_timestamp(int4,int4,int4,int4,int4,float8)")
def make_timestamp(year: int, month: int, day: int, hour: int, minute: int, second: float) -> int:
    return check_timestamp(make_date(year, month, day) * MICROSECONDS_PER_DAY + make_time(hour, minute, second))


@implements("make_timestamptz(int4,int4,int4,int4,int4,float8)", context=True)
def make_timestamptz(
    context: EvalContext, year: int, month: int, day: int, hour: int, minute: int, second: float
) -> int:
    return check_timestamp(session_zone(context).to_utc(make_timestamp(year, month, day, hour, minute, second)))


@implements("make_timestamptz(int4,int4,int4,int4,int4,float8,text)")
def make_timestamptz_in(year: int, month: int, day: int, hour: int, minute: int, second: float, zone: str) -> int:
    local = make_timestamp(year, month, day, hour, minute, second)
    return check_timestamp(zone_or_offset(zone).to_utc(local))


def make_interval(
    years: int = 0, months: int = 0, weeks: int = 0, days: int = 0, hours: int = 0, mins: int = 0, secs: float = 0.0
) -> Interval:
    microseconds = hours * MICROSECONDS_PER_HOUR + mins * MICROSECONDS_PER_MINUTE
    try:
        microseconds += round(secs * MICROSECONDS_PER_SECOND)
    except (OverflowError, ValueError):
        raise DatetimeFieldOverflow("interval out of range") from None
    return checked(years * 12 + months, weeks * 7 + days, microseconds)


define("make_interval(int4,int4,int4,int4,int4,int4,float8)", make_interval, defaults=(0, 0, 0, 0, 0, 0, 0.0))


@implements("to_timestamp(float8)")
def from_epoch(seconds: float) -> int:
    if seconds != seconds:
        raise DatetimeFieldOverflow("timestamp cannot be NaN")
    if seconds in (float("inf"), float("-inf")):
        return TIMESTAMP_INFINITY if seconds > 0 else -TIMESTAMP_INFINITY - 1
    if not -210866803200.0 <= seconds < 9224318016000.0:
        raise DatetimeFieldOverflow(f'timestamp out of range: "{seconds:g}"')
    return round((seconds - 946684800.0) * MICROSECONDS_PER_SECOND)


# ------------------------------------------------------------------------------------------------ zones


def zone_or_offset(name: str) -> Zone:
    """A zone name, an abbreviation, or an offset in digits (positive is east, as in a timestamp)."""
    if name[:1].isdigit():
        raise InvalidParameterValue(
            f'invalid input syntax for type numeric time zone: "{name}"',
            hint='Numeric time zones must have "-" or "+" as first character.',
        )
    if name[:1] in ("+", "-"):
        try:
            return Zone(name, parse_offset(name, name, Rules()))
        except InvalidDatetimeFormat:
            pass  # a POSIX zone may begin so, too
        except DatabaseError:
            raise InvalidParameterValue(f'numeric time zone "{name}" out of range') from None
    return zone_or_abbreviation(name)


def _zone_of_interval(value: Interval) -> Zone:
    if value[0] or value[1]:
        shown = format_interval(value, None)
        raise InvalidParameterValue(f'interval time zone "{shown}" must not include months or days')
    return Zone("", value[2] // MICROSECONDS_PER_SECOND)


def _from_zone(zone: Zone, value: int) -> int:
    return check_timestamp(zone.to_utc(value)) if is_finite_timestamp(value) else value


def _into_zone(zone: Zone, value: int) -> int:
    return check_timestamp(zone.to_local(value)) if is_finite_timestamp(value) else value


def _timetz_into_zone(context: EvalContext, zone: Zone, value: tuple[int, int]) -> tuple[int, int]:
    east = zone.offset_at(context.transaction_timestamp)
    local = (value[0] + (value[1] + east) * MICROSECONDS_PER_SECOND) % MICROSECONDS_PER_DAY
    return local, -east


define("timezone(text,timestamp)", lambda name, value: _from_zone(zone_or_abbreviation(name), value))
define("timezone(text,timestamptz)", lambda name, value: _into_zone(zone_or_abbreviation(name), value))
define(
    "timezone(text,timetz)",
    lambda context, name, value: _timetz_into_zone(context, zone_or_abbreviation(name), value),
    context=True,
)
define("timezone(interval,timestamp)", lambda span, value: _from_zone(_zone_of_interval(span), value))
define("timezone(interval,timestamptz)", lambda span, value: _into_zone(_zone_of_interval(span), value))
define(
    "timezone(interval,timetz)",
    lambda context, span, value: _timetz_into_zone(context, _zone_of_interval(span), value),
    context=True,
)

# ------------------------------------------------------------------------------------------------ the clock


def _now(context: EvalContext) -> int:
    return context.transaction_timestamp


def clock_timestamp() -> int:
    """The wall clock, in microseconds since 2000 (the only function that looks at it)."""
    return clock_module.time_ns() // 1000 + UNIX_EPOCH_MICROSECONDS


define("now()", _now, context=True)
define("transaction_timestamp()", _now, context=True)
define("statement_timestamp()", lambda context: context.statement_timestamp, context=True)
define("clock_timestamp()", clock_timestamp)
for _type in ("timestamp", "timestamptz"):
    define(f"isfinite({_type})", is_finite_timestamp)
define("isfinite(date)", lambda value: value not in (DATE_INFINITY, DATE_NEGATIVE_INFINITY))
define("isfinite(interval)", lambda value: True)

# ------------------------------------------------------------------------------------------------ aggregates


def _accumulate_average(state: tuple[int, Interval], value: Interval) -> tuple[int, Interval]:
    return state[0] + 1, interval_plus(state[1], value)


def _define_aggregates() -> None:
    zero = Interval(0, 0, 0)

    def combine(left: Interval | None, right: Interval | None) -> Interval | None:
        return right if left is None else left if right is None else interval_plus(left, right)

    def accumulate(state: Interval | None, value: Interval) -> Interval:
        return value if state is None else interval_plus(state, value)

    define_aggregate("sum(interval)", AggregateBody(lambda: None, accumulate, lambda state: state, combine))
    define_aggregate(
        "avg(interval)",
        AggregateBody(
            lambda: (0, zero),
            _accumulate_average,
            lambda state: interval_divided(state[1], float(state[0])) if state[0] else None,
            lambda left, right: (left[0] + right[0], interval_plus(left[1], right[1])),
        ),
    )


_define_aggregates()
