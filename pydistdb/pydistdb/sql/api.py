"""What the server sees of SQL: a ``Session`` per connection that prepares, binds and executes, and a ``Sink`` for output.

The session knows nothing of sockets or wire bytes.  Every method is a coroutine that usually ends without waiting
(pydistdb.tasks), so that the serving loop runs it inline.  Errors are ``DatabaseError``; the server turns them into
ErrorResponses and, in the extended protocol, skips to the next Sync.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple, Protocol

from pydistdb.sql.errors import DatabaseError


class Field(NamedTuple):
    """One column of a RowDescription."""

    name: str
    type_oid: int
    type_length: int
    modifier: int = -1
    table_oid: int = 0
    column_number: int = 0


class Sink(Protocol):
    """Where a session writes results; implemented by the wire protocol adapter, and by lists in tests."""

    def row_description(self, fields: Sequence[Field]) -> None:
        """Announce the columns (simple protocol only; in the extended one Describe asks for them)."""

    def rows(self, batch: list[tuple[Any, ...]]) -> None:
        """Send rows of runtime values, in the columns and formats announced (or bound by the portal)."""

    async def drain(self) -> None:
        """Wait while the client is slower than the rows (call after each batch)."""

    def complete(self, tag: str) -> None:
        """Send CommandComplete."""

    def suspended(self) -> None:
        """Send PortalSuspended."""

    def empty_query(self) -> None:
        """Send EmptyQueryResponse."""

    def notice(self, notice: DatabaseError, severity: str = "NOTICE") -> None:
        """Send a NoticeResponse."""

    def parameter_status(self, name: str, value: str) -> None:
        """Tell the client about a reported setting that changed."""

    async def copy_in(self, binary: bool, columns: int) -> AsyncIterator[bytes]:
        """Ask for COPY data; iterate over its chunks.  Raises QueryCanceled on CopyFail."""

    def copy_out(self, binary: bool, columns: int) -> None:
        """Announce COPY data."""

    def copy_data(self, data: bytes) -> None:
        """Send one or more whole rows of COPY data."""

    def copy_done(self) -> None:
        """End COPY data."""


class PreparedStatement(Protocol):
    """A parsed statement: its parameters' type oids and, if it returns rows, their fields (else None)."""

    parameter_oids: tuple[int, ...]
    fields: tuple[Field, ...] | None


class Portal(Protocol):
    """A bound statement, ready to run or partly run."""

    fields: tuple[Field, ...] | None
    result_formats: tuple[int, ...]
    """0 text or 1 binary, one per field."""


class Session(Protocol):
    """One client's conversation with the database."""

    transaction_status: bytes
    """b"I" idle, b"T" in a transaction block, b"E" in a failed one."""

    async def simple_query(self, text: str, sink: Sink) -> None:
        """Run a string of statements as the simple protocol does: one implicit transaction unless it says otherwise."""

    async def prepare(self, name: str, text: str, parameter_oids: Sequence[int]) -> PreparedStatement:
        """Parse (extended protocol); the unnamed statement is "" and may be replaced."""

    def statement(self, name: str) -> PreparedStatement:
        """Find a prepared statement; raises InvalidStatementName."""

    async def bind(
        self,
        portal: str,
        statement: str,
        parameters: Sequence[bytes | None],
        parameter_formats: Sequence[int],
        result_formats: Sequence[int],
    ) -> Portal:
        """Bind parameter bytes to a statement."""

    def portal(self, name: str) -> Portal:
        """Find a portal; raises InvalidCursorName."""

    async def execute(self, portal: str, most_rows: int, sink: Sink) -> None:
        """Run a portal until it has sent ``most_rows`` rows (0: all), with CommandComplete or PortalSuspended."""

    def close_statement(self, name: str) -> None:
        """Forget a statement; no error if there is none."""

    def close_portal(self, name: str) -> None:
        """Forget a portal; no error if there is none."""

    async def sync(self) -> None:
        """End the implicit transaction of an extended-protocol batch (commit, or roll back after an error)."""

    async def failed(self, error: DatabaseError) -> None:
        """Note that a message failed: the open transaction block becomes a failed one."""

    def cancel(self) -> None:
        """Interrupt the statement that is running (57014)."""

    async def close(self) -> None:
        """Roll back and release everything."""
