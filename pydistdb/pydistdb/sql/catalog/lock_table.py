"""LOCK TABLE, by the cluster-wide table gate.

Modes (their numbers are Postgres's): ACCESS SHARE to ROW EXCLUSIVE (1-3) only pin the table as a statement would; SHARE
UPDATE EXCLUSIVE to EXCLUSIVE (4-7) keep writers off; ACCESS EXCLUSIVE (8) keeps everybody off.  Two transactions that
both take a mode of 4 or above wait for one another even where Postgres would let both in (SHARE with SHARE).
"""

from __future__ import annotations

from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.errors import LockNotAvailable, NoActiveTransaction
from pydistdb.sql.statements import LockTable

ROW_EXCLUSIVE, ACCESS_EXCLUSIVE = 3, 8


async def lock_table(ddl: DdlContext, statement: LockTable) -> str:
    if not ddl.in_transaction_block:
        raise NoActiveTransaction("LOCK TABLE can only be used in transaction blocks")
    tables = [ddl.table(name, "rv") for name in statement.tables]
    gate = ddl.store.gate
    oids = frozenset(table.oid for table in tables)
    deadline_ns = ddl.ddl.lock_deadline_ns
    if statement.nowait:
        deadline_ns = ddl.store.scheduler.now_ns()
    try:
        if statement.mode <= ROW_EXCLUSIVE:
            await gate.enter(ddl.transaction, oids, statement.mode == ROW_EXCLUSIVE, deadline_ns)
        else:
            ddl.ddl.lock_deadline_ns = deadline_ns
            await ddl.ddl.open()
            await ddl.ddl.lock_tables(oids, exclusive=statement.mode == ACCESS_EXCLUSIVE)
    except LockNotAvailable:
        if statement.nowait:
            raise LockNotAvailable(f'could not obtain lock on relation "{tables[0].name}"') from None
        raise
    return "LOCK TABLE"
