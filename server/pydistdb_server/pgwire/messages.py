"""The client's messages as values, and how their bodies are read (manual, 55.7).

``DECODERS[kind](body)`` makes the message of a type byte; ``decode_startup`` the untyped packets that open a
connection.  A body that contradicts itself raises DatabaseError: 08P01 as Postgres words it, or 22021 for text that
is not UTF-8.  Such an error leaves the framing intact, so the connection survives it.

Example: ``DECODERS[0x51](b"SELECT 1\\0") == Query("SELECT 1")``.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct, unpack_from
from typing import NamedTuple

from pydistdb.sql.errors import DatabaseError, FeatureNotSupported, ProtocolViolation

_INT16 = Struct("!h").unpack_from
_UINT16 = Struct("!H").unpack_from
_INT32 = Struct("!i").unpack_from
_UINT32 = Struct("!I").unpack_from

PROTOCOL_3_0 = 3 << 16
CANCEL_REQUEST_CODE = 80877102
SSL_REQUEST_CODE = 80877103
GSS_REQUEST_CODE = 80877104


class SslRequest(NamedTuple):
    pass


class GssRequest(NamedTuple):
    pass


class CancelRequest(NamedTuple):
    process_id: int
    secret_key: int


class Startup(NamedTuple):
    """``unknown_options``: ``_pq_.`` options, to be refused by NegotiateProtocolVersion; so is a ``minor`` above 0."""

    minor: int
    parameters: dict[str, str]
    unknown_options: tuple[str, ...]


class Query(NamedTuple):
    text: str


class Parse(NamedTuple):
    name: str
    text: str
    parameter_oids: tuple[int, ...]


class Bind(NamedTuple):
    portal: str
    statement: str
    parameter_formats: tuple[int, ...]
    parameters: tuple[bytes | None, ...]
    result_formats: tuple[int, ...]


class Describe(NamedTuple):
    """``kind``: b"S" for a statement, b"P" for a portal."""

    kind: bytes
    name: str


class Execute(NamedTuple):
    portal: str
    most_rows: int


class Close(NamedTuple):
    kind: bytes
    name: str


class Flush(NamedTuple):
    pass


class Sync(NamedTuple):
    pass


class Terminate(NamedTuple):
    pass


class CopyData(NamedTuple):
    data: bytes


class CopyDone(NamedTuple):
    pass


class CopyFail(NamedTuple):
    reason: str


class Password(NamedTuple):
    """Password, SASL and GSS answers share one type byte; the body is kept as it is."""

    data: bytes


class FunctionCall(NamedTuple):
    function_oid: int


Message = (
    SslRequest
    | GssRequest
    | CancelRequest
    | Startup
    | Query
    | Parse
    | Bind
    | Describe
    | Execute
    | Close
    | Flush
    | Sync
    | Terminate
    | CopyData
    | CopyDone
    | CopyFail
    | Password
    | FunctionCall
)


def insufficient() -> ProtocolViolation:
    return ProtocolViolation("insufficient data left in message")


def invalid_encoding(data: bytes) -> DatabaseError:
    """22021 for bytes that are not UTF-8, naming the first bad sequence as Postgres does."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        length = _sequence_length(data[error.start])
        bad = " ".join(f"0x{byte:02x}" for byte in data[error.start : error.start + length])
        return DatabaseError.of("22021", f'invalid byte sequence for encoding "UTF8": {bad}')
    return DatabaseError.of("22021", 'invalid byte sequence for encoding "UTF8": 0x00')


def _sequence_length(first: int) -> int:
    """How many bytes the first byte of a UTF-8 sequence promises."""
    if first & 0xE0 == 0xC0:
        return 2
    if first & 0xF0 == 0xE0:
        return 3
    if first & 0xF8 == 0xF0:
        return 4
    return 1


def _string(body: bytes, position: int) -> tuple[str, int]:
    end = body.find(0, position)
    if end < 0:
        raise ProtocolViolation("invalid string in message")
    piece = body[position:end]
    try:
        return piece.decode(), end + 1
    except UnicodeDecodeError:
        raise invalid_encoding(piece) from None


def _at_end(body: bytes, position: int) -> None:
    if position != len(body):
        raise ProtocolViolation("invalid message format")


def decode_startup(body: bytes) -> SslRequest | GssRequest | CancelRequest | Startup:
    """An untyped packet without its length."""
    if len(body) < 4:
        raise ProtocolViolation("invalid length of startup packet")
    code = _UINT32(body)[0]
    if code == SSL_REQUEST_CODE:
        return SslRequest()
    if code == GSS_REQUEST_CODE:
        return GssRequest()
    if code == CANCEL_REQUEST_CODE:
        if len(body) != 12:
            raise ProtocolViolation("invalid length of cancel request packet")
        return CancelRequest(_INT32(body, 4)[0], _INT32(body, 8)[0])
    major, minor = code >> 16, code & 0xFFFF
    if major != 3:
        raise FeatureNotSupported(f"unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.0")
    parameters: dict[str, str] = {}
    unknown: list[str] = []
    position = 4
    while position < len(body) and body[position] != 0:
        name, position = _string(body, position)
        if position >= len(body):
            break
        value, position = _string(body, position)
        if name.startswith("_pq_."):
            unknown.append(name)
        else:
            parameters[name] = value
    if position != len(body) - 1:
        raise ProtocolViolation("invalid startup packet layout: expected terminator as last byte")
    return Startup(minor, parameters, tuple(unknown))


def _query(body: bytes) -> Query:
    text, position = _string(body, 0)
    _at_end(body, position)
    return Query(text)


def _parse(body: bytes) -> Parse:
    name, position = _string(body, 0)
    text, position = _string(body, position)
    if position + 2 > len(body):
        raise insufficient()
    count = _UINT16(body, position)[0]
    position += 2
    if position + 4 * count > len(body):
        raise insufficient()
    oids = unpack_from(f"!{count}I", body, position)
    _at_end(body, position + 4 * count)
    return Parse(name, text, oids)


def _bind(body: bytes) -> Bind:
    """The message on the hot path: one call of struct per count and per parameter."""
    try:
        end = body.index(0)
        portal = body[:end].decode() if end else ""
        start = end + 1
        end = body.index(0, start)
        statement = body[start:end].decode() if end > start else ""
    except UnicodeDecodeError as error:
        raise invalid_encoding(error.object) from None
    except ValueError:
        raise ProtocolViolation("invalid string in message") from None
    size = len(body)
    position = end + 1
    if position + 2 > size:
        raise insufficient()
    count = _UINT16(body, position)[0]
    position += 2
    if count:
        if position + 2 * count > size:
            raise insufficient()
        formats = unpack_from(f"!{count}H", body, position)
        position += 2 * count
    else:
        formats = ()
    if position + 2 > size:
        raise insufficient()
    count = _UINT16(body, position)[0]
    position += 2
    parameters: list[bytes | None] = []
    for _ in range(count):
        if position + 4 > size:
            raise insufficient()
        length = _INT32(body, position)[0]
        position += 4
        if length < 0:
            if length != -1:
                raise insufficient()
            parameters.append(None)
        else:
            end = position + length
            if end > size:
                raise insufficient()
            parameters.append(body[position:end])
            position = end
    if position + 2 > size:
        raise insufficient()
    result_count = _UINT16(body, position)[0]
    position += 2
    if position + 2 * result_count != size:
        raise insufficient() if position + 2 * result_count > size else ProtocolViolation("invalid message format")
    result_formats = unpack_from(f"!{result_count}H", body, position) if result_count else ()
    return Bind(portal, statement, formats, tuple(parameters), result_formats)


def _kind_and_name(body: bytes, message: str) -> tuple[bytes, str]:
    if not body:
        raise ProtocolViolation("no data left in message")
    kind = body[:1]
    name, position = _string(body, 1)
    _at_end(body, position)
    if kind not in (b"S", b"P"):
        raise ProtocolViolation(f"invalid {message} message subtype {body[0]}")
    return kind, name


def _describe(body: bytes) -> Describe:
    return Describe(*_kind_and_name(body, "DESCRIBE"))


def _close(body: bytes) -> Close:
    return Close(*_kind_and_name(body, "CLOSE"))


def _execute(body: bytes) -> Execute:
    portal, position = _string(body, 0)
    if position + 4 > len(body):
        raise insufficient()
    _at_end(body, position + 4)
    return Execute(portal, _INT32(body, position)[0])


def _copy_fail(body: bytes) -> CopyFail:
    reason, position = _string(body, 0)
    _at_end(body, position)
    return CopyFail(reason)


def _function_call(body: bytes) -> FunctionCall:
    if len(body) < 4:
        raise insufficient()
    return FunctionCall(_UINT32(body)[0])


def _empty(message: Message) -> Callable[[bytes], Message]:
    def decode(body: bytes) -> Message:
        if body:
            raise ProtocolViolation("invalid message format")
        return message

    return decode


DECODERS: dict[int, Callable[[bytes], Message]] = {
    ord("Q"): _query,
    ord("P"): _parse,
    ord("B"): _bind,
    ord("D"): _describe,
    ord("E"): _execute,
    ord("C"): _close,
    ord("H"): _empty(Flush()),
    ord("S"): _empty(Sync()),
    ord("X"): _empty(Terminate()),
    ord("d"): CopyData,
    ord("c"): _empty(CopyDone()),
    ord("f"): _copy_fail,
    ord("p"): Password,
    ord("F"): _function_call,
}

TYPES: dict[int, type] = {
    ord("Q"): Query,
    ord("P"): Parse,
    ord("B"): Bind,
    ord("D"): Describe,
    ord("E"): Execute,
    ord("C"): Close,
    ord("H"): Flush,
    ord("S"): Sync,
    ord("X"): Terminate,
    ord("d"): CopyData,
    ord("c"): CopyDone,
    ord("f"): CopyFail,
    ord("p"): Password,
    ord("F"): FunctionCall,
}
"""The message class of each type byte: states are checked before a body is read."""
