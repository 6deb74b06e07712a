"""A server with very many tables: make them, and take the times that a user notices.

    python -m tests.sql.many_tables --url postgresql://postgres@127.0.0.1:5432/postgres --count 10000 --pid 4711

``--pid``: the server's process, whose CPU time is told beside the time on the wall (which says little on a busy machine).
docs/benchmarks.md has the figures for 10,000 tables; nothing here decides a test.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import sql

TABLES_AT_ONCE = 250
ROUNDS = 5


def cpu_ms(pid: int) -> float:
    """What a process has used so far (Linux)."""
    if not pid:
        return 0.0
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * 10.0


def make_tables(connection: psycopg.Connection[Any], count: int, pid: int) -> None:
    """Tables of three columns with a key, every second one with an index; some hundred in a transaction."""
    made = connection.execute("SELECT count(*) FROM pg_class WHERE relname ~ '^many[0-9]+$'").fetchone()
    assert made is not None
    for first in range(made[0], count, TABLES_AT_ONCE):
        last = min(first + TABLES_AT_ONCE, count)
        before = cpu_ms(pid)
        with connection.transaction():
            for number in range(first, last):
                name = sql.Identifier(f"many{number}")
                columns = sql.SQL("CREATE TABLE {} (id int PRIMARY KEY, name text NOT NULL, v numeric DEFAULT 0)")
                connection.execute(columns.format(name))
                if number % 2 == 0:
                    connection.execute(sql.SQL("CREATE INDEX ON {} (name)").format(name))
        if last % 1_000 == 0 or last == count:
            print(f"{last} tables: {(cpu_ms(pid) - before) / (last - first):.2f} ms of CPU for each of the last ones")


def measure(name: str, work: Callable[[], object], pid: int, repeated: int = 1) -> None:
    work()
    before, walls = cpu_ms(pid), []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work()
        walls.append((time.perf_counter() - started) * 1e3 / repeated)
    cpu = (cpu_ms(pid) - before) / ROUNDS / repeated
    print(f"{name:28} {statistics.median(walls):8.2f} ms, of the server's CPU {cpu:8.2f} ms")


def first_statements(url: str, pid: int) -> None:
    """What CREATE TABLE costs by itself, and the statement that comes first after it, in a session of its own."""
    made = itertools.count()
    query = "SELECT name FROM many10 WHERE id = 1 AND v >= {}"
    with psycopg.connect(url, autocommit=True) as one, psycopg.connect(url, autocommit=True) as other:

        def create(*then: str) -> Callable[[], object]:
            def work() -> None:
                for _ in range(20):
                    name = sql.Identifier(f"made{next(made)}")
                    one.execute(sql.SQL("CREATE TABLE {} (a int PRIMARY KEY, b text)").format(name))
                    for text in then:
                        other.execute(text)

            return work

        measure("CREATE TABLE", create(), pid, 20)
        measure("CREATE TABLE, SELECT", create(query.format(0)), pid, 20)
        measure("CREATE TABLE, two SELECTs", create(query.format(0), query.format(0)), pid, 20)
        for number in range(next(made)):
            one.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(f"made{number}")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--pid", type=int, default=0)
    arguments = parser.parse_args()
    url, pid = arguments.url, arguments.pid

    def psql(command: str, times: int = 1) -> Callable[[], object]:
        parts = [part for _ in range(times) for part in ("-c", command)]
        return lambda: subprocess.run(["psql", url, "-X", "-q", "-o", "/dev/null", *parts], check=True)

    with psycopg.connect(url, autocommit=True) as connection:
        make_tables(connection, arguments.count, pid)

        def make_and_drop() -> None:
            for number in range(10):
                name = sql.Identifier(f"short_lived{number}")
                connection.execute(sql.SQL("CREATE TABLE {} (a int PRIMARY KEY, b text)").format(name))
                connection.execute(sql.SQL("DROP TABLE {}").format(name))

        measure("psql with SELECT 1", psql("SELECT 1"), pid)
        measure(r"psql with \dt", psql(r"\dt"), pid)
        measure(r"psql with \d of one table", psql(r"\d many10"), pid)
        measure(r"\d once more", psql(r"\d many10", 20), pid, 20)
        measure("opening a connection", lambda: [psycopg.connect(url).close() for _ in range(100)], pid, 100)
        measure("CREATE TABLE and DROP TABLE", make_and_drop, pid, 10)
        first_statements(url, pid)
        with open(f"/proc/{pid or 'self'}/status") as status:
            print(*[line.strip() for line in status if pid and line.startswith("VmRSS")])


if __name__ == "__main__":
    main()
