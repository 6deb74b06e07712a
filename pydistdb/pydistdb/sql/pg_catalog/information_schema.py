r"""information_schema: the SQL standard's view of tables, columns, constraints, views and sequences.

Columns are in information_columns.py, constraints in information_constraints.py, domains, attributes and parameters in
information_types.py, privileges in privilege_views.py.  A role sees only what it owns or has some privilege on::

    SELECT table_name FROM information_schema.tables        not what \dt shows: tables of others are left out

Source: PostgreSQL 15 manual, chapter 37.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydistdb.sql.bind.view_targets import check_option, updatable_columns
from pydistdb.sql.catalog import acl
from pydistdb.sql.catalog.access import PG_CLASS, PG_NAMESPACE
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.catalog.sequence_numbers import TYPE_LIMITS, definition_of
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.functions import registry as functions
from pydistdb.sql.pg_catalog import registry
from pydistdb.sql.pg_catalog.acl_columns import owner_name
from pydistdb.sql.pg_catalog.define import RowDict, facts_of, rows_of
from pydistdb.sql.pg_catalog.deparsing import query_text
from pydistdb.sql.pg_catalog.information_columns import INTEGER_BITS
from pydistdb.sql.pg_catalog.objects import schema_name, yes
from pydistdb.sql.types import registry as types
from pydistdb.sql.types.base import AggregateFunction, EvalContext
from pydistdb.sql.types.reg import COLLATIONS


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
    for schema, name, kind, table in _relations(view):
        is_open = kind == "r" or (table is not None and bool(updatable_columns(view, table)))
        yield {
            "table_catalog": view.database.name,
            "table_schema": schema,
            "table_name": name,
            "table_type": "VIEW" if kind == "v" else "BASE TABLE",
            "is_insertable_into": yes(is_open),
            "is_typed": "NO",
        }


@rows_of("views")
def views(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for table in view.tables():
        if table.kind == "v" and is_shown(view, table):
            owns = view.role is None or view.access.owns(view.role, PG_CLASS, table.oid)
            no = ("is_trigger_updatable", "is_trigger_deletable", "is_trigger_insertable_into")
            updatable = yes(bool(updatable_columns(view, table)))
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
            "numeric_precision": INTEGER_BITS[definition.type_oid],
            "numeric_precision_radix": 2,
            "numeric_scale": 0,
            "start_value": str(definition.start),
            "minimum_value": str(definition.minimum),
            "maximum_value": str(definition.maximum),
            "increment": str(definition.increment),
            "cycle_option": yes(definition.cycle),
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
            "is_deterministic": yes(function.volatility == "i"),
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
