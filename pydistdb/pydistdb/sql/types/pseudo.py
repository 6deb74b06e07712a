"""Row values, void, tid and the pseudo-types that only function signatures mention.

A row value is a tuple; ``Record`` is a tuple that knows the types (and names) of its fields, as output needs them: the
executor makes one for ROW(…), functions returning records do too.  A plain tuple is written by the look of its values.

    >>> format_record(Record((1, "a b", None), (INT4, TEXT, TEXT)), None)
    '(1,"a b",)'

Source: PostgreSQL 15 manual, 8.16.6.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from pydistdb.sql.errors import FeatureNotSupported, InvalidTextRepresentation
from pydistdb.sql.types import known
from pydistdb.sql.types.arrays import PgArray
from pydistdb.sql.types.base import EvalContext, Interval, SqlType, TypeIO


class Record(tuple[Any, ...]):
    """A row value with the types of its fields; equal to the plain tuple of the same values."""

    types: tuple[SqlType, ...]
    names: tuple[str, ...]

    def __new__(cls, values: Sequence[Any], types: Sequence[SqlType], names: Sequence[str] = ()) -> Record:
        record = super().__new__(cls, values)
        record.types = tuple(types)
        record.names = tuple(names) or tuple(f"f{position}" for position in range(1, len(record) + 1))
        return record

    def __getnewargs__(self) -> tuple[Any, ...]:
        """For records that go to disk in the course of a query."""
        return tuple(self), self.types, self.names


_QUOTED_CHARACTERS = frozenset('"\\(), \t\n\r\v\f')


def quote_field(text: str) -> str:
    if not text or not _QUOTED_CHARACTERS.isdisjoint(text):
        return '"' + text.replace("\\", "\\\\").replace('"', '""') + '"'
    return text


def guess_type(value: Any) -> SqlType:
    """Tell a type that a runtime value of unknown type could have."""
    match value:
        case bool():
            return known.BOOL
        case int():
            return known.INT8
        case float():
            return known.FLOAT8
        case Decimal():
            return known.NUMERIC
        case bytes():
            return known.BYTEA
        case Interval():
            return known.INTERVAL
        case tuple():
            return known.RECORD
        case PgArray():
            first = next((item for item in value.items if item is not None), "")
            return known.TYPES_BY_OID[guess_type(first).array_oid]
        case _:
            return known.TEXT


def field_types(value: tuple[Any, ...]) -> tuple[SqlType, ...]:
    return value.types if isinstance(value, Record) else tuple([guess_type(item) for item in value])


def format_record(value: tuple[Any, ...], context: EvalContext | None) -> str:
    from pydistdb.sql.types.registry import io

    words = [
        "" if item is None else quote_field(io(sql_type.oid).format(item, context))  # type: ignore[arg-type]
        for item, sql_type in zip(value, field_types(value), strict=True)
    ]
    return "(" + ",".join(words) + ")"


def encode_record(value: tuple[Any, ...]) -> bytes:
    from pydistdb.sql.types.registry import io

    parts = [struct.pack("!i", len(value))]
    for item, sql_type in zip(value, field_types(value), strict=True):
        if item is None:
            parts.append(struct.pack("!Ii", sql_type.oid, -1))
        else:
            data = io(sql_type.oid).encode(item)
            parts.append(struct.pack("!Ii", sql_type.oid, len(data)) + data)
    return b"".join(parts)


def _no_input(type_name: str) -> Callable[[str, int, EvalContext], Any]:
    def parse(text: str, modifier: int, context: EvalContext) -> Any:
        raise FeatureNotSupported(f"cannot accept a value of type {type_name}")

    return parse


def _no_decode(type_name: str) -> Callable[[bytes], Any]:
    def decode(data: bytes) -> Any:
        raise FeatureNotSupported(f"cannot accept a value of type {type_name}")

    return decode


def _no_record(text: str, modifier: int, context: EvalContext) -> Any:
    raise FeatureNotSupported("input of anonymous composite types is not implemented")


_TID = re.compile(r"\(([0-9]+),([0-9]+)\)")
_tid_binary = struct.Struct("!IH")


LONGEST_TID = 1300
"""Digits of the longest key there is, and some."""


def _pack_tid(value: tuple[int, int]) -> bytes:
    if value[0] >= 2**32:
        raise FeatureNotSupported("a ctid this long has no binary format", hint="Ask for it as text: ctid::text.")
    return _tid_binary.pack(*value)


def parse_tid(text: str, modifier: int, context: EvalContext | None) -> tuple[int, int]:
    """Read a tuple identifier: block and item.  The block may be longer than Postgres's (functions/row_keys.py)."""
    match = _TID.fullmatch(text)
    if match is None or len(text) > LONGEST_TID or int(match[2]) >= 2**16:
        raise InvalidTextRepresentation(f'invalid input syntax for type tid: "{text}"')
    return int(match[1]), int(match[2])


IO = {
    "record": TypeIO(_no_record, format_record, _no_decode("record"), encode_record, None),
    "void": TypeIO(
        lambda text, modifier, context: "", lambda value, context: "", lambda data: "", lambda value: b"", None
    ),
    "tid": TypeIO(
        parse_tid,
        lambda value, context: f"({value[0]},{value[1]})",
        _tid_binary.unpack,
        _pack_tid,
        None,
        # Integers in stored rows have at most 64 bits.
        lambda value: [str(value[0]), value[1]],
        lambda stored: (int(stored[0]), stored[1]),
    ),
}
_SIGNATURE_TYPES = """
any anyarray anyelement anynonarray anyenum anycompatible anycompatiblearray anycompatiblenonarray internal
trigger
"""
for _name in _SIGNATURE_TYPES.split():
    IO[_name] = TypeIO(
        _no_input(_name), lambda value, context: str(value), _no_decode(_name), lambda value: str(value).encode(), None
    )
