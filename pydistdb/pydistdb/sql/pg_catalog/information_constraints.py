"""information_schema: constraints, the columns they use, and what foreign keys refer to.

NOT NULL counts as a check constraint in the standard, so each such column has one with a made-up name.

    CREATE TABLE t (a int PRIMARY KEY, b int CHECK (b > 0))
    table_constraints    t_pkey PRIMARY KEY; t_b_check CHECK; 2200_16385_1_not_null CHECK

Source: PostgreSQL 15 manual, chapter 37.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydistdb.sql.catalog.descriptors import Column, Table
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.pg_catalog.check_columns import columns_used
from pydistdb.sql.pg_catalog.define import RowDict, rows_of
from pydistdb.sql.pg_catalog.objects import column_names, index_numbers, schema_name, table_indexes
from pydistdb.sql.types.base import EvalContext

_RULES = {"a": "NO ACTION", "r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}


def _named(view: StateView, table: Table, name: str) -> RowDict:
    schema = schema_name(view, table.schema)
    database = view.database.name
    return {
        "constraint_catalog": database,
        "constraint_schema": schema,
        "constraint_name": name,
        "table_catalog": database,
        "table_schema": schema,
        "table_name": table.name,
    }


def _not_null_name(table: Table, column: Column) -> str:
    return f"{table.schema}_{table.oid}_{column.number}_not_null"


@rows_of("table_constraints")
def table_constraints(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    flags = {"is_deferrable": "NO", "initially_deferred": "NO", "enforced": "YES"}
    for table in view.tables():
        if table.kind != "r":
            continue
        for index in table_indexes(table):
            if index.constraint:
                kind = "PRIMARY KEY" if index.primary else "UNIQUE"
                nulls = None if index.primary else "YES"
                named = _named(view, table, index.name)
                yield {**named, **flags, "constraint_type": kind, "nulls_distinct": nulls}
        for check in table.checks:
            yield {**_named(view, table, check.name), **flags, "constraint_type": "CHECK"}
        for key in table.foreign_keys:
            yield {**_named(view, table, key.name), **flags, "constraint_type": "FOREIGN KEY"}
        for column in table.columns:
            if column.not_null and not column.dropped:
                yield {**_named(view, table, _not_null_name(table, column)), **flags, "constraint_type": "CHECK"}


@rows_of("check_constraints")
def check_constraints(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for table in view.tables():
        if table.kind == "r":
            for check in table.checks:
                yield {**_named(view, table, check.name), "check_clause": f"(({check.expression}))"}
            for column in table.columns:
                if column.not_null and not column.dropped:
                    named = _named(view, table, _not_null_name(table, column))
                    yield {**named, "check_clause": f"{column.name} IS NOT NULL"}


@rows_of("key_column_usage")
def key_column_usage(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for table in view.tables():
        for index in table_indexes(table):
            if index.constraint:
                for position, name in enumerate(column_names(table, index_numbers(index)), 1):
                    named = _named(view, table, index.name)
                    yield {**named, "column_name": name, "ordinal_position": position}
        for key in table.foreign_keys:
            referenced = view.table_by_oid(key.referenced_table)
            backing = _backing_key(referenced, key.referenced_columns)
            for position, (number, name) in enumerate(
                zip(key.referenced_columns, column_names(table, key.columns), strict=True), 1
            ):
                yield {
                    **_named(view, table, key.name),
                    "column_name": name,
                    "ordinal_position": position,
                    "position_in_unique_constraint": backing[1].index(number) + 1 if backing is not None else None,
                }


def _backing_key(referenced: Table | None, numbers: tuple[int, ...]) -> tuple[str, list[int]] | None:
    """The unique key that a foreign key refers to: name and column numbers."""
    for index in table_indexes(referenced) if referenced is not None else ():
        if index.unique and sorted(index_numbers(index)) == sorted(numbers):
            return index.name, index_numbers(index)
    return None


@rows_of("constraint_column_usage")
def constraint_column_usage(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for table in view.tables():
        for index in table_indexes(table):
            if index.constraint:
                for name in column_names(table, index_numbers(index)):
                    yield {**_named(view, table, index.name), "column_name": name}
        for check in table.checks:
            for name in column_names(table, columns_used(view, context, table, check)):
                yield {**_named(view, table, check.name), "column_name": name}
        for key in table.foreign_keys:
            referenced = view.table_by_oid(key.referenced_table)
            if referenced is None:
                continue
            named = _named(view, table, key.name)
            named |= {"table_schema": schema_name(view, referenced.schema), "table_name": referenced.name}
            for name in column_names(referenced, key.referenced_columns):
                yield {**named, "column_name": name}


@rows_of("constraint_table_usage")
def constraint_table_usage(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for table in view.tables():
        for index in table_indexes(table):
            if index.constraint:
                yield _named(view, table, index.name)
        for key in table.foreign_keys:
            referenced = view.table_by_oid(key.referenced_table)
            if referenced is not None:
                named = _named(view, table, key.name)
                yield {**named, "table_schema": schema_name(view, referenced.schema), "table_name": referenced.name}


@rows_of("referential_constraints")
def referential_constraints(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for table in view.tables():
        for key in table.foreign_keys:
            referenced = view.table_by_oid(key.referenced_table)
            backing = _backing_key(referenced, key.referenced_columns)
            yield {
                **_named(view, table, key.name),
                "unique_constraint_catalog": view.database.name if backing is not None else None,
                "unique_constraint_schema": schema_name(view, referenced.schema) if referenced is not None else None,
                "unique_constraint_name": backing[0] if backing is not None else None,
                "match_option": "NONE",
                "update_rule": _RULES[key.on_update],
                "delete_rule": _RULES[key.on_delete],
            }
