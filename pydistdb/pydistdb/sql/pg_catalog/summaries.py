"""The views that people read: pg_tables, pg_views, pg_indexes, pg_sequences, pg_stats, pg_stat_user_tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pydistdb.sql.catalog.access import PG_CLASS
from pydistdb.sql.catalog.acl import SELECT, USAGE
from pydistdb.sql.catalog.descriptors import Column, ColumnStatistics, Table
from pydistdb.sql.catalog.sequence_numbers import definition_of
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.functions import registry as functions
from pydistdb.sql.pg_catalog import registry
from pydistdb.sql.pg_catalog.acl_columns import owner_name
from pydistdb.sql.pg_catalog.define import RowDict, define, facts_of, rows_of, rows_of_gathered
from pydistdb.sql.pg_catalog.deparsing import query_text
from pydistdb.sql.pg_catalog.describe import index_definition
from pydistdb.sql.pg_catalog.objects import OWNER_NAME, all_indexes, array, schema_name, single, table_indexes
from pydistdb.sql.pg_catalog.provide import view_of
from pydistdb.sql.types import registry as types
from pydistdb.sql.types.arrays import PgArray
from pydistdb.sql.types.base import EvalContext
from pydistdb.sql.types.known import BPCHAR, TEXT, TYPES_BY_OID, VARCHAR


@rows_of("pg_tables")
def pg_tables(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for table in registry.virtual_tables().values():
        facts = facts_of(table)
        if facts is not None and facts.kind == "r":
            yield _table(table.schema, table.name, OWNER_NAME, False, False)
    for stored in view.tables():
        if stored.kind == "r":
            triggers = bool(stored.foreign_keys or stored.referenced_by)
            owner = owner_name(view, stored.owner)
            yield _table(schema_name(view, stored.schema), stored.name, owner, bool(table_indexes(stored)), triggers)


def _table(schema: str, name: str, owner: str, has_indexes: bool, has_triggers: bool) -> RowDict:
    return {
        "schemaname": schema,
        "tablename": name,
        "tableowner": owner,
        "hasindexes": has_indexes,
        "hasrules": False,
        "hastriggers": has_triggers,
        "rowsecurity": False,
    }


@rows_of("pg_views")
def pg_views(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for table in view.tables():
        if table.kind == "v":
            yield {
                "schemaname": schema_name(view, table.schema),
                "viewname": table.name,
                "viewowner": owner_name(view, table.owner),
                "definition": query_text(view, context, table, False) + ";",
            }


@rows_of("pg_matviews")
def pg_matviews(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for table in view.tables():
        if table.kind == "m":
            yield {
                "schemaname": schema_name(view, table.schema),
                "matviewname": table.name,
                "matviewowner": owner_name(view, table.owner),
                "hasindexes": bool(table_indexes(table)),
                "ispopulated": table.populated,
                "definition": query_text(view, context, table, False) + ";",
            }


@rows_of("pg_indexes")
def pg_indexes(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for table, index in all_indexes(view):
        yield {
            "schemaname": schema_name(view, table.schema),
            "tablename": table.name,
            "indexname": index.name,
            "indexdef": index_definition(view, table, index),
        }


@rows_of("pg_sequence")
def pg_sequence(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for table in view.tables():
        if table.kind == "S":
            definition = definition_of(table)
            yield {
                "seqrelid": table.oid,
                "seqtypid": definition.type_oid,
                "seqstart": definition.start,
                "seqincrement": definition.increment,
                "seqmax": definition.maximum,
                "seqmin": definition.minimum,
                "seqcache": definition.cache,
                "seqcycle": definition.cycle,
            }


async def _last_values(context: EvalContext) -> dict[int, int | None]:
    """Where the sequences stand that the current user may look at, by oid."""
    view = view_of(context)
    numbers, role = view.numbers, view.role
    if numbers is None:
        return {}
    wanted = USAGE | SELECT
    return {
        table.oid: await numbers.last_value(table)
        for table in view.tables()
        if table.kind == "S" and (not role or view.access.mask(role, PG_CLASS, table.oid, wanted))
    }


@rows_of_gathered("pg_sequences", _last_values)
def pg_sequences(view: StateView, context: EvalContext, last_values: dict[int, int | None]) -> Iterator[RowDict]:
    for table in view.tables():
        if table.kind == "S":
            definition = definition_of(table)
            yield {
                "schemaname": schema_name(view, table.schema),
                "sequencename": table.name,
                "sequenceowner": owner_name(view, table.owner),
                "data_type": definition.type_oid,
                "start_value": definition.start,
                "min_value": definition.minimum,
                "max_value": definition.maximum,
                "increment_by": definition.increment,
                "cycle": definition.cycle,
                "cache_size": definition.cache,
                "last_value": last_values.get(table.oid),
            }


# ---------------------------------------------------------------------------------------------------- statistics


def _as_array_text(column: Column, values: Iterable[Any], context: EvalContext) -> str | None:
    """Values of a column, as the text of an array of them."""
    io = types.io(column.type_oid)
    runtime = [value if io.from_storage is None else io.from_storage(value) for value in values]
    if not runtime:
        return None
    array_oid = TYPES_BY_OID[column.type_oid].array_oid
    if not array_oid:
        return None
    return types.io(array_oid).format(PgArray.of(runtime), context)


def statistics_values(column: Column, statistics: ColumnStatistics, context: EvalContext) -> RowDict:
    """What pg_stats and pg_stats_ext_exprs tell of the values of a column or an expression."""
    frequencies = statistics.common_frequencies
    return {
        "n_distinct": single(statistics.distinct),
        "most_common_vals": _as_array_text(column, statistics.common_values, context),
        "most_common_freqs": array(map(single, frequencies)) if frequencies else None,
        "histogram_bounds": _as_array_text(column, statistics.histogram, context),
    }


def _statistics_row(
    view: StateView, context: EvalContext, table: Table, column: Column, statistics: ColumnStatistics
) -> RowDict:
    return {
        "schemaname": schema_name(view, table.schema),
        "tablename": table.name,
        "attname": column.name,
        "inherited": False,
        "null_frac": single(statistics.null_fraction),
        "avg_width": statistics.average_width,
        **statistics_values(column, statistics, context),
    }


@rows_of("pg_stats")
def pg_stats(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for table in view.tables():
        found = view.statistics(table.oid)
        if found is not None:
            readable = view.readable(table)
            for column in table.columns:
                if readable is not None and column.number not in readable:
                    continue
                if not column.dropped and column.number in found.columns:
                    yield _statistics_row(view, context, table, column, found.columns[column.number])


DEFAULT_COLLATION = 100
_COLLATED = frozenset({TEXT.oid, VARCHAR.oid, BPCHAR.oid})
_COMMON_VALUES, _HISTOGRAM = 1, 2
"""Kinds of statistics: STATISTIC_KIND_MCV and STATISTIC_KIND_HISTOGRAM."""


def _operator_of(column: Column, name: str) -> int:
    """The oid of a type's ``=`` or ``<``; 0 if it has none of its own."""
    for operator in functions.operators(name):
        types_of = [argument.oid for argument in operator.function.argument_types]
        if operator.left is not None and types_of == [column.type_oid, column.type_oid]:
            return operator.oid
    return 0


@rows_of("pg_statistic")
def pg_statistic(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for table in view.tables():
        found = view.statistics(table.oid)
        for column in table.columns if found is not None else ():
            if found is None or column.dropped or column.number not in found.columns:
                continue
            statistics = found.columns[column.number]
            row: RowDict = {
                "starelid": table.oid,
                "staattnum": column.number,
                "stainherit": False,
                "stanullfrac": single(statistics.null_fraction),
                "stawidth": statistics.average_width,
                "stadistinct": single(statistics.distinct),
            }
            slots: list[tuple[int, str, RowDict]] = []
            if statistics.common_values:
                values = _as_array_text(column, statistics.common_values, context)
                numbers = array(map(single, statistics.common_frequencies))
                slots.append((_COMMON_VALUES, "=", {"stanumbers": numbers, "stavalues": values}))
            if statistics.histogram:
                bounds = _as_array_text(column, statistics.histogram, context)
                slots.append((_HISTOGRAM, "<", {"stavalues": bounds}))
            for slot in range(1, 6):
                kind, operator, parts = slots[slot - 1] if slot <= len(slots) else (0, "", {})
                row[f"stakind{slot}"] = kind
                row[f"staop{slot}"] = _operator_of(column, operator) if operator else 0
                row[f"stacoll{slot}"] = DEFAULT_COLLATION if kind and column.type_oid in _COLLATED else 0
                row.update({f"{name}{slot}": value for name, value in parts.items()})
            yield row


def _user_tables(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    """Nobody counts scans and changed rows per table: those columns are NULL rather than wrong."""
    for table in view.tables():
        if table.kind == "r":
            statistics = view.statistics(table.oid)
            yield {
                "relid": table.oid,
                "schemaname": schema_name(view, table.schema),
                "relname": table.name,
                "n_live_tup": int(statistics.rows) if statistics is not None else None,
                "last_analyze": statistics.analyzed_at if statistics and not statistics.automatic else None,
                "last_autoanalyze": statistics.analyzed_at if statistics and statistics.automatic else None,
            }


def _user_indexes(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for table, index in all_indexes(view):
        yield {
            "relid": table.oid,
            "indexrelid": index.oid,
            "schemaname": schema_name(view, table.schema),
            "relname": table.name,
            "indexrelname": index.name,
        }


def _sequences_read(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for sequence in view.tables():
        if sequence.kind == "S":
            schema = schema_name(view, sequence.schema)
            yield {"relid": sequence.oid, "schemaname": schema, "relname": sequence.name}


def _databases(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    """As with tables, what nobody counts is NULL; the first row stands for what belongs to no database."""
    yield {"datid": 0}
    for state in view.catalog_state.databases.values():
        yield {"datid": state.descriptor.oid, "datname": state.descriptor.name}


def _no_rows(view: StateView, context: EvalContext) -> Iterable[RowDict]:
    return ()


define("pg_stat_user_tables", _user_tables)
define("pg_stat_all_tables", _user_tables)
define("pg_stat_sys_tables", _no_rows)
define("pg_stat_user_indexes", _user_indexes)
define("pg_stat_all_indexes", _user_indexes)
define("pg_stat_sys_indexes", _no_rows)
for _scope in ("all", "user"):
    define(f"pg_statio_{_scope}_tables", _user_tables)
    define(f"pg_statio_{_scope}_indexes", _user_indexes)
    define(f"pg_statio_{_scope}_sequences", _sequences_read)
    define(f"pg_stat_xact_{_scope}_tables", _user_tables)
define("pg_stat_database", _databases)
define("pg_stat_database_conflicts", _databases)
for _name in (
    *(
        "statio_sys_tables",
        "statio_sys_indexes",
        "statio_sys_sequences",
        "stat_xact_sys_tables",
        "stat_xact_user_functions",
    ),
    *(f"stat_progress_{command}" for command in ("analyze", "basebackup", "cluster", "copy", "vacuum")),
    "stat_replication_slots",
):
    define(f"pg_{_name}", _no_rows)
