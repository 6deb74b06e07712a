"""The analytical queries of ``make bench``: a table of 1,000,000 rows, one of 1,000, and how long four queries take.

    facts (id, g: 100 values, d: refers to dims, v)        dims (id, name, w)

A query's time is what a client waits for all its rows, texts in, texts out.  ``make tpch`` runs the larger ones (tests/tpch).
"""

from __future__ import annotations

import statistics
import time

import psycopg

from pydistdb_tools.comparison_systems import Target

FACT_ROWS = 1_000_000
DIM_ROWS = 1_000
RANGE_ROWS = 1_000
RANGES = 50
CHUNK_ROWS = 10_000

QUERIES = (
    ("GROUP BY of 1,000,000 rows into 100 groups", "≤ 20", "SELECT g, count(*), sum(v) FROM facts GROUP BY g"),
    (
        "join of 1,000,000 rows with 1,000, grouped",
        "≤ 20",
        "SELECT d.name, count(*), sum(f.v) FROM facts f JOIN dims d ON d.id = f.d GROUP BY d.name",
    ),
    ("`ORDER BY v LIMIT 10` of 1,000,000 rows", "≤ 15", "SELECT id, v FROM facts ORDER BY v LIMIT 10"),
)
RANGE = ("range of 1,000 rows by primary key", "≤ 4", "SELECT id, g, d, v FROM facts WHERE id BETWEEN {} AND {}")


def load(target: Target) -> None:
    with psycopg.connect(target.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE facts (id bigint PRIMARY KEY, g int, d int, v float8)")
        connection.execute("CREATE TABLE dims (id int PRIMARY KEY, name text, w int)")
        with connection.cursor().copy("COPY facts FROM STDIN") as copy:
            for first in range(0, FACT_ROWS, CHUNK_ROWS):
                rows = range(first, first + CHUNK_ROWS)
                copy.write(
                    "".join(f"{i}\t{i * 7919 % 100}\t{i * 104729 % 1000}\t{i * 7907 % 1000003 / 4}\n" for i in rows)
                )
        with connection.cursor().copy("COPY dims FROM STDIN") as copy:
            copy.write("".join(f"{i}\tdimension {i}\t{i % 10}\n" for i in range(DIM_ROWS)))
        connection.execute("ANALYZE facts")
        connection.execute("ANALYZE dims")


def milliseconds(target: Target, text: str) -> float:
    """How long one query takes; the first of a connection warms up."""
    with psycopg.connect(target.url, autocommit=True) as connection:
        connection.execute("SELECT count(*) FROM dims").fetchall()
        started = time.perf_counter()
        rows = connection.execute(text.encode()).fetchall()
        elapsed = time.perf_counter() - started
    if not rows:
        raise RuntimeError(f"{target.name}: no rows of {text}")
    return elapsed * 1e3


def range_milliseconds(target: Target) -> float:
    """The median of many ranges, each at another place."""
    times = []
    with psycopg.connect(target.url, autocommit=True) as connection:
        for number in range(RANGES):
            first = number * (FACT_ROWS // RANGES)
            started = time.perf_counter()
            rows = connection.execute(RANGE[2].format(first, first + RANGE_ROWS - 1).encode()).fetchall()
            times.append(time.perf_counter() - started)
            if len(rows) != RANGE_ROWS:
                raise RuntimeError(f"{target.name}: a range of {len(rows)} rows")
    return statistics.median(times) * 1e3
