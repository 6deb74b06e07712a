"""Storage parameters: ``WITH (fillfactor = 70)`` and the like.

They tune Postgres's heap and its autovacuum, neither of which exists here, so known ones are kept, shown and dumped, and have
no effect; unknown ones, and values that cannot be, are an error, as in Postgres::

    merged_options(("fillfactor=70",), [("fillfactor", None), ("autovacuum_enabled", "off")], STORAGE_PARAMETERS)
        ('autovacuum_enabled=off',)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydistdb.sql.errors import InvalidParameterValue, UndefinedObject
from pydistdb.sql.settings import parse_bool

_INT_MAX = 2**31 - 1
_INFINITE = float("inf")
Parameter = tuple[str, float, float]
"""The kind of value, the least and the largest."""
_FILLFACTOR: Parameter = ("integer", 10, 100)
_BOOLEAN: Parameter = ("boolean", 0, 1)

STORAGE_PARAMETERS: Mapping[str, Parameter] = {
    "autovacuum_enabled": _BOOLEAN,
    "autovacuum_analyze_scale_factor": ("floating point", 0, 100),
    "autovacuum_analyze_threshold": ("integer", 0, _INT_MAX),
    "autovacuum_freeze_max_age": ("integer", 100_000, 2_000_000_000),
    "autovacuum_freeze_min_age": ("integer", 0, 1_000_000_000),
    "autovacuum_freeze_table_age": ("integer", 0, 2_000_000_000),
    "autovacuum_multixact_freeze_max_age": ("integer", 10_000, 2_000_000_000),
    "autovacuum_multixact_freeze_min_age": ("integer", 0, 1_000_000_000),
    "autovacuum_multixact_freeze_table_age": ("integer", 0, 2_000_000_000),
    "autovacuum_vacuum_cost_delay": ("floating point", 0, 100),
    "autovacuum_vacuum_cost_limit": ("integer", 1, 10_000),
    "autovacuum_vacuum_insert_scale_factor": ("floating point", 0, 100),
    "autovacuum_vacuum_insert_threshold": ("integer", -1, _INT_MAX),
    "autovacuum_vacuum_scale_factor": ("floating point", 0, 100),
    "autovacuum_vacuum_threshold": ("integer", 0, _INT_MAX),
    "fillfactor": _FILLFACTOR,
    "log_autovacuum_min_duration": ("integer", -1, _INT_MAX),
    "parallel_workers": ("integer", 0, 1024),
    "toast_tuple_target": ("integer", 128, 8160),
    "user_catalog_table": _BOOLEAN,
    "vacuum_index_cleanup": ("enum", 0, 0),
    "vacuum_truncate": _BOOLEAN,
}
INDEX_PARAMETERS: Mapping[str, Mapping[str, Parameter]] = {
    "btree": {"fillfactor": _FILLFACTOR, "deduplicate_items": _BOOLEAN},
    "hash": {"fillfactor": _FILLFACTOR},
    "gin": {"fastupdate": _BOOLEAN, "gin_pending_list_limit": ("integer", 64, _INT_MAX)},
}
COLUMN_PARAMETERS: Mapping[str, Parameter] = {
    "n_distinct": ("floating point", -1, _INFINITE),
    "n_distinct_inherited": ("floating point", -1, _INFINITE),
}
_CLEANUPS = ("auto", "on", "off", "true", "false", "yes", "no", "1", "0")
_OID_WORDS = ("false", "off", "no", "0")


COLLATIONS = frozenset({"default", "C", "POSIX", "ucs_basic", "pg_catalog.default", "pg_catalog.C", "pg_catalog.POSIX"})
"""Those that there are; text is ordered bytewise under each of them."""


def checked_options(options: Iterable[tuple[str, Any]], known: Mapping[str, Parameter]) -> tuple[str, ...]:
    """WITH (…) as pg_class.reloptions has it; raises 22023 for what there is not, and for values out of range."""
    return merged_options((), options, known)


def merged_options(
    current: Sequence[str], options: Iterable[tuple[str, Any]], known: Mapping[str, Parameter]
) -> tuple[str, ...]:
    """The options after SET (name = value, …); a value of None takes its option away, as RESET does."""
    result = dict(option.split("=", 1) for option in current)
    for name, value in options:
        if name == "oids" and known is STORAGE_PARAMETERS and str(value).lower() in _OID_WORDS:
            continue
        if name not in known:
            raise InvalidParameterValue(f'unrecognized parameter "{name}"')
        result.pop(name, None)
        if value is not None:
            _check_value(name, str(value), *known[name])
            result[name] = str(value)
    return tuple(f"{name}={value}" for name, value in result.items())


def _check_value(name: str, value: str, kind: str, least: float, most: float) -> None:
    if kind == "enum":
        if value.lower() not in _CLEANUPS:
            raise InvalidParameterValue(
                f'invalid value for enum option "{name}": {value}',
                detail='Valid values are "on", "off", and "auto".',
            )
        return
    try:
        if kind == "boolean":
            number: float = _boolean(value)
        else:
            number = int(value) if kind == "integer" else float(value)
    except ValueError:
        raise InvalidParameterValue(f'invalid value for {kind} option "{name}": {value}') from None
    if not least <= number <= most:
        shown = [f"{bound:.0f}" if kind == "integer" else f"{bound:f}" for bound in (least, most)]
        raise InvalidParameterValue(
            f'value {value} out of bounds for option "{name}"',
            detail=f'Valid values are between "{shown[0]}" and "{shown[1]}".',
        )


def _boolean(text: str) -> bool:
    value = parse_bool(text)
    if value is None:
        raise ValueError(text)
    return value


def collation_named(name: str | None) -> str:
    """The collation of a COLLATE clause as the catalog keeps it."""
    if name is not None and name not in COLLATIONS:
        raise UndefinedObject(f'collation "{name}" for encoding "UTF8" does not exist')
    short = (name or "").removeprefix("pg_catalog.")
    return "" if short == "default" else short
