"""Dates and timestamps as DateStyle has them, for styles other than ISO.

    SQL, DMY         01/02/2024          01/02/2024 10:00:00 EST
    German           01.02.2024          01.02.2024 10:00:00 EST
    Postgres, MDY    02-01-2024          Thu Feb 01 10:00:00 2024 EST

Source: PostgreSQL 15 manual, 8.5.2; datetime.c (EncodeDateOnly, EncodeDateTime).
"""

from __future__ import annotations

from pydistdb.sql.types.base import EvalContext
from pydistdb.sql.types.calendar import date_text, time_text

_DAYS = ("Sat", "Sun", "Mon", "Tue", "Wed", "Thu", "Fri")
"""From 2000-01-01 on."""
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def style_of(context: EvalContext | None) -> str | None:
    """The session's DateStyle; None if it is ISO."""
    if context is None:
        return None
    style = context.settings.get("datestyle")
    return None if style is None or style.startswith("ISO") else style


def _parts(days: int) -> tuple[str, str, str, str]:
    """Year, month and day, and the era with a space before it."""
    text, era = date_text(days)
    year, month, day = text.rsplit("-", 2)
    return year, month, day, era


def styled_date(days: int, style: str) -> str:
    year, month, day, era = _parts(days)
    mark = {"S": "/", "G": ".", "P": "-"}[style[0]]
    day_first = style.endswith("DMY") or style.startswith("German")
    first, second = (day, month) if day_first else (month, day)
    return f"{first}{mark}{second}{mark}{year}{era}"


def styled_timestamp(days: int, microseconds: int, zone: str, style: str) -> str:
    """``zone``: its abbreviation, or nothing."""
    time = time_text(microseconds)
    behind = f" {zone}" if zone else ""
    if not style.startswith("Postgres"):
        date = styled_date(days, style)
        era = " BC" if date.endswith(" BC") else ""
        return f"{date.removesuffix(era)} {time}{behind}{era}"
    year, month, day, era = _parts(days)
    name = _MONTHS[int(month) - 1]
    middle = f"{day} {name}" if style.endswith("DMY") else f"{name} {day}"
    return f"{_DAYS[days % 7]} {middle} {time} {year}{behind}{era}"
