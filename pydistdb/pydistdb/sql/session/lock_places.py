"""Which table, or which row of a table, a key of the kv layer's lock tables stands for.

04 table 1 …        a row's key: the row                          tuple in pg_locks
04 table 2 …        an entry of a unique index: no row            only its transaction is shown
03 K T …            the lock that stands for a table's definition (catalog/claims.py)
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from zlib import crc32

from pydistdb.sql.catalog import keys
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.catalog.state import CatalogState
from pydistdb.sql.layout import HASH_HEAD, RANGE_HEAD, TableLayout

_HEADS = {4: RANGE_HEAD, 5: HASH_HEAD, 6: HASH_HEAD}


def tuple_number(key: bytes) -> tuple[int, int]:
    """A page and an item that tell rows apart, as far as numbers of this size can (a ctid may be longer)."""
    return crc32(key) & 0x7FFFFFFF, 1


class Places:
    """The tables of one state of the catalog."""

    def __init__(self, state: CatalogState) -> None:
        self._state = state

    @cached_property
    def _tables(self) -> dict[int, tuple[int, Table]]:
        """Database and table, by storage id."""
        return {
            table.storage_id: (oid, table)
            for oid, database in self._state.databases.items()
            for table in database.tables.values()
            if table.kind in "rm"
        }

    def row_at(self, key: bytes) -> tuple[int, int] | None:
        """Database and table of a row; None if it is the key of something else."""
        head = _HEADS.get(key[0]) if key else None
        if head is None or len(key) < head.size:
            return None
        storage_id, index_storage_id = head.unpack_from(key)[-2:]
        database, table = self._tables.get(storage_id, (0, None))
        if table is None or TableLayout.of(table).primary.index.storage_id != index_storage_id:
            return None
        return database, table.oid

    def tables_of(self, locked: Iterable[bytes], database: int) -> list[int]:
        """The tables of a database that some of these keys are rows of."""
        heads = {key[: head.size] for key in locked if (head := _HEADS.get(key[0])) is not None}
        rows = [self.row_at(head) for head in heads]
        return [row[1] for row in rows if row is not None and row[0] == database]

    def table_locked_by(self, key: bytes) -> tuple[int, int] | None:
        """Database and table whose definition the key is the lock of."""
        if not key.startswith(keys.LOCK_PREFIX):
            return None
        kind, numbers = keys.unpack_key(keys.PREFIX + key[len(keys.LOCK_PREFIX) :])
        return (numbers[0], numbers[1]) if kind == "T" else None
