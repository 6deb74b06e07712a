"""Order-preserving keys: bytewise order of the encoding is SQL order of the values.

Every column is self-delimiting, so no key is a proper prefix of another key of the same index, and a prefix of columns
is a prefix of bytes.  A column is one marker byte and its payload:

* marker ``0x10``: a value follows; ``0xF0``: NULL (after all values), or ``0x00`` where NULLs come first;
* payload by kind, all its bytes inverted if the column is descending:

=========  =========================================================================================================
bool       one byte
int        8 bytes big-endian, offset by 2**63 (all integer, date and time types)
float      8 bytes: IEEE 754, sign bit flipped (all bits if negative); -0 is 0; NaN is the greatest, as in Postgres
decimal    class byte (-inf < negative < zero < positive < +inf < NaN), exponent, digit pairs as 1..100, 0; negatives
           inverted; trailing zeros dropped, since 1.0 and 1.00 are equal
text       UTF-8, 0 (text holds no NUL); this is the C collation
bytes      0 written as 00 FF, terminated by 00 01
uuid       16 bytes
interval   the span in microseconds with months of 30 days (Postgres's ordering), 12 bytes: equal spans, equal keys
timetz     the instant (8 bytes), then the zone (4)
char       text without its trailing blanks
=========  =========================================================================================================

Who has other values to order adds kinds of its own (``add_kind``).

``key_encoder`` compiles one function for an index; for ``(int, text)`` and the values ``(1, "a")``::

    10 80 00 00 00 00 00 00 01   10 61 00

Decoding gives back equal values, though not always the same ones (1.00 comes back as 1): rows keep the originals.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

VALUE_MARKER = 0x10
NULL_LAST_MARKER = 0xF0
NULL_FIRST_MARKER = 0x00

_INT_OFFSET = 1 << 63
_INTERVAL_OFFSET = 1 << 95
_MICROSECONDS_PER_DAY = 86_400_000_000
_INVERT = bytes(255 - byte for byte in range(256))
_pack_uint64 = struct.Struct(">Q").pack
_pack_double = struct.Struct(">d").pack
_unpack_uint64 = struct.Struct(">Q").unpack_from
_unpack_double = struct.Struct(">d").unpack

Encoder = Callable[[Sequence[Any]], bytes]
Decoder = Callable[[bytes, int], tuple[list[Any], int]]


# ------------------------------------------------------------------------------------------------- payloads by kind


def _encode_bool(value: bool) -> bytes:
    return b"\x01" if value else b"\x00"


def _decode_bool(data: bytes, offset: int) -> tuple[bool, int]:
    return data[offset] == 1, offset + 1


def _encode_int(value: int) -> bytes:
    return _pack_uint64(value + _INT_OFFSET)


def _decode_int(data: bytes, offset: int) -> tuple[int, int]:
    return int(_unpack_uint64(data, offset)[0]) - _INT_OFFSET, offset + 8


def _encode_float(value: float) -> bytes:
    if value != value:
        return b"\xff" * 8
    bits = int.from_bytes(_pack_double(value + 0.0), "big")  # adding 0.0 turns -0.0 into 0.0
    return _pack_uint64(bits ^ (0xFFFFFFFFFFFFFFFF if bits >> 63 else _INT_OFFSET))


def _decode_float(data: bytes, offset: int) -> tuple[float, int]:
    bits = int(_unpack_uint64(data, offset)[0])
    if bits == 0xFFFFFFFFFFFFFFFF:
        return float("nan"), offset + 8
    bits ^= _INT_OFFSET if bits >> 63 else 0xFFFFFFFFFFFFFFFF
    return float(_unpack_double(_pack_uint64(bits))[0]), offset + 8


_NEGATIVE_INFINITY, _NEGATIVE, _ZERO, _POSITIVE, _POSITIVE_INFINITY, _NAN = 0x10, 0x20, 0x30, 0x40, 0x50, 0x60
_EXPONENT_OFFSET = 1 << 31


def _encode_decimal(value: Decimal) -> bytes:
    if value.is_nan():
        return bytes((_NAN,))
    if value.is_infinite():
        return bytes((_NEGATIVE_INFINITY if value.is_signed() else _POSITIVE_INFINITY,))
    sign, digits, exponent = value.as_tuple()
    end = len(digits)
    while end and digits[end - 1] == 0:
        end -= 1
    start = 0
    while start < end and digits[start] == 0:
        start += 1
    if start == end:
        return bytes((_ZERO,))
    # The number is 0.d1d2d3… x 10**weight, so a greater weight is a greater magnitude.
    weight = len(digits) - start + int(exponent)
    significant = digits[start:end]
    if len(significant) % 2:
        significant += (0,)
    pairs = bytes(10 * significant[i] + significant[i + 1] + 1 for i in range(0, len(significant), 2))
    payload = (weight + _EXPONENT_OFFSET).to_bytes(4, "big") + pairs + b"\x00"
    if sign:
        return bytes((_NEGATIVE,)) + payload.translate(_INVERT)
    return bytes((_POSITIVE,)) + payload


def _decode_decimal(data: bytes, offset: int) -> tuple[Decimal, int]:
    kind = data[offset]
    offset += 1
    if kind == _NAN:
        return Decimal("NaN"), offset
    if kind == _ZERO:
        return Decimal(0), offset
    if kind in (_NEGATIVE_INFINITY, _POSITIVE_INFINITY):
        return Decimal("-Infinity" if kind == _NEGATIVE_INFINITY else "Infinity"), offset
    end = data.index(b"\xff" if kind == _NEGATIVE else b"\x00", offset + 4)
    payload = data[offset:end]
    if kind == _NEGATIVE:
        payload = payload.translate(_INVERT)
    weight = int.from_bytes(payload[:4], "big") - _EXPONENT_OFFSET
    digits = tuple(digit for pair in payload[4:] for digit in divmod(pair - 1, 10))
    return Decimal((1 if kind == _NEGATIVE else 0, digits, weight - len(digits))), end + 1


def _encode_text(value: str) -> bytes:
    return value.encode() + b"\x00"


def _decode_text(data: bytes, offset: int) -> tuple[str, int]:
    end = data.index(b"\x00", offset)
    return data[offset:end].decode(), end + 1


def encode_bytes(value: bytes) -> bytes:
    """A byte string as a self-delimiting, order-preserving one (for keys built from other keys)."""
    return value.replace(b"\x00", b"\x00\xff") + b"\x00\x01"


def decode_bytes(data: bytes, offset: int = 0) -> tuple[bytes, int]:
    """Undo ``encode_bytes``; returns the value and the offset behind it."""
    end = offset
    while True:
        end = data.index(b"\x00", end)
        if data[end + 1] == 0x01:
            return data[offset:end].replace(b"\x00\xff", b"\x00"), end + 2
        end += 2


def _encode_uuid(value: bytes) -> bytes:
    return value


def _decode_uuid(data: bytes, offset: int) -> tuple[bytes, int]:
    return data[offset : offset + 16], offset + 16


def _encode_interval(value: tuple[int, int, int]) -> bytes:
    months, days, microseconds = value
    span = (months * 30 + days) * _MICROSECONDS_PER_DAY + microseconds
    return (span + _INTERVAL_OFFSET).to_bytes(12, "big")


def _decode_interval(data: bytes, offset: int) -> tuple[tuple[int, int, int], int]:
    span = int.from_bytes(data[offset : offset + 12], "big") - _INTERVAL_OFFSET
    days, microseconds = divmod(span, _MICROSECONDS_PER_DAY)
    return (0, days, microseconds), offset + 12


def _encode_timetz(value: tuple[int, int]) -> bytes:
    microseconds, zone = value
    return _encode_int(microseconds + zone * 1_000_000) + (zone + (1 << 31)).to_bytes(4, "big")


def _decode_timetz(data: bytes, offset: int) -> tuple[tuple[int, int], int]:
    instant, offset = _decode_int(data, offset)
    zone = int.from_bytes(data[offset : offset + 4], "big") - (1 << 31)
    return (instant - zone * 1_000_000, zone), offset + 4


_KINDS: dict[str, tuple[Callable[[Any], bytes], Callable[[bytes, int], tuple[Any, int]]]] = {
    "bool": (_encode_bool, _decode_bool),
    "int": (_encode_int, _decode_int),
    "float": (_encode_float, _decode_float),
    "decimal": (_encode_decimal, _decode_decimal),
    "text": (_encode_text, _decode_text),
    "bytes": (encode_bytes, decode_bytes),
    "uuid": (_encode_uuid, _decode_uuid),
    "interval": (_encode_interval, _decode_interval),
    "timetz": (_encode_timetz, _decode_timetz),
    "char": (lambda value: _encode_text(value.rstrip(" ")), _decode_text),
}


def add_kind(name: str, encode: Callable[[Any], bytes], decode: Callable[[bytes, int], tuple[Any, int]]) -> None:
    """Make another kind known, whose payload is self-delimiting and orders as its values do."""
    _KINDS[name] = encode, decode


def payload_codec(kind: str) -> tuple[Callable[[Any], bytes], Callable[[bytes, int], tuple[Any, int]]]:
    """How values of a kind are written and read without the marker in front."""
    return _KINDS[kind]


# --------------------------------------------------------------------------------------------------------- whole keys


def key_encoder(kinds: Sequence[str], descending: Sequence[bool] = (), nulls_first: Sequence[bool] = ()) -> Encoder:
    """Compile the encoder of one index: takes one value per column (or fewer, for a prefix).

    ``nulls_first`` defaults to ``descending``, as in Postgres.  Costs about 0.3 µs for one integer column.
    """
    descending = tuple(descending) or (False,) * len(kinds)
    nulls_first = tuple(nulls_first) or descending
    columns = [_column_encoder(*column) for column in zip(kinds, descending, nulls_first, strict=True)]
    if len(columns) == 1:
        only = columns[0]
        return lambda values: only(values[0]) if values else b""

    def encode(values: Sequence[Any]) -> bytes:
        return b"".join([column(value) for column, value in zip(columns, values, strict=False)])

    return encode


def _column_encoder(kind: str, descending: bool, nulls_first: bool) -> Callable[[Any], bytes]:
    null = bytes((NULL_FIRST_MARKER if nulls_first else NULL_LAST_MARKER,))
    if kind == "int" and not descending:
        pack = struct.Struct(">BQ").pack
        return lambda value: null if value is None else pack(VALUE_MARKER, value + _INT_OFFSET)
    payload = _KINDS[kind][0]
    marker = bytes((VALUE_MARKER,))
    if descending:
        return lambda value: null if value is None else marker + payload(value).translate(_INVERT)
    return lambda value: null if value is None else marker + payload(value)


def key_decoder(kinds: Sequence[str], descending: Sequence[bool] = ()) -> Decoder:
    """Compile the decoder of one index: ``decode(data, offset)`` gives the values and the offset behind them."""
    descending = tuple(descending) or (False,) * len(kinds)
    columns = [(_KINDS[kind][1], inverted) for kind, inverted in zip(kinds, descending, strict=True)]

    def decode(data: bytes, offset: int) -> tuple[list[Any], int]:
        inverted_data = data.translate(_INVERT) if any(descending) else data
        values: list[Any] = []
        for payload, inverted in columns:
            marker = data[offset]
            offset += 1
            if marker != VALUE_MARKER:
                values.append(None)
                continue
            value, offset = payload(inverted_data if inverted else data, offset)
            values.append(value)
        return values, offset

    return decode


def prefix_end(prefix: bytes) -> bytes:
    """The smallest key above every key that starts with ``prefix``; b"\\xff" stands for the end of all keys."""
    trimmed = prefix.rstrip(b"\xff")
    if not trimmed:
        return b"\xff"
    return trimmed[:-1] + bytes((trimmed[-1] + 1,))
