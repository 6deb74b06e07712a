"""Who is connected: admission, process ids and secrets, cancellation, pg_stat_activity.

A process id is unique in the cluster (the node's number in its upper bits), so that a cancel request that reaches
another node can be told from one meant for it, and pg_stat_activity of the whole cluster has no doubles.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from pydistdb.sql.api import Session
from pydistdb.sql.errors import AdminShutdown, CannotConnectNow, DatabaseError, QueryCanceled, TooManyConnections

if TYPE_CHECKING:
    from pydistdb_server.authentication import Authentication
    from pydistdb_server.connection import ClientConnection

Authenticate = Callable[[str], Coroutine[Any, Any, "Authentication | None"]]
OpenSession = Callable[["ClientConnection", dict[str, str]], Coroutine[Any, Any, Session]]

PROCESS_ID_BITS = 20
"""Connections of one node are numbered below this; above stand 11 bits of the node's number."""

DEFAULT_MAX_CONNECTIONS = 500
DEFAULT_STARTUP_TIMEOUT_NS = 60_000_000_000


async def _trust(user: str) -> None:
    return None


class ClientRegistry:
    """All client connections of this node."""

    def __init__(
        self,
        node_id: int,
        factory: OpenSession,
        max_connections: int = DEFAULT_MAX_CONNECTIONS,
        startup_timeout_ns: int = DEFAULT_STARTUP_TIMEOUT_NS,
    ) -> None:
        self.max_connections = max_connections
        self.startup_timeout_ns = startup_timeout_ns
        self.clients: dict[int, ClientConnection] = {}
        self.refusing: CannotConnectNow | None = None
        """Set while the node does not take clients (it starts, or stops)."""
        self.connections_total = 0
        self.authenticate: Authenticate = _trust
        """Gives what a user has to go through first; None: nothing."""
        self._factory = factory
        self._base = (node_id & 0x7FF) << PROCESS_ID_BITS
        self._last = 0

    def admit(self, client: ClientConnection) -> None:
        """Give a client its process id and secret; raises 53300 or 57P03."""
        if self.refusing is not None:
            raise CannotConnectNow(self.refusing.message, hint=self.refusing.hint)
        if len(self.clients) >= self.max_connections:
            raise TooManyConnections("sorry, too many clients already")
        mask = (1 << PROCESS_ID_BITS) - 1
        while True:
            self._last = (self._last + 1) & mask
            process_id = self._base | self._last
            if self._last and process_id not in self.clients:
                break
        client.process_id = process_id
        client.secret_key = secrets.randbits(32) - (1 << 31)
        self.clients[process_id] = client
        self.connections_total += 1

    async def open_session(self, client: ClientConnection, parameters: dict[str, str]) -> Session:
        return await self._factory(client, parameters)

    def remove(self, client: ClientConnection) -> None:
        if self.clients.get(client.process_id) is client:
            del self.clients[client.process_id]

    def cancel(self, process_id: int, secret_key: int) -> None:
        """A client's CancelRequest; a wrong secret does nothing, as the protocol wants it."""
        client = self.clients.get(process_id)
        if client is not None and secrets.compare_digest(
            client.secret_key.to_bytes(4, "big", signed=True), secret_key.to_bytes(4, "big", signed=True)
        ):
            client.interrupt(QueryCanceled("canceling statement due to user request"))

    def cancel_backend(self, process_id: int) -> bool:
        """pg_cancel_backend."""
        client = self.clients.get(process_id)
        if client is None:
            return False
        client.interrupt(QueryCanceled("canceling statement due to user request"))
        return True

    def terminate_backend(self, process_id: int) -> bool:
        """pg_terminate_backend."""
        return self.end_backend(process_id, AdminShutdown("terminating connection due to administrator command"))

    def end_backend(self, process_id: int, error: DatabaseError) -> bool:
        """Hang up on a client, telling it why."""
        client = self.clients.get(process_id)
        if client is None:
            return False
        client.loop.call_soon(lambda: client.terminate(error))
        return True

    def shut_down(self) -> None:
        """Refuse newcomers, and end every connection."""
        self.refusing = CannotConnectNow("the database system is shutting down")
        for client in list(self.clients.values()):
            client.shut_down()
