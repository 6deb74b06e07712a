"""date, time, timetz, timestamp and timestamptz: input, output and range checks.

Values are integers (see base.py); reading is in datetime_parse.py, calendar arithmetic in calendar.py.  ISO dates, by far
the most common input, take a short cut through one regular expression.

    >>> parse_date("2024-02-29", -1, None), format_date(8825, None)
    (8825, '2024-02-29')

Source: PostgreSQL 15 manual, 8.5.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from pydistdb.sql.errors import DatabaseError, DatetimeFieldOverflow
from pydistdb.sql.types import zones
from pydistdb.sql.types.base import EvalContext, TypeIO
from pydistdb.sql.types.calendar import (
    DATE_INFINITY,
    DATE_NEGATIVE_INFINITY,
    MICROSECONDS_PER_DAY,
    MICROSECONDS_PER_SECOND,
    TIMESTAMP_INFINITY,
    TIMESTAMP_NEGATIVE_INFINITY,
    UNIX_EPOCH_DAYS,
    date_text,
    days_in_month,
    days_of,
    offset_text,
    time_text,
)
from pydistdb.sql.types.date_styles import style_of, styled_date, styled_timestamp
from pydistdb.sql.types.datetime_parse import Moment, Rules, field_overflow, invalid, read
from pydistdb.sql.types.integers import packed, wrong_binary_length
from pydistdb.sql.types.zones import Zone

FIRST_DATE = -2451545
"""4714-11-24 BC, Julian day 0."""
END_DATE = 2145031949
FIRST_TIMESTAMP = FIRST_DATE * MICROSECONDS_PER_DAY
END_TIMESTAMP = 9_223_371_331_200_000_000
"""294277-01-01, where Postgres's timestamps end."""

_ISO_DATE = re.compile(r"(\d{4})-(\d{2})-(\d{2})")
_ISO_TIMESTAMP = re.compile(
    r"(\d{4})-(\d{2})-(\d{2})[ T](\d{2}):(\d{2}):(\d{2})(?:\.(\d{1,6}))?(?:([+-]\d{2})(?::?(\d{2}))?)?"
)


def timestamp_out_of_range() -> DatabaseError:
    return DatetimeFieldOverflow("timestamp out of range")


def date_out_of_range() -> DatabaseError:
    return DatetimeFieldOverflow("date out of range")


def check_date(days: int) -> int:
    if FIRST_DATE <= days < END_DATE or days in (DATE_INFINITY, DATE_NEGATIVE_INFINITY):
        return days
    raise date_out_of_range()


def check_timestamp(value: int) -> int:
    if FIRST_TIMESTAMP <= value < END_TIMESTAMP or value in (TIMESTAMP_INFINITY, TIMESTAMP_NEGATIVE_INFINITY):
        return value
    raise timestamp_out_of_range()


def is_finite_timestamp(value: int) -> bool:
    return value != TIMESTAMP_INFINITY and value != TIMESTAMP_NEGATIVE_INFINITY


def session_zone(context: EvalContext | None) -> Zone:
    return zones.UTC if context is None or context.timezone == "UTC" else zones.zone(context.timezone)


def _rules(type_name: str, context: EvalContext | None) -> Rules:
    style = context.settings.get("datestyle", "") if context is not None else ""
    order = next((order for order in ("DMY", "YMD") if order in style.upper()), "MDY")
    return Rules(type_name, order)


def round_microseconds(value: int, digits: int) -> int:
    """Round to the digits of a second that a modifier allows, halves away from zero."""
    if digits >= 6:
        return value
    unit: int = 10 ** (6 - digits)
    half = unit // 2
    return (value + half) // unit * unit if value >= 0 else -((-value + half) // unit * unit)


def fit_timestamp(value: int, modifier: int) -> int:
    if modifier < 0 or not is_finite_timestamp(value):
        return value
    return round_microseconds(value, modifier)


def fit_time(value: int, modifier: int) -> int:
    return value if modifier < 0 else round_microseconds(value, modifier)


def fit_timetz(value: tuple[int, int], modifier: int) -> tuple[int, int]:
    return (fit_time(value[0], modifier), value[1])


# ------------------------------------------------------------------------------------------------ input


def _local_now(context: EvalContext | None) -> int:
    return session_zone(context).to_local(context.transaction_timestamp if context is not None else 0)


def _relative_day(special: str, context: EvalContext | None) -> int:
    """The day that today, tomorrow or yesterday is."""
    shift = {"yesterday": -1, "tomorrow": 1}.get(special, 0)
    return _local_now(context) // MICROSECONDS_PER_DAY + shift


def _days(moment: Moment, rules: Rules) -> int:
    if not moment.has_date:
        raise invalid(moment.text, rules)
    year, month, day = moment.date
    return days_of(year, month, day)


def parse_date(text: str, modifier: int, context: EvalContext | None) -> int:
    match = _ISO_DATE.fullmatch(text)
    if match is not None:
        year, month, day = int(match[1]), int(match[2]), int(match[3])
        if year and 1 <= month <= 12 and 1 <= day <= days_in_month(year, month):
            return days_of(year, month, day)
    rules = _rules("date", context)
    moment = read(text, rules)
    match moment.special:
        case "infinity":
            return DATE_INFINITY
        case "-infinity":
            return DATE_NEGATIVE_INFINITY
        case "epoch":
            return UNIX_EPOCH_DAYS
        case "":
            days = _days(moment, rules)
        case _:
            days = _relative_day(moment.special, context)
    if not FIRST_DATE <= days < END_DATE:
        raise DatetimeFieldOverflow(f'date out of range: "{text}"')
    return days


def _iso_timestamp(text: str) -> tuple[int, int | None] | None:
    """Read ``yyyy-mm-dd hh:mm:ss[.f][±hh[:mm]]``; local microseconds and the offset's seconds east, or None."""
    match = _ISO_TIMESTAMP.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, offset, offset_minutes = match.groups()
    y, m, d, h, mi, s = int(year), int(month), int(day), int(hour), int(minute), int(second)
    if not y or not 1 <= m <= 12 or not 1 <= d <= days_in_month(y, m) or h > 23 or mi > 59 or s > 59:
        return None
    value = ((h * 60 + mi) * 60 + s) * MICROSECONDS_PER_SECOND + days_of(y, m, d) * MICROSECONDS_PER_DAY
    if fraction:
        value += int(fraction.ljust(6, "0"))
    if offset is None:
        return value, None
    seconds = int(offset[1:]) * 3600 + int(offset_minutes or 0) * 60
    if int(offset[1:]) > 15 or int(offset_minutes or 0) > 59:
        return None
    return value, -seconds if offset[0] == "-" else seconds


def _read_timestamp(text: str, rules: Rules, context: EvalContext | None) -> tuple[int, Moment]:
    """Local microseconds (or an instant, for words that mean one) of a timestamp text."""
    moment = read(text, rules)
    match moment.special:
        case "infinity":
            return TIMESTAMP_INFINITY, moment
        case "-infinity":
            return TIMESTAMP_NEGATIVE_INFINITY, moment
        case "now":
            return _local_now(context), moment
        case "epoch":
            return UNIX_EPOCH_DAYS * MICROSECONDS_PER_DAY, moment
        case "":
            days = _days(moment, rules)
        case _:
            days = _relative_day(moment.special, context)
    return days * MICROSECONDS_PER_DAY + (moment.time or 0), moment


def _in_range(text: str, value: int) -> int:
    if not FIRST_TIMESTAMP <= value < END_TIMESTAMP and is_finite_timestamp(value):
        raise DatetimeFieldOverflow(f'timestamp out of range: "{text}"')
    return value


def parse_timestamp(text: str, modifier: int, context: EvalContext | None) -> int:
    quick = _iso_timestamp(text)
    if quick is not None:
        return fit_timestamp(quick[0], modifier)
    value, _ = _read_timestamp(text, _rules("timestamp", context), context)
    return fit_timestamp(_in_range(text, value), modifier)


def parse_timestamptz(text: str, modifier: int, context: EvalContext | None) -> int:
    quick = _iso_timestamp(text)
    if quick is not None:
        local, east = quick
        value = session_zone(context).to_utc(local) if east is None else local - east * MICROSECONDS_PER_SECOND
        return fit_timestamp(value, modifier)
    local, moment = _read_timestamp(text, _rules("timestamp with time zone", context), context)
    if not is_finite_timestamp(local) or moment.special == "epoch":
        return local
    zone = moment.zone if moment.zone is not None and moment.special != "now" else session_zone(context)
    # Only the instant must be in range: next to the end, local time may lie beyond it.
    return fit_timestamp(_in_range(text, zone.to_utc(local)), modifier)


def _read_time(text: str, rules: Rules, context: EvalContext | None) -> tuple[int, Moment]:
    moment = read_time_of_day(text, rules)
    if moment.special == "now":
        return _local_now(context) % MICROSECONDS_PER_DAY, moment
    if moment.time is None or moment.special:
        raise invalid(text, rules)
    if moment.zone is not None and moment.zone.has_rules and not moment.has_date:
        # Which offset such a zone has depends on the date.
        raise invalid(text, rules)
    if moment.time > MICROSECONDS_PER_DAY:
        raise field_overflow(text)
    return moment.time, moment


_COMPACT_TIME = re.compile(r"[ \t]*T?(\d{2})(\d{2})(\d{2})?(?:\.(\d*))?[ \t]*([+-][\d:]+)?[ \t]*", re.IGNORECASE)


def read_time_of_day(text: str, rules: Rules) -> Moment:
    """Read a time that may stand without a date: ``040506`` is a time here, not a date of the year 4."""
    bare = text.lstrip(" \t")
    if bare[:1] in ("T", "t") and bare[1:2].isdigit():
        text = bare[1:]
    match = _COMPACT_TIME.fullmatch(text)
    if match is not None and (match[3] is None or len(match[0].strip()) >= 6):
        rewritten = f"{match[1]}:{match[2]}:{match[3] or '00'}" + (f".{match[4]}" if match[4] else "")
        return read(rewritten + (match[5] or ""), rules)
    return read(text, rules)


def parse_time(text: str, modifier: int, context: EvalContext | None) -> int:
    rules = _rules("time", context)
    value, _ = _read_time(text, rules, context)
    return fit_time(value, modifier)


def parse_timetz(text: str, modifier: int, context: EvalContext | None) -> tuple[int, int]:
    rules = _rules("time with time zone", context)
    value, moment = _read_time(text, rules, context)
    zone = moment.zone or session_zone(context)
    if moment.has_date:
        local = days_of(*moment.date) * MICROSECONDS_PER_DAY + value
    else:
        local = _local_now(context) // MICROSECONDS_PER_DAY * MICROSECONDS_PER_DAY + value
    east = zone.offset_at(zone.to_utc(local))
    return fit_time(value, modifier), -east


# ------------------------------------------------------------------------------------------------ output


def format_date(value: int, context: EvalContext | None) -> str:
    if value == DATE_INFINITY:
        return "infinity"
    if value == DATE_NEGATIVE_INFINITY:
        return "-infinity"
    style = style_of(context)
    if style is not None:
        return styled_date(value, style)
    text, era = date_text(value)
    return text + era


def format_time(value: int, context: EvalContext | None) -> str:
    return time_text(value)


def format_timetz(value: tuple[int, int], context: EvalContext | None) -> str:
    return time_text(value[0]) + offset_text(-value[1])


def format_timestamp(value: int, context: EvalContext | None) -> str:
    if value == TIMESTAMP_INFINITY:
        return "infinity"
    if value == TIMESTAMP_NEGATIVE_INFINITY:
        return "-infinity"
    days, microseconds = divmod(value, MICROSECONDS_PER_DAY)
    style = style_of(context)
    if style is not None:
        return styled_timestamp(days, microseconds, "", style)
    text, era = date_text(days)
    return f"{text} {time_text(microseconds)}{era}"


def format_timestamptz(value: int, context: EvalContext | None) -> str:
    if value == TIMESTAMP_INFINITY:
        return "infinity"
    if value == TIMESTAMP_NEGATIVE_INFINITY:
        return "-infinity"
    zone = session_zone(context)
    east = zone.offset_at(value)
    days, microseconds = divmod(value + east * MICROSECONDS_PER_SECOND, MICROSECONDS_PER_DAY)
    style = style_of(context)
    if style is not None:
        shown = zone.abbreviation_at(value) or offset_text(east)
        return styled_timestamp(days, microseconds, shown, style)
    text, era = date_text(days)
    return f"{text} {time_text(microseconds)}{offset_text(east)}{era}"


_timetz_binary = struct.Struct("!qi")


def _decode_timetz(data: bytes) -> tuple[int, int]:
    try:
        microseconds, zone = _timetz_binary.unpack(data)
        return microseconds, zone
    except struct.error:
        raise wrong_binary_length() from None


def _integer_io(
    parse: Callable[[str, int, EvalContext], int],
    format_: Callable[[int, EvalContext], str],
    code: str,
    check: Callable[[int], int],
) -> TypeIO:
    unpack, encode = packed(code)
    return TypeIO(parse, format_, lambda data: check(unpack(data)), encode, "int")


def _check_time(value: int) -> int:
    if 0 <= value <= MICROSECONDS_PER_DAY:
        return value
    raise DatetimeFieldOverflow("time out of range")


IO = {
    "date": _integer_io(parse_date, format_date, "!i", check_date),
    "time": _integer_io(parse_time, format_time, "!q", _check_time),
    "timestamp": _integer_io(parse_timestamp, format_timestamp, "!q", check_timestamp),
    "timestamptz": _integer_io(parse_timestamptz, format_timestamptz, "!q", check_timestamp),
    "timetz": TypeIO(
        parse_timetz,
        format_timetz,
        _decode_timetz,
        lambda value: _timetz_binary.pack(*value),
        "timetz",
        list,
        tuple,
    ),
}
