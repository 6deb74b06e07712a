"""One client's connection: bytes from its socket to the session's methods, and the answers back.

Theory of operation
-------------------
``_process`` answers one message after the other until the buffer is empty or a statement has to wait.  Statements are
coroutines stepped inline (pydistdb.tasks): most end within the call.  One that waits *parks* the connection: ``_task``
is set, and further messages stay in the buffer (client_socket.py).  When the task ends, ``_process`` goes on where it
was.  What each message does is in client_statements.py; here are the connection's beginning, its end and what interrupts it.

Timers exist only while they can matter: statement_timeout is armed when a statement parks, the idle timeouts when the
connection has nothing to do.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from pydistdb.sql.api import Session
from pydistdb.sql.errors import (
    AdminShutdown,
    DatabaseError,
    ProtocolViolation,
    QueryCanceled,
)
from pydistdb.tasks import Completion

from pydistdb_server.authentication import Authentication
from pydistdb_server.client_statements import ClientStatements, internal_error
from pydistdb_server.clients import ClientRegistry
from pydistdb_server.deadline import Deadline
from pydistdb_server.loop import READABLE, WRITABLE, ServingLoop
from pydistdb_server.pgwire import ServerStep, encode
from pydistdb_server.pgwire import messages as m

MESSAGES_PER_TURN = 64
"""Pipelined messages answered before other connections have their turn."""

LAST_WORDS_NS = 5_000_000_000
"""How long a client may take to read why it is being disconnected."""

_IDLE_IN_TRANSACTION = ("25P03", "idle-in-transaction")

log = logging.getLogger("pydistdb.server")


class ClientConnection(ClientStatements):
    """A connected client, from its first byte to its last."""

    def __init__(self, loop: ServingLoop, sock: socket.socket, registry: ClientRegistry, peer: str) -> None:
        super().__init__(loop, sock)
        self.peer = peer
        self.process_id = 0
        self.secret_key = 0
        self.user = ""
        self.database = ""
        self._registry = registry
        self._queued = False
        self._parameters: dict[str, str] = {}
        self._authentication: Authentication | None = None
        self._statement_deadline = Deadline(loop, self._statement_expired)
        self._idle_deadline = Deadline(loop, self._idle_expired)
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
            m.Password: self._password,
        }
        self._idle_deadline.arm(registry.startup_timeout_ns)

    @property
    def _is_parked(self) -> bool:
        return self._task is not None or self._queued

    # ------------------------------------------------------------------------------------------ its end

    def _disconnected(self) -> None:
        """The client is gone: what runs for it is cancelled."""
        self.close(QueryCanceled("canceling statement due to lost connection"))

    def close(self, reason: DatabaseError | None = None) -> None:
        """Drop the connection; a statement that runs is cancelled, then the session is closed."""
        if self._closed:
            return
        self._release()
        self._statement_deadline.close()
        self._idle_deadline.close()
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
            self._idle_deadline.arm(LAST_WORDS_NS)
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
        if turns == MESSAGES_PER_TURN - 1 and self._task is not None and not self._closed:
            self._arm_statement_timeout()  # of its own answer there is nothing to look at yet
        else:
            self._answered()

    def _answered(self) -> None:
        if self._closed:
            return
        self.loop.send_later(self.sink.flush)
        if self._task is not None:
            self._arm_statement_timeout()
            return
        if self._queued:
            return
        if not self._events & READABLE:
            self._resume_reading()
        session = self.session
        if session is not None and not self._close_when_sent:
            if session.idle_in_transaction_timeout_ms or session.idle_session_timeout_ms:
                self._arm_idle_timeout(session)
            else:
                self._idle_deadline.disarm()

    def _task_done(self, completion: Completion[None]) -> None:
        self._task = None
        self._statement_deadline.disarm()
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
        self._start(self._greet(message))

    async def _greet(self, message: m.Startup) -> None:
        """Take the startup packet in; the session follows at once, or when the client has proved who it is."""
        if message.minor > 0 or message.unknown_options:
            self.sink.write(encode.negotiate_protocol_version(m.PROTOCOL_3_0, message.unknown_options))
        user = message.parameters.get("user", "")
        if not user:
            raise DatabaseError.of("28000", "no PostgreSQL user name specified in startup packet")
        self.user = user
        self.database = message.parameters.get("database") or user
        self._registry.admit(self)
        self._parameters = message.parameters
        self._authentication = await self._registry.authenticate(self.user)
        if self._authentication is None:
            await self._open_session()
        else:
            self.sink.write(self._authentication.start())

    def _password(self, message: m.Password) -> None:
        authentication = self._authentication
        if authentication is None or authentication.done:
            self._protocol_error(ProtocolViolation("unexpected password response"))
            return
        try:
            self.sink.write(authentication.take(message.data))
        except DatabaseError as error:
            error.severity = "FATAL"
            self._protocol_error(error)
            return
        if authentication.done:
            self._start(self._open_session())

    async def _open_session(self) -> None:
        session = await self._registry.open_session(self, self._parameters)
        if self._closed:
            await session.close()
            return
        self.session = session
        self.sink.context = session.context
        session.on_notification(self._notified)
        write = self.sink.write
        write(encode.AUTHENTICATION_OK)
        for name, value in session.reported_settings():
            write(encode.parameter_status(name, value))
        write(encode.backend_key_data(self.process_id, self.secret_key))
        self._idle_deadline.disarm()
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
        if session is not None and session.statement_timeout_ms:
            self._statement_deadline.arm(session.statement_timeout_ms * 1_000_000)

    def _statement_expired(self) -> None:
        self.interrupt(QueryCanceled("canceling statement due to statement timeout"))

    def _arm_idle_timeout(self, session: Session) -> None:
        idle = session.transaction_status == b"I"
        duration_ms = session.idle_session_timeout_ms if idle else session.idle_in_transaction_timeout_ms
        if duration_ms:
            self._idle_deadline.arm(duration_ms * 1_000_000)
        else:
            self._idle_deadline.disarm()

    def _idle_expired(self) -> None:
        session = self.session
        if self._close_when_sent:
            self.close()  # it did not even read why it had to go
        elif session is None:
            self.terminate(DatabaseError.of("57014", "canceling authentication due to timeout"))
        elif self._task is None:
            sqlstate, what = ("57P05", "idle-session") if session.transaction_status == b"I" else _IDLE_IN_TRANSACTION
            self.terminate(DatabaseError.of(sqlstate, f"terminating connection due to {what} timeout"))

    @property
    def is_busy(self) -> bool:
        """A statement runs, or a transaction is open."""
        session = self.session
        return self._task is not None or (session is not None and session.transaction_status != b"I")

    def shut_down(self) -> None:
        """The node stops: an idle client is told at once, a busy one has its statement cancelled."""
        self.terminate(AdminShutdown("terminating connection due to administrator command"))
