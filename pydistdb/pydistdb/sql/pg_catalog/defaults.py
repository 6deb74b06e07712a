"""Stored expressions as users should see them.

A serial column's default names its sequence by oid, so that renaming the sequence does no harm; shown is the name::

    nextval(16388::regclass)   ->   nextval('users_id_seq'::regclass)
"""

from __future__ import annotations

import re

from pydistdb.sql.catalog.descriptors import Column
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.pg_catalog.objects import visible_name
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import EvalContext
from pydistdb.sql.types.domains import base_oid
from pydistdb.sql.types.reg import user_type_name
from pydistdb.sql.types.user import UserType

_SEQUENCE = re.compile(r"nextval\((\d+)::regclass\)")


_NAMED_SEQUENCE = re.compile(r"nextval\('([^']+)'(?:::regclass|::text)?\)", re.IGNORECASE)
_LITERAL = re.compile(r"'(?:[^']|'')*'")


def column_default(view: StateView, context: EvalContext, column: Column) -> str | None:
    """A column's default as Postgres writes it: a string literal shows the type it has been given."""
    text = default_text(view, context, column.default)
    if text is not None and _LITERAL.fullmatch(text) and not column.generated:
        name = user_type_name(column.type_oid, context) or registry.format_type(column.type_oid, -1)
        return f"{text}::{name}"
    return text


def sequences_used(view: StateView, text: str | None) -> list[int]:
    """The oids of the sequences that a stored default draws from."""
    oids = [int(match[1]) for match in _SEQUENCE.finditer(text or "")]
    for match in _NAMED_SEQUENCE.finditer(text or ""):
        schema, _, name = match[1].rpartition(".")
        relation = view.relation(name, schema or None)
        if relation is not None:
            oids.append(relation.oid)
    return oids


def default_text(view: StateView, context: EvalContext, text: str | None) -> str | None:
    """A stored expression as text, with sequences named."""
    if text is None:
        return None

    def named(match: re.Match[str]) -> str:
        sequence = view.table_by_oid(int(match[1]))
        if sequence is None:
            return match[0]
        name = visible_name(view, sequence.schema, sequence.name).replace("'", "''")
        return f"nextval('{name}'::regclass)"

    return _SEQUENCE.sub(named, text)


def domain_default(view: StateView, context: EvalContext, definition: UserType) -> str | None:
    """A domain's default, as ``column_default``."""
    text = default_text(view, context, definition.default)
    if text is not None and _LITERAL.fullmatch(text):
        return f"{text}::{registry.format_type(base_oid(definition.base_oid), -1)}"
    return text
