"""A socket on the loop that carries frames: bytes gathered per loop pass and sent at once, frames cut from what arrives."""

from __future__ import annotations

import os
import socket
from typing import ClassVar

import msgspec

from pydistdb_server.loop import HANGUP, PEER_CLOSED, READABLE, WRITABLE, ServingLoop
from pydistdb_server.rpc_frames import BadFrame, Frame, FrameReader

READ_BYTES = 64 << 10
"""Python allocates this much for every read: from 128 kB on malloc asks the kernel each time, which takes 17 µs."""


class RpcStream:
    """A socket on the loop: frames in, bytes gathered and out."""

    received_bytes: ClassVar[int] = 0
    """What this process has heard from other nodes (/metrics)."""
    sent_bytes: ClassVar[int] = 0

    def __init__(self, loop: ServingLoop, sock: socket.socket, connecting: bool) -> None:
        self.loop = loop
        self.heard_ns = loop.now_ns()
        self.closed = False
        self._socket = sock
        self._descriptor = sock.fileno()
        self._reader = FrameReader()
        self._parts: list[bytes] = []
        self._unsent = memoryview(b"")
        self._connecting = connecting
        self._flush_queued = False
        self._paused = False
        self.queued_bytes = 0
        self._events = WRITABLE if connecting else READABLE | PEER_CLOSED
        loop.register(self._descriptor, self._on_events, self._events)

    # What the two kinds of connection do differently.

    def on_connected(self) -> None:
        """The outgoing connection stands."""

    def on_frame(self, received: Frame) -> None:
        raise NotImplementedError

    def on_closed(self, reason: str) -> None:
        """The connection is gone."""

    def write(self, data: bytes) -> None:
        """Send with everything else of this loop pass."""
        if self.closed:
            return
        self._parts.append(data)
        self.queued_bytes += len(data)
        if not self._flush_queued and not self._connecting and not self._unsent:
            self._flush_queued = True
            self.loop.call_soon(self._flush)

    def pause_reading(self, paused: bool) -> None:
        if paused != self._paused and not self.closed and not self._connecting:
            self._paused = paused
            self._watch(self._events & ~READABLE if paused else self._events | READABLE)

    def close(self, reason: str) -> None:
        if self.closed:
            return
        self.closed = True
        self.loop.unregister(self._descriptor)
        self._socket.close()
        self._parts.clear()
        self._unsent = memoryview(b"")
        self.on_closed(reason)

    def _watch(self, events: int) -> None:
        if events != self._events:
            self._events = events
            self.loop.modify(self._descriptor, events)

    def _on_events(self, events: int) -> None:
        if self._connecting:
            self._finish_connecting()
            return
        if events & WRITABLE:
            self._flush()
        if not self.closed and events & (READABLE | HANGUP | PEER_CLOSED):
            self._read()

    def _finish_connecting(self) -> None:
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self.close(os.strerror(code))
            return
        self._connecting = False
        self.heard_ns = self.loop.now_ns()
        self._watch(READABLE | PEER_CLOSED)
        self.on_connected()
        self._flush()

    def _read(self) -> None:
        try:
            data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self.close(str(error))
            return
        if not data:
            self.close("the peer closed the connection")
            return
        self.heard_ns = self.loop.now_ns()
        RpcStream.received_bytes += len(data)
        try:
            for received in self._reader.feed(data):
                self.on_frame(received)
                if self.closed:
                    return
        except (BadFrame, msgspec.MsgspecError) as error:
            self.close(f"it sent something unreadable: {error}")

    def _flush(self) -> None:
        self._flush_queued = False
        if self.closed:
            return
        parts = self._parts
        while self._unsent or parts:
            if not self._unsent:
                self._unsent = memoryview(parts[0] if len(parts) == 1 else b"".join(parts))
                parts.clear()
            try:
                sent = self._socket.send(self._unsent)
            except BlockingIOError:
                self._watch(self._events | WRITABLE)
                return
            except OSError as error:
                self.close(str(error))
                return
            self._unsent = self._unsent[sent:]
            self.queued_bytes -= sent
            RpcStream.sent_bytes += sent
        self._watch(self._events & ~WRITABLE)
