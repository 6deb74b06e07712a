r"""hashtext and its kin: Postgres's own hash of a value of each type, in 32 bits or, with a seed, in 64.

    >>> as_int4(hash_bytes(b"orders")), hash_number(42)
    (1108812256, 1509752520)

Applications use them to make keys of advisory locks, ``pg_advisory_lock(hashtext('orders'))``, and to deal rows out, so the
numbers must be Postgres's to the bit, across clients and across databases.  It is Bob Jenkins's lookup3 over the value's
bytes as a little-endian machine holds them; numbers of any width give the same hash for the same value, and so do numeric
values of different scale.  An enum's hash is of its rank here.

Source: PostgreSQL 15, hashfn.c, hashfunc.c, and *_hash in its types' files; Bob Jenkins, "Hash functions" (2006).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

from pydistdb.sql.errors import UndefinedFunction
from pydistdb.sql.functions.define import Body, BodyMaker, define
from pydistdb.sql.types import known
from pydistdb.sql.types.base import SqlType
from pydistdb.sql.types.domains import base_oid
from pydistdb.sql.types.json import load
from pydistdb.sql.types.network import parts
from pydistdb.sql.types.ordering import interval_key
from pydistdb.sql.types.registry import format_type

_M32, _M64 = (1 << 32) - 1, (1 << 64) - 1
_START = 0x9E3779B9 + 3_923_095
_ODD_BITS = 0x1_0000_0001


def _rotate(value: int, count: int) -> int:
    return (value << count | value >> (32 - count)) & _M32


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    a, c = ((a - c) & _M32) ^ _rotate(c, 4), (c + b) & _M32
    b, a = ((b - a) & _M32) ^ _rotate(a, 6), (a + c) & _M32
    c, b = ((c - b) & _M32) ^ _rotate(b, 8), (b + a) & _M32
    a, c = ((a - c) & _M32) ^ _rotate(c, 16), (c + b) & _M32
    b, a = ((b - a) & _M32) ^ _rotate(a, 19), (a + c) & _M32
    c, b = ((c - b) & _M32) ^ _rotate(b, 4), (b + a) & _M32
    return a, b, c


def _finish(a: int, b: int, c: int) -> tuple[int, int]:
    c = ((c ^ b) - _rotate(b, 14)) & _M32
    a = ((a ^ c) - _rotate(c, 11)) & _M32
    b = ((b ^ a) - _rotate(a, 25)) & _M32
    c = ((c ^ b) - _rotate(b, 16)) & _M32
    a = ((a ^ c) - _rotate(c, 4)) & _M32
    b = ((b ^ a) - _rotate(a, 14)) & _M32
    c = ((c ^ b) - _rotate(b, 24)) & _M32
    return b, c


def _seeded(length: int, seed: int | None) -> tuple[int, int, int]:
    start = (_START + length) & _M32
    if not seed:
        return start, start, start
    return _mix((start + ((seed & _M64) >> 32)) & _M32, (start + (seed & _M32)) & _M32, start)


def _result(b: int, c: int, seed: int | None) -> int:
    return c if seed is None else b << 32 | c


def hash_bytes(data: bytes, seed: int | None = None) -> int:
    """The hash of bytes; of 64 bits with a seed."""
    a, b, c = _seeded(len(data), seed)
    whole = len(data) // 12 * 12
    for x, y, z in struct.iter_unpack("<III", data[:whole]):
        a, b, c = _mix((a + x) & _M32, (b + y) & _M32, (c + z) & _M32)
    rest = data[whole:]
    a += int.from_bytes(rest[:4], "little")
    b += int.from_bytes(rest[4:8], "little")
    c += int.from_bytes(rest[8:], "little") << 8  # its lowest byte stands for the length
    return _result(*_finish(a & _M32, b & _M32, c & _M32), seed)


def hash_word(word: int, seed: int | None = None) -> int:
    """The hash of 32 bits."""
    a, b, c = _seeded(4, seed)
    return _result(*_finish((a + word) & _M32, b, c), seed)


def hash_number(value: int, seed: int | None = None) -> int:
    """The hash of an integer of up to 64 bits, the same for the same number of any width."""
    value = value if value < 1 << 63 else value - (1 << 64)
    high = value >> 32
    return hash_word((value ^ (high if value >= 0 else ~high)) & _M32, seed)


def _hash_float(value: float, seed: int | None) -> int:
    if value == 0:
        return 0 if seed is None else seed & _M64
    return hash_bytes(struct.pack("<d", value if value == value else float("nan")), seed)


def _hash_numeric(value: Decimal, seed: int | None) -> int:
    """Of the digits to the base 10,000, without zeros in front and behind, and the weight of the first."""
    if not value.is_finite():
        return 0 if seed is None else seed & _M64
    if not value:
        return _M32 if seed is None else (seed - 1) & _M64
    _, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    text = "".join(map(str, digits)) + "0" * (exponent % 4)
    weight = (len(text) - 1) // 4 + exponent // 4
    text = text.rjust((len(text) + 3) // 4 * 4, "0")
    groups = [int(text[place : place + 4]) for place in range(0, len(text), 4)]
    while groups[0] == 0:
        del groups[0]
        weight -= 1
    while groups[-1] == 0:
        del groups[-1]
    return (hash_bytes(struct.pack(f"<{len(groups)}H", *groups), seed) ^ weight) & (_M32 if seed is None else _M64)


def _hash_timetz(value: tuple[int, int], seed: int | None) -> int:
    microseconds, zone = value
    return hash_number(microseconds, seed) ^ hash_word(zone & _M32, seed)


def _hash_inet(value: bytes, seed: int | None) -> int:
    family, address, mask = parts(value)
    shown_family, size = (2, 4) if family == 4 else (3, 16)
    return hash_bytes(bytes((shown_family, mask)) + address.to_bytes(size, "big"), seed)


# ------------------------------------------------------------------------------------------------ documents

_ARRAY, _OBJECT = 0x4000_0000, 0x2000_0000


def _hash_jsonb(value: str, seed: int | None) -> int:
    """Each part of the document, keys in jsonb's order, is mixed in after the hash so far has been rotated."""
    document = load(value)
    if document == {} or document == []:
        return 0 if seed is None else seed & _M64
    state = 0

    def mix(part: int) -> None:
        nonlocal state
        if seed is None:
            state = _rotate(state, 1) ^ part
        else:
            state = (state << 1 & ~_ODD_BITS & _M64 | state >> 31 & _ODD_BITS) ^ part

    def begin(flag: int) -> None:
        nonlocal state
        state ^= flag if seed is None else flag << 32 | flag

    def visit(document: Any) -> None:
        if isinstance(document, dict):
            begin(_OBJECT)
            for key in sorted(document, key=lambda key: (len(key.encode()), key.encode())):
                mix(hash_bytes(key.encode(), seed))
                visit(document[key])
        elif isinstance(document, list):
            begin(_ARRAY)
            for item in document:
                visit(item)
        else:
            mix(_hash_scalar(document, seed))

    if not isinstance(document, dict | list):
        begin(_ARRAY)  # a document of one scalar is kept as an array of one item
    visit(document)
    return state


def _hash_scalar(value: Any, seed: int | None) -> int:
    if value is None:
        return 1 if seed is None else (seed + 1) & _M64
    if value is True or value is False:
        return hash_word(int(value), seed) if seed else 2 if value else 4
    if isinstance(value, str):
        return hash_bytes(value.encode(), seed)
    return _hash_numeric(Decimal(value), seed)


# ------------------------------------------------------------------------------------------------ by type

Hash = Callable[[Any, int | None], int]


def _hash_text(value: str, seed: int | None) -> int:
    return hash_bytes(value.encode(), seed)


def _hash_char(value: str, seed: int | None) -> int:
    byte = value.encode("latin-1", "replace")[:1] or b"\0"
    return hash_word(int.from_bytes(byte, "little", signed=True) & _M32, seed)


def _hash_vector(value: Any, seed: int | None) -> int:
    return hash_bytes(struct.pack(f"<{len(value.items)}I", *value.items), seed)


class _Kind(NamedTuple):
    plain: str
    """The name of the function that hashes to 32 bits."""
    extended: str
    hash: Hash


_KINDS: dict[str, _Kind] = {
    "text": _Kind("hashtext", "hashtextextended", _hash_text),
    "bpchar": _Kind("hashbpchar", "hashbpcharextended", lambda value, seed: _hash_text(value.rstrip(" "), seed)),
    "name": _Kind("hashname", "hashnameextended", _hash_text),
    "char": _Kind("hashchar", "hashcharextended", _hash_char),
    "int2": _Kind("hashint2", "hashint2extended", hash_number),
    "int4": _Kind("hashint4", "hashint4extended", hash_number),
    "int8": _Kind("hashint8", "hashint8extended", hash_number),
    "oid": _Kind("hashoid", "hashoidextended", hash_word),
    "float4": _Kind("hashfloat4", "hashfloat4extended", _hash_float),
    "float8": _Kind("hashfloat8", "hashfloat8extended", _hash_float),
    "numeric": _Kind("hash_numeric", "hash_numeric_extended", _hash_numeric),
    "time": _Kind("time_hash", "time_hash_extended", hash_number),
    "timetz": _Kind("timetz_hash", "timetz_hash_extended", _hash_timetz),
    "timestamp": _Kind("timestamp_hash", "timestamp_hash_extended", hash_number),
    "interval": _Kind(
        "interval_hash",
        "interval_hash_extended",
        lambda value, seed: hash_number((interval_key(value) + (1 << 63)) % (1 << 64) - (1 << 63), seed),
    ),
    "inet": _Kind("hashinet", "hashinetextended", _hash_inet),
    "macaddr": _Kind("hashmacaddr", "hashmacaddrextended", hash_bytes),
    "macaddr8": _Kind("hashmacaddr8", "hashmacaddr8extended", hash_bytes),
    "uuid": _Kind("uuid_hash", "uuid_hash_extended", hash_bytes),
    "pg_lsn": _Kind(
        "pg_lsn_hash", "pg_lsn_hash_extended", lambda value, seed: hash_number(int.from_bytes(value, "big"), seed)
    ),
    "jsonb": _Kind("jsonb_hash", "jsonb_hash_extended", _hash_jsonb),
    "oidvector": _Kind("hashoidvector", "hashoidvectorextended", _hash_vector),
}
_ALIKE = {"varchar": "text", "date": "int4", "timestamptz": "timestamp", "bool": "char", "cidr": "inet"}


def hash_of_type(sql_type: SqlType) -> Hash:
    """Find the hash that Postgres uses for a type's values."""
    oid = base_oid(sql_type.oid)
    plain = known.TYPES_BY_OID[oid]
    kind = _KINDS.get(_ALIKE.get(plain.name, plain.name))
    if plain.name == "bool":
        return lambda value, seed: hash_word(int(value), seed)
    if plain.name == "bytea":
        return hash_bytes
    if plain.name == "xid8":
        return hash_number
    if plain.name in ("xid", "cid") or oid in known.REG_TYPES:
        return hash_word
    if kind is not None:
        return kind.hash
    if plain.element_oid:
        return _array_hash(known.TYPES_BY_OID[plain.element_oid])
    if plain.category == "E":
        return hash_word
    if getattr(plain, "category", "") in "CP":
        return _hash_record
    raise UndefinedFunction(f"could not identify a hash function for type {format_type(oid)}")


def is_hashable(sql_type: SqlType) -> bool:
    """Whether Postgres can hash a type's values; bit strings and money it can only sort."""
    try:
        hash_of_type(sql_type)
    except UndefinedFunction:
        return sql_type.name in ("tid", "aclitem")
    return True


def _array_hash(item: SqlType) -> Hash:
    hash_item = hash_of_type(item)

    def hash_array(value: Any, seed: int | None) -> int:
        result, most = 1, _M32 if seed is None else _M64
        for each in value.items:
            result = (result * 31 + (0 if each is None else hash_item(each, seed))) & most
        return result

    return hash_array


def _hash_record(value: Any, seed: int | None) -> int:
    result, most = 0, _M32 if seed is None else _M64
    for each, sql_type in zip(value, value.types, strict=True):
        hash_value = hash_of_type(sql_type)
        result = (result * 31 + (0 if each is None else hash_value(each, seed))) & most
    return result


def as_int4(value: int) -> int:
    return value if value < 1 << 31 else value - (1 << 32)


def as_int8(value: int) -> int:
    return value if value < 1 << 63 else value - (1 << 64)


def _plain(hash_value: Hash) -> Body:
    return lambda value: as_int4(hash_value(value, None))


def _extended(hash_value: Hash) -> Body:
    return lambda value, seed: as_int8(hash_value(value, seed))


def _of_type(wrap: Callable[[Hash], Body]) -> BodyMaker:
    return lambda argument_types, return_type: wrap(hash_of_type(argument_types[0]))


for _name, _kind in _KINDS.items():
    define(f"{_kind.plain}({_name})", _plain(_kind.hash))
    define(f"{_kind.extended}({_name},int8)", _extended(_kind.hash))
for _plain_name, _extended_name, _argument in (
    ("hash_array", "hash_array_extended", "anyarray"),
    ("hashenum", "hashenumextended", "anyenum"),
    ("hash_record", "hash_record_extended", "record"),
):
    define(f"{_plain_name}({_argument})", specialize=_of_type(_plain))
    define(f"{_extended_name}({_argument},int8)", specialize=_of_type(_extended))
