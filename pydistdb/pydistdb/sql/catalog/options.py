"""Storage parameters: ``WITH (fillfactor = 70)`` and the like.

They tune Postgres's heap and its autovacuum, neither of which exists here, so known ones are accepted and have no effect;
unknown ones are an error, as in Postgres.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydistdb.sql.errors import InvalidParameterValue, UndefinedObject

STORAGE_PARAMETERS = frozenset(
    {
        "autovacuum_enabled",
        "autovacuum_analyze_scale_factor",
        "autovacuum_analyze_threshold",
        "autovacuum_freeze_max_age",
        "autovacuum_freeze_min_age",
        "autovacuum_freeze_table_age",
        "autovacuum_vacuum_cost_delay",
        "autovacuum_vacuum_cost_limit",
        "autovacuum_vacuum_insert_scale_factor",
        "autovacuum_vacuum_insert_threshold",
        "autovacuum_vacuum_scale_factor",
        "autovacuum_vacuum_threshold",
        "fillfactor",
        "log_autovacuum_min_duration",
        "oids",
        "parallel_workers",
        "toast_tuple_target",
        "user_catalog_table",
        "vacuum_index_cleanup",
        "vacuum_truncate",
    }
)


COLLATIONS = frozenset({"default", "C", "POSIX", "ucs_basic", "pg_catalog.default", "pg_catalog.C", "pg_catalog.POSIX"})
"""Those that there are; text is ordered bytewise under each of them."""
INDEX_PARAMETERS = {
    "btree": frozenset({"fillfactor", "deduplicate_items"}),
    "hash": frozenset({"fillfactor"}),
    "gin": frozenset({"fastupdate", "gin_pending_list_limit"}),
}


def check_index_options(options: Mapping[str, str], method: str) -> None:
    for name, value in options.items():
        if name not in INDEX_PARAMETERS[method]:
            raise InvalidParameterValue(f'unrecognized parameter "{name}"')
        if name == "fillfactor" and not (value.isdigit() and 10 <= int(value) <= 100):
            raise InvalidParameterValue(
                f'value {value} out of bounds for option "fillfactor"',
                detail='Valid values are between "10" and "100".',
            )


def check_storage_options(names: Iterable[str]) -> None:
    for name in names:
        if name not in STORAGE_PARAMETERS:
            raise InvalidParameterValue(f'unrecognized parameter "{name}"')


def collation_named(name: str | None) -> str:
    """The collation of a COLLATE clause as the catalog keeps it."""
    if name is not None and name not in COLLATIONS:
        raise UndefinedObject(f'collation "{name}" for encoding "UTF8" does not exist')
    short = (name or "").removeprefix("pg_catalog.")
    return "" if short == "default" else short
