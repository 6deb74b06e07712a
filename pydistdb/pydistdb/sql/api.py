"""What the server sees of SQL: a ``Session`` per connection that prepares, binds and executes, and a ``Sink`` for output.

The session knows nothing of sockets or wire bytes.  Every method is a coroutine that usually ends without waiting
(pydistdb.tasks), so that the serving loop runs it inline.  For what can be answered at once there are ``try_`` forms,
plain calls without a coroutine: they answer False (or None) where the awaitable form must be used, and then nothing
has happened.  Errors are ``DatabaseError``; the server turns them into ErrorResponses and, in the extended protocol,
skips to the next Sync.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.types.base import EvalContext


class Field(NamedTuple):
    """One column of a RowDescription."""

    name: str
    type_oid: int
    type_length: int
    modifier: int = -1
    table_oid: int = 0
    column_number: int = 0


class Notification(NamedTuple):
    """What NOTIFY sent."""

    process_id: int
    channel: str
    payload: str


class Sink(Protocol):
    """Where a session writes results; implemented by the wire protocol adapter, and by lists in tests."""

    def row_description(self, fields: Sequence[Field], binary: bool = False) -> None:
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

    name: str
    parameter_oids: tuple[int, ...]
    fields: tuple[Field, ...] | None


class Portal(Protocol):
    """A bound statement, ready to run or partly run."""

    fields: tuple[Field, ...] | None
    result_formats: tuple[int, ...]
    """0 text or 1 binary, one per field."""

    takes_copy_data: bool
    """COPY FROM STDIN: a Sync sent right behind Execute comes before the data, and counts for nothing."""


class Session(Protocol):
    """One client's conversation with the database."""

    transaction_status: bytes
    """b"I" idle, b"T" in a transaction block, b"E" in a failed one."""

    context: EvalContext
    """Formats of output (DateStyle, TimeZone, …)."""

    statement_timeout_ms: int
    """0: none.  The server, which knows when a statement began to wait, cancels it."""

    idle_in_transaction_timeout_ms: int
    idle_session_timeout_ms: int

    def reported_settings(self) -> Iterable[tuple[str, str]]:
        """List the settings that a client is told at the start and at every change (ParameterStatus)."""

    def try_simple_query(self, text: str, sink: Sink) -> bool:
        """Run a simple query if its answer is at hand."""

    async def simple_query(self, text: str, sink: Sink) -> None:
        """Run a string of statements as the simple protocol does: one implicit transaction unless it says otherwise."""

    async def prepare(self, name: str, text: str, parameter_oids: Sequence[int]) -> PreparedStatement:
        """Parse (extended protocol); the unnamed statement is "" and may be replaced."""

    def statement(self, name: str) -> PreparedStatement:
        """Find a prepared statement; raises InvalidStatementName."""

    def try_bind(
        self,
        portal: str,
        statement: str,
        parameters: Sequence[bytes | None],
        parameter_formats: Sequence[int],
        result_formats: Sequence[int],
    ) -> Portal | None:
        """Bind if the statement's plan is at hand."""

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

    def try_execute(self, portal: str, most_rows: int, sink: Sink, last: bool = False) -> bool:
        """Run a portal if its answer is at hand."""

    async def execute(self, portal: str, most_rows: int, sink: Sink, last: bool = False) -> None:
        """Run a portal until it has sent ``most_rows`` rows (0: all), with CommandComplete or PortalSuspended.

        ``last``: a Sync is known to follow, so a statement of its own may commit before it is called complete (and may
        be retried until then)."""

    def try_run_prepared(self, statement: PreparedStatement, parameters: Sequence[bytes | None], sink: Sink) -> bool:
        """Bind, Execute and Sync of the unnamed portal in one call, for parameters and results in text format."""

    def close_statement(self, name: str) -> None:
        """Forget a statement; no error if there is none."""

    def close_portal(self, name: str) -> None:
        """Forget a portal; no error if there is none."""

    def try_sync(self) -> bool:
        """End the implicit transaction if there is nothing to wait for."""

    async def sync(self) -> None:
        """End the implicit transaction of an extended-protocol batch (commit, or roll back after an error)."""

    def on_notification(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called when a notification arrives."""

    def take_notifications(self) -> Sequence[Notification]:
        """Give the notifications that the client is to be sent now: none inside a transaction block."""

    async def failed(self, error: DatabaseError) -> None:
        """Note that a message failed: the open transaction block becomes a failed one."""

    def cancel(self, error: DatabaseError) -> bool:
        """Interrupt the statement that is running with ``error`` (57014).

        True: the caller, who drives it, may raise the error at the point where it waits.  False: it must not be
        disturbed there (a commit is under way, or nothing runs)."""

    async def close(self) -> None:
        """Roll back and release everything."""
