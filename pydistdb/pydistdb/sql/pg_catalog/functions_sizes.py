"""Sizes: of relations and databases, and how people read them.

Rows stand in the primary index, so that counts as the table; secondary indexes count as indexes.
"""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from pydistdb_storage.keys import prefix_end

from pydistdb.sql.catalog.descriptors import Index, Table
from pydistdb.sql.catalog.keys import END
from pydistdb.sql.errors import InvalidCatalogName, InvalidParameterValue
from pydistdb.sql.layout import RANGE_HEAD
from pydistdb.sql.pg_catalog import providers
from pydistdb.sql.pg_catalog.functions_privileges import object_exists
from pydistdb.sql.pg_catalog.provide import provides, view_of
from pydistdb.sql.types.base import EvalContext

_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")


def pretty_size(size: int) -> str:
    """As pg_size_pretty: switch to the next unit from 10 of it on, rounding half away from zero."""
    value, unit = size, 0
    if abs(value) < 10 * 1_024:
        return f"{value} bytes"
    value = (abs(value) >> 9) * (1 if value > 0 else -1)  # keep one extra bit for rounding
    unit = 1
    while abs(value) >= 20 * 1_024 - 1 and unit < len(_UNITS) - 1:
        value = (abs(value) >> 10) * (1 if value > 0 else -1)
        unit += 1
    rounded = (abs(value) + 1) // 2 * (1 if value > 0 else -1)
    return f"{rounded} {_UNITS[unit]}"


@provides("pg_size_pretty(int8)")
def pg_size_pretty(context: EvalContext, size: int) -> str:
    return pretty_size(size)


@provides("pg_size_pretty(numeric)")
def pg_size_pretty_numeric(context: EvalContext, size: Decimal) -> str:
    if size == size.to_integral_value() or abs(size) >= 10 * 1_024:
        return pretty_size(int(size.quantize(Decimal(1), rounding=ROUND_HALF_UP)))
    return f"{size} bytes"


def _stored_bytes(context: EvalContext, table: Table, index: Index | None) -> int:
    """Bytes by the store's own account if the server can tell, else by the last ANALYZE, else 0."""
    first, last = (0, 0xFFFF) if index is None else (index.storage_id, index.storage_id)
    start = RANGE_HEAD.pack(4, table.storage_id, first)
    end = prefix_end(RANGE_HEAD.pack(4, table.storage_id, last))
    known = providers.relation_bytes(start, end)
    if known is not None and table.sharding is None:
        return known
    statistics = view_of(context).statistics(table.oid)
    if statistics is None or (index is not None and index is not table.indexes[0]):
        return 0
    return int(statistics.rows * statistics.bytes_per_row)


def _size(context: EvalContext, oid: int, what: str) -> int | None:
    view = view_of(context)
    table = view.table_by_oid(oid)
    if table is None:
        found = view.index_by_oid(oid)
        if found is None:
            return 0 if view.virtual_by_oid(oid) is not None else None
        table, index = found
        # The rows of a table stand in its primary index: they count as the table, not as the index.
        return 0 if index is table.indexes[0] else _stored_bytes(context, table, index)
    if table.kind not in "rm":
        return 0
    heap = _stored_bytes(context, table, table.indexes[0])
    others = sum(_stored_bytes(context, table, index) for index in table.indexes[1:])
    return {"table": heap, "indexes": others, "total": heap + others}[what]


@provides("pg_relation_size(regclass)")
def pg_relation_size(context: EvalContext, oid: int) -> int | None:
    return _size(context, oid, "table")


@provides("pg_relation_size(regclass,text)")
def pg_relation_fork_size(context: EvalContext, oid: int, fork: str) -> int | None:
    if fork not in ("main", "fsm", "vm", "init"):
        raise InvalidParameterValue("invalid fork name", hint='Valid fork names are "main", "fsm", "vm", and "init".')
    return _size(context, oid, "table") if fork == "main" else 0


@provides("pg_table_size(regclass)")
def pg_table_size(context: EvalContext, oid: int) -> int | None:
    return _size(context, oid, "table")


@provides("pg_indexes_size(regclass)")
def pg_indexes_size(context: EvalContext, oid: int) -> int | None:
    return _size(context, oid, "indexes")


@provides("pg_total_relation_size(regclass)")
def pg_total_relation_size(context: EvalContext, oid: int) -> int | None:
    return _size(context, oid, "total")


@provides("pg_database_size(oid)", "pg_database_size(name)")
def pg_database_size(context: EvalContext, database: Any) -> int | None:
    view = view_of(context)
    if object_exists(context, "database", database) is None:
        raise InvalidCatalogName(f"database with OID {database} does not exist")
    name = database if isinstance(database, str) else view.catalog_state.databases[database].descriptor.name
    if name == view.database.name and len(view.catalog_state.databases) <= 3:
        known = providers.relation_bytes(END, b"\xff")
        if known is not None:
            return known
    state = view.catalog_state.databases_by_name[name]
    return int(sum(each.rows * each.bytes_per_row for each in state.statistics.values()))


@provides("pg_tablespace_size(oid)", "pg_tablespace_size(name)")
def pg_tablespace_size(context: EvalContext, tablespace: Any) -> int | None:
    return providers.relation_bytes(END, b"\xff") or 0


@provides("pg_tablespace_location(oid)")
def pg_tablespace_location(context: EvalContext, oid: int) -> str:
    return ""
