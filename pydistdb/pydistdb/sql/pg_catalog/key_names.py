"""Range boundaries for people: what table a key belongs to, and which row stands there.

    users                    where the table begins          (04 storage)
    users/4000               before the row with this key    (04 storage index key)
    users_name_idx/anna      in an index
    accounts/hash 5555       in hash-sharded tables: where the rows of this hash begin      (05 group hash16)
    orders/shard eu          in tables sharded by range, list, directory: where a shard begins   (06 group shard)
    <min>, <max>             the ends

What cannot be read (the table is gone, the key was cut somewhere else) is shown in hexadecimal digits.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pydistdb_storage import keys

from pydistdb.sql.catalog.descriptors import Shard, Table
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.layout import RANGE_HEAD, IndexLayout, TableLayout
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import EvalContext

_HEAD = struct.Struct(">BI")
MOST_TEXT = 60
"""Characters of a row's key."""
MOST_NAMES = 3


def named_tables(view: StateView) -> Iterator[tuple[Table, str]]:
    """The tables of all databases; those of others than the view's carry their database's name."""
    for database in view.catalog_state.databases.values():
        prefix = "" if database is view.state else f"{database.descriptor.name}."
        for table in database.tables.values():
            yield table, prefix + table.name


class KeyNames:
    """See the module's introduction."""

    def __init__(self, view: StateView) -> None:
        self._tables: dict[int, tuple[Table, str]] = {}
        self._groups: dict[int, list[str]] = {}
        self._shards: dict[int, tuple[Shard, ...]] = {}
        for table, name in named_tables(view):
            self._tables[table.storage_id] = table, name
            if table.sharding is not None:
                self._groups.setdefault(table.sharding.group, []).append(name)
                self._shards[table.sharding.group] = table.sharding.shards
        self._context = EvalContext()

    def __call__(self, key: bytes) -> str:
        if not key:
            return "<min>"
        if key[0] >= 0xFF:
            return "<max>"
        if key[0] not in (4, 5, 6) or len(key) < _HEAD.size:
            return key.hex()
        number = _HEAD.unpack_from(key)[1]
        return self._in_table(number, key) if key[0] == 4 else self._in_group(number, key)

    def _in_table(self, storage_id: int, key: bytes) -> str:
        found = self._tables.get(storage_id)
        rest = key[_HEAD.size :].hex()
        if found is None:
            return f"storage {storage_id}/{rest}" if rest else f"storage {storage_id}"
        table, name = found
        if not rest:
            return name
        if table.sharding is None and len(key) >= RANGE_HEAD.size:
            index = TableLayout.of(table).by_storage_id.get(RANGE_HEAD.unpack_from(key)[2])
            if index is not None:
                owner = name if index.index is table.indexes[0] else index.index.name
                text = self._row(index, key)
                if text is not None:
                    return f"{owner}/{text}" if text else owner
        return f"{name}/{rest}"

    def _row(self, index: IndexLayout, key: bytes) -> str | None:
        """The values of the key's columns, as many as there are; None if it was cut within one."""
        if len(key) == RANGE_HEAD.size:
            return ""
        if index.is_row_id:
            return f"row {int.from_bytes(key[RANGE_HEAD.size :], 'big')}"
        for count in range(len(index.kinds), 0, -1):
            try:
                decode = keys.key_decoder(index.kinds[:count], index.descending[:count])
                values, end = decode(key, RANGE_HEAD.size)
                texts = [
                    "NULL" if value is None else registry.io(oid).format(value, self._context)
                    for value, oid in zip(values, index.types, strict=False)
                ]
            except (IndexError, ValueError, struct.error, TypeError):
                continue
            if end == len(key):
                text = ",".join(texts)
                return text if len(text) <= MOST_TEXT else text[: MOST_TEXT - 1] + "…"
        return None

    def _in_group(self, group: int, key: bytes) -> str:
        names = self._groups.get(group)
        if names is None:
            name = f"group {group}"
        else:
            name = "+".join(names[:MOST_NAMES]) + ("+…" if len(names) > MOST_NAMES else "")
        rest = key[_HEAD.size :].hex()
        if not rest:
            return name
        if key[0] == 6 and len(rest) >= 4:
            number, shards = int(rest[:4], 16), self._shards.get(group, ())
            shard = f"{name}/shard {shards[number].name if number < len(shards) else number}"
            return f"{shard}/{rest[4:]}" if rest[4:] else shard
        return f"{name}/hash {rest}" if len(rest) == 4 else f"{name}/{rest}"
