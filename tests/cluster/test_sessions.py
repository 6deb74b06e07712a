"""What sessions of different nodes have to do with each other: notifications, advisory locks, pg_stat_activity."""

from __future__ import annotations

import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

import psycopg
import pytest
from psycopg.rows import TupleRow
from pydistdb_tools.local_cluster import LocalCluster, LocalNode

from tests.cluster.test_failures import _kill as kill


def test_a_notification_reaches_listeners_of_every_node_in_order(three_nodes: LocalCluster) -> None:
    connections = [psycopg.connect(node.url, autocommit=True) for node in three_nodes.nodes]
    sender = connections[0]
    try:
        for connection in connections:
            connection.execute("LISTEN news")
        with sender.transaction():
            for text in ("one", "two", "one", "three"):
                sender.execute("SELECT pg_notify('news', %s)", (text,))
        sender.execute("NOTIFY news, 'four'")
        for connection in connections:
            heard = list(connection.notifies(timeout=5, stop_after=4))
            assert [notice.payload for notice in heard] == ["one", "two", "three", "four"]
            assert {notice.pid for notice in heard} == {sender.info.backend_pid}
    finally:
        for connection in connections:
            connection.close()


def _connect(node: LocalNode) -> psycopg.Connection[TupleRow]:
    return psycopg.connect(node.url, autocommit=True)


def _leader_of_range_one(cluster: LocalCluster) -> LocalNode:
    """Waits until every range has its three voters."""
    while True:
        status = cluster.status()
        voters = [[r for r in item["replicas"] if r["role"] in ("leader", "follower")] for item in status["ranges"]]
        if all(len(replicas) == 3 for replicas in voters):
            break
        time.sleep(0.1)
    names = {node["id"]: node["name"] for node in status["nodes"]}
    leader = next(names[item["leader"]] for item in status["ranges"] if item["id"] == 1)
    return next(node for node in cluster.nodes if node.name == leader)


def _take(connection: psycopg.Connection[TupleRow], number: int) -> bool:
    row = connection.execute("SELECT pg_try_advisory_lock(%s)", (number,)).fetchone()
    assert row is not None
    return bool(row[0])


def test_an_advisory_lock_excludes_the_sessions_of_all_nodes_and_goes_with_its_own(three_nodes: LocalCluster) -> None:
    first, second, third = map(_connect, three_nodes.nodes)
    try:
        assert _take(first, 1)
        assert not _take(second, 1) and not _take(third, 1)
        shown = second.execute(
            "SELECT pid, mode, granted FROM pg_locks WHERE locktype = 'advisory' AND objid = 1"
        ).fetchall()
        assert shown == [(first.info.backend_pid, "ExclusiveLock", True)]
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(second.execute, "SELECT pg_advisory_lock(1)")
            query = "SELECT wait_event_type, wait_event FROM pg_stat_activity WHERE pid = %s"
            while third.execute(query, (second.info.backend_pid,)).fetchone() != ("Lock", "advisory"):
                assert not waiting.done()
                time.sleep(0.02)
            first.close()
            waiting.result(timeout=10)
        assert not _take(third, 1)
        second.execute("SELECT pg_advisory_unlock(1)")
        assert _take(third, 1)
    finally:
        for connection in (first, second, third):
            connection.close()


def test_a_cycle_of_advisory_and_row_locks_is_broken(three_nodes: LocalCluster) -> None:
    first, second = _connect(three_nodes.nodes[0]), _connect(three_nodes.nodes[1])
    try:
        first.execute("CREATE TABLE IF NOT EXISTS knot (id int PRIMARY KEY, n int)")
        first.execute("INSERT INTO knot VALUES (1, 0) ON CONFLICT DO NOTHING")
        first.execute("BEGIN")
        first.execute("SELECT pg_advisory_xact_lock(10)")
        second.execute("BEGIN")
        second.execute("UPDATE knot SET n = n + 1 WHERE id = 1")
        with ThreadPoolExecutor() as pool:
            calls = [
                pool.submit(first.execute, "UPDATE knot SET n = n + 1 WHERE id = 1"),
                pool.submit(second.execute, "SELECT pg_advisory_xact_lock(10)"),
            ]
            done, pending = wait(calls, timeout=10, return_when=FIRST_EXCEPTION)
            [victim] = [call for call in done if call.exception() is not None]
            assert isinstance(victim.exception(), psycopg.errors.DeadlockDetected)
            (first if victim is calls[0] else second).execute("ROLLBACK")
            for call in pending:
                call.result(timeout=10)
    finally:
        first.close()
        second.close()


def test_backends_of_other_nodes_are_cancelled_and_terminated(three_nodes: LocalCluster) -> None:
    victim, other = _connect(three_nodes.nodes[0]), _connect(three_nodes.nodes[1])
    try:
        pid = victim.info.backend_pid
        states = other.execute("SELECT state FROM pg_stat_activity WHERE pid = %s", (pid,)).fetchall()
        assert states == [("idle",)]
        with ThreadPoolExecutor() as pool:
            sleeping = pool.submit(victim.execute, "SELECT pg_sleep(30)")
            query = "SELECT wait_event FROM pg_stat_activity WHERE pid = %s AND state = 'active'"
            while other.execute(query, (pid,)).fetchone() != ("PgSleep",):
                time.sleep(0.02)
            assert other.execute("SELECT pg_cancel_backend(%s)", (pid,)).fetchone() == (True,)
            with pytest.raises(psycopg.errors.QueryCanceled):
                sleeping.result(timeout=10)
        assert other.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,)).fetchone() == (True,)
        with pytest.raises(psycopg.errors.AdminShutdown):
            victim.execute("SELECT 1")
        assert other.execute("SELECT pg_terminate_backend(%s)", (pid,)).fetchone() == (False,)
    finally:
        victim.close()
        other.close()


_BLOCKED = """
SELECT blocked.pid, blocking.pid, activity.query
FROM pg_locks blocked
JOIN pg_locks blocking ON blocking.granted AND blocking.pid <> blocked.pid
    AND blocking.locktype = blocked.locktype
    AND blocking.database IS NOT DISTINCT FROM blocked.database
    AND blocking.relation IS NOT DISTINCT FROM blocked.relation
    AND blocking.page IS NOT DISTINCT FROM blocked.page
    AND blocking.tuple IS NOT DISTINCT FROM blocked.tuple
    AND blocking.transactionid IS NOT DISTINCT FROM blocked.transactionid
JOIN pg_stat_activity activity ON activity.pid = blocking.pid
WHERE NOT blocked.granted ORDER BY blocked.pid
"""
"""After https://wiki.postgresql.org/wiki/Lock_Monitoring."""


def test_every_node_tells_who_blocks_whom_wherever_they_are(three_nodes: LocalCluster) -> None:
    connections = [_connect(node) for node in (*three_nodes.nodes, *three_nodes.nodes)]
    holder, first, second, *watchers = connections
    pids = [connection.info.backend_pid for connection in connections]
    update = "UPDATE watched SET n = n + 1 WHERE id = 1"
    waits = (
        "SELECT pid, pg_blocking_pids(pid), wait_event_type, wait_event FROM pg_stat_activity "
        "WHERE query = %s AND state = 'active' ORDER BY query_start"
    )
    try:
        holder.execute("CREATE TABLE watched (id int PRIMARY KEY, n int)")
        holder.execute("INSERT INTO watched VALUES (1, 0)")
        holder.execute("BEGIN")
        holder.execute("UPDATE watched SET n = 5 WHERE id = 1")
        with ThreadPoolExecutor() as pool:
            calls = []
            expected: list[tuple[object, ...]] = []
            for waiter, pid, blocker, event in (
                (first, pids[1], pids[0], "transactionid"),
                (second, pids[2], pids[1], "tuple"),
            ):
                calls.append(pool.submit(waiter.execute, update))
                expected.append((pid, [blocker], "Lock", event))
                while watchers[0].execute(waits, (update,)).fetchall() != expected:
                    assert not calls[-1].done()
                    time.sleep(0.02)
            for watcher in watchers:
                assert watcher.execute(waits, (update,)).fetchall() == expected
                assert watcher.execute(_BLOCKED).fetchall() == sorted(
                    [(pids[1], pids[0], "UPDATE watched SET n = 5 WHERE id = 1"), (pids[2], pids[1], update)]
                )
            holder.execute("COMMIT")
            for call in calls:
                call.result(timeout=10)
    finally:
        for connection in connections:
            connection.close()


def test_a_prepared_transaction_blocks_as_process_zero(three_nodes: LocalCluster) -> None:
    holder, waiter, watcher = connections = [_connect(node) for node in three_nodes.nodes]
    pid = waiter.info.backend_pid
    try:
        holder.execute("CREATE TABLE in_doubt (id int PRIMARY KEY, n int)")
        holder.execute("INSERT INTO in_doubt VALUES (1, 0)")
        holder.execute("BEGIN; UPDATE in_doubt SET n = 5 WHERE id = 1; PREPARE TRANSACTION 'in doubt'")
        with ThreadPoolExecutor() as pool:
            call = pool.submit(waiter.execute, "UPDATE in_doubt SET n = n + 1 WHERE id = 1")
            while watcher.execute("SELECT pg_blocking_pids(%s)", (pid,)).fetchone() != ([0],):
                assert not call.done()
                time.sleep(0.02)
            query = (
                "SELECT l.pid, l.mode, l.granted, split_part(virtualtransaction, '/', 1) FROM pg_locks l "
                "JOIN pg_prepared_xacts p ON p.transaction = l.transactionid WHERE gid = 'in doubt' ORDER BY granted"
            )
            (first, *_), second = watcher.execute(query).fetchall()
            assert first == pid and second == (None, "ExclusiveLock", True, "-1")
            watcher.execute("COMMIT PREPARED 'in doubt'")
            call.result(timeout=10)
    finally:
        for connection in connections:
            connection.close()


def test_advisory_locks_outlive_the_leaseholder_but_not_their_own_node(fresh_three_nodes: LocalCluster) -> None:
    nodes = fresh_three_nodes.nodes
    leader = _leader_of_range_one(fresh_three_nodes)
    keeper, taker = [node for node in nodes if node is not leader]
    with _connect(keeper) as holder, _connect(taker) as other:
        with _connect(leader) as doomed:
            assert _take(doomed, 1)
            assert _take(holder, 2)
            kill(leader)
        # Both questions wait until the new leaseholder knows what everybody holds, and that the dead node is dead.
        assert _take(other, 1)
        assert not _take(other, 2)
        assert holder.execute("SELECT pg_advisory_unlock(2)").fetchone() == (True,)
        assert _take(other, 2)


def _value(connection: psycopg.Connection[TupleRow], query: str) -> int:
    row = connection.execute(query).fetchone()  # type: ignore[call-overload]
    assert row is not None
    return int(row[0])


def test_a_snapshot_lists_the_numbered_transactions_of_all_nodes_until_a_statement_sees_them(
    three_nodes: LocalCluster,
) -> None:
    writer, reader, other = map(_connect, three_nodes.nodes)
    try:
        lowest = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text"
        visible = "SELECT pg_visible_in_snapshot('{0}', pg_current_snapshot())::int"
        with writer.transaction():
            number = _value(writer, "SELECT pg_current_xact_id()::text")
            assert _value(reader, lowest) <= number and not _value(reader, visible.format(number))
            assert other.execute("SELECT txid_status(%s)", (number,)).fetchone() == ("in progress",)
            reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            assert not _value(reader, visible.format(number))
        assert other.execute("SELECT txid_status(%s)", (number,)).fetchone() == ("committed",)
        assert _value(other, visible.format(number)) and _value(other, lowest) > number
        assert not _value(reader, visible.format(number)), "the snapshot of the transaction is older"
        reader.execute("COMMIT")
        assert _value(reader, visible.format(number))
        writer.execute("BEGIN")
        number = _value(writer, "SELECT txid_current()")
        writer.execute("ROLLBACK")
        assert reader.execute("SELECT txid_status(%s)", (number,)).fetchone() == ("aborted",)
    finally:
        for connection in (writer, reader, other):
            connection.close()
