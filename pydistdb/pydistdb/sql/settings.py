"""The configuration parameters a session knows: names, defaults, what is allowed, how they are shown.

A value is kept as the text that SHOW gives ("4MB", "on", "ISO, MDY"); ``canonical`` checks what a client set and
makes that text of it, or raises 22023 as Postgres words it.  ``base_value`` turns it into what pg_settings shows
("4096").

    >>> canonical(find("work_mem"), "4096"), base_value(find("work_mem"), "4MB")
    ('4MB', '4096')

Which of them is in force for a session, and until when, is session/settings.py's business.  A name with a dot that is
not known is a customized option (manual, 20.16): any text, default empty.  Source: manual, chapter 20.
"""

from __future__ import annotations

import re
from zoneinfo import ZoneInfo

from pydistdb.sql.consistency import parse_level, token_text
from pydistdb.sql.errors import DatabaseError, FeatureNotSupported, InvalidParameterValue, UndefinedObject
from pydistdb.sql.settings_table import SERVER_VERSION, SETTINGS, Setting
from pydistdb.sql.types.zones import find_zone

__all__ = [
    "SERVER_VERSION",
    "SETTINGS",
    "Setting",
    "base_value",
    "canonical",
    "check_settable",
    "find",
    "join_identifiers",
    "kilobytes",
    "merge_date_style",
    "milliseconds",
    "parse_bool",
    "split_identifiers",
]

MAX_SETTING_BYTES = 8_192

_TIME_UNITS = {"us": 0.001, "ms": 1, "s": 1_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_SIZE_UNITS = {"B": 1, "kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}
_NUMBER = re.compile(r"\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-z]*)\s*\Z")
_CUSTOM_NAME = re.compile(r"[A-Za-z_\x80-\U0010ffff][\w$]*(\.[A-Za-z_\x80-\U0010ffff][\w$]*)+\Z")

_ALIASES = {"time zone": "timezone", "session authorization": "session_authorization"}
_RESERVED_PREFIXES = ("proddb", "pydistdb")
"""Those of our own settings: nobody may make up others."""
_READ_ONLY_CONTEXTS = ("internal", "postmaster")


def find(name: str) -> Setting:
    """The definition of a name in any case; raises 42704 for one that does not exist."""
    key = name.lower()
    setting = SETTINGS.get(_ALIASES.get(key, key))
    if setting is not None:
        return setting
    if "." in name:
        if _CUSTOM_NAME.match(name):
            return Setting(name, "string", "user", "")
        raise DatabaseError.of(
            "42602",
            f'invalid configuration parameter name "{name}"',
            detail="Custom parameter names must be two or more simple identifiers separated by dots.",
        )
    raise UndefinedObject(f'unrecognized configuration parameter "{name}"')


def check_settable(setting: Setting) -> None:
    """Raise 55P02 for what no session can change, and 42602 for a setting of ours that does not exist."""
    prefix = setting.key.partition(".")[0]
    if prefix in _RESERVED_PREFIXES and setting.key not in SETTINGS:
        raise DatabaseError.of(
            "42602",
            f'invalid configuration parameter name "{setting.name}"',
            detail=f'"{prefix}" is a reserved prefix.',
        )
    if setting.context in _READ_ONLY_CONTEXTS:
        if setting.context == "internal":
            raise DatabaseError.of("55P02", f'parameter "{setting.name}" cannot be changed')
        raise DatabaseError.of("55P02", f'parameter "{setting.name}" cannot be changed without restarting the server')


def canonical(setting: Setting, text: str) -> str:
    """The text SHOW gives for a value that was set to ``text``; raises 22023 if it is not allowed."""
    if len(text) > MAX_SETTING_BYTES:
        raise InvalidParameterValue(f'value of parameter "{setting.name}" is longer than {MAX_SETTING_BYTES} bytes')
    special = _SPECIAL.get(setting.key)
    if special is not None:
        return special(setting, text)
    match setting.kind:
        case "bool":
            value = parse_bool(text)
            if value is None:
                raise InvalidParameterValue(f'parameter "{setting.name}" requires a Boolean value')
            return "on" if value else "off"
        case "enum":
            return _enum(setting, text)
        case "integer":
            return show_integer(setting, _parse_number(setting, text, whole=True))
        case "real":
            return _show_real(setting, _parse_number(setting, text, whole=False))
        case _:
            return text


def base_value(setting: Setting, shown: str) -> str:
    """The value in the setting's unit, as pg_settings has it."""
    if setting.kind == "real" and setting.unit:
        return f"{_parse_number(setting, shown, whole=False):g}"
    if setting.kind == "integer" and setting.unit:
        return str(int(_parse_number(setting, shown, whole=True)))
    return shown


def milliseconds(shown: str) -> int:
    """A time setting's value in milliseconds."""
    return int(_scaled(shown, "ms") or 0)


def kilobytes(shown: str) -> int:
    """A size setting's value in kilobytes."""
    return int(_scaled(shown, "kB") or 0)


def parse_bool(text: str) -> bool | None:
    """Postgres's booleans: unique prefixes of true, false, yes, no, on, off (two letters for on and off), 1 and 0."""
    word = text.strip().lower()
    if not word:
        return None
    for full, value, shortest in (
        ("true", True, 1),
        ("false", False, 1),
        ("yes", True, 1),
        ("no", False, 1),
        ("on", True, 2),
        ("off", False, 2),
        ("1", True, 1),
        ("0", False, 1),
    ):
        if len(word) >= shortest and full.startswith(word):
            return value
    return None


_SYNONYMS = {("client_min_messages", "debug"): "debug2"}
"""Values that stand for others."""


def _enum(setting: Setting, text: str) -> str:
    text = _SYNONYMS.get((setting.name, text.lower()), text)
    word = text.lower()
    if word in setting.options:
        return word
    if "on" in setting.options:
        value = parse_bool(text)
        if value is not None:
            return "on" if value else "off"
    raise InvalidParameterValue(
        f'invalid value for parameter "{setting.name.lower()}": "{text}"',
        hint=f"Available values: {', '.join(setting.options)}.",
    )


def _units(setting_unit: str) -> dict[str, float] | None:
    if setting_unit in ("ms", "s", "min"):
        return dict(_TIME_UNITS)
    if setting_unit in ("kB", "8kB", "B"):
        return dict(_SIZE_UNITS)
    return None


def _unit_size(unit: str) -> float:
    return 8 << 10 if unit == "8kB" else _TIME_UNITS.get(unit) or _SIZE_UNITS[unit]


def _scaled(text: str, unit: str) -> float | None:
    """A number with an optional unit, converted to ``unit``; None if it is not one."""
    found = _NUMBER.match(text)
    if found is None:
        return None
    number = float(found[1])
    if not found[2]:
        return number
    units = _units(unit)
    if units is None or found[2] not in units:
        return None
    return number * units[found[2]] / _unit_size(unit)


_INTEGER_LIMIT = 1 << 31


def _parse_number(setting: Setting, text: str, *, whole: bool) -> float:
    number = _scaled(text, setting.unit)
    if number is None:
        units = _units(setting.unit)
        hint = None
        if units is not None and _NUMBER.match(text):
            names = ", ".join(f'"{name}"' for name in units)
            head, _, tail = names.rpartition(", ")
            hint = f"Valid units for this parameter are {head}, and {tail}."
        raise InvalidParameterValue(f'invalid value for parameter "{setting.name}": "{text}"', hint=hint)
    if whole:
        number = round(number)
        if not -_INTEGER_LIMIT <= number < _INTEGER_LIMIT:
            hint = "Value exceeds integer range."
            raise InvalidParameterValue(f'invalid value for parameter "{setting.name}": "{text}"', hint=hint)
    if not setting.minimum <= number <= setting.maximum:
        unit = f" {setting.unit}" if setting.unit else ""
        raise InvalidParameterValue(
            f'{number:.15g}{unit} is outside the valid range for parameter "{setting.name}"'
            f" ({setting.minimum:g} .. {setting.maximum:.15g})"
        )
    return number


def show_integer(setting: Setting, number: float) -> str:
    """An integer in the largest unit that divides it."""
    units = _units(setting.unit)
    if not number or number < 0 or units is None:
        return str(int(number))
    amount = number * _unit_size(setting.unit)
    for name, size in sorted(units.items(), key=lambda unit: -unit[1]):
        if amount >= size and amount % size == 0:
            return f"{int(amount // size)}{name}"
    return str(int(number))


def _show_real(setting: Setting, number: float) -> str:
    """A number in the largest unit of which it is a whole count."""
    units = _units(setting.unit)
    if number <= 0 or units is None:
        return f"{number:g}"
    amount = number * _unit_size(setting.unit)
    for name, size in sorted(units.items(), key=lambda unit: -unit[1]):
        count = amount / size
        if count >= 1 and abs(count - round(count)) <= 1e-8 * count:
            return f"{round(count)}{name}"
    return f"{number:g}"


# ---------------------------------------------------------------------------------------------- settings with rules


def _client_encoding(setting: Setting, text: str) -> str:
    name = re.sub(r"[^a-z0-9]", "", text.lower())
    if name in ("utf8", "unicode", "unicode11"):
        return "UTF8"
    if name == "sqlascii":
        return "SQL_ASCII"
    known = ("latin1", "latin9", "win1252", "win1251", "euc", "sjis", "big5", "gbk", "iso8859", "koi8", "mulei")
    if name.startswith(known):
        raise FeatureNotSupported(f"conversion between {text.upper()} and UTF8 is not supported")
    raise InvalidParameterValue(f'invalid value for parameter "{setting.name}": "{text}"')


_DATE_FORMATS = {"iso": "ISO", "sql": "SQL", "postgres": "Postgres", "postgresql": "Postgres", "german": "German"}
_DATE_ORDERS = {
    "dmy": "DMY",
    "european": "DMY",
    "euro": "DMY",
    "mdy": "MDY",
    "us": "MDY",
    "noneuro": "MDY",
    "noneuropean": "MDY",
    "ymd": "YMD",
}


def merge_date_style(setting: Setting, text: str, current: str) -> str:
    """DateStyle has two halves, and a value may name only one of them."""
    style, order = (part.strip() for part in current.split(","))
    for word in filter(None, (part.strip().strip("\"'").lower() for part in text.split(","))):
        if word in _DATE_FORMATS:
            style = _DATE_FORMATS[word]
            if style == "German" and not any(name in text.lower() for name in _DATE_ORDERS):
                order = "DMY"
        elif word in _DATE_ORDERS:
            order = _DATE_ORDERS[word]
        elif word == "default":
            style, order = "ISO", "MDY"
        else:
            raise InvalidParameterValue(
                f'invalid value for parameter "{setting.name}": "{text}"', detail=f'Unrecognized key word: "{word}".'
            )
    return f"{style}, {order}"


def _date_style(setting: Setting, text: str) -> str:
    return merge_date_style(setting, text, "ISO, MDY")


_OFFSET = re.compile(r"([A-Za-z]{0,8}|<[A-Za-z0-9:+-]{1,16}>)([+-]?)(\d{1,2})(?::(\d{2}))?(?::(\d{2}))?\Z")


_HOURS = re.compile(r"([+-]?)(\d{1,2})(?:\.(\d{1,6}))?\Z")


def _time_zone(setting: Setting, text: str) -> str:
    word = text.strip()
    if word.lower() in ("default", "local", ""):
        return setting.default
    for candidate in (word, word.upper(), word.title(), "/".join(part.title() for part in word.split("/"))):
        try:
            ZoneInfo(candidate)
        except (KeyError, ValueError, OSError):
            continue
        return candidate
    found = _OFFSET.match(word)
    if found is not None and int(found[3]) <= 15 and (found[1] or found[4]):
        return word.upper()  # POSIX: "EST5", hours west of Greenwich
    # A bare number counts hours east; Postgres shows it as a POSIX zone whose sign is turned round.
    found = _HOURS.match(word)
    if found is not None and int(found[2]) <= 15:
        seconds = round((int(found[2]) + float(f"0.{found[3] or 0}")) * 3600)
        return posix_zone(-seconds if found[1] == "-" else seconds)
    if find_zone(word) is not None:
        return word.upper()  # POSIX with a summer time: "EST5EDT,M3.2.0,M11.1.0"
    raise InvalidParameterValue(f'invalid value for parameter "{setting.name}": "{text}"')


def posix_zone(seconds: int) -> str:
    """A zone so far east of Greenwich, as POSIX writes it: its name, and the offset with the sign turned round."""
    minutes, rest = divmod(abs(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [hours, minutes, rest] if rest else [hours, minutes] if minutes else [hours]
    offset = ":".join(f"{part:02d}" for part in parts)
    return f"<-{offset}>+{offset}" if seconds < 0 else f"<+{offset}>-{offset}"


def _standard_strings(setting: Setting, text: str) -> str:
    if parse_bool(text) is not True:
        raise FeatureNotSupported('parameter "standard_conforming_strings" can only be on')
    return "on"


def _replication_role(setting: Setting, text: str) -> str:
    if _enum(setting, text) != "origin":
        raise FeatureNotSupported('parameter "session_replication_role" can only be origin')
    return "origin"


def _search_path(setting: Setting, text: str) -> str:
    split_identifiers(setting.name, text)
    return text


def _application_name(setting: Setting, text: str) -> str:
    return "".join(chr(byte) if 32 <= byte < 127 else "?" for byte in text.encode(errors="replace"))[:63]


def _read_consistency(setting: Setting, text: str) -> str:
    return parse_level(setting.name, text)[1]


def _session_token(setting: Setting, text: str) -> str:
    return token_text(setting.name, text)


_SPECIAL = {
    "proddb.read_consistency": _read_consistency,
    "proddb.session_token": _session_token,
    "client_encoding": _client_encoding,
    "datestyle": _date_style,
    "timezone": _time_zone,
    "standard_conforming_strings": _standard_strings,
    "session_replication_role": _replication_role,
    "search_path": _search_path,
    "application_name": _application_name,
}

# ---------------------------------------------------------------------------------------------- identifier lists

_IDENTIFIER = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^\s,"]+))\s*(,|\Z)')
_PLAIN_IDENTIFIER = re.compile(r"[a-z_][a-z0-9_$]*\Z")


def split_identifiers(name: str, text: str) -> list[str]:
    """A list like ``"$user", public`` as names, folded unless quoted; raises 22023."""
    names: list[str] = []
    position = 0
    if not text.strip():
        return names
    while True:
        found = _IDENTIFIER.match(text, position)
        if found is None:
            raise InvalidParameterValue(
                f'invalid value for parameter "{name}": "{text}"', detail="List syntax is invalid."
            )
        names.append(found[1].replace('""', '"') if found[1] is not None else found[2].lower())
        position = found.end()
        if not found[3]:
            return names


def join_identifiers(names: tuple[str, ...]) -> str:
    """The inverse: a value set as ``SET search_path TO a, "B"``."""
    return ", ".join(name if _PLAIN_IDENTIFIER.match(name) else '"' + name.replace('"', '""') + '"' for name in names)
