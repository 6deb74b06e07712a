"""Deferrable UNIQUE and PRIMARY KEY constraints: looking whether a key is one row's own.

Entries of such an index end with their rows' keys, so that two rows may have one key for a while.  To check a key, the
bytes that its entries start with are locked, which keeps every other transaction with that key from its own check; then a
fresh snapshot shows all there is.  A tombstone written at the locked key makes the commit notice if the lock was lost.
"""

from __future__ import annotations

from collections.abc import Iterable

from pydistdb_storage.keys import prefix_end

from pydistdb.kv.api import Isolation, LockStrength
from pydistdb.sql.exec import violations
from pydistdb.sql.exec.deferred import UniqueCheck
from pydistdb.sql.exec.run import State
from pydistdb.sql.layout import TableLayout


async def check_unique(checks: Iterable[UniqueCheck], state: State) -> None:
    """Raise UniqueViolation for the first key that two rows have."""
    wanted = list(checks)
    transaction = state.transaction
    await transaction.lock(list(dict.fromkeys(check.key for check in wanted)), LockStrength.UPDATE)
    if transaction.isolation is Isolation.READ_COMMITTED:
        transaction.begin_statement()
    for check in wanted:
        found = await transaction.scan(check.key, prefix_end(check.key), limit=2)
        if len(found.keys) > 1:
            table = state.run.catalog.table_by_oid(check.table)
            assert table is not None, "a table with pending checks is not dropped"
            index = TableLayout.of(table).by_storage_id[check.storage_id]
            raise violations.duplicate_key(state.run.catalog, index, check.values, state.context)
        transaction.delete(check.key)
        await state.breathe()
