"""to_char of dates and times with templates such as ``YYYY-MM-DD HH24:MI:SS``.

A template is cut into fields and literal text; a field may have the prefix FM (no padding) or TM and the suffix TH.

    >>> format_fields("FMDay, DDth Mon YYYY", Fields.of_timestamp(0))
    'Saturday, 01st Jan 2000'

datetime_scan.py reads with the same templates.

Source: PostgreSQL 15 manual, 9.8.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import NamedTuple

from pydistdb.sql.errors import DatabaseError, InvalidDatetimeFormat
from pydistdb.sql.functions.datetime_casts import to_local
from pydistdb.sql.functions.define import implements
from pydistdb.sql.types.base import EvalContext, Interval
from pydistdb.sql.types.calendar import (
    JULIAN_DAY_OF_2000,
    MICROSECONDS_PER_DAY,
    MICROSECONDS_PER_SECOND,
    civil_of,
    days_of,
    iso_week,
    iso_week_start,
    weekday,
)
from pydistdb.sql.types.datetime import is_finite_timestamp, session_zone

MONTH_NAMES = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
DAY_NAMES = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
ROMAN_NUMERALS = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII")

_FIELD_NAMES = """
A.D. A.M. AD AM B.C. BC CC DAY DDD DD DY Day Dy D FF1 FF2 FF3 FF4 FF5 FF6 HH24 HH12 HH IDDD ID IW IYYY IYY IY I J MI MM
MONTH MON MS Month Mon OF P.M. PM Q RM SSSSS SSSS SS TZH TZM TZ US WW W Y,YYY YYYY YYY YY Y
a.d. a.m. ad am b.c. bc cc day ddd dd dy d ff1 ff2 ff3 ff4 ff5 ff6 hh24 hh12 hh iddd id iw iyyy iyy iy i j mi mm month
mon ms of p.m. pm q rm sssss ssss ss tzh tzm tz us ww w y,yyy yyyy yyy yy y
"""
_FIELDS = "|".join(re.escape(name) for name in sorted(_FIELD_NAMES.split(), key=len, reverse=True))
_TEMPLATE = re.compile(
    rf"(?P<fx>FX|fx)|(?P<prefix>(?:FM|fm|TM|tm)*)(?P<field>{_FIELDS})(?P<suffix>TH|th|SP|sp)?"
    r'|"(?P<quoted>(?:[^"\\]|\\.)*)"?|\\(?P<escaped>")|(?P<literal>.)',
    re.DOTALL,
)
MOST_TEMPLATE = 4096


class Piece(NamedTuple):
    """A field of a template, or literal text (``field`` empty)."""

    field: str
    text: str = ""
    fill: bool = True
    suffix: str = ""
    quoted: bool = False


@lru_cache(maxsize=256)
def pieces_of(template: str) -> tuple[Piece, ...]:
    if len(template) > MOST_TEMPLATE:
        raise DatabaseError.of("22023", "format specification is too long")
    pieces: list[Piece] = []
    for match in _TEMPLATE.finditer(template):
        if match["fx"]:
            pieces.append(Piece("FX"))
        elif match["field"]:
            fill = "FM" not in match["prefix"].upper()
            pieces.append(Piece(match["field"], match[0], fill, match["suffix"] or ""))
        elif match["quoted"] is not None:
            pieces.append(Piece("", re.sub(r"\\(.)", r"\1", match["quoted"], flags=re.DOTALL), quoted=True))
        else:
            pieces.append(Piece("", match["escaped"] or match["literal"]))
    return tuple(pieces)


class Fields(NamedTuple):
    """What there is to show: calendar and clock of a timestamp, or the parts of an interval."""

    year: int
    month: int
    day: int
    hour: int
    minute: int
    second: int
    microsecond: int
    days: int
    """Days since 2000, for weekdays and weeks; of an interval, its days."""
    day_of_year: int
    is_interval: bool = False
    zone_seconds: int = 0
    zone_name: str = ""

    @classmethod
    def of_timestamp(cls, value: int, zone_seconds: int = 0, zone_name: str = "") -> Fields:
        days, time = divmod(value, MICROSECONDS_PER_DAY)
        year, month, day = civil_of(days)
        seconds, microsecond = divmod(time, MICROSECONDS_PER_SECOND)
        return cls(
            year,
            month,
            day,
            seconds // 3600,
            seconds // 60 % 60,
            seconds % 60,
            microsecond,
            days,
            days - days_of(year, 1, 1) + 1,
            False,
            zone_seconds,
            zone_name,
        )

    @classmethod
    def of_interval(cls, value: Interval) -> Fields:
        sign = -1 if value[0] < 0 else 1
        years, months = divmod(abs(value[0]), 12)
        clock_sign = -1 if value[2] < 0 else 1
        seconds, microsecond = divmod(abs(value[2]), MICROSECONDS_PER_SECOND)
        return cls(
            sign * years,
            sign * months,
            value[1],
            clock_sign * (seconds // 3600),
            clock_sign * (seconds // 60 % 60),
            clock_sign * (seconds % 60),
            clock_sign * microsecond,
            value[1],
            sign * years * 360 + sign * months * 30 + value[1],
            True,
        )


# ------------------------------------------------------------------------------------------------ output


def ordinal(digits: str, upper: bool) -> str:
    """st, nd, rd or th."""
    last, tens = digits[-1:], digits[-2:-1]
    ending = "th" if tens == "1" else {"1": "st", "2": "nd", "3": "rd"}.get(last, "th")
    return ending.upper() if upper else ending


def _like(sample: str, name: str) -> str:
    """Write a name in the case of its field: MONTH, Month or month."""
    if sample.isupper():
        return name.upper()
    return name if sample[0].isupper() else name.lower()


def _padded(number: int, width: int, fill: bool) -> str:
    if not fill:
        return str(number)
    return f"{number:0{width + (number < 0)}d}"


def _shown_year(fields: Fields, year: int) -> int:
    return year if fields.is_interval or year > 0 else 1 - year


_CALENDAR_FIELDS = "MONTH MON DAY DY D ID IW IDDD BC AD B.C. A.D. TZ TZH TZM OF"
_NOT_FOR_INTERVALS = frozenset(_CALENDAR_FIELDS.split())


def _show(piece: Piece, fields: Fields) -> str:
    name = piece.field
    upper = name.upper()
    if fields.is_interval and upper in _NOT_FOR_INTERVALS:
        raise InvalidDatetimeFormat(
            "invalid format specification for an interval value",
            hint="Intervals are not tied to specific calendar dates.",
        )
    number = _number_of(upper, fields)
    if number is not None:
        value, width = number
        text = _padded(value, width, piece.fill and width > 0)
        if upper == "Y,YYY":
            year = _shown_year(fields, fields.year)
            text = f"{year // 1000},{year % 1000:03d}" if year >= 0 else str(year)
    else:
        text = _words_of(piece, upper, fields)
    return text + (ordinal(text, piece.suffix == "TH") if piece.suffix in ("TH", "th") else "")


def _number_of(field: str, fields: Fields) -> tuple[int, int] | None:
    """The value and width of a numeric field."""
    match field:
        case "HH24":
            return fields.hour, 2
        case "HH12" | "HH":
            hour = abs(fields.hour) % 12
            # A negative hour takes a place more, sign or not.
            return (-hour if fields.hour < 0 and hour else hour or 12), 3 if fields.hour < 0 and not hour else 2
        case "MI":
            return fields.minute, 2
        case "SS":
            return fields.second, 2
        case "MS" | "FF3":
            return int(fields.microsecond / 1000), 3
        case "US" | "FF6":
            return fields.microsecond, 6
        case "FF1" | "FF2" | "FF4" | "FF5":
            digits = int(field[2])
            return int(fields.microsecond / 10 ** (6 - digits)), digits
        case "SSSS" | "SSSSS":
            return fields.hour * 3600 + fields.minute * 60 + fields.second, 0
        case "MM":
            return fields.month, 2
        case "DD":
            return fields.day, 1 if fields.day < 0 else 2
        case "DDD":
            return fields.day_of_year, 3
        case "Q" if fields.month:
            return (fields.month - 1) // 3 + 1, 0
        case "CC":
            return _century(fields), 2
        case "J":
            days = days_of(fields.year, fields.month, fields.day) if fields.is_interval else fields.days
            return days + JULIAN_DAY_OF_2000, 0
        case "Y,YYY":
            return _shown_year(fields, fields.year), 0
        case "YYYY" | "YYY" | "YY" | "Y":
            return _cut_year(_shown_year(fields, fields.year), len(field))
        case "IYYY" | "IYY" | "IY" | "I":
            if fields.is_interval:
                days = days_of(fields.year, fields.month, fields.day)
                year, width = _cut_year(iso_week(days)[0], len(field))
                return year, width - (year < 0 <= fields.year)
            return _cut_year(_shown_year(fields, iso_week(fields.days)[0]), len(field))
        case "D":
            return weekday(fields.days) + 1, 0
        case "ID":
            return weekday(fields.days) or 7, 0
        case "W":
            return int((fields.day - 1) / 7) + 1, 0
        case "WW":
            return int((fields.day_of_year - 1) / 7) + 1, 2
        case "IW":
            return iso_week(fields.days)[1], 2
        case "IDDD":
            return fields.days - iso_week_start(iso_week(fields.days)[0], 1) + 1, 3
    return None


def _cut_year(year: int, digits: int) -> tuple[int, int]:
    if digits == 4:
        return year, 4
    cut = abs(year) % 10**digits
    return (-cut if year < 0 else cut), digits


def _century(fields: Fields) -> int:
    if fields.is_interval:
        return int(fields.year / 100)
    if fields.year > 0:
        return (fields.year - 1) // 100 + 1
    return int((fields.year - 1 + 1) / 100) - 1


def _words_of(piece: Piece, field: str, fields: Fields) -> str:
    name, fill = piece.field, piece.fill and not piece.text.upper().startswith("TM")
    match field:
        case "AM" | "PM":
            return _like_case(name, "PM" if math.fmod(fields.hour, 24) >= 12 else "AM")
        case "A.M." | "P.M.":
            return _like_case(name, "P.M." if math.fmod(fields.hour, 24) >= 12 else "A.M.")
        case "BC" | "AD":
            return _like_case(name, "BC" if fields.year <= 0 else "AD")
        case "B.C." | "A.D.":
            return _like_case(name, "B.C." if fields.year <= 0 else "A.D.")
        case "MONTH":
            return _like(name, MONTH_NAMES[fields.month - 1]).ljust(9 if fill else 0)
        case "MON":
            return _like(name, MONTH_NAMES[fields.month - 1][:3])
        case "DAY":
            return _like(name, DAY_NAMES[weekday(fields.days)]).ljust(9 if fill else 0)
        case "DY":
            return _like(name, DAY_NAMES[weekday(fields.days)][:3])
        case "Q":
            return ""
        case "RM":
            if not fields.month and not fields.year:
                return ""
            # An interval's months may be none or negative: Postgres goes down from XII where the year counts up, and
            # from I where it counts down.
            month = fields.month if fields.month > 0 or (not fields.month and fields.year > 0) else fields.month + 1
            numeral = ROMAN_NUMERALS[(month - 1) % 12]
            return (numeral if name == "RM" else numeral.lower()).ljust(4 if fill else 0)
        case "TZ":
            return fields.zone_name if name == "TZ" else fields.zone_name.lower()
    return _zone_of(field, fields.zone_seconds)


def _like_case(sample: str, word: str) -> str:
    return word if sample[0].isupper() else word.lower()


def _zone_of(field: str, seconds: int) -> str:
    sign = "-" if seconds < 0 else "+"
    hours, minutes = abs(seconds) // 3600, abs(seconds) // 60 % 60
    match field:
        case "TZH":
            return f"{sign}{hours:02d}"
        case "TZM":
            return f"{minutes:02d}"
    return f"{sign}{hours:02d}" + (f":{minutes:02d}" if minutes else "")


def format_fields(template: str, fields: Fields) -> str:
    parts = [
        _show(piece, fields) if piece.field else piece.text for piece in pieces_of(template) if piece.field != "FX"
    ]
    return "".join(parts)


@implements("to_char(timestamp,text)")
def timestamp_to_char(value: int, template: str) -> str | None:
    if not template or not is_finite_timestamp(value):
        return None
    return format_fields(template, Fields.of_timestamp(value))


@implements("to_char(timestamptz,text)", context=True)
def timestamptz_to_char(context: EvalContext, value: int, template: str) -> str | None:
    if not template or not is_finite_timestamp(value):
        return None
    zone = session_zone(context)
    fields = Fields.of_timestamp(to_local(context, value), zone.offset_at(value), zone.abbreviation_at(value))
    return format_fields(template, fields)


@implements("to_char(interval,text)")
def interval_to_char(value: Interval, template: str) -> str | None:
    return format_fields(template, Fields.of_interval(value)) if template else None
