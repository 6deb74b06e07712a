"""pg_stat_statements: what statements cost on this node; proddb.statements: on all nodes together.

The columns are those of the extension's version 1.10 (Postgres 15).  Planning is not timed, and there are no shared buffers, WAL
counters or JIT compilation: what Postgres tells of these is 0 or NULL.  Both views hide the texts of other users' statements
from roles without pg_read_all_stats.  ``pg_stat_statements_reset`` (superusers) acts on every node.

Source: PostgreSQL 15 manual, F.32.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.errors import InsufficientPrivilege
from pydistdb.sql.functions import registry as functions
from pydistdb.sql.functions.effects import act
from pydistdb.sql.functions.sessions import active_session
from pydistdb.sql.pg_catalog.activity import readers_of_statistics
from pydistdb.sql.pg_catalog.define import RowDict, SystemColumn, SystemRelation, define_relation, gathered_relation
from pydistdb.sql.pg_catalog.provide import view_of
from pydistdb.sql.statement_statistics import StatementReport
from pydistdb.sql.types.base import EvalContext, Function, SqlType
from pydistdb.sql.types.known import BOOL, FLOAT8, INT8, NUMERIC, OID, TEXT, TIMESTAMPTZ, VOID

_HIDDEN: RowDict = {"queryid": None, "query": "<insufficient privilege>"}


def _columns(**columns: SqlType) -> tuple[SystemColumn, ...]:
    return tuple(SystemColumn(name, sql_type, False) for name, sql_type in columns.items())


def _times(what: str) -> dict[str, SqlType]:
    return {f"{measure}_{what}_time": FLOAT8 for measure in ("total", "min", "max", "mean", "stddev")}


def _unknown() -> dict[str, SqlType]:
    """The columns that are NULL: there for tools that ask for them by name."""
    blocks = [f"{kind}_blks_{what}" for kind in ("shared", "local") for what in ("hit", "read", "dirtied", "written")]
    counts = [*blocks, "temp_blks_read", "temp_blks_written"]
    times = ["blk_read_time", "blk_write_time", "temp_blk_read_time", "temp_blk_write_time"]
    jit: dict[str, SqlType] = {"jit_functions": INT8, "jit_generation_time": FLOAT8}
    for step in ("inlining", "optimization", "emission"):
        jit |= {f"jit_{step}_count": INT8, f"jit_{step}_time": FLOAT8}
    wal = {"wal_records": INT8, "wal_fpi": INT8, "wal_bytes": NUMERIC}
    return dict.fromkeys(counts, INT8) | dict.fromkeys(times, FLOAT8) | wal | jit


def _rows(view: StateView, context: EvalContext, reports: Iterable[StatementReport]) -> Iterator[RowDict]:
    seen_by = readers_of_statistics(view, context)
    for report in reports:
        row: RowDict = {
            "userid": report.user,
            "dbid": report.database,
            "toplevel": True,
            "queryid": report.query_id,
            "query": report.text,
            "kind": report.kind,
            "plans": 0,
            **dict.fromkeys(_times("plan"), 0.0),
            "calls": report.calls,
            "total_exec_time": round(report.total_ms, 6),
            "min_exec_time": report.shortest_us / 1e3,
            "max_exec_time": report.longest_us / 1e3,
            "mean_exec_time": round(report.mean_ms, 6),
            "stddev_exec_time": round(report.deviation_ms, 6),
            "rows": report.rows,
        }
        yield row if seen_by(report.user) else row | _HIDDEN


def _own(view: StateView, context: EvalContext) -> Iterable[RowDict]:
    session: Any = context.extra
    return () if session is None else _rows(view, context, session.environment.statements.reports())


define_relation(
    SystemRelation(
        "pg_catalog",
        "pg_stat_statements",
        13_994,
        "v",
        _columns(
            userid=OID,
            dbid=OID,
            toplevel=BOOL,
            queryid=INT8,
            query=TEXT,
            plans=INT8,
            **_times("plan"),
            calls=INT8,
            **_times("exec"),
            rows=INT8,
            **_unknown(),
        ),
    ),
    _own,
)


def _info(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    session: Any = context.extra
    if session is not None:
        statements = session.environment.statements
        yield {"dealloc": statements.deallocations, "stats_reset": statements.reset_us}


define_relation(
    SystemRelation(
        "pg_catalog", "pg_stat_statements_info", 13_995, "v", _columns(dealloc=INT8, stats_reset=TIMESTAMPTZ)
    ),
    _info,
)


async def _gather(context: EvalContext) -> list[StatementReport]:
    session: Any = context.extra
    return [] if session is None else await session.environment.cluster_statements.all()


@gathered_relation(
    SystemRelation(
        "proddb",
        "statements",
        13_987,
        "v",
        _columns(userid=OID, dbid=OID, queryid=INT8, query=TEXT, kind=TEXT, calls=INT8, **_times("exec"), rows=INT8),
    ),
    _gather,
)
def statements(view: StateView, context: EvalContext, reports: list[StatementReport]) -> Iterator[RowDict]:
    yield from _rows(view, context, reports)


def _reset(context: EvalContext, user: int = 0, database: int = 0, query_id: int = 0) -> Any:
    session = active_session(context)
    if not view_of(context).catalog_state.roles.is_superuser(context.role):
        raise InsufficientPrivilege("permission denied for function pg_stat_statements_reset")
    return act(context, session.reset_statements(user, database, query_id))


functions.register(
    Function(
        13_950,
        "pg_stat_statements_reset",
        (OID, OID, INT8),
        VOID,
        _reset,
        volatility="v",
        default_count=3,
        needs_context=True,
        argument_names=("userid", "dbid", "queryid"),
        default_values=(0, 0, 0),
    )
)
