"""The configuration parameters a session knows: names, defaults, what is allowed, how they are shown.

A value is kept as the text that SHOW gives ("4MB", "on", "ISO, MDY"); ``canonical`` checks what a client set and
makes that text of it, or raises 22023 as Postgres words it.  ``base_value`` turns it into what pg_settings shows
("4096").

    >>> canonical(find("work_mem"), "4096"), base_value(find("work_mem"), "4MB")
    ('4MB', '4096')

Which of them is in force for a session, and until when, is session_settings.py's business.  A name with a dot that is
not known is a customized option (manual, 20.16): any text, default empty.  Source: manual, chapter 20.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from pydistdb.sql.errors import DatabaseError, FeatureNotSupported, InvalidParameterValue, UndefinedObject

SERVER_VERSION = "15.0 (PyDistDB 0.1)"
SERVER_VERSION_NUMBER = "150000"
MAX_SETTING_BYTES = 8_192

INTEGER_MAX = 2_147_483_647


@dataclass(frozen=True, slots=True)
class Setting:
    """``kind``: bool, integer, real, enum, string.  ``context``: user, superuser, or internal and postmaster, which no
    session can change.  ``unit``: what integers count ("ms", "s", "kB", "8kB")."""

    name: str
    kind: str
    context: str
    default: str
    unit: str = ""
    minimum: float = 0
    maximum: float = INTEGER_MAX
    options: tuple[str, ...] = ()
    reported: bool = False

    @property
    def key(self) -> str:
        return self.name.lower()


# name | kind | context | default | unit | minimum | maximum or options;  * marks those reported to the client.
_TABLE = f"""
*application_name|string|user|
array_nulls|bool|user|on
backslash_quote|enum|user|safe_encoding|||safe_encoding,on,off
block_size|integer|internal|8192
bytea_output|enum|user|hex|||escape,hex
check_function_bodies|bool|user|on
client_connection_check_interval|integer|user|0|ms|0|{INTEGER_MAX}
*client_encoding|string|user|UTF8
client_min_messages|enum|user|notice|||debug5,debug4,debug3,debug2,debug1,log,notice,warning,error
cpu_index_tuple_cost|real|user|0.005||0|1e308
cpu_operator_cost|real|user|0.0025||0|1e308
cpu_tuple_cost|real|user|0.01||0|1e308
cursor_tuple_fraction|real|user|0.1||0|1
data_checksums|bool|internal|off
*DateStyle|string|user|ISO, MDY
deadlock_timeout|integer|superuser|1s|ms|1|{INTEGER_MAX}
default_statistics_target|integer|user|100||1|10000
default_table_access_method|string|user|heap
default_tablespace|string|user|
default_text_search_config|string|user|pg_catalog.simple
default_transaction_deferrable|bool|user|off
default_transaction_isolation|enum|user|read committed|||serializable,repeatable read,read committed,read uncommitted
*default_transaction_read_only|bool|user|off
effective_cache_size|integer|user|4GB|8kB|1|{INTEGER_MAX}
effective_io_concurrency|integer|user|1||0|1000
enable_bitmapscan|bool|user|on
enable_gathermerge|bool|user|on
enable_hashagg|bool|user|on
enable_hashjoin|bool|user|on
enable_incremental_sort|bool|user|on
enable_indexonlyscan|bool|user|on
enable_indexscan|bool|user|on
enable_material|bool|user|on
enable_memoize|bool|user|on
enable_mergejoin|bool|user|on
enable_nestloop|bool|user|on
enable_partitionwise_aggregate|bool|user|off
enable_partitionwise_join|bool|user|off
enable_seqscan|bool|user|on
enable_sort|bool|user|on
escape_string_warning|bool|user|on
exit_on_error|bool|user|off
extra_float_digits|integer|user|1||-15|3
from_collapse_limit|integer|user|8||1|{INTEGER_MAX}
geqo|bool|user|on
geqo_threshold|integer|user|12||2|{INTEGER_MAX}
hash_mem_multiplier|real|user|2||1|1000
idle_in_transaction_session_timeout|integer|user|0|ms|0|{INTEGER_MAX}
idle_session_timeout|integer|user|0|ms|0|{INTEGER_MAX}
*in_hot_standby|bool|internal|off
*integer_datetimes|bool|internal|on
*IntervalStyle|enum|user|postgres|||postgres,postgres_verbose,sql_standard,iso_8601
*is_superuser|bool|internal|on
jit|bool|user|off
join_collapse_limit|integer|user|8||1|{INTEGER_MAX}
lc_collate|string|internal|C
lc_ctype|string|internal|C.UTF-8
lc_messages|string|superuser|C
lc_monetary|string|user|C
lc_numeric|string|user|C
lc_time|string|user|C
lo_compat_privileges|bool|superuser|off
lock_timeout|integer|user|0|ms|0|{INTEGER_MAX}
log_duration|bool|superuser|off
log_error_verbosity|enum|superuser|default|||terse,default,verbose
log_min_duration_statement|integer|superuser|-1|ms|-1|{INTEGER_MAX}
log_min_messages|enum|superuser|warning|||debug5,debug4,debug3,debug2,debug1,info,notice,warning,error,log,fatal,panic
log_statement|enum|superuser|none|||none,ddl,mod,all
maintenance_work_mem|integer|user|64MB|kB|1024|{INTEGER_MAX}
max_connections|integer|postmaster|1000||1|262143
max_function_args|integer|internal|100
max_identifier_length|integer|internal|63
max_index_keys|integer|internal|32
max_parallel_workers_per_gather|integer|user|0||0|1024
max_prepared_transactions|integer|postmaster|0
max_stack_depth|integer|superuser|2MB|kB|100|{INTEGER_MAX}
password_encryption|enum|user|scram-sha-256|||md5,scram-sha-256
plan_cache_mode|enum|user|auto|||auto,force_generic_plan,force_custom_plan
quote_all_identifiers|bool|user|off
random_page_cost|real|user|4||0|1e308
role|string|user|none
row_security|bool|user|on
search_path|string|user|"$user", public
seq_page_cost|real|user|1||0|1e308
*server_encoding|string|internal|UTF8
*server_version|string|internal|{SERVER_VERSION}
server_version_num|integer|internal|{SERVER_VERSION_NUMBER}
*session_authorization|string|internal|
session_replication_role|enum|superuser|origin|||origin,replica,local
shared_buffers|integer|postmaster|128MB|8kB|16|{INTEGER_MAX}
ssl|bool|postmaster|off
*standard_conforming_strings|bool|user|on
statement_timeout|integer|user|0|ms|0|{INTEGER_MAX}
superuser_reserved_connections|integer|postmaster|0
synchronous_commit|enum|user|on|||local,remote_write,remote_apply,on,off
synchronize_seqscans|bool|user|on
tcp_keepalives_count|integer|user|0||0|{INTEGER_MAX}
tcp_keepalives_idle|integer|user|0|s|0|{INTEGER_MAX}
tcp_keepalives_interval|integer|user|0|s|0|{INTEGER_MAX}
temp_buffers|integer|user|8MB|8kB|100|1073741823
temp_tablespaces|string|user|
*TimeZone|string|user|UTC
timezone_abbreviations|string|user|Default
track_activities|bool|superuser|on
transaction_deferrable|bool|user|off
transaction_isolation|enum|user|read committed|||serializable,repeatable read,read committed,read uncommitted
transaction_read_only|bool|user|off
transform_null_equals|bool|user|off
work_mem|integer|user|4MB|kB|64|{INTEGER_MAX}
xmlbinary|enum|user|base64|||base64,hex
xmloption|enum|user|content|||content,document
"""


def _read_table() -> dict[str, Setting]:
    settings = {}
    for line in _TABLE.strip().splitlines():
        name, kind, context, default, *rest = line.split("|")
        unit, minimum, last = (*rest, "", "", "")[:3]
        reported = name.startswith("*")
        setting = Setting(
            name.removeprefix("*"),
            kind,
            context,
            default,
            unit,
            float(minimum or 0),
            float(last) if last and kind != "enum" else INTEGER_MAX,
            tuple(last.split(",")) if kind == "enum" else (),
            reported,
        )
        settings[setting.key] = setting
    return settings


SETTINGS = _read_table()

_TIME_UNITS = {"us": 0.001, "ms": 1, "s": 1_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_SIZE_UNITS = {"B": 1, "kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}
_NUMBER = re.compile(r"\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-z]*)\s*\Z")
_CUSTOM_NAME = re.compile(r"[A-Za-z_\x80-\U0010ffff][\w$]*(\.[A-Za-z_\x80-\U0010ffff][\w$]*)+\Z")

_ALIASES = {"time zone": "timezone", "session authorization": "session_authorization"}
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
    """Raise 55P02 for what no session can change."""
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
            return f"{_parse_number(setting, text, whole=False):g}"
        case _:
            return text


def base_value(setting: Setting, shown: str) -> str:
    """The value in the setting's unit, as pg_settings has it."""
    if setting.kind == "integer" and setting.unit:
        return str(int(_parse_number(setting, shown, whole=True)))
    return shown


def milliseconds(shown: str) -> int:
    """A time setting's value in milliseconds."""
    return int(_scaled(shown, "ms") or 0)


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


def _enum(setting: Setting, text: str) -> str:
    word = text.lower()
    if word in setting.options:
        return word
    if "on" in setting.options:
        value = parse_bool(text)
        if value is not None:
            return "on" if value else "off"
    raise InvalidParameterValue(
        f'invalid value for parameter "{setting.name}": "{text}"',
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


_OFFSET = re.compile(r"([A-Za-z]{0,8}|<[A-Za-z0-9+-]{1,16}>)([+-]?)(\d{1,2})(?::(\d{2}))?(?::(\d{2}))?\Z")


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
    if found is not None and int(found[3]) <= 15:
        if found[1] or found[4]:
            return word  # POSIX: "EST5", hours west of Greenwich
        # A bare number counts hours east; Postgres shows it as a POSIX zone whose sign is turned round.
        hours = f"{int(found[3]):02d}"
        return f"<-{hours}>+{hours}" if found[2] == "-" else f"<+{hours}>-{hours}"
    raise InvalidParameterValue(f'invalid value for parameter "{setting.name}": "{text}"')


def _standard_strings(setting: Setting, text: str) -> str:
    if parse_bool(text) is not True:
        raise FeatureNotSupported('parameter "standard_conforming_strings" can only be on')
    return "on"


def _isolation(setting: Setting, text: str) -> str:
    level = _enum(setting, text)
    if level == "serializable":
        raise FeatureNotSupported(
            "isolation level SERIALIZABLE is not supported",
            hint="Use REPEATABLE READ, or lock rows with SELECT FOR UPDATE.",
        )
    return level


def _replication_role(setting: Setting, text: str) -> str:
    if _enum(setting, text) != "origin":
        raise FeatureNotSupported('parameter "session_replication_role" can only be origin')
    return "origin"


def _search_path(setting: Setting, text: str) -> str:
    split_identifiers(setting.name, text)
    return text


def _application_name(setting: Setting, text: str) -> str:
    return "".join(chr(byte) if 32 <= byte < 127 else "?" for byte in text.encode(errors="replace"))[:63]


_SPECIAL = {
    "client_encoding": _client_encoding,
    "datestyle": _date_style,
    "timezone": _time_zone,
    "standard_conforming_strings": _standard_strings,
    "default_transaction_isolation": _isolation,
    "transaction_isolation": _isolation,
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
