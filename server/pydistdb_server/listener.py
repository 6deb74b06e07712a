"""Accepting connections on the loop: one non-blocking listening socket, a callback for each newcomer."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

from pydistdb_server.loop import ServingLoop

ACCEPTS_PER_EVENT = 64
BACKLOG = 512
OUT_OF_DESCRIPTORS_PAUSE_NS = 100_000_000

log = logging.getLogger("pydistdb.server")

Accepted = Callable[[socket.socket, str], None]


class Listener:
    """A listening TCP socket; ``accepted(sock, peer)`` gets each new connection, non-blocking and without delay."""

    def __init__(self, loop: ServingLoop, host: str, port: int, accepted: Accepted) -> None:
        self._loop = loop
        self._accepted = accepted
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.setblocking(False)
            self._socket.bind(address)
            self._socket.listen(BACKLOG)
        except BaseException:
            self._socket.close()
            raise
        self.host = host
        self.port: int = self._socket.getsockname()[1]
        loop.register(self._socket.fileno(), self._on_ready)

    def _on_ready(self, _: int) -> None:
        for _ in range(ACCEPTS_PER_EVENT):
            try:
                sock, address = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:  # out of descriptors, or the client gave up already
                log.warning("cannot accept a connection: %s", error)
                self._loop.unregister(self._socket.fileno())
                self._loop.call_at(self._loop.now_ns() + OUT_OF_DESCRIPTORS_PAUSE_NS, self._resume)
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._accepted(sock, f"{address[0]}:{address[1]}")

    def _resume(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.register(self._socket.fileno(), self._on_ready)

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.unregister(self._socket.fileno())
            self._socket.close()
