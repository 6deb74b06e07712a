"""A small HTTP server on the loop: GET of a few fixed paths, one request per connection.

Enough for health checks, Prometheus and ``proddb status``; everything else is 404 or 405.  Requests are bounded in
size and time, and so is the number of connections.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from pydistdb_server.loop import HANGUP, READABLE, WRITABLE, ServingLoop

MAX_REQUEST_BYTES = 16_384
MAX_CONNECTIONS = 200
REQUEST_TIMEOUT_NS = 10_000_000_000

log = logging.getLogger("pydistdb.server.http")

_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 500: "Internal Server Error"}
_REASONS[503] = "Service Unavailable"


class Answer(NamedTuple):
    status: int
    content_type: str
    body: bytes


def text_answer(status: int, text: str) -> Answer:
    return Answer(status, "text/plain; charset=utf-8", text.encode())


Route = Callable[[], Awaitable[Answer]]


class HttpServer:
    """The connections of one HTTP listener; ``routes`` maps a path to the coroutine function that answers it."""

    def __init__(self, loop: ServingLoop, routes: dict[str, Route]) -> None:
        self.loop = loop
        self.routes = routes
        self._open: set[_HttpConnection] = set()

    def accept(self, sock: socket.socket, peer: str) -> None:
        if len(self._open) >= MAX_CONNECTIONS:
            sock.close()
            return
        self._open.add(_HttpConnection(self, sock))

    def forget(self, connection: _HttpConnection) -> None:
        self._open.discard(connection)

    def close(self) -> None:
        for connection in list(self._open):
            connection.close()


class _HttpConnection:
    def __init__(self, server: HttpServer, sock: socket.socket) -> None:
        self._server = server
        self._socket = sock
        self._descriptor = sock.fileno()
        self._request = b""
        self._output = memoryview(b"")
        self._closed = False
        loop = server.loop
        self._timer = loop.call_at(loop.now_ns() + REQUEST_TIMEOUT_NS, self.close)
        loop.register(self._descriptor, self._on_events)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._timer.cancel()
        self._server.loop.unregister(self._descriptor)
        self._socket.close()
        self._server.forget(self)

    def _on_events(self, events: int) -> None:
        if events & WRITABLE:
            self._flush()
        elif events & (READABLE | HANGUP):
            self._read()

    def _read(self) -> None:
        try:
            data = self._socket.recv(MAX_REQUEST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._request += data
        if not data or len(self._request) > MAX_REQUEST_BYTES:
            self.close()
            return
        if b"\r\n\r\n" in self._request or b"\n\n" in self._request:
            self._server.loop.modify(self._descriptor, 0)  # one request; nothing more is read
            self._server.loop.spawn(self._respond(), "http")

    async def _respond(self) -> None:
        line = self._request.split(b"\n", 1)[0].decode("latin-1").split()
        if len(line) != 3 or not line[2].startswith("HTTP/"):
            answer = text_answer(400, "bad request\n")
        elif line[0] not in ("GET", "HEAD"):
            answer = text_answer(405, "only GET is served here\n")
        else:
            route = self._server.routes.get(line[1].split("?", 1)[0])
            try:
                answer = text_answer(404, "no such page\n") if route is None else await route()
            except Exception as error:
                log.exception("answering %s failed", line[1])
                answer = text_answer(500, f"{type(error).__name__}: {error}\n")
        if self._closed:
            return
        head = (
            f"HTTP/1.1 {answer.status} {_REASONS.get(answer.status, 'Error')}\r\n"
            f"Content-Type: {answer.content_type}\r\n"
            f"Content-Length: {len(answer.body)}\r\n"
            "Connection: close\r\n\r\n"
        ).encode()
        self._output = memoryview(head if line[:1] == ["HEAD"] else head + answer.body)
        self._flush()

    def _flush(self) -> None:
        try:
            sent = self._socket.send(self._output)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        self._output = self._output[sent:]
        if self._output:
            self._server.loop.modify(self._descriptor, WRITABLE)
        else:
            self.close()
