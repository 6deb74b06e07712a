"""Resetting the counters of the statistics views, which monitoring programs do.

Nothing here counts scans or blocks per table: the views show NULL, so there is nothing to set back.  The calls are checked as
Postgres checks them: the effect of ``pg_stat_reset()`` is for superusers, ``pg_stat_clear_snapshot()`` for everybody.

Source: PostgreSQL 15 manual, 28.2.24; pgstatfuncs.c.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydistdb.sql.errors import InsufficientPrivilege, InvalidParameterValue
from pydistdb.sql.pg_catalog.provide import provides, view_of
from pydistdb.sql.types.base import EvalContext

_SHARED = frozenset({"archiver", "bgwriter", "recovery_prefetch", "wal"})


@provides("pg_stat_clear_snapshot()")
def clear_snapshot(context: EvalContext) -> str:
    """The views are computed anew for every statement."""
    return ""


def _reset(name: str) -> Callable[..., str]:
    def reset(context: EvalContext, which: Any = None) -> str:
        if not view_of(context).catalog_state.roles.is_superuser(context.role):
            raise InsufficientPrivilege(f"permission denied for function {name}")
        if name == "pg_stat_reset_shared" and which not in _SHARED:
            raise InvalidParameterValue(
                f'unrecognized reset target: "{which}"',
                hint='Target must be "archiver", "bgwriter", "recovery_prefetch", or "wal".',
            )
        return ""

    return reset


for _name, _arguments in (
    ("pg_stat_reset", ""),
    ("pg_stat_reset_shared", "text"),
    ("pg_stat_reset_slru", "text"),
    ("pg_stat_reset_single_table_counters", "oid"),
    ("pg_stat_reset_single_function_counters", "oid"),
):
    provides(f"{_name}({_arguments})")(_reset(_name))
