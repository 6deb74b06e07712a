"""Reading dates and times the way people write them.

Input falls into fields (numbers, words, dates with separators, clock times, zone offsets), whose meaning depends on what
came before: ``1999-01-08``, ``Jan 8, 1999``, ``19990108T040506``, ``J2451187``, ``04:05 PM EST``, ``yesterday``.

    >>> read("January 8, 99 BC 4:05 pm", Rules()).date
    (-98, 1, 8)

``read`` collects what the text says in a ``Moment``; the types take from it what they need (datetime.py).  The rules about
ambiguous numbers (``1/8/1999``: month first unless DateStyle says otherwise; a two-digit year below 70 is in this century)
are Postgres's.

Source: PostgreSQL 15 manual, 8.5.1 and appendix B.1; checked against a server.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from pydistdb.sql.errors import DatabaseError, DatetimeFieldOverflow, InvalidDatetimeFormat
from pydistdb.sql.types.calendar import (
    JULIAN_DAY_OF_2000,
    MICROSECONDS_PER_DAY,
    MICROSECONDS_PER_HOUR,
    MICROSECONDS_PER_MINUTE,
    MICROSECONDS_PER_SECOND,
    civil_of,
    days_in_month,
    days_of,
)
from pydistdb.sql.types.zones import ABBREVIATIONS, Zone, abbreviated, find_zone, not_recognized

_MONTH_NAMES = """
jan january  feb february  mar march  apr april  may may  jun june
jul july  aug august  sep sept september  oct october  nov november  dec december
"""
_MONTH_STARTS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
MONTHS = {name: _MONTH_STARTS.index(name[:3]) + 1 for name in _MONTH_NAMES.split()}
_WEEKDAY_NAMES = """
sun sunday mon monday tue tues tuesday wed weds wednesday thu thur thurs thursday fri friday sat saturday
"""
_WEEKDAYS = frozenset(_WEEKDAY_NAMES.split())
_IGNORED = frozenset(("at", "on"))
_SPECIAL = frozenset(
    ("now", "today", "tomorrow", "yesterday", "epoch", "infinity", "-infinity", "+infinity", "allballs")
)

_UNITS = frozenset(("y", "m", "d", "h", "mm", "s"))
_MOST_LENGTH = 128
_MOST_FIELDS = 25


@dataclass(slots=True)
class Rules:
    """What reading depends on: the type's name for messages and the order of day, month and year."""

    type_name: str = "timestamp"
    date_order: str = "MDY"

    @property
    def is_time(self) -> bool:
        """A time of day is read, not a date."""
        return self.type_name in ("time", "time with time zone")


@dataclass(slots=True)
class Moment:
    """What a text said.  ``special`` is one of the words that stand for themselves, else ""."""

    text: str
    special: str = ""
    year: int | None = None
    month: int | None = None
    day: int | None = None
    time: int | None = None
    """Microseconds since midnight."""
    zone: Zone | None = None
    julian: int | None = None
    day_of_year: int | None = None
    bc: bool = False
    half: str = ""
    """am or pm"""
    two_digit_year: bool = False
    text_month: bool = False

    @property
    def date(self) -> tuple[int, int, int]:
        assert self.year is not None and self.month is not None and self.day is not None
        return self.year, self.month, self.day

    @property
    def has_date(self) -> bool:
        return self.julian is not None or (
            self.year is not None
            and (self.day_of_year is not None or (self.month is not None and self.day is not None))
        )


def invalid(text: str, rules: Rules) -> DatabaseError:
    return InvalidDatetimeFormat(f'invalid input syntax for type {rules.type_name}: "{text}"')


def field_overflow(text: str, *, wrong_order: bool = False) -> DatabaseError:
    hint = 'Perhaps you need a different "datestyle" setting.' if wrong_order else None
    return DatetimeFieldOverflow(f'date/time field value out of range: "{text}"', hint=hint)


# ------------------------------------------------------------------------------------------------ fields

_FIELD = re.compile(
    r"(?P<time>\d+:[\d:.]*)"
    r"|(?P<date>\d+(?P<delimiter>[-/.])(?:\d+(?P=delimiter)[\d./-]*|[A-Za-z][A-Za-z0-9./-]*))"
    r"|(?P<decimal>\d+\.\d*|\.\d+)"
    r"|(?P<pair>\d+[-/]\d+)"
    r"|(?P<number>\d+)"
    r"|(?P<zone>[+-][ \t\n\r\v\f]*\d[\d:.-]*)"
    r"|(?P<signed>[+-][ \t\n\r\v\f]*[A-Za-z]+)"
    r"|(?P<name>[A-Za-z]+(?:[-/._][A-Za-z0-9+/_.:-]*|[+-]\d[\d:]*)+)"
    r"|(?P<word>[A-Za-z]+)"
    r"|(?P<other>[ \t\n\r\v\f!-,;<->@\[\]^`{-~])"
)


def split_fields(text: str, rules: Rules) -> list[tuple[str, str]]:
    """Cut the text into (kind, field) pairs, words in lower case."""
    if len(text) > _MOST_LENGTH * 8:
        raise invalid(text, rules)
    fields = []
    position = 0
    while position < len(text):
        match = _FIELD.match(text, position)
        if match is None:
            raise invalid(text, rules)
        position = match.end()
        kind = match.lastgroup
        assert kind is not None
        if kind == "delimiter":
            kind = "date"
        if kind == "other":
            continue
        fields.append((kind, match[0].lower()))
        if len(fields) > _MOST_FIELDS:
            raise invalid(text, rules)
    return fields


# ------------------------------------------------------------------------------------------------ pieces


_OFFSET = re.compile(r"(\d+)(?:(:)(\d*)(?::(\d*))?)?")


def parse_offset(text: str, digits: str, rules: Rules) -> int:
    """Read ``+hh``, ``-hh:mm``, ``+hhmm``, ``-hh:mm:ss``; seconds east.  Too far is said before what is wrong behind it."""
    rest = digits[1:].strip()
    match = _OFFSET.match(rest)
    if match is None:
        raise invalid(text, rules)
    hours, minutes, seconds = (int(part or 0) for part in match.group(1, 3, 4))
    if match[2] is None and match.end() == len(rest) and len(rest) > 2:
        hours, minutes = divmod(hours, 100)
    if hours > 15 or minutes > 59 or seconds > 59:
        raise DatabaseError.of("22009", f'time zone displacement out of range: "{text}"')
    if match.end() < len(rest):
        raise invalid(text, rules)
    return (-1 if digits[0] == "-" else 1) * (hours * 3600 + minutes * 60 + seconds)


def parse_clock(text: str, digits: str, rules: Rules) -> int:
    """Read ``h:m``, ``h:m:s``, ``h:m:s.f``; microseconds since midnight (24:00 and second 60 allowed)."""
    parts = digits.split(":")
    if len(parts) > 3:
        raise invalid(text, rules)
    # Nothing behind a colon is zero: "11:" is eleven o'clock.
    parts = [part or "0" for part in parts]
    seconds, _, fraction = (parts[2] if len(parts) == 3 else "0").partition(".")
    if not all(part.isdigit() for part in (parts[0], parts[1], seconds)) or (fraction and not fraction.isdigit()):
        raise invalid(text, rules)
    return clock(text, int(parts[0]), int(parts[1]), int(seconds), fraction)


def fraction_microseconds(digits: str) -> int:
    """Round a decimal fraction to microseconds, halves to even."""
    if not digits:
        return 0
    return round(Fraction(int(digits[:30]), 10 ** len(digits[:30])) * MICROSECONDS_PER_SECOND)


def clock(text: str, hour: int, minute: int, second: int, fraction: str) -> int:
    microseconds = fraction_microseconds(fraction)
    if minute > 59 or second > 60 or hour > 24 or (hour == 24 and (minute or second or microseconds)):
        raise field_overflow(text)
    return (
        hour * MICROSECONDS_PER_HOUR
        + minute * MICROSECONDS_PER_MINUTE
        + second * MICROSECONDS_PER_SECOND
        + microseconds
    )


class _Reader:
    def __init__(self, text: str, rules: Rules) -> None:
        self.text = text
        self.rules = rules
        self.moment = Moment(text)
        self.fields = split_fields(text, rules)
        self.iso_time_follows = False
        self.prefix = ""
        """The word that says what the next number is: j, or one of the units."""
        self.clock_parts: dict[str, str] = {}

    def invalid(self) -> DatabaseError:
        return invalid(self.text, self.rules)

    def read(self) -> Moment:
        if not self.fields:
            raise self.invalid()
        for position, (kind, word) in enumerate(self.fields):
            match kind:
                case "time":
                    self.set_time(parse_clock(self.text, word, self.rules))
                case "date" | "pair":
                    self.read_date_field(word)
                case "decimal":
                    self.read_decimal(word)
                case "number":
                    self.read_number(word, position)
                case "zone":
                    self.read_zone(word)
                case "signed":
                    self.read_special(word[0] + word[1:].strip())
                case "name":
                    self.read_name(word)
                case _:
                    self.read_word(word)
        if self.prefix or self.iso_time_follows:
            raise self.invalid()
        self.finish()
        return self.moment

    def set_time(self, microseconds: int) -> None:
        if self.moment.time is not None or self.prefix == "j":
            raise self.invalid()
        self.moment.time = microseconds
        self.iso_time_follows = False

    def set_zone(self, zone: Zone) -> None:
        if self.moment.zone is not None:
            raise self.invalid()
        self.moment.zone = zone

    # -------------------------------------------------------------------------------------------- numbers

    def read_zone(self, word: str) -> None:
        """A signed number is a zone offset, and comes behind a time or a date."""
        moment = self.moment
        if moment.time is None and not moment.has_date:
            parse_offset(self.text, word, self.rules)  # an offset too far is the first thing to say
            raise self.invalid()
        if moment.zone is not None and moment.zone.name != "posix-prefix":
            raise self.invalid()
        self.moment.zone = Zone(word, parse_offset(self.text, word, self.rules))

    def read_unit(self, word: str) -> None:
        """A number behind a letter that says what it is: Y2001M12D27H04MM05S06.789."""
        moment, unit = self.moment, self.prefix
        self.prefix = ""
        if "." in word and unit != "s":
            raise self.invalid()
        if unit == "y":
            self.set_year(word)
            moment.two_digit_year = False
        elif unit == "m" and (moment.month is None or "h" not in self.clock_parts):
            moment.month = int(word[:12])
        elif unit == "d":
            moment.day = int(word[:12])
        else:
            self.clock_parts["mm" if unit == "m" else unit] = word

    def read_decimal(self, word: str) -> None:
        moment = self.moment
        if self.prefix in _UNITS:
            self.read_unit(word)
            return
        whole, _, fraction = word.partition(".")
        if self.prefix == "j":
            self.prefix = ""
            moment.julian = int(whole)
            part = float("0." + (fraction or "0"))
            self.set_time(int(part * MICROSECONDS_PER_DAY))
            return
        if len(whole) == 8 and not moment.has_date:
            # 20010203.5: a day and a fraction of it is not a date in Postgres
            raise self.invalid()
        if len(whole) in (4, 6) and (moment.has_date or self.iso_time_follows) and moment.time is None:
            hour, minute, second = int(whole[:2]), int(whole[2:4]), int(whole[4:] or 0)
            self.set_time(clock(self.text, hour, minute, second, fraction))
            return
        if len(fraction) == 3 and not moment.has_date and moment.year is None and len(whole) == 4:
            moment.year, moment.day_of_year = int(whole), int(fraction)
            return
        if whole and fraction and not moment.has_date and moment.year is None:
            self.read_number(whole, 1)
            self.read_number(fraction, 1)
            return
        raise self.invalid()

    def read_number(self, word: str, position: int) -> None:
        moment = self.moment
        if self.prefix in _UNITS:
            self.read_unit(word)
            return
        if self.prefix == "j":
            self.prefix = ""
            moment.julian = int(word[:12])
            return
        if self.iso_time_follows and len(word) in (4, 6):
            hour, minute, second = int(word[:2]), int(word[2:4]), int(word[4:] or 0)
            self.set_time(clock(self.text, hour, minute, second, ""))
            return
        if moment.has_date and moment.time is None and len(word) in (4, 6):
            hour, minute, second = int(word[:2]), int(word[2:4]), int(word[4:] or 0)
            self.set_time(clock(self.text, hour, minute, second, ""))
            return
        if len(word) >= 6 and moment.year is None and moment.month is None and moment.day is None:
            moment.year = int(word[:-4])
            moment.month, moment.day = int(word[-4:-2]), int(word[-2:])
            moment.two_digit_year = len(word) == 6
            return
        following = self.fields[position + 1] if position + 1 < len(self.fields) else ("", "")
        if following[1] in ("am", "pm") and moment.time is None and len(word) <= 2 and moment.has_date:
            self.set_time(clock(self.text, int(word), 0, 0, ""))
            return
        if moment.has_date and moment.time is None and len(word) <= 2 and following[1] in ("am", "pm"):
            self.set_time(clock(self.text, int(word), 0, 0, ""))
            return
        self.date_number(word, two_digit=len(word) <= 2)

    def date_number(self, word: str, *, two_digit: bool) -> None:
        """Decide whether a lone number is a year, a month or a day, by what is known already."""
        moment = self.moment
        value = int(word)
        if moment.day_of_year is not None:
            raise self.invalid()
        if len(word) == 3 and moment.year is not None and moment.month is None and moment.day is None:
            if not 1 <= value <= 366:
                raise field_overflow(self.text)
            moment.day_of_year = value
            return
        has_year, has_month, has_day = moment.year is not None, moment.month is not None, moment.day is not None
        match (has_year, has_month, has_day):
            case (False, False, False):
                if len(word) >= 3 or self.rules.date_order == "YMD":
                    self.set_year(word)
                elif self.rules.date_order == "DMY":
                    moment.day = value
                else:
                    moment.month = value
            case (False, True, False):
                if moment.text_month:
                    if len(word) >= 3 or self.rules.date_order == "YMD":
                        self.set_year(word)
                    else:
                        moment.day = value
                else:
                    moment.day = value
            case (False, False, True):
                if len(word) >= 3:
                    self.set_year(word)
                else:
                    moment.month = value
            case (True, False, False):
                moment.month = value
            case (True, False, True):
                moment.month = value
            case (True, True, False):
                moment.day = value
                if moment.text_month and len(word) >= 3 and moment.two_digit_year:
                    moment.day, moment.year = moment.year, value
                    moment.two_digit_year = False
            case (False, True, True):
                self.set_year(word)
            case _:
                raise self.invalid()

    def set_year(self, word: str) -> None:
        if len(word) > 9:
            raise field_overflow(self.text)
        self.moment.year = int(word)
        self.moment.two_digit_year = len(word) <= 2

    # -------------------------------------------------------------------------------------------- words

    def read_date_field(self, word: str) -> None:
        moment = self.moment
        if word[-1] in "-/.":
            # 1999-08-Jan: numbers first, and the name is no part of the date any more.
            raise self.invalid()
        if self.prefix == "j":
            # J2451187-08: a day and a time zone
            digits, _, offset = word.partition("-")
            if not digits.isdigit() or not offset:
                raise self.invalid()
            self.read_number(digits, 0)
            self.read_zone("-" + offset)
            return
        if moment.time is not None and not moment.has_date:
            # Postgres takes words and numbers after the time, but no date in one piece.
            raise self.invalid()
        if self.moment.has_date:
            # A run-together time with a zone: 20010203 040506-08.
            match = re.fullmatch(r"(\d{2,6})-(\d{1,4})", word)
            if match is None or moment.time is not None:
                raise self.invalid()
            self.read_time_and_zone(match[1], match[2])
            return
        if self.rules.is_time and len(self.fields) == 1:
            digits, minus, offset = word.partition("-")
            if not minus or not digits.isdigit():  # no date, where a time is wanted
                raise self.invalid()
            self.read_time_and_zone(digits, offset)
            return
        parts = [part for part in re.split(r"[-/.]", word) if part]
        numbers = []
        for part in parts:
            pieces = re.findall(r"[a-z]+|\d+", part)
            for piece in pieces:
                if piece in MONTHS:
                    if moment.month is not None:
                        raise self.invalid()
                    moment.month, moment.text_month = MONTHS[piece], True
                elif piece.isdigit():
                    numbers.append(piece)
                elif piece == "t" and piece == pieces[1] and len(pieces) == 3:
                    # 1999-01-08T040506
                    self.iso_time_follows = True
                elif piece not in _WEEKDAYS:
                    raise self.invalid()
        time_digits = numbers.pop() if self.iso_time_follows else ""
        if len(numbers) + moment.text_month > 3 or len(numbers) + moment.text_month < 2:
            raise self.invalid()
        if len(numbers) == 2 and not moment.text_month and len(numbers[0]) >= 3 and len(numbers[1]) == 3:
            moment.year, moment.day_of_year = int(numbers[0]), int(numbers[1])
            return
        for number in numbers:
            self.date_number(number, two_digit=len(number) <= 2)
        if time_digits:
            self.read_number(time_digits, 0)

    def read_time_and_zone(self, digits: str, offset: str) -> None:
        """A time without colons and, behind a minus, the zone: ``040506-08``."""
        zone = Zone("", parse_offset(self.text, "-" + offset, self.rules))
        if len(digits) not in (4, 6):
            raise self.invalid()
        self.iso_time_follows = True
        self.read_number(digits, 0)
        self.moment.zone = zone

    def read_name(self, word: str) -> None:
        """A word with separators: a date (jan-08-1999), a zone (america/new_york, utc+3), or 08-jan's relatives."""
        head = re.match("[a-z]+", word)
        assert head is not None
        if head[0] in MONTHS and not self.moment.has_date:
            self.read_date_field(word)
            return
        if head[0] == "j" and re.fullmatch(r"j[.]?\d+(\.\d+)?", word):
            self.prefix = "j"
            self.read_decimal(word[1:]) if "." in word else self.read_number(word[1:], 0)
            return
        if head[0] == "t" and self.moment.has_date and self.moment.time is None:
            raise self.invalid()
        zone = find_zone(word)
        if zone is None and head[0] in ABBREVIATIONS and word[head.end()] in "+-":
            zone = find_zone(word)
        if zone is None:
            raise not_recognized(word)
        self.set_zone(zone)

    def read_special(self, word: str) -> None:
        moment = self.moment
        if moment.special or word not in _SPECIAL:
            raise self.invalid()
        if word == "allballs":
            self.set_time(0)
            moment.zone = Zone("UTC", 0)
            return
        moment.special = "infinity" if word == "+infinity" else word

    def read_word(self, word: str) -> None:
        moment = self.moment
        if word in MONTHS:
            if moment.month is not None and not moment.text_month and moment.day is None:
                # "8 Jan": the number was the day after all.
                moment.day, moment.month = moment.month, None
            if moment.month is not None:
                raise self.invalid()
            moment.month, moment.text_month = MONTHS[word], True
        elif word in _WEEKDAYS or word in _IGNORED:
            pass
        elif word in _SPECIAL:
            self.read_special(word)
        elif word in ("am", "pm"):
            if moment.half:
                raise self.invalid()
            moment.half = word
        elif word in ("bc", "ad"):
            moment.bc = word == "bc"
        elif word == "t" and moment.has_date:
            self.iso_time_follows = True
        elif word in ("j", "jd", "julian"):
            self.prefix = "j"
        elif word in _UNITS and not self.prefix:
            self.prefix = word
        elif word in ABBREVIATIONS:
            self.set_zone(abbreviated(word))
        elif word == "dst" and moment.zone is not None:
            moment.zone = Zone(moment.zone.name, moment.zone.seconds_east + 3600)
        else:
            zone = find_zone(word) if len(word) > 2 else None
            if zone is None:
                raise self.invalid()
            self.set_zone(zone)

    # -------------------------------------------------------------------------------------------- the whole

    def finish(self) -> None:
        moment = self.moment
        if self.clock_parts:
            hour, minute, second = (self.clock_parts.get(unit, "0") for unit in ("h", "mm", "s"))
            whole, _, fraction = second.partition(".")
            self.set_time(clock(self.text, int(hour[:9]), int(minute[:9]), int(whole[:9] or 0), fraction))
        if moment.half:
            self.apply_half()
        if moment.special:
            return
        if moment.julian is not None:
            days = moment.julian - JULIAN_DAY_OF_2000
            moment.year, moment.month, moment.day = civil_of(days)
            return
        if moment.year is not None:
            self.settle_year()
        if moment.day_of_year is not None:
            assert moment.year is not None
            moment.year, moment.month, moment.day = civil_of(days_of(moment.year, 1, 1) + moment.day_of_year - 1)
        if moment.month is not None and not 1 <= moment.month <= 12:
            raise field_overflow(self.text, wrong_order=True)
        if moment.day is not None:
            if not 1 <= moment.day <= 31:
                raise field_overflow(self.text, wrong_order=True)
            known = moment.year is not None and moment.month is not None
            if known and moment.day > days_in_month(*moment.date[:2]):
                raise field_overflow(self.text)

    def settle_year(self) -> None:
        moment = self.moment
        assert moment.year is not None
        if moment.bc:
            if moment.year <= 0:
                raise field_overflow(self.text)
            moment.year = 1 - moment.year
        elif moment.two_digit_year:
            moment.year += 2000 if moment.year < 70 else 1900
        elif moment.year == 0:
            raise field_overflow(self.text)

    def apply_half(self) -> None:
        moment = self.moment
        if moment.time is None:
            raise self.invalid()
        hour = moment.time // MICROSECONDS_PER_HOUR
        if hour > 12:
            raise field_overflow(self.text)
        if moment.half == "pm" and hour != 12:
            moment.time += 12 * MICROSECONDS_PER_HOUR
        elif moment.half == "am" and hour == 12:
            moment.time -= 12 * MICROSECONDS_PER_HOUR


def read(text: str, rules: Rules) -> Moment:
    return _Reader(text, rules).read()
