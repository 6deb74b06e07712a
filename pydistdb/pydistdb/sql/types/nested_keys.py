"""Keys of values that are made of values: arrays, composite values, jsonb.

Each has a kind of its own among those of ``pydistdb_storage.keys``, so that whoever makes keys need not know of them.  The
bytes order as ``ordering.sort_key`` does::

    array(int)    for each item 10 and its payload, or F0 for NULL; 01; then dimensions: {1,2} < {1,2,0} < {1,3} < {2} < {NULL}
    row(70001)    the same for each field of the composite type with this oid, in order; F8 for the last ones that are NULL
    json          a byte for the kind of value; texts and numbers as everywhere; of arrays and objects first how many items

    [1, "a"]      50 00000002 30 <1> 20 61 00
    {"k": null}   60 00000001 6B 00 10

A composite type may get another field: of the rows that are there it is NULL, and their keys stay what they are.  An empty
array at the top is below every other jsonb value, as in Postgres.

Source: PostgreSQL 15 manual, 8.14.4, 9.19 (arrays), 9.24.6 (rows); array_cmp, record_cmp, compareJsonbContainers.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from pydistdb_storage.keys import NULL_LAST_MARKER, VALUE_MARKER, add_kind, payload_codec

Encode = Callable[[Any], bytes]
Decode = Callable[[bytes, int], tuple[Any, int]]

_VALUE, _NULL, _END, _ALL_NULL = bytes((VALUE_MARKER,)), bytes((NULL_LAST_MARKER,)), b"\x01", b"\xf8"
_BOUND_OFFSET = 1 << 31
_EMPTY, _JSON_NULL, _STRING, _NUMBER, _FALSE, _TRUE, _ARRAY, _OBJECT = (
    b"\x08",
    b"\x10",
    b"\x20",
    b"\x30",
    b"\x40",
    b"\x41",
    b"\x50",
    b"\x60",
)


def array_kind(
    element_kind: str | None, make: Callable[[tuple[Any, ...], tuple[int, ...], tuple[int, ...]], Any]
) -> str | None:
    """The kind of arrays of such items; ``make`` puts one together from items, dimensions and lower bounds."""
    if element_kind is None:
        return None
    name = f"array({element_kind})"
    encode_item, decode_item = payload_codec(element_kind)

    def encode(array: Any) -> bytes:
        parts = [_NULL if item is None else _VALUE + encode_item(item) for item in array.items]
        parts += [_END, bytes((len(array.dimensions),))]
        parts += [number.to_bytes(4, "big") for number in array.dimensions]
        parts += [(bound + _BOUND_OFFSET).to_bytes(4, "big") for bound in array.lower_bounds]
        return b"".join(parts)

    def decode(data: bytes, offset: int) -> tuple[Any, int]:
        items: list[Any] = []
        while data[offset] != _END[0]:
            item, offset = _decode_part(decode_item, data, offset)
            items.append(item)
        count = data[offset + 1]
        offset += 2
        numbers = [int.from_bytes(data[offset + 4 * i : offset + 4 * i + 4], "big") for i in range(2 * count)]
        bounds = tuple([number - _BOUND_OFFSET for number in numbers[count:]])
        return make(tuple(items), tuple(numbers[:count]), bounds), offset + 8 * count

    add_kind(name, encode, decode)
    return name


def row_kind(oid: int, fields: Callable[[], list[tuple[int, str]]], count: Callable[[], int]) -> str:
    """The kind of a composite type; ``fields``: numbers and kinds of its living fields, ``count``: of all there are."""
    name = f"row({oid})"

    def encode(value: Any) -> bytes:
        parts = []
        for number, kind in fields():
            item = value[number - 1] if number <= len(value) else None
            parts.append(_NULL if item is None else _VALUE + payload_codec(kind)[0](item))
        while parts and parts[-1] == _NULL:
            parts.pop()
        return b"".join(parts) + _ALL_NULL

    def decode(data: bytes, offset: int) -> tuple[Any, int]:
        items: list[Any] = [None] * count()
        for number, kind in fields():
            if data[offset] == _ALL_NULL[0]:
                break
            items[number - 1], offset = _decode_part(payload_codec(kind)[1], data, offset)
        return tuple(items), offset + 1

    add_kind(name, encode, decode)
    return name


def _decode_part(decode: Decode, data: bytes, offset: int) -> tuple[Any, int]:
    if data[offset] != VALUE_MARKER:
        return None, offset + 1
    return decode(data, offset + 1)


# ------------------------------------------------------------------------------------------------ jsonb


def json_kind(load: Callable[[str], Any], dump: Callable[[Any], str]) -> str:
    """The kind of jsonb, whose values are texts that ``load`` reads."""
    encode_text, decode_text = payload_codec("text")
    encode_number, decode_number = payload_codec("decimal")

    def document(value: Any) -> bytes:
        match value:
            case None:
                return _JSON_NULL
            case str():
                return _STRING + encode_text(value)
            case bool():
                return _TRUE if value else _FALSE
            case int() | Decimal():
                return _NUMBER + encode_number(Decimal(value))
            case list():
                return _ARRAY + len(value).to_bytes(4, "big") + b"".join(map(document, value))
        # The order of jsonb's keys: the shorter first.
        keys = sorted(((key.encode(), key) for key in value), key=lambda pair: (len(pair[0]), pair[0]))
        pairs = [data + b"\x00" + document(value[key]) for data, key in keys]
        return _OBJECT + len(value).to_bytes(4, "big") + b"".join(pairs)

    def encode(text: str) -> bytes:
        value = load(text)
        return _EMPTY if type(value) is list and not value else document(value)

    def read(data: bytes, offset: int) -> tuple[Any, int]:
        kind = data[offset : offset + 1]
        offset += 1
        match kind:
            case b"\x08":
                return [], offset
            case b"\x10":
                return None, offset
            case b"\x20":
                return decode_text(data, offset)
            case b"\x30":
                return decode_number(data, offset)
            case b"\x40" | b"\x41":
                return kind == _TRUE, offset
        count = int.from_bytes(data[offset : offset + 4], "big")
        offset += 4
        items = []
        pairs = {}
        for _ in range(count):
            if kind == _OBJECT:
                key, offset = decode_text(data, offset)
                pairs[key], offset = read(data, offset)
            else:
                item, offset = read(data, offset)
                items.append(item)
        return (pairs if kind == _OBJECT else items), offset

    def decode(data: bytes, offset: int) -> tuple[str, int]:
        value, offset = read(data, offset)
        return dump(value), offset

    add_kind("json", encode, decode)
    return "json"
