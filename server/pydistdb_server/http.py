"""A small HTTP server on the loop: GET of fixed paths, POST of short forms, one request per connection.

Enough for health checks, Prometheus, ``proddb status`` and the web console; everything else is 404 or 405.  Requests are
bounded in size and time, and so is the number of connections.

Source: RFC 9110 and 9112, as far as they are needed for that.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

from pydistdb_server.loop import HANGUP, READABLE, WRITABLE, ServingLoop

MAX_REQUEST_BYTES = 16_384
MAX_FIELDS = 50
MAX_CONNECTIONS = 200
REQUEST_TIMEOUT_NS = 10_000_000_000

log = logging.getLogger("pydistdb.server.http")

_REASONS = {
    200: "OK",
    303: "See Other",
    304: "Not Modified",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Content Too Large",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class Request(NamedTuple):
    """``headers`` by their names in lower case; the last of several with one name counts."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    def form(self) -> dict[str, str]:
        """The fields of a posted form."""
        return _fields(self.body.decode(errors="replace"))


class Answer(NamedTuple):
    status: int
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


class BadRequest(Exception):
    """What was sent is not a request that can be answered."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def text_answer(status: int, text: str) -> Answer:
    return Answer(status, "text/plain; charset=utf-8", text.encode())


def _fields(text: str) -> dict[str, str]:
    try:
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS))
    except ValueError:
        return {}


def parse_request(data: bytes) -> Request | None:
    """The request that these bytes are; None while there must be more; raises BadRequest."""
    head, separator, body = data.partition(b"\r\n\r\n")
    if not separator:
        head, separator, body = data.partition(b"\n\n")
    if not separator:
        return None
    first, *lines = head.decode("latin-1").split("\n")
    words = first.split()
    if len(words) != 3 or not words[2].startswith("HTTP/"):
        raise BadRequest(400, "bad request")
    if words[0] not in ("GET", "HEAD", "POST"):
        raise BadRequest(405, "only GET, HEAD and POST are served here")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    length = headers.get("content-length", "0")
    if not length.isdigit() or "transfer-encoding" in headers:
        raise BadRequest(400, "bad request")
    if int(length) > MAX_REQUEST_BYTES:
        raise BadRequest(413, "the request is too long")
    if len(body) < int(length):
        return None
    path, _, query = words[1].partition("?")
    return Request(words[0], unquote(path), _fields(query), headers, body[: int(length)])


Route = Callable[[Request], Awaitable[Answer]]


class HttpServer:
    """The connections of one HTTP listener; ``routes`` maps a path to the coroutine function that answers GET and HEAD,
    ``posts`` those that answer POST."""

    def __init__(self, loop: ServingLoop, routes: dict[str, Route], posts: dict[str, Route]) -> None:
        self.loop = loop
        self.routes = routes
        self.posts = posts
        self.requests = 0
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
        try:
            request = parse_request(self._request)
        except BadRequest as error:
            self._server.loop.modify(self._descriptor, 0)
            self._send(text_answer(error.status, f"{error}\n"))
            return
        if request is not None:
            self._server.loop.modify(self._descriptor, 0)  # one request; nothing more is read
            self._server.loop.spawn(self._respond(request), "http")

    async def _respond(self, request: Request) -> None:
        server = self._server
        server.requests += 1
        routes = server.posts if request.method == "POST" else server.routes
        route = routes.get(request.path)
        try:
            if route is not None:
                answer = await route(request)
            elif request.path in server.routes or request.path in server.posts:
                answer = text_answer(405, "not with this method\n")
            else:
                answer = text_answer(404, "no such page\n")
        except Exception as error:
            log.exception("answering %s failed", request.path)
            answer = text_answer(500, f"{type(error).__name__}: {error}\n")
        if not self._closed:
            self._send(answer, has_body=request.method != "HEAD")

    def _send(self, answer: Answer, *, has_body: bool = True) -> None:
        head = (
            f"HTTP/1.1 {answer.status} {_REASONS.get(answer.status, 'Error')}\r\n"
            f"Content-Type: {answer.content_type}\r\n"
            f"Content-Length: {len(answer.body)}\r\n"
            "X-Content-Type-Options: nosniff\r\n"
            + "".join(f"{name}: {value}\r\n" for name, value in answer.headers)
            + "Connection: close\r\n\r\n"
        ).encode()
        self._output = memoryview(head + answer.body if has_body else head)
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
