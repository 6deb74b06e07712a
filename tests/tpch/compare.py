"""TPC-H here and on PostgreSQL 15: the same rows, and how much longer they take.

Each query runs RUNS times on either system and the best time counts; one that takes longer than SLOW_SECONDS runs once.
"""

from __future__ import annotations

import math
import re
import sys
import time
import urllib.request
from contextlib import ExitStack
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
MARKS = {1: ("<!-- tpch: begin -->", "<!-- tpch: end -->"), 3: ("<!-- tpch-3: begin -->", "<!-- tpch-3: end -->")}
"""Where the tables of one and of three nodes stand in the page."""

Connection = psycopg.Connection[tuple[object, ...]]


def load(connection: Connection, scale: float, *, sharded: bool = False) -> None:
    """``sharded``: by hash, orders and their lines together, over SHARDS shards."""
    for table in reversed(TABLES):
        connection.execute(f"DROP TABLE IF EXISTS {table}")
    for statement in SCHEMA.split(";"):
        if statement.strip():
            table = statement.split()[2]
            by = (
                f" SHARD BY HASH ({SHARD_COLUMNS[table]}) SHARDS {SHARDS}" if sharded and table in SHARD_COLUMNS else ""
            )
            connection.execute(statement + by)
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


def measured(connection: Connection, text: str) -> tuple[list[str], float]:
    """A query's rows, and its best time in milliseconds."""
    best = math.inf
    for _ in range(RUNS):
        started = time.perf_counter()
        rows = run(connection, text)
        seconds = time.perf_counter() - started
        best = min(best, seconds)
        if seconds > SLOW_SECONDS:
            break
    return rows, best * 1e3


def sent_bytes(cluster: LocalCluster) -> int:
    """What the nodes have sent each other."""
    total = 0
    for node in cluster.nodes:
        with urllib.request.urlopen(f"http://127.0.0.1:{node.http_port}/metrics", timeout=10) as answer:
            found = re.search(r"^pydistdb_rpc_sent_bytes_total (\d+)", answer.read().decode(), re.MULTILINE)
            total += int(found.group(1)) if found else 0
    return total


def compare(scale: float, nodes: int) -> int:
    """Run all queries on both; the table goes to the page (of one or three nodes at scale 0.1) and to the terminal."""
    columns = ["query", "PyDistDB", "PostgreSQL 15", "ratio", *(["bytes sent"] if nodes > 1 else [])]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    ratios: list[float] = []
    different: list[str] = []
    with ExitStack() as stack:
        theirs = stack.enter_context(postgres(free_base_port(6433, 1)))
        ours, cluster = stack.enter_context(pydistdb(free_base_port(6533, nodes), nodes))
        here = stack.enter_context(psycopg.connect(ours.url, autocommit=True))
        there = stack.enter_context(psycopg.connect(theirs.url, autocommit=True))
        load(here, scale, sharded=nodes > 1)
        load(there, scale)
        if nodes > 1:
            time.sleep(SPREAD_SECONDS)
        for name, text in QUERIES.items():
            before = sent_bytes(cluster) if nodes > 1 else 0
            found, our_ms = measured(here, text)
            sent = (
                f" {(sent_bytes(cluster) - before) // (RUNS if our_ms < SLOW_SECONDS * 1e3 else 1):,} |"
                if nodes > 1
                else ""
            )
            expected, their_ms = measured(there, text)
            if found != expected:
                different.append(name)
            ratios.append(our_ms / their_ms)
            lines.append(f"| {name} | {our_ms:,.0f} ms | {their_ms:,.0f} ms | {ratios[-1]:.1f} |{sent}")
            print(lines[-1], file=sys.stderr, flush=True)
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    lines.append(f"| geometric mean (floor: {FLOOR}) | | | {mean:.1f} |" + (" |" if nodes > 1 else ""))
    heading = (
        f"Taken {time.strftime('%Y-%m-%d')}, scale {scale:g}, {nodes} node{'s' * (nodes > 1)}; best of {RUNS}.\n\n"
    )
    table = heading + "\n".join(lines)
    print(table)
    if nodes in MARKS and scale == 0.1:
        write_page(table, *MARKS[nodes])
    if different:
        print(f"other rows than PostgreSQL's: {', '.join(different)}")
    return 1 if different else 0
