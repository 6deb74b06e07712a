"""The in-memory database that SQL tests stand on keeps the promises of kv.api."""

from __future__ import annotations

import pytest
from pydistdb.kv.api import (
    Database,
    Isolation,
    KeyExists,
    LockStrength,
    MustWait,
    SerializationConflict,
    Transaction,
)
from pydistdb.tasks import run_inline

from tests.support.memory_database import MemoryDatabase


def _filled(*keys: bytes) -> MemoryDatabase:
    database = MemoryDatabase()
    run_inline(database.ingest([(key, b"value of " + key) for key in keys]))
    return database


def test_reads_see_their_snapshot_and_own_writes() -> None:
    database: Database = _filled(b"a", b"b", b"c")
    reader: Transaction = database.begin(Isolation.REPEATABLE_READ)
    writer = database.begin(Isolation.READ_COMMITTED)
    writer.delete(b"b")
    writer.put(b"d", b"new")
    assert run_inline(writer.scan(b"", b"\xff", limit=2)) == ([b"a", b"c"], [b"value of a", b"value of c"], b"d")
    assert writer.try_scan(b"", b"\xff", limit=2, reverse=True) == ([b"d", b"c"], [b"new", b"value of c"], b"c")
    run_inline(writer.commit())
    assert reader.try_get(b"b") == b"value of b"
    reader.begin_statement()
    assert reader.try_get(b"b") is None, "REPEATABLE READ takes its snapshot with the first statement"
    assert database.try_get(b"d") == b"new"


def test_insert_conflicts_at_commit_and_lost_updates_show() -> None:
    database = _filled(b"a")
    first, second = (database.begin(Isolation.READ_COMMITTED) for _ in range(2))
    first.insert(b"a", b"x")
    with pytest.raises(KeyExists):
        run_inline(first.commit())
    third = database.begin(Isolation.READ_COMMITTED)
    for txn in (second, third):
        [locked] = run_inline(txn.lock([b"a"], LockStrength.UPDATE))
        assert locked == (b"value of a", False, False)
        txn.put(b"a", b"y")
    run_inline(second.commit())
    with pytest.raises(SerializationConflict):
        run_inline(third.commit())


def test_savepoints_undo_writes() -> None:
    txn = MemoryDatabase().begin(Isolation.READ_COMMITTED)
    txn.insert(b"a", b"1")
    mark = txn.savepoint()
    txn.put(b"a", b"2")
    txn.insert(b"b", b"3")
    txn.rollback_to(mark)
    assert txn.try_get(b"a") == b"1" and txn.try_get(b"b") is None


def test_must_wait_mode_sends_callers_to_the_awaitable_form() -> None:
    txn = MemoryDatabase(must_wait=True).begin(Isolation.READ_COMMITTED)
    with pytest.raises(MustWait):
        txn.try_get(b"a")
    assert run_inline(txn.get_many([b"a"])) == [None]
