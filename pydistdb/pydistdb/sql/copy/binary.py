"""COPY data in binary format: a header, then tuples of length-prefixed values, then -1 (manual, COPY)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Any, NamedTuple

from pydistdb.sql.copy.formats import BINARY_SIGNATURE, bad_format
from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.types import domains, registry
from pydistdb.sql.types.base import EvalContext, SqlType

MAX_LINE_BYTES = 64 << 20

Row = list[Any]


class CopyColumn(NamedTuple):
    name: str
    type: SqlType


class Batch(NamedTuple):
    """Rows and the line on which each of them ended."""

    rows: list[Row]
    lines: Sequence[int]
    texts: Sequence[str] = ()
    """The lines themselves; of binary data there are none."""


_read_int16 = Struct("!h").unpack_from
_read_int32 = Struct("!i").unpack_from
_HEADER_BYTES = len(BINARY_SIGNATURE) + 8


class BinaryReader:
    """Binary format: a header, then tuples of length-prefixed values, then -1."""

    def __init__(self, table: str, columns: Sequence[CopyColumn], context: EvalContext) -> None:
        self._table = table
        self._context = context
        self._has_domains = any(domains.is_domain(column.type.oid) for column in columns)
        self._columns = columns
        self._decoders = [registry.io(column.type.oid).decode for column in columns]
        self._buffer = b""
        self._position = 0
        self._header_read = False
        self._ended = False
        self._row = 0

    def feed(self, data: bytes) -> Batch:
        self._buffer = self._buffer[self._position :] + data
        self._position = 0
        if not self._header_read and not self._read_header():
            return Batch([], ())
        first = self._row
        rows = list(self._tuples())
        return Batch(rows, range(first + 1, first + 1 + len(rows)))

    def finish(self) -> Batch:
        if not self._header_read:
            raise bad_format("COPY file signature not recognized")
        if not self._ended and self._position < len(self._buffer):
            raise bad_format("unexpected EOF in COPY data", f"COPY {self._table}, line {self._row + 1}")
        return Batch([], ())

    def _read_header(self) -> bool:
        buffer = self._buffer
        if not BINARY_SIGNATURE.startswith(buffer[: len(BINARY_SIGNATURE)]):
            raise bad_format("COPY file signature not recognized")
        if len(buffer) < _HEADER_BYTES:
            return False
        flags = _read_int32(buffer, len(BINARY_SIGNATURE))[0]
        if flags & (1 << 16):
            raise bad_format("invalid COPY file header (WITH OIDS)")
        if flags & 0xFFFE0000:
            raise bad_format("unrecognized critical flags in COPY file header")
        extension = _read_int32(buffer, len(BINARY_SIGNATURE) + 4)[0]
        if extension < 0:
            raise bad_format("invalid COPY file header (missing length)")
        if len(buffer) < _HEADER_BYTES + extension:
            return False
        self._position = _HEADER_BYTES + extension
        self._header_read = True
        return True

    def _tuples(self) -> Iterator[Row]:
        buffer = self._buffer
        size = len(buffer)
        expected = len(self._columns)
        while True:
            position = self._position
            if position + 2 > size:
                return
            where = f"COPY {self._table}, line {self._row + 1}"
            if self._ended:
                raise bad_format("received copy data after EOF marker", where)
            fields = _read_int16(buffer, position)[0]
            position += 2
            if fields == -1:
                self._ended = True
                self._position = position
                continue
            if fields != expected:
                raise bad_format(f"row field count is {fields}, expected {expected}", where)
            raw: list[bytes | None] = []
            for _ in range(expected):
                if position + 4 > size:
                    return
                length = _read_int32(buffer, position)[0]
                position += 4
                if length == -1:
                    raw.append(None)
                    continue
                if length < 0 or length > MAX_LINE_BYTES:
                    raise bad_format("invalid field size", where)
                if position + length > size:
                    return
                raw.append(buffer[position : position + length])
                position += length
            self._position = position
            self._row += 1
            yield self._decode(raw, where)

    def _decode(self, raw: list[bytes | None], where: str) -> Row:
        row: Row = []
        for data, decode, column in zip(raw, self._decoders, self._columns, strict=True):
            try:
                value = None if data is None else decode(data)
                if self._has_domains and domains.is_domain(column.type.oid):
                    domains.check_value(column.type.oid, value, self._context)
                row.append(value)
            except DatabaseError as error:
                error.where = f"{where}, column {column.name}"
                raise
        return row
