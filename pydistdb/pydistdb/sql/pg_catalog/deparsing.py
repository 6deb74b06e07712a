"""Stored queries and expressions in Postgres's spelling (bind/deparse.py), or as they were written where that is unknown.

A query is shown in the new spelling only if that binds to columns of the same types; so what pg_dump prints always means
what the view means.
"""

from __future__ import annotations

from pydistdb.sql import bind
from pydistdb.sql.bind.deparse import deparse_expression, deparse_query
from pydistdb.sql.bind.deparse_expressions import CannotDeparse, VisibleName
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.tree import BoundStatement
from pydistdb.sql.types.base import EvalContext
from pydistdb.sql.types.reg import quote_identifier

_FAILURES = (CannotDeparse, DatabaseError, KeyError, IndexError, ValueError)


def visible_names(view: StateView) -> VisibleName:
    """How to write a relation's or function's name: with its schema only where the search path would not find it."""

    def visible(schema: str | None, name: str) -> str:
        if schema is None:
            return quote_identifier(name)
        found = view.schema_named(schema)
        if found is not None and (found.oid, name) in view.state.relations:
            hidden = not view.is_visible(found.oid, name)
        else:
            hidden = all(function.schema != schema for function in view.routines(name))
        return f"{quote_identifier(schema)}.{quote_identifier(name)}" if hidden else quote_identifier(name)

    return visible


def query_text(view: StateView, context: EvalContext, table: Table, pretty: bool) -> str:
    """A view's query, with a space before it and without a semicolon behind it."""
    names = [column.name for column in table.columns if not column.dropped]
    unrestricted = view.unrestricted()
    try:
        text = deparse_query(table.definition, unrestricted, context, visible_names(view), names, pretty)
        bound = bind.analyze(bind.parse(text)[0], unrestricted, context)
    except _FAILURES:
        return f" {table.definition}"
    if not isinstance(bound, BoundStatement):
        return f" {table.definition}"
    found = [(column.name, column.type.oid) for column in bound.query.columns]
    wanted = [(column.name, column.type_oid) for column in table.columns if not column.dropped]
    return text if found == wanted else f" {table.definition}"


def expression_text(view: StateView, context: EvalContext, table: Table | None, text: str, pretty: bool) -> str:
    """An expression over a table's row."""
    try:
        return deparse_expression(text, table, view.unrestricted(), context, visible_names(view), pretty)
    except _FAILURES:
        return text
