"""Statistics objects as clients see them: pg_statistic_ext and its data, pg_stats_ext, pg_get_statisticsobjdef and its kin.

    CREATE STATISTICS s ON b, a, (a + b) FROM t
    pg_statistic_ext                    stxkeys 1 2, stxkind {d,f,m,e}
    pg_get_statisticsobjdef_columns     a, b, (a + b)

pg_statistic_ext_data shows the common combinations as JSON, not as Postgres's bytes.

Source: PostgreSQL 15 manual, 53.52, 53.53, 54.28; ruleutils.c (pg_get_statisticsobj_worker).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

from pydistdb.sql import bind
from pydistdb.sql.catalog.constraints import column_numbered
from pydistdb.sql.catalog.descriptors import Column, JointStatistics, StatisticsObject, Table
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.catalog.statistics_names import Found, everything_of, is_statistics_visible
from pydistdb.sql.deparse import Undeparsable, deparse, index_key
from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.pg_catalog.acl_columns import owner_name
from pydistdb.sql.pg_catalog.define import RowDict, rows_of
from pydistdb.sql.pg_catalog.objects import array, column_names, schema_name, single, vector, visible_name
from pydistdb.sql.pg_catalog.provide import provides, view_of
from pydistdb.sql.pg_catalog.summaries import statistics_values
from pydistdb.sql.tree import Expr
from pydistdb.sql.types import registry as types
from pydistdb.sql.types.arrays import PgArray
from pydistdb.sql.types.base import EvalContext
from pydistdb.sql.types.reg import quote_identifier

_BREAKS = re.compile(r"('(?:[^']|'')*')|\s*\n\s*")
_KIND_NAMES = {"d": "ndistinct", "f": "dependencies", "m": "mcv"}


def _kinds(statistics: StatisticsObject) -> str:
    return statistics.kinds + ("e" if statistics.expressions else "")


def _expressions(view: StateView, context: EvalContext, found: Found) -> list[str]:
    table, statistics = found
    return [_text(view, context, table, each.text, deparse) for each in statistics.expressions]


def _text(view: StateView, context: EvalContext, table: Table, text: str, write: Callable[..., str]) -> str:
    """A stored expression as ``write`` shows it, or as it was written."""
    try:
        return write(bind.bind_expression(text, table, view.unrestricted(), context), table)
    except (Undeparsable, DatabaseError):
        return text


def _on_one_line(expression: Expr, table: Table) -> str:
    """An expression as in CREATE INDEX, pretty, but without line breaks (those in literals stay)."""
    text = index_key(expression, table, pretty=True)
    text = _BREAKS.sub(lambda found: found[1] or " ", text)
    return text.replace("( CASE", "(CASE").strip()


def columns_text(view: StateView, context: EvalContext, found: Found) -> str:
    """What stands between ON and FROM."""
    table, statistics = found
    items = [quote_identifier(name) for name in column_names(table, statistics.columns)]
    items += [_text(view, context, table, each.text, _on_one_line) for each in statistics.expressions]
    return ", ".join(items)


def definition(view: StateView, context: EvalContext, found: Found) -> str:
    """``CREATE STATISTICS public.s (mcv) ON a, b FROM t``; the kinds are left out if they are all."""
    table, statistics = found
    kinds = ""
    if statistics.kinds and statistics.kinds != "dfm":
        kinds = f" ({', '.join(_KIND_NAMES[letter] for letter in statistics.kinds)})"
    name = f"{quote_identifier(schema_name(view, statistics.schema))}.{quote_identifier(statistics.name)}"
    relation = visible_name(view, table.schema, table.name)
    return f"CREATE STATISTICS {name}{kinds} ON {columns_text(view, context, found)} FROM {relation}"


@provides("pg_get_statisticsobjdef(oid)")
def pg_get_statisticsobjdef(context: EvalContext, oid: int) -> str | None:
    view = view_of(context)
    found = view.state.statistics_object(oid)
    return None if found is None else definition(view, context, found)


@provides("pg_get_statisticsobjdef_columns(oid)")
def pg_get_statisticsobjdef_columns(context: EvalContext, oid: int) -> str | None:
    view = view_of(context)
    found = view.state.statistics_object(oid)
    return None if found is None else columns_text(view, context, found)


@provides("pg_get_statisticsobjdef_expressions(oid)")
def pg_get_statisticsobjdef_expressions(context: EvalContext, oid: int) -> PgArray | None:
    view = view_of(context)
    found = view.state.statistics_object(oid)
    if found is None or not found[1].expressions:
        return None
    return array(_expressions(view, context, found))


@provides("pg_statistics_obj_is_visible(oid)")
def pg_statistics_obj_is_visible(context: EvalContext, oid: int) -> bool | None:
    view = view_of(context)
    found = view.state.statistics_object(oid)
    return None if found is None else is_statistics_visible(view, found[1])


# ---------------------------------------------------------------------------------------------------- system tables


def _row(view: StateView, context: EvalContext, found: Found) -> RowDict:
    table, statistics = found
    return {
        "oid": statistics.oid,
        "stxrelid": table.oid,
        "stxname": statistics.name,
        "stxnamespace": statistics.schema,
        "stxowner": statistics.owner,
        "stxstattarget": statistics.target,
        "stxkeys": vector(statistics.columns),
        "stxkind": array(_kinds(statistics)),
        "stxexprs": ", ".join(_expressions(view, context, found)) if statistics.expressions else None,
    }


def _of_table(view: StateView, context: EvalContext, oid: Any) -> Iterator[RowDict]:
    table = view.table_by_oid(oid)
    for statistics in table.statistics_objects if table is not None else ():
        yield _row(view, context, (table, statistics))  # type: ignore[arg-type]


def _by_oid(view: StateView, context: EvalContext, oid: Any) -> Iterator[RowDict]:
    found = view.state.statistics_object(oid)
    if found is not None:
        yield _row(view, context, found)


@rows_of("pg_statistic_ext", lookups={"oid": _by_oid, "stxrelid": _of_table})
def pg_statistic_ext(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for found in everything_of(view.state):
        yield _row(view, context, found)


def _findings(view: StateView) -> Iterator[tuple[Table, StatisticsObject, JointStatistics]]:
    for table, statistics in everything_of(view.state):
        known = view.statistics(table.oid)
        joint = None if known is None else known.joint.get(statistics.oid)
        if joint is not None:
            yield table, statistics, joint


def distinct_text(joint: JointStatistics) -> str | None:
    """``{"1, 2": 51}``, as pg_ndistinct is written."""
    items = [f'"{", ".join(map(str, attributes))}": {round(count)}' for attributes, count in joint.distinct]
    return "{" + ", ".join(items) + "}" if items else None


def dependencies_text(joint: JointStatistics) -> str | None:
    """``{"1 => 2": 1.000000}``, as pg_dependencies is written."""
    items = [
        f'"{", ".join(map(str, attributes[:-1]))} => {attributes[-1]}": {degree:.6f}'
        for attributes, degree in joint.dependencies
    ]
    return "{" + ", ".join(items) + "}" if items else None


def _types_of(table: Table, statistics: StatisticsObject) -> list[int]:
    columns = [column_numbered(table, number).type_oid for number in statistics.columns]
    return columns + [expression.type_oid for expression in statistics.expressions]


def _common_values(
    context: EvalContext, table: Table, statistics: StatisticsObject, joint: JointStatistics
) -> list[list[str | None]]:
    ios = [types.io(oid) for oid in _types_of(table, statistics)]
    rows = []
    for each in joint.common:
        row: list[str | None] = []
        for io, value in zip(ios, each.values, strict=True):
            if value is not None and io.from_storage is not None:
                value = io.from_storage(value)
            row.append(None if value is None else io.format(value, context))
        rows.append(row)
    return rows


@rows_of("pg_statistic_ext_data")
def pg_statistic_ext_data(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for table, statistics, joint in _findings(view):
        values = _common_values(context, table, statistics, joint)
        frequencies = [each.frequency for each in joint.common]
        yield {
            "stxoid": statistics.oid,
            "stxdinherit": False,
            "stxdndistinct": distinct_text(joint),
            "stxddependencies": dependencies_text(joint),
            "stxdmcv": json.dumps(list(zip(values, frequencies, strict=True))) if values else None,
        }


def _is_readable(view: StateView, table: Table) -> bool:
    readable = view.readable(table)
    return readable is None or all(column.number in readable for column in table.columns if not column.dropped)


def _names(view: StateView, table: Table, statistics: StatisticsObject) -> RowDict:
    return {
        "schemaname": schema_name(view, table.schema),
        "tablename": table.name,
        "statistics_schemaname": schema_name(view, statistics.schema),
        "statistics_name": statistics.name,
        "statistics_owner": owner_name(view, statistics.owner),
        "inherited": False,
    }


@rows_of("pg_stats_ext")
def pg_stats_ext(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for table, statistics, joint in _findings(view):
        if not _is_readable(view, table):
            continue
        row = _names(view, table, statistics)
        row["attnames"] = array(column_names(table, statistics.columns)) if statistics.columns else None
        if statistics.expressions:
            row["exprs"] = array(_expressions(view, context, (table, statistics)))
        row["kinds"] = array(_kinds(statistics))
        row["n_distinct"] = distinct_text(joint)
        row["dependencies"] = dependencies_text(joint)
        if joint.common:
            values = _common_values(context, table, statistics, joint)
            dimensions = (len(values), len(values[0]))
            items = tuple(chain.from_iterable(values))
            row["most_common_vals"] = PgArray(items, dimensions, (1, 1))
            row["most_common_val_nulls"] = PgArray(tuple(item is None for item in items), dimensions, (1, 1))
            row["most_common_freqs"] = array(each.frequency for each in joint.common)
            row["most_common_base_freqs"] = array(each.base_frequency for each in joint.common)
        yield row


@rows_of("pg_stats_ext_exprs")
def pg_stats_ext_exprs(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for table, statistics, joint in _findings(view):
        if not _is_readable(view, table):
            continue
        texts = _expressions(view, context, (table, statistics))
        for text, expression, found in zip(texts, statistics.expressions, joint.expressions, strict=False):
            yield {
                **_names(view, table, statistics),
                "expr": text,
                "null_frac": single(found.null_fraction),
                "avg_width": found.average_width,
                **statistics_values(Column(1, "expr", expression.type_oid), found, context),
            }
