"""pg_stat_activity, pg_stat_ssl, pg_locks: what all nodes' sessions do; pg_prepared_statements and pg_cursors: this session's.

The first three ask every node before the rows are made (``gather``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pydistdb.kv.api import PreparedTransaction
from pydistdb.sql.catalog.prepared import facts_of
from pydistdb.sql.catalog.roles import READ_ALL_STATS
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.pg_catalog import providers
from pydistdb.sql.pg_catalog.define import RowDict, rows_of, rows_of_gathered
from pydistdb.sql.pg_catalog.objects import array
from pydistdb.sql.pg_catalog.providers import LockInfo, SessionInfo
from pydistdb.sql.types.base import EvalContext


async def _sessions(context: EvalContext) -> list[SessionInfo]:
    session: Any = context.extra
    return [] if session is None else await session.environment.activity.shown()


async def _locks(context: EvalContext) -> list[LockInfo]:
    session: Any = context.extra
    return [] if session is None else (await session.environment.locks.picture()).rows()


@rows_of_gathered("pg_stat_activity", _sessions)
def pg_stat_activity(view: StateView, context: EvalContext, sessions: Iterable[SessionInfo]) -> Iterator[RowDict]:
    oids = {database.name: database.oid for database in view.databases()}
    seen_by = readers_of_statistics(view, context)
    for session in sessions:
        row = {
            "datid": oids.get(session.database),
            "datname": session.database,
            "pid": session.pid,
            "usesysid": session.role,
            "usename": session.user,
            "application_name": session.application_name,
            "client_addr": session.client_address,
            "client_port": session.client_port,
            "backend_start": session.backend_start,
            "xact_start": session.transaction_start,
            "query_start": session.query_start,
            "state_change": session.state_change,
            "wait_event_type": session.wait_event_type,
            "wait_event": session.wait_event,
            "state": session.state,
            "backend_xid": session.xid,
            "query": session.query,
            "backend_type": "client backend",
        }
        yield row if seen_by(session.role) else {k: v for k, v in row.items() if k in _SHOWN_TO_ALL} | _HIDDEN_QUERY


_SHOWN_TO_ALL = frozenset({"datid", "datname", "pid", "usesysid", "usename", "application_name"})
_HIDDEN_QUERY = {"query": "<insufficient privilege>"}


def readers_of_statistics(view: StateView, context: EvalContext) -> Callable[[int], bool]:
    """Whose sessions the user may look into: those of roles whose privileges it has, or everybody's."""
    may = view.access.has_privileges_of
    if may(context.role, READ_ALL_STATS):
        return lambda role: True
    return lambda role: may(context.role, role)


@rows_of_gathered("pg_stat_ssl", _sessions)
def pg_stat_ssl(view: StateView, context: EvalContext, sessions: Iterable[SessionInfo]) -> Iterator[RowDict]:
    for session in sessions:
        yield {
            "pid": session.pid,
            "ssl": session.tls_version is not None,
            "version": session.tls_version,
            "cipher": session.tls_cipher,
            "bits": session.tls_bits,
        }


@rows_of_gathered("pg_locks", _locks)
def pg_locks(view: StateView, context: EvalContext, locks: Iterable[LockInfo]) -> Iterator[RowDict]:
    for lock in locks:
        yield {
            "locktype": lock.lock_type,
            "database": lock.database,
            "relation": lock.relation,
            "page": lock.page,
            "tuple": lock.tuple_number,
            "virtualxid": lock.virtual_xid,
            "transactionid": lock.xid,
            "classid": lock.class_id,
            "objid": lock.object_id,
            "objsubid": lock.object_sub_id,
            "virtualtransaction": lock.virtual_transaction,
            "pid": lock.pid,
            "mode": lock.mode,
            "granted": lock.granted,
            "fastpath": lock.fast_path,
            "waitstart": lock.wait_start,
        }


async def _prepared(context: EvalContext) -> list[PreparedTransaction]:
    session: Any = context.extra
    return [] if session is None else await session.environment.database.prepared_transactions()


@rows_of_gathered("pg_prepared_xacts", _prepared)
def pg_prepared_xacts(
    view: StateView, context: EvalContext, transactions: Iterable[PreparedTransaction]
) -> Iterator[RowDict]:
    names = {database.oid: database.name for database in view.databases()}
    roles = view.catalog_state.roles.by_oid
    for prepared in transactions:
        facts = facts_of(prepared)
        yield {
            "transaction": facts.xid,
            "gid": prepared.name,
            "prepared": facts.prepared_us,
            "owner": role.name if (role := roles.get(facts.owner)) is not None else None,
            "database": names.get(facts.database),
        }


@rows_of("pg_prepared_statements")
def pg_prepared_statements(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for prepared in providers.prepared_statements(context.extra):
        yield {
            "name": prepared.name,
            "statement": prepared.statement,
            "prepare_time": prepared.prepared_at,
            "parameter_types": array(prepared.parameter_types),
            "from_sql": prepared.from_sql,
            "generic_plans": 0,
            "custom_plans": 0,
        }


@rows_of("pg_cursors")
def pg_cursors(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for cursor in providers.cursors(context.extra):
        yield {
            "name": cursor.name,
            "statement": cursor.statement,
            "is_holdable": cursor.is_holdable,
            "is_binary": cursor.is_binary,
            "is_scrollable": cursor.is_scrollable,
            "creation_time": cursor.created_at,
        }


@rows_of("pg_stat_progress_create_index")
def pg_stat_progress_create_index(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    """Indexes that are being built online, on any node."""
    environment = getattr(context.extra, "environment", None)
    jobs = {} if environment is None else environment.catalog.index_jobs.progress
    for job in jobs.values():
        database = view.catalog_state.databases.get(job.database)
        if database is not None and job.table in database.building and not job.kind:
            yield {
                "pid": job.process_id,
                "datid": job.database,
                "datname": database.descriptor.name,
                "relid": job.table,
                "index_relid": job.index,
                "command": "CREATE INDEX CONCURRENTLY",
                "phase": job.phase,
                **dict.fromkeys(_UNCOUNTED, 0),
                "tuples_total": max(job.rows_total, job.rows_done),
                "tuples_done": job.rows_done,
            }


_UNCOUNTED = (
    "lockers_total",
    "lockers_done",
    "current_locker_pid",
    "blocks_total",
    "blocks_done",
    "partitions_total",
    "partitions_done",
)
