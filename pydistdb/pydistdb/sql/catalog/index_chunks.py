"""One chunk of an index that is built online (index_jobs.py): rows locked as they are now, and their entries.

keys 04..01 <17>, <18>      locked SHARE: nobody changes them until the chunk's transaction ends
entries of rows 17 and 18   put, unless another row has the key of a unique index
"""

from __future__ import annotations

from typing import Any

from pydistdb.kv.api import LockStrength, Transaction
from pydistdb.sql.catalog.backfill import UniqueGuard
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.store import at_snapshot
from pydistdb.sql.layout import HASH_IDENTITY_END, HASH_IDENTITY_START, IndexLayout, TableLayout, picks_of

KeyedRow = tuple[bytes, list[Any]]


async def locked_rows(
    transaction: Transaction, layout: TableLayout, position: bytes, most_rows: int
) -> tuple[list[KeyedRow], bytes | None]:
    """The rows from ``position`` on as they are now, locked against changes; and where to go on."""
    span = layout.table_span()
    first = max(position, span.start)
    picks = picks_of(span.identity)
    found = await at_snapshot(transaction, lambda: transaction.scan(first, span.end, limit=most_rows, picks=picks))
    wanted = found.keys
    if span.identity is not None:
        wanted = [key for key in wanted if key[HASH_IDENTITY_START:HASH_IDENTITY_END] == span.identity]
    locked = await transaction.lock(wanted, LockStrength.SHARE) if wanted else []
    rows = [
        (key, layout.decode(answer.value))
        for key, answer in zip(wanted, locked, strict=True)
        if answer.value is not None
    ]
    return rows, found.resume


async def write_entries(
    context: DdlContext, transaction: Transaction, layout: TableLayout, index: IndexLayout, rows: list[KeyedRow]
) -> None:
    """Write the rows' entries; raises UniqueViolation."""
    present = [(entry, key, row) for key, row in rows for entry in layout.entries_in(index, row, key)]
    taken: dict[bytes, bytes | None] = {}
    unique = list(dict.fromkeys(entry.key for entry, _, _ in present if entry.unique))
    if unique:
        answers = await transaction.lock(unique, LockStrength.UPDATE)
        taken = {key: answer.value for key, answer in zip(unique, answers, strict=True)}
    for entry, key, row in present:
        other = taken.get(entry.key)
        if other is not None and index.row_keys([other])[0] != key:
            raise UniqueGuard(context, layout.table, index.index).violation(row)
        if entry.unique:
            taken[entry.key] = entry.value
        transaction.put(entry.key, entry.value)
