r"""Numbers of transactions as xids; pg_lsn, a place in the log, and pg_snapshot, which transactions a query sees.

A place is a number of 64 bits, written as two hexadecimal halves; its value is the eight bytes, which order as it does.
A snapshot (txid_snapshot is its older name) is kept as its text,
``xmin:xmax:xip,xip,…``: all transactions below xmin have ended, none from xmax on had begun, and those listed between
were in progress.

>>> format_place(parse_place("16/B374D848", -1, None), None)
'16/B374D848'
>>> parse_snapshot("12:16:14,14,15", -1, None), snapshot_parts("12:16:14,15")
('12:16:14,15', (12, 16, (14, 15)))

Source: PostgreSQL 15 manual, 8.19, 8.20 and 9.26.8; pg_lsn.c, xid8funcs.c.
"""

from __future__ import annotations

import itertools
import re
import struct

from pydistdb.sql.errors import DatabaseError, InvalidTextRepresentation
from pydistdb.sql.types.base import EvalContext, TypeIO
from pydistdb.sql.types.integers import wrong_binary_length

NODE_BITS = 12
"""A transaction's number is a time in microseconds, and the node's number behind it in these bits."""
FIRST_NORMAL_XID = 3
"""Smaller ones mean something special in Postgres, and are never given to a transaction."""


def xid_of(number: int) -> int:
    """A transaction's number (xid8) as an xid, which has 32 bits: wherever Postgres shows one, this is what we show."""
    return number & 0xFFFF_FFFF


_PLACE = re.compile(r"([0-9a-fA-F]{1,8})/([0-9a-fA-F]{1,8})")
_SNAPSHOT = re.compile(r"(\d{1,20}):(\d{1,20}):((?:\d{1,20}(?:,\d{1,20})*)?,?)")
_LARGEST = 2**64 - 1
_MOST_IN_PROGRESS = 1 << 20

SnapshotParts = tuple[int, int, tuple[int, ...]]


def place(number: int) -> bytes:
    """A pg_lsn's value."""
    return number.to_bytes(8, "big")


def place_number(value: bytes) -> int:
    return int.from_bytes(value, "big")


def parse_place(text: str, modifier: int, context: EvalContext | None) -> bytes:
    match = _PLACE.fullmatch(text)
    if match is None:
        raise InvalidTextRepresentation(f'invalid input syntax for type pg_lsn: "{text}"')
    return place(int(match[1], 16) << 32 | int(match[2], 16))


def format_place(value: bytes, context: EvalContext | None) -> str:
    return f"{place_number(value[:4]):X}/{place_number(value[4:]):X}"


def _decode_place(data: bytes) -> bytes:
    if len(data) != 8:
        raise wrong_binary_length()
    return bytes(data)


def snapshot_text(xmin: int, xmax: int, in_progress: tuple[int, ...] | list[int]) -> str:
    """A snapshot's value."""
    return f"{xmin}:{xmax}:{','.join(map(str, in_progress))}"


def snapshot_parts(value: str) -> SnapshotParts:
    """(xmin, xmax, the transactions in progress)."""
    xmin, xmax, listed = value.split(":")
    return int(xmin), int(xmax), tuple([int(number) for number in listed.split(",")]) if listed else ()


def _is_possible(xmin: int, xmax: int, listed: list[int]) -> bool:
    in_order = all(left <= right for left, right in itertools.pairwise(listed))
    return 0 < xmin <= xmax <= _LARGEST and in_order and all(xmin <= number < xmax for number in listed)


def parse_snapshot(text: str, modifier: int, context: EvalContext | None) -> str:
    match = _SNAPSHOT.fullmatch(text)
    if match is not None:
        xmin, xmax = int(match[1]), int(match[2])
        listed = [int(number) for number in match[3].split(",") if number]
        if _is_possible(xmin, xmax, listed):
            return snapshot_text(xmin, xmax, list(dict.fromkeys(listed)))
    raise InvalidTextRepresentation(f'invalid input syntax for type pg_snapshot: "{text}"')


def _encode_snapshot(value: str) -> bytes:
    xmin, xmax, listed = snapshot_parts(value)
    return struct.pack(f"!iQQ{len(listed)}Q", len(listed), xmin, xmax, *listed)


def _decode_snapshot(data: bytes) -> str:
    bad = DatabaseError.of("22P03", "invalid external pg_snapshot data")
    try:
        (count,) = struct.unpack_from("!i", data)
        if not 0 <= count <= _MOST_IN_PROGRESS:
            raise bad
        xmin, xmax, *listed = struct.unpack(f"!{count + 2}Q", data[4:])
    except struct.error:
        raise bad from None
    if not _is_possible(xmin, xmax, listed):
        raise bad
    return snapshot_text(xmin, xmax, list(dict.fromkeys(listed)))


_SNAPSHOT_IO = TypeIO(parse_snapshot, lambda value, context: value, _decode_snapshot, _encode_snapshot, None)

IO = {
    "pg_lsn": TypeIO(parse_place, format_place, _decode_place, bytes, "bytes"),
    "pg_snapshot": _SNAPSHOT_IO,
    "txid_snapshot": _SNAPSHOT_IO,
}
