"""What splits cost those who are at work, what many ranges cost, and how fast a replica moves.

    python -m tests.chaos.many_ranges                             all three, about eight minutes
    python -m tests.chaos.many_ranges --parts splits --nodes 3
    python -m tests.chaos.many_ranges --parts many --ranges 2000

**splits**: eight clients read and change single rows of a table; every second and a half it is split where they are at work.
Told is how long the longest statement took that was under way in the second after a split was begun, and in the second before:
on a busy machine the second figure says what the first is worth.

**many**: two nodes side by side, one with ten ranges and one with 10,000.  The second one's memory, its processor time while
nobody asks for anything, and how long it takes to start; and processor time per point select on either, in turns, less what
the idle node takes.  Every statement is of another row, so all ranges of the table are read from.

**moves**: a range of 128 MiB, rows of a kilobyte, on three of four nodes; one of its replicas moves to the fourth and back, with
nothing to hold the sender back.

Wanted: no statement waits more than 50 ms for a split; 10,000 ranges idle under 5 % of
a core, in under 600 MB, and start in under 10 s; a point select costs the same within 10 %; a replica
moves at 20 MB/s or more.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import psycopg
from pydistdb_tools.local_cluster import (
    LocalCluster,
    LocalNode,
    free_base_port,
    plan_cluster,
    start_cluster,
    start_node,
    stop_cluster,
)

ROWS = 100_000
CLIENTS = 8
SPLITS = 20
PAUSE_SECONDS = 0.004
"""Between two statements of a client: a machine of two cores is not to be busy with the clients alone."""
WINDOW_SECONDS = 1.0
IDLE_SECONDS = 20.0
SELECTS = 8_000
ROUNDS = 21
FEW_RANGES = 10
MOVED_BYTES = 128 << 20
ROW_BYTES = 1_000
MOVES = 4


class Client(threading.Thread):
    """Reads and changes rows, and notes when each statement began and how long it took."""

    def __init__(self, url: str, number: int) -> None:
        super().__init__(daemon=True)
        self._connection = psycopg.connect(url, autocommit=True, prepare_threshold=0)
        self._rand = random.Random(number)
        self.stopping = False
        self.taken: list[tuple[float, float]] = []

    def run(self) -> None:
        while not self.stopping:
            key = self._rand.randrange(ROWS)
            begun = time.monotonic()
            if self._rand.random() < 0.5:
                self._connection.execute("SELECT v FROM cut WHERE id = %s", (key,))
            else:
                self._connection.execute("UPDATE cut SET v = v + 1 WHERE id = %s", (key,))
            self.taken.append((begun, time.monotonic() - begun))
            time.sleep(PAUSE_SECONDS)


def longest_ms(clients: list[Client], begin: float, end: float) -> float:
    """The longest statement that was under way between two moments."""
    found = [
        taken for client in clients for begun, taken in client.taken[-2_000:] if begun < end and begun + taken > begin
    ]
    return max(found, default=0.0) * 1e3


def splits(count: int) -> None:
    with _cluster(count) as cluster:
        nodes = cluster.nodes
        with psycopg.connect(nodes[0].url, autocommit=True) as connection:
            connection.execute("CREATE TABLE cut (id int8 PRIMARY KEY, v int8 NOT NULL)")
            connection.execute(f"INSERT INTO cut SELECT g, 0 FROM generate_series(0, {ROWS - 1}) g")
            clients = [Client(nodes[n % count].url, n) for n in range(CLIENTS)]
            for client in clients:
                client.start()
            time.sleep(5)
            before, during, took = [], [], []
            for number in range(SPLITS):
                key = (2 * number + 1) * ROWS // (2 * SPLITS)
                begun = time.monotonic()
                connection.execute("SELECT proddb.split_at('cut', %s)", (str(key),))
                took.append((time.monotonic() - begun) * 1e3)
                time.sleep(1.5 * WINDOW_SECONDS)
                before.append(longest_ms(clients, begun - WINDOW_SECONDS / 2, begun))
                during.append(longest_ms(clients, begun, begun + WINDOW_SECONDS / 2))
            for client in clients:
                client.stopping = True
                client.join(30)
        total = sorted(taken for client in clients for _, taken in client.taken)
    print(f"{count} node{'s' * (count > 1)}, {SPLITS} splits of {median(took):.0f} ms, {len(total)} statements:")
    for name, found in (("in the half second before a split", before), ("after it was begun", during)):
        print(f"    longest statement {name}: median {median(found):.1f} ms, at most {max(found):.1f} ms")
    print(f"    99 of 100 statements within {total[len(total) * 99 // 100] * 1e3:.1f} ms", flush=True)


def cpu_seconds(pid: int) -> float:
    """What a process has had of the processors, to the nanosecond: the first figure of each thread's schedstat."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def resident_megabytes(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


class Bench:
    """Point selects at one node, all prepared, each of another row."""

    def __init__(self, node: LocalNode, ranges: int) -> None:
        self.node, self.ranges = node, ranges
        self._connection = psycopg.connect(node.url, autocommit=True, prepare_threshold=0)
        self._connection.execute(
            f"CREATE TABLE many (id int8 PRIMARY KEY, v int8) SHARD BY HASH (id) SHARDS {ranges}"  # type: ignore[arg-type]
        )
        self._connection.execute(f"INSERT INTO many SELECT g, g FROM generate_series(0, {ROWS - 1}) g")  # type: ignore[arg-type]
        self._rand = random.Random(1)
        self.idle = 0.0
        """Processor seconds a second while nobody asks for anything."""

    def close(self) -> None:
        self._connection.close()

    def connect(self) -> None:
        self._connection = psycopg.connect(self.node.url, autocommit=True, prepare_threshold=0)

    def ask(self, key: int) -> None:
        self._connection.execute("SELECT v FROM many WHERE id = %s", (key,))

    def rest(self) -> None:
        begun, used = time.monotonic(), cpu_seconds(self.node.pid)
        time.sleep(IDLE_SECONDS)
        self.idle = (cpu_seconds(self.node.pid) - used) / (time.monotonic() - begun)

    def select_us(self) -> float:
        """The node's processor time per statement, less what it takes for itself."""
        keys = [self._rand.randrange(ROWS) for _ in range(SELECTS)]
        begun, used = time.monotonic(), cpu_seconds(self.node.pid)
        for key in keys:
            self.ask(key)
        spent = cpu_seconds(self.node.pid) - used - self.idle * (time.monotonic() - begun)
        return spent / SELECTS * 1e6


def many(ranges: int) -> None:
    with _cluster(1) as few, _cluster(1) as cluster:
        (node,) = cluster.nodes
        small, large = Bench(few.nodes[0], FEW_RANGES), Bench(node, ranges)
        time.sleep(30)
        print(f"{ranges} ranges on one node, {resident_megabytes(node.pid):.0f} MB after making them")
        large.close()
        stop_cluster(cluster, _silent)
        begun = time.monotonic()
        start_node(cluster, node)
        while True:
            try:
                large.connect()
                large.ask(7)
                break
            except psycopg.OperationalError:
                time.sleep(0.05)
        print(f"    started in {time.monotonic() - begun:.1f} s, {cpu_seconds(node.pid):.1f} s of processor time")
        time.sleep(30)
        for bench in (small, large):
            bench.rest()
        print(
            f"    {resident_megabytes(node.pid):.0f} MB, idle {large.idle:.1%} of a core ({small.idle:.1%} with {FEW_RANGES})"
        )
        small.select_us(), large.select_us()
        figures = [(small.select_us(), large.select_us()) for _ in range(ROUNDS)]
        with_few, with_many = (median(figure[n] for figure in figures) for n in (0, 1))
        ratio = median(after / before for before, after in figures)
        print(
            f"    point select {with_few:.1f} µs with {FEW_RANGES} ranges, {with_many:.1f} µs with {ranges}: {ratio:.2f} times"
        )


def moves() -> None:
    with _cluster(4, 3) as cluster, psycopg.connect(cluster.nodes[0].url, autocommit=True) as connection:
        for name, value in {
            "range.max_bytes": "1GB",
            "snapshot.bytes_per_second": "1GB",
            "snapshot.cpu_percent": "100",
            "rebalance.enabled": "off",
        }.items():
            connection.execute("SELECT proddb.set_setting(%s, %s)", (name, value))
        connection.execute("CREATE TABLE moved (id int8 PRIMARY KEY, v text NOT NULL) SHARD BY HASH (id) SHARDS 1")
        row = "x" * ROW_BYTES
        with connection.cursor().copy("COPY moved FROM STDIN") as copy:
            for number in range(MOVED_BYTES // ROW_BYTES):
                copy.write_row((number, row))
        time.sleep(20)
        rates = []
        for _ in range(MOVES):
            (number, leader, holders) = connection.execute(
                "SELECT range_id, leaseholder, replicas FROM proddb.ranges"
                " WHERE tables LIKE '%moved%' ORDER BY bytes DESC NULLS LAST"
            ).fetchone() or (0, 0, [])
            (newcomer,) = {1, 2, 3, 4} - {*holders}
            leaving = next(node for node in holders if node != leader)
            begun = time.monotonic()
            connection.execute("SELECT proddb.move_replica(%s, %s, %s)", (number, leaving, newcomer))
            rates.append(MOVED_BYTES / 1e6 / (time.monotonic() - begun))
            time.sleep(10)
    print(
        f"a replica of {MOVED_BYTES >> 20} MiB moved at {', '.join(f'{rate:.0f}' for rate in rates)} MB/s", flush=True
    )


def _silent(text: str) -> None:
    pass


@contextmanager
def _cluster(count: int, replication_factor: int = 0) -> Iterator[LocalCluster]:
    folder = Path(tempfile.mkdtemp(prefix="many-ranges-"))
    cluster = plan_cluster(folder, count, replication_factor or count, free_base_port(17_800, count))
    try:
        start_cluster(cluster, _silent)
        yield cluster
    finally:
        stop_cluster(cluster, _silent)
        shutil.rmtree(folder)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos.many_ranges", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--parts", default="splits,many,moves")
    parser.add_argument("--nodes", default="1,3", help="how many nodes have their ranges split")
    parser.add_argument("--ranges", type=int, default=10_000)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))  # so that nothing is left behind
    if "splits" in options.parts:
        for count in options.nodes.split(","):
            splits(int(count))
    if "many" in options.parts:
        many(options.ranges)
    if "moves" in options.parts:
        moves()
    return 0


if __name__ == "__main__":
    sys.exit(main())
