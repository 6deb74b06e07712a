"""The server's messages as bytes (manual, 55.7): pure functions, no state.

Example: ``ready_for_query(b"I") == b"Z\\0\\0\\0\\x05I"``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from struct import Struct

from pydistdb.sql.api import Field
from pydistdb.sql.errors import DatabaseError

_HEADER = Struct("!cI").pack
_INT16 = Struct("!h").pack
_UINT16 = Struct("!H").pack
_INT32 = Struct("!i").pack
_UINT32 = Struct("!I").pack
_FIELD = Struct("!IhIhih").pack

SSL_REFUSED = b"N"
AUTHENTICATION_OK = b"R\0\0\0\x08\0\0\0\0"
PARSE_COMPLETE = b"1\0\0\0\x04"
BIND_COMPLETE = b"2\0\0\0\x04"
CLOSE_COMPLETE = b"3\0\0\0\x04"
NO_DATA = b"n\0\0\0\x04"
EMPTY_QUERY_RESPONSE = b"I\0\0\0\x04"
PORTAL_SUSPENDED = b"s\0\0\0\x04"
COPY_DONE = b"c\0\0\0\x04"

READY: dict[bytes, bytes] = {status: b"Z\0\0\0\x05" + status for status in (b"I", b"T", b"E")}

MAX_ERROR_TEXT = 32_768
"""Longest text field of an error or notice."""


def message(kind: bytes, body: bytes) -> bytes:
    return _HEADER(kind, len(body) + 4) + body


def text(value: str) -> bytes:
    """A null-terminated string; what UTF-8 or C cannot carry is replaced."""
    return value.replace("\0", "").encode("utf-8", "replace") + b"\0"


def authentication_sasl(mechanisms: Sequence[str]) -> bytes:
    return message(b"R", _INT32(10) + b"".join(map(text, mechanisms)) + b"\0")


def authentication_sasl_continue(data: bytes) -> bytes:
    return message(b"R", _INT32(11) + data)


def authentication_sasl_final(data: bytes) -> bytes:
    return message(b"R", _INT32(12) + data)


def ready_for_query(status: bytes) -> bytes:
    return READY[status]


def parameter_status(name: str, value: str) -> bytes:
    return message(b"S", text(name) + text(value))


def backend_key_data(process_id: int, secret_key: int) -> bytes:
    return message(b"K", _INT32(process_id) + _INT32(secret_key))


def notification_response(process_id: int, channel: str, payload: str) -> bytes:
    return message(b"A", _INT32(process_id) + text(channel) + text(payload))


def negotiate_protocol_version(newest: int, unknown_options: Sequence[str]) -> bytes:
    return message(b"v", _UINT32(newest) + _UINT32(len(unknown_options)) + b"".join(map(text, unknown_options)))


@lru_cache(maxsize=256)
def command_complete(tag: str) -> bytes:
    """Cached: nearly all statements end in one of a few tags."""
    return message(b"C", text(tag))


@lru_cache(maxsize=512)
def row_description(fields: tuple[Field, ...], formats: tuple[int, ...]) -> bytes:
    """Cached: most statements run many times."""
    parts = [_INT16(len(fields))]
    for field, format_code in zip(fields, formats, strict=True):
        parts.append(text(field.name))
        parts.append(
            _FIELD(
                field.table_oid,
                field.column_number,
                field.type_oid,
                field.type_length,
                field.modifier,
                format_code,
            )
        )
    return message(b"T", b"".join(parts))


def parameter_description(oids: Sequence[int]) -> bytes:
    return message(b"t", _UINT16(len(oids)) + b"".join(map(_UINT32, oids)))


def copy_in_response(binary: bool, columns: int) -> bytes:
    return _copy_response(b"G", binary, columns)


def copy_out_response(binary: bool, columns: int) -> bytes:
    return _copy_response(b"H", binary, columns)


def _copy_response(kind: bytes, binary: bool, columns: int) -> bytes:
    code = 1 if binary else 0
    return message(kind, bytes([code]) + _INT16(columns) + _INT16(code) * columns)


def copy_data(data: bytes) -> bytes:
    return message(b"d", data)


def error_response(error: DatabaseError, severity: str | None = None) -> bytes:
    return message(b"E", _error_fields(error, severity or error.severity))


def notice_response(notice: DatabaseError, severity: str = "NOTICE") -> bytes:
    return message(b"N", _error_fields(notice, severity))


def _error_fields(error: DatabaseError, severity: str) -> bytes:
    parts = [
        b"S" + text(severity),
        b"V" + text(severity),
        b"C" + text(error.sqlstate),
        b"M" + text(error.message[:MAX_ERROR_TEXT] or "unknown error"),
    ]
    for letter, value in (
        (b"D", error.detail),
        (b"H", error.hint),
        (b"W", error.where),
        (b"s", error.schema),
        (b"t", error.table),
        (b"c", error.column),
        (b"d", error.datatype),
        (b"n", error.constraint),
        (b"R", error.routine),
    ):
        if value is not None:
            parts.append(letter + text(value[:MAX_ERROR_TEXT]))
    if error.position is not None:
        parts.append(b"P" + text(str(error.position)))
    parts.append(b"\0")
    return b"".join(parts)
