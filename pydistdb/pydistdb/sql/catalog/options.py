"""Storage parameters: ``WITH (fillfactor = 70)`` and the like.

They tune Postgres's heap and its autovacuum, neither of which exists here, so known ones are accepted and have no effect;
unknown ones are an error, as in Postgres.
"""

from __future__ import annotations

from collections.abc import Iterable

from pydistdb.sql.errors import InvalidParameterValue

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


def check_storage_options(names: Iterable[str]) -> None:
    for name in names:
        if name not in STORAGE_PARAMETERS:
            raise InvalidParameterValue(f'unrecognized parameter "{name}"')
