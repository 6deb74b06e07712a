"""Three nodes become five and three again: is no more copied than must be?

    python -m tests.chaos.growth                          54 shards, 100,000 rows, about two minutes
    python -m tests.chaos.growth --shards 24 --rows 20000

Consistent hashing's promise, kept by placement on a real cluster (in simulation, without rows: tests/kv/test_minimal_moves.py).
Of R replicas on three nodes two newcomers are due two fifths; when they are decommissioned, what they hold has to go.  Both
times at most a fifth more may be copied, counted by the nodes themselves (``raft_snapshots_installed_total``), and all rows
must be there afterwards.  A client reads and writes all the while; none of its statements may fail.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
from pydistdb_tools.cli import main as proddb
from pydistdb_tools.local_cluster import LocalCluster, free_base_port, plan_cluster, start_cluster, stop_cluster, until

MOST_FACTOR = 1.2
WAIT_SECONDS = 300.0
QUIET_SECONDS = 10.0
"""How long nothing more may move before it counts as settled."""
_COUNTER = "raft_snapshots_installed_total"


class Client(threading.Thread):
    """Changes and reads rows, one at a time, through the first node."""

    def __init__(self, url: str, rows: int) -> None:
        super().__init__(daemon=True)
        self._connection = psycopg.connect(url, autocommit=True, options="-c statement_timeout=30s")
        self._rand = random.Random(5)
        self._rows = rows
        self.stopping = False
        self.statements = 0
        self.longest = 0.0
        self.errors: list[str] = []

    def run(self) -> None:
        while not self.stopping:
            key = self._rand.randrange(self._rows)
            begun = time.monotonic()
            try:
                self._connection.execute("UPDATE grown SET v = v + 1 WHERE id = %s", (key,))
                self._connection.execute("SELECT v FROM grown WHERE id = %s", (key,))
            except psycopg.Error as error:
                self.errors.append(f"{error.sqlstate} {error}".strip())
            self.statements += 2
            self.longest = max(self.longest, time.monotonic() - begun)
            time.sleep(0.02)


def copies(cluster: LocalCluster) -> int:
    """Replicas that the nodes have been filled with since they started."""
    total = 0
    for node in cluster.nodes:
        with urllib.request.urlopen(f"http://127.0.0.1:{node.http_port}/metrics", timeout=10) as answer:
            for line in answer.read().decode().splitlines():
                if _COUNTER in line and not line.startswith("#"):
                    total += int(float(line.split()[-1]))
    return total


def held(cluster: LocalCluster) -> Counter[int]:
    """Replicas by node."""
    ranges: list[dict[str, Any]] = cluster.status()["ranges"]
    return Counter(replica["node_id"] for item in ranges for replica in item["replicas"])


def settle(cluster: LocalCluster, is_done: Callable[[Counter[int]], bool]) -> Counter[int]:
    """Wait until the replicas lie as they shall, and stay there."""
    since, before = time.monotonic(), held(cluster)
    for _ in until(WAIT_SECONDS):
        now = held(cluster)
        if now != before or not is_done(now):
            since, before = time.monotonic(), now
        elif time.monotonic() - since > QUIET_SECONDS:
            return now
        time.sleep(0.5)
    raise SystemExit(f"the replicas did not come to rest within {WAIT_SECONDS:g} s: {dict(held(cluster))}")


def is_even(nodes: int) -> Callable[[Counter[int]], bool]:
    return lambda found: len(found) == nodes and max(found.values()) - min(found.values()) <= 2


def judged(what: str, due: int, moved: int, rows: int, replicas: int) -> bool:
    is_good = due - 2 <= moved <= MOST_FACTOR * due
    keys = 3 * rows * moved // replicas
    print(f"{what}: {due} of {replicas} replicas are due, {moved} were copied (about {keys:,} keys)", flush=True)
    if not is_good:
        print(f"  WRONG: wanted {due - 2} to {MOST_FACTOR * due:.0f}")
    return is_good


def rehearse(folder: Path, shards: int, rows: int) -> bool:
    cluster = plan_cluster(folder, 5, 3, free_base_port(23_000, 5))
    newcomers = cluster.nodes[3:]
    del cluster.nodes[3:]
    try:
        start_cluster(cluster, print)
        url = cluster.nodes[0].url
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                f"CREATE TABLE grown (id bigint PRIMARY KEY, v bigint) SHARD BY HASH (id) SHARDS {shards}"
            )
            for first in range(0, rows, 10_000):
                last = min(first + 10_000, rows) - 1
                connection.execute(f"INSERT INTO grown SELECT g, 0 FROM generate_series({first}, {last}) g")
        found = settle(cluster, is_even(3))
        replicas = found.total()
        print(f"three nodes: {sorted(found.values())} replicas", flush=True)
        client = Client(url, rows)
        client.start()

        before = copies(cluster)
        cluster.nodes += newcomers
        start_cluster(cluster, print)
        found = settle(cluster, is_even(5))
        print(f"five nodes: {sorted(found.values())} replicas", flush=True)
        is_good = judged("growing", replicas * 2 // 5, copies(cluster) - before, rows, replicas)

        names = {node["name"]: node["id"] for node in cluster.status()["nodes"]}
        leaving = {names[node.name] for node in newcomers}
        due = sum(found[node] for node in leaving)
        before = copies(cluster)
        for node in newcomers:
            proddb(["node", "decommission", node.name, "--url", url, "--no-wait"])
        found = settle(cluster, lambda now: not leaving & now.keys())
        is_good &= judged("shrinking", due, copies(cluster) - before, rows, replicas)

        client.stopping = True
        client.join()
        print(
            f"meanwhile {client.statements:,} statements, the longest pair {client.longest * 1000:.0f} ms", flush=True
        )
        for error in client.errors[:5]:
            print(f"  FAILED: {error}")
        with psycopg.connect(url, autocommit=True) as connection:
            count, total = connection.execute("SELECT count(*), sum(v) FROM grown").fetchone() or (0, 0)
        if (count, total) != (rows, client.statements // 2 - len(client.errors)) and not client.errors:
            print(f"  WRONG: {count} rows, {total} changes; wanted {rows} and {client.statements // 2}")
            is_good = False
        return is_good and not client.errors
    finally:
        stop_cluster(cluster, lambda _: None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=54)
    parser.add_argument("--rows", type=int, default=100_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="growth-") as folder:
        is_good = rehearse(Path(folder), arguments.shards, arguments.rows)
    print("all that was due, and hardly more" if is_good else "NOT AS IT SHOULD BE")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
