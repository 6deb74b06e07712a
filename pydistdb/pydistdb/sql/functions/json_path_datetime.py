r"""Dates and times in jsonpath: what ``.datetime()`` gives, and how such items compare.

Texts are read in the standard's strict way, along a template or along those of ISO 8601 in turn::

    $.datetime()                  of "2024-02-29"       a date
    $.datetime("HH24:MI TZH")     of "10:30 +02"        a time with time zone, shown as "10:30:00+02:00"

Two kinds compare if one can be converted to the other, else the answer is unknown.  Conversions that need the session's time
zone are for the functions whose names end in ``_tz``; the others, being immutable, refuse them.

Source: PostgreSQL 15 manual, 9.16.2; jsonpath_exec.c (executeDateTimeMethod, compareDatetime).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydistdb.sql.errors import DatabaseError, FeatureNotSupported
from pydistdb.sql.functions.datetime_casts import time_to_timetz
from pydistdb.sql.functions.datetime_scan import read_strictly
from pydistdb.sql.types.base import EvalContext
from pydistdb.sql.types.calendar import MICROSECONDS_PER_DAY, MICROSECONDS_PER_SECOND
from pydistdb.sql.types.datetime import format_date, format_time, format_timestamp, session_zone
from pydistdb.sql.types.ordering import timetz_key

TYPE_NAMES = {
    "date": "date",
    "time": "time without time zone",
    "timetz": "time with time zone",
    "timestamp": "timestamp without time zone",
    "timestamptz": "timestamp with time zone",
}
_DAYS = ("date", "timestamp", "timestamptz")
_CLOCKS = ("time", "timetz")
_TIMES = (
    "HH24:MI:SS.USTZH:TZM",
    "HH24:MI:SS.USTZH",
    "HH24:MI:SSTZH:TZM",
    "HH24:MI:SSTZH",
    "HH24:MI:SS.US",
    "HH24:MI:SS",
)
_TEMPLATES = ("yyyy-mm-dd", *_TIMES, *(f"yyyy-mm-dd{between}{time}" for between in (" ", '"T"') for time in _TIMES))


@dataclass(frozen=True, slots=True)
class PathMoment:
    """An item that is a date or a time: ``kind`` is a key of TYPE_NAMES, ``value`` the value of that type."""

    kind: str
    value: Any
    east: int = 0
    """The time zone in which it was written, in seconds."""


def moment_of(item: Any, template: str | None) -> PathMoment:
    """``item.datetime(template)``"""
    if not isinstance(item, str):
        raise DatabaseError.of("22031", "jsonpath item method .datetime() can only be applied to a string")
    if template is not None:
        return PathMoment(*read_strictly(item, template))
    for each in _TEMPLATES:
        try:
            return PathMoment(*read_strictly(item, each))
        except DatabaseError as error:
            if not error.sqlstate.startswith("22"):
                raise
    raise DatabaseError.of(
        "22031",
        f'datetime format is not recognized: "{item}"',
        hint="Use a datetime template argument to specify the input data format.",
    )


def shown(moment: PathMoment) -> str:
    """The text in JSON; a time zone shows its minutes too."""
    value = moment.value
    match moment.kind:
        case "date":
            return format_date(value, None)
        case "time":
            return format_time(value, None)
        case "timetz":
            return format_time(value[0], None) + _offset(moment.east)
        case "timestamp":
            return format_timestamp(value, None).replace(" ", "T", 1)
    local = value + moment.east * MICROSECONDS_PER_SECOND
    return format_timestamp(local, None).replace(" ", "T", 1) + _offset(moment.east)


def _offset(east: int) -> str:
    hours, minutes = divmod(abs(east) // 60, 60)
    return f"{'-' if east < 0 else '+'}{hours:02}:{minutes:02}"


def compare(left: PathMoment, right: PathMoment, context: EvalContext | None) -> int | None:
    """Tell which comes first (-1, 0, 1); None where kinds cannot be compared.  Without a context no time zone is known."""
    for family in (_DAYS, _CLOCKS):
        if left.kind in family and right.kind in family:
            kind = max(left.kind, right.kind, key=family.index)
            one, other = _converted(left, kind, context), _converted(right, kind, context)
            order: int = (one > other) - (one < other)
            return order
    return None


def _converted(moment: PathMoment, kind: str, context: EvalContext | None) -> Any:
    value = moment.value
    if moment.kind != kind:
        local = value * MICROSECONDS_PER_DAY if moment.kind == "date" else value
        if kind == "timestamp":
            return local
        if context is None:
            raise FeatureNotSupported(
                f"cannot convert value from {moment.kind} to {kind} without time zone usage",
                hint="Use *_tz() function for time zone support.",
            )
        if kind == "timestamptz":
            return session_zone(context).to_utc(local)
        value = time_to_timetz(context, value)
    return timetz_key(value) if kind == "timetz" else value
