"""Where catalog objects are stored: one key per object under ``03``, one msgspec struct per value.

=====================================  ======================================================================
``03 'D' database``                    DatabaseDescriptor
``03 'S' database schema``             Schema
``03 'T' database table``              Table (views and sequences too)
``03 'Y' database type``               UserType: an enum, a domain or a composite type
``03 'F' database routine``             Routine: a function or procedure
``03 'C' database class object sub``   comment, as text
``03 'A' database table``              TableStatistics, what ANALYZE found
``03 'G' group``                       ColocationGroup
``03 'R' role``                        Role
``03 'P' database role``               settings of a role in a database (0: all), name to value
``03 'L' database class object sub``   Acl, who may do what with an object (or one of its columns)
``03 'U' database role schema kind``   DefaultAcl, what objects that the role makes get
``03 'H' version``                     the keys that changed in that version (bounded history, for refreshes)
``03 'V'``                             the catalog version
``03 'W'``                             nothing, ever: a transaction that commits DDL holds the lock of this key meanwhile
``03 'K' …``, ``03 'N' …``             nothing, ever: locks of objects and of names (claims.py)
``03 'J' index``                       IndexJob: an index that is being built online, a table that is re-sharded
``03 'X' garbage``                     Garbage: spans of dropped storage that are still to be cleared
=====================================  ======================================================================

Numbers are four bytes big-endian (the version eight), so all objects of a kind and of a database lie together.  A state
of the catalog is nothing but the objects at these keys: loading, refreshing and a transaction's uncommitted DDL are all
"apply these (key, object) pairs" (state.py).

    >>> unpack_key(table_key(5, 16384))
    ('T', (5, 16384))
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from pydistdb.sql.catalog.acl import AclItem
from pydistdb.sql.catalog.descriptors import (
    ColocationGroup,
    DatabaseDescriptor,
    DefaultAcl,
    Garbage,
    IndexJob,
    Routine,
    Schema,
    Table,
    TableStatistics,
)
from pydistdb.sql.catalog.roles import Role
from pydistdb.sql.types.user import UserType

PREFIX = b"\x03"
END = b"\x04"
VERSION_KEY = PREFIX + b"V"
HISTORY_PREFIX = PREFIX + b"H"
GARBAGE_PREFIX = PREFIX + b"X"
JOB_PREFIX = PREFIX + b"J"
COMMIT_LOCK = PREFIX + b"W"
LOCK_PREFIX = PREFIX + b"K"
NAME_PREFIX = PREFIX + b"N"
HISTORY_LIMIT = 1_000
"""How many versions a node may lag behind and still refresh by history instead of reading everything."""

_UINT32 = [struct.Struct(">" + "I" * count) for count in range(6)]
_UINT64 = struct.Struct(">Q")
_OBJECT_TYPES: dict[str, Any] = {
    "D": DatabaseDescriptor,
    "S": Schema,
    "T": Table,
    "Y": UserType,
    "F": Routine,
    "C": str,
    "A": TableStatistics,
    "G": ColocationGroup,
    "R": Role,
    "P": dict[str, str],
    "L": tuple[AclItem, ...],
    "U": DefaultAcl,
    "J": IndexJob,
    "X": Garbage,
    "H": list[bytes],
    "V": int,
}
_DECODERS: dict[str, msgspec.msgpack.Decoder[Any]] = {
    kind: msgspec.msgpack.Decoder(target) for kind, target in _OBJECT_TYPES.items()
}


def _plain(value: object) -> str:
    """Text that was cut out of a statement (bind/cutting.py) is stored as text."""
    if isinstance(value, str):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} cannot be stored")


_encode = msgspec.msgpack.Encoder(enc_hook=_plain).encode


def _key(kind: str, *numbers: int) -> bytes:
    return PREFIX + kind.encode() + _UINT32[len(numbers)].pack(*numbers)


def database_key(database: int) -> bytes:
    return _key("D", database)


def schema_key(database: int, schema: int) -> bytes:
    return _key("S", database, schema)


def table_key(database: int, table: int) -> bytes:
    return _key("T", database, table)


def type_key(database: int, sql_type: int) -> bytes:
    return _key("Y", database, sql_type)


def routine_key(database: int, routine: int) -> bytes:
    return _key("F", database, routine)


def comment_key(database: int, object_class: int, object_oid: int, sub_id: int) -> bytes:
    return _key("C", database, object_class, object_oid, sub_id)


def statistics_key(database: int, table: int) -> bytes:
    return _key("A", database, table)


def group_key(group: int) -> bytes:
    return _key("G", group)


def role_key(role: int) -> bytes:
    return _key("R", role)


def role_settings_key(database: int, role: int) -> bytes:
    return _key("P", database, role)


def acl_key(database: int, object_class: int, object_oid: int, sub_id: int = 0) -> bytes:
    return _key("L", database, object_class, object_oid, sub_id)


def default_acl_key(database: int, role: int, schema: int, kind: str) -> bytes:
    return _key("U", database, role, schema, ord(kind))


def job_key(index: int) -> bytes:
    return _key("J", index)


def garbage_key(garbage: int) -> bytes:
    return _key("X", garbage)


def history_key(version: int) -> bytes:
    return HISTORY_PREFIX + _UINT64.pack(version)


def unpack_key(key: bytes) -> tuple[str, tuple[int, ...]]:
    """The kind letter and the numbers of an object's key."""
    return chr(key[1]), _UINT32[(len(key) - 2) // 4].unpack_from(key, 2)


def has_own_oid(key: bytes) -> bool:
    """Tell whether the key ends with the object's own oid: as long as it is new, nobody else can know it."""
    return key[1:2] in (b"D", b"S", b"T", b"Y", b"F", b"G", b"R")


def encode_object(value: object) -> bytes:
    return _encode(value)


def decode_object(key: bytes, value: bytes) -> Any:
    """The object stored at ``key``."""
    return _DECODERS[chr(key[1])].decode(value)


def is_object_key(key: bytes) -> bool:
    """Tell whether the key is part of a catalog state (versions, history, jobs and garbage are not)."""
    return key[1:2] not in (b"V", b"H", b"J", b"X")
