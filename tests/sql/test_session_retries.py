"""What a session runs again by itself, and what it tells the client instead."""

from __future__ import annotations

from typing import Any

import pytest
from pydistdb.kv import api as kv
from pydistdb.sql.catalog import keys
from pydistdb.sql.exec import BulkInsert
from pydistdb.sql.kv_errors import database_error
from pydistdb.sql.session import alone
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


COPIED = [b"5\t50\n6\t", b"60\n7\t70\n"]


@pytest.mark.parametrize(
    ("statement", "tag", "query", "rows"),
    [
        ("CREATE TABLE u (a serial PRIMARY KEY)", "CREATE TABLE", "SELECT count(*) FROM u", ["0"]),
        ("CREATE TABLE u AS SELECT a FROM t", "SELECT 1", "SELECT a FROM u", ["1"]),
        ("CREATE TEMP TABLE u AS SELECT a FROM t", "SELECT 1", "SELECT a FROM u", ["1"]),
        ("SELECT a INTO u FROM t", "SELECT 1", "SELECT a FROM u", ["1"]),
        ("CREATE INDEX ON t (b)", "CREATE INDEX", "SELECT count(*) FROM pg_indexes WHERE tablename = 't'", ["2"]),
        (
            "CREATE INDEX CONCURRENTLY ON t (b)",
            "CREATE INDEX",
            "SELECT count(*) FROM pg_index WHERE indrelid = 't'::regclass AND indisvalid",
            ["2"],
        ),
        ("ALTER TABLE t ADD c int DEFAULT 7", "ALTER TABLE", "SELECT c FROM t", ["7"]),
        ("ALTER TABLE t ALTER b TYPE text", "ALTER TABLE", "SELECT b || 'x' FROM t", ["0x"]),
        ("TRUNCATE t", "TRUNCATE TABLE", "SELECT count(*) FROM t", ["0"]),
        ("CREATE VIEW u AS SELECT a FROM t", "CREATE VIEW", "SELECT a FROM u", ["1"]),
        ("DROP TABLE w", "DROP TABLE", "SELECT count(*) FROM pg_class WHERE relname = 'w'", ["0"]),
        ("CREATE ROLE worker", "CREATE ROLE", "SELECT count(*) FROM pg_roles WHERE rolname = 'worker'", ["1"]),
        ("CALL bump()", "CALL", "SELECT b FROM t", ["1"]),
    ],
)
def test_schema_changes_of_their_own_begin_anew(
    client: SqlClient, faults: Faults, statement: str, tag: str, query: str, rows: list[str]
) -> None:
    client.execute("CREATE TABLE w ()")
    client.execute("CREATE PROCEDURE bump() BEGIN ATOMIC UPDATE t SET b = b + 1; END")
    lost: list[kv.KVError] = [
        kv.SerializationConflict("x"),
        kv.KeyExists(keys.PREFIX + b"version"),  # two made the same version of the catalog
        kv.TransactionAborted("x"),
    ]
    faults.waiting["commit"] = lost
    assert client.execute(statement) == [tag]
    assert not lost, "no conflict was met"
    assert client.rows(query) == rows


def test_copy_from_begins_anew_with_the_same_data(client: SqlClient, faults: Faults) -> None:
    lost: list[kv.KVError] = [kv.SerializationConflict("x"), kv.ReadRestart(77)]
    faults.waiting["commit"] = lost
    assert client.execute("COPY t FROM STDIN", COPIED) == ["(copy in, 2 columns)", "COPY 3"]
    assert not lost
    assert faults.snapshots[-1] == 77
    assert client.rows("SELECT * FROM t ORDER BY a") == ["1|0", "5|50", "6|60", "7|70"]


def test_copy_from_begins_anew_in_the_middle_of_its_data(client: SqlClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """What had not arrived when the conflict was met is read behind what is repeated."""
    calls: list[int] = []
    insert = BulkInsert.insert

    async def lost_once(bulk: BulkInsert, rows: Any) -> None:
        calls.append(len(rows))
        if len(calls) == 2:
            raise kv.SerializationConflict("x")
        await insert(bulk, rows)

    monkeypatch.setattr(BulkInsert, "insert", lost_once)
    lines = [f"{number}\t0\n".encode() for number in range(100, 2_600)]
    assert client.execute("COPY t FROM STDIN", lines)[-1] == "COPY 2500"
    assert calls == [1000, 1000, 1000, 1000, 500]
    assert client.rows("SELECT count(*), count(DISTINCT a), max(a) FROM t") == ["2501|2501|2599"]


def test_more_copy_data_than_are_kept_are_not_repeated(
    client: SqlClient, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alone, "KEPT_BYTES", 10)
    faults.waiting["commit"] = [kv.SerializationConflict("x")]
    assert client.execute("COPY t FROM STDIN", COPIED)[-1].startswith("ERROR: 40001")
    assert client.rows("SELECT count(*) FROM t") == ["1"]


def test_what_has_left_is_not_repeated(client: SqlClient, faults: Faults) -> None:
    client.execute("CREATE PROCEDURE double(INOUT n int) BEGIN ATOMIC UPDATE t SET b = n; SELECT 2 * n; END")
    faults.waiting["commit"] = [kv.SerializationConflict("x")]
    lines = client.execute("CALL double(4)")
    assert lines[0] == "8"
    assert lines[1].startswith("ERROR: 40001")
    assert client.rows("SELECT b FROM t") == ["0"]


def test_notices_of_a_repeated_statement_are_told_once(client: SqlClient, faults: Faults) -> None:
    faults.waiting["commit"] = [kv.SerializationConflict("x")]
    client.execute("CREATE VIEW u AS SELECT a FROM t")
    faults.waiting["commit"] = lost = [kv.SerializationConflict("x"), kv.SerializationConflict("x")]
    assert client.execute("DROP TABLE t CASCADE") == ["NOTICE: drop cascades to view u (00000)", "DROP TABLE"]
    assert not lost


def test_schema_changes_in_a_block_or_a_string_are_not_repeated(client: SqlClient, faults: Faults) -> None:
    client.execute("BEGIN")
    client.execute("CREATE TABLE u (a int)")
    faults.waiting["commit"] = [kv.SerializationConflict("x")]
    assert client.execute("COMMIT")[0].startswith("ERROR: 40001")
    faults.waiting["commit"] = [kv.SerializationConflict("x")]
    assert client.execute("CREATE TABLE u (a int); CREATE TABLE v (a int)")[-1].startswith("ERROR: 40001")
    faults.waiting["commit"] = [kv.SerializationConflict("x")] * 1000
    assert client.execute("CREATE TABLE u (a int)")[0].startswith("ERROR: 40001")
    faults.waiting["commit"] = []
    assert client.rows("SELECT count(*) FROM pg_class WHERE relname IN ('u', 'v')") == ["0"]
