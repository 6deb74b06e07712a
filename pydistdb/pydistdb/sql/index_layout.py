"""The keys of one index of a table: how its columns are encoded, what its entries' values hold.

A primary index's entries are the rows themselves; where their keys begin, and what else a row has, is the business of layout.py.

    IndexLayout(accounts, accounts_pkey).encode([17])        the columns' part of row 17's key
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pydistdb_storage import keys, rows

from pydistdb.sql.catalog.descriptors import Index, Table
from pydistdb.sql.errors import FeatureNotSupported, InternalError
from pydistdb.sql.generate import build
from pydistdb.sql.inverted import TokenClass, token_class
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import TypeIO

MOST_KEY_BYTES = 503
"""LMDB's 511 less the 8 bytes of the version timestamp."""
RANGE_HEAD = struct.Struct(">BIH")
HASH_HEAD = struct.Struct(">BIHIH")
GROUP_HEAD = struct.Struct(">BI")
SHARD_TAIL = struct.Struct(">HIH")
IDENTITY = struct.Struct(">IH")
ROW_ID = struct.Struct(">Q")
BUCKET_BYTES = 7
"""The head that all keys with one hash value share, whatever their table."""
HASH_IDENTITY_START, HASH_IDENTITY_END = 7, 13
BPCHAR_OID = 1042

Row = Sequence[Any]


def storage_ids_of(key: bytes) -> tuple[int, int]:
    """The storage ids of the table and the index that a key is of."""
    head = HASH_HEAD if key[:1] in (b"\x05", b"\x06") else RANGE_HEAD
    table, index = head.unpack_from(key)[-2:]
    return table, index


class Span(NamedTuple):
    """Keys to scan: [start, end), less those that lack ``identity`` at bytes 7..13 (other tables'); None: keep all."""

    start: bytes
    end: bytes
    identity: bytes | None = None


class IndexEntry(NamedTuple):
    key: bytes
    value: bytes
    unique: bool


class IndexLayout:
    """The key codec of one index."""

    __slots__ = (
        "bound",
        "columns",
        "compute",
        "cover",
        "covered",
        "descending",
        "encode",
        "has_many",
        "hashed",
        "head",
        "identity",
        "index",
        "is_computed",
        "is_row_id",
        "kinds",
        "nulls_first",
        "positions",
        "row_key",
        "shard_positions",
        "table",
        "token_classes",
        "trims",
        "types",
    )

    def __init__(self, table: Table, index: Index, types: dict[int, TypeIO]) -> None:
        self.table = table
        self.index = index
        self.columns = tuple(column.column for column in index.columns)
        self.is_computed = not index.is_plain
        self.is_row_id = self.columns == (0,) and not self.is_computed
        self.descending = tuple(column.descending for column in index.columns)
        self.nulls_first = tuple(column.nulls_first for column in index.columns)
        self.positions = tuple(number - 1 for number in self.columns)
        self.identity = IDENTITY.pack(table.storage_id, index.storage_id)
        self.hashed = table.sharding is not None and (index is table.indexes[0] or not index.is_global)
        self.head = b"" if self.hashed else RANGE_HEAD.pack(4, table.storage_id, index.storage_id)
        by_number = {column.number: column.type_oid for column in table.columns}
        self.types = tuple(column.type_oid or by_number.get(column.column, 0) for column in index.columns)
        """The type of each key column."""
        self.trims = tuple(oid == BPCHAR_OID for oid in self.types)
        self.token_classes: tuple[TokenClass, ...] = _token_classes(self) if index.is_inverted else ()
        """Of an inverted index: how each key is cut into tokens."""
        self.has_many = bool(self.token_classes)
        """A row has any number of entries."""
        self.kinds: tuple[str, ...] = (
            ()
            if self.is_row_id or self.token_classes
            else tuple(key_kind_of(registry.io(oid), oid) for oid in self.types)
        )
        count = len(self.kinds)
        encode: Callable[[Sequence[Any]], bytes] = keys.key_encoder(
            self.kinds, self.descending[:count], self.nulls_first[:count]
        )
        self.encode = trimming(encode, self.trims) if any(self.trims) else encode
        """Encodes the values of all columns, or of the first few."""
        self.shard_positions: tuple[int, ...] | None = None
        """Where the shard columns stand among the index columns (None: they do not all)."""
        if table.sharding is not None and all(number in self.columns for number in table.sharding.columns):
            self.shard_positions = tuple(self.columns.index(number) for number in table.sharding.columns)
        self.compute: Callable[[Row], list[Any] | None] | None = _unbound if self.is_computed else None
        """The key's values for a row, None if the predicate leaves it out; None: they are columns of every row."""
        self.bound: Any = None
        """The expressions and the predicate as typed trees, once somebody asked for them (index_expressions.py)."""
        self.covered: tuple[int, ...] = ()
        """The columns that an entry's value holds behind the primary key."""
        self.cover: Callable[[bytes, Row], bytes] | None = None
        self.row_key: Callable[[bytes], bytes] | None = None
        """The primary key in an entry's value (None: the value is the primary key)."""
        if index.include:
            self.covered = tuple(dict.fromkeys([*(number for number in self.columns if number), *index.include]))
            self.cover = _covering(self.covered, types)
            self.row_key = _first_item

    def values(self, row: Row) -> list[Any]:
        """The key's values for a row that has an entry."""
        if self.compute is None:
            return [row[position] for position in self.positions]
        values = self.compute(row)
        assert values is not None, "the row has no entry in this index"
        return values

    def depends_on(self, changed: set[int]) -> bool:
        """Tell whether an update of these columns may change a row's entry."""
        return self.is_computed or not changed.isdisjoint(self.columns) or not changed.isdisjoint(self.covered)

    def row_keys(self, values: Sequence[bytes]) -> Sequence[bytes]:
        """The primary keys that entries lead to."""
        return values if self.row_key is None else list(map(self.row_key, values))


def _unbound(row: Row) -> list[Any] | None:
    raise InternalError("an index expression was needed before it was bound")


def _token_classes(layout: IndexLayout) -> tuple[TokenClass, ...]:
    found = []
    for oid, column in zip(layout.types, layout.index.columns, strict=True):
        kind = token_class(oid, column.operator_class)
        if kind is None:
            raise FeatureNotSupported(f"type {registry.format_type(oid, -1)} cannot be the key of an inverted index")
        found.append(kind)
    return tuple(found)


def _first_item(value: bytes) -> bytes:
    key: bytes = rows.decode(value)[0]
    return key


def _covering(numbers: Sequence[int], types: dict[int, TypeIO]) -> Callable[[bytes, Row], bytes]:
    """``f(primary key, row)``: the value of a covering index's entry."""
    namespace: dict[str, Any] = {"encode": rows.encode}
    cells = []
    for number in numbers:
        cell = f"row[{number - 1}]"
        if types[number].to_storage is not None:
            namespace[f"to{number}"] = types[number].to_storage
            cell = f"None if {cell} is None else to{number}({cell})"
        cells.append(cell)
    source = f"def cover(key, row):\n    return encode((key, {', '.join(cells)}))\n"
    function: Callable[[bytes, Row], bytes] = build(source, namespace, "cover")
    return function


def trimming(encode: Callable[[Sequence[Any]], bytes], trims: Sequence[bool]) -> Callable[[Sequence[Any]], bytes]:
    """char(n) compares without its trailing blanks, so it is keyed without them."""

    def trimmed(values: Sequence[Any]) -> bytes:
        return encode(
            [
                value.rstrip(" ") if trim and value is not None else value
                for value, trim in zip(values, trims, strict=False)
            ]
        )

    return trimmed


def key_kind_of(io: TypeIO, oid: int) -> str:
    if io.key_kind is None:
        raise FeatureNotSupported(f"type {registry.format_type(oid, -1)} cannot be an index key")
    return io.key_kind
