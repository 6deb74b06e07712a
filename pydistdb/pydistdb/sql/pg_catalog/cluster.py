"""pg_database, pg_namespace, pg_tablespace, pg_settings, pg_stat_activity, pg_locks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from pydistdb.sql.catalog.access import PG_DATABASE, PG_NAMESPACE
from pydistdb.sql.catalog.descriptors import DatabaseDescriptor
from pydistdb.sql.catalog.roles import READ_ALL_STATS
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.pg_catalog import providers
from pydistdb.sql.pg_catalog.acl_columns import acl_column
from pydistdb.sql.pg_catalog.define import RowDict, rows_of, static_rows
from pydistdb.sql.pg_catalog.objects import OWNER_OID, array
from pydistdb.sql.settings import SETTINGS, Setting, base_value
from pydistdb.sql.types.base import EvalContext, Interval

UTF8_ENCODING = 6


@rows_of("pg_database")
def pg_database(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for database in view.databases():
        yield _database(view, database)


def _database(view: StateView, database: DatabaseDescriptor) -> RowDict:
    return {
        "oid": database.oid,
        "datname": database.name,
        "datdba": database.owner,
        "encoding": UTF8_ENCODING,
        "datlocprovider": "c",
        "datistemplate": database.name in ("template0", "template1"),
        "datallowconn": database.name != "template0",
        "datconnlimit": database.connection_limit,
        "datfrozenxid": 0,
        "datminmxid": 0,
        "dattablespace": 1663,
        "datcollate": "C",
        "datctype": "C.UTF-8",
        "datacl": acl_column(view, PG_DATABASE, database.oid),
    }


@rows_of("pg_namespace")
def pg_namespace(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for schema in view.schemas():
        acl = acl_column(view, PG_NAMESPACE, schema.oid)
        yield {"oid": schema.oid, "nspname": schema.name, "nspowner": schema.owner, "nspacl": acl}


static_rows(
    "pg_tablespace",
    [
        {"oid": 1663, "spcname": "pg_default", "spcowner": OWNER_OID},
        {"oid": 1664, "spcname": "pg_global", "spcowner": OWNER_OID},
    ],
    by=("oid",),
)

# ---------------------------------------------------------------------------------------------------- settings


def _setting(setting: Setting, context: EvalContext) -> RowDict:
    text = context.settings.get(setting.key, setting.default)
    is_number = setting.kind in ("integer", "real")
    return {
        "name": setting.name,
        "setting": base_value(setting, text),
        "unit": setting.unit or None,
        "category": "Settings",
        "short_desc": "",
        "context": setting.context,
        "vartype": setting.kind,
        "source": "default" if text == setting.default else "session",
        "min_val": _number(setting.minimum) if is_number else None,
        "max_val": _number(setting.maximum) if is_number else None,
        "enumvals": array(setting.options) if setting.kind == "enum" else None,
        "boot_val": base_value(setting, setting.default),
        "reset_val": base_value(setting, setting.default),
        "pending_restart": False,
    }


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e18 else repr(value)


def _setting_by_name(view: StateView, context: EvalContext, name: Any) -> Iterator[RowDict]:
    setting = SETTINGS.get(str(name).lower())
    if setting is not None and setting.name == name:
        yield _setting(setting, context)


@rows_of("pg_settings", lookups={"name": _setting_by_name})
def pg_settings(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for _, setting in sorted(SETTINGS.items()):
        yield _setting(setting, context)


@rows_of("pg_timezone_names")
def pg_timezone_names(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    now = datetime.now(UTC)
    for name in sorted(available_timezones()):
        local = now.astimezone(ZoneInfo(name))
        offset, saving = local.utcoffset(), local.dst()
        seconds = int(offset.total_seconds()) if offset is not None else 0
        yield {
            "name": name,
            "abbrev": local.tzname(),
            "utc_offset": Interval(0, 0, seconds * 1_000_000),
            "is_dst": bool(saving),
        }


# ---------------------------------------------------------------------------------------------------- the running server


@rows_of("pg_stat_activity")
def pg_stat_activity(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    oids = {database.name: database.oid for database in view.databases()}
    seen_by = _readers_of_statistics(view, context)
    for session in providers.sessions():
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
            "query": session.query,
            "backend_type": "client backend",
        }
        yield row if seen_by(session.role) else {k: v for k, v in row.items() if k in _SHOWN_TO_ALL} | _HIDDEN_QUERY


_SHOWN_TO_ALL = frozenset({"datid", "datname", "pid", "usesysid", "usename", "application_name"})
_HIDDEN_QUERY = {"query": "<insufficient privilege>"}


def _readers_of_statistics(view: StateView, context: EvalContext) -> Callable[[int], bool]:
    """Whose sessions the user may look into: those of roles whose privileges it has, or everybody's."""
    may = view.access.has_privileges_of
    if may(context.role, READ_ALL_STATS):
        return lambda role: True
    return lambda role: may(context.role, role)


@rows_of("pg_stat_ssl")
def pg_stat_ssl(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for session in providers.sessions():
        yield {
            "pid": session.pid,
            "ssl": session.tls_version is not None,
            "version": session.tls_version,
            "cipher": session.tls_cipher,
            "bits": session.tls_bits,
        }


@rows_of("pg_locks")
def pg_locks(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for lock in providers.locks():
        yield {
            "locktype": lock.lock_type,
            "database": lock.database,
            "relation": lock.relation,
            "classid": lock.class_id,
            "objid": lock.object_id,
            "objsubid": lock.object_sub_id,
            "pid": lock.pid,
            "mode": lock.mode,
            "granted": lock.granted,
            "fastpath": False,
            "waitstart": lock.wait_start,
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
