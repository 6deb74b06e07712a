"""Time zones: by name from the system's database, by abbreviation, by fixed offset, or spelt out as POSIX does.

A ``Zone`` answers two questions in microseconds since 2000-01-01: how far local time is from UTC at an instant, and which
instant a local time means.  Where clocks were set back a local time means the later instant (standard time), where they
were set forward the offset before the change applies, as Postgres has it.

    >>> zone("Europe/Berlin").offset_at(0), zone("<+03>-03").offset_at(0)
    (3600, 10800)

POSIX signs count west of Greenwich: ``UTC+3`` is three hours *behind* UTC.  Years that Python's datetime cannot hold are
looked up in an equivalent year of the 400-year cycle.

Source: PostgreSQL 15 manual, 8.5.3 and appendix B.4, B.5; the abbreviations are those of its Default set.
"""

from __future__ import annotations

import bisect
import io
import re
import struct
import zoneinfo
from datetime import UTC as COORDINATED
from datetime import datetime, timedelta
from functools import lru_cache

from pydistdb.sql.errors import InvalidParameterValue
from pydistdb.sql.types.calendar import MICROSECONDS_PER_DAY, MICROSECONDS_PER_SECOND

_ORIGIN = datetime(2000, 1, 1)
_FIRST = -1999 * 365 * MICROSECONDS_PER_DAY
"""Early in year 2 or so; whatever is older has the zone's first known offset."""
_LAST = 2920000 * MICROSECONDS_PER_DAY
_CYCLE = 146097 * MICROSECONDS_PER_DAY

ABBREVIATIONS_MINUTES_TEXT = """
ACDT:630d ACSST:630d ACST:570 ACT:-300 ACWST:525 ADT:-180d AEDT:660d AESST:660d AEST:600 AFT:270 AKDT:-480d AKST:-540
ALMST:420d ALMT:360 AMST:240 AMT:-240 ANAST:720 ANAT:720 ARST:-180 ART:-180 AST:-240 AWSST:540d AWST:480 AZOST:0d
AZOT:-60 AZST:240 AZT:240 BDST:120d BDT:360 BNT:480 BORT:480 BOT:-240 BRA:-180 BRST:-120d BRT:-180 BST:60d BTT:360
CADT:630d CAST:570 CCT:480 CDT:-300d CEST:120d CET:60 CETDST:120d CHADT:825d CHAST:765 CHUT:600 CKT:-600 CLST:-180d
CLT:-180d COT:-300 CST:-360 CXT:420 DAVT:420 DDUT:600 EASST:-300d EAST:-300d EAT:180 EDT:-240d EEST:180d EET:120
EETDST:180d EGST:0d EGT:-60 EST:-300 FET:180 FJST:780d FJT:720 FKST:-180 FKT:-180 FNST:-60d FNT:-120 GALT:-360
GAMT:-540 GEST:240 GET:240 GFT:-180 GILT:720 GMT:0 GYT:-240 HKT:480 HST:-600 ICT:420 IDT:180d IOT:360 IRKST:480
IRKT:480 IRT:210 IST:120 JAYT:540 JST:540 KDT:600d KGST:360d KGT:360 KOST:660 KRAST:420 KRAT:420 KST:540 LHDT:660d
LHST:630 LIGT:600 LINT:840 LKT:330 MAGST:660 MAGT:660 MART:-570 MAWT:300 MDT:-360d MEST:120d MESZ:120d MET:60
METDST:120d MEZ:60 MHT:720 MMT:390 MPT:600 MSD:240d MSK:180 MST:-420 MUST:300d MUT:240 MVT:300 MYT:480 NDT:-150d
NFT:-210 NOVST:420 NOVT:420 NPT:345 NST:-210 NUT:-660 NZDT:780d NZST:720 NZT:720 OMSST:360 OMST:360 PDT:-420d PET:-300
PETST:720 PETT:720 PGT:600 PHT:480 PKST:360d PKT:300 PMDT:-120d PMST:-180 PONT:660 PST:-480 PWT:540 PYST:-180d PYT:-180
RET:240 SADT:630d SAST:120 SCT:240 SGT:480 TAHT:-600 TFT:300 TJT:300 TKT:780 TMT:300 TOT:780 TRUT:600 TVT:720 UCT:0
ULAST:540d ULAT:480 UT:0 UTC:0 UYST:-120d UYT:-180 UZST:360d UZT:300 VET:-240 VLAST:600 VLAT:600 VOLT:180 VUT:660
WADT:480d WAKT:720 WAST:420 WAT:60 WDT:540d WET:0 WETDST:60d WFT:720 WGST:-120d WGT:-180 XJT:360 YAKST:540 YAKT:540
YAPT:600 YEKST:360d YEKT:300 Z:0 ZULU:0
"""
ABBREVIATIONS: dict[str, int] = {
    name.lower(): int(minutes.rstrip("d")) * 60
    for name, _, minutes in (entry.partition(":") for entry in ABBREVIATIONS_MINUTES_TEXT.split())
}
"""Seconds east of Greenwich by abbreviation in lower case."""

_HOMES_TEXT = """
ART,ARST:America/Argentina/Buenos_Aires CLT:America/Santiago GYT:America/Guyana PYT:America/Asuncion VET:America/Caracas
DAVT:Antarctica/Davis MAWT:Antarctica/Mawson AMST:Asia/Yerevan ANAST,ANAT:Asia/Anadyr AZST,AZT:Asia/Baku
GEST,GET:Asia/Tbilisi IRKST,IRKT:Asia/Irkutsk KGT:Asia/Bishkek KRAST,KRAT:Asia/Krasnoyarsk LKT:Asia/Colombo
MAGST,MAGT:Asia/Magadan NOVST,NOVT:Asia/Novosibirsk OMSST,OMST:Asia/Omsk PETST,PETT:Asia/Kamchatka SGT:Asia/Singapore
TMT:Asia/Ashgabat ULAT:Asia/Ulaanbaatar VLAST,VLAT:Asia/Vladivostok YAKST,YAKT:Asia/Yakutsk YEKT:Asia/Yekaterinburg
FKST,FKT:Atlantic/Stanley LHDT:Australia/Lord_Howe MSK:Europe/Moscow VOLT:Europe/Volgograd IOT:Indian/Chagos
CKT:Pacific/Rarotonga EASST,EAST:Pacific/Easter KOST:Pacific/Kosrae LINT:Pacific/Kiritimati NUT:Pacific/Niue
TKT:Pacific/Fakaofo
"""
_HOMES: dict[str, str] = {
    name: home
    for names, _, home in (entry.partition(":") for entry in _HOMES_TEXT.split())
    for name in names.split(",")
}
"""The zones that abbreviations of changing meaning are taken from."""


class Zone:
    """A time zone with a constant offset; ``_RuledZone`` has one that changes."""

    __slots__ = ("abbreviation", "name", "seconds_east")
    has_rules = False
    """Whether the offset depends on the date."""

    def __init__(self, name: str, seconds_east: int, abbreviation: str = "") -> None:
        self.name = name
        self.seconds_east = seconds_east
        self.abbreviation = abbreviation

    def offset_at(self, instant: int) -> int:
        """Tell the offset in seconds east of Greenwich at an instant (microseconds UTC)."""
        return self.seconds_east

    def to_utc(self, local: int) -> int:
        """Find the instant that a local time means."""
        return local - self.seconds_east * MICROSECONDS_PER_SECOND

    def to_local(self, instant: int) -> int:
        return instant + self.offset_at(instant) * MICROSECONDS_PER_SECOND

    def abbreviation_at(self, instant: int) -> str:
        return self.abbreviation


def _representable(microseconds: int) -> datetime:
    if microseconds < _FIRST:
        microseconds = _FIRST
    elif microseconds > _LAST:
        microseconds -= ((microseconds - _LAST) // _CYCLE + 1) * _CYCLE
    return _ORIGIN + timedelta(microseconds=microseconds)


class _RuledZone(Zone):
    __slots__ = ("info",)
    has_rules = True

    def __init__(self, name: str, info: zoneinfo.ZoneInfo) -> None:
        super().__init__(name, 0)
        self.info = info

    def _local(self, instant: int) -> datetime:
        return _representable(instant).replace(tzinfo=COORDINATED).astimezone(self.info)

    def offset_at(self, instant: int) -> int:
        offset = self._local(instant).utcoffset()
        assert offset is not None
        return offset.days * 86400 + offset.seconds

    def to_utc(self, local: int) -> int:
        moment = _representable(local).replace(tzinfo=self.info)
        before, after = moment.utcoffset(), moment.replace(fold=1).utcoffset()
        assert before is not None and after is not None
        # Of the two readings of a doubtful time, the one with the smaller offset: see the module's text.
        offset = min(before, after)
        return local - (offset.days * 86400 + offset.seconds) * MICROSECONDS_PER_SECOND

    def abbreviation_at(self, instant: int) -> str:
        return self._local(instant).tzname() or ""


class _AbbreviatedZone(Zone):
    """An abbreviation whose meaning changed in history: it is what the zone that uses it last meant by it at the time."""

    __slots__ = ("home",)

    def __init__(self, name: str, seconds_east: int, home: Zone) -> None:
        super().__init__(name, seconds_east, name.upper())
        self.home = home

    def offset_at(self, instant: int) -> int:
        meanings = _meanings(self.home.name, self.abbreviation)
        if not meanings:
            return self.home.offset_at(instant)
        found = bisect.bisect_right(meanings, (instant, _MOST_OFFSET)) - 1
        return meanings[max(found, 0)][1]

    def to_utc(self, local: int) -> int:
        return local - self.offset_at(self.home.to_utc(local)) * MICROSECONDS_PER_SECOND


_MOST_OFFSET = 1 << 20
_PROBE = 14 * MICROSECONDS_PER_DAY
_PROBED = (-150 * 365 * MICROSECONDS_PER_DAY, 38 * 365 * MICROSECONDS_PER_DAY)
"""From 1850 to 2037, as far as the database lists changes."""


@lru_cache(maxsize=128)
def _meanings(home: str, abbreviation: str) -> list[tuple[int, int]]:
    """When a zone began to use an abbreviation, and for which offset; in order.  No zone changes twice in a fortnight, so
    that probing finds each change and halving its instant."""
    info = zone(home)

    def at(instant: int) -> tuple[str, int]:
        return info.abbreviation_at(instant), info.offset_at(instant)

    found = []
    before = at(_PROBED[0])
    for probe in range(_PROBED[0], _PROBED[1], _PROBE):
        after = at(probe + _PROBE)
        if after == before:
            continue
        low, high = probe, probe + _PROBE
        while high - low > MICROSECONDS_PER_SECOND:
            middle = (low + high) // 2 // MICROSECONDS_PER_SECOND * MICROSECONDS_PER_SECOND
            low, high = (middle, high) if at(middle) == before else (low, middle)
        if after[0] == abbreviation:
            found.append((high, after[1]))
        before = after
    return found


UTC = Zone("UTC", 0, "UTC")

_POSIX_NAME = r"(?:<([A-Za-z0-9:+-]+)>|([A-Za-z]{3,})"
_POSIX_OFFSET = r"([+-]?)(\d{1,3})(?::(\d{1,2})(?::(\d{1,2}))?)?"
_POSIX = re.compile(rf"{_POSIX_NAME}|(?=[+-]|\d+:)){_POSIX_OFFSET}")
_POSIX_RULED = re.compile(rf"{_POSIX_NAME}){_POSIX_OFFSET}{_POSIX_NAME})(?:{_POSIX_OFFSET})?(,[JM0-9.,/:+-]+)?")
_RULES_OF_AMERICA = ",M3.2.0,M11.1.0"
"""For a specification with a summer time and no rules."""


@lru_cache(maxsize=1)
def _names_by_lower_case() -> dict[str, str]:
    return {name.lower(): name for name in zoneinfo.available_timezones()}


@lru_cache(maxsize=512)
def find_zone(name: str) -> Zone | None:
    """Find a zone by full name or POSIX specification (not by abbreviation)."""
    if name in ("UTC", "GMT", "Etc/UTC", "Etc/GMT", "Zulu"):
        return Zone(name, 0, "GMT" if "GMT" in name else "UTC")
    proper = name
    if name not in _names_by_lower_case().values():
        proper = _names_by_lower_case().get(name.lower(), "")
    if proper:
        try:
            return _RuledZone(proper, zoneinfo.ZoneInfo(proper))
        except (zoneinfo.ZoneInfoNotFoundError, ValueError):
            return None
    match = _POSIX.fullmatch(name)
    if match is None:
        return _ruled_by_posix(name)
    seconds = int(match[4]) * 3600 + int(match[5] or 0) * 60 + int(match[6] or 0)
    if seconds > 168 * 3600:
        return None
    return Zone(name, seconds if match[3] == "-" else -seconds, match[1] or (match[2] or "").upper())


def _ruled_by_posix(name: str) -> Zone | None:
    """A zone whose changes a specification spells out: ``CST7CDT,M4.1.0,M10.5.0``.

    Python reads those where a zone's file ends in one; such a file without any change of its own is made up for it."""
    name = name.upper()
    match = _POSIX_RULED.fullmatch(name)
    if match is None or len(name) > _MOST_SPECIFICATION:
        return None
    specification = name if match[13] else name + _RULES_OF_AMERICA
    header = struct.pack("!4sc15x6l", b"TZif", b"2", 0, 0, 0, 0, 1, 4)
    kind = struct.pack("!lbb4s", 0, 0, 0, b"UTC\0")
    file = (header + kind) * 2 + f"\n{specification}\n".encode("ascii")
    try:
        return _RuledZone(name, zoneinfo.ZoneInfo.from_file(io.BytesIO(file), name))
    except ValueError:
        return None


_MOST_SPECIFICATION = 120


def not_recognized(name: str) -> InvalidParameterValue:
    return InvalidParameterValue(f'time zone "{name}" not recognized')


def zone(name: str) -> Zone:
    """Find the zone that a session's TimeZone setting names."""
    found = find_zone(name)
    if found is None:
        raise not_recognized(name)
    return found


def zone_or_abbreviation(name: str) -> Zone:
    """Find a zone as AT TIME ZONE does: an abbreviation first, then a name."""
    return abbreviated(name) if name.lower() in ABBREVIATIONS else zone(name)


@lru_cache(maxsize=512)
def abbreviated(name: str) -> Zone:
    """The zone that one of the ABBREVIATIONS stands for."""
    seconds = ABBREVIATIONS[name.lower()]
    home = _HOMES.get(name.upper())
    found = find_zone(home) if home is not None else None
    return Zone(name, seconds, name.upper()) if found is None else _AbbreviatedZone(name, seconds, found)
