"""What is computed from a stored row and its key: system columns and the choice of TABLESAMPLE.

A row has no place on a page here.  Its ctid is its key, written as a block and an item number: unlike Postgres's it may
be longer than 48 bits, and stays the same when the row is updated, but it is unique in its table and finds its row again::

    >>> key_tid(bytes.fromhex("0400010203"))
    (262145, 515)

``xmin`` is a checksum of the row as it is stored.  A row that is not committed yet has no timestamp, but RETURNING must
tell already what a later SELECT will show, on whatever node: so xmin follows from the row itself.  It changes whenever
the row does (of two different rows one pair in four billion has the same), which is what optimistic locking asks of it::

    UPDATE t SET v = 7 WHERE id = 1 AND xmin = '3123456789' RETURNING xmin

These functions are not in pg_proc; only the binder calls them.

Source: PostgreSQL 15 manual, 5.5 (system columns), SELECT (TABLESAMPLE), 61 (sampling methods).
"""

from __future__ import annotations

from hashlib import blake2b
from struct import pack
from typing import Any
from zlib import crc32

from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.types.base import Function, SqlType
from pydistdb.sql.types.known import BOOL, BYTEA, CID, FLOAT4, FLOAT8, OID, TID, XID
from pydistdb.sql.types.transactions import FIRST_NORMAL_XID

ITEM_BITS = 16
ROW_ID_BYTES = 8


def key_tid(key: bytes) -> tuple[int, int]:
    number = int.from_bytes(key, "big")
    return number >> ITEM_BITS, number & (1 << ITEM_BITS) - 1


def _row_id_tid(key: bytes) -> tuple[int, int]:
    """A table without primary key: its rows' ids tell them apart, and are short."""
    return key_tid(key[-ROW_ID_BYTES:])


def row_version(value: bytes) -> int:
    """The xmin of a stored row."""
    checksum = crc32(value)
    return checksum if checksum >= FIRST_NORMAL_XID else checksum + FIRST_NORMAL_XID


def _none(key: bytes) -> int:
    """Nobody has deleted a row that is read, and commands are not counted."""
    return 0


def _table_oid(key: bytes, oid: int) -> int:
    return oid


def _checked(value: Any, what: str) -> Any:
    if value is None:
        code, name = ("2202G", "REPEATABLE ") if what == "repeatable" else ("2202H", "")
        raise DatabaseError.of(code, f"TABLESAMPLE {name}parameter cannot be null")
    return value


def _sampled(key: bytes, percentage: float | None, seed: float | None) -> bool:
    """Choose a row or not, always the same for the same seed."""
    share = _checked(percentage, "percentage")
    if not 0.0 <= share <= 100.0:
        raise DatabaseError.of("2202H", "sample percentage must be between 0 and 100")
    number = blake2b(key, digest_size=6, key=pack("!d", _checked(seed, "repeatable"))).digest()
    return bool(int.from_bytes(number, "big") < share / 100.0 * (1 << 48))


def _internal(
    name: str, argument_types: tuple[SqlType, ...], result: SqlType, body: Any, strict: bool = True
) -> Function:
    return Function(0, name, argument_types, result, body, strict)


TABLE_OID = _internal("tableoid", (BYTEA, OID), OID, _table_oid)
KEY_TID = _internal("ctid", (BYTEA,), TID, key_tid)
ROW_ID_TID = _internal("ctid", (BYTEA,), TID, _row_id_tid)
NO_TRANSACTION = _internal("xmax", (BYTEA,), XID, _none)
NO_COMMAND = _internal("cmin", (BYTEA,), CID, _none)
SAMPLED = _internal("tablesample", (BYTEA, FLOAT4, FLOAT8), BOOL, _sampled, False)
