"""TPC-H here and on PostgreSQL 15: the same rows, and how much longer they take.

Each query runs RUNS times on either system and the best time counts; one that takes longer than SLOW_SECONDS runs once.  Beside
the times stands the CPU time that the servers took, all nodes together: it says more where the nodes share two cores.

Queries 17 and 20 take PostgreSQL minutes without an index.  ``quick`` makes one on its side before either, so that their rows can
be compared all the same; its times with the index are marked, and not in the mean.
"""

from __future__ import annotations

import math
import os
import re
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
from pydistdb_tools.comparison import write_page
from pydistdb_tools.comparison_systems import postgres, pydistdb
from pydistdb_tools.local_cluster import LocalCluster, free_base_port

from tests.tpch import QUERIES, SCHEMA, TABLES, generate

RUNS = 2
SLOW_SECONDS = 5.0
FLOOR = 20
SHARDS = 6
SHARD_COLUMNS = {
    "part": "p_partkey",
    "supplier": "s_suppkey",
    "partsupp": "ps_partkey",
    "customer": "c_custkey",
    "orders": "o_orderkey",
    "lineitem": "l_orderkey",
}
SPREAD_SECONDS = 10
"""Until the leases of new ranges are spread over the nodes."""
ROWS_AT_SCALE_1 = {
    "part": 200_000,
    "supplier": 10_000,
    "partsupp": 200_000,
    "customer": 150_000,
    "orders": 6_000_000,
    "lineitem": 6_000_000,
}
"""How far the shard columns' values go."""
MARKS = {
    (1, "hash"): ("<!-- tpch: begin -->", "<!-- tpch: end -->"),
    (3, "hash"): ("<!-- tpch-3: begin -->", "<!-- tpch-3: end -->"),
    (3, "range"): ("<!-- tpch-3-range: begin -->", "<!-- tpch-3-range: end -->"),
}
"""Where the tables of one and of three nodes stand in the page."""
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
SLOW_WITHOUT_INDEX = ("17", "20")

Connection = psycopg.Connection[tuple[object, ...]]


def shard_clause(table: str, sharding: str, scale: float) -> str:
    """How a table is spread over SHARDS shards: by ``hash``, orders and their lines together, or by ``range``."""
    if not sharding or table not in SHARD_COLUMNS:
        return ""
    column = SHARD_COLUMNS[table]
    if sharding == "hash":
        return f" SHARD BY HASH ({column}) SHARDS {SHARDS}"
    most = int(ROWS_AT_SCALE_1[table] * scale)
    bounds = ", ".join(str(most * number // SHARDS) for number in range(1, SHARDS))
    return f" SHARD BY RANGE ({column}) (SPLIT AT VALUES ({bounds}))"


def load(connection: Connection, scale: float, *, sharding: str = "") -> None:
    """Make the tables and fill them."""
    for table in reversed(TABLES):
        connection.execute(f"DROP TABLE IF EXISTS {table}")
    for statement in SCHEMA.split(";"):
        if statement.strip():
            connection.execute(statement + shard_clause(statement.split()[2], sharding, scale))
    with TemporaryDirectory() as folder:
        for table, data in generate(Path(folder), scale).items():
            with connection.cursor().copy(f"COPY {table} FROM STDIN (FORMAT csv)") as copy:
                copy.write(data)
    connection.execute("ANALYZE")


def run(connection: Connection, text: str) -> list[str]:
    """The rows as text: the simple protocol sends them so."""
    with psycopg.RawCursor(connection) as cursor:
        cursor.execute(text.encode())
        result = cursor.pgresult
        assert result is not None
        rows: list[str] = []
        for row in range(result.ntuples):
            cells = [result.get_value(row, column) for column in range(result.nfields)]
            rows.append("|".join(["NULL" if cell is None else bytes(cell).decode() for cell in cells]))
        return rows


def cpu_ms(processes: list[int], *, children: bool) -> float:
    """The CPU time of processes, with that of children that have ended if wanted (PostgreSQL's parallel workers)."""
    ticks = 0
    for process in processes:
        stat = Path(f"/proc/{process}/stat").read_text()
        fields = stat[stat.rindex(")") + 2 :].split()
        ticks += sum(map(int, fields[11 : 15 if children else 13]))
    return ticks / TICKS_PER_SECOND * 1e3


def measured(connection: Connection, text: str, cpu: Callable[[], float]) -> tuple[list[str], float, float]:
    """A query's rows, and its best time and least CPU time in milliseconds."""
    best = least = math.inf
    for _ in range(RUNS):
        started, before = time.perf_counter(), cpu()
        rows = run(connection, text)
        seconds = time.perf_counter() - started
        best, least = min(best, seconds), min(least, cpu() - before)
        if seconds > SLOW_SECONDS:
            break
    return rows, best * 1e3, least


def backend_cpu(connection: Connection) -> Callable[[], float]:
    """What a PostgreSQL session takes, its parallel workers included: the postmaster has their time once they have ended."""
    backend = connection.info.backend_pid
    status = Path(f"/proc/{backend}/status").read_text()
    found = re.search(r"^PPid:\s+(\d+)", status, re.MULTILINE)
    assert found is not None
    postmaster = int(found.group(1))
    return lambda: cpu_ms([backend], children=False) + cpu_ms([postmaster], children=True)


@contextmanager
def with_index(connection: Connection, wanted: bool) -> Iterator[None]:
    if wanted:
        connection.execute("CREATE INDEX helping ON lineitem (l_partkey, l_suppkey)")
    yield
    if wanted:
        connection.execute("DROP INDEX helping")


def sent_bytes(cluster: LocalCluster) -> int:
    """What the nodes have sent each other."""
    total = 0
    for node in cluster.nodes:
        with urllib.request.urlopen(f"http://127.0.0.1:{node.http_port}/metrics", timeout=10) as answer:
            found = re.search(r"^pydistdb_rpc_sent_bytes_total (\d+)", answer.read().decode(), re.MULTILINE)
            total += int(found.group(1)) if found else 0
    return total


def compare(scale: float, nodes: int, sharding: str = "hash", *, quick: bool = False) -> int:
    """Run all queries on both; the table goes to the page (of one or three nodes at scale 0.1) and to the terminal."""
    columns = ["query", "PyDistDB", "PostgreSQL 15", "ratio", "CPU", "CPU of PostgreSQL"]
    columns += ["bytes sent"] * (nodes > 1)
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    ratios: list[float] = []
    different: list[str] = []
    with ExitStack() as stack:
        theirs = stack.enter_context(postgres(free_base_port(6433, 1)))
        ours, cluster = stack.enter_context(pydistdb(free_base_port(6533, nodes), nodes))
        here = stack.enter_context(psycopg.connect(ours.url, autocommit=True))
        there = stack.enter_context(psycopg.connect(theirs.url, autocommit=True))
        load(here, scale, sharding=sharding if nodes > 1 else "")
        load(there, scale)
        if nodes > 1:
            time.sleep(SPREAD_SECONDS)
        for name, text in QUERIES.items():
            before = sent_bytes(cluster) if nodes > 1 else 0
            found, our_ms, our_cpu = measured(here, text, lambda: cpu_ms(ours.processes(), children=False))
            runs = RUNS if our_ms < SLOW_SECONDS * 1e3 else 1
            helped = quick and name in SLOW_WITHOUT_INDEX
            with with_index(there, helped):
                expected, their_ms, their_cpu = measured(there, text, backend_cpu(there))
            if found != expected:
                different.append(name)
            if not helped:
                ratios.append(our_ms / their_ms)
            cells = [name, f"{our_ms:,.0f} ms", f"{their_ms:,.0f} ms{' *' * helped}", f"{our_ms / their_ms:.1f}"]
            cells += [f"{our_cpu:,.0f} ms", f"{their_cpu:,.0f} ms"]
            cells += [f"{(sent_bytes(cluster) - before) // runs:,}"] * (nodes > 1)
            lines.append(f"| {' | '.join(cells)} |")
            print(lines[-1], file=sys.stderr, flush=True)
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    lines.append(f"| geometric mean (floor: {FLOOR}) | | | {mean:.1f} |" + " |" * (len(columns) - 4))
    table = f"{heading(scale, nodes, sharding, quick, different)}\n\n" + "\n".join(lines)
    print(table)
    if (nodes, sharding) in MARKS and scale == 0.1:
        write_page(table, *MARKS[nodes, sharding])
    if different:
        print(f"other rows than PostgreSQL's: {', '.join(different)}")
    return 1 if different else 0


def heading(scale: float, nodes: int, sharding: str, quick: bool, different: list[str]) -> str:
    """What the table is of."""
    spread = f", sharded by {sharding}" * (nodes > 1)
    rows = f"other rows than PostgreSQL's: {', '.join(different)}" if different else "all rows are PostgreSQL's"
    helped = "; * with an index, and not in the mean" * quick
    return (
        f"Taken {time.strftime('%Y-%m-%d')}, scale {scale:g}, {nodes} node{'s' * (nodes > 1)}{spread}; best of {RUNS};"
        f" {rows}{helped}."
    )
