"""LISTEN, NOTIFY and pg_notify for the whole cluster.

Theory of operation
-------------------
NOTIFY and LISTEN take effect when their transaction commits; until then they stand in the session's ``_log``, which
ROLLBACK TO SAVEPOINT cuts.  After the commit the session's node tells every node of the cluster, and each hands the
notifications to its sessions that listen::

    session on node 1: BEGIN; NOTIFY c, 'x'; NOTIFY c, 'x'; COMMIT
        log [notify c x]                    the second one is a duplicate, and folded into the first
        commit, then broadcast to 1, 2, 3   COMMIT returns when they have answered
    session on node 3 listens on c          gets ("c", "x", process id of the sender) between two of its statements

Notifications of one transaction stay in order, and so do those of one node's transactions: they go out one batch at a
time, and what gathers meanwhile is the next batch.  A later transaction that began after an earlier one's COMMIT
returned is heard later everywhere.

Nothing is kept on disk: as in Postgres, a crash ends the listeners' connections with the queue.  A node that could be
reached only again after it had missed something (it was cut off, and did not restart) is told so, and hangs up on its
listeners, so that no client goes on in the belief that it has heard everything.

Source: PostgreSQL 15 manual, pages LISTEN and NOTIFY; 34.9.
"""

from __future__ import annotations

import secrets
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from pydistdb.kv.api import Database
from pydistdb.sql.api import Notification
from pydistdb.sql.errors import DatabaseError, FeatureNotSupported, InvalidParameterValue, ProgramLimitExceeded
from pydistdb.tasks import Completion, Scheduler

if TYPE_CHECKING:
    from pydistdb.sql.session.base import SessionBase

MAX_CHANNEL_BYTES = 63
MAX_PAYLOAD_BYTES = 7_999
MAX_PENDING_BYTES = 8 << 20
"""What one transaction may notify."""
MAX_QUEUED_BYTES = 8 << 20
"""What may wait for one listener, which does not read or does not end its transaction."""
MAX_CHANNELS = 10_000
OVERHEAD_BYTES = 100
TOPIC = "notify"
PUBLISH_TIMEOUT_NS = 2_000_000_000
RETRY_NS = 1_000_000_000
LONGEST_RETRY_NS = 30_000_000_000


class _Batch(msgspec.Struct, array_like=True):
    """What one node tells the others: (database, process id, channel, payload), oldest first."""

    items: list[tuple[str, int, str, str]]
    missed: dict[int, bytes]
    """Nodes that have not heard everything, with their incarnation then."""


class _Waiting(NamedTuple):
    items: list[tuple[str, int, str, str]]
    sent: Completion[None]


class NotificationHub:
    """One node's listeners, and its way to those of the other nodes."""

    def __init__(self, database: Database, scheduler: Scheduler) -> None:
        self._database = database
        self._scheduler = scheduler
        self._listeners: dict[tuple[str, str], dict[int, SessionNotifications]] = {}
        self._outbox: list[_Waiting] = []
        self._is_sending = False
        self._incarnation = secrets.token_bytes(8)
        self._known: dict[int, bytes] = {}
        """The incarnations of the nodes that have answered."""
        self._missed: dict[int, bytes] = {}
        self._retry_ns = 0
        database.on_broadcast(TOPIC, self._on_broadcast)

    # ------------------------------------------------------------------------------------------ listeners

    def listen(self, listener: SessionNotifications, database: str, channel: str) -> None:
        self._listeners.setdefault((database, channel), {})[listener.process_id] = listener

    def unlisten(self, listener: SessionNotifications, database: str, channel: str) -> None:
        listeners = self._listeners.get((database, channel))
        if listeners is not None and listeners.pop(listener.process_id, None) is not None and not listeners:
            del self._listeners[database, channel]

    def usage(self) -> float:
        """How full the fullest listener's queue is."""
        sizes = [listener.queued_bytes for listeners in self._listeners.values() for listener in listeners.values()]
        return max(sizes, default=0) / MAX_QUEUED_BYTES

    def _deliver(self, items: list[tuple[str, int, str, str]]) -> None:
        for database, process_id, channel, payload in items:
            for listener in list(self._listeners.get((database, channel), {}).values()):
                listener.receive(Notification(process_id, channel, payload))

    # ------------------------------------------------------------------------------------------ sending

    async def publish(self, items: list[tuple[str, int, str, str]]) -> None:
        """Hand notifications to every node; returns once they have them (or are found unreachable)."""
        sent: Completion[None] = Completion()
        self._outbox.append(_Waiting(items, sent))
        if not self._is_sending:
            self._is_sending = True
            self._scheduler.spawn(self._send_all(), "notify")
        await sent

    async def _send_all(self) -> None:
        while self._outbox:
            waiting: list[_Waiting] = []
            size = 0
            while self._outbox and (not waiting or size < MAX_PENDING_BYTES // 2):
                waiting.append(self._outbox.pop(0))
                size += sum(len(item[2]) + len(item[3]) for item in waiting[-1].items)
            try:
                await self._send([item for part in waiting for item in part.items])
            finally:
                for part in waiting:
                    part.sent.set(None)
        self._is_sending = False

    async def _send(self, items: list[tuple[str, int, str, str]]) -> None:
        payload = msgspec.msgpack.encode(_Batch(items, self._missed))
        answers = await self._database.broadcast(TOPIC, payload, PUBLISH_TIMEOUT_NS)
        told = {node for node, answer in answers.items() if answer is not None}
        for node in told:
            answer = answers[node]
            assert answer is not None
            self._known[node] = answer
            self._missed.pop(node, None)
        for node in self._known.keys() - told:
            self._missed.setdefault(node, self._known.pop(node))
        if self._missed and not self._retry_ns:
            self._retry_later()

    def _retry_later(self) -> None:
        """A node that missed something must hear of it, even if nobody notifies any more."""
        self._retry_ns = min(max(self._retry_ns * 2, RETRY_NS), LONGEST_RETRY_NS)
        self._scheduler.call_at(self._scheduler.now_ns() + self._retry_ns, self._retry)

    def _retry(self) -> None:
        if not self._missed:
            self._retry_ns = 0
            return
        self._scheduler.spawn(self.publish([]), "notify")
        self._retry_later()

    async def _on_broadcast(self, sender: int, payload: bytes) -> bytes:
        batch = msgspec.msgpack.decode(payload, type=_Batch)
        if batch.missed.get(self._database.node_id) == self._incarnation:
            self._hang_up()
        self._deliver(batch.items)
        return self._incarnation

    def _hang_up(self) -> None:
        error = "terminating connection because notifications from another node were lost"
        for listeners in list(self._listeners.values()):
            for listener in list(listeners.values()):
                listener.end(DatabaseError.of("57P01", error, hint="Connect again, and LISTEN again."))


class SessionNotifications:
    """What a session listens to, notifies, and has not been handed yet (transaction.Participant)."""

    def __init__(self, session: SessionBase) -> None:
        self._session = session
        self.process_id = session.process_id
        self._hub = session.environment.notifications
        self._channels: dict[str, None] = {}
        self._log: list[tuple[str, str, str]] = []
        """("notify", channel, payload), ("listen", channel, "") or ("unlisten", channel or "", "")."""
        self._pending: set[tuple[str, str, str]] = set()
        self._pending_bytes = 0
        self._queue: deque[Notification] = deque()
        self.queued_bytes = 0
        self.on_arrival: Any = None
        """Called when something arrives: the server sends it when the client is idle."""

    @property
    def channels(self) -> list[str]:
        """What the session listens to."""
        return list(self._channels)

    # ------------------------------------------------------------------------------------------ statements

    def notify(self, channel: str, payload: str) -> None:
        """NOTIFY, at commit."""
        if not channel:
            raise InvalidParameterValue("channel name cannot be empty")
        if len(channel.encode()) > MAX_CHANNEL_BYTES:
            raise InvalidParameterValue("channel name too long")
        if len(payload.encode()) > MAX_PAYLOAD_BYTES:
            raise InvalidParameterValue("payload string too long")
        entry = ("notify", channel, payload)
        if entry in self._pending:
            return
        if self._pending_bytes > MAX_PENDING_BYTES:
            raise ProgramLimitExceeded(
                "too many notifications in one transaction", detail=f"The limit is {MAX_PENDING_BYTES >> 20} MB."
            )
        self._pending.add(entry)
        self._pending_bytes += len(channel) + len(payload) + OVERHEAD_BYTES
        self._append(entry)

    def listen(self, channel: str) -> None:
        """LISTEN, from the commit on."""
        if len(self._channels) >= MAX_CHANNELS:
            raise ProgramLimitExceeded(f"a session can listen to at most {MAX_CHANNELS} channels")
        self._append(("listen", channel, ""))

    def unlisten(self, channel: str | None) -> None:
        """UNLISTEN at commit; None: all channels."""
        self._append(("unlisten", channel or "", ""))

    def _append(self, entry: tuple[str, str, str]) -> None:
        self._log.append(entry)
        self._session.transaction.join(self)

    # ------------------------------------------------------------------------------------------ the transaction

    def mark(self) -> int:
        return len(self._log)

    def rollback_to(self, mark: int) -> None:
        for entry in self._log[mark:]:
            if entry in self._pending:
                self._pending.discard(entry)
                self._pending_bytes -= len(entry[1]) + len(entry[2]) + OVERHEAD_BYTES
        del self._log[mark:]

    async def before_commit(self) -> None:
        pass

    async def before_prepare(self) -> None:
        # UNLISTEN of a session that does not listen does nothing.
        if any(kind != "unlisten" or self._channels for kind, _, _ in self._log):
            raise FeatureNotSupported("cannot PREPARE a transaction that has executed LISTEN, UNLISTEN, or NOTIFY")

    async def after_commit(self) -> None:
        database = self._session.database_name
        items: list[tuple[str, int, str, str]] = []
        for kind, channel, payload in self._log:
            if kind == "notify":
                items.append((database, self.process_id, channel, payload))
            elif kind == "listen":
                self._channels[channel] = None
                self._hub.listen(self, database, channel)
            else:
                self._forget([channel] if channel else list(self._channels))
        if items:
            await self._hub.publish(items)

    def ended(self, committed: bool) -> None:
        self._log.clear()
        self._pending.clear()
        self._pending_bytes = 0

    def _forget(self, channels: list[str]) -> None:
        for channel in channels:
            self._channels.pop(channel, None)
            self._hub.unlisten(self, self._session.database_name, channel)

    def close(self) -> None:
        """The session ends."""
        self._forget(list(self._channels))

    # ------------------------------------------------------------------------------------------ arrivals

    def receive(self, notification: Notification) -> None:
        """Keep a notification for the client; a listener that has fallen too far behind is hung up on."""
        if self.queued_bytes > MAX_QUEUED_BYTES:
            error = "terminating connection because it does not take its notifications"
            self.end(DatabaseError.of("57P01", error, hint="End transactions, and read what the server sends."))
            return
        self._queue.append(notification)
        self.queued_bytes += len(notification.channel) + len(notification.payload) + OVERHEAD_BYTES
        if self.on_arrival is not None:
            self.on_arrival()

    def take(self) -> list[Notification]:
        """What the client is to be sent now."""
        taken = list(self._queue)
        self._queue.clear()
        self.queued_bytes = 0
        return taken

    def end(self, error: DatabaseError) -> None:
        self._session.environment.end_backend(self.process_id, error)
