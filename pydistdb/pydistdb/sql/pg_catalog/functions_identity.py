"""pg_identify_object: what an object of any system table is, and its name in full.

    pg_identify_object('pg_class'::regclass, 't'::regclass, 1)      (table column, public, t, public.t.a)

Names are qualified whatever the search path; schema and name are given where both together identify the object.

Source: PostgreSQL 15 manual, 9.26.5; objectaddress.c.
"""

from __future__ import annotations

from pydistdb.sql.catalog.access import (
    PG_AUTHID,
    PG_CLASS,
    PG_DATABASE,
    PG_NAMESPACE,
    PG_PROC,
    PG_STATISTIC_EXT,
    PG_TYPE,
)
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.errors import FeatureNotSupported
from pydistdb.sql.functions import registry as functions
from pydistdb.sql.pg_catalog.define import RELATIONS
from pydistdb.sql.pg_catalog.objects import column_names, schema_name
from pydistdb.sql.pg_catalog.provide import provides, view_of
from pydistdb.sql.routines import input_arguments
from pydistdb.sql.types import registry as types
from pydistdb.sql.types.base import AggregateFunction, EvalContext
from pydistdb.sql.types.known import TYPES_BY_OID
from pydistdb.sql.types.reg import quote_identifier

Identity = tuple[str, str | None, str | None, str | None]
"""Type, schema, name and identity."""

_GRAMMAR_NAMES = frozenset({16, 20, 21, 23, 700, 701, 1042, 1043, 1083, 1114, 1184, 1186, 1266, 1560, 1562, 1700})
"""``integer``, ``character varying``, ``timestamp with time zone`` …"""
_RELATIONS = {"r": "table", "v": "view", "m": "materialized view", "S": "sequence"}


@provides("pg_identify_object(oid,oid,int4)")
def pg_identify_object(context: EvalContext, class_oid: int, oid: int, sub_id: int) -> Identity:
    view = view_of(context)
    match class_oid:
        case _ if class_oid == PG_CLASS:
            return _relation(view, oid, sub_id)
        case _ if class_oid == PG_TYPE:
            return _type(view, oid)
        case _ if class_oid == PG_PROC:
            return _function(view, oid)
        case _ if class_oid == PG_STATISTIC_EXT:
            statistics = view.state.statistics_object(oid)
            if statistics is None:
                return "statistics object", None, None, None
            return _qualified(view, "statistics object", statistics[1].schema, statistics[1].name)
        case _ if class_oid == PG_NAMESPACE:
            schema = view.schema_by_oid(oid)
            return _alone("schema", None if schema is None else schema.name)
        case _ if class_oid == PG_AUTHID:
            role = view.catalog_state.roles.by_oid.get(oid)
            return _alone("role", None if role is None else role.name)
        case _ if class_oid == PG_DATABASE:
            names = {each.oid: each.name for each in view.databases()}
            return _alone("database", names.get(oid))
    raise FeatureNotSupported(
        f"pg_identify_object is not supported for objects of the system table with OID {class_oid}"
    )


def _alone(kind: str, name: str | None) -> Identity:
    quoted = None if name is None else quote_identifier(name)
    return kind, None, quoted, quoted


def _qualified(view: StateView, kind: str, schema_oid: int, name: str) -> Identity:
    schema, quoted = quote_identifier(schema_name(view, schema_oid)), quote_identifier(name)
    return kind, schema, quoted, f"{schema}.{quoted}"


def _relation(view: StateView, oid: int, sub_id: int) -> Identity:
    table, index = view.table_by_oid(oid), view.index_by_oid(oid)
    if table is not None:
        found = _qualified(view, _RELATIONS[table.kind], table.schema, table.name)
    elif index is not None:
        found = _qualified(view, "index", index[0].schema, index[1].name)
    else:
        virtual = view.virtual_by_oid(oid)
        if virtual is None:
            return "relation", None, None, None
        known = RELATIONS.get(virtual.name)
        kind = "table" if known is not None and known.kind == "r" else "view"
        found = kind, virtual.schema, virtual.name, f"{virtual.schema}.{virtual.name}"
    if not sub_id or table is None:
        return found
    if all(column.number != sub_id for column in table.columns):
        return f"{found[0]} column", None, None, None
    column = quote_identifier(column_names(table, [sub_id])[0])
    return f"{found[0]} column", found[1], found[2], f"{found[3]}.{column}"


def _full_type(view: StateView, oid: int) -> str:
    """A type's name as format_type gives it, with its schema, but for those that have a name in the grammar."""
    definition = view.type_definition(oid)
    if definition is None:
        name = types.format_type(oid)
        item = types.type_by_oid(oid).element_oid or oid
        return name if item in _GRAMMAR_NAMES else f"pg_catalog.{name}"
    brackets = "[]" if oid == definition.array_oid else ""
    return f"{quote_identifier(schema_name(view, definition.schema))}.{quote_identifier(definition.name)}{brackets}"


def _type(view: StateView, oid: int) -> Identity:
    definition = view.type_definition(oid)
    if definition is not None:
        name = definition.name if oid != definition.array_oid else f"_{definition.name}"
        return (
            "type",
            quote_identifier(schema_name(view, definition.schema)),
            quote_identifier(name),
            _full_type(view, oid),
        )
    if oid not in TYPES_BY_OID:
        return "type", None, None, None
    return "type", "pg_catalog", quote_identifier(types.type_by_oid(oid).name), _full_type(view, oid)


def _function(view: StateView, oid: int) -> Identity:
    routine = view.routine_by_oid(oid)
    if routine is not None:
        schema = quote_identifier(schema_name(view, routine.schema))
        arguments = ",".join(_full_type(view, argument.type_oid) for argument in input_arguments(routine))
        kind = "procedure" if routine.kind == "p" else "function"
        return kind, schema, None, f"{schema}.{quote_identifier(routine.name)}({arguments})"
    function = functions.function_by_oid(oid)
    if function is None:
        return "routine", None, None, None
    kind = "aggregate" if isinstance(function, AggregateFunction) else "function"
    arguments = ",".join(_full_type(view, each.oid) for each in function.argument_types)
    return kind, "pg_catalog", None, f"pg_catalog.{quote_identifier(function.name)}({arguments})"
