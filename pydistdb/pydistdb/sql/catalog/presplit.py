"""``pydistdb.split_new_tables``: every index of a new table is cut into a handful of ranges at its birth.

A table lives in one range until somebody splits it, and whatever is wrong at the border between two ranges stays unseen
for as long.  Under this setting there are borders from the first row on: before and behind every index, and inside of it
at values that small tables have, so that a test suite written for one range is one for many::

    SET pydistdb.split_new_tables = on;
    CREATE TABLE t (id int PRIMARY KEY, name text);      -- …  | id < 2 | id 2 | id 3, 4 | id 5 … 19 | id 20 … |  …

What is cut is decided by the first column's type alone, so this works within the transaction that makes the table, too.
Hash-sharded indexes have their shards and are left alone.  When the table is dropped, or its transaction rolled back, the
ranges are merged again (garbage.py).
"""

from __future__ import annotations

from pydistdb_storage.keys import prefix_end

from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.layout import ROW_ID, IndexLayout, TableLayout
from pydistdb.sql.types import registry

_ROW_IDS = (2, 3, 5, 20, 1_000)
_TEXTS = ("2", "b", "d", "m")
_SAMPLES = (("2", "3", "5", "20", "500"), ("2000-01-01", "2012-01-01", "2020-01-01"), ("06:00", "12:00"), ("10.0.0.0",))
"""The first of these that a type can read are its borders."""


async def split_new_indexes(ddl: DdlContext) -> None:
    """Cut whatever the transaction's statements so far made or changed (what is cut already stays as it is)."""
    tables = {value.oid: value for _, value in ddl.ddl.overlay.changes if isinstance(value, Table)}
    for table in tables.values():
        if table.indexes and table.kind in ("r", "m"):
            await ddl.store.database.split(borders(ddl, table))


def borders(ddl: DdlContext, table: Table) -> list[bytes]:
    """The keys at which the table's indexes are cut."""
    found: list[bytes] = []
    for index in TableLayout.of(table).indexes:
        if not index.hashed:
            found += [index.head, *_within(ddl, index), prefix_end(index.head)]
    return found


def _within(ddl: DdlContext, index: IndexLayout) -> list[bytes]:
    if index.token_classes:
        return []  # an inverted index begins with tokens, not with values
    if index.is_row_id:
        return [index.head + ROW_ID.pack(row_id) for row_id in _ROW_IDS]
    type_io = registry.io(index.types[0])
    for texts in (_TEXTS,) if index.kinds[0] == "text" else _SAMPLES:
        try:
            values = [type_io.parse(text, -1, ddl.context) for text in texts]
        except DatabaseError:
            continue
        return [index.head + index.encode([value]) for value in values]
    return []
