"""Two-phase commit driven by the client: psycopg's tpc methods, nodes that all die in between, DDL that has to wait."""

from __future__ import annotations

import os
import signal
import time

import psycopg
import pytest
from psycopg import errors
from pydistdb_tools.local_cluster import LocalCluster, start_cluster

Connection = psycopg.Connection[tuple[object, ...]]


def _connect(cluster: LocalCluster, node: int, *, autocommit: bool = True) -> Connection:
    return psycopg.connect(cluster.nodes[node].url, autocommit=autocommit)


def _kill_all(cluster: LocalCluster) -> None:
    for node in cluster.nodes:
        os.kill(node.pid, signal.SIGKILL)
    for node in cluster.nodes:
        try:
            os.waitpid(node.pid, 0)
        except ChildProcessError:
            while node.running:
                time.sleep(0.01)


def _set_up(cluster: LocalCluster) -> None:
    with _connect(cluster, 0) as connection:
        connection.execute("CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL CHECK (balance >= 0))")
        connection.execute("INSERT INTO accounts SELECT n, 100 FROM generate_series(1, 20) n")
        connection.execute("SELECT proddb.split_at('accounts', '11')")


def _balances(connection: Connection) -> list[object]:
    return [row[0] for row in connection.execute("SELECT balance FROM accounts WHERE id IN (1, 20) ORDER BY id")]


def _prepare_transfer(connection: Connection, name: str, amount: int) -> None:
    connection.execute("BEGIN")
    connection.execute("UPDATE accounts SET balance = balance - %s WHERE id = 1", (amount,))
    connection.execute("UPDATE accounts SET balance = balance + %s WHERE id = 20", (amount,))
    connection.execute("SELECT * FROM accounts WHERE id = 5 FOR UPDATE")
    connection.execute(f"PREPARE TRANSACTION '{name}'")


def test_psycopg_prepares_on_one_node_and_recovers_on_another(three_nodes: LocalCluster) -> None:
    _set_up(three_nodes)
    with _connect(three_nodes, 0, autocommit=False) as first:
        for number, balance in enumerate((60, 70)):
            first.tpc_begin(first.xid(7, f"transfer {number}", "branch"))
            first.execute("UPDATE accounts SET balance = %s WHERE id = %s", (balance, 1 + 19 * number))
            first.tpc_prepare()
            first.tpc_commit() if number else first.tpc_rollback()
        first.tpc_begin("plain")
        first.execute("UPDATE accounts SET balance = 0 WHERE id = 2")
        first.tpc_prepare()
        first.close()
    with _connect(three_nodes, 1, autocommit=False) as second:
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


def test_survives_the_death_of_all_nodes(fresh_three_nodes: LocalCluster) -> None:
    cluster = fresh_three_nodes
    _set_up(cluster)
    with _connect(cluster, 0) as connection:
        _prepare_transfer(connection, "kept", 30)
    with _connect(cluster, 1) as connection:
        connection.execute("BEGIN; UPDATE accounts SET balance = 0 WHERE id = 2; PREPARE TRANSACTION 'dropped'")
    _kill_all(cluster)
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
