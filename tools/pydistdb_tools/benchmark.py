"""``proddb benchmark``: point reads, writes and TPC-B by many connections at once; then the data is verified.

What is verified: every acknowledged write is there and nothing else is (a write whose outcome the client could not learn
may be either); in TPC-B the balances of accounts, tellers and branches and the history all have the same sum.  One Python
process drives the load, so figures of a fast server are bounded by it; pgbench measures more.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg

from pydistdb_tools.errors import ClusterError
from pydistdb_tools.remote import connect

ACCOUNTS_PER_BRANCH = 100_000
TELLERS_PER_BRANCH = 10
MAX_THREADS = 1_000
MAX_ERRORS_SHOWN = 5

Connection = psycopg.Connection[Any]
Operation = Callable[[Connection, random.Random, "Worker"], None]

SCHEMA = [
    "DROP TABLE IF EXISTS bench_history, bench_tellers, bench_branches, bench_accounts, bench_writes",
    "CREATE TABLE bench_branches (bid int PRIMARY KEY, balance bigint NOT NULL)",
    "CREATE TABLE bench_tellers (tid int PRIMARY KEY, bid int NOT NULL, balance bigint NOT NULL)",
    "CREATE TABLE bench_accounts (aid int PRIMARY KEY, bid int NOT NULL, balance bigint NOT NULL)",
    "CREATE TABLE bench_history (tid int, bid int, aid int, delta bigint, at timestamp)",
    "CREATE TABLE bench_writes (worker int, number int, payload text, PRIMARY KEY (worker, number))",
]


@dataclass
class Worker:
    """One connection's tally; ``acknowledged`` and ``unknown`` are the numbers of its writes."""

    index: int
    scale: int
    latencies: list[float] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    next_number: int = 0
    acknowledged: set[int] = field(default_factory=set)
    unknown: set[int] = field(default_factory=set)


def _read(connection: Connection, rand: random.Random, worker: Worker) -> None:
    aid = rand.randint(1, worker.scale * ACCOUNTS_PER_BRANCH)
    row = connection.execute("SELECT balance FROM bench_accounts WHERE aid = %s", (aid,), prepare=True).fetchone()
    if row is None:
        raise ClusterError(f"account {aid} is missing")


def _write(connection: Connection, rand: random.Random, worker: Worker) -> None:
    number = worker.next_number
    worker.next_number += 1
    worker.unknown.add(number)
    values = (worker.index, number, f"payload {rand.random()}")
    connection.execute("INSERT INTO bench_writes VALUES (%s, %s, %s)", values, prepare=True)
    worker.unknown.discard(number)
    worker.acknowledged.add(number)


def _transfer(connection: Connection, rand: random.Random, worker: Worker) -> None:
    aid = rand.randint(1, worker.scale * ACCOUNTS_PER_BRANCH)
    tid = rand.randint(1, worker.scale * TELLERS_PER_BRANCH)
    bid = rand.randint(1, worker.scale)
    delta = rand.randint(-5000, 5000)
    run = connection.execute
    with connection.transaction():
        run("UPDATE bench_accounts SET balance = balance + %s WHERE aid = %s", (delta, aid), prepare=True)
        run("SELECT balance FROM bench_accounts WHERE aid = %s", (aid,), prepare=True)
        run("UPDATE bench_tellers SET balance = balance + %s WHERE tid = %s", (delta, tid), prepare=True)
        run("UPDATE bench_branches SET balance = balance + %s WHERE bid = %s", (delta, bid), prepare=True)
        run("INSERT INTO bench_history VALUES (%s, %s, %s, %s, now())", (tid, bid, aid, delta), prepare=True)


WORKLOADS: dict[str, Operation] = {"reads": _read, "writes": _write, "tpcb": _transfer}


def _prepare(connection: Connection, scale: int) -> None:
    started = time.monotonic()
    for statement in SCHEMA:
        connection.execute(statement)
    with connection.cursor() as cursor:
        with cursor.copy("COPY bench_branches FROM STDIN") as copy:
            for bid in range(1, scale + 1):
                copy.write_row((bid, 0))
        with cursor.copy("COPY bench_tellers FROM STDIN") as copy:
            for tid in range(1, scale * TELLERS_PER_BRANCH + 1):
                copy.write_row((tid, (tid - 1) // TELLERS_PER_BRANCH + 1, 0))
        total = scale * ACCOUNTS_PER_BRANCH
        for first in range(1, total + 1, ACCOUNTS_PER_BRANCH):
            with cursor.copy("COPY bench_accounts FROM STDIN") as copy:
                for aid in range(first, first + ACCOUNTS_PER_BRANCH):
                    copy.write_row((aid, (aid - 1) // ACCOUNTS_PER_BRANCH + 1, 0))
            if time.monotonic() - started > 2:
                print(f"  loaded {first + ACCOUNTS_PER_BRANCH - 1:,} of {total:,} accounts", file=sys.stderr)


def _work(url: str, operation: Operation, worker: Worker, until: float, start: threading.Barrier) -> None:
    rand = random.Random(worker.index)
    connection: Connection | None = None
    start.wait()
    while (now := time.perf_counter()) < until:
        try:
            if connection is None or connection.closed:
                connection = psycopg.connect(url, autocommit=True, connect_timeout=5)
            operation(connection, rand, worker)
            worker.latencies.append(time.perf_counter() - now)
        except (psycopg.Error, ClusterError) as error:
            label = (error.sqlstate if isinstance(error, psycopg.Error) else None) or str(error).strip()[:80]
            worker.errors[label] = worker.errors.get(label, 0) + 1
            if connection is None or connection.closed:
                time.sleep(0.1)
    if connection is not None:
        connection.close()


def _percentile(ordered: list[float], fraction: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * fraction))] * 1000 if ordered else 0.0


def _run_workload(url: str, name: str, seconds: float, threads: int, scale: int) -> tuple[dict[str, Any], list[Worker]]:
    workers = [Worker(index, scale) for index in range(threads)]
    barrier = threading.Barrier(threads + 1)
    until = time.perf_counter() + seconds
    runners = [
        threading.Thread(target=_work, args=(url, WORKLOADS[name], worker, until, barrier), daemon=True)
        for worker in workers
    ]
    for runner in runners:
        runner.start()
    barrier.wait()
    started = time.perf_counter()
    told = started
    while any(runner.is_alive() for runner in runners):
        time.sleep(0.1)
        if time.perf_counter() - told > 5:
            told = time.perf_counter()
            print(f"  {name}: {sum(len(w.latencies) for w in workers):,} operations so far", file=sys.stderr)
    elapsed = time.perf_counter() - started
    ordered = sorted(latency for worker in workers for latency in worker.latencies)
    errors: dict[str, int] = {}
    for worker in workers:
        for label, count in worker.errors.items():
            errors[label] = errors.get(label, 0) + count
    result = {
        "workload": name,
        "operations": len(ordered),
        "throughput_per_second": round(len(ordered) / elapsed, 1),
        "p50_ms": round(_percentile(ordered, 0.50), 3),
        "p99_ms": round(_percentile(ordered, 0.99), 3),
        "p999_ms": round(_percentile(ordered, 0.999), 3),
        "errors": errors,
    }
    return result, workers


def _verify_writes(connection: Connection, workers: list[Worker]) -> list[str]:
    problems = []
    for worker in workers:
        rows = connection.execute("SELECT number FROM bench_writes WHERE worker = %s", (worker.index,)).fetchall()
        found = {number for (number,) in rows}
        if lost := worker.acknowledged - found:
            problems.append(f"{len(lost)} acknowledged writes of connection {worker.index} are lost")
        if alien := found - worker.acknowledged - worker.unknown:
            problems.append(f"{len(alien)} rows of connection {worker.index} were never written")
    return problems


def _verify_sums(connection: Connection) -> list[str]:
    sums: dict[str, int] = {}
    for table, column in (
        ("accounts", "balance"),
        ("tellers", "balance"),
        ("branches", "balance"),
        ("history", "delta"),
    ):
        row = connection.execute(f"SELECT coalesce(sum({column}), 0) FROM bench_{table}").fetchone()
        sums[table] = int(row[0]) if row else 0
    return [] if len(set(sums.values())) == 1 else [f"the sums disagree: {sums}"]


def _print_text(results: list[dict[str, Any]], problems: list[str]) -> None:
    print(f"{'workload':<10}{'operations':>12}{'ops/s':>12}{'P50 ms':>10}{'P99 ms':>10}{'P999 ms':>10}{'errors':>8}")
    for item in results:
        print(
            f"{item['workload']:<10}{item['operations']:>12,}{item['throughput_per_second']:>12,.1f}{item['p50_ms']:>10.2f}"
            f"{item['p99_ms']:>10.2f}{item['p999_ms']:>10.2f}{sum(item['errors'].values()):>8,}"
        )
    for item in results:
        for label, count in sorted(item["errors"].items(), key=lambda entry: -entry[1])[:MAX_ERRORS_SHOWN]:
            print(f"  {item['workload']}: {count:,} x {label}")
    print("data verified: nothing acknowledged is lost, all sums agree" if not problems else "DATA IS WRONG:")
    for problem in problems:
        print(f"  {problem}")


def run_benchmark(url: str, seconds: float, threads: int, workload: str, scale: int, output: str) -> int:
    """Run one workload or all; returns 1 if the data afterwards is not what was acknowledged."""
    if not 1 <= threads <= MAX_THREADS:
        raise ClusterError(f"--threads must be between 1 and {MAX_THREADS}")
    if not 1 <= scale <= 1000:
        raise ClusterError("--scale must be between 1 and 1000")
    results: list[dict[str, Any]] = []
    problems: list[str] = []
    with connect(url) as connection:
        print(f"loading {scale * ACCOUNTS_PER_BRANCH:,} accounts", file=sys.stderr)
        _prepare(connection, scale)
    for name in WORKLOADS if workload == "all" else [workload]:
        print(f"{name}: {threads} connections for {seconds:g} s", file=sys.stderr)
        result, workers = _run_workload(url, name, seconds, threads, scale)
        results.append(result)
        if name == "writes":
            with connect(url) as connection:
                problems += _verify_writes(connection, workers)
    with connect(url) as connection:
        problems += _verify_sums(connection)
    if output == "json":
        print(json.dumps({"results": results, "problems": problems}, indent=2))
    else:
        title = f"Benchmark results ({seconds:g} s each, {threads} connections)"
        print(f"{title}\n{'=' * len(title)}")
        _print_text(results, problems)
    return 1 if problems else 0
