"""How a system table gets from Postgres's column list to a VirtualTable.

``relations.txt`` holds the facts (schema, name, oid, kind and columns of Postgres 15's system tables and views); a module
of this package gives the rows, as dictionaries, and columns that are left out are NULL::

    @rows_of("pg_am", lookups={"oid": by_oid})
    def access_methods(view, context):
        yield {"oid": 403, "amname": "btree", …}

Tables that are empty here for a reason (there are no triggers, no extensions, no foreign servers …) are listed in
``EMPTY``; system tables that are in neither place do not exist, rather than pretend.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, TypeVar, cast

from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.catalog.view import CatalogView, VirtualTable
from pydistdb.sql.pg_catalog import registry
from pydistdb.sql.types.base import EvalContext, SqlType
from pydistdb.sql.types.known import TYPES_BY_NAME

RowDict = dict[str, Any]
Rows = Callable[[StateView, EvalContext], Iterable[RowDict]]
Gathered = TypeVar("Gathered", bound=Callable[[StateView, EvalContext, Any], Iterable[RowDict]])
Lookup = Callable[[StateView, EvalContext, Any], Iterable[RowDict]]


@dataclass(frozen=True, slots=True)
class SystemColumn:
    name: str
    type: SqlType
    not_null: bool


@dataclass(frozen=True, slots=True)
class SystemRelation:
    """A line of relations.txt."""

    schema: str
    name: str
    oid: int
    kind: str
    columns: tuple[SystemColumn, ...]


def read_lines(name: str) -> list[list[str]]:
    """Read one of the package's data files: a row per line, columns between tabs."""
    text = files(__package__).joinpath(name).read_text(encoding="utf-8")
    return [line.split("\t") for line in text.splitlines()]


def _column(text: str) -> SystemColumn:
    name, _, type_name = text.partition(" ")
    not_null = type_name.endswith("!")
    type_name, _, modifier = type_name.rstrip("!").partition("(")
    sql_type = TYPES_BY_NAME[type_name]
    if modifier:
        sql_type = sql_type.with_modifier(int(modifier[:-1]) + 4)
    return SystemColumn(name, sql_type, not_null)


RELATIONS: dict[str, SystemRelation] = {
    name: SystemRelation(schema, name, int(oid), kind, tuple(map(_column, columns.split(","))))
    for schema, name, oid, kind, columns in read_lines("relations.txt")
}
"""By name; pg_catalog and information_schema have no name in common."""


def facts_of(table: VirtualTable) -> SystemRelation | None:
    """Postgres's facts about a system table; None for our own."""
    facts = RELATIONS.get(table.name)
    return facts if facts is not None and facts.oid == table.oid else None


def _to_rows(names: tuple[str, ...], produce: Rows) -> Callable[[CatalogView, EvalContext], Iterator[tuple[Any, ...]]]:
    def rows(view: CatalogView, context: EvalContext) -> Iterator[tuple[Any, ...]]:
        for row in produce(cast(StateView, view), context):
            yield tuple(map(row.get, names))

    return rows


def _to_lookup(
    names: tuple[str, ...], produce: Lookup
) -> Callable[[CatalogView, EvalContext, Any], Iterator[tuple[Any, ...]]]:
    def lookup(view: CatalogView, context: EvalContext, value: Any) -> Iterator[tuple[Any, ...]]:
        for row in produce(cast(StateView, view), context, value):
            yield tuple(map(row.get, names))

    return lookup


def define(name: str, produce: Rows, lookups: Mapping[str, Lookup] | None = None) -> VirtualTable:
    """Register the system table of this name."""
    relation = RELATIONS[name]
    return define_relation(relation, produce, lookups)


def define_relation(
    relation: SystemRelation, produce: Rows, lookups: Mapping[str, Lookup] | None = None
) -> VirtualTable:
    names = tuple(column.name for column in relation.columns)
    return registry.register(
        VirtualTable(
            relation.oid,
            relation.schema,
            relation.name,
            tuple((column.name, column.type) for column in relation.columns),
            _to_rows(names, produce),
            {column: _to_lookup(names, lookup) for column, lookup in (lookups or {}).items()},
        )
    )


def rows_of_gathered(name: str, gather: Callable[[EvalContext], Awaitable[Any]]) -> Callable[[Gathered], Gathered]:
    """Decorate the function that makes a system table's rows of what ``gather`` has got from all nodes."""
    return gathered_relation(RELATIONS[name], gather)


def gathered_relation(
    relation: SystemRelation, gather: Callable[[EvalContext], Awaitable[Any]]
) -> Callable[[Gathered], Gathered]:
    """The same for a relation that Postgres does not have."""
    names = tuple(column.name for column in relation.columns)

    def decorate(produce: Gathered) -> Gathered:
        def rows(view: CatalogView, context: EvalContext, gathered: Any) -> Iterator[tuple[Any, ...]]:
            for row in produce(cast(StateView, view), context, gathered):
                yield tuple(map(row.get, names))

        registry.register(
            VirtualTable(
                relation.oid,
                relation.schema,
                relation.name,
                tuple((column.name, column.type) for column in relation.columns),
                lambda view, context: (),
                {},
                gather,
                rows,
            )
        )
        return produce

    return decorate


def rows_of(name: str, lookups: Mapping[str, Lookup] | None = None) -> Callable[[Rows], Rows]:
    """Decorate the function that yields a system table's rows."""

    def decorate(produce: Rows) -> Rows:
        define(name, produce, lookups)
        return produce

    return decorate


def static_rows(name: str, rows: Iterable[RowDict], by: Iterable[str] = ()) -> None:
    """Register a system table whose rows never change, with look-ups by some of its columns."""
    kept = list(rows)
    indexes: dict[str, dict[Any, list[RowDict]]] = {}
    for column in by:
        index = indexes.setdefault(column, {})
        for row in kept:
            index.setdefault(row.get(column), []).append(row)

    def lookup_in(index: dict[Any, list[RowDict]]) -> Lookup:
        return lambda view, context, value: index.get(value, ())

    define(name, lambda view, context: kept, {column: lookup_in(index) for column, index in indexes.items()})


_EMPTY_NAMES = """
pg_available_extension_versions pg_conversion
pg_event_trigger pg_foreign_data_wrapper pg_foreign_server
pg_foreign_table pg_inherits pg_largeobject pg_largeobject_metadata pg_parameter_acl
pg_partitioned_table pg_policies pg_policy pg_publication pg_publication_namespace
pg_publication_rel pg_publication_tables pg_range pg_replication_origin pg_replication_origin_status
pg_replication_slots pg_rules pg_seclabel pg_seclabels pg_shdepend pg_shseclabel pg_stat_replication
pg_stat_user_functions pg_subscription
pg_subscription_rel pg_transform pg_trigger pg_ts_config pg_ts_config_map pg_ts_dict pg_ts_parser
pg_ts_template pg_user_mapping pg_user_mappings check_constraint_routine_usage column_options
triggered_update_columns triggers user_defined_types view_routine_usage
"""
EMPTY = tuple(_EMPTY_NAMES.split())

for _name in EMPTY:
    static_rows(_name, ())
