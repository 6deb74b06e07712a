"""Where a table's rows and index entries live in the key space, and what their bytes mean.

A *row* here is a list of runtime values by (column number - 1).  Keys of a range-sharded table start with
``04 table(4) index(2)``, those of a SHARD BY HASH table with ``05 group(4) hash16(2) table(4) index(2)``; the index's
columns follow.  Equal shard columns give equal hash16 in every table of a group, since it is the CRC-32 of the encoded
shard columns (upper half).  Tables that are sharded by range, list or directory have ``06 group(4) shard(2) table(4)
index(2)``: shards are numbered, and a group is one table's own (shard_map.py).

* Primary entries: key = primary key columns (or the hidden 8-byte row id); value = msgpack array headed by the version
  of the descriptor that wrote it, then the storage value of every column at position ``number``.  A row written before
  a column existed is shorter: the column's ``missing`` value stands in.
* Secondary entries: value = the row's whole primary key; key = the index columns, followed by the primary key's
  columns unless the index is unique and none of its columns is NULL (NULLs never collide, unless NULLS NOT DISTINCT).
  With INCLUDE the value is a msgpack array instead: the primary key, the key's columns and the included ones.
* An inverted index has an entry per token of its keys (inverted.py): key = token and primary key's columns.
* Expressions and predicates of indexes are compiled by whoever has a catalog to bind them with (exec/computed.py);
  ``TableLayout.is_bound`` says whether that has been done.
* A unique index of a hash-sharded table may be global: its entries then live under ``04`` as in a range-sharded table.

Example: row (1, 'ann') of ``accounts(id int8 primary key, owner text)``, storage id 7; index on owner, storage id 2::

    04 00000007 0001 <1>              -> [1, 1, "ann"]
    04 00000007 0002 <"ann"> <1>      -> 04 00000007 0001 <1>
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pydistdb_storage import keys, rows
from pydistdb_storage.engine import Picks

from pydistdb.sql.catalog.descriptors import Index, IndexColumn, Resharding, Sharding, Table, table_to_be
from pydistdb.sql.errors import DatabaseError, ProgramLimitExceeded
from pydistdb.sql.generate import build
from pydistdb.sql.index_layout import (
    BPCHAR_OID,
    BUCKET_BYTES,
    GROUP_HEAD,
    HASH_HEAD,
    HASH_IDENTITY_END,
    HASH_IDENTITY_START,
    IDENTITY,
    MOST_KEY_BYTES,
    RANGE_HEAD,
    ROW_ID,
    SHARD_TAIL,
    IndexEntry,
    IndexLayout,
    Row,
    Span,
    key_kind_of,
    storage_ids_of,
    trimming,
)
from pydistdb.sql.inverted import tokens_of
from pydistdb.sql.shard_map import NOWHERE, ShardMap
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import EvalContext, TypeIO

__all__ = [
    "BUCKET_BYTES",
    "HASH_HEAD",
    "HASH_IDENTITY_END",
    "HASH_IDENTITY_START",
    "IDENTITY",
    "MOST_KEY_BYTES",
    "RANGE_HEAD",
    "ROW_ID",
    "IndexEntry",
    "IndexLayout",
    "ShadowIndex",
    "Span",
    "TableLayout",
    "picks_of",
    "storage_ids_of",
    "storage_prefix",
]

MOST_LAYOUTS = 2_000


def picks_of(*identities: bytes | None) -> Picks | None:
    """What a reader of indexes with these identities has a use for; None: all, if one of them has buckets to itself."""
    marks = [identity for identity in identities if identity]
    return Picks(HASH_IDENTITY_START, tuple(sorted({*marks}))) if marks and len(marks) == len(identities) else None


class ShadowIndex(IndexLayout):
    """The table as it will be, kept up beside the one that is: for those who write rows, one more index.

    A row's entries are its row and its index entries there (catalog/reshard_jobs.py)."""

    __slots__ = ("target",)

    def __init__(self, table: Table, resharding: Resharding) -> None:
        super().__init__(table, Index(0, "", 0, (IndexColumn(0),), state=resharding.state), {})
        self.hashed = False
        self.has_many = True
        self.target = TableLayout(table_to_be(table))

    def depends_on(self, changed: set[int]) -> bool:
        return True

    def entries_of(self, row: Row, suffix: bytes, *, old: bool = False) -> list[IndexEntry]:
        """What a row with this ``suffix`` of its primary key has there.

        An ``old`` row may be one that has no shard there: it never had entries.  Unique keys are guarded by the table that is,
        so who has a key here has it there, too, and these entries are nobody else's."""
        target = self.target
        if old and target.shard_of(row) == NOWHERE:
            return []
        key = target.checked(target.head_of_row(target.primary, row) + suffix, target.primary)
        return [
            IndexEntry(key, target.row_value(row), False),
            *(IndexEntry(entry.key, entry.value, False) for entry in target.entries(row, key)),
        ]


class TableLayout:
    """Keys and values of one table; ``TableLayout.of(table)`` remembers them by descriptor."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.column_count = max((column.number for column in table.columns), default=0)
        self.types: dict[int, TypeIO] = {
            column.number: registry.io(column.type_oid) for column in table.columns if not column.dropped
        }
        self.indexes = tuple(IndexLayout(table, index, self.types) for index in table.indexes)
        self.primary = self.indexes[0]
        self.shadow = None if table.resharding is None else ShadowIndex(table, table.resharding)
        self.secondary = self.indexes[1:] if self.shadow is None else (*self.indexes[1:], self.shadow)
        self.written = tuple(layout for layout in self.secondary if layout.index.state != "d")
        """The secondary indexes that new rows get entries in."""
        self.written_ordered = tuple(layout for layout in self.written if not layout.has_many)
        self.written_inverted = tuple(layout for layout in self.written if layout.has_many)
        self.is_bound = not any(layout.is_computed for layout in self.secondary)
        """Expressions and predicates of indexes are ready (exec/computed.py)."""
        self.has_row_id = self.primary.is_row_id
        self.by_storage_id = {layout.index.storage_id: layout for layout in self.indexes}
        self.may_be_short = table.version > 1
        """Some rows may lack their last columns."""
        self.missing: list[Any] = [None] * (self.column_count + 1)
        for column in table.columns:
            self.missing[column.number] = column.missing
        self.shards: ShardMap | None = None
        """Which shard a row belongs to."""
        self._shard_positions: tuple[int, ...] = ()
        self._shard_prefix = b""
        if table.sharding is not None:
            numbers = table.sharding.columns
            self._shard_positions = tuple(number - 1 for number in numbers)
            self.shards = self._shard_map(table.sharding, {column.number: column.type_oid for column in table.columns})
            self.shard_number = self.shards.number
            self._shard_prefix = storage_prefix(table)
        self.row_value: Callable[[Row], bytes] = self._build_row_value()
        self.decode: Callable[[bytes], list[Any]] = self._build_decode()

    @staticmethod
    def of(table: Table) -> TableLayout:
        """The layout of this very descriptor, made once."""
        layout = _LAYOUTS.get(id(table))
        if layout is None:
            if len(_LAYOUTS) >= MOST_LAYOUTS:
                _LAYOUTS.clear()
            # The entry keeps the descriptor alive, so its id cannot come to mean another one.
            layout = _LAYOUTS[id(table)] = TableLayout(table)
        return layout

    def _shard_map(self, sharding: Sharding, oids: dict[int, int]) -> ShardMap:
        numbers = sharding.columns
        trims = tuple(oids[number] == BPCHAR_OID for number in numbers)
        encode = keys.key_encoder([key_kind_of(self.types[number], oids[number]) for number in numbers])
        type_io = self.types[numbers[0]]
        return ShardMap(
            sharding,
            trimming(encode, trims) if any(trims) else encode,
            lambda text: type_io.parse(text, -1, EvalContext()),
        )

    # ------------------------------------------------------------------------------------------ keys

    def head_of_row(self, index: IndexLayout, row: Row) -> bytes:
        """The bytes before the columns in ``row``'s entry of ``index``."""
        if not index.hashed:
            return index.head
        number = self.shard_number([row[position] for position in self._shard_positions])
        if number == NOWHERE and self.shards is not None and not self.shards.is_hash:
            raise self._no_shard(row)
        return self.shard_head(index, number)

    def shard_of(self, row: Row) -> int:
        """The number of a row's shard, NOWHERE if it has none."""
        if self.shards is None or self.shards.is_hash:
            return 0
        return self.shard_number([row[position] for position in self._shard_positions])

    def shard_head(self, index: IndexLayout, number: int) -> bytes:
        """The bytes before the columns in the entries of one shard."""
        return self._shard_prefix + SHARD_TAIL.pack(number, self.table.storage_id, index.index.storage_id)

    def shard_span(self, number: int) -> Span:
        """Everything of one numbered shard, or of one hash value: whichever tables and indexes."""
        start = self._shard_prefix + number.to_bytes(2, "big")
        return Span(start, keys.prefix_end(start))

    def _no_shard(self, row: Row) -> DatabaseError:
        column = self._shard_positions[0]
        name = next(each.name for each in self.table.columns if each.number == column + 1)
        value = row[column]
        text = "null" if value is None else self.types[column + 1].format(value, EvalContext())
        return DatabaseError.of(
            "23514",
            f'no shard of relation "{self.table.name}" found for row',
            detail=f"Shard key of the failing row contains ({name}) = ({text}).",
        )

    def head_of_prefix(self, index: IndexLayout, values: Sequence[Any]) -> bytes | None:
        """The bytes before the columns, from the values of the first index columns; None if they do not decide it."""
        if not index.hashed:
            return index.head
        positions = index.shard_positions
        if positions is None or any(position >= len(values) for position in positions):
            return None
        return self.shard_head(index, self.shard_number([values[position] for position in positions]))

    def primary_key(self, row: Row, row_id: int | None = None) -> bytes:
        """The key of ``row``; ``row_id`` for a table without primary key."""
        primary = self.primary
        head = self.head_of_row(primary, row)
        if primary.is_row_id:
            assert row_id is not None
            return head + ROW_ID.pack(row_id)
        return self.checked(head + primary.encode([row[position] for position in primary.positions]), primary)

    def primary_suffix(self, key: bytes) -> bytes:
        """The columns' part of a primary key."""
        return key[HASH_HEAD.size :] if self.primary.hashed else key[RANGE_HEAD.size :]

    def entry(self, index: IndexLayout, row: Row, primary_key: bytes) -> IndexEntry | None:
        """The entry of a secondary index for a row with that primary key; None if its predicate leaves the row out."""
        if index.compute is None:
            values: list[Any] | None = [row[position] for position in index.positions]
        else:
            values = index.compute(row)
            if values is None:
                return None
        assert values is not None
        key = self.head_of_row(index, row) + index.encode(values)
        unique = index.index.unique and not index.index.deferrable
        if unique and None in values:
            unique = index.index.nulls_not_distinct
        if not unique:
            key += self.primary_suffix(primary_key)
        value = primary_key if index.cover is None else index.cover(primary_key, row)
        return IndexEntry(self.checked(key, index), value, unique)

    def unique_key(self, index: IndexLayout, row: Row) -> bytes | None:
        """The key that no other row may share in a unique index; None if the row may share it with any.

        It is the entry's key, or (deferrable constraints) what that starts with."""
        values = index.compute(row) if index.compute is not None else [row[position] for position in index.positions]
        if values is None or (None in values and not index.index.nulls_not_distinct):
            return None
        return self.head_of_row(index, row) + index.encode(values)

    def entries_in(self, index: IndexLayout, row: Row, primary_key: bytes, *, old: bool = False) -> list[IndexEntry]:
        """The entries of a row (``old``: that is about to go) in one secondary index: one or none, but for an inverted one."""
        if not index.has_many:
            entry = self.entry(index, row, primary_key)
            return [] if entry is None else [entry]
        if isinstance(index, ShadowIndex):
            return index.entries_of(row, self.primary_suffix(primary_key), old=old)
        values = [row[position] for position in index.positions] if index.compute is None else index.compute(row)
        if values is None:
            return []
        suffix = self.primary_suffix(primary_key)
        keys = [index.head + token + suffix for token in tokens_of(index.token_classes, values)]
        return [IndexEntry(self.checked(key, index), primary_key, False) for key in keys]

    def entries(self, row: Row, primary_key: bytes) -> list[IndexEntry]:
        """The entries of a new row in all secondary indexes."""
        found = [self.entry(index, row, primary_key) for index in self.written_ordered]
        made = [entry for entry in found if entry is not None]
        for index in self.written_inverted:
            made += self.entries_in(index, row, primary_key)
        return made

    def checked(self, key: bytes, index: IndexLayout) -> bytes:
        if len(key) > MOST_KEY_BYTES:
            raise ProgramLimitExceeded(
                f"index row size {len(key)} exceeds maximum {MOST_KEY_BYTES} for index "
                f'"{index.index.name or self.table.name}"',
                hint="Values larger than the limit of an index key cannot be indexed.",
            )
        return key

    # ------------------------------------------------------------------------------------------ spans

    def table_span(self) -> Span:
        """Everything of the primary index."""
        return self.index_span(self.primary.index)

    def index_span(self, index: Index) -> Span:
        """Everything of one index.  In a colocation group the other tables' keys lie in between: mind ``identity``."""
        layout = self.by_storage_id[index.storage_id]
        if layout.hashed:
            return Span(self._shard_prefix, keys.prefix_end(self._shard_prefix), layout.identity)
        return Span(layout.head, keys.prefix_end(layout.head))

    def point_key(self, index: IndexLayout, values: Sequence[Any]) -> bytes | None:
        """The key of the one entry of a unique index with these non-null values (None: not decided, see head)."""
        head = self.head_of_prefix(index, values)
        return None if head is None else head + index.encode(values)

    def bounds(
        self,
        index: IndexLayout,
        equal: Sequence[Any],
        lower: tuple[Any, bool] | None = None,
        upper: tuple[Any, bool] | None = None,
        shard: int | None = None,
    ) -> Span | None:
        """The span of entries whose first columns equal ``equal``; the next lies between (value, inclusive) bounds.

        None if there can be none.  NULLs of the bounded column are left out; a None among ``equal`` means IS NULL.
        ``shard``: in this shard, where ``equal`` does not say which."""
        head = self.head_of_prefix(index, equal) if shard is None else self.shard_head(index, shard)
        if head is None:
            return self.index_span(index.index)
        count = len(equal)
        prefix = head + index.encode(equal) if count else head
        if lower is None and upper is None:
            return Span(prefix, keys.prefix_end(prefix))

        def at(value: Any) -> bytes:
            return head + index.encode([*equal, value])

        if index.descending[count]:
            lower, upper = upper, lower
        start = prefix if lower is None else (at(lower[0]) if lower[1] else keys.prefix_end(at(lower[0])))
        end = (
            keys.prefix_end(prefix) if upper is None else (keys.prefix_end(at(upper[0])) if upper[1] else at(upper[0]))
        )
        if index.nulls_first[count]:
            start = max(start, keys.prefix_end(at(None)))
        else:
            end = min(end, at(None))
        return Span(start, end) if start < end else None

    # ------------------------------------------------------------------------------------------ values

    def column_source(
        self, number: int, row: str, namespace: dict[str, Any], nullable: bool = True, place: int | None = None
    ) -> str:
        """Python source of a column's runtime value, where ``row`` names a decoded (and padded) storage row.

        ``place``: where the value stands if not at the column's number (entries of covering indexes)."""
        cell = f"{row}[{number if place is None else place}]"
        convert = self.types[number].from_storage
        if convert is None:
            return cell
        namespace[f"from{number}"] = convert
        return f"(None if {cell} is None else from{number}({cell}))" if nullable else f"from{number}({cell})"

    def pad(self, row: list[Any]) -> list[Any]:
        """Give a storage row that was written before some columns existed their missing values."""
        if len(row) <= self.column_count:
            row.extend(self.missing[len(row) :])
        return row

    def _build_row_value(self) -> Callable[[Row], bytes]:
        namespace: dict[str, Any] = {"encode": rows.encode, "version": self.table.version}
        cells = ["None"] * self.column_count
        for number, io in self.types.items():
            cell = f"row[{number - 1}]"
            if io.to_storage is not None:
                namespace[f"to{number}"] = io.to_storage
                cell = f"None if {cell} is None else to{number}({cell})"
            cells[number - 1] = cell
        source = f"def row_value(row):\n    return encode(({', '.join(['version', *cells])},))\n"
        function: Callable[[Row], bytes] = build(source, namespace, "row_value")
        return function

    def _build_decode(self) -> Callable[[bytes], list[Any]]:
        namespace: dict[str, Any] = {"decode": rows.decode, "pad": self.pad}
        cells = ["None"] * self.column_count
        for number in self.types:
            cells[number - 1] = self.column_source(number, "row", namespace)
        padded = "pad(decode(value))" if self.may_be_short else "decode(value)"
        source = f"def decode_row(value):\n    row = {padded}\n    return [{', '.join(cells)}]\n"
        function: Callable[[bytes], list[Any]] = build(source, namespace, "decode_row")
        return function


def group_prefix(group: int) -> bytes:
    """What the keys of all tables of a hash colocation group begin with."""
    return GROUP_HEAD.pack(5, group)


def storage_prefix(table: Table) -> bytes:
    """What the keys of all rows of a table begin with (and those of the others of its colocation group)."""
    sharding = table.sharding
    if sharding is None:
        return GROUP_HEAD.pack(4, table.storage_id)
    return GROUP_HEAD.pack(5 if sharding.strategy == "hash" else 6, sharding.group)


_LAYOUTS: dict[int, TableLayout] = {}
