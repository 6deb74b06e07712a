"""What a session runs again by itself, and what it tells the client instead."""

from __future__ import annotations

from typing import Any

import pytest
from pydistdb.kv import api as kv
from pydistdb.sql.kv_errors import database_error
from pydistdb_storage.errors import KeyTooLong, StoreFull, StoreReadOnly

from tests.support.memory_database import MemoryTransaction
from tests.support.sql_client import SqlClient, SqlServer


class Faults:
    """Errors to be raised by the next calls of a transaction's methods."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waiting: dict[str, list[kv.KVError]] = {"commit": [], "scan": []}
        self.snapshots: list[int] = []
        waiting, snapshots = self.waiting, self.snapshots
        commit, scan, begin_statement = (
            MemoryTransaction.commit,
            MemoryTransaction.scan,
            MemoryTransaction.begin_statement,
        )

        async def faulty_commit(transaction: MemoryTransaction) -> int:
            if waiting["commit"]:
                raise waiting["commit"].pop(0)
            return await commit(transaction)

        async def faulty_scan(transaction: MemoryTransaction, start: bytes, end: bytes, **options: Any) -> kv.ScanBatch:
            if waiting["scan"] and start[:1] == b"\x04":
                raise waiting["scan"].pop(0)
            return await scan(transaction, start, end, **options)

        def try_scan(transaction: MemoryTransaction, start: bytes, end: bytes, **options: Any) -> kv.ScanBatch:
            raise kv.MustWait

        def noted(transaction: MemoryTransaction, at_least: int = 0) -> None:
            snapshots.append(at_least)
            begin_statement(transaction, at_least)

        monkeypatch.setattr(MemoryTransaction, "commit", faulty_commit)
        monkeypatch.setattr(MemoryTransaction, "scan", faulty_scan)
        monkeypatch.setattr(MemoryTransaction, "try_scan", try_scan)
        monkeypatch.setattr(MemoryTransaction, "begin_statement", noted)


@pytest.fixture
def client() -> SqlClient:
    client = SqlServer().connect()
    client.execute("CREATE TABLE t (a int PRIMARY KEY, b int)")
    client.execute("INSERT INTO t VALUES (1, 0)")
    return client


@pytest.fixture
def faults(client: SqlClient, monkeypatch: pytest.MonkeyPatch) -> Faults:
    return Faults(monkeypatch)


def test_a_statement_of_its_own_is_run_again_after_a_conflict(client: SqlClient, faults: Faults) -> None:
    faults.waiting["commit"] = [
        kv.SerializationConflict("x"),
        kv.TransactionAborted("x"),
        kv.SerializationConflict("x"),
    ]
    assert client.execute("UPDATE t SET b = b + 1 RETURNING b") == ["1", "UPDATE 1"]
    assert client.rows("SELECT b FROM t") == ["1"]
    assert client.server.environment.statistics.retries == 3


def test_retrying_has_an_end(client: SqlClient, faults: Faults) -> None:
    faults.waiting["commit"] = [kv.SerializationConflict("x")] * 1000
    (line,) = client.execute("UPDATE t SET b = b + 1")
    assert line.startswith("ERROR: 40001: could not serialize access due to concurrent update")
    faults.waiting["commit"] = []
    assert client.rows("SELECT b FROM t") == ["0"]


def test_a_block_is_not_retried(client: SqlClient, faults: Faults) -> None:
    faults.waiting["commit"] = [kv.SerializationConflict("x")]
    client.execute("BEGIN")
    client.execute("UPDATE t SET b = b + 1")
    (line,) = client.execute("COMMIT")
    assert line.startswith("ERROR: 40001")
    assert "HINT: The transaction might succeed if retried." in line
    assert client.session.transaction_status == b"I"
    assert client.rows("SELECT b FROM t") == ["0"]


def test_an_unknown_outcome_is_told_and_never_retried(client: SqlClient, faults: Faults) -> None:
    faults.waiting["commit"] = [kv.OutcomeUnknown("x")]
    (line,) = client.execute("UPDATE t SET b = b + 1")
    assert line.startswith("ERROR: 40003")
    assert client.rows("SELECT b FROM t") == ["0"]


def test_read_committed_restarts_with_a_newer_snapshot(client: SqlClient, faults: Faults) -> None:
    faults.waiting["scan"] = [kv.ReadRestart(77)]
    assert client.rows("SELECT b FROM t") == ["0"]
    assert faults.snapshots == [0, 77]
    client.execute("BEGIN")
    client.execute("UPDATE t SET b = 5")
    faults.waiting["scan"] = [kv.ReadRestart(88), kv.ReadRestart(99)]
    assert client.rows("SELECT b FROM t") == ["5"]
    assert faults.snapshots[-2:] == [88, 99]
    faults.waiting["scan"] = [kv.ReadRestart(111)]
    assert client.execute("UPDATE t SET b = b + 1") == ["UPDATE 1"]
    assert client.rows("SELECT b FROM t") == ["6"]
    assert client.execute("COMMIT") == ["COMMIT"]


def test_repeatable_read_restarts_only_at_its_first_statement(client: SqlClient, faults: Faults) -> None:
    client.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    faults.waiting["scan"] = [kv.ReadRestart(77)]
    assert client.rows("SELECT b FROM t") == ["0"]
    faults.waiting["scan"] = [kv.ReadRestart(88)]
    (line,) = client.execute("SELECT b FROM t")
    assert line.startswith(
        "ERROR: 40001: could not serialize access due to a value within the clock uncertainty window"
    )
    assert client.session.transaction_status == b"E"


def test_on_conflict_meets_a_row_that_came_in_between(client: SqlClient, faults: Faults) -> None:
    faults.waiting["commit"] = [kv.KeyExists(b"\x04\0\0\0\x01\0\x01")]
    assert client.execute("INSERT INTO t VALUES (2, 2) ON CONFLICT DO NOTHING") == ["INSERT 0 1"]


def test_a_cancelled_statement_leaves_the_session_usable(client: SqlClient) -> None:
    from pydistdb.sql.errors import QueryCanceled

    session = client.session
    assert not session.cancel(QueryCanceled("x"))  # nothing runs
    session.is_active = True
    assert session.cancel(QueryCanceled("canceling statement due to user request"))
    with pytest.raises(QueryCanceled):
        session.check_interrupt()
    session.check_interrupt()
    session.transaction.is_committing = True
    assert not session.cancel(QueryCanceled("x"))
    session.transaction.open().is_spilling = True  # type: ignore[misc]
    assert session.cancel(QueryCanceled("x")), "what a commit lays down before it decides can be given up"
    session.transaction.rollback()
    session.transaction.is_committing = False
    session.is_active = False
    assert client.rows("SELECT b FROM t") == ["0"]


@pytest.mark.parametrize(
    ("error", "sqlstate"),
    [
        (kv.SerializationConflict("x"), "40001"),
        (kv.TransactionAborted("x"), "40001"),
        (kv.ReadRestart(1), "40001"),
        (kv.DeadlockDetected("x"), "40P01"),
        (kv.LockNotAvailable("canceling statement due to lock timeout"), "55P03"),
        (kv.OutcomeUnknown("x"), "40003"),
        (kv.RangeUnavailable("x"), "57P03"),
        (kv.TransactionTooLarge("x"), "54000"),
        (kv.ClockOutOfBounds("x"), "58000"),
        (kv.DiskFull("x"), "53100"),
        (KeyTooLong(600, 511), "54000"),
        (StoreFull("x"), "53100"),
        (StoreReadOnly("x"), "25006"),
        (kv.KVError("?"), "XX000"),
    ],
)
def test_every_error_has_its_sqlstate(error: Any, sqlstate: str) -> None:
    known = database_error(error)
    assert known.sqlstate == sqlstate
    assert known.message
    assert known.__cause__ is error


def test_statements_of_a_block_leave_no_mark_behind(client: SqlClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """With marks open, a large transaction must stay in memory until its commit."""
    events: list[str] = []
    savepoint, forget = MemoryTransaction.savepoint, MemoryTransaction.forget_savepoints

    def noted_savepoint(transaction: MemoryTransaction) -> int:
        events.append("mark")
        return savepoint(transaction)

    def noted_forget(transaction: MemoryTransaction) -> None:
        events.append("forget")
        forget(transaction)

    monkeypatch.setattr(MemoryTransaction, "savepoint", noted_savepoint)
    monkeypatch.setattr(MemoryTransaction, "forget_savepoints", noted_forget)
    client.execute("BEGIN")
    client.execute("INSERT INTO t SELECT 2, 2")
    assert events == ["mark", "forget"]
    client.execute("SAVEPOINT s")
    client.execute("INSERT INTO t SELECT 3, 3")
    assert events == ["mark", "forget", "mark", "mark"]
    client.execute("ROLLBACK TO SAVEPOINT s")
    assert client.rows("SELECT count(*) FROM t") == ["2"]
    client.execute("RELEASE SAVEPOINT s")
    assert events[-1] == "forget"
    assert client.execute("COMMIT") == ["COMMIT"]
    assert client.rows("SELECT count(*) FROM t") == ["2"]


def test_what_a_statement_says_of_a_row_holds(client: SqlClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error, or that nothing was to be changed, is told only once the row it saw is durable; else it begins anew."""
    client.execute("ALTER TABLE t ADD CHECK (b < 5)")
    begun: list[bool] = []

    async def confirm(transaction: MemoryTransaction) -> None:
        begun.append(transaction.starts_anew)
        if len(begun) == 1:
            raise kv.SerializationConflict("it was lost")

    monkeypatch.setattr(MemoryTransaction, "confirm", confirm)
    assert "violates check constraint" in client.execute("UPDATE t SET b = 5 WHERE a = 1")[0]
    assert begun == [True, True]
    begun.clear()
    assert client.execute("UPDATE t SET b = 1 WHERE a = 1 AND b = 9") == ["UPDATE 0"]
    assert begun == [True, True]
    begun.clear()
    client.execute("BEGIN")
    begun.append(False)  # nothing fails
    client.execute("UPDATE t SET b = 1 WHERE a = 1")
    client.execute("COMMIT")
    assert True not in begun
