"""One connection to the server under test, by the simple query protocol and with a deadline for every statement.

psycopg's own layer would prepare, convert and wait without end; its ``pq`` layer sends the file's SQL unchanged, hands out
the server's text, and lets this module wait: a statement that exceeds its time is cancelled, and the connection is given up
if that does not help either, so that no server can hang the runner.
"""

from __future__ import annotations

import select
import threading
import time
from dataclasses import dataclass
from typing import Protocol

from psycopg import pq
from psycopg.conninfo import make_conninfo

from pydistdb_sqllogictest.compare import Result

CANCEL_TIMEOUT_SECONDS = 5.0
CONNECT_TIMEOUT_SECONDS = 20
# What the files take for granted.
_SETTINGS = (
    "SET TimeZone = 'UTC'; SET DateStyle = 'ISO, MDY'; SET IntervalStyle = 'postgres'; SET bytea_output = 'hex';"
    " SET extra_float_digits = 1; SET client_min_messages = 'warning'"
)


@dataclass(frozen=True, slots=True)
class ServerError:
    """The server refused a statement."""

    sqlstate: str
    message: str

    def __str__(self) -> str:
        return f"{self.sqlstate} {self.message}"


class ConnectionLost(Exception):
    """The server closed the connection, or did not answer in time."""


class Session(Protocol):
    """What the runner needs of a connection."""

    def execute(self, sql: str) -> Result | ServerError:
        """Run SQL; the result of its last statement, or its error.  Raises ConnectionLost."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class PostgresSession:
    """A Session over libpq."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        conninfo = make_conninfo(url, connect_timeout=CONNECT_TIMEOUT_SECONDS, client_encoding="UTF8")
        self._connection = pq.PGconn.connect(conninfo.encode())
        if self._connection.status != pq.ConnStatus.OK:
            raise ConnectionLost(self._connection.get_error_message().strip())
        if isinstance(found := self.execute(_SETTINGS), ServerError):
            raise ConnectionLost(f"the session's settings were refused: {found}")

    def execute(self, sql: str) -> Result | ServerError:
        connection = self._connection
        try:
            connection.send_query(sql.encode())
        except Exception as error:  # psycopg's OperationalError: the connection is gone
            raise ConnectionLost(str(error).strip()) from error
        found: Result | ServerError = Result([], [], [], 0)
        deadline = time.monotonic() + self._timeout_seconds
        late = False
        while True:
            if not self._wait(deadline):
                if late:
                    raise ConnectionLost(f"no answer within {self._timeout_seconds:g} s, nor to its cancellation")
                late = True
                self._cancel()
                deadline = time.monotonic() + CANCEL_TIMEOUT_SECONDS
                continue
            answer = connection.get_result()
            if answer is None:
                break
            if answer.status in (pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_BOTH):
                connection.put_copy_end(b"the runner has no rows to copy")
            elif answer.status == pq.ExecStatus.COPY_OUT:
                connection.get_copy_data(0)
            found = _outcome(answer)
        if connection.status != pq.ConnStatus.OK:
            raise ConnectionLost(str(found) if isinstance(found, ServerError) else "the server closed the connection")
        return ServerError("57014", f"no answer within {self._timeout_seconds:g} s") if late else found

    def _cancel(self) -> None:
        """Ask the server to cancel, over a connection of its own; in a thread, for a server that hangs leaves it waiting."""
        threading.Thread(target=self._connection.get_cancel().cancel, daemon=True).start()

    def _wait(self, deadline: float) -> bool:
        """Read until a result is complete; False when the deadline passes first."""
        connection = self._connection
        while connection.is_busy():
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([connection.socket], [], [], left)[0]:
                return False
            connection.consume_input()
        return True

    def close(self) -> None:
        self._connection.finish()


def _outcome(answer: pq.abc.PGresult) -> Result | ServerError:
    if answer.status in (pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.BAD_RESPONSE):
        sqlstate = answer.error_field(pq.DiagnosticField.SQLSTATE)
        message = answer.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or answer.error_message
        return ServerError((sqlstate or b"").decode(), message.decode(errors="replace"))
    columns = range(answer.nfields)
    rows = [
        [None if (value := answer.get_value(row, column)) is None else value.decode() for column in columns]
        for row in range(answer.ntuples)
    ]
    count = answer.command_tuples
    names = [(answer.fname(column) or b"").decode() for column in columns]
    return Result(rows, [answer.ftype(column) for column in columns], names, len(rows) if count is None else count)
