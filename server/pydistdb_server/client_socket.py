"""The socket of one client on the loop: reading ahead within bounds, writing what the sink gathers.

While a statement runs, reading goes on only up to ``MAX_READ_AHEAD_BYTES``: enough to notice that the client hung up and to feed
a COPY; beyond that the client's own socket fills up, and it waits.
"""

from __future__ import annotations

import socket

from pydistdb_server.loop import HANGUP, PEER_CLOSED, READABLE, WRITABLE, ServingLoop
from pydistdb_server.pgwire import WireProtocol
from pydistdb_server.sink import ClientSink

READ_BYTES = 64 << 10
"""Python allocates this much for every read: from 128 kB on malloc asks the kernel each time, which takes 17 µs."""
MAX_READ_AHEAD_BYTES = 1 << 20


class ClientSocket:
    """The lower half of a ClientConnection, which says what to do with what arrives."""

    def __init__(self, loop: ServingLoop, sock: socket.socket) -> None:
        self.loop = loop
        self.wire = WireProtocol()
        self.sink = ClientSink(self.wire, self._send, self._watch_writable)
        self._socket = sock
        self._descriptor = sock.fileno()
        self._events = READABLE | PEER_CLOSED
        self._closed = False
        self._close_when_sent = False
        self.sink.copy_input.on_consumed = self._resume_reading
        loop.register(self._descriptor, self._on_events, self._events)

    @property
    def _is_parked(self) -> bool:
        """A statement runs, or others have their turn: what arrives waits."""
        raise NotImplementedError

    def _process(self) -> None:
        """Answer the messages that have arrived."""
        raise NotImplementedError

    def _try_known(self, data: bytes) -> bool:
        """Answer ``data``, which begins something new, without taking it in, if that can be done."""
        raise NotImplementedError

    def _answered(self) -> None:
        """There is something to send, or a statement waits."""
        raise NotImplementedError

    def _disconnected(self) -> None:
        """The client is gone."""
        raise NotImplementedError

    def close(self) -> None:
        """Drop the connection."""
        raise NotImplementedError

    def _release(self) -> None:
        """Give the socket back."""
        self._closed = True
        self.sink.close()
        self.loop.unregister(self._descriptor)
        self._socket.close()

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
        wire = self.wire
        if not self._is_parked:
            if wire.is_at_rest and self._try_known(data):
                self._answered()
                return
            wire.receive(data)
            self._process()
            return
        wire.receive(data)
        copy_input = self.sink.copy_input
        if copy_input.waiting is not None:
            copy_input.arrived()
        elif wire.buffered_bytes > MAX_READ_AHEAD_BYTES:
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
