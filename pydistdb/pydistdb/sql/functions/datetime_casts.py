"""Casts between date/time types, their lengths, and comparisons of dates with timestamps.

A date stands for the midnight it begins with, in the session's zone where the other side is a timestamptz.

    >>> date_to_timestamp(1), timestamp_to_date(-1)
    (86400000000, -1)

Source: PostgreSQL 15 manual, 9.9; catalog pg_cast.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from pydistdb.sql.errors import DatetimeFieldOverflow
from pydistdb.sql.functions.casts import add_length_coercion
from pydistdb.sql.functions.define import define, implements
from pydistdb.sql.types import known
from pydistdb.sql.types.base import EvalContext, Interval
from pydistdb.sql.types.calendar import (
    DATE_INFINITY,
    DATE_NEGATIVE_INFINITY,
    MICROSECONDS_PER_DAY,
    MICROSECONDS_PER_SECOND,
    TIMESTAMP_INFINITY,
    TIMESTAMP_NEGATIVE_INFINITY,
)
from pydistdb.sql.types.datetime import (
    END_TIMESTAMP,
    FIRST_TIMESTAMP,
    check_timestamp,
    fit_time,
    fit_timestamp,
    fit_timetz,
    is_finite_timestamp,
    session_zone,
)
from pydistdb.sql.types.interval import apply_modifier
from pydistdb.sql.types.ordering import timetz_key

TimeTz = tuple[int, int]
"""Microseconds of local time and seconds west of Greenwich."""


# ------------------------------------------------------------------------------------------------ casts


def _widened(days: int) -> int:
    """The midnight of a date, unlimited: for comparisons."""
    if days == DATE_INFINITY:
        return TIMESTAMP_INFINITY
    if days == DATE_NEGATIVE_INFINITY:
        return TIMESTAMP_NEGATIVE_INFINITY
    return days * MICROSECONDS_PER_DAY


@implements("timestamp(date)")
def date_to_timestamp(days: int) -> int:
    value = _widened(days)
    if is_finite_timestamp(value) and not FIRST_TIMESTAMP <= value < END_TIMESTAMP:
        raise DatetimeFieldOverflow("date out of range for timestamp")
    return value


def _date_to_instant(context: EvalContext, days: int) -> int:
    value = _widened(days)
    return session_zone(context).to_utc(value) if is_finite_timestamp(value) else value


@implements("timestamptz(date)", context=True)
def date_to_timestamptz(context: EvalContext, days: int) -> int:
    date_to_timestamp(days)
    value = _date_to_instant(context, days)
    if is_finite_timestamp(value) and not FIRST_TIMESTAMP <= value < END_TIMESTAMP:
        raise DatetimeFieldOverflow("date out of range for timestamp")
    return value


@implements("date(timestamp)")
def timestamp_to_date(value: int) -> int:
    if value == TIMESTAMP_INFINITY:
        return DATE_INFINITY
    if value == TIMESTAMP_NEGATIVE_INFINITY:
        return DATE_NEGATIVE_INFINITY
    return value // MICROSECONDS_PER_DAY


def to_local(context: EvalContext, value: int) -> int:
    """The session's local time at an instant."""
    return session_zone(context).to_local(value) if is_finite_timestamp(value) else value


@implements("timestamp(timestamptz)", context=True)
def timestamptz_to_timestamp(context: EvalContext, value: int) -> int:
    return to_local(context, value)


@implements("timestamptz(timestamp)", context=True)
def timestamp_to_timestamptz(context: EvalContext, value: int) -> int:
    return check_timestamp(session_zone(context).to_utc(value)) if is_finite_timestamp(value) else value


@implements("date(timestamptz)", context=True)
def timestamptz_to_date(context: EvalContext, value: int) -> int:
    return timestamp_to_date(to_local(context, value))


@implements("time(timestamp)")
def timestamp_to_time(value: int) -> int | None:
    return value % MICROSECONDS_PER_DAY if is_finite_timestamp(value) else None


@implements("time(timestamptz)", context=True)
def timestamptz_to_time(context: EvalContext, value: int) -> int | None:
    return timestamp_to_time(to_local(context, value))


@implements("timetz(timestamptz)", context=True)
def timestamptz_to_timetz(context: EvalContext, value: int) -> TimeTz | None:
    if not is_finite_timestamp(value):
        return None
    east = session_zone(context).offset_at(value)
    return (value + east * MICROSECONDS_PER_SECOND) % MICROSECONDS_PER_DAY, -east


define("time(timetz)", lambda value: value[0])
define("time(interval)", lambda value: value[2] % MICROSECONDS_PER_DAY)
define("interval(time)", lambda value: Interval(0, 0, value))


@implements("timetz(time)", context=True)
def time_to_timetz(context: EvalContext, value: int) -> TimeTz:
    zone = session_zone(context)
    today = zone.to_local(context.transaction_timestamp) // MICROSECONDS_PER_DAY * MICROSECONDS_PER_DAY
    return value, -zone.offset_at(zone.to_utc(today + value))


add_length_coercion(1961, known.TIMESTAMP, lambda value, modifier, explicit: fit_timestamp(value, modifier))
add_length_coercion(1967, known.TIMESTAMPTZ, lambda value, modifier, explicit: fit_timestamp(value, modifier))
add_length_coercion(1968, known.TIME, lambda value, modifier, explicit: fit_time(value, modifier))
add_length_coercion(1969, known.TIMETZ, lambda value, modifier, explicit: fit_timetz(value, modifier))
add_length_coercion(1200, known.INTERVAL, apply_modifier)

# ------------------------------------------------------------------------------------------------ comparisons

_TESTS: dict[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "cmp": lambda left, right: (left > right) - (left < right),
}


def _local_to_instant(context: EvalContext, value: int) -> int:
    return session_zone(context).to_utc(value) if is_finite_timestamp(value) else value


def _define_mixed(name: str, test: Callable[[Any, Any], Any]) -> None:
    define(f"date_{name}_timestamp(date,timestamp)", lambda left, right: test(_widened(left), right))
    define(f"timestamp_{name}_date(timestamp,date)", lambda left, right: test(left, _widened(right)))
    define(
        f"date_{name}_timestamptz(date,timestamptz)",
        lambda context, left, right: test(_date_to_instant(context, left), right),
        context=True,
    )
    define(
        f"timestamptz_{name}_date(timestamptz,date)",
        lambda context, left, right: test(left, _date_to_instant(context, right)),
        context=True,
    )
    define(
        f"timestamp_{name}_timestamptz(timestamp,timestamptz)",
        lambda context, left, right: test(_local_to_instant(context, left), right),
        context=True,
    )
    define(
        f"timestamptz_{name}_timestamp(timestamptz,timestamp)",
        lambda context, left, right: test(left, _local_to_instant(context, right)),
        context=True,
    )


for _name, _test in _TESTS.items():
    _define_mixed(_name, _test)
for _type in ("date", "time", "timestamp", "timestamptz"):
    define(f"{_type}_larger({_type},{_type})", max)
    define(f"{_type}_smaller({_type},{_type})", min)
define("timetz_larger(timetz,timetz)", lambda left, right: max(left, right, key=timetz_key))
define("timetz_smaller(timetz,timetz)", lambda left, right: min(left, right, key=timetz_key))
