"""Who is connected to the cluster and does what: pg_stat_activity of all nodes, and signals to any backend.

Every node is asked (``broadcast``) each time the view is read; a node that does not answer in time is left out.
Process ids are unique in the cluster, so pg_cancel_backend and pg_terminate_backend go to every node too, and the one that
has the backend acts.

Source: PostgreSQL 15 manual, 28.2.3 and 9.27.2.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from pydistdb.sql.errors import DatabaseError, InsufficientPrivilege
from pydistdb.sql.functions.effects import MustAct
from pydistdb.sql.pg_catalog.providers import SessionInfo
from pydistdb.sql.session.lock_status import session_xid
from pydistdb.tasks import pause, sleep

if TYPE_CHECKING:
    from pydistdb.sql.session.base import SessionBase
    from pydistdb.sql.session.environment import Environment

MAX_SHOWN_QUERY_BYTES = 1_023
"""What pg_stat_activity shows of a statement (Postgres's track_activity_query_size, less one)."""
SESSIONS_TOPIC = "activity.sessions"
SIGNAL_TOPIC = "activity.signal"
ANSWER_TIMEOUT_NS = 2_000_000_000
POLL_NS = 20_000_000
ROW_WAIT = "transactionid"

_encode = msgspec.msgpack.Encoder().encode
_decode_sessions = msgspec.msgpack.Decoder(list[SessionInfo]).decode


class ClusterActivity:
    """One node's answers, and its questions to all."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        database = environment.database
        database.on_broadcast(SESSIONS_TOPIC, self._on_sessions)
        database.on_broadcast(SIGNAL_TOPIC, self._on_signal)

    async def sessions(self) -> list[SessionInfo]:
        """The sessions of all nodes."""
        return [info for answer in await self._ask(SESSIONS_TOPIC) for info in _decode_sessions(answer)]

    async def shown(self) -> list[SessionInfo]:
        """The same, with what those who ask for row locks really wait for."""
        sessions = await self.sessions()
        if all(info.wait_event != ROW_WAIT for info in sessions):
            return sessions
        picture = await self._environment.locks.picture()
        events = {info.pid: picture.wait_event(info.pid) for info in sessions if info.wait_event == ROW_WAIT}
        return [
            replace(info, wait_event=event, wait_event_type=event and "Lock")
            if (event := events.get(info.pid, info.wait_event)) != info.wait_event
            else info
            for info in sessions
        ]

    async def signal(self, process_id: int, kind: str) -> bool:
        """Cancel or terminate a backend, wherever it is; False if there is none of that number."""
        return b"1" in await self._ask(SIGNAL_TOPIC, _encode((process_id, kind)))

    async def _ask(self, topic: str, payload: bytes = b"") -> list[bytes]:
        answers = await self._environment.database.broadcast(topic, payload, ANSWER_TIMEOUT_NS)
        return [answers[node] or b"" for node in sorted(answers) if answers[node] is not None]

    async def _on_sessions(self, sender: int, payload: bytes) -> bytes:
        return _encode([session_info(session) for session in self._environment.sessions.values()])

    async def _on_signal(self, sender: int, payload: bytes) -> bytes:
        process_id, kind = msgspec.msgpack.decode(payload)
        environment = self._environment
        if kind == "exists":
            return b"1" if process_id in environment.sessions else b"0"
        act = environment.cancel_backend if kind == "cancel" else environment.terminate_backend
        return b"1" if act(process_id) else b"0"


class SignalBackend(MustAct):
    """pg_cancel_backend or pg_terminate_backend, which may wait until the backend has gone."""

    def __init__(self, session: SessionBase, process_id: int, kind: str, timeout_ms: int = 0) -> None:
        super().__init__(f"{kind} backend")
        self._session = session
        self._process_id = process_id
        self._kind = kind
        self._timeout_ms = timeout_ms

    async def act(self) -> bool:
        session, process_id = self._session, self._process_id
        environment = session.environment
        owner = next((info.role for info in await environment.activity.sessions() if info.pid == process_id), None)
        if owner is not None:
            _check_may_signal(session, owner, self._kind)
        if owner is None or not await environment.activity.signal(process_id, self._kind):
            session.warn(DatabaseError.of("01000", f"PID {process_id} is not a PostgreSQL backend process"))
            return False
        await pause(environment.scheduler)  # it may have been this backend
        session.check_interrupt()
        if not self._timeout_ms:
            return True
        deadline_ns = environment.scheduler.now_ns() + self._timeout_ms * 1_000_000
        while await environment.activity.signal(process_id, "exists"):
            if environment.scheduler.now_ns() >= deadline_ns:
                text = f"backend with PID {process_id} did not terminate within {self._timeout_ms} milliseconds"
                session.warn(DatabaseError.of("01000", text))
                return False
            await sleep(environment.scheduler, POLL_NS)
            session.check_interrupt()
        return True


_SIGNALLED = {"cancel": "query", "terminate": "process"}
_DONE = {"cancel": "canceled", "terminate": "terminated"}
SIGNAL_BACKEND = 4200
"""The oid of pg_signal_backend."""


def _check_may_signal(session: SessionBase, owner: int, kind: str) -> None:
    """A backend is its user's business, and that of pg_signal_backend's members unless the user is a superuser."""
    view, role = session.view(), session.context.role
    roles, may = view.catalog_state.roles, view.access.has_privileges_of
    if roles.is_superuser(owner) and not roles.is_superuser(role):
        raise InsufficientPrivilege(f"must be a superuser to {kind} superuser {_SIGNALLED[kind]}")
    if not may(role, owner) and not may(role, SIGNAL_BACKEND):
        raise InsufficientPrivilege(
            f"must be a member of the role whose {_SIGNALLED[kind]} is being {_DONE[kind]} or member of pg_signal_backend"
        )


# ------------------------------------------------------------------------------------------------ one session


def session_info(session: SessionBase) -> SessionInfo:
    """A session's row of pg_stat_activity."""
    status = session.transaction_status
    if session.is_active:
        state = "active"
    elif status == b"T":
        state = "idle in transaction"
    elif status == b"E":
        state = "idle in transaction (aborted)"
    else:
        state = "idle"
    wait_type, wait_event = _waits_for(session)
    host, _, port = session.client_address.rpartition(":")
    in_transaction = session.is_active or status != b"I"
    return SessionInfo(
        pid=session.process_id,
        database=session.database_name,
        user=session.user,
        role=session.identity.authenticated,
        application_name=session.settings.values["application_name"],
        client_address=host or None,
        client_port=int(port) if port.isdigit() else None,
        backend_start=session.connected_us,
        transaction_start=session.context.transaction_timestamp if in_transaction else None,
        query_start=session.query_started_us or None,
        state_change=session.state_changed_us,
        wait_event_type=wait_type,
        wait_event=wait_event,
        state=state,
        xid=session_xid(session) or None,
        query=session.query.encode()[:MAX_SHOWN_QUERY_BYTES].decode(errors="ignore"),
    )


def _waits_for(session: SessionBase) -> tuple[str | None, str | None]:
    """wait_event_type and wait_event."""
    if not session.is_active:
        return "Client", "ClientRead"
    if session.advisory.waiting is not None:
        return "Lock", "advisory"
    transaction = session.transaction.kv
    if transaction is not None and transaction.waits_since_ns:
        return "Lock", ROW_WAIT
    if transaction is not None and session.environment.catalog.gate.waits_since_ns(transaction):
        return "Lock", "relation"
    return ("Timeout", "PgSleep") if session.sleeps else (None, None)
