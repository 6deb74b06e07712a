"""information_schema's views of user-defined types: domains and their constraints.

Source: PostgreSQL 15 manual, 37.22 to 37.24, 37.53.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.pg_catalog.defaults import domain_default
from pydistdb.sql.pg_catalog.define import RowDict, rows_of
from pydistdb.sql.pg_catalog.information_columns import type_columns
from pydistdb.sql.pg_catalog.objects import schema_name
from pydistdb.sql.types.base import EvalContext
from pydistdb.sql.types.user import UserType


def _domains(view: StateView) -> Iterator[UserType]:
    for entry in view.state.types.values():
        if entry.definition.kind == "d":
            yield entry.definition


def _named(view: StateView, definition: UserType) -> RowDict:
    return {
        "domain_catalog": view.database.name,
        "domain_schema": schema_name(view, definition.schema),
        "domain_name": definition.name,
    }


@rows_of("domains")
def domains(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for definition in _domains(view):
        yield {
            **type_columns(view, definition.base_oid, definition.base_modifier),
            **_named(view, definition),
            "domain_default": domain_default(view, context, definition),
            "dtd_identifier": "1",
        }


@rows_of("domain_constraints")
def domain_constraints(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for definition in _domains(view):
        for check in definition.checks:
            yield {
                "constraint_catalog": view.database.name,
                "constraint_schema": schema_name(view, definition.schema),
                "constraint_name": check.name,
                **_named(view, definition),
                "is_deferrable": "NO",
                "initially_deferred": "NO",
            }


@rows_of("domain_udt_usage")
def domain_udt_usage(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for definition in _domains(view):
        facts = type_columns(view, definition.base_oid, definition.base_modifier)
        yield {**{name: facts[name] for name in ("udt_catalog", "udt_schema", "udt_name")}, **_named(view, definition)}


@rows_of("column_domain_usage")
def column_domain_usage(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    by_oid = {definition.oid: definition for definition in _domains(view)}
    for table in view.tables():
        for column in table.columns:
            definition = by_oid.get(column.type_oid)
            if definition is not None and not column.dropped:
                yield {
                    **_named(view, definition),
                    "table_catalog": view.database.name,
                    "table_schema": schema_name(view, table.schema),
                    "table_name": table.name,
                    "column_name": column.name,
                }


@rows_of("attributes")
def attributes(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    """The attributes of composite types that are types of their own."""
    for entry in view.state.types.values():
        definition = entry.definition
        live = [each for each in definition.attributes if not each.dropped]
        for position, each in enumerate(live, 1):
            facts = type_columns(view, each.type_oid, each.modifier)
            yield {
                **facts,
                **{f"attribute_{name}": facts[name] for name in ("udt_catalog", "udt_schema", "udt_name")},
                "udt_catalog": view.database.name,
                "udt_schema": schema_name(view, definition.schema),
                "udt_name": definition.name,
                "attribute_name": each.name,
                "ordinal_position": position,
                "is_nullable": "YES",
                "dtd_identifier": str(position),
                "is_derived_reference_attribute": "NO",
            }
