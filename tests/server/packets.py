"""The client's side of the protocol, for tests: messages to bytes, and the server's bytes to readable lines."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def text(value: str) -> bytes:
    return value.encode() + b"\0"


def startup(minor: int = 0, **parameters: str) -> bytes:
    body = struct.pack("!I", (3 << 16) | minor)
    body += b"".join(text(name) + text(value) for name, value in parameters.items()) + b"\0"
    return struct.pack("!I", len(body) + 4) + body


def query(sql: str) -> bytes:
    return message(b"Q", text(sql))


def parse(name: str, sql: str, oids: Sequence[int] = ()) -> bytes:
    return message(b"P", text(name) + text(sql) + struct.pack(f"!H{len(oids)}I", len(oids), *oids))


def bind(
    portal: str = "",
    statement: str = "",
    parameters: Sequence[bytes | None] = (),
    formats: Sequence[int] = (),
    result_formats: Sequence[int] = (),
) -> bytes:
    body = text(portal) + text(statement) + struct.pack(f"!H{len(formats)}H", len(formats), *formats)
    body += struct.pack("!H", len(parameters))
    for value in parameters:
        body += struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value
    body += struct.pack(f"!H{len(result_formats)}H", len(result_formats), *result_formats)
    return message(b"B", body)


def describe(kind: bytes, name: str = "") -> bytes:
    return message(b"D", kind + text(name))


def execute(portal: str = "", most_rows: int = 0) -> bytes:
    return message(b"E", text(portal) + struct.pack("!i", most_rows))


def close(kind: bytes, name: str = "") -> bytes:
    return message(b"C", kind + text(name))


SYNC = message(b"S")
FLUSH = message(b"H")
TERMINATE = message(b"X")
COPY_DONE = message(b"c")


def copy_data(data: bytes) -> bytes:
    return message(b"d", data)


def copy_fail(reason: str) -> bytes:
    return message(b"f", text(reason))


_NAMES = {
    b"1": "ParseComplete",
    b"2": "BindComplete",
    b"3": "CloseComplete",
    b"n": "NoData",
    b"I": "EmptyQueryResponse",
    b"s": "PortalSuspended",
    b"c": "CopyDone",
}


def answers(data: bytes) -> Iterator[str]:
    """The server's messages, a line each."""
    position = 0
    while position < len(data):
        kind = data[position : position + 1]
        if len(data) - position < 5:
            yield f"(incomplete: {data[position:]!r})"
            return
        length = struct.unpack_from("!I", data, position + 1)[0]
        body = data[position + 5 : position + 1 + length]
        if len(body) < length - 4:
            yield f"(incomplete: {data[position:]!r})"
            return
        position += 1 + length
        yield _answer(kind, body)


def _answer(kind: bytes, body: bytes) -> str:
    match kind:
        case b"T":
            return "RowDescription " + ", ".join(_fields(body))
        case b"D":
            return "DataRow " + ", ".join(_values(body))
        case b"C":
            return f"CommandComplete {body[:-1].decode()}"
        case b"Z":
            return f"ReadyForQuery {body.decode()}"
        case b"E" | b"N":
            name = "ErrorResponse" if kind == b"E" else "NoticeResponse"
            return f"{name} " + " ".join(_error(body))
        case b"S":
            name, value = body[:-1].split(b"\0")
            return f"ParameterStatus {name.decode()}={value.decode()}"
        case b"K":
            return "BackendKeyData"
        case b"R":
            return f"Authentication {struct.unpack('!I', body)[0]}"
        case b"t":
            count = struct.unpack_from("!H", body)[0]
            return f"ParameterDescription {list(struct.unpack_from(f'!{count}I', body, 2))}"
        case b"G" | b"H":
            name = "CopyInResponse" if kind == b"G" else "CopyOutResponse"
            return f"{name} format={body[0]} columns={struct.unpack_from('!H', body, 1)[0]}"
        case b"d":
            return f"CopyData {body!r}"
        case b"v":
            count = struct.unpack_from("!I", body, 4)[0]
            return f"NegotiateProtocolVersion {body[:4].hex()} {count} options"
    return _NAMES.get(kind, f"{kind!r} {body!r}")


def _fields(body: bytes) -> Iterator[str]:
    count = struct.unpack_from("!H", body)[0]
    position = 2
    for _ in range(count):
        end = body.index(0, position)
        name = body[position:end].decode()
        _, _, oid, _, _, form = struct.unpack_from("!IhIhih", body, end + 1)
        yield f"{name}:{oid}" + (":binary" if form else "")
        position = end + 19


def _values(body: bytes) -> Iterator[str]:
    count = struct.unpack_from("!H", body)[0]
    position = 2
    for _ in range(count):
        length = struct.unpack_from("!i", body, position)[0]
        position += 4
        if length < 0:
            yield "NULL"
        else:
            value = body[position : position + length]
            yield value.decode() if value.isascii() and value.decode().isprintable() else value.hex()
            position += length


def _error(body: bytes) -> Iterator[str]:
    for field in body.split(b"\0"):
        letter, value = field[:1].decode(), field[1:].decode()
        if letter in ("S", "C", "M", "D", "H", "W", "P", "n", "t"):
            yield f"{letter}={value!r}" if letter not in ("S", "C", "P") else f"{letter}={value}"
