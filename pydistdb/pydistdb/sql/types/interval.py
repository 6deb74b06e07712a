"""interval: months, days and microseconds, read in all of Postgres's styles and written in its own.

    >>> format_interval(parse("1 year 2 mons -3 days 04:05:06.7", -1, None), None)
    '1 year 2 mons -3 days +04:05:06.7'
    >>> parse("P1Y2M3DT4H", -1, None) == parse("1-2 3 4:00:00", -1, None)
    True

Input comes as quantities with units (``1 day 2 hours ago``), SQL's ``year-month day time``, or ISO 8601 with or without
designators.  A fraction of a unit spills into smaller fields: half a month is 15 days, half a day 12 hours.

A modifier's upper half says which fields to keep (INTERVAL YEAR TO MONTH), its lower half the digits of seconds.

Source: PostgreSQL 15 manual, 8.5.4 and 8.5.5.
"""

from __future__ import annotations

import re
import struct
from fractions import Fraction

from pydistdb.sql.errors import DatabaseError, DatetimeFieldOverflow, InvalidDatetimeFormat
from pydistdb.sql.types.base import EvalContext, Interval, TypeIO
from pydistdb.sql.types.calendar import (
    MICROSECONDS_PER_DAY,
    MICROSECONDS_PER_HOUR,
    MICROSECONDS_PER_MINUTE,
    MICROSECONDS_PER_SECOND,
    time_text,
)
from pydistdb.sql.types.integers import INT4_MAX, INT4_MIN, INT8_MAX, INT8_MIN, wrong_binary_length

FULL_RANGE = 0x7FFF
# Bits of the fields in a modifier.
MONTH, YEAR, DAY, HOUR, MINUTE, SECOND = 1 << 1, 1 << 2, 1 << 3, 1 << 10, 1 << 11, 1 << 12

_MONTH_UNITS = {
    "millennium": 12000,
    "century": 1200,
    "decade": 120,
    "year": 12,
    "quarter": 3,
    "month": 1,
}
_TIME_UNITS = {
    "hour": MICROSECONDS_PER_HOUR,
    "minute": MICROSECONDS_PER_MINUTE,
    "second": MICROSECONDS_PER_SECOND,
    "millisecond": 1000,
    "microsecond": 1,
}
UNIT_SPELLINGS: dict[str, str] = {}
for _unit, _spellings in {
    "millennium": "mil mils millennia millennium millenniums",
    "century": "c cent centuries century",
    "decade": "dec decs decade decades",
    "year": "y year years yr yrs",
    "quarter": "qtr quarter",
    "month": "mon mons month months",
    "week": "w week weeks",
    "day": "d day days",
    "hour": "h hour hours hr hrs",
    "minute": "m min mins minute minutes",
    "second": "s sec secs second seconds",
    "millisecond": "ms msec msecs msecond mseconds millisecond milliseconds",
    "microsecond": "us usec usecs usecond useconds microsecond microseconds",
}.items():
    for _spelling in _spellings.split():
        UNIT_SPELLINGS[_spelling] = _unit

_SPACE = " \t\n\r\v\f"
_TOKEN = re.compile(
    r"[ \t\n\r\v\f]*(?:"
    r"(?P<time>[+-]?\d+:(?:\d+(?::\d*)?(?:\.\d*)?)?)"
    r"|(?P<year_month>[+-]?\d+-\d+(?![\d.]))"
    r"|(?P<number>[+-]?(?:\d+\.?\d*|\.\d+))"
    r"|(?P<word>[A-Za-z]+)"
    r"|(?P<punctuation>[@,])"
    r")"
)
_ISO_DESIGNATED = re.compile(r"(-?\d*\.?\d*(?:[eE][+-]?\d+)?)([A-Z])")
# ISO 8601's alternative form, P0001-02-03T04:05:06 or P00010203T040506: numbers by their places, each with its own sign.
# Postgres drops the fraction of seconds that are not set off by colons.
_ISO_NUMBER = r"(-?(?:\d+\.?\d*|\.\d+))"
_ISO_DATE = re.compile(f"{_ISO_NUMBER}(?:-{_ISO_NUMBER}(?:-{_ISO_NUMBER})?)?")
_ISO_TIME = re.compile(f"{_ISO_NUMBER}(?::{_ISO_NUMBER}(?::{_ISO_NUMBER})?)?")
_ISO_COMPACT_DATE = re.compile(r"(-?\d{4})(\d{2})(\d{2}(?:\.\d*)?)")
_ISO_COMPACT_TIME = re.compile(r"(-?\d{2})(\d{2})(\d{2})(?:\.\d*)?")
_SECONDS = ("second", "millisecond", "microsecond")


def out_of_range() -> DatabaseError:
    return DatetimeFieldOverflow("interval out of range")


def _field_overflow(text: str) -> DatabaseError:
    return DatabaseError.of("22015", f'interval field value out of range: "{text}"')


def _invalid(text: str) -> DatabaseError:
    return InvalidDatetimeFormat(f'invalid input syntax for type interval: "{text}"')


def checked(months: int, days: int, microseconds: int) -> Interval:
    if INT4_MIN <= months <= INT4_MAX and INT4_MIN <= days <= INT4_MAX and INT8_MIN <= microseconds <= INT8_MAX:
        return Interval(months, days, microseconds)
    raise out_of_range()


def _round(value: Fraction) -> int:
    """Round halves towards zero."""
    size = abs(value)
    whole = int(size)
    whole += size - whole > Fraction(1, 2)
    return -whole if value < 0 else whole


def _truncate(value: Fraction) -> int:
    return int(value)


class _Sum:
    """Adds up quantities of units, exactly; the fraction of a unit goes to the next smaller fields."""

    __slots__ = ("days", "microseconds", "months", "seen", "text", "years")

    def __init__(self, text: str) -> None:
        self.text = text
        self.years = 0
        self.months = 0
        self.days = 0
        self.microseconds = Fraction(0)
        self.seen: set[str] = set()

    def check(self) -> None:
        """Years, months and days are 32-bit counts of their own while they are read."""
        for count in (self.years, self.months, self.days):
            if not INT4_MIN <= count <= INT4_MAX:
                raise _field_overflow(self.text)
        if not INT8_MIN <= self.microseconds <= INT8_MAX:
            raise _field_overflow(self.text)

    def add(self, amount: Fraction, unit: str) -> None:
        self._add(amount, unit)
        self.check()

    def _add(self, amount: Fraction, unit: str) -> None:
        whole = _truncate(amount)
        if unit in _MONTH_UNITS:
            per_unit = _MONTH_UNITS[unit]
            if per_unit >= 12:
                self.years += whole * (per_unit // 12)
            else:
                self.months += whole * per_unit
            rest = amount - whole
            if per_unit > 1:
                # Fractions of years and more count in months only.
                self.months += _round(rest * per_unit)
            else:
                self.add_days(rest * 30)
        elif unit == "week":
            self.days += whole * 7
            self.add_days((amount - whole) * 7)
        elif unit == "day":
            self.days += whole
            self.microseconds += _round((amount - whole) * MICROSECONDS_PER_DAY)
        else:
            self.microseconds += _round(amount * _TIME_UNITS[unit])

    def add_days(self, amount: Fraction) -> None:
        whole = _truncate(amount)
        self.days += whole
        self.microseconds += _round((amount - whole) * MICROSECONDS_PER_DAY)

    def once(self, *units: str) -> None:
        """A unit may be named once (whole seconds and their parts are different units)."""
        if not self.seen.isdisjoint(units):
            raise _invalid(self.text)
        self.seen.update(units)

    def interval(self, sign: int = 1) -> Interval:
        self.years, self.months, self.days = self.years * sign, self.months * sign, self.days * sign
        microseconds = int(self.microseconds) * sign
        self.check()
        months, days = self.years * 12 + self.months, self.days
        if not INT4_MIN <= months <= INT4_MAX:
            raise out_of_range()
        if not INT8_MIN <= microseconds <= INT8_MAX:
            raise _field_overflow(self.text)
        return Interval(months, days, microseconds)


def _number(digits: str) -> Fraction:
    if digits in ("", "+", "-", "."):
        return Fraction(0)
    sign = ""
    if digits[0] in "+-":
        sign, digits = digits[0], digits[1:]
    exponent = digits.lower().partition("e")[2]
    if exponent and abs(int(exponent)) > 400:
        return Fraction(10) ** 400
    if digits[-1] == ".":
        digits = digits[:-1]
    return Fraction(sign + (digits if digits[0] != "." else "0" + digits))


def _time(text: str, digits: str, modifier_range: int) -> Fraction:
    """Read ``h:m``, ``h:m:s`` or, with a fraction, ``m:s.f``."""
    sign = -1 if digits[0] == "-" else 1
    parts = digits.lstrip("+-").rstrip(":").split(":")
    if len(parts) == 1:
        parts.append("0")
    if len(parts) == 2 and ("." in parts[1] or modifier_range == MINUTE | SECOND):
        parts = ["0", *parts]
    hours, minutes = int(parts[0]), int(parts[1])
    seconds = _number(parts[2]) if len(parts) == 3 else Fraction(0)
    if minutes > 59 or seconds > 60:
        raise _field_overflow(text)
    total = hours * MICROSECONDS_PER_HOUR + minutes * MICROSECONDS_PER_MINUTE
    # Unlike fractions of named units, those of a clock time round to even.
    size = total + round(seconds * MICROSECONDS_PER_SECOND)
    if size > INT8_MAX:
        # With a sign it might have been a time zone, hence the other complaint.
        raise _invalid(text) if digits[0] in "+-" else _field_overflow(text)
    return Fraction(sign * size)


def _default_unit(modifier_range: int) -> str:
    """The unit of a bare number: the last field of INTERVAL … TO field, else seconds."""
    for bit, unit in (
        (SECOND, "second"),
        (MINUTE, "minute"),
        (HOUR, "hour"),
        (DAY, "day"),
        (MONTH, "month"),
        (YEAR, "year"),
    ):
        if modifier_range & bit:
            return unit
    return "second"


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens = []
    position, end = 0, len(text.rstrip(_SPACE))
    while position < end:
        match = _TOKEN.match(text, position, end)
        if match is None:
            # A sign may stand apart from its number.
            loose = re.compile(r"[ \t\n\r\v\f]*([+-])[ \t\n\r\v\f]+(?=[\d.])").match(text, position, end)
            if loose is None:
                raise _invalid(text)
            text = text[: loose.start()] + " " * (len(loose[0]) - 1) + loose[1] + text[loose.end() :]
            position = loose.end() - 1
            continue
        position = match.end()
        kind = match.lastgroup
        assert kind is not None
        if kind != "punctuation":
            tokens.append((kind, match[kind]))
    return tokens


def _bare_unit(tokens: list[tuple[str, str]], position: int, modifier_range: int) -> str:
    """The unit of a number without one: days before hours ("3 4:05:06", "3 4 hours", "3 4" as DAY TO HOUR), else that of the
    number behind it (a unit that stands twice is an error), or the last field of the range."""
    kind = tokens[position][0] if position < len(tokens) else ""
    if kind == "time":
        return "day"
    if kind != "number":
        return _default_unit(modifier_range)
    named = tokens[position + 1] if position + 1 < len(tokens) else ("", "")
    unit = UNIT_SPELLINGS.get(named[1].lower()) if named[0] == "word" else _default_unit(modifier_range)
    return "day" if unit == "hour" else unit or _default_unit(modifier_range)


def _all_negative(tokens: list[tuple[str, str]]) -> bool:
    """SQL's reading of a leading minus: it holds for the whole interval, unless another field has a sign of its own."""
    return tokens[0][1][0] == "-" and not any(word[0] in "+-" for _, word in tokens[1:])


def _parse_tokens(text: str, modifier_range: int, standard: bool) -> Interval:
    total = _Sum(text)
    sign = 1
    tokens = _tokens(text)
    if not tokens:
        raise _invalid(text)
    all_negative = standard and _all_negative(tokens)
    position = 0
    while position < len(tokens):
        kind, word = tokens[position]
        if all_negative and kind != "word":
            word = "-" + word.lstrip("-")
        following = tokens[position + 1] if position + 1 < len(tokens) else ("", "")
        match kind:
            case "time":
                total.once("hour", "minute", *_SECONDS)
                total.microseconds += _time(text, word, modifier_range)
                if following[0] == "word" and following[1].lower() in UNIT_SPELLINGS:
                    # "1:30 hours": the unit adds nothing
                    position += 1
            case "year_month":
                total.once("month")
                negative = word[0] == "-"
                years, _, months = word.lstrip("+-").partition("-")
                if int(months) > 11:
                    raise _field_overflow(text)
                count = int(years) * 12 + int(months)
                total.months += -count if negative else count
            case "number":
                if following[0] == "word" and following[1].lower() != "ago":
                    unit = UNIT_SPELLINGS.get(following[1].lower())
                    if unit is None or unit == "quarter":
                        raise _invalid(text)
                    position += 1
                elif following[0] == "word":
                    raise _invalid(text)  # "5 ago"
                else:
                    unit = _bare_unit(tokens, position + 1, modifier_range)
                amount = _number(word)
                total.add(amount, unit)
                total.once(*(_SECONDS if unit == "second" and amount.denominator != 1 else (unit,)))
            case _:
                if word.lower() != "ago" or position == 0:
                    raise _invalid(text)
                sign = -1
        position += 1
    return total.interval(sign)


def _parse_iso(text: str) -> Interval:
    total = _Sum(text)
    date_part, has_time, time_part = text[1:].partition("T")
    if not date_part and not has_time:
        raise _invalid(text)
    match = _ISO_COMPACT_DATE.fullmatch(date_part) or _ISO_DATE.fullmatch(date_part)
    if match is not None:
        _add_by_place(total, match, ("year", "month", "day"))
    else:
        _add_designated(total, date_part, {"Y": "year", "M": "month", "W": "week", "D": "day"})
    if has_time:
        match = _ISO_COMPACT_TIME.fullmatch(time_part) or _ISO_TIME.fullmatch(time_part)
        if match is not None:
            _add_by_place(total, match, ("hour", "minute", "second"))
        else:
            _add_designated(total, time_part, {"H": "hour", "M": "minute", "S": "second"})
    return total.interval()


def _add_by_place(total: _Sum, match: re.Match[str], units: tuple[str, ...]) -> None:
    negative_whole = match.re in (_ISO_COMPACT_DATE, _ISO_COMPACT_TIME) and match[1][0] == "-"
    for place, unit in enumerate(units, 1):
        if match[place] is not None:
            amount = _number(match[place])
            total.add(-amount if negative_whole and place > 1 else amount, unit)


def _add_designated(total: _Sum, part: str, units: dict[str, str]) -> None:
    position = 0
    for match in _ISO_DESIGNATED.finditer(part):
        if match.start() != position or not any(c.isdigit() for c in match[1]) or match[2] not in units:
            raise _invalid(total.text)
        total.add(_number(match[1]), units[match[2]])
        position = match.end()
    if position != len(part):
        raise _invalid(total.text)


def parse(text: str, modifier: int, context: EvalContext | None) -> Interval:
    modifier_range = modifier >> 16 & FULL_RANGE if modifier >= 0 else FULL_RANGE
    if text[:1] == "P":
        value = _parse_iso(text)
    else:
        standard = context is not None and context.settings.get("intervalstyle") == "sql_standard"
        value = _parse_tokens(text, modifier_range, standard)
    return value if modifier < 0 else apply_modifier(value, modifier)


def _toward_zero(value: int, unit: int) -> int:
    return value // unit * unit if value >= 0 else -(-value // unit * unit)


def apply_modifier(value: Interval, modifier: int, explicit: bool = False) -> Interval:
    """Cut off the fields below the last one declared, and round seconds to the digits declared."""
    if modifier < 0:
        return value
    fields = modifier >> 16 & FULL_RANGE
    precision = modifier & 0xFFFF
    months, days, microseconds = value
    if fields != FULL_RANGE:
        if not fields & (SECOND | MINUTE | HOUR | DAY | MONTH):
            months = _toward_zero(months, 12)
        if not fields & (SECOND | MINUTE | HOUR | DAY):
            days = 0
        if not fields & (SECOND | MINUTE | HOUR):
            microseconds = 0
        elif not fields & (SECOND | MINUTE):
            microseconds = _toward_zero(microseconds, MICROSECONDS_PER_HOUR)
        elif not fields & SECOND:
            microseconds = _toward_zero(microseconds, MICROSECONDS_PER_MINUTE)
    if precision < 6:
        unit = 10 ** (6 - precision)
        half = unit // 2
        microseconds = (
            (microseconds + half) // unit * unit if microseconds >= 0 else -((-microseconds + half) // unit * unit)
        )
    return Interval(months, days, microseconds)


# ------------------------------------------------------------------------------------------------ output


def _truncated_divmod(value: int, divisor: int) -> tuple[int, int]:
    quotient, remainder = divmod(abs(value), divisor)
    return (-quotient, -remainder) if value < 0 else (quotient, remainder)


def format_interval(value: Interval, context: EvalContext | None) -> str:
    style = context.settings.get("intervalstyle", "postgres") if context is not None else "postgres"
    if style != "postgres":
        return {"iso_8601": _format_iso, "postgres_verbose": _format_verbose, "sql_standard": _format_standard}[style](
            value
        )
    months, days, microseconds = value
    years, months = _truncated_divmod(months, 12)
    parts: list[str] = []
    negative = False
    for count, unit in ((years, "year"), (months, "mon"), (days, "day")):
        if count:
            # Postgres signs a positive field that follows a negative one.
            sign = "+" if negative and count > 0 else ""
            parts.append(f"{sign}{count} {unit}{'' if count == 1 else 's'}")
            negative = count < 0
    if microseconds or not parts:
        sign = "-" if microseconds < 0 else "+" if negative else ""
        parts.append(sign + time_text(abs(microseconds)))
    return " ".join(parts)


def _fields(value: Interval) -> tuple[int, int, int, int, int, int]:
    """Years, months, days, hours, minutes, microseconds; each with its sign."""
    years, months = _truncated_divmod(value[0], 12)
    hours, rest = _truncated_divmod(value[2], MICROSECONDS_PER_HOUR)
    minutes, rest = _truncated_divmod(rest, MICROSECONDS_PER_MINUTE)
    return years, months, value[1], hours, minutes, rest


def _seconds_text(microseconds: int, width: int) -> str:
    seconds, rest = divmod(abs(microseconds), MICROSECONDS_PER_SECOND)
    return f"{seconds:0{width}}" + (f".{rest:06}".rstrip("0") if rest else "")


def _format_verbose(value: Interval) -> str:
    """``@ 1 year 2 mons -3 days 4 hours ago``: signs are as seen from the first field's."""
    *counts, microseconds = _fields(value)
    parts: list[str] = []
    ago = next((count < 0 for count in (*counts, microseconds) if count), False)
    for count, unit in zip(counts, ("year", "mon", "day", "hour", "min"), strict=True):
        if count:
            count = -count if ago else count
            parts.append(f"{count} {unit}{'' if count == 1 else 's'}")
    if microseconds:
        sign = "-" if (microseconds < 0) != ago else ""
        plural = "" if abs(microseconds) == MICROSECONDS_PER_SECOND else "s"
        parts.append(f"{sign}{_seconds_text(microseconds, 1)} sec{plural}")
    return " ".join(["@", *(parts or ["0"]), *(["ago"] if ago else [])])


def _format_standard(value: Interval) -> str:
    """``1-2``, ``3 4:05:06``, ``-4:05:06``; what the standard cannot say has a sign before each part."""
    fields = _fields(value)
    negative, positive = any(count < 0 for count in fields), any(count > 0 for count in fields)
    if not negative and not positive:
        return "0"
    years, months, days, hours, minutes, microseconds = map(abs, fields)
    clock = f"{hours}:{minutes:02}:{_seconds_text(microseconds, 2)}"
    if (negative and positive) or (any(fields[:2]) and any(fields[2:])):
        signs = ["-" if any(count < 0 for count in part) else "+" for part in (fields[:2], fields[2:3], fields[3:])]
        return f"{signs[0]}{years}-{months} {signs[1]}{days} {signs[2]}{clock}"
    sign = "-" if negative else ""
    if years or months:
        return f"{sign}{years}-{months}"
    return f"{sign}{days} {clock}" if days else sign + clock


def _format_iso(value: Interval) -> str:
    months, days, microseconds = value
    years, months = _truncated_divmod(months, 12)
    text = "".join(f"{count}{unit}" for count, unit in ((years, "Y"), (months, "M"), (days, "D")) if count)
    hours, rest = _truncated_divmod(microseconds, MICROSECONDS_PER_HOUR)
    minutes, rest = _truncated_divmod(rest, MICROSECONDS_PER_MINUTE)
    clock = "".join(f"{count}{unit}" for count, unit in ((hours, "H"), (minutes, "M")) if count)
    if rest:
        seconds, fraction = divmod(abs(rest), MICROSECONDS_PER_SECOND)
        digits = f"{seconds}.{fraction:06d}".rstrip("0").rstrip(".")
        clock += f"{'-' if rest < 0 else ''}{digits}S"
    if clock:
        text += "T" + clock
    return "P" + (text or "T0S")


_binary = struct.Struct("!qii")


def _decode(data: bytes) -> Interval:
    try:
        microseconds, days, months = _binary.unpack(data)
    except struct.error:
        raise wrong_binary_length() from None
    return Interval(months, days, microseconds)


IO = {
    "interval": TypeIO(
        parse,
        format_interval,
        _decode,
        lambda value: _binary.pack(value[2], value[1], value[0]),
        "interval",
        list,
        lambda stored: Interval(*stored),
    )
}
