"""information_schema: columns, element types and identity, and what describes a data type wherever one is described.

``type_facts`` gives the standard's columns for a type (lengths, precisions), ``type_columns`` adds the names of the type and
of the domain over it; information_types.py describes attributes, domains and parameters by the same two.

    a numeric(8,2)       numeric_precision 8, numeric_precision_radix 10, numeric_scale 2
    b varchar(10)        character_maximum_length 10, character_octet_length 40
    c int[]              data_type ARRAY, udt_name _int4; element_types tells of int4

Source: PostgreSQL 15 manual, chapter 37 (columns, element_types); which type shows what follows its information_schema.sql.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydistdb.sql.bind.view_targets import updatable_columns
from pydistdb.sql.catalog import acl
from pydistdb.sql.catalog.access import PG_CLASS
from pydistdb.sql.catalog.descriptors import Column, Table
from pydistdb.sql.catalog.sequence_numbers import definition_of
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.pg_catalog import registry
from pydistdb.sql.pg_catalog.defaults import column_default
from pydistdb.sql.pg_catalog.define import RowDict, rows_of
from pydistdb.sql.pg_catalog.deparsing import expression_text
from pydistdb.sql.pg_catalog.objects import schema_name, yes
from pydistdb.sql.types import domains
from pydistdb.sql.types import registry as types
from pydistdb.sql.types.base import EvalContext, SqlType
from pydistdb.sql.types.known import BIT, TYPES_BY_OID, VARBIT
from pydistdb.sql.types.user import FIRST_USER_OID

INTEGER_BITS = {21: 16, 23: 32, 20: 64}


_FLOAT_BITS = {700: 24, 701: 53}


_TIME_TYPES = frozenset({1083, 1266, 1114, 1184, 1186})


_VARIABLE_LENGTH = frozenset({1042, 1043})


_WIDEST_TEXT_BYTES = 1 << 30


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
    if type_oid in INTEGER_BITS:
        facts |= {"numeric_precision": INTEGER_BITS[type_oid], "numeric_precision_radix": 2, "numeric_scale": 0}
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
        "is_nullable": yes(not column.not_null),
        "dtd_identifier": str(column.number),
        "is_self_referencing": "NO",
        "is_identity": yes(bool(column.identity)),
        "is_generated": "ALWAYS" if column.generated else "NEVER",
        "generation_expression": expression_text(view, context, table, column.default or "", False)
        if column.generated
        else None,
        "is_updatable": yes(table.kind == "r" or (table.kind == "v" and column.name in updatable_columns(view, table))),
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
                    "identity_cycle": yes(definition.cycle),
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
