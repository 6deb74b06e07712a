"""Reads in the past and confirmed copies on real nodes, one of them frozen."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from pydistdb_tools.local_cluster import LocalCluster, LocalNode

LEVELS = ("eventual", "bounded(1min)")


@contextmanager
def _frozen(node: LocalNode) -> Iterator[None]:
    os.kill(node.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(node.pid, signal.SIGCONT)


def _leader(cluster: LocalCluster) -> LocalNode:
    status = cluster.status()
    names = {node["id"]: node["name"] for node in status["nodes"]}
    [leader] = {names[item["leader"]] for item in status["ranges"]}
    return next(node for node in cluster.nodes if node.name == leader)


def _connect(node: LocalNode, **settings: str) -> psycopg.Connection[tuple[object, ...]]:
    options = " ".join(f"-c proddb.{name}={value}" for name, value in settings.items())
    return psycopg.connect(node.url, autocommit=True, options=options)


def test_old_reads_go_on_while_the_leaseholder_is_frozen(fresh_three_nodes: LocalCluster) -> None:
    cluster = fresh_three_nodes
    leader = _leader(cluster)
    near, far = [node for node in cluster.nodes if node is not leader]
    with _connect(near) as connection:
        connection.execute("CREATE TABLE t (a int PRIMARY KEY, b text)")
        connection.execute("INSERT INTO t VALUES (1, 'one'), (2, 'two')")
        connection.execute("UPDATE t SET b = 'uno' WHERE a = 1")
        token = connection.execute("SHOW proddb.session_token").fetchone()
    assert token is not None
    readers = [(level, _connect(near, read_consistency=level)) for level in LEVELS]
    with _connect(far, read_consistency="session", session_token=str(token[0])) as carried:
        assert carried.execute("SELECT b FROM t ORDER BY a").fetchall() == [("uno",), ("two",)]
        past = "SELECT b FROM t AS OF SYSTEM TIME '-1500ms' ORDER BY a"
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                assert carried.execute(past).fetchall() in ([], [("one",), ("two",)], [("uno",), ("two",)])
                break
            except psycopg.errors.FeatureNotSupported:  # the table was not there yet
                time.sleep(0.1)
        shown = carried.execute("EXPLAIN (ANALYZE) SELECT * FROM t").fetchall()
        assert any("Reads Served By: node" in str(line) for (line,) in shown)
    for _, reader in readers:
        assert reader.execute("SELECT count(*) FROM t").fetchall() == [(2,)]
    with _frozen(leader):
        started = time.monotonic()
        rounds = 0
        while time.monotonic() - started < 2.5:
            for level, reader in readers:
                assert reader.execute("SELECT b FROM t WHERE a = 1").fetchall() == [("uno",)], level
                assert reader.execute("SELECT count(*) FROM t").fetchall() == [(2,)], level
            rounds += 1
            time.sleep(0.02)
        assert rounds > 10, "each round was to take some milliseconds"
    for _, reader in readers:
        reader.close()


def test_all_copies_can_be_waited_for(three_nodes: LocalCluster) -> None:
    leader = _leader(three_nodes)
    follower, other = [node for node in three_nodes.nodes if node is not leader]
    with _connect(follower, write_ack="all", write_ack_timeout="1500ms") as connection:
        warnings: list[str] = []
        connection.add_notice_handler(lambda notice: warnings.append(f"{notice.sqlstate} {notice.message_primary}"))
        connection.execute("CREATE TABLE acked (a int PRIMARY KEY)")
        connection.execute("INSERT INTO acked SELECT generate_series(1, 100)")
        assert warnings == []
        with _frozen(other):
            connection.execute("INSERT INTO acked VALUES (101)")
            assert warnings == ["01000 not all copies have confirmed the transaction"]
            connection.execute("SET proddb.write_ack = quorum")
            connection.execute("INSERT INTO acked VALUES (102)")
            assert len(warnings) == 1
        assert connection.execute("SELECT count(*) FROM acked").fetchall() == [(102,)]
