"""One client's connection: bytes from its socket to the session's methods, and the answers back.

Theory of operation
-------------------
``_on_events`` reads, and ``_process`` answers one message after the other until the buffer is empty or a statement
has to wait.  Statements are coroutines stepped inline (pydistdb.tasks): most end within the call.  One that waits
*parks* the connection: ``_task`` is set, further messages stay in the buffer, and reading goes on only up to a bound,
to notice that the client hung up (which cancels the statement) and to feed a COPY.  When the task ends, ``_process``
goes on where it was.

The hot path has no coroutine at all: Bind, Describe, Execute and Sync of a statement whose plan is cached and whose
answer is at hand are one call of ``_bind`` (libpq sends them in one piece, whose tail is recognised as a constant).

Timers exist only while they can matter: statement_timeout is armed when a statement parks, the idle timeouts when the
connection has nothing to do.
"""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from pydistdb.sql.api import Portal, Session
from pydistdb.sql.errors import (
    AdminShutdown,
    DatabaseError,
    FeatureNotSupported,
    InFailedTransaction,
    InternalError,
    QueryCanceled,
)
from pydistdb.tasks import Completion, Task, Timer

from pydistdb_server.clients import ClientRegistry
from pydistdb_server.loop import HANGUP, PEER_CLOSED, READABLE, WRITABLE, ServingLoop
from pydistdb_server.pgwire import ServerStep, State, WireProtocol, encode
from pydistdb_server.pgwire import messages as m
from pydistdb_server.pgwire.protocol import DESCRIBE_EXECUTE_SYNC, EXECUTE_SYNC, SYNC
from pydistdb_server.rows import row_encoder
from pydistdb_server.sink import ClientSink

READ_BYTES = 256 << 10
MESSAGES_PER_TURN = 64
"""Pipelined messages answered before other connections have their turn."""
MAX_READ_AHEAD_BYTES = 1 << 20
"""What is read ahead while a statement runs; then the client's socket fills up and it waits."""

log = logging.getLogger("pydistdb.server")


class ClientConnection:
    """A connected client, from its first byte to its last."""

    def __init__(self, loop: ServingLoop, sock: socket.socket, registry: ClientRegistry, peer: str) -> None:
        self.loop = loop
        self.peer = peer
        self.wire = WireProtocol()
        self.sink = ClientSink(self.wire, self._send, self._watch_writable)
        self.session: Session | None = None
        self.process_id = 0
        self.secret_key = 0
        self.user = ""
        self.database = ""
        self._socket = sock
        self._descriptor = sock.fileno()
        self._registry = registry
        self._task: Task[None] | None = None
        self._events = READABLE | PEER_CLOSED
        self._closed = False
        self._queued = False
        self._close_when_sent = False
        self._statement_timer: Timer | None = None
        self._idle_timer: Timer | None = None
        self._handlers: dict[type, Callable[[Any], None]] = {
            m.Query: self._query,
            m.Parse: self._parse,
            m.Bind: self._bind,
            m.Describe: self._describe,
            m.Execute: self._execute,
            m.Close: self._close_object,
            m.Flush: lambda _: self.sink.flush(),
            m.Sync: self._sync,
            m.Terminate: lambda _: self.close(),
            m.FunctionCall: self._function_call,
            m.SslRequest: self._refuse_encryption,
            m.GssRequest: self._refuse_encryption,
            m.CancelRequest: self._cancel_request,
            m.Startup: self._startup,
        }
        self.sink.copy_input.on_consumed = self._resume_reading
        self._idle_timer = loop.call_at(loop.now_ns() + registry.startup_timeout_ns, self._startup_expired)
        loop.register(self._descriptor, self._on_events, self._events)

    # ------------------------------------------------------------------------------------------ socket

    def _on_events(self, events: int) -> None:
        if events & WRITABLE:
            self.sink.writable()
            if self._close_when_sent and not self.sink.unsent_bytes:
                self.close()
        if self._closed:
            return
        if events & (READABLE | HANGUP | PEER_CLOSED):
            self._read()

    def _read(self) -> None:
        try:
            data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self._disconnected()
            return
        if not data:
            self._disconnected()
            return
        self.wire.receive(data)
        if self._task is None:
            if not self._queued:
                self._process()
            return
        copy_input = self.sink.copy_input
        if copy_input.waiting is not None:
            copy_input.arrived()
        elif self.wire.buffered_bytes > MAX_READ_AHEAD_BYTES:
            self._watch(self._events & ~READABLE)

    def _send(self, data: bytes | memoryview) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self.loop.call_soon(self._disconnected)
            return len(data)

    def _watch_writable(self, wanted: bool) -> None:
        self._watch(self._events | WRITABLE if wanted else self._events & ~WRITABLE)

    def _resume_reading(self) -> None:
        if not self._events & READABLE:
            self._watch(self._events | READABLE)

    def _watch(self, events: int) -> None:
        if events != self._events and not self._closed:
            self._events = events
            self.loop.modify(self._descriptor, events)

    def _disconnected(self) -> None:
        """The client is gone: what runs for it is cancelled."""
        self.close(QueryCanceled("canceling statement due to lost connection"))

    def close(self, reason: DatabaseError | None = None) -> None:
        """Drop the connection; a statement that runs is cancelled, then the session is closed."""
        if self._closed:
            return
        self._closed = True
        self._stop_timers()
        self.sink.close()
        self.loop.unregister(self._descriptor)
        self._socket.close()
        self._registry.remove(self)
        session = self.session
        if session is None:
            return
        if self._task is not None:
            self.interrupt(reason or QueryCanceled("canceling statement due to user request"))
            self._task.completion.on_done(lambda _: self._close_session(session))
        else:
            self._close_session(session)

    def _close_session(self, session: Session) -> None:
        self.loop.spawn(self._logged(session.close()), "close session")

    async def _logged(self, coroutine: Coroutine[Any, None, None]) -> None:
        try:
            await coroutine
        except Exception:
            log.exception("closing a session failed")

    def terminate(self, error: DatabaseError) -> None:
        """Tell the client a fatal error and hang up."""
        if self._closed:
            return
        error.severity = "FATAL"
        self.sink.write(encode.error_response(error))
        self.wire.server(ServerStep.FATAL)
        self.sink.flush()
        if self.sink.unsent_bytes and self._task is None:
            self._close_when_sent = True  # give a slow client the chance to read why
            self._watch(WRITABLE)
            self._arm_idle(5_000, lambda: self.close())
        else:
            self.close(error)

    # ------------------------------------------------------------------------------------------ messages

    def _process(self) -> None:
        """Answer messages until there is none, a statement waits, or others must have their turn."""
        self._queued = False
        next_message = self.wire.next_message
        handlers = self._handlers
        turns = MESSAGES_PER_TURN
        while self._task is None and not self._closed:
            if turns == 0:
                self._queued = True
                self.loop.call_soon(self._process)
                break
            turns -= 1
            try:
                message = next_message()
                if message is None:
                    break
                handler = handlers.get(type(message))
                if handler is not None:  # else it is left over from a failed copy
                    handler(message)
            except Exception as error:  # a bug of ours must not take the node down either
                self._protocol_error(internal_error(error))
        if self._closed:
            return
        self.sink.flush()
        if self._task is not None:
            self._arm_statement_timeout()
            return
        if not self._events & READABLE:
            self._resume_reading()
        session = self.session
        if session is not None and (session.idle_in_transaction_timeout_ms or session.idle_session_timeout_ms):
            self._arm_idle_timeout(session)

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
        self.sink.write(encode.READY[session.transaction_status])
        self.wire.server(ServerStep.READY)

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

    def _task_done(self, completion: Completion[None]) -> None:
        self._task = None
        if self._statement_timer is not None:
            self._statement_timer.cancel()
            self._statement_timer = None
        if self._closed:
            return
        error = completion.error()
        if error is not None:
            self._protocol_error(internal_error(error))
        self._process()

    # ------------------------------------------------------------------------------------------ startup

    def _refuse_encryption(self, _: m.SslRequest | m.GssRequest) -> None:
        self.sink.write(encode.SSL_REFUSED)

    def _cancel_request(self, message: m.CancelRequest) -> None:
        self._registry.cancel(message.process_id, message.secret_key)
        self.close()

    def _startup(self, message: m.Startup) -> None:
        self._start(self._open_session(message))

    async def _open_session(self, message: m.Startup) -> None:
        if message.minor > 0 or message.unknown_options:
            self.sink.write(encode.negotiate_protocol_version(m.PROTOCOL_3_0, message.unknown_options))
        user = message.parameters.get("user", "")
        if not user:
            raise DatabaseError.of("28000", "no PostgreSQL user name specified in startup packet")
        self.user = user
        self.database = message.parameters.get("database") or user
        self._registry.admit(self)
        session = await self._registry.open_session(self, message.parameters)
        if self._closed:
            await session.close()
            return
        self.session = session
        self.sink.context = session.context
        write = self.sink.write
        write(encode.AUTHENTICATION_OK)
        for name, value in session.reported_settings():
            write(encode.parameter_status(name, value))
        write(encode.backend_key_data(self.process_id, self.secret_key))
        self._stop_timers()
        self._ready()

    def _startup_expired(self) -> None:
        self.terminate(DatabaseError.of("57014", "canceling authentication due to timeout"))

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
                write(self._portal_description(session, portal))
            answered = session.try_execute("", 0, self._for_portal(portal), True)
        except Exception as error:
            self._start(self._run_failed_batch(session, error))
            return
        if answered and session.try_sync():
            write(encode.READY[session.transaction_status])
            wire.state = State.READY
        elif answered:
            wire.state = State.SYNCING
            self._start(self._run_sync(session))
        else:
            self._start(self._run_execute_and_sync(session, portal))

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
        if not self._closed:
            self.wire.state = State.SYNCING
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

    # ------------------------------------------------------------------------------------------ interruptions

    def interrupt(self, error: DatabaseError) -> bool:
        """Cancel the running statement with ``error``; False if none runs."""
        session, task = self.session, self._task
        if session is None or task is None:
            return False
        if session.cancel(error):
            task.cancel(error)
        return True

    def _arm_statement_timeout(self) -> None:
        session = self.session
        if session is None or not session.statement_timeout_ms or self._statement_timer is not None:
            return
        deadline_ns = self.loop.now_ns() + session.statement_timeout_ms * 1_000_000

        def expire() -> None:
            self._statement_timer = None
            self.interrupt(QueryCanceled("canceling statement due to statement timeout"))

        self._statement_timer = self.loop.call_at(deadline_ns, expire)

    def _arm_idle_timeout(self, session: Session) -> None:
        if session.transaction_status == b"I":
            self._arm_idle(
                session.idle_session_timeout_ms,
                lambda: self.terminate(DatabaseError.of("57P05", "terminating connection due to idle-session timeout")),
            )
        else:
            self._arm_idle(
                session.idle_in_transaction_timeout_ms,
                lambda: self.terminate(
                    DatabaseError.of("25P03", "terminating connection due to idle-in-transaction timeout")
                ),
            )

    def _arm_idle(self, duration_ms: int, action: Callable[[], None]) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        if not duration_ms:
            return

        def expire() -> None:
            if self._task is None and not self._closed:
                action()

        self._idle_timer = self.loop.call_at(self.loop.now_ns() + duration_ms * 1_000_000, expire)

    def _stop_timers(self) -> None:
        for timer in (self._idle_timer, self._statement_timer):
            if timer is not None:
                timer.cancel()
        self._idle_timer = self._statement_timer = None

    @property
    def is_busy(self) -> bool:
        """A statement runs, or a transaction is open."""
        session = self.session
        return self._task is not None or (session is not None and session.transaction_status != b"I")

    def shut_down(self) -> None:
        """The node stops: an idle client is told at once, a busy one has its statement cancelled."""
        self.terminate(AdminShutdown("terminating connection due to administrator command"))


def _refuse_if_failed(session: Session) -> None:
    if session.transaction_status == b"E":
        raise InFailedTransaction("current transaction is aborted, commands ignored until end of transaction block")


async def _wait(hold: Completion[None]) -> None:
    await hold


def internal_error(error: BaseException) -> DatabaseError:
    """XX000 for what should not happen, with its traceback in the log."""
    if isinstance(error, DatabaseError):
        return error
    log.error("internal error", exc_info=(type(error), error, error.__traceback__))
    print(f"internal error: {type(error).__name__}: {error}", file=sys.stderr)
    return InternalError(f"internal error: {type(error).__name__}: {error}")
