"""to_char, to_date and to_timestamp with templates such as ``YYYY-MM-DD HH24:MI:SS``.

A template is cut into fields and literal text; a field may have the prefix FM (no padding) or TM and the suffix TH.

    >>> format_fields("FMDay, DDth Mon YYYY", Fields.of_timestamp(0))
    'Saturday, 01st Jan 2000'

Reading is lenient as Postgres's is: separators in the template match any or none in the text, numbers may be shorter than
their field unless another number follows at once.

Source: PostgreSQL 15 manual, 9.8.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import NamedTuple

from pydistdb.sql.errors import DatabaseError, DatetimeFieldOverflow, InvalidDatetimeFormat
from pydistdb.sql.functions.datetime_arithmetic import to_local
from pydistdb.sql.functions.define import implements
from pydistdb.sql.types.base import EvalContext, Interval
from pydistdb.sql.types.calendar import (
    JULIAN_DAY_OF_2000,
    MICROSECONDS_PER_DAY,
    MICROSECONDS_PER_HOUR,
    MICROSECONDS_PER_MINUTE,
    MICROSECONDS_PER_SECOND,
    civil_of,
    days_in_month,
    days_of,
    iso_week,
    iso_week_start,
    weekday,
)
from pydistdb.sql.types.datetime import check_timestamp, is_finite_timestamp, session_zone

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
_ROMAN = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII")

_FIELD_NAMES = """
A.D. A.M. AD AM B.C. BC CC DAY DDD DD DY Day Dy D FF1 FF2 FF3 FF4 FF5 FF6 HH24 HH12 HH IDDD ID IW IYYY IYY IY I J MI MM
MONTH MON MS Month Mon OF P.M. PM Q RM SSSSS SSSS SS TZH TZM TZ US WW W Y,YYY YYYY YYY YY Y
a.d. a.m. ad am b.c. bc cc day ddd dd dy d ff1 ff2 ff3 ff4 ff5 ff6 hh24 hh12 hh iddd id iw iyyy iyy iy i j mi mm month
mon ms p.m. pm q rm sssss ssss ss tzh tzm tz us ww w y,yyy yyyy yyy yy y
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
            if fields.month == 0:
                return ""
            numeral = _ROMAN[(fields.month - 1) % 12]
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


# ------------------------------------------------------------------------------------------------ input

_WIDTHS = {"HH24": 2, "HH12": 2, "HH": 2, "MI": 2, "SS": 2, "MS": 3, "US": 6, "SSSS": 5, "SSSSS": 5, "MM": 2, "DD": 2}
_WIDTHS |= {
    "DDD": 3,
    "IDDD": 3,
    "D": 1,
    "ID": 1,
    "WW": 2,
    "IW": 2,
    "W": 1,
    "CC": 2,
    "J": 7,
    "Q": 1,
    "YYYY": 4,
    "YYY": 3,
}
_WIDTHS |= {"YY": 2, "Y": 1, "IYYY": 4, "IYY": 3, "IY": 2, "I": 1, "TZH": 2, "TZM": 2} | {
    f"FF{n}": n for n in range(1, 7)
}
_LIMITS = {"HH24": (0, 23), "HH12": (1, 12), "HH": (1, 12), "MI": (0, 59), "SS": (0, 59)}


def _is_separator(character: str) -> bool:
    return " " < character < "\x7f" and not character.isalnum()


class _Scanner:
    """Reads a text along a template; ``found`` maps canonical field names to numbers."""

    def __init__(self, text: str, template: str) -> None:
        self.text = text
        self.pieces = pieces_of(template)
        self.position = 0
        self.found: dict[str, int] = {}
        self.fixed = any(piece.field == "FX" for piece in self.pieces)
        self.zone: int | None = None

    def run(self) -> None:
        skipped_separators = False
        for index, piece in enumerate(self.pieces):
            if self.position >= len(self.text) and piece.field:
                break
            if piece.field == "FX":
                continue
            if not piece.field:
                skipped_separators = self.literal(piece, skipped_separators)
                continue
            if not self.fixed:
                self.skip_space()
            following = self.pieces[index + 1] if index + 1 < len(self.pieces) else None
            fixed_width = (
                piece.fill
                and following is not None
                and (following.field.upper() in _WIDTHS or following.text[:1].isdigit())
            )
            self.field(piece, fixed_width)
            if piece.suffix.upper() == "TH":
                self.position += 2
            skipped_separators = False

    def skip_space(self) -> None:
        while self.position < len(self.text) and self.text[self.position].isspace():
            self.position += 1

    def literal(self, piece: Piece, skipped: bool) -> bool:
        """Separators match leniently; other text just takes up as much room."""
        if self.fixed or piece.quoted:
            self.position += len(piece.text)
            return False
        if piece.text.isspace() or _is_separator(piece.text):
            if not skipped:
                while self.position < len(self.text) and self.text[self.position].isspace():
                    self.position += 1
            if self.position < len(self.text) and _is_separator(self.text[self.position]):
                # A sign that belongs to a time zone stays.
                self.position += 1
            return True
        self.position += 1
        return False

    def field(self, piece: Piece, fixed_width: bool) -> None:
        name = piece.field.upper()
        match name:
            case "AM" | "PM" | "A.M." | "P.M.":
                self.word(piece, {"am": 0, "pm": 1} if "." not in name else {"a.m.": 0, "p.m.": 1}, "half")
            case "BC" | "AD" | "B.C." | "A.D.":
                self.word(piece, {"ad": 0, "bc": 1} if "." not in name else {"a.d.": 0, "b.c.": 1}, "bc")
            case "MONTH":
                names = {month.lower(): number for number, month in enumerate(MONTH_NAMES, 1)}
                self.word(piece, names, "MM")
            case "MON":
                self.word(piece, {month[:3].lower(): number for number, month in enumerate(MONTH_NAMES, 1)}, "MM")
            case "DAY":
                self.word(piece, {day.lower(): number for number, day in enumerate(DAY_NAMES)}, "weekday")
            case "DY":
                self.word(piece, {day[:3].lower(): number for number, day in enumerate(DAY_NAMES)}, "weekday")
            case "RM":
                numerals = {numeral.lower(): number for number, numeral in enumerate(_ROMAN, 1)}
                self.word(piece, dict(sorted(numerals.items(), key=lambda item: -len(item[0]))), "MM")
            case "TZ":
                raise DatabaseError.of("0A000", f'formatting field "{piece.field}" is only supported in to_char')
            case "OF":
                raise DatabaseError.of("0A000", 'formatting field "OF" is only supported in to_char')
            case "TZH" | "TZM":
                self.zone_part(piece, name)
            case "Y,YYY":
                self.year_with_comma(piece)
            case _:
                self.number(piece, name, fixed_width)

    def word(self, piece: Piece, names: dict[str, int], key: str) -> None:
        rest = self.text[self.position :].lower()
        for word, number in names.items():
            if rest.startswith(word):
                self.store(piece, key, number)
                self.position += len(word)
                return
        shown = re.match(r"\S*", self.text[self.position :])
        assert shown is not None
        raise InvalidDatetimeFormat(
            f'invalid value "{shown[0]}" for "{piece.field}"',
            detail="The given value did not match any of the allowed values for this field.",
        )

    def store(self, piece: Piece, key: str, number: int) -> None:
        if self.found.get(key, number) != number:
            raise InvalidDatetimeFormat(
                f'conflicting values for "{piece.field}" field in formatting string',
                detail="This value contradicts a previous setting for the same field type.",
            )
        self.found[key] = number

    def number(self, piece: Piece, name: str, fixed_width: bool) -> None:
        width = _WIDTHS[name]
        text = self.text
        if fixed_width:
            chunk = text[self.position : self.position + width]
            match = re.match(r"[+-]?\d+", chunk)
            if match is None or len(match[0]) < len(chunk) or len(chunk) < width:
                self.bad_number(piece, chunk, width, match)
        else:
            match = re.compile(r"[+-]?\d+").match(text, self.position)
            if match is None:
                self.bad_number(piece, text[self.position : self.position + width], 0, None)
        assert match is not None
        digits = match[0]
        self.position += len(digits)
        value = int(digits[:12])
        if name in ("MS", "US") or name.startswith("FF"):
            # 5.3 seconds: a fraction counts from the left.
            places = 3 if name == "MS" else 6 if name == "US" else int(name[2])
            value = int(digits.ljust(places, "0")[:places])
            self.store(piece, "US", value * 10 ** (6 - places))
            return
        if name in ("YYY", "YY", "Y", "IYY", "IY", "I"):
            value = _full_year(value, len(digits))
        key = {"HH": "HH12", "SSSSS": "SSSS", "IYYY": "I", "IYY": "I", "IY": "I"}.get(name, name)
        if name in ("YYYY", "YYY", "YY", "Y"):
            key = "Y"
        if name in _LIMITS and not _LIMITS[name][0] <= value <= _LIMITS[name][1] and key == "HH12":
            raise InvalidDatetimeFormat(
                f'hour "{value}" is invalid for the 12-hour clock',
                hint="Use the 24-hour clock, or give an hour between 1 and 12.",
            )
        self.store(piece, key, value)

    def bad_number(self, piece: Piece, chunk: str, width: int, match: re.Match[str] | None) -> None:
        if width and len(chunk) < width:
            raise InvalidDatetimeFormat(
                f'source string too short for "{piece.field}" formatting field',
                detail=f"Field requires {width} characters, but only {len(chunk)} remain.",
                hint='If your source string is not fixed-width, try using the "FM" modifier.',
            )
        if width and match is not None:
            raise InvalidDatetimeFormat(
                f'invalid value "{chunk}" for "{piece.field}"',
                detail=f"Field requires {width} characters, but only {len(match[0])} could be parsed.",
                hint='If your source string is not fixed-width, try using the "FM" modifier.',
            )
        raise InvalidDatetimeFormat(f'invalid value "{chunk}" for "{piece.field}"', detail="Value must be an integer.")

    def year_with_comma(self, piece: Piece) -> None:
        match = re.compile(r"(\d+),(\d{3})").match(self.text, self.position)
        if match is None:
            raise InvalidDatetimeFormat('invalid input string for "Y,YYY"')
        self.position = match.end()
        self.store(piece, "Y", int(match[1]) * 1000 + int(match[2]))

    def zone_part(self, piece: Piece, name: str) -> None:
        match = re.compile(r"([+-]?)(\d{1,2})").match(self.text, self.position)
        if match is None:
            self.bad_number(piece, self.text[self.position : self.position + 2], 0, None)
        assert match is not None
        self.position = match.end()
        if name == "TZH":
            sign = -1 if match[1] == "-" or (self.position > 2 and self.text[match.start() - 1] == "-") else 1
            self.zone = sign * int(match[2]) * 3600
            self.found["zone_sign"] = sign
        else:
            self.zone = (self.zone or 0) + self.found.get("zone_sign", 1) * int(match[2]) * 60


def _full_year(value: int, digits: int) -> int:
    """Complete a short year: the nearest to 2020."""
    match digits:
        case 1 | 2:
            return value + 2000 if value < 70 else value + 1900
        case 3:
            return value + 2000 if value < 520 else value + 1000
    return value


def _out_of_range(text: str) -> DatabaseError:
    return DatetimeFieldOverflow(f'date/time field value out of range: "{text}"')


def _date_of(text: str, found: dict[str, int]) -> int:
    """Settle the day, which may be given in several ways."""
    if "J" in found:
        return found["J"] - JULIAN_DAY_OF_2000
    year = found.get("Y")
    if "CC" in found:
        century = found["CC"]
        if year is None:
            year = (century - 1) * 100 + 1
        else:
            year = (century - 1) * 100 + (year % 100 or 100)
    if year is None:
        year = found.get("I", 0)
    if found.get("bc") and year > 0:
        year = 1 - year
    elif year == 0:
        # No year at all means 1 BC, oddly.
        year = 0
    elif year < 0:
        year += 1
    if "I" in found or "IW" in found or "IDDD" in found:
        return _iso_date(found, year)
    if "DDD" in found:
        if not 1 <= found["DDD"] <= 366:
            raise _out_of_range(text)
        return days_of(year, 1, 1) + found["DDD"] - 1
    month, day = found.get("MM", 1), found.get("DD", 1)
    if "WW" in found:
        return days_of(year, 1, 1) + (found["WW"] - 1) * 7
    if "W" in found:
        day = (found["W"] - 1) * 7 + 1
    if not 1 <= month <= 12 or not 1 <= day <= days_in_month(year, month):
        raise _out_of_range(text)
    return days_of(year, month, day)


def _iso_date(found: dict[str, int], year: int) -> int:
    if "IDDD" in found:
        return iso_week_start(year, 1) + found["IDDD"] - 1
    day = found.get("ID", found.get("weekday", 1) or 7)
    return iso_week_start(year, found.get("IW", 1)) + day - 1


def _time_of(text: str, found: dict[str, int]) -> int:
    if "SSSS" in found:
        seconds = found["SSSS"]
        if not 0 <= seconds < 86400:
            raise _out_of_range(text)
        return seconds * MICROSECONDS_PER_SECOND + found.get("US", 0)
    hour = found.get("HH24", 0)
    if "HH12" in found:
        hour = found["HH12"] % 12 + 12 * found.get("half", 0)
    elif "half" in found:
        if hour > 12 or hour < 1:
            raise InvalidDatetimeFormat(
                f'hour "{hour}" is invalid for the 12-hour clock',
                hint="Use the 24-hour clock, or give an hour between 1 and 12.",
            )
        hour = hour % 12 + 12 * found["half"]
    minute, second = found.get("MI", 0), found.get("SS", 0)
    if not (0 <= hour <= 23 and 0 <= minute <= 59 and 0 <= second <= 59):
        raise _out_of_range(text)
    return (
        hour * MICROSECONDS_PER_HOUR
        + minute * MICROSECONDS_PER_MINUTE
        + second * MICROSECONDS_PER_SECOND
        + found.get("US", 0)
    )


def _scan(text: str, template: str) -> _Scanner:
    scanner = _Scanner(text, template)
    scanner.run()
    return scanner


@implements("to_date(text,text)")
def to_date(text: str, template: str) -> int:
    return _date_of(text, _scan(text, template).found)


@implements("to_timestamp(text,text)", context=True)
def to_timestamp(context: EvalContext, text: str, template: str) -> int:
    scanner = _scan(text, template)
    local = _date_of(text, scanner.found) * MICROSECONDS_PER_DAY + _time_of(text, scanner.found)
    if scanner.zone is not None:
        return check_timestamp(local - scanner.zone * MICROSECONDS_PER_SECOND)
    return check_timestamp(session_zone(context).to_utc(local))
