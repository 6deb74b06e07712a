"""Nodes are killed while transactions run; afterwards everything acknowledged must be there, and nothing invented."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from pydistdb_tools.local_cluster import LocalCluster, LocalNode, start_cluster

FAIL_OVER_SECONDS = 3.0
ACCOUNTS = 20


def _kill(node: LocalNode) -> None:
    os.kill(node.pid, signal.SIGKILL)
    try:
        os.waitpid(node.pid, 0)
    except ChildProcessError:
        while node.running:
            time.sleep(0.01)


def _leader_of_everything(cluster: LocalCluster) -> LocalNode:
    """The node that leads most ranges."""
    status = cluster.status()
    names = {node["id"]: node["name"] for node in status["nodes"]}
    leaders = [names[item["leader"]] for item in status["ranges"]]
    name = max(set(leaders), key=leaders.count)
    return next(node for node in cluster.nodes if node.name == name)


def _set_up(cluster: LocalCluster) -> None:
    with psycopg.connect(cluster.nodes[0].url, autocommit=True) as connection:
        connection.execute("CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL)")
        connection.execute("CREATE TABLE transfers (worker int, number int, amount int, PRIMARY KEY (worker, number))")
        values = ", ".join(f"({number}, 0)" for number in range(1, ACCOUNTS + 1))
        connection.execute(f"INSERT INTO accounts VALUES {values}")


class Worker(threading.Thread):
    """Makes transfers through one node and notes what was acknowledged, what may be, and when."""

    def __init__(self, url: str, index: int) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.index = index
        self.stopping = False
        self.acknowledged: set[int] = set()
        self.unknown: set[int] = set()
        self.times: list[float] = []
        self.surprises: list[str] = []

    def run(self) -> None:
        rand = random.Random(self.index)
        connection: psycopg.Connection[object] | None = None
        number = 0
        while not self.stopping:
            number += 1
            try:
                if connection is None or connection.closed:
                    connection = psycopg.connect(self.url, autocommit=True, connect_timeout=5)
                self._transfer(connection, rand, number)
            except psycopg.OperationalError:
                self.unknown.add(number)  # the connection or the cluster failed: either may be true
                time.sleep(0.02)
            except psycopg.Error as error:
                self.unknown.add(number)
                if error.sqlstate not in ("40001", "40003", "40P01", "57P03", "57014"):
                    self.surprises.append(f"{error.sqlstate} {error}")
                time.sleep(0.02)
            else:
                self.acknowledged.add(number)
                self.times.append(time.monotonic())

    def _transfer(self, connection: psycopg.Connection[object], rand: random.Random, number: int) -> None:
        source, target = rand.sample(range(1, ACCOUNTS + 1), 2)
        amount = rand.randint(1, 100)
        with connection.transaction():
            connection.execute(
                "UPDATE accounts SET balance = balance - %s WHERE id = %s", (amount, min(source, target))
            )
            connection.execute(
                "UPDATE accounts SET balance = balance + %s WHERE id = %s", (amount, max(source, target))
            )
            connection.execute("INSERT INTO transfers VALUES (%s, %s, %s)", (self.index, number, amount))


def _start_workers(node: LocalNode, count: int = 4) -> list[Worker]:
    workers = [Worker(node.url, index) for index in range(count)]
    for worker in workers:
        worker.start()
    return workers


def _stop_workers(workers: list[Worker]) -> None:
    for worker in workers:
        worker.stopping = True
    for worker in workers:
        worker.join(30)
        assert not worker.is_alive(), "a statement hangs"
        assert not worker.surprises, worker.surprises


def _audit(node: LocalNode, workers: list[Worker]) -> None:
    with psycopg.connect(node.url, autocommit=True) as connection:
        total = connection.execute("SELECT sum(balance) FROM accounts").fetchone()
        assert total == (0,), "a transfer took effect in part"
        for worker in workers:
            rows = connection.execute("SELECT number FROM transfers WHERE worker = %s", (worker.index,)).fetchall()
            found = {number for (number,) in rows}
            assert not worker.acknowledged - found, "an acknowledged commit is lost"
            assert not found - worker.acknowledged - worker.unknown, "a transfer that nobody made"


@pytest.mark.timeout(240)
def test_the_leader_of_all_ranges_is_killed_under_load(fresh_three_nodes: LocalCluster) -> None:
    cluster = fresh_three_nodes
    _set_up(cluster)
    leader = _leader_of_everything(cluster)
    survivor = next(node for node in cluster.nodes if node is not leader)
    workers = _start_workers(survivor)
    time.sleep(2)
    _kill(leader)
    killed = time.monotonic()
    time.sleep(FAIL_OVER_SECONDS + 5)
    _stop_workers(workers)
    _audit(survivor, workers)
    after = [moment - killed for worker in workers for moment in worker.times if moment > killed + 0.05]
    assert after and min(after) < FAIL_OVER_SECONDS, f"first commit after {min(after, default=None)} s"
    start_cluster(cluster, print)
    _audit(leader, workers)


@pytest.mark.timeout(240)
def test_all_nodes_are_killed_at_once(fresh_three_nodes: LocalCluster) -> None:
    cluster = fresh_three_nodes
    _set_up(cluster)
    workers = _start_workers(cluster.nodes[0])
    time.sleep(2)
    for node in cluster.nodes:
        os.kill(node.pid, signal.SIGKILL)
    _stop_workers(workers)
    for node in cluster.nodes:
        _kill_is_over(node)
    start_cluster(cluster, print)
    assert sum(len(worker.acknowledged) for worker in workers) > 0
    for node in cluster.nodes:
        _audit(node, workers)


def _kill_is_over(node: LocalNode) -> None:
    try:
        os.waitpid(node.pid, 0)
    except ChildProcessError:
        pass


@pytest.mark.timeout(240)
def test_an_emptied_node_is_filled_again(fresh_three_nodes: LocalCluster) -> None:
    cluster = fresh_three_nodes
    _set_up(cluster)
    workers = _start_workers(cluster.nodes[0])
    time.sleep(1)
    emptied = cluster.nodes[2]
    _kill(emptied)
    shutil.rmtree(emptied.store)
    start_cluster(cluster, print)
    deadline = time.monotonic() + 60
    while not _holds_everything(cluster, emptied):
        assert time.monotonic() < deadline, cluster.status()
        time.sleep(0.2)
    _stop_workers(workers)
    # The refilled node and one other are a majority that has everything.
    _kill(cluster.nodes[0])
    _audit(emptied, workers)


def _holds_everything(cluster: LocalCluster, node: LocalNode) -> bool:
    status = cluster.status()
    ids = {item["id"] for item in status["nodes"] if item["name"] == node.name and item["state"] == "live"}
    return bool(status["ranges"]) and all(
        any(replica["node_id"] in ids and replica["role"] in ("leader", "follower") for replica in item["replicas"])
        for item in status["ranges"]
    )


def test_a_node_that_stops_cleanly_hands_over(fresh_three_nodes: LocalCluster, tmp_path: Path) -> None:
    cluster = fresh_three_nodes
    _set_up(cluster)
    leader = _leader_of_everything(cluster)
    survivor = next(node for node in cluster.nodes if node is not leader)
    workers = _start_workers(survivor, 2)
    time.sleep(1)
    os.kill(leader.pid, signal.SIGTERM)
    stopped = time.monotonic()
    _, status = os.waitpid(leader.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert time.monotonic() - stopped < 15
    time.sleep(1)
    _stop_workers(workers)
    _audit(survivor, workers)


def test_an_index_build_survives_the_node_that_ran_it(fresh_three_nodes: LocalCluster) -> None:
    cluster = fresh_three_nodes
    doomed, survivor = cluster.nodes[0], cluster.nodes[1]
    with psycopg.connect(survivor.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
        connection.execute("INSERT INTO t SELECT g, 'v' || g % 10 FROM generate_series(1, 30000) g")

        def build() -> None:
            with contextlib.suppress(psycopg.Error), psycopg.connect(doomed.url, autocommit=True) as builder:
                builder.execute("CREATE INDEX CONCURRENTLY made ON t (v)")

        thread = threading.Thread(target=build, daemon=True)
        thread.start()
        progress = "SELECT tuples_done FROM pg_stat_progress_create_index WHERE tuples_done > 0"
        _wait_for(lambda: bool(connection.execute(progress).fetchall()), 20)
        _kill(doomed)
        thread.join(20)
        connection.execute("UPDATE t SET v = 'later' WHERE id % 7000 = 0")
        valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'made'::regclass"
        assert connection.execute(valid).fetchone() == (False,)
        _wait_for(lambda: connection.execute(valid).fetchone() == (True,), 60)
        grouped = connection.execute("SELECT v, count(*) FROM t GROUP BY v ORDER BY v").fetchall()
        assert len(grouped) == 11
        for value, count in grouped:
            query = f"SELECT count(*) FROM t WHERE v = '{value}'"
            plan = connection.execute("EXPLAIN " + query).fetchall()
            assert any("made" in str(line) for line in plan)
            assert connection.execute(query).fetchone() == (count,)


def _wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
