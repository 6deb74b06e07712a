"""A client's statements: each protocol message to the session's method, its outcome to the sink.

The hot path has no coroutine at all: Bind, Describe, Execute and Sync of a statement whose plan is cached and whose
answer is at hand are one call of ``_bind`` (libpq sends them in one piece, whose tail is recognised as a constant).  The
next time that connection runs that statement, ``_try_known`` answers without taking the messages apart.
"""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Coroutine
from typing import Any, NamedTuple

from pydistdb.sql.api import Portal, PreparedStatement, Session
from pydistdb.sql.errors import DatabaseError, FeatureNotSupported, InFailedTransaction, InternalError
from pydistdb.tasks import Completion, Task

from pydistdb_server.client_socket import ClientSocket
from pydistdb_server.loop import ServingLoop
from pydistdb_server.pgwire import ServerStep, State, encode
from pydistdb_server.pgwire import messages as m
from pydistdb_server.pgwire.protocol import DESCRIBE_EXECUTE_SYNC, EXECUTE_SYNC, SYNC, plain_bind
from pydistdb_server.rows import RowEncoder, row_encoder
from pydistdb_server.sink import ClientSink

NOTIFICATION_RETRY_NS = 50_000_000
"""How often a client that does not take its output is looked at again."""

MAX_KNOWN_STATEMENTS = 1_000

log = logging.getLogger("pydistdb.server")


class _Known(NamedTuple):
    """A statement that this connection has run as libpq does, with everything in text format."""

    statement: PreparedStatement
    head: bytes
    """BindComplete and the description of its columns."""
    encoder: RowEncoder | None


class ClientStatements(ClientSocket):
    """The middle of a ClientConnection."""

    def __init__(self, loop: ServingLoop, sock: socket.socket) -> None:
        super().__init__(loop, sock)
        self.session: Session | None = None
        self._has_notifications = False
        self._known: dict[bytes, _Known] = {}
        self._must_wait = False
        """What has just arrived was tried already, and its answer is not at hand."""
        self._task: Task[None] | None = None

    def terminate(self, error: DatabaseError) -> None:
        """Tell the client a fatal error and hang up."""
        raise NotImplementedError

    def _task_done(self, completion: Completion[None]) -> None:
        """The statement that the connection was parked for has ended."""
        raise NotImplementedError

    def _protocol_error(self, error: DatabaseError) -> None:
        if error.severity == "FATAL" or self.wire.state in (State.STARTUP, State.AUTHENTICATING):
            self.terminate(error)
            return
        self._report(error)
        state = self.wire.state
        if state in (State.SIMPLE, State.SYNCING):
            self._ready()

    def _report(self, error: DatabaseError) -> None:
        """Send an ErrorResponse, and let the session know."""
        self.sink.write(encode.error_response(error))
        self.wire.server(ServerStep.ERROR)
        if self.session is not None:
            self._start(self.session.failed(error))

    def _ready(self) -> None:
        session = self.session
        assert session is not None
        if self._has_notifications:
            self._write_notifications(session)
        self.sink.write(encode.READY[session.transaction_status])
        self.wire.server(ServerStep.READY)

    def _write_notifications(self, session: Session) -> None:
        if session.transaction_status != b"I":
            return
        self._has_notifications = False
        for notification in session.take_notifications():
            self.sink.write(encode.notification_response(*notification))

    def _notified(self) -> None:
        """Something has arrived for the client: it goes out at once if it is idle, else before the next ReadyForQuery."""
        if not self._has_notifications:
            self._has_notifications = True
            self.loop.call_soon(self._send_notifications)

    def _send_notifications(self) -> None:
        session = self.session
        if self._closed or session is None or not self._has_notifications or self.sink.unsent_bytes:
            if self._has_notifications and not self._closed and session is not None:
                self.loop.call_at(self.loop.now_ns() + NOTIFICATION_RETRY_NS, self._send_notifications)
            return
        if self._task is None and self.wire.state is State.READY:
            self._write_notifications(session)
            self.sink.flush()

    def _start(self, coroutine: Coroutine[Any, None, None]) -> None:
        """Step a coroutine; park the connection if it waits."""
        task: Task[None] = Task(coroutine, self.loop, "statement")
        task.step()
        completion = task.completion
        if completion.done:
            completion.result()
            return
        self._task = task
        completion.on_done(self._task_done)

    # ------------------------------------------------------------------------------------------ simple protocol

    def _query(self, message: m.Query) -> None:
        session = self.session
        assert session is not None
        try:
            answered = session.try_simple_query(message.text, self.sink)
        except Exception as error:
            self._start(self._run_failed_query(session, error))
            return
        if answered:
            self.sink.write(encode.READY[session.transaction_status])
            self.wire.state = State.READY
        else:
            self._start(self._run_simple_query(session, message.text))

    async def _run_failed_query(self, session: Session, error: Exception) -> None:
        await self._statement_failed(session, error)
        if not self._closed:
            self._ready()

    async def _run_simple_query(self, session: Session, text: str) -> None:
        try:
            await session.simple_query(text, self.sink)
        except Exception as error:
            await self._statement_failed(session, error)
        if not self._closed:
            self._ready()

    def _function_call(self, _: m.FunctionCall) -> None:
        self._protocol_error(FeatureNotSupported("the function call protocol is not supported"))

    async def _statement_failed(self, session: Session, error: Exception) -> None:
        if self._closed:
            await session.failed(internal_error(error))
            return
        known = internal_error(error)
        if known.severity == "FATAL":
            self.terminate(known)
            return
        self.sink.write(encode.error_response(known))
        self.wire.server(ServerStep.ERROR)
        await session.failed(known)

    # ------------------------------------------------------------------------------------------ extended protocol

    def _parse(self, message: m.Parse) -> None:
        self._start(self._run_parse(message))

    async def _run_parse(self, message: m.Parse) -> None:
        session = self.session
        assert session is not None
        try:
            await session.prepare(message.name, message.text, message.parameter_oids)
        except Exception as error:
            await self._statement_failed(session, error)
        else:
            self.sink.write(encode.PARSE_COMPLETE)

    def _bind(self, message: m.Bind) -> None:
        session = self.session
        assert session is not None
        tried, self._must_wait = self._must_wait, False
        portal_name, statement, parameter_formats, parameters, result_formats = message
        portal = session.try_bind(portal_name, statement, parameters, parameter_formats, result_formats)
        if portal is None:
            self._start(self._run_bind(session, message))
            return
        write = self.sink.write
        write(encode.BIND_COMPLETE)
        if portal_name or portal.takes_copy_data:
            return
        wire = self.wire
        described = wire.take(DESCRIBE_EXECUTE_SYNC)
        if not described and not wire.take(EXECUTE_SYNC):
            return
        try:  # from here on Execute and Sync are accounted for
            if described:
                description = self._portal_description(session, portal)
                write(description)
            sink = self._for_portal(portal)
            answered = not tried and session.try_execute("", 0, sink, True)
        except Exception as error:
            self._start(self._run_failed_batch(session, error))
            return
        if answered and described and not any(portal.result_formats):
            if len(self._known) >= MAX_KNOWN_STATEMENTS:
                self._known.clear()
            encoder = None if portal.fields is None else self.sink.encoder
            self._known[statement.encode()] = _Known(
                session.statement(statement), encode.BIND_COMPLETE + description, encoder
            )
        if answered and session.try_sync():
            write(encode.READY[session.transaction_status])
            wire.state = State.READY
        elif answered:
            wire.state = State.SYNCING
            self._start(self._run_sync(session))
        else:
            self._start(self._run_execute_and_sync(session, portal))

    def _try_known(self, data: bytes) -> bool:
        """Answer ``data`` if it runs a known statement whose answer is at hand; False, and nothing has happened, if not."""
        bound = plain_bind(data)
        known = None if bound is None else self._known.get(bound[0])
        session = self.session
        if bound is None or known is None or session is None:
            return False
        sink = self.sink
        sink.encoder = known.encoder
        sink.write(known.head)
        try:
            answered = session.try_run_prepared(known.statement, bound[1], sink)
        except Exception as error:
            self._start(self._run_failed_batch(session, error))
            return True
        if not answered:
            sink.take_back()
            self._must_wait = True
            return False
        sink.write(encode.READY[session.transaction_status])
        return True

    async def _run_failed_batch(self, session: Session, error: Exception) -> None:
        await self._statement_failed(session, error)
        if not self._closed:
            self.wire.state = State.SYNCING
            await self._run_sync(session)

    async def _run_bind(self, session: Session, message: m.Bind) -> None:
        try:
            await session.bind(
                message.portal,
                message.statement,
                message.parameters,
                message.parameter_formats,
                message.result_formats,
            )
        except Exception as error:
            await self._statement_failed(session, error)
        else:
            self.sink.write(encode.BIND_COMPLETE)

    async def _run_execute_and_sync(self, session: Session, portal: Portal) -> None:
        try:
            await session.execute("", 0, self._for_portal(portal), True)
        except Exception as error:
            await self._statement_failed(session, error)
        if self._closed:
            return
        self.wire.state = State.SYNCING
        if session.try_sync():
            self._ready()
        else:
            await self._run_sync(session)

    def _for_portal(self, portal: Portal) -> ClientSink:
        """The sink, set to encode the portal's columns."""
        fields = portal.fields
        if fields is not None:
            self.sink.encoder = row_encoder(tuple([field.type_oid for field in fields]), portal.result_formats)
        return self.sink

    def _portal_description(self, session: Session, portal: Portal) -> bytes:
        if portal.fields is None:
            return encode.NO_DATA
        _refuse_if_failed(session)
        return encode.row_description(portal.fields, portal.result_formats)

    def _describe(self, message: m.Describe) -> None:
        session = self.session
        assert session is not None
        if message.kind == b"P":
            self.sink.write(self._portal_description(session, session.portal(message.name)))
            return
        statement = session.statement(message.name)
        if statement.fields is not None:
            _refuse_if_failed(session)
        self.sink.write(encode.parameter_description(statement.parameter_oids))
        if statement.fields is None:
            self.sink.write(encode.NO_DATA)
        else:
            self.sink.write(encode.row_description(statement.fields, (0,) * len(statement.fields)))

    def _execute(self, message: m.Execute) -> None:
        session = self.session
        assert session is not None
        sink = self._for_portal(session.portal(message.portal))
        last = self.wire.is_next(SYNC)
        if not session.try_execute(message.portal, message.most_rows, sink, last):
            self._start(self._run_execute(session, message, last))

    async def _run_execute(self, session: Session, message: m.Execute, last: bool) -> None:
        try:
            await session.execute(message.portal, message.most_rows, self.sink, last)
        except Exception as error:
            await self._statement_failed(session, error)

    def _close_object(self, message: m.Close) -> None:
        session = self.session
        assert session is not None
        if message.kind == b"S":
            session.close_statement(message.name)
        else:
            session.close_portal(message.name)
        self.sink.write(encode.CLOSE_COMPLETE)

    def _sync(self, _: m.Sync) -> None:
        session = self.session
        assert session is not None
        if session.try_sync():
            self._ready()
        else:
            self._start(self._run_sync(session))

    async def _run_sync(self, session: Session) -> None:
        try:
            await session.sync()
        except Exception as error:
            await self._statement_failed(session, error)
        if not self._closed:
            self._ready()


def _refuse_if_failed(session: Session) -> None:
    if session.transaction_status == b"E":
        raise InFailedTransaction("current transaction is aborted, commands ignored until end of transaction block")


def internal_error(error: BaseException) -> DatabaseError:
    """XX000 for what should not happen, with its traceback in the log."""
    if isinstance(error, DatabaseError):
        return error
    if isinstance(error, MemoryError):
        return DatabaseError.of(
            "53200", "out of memory", detail="A single value or array is too large for this machine."
        )
    log.error("internal error", exc_info=(type(error), error, error.__traceback__))
    print(f"internal error: {type(error).__name__}: {error}", file=sys.stderr)
    return InternalError(f"internal error: {type(error).__name__}: {error}")
