"""Output of one client: encoded messages collected in a list, sent in one system call, bounded when the client is slow.

Theory of operation
-------------------
Answers are appended as bytes and leave together when the connection has answered what it had received (``flush``):
one ``send`` per pass instead of one per message.  What the socket does not take stays in ``_unsent``; the loop then
watches for writability.  A statement that produces rows calls ``drain`` after each batch, which waits while more than
``HIGH_WATER_BYTES`` are unsent, so that a slow reader holds back its own query and nobody else's memory.

``ClientSink`` implements ``pydistdb.sql.api.Sink``; what goes out is decided by the session, how it is encoded here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from pydistdb.sql.api import Field
from pydistdb.sql.errors import DatabaseError, QueryCanceled
from pydistdb.sql.types.base import EvalContext
from pydistdb.tasks import Completion

from pydistdb_server.pgwire import ServerStep, WireProtocol, encode
from pydistdb_server.pgwire import messages as m
from pydistdb_server.rows import RowEncoder, row_encoder

FLUSH_BYTES = 64 << 10
"""Output is sent as soon as this much has gathered."""

HIGH_WATER_BYTES = 1 << 20
"""Unsent output above which a statement waits for its client."""


class ClientSink:
    """The results of one client, on their way to its socket.

    ``send`` writes bytes and returns how many were taken (0 if the socket is full); ``watch_writable`` is called once
    when something is left over.
    """

    def __init__(
        self, wire: WireProtocol, send: Callable[[bytes | memoryview], int], watch_writable: Callable[[bool], None]
    ) -> None:
        self._wire = wire
        self._send = send
        self._watch_writable = watch_writable
        self._parts: list[bytes] = []
        self._gathered_bytes = 0
        self._unsent = memoryview(b"")
        self._drained: Completion[None] | None = None
        self._closed = False
        self.context = EvalContext()
        self.encoder: RowEncoder | None = None
        self.copy_input = CopyInput(self)
        self.sent_bytes = 0

    # ------------------------------------------------------------------------------------------ transport

    def write(self, data: bytes) -> None:
        """Append encoded messages."""
        self._parts.append(data)

    def take_back(self) -> None:
        """Drop what was written last."""
        self._parts.pop()

    @property
    def unsent_bytes(self) -> int:
        return len(self._unsent)

    def flush(self) -> None:
        """Send what has gathered, as far as the socket takes it."""
        parts = self._parts
        if not parts or self._closed:
            return
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self._gathered_bytes = 0
        if self._unsent:
            self._unsent = memoryview(b"".join((self._unsent, data)))
            return
        taken = self._send(data)
        self.sent_bytes += taken
        if taken < len(data):
            self._unsent = memoryview(data)[taken:]
            self._watch_writable(True)

    def writable(self) -> None:
        """The socket takes more: send what was left over."""
        if self._unsent:
            taken = self._send(self._unsent)
            self.sent_bytes += taken
            self._unsent = self._unsent[taken:]
        if len(self._unsent) <= HIGH_WATER_BYTES // 2 and self._drained is not None:
            drained, self._drained = self._drained, None
            drained.set(None)
        if not self._unsent:
            self._watch_writable(False)

    def close(self) -> None:
        """The client is gone: drop everything; whoever waits goes on, to be cancelled elsewhere."""
        self._closed = True
        self._parts.clear()
        self._unsent = memoryview(b"")
        if self._drained is not None:
            drained, self._drained = self._drained, None
            drained.set(None)

    async def drain(self) -> None:
        if self._gathered_bytes >= FLUSH_BYTES:
            self.flush()
            while len(self._unsent) > HIGH_WATER_BYTES:
                if self._drained is None:
                    self._drained = Completion()
                await self._drained

    # ------------------------------------------------------------------------------------------ results

    def row_description(self, fields: Sequence[Field], binary: bool = False) -> None:
        formats = (1 if binary else 0,) * len(fields)
        self._parts.append(encode.row_description(tuple(fields), formats))
        self.encoder = row_encoder(tuple([field.type_oid for field in fields]), formats)

    def rows(self, batch: list[tuple[Any, ...]]) -> None:
        assert self.encoder is not None, "rows without a description"
        data = self.encoder(batch, self.context)
        self._parts.append(data)
        self._gathered_bytes += len(data)

    def complete(self, tag: str) -> None:
        self._parts.append(encode.command_complete(tag))

    def suspended(self) -> None:
        self._parts.append(encode.PORTAL_SUSPENDED)

    def empty_query(self) -> None:
        self._parts.append(encode.EMPTY_QUERY_RESPONSE)

    def notice(self, notice: DatabaseError, severity: str = "NOTICE") -> None:
        self._parts.append(encode.notice_response(notice, severity))

    def parameter_status(self, name: str, value: str) -> None:
        self._parts.append(encode.parameter_status(name, value))

    async def copy_in(self, binary: bool, columns: int) -> AsyncIterator[bytes]:
        self._parts.append(encode.copy_in_response(binary, columns))
        self._wire.server(ServerStep.COPY_IN)
        self.flush()
        return self.copy_input

    def copy_out(self, binary: bool, columns: int) -> None:
        self._parts.append(encode.copy_out_response(binary, columns))

    def copy_data(self, data: bytes) -> None:
        """``data`` holds whole rows; clients take any division into messages, as libpq hands on what it gets.

        psql and pg_dump want a row per message, and rows end in a newline in text formats: the session decides by the
        pieces it passes.
        """
        self._parts.append(encode.copy_data(data))
        self._gathered_bytes += len(data) + 5

    def copy_done(self) -> None:
        self._parts.append(encode.COPY_DONE)

    # ------------------------------------------------------------------------------------------ copy input

    def next_copy_chunk(self) -> bytes | None:
        """What has arrived of COPY data; None if the client must be waited for; raises StopAsyncIteration at the end."""
        wire = self._wire
        payloads = wire.take_copy_data()
        if payloads:
            return payloads[0] if len(payloads) == 1 else b"".join(payloads)
        while True:
            match wire.next_message():
                case None:
                    return None
                case m.CopyData(data):
                    return data
                case m.CopyDone():
                    raise StopAsyncIteration
                case m.CopyFail(reason):
                    raise QueryCanceled(f"COPY from stdin failed: {reason}")
                case _:
                    continue  # Flush and Sync are ignored during a copy


class CopyInput:
    """The iterator that a COPY FROM reads; ``waiting`` is there while it wants bytes that have not come."""

    def __init__(self, sink: ClientSink) -> None:
        self._sink = sink
        self.waiting: Completion[None] | None = None
        self.on_consumed: Callable[[], None] = lambda: None

    def arrived(self) -> None:
        """More bytes were received."""
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            waiting.set(None)

    def __aiter__(self) -> CopyInput:
        return self

    async def __anext__(self) -> bytes:
        while True:
            chunk = self._sink.next_copy_chunk()
            if chunk is not None:
                return chunk
            self.waiting = Completion()
            self.on_consumed()
            await self.waiting
