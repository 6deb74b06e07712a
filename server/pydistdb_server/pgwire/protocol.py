"""One client connection without its socket: bytes in, messages out, and the state that decides what is allowed.

Theory of operation
-------------------
``receive`` takes whatever arrived; ``next_message`` gives the next complete message or None.  The state (states.py)
moves with every message given out, and with every ``ServerStep`` the owner reports.  While the server answers a Query
or a Sync the state has no transitions and ``next_message`` gives None, so pipelined messages wait in the buffer, in
order.

Two kinds of error are raised as DatabaseError: a *fatal* one (severity FATAL: impossible type byte or length, message
that the state does not allow) after which the owner answers and hangs up, and a plain one (bad body in a sound
frame), after which the connection goes on.

Example::

    wire = WireProtocol()
    wire.receive(startup_packet)
    wire.next_message()                 # Startup(minor=0, parameters={"user": "postgres"}, …)
    wire.server(ServerStep.READY)
    wire.receive(b"Q\\0\\0\\0\\x0dSELECT 1\\0")
    wire.next_message()                 # Query(text="SELECT 1")
"""

from __future__ import annotations

from struct import Struct

from pydistdb.sql.errors import ProtocolViolation

from pydistdb_server.pgwire import messages as m
from pydistdb_server.pgwire.states import CLIENT, SERVER, ServerStep, State

_FRAME = Struct("!Bi").unpack_from
_LENGTH = Struct("!i").unpack_from

MAX_MESSAGE_BYTES = 64 << 20
"""Largest message taken from a client; statements, rows of COPY and parameters must fit."""

MAX_SMALL_MESSAGE_BYTES = 30_000
"""Largest message of a kind that carries no user data."""

MAX_STARTUP_BYTES = 10_000

MAX_PASSWORD_BYTES = 1_028
"""Largest SASL message: whoever has not said who it is gets no memory to fill."""

_SMALL = frozenset(b"DECHSXcf")
_COPY_DATA = ord("d")
_SKIPPED = m.Password(b"skipped")
"""Stands for a message that the state SKIPPING swallows."""

SYNC = b"S\0\0\0\x04"
EXECUTE_SYNC = b"E\0\0\0\x09\0\0\0\0\0" + SYNC
DESCRIBE_EXECUTE_SYNC = b"D\0\0\0\x06P\0" + EXECUTE_SYNC
"""What libpq sends behind every Bind of the unnamed portal; recognised whole, it saves three decodings."""

_NO_FORMATS = b"\0\0"
_TEXT_FORMAT = b"\0\1\0\0"
"""One format for all results, which is text: so libpq says it."""
_BIND = ord("B")


class FatalViolation(ProtocolViolation):
    """A violation after which the stream cannot be trusted."""

    severity = "FATAL"


class WireProtocol:
    """The sans-IO half of a client connection."""

    __slots__ = ("_buffer", "_missing_bytes", "_pieces", "_position", "max_message_bytes", "state")

    def __init__(self, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self.state = State.STARTUP
        self.max_message_bytes = max_message_bytes
        self._buffer = b""
        self._position = 0
        self._pieces: list[bytes] = []
        self._missing_bytes = 0

    @property
    def buffered_bytes(self) -> int:
        """How much was received but not yet given out."""
        return len(self._buffer) - self._position + sum(map(len, self._pieces))

    def receive(self, data: bytes) -> None:
        """Add bytes that the client sent.

        The pieces of a long message are joined once it is whole: joining at each arrival would be quadratic."""
        if self._missing_bytes > len(data):
            self._missing_bytes -= len(data)
            self._pieces.append(data)
            return
        self._missing_bytes = 0
        if self._pieces:
            data = b"".join((*self._pieces, data))
            self._pieces.clear()
        if self._position >= len(self._buffer):
            self._buffer = data
        else:
            self._buffer = self._buffer[self._position :] + data
        self._position = 0

    def server(self, step: ServerStep) -> None:
        """Note what the server did."""
        self.state = SERVER[self.state][step]

    def next_message(self) -> m.Message | None:
        """The next complete message that the state lets through, or None; raises as the introduction says."""
        while True:
            message = self._next()
            if message is not _SKIPPED:
                return message

    def _next(self) -> m.Message | None:
        state = self.state
        if state is State.STARTUP:
            return self._next_startup()
        allowed = CLIENT[state]
        if not allowed:
            return None
        buffer = self._buffer
        position = self._position
        if len(buffer) - position < 5:
            return None
        kind, length = _FRAME(buffer, position)
        message_type = m.TYPES.get(kind)
        if message_type is None:
            raise self._fatal(f"invalid frontend message type {kind}")
        limit = MAX_SMALL_MESSAGE_BYTES if kind in _SMALL else self.max_message_bytes
        if state is State.AUTHENTICATING:
            limit = MAX_PASSWORD_BYTES
        if length < 4 or length > limit:
            raise self._fatal("invalid message length")
        end = position + 1 + length
        next_state = allowed.get(message_type)
        if next_state is None:
            raise self._unexpected(state, kind)
        if end > len(buffer):
            if not self._pieces:
                self._missing_bytes = end - len(buffer)
            return None
        self._position = end
        self.state = next_state
        if next_state is State.SKIPPING:  # nobody wants to know what it says
            return _SKIPPED
        return m.DECODERS[kind](buffer[position + 5 : end])

    def take_copy_data(self) -> list[bytes]:
        """The payloads of all complete CopyData messages in front (clients may send one per row)."""
        buffer = self._buffer
        position = self._position
        size = len(buffer)
        payloads: list[bytes] = []
        while size - position >= 5:
            kind, length = _FRAME(buffer, position)
            end = position + 1 + length
            if kind != _COPY_DATA or length < 4 or end > size:
                break
            payloads.append(buffer[position + 5 : end])
            position = end
        self._position = position
        return payloads

    @property
    def is_at_rest(self) -> bool:
        """Nothing is buffered, and the next message begins something new."""
        return self.state is State.READY and self._position >= len(self._buffer) and not self._pieces

    def take(self, expected: bytes) -> bool:
        """Skip ``expected`` if exactly that is next (the owner then accounts for its effect on the state)."""
        if self._buffer.startswith(expected, self._position):
            self._position += len(expected)
            return True
        return False

    def is_next(self, expected: bytes) -> bool:
        """Tell whether ``expected`` is what comes next."""
        return self._buffer.startswith(expected, self._position)

    def _next_startup(self) -> m.Message | None:
        buffer = self._buffer
        position = self._position
        if len(buffer) - position < 4:
            return None
        length = _LENGTH(buffer, position)[0]
        if length < 8 or length > MAX_STARTUP_BYTES:
            raise self._fatal("invalid length of startup packet")
        end = position + length
        if end > len(buffer):
            return None
        self._position = end
        message = m.decode_startup(buffer[position + 4 : end])
        self.state = CLIENT[State.STARTUP][type(message)]
        return message

    def _unexpected(self, state: State, kind: int) -> FatalViolation:
        if state in (State.COPY_IN_SIMPLE, State.COPY_IN_EXTENDED):
            return self._fatal(f"unexpected message type 0x{kind:02X} during COPY from stdin")
        if state is State.AUTHENTICATING:
            return self._fatal(f"expected password response, got message type {kind}")
        return self._fatal(f"invalid frontend message type {kind}")

    def _fatal(self, text: str) -> FatalViolation:
        self._buffer = b""
        self._position = 0
        self._pieces.clear()
        return FatalViolation(text)


def plain_bind(data: bytes) -> tuple[bytes, list[bytes | None]] | None:
    """The statement's name and the parameters, if ``data`` is exactly what libpq sends to run a prepared statement: a Bind
    of the unnamed portal with everything in text format, Describe, Execute, Sync.  None for anything else."""
    if not data.endswith(DESCRIBE_EXECUTE_SYNC):
        return None
    kind, length = _FRAME(data)
    body_end = len(data) - len(DESCRIBE_EXECUTE_SYNC)
    formats = _TEXT_FORMAT if data.startswith(_TEXT_FORMAT, body_end - 4) else _NO_FORMATS
    last = body_end - len(formats)
    end = data.find(b"\0", 6)
    if (
        kind != _BIND
        or length + 1 != body_end
        or data[5]
        or data[end + 1 : end + 3] != _NO_FORMATS
        or not data.startswith(formats, last)
    ):
        return None
    position = end + 5
    parameters: list[bytes | None] = []
    while position + 4 <= last:
        size = _LENGTH(data, position)[0]
        position += 4
        if size < 0:
            if size != -1:
                return None
            parameters.append(None)
        else:
            parameters.append(data[position : position + size])
            position += size
    if position != last or len(parameters) != data[end + 3] << 8 | data[end + 4]:
        return None
    return data[6:end], parameters
