"""How old the rows of a read may be: consistency levels, session tokens, and times in the past, as text.

``proddb.read_consistency`` and what its texts mean::

    strong              everything committed before the statement began (the default)
    bounded(10s)        everything committed up to ten seconds ago, and perhaps more; the same as bounded alone
    session             everything that the session's token stands for: what it has written and read
    eventual            some state that was current once

A timestamp is written as ``microseconds since 1970 . counter``, for tokens and for AS OF SYSTEM TIME alike::

    >>> timestamp_text(1_700_000_000_000_000 << 12 | 5)
    '1700000000000000.5'
    >>> parse_timestamp('1700000000000000.5') == 1_700_000_000_000_000 << 12 | 5
    True

A *floor* is what a read may look back to.  Which reads obey the level, and when, is session/transaction.py's business.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

from pydistdb.kv.api import Timestamp
from pydistdb.sql.errors import InvalidParameterValue

COUNTER_BITS = 12
LEVELS = ("strong", "bounded", "session", "eventual")
DEFAULT_BOUND = "10s"
LAG_US = 1_500_000
"""``follower_read_timestamp()``: so far back copies are usually complete."""

_UNITS_US = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "sec": 1_000_000,
    "secs": 1_000_000,
    "second": 1_000_000,
    "seconds": 1_000_000,
    "m": 60_000_000,
    "min": 60_000_000,
    "mins": 60_000_000,
    "minute": 60_000_000,
    "minutes": 60_000_000,
    "h": 3_600_000_000,
    "hour": 3_600_000_000,
    "hours": 3_600_000_000,
    "d": 86_400_000_000,
    "day": 86_400_000_000,
    "days": 86_400_000_000,
}
_DURATION = re.compile(r"\s*(-?)\s*(\d{1,15}(?:\.\d{1,9})?)\s*([a-z]*)\s*\Z", re.IGNORECASE)
_CLOCK = re.compile(r"\s*(-?)(\d{1,4}):(\d\d):(\d\d(?:\.\d{1,6})?)\s*\Z")
_LEVEL = re.compile(r"\s*([a-z]+)\s*(?:\(\s*(?:interval\s*)?'?([^()']+)'?\s*\))?\s*\Z", re.IGNORECASE)
_TIMESTAMP = re.compile(r"\s*(\d{1,16})(?:\.(\d{1,4}))?\s*\Z")


class Level(NamedTuple):
    """``bound_us`` is of ``bounded`` only."""

    kind: str = "strong"
    bound_us: int = 0


STRONG = Level()


class AsOf(NamedTuple):
    """A time given in a statement: ``text`` as written; ``at_most``: or any later one (with_max_staleness)."""

    text: str
    kind: str = "exact"


def parse_level(name: str, text: str) -> tuple[Level, str]:
    """The level that a setting's text means, and the text as it is shown; raises 22023."""
    found = _LEVEL.match(text)
    kind = "" if found is None else found[1].lower()
    if found is not None and kind in LEVELS and (kind == "bounded" or found[2] is None):
        if kind != "bounded":
            return Level(kind), kind
        shown = (found[2] or DEFAULT_BOUND).strip()
        bound_us = duration_us(shown)
        if bound_us is not None and bound_us >= 0:
            return Level(kind, bound_us), f"bounded({shown})"
    raise InvalidParameterValue(
        f'invalid value for parameter "{name}": "{text}"',
        hint="Available values: strong, bounded(interval), session, eventual.",
    )


def duration_us(text: str) -> int | None:
    """A length of time such as 10s, 1.5 minutes or -00:00:10, in microseconds; a bare number counts seconds."""
    clock = _CLOCK.match(text)
    if clock is not None:
        seconds = int(clock[2]) * 3_600 + int(clock[3]) * 60 + float(clock[4])
        return int(seconds * 1e6) * (-1 if clock[1] else 1)
    found = _DURATION.match(text)
    if found is None:
        return None
    unit = _UNITS_US.get(found[3].lower() or "s")
    return None if unit is None else round(float(found[2]) * unit) * (-1 if found[1] else 1)


def timestamp_text(timestamp: Timestamp) -> str:
    return f"{timestamp >> COUNTER_BITS}.{timestamp & (1 << COUNTER_BITS) - 1}"


def parse_timestamp(text: str) -> Timestamp | None:
    """The inverse; None if it is not one."""
    found = _TIMESTAMP.match(text)
    if found is None or int(found[2] or 0) >= 1 << COUNTER_BITS:
        return None
    return int(found[1]) << COUNTER_BITS | int(found[2] or 0)


def token_text(name: str, text: str) -> str:
    """A session token as it is kept; raises 22023."""
    if not text.strip():
        return ""
    timestamp = parse_timestamp(text)
    if timestamp is None:
        raise InvalidParameterValue(
            f'invalid value for parameter "{name}": "{text}"', hint="Give what SHOW proddb.session_token gave."
        )
    return timestamp_text(timestamp)


def resolve_time(asked: AsOf, statement_us: int, timezone: str) -> Timestamp:
    """The timestamp that AS OF SYSTEM TIME means in a statement that began at ``statement_us`` (since 1970); raises 22023.

    A time alone is complete up to its end: it includes all that carries the same microsecond."""
    timestamp: Timestamp | None
    if asked.kind == "follower":
        timestamp = statement_us - LAG_US << COUNTER_BITS
    elif asked.kind == "staleness":
        length = duration_us(asked.text)
        if length is None:
            raise InvalidParameterValue(f'AS OF SYSTEM TIME: with_max_staleness takes an interval, not "{asked.text}"')
        timestamp = statement_us - abs(length) << COUNTER_BITS
    else:
        timestamp = _given_time(asked.text, statement_us, timezone)
    if timestamp is None:
        raise InvalidParameterValue(
            f'AS OF SYSTEM TIME: value "{asked.text}" is neither a time nor a negative interval',
            hint="Write a timestamp, an interval such as '-10s', or what SHOW proddb.session_token gave.",
        )
    if timestamp <= 0:
        raise InvalidParameterValue(f'AS OF SYSTEM TIME: "{asked.text}" is before 1970')
    return timestamp


def _given_time(text: str, statement_us: int, timezone: str) -> Timestamp | None:
    timestamp = parse_timestamp(text)
    if timestamp is not None and timestamp >> COUNTER_BITS > 1_000_000_000_000:
        return timestamp
    length = duration_us(text)
    if length is not None:
        return None if length >= 0 else statement_us + length << COUNTER_BITS
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=_zone(timezone))
    microseconds = round((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1e6)
    return microseconds << COUNTER_BITS | (1 << COUNTER_BITS) - 1


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return ZoneInfo("UTC")
