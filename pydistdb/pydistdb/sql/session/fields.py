"""The columns that a statement returns, as RowDescription wants them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydistdb.sql.api import Field
from pydistdb.sql.errors import FeatureNotSupported
from pydistdb.sql.session.calls import call_fields
from pydistdb.sql.statements import Execute, Explain, Fetch, ShowVariable, Utility
from pydistdb.sql.tree import BoundStatement, ColumnRef, Project, Rel, Scan
from pydistdb.sql.type_statements import Call
from pydistdb.sql.types import domains, known
from pydistdb.sql.types.user import FIRST_USER_OID

if TYPE_CHECKING:
    from pydistdb.sql.session.base import SessionBase

MAX_ORIGIN_DEPTH = 100


def check_same_columns(promised: tuple[Field, ...] | None, found: tuple[Field, ...] | None) -> None:
    """Raise 0A000 unless a plan that was made anew returns what the client has been told."""
    if found != promised and _shape(found) != _shape(promised):
        error = FeatureNotSupported("cached plan must not change result type")
        error.routine = "RevalidateCachedQuery"  # by which asyncpg knows that it should prepare the statement again
        raise error


def _shape(fields: tuple[Field, ...] | None) -> list[tuple[str, int, int]] | None:
    return None if fields is None else [(field.name, field.type_oid, field.modifier) for field in fields]


def text_field(name: str) -> Field:
    """A column of type text, as utility statements return them."""
    return Field(name, known.TEXT.oid, known.TEXT.length)


def fields_of(bound: BoundStatement) -> tuple[Field, ...] | None:
    """The result columns of a query, with the table column that each one simply shows, if it does."""
    if not bound.has_rows:
        return None
    fields = []
    for column in bound.query.columns:
        table_oid, number = _origin(bound.query, column.id)
        sql_type = column.type if column.type.oid < FIRST_USER_OID else domains.base_type(column.type.oid)
        fields.append(Field(column.name, sql_type.oid, sql_type.length, sql_type.modifier, table_oid, number))
    return tuple(fields)


def _origin(relation: Rel, column: int) -> tuple[int, int]:
    """(table oid, column number) behind an output column; zeros for anything computed."""
    for _ in range(MAX_ORIGIN_DEPTH):
        if isinstance(relation, Scan):
            for output, number in zip(relation.columns, relation.numbers, strict=True):
                if output.id == column:
                    return (relation.table.oid, number) if number > 0 else (0, 0)
            return 0, 0
        if isinstance(relation, Project):
            for output, expression in zip(relation.columns, relation.expressions, strict=True):
                if output.id == column:
                    if not isinstance(expression, ColumnRef):
                        return 0, 0
                    column = expression.id
                    break
            else:
                return 0, 0
        candidates = [
            below
            for below in (getattr(relation, name, None) for name in ("input", "left", "right"))
            if isinstance(below, Rel) and any(output.id == column for output in below.columns)
        ]
        if len(candidates) != 1:
            return 0, 0
        relation = candidates[0]
    return 0, 0


def utility_fields(utility: Utility, session: SessionBase) -> tuple[Field, ...] | None:
    """The result columns of a utility statement; None for most of them."""
    match utility:
        case ShowVariable(name="all"):
            return text_field("name"), text_field("setting"), text_field("description")
        case ShowVariable():
            return (text_field(session.settings.show(utility.name)[0].name),)
        case Explain():
            sql_type = known.JSON if utility.format == "json" else known.TEXT
            return (Field("QUERY PLAN", sql_type.oid, sql_type.length),)
        case Call():
            return call_fields(session, utility)
        case Execute():
            prepared = session.names.statements.get(utility.name)
            return None if prepared is None else prepared.fields
        case Fetch(move=False):
            return session.cursors.fields(utility.cursor)
    return None
