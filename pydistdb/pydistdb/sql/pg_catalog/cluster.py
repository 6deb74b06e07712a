"""pg_database, pg_namespace, pg_tablespace, pg_settings."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from pydistdb.sql.catalog.access import PG_DATABASE, PG_NAMESPACE
from pydistdb.sql.catalog.descriptors import DatabaseDescriptor, accepts_connections
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.pg_catalog.acl_columns import acl_column
from pydistdb.sql.pg_catalog.define import RowDict, rows_of, static_rows
from pydistdb.sql.pg_catalog.objects import OWNER_OID, array
from pydistdb.sql.pg_catalog.provide import provides, view_of
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
        "datistemplate": database.is_template or database.name in ("template0", "template1"),
        "datallowconn": accepts_connections(database),
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


@provides("pg_timezone_names()")
def timezone_rows(context: EvalContext) -> list[tuple[Any, ...]]:
    """psql completes SET timezone by the function behind the view."""
    return [tuple(row.values()) for row in pg_timezone_names(view_of(context), context)]


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
