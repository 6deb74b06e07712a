"""Civil calendar arithmetic on plain integers: days since 2000-01-01, microseconds since its midnight.

Python's datetime ends at year 9999 and begins at 1; Postgres's dates run from 4713 BC to 5874897 AD.  The proleptic
Gregorian calendar repeats every 400 years = 146097 days, which is all that is needed.  Years count astronomically here:
1 BC is year 0, 2 BC is -1.

    >>> days_of(2000, 3, 1), civil_of(60)
    (60, (2000, 3, 1))
    >>> weekday(0)   # 2000-01-01 was a Saturday
    6

Source: the counting from March, so that the leap day ends the year, follows H. Hinnant, "chrono-compatible low-level
date algorithms" (2013).
"""

from __future__ import annotations

MICROSECONDS_PER_SECOND = 1_000_000
MICROSECONDS_PER_MINUTE = 60 * MICROSECONDS_PER_SECOND
MICROSECONDS_PER_HOUR = 3600 * MICROSECONDS_PER_SECOND
MICROSECONDS_PER_DAY = 86400 * MICROSECONDS_PER_SECOND

JULIAN_DAY_OF_2000 = 2451545
UNIX_EPOCH_DAYS = -10957
UNIX_EPOCH_MICROSECONDS = UNIX_EPOCH_DAYS * MICROSECONDS_PER_DAY

DATE_INFINITY = 2**31 - 1
DATE_NEGATIVE_INFINITY = -(2**31)
TIMESTAMP_INFINITY = 2**63 - 1
TIMESTAMP_NEGATIVE_INFINITY = -(2**63)

_MARCH_2000 = 60
_DAYS_PER_ERA = 146097

MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def days_of(year: int, month: int, day: int) -> int:
    """Count the days from 2000-01-01; months and days beyond their range carry over as far as the day goes."""
    if month <= 2:
        year -= 1
        month += 12
    era, year_of_era = divmod(year, 400)
    day_of_year = (153 * (month - 3) + 2) // 5 + day - 1
    day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    # Era 5 begins on 2000-03-01.
    return (era - 5) * _DAYS_PER_ERA + day_of_era + _MARCH_2000


def civil_of(days: int) -> tuple[int, int, int]:
    """Give year, month and day."""
    era, day_of_era = divmod(days - _MARCH_2000, _DAYS_PER_ERA)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * shifted + 2) // 5 + 1
    month = shifted + 3 if shifted < 10 else shifted - 9
    return year_of_era + (era + 5) * 400 + (month <= 2), month, day


def is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def days_in_month(year: int, month: int) -> int:
    return 29 if month == 2 and is_leap(year) else MONTH_DAYS[month - 1]


def weekday(days: int) -> int:
    """0 Sunday … 6 Saturday."""
    return (days + 6) % 7


def iso_week(days: int) -> tuple[int, int]:
    """Give ISO year and week: the week belongs to the year that has its Thursday."""
    thursday = days - (weekday(days) - 1) % 7 + 3
    year = civil_of(thursday)[0]
    return year, (thursday - days_of(year, 1, 1)) // 7 + 1


def iso_week_start(year: int, week: int) -> int:
    """Find the Monday that begins an ISO week."""
    january_4 = days_of(year, 1, 4)
    return january_4 - (weekday(january_4) - 1) % 7 + (week - 1) * 7


def add_months(days: int, months: int) -> int:
    """Move a date by months, to the last day of the month where the day does not exist."""
    year, month, day = civil_of(days)
    carry, month0 = divmod(month - 1 + months, 12)
    year += carry
    return days_of(year, month0 + 1, min(day, days_in_month(year, month0 + 1)))


# ------------------------------------------------------------------------------------------------ text


def split_time(microseconds: int) -> tuple[int, int, int, int]:
    """Hours, minutes, seconds, microseconds."""
    seconds, fraction = divmod(microseconds, MICROSECONDS_PER_SECOND)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    return hour, minute, second, fraction


def time_text(microseconds: int) -> str:
    """``hh:mm:ss`` with as many digits of a fraction as there are."""
    seconds, fraction = divmod(microseconds, MICROSECONDS_PER_SECOND)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    if fraction:
        return f"{hour:02d}:{minute:02d}:{second:02d}.{fraction:06d}".rstrip("0")
    return f"{hour:02d}:{minute:02d}:{second:02d}"


def date_text(days: int) -> tuple[str, str]:
    """``yyyy-mm-dd``, and `` BC`` or nothing to go behind the rest."""
    year, month, day = civil_of(days)
    if year > 0:
        return f"{year:04d}-{month:02d}-{day:02d}", ""
    return f"{1 - year:04d}-{month:02d}-{day:02d}", " BC"


def offset_text(seconds_east: int) -> str:
    """A zone offset: ``+00``, ``-03:30``, ``+01:23:45``."""
    sign = "-" if seconds_east < 0 else "+"
    minutes, second = divmod(abs(seconds_east), 60)
    hour, minute = divmod(minutes, 60)
    if second:
        return f"{sign}{hour:02d}:{minute:02d}:{second:02d}"
    return f"{sign}{hour:02d}:{minute:02d}" if minute else f"{sign}{hour:02d}"
