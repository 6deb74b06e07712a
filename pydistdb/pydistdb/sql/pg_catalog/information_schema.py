"""information_schema: the SQL standard's view of tables, columns, constraints, views and sequences.

Source: PostgreSQL 15 manual, chapter 37; what a column shows for which type follows its information_schema.sql.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydistdb.sql.bind.view_targets import check_option, updatable_through
from pydistdb.sql.catalog import acl
from pydistdb.sql.catalog.access import PG_CLASS, PG_NAMESPACE
from pydistdb.sql.catalog.descriptors import Column, Table
from pydistdb.sql.catalog.sequence_numbers import TYPE_LIMITS, definition_of
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.functions import registry as functions
from pydistdb.sql.pg_catalog import registry
from pydistdb.sql.pg_catalog.acl_columns import owner_name
from pydistdb.sql.pg_catalog.check_columns import columns_used
from pydistdb.sql.pg_catalog.defaults import column_default
from pydistdb.sql.pg_catalog.define import RowDict, facts_of, rows_of
from pydistdb.sql.pg_catalog.deparsing import query_text
from pydistdb.sql.pg_catalog.objects import column_names, index_numbers, schema_name, table_indexes
from pydistdb.sql.types import domains
from pydistdb.sql.types import registry as types
from pydistdb.sql.types.base import AggregateFunction, EvalContext, SqlType
from pydistdb.sql.types.known import BIT, TYPES_BY_OID, VARBIT
from pydistdb.sql.types.reg import COLLATIONS
from pydistdb.sql.types.user import FIRST_USER_OID

_RULES = {"a": "NO ACTION", "r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}
_INTEGER_BITS = {21: 16, 23: 32, 20: 64}
_FLOAT_BITS = {700: 24, 701: 53}
_TIME_TYPES = frozenset({1083, 1266, 1114, 1184, 1186})
_VARIABLE_LENGTH = frozenset({1042, 1043})
_WIDEST_TEXT_BYTES = 1 << 30


def _yes(value: bool) -> str:
    return "YES" if value else "NO"


def _based(type_oid: int, modifier: int) -> tuple[int, int]:
    """What a domain is over; any other type as it is."""
    if not domains.is_domain(type_oid):
        return type_oid, modifier
    base = domains.base_type(type_oid)
    return base.oid, base.modifier


def type_facts(type_oid: int, modifier: int) -> RowDict:
    """The columns that describe a data type, wherever one is described."""
    type_oid, modifier = _based(type_oid, modifier)
    sql_type = TYPES_BY_OID[type_oid]
    if sql_type.is_array and sql_type.category == "A":
        data_type = "ARRAY"
    else:
        data_type = (
            types.format_type(type_oid, None if type_oid == BIT.oid else -1)
            if type_oid < FIRST_USER_OID
            else "USER-DEFINED"
        )
    facts: RowDict = {"data_type": data_type}
    if type_oid in (BIT.oid, VARBIT.oid) and modifier >= 0:
        facts["character_maximum_length"] = modifier
    if type_oid in _VARIABLE_LENGTH and modifier >= 0:
        facts["character_maximum_length"] = modifier - 4
        facts["character_octet_length"] = 4 * (modifier - 4)
    elif type_oid in (25, 1042, 1043):
        facts["character_octet_length"] = _WIDEST_TEXT_BYTES
    if type_oid in _INTEGER_BITS:
        facts |= {"numeric_precision": _INTEGER_BITS[type_oid], "numeric_precision_radix": 2, "numeric_scale": 0}
    elif type_oid in _FLOAT_BITS:
        facts |= {"numeric_precision": _FLOAT_BITS[type_oid], "numeric_precision_radix": 2}
    elif type_oid == types.NUMERIC.oid:
        facts["numeric_precision_radix"] = 10
        if modifier >= 0:
            facts["numeric_precision"] = (modifier - 4) >> 16 & 0xFFFF
            scale = (modifier - 4) & 0x7FF
            facts["numeric_scale"] = scale - 2_048 if scale >= 1_024 else scale
    elif type_oid in _TIME_TYPES:
        precision = modifier & 0xFFFF if modifier >= 0 else 6
        facts["datetime_precision"] = 6 if precision == 0xFFFF else precision
    elif type_oid == types.DATE.oid:
        facts["datetime_precision"] = 0
    return facts


def _relations(view: StateView) -> Iterator[tuple[str, str, str, Table | None]]:
    """(schema, name, kind, descriptor) of every relation."""
    for virtual in registry.virtual_tables().values():
        facts = facts_of(virtual)
        yield virtual.schema, virtual.name, facts.kind if facts is not None else "v", None
    for table in view.tables():
        if table.kind in "rv" and is_shown(view, table):
            yield schema_name(view, table.schema), table.name, table.kind, table


def is_shown(view: StateView, table: Table) -> bool:
    """The standard's views tell of what the user owns or has some privilege on."""
    role, access = view.role, view.access
    if role is None or access.owns(role, PG_CLASS, table.oid):
        return True
    if table.kind == "S":
        return bool(access.mask(role, PG_CLASS, table.oid, acl.RIGHTS["sequence"]))
    return bool(access.mask(role, PG_CLASS, table.oid, acl.TABLE_RIGHTS)) or any(
        access.column_mask(role, table.oid, column.number, acl.RIGHTS["column"]) for column in table.columns
    )


@rows_of("tables")
def tables(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for schema, name, kind, _ in _relations(view):
        yield {
            "table_catalog": view.database.name,
            "table_schema": schema,
            "table_name": name,
            "table_type": "VIEW" if kind == "v" else "BASE TABLE",
            "is_insertable_into": _yes(kind == "r"),
            "is_typed": "NO",
        }


@rows_of("views")
def views(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for table in view.tables():
        if table.kind == "v" and is_shown(view, table):
            owns = view.role is None or view.access.owns(view.role, PG_CLASS, table.oid)
            no = ("is_trigger_updatable", "is_trigger_deletable", "is_trigger_insertable_into")
            updatable = _yes(updatable_through(view, table))
            yield {
                "table_catalog": view.database.name,
                "table_schema": schema_name(view, table.schema),
                "table_name": table.name,
                "view_definition": query_text(view, context, table, False) + ";" if owns else None,
                "check_option": check_option(table).upper() or "NONE",
                "is_updatable": updatable,
                "is_insertable_into": updatable,
                **dict.fromkeys(no, "NO"),
            }


@rows_of("view_table_usage")
def view_table_usage(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for table in view.tables():
        for oid in table.depends_on:
            used = view.table_by_oid(oid)
            if used is not None:
                yield {
                    "view_catalog": view.database.name,
                    "view_schema": schema_name(view, table.schema),
                    "view_name": table.name,
                    "table_catalog": view.database.name,
                    "table_schema": schema_name(view, used.schema),
                    "table_name": used.name,
                }


def _column(view: StateView, context: EvalContext, table: Table, column: Column) -> RowDict:
    has_default = column.default is not None and not column.generated and not column.identity
    row = {
        **type_columns(view, column.type_oid, column.modifier),
        "table_catalog": view.database.name,
        "table_schema": schema_name(view, table.schema),
        "table_name": table.name,
        "column_name": column.name,
        "ordinal_position": column.number,
        "column_default": column_default(view, context, column) if has_default else None,
        "is_nullable": _yes(not column.not_null),
        "dtd_identifier": str(column.number),
        "is_self_referencing": "NO",
        "is_identity": _yes(bool(column.identity)),
        "is_generated": "ALWAYS" if column.generated else "NEVER",
        "generation_expression": column.default if column.generated else None,
        "is_updatable": _yes(table.kind == "r"),
        "identity_cycle": "NO",
    }
    if column.identity:
        row |= _identity(view, table, column)
    if column.collation:
        row |= {
            "collation_catalog": view.database.name,
            "collation_schema": "pg_catalog",
            "collation_name": column.collation,
        }
    return row


def type_columns(view: StateView, type_oid: int, modifier: int) -> RowDict:
    return {
        **type_facts(type_oid, modifier),
        "udt_catalog": view.database.name,
        **_domain_columns(view, type_oid),
        "udt_schema": _schema_of_type(view, _based(type_oid, -1)[0]),
        "udt_name": TYPES_BY_OID[_based(type_oid, -1)[0]].name,
    }


def _domain_columns(view: StateView, type_oid: int) -> RowDict:
    """The columns that name a column's domain; none for other types."""
    definition = view.type_definition(type_oid)
    if definition is None or definition.kind != "d" or definition.oid != type_oid:
        return {}
    return {
        "domain_catalog": view.database.name,
        "domain_schema": schema_name(view, definition.schema),
        "domain_name": definition.name,
    }


def _schema_of_type(view: StateView, type_oid: int) -> str:
    definition = view.type_definition(type_oid)
    return "pg_catalog" if definition is None else schema_name(view, definition.schema)


def _identity(view: StateView, table: Table, column: Column) -> RowDict:
    row: RowDict = {"identity_generation": "ALWAYS" if column.identity == "a" else "BY DEFAULT"}
    for sequence in view.tables():
        if sequence.kind == "S":
            definition = definition_of(sequence)
            if (definition.owner_table, definition.owner_column) == (table.oid, column.number):
                row |= {
                    "identity_start": str(definition.start),
                    "identity_increment": str(definition.increment),
                    "identity_maximum": str(definition.maximum),
                    "identity_minimum": str(definition.minimum),
                    "identity_cycle": _yes(definition.cycle),
                }
    return row


def _system_column(view: StateView, schema: str, table: str, number: int, name: str, sql_type: SqlType) -> RowDict:
    return {
        **type_columns(view, sql_type.oid, sql_type.modifier),
        "table_catalog": view.database.name,
        "table_schema": schema,
        "table_name": table,
        "column_name": name,
        "ordinal_position": number,
        "is_nullable": "YES",
        "dtd_identifier": str(number),
        "is_self_referencing": "NO",
        "is_identity": "NO",
        "identity_cycle": "NO",
        "is_generated": "NEVER",
        "is_updatable": "NO",
    }


def _is_column_shown(view: StateView, table: Table, column: Column) -> bool:
    role, access = view.role, view.access
    if role is None or access.owns(role, PG_CLASS, table.oid):
        return True
    wanted = acl.RIGHTS["column"]
    return bool(
        access.mask(role, PG_CLASS, table.oid, wanted) or access.column_mask(role, table.oid, column.number, wanted)
    )


def _columns_of(view: StateView, context: EvalContext, name: Any) -> Iterator[RowDict]:
    """The columns of every relation of that name (of all relations for None)."""
    for virtual in registry.virtual_tables().values():
        if name in (None, virtual.name):
            for number, (column_name, sql_type) in enumerate(virtual.columns, 1):
                yield _system_column(view, virtual.schema, virtual.name, number, column_name, sql_type)
    for table in view.tables():
        if table.kind in "rv" and name in (None, table.name):
            for column in table.columns:
                if not column.dropped and _is_column_shown(view, table, column):
                    yield _column(view, context, table, column)


@rows_of("columns", lookups={"table_name": _columns_of})
def columns(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    yield from _columns_of(view, context, None)


@rows_of("element_types")
def element_types(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for table in view.tables():
        for column in table.columns:
            sql_type = TYPES_BY_OID.get(column.type_oid)
            if column.dropped or sql_type is None or not sql_type.is_array:
                continue
            yield {
                "object_catalog": view.database.name,
                "object_schema": schema_name(view, table.schema),
                "object_name": table.name,
                "object_type": "TABLE" if table.kind == "r" else "VIEW",
                "collection_type_identifier": str(column.number),
                "data_type": types.format_type(sql_type.element_oid, -1),
                "udt_catalog": view.database.name,
                "udt_schema": _schema_of_type(view, sql_type.element_oid),
                "udt_name": TYPES_BY_OID[sql_type.element_oid].name,
                "dtd_identifier": f"a{column.number}",
            }


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


@rows_of("schemata")
def schemata(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for schema in view.schemas():
        if view.role is not None and not view.access.mask(view.role, PG_NAMESPACE, schema.oid, acl.RIGHTS["schema"]):
            continue
        yield {
            "catalog_name": view.database.name,
            "schema_name": schema.name,
            "schema_owner": owner_name(view, schema.owner),
        }


@rows_of("sequences")
def sequences(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for table in view.tables():
        if table.kind != "S" or not is_shown(view, table):
            continue
        definition = definition_of(table)
        if definition.identity:
            continue
        assert definition.type_oid in TYPE_LIMITS
        yield {
            "sequence_catalog": view.database.name,
            "sequence_schema": schema_name(view, table.schema),
            "sequence_name": table.name,
            "data_type": types.format_type(definition.type_oid, -1),
            "numeric_precision": _INTEGER_BITS[definition.type_oid],
            "numeric_precision_radix": 2,
            "numeric_scale": 0,
            "start_value": str(definition.start),
            "minimum_value": str(definition.minimum),
            "maximum_value": str(definition.maximum),
            "increment": str(definition.increment),
            "cycle_option": _yes(definition.cycle),
        }


@rows_of("routines")
def routines(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for function in functions.all_functions():
        if isinstance(function, AggregateFunction) or function.window:
            continue
        yield {
            "specific_catalog": view.database.name,
            "specific_schema": function.schema,
            "specific_name": f"{function.name}_{function.oid}",
            "routine_catalog": view.database.name,
            "routine_schema": function.schema,
            "routine_name": function.name,
            "routine_type": "FUNCTION",
            "data_type": types.format_type(function.return_type.oid, -1),
            "type_udt_catalog": view.database.name,
            "type_udt_schema": "pg_catalog",
            "type_udt_name": function.return_type.name,
            "routine_body": "EXTERNAL",
            "external_language": "INTERNAL",
            "is_deterministic": _yes(function.volatility == "i"),
            "security_type": "INVOKER",
        }


@rows_of("information_schema_catalog_name")
def information_schema_catalog_name(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    yield {"catalog_name": view.database.name}


@rows_of("character_sets")
def character_sets(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    yield {
        "character_set_name": "UTF8",
        "character_repertoire": "UCS",
        "form_of_use": "UTF8",
        "default_collate_catalog": view.database.name,
        "default_collate_schema": "pg_catalog",
        "default_collate_name": "C",
    }


@rows_of("collations")
def collations(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for name in COLLATIONS:
        yield {
            "collation_catalog": view.database.name,
            "collation_schema": "pg_catalog",
            "collation_name": name,
            "pad_attribute": "NO PAD",
        }
