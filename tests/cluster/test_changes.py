"""UPDATE and DELETE by a condition on three nodes: each row once, at a fraction of the bytes, whatever moves meanwhile."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from pydistdb_tools.local_cluster import LocalCluster

from tests.cluster.test_fragments import received_bytes

ROWS = 4_000


@pytest.fixture(scope="module")
def rows(three_nodes: LocalCluster) -> Iterator[LocalCluster]:
    with psycopg.connect(three_nodes.nodes[0].url, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE c (id int8 PRIMARY KEY, v int8, w int4, note text) SHARD BY HASH (id) SHARDS 6"
        )
        connection.execute("CREATE INDEX ON c (v)")
        connection.execute("ALTER TABLE c ADD CHECK (v > -1000000)")
        connection.execute(
            f"INSERT INTO c SELECT g, 0, g % 10, repeat('a note ', 30) || g FROM generate_series(1, {ROWS}) g"
        )
    time.sleep(4)  # leases spread
    yield three_nodes


def test_rows_do_not_travel(rows: LocalCluster) -> None:
    """Rows still go to the other replicas, as intents and as versions; but not to the gateway and back."""
    with psycopg.connect(rows.nodes[1].url, autocommit=True) as connection:
        plan = "\n".join(str(line) for (line,) in connection.execute("EXPLAIN UPDATE c SET w = w + 10 WHERE w < 5"))
        assert "Strategy: update" in plan

        def moved(statement: str) -> int:
            time.sleep(1)
            before = received_bytes(rows)
            assert connection.execute(statement).rowcount == ROWS // 2  # type: ignore[arg-type]
            time.sleep(1)
            return received_bytes(rows) - before

        by_gateway = moved("UPDATE c SET w = w + 10 WHERE w < 5 RETURNING 1")
        by_shards = moved("UPDATE c SET w = w - 10 WHERE w >= 10")
        print(f"{by_shards} bytes at the shards, {by_gateway} by way of the gateway")
        assert by_shards < by_gateway * 0.8


def test_every_row_once_while_ranges_move(rows: LocalCluster) -> None:
    """Statements from all nodes at once, while ranges are split and leases move."""
    done = [0, 0, 0]
    errors: list[Exception] = []

    def work(number: int) -> None:
        try:
            with psycopg.connect(rows.nodes[number].url, autocommit=True) as connection:
                for _ in range(2):
                    assert connection.execute("UPDATE c SET v = v + 1 WHERE w < 10").rowcount == ROWS
                    done[number] += 1
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    with psycopg.connect(rows.nodes[0].url, autocommit=True) as connection:
        for number in (3_000, 9_000, 40_000):
            connection.execute(f"SELECT proddb.split_at('c', '{number}')")
            time.sleep(0.3)
    for thread in threads:
        thread.join()
    assert not errors, errors
    with psycopg.connect(rows.nodes[2].url, autocommit=True) as connection:
        assert connection.execute("SELECT DISTINCT v FROM c").fetchall() == [(sum(done),)]
        connection.execute("SET enable_seqscan = off")
        assert connection.execute("SELECT count(*) FROM c WHERE v = %s", [sum(done)]).fetchone() == (ROWS,)


def test_errors_take_all_of_it_back(rows: LocalCluster) -> None:
    with psycopg.connect(rows.nodes[0].url, autocommit=True) as connection:
        before = connection.execute("SELECT sum(v), count(*) FROM c").fetchone()
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute(f"UPDATE c SET v = v + 1 / ({ROWS // 2} - id)")
        with pytest.raises(psycopg.errors.CheckViolation):
            connection.execute("UPDATE c SET v = CASE WHEN id = 77 THEN -2000000 ELSE v END")
        assert connection.execute("SELECT sum(v), count(*) FROM c").fetchone() == before
        assert connection.execute("DELETE FROM c WHERE w = 3").rowcount == ROWS // 10
        assert connection.execute("SELECT count(*) FROM c WHERE w = 3").fetchone() == (0,)


def _explained_while_locked(cluster: LocalCluster, key: int, statement: str) -> tuple[str, Any]:
    """EXPLAIN ANALYZE as text and as JSON of a statement that waits for the row of ``key``, which another transaction holds."""
    shown: list[Any] = []

    def explain(waiter: psycopg.Connection[Any], format: str) -> None:
        shown.append(waiter.execute(f"EXPLAIN (ANALYZE, COSTS OFF, FORMAT {format}) {statement}").fetchall())

    with (
        psycopg.connect(cluster.nodes[0].url) as holder,
        psycopg.connect(cluster.nodes[1].url, autocommit=True) as watcher,
        psycopg.connect(cluster.nodes[2].url, autocommit=True) as waiter,
    ):
        for format in ("TEXT", "JSON"):
            holder.execute(f"UPDATE c SET w = w WHERE id = {key}")
            thread = threading.Thread(target=explain, args=(waiter, format))
            thread.start()
            waits = f"SELECT wait_event_type FROM pg_stat_activity WHERE pid = {waiter.info.backend_pid}"
            while watcher.execute(waits).fetchone() != ("Lock",):
                time.sleep(0.02)
            time.sleep(2.5)  # longer than one call between nodes may wait
            holder.rollback()
            thread.join()
    return "\n".join(line for (line,) in shown[0]), shown[1][0][0][0]["Plan"]


def _waits(node: dict[str, Any]) -> list[dict[str, Any]]:
    below = [each for child in node.get("Plans", []) for each in _waits(child)]
    shards = node.get("Shards", [])  # of a table's scan: which of its shards, in words
    return below if isinstance(shards, str) else below + [each for each in shards if each["Lock Waits"]]


def test_explain_tells_of_waits_for_locks(rows: LocalCluster) -> None:
    """What the statement's own first attempt had locked in other ranges may be waited for too, but briefly."""
    text, plan = _explained_while_locked(rows, 17, "UPDATE c SET v = v + 1 WHERE w < 100")
    assert re.search(r"Range \d+ \(node \d\): (?:scanned.* )?lock waits=\d+ lock wait time=\d+\.\d{3}", text), text
    assert max(shard["Lock Wait Time"] for shard in _waits(plan)) > 100


def test_every_row_once_when_a_node_dies(rows: LocalCluster) -> None:
    """What was under way at the node's ranges is run again as another transaction: the client does not notice."""
    with psycopg.connect(rows.nodes[0].url, autocommit=True) as connection:
        (before,) = connection.execute("SELECT max(v) FROM c").fetchone() or (0,)
        killer = threading.Timer(0.4, lambda: os.kill(rows.nodes[2].pid, signal.SIGKILL))
        killer.start()
        done = 0
        end = time.monotonic() + 3
        while time.monotonic() < end or done < 2:
            connection.execute("UPDATE c SET v = v + 1 WHERE w < 10")
            done += 1
        killer.join()
        assert connection.execute("SELECT DISTINCT v FROM c").fetchall() == [(before + done,)]  # type: ignore[operator]
