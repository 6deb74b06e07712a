"""Frames between nodes: a fixed header and a body, one after the other on a TCP connection.

    length (4)   bytes after this field
    kind (1)     HELLO, WELCOME, RAFT, REQUEST, RESPONSE, ERROR, PING, PONG, REFUSED
    call (8)     number that pairs a RESPONSE or ERROR with its REQUEST; REFUSED: FOR_GOOD if trying again is no use; else 0
    clock (8)    the sender's hybrid clock
    body         msgpack (HELLO: ``Hello``; RAFT: envelopes; REQUEST, RESPONSE: a message; ERROR, REFUSED: text)

``FrameReader`` is sans-IO: feed it bytes, take frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

import msgspec
from pydistdb.kv.versions import Supported

HEADER = Struct("!IBQQ")
HEADER_BYTES = HEADER.size
_TAIL_BYTES = HEADER_BYTES - 4

MAX_FRAME_BYTES = 256 << 20
"""Bounds a single message; the kv layer keeps commands and snapshots' chunks far below."""

PROTOCOL_VERSION = 1

HELLO, WELCOME, RAFT, REQUEST, RESPONSE, ERROR, PING, PONG, REFUSED = range(1, 10)
FOR_GOOD = 1


class Hello(msgspec.Struct, array_like=True, frozen=True):
    """Who calls: ``cluster_id`` is empty from a node that has not joined yet."""

    version: int
    cluster_id: bytes
    node_id: int
    name: str = ""
    supported: Supported = Supported()
    """The cluster versions that its release knows (pydistdb.kv.versions)."""
    promised: int = 0
    """The one that its cluster is at, or is about to be raised to; 0: not known."""
    incarnation: int = 0
    """Which process of that node it is."""
    dialled: int = 0
    """The how manieth connection of that process to this node; 0: not counted."""


encode_hello = msgspec.msgpack.Encoder().encode
decode_hello = msgspec.msgpack.Decoder(Hello).decode


class Frame(NamedTuple):
    kind: int
    call: int
    clock: int
    body: bytes


class BadFrame(Exception):
    """The peer does not speak this protocol: hang up."""


def frame(kind: int, call: int, clock: int, body: bytes) -> bytes:
    return HEADER.pack(len(body) + _TAIL_BYTES, kind, call, clock) + body


class FrameReader:
    """Cuts a stream of bytes into frames."""

    __slots__ = ("_buffer", "_missing", "_pieces")

    def __init__(self) -> None:
        self._buffer = b""
        self._pieces: list[bytes] = []
        self._missing = 0

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take bytes; give the frames they complete; raises BadFrame."""
        if self._missing > len(data):  # a long frame is joined once, when it is whole
            self._missing -= len(data)
            self._pieces.append(data)
            return
        self._missing = 0
        if self._pieces:
            data = b"".join((*self._pieces, data))
            self._pieces.clear()
        buffer = self._buffer + data if self._buffer else data
        position, size = 0, len(buffer)
        try:
            while size - position >= HEADER_BYTES:
                length, kind, call, clock = HEADER.unpack_from(buffer, position)
                if length < _TAIL_BYTES or length > MAX_FRAME_BYTES or not HELLO <= kind <= REFUSED:
                    raise BadFrame(f"frame of kind {kind} and {length} bytes")
                end = position + 4 + length
                if end > size:
                    self._missing = end - size
                    break
                yield Frame(kind, call, clock, buffer[position + HEADER_BYTES : end])
                position = end
        finally:
            self._buffer = buffer[position:] if position else buffer
