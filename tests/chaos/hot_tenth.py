"""A tenth of a shard gets hot: is it found, split, and spread over the nodes by itself?

    python -m tests.chaos.hot_tenth                               a million rows, about four minutes
    python -m tests.chaos.hot_tenth --rows 200000 --rate 400      for a busy machine

Three nodes, a table of three shards.  Clients read and change (one in ten) single rows, as many a second as ``--rate`` says:
first of the whole table, then nine in ten of one tenth of the second shard.  ``range.split_qps`` is half of the rate, since a
node that shares two cores with its clients is busy with far less than the default.

What must hold, and is judged: within a minute the hot keys lie in several shards led by several nodes, whose requests a second
differ from their mean by no more than a quarter; no statement fails; in no five seconds are there less than 70 % of the
statements before.  What is seen on the way is printed: ``rebalance --check`` before and after, every change of the shards in
between.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import mean
from typing import Any

import psycopg
from pydistdb_tools.cli import main as proddb
from pydistdb_tools.local_cluster import LocalCluster, free_base_port, plan_cluster, start_cluster, stop_cluster

CALM_SECONDS = 20.0
HOT_SECONDS = 60.0
MEASURED_SECONDS = 15.0
"""Behind the minute: what the shards get by then."""
WINDOW_SECONDS = 5.0
LEAST_THROUGHPUT = 0.7
MOST_DEVIATION = 0.25
_LOAD_ROWS = 50_000


class Client(threading.Thread):
    """Reads and changes rows through one node, at a steady rate."""

    def __init__(self, url: str, number: int, rate: float, rows: int) -> None:
        super().__init__(daemon=True)
        self._connection = psycopg.connect(url, autocommit=True, options="-c statement_timeout=30s")
        self._rand = random.Random(number)
        self._rate, self._rows = rate, rows
        self.hot: tuple[int, int] | None = None
        self.stopping = False
        self.done: list[tuple[float, float, int]] = []
        """When each statement was done, how long it took, and of which key it was."""
        self.errors: list[str] = []

    def run(self) -> None:
        due = time.monotonic()
        while not self.stopping:
            due += 1 / self._rate
            begun = time.monotonic()
            if begun < due:
                time.sleep(due - begun)
                begun = time.monotonic()
            elif begun > due + 1:
                due = begun  # what could not be done is not made up for
            key = self._key()
            try:
                if self._rand.random() < 0.1:
                    self._connection.execute("UPDATE hot SET v = v + 1 WHERE id = %s", (key,))
                else:
                    self._connection.execute("SELECT v FROM hot WHERE id = %s", (key,))
            except psycopg.Error as error:
                self.errors.append(f"{error.sqlstate} {error}".strip())
            now = time.monotonic()
            self.done.append((now, now - begun, key))

    def _key(self) -> int:
        if self.hot is not None and self._rand.random() < 0.9:
            return self._rand.randrange(*self.hot)
        return self._rand.randrange(self._rows)


class Shards:
    """The table's shards as the cluster shows them: their spans of ids, and who leads them."""

    def __init__(self, connection: psycopg.Connection[Any], rows: int) -> None:
        self._connection, self._rows = connection, rows

    def spans(self) -> list[tuple[int, int, int]]:
        """From which id to which (not included), and the leader's number."""
        text = "SELECT start_pretty, leaseholder FROM proddb.ranges WHERE tables = 'hot' ORDER BY start_key"
        found = [(_first_id(start), leader or 0) for start, leader in self._connection.execute(text).fetchall()]
        ends = [first for first, _ in found[1:]] + [self._rows]
        return [(first, end, leader) for (first, leader), end in zip(found, ends, strict=True)]


def _first_id(pretty: str) -> int:
    last = pretty.rsplit("/", 1)[-1]
    return int(last) if last.isdigit() else 0


def load(cluster: LocalCluster, rows: int, rate: float) -> None:
    with psycopg.connect(cluster.nodes[0].url, autocommit=True) as connection:
        connection.execute("CREATE TABLE hot (id int8 PRIMARY KEY, v int8 NOT NULL)")
        for part in (1, 2):
            connection.execute("SELECT proddb.split_at('hot', %s)", (str(part * rows // 3),))
        for first in range(0, rows, _LOAD_ROWS):
            with connection.cursor().copy("COPY hot FROM STDIN") as copy:
                for key in range(first, min(first + _LOAD_ROWS, rows)):
                    copy.write_row((key, 0))
        connection.execute("ANALYZE hot")  # done by itself sooner or later, which would look like load here
        connection.execute("SELECT proddb.set_setting('range.split_qps', %s)", (str(max(int(rate / 2), 10)),))


def per_second(clients: list[Client], begin: float, end: float) -> list[float]:
    """Statements a second in every window between two moments."""
    moments = sorted(moment for client in clients for moment, _, _ in list(client.done) if begin <= moment < end)
    count = int((end - begin) / WINDOW_SECONDS)
    windows = [0] * count
    for moment in moments:
        windows[min(int((moment - begin) / WINDOW_SECONDS), count - 1)] += 1
    return [number / WINDOW_SECONDS for number in windows]


def run(cluster: LocalCluster, rows: int, rate: float, client_count: int) -> list[str]:
    """Everything; returns what is not as it must be."""
    begun = time.monotonic()
    load(cluster, rows, rate)
    print(f"{rows} rows loaded in {time.monotonic() - begun:.0f} s", flush=True)
    nodes = cluster.nodes
    clients = [Client(nodes[n % 3].url, n, rate / client_count, rows) for n in range(client_count)]
    for client in clients:
        client.start()
    time.sleep(CALM_SECONDS)
    hot = rows // 3 + rows // 9, rows // 3 + rows // 9 + rows // 30
    proddb(["admin", "rebalance", "--check", "--url", nodes[0].url])
    heated = time.monotonic()
    for client in clients:
        client.hot = hot
    with psycopg.connect(nodes[0].url, autocommit=True) as connection:
        shards = Shards(connection, rows)
        _watch(shards, hot, heated)
        measured = time.monotonic()
        time.sleep(MEASURED_SECONDS)
        ended = time.monotonic()
        final = [span for span in shards.spans() if span[0] < hot[1] and span[1] > hot[0]]
    proddb(["admin", "rebalance", "--check", "--url", nodes[0].url])
    for client in clients:
        client.stopping = True
    for client in clients:
        client.join(35)
    return judge(clients, final, hot, (heated - CALM_SECONDS / 2, heated, measured, ended))


def _watch(shards: Shards, hot: tuple[int, int], heated: float) -> None:
    """Tell of every change of the hot keys' shards for a minute."""
    before: list[tuple[int, int, int]] = []
    while time.monotonic() < heated + HOT_SECONDS:
        spans = [span for span in shards.spans() if span[0] < hot[1] and span[1] > hot[0]]
        if spans != before:
            shown = ", ".join(f"{first} to {end} at node {leader}" for first, end, leader in spans)
            print(f"{time.monotonic() - heated:5.1f} s: hot keys in {len(spans)} shards: {shown}", flush=True)
            before = spans
        time.sleep(0.5)


def judge(
    clients: list[Client],
    spans: list[tuple[int, int, int]],
    hot: tuple[int, int],
    times: tuple[float, float, float, float],
) -> list[str]:
    calm, heated, measured, ended = times
    problems = [f"a statement failed: {error}" for client in clients for error in client.errors[:3]]
    usual = mean(per_second(clients, calm, heated))
    windows = per_second(clients, heated, ended)
    latest = [key for client in clients for moment, _, key in client.done if measured <= moment < ended]
    rates = [sum(first <= key < end for key in latest) / (ended - measured) for first, end, _ in spans]
    taken = sorted(taken for client in clients for moment, taken, _ in client.done if heated <= moment < ended)
    print(f"{usual:.0f} statements a second before, then {min(windows):.0f} to {max(windows):.0f}; {len(taken)} in all")
    print(
        f"median {taken[len(taken) // 2] * 1e3:.1f} ms, 99 of 100 within {taken[len(taken) * 99 // 100] * 1e3:.0f} ms, "
        f"the longest {taken[-1] * 1e3:.0f} ms"
    )
    print("requests a second of the hot shards:", ", ".join(f"{rate:.0f}" for rate in rates))
    if min(windows) < LEAST_THROUGHPUT * usual:
        problems.append(f"throughput fell to {min(windows) / usual:.0%}")
    if len(spans) < 2 or len({leader for _, _, leader in spans}) < 2:
        problems.append("the hot keys were not spread")
    elif max(abs(rate - mean(rates)) for rate in rates) > MOST_DEVIATION * mean(rates):
        problems.append("the hot shards are uneven")
    return problems


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.hot_tenth", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rate", type=float, default=600.0, help="statements a second of all clients")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--port", type=int, default=17_700)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))  # so that nothing is left behind
    folder = Path(tempfile.mkdtemp(prefix="hot-tenth-"))
    cluster = plan_cluster(folder, 3, 3, free_base_port(options.port, 3))
    try:
        start_cluster(cluster, lambda text: None)
        problems = run(cluster, options.rows, options.rate, options.clients)
    finally:
        stop_cluster(cluster, lambda text: None)
    print("\n".join(problems) or "good")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
