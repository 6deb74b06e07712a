"""A session on an in-memory database, driven without a server: what a client would see, as text.

``SqlClient.execute(text)`` runs a string as the simple protocol does and gives the lines a client would print.  It steps the
session's coroutines itself, so it can also show what a statement waits for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from pydistdb.sql.api import Field
from pydistdb.sql.catalog.store import CatalogStore
from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.session.environment import Environment
from pydistdb.sql.session.session import ClientSession
from pydistdb.sql.types import registry
from pydistdb.tasks import SimulatedScheduler

from tests.support.memory_database import MemoryDatabase


class Lines:
    """A Sink that keeps everything as text."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.fields: Sequence[Field] = ()
        self.context: Any = None
        self.copy_chunks: list[bytes] = []
        self.show_headings = False

    def row_description(self, fields: Sequence[Field], binary: bool = False) -> None:
        self.fields = fields
        if binary:
            self.lines.append("(binary)")
        if self.show_headings:
            self.lines.append("|".join(field.name for field in fields))

    def rows(self, batch: list[tuple[Any, ...]]) -> None:
        for row in batch:
            self.lines.append("|".join(map(self._text, row, [field.type_oid for field in self.fields])))

    def _text(self, value: Any, oid: int) -> str:
        return "NULL" if value is None else registry.io(oid).format(value, self.context)

    async def drain(self) -> None:
        return None

    def complete(self, tag: str) -> None:
        self.lines.append(tag)

    def suspended(self) -> None:
        self.lines.append("(suspended)")

    def empty_query(self) -> None:
        self.lines.append("(empty)")

    def notice(self, notice: DatabaseError, severity: str = "NOTICE") -> None:
        self.lines.append(f"{severity}: {notice.message} ({notice.sqlstate})")

    def parameter_status(self, name: str, value: str) -> None:
        self.lines.append(f"{name} = {value}")

    async def copy_in(self, binary: bool, columns: int) -> AsyncIterator[bytes]:
        self.lines.append(f"(copy in, {columns} columns)")
        return self._chunks()

    async def _chunks(self) -> AsyncIterator[bytes]:
        for chunk in self.copy_chunks:
            yield chunk

    def copy_out(self, binary: bool, columns: int) -> None:
        self.lines.append(f"(copy out, {columns} columns)")

    def copy_data(self, data: bytes) -> None:
        self.lines.append(
            "> " + (data.decode().rstrip("\n") if data.isascii() and data.endswith(b"\n") else data.hex())
        )

    def copy_done(self) -> None:
        self.lines.append("(copy done)")


def error_text(error: DatabaseError) -> str:
    """An error as psql would print it, on one line."""
    parts = [f"{error.severity}: {error.sqlstate}: {error.message}"]
    for label, value in (("DETAIL", error.detail), ("HINT", error.hint), ("CONTEXT", error.where)):
        if value:
            parts.append(f"{label}: {value}")
    if error.position is not None:
        parts.append(f"at {error.position}")
    return "; ".join(parts)


class SqlServer:
    """The shared half: a database, its catalog, a scheduler under a virtual clock."""

    def __init__(self, must_wait: bool = False, catalog: CatalogStore | None = None) -> None:
        """``catalog``: one that is started already, of a node that others stand beside (tests/sql/catalog_nodes.py)."""
        if catalog is None:
            catalog = CatalogStore(MemoryDatabase(must_wait=must_wait), SimulatedScheduler())
            catalog.scheduler.run(catalog.start(renew=False))
        self.catalog = catalog
        self.scheduler = catalog.scheduler
        self.database = catalog.database
        self.environment = Environment(self.database, self.scheduler, self.catalog)
        self._next_process_id = 1

    def connect(self, user: str = "postgres", database: str = "postgres", **startup: str) -> SqlClient:
        self._next_process_id += 1
        return SqlClient(self, user, database, startup, self._next_process_id)


class SqlClient:
    """One session."""

    def __init__(self, server: SqlServer, user: str, database: str, startup: dict[str, str], process_id: int) -> None:
        self.server = server
        self.sink = Lines()
        self.session = ClientSession(
            server.environment,
            user,
            database,
            startup,
            process_id,
            self.sink.parameter_status,
            notice=self.sink.notice,
        )
        self.sink.context = self.session.context

    def execute(self, text: str, copy: Sequence[bytes] = ()) -> list[str]:
        """Run a string of statements; the lines that came back, errors included."""
        sink = self.sink
        sink.lines = []
        sink.copy_chunks = list(copy)
        session = self.session
        try:
            if not session.try_simple_query(text, sink):
                self.server.scheduler.run(session.simple_query(text, sink))
        except DatabaseError as error:
            sink.lines.append(error_text(error))
            self.server.scheduler.run(session.failed(error))
        for notification in session.take_notifications():
            sink.lines.append(f"({notification.channel}: {notification.payload!r} from {notification.process_id})")
        return sink.lines

    def rows(self, text: str) -> list[str]:
        """The rows of a query that must succeed."""
        lines = self.execute(text)
        assert lines and lines[-1].startswith("SELECT"), lines
        return lines[:-1]
