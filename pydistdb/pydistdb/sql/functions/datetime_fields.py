"""Fields of dates and times: extract, date_part, date_trunc, date_bin.

    >>> extract_timestamp("quarter", days_of(2024, 8, 1) * MICROSECONDS_PER_DAY)
    Decimal('3')

extract() gives numeric (seconds with six digits), date_part() the same as float8.  Of infinite timestamps the fields
that grow with time are infinite, others NULL.

Source: PostgreSQL 15 manual, 9.9.1 to 9.9.3.
"""

from __future__ import annotations

from decimal import Decimal

from pydistdb.sql.errors import DatabaseError, DatetimeFieldOverflow, FeatureNotSupported
from pydistdb.sql.functions.datetime_casts import date_to_timestamp, to_local
from pydistdb.sql.functions.define import define, implements
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
    days_of,
    iso_week,
    split_time,
    weekday,
)
from pydistdb.sql.types.datetime import (
    check_timestamp,
    is_finite_timestamp,
    session_zone,
)
from pydistdb.sql.types.integers import INT8_MAX, INT8_MIN
from pydistdb.sql.types.interval import UNIT_SPELLINGS, out_of_range
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


def wrong_unit(unit: str, type_name: str) -> DatabaseError:
    return DatabaseError.of("22023", f'unit "{unit}" not recognized for type {type_name}')


def unsupported_unit(unit: str, type_name: str) -> DatabaseError:
    return DatabaseError.of("0A000", f'unit "{unit}" not supported for type {type_name}')


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
    if size > INT8_MAX:
        raise out_of_range()
    if size <= 0:
        raise DatetimeFieldOverflow("stride must be greater than zero")
    if not INT8_MIN <= value - origin <= INT8_MAX:
        raise out_of_range()
    return check_timestamp(origin + (value - origin) // size * size)
