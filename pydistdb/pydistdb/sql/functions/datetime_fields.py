"""Fields of dates and times: extract, date_part, date_trunc, date_bin, age, make_*, AT TIME ZONE, the clock.

    >>> extract_timestamp("quarter", days_of(2024, 8, 1) * MICROSECONDS_PER_DAY)
    Decimal('3')

extract() gives numeric (seconds with six digits), date_part() the same as float8.  Of infinite timestamps the fields
that grow with time are infinite, others NULL.

Source: PostgreSQL 15 manual, 9.9.1 to 9.9.5.
"""

from __future__ import annotations

import time as clock_module
from decimal import Decimal

from pydistdb.sql.errors import DatabaseError, DatetimeFieldOverflow, FeatureNotSupported, InvalidParameterValue
from pydistdb.sql.functions.datetime_arithmetic import (
    date_to_timestamp,
    interval_divided,
    interval_plus,
    to_local,
    unsupported_unit,
    wrong_unit,
)
from pydistdb.sql.functions.define import AggregateBody, define, define_aggregate, implements
from pydistdb.sql.types import numeric
from pydistdb.sql.types.base import EvalContext, Interval
from pydistdb.sql.types.calendar import (
    DATE_INFINITY,
    DATE_NEGATIVE_INFINITY,
    JULIAN_DAY_OF_2000,
    MICROSECONDS_PER_DAY,
    MICROSECONDS_PER_HOUR,
    MICROSECONDS_PER_MINUTE,
    MICROSECONDS_PER_SECOND,
    TIMESTAMP_INFINITY,
    UNIX_EPOCH_DAYS,
    UNIX_EPOCH_MICROSECONDS,
    civil_of,
    days_in_month,
    days_of,
    iso_week,
    split_time,
    weekday,
)
from pydistdb.sql.types.datetime import (
    FIRST_DATE,
    check_timestamp,
    is_finite_timestamp,
    session_zone,
    timestamp_out_of_range,
)
from pydistdb.sql.types.interval import UNIT_SPELLINGS, checked, format_interval
from pydistdb.sql.types.zones import Zone, zone_or_abbreviation

TIMESTAMP_NAME = "timestamp without time zone"
TIMESTAMPTZ_NAME = "timestamp with time zone"

_FIELD_SPELLINGS = UNIT_SPELLINGS | {
    "dow": "dow",
    "isodow": "isodow",
    "doy": "doy",
    "isoyear": "isoyear",
    "epoch": "epoch",
    "julian": "julian",
    "j": "julian",
    "jd": "julian",
    "timezone": "timezone",
    "timezone_h": "timezone_hour",
    "timezone_hour": "timezone_hour",
    "timezone_m": "timezone_minute",
    "timezone_minute": "timezone_minute",
    "week": "week",
}
_GROWING = frozenset(("year", "decade", "century", "millennium", "julian", "isoyear", "epoch"))
_ZONE_FIELDS = frozenset(("timezone", "timezone_hour", "timezone_minute"))

# ------------------------------------------------------------------------------------------------ extract


def field_named(unit: str, type_name: str) -> str:
    field = _FIELD_SPELLINGS.get(unit.lower())
    if field is None:
        raise wrong_unit(unit.lower(), type_name)
    return field


def _scaled(value: int, digits: int) -> Decimal:
    return Decimal(value).scaleb(-digits, numeric.EXACT)


def _century(year: int, length: int) -> int:
    """1 to 100 is the first century; years before 1 count backwards from -1."""
    return (year + length - 1) // length if year > 0 else -((length - 1 - (year - 1)) // length)


def _date_field(field: str, days: int) -> int | None:
    year, month, day = civil_of(days)
    match field:
        case "day":
            return day
        case "month":
            return month
        case "quarter":
            return (month - 1) // 3 + 1
        case "year":
            # There is no year 0: 1 BC is -1.
            return year if year > 0 else year - 1
        case "week":
            return iso_week(days)[1]
        case "isoyear":
            iso_year = iso_week(days)[0]
            return iso_year if iso_year > 0 else iso_year - 1
        case "decade":
            return year // 10
        case "century":
            return _century(year, 100)
        case "millennium":
            return _century(year, 1000)
        case "dow":
            return weekday(days)
        case "isodow":
            return weekday(days) or 7
        case "doy":
            return days - days_of(year, 1, 1) + 1
    return None


def _time_field(field: str, microseconds: int) -> Decimal | None:
    hour, minute, second, fraction = split_time(microseconds)
    seconds = second * MICROSECONDS_PER_SECOND + fraction
    match field:
        case "microsecond":
            return Decimal(seconds)
        case "millisecond":
            return _scaled(seconds, 3)
        case "second":
            return _scaled(seconds, 6)
        case "minute":
            return Decimal(minute)
        case "hour":
            return Decimal(hour)
    return None


def _zone_field(field: str, east: int) -> Decimal:
    match field:
        case "timezone_hour":
            return Decimal(int(east / 3600))
        case "timezone_minute":
            return Decimal(int(east / 60) - int(east / 3600) * 60)
    return Decimal(east)


def _of_infinity(field: str, positive: bool) -> Decimal | None:
    if field not in _GROWING:
        return None
    return numeric.INFINITY if positive else numeric.NEGATIVE_INFINITY


def _extract_timestamp(unit: str, value: int, type_name: str, east: int | None) -> Decimal | None:
    """Take a field of local time; ``east`` is the offset if there is a zone, which must then be taken off for the epoch."""
    field = field_named(unit, type_name)
    if not is_finite_timestamp(value):
        return _of_infinity(field, value == TIMESTAMP_INFINITY)
    if field in _ZONE_FIELDS and east is None:
        raise unsupported_unit(unit.lower(), type_name)
    if field in _ZONE_FIELDS:
        return _zone_field(field, east or 0)
    days, microseconds = divmod(value, MICROSECONDS_PER_DAY)
    if field == "epoch":
        return _scaled(value - (east or 0) * MICROSECONDS_PER_SECOND - UNIX_EPOCH_MICROSECONDS, 6)
    if field == "julian":
        fraction = numeric.divide(Decimal(microseconds), Decimal(MICROSECONDS_PER_DAY))
        return numeric.add(Decimal(days + JULIAN_DAY_OF_2000), fraction)
    number = _date_field(field, days)
    if number is not None:
        return Decimal(number)
    return _time_field(field, microseconds)


@implements("extract(text,timestamp)")
def extract_timestamp(unit: str, value: int) -> Decimal | None:
    return _extract_timestamp(unit, value, TIMESTAMP_NAME, None)


@implements("extract(text,timestamptz)", context=True)
def extract_timestamptz(context: EvalContext, unit: str, value: int) -> Decimal | None:
    east = session_zone(context).offset_at(value) if is_finite_timestamp(value) else 0
    local = to_local(context, value)
    return _extract_timestamp(unit, local, TIMESTAMPTZ_NAME, east)


@implements("extract(text,date)")
def extract_date(unit: str, value: int) -> Decimal | None:
    field = field_named(unit, "date")
    if field in _ZONE_FIELDS or field in ("hour", "minute", "second", "millisecond", "microsecond"):
        raise unsupported_unit(unit.lower(), "date")
    if value in (DATE_INFINITY, DATE_NEGATIVE_INFINITY):
        return _of_infinity(field, value == DATE_INFINITY)
    if field == "epoch":
        return Decimal((value - UNIX_EPOCH_DAYS) * 86400)
    if field == "julian":
        return Decimal(value + JULIAN_DAY_OF_2000)
    number = _date_field(field, value)
    return None if number is None else Decimal(number)


def _extract_time(unit: str, microseconds: int, type_name: str, zone: int | None) -> Decimal:
    field = field_named(unit, type_name)
    if field in _ZONE_FIELDS and zone is not None:
        return _zone_field(field, -zone)
    if field == "epoch":
        return _scaled(microseconds + (zone or 0) * MICROSECONDS_PER_SECOND, 6)
    value = _time_field(field, microseconds)
    if value is None:
        raise unsupported_unit(unit.lower(), type_name)
    return value


@implements("extract(text,time)")
def extract_time(unit: str, value: int) -> Decimal:
    return _extract_time(unit, value, "time without time zone", None)


@implements("extract(text,timetz)")
def extract_timetz(unit: str, value: tuple[int, int]) -> Decimal:
    return _extract_time(unit, value[0], "time with time zone", value[1])


@implements("extract(text,interval)")
def extract_interval(unit: str, value: Interval) -> Decimal:
    field = field_named(unit, "interval")
    years, months = _truncated(value[0], 12)
    hours, rest = _truncated(value[2], MICROSECONDS_PER_HOUR)
    minutes, seconds = _truncated(rest, MICROSECONDS_PER_MINUTE)
    match field:
        case "microsecond":
            return Decimal(seconds)
        case "millisecond":
            return _scaled(seconds, 3)
        case "second":
            return _scaled(seconds, 6)
        case "epoch":
            # A year has 365.25 days here, a month 30.
            quarter_days = years * 1461 + 4 * (30 * months + value[1])
            return _scaled(quarter_days * (MICROSECONDS_PER_DAY // 4) + value[2], 6)
    numbers = {
        "minute": minutes,
        "hour": hours,
        "day": value[1],
        "month": months,
        "quarter": int(months / 3) + 1,
        "year": years,
        "decade": int(years / 10),
        "century": int(years / 100),
        "millennium": int(years / 1000),
    }
    if field not in numbers:
        raise unsupported_unit(unit.lower(), "interval")
    return Decimal(numbers[field])


def _truncated(value: int, unit: int) -> tuple[int, int]:
    quotient, remainder = divmod(abs(value), unit)
    return (quotient, remainder) if value >= 0 else (-quotient, -remainder)


def _as_float(value: Decimal | None) -> float | None:
    return None if value is None else float(value)


define("date_part(text,timestamp)", lambda unit, value: _as_float(extract_timestamp(unit, value)))
define(
    "date_part(text,timestamptz)",
    lambda context, unit, value: _as_float(extract_timestamptz(context, unit, value)),
    context=True,
)
define("date_part(text,date)", lambda unit, days: _as_float(extract_timestamp(unit, date_to_timestamp(days))))
define("date_part(text,time)", lambda unit, value: _as_float(extract_time(unit, value)))
define("date_part(text,timetz)", lambda unit, value: _as_float(extract_timetz(unit, value)))
define("date_part(text,interval)", lambda unit, value: _as_float(extract_interval(unit, value)))

# ------------------------------------------------------------------------------------------------ date_trunc

_TIME_UNITS = {
    "microsecond": 1,
    "millisecond": 1000,
    "second": MICROSECONDS_PER_SECOND,
    "minute": MICROSECONDS_PER_MINUTE,
    "hour": MICROSECONDS_PER_HOUR,
    "day": MICROSECONDS_PER_DAY,
}
_YEARS = {"decade": 10, "century": 100, "millennium": 1000}


def _truncation_field(unit: str, type_name: str) -> str:
    """Fields that are no units of time are unknown to date_trunc."""
    field = field_named(unit, type_name)
    if field in ("isoyear", "dow", "isodow", "doy", "epoch", "julian"):
        raise wrong_unit(unit.lower(), type_name)
    return field


def _truncate_local(unit: str, value: int, type_name: str) -> int:
    field = _truncation_field(unit, type_name)
    if field in _TIME_UNITS:
        return value // _TIME_UNITS[field] * _TIME_UNITS[field]
    days = value // MICROSECONDS_PER_DAY
    year, month, _ = civil_of(days)
    match field:
        case "week":
            days -= (weekday(days) - 1) % 7
        case "month":
            days = days_of(year, month, 1)
        case "quarter":
            days = days_of(year, (month - 1) // 3 * 3 + 1, 1)
        case "year":
            days = days_of(year, 1, 1)
        case "decade":
            days = days_of(year // 10 * 10, 1, 1)
        case "century" | "millennium":
            length = _YEARS[field]
            days = days_of((year - 1) // length * length + 1, 1, 1)
        case _:
            raise unsupported_unit(unit.lower(), type_name)
    return check_timestamp(days * MICROSECONDS_PER_DAY)


@implements("date_trunc(text,timestamp)")
def truncate_timestamp(unit: str, value: int) -> int:
    return _truncate_local(unit, value, TIMESTAMP_NAME) if is_finite_timestamp(value) else value


def _truncate_in_zone(unit: str, value: int, zone: Zone) -> int:
    if not is_finite_timestamp(value):
        return value
    local = _truncate_local(unit, zone.to_local(value), TIMESTAMPTZ_NAME)
    if field_named(unit, TIMESTAMPTZ_NAME) in ("microsecond", "millisecond", "second", "minute", "hour"):
        # Below a day the offset stays what it is, also in the hour that comes twice.
        return local - zone.offset_at(value) * MICROSECONDS_PER_SECOND
    return zone.to_utc(local)


define(
    "date_trunc(text,timestamptz)",
    lambda context, unit, value: _truncate_in_zone(unit, value, session_zone(context)),
    context=True,
)
define(
    "date_trunc(text,timestamptz,text)",
    lambda unit, value, zone: _truncate_in_zone(unit, value, zone_or_abbreviation(zone)),
)


@implements("date_trunc(text,interval)")
def truncate_interval(unit: str, value: Interval) -> Interval:
    field = _truncation_field(unit, "interval")
    months, days, microseconds = value
    if field in _TIME_UNITS and field != "day":
        size = _TIME_UNITS[field]
        return Interval(months, days, _truncated(microseconds, size)[0] * size)
    if field == "day":
        return Interval(months, days, 0)
    size = {"month": 1, "quarter": 3, "year": 12, "decade": 120, "century": 1200, "millennium": 12000}.get(field, 0)
    if not size:
        error = unsupported_unit(unit.lower(), "interval")
        if field == "week":
            error.detail = "Months usually have fractional weeks."
        raise error
    return Interval(_truncated(months, size)[0] * size, 0, 0)


@implements("date_bin(interval,timestamp,timestamp)", "date_bin(interval,timestamptz,timestamptz)")
def date_bin(stride: Interval, value: int, origin: int) -> int:
    if not is_finite_timestamp(value):
        return value
    if not is_finite_timestamp(origin):
        raise DatetimeFieldOverflow("origin out of range")
    if stride[0]:
        raise FeatureNotSupported("timestamps cannot be binned into intervals containing months or years")
    size = stride[1] * MICROSECONDS_PER_DAY + stride[2]
    if size <= 0:
        raise DatetimeFieldOverflow("stride must be greater than zero")
    return check_timestamp(origin + (value - origin) // size * size)


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
    """A zone name, an abbreviation, or an offset in digits (positive is west, as in POSIX)."""
    text = name.strip()
    if text[:1] in ("+", "-") and text[1:2].isdigit():
        hours, _, minutes = text[1:].partition(":")
        if hours.isdigit() and (not minutes or minutes.isdigit()):
            seconds = int(hours) * 3600 + int(minutes or 0) * 60
            return Zone(name, seconds if text[0] == "+" else -seconds)
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
