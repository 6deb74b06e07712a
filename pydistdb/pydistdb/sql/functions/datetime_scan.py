"""to_date and to_timestamp: reading dates and times along a template.

Reading is lenient as Postgres's is: separators in the template match any or none in the text, numbers may be shorter than
their field unless another number follows at once.  The SQL standard's way, for jsonpath, is strict: all of the text must
match all of the template (``read_strictly``).

    >>> to_date("5 January 2000", "DD Month YYYY")
    4

Templates are cut by datetime_format.py.

Source: PostgreSQL 15 manual, 9.8.
"""

from __future__ import annotations

import re
from typing import Any

from pydistdb.sql.errors import DatabaseError, DatetimeFieldOverflow, InvalidDatetimeFormat
from pydistdb.sql.functions.datetime_format import DAY_NAMES, MONTH_NAMES, ROMAN_NUMERALS, Piece, pieces_of
from pydistdb.sql.functions.define import implements
from pydistdb.sql.types.base import EvalContext
from pydistdb.sql.types.calendar import (
    JULIAN_DAY_OF_2000,
    MICROSECONDS_PER_DAY,
    MICROSECONDS_PER_HOUR,
    MICROSECONDS_PER_MINUTE,
    MICROSECONDS_PER_SECOND,
    days_in_month,
    days_of,
    iso_week_start,
)
from pydistdb.sql.types.datetime import check_date, check_timestamp, session_zone

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
_TIMED = frozenset({"A.M.", "AM", "P.M.", "PM", "HH", "HH12", "HH24", "MI", "SS", "MS", "US", "SSSS", "SSSSS"})
_TIMED |= {f"FF{n}" for n in range(1, 7)}
_ZONED = frozenset({"TZ", "OF", "TZH", "TZM"})
_DIGITS = frozenset(name for name in _WIDTHS if name != "TZH" and not name.startswith("FF"))
"""Fields that start with a digit: a number before one of them has its full width."""
MOST_ZONE = 16 * 3600
"""Seconds from Greenwich."""
_LIMITS = {"HH24": (0, 23), "HH12": (1, 12), "HH": (1, 12), "MI": (0, 59), "SS": (0, 59)}


def _is_separator(character: str) -> bool:
    return " " < character < "\x7f" and not character.isalnum()


class _Scanner:
    """Reads a text along a template; ``found`` maps canonical field names to numbers."""

    def __init__(self, text: str, template: str, strict: bool = False) -> None:
        self.text = text
        self.pieces = pieces_of(template)
        self.position = 0
        self.found: dict[str, int] = {}
        self.strict = strict
        self.fixed = strict or any(piece.field == "FX" for piece in self.pieces)
        self.zone: int | None = None

    def run(self) -> None:
        skipped_separators = False
        for index, piece in enumerate(self.pieces):
            if self.position >= len(self.text) and (piece.field or self.strict):
                if self.strict:
                    raise InvalidDatetimeFormat("input string is too short for datetime format")
                break
            if piece.field == "FX":
                continue
            if not piece.field:
                skipped_separators = self.literal(piece, skipped_separators)
                continue
            if not self.fixed or (self.strict and piece.field.upper() in _WIDTHS):
                self.skip_space()
            following = self.pieces[index + 1] if index + 1 < len(self.pieces) else None
            fixed_width = (
                piece.fill
                and following is not None
                and (following.field.upper() in _DIGITS or following.text[:1].isdigit())
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
        if self.strict:
            self.exactly(piece)
            return False
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

    def exactly(self, piece: Piece) -> None:
        for character in piece.text:
            if self.text[self.position : self.position + 1] != character:
                what = "character" if piece.quoted else "separator"
                raise InvalidDatetimeFormat(f'unmatched format {what} "{character}"')
            self.position += 1

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
                numerals = {numeral.lower(): number for number, numeral in enumerate(ROMAN_NUMERALS, 1)}
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
            # 5.3 seconds: a fraction counts from the left.  All digits are read, those beyond FFn's are rounded.
            value = int(digits[:12].ljust(3 if name == "MS" else 6, "0"))
            self.store(piece, "US", value * (1000 if name == "MS" else 1))
            if name.startswith("FF"):
                self.found["precision"] = int(name[2])
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
        match = re.compile(r"([+\- ]?)(\d{1,2})").match(self.text, self.position)
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


def _fraction_of(text: str, found: dict[str, int]) -> int:
    microseconds = found.get("US", 0)
    if not 0 <= microseconds < MICROSECONDS_PER_SECOND:
        raise _out_of_range(text)
    unit: int = 10 ** (6 - found.get("precision", 6))
    return (microseconds + unit // 2) // unit * unit


def _time_of(text: str, found: dict[str, int]) -> int:
    if "SSSS" in found:
        seconds = found["SSSS"]
        if not 0 <= seconds < 86400:
            raise _out_of_range(text)
        return seconds * MICROSECONDS_PER_SECOND + _fraction_of(text, found)
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
        + _fraction_of(text, found)
    )


def _scan(text: str, template: str) -> _Scanner:
    scanner = _Scanner(text, template)
    scanner.run()
    return scanner


def read_strictly(text: str, template: str) -> tuple[str, Any, int]:
    """Read a text of which all must match the template; the fields tell the type.  Returns the type's name, the value, and
    the seconds of the time zone east of Greenwich."""
    pieces = pieces_of(template)
    for piece in pieces:
        if not piece.field and not piece.quoted and piece.text not in "-./,':; ":
            raise InvalidDatetimeFormat(f'invalid datetime format separator: "{piece.text}"')
    fields = {piece.field.upper() for piece in pieces} - {"", "FX"}
    scanner = _Scanner(text, template, strict=True)
    scanner.run()
    if template and text[scanner.position :].strip():
        raise InvalidDatetimeFormat("trailing characters remain in input string after datetime format")
    zoned, timed, found = fields & _ZONED, fields & _TIMED, scanner.found
    dated = fields - _ZONED - _TIMED
    days = check_date(_date_of(text, found)) if dated else 0
    if not timed:
        if dated and not zoned:
            return "date", days, 0
        what = "zoned but not timed" if dated else "not dated and not timed"
        raise InvalidDatetimeFormat(f"datetime format is {what}")
    time, east = _time_of(text, found), scanner.zone or 0
    if abs(east) >= MOST_ZONE:
        raise DatabaseError.of("22009", f'time zone displacement out of range: "{text}"')
    if not dated:
        return ("timetz", (time, -east), east) if zoned else ("time", time, 0)
    local = days * MICROSECONDS_PER_DAY + time
    if not zoned:
        return "timestamp", check_timestamp(local), 0
    return "timestamptz", check_timestamp(local - east * MICROSECONDS_PER_SECOND), east


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
