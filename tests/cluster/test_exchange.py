"""Exchanges between real nodes: cancelled, and with a node killed amid them."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.errors import QueryCanceled
from pydistdb_tools.local_cluster import LocalCluster, LocalNode

ROWS, KEYS = 12_000, 48
JOIN = "SELECT count(*), sum(a.v * b.v % 7) FROM a JOIN b ON a.k = b.k"
"""Of three million pairs, so that it can be met at work."""


@pytest.fixture
def spread(fresh_three_nodes: LocalCluster) -> LocalCluster:
    """Tables whose ranges all three nodes lead parts of."""
    with psycopg.connect(fresh_three_nodes.nodes[0].url, autocommit=True) as connection:
        for table in "ab":
            connection.execute(f"CREATE TABLE {table} (id int8 PRIMARY KEY, k int, v int) SHARD BY HASH (id) SHARDS 6")
            connection.execute(
                f"INSERT INTO {table} SELECT g, g % {KEYS}, g * 31 % 97 FROM generate_series(1, {ROWS}) g"
            )
        connection.execute("ANALYZE")
    # At another node than is asked afterwards: to be told of ranges, a node learns where they are.
    with psycopg.connect(fresh_three_nodes.nodes[1].url, autocommit=True) as connection:
        connection.execute("SET enable_gatewayjoin = off")

        def all_take_part() -> bool:
            text = str(connection.execute(f"EXPLAIN {JOIN}").fetchall())
            return "Nodes: node 1, node 2, node 3" in text

        _wait(all_take_part)
    return fresh_three_nodes


def _wait(condition: Callable[[], object]) -> None:
    for _ in range(3_000):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it does not come to pass")


def held_bytes(node: LocalNode) -> int:
    """What queries hold at a node."""
    with urllib.request.urlopen(f"http://127.0.0.1:{node.http_port}/metrics") as answer:
        found = re.search(r"sql_memory_bytes (\d\S*)", answer.read().decode())
    assert found is not None
    return int(float(found[1]))


class Statement(threading.Thread):
    """One that runs meanwhile."""

    def __init__(self, node: LocalNode) -> None:
        super().__init__(daemon=True)
        self.connection = psycopg.connect(node.url, autocommit=True)
        self.connection.execute("SET enable_gatewayjoin = off")
        self.outcome: Any = None
        self.start()

    def run(self) -> None:
        try:
            self.outcome = self.connection.execute(JOIN).fetchall()
        except psycopg.Error as error:
            self.outcome = error

    def finish(self) -> Any:
        self.join(120)
        self.connection.close()
        return self.outcome


def test_cancelled_and_killed_amid_an_exchange(spread: LocalCluster) -> None:
    first, _, third = spread.nodes
    values = [Counter(g * 31 % 97 for g in range(1, ROWS + 1) if g % KEYS == key) for key in range(KEYS)]
    total = sum(n * m * (v * w % 7) for each in values for v, n in each.items() for w, m in each.items())

    cancelled = Statement(first)
    _wait(lambda: held_bytes(third))
    cancelled.connection.cancel()
    begun = time.monotonic()
    assert isinstance(cancelled.finish(), QueryCanceled)
    _wait(lambda: not any(map(held_bytes, spread.nodes)))
    print(f"cancelled, and everything given back, in {time.monotonic() - begun:.3f} s")

    statement = Statement(first)
    _wait(lambda: held_bytes(third))
    os.kill(third.pid, signal.SIGKILL)
    assert statement.finish() == [(ROWS * ROWS // KEYS, total)]
    _wait(lambda: not any(map(held_bytes, spread.nodes[:2])))
