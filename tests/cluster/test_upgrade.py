"""A rolling upgrade under load: node by node from a release that knows version 1 to one that knows 1 and 2.

The older release is this one, told to know version 1 only: it uses nothing newer, and stops at an entry of its log that
it could not have read."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from pydistdb_tools.local_cluster import LocalCluster, LocalNode, node_environment, start_cluster, stop_cluster

from tests.cluster.conftest import make_cluster

PATIENCE_SECONDS = 120
RETRYABLE = ("40001", "40003", "57P03")
OLD, NEW, LATER = "1-1", "1-2", "3-4"


@pytest.fixture
def old_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalCluster]:
    monkeypatch.setenv("PYDISTDB_TEST_VERSIONS", OLD)
    cluster = make_cluster(tmp_path, 3)
    yield cluster
    stop_cluster(cluster, print)


class Client(threading.Thread):
    """Moves money by single statements through one node; only that node's end, or a lease that moves, may keep it from it."""

    def __init__(self, node: LocalNode, number: int) -> None:
        super().__init__(daemon=True)
        self.url = node.url
        self.number = number
        self.stopping = False
        self.done = 0
        self.unknown = 0
        """Statements whose connections broke, or that were to be tried again: they may have taken effect."""
        self.failures: list[str] = []

    def run(self) -> None:
        connection: psycopg.Connection[object] | None = None
        while not self.stopping:
            try:
                if connection is None:
                    connection = psycopg.connect(self.url, autocommit=True, connect_timeout=5)
                self._move(connection)
            except psycopg.Error as error:
                is_broken = connection is None or connection.closed
                connection = None
                if is_broken or error.sqlstate in RETRYABLE:
                    self.unknown += 1
                else:
                    self.failures.append(f"{error.sqlstate} {error}")
                time.sleep(0.05)

    def _move(self, connection: psycopg.Connection[object]) -> None:
        text = "UPDATE accounts SET balance = balance + sign(id - 10.5) WHERE id IN (%s, %s)"
        assert connection.execute(text, (self.number, self.number + 10)).rowcount == 2
        self.done += 1
        time.sleep(0.02)


def value(node: LocalNode, text: str) -> object:
    with psycopg.connect(node.url, autocommit=True) as connection:
        row = connection.execute(text).fetchone()
        return row[0] if row is not None else None


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.2)


def make_and_drop(node: LocalNode) -> None:
    """What the next version does otherwise: statistics of a sharded table, and its end."""
    with psycopg.connect(node.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (a int PRIMARY KEY, b int) SHARD BY HASH (a) SHARDS 5")
        connection.execute("INSERT INTO t SELECT i, i % 7 FROM generate_series(1, 200) i; ANALYZE t")
        connection.execute("CREATE TABLE u (a int PRIMARY KEY) SHARD BY RANGE (a) (SPLIT AT VALUES (50), (100))")
        connection.execute("DROP TABLE t, u")
    wait_for(lambda: value(node, "SELECT count(*) FROM proddb.jobs WHERE kind = 'clear storage'") == 0)


def start_alone(cluster: LocalCluster, store: str, name: str) -> subprocess.Popen[str]:
    """Start a node that cannot be part of the cluster."""
    seeds = ",".join(f"127.0.0.1:{node.rpc_port}" for node in cluster.nodes)
    command = [sys.executable, "-m", "pydistdb_server", "--store", store, "--node-name", name, "--join", seeds]
    command += ["--listen", "127.0.0.1:0", "--rpc-listen", "127.0.0.1:0"]
    environment = node_environment(cluster.folder)
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


def refusal(process: subprocess.Popen[str]) -> str:
    """What a node that is turned away says when it ends."""
    try:
        _, said = process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        process.kill()
    assert process.returncode == 1
    return said


@pytest.mark.timeout(600)
def test_nodes_are_upgraded_one_by_one_under_load(
    old_nodes: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, first = old_nodes, old_nodes.nodes[0]
    with psycopg.connect(first.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE accounts (id int PRIMARY KEY, balance int) SHARD BY HASH (id) SHARDS 3")
        connection.execute("INSERT INTO accounts SELECT i, 0 FROM generate_series(1, 20) i")
    clients = [Client(node, number) for number, node in enumerate(cluster.nodes, 1)]
    for client in clients:
        client.start()
    wait_for(lambda: all(client.done > 3 for client in clients))
    for node in cluster.nodes:
        assert value(first, "SELECT version FROM proddb.cluster_version") == 1
        stop_cluster(cluster, print, node.name)
        monkeypatch.setenv("PYDISTDB_TEST_VERSIONS", NEW)
        start_cluster(cluster, print)
        assert value(node, "SELECT newest_version FROM proddb.cluster_version") == 2
        if node is first:
            make_and_drop(first)  # by the newer release, with older ones around
    for node in cluster.nodes:
        wait_for(lambda node=node: value(node, "SELECT version FROM proddb.cluster_version") == 2)  # type: ignore[misc]
    make_and_drop(first)
    before = [client.done for client in clients]
    wait_for(lambda: all(client.done > done for client, done in zip(clients, before, strict=True)))
    for client in clients:
        client.stopping = True
        client.join(PATIENCE_SECONDS)
    assert not [failure for client in clients for failure in client.failures]
    assert all(node.running for node in cluster.nodes)
    assert value(first, "SELECT sum(balance) FROM accounts") == 0
    moved, done = (
        value(first, "SELECT sum(balance) FROM accounts WHERE id > 10"),
        sum(client.done for client in clients),
    )
    assert isinstance(moved, int) and done <= moved <= done + sum(client.unknown for client in clients)

    # Both at once: on a busy machine starting is what takes long.
    stop_cluster(cluster, print, "node3")
    monkeypatch.setenv("PYDISTDB_TEST_VERSIONS", OLD)
    outdated = start_alone(cluster, cluster.nodes[2].store, "node3")
    monkeypatch.setenv("PYDISTDB_TEST_VERSIONS", LATER)
    too_new = start_alone(cluster, str(tmp_path / "later"), "later")
    assert "too old: the cluster is at version 2" in refusal(outdated)
    assert "later is too new: the cluster is at version 2" in refusal(too_new)
