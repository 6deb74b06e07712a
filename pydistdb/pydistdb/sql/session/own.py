"""What a session tells of itself: pg_prepared_statements and pg_cursors.

``register`` hands it to pydistdb.sql.pg_catalog.providers, which the system views ask with the session at hand.
"""

from __future__ import annotations

from collections.abc import Iterable

from pydistdb.sql.pg_catalog import providers
from pydistdb.sql.pg_catalog.providers import CursorInfo, PreparedInfo
from pydistdb.sql.session.base import SessionBase


def prepared_statements(session: object) -> Iterable[PreparedInfo]:
    if not isinstance(session, SessionBase):
        return
    for statement in session.names.statements.values():
        if statement.name:
            yield PreparedInfo(
                statement.name,
                statement.shown_text,
                statement.prepared_us,
                statement.parameter_oids,
                statement.from_sql,
            )


def cursors(session: object) -> Iterable[CursorInfo]:
    """DECLAREd cursors, and the named portals of the extended protocol, which FETCH can use as well."""
    if not isinstance(session, SessionBase):
        return
    for cursor in session.cursors:
        yield CursorInfo(
            cursor.name, cursor.text, cursor.is_holdable, cursor.is_binary, cursor.scrolls, cursor.created_us
        )
    for portal in session.names.portals.values():
        if portal.name:
            yield CursorInfo(portal.name, portal.statement.text, False, False, False, portal.created_us)


def register() -> None:
    providers.prepared_statements = prepared_statements
    providers.cursors = cursors
