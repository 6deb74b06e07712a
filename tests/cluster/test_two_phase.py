"""Two-phase commit, seen from outside: the log of transactions, a coordinator that dies, prepared transactions.

The tests share a cluster and hurt it more and more, so they run in this order.
"""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

import psycopg
import pytest
from psycopg import errors
from pydistdb_tools.cli import main
from pydistdb_tools.local_cluster import LocalCluster, LocalNode, start_cluster

Connection = psycopg.Connection[tuple[object, ...]]


def _connect(cluster: LocalCluster, node: int, *, autocommit: bool = True) -> Connection:
    return psycopg.connect(cluster.nodes[node].url, autocommit=autocommit)


def _kill(*nodes: LocalNode) -> None:
    for node in nodes:
        os.kill(node.pid, signal.SIGKILL)
    for node in nodes:
        try:
            os.waitpid(node.pid, 0)
        except ChildProcessError:
            while node.running:
                time.sleep(0.01)


@pytest.fixture(scope="module")
def cluster(three_nodes: LocalCluster) -> LocalCluster:
    with _connect(three_nodes, 0) as connection:
        connection.execute("CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL CHECK (balance >= 0))")
        connection.execute("INSERT INTO accounts SELECT n, 100 FROM generate_series(1, 20) n")
        connection.execute("SELECT proddb.split_at('accounts', '11')")
        connection.execute("CREATE TABLE large (id int PRIMARY KEY, pad text)")
        connection.execute("INSERT INTO large SELECT n, 'small' FROM generate_series(1, 20) n")
        connection.execute("SELECT proddb.split_at('large', '11')")
    return three_nodes


def _proddb_txn(cluster: LocalCluster, node: int, capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    assert main(["txn", *words, "--url", cluster.nodes[node].url, "--format", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def _balances(connection: Connection) -> list[object]:
    return [row[0] for row in connection.execute("SELECT balance FROM accounts WHERE id IN (1, 20) ORDER BY id")]


def _prepare_transfer(connection: Connection, name: str, amount: int) -> None:
    connection.execute("BEGIN")
    connection.execute("UPDATE accounts SET balance = balance - %s WHERE id = 1", (amount,))
    connection.execute("UPDATE accounts SET balance = balance + %s WHERE id = 20", (amount,))
    connection.execute("SELECT * FROM accounts WHERE id = 5 FOR UPDATE")
    connection.execute(f"PREPARE TRANSACTION '{name}'")


def test_the_log_tells_of_votes_and_times(cluster: LocalCluster, capsys: pytest.CaptureFixture[str]) -> None:
    with _connect(cluster, 0) as connection:
        connection.execute("BEGIN")
        connection.execute("UPDATE accounts SET balance = balance - 100 WHERE id = 3")
        connection.execute("UPDATE accounts SET balance = balance + 100 WHERE id = 18")
        connection.execute("COMMIT")
        connection.execute("BEGIN")
        connection.execute("UPDATE accounts SET balance = balance + 50 WHERE id = 18")
        with pytest.raises(errors.CheckViolation):
            connection.execute("UPDATE accounts SET balance = balance - 50 WHERE id = 3")
        connection.execute("COMMIT")
        row = connection.execute("SELECT sum(balance), max(balance) FROM accounts WHERE id IN (3, 18)").fetchone()
        assert row == (200, 200), "the second transfer took effect in part"
    aborted, committed = _proddb_txn(cluster, 1, capsys, "log", "--limit", "2")
    assert committed["state"] == "COMMITTED" and committed["votes"] == ["yes", "yes"]
    assert committed["prepare_time"] <= committed["end_time"] and committed["duration_ms"] > 0
    assert aborted["state"] == "ABORTED" and aborted["votes"] == ["not asked", "not asked"]
    assert "violates check constraint" in aborted["detail"]
    assert aborted["ranges"] == committed["ranges"]
    shown = _proddb_txn(cluster, 2, capsys, "show", str(committed["transaction_id"]))
    assert shown["log"] == [committed]


def test_a_participant_that_votes_no_aborts_both(cluster: LocalCluster, capsys: pytest.CaptureFixture[str]) -> None:
    with _connect(cluster, 0) as first, _connect(cluster, 1) as second:
        first.execute("BEGIN ISOLATION LEVEL SERIALIZABLE")
        first.execute("SELECT count(*) FROM accounts")
        first.execute("INSERT INTO accounts VALUES (0, 1), (40, 1)")
        second.execute("INSERT INTO accounts VALUES (41, 1)")
        with pytest.raises(errors.SerializationFailure):
            first.execute("COMMIT")
        assert first.execute("SELECT id FROM accounts WHERE id IN (0, 40)").fetchall() == []
        second.execute("DELETE FROM accounts WHERE id = 41")
    [aborted] = _proddb_txn(cluster, 2, capsys, "log", "--limit", "1")
    assert aborted["state"] == "ABORTED" and "dependencies" in aborted["detail"]


def test_a_traced_transaction_tells_where_it_goes(cluster: LocalCluster) -> None:
    with _connect(cluster, 1) as connection:
        ranges = "SELECT range_id FROM proddb.ranges WHERE tables LIKE '%accounts%' ORDER BY start_key"
        first, second = [row[0] for row in connection.execute(ranges)]
        said: list[str] = []
        connection.add_notice_handler(lambda notice: said.append((notice.message_primary or "").partition(": ")[2]))
        connection.execute("SET proddb.trace_txn = on")
        connection.execute("UPDATE accounts SET balance = 100 WHERE id = 3")
        assert said[0].startswith(f"locks in range {first} at node")
        assert said[1].startswith(f"one phase, checks and writes in range {first}") and said[2:] == ["COMMITTED"]
        said.clear()
        connection.execute("BEGIN; UPDATE accounts SET balance = 100 WHERE id IN (3, 18); COMMIT")
        votes = [f"  range {number}: VOTE YES" for number in sorted((first, second))]
        assert said[-4:] == ["two phases, PREPARE", *votes, "COMMITTED"]
        said.clear()
        connection.execute("BEGIN; UPDATE accounts SET balance = 100 WHERE id = 3; ROLLBACK")
        assert said[-1] == "rolled back"
        connection.execute("SET proddb.trace_txn = off")
        said.clear()
        connection.execute("UPDATE accounts SET balance = 100 WHERE id = 3")
        assert said == []


def test_psycopg_prepares_on_one_node_and_recovers_on_another(cluster: LocalCluster) -> None:
    with _connect(cluster, 0, autocommit=False) as first:
        for number, balance in enumerate((60, 70)):
            first.tpc_begin(first.xid(7, f"transfer {number}", "branch"))
            first.execute("UPDATE accounts SET balance = %s WHERE id = %s", (balance, 1 + 19 * number))
            first.tpc_prepare()
            first.tpc_commit() if number else first.tpc_rollback()
        first.tpc_begin("plain")
        first.execute("UPDATE accounts SET balance = 0 WHERE id = 2")
        first.tpc_prepare()
        first.close()
    with _connect(cluster, 1, autocommit=False) as second:
        assert _balances(second) == [100, 70]
        second.rollback()
        [xid] = second.tpc_recover()
        assert (xid.gtrid, xid.owner, xid.database) == ("plain", "postgres", "postgres")
        second.rollback()
        second.tpc_commit(xid)
        assert second.tpc_recover() == []
        second.rollback()
        with pytest.raises(errors.UndefinedObject):
            second.tpc_rollback(xid)


def test_prepared_transactions_survive_the_death_of_all_nodes(cluster: LocalCluster) -> None:
    with _connect(cluster, 0) as connection:
        connection.execute("UPDATE accounts SET balance = 100")
    with _connect(cluster, 0) as connection:
        _prepare_transfer(connection, "kept", 30)
    with _connect(cluster, 1) as connection:
        connection.execute("BEGIN; UPDATE accounts SET balance = 0 WHERE id = 2; PREPARE TRANSACTION 'dropped'")
    _kill(*cluster.nodes)
    start_cluster(cluster, print)
    with _connect(cluster, 2) as connection:
        assert _balances(connection) == [100, 100]
        names = connection.execute("SELECT gid FROM pg_prepared_xacts ORDER BY 1").fetchall()
        assert names == [("dropped",), ("kept",)]
        connection.execute("SET lock_timeout = '300ms'")
        for number in (1, 2, 5, 20):  # 5 is locked, and not written
            with pytest.raises(errors.LockNotAvailable):
                connection.execute("UPDATE accounts SET balance = 1 WHERE id = %s", (number,))
        with pytest.raises(errors.LockNotAvailable):
            connection.execute("ALTER TABLE accounts ADD COLUMN note text")
        connection.execute("COMMIT PREPARED 'kept'")
        assert _balances(connection) == [70, 130]
    with _connect(cluster, 0) as connection:
        connection.execute("ROLLBACK PREPARED 'dropped'")
        connection.execute("ALTER TABLE accounts ADD COLUMN note text")
        assert connection.execute("SELECT sum(balance) FROM accounts").fetchone() == (2000,)
        connection.execute("UPDATE accounts SET balance = 1 WHERE id IN (1, 2, 5, 20)")


def test_a_coordinator_that_dies_blocks_nobody(cluster: LocalCluster, capsys: pytest.CaptureFixture[str]) -> None:
    """A transaction too large for the gateway's memory is laid down in its ranges before it commits; then its node dies."""
    dying = _connect(cluster, 0)
    copying = dying.cursor()
    copying.execute("BEGIN")
    with copying.copy("COPY large FROM STDIN") as copy:
        for number in (*range(-10, 0), *range(101, 111)):
            copy.write_row((number, "x" * 300_000))
    with _connect(cluster, 1) as other:
        find = "SELECT transaction_id FROM proddb.transactions_in_doubt WHERE cardinality(ranges) > 1"
        deadline = time.monotonic() + 30
        while (found := other.execute(find).fetchone()) is None:
            assert time.monotonic() < deadline, "nothing is laid down"
            time.sleep(0.05)
        _kill(cluster.nodes[0])
        other.execute("INSERT INTO large VALUES (-5, 'after'), (103, 'after')")
        report = _proddb_txn(cluster, 1, capsys, "recover")
        outcomes = [each["outcome"] for each in report["recovered"] if each["full_id"] == found[0]]
        outcomes += [each["state"] for each in report["earlier"] if each["full_id"] == found[0]]
        assert outcomes and set(outcomes) == {"ABORTED"}
        assert other.execute("SELECT count(*) FROM proddb.transactions_in_doubt").fetchone() == (0,)
        rows = other.execute("SELECT pad, count(*) FROM large GROUP BY 1 ORDER BY 1").fetchall()
        assert rows == [("after", 2), ("small", 20)]
    dying.close()
