"""``python -m tests.tpch``: take PostgreSQL's answers, or compare a server's with them.

``--compare`` (``make tpch``) starts PyDistDB and PostgreSQL 15, runs every query on both, and writes the ratios of their times
into docs/benchmarks.md, with the bytes sent between nodes if there are several (``--nodes 3``, ``--sharding range``).
"""

from __future__ import annotations

import argparse
import sys
import time

import psycopg

from tests.tpch import HERE, QUERIES, SCALE, answer
from tests.tpch.compare import compare, load, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.tpch", description=__doc__)
    parser.add_argument("--postgres", help="write its answers down")
    parser.add_argument("--url", help="compare this server's answers with those")
    parser.add_argument("--scale", type=float, default=SCALE)
    parser.add_argument("--loaded", action="store_true", help="the tables are there already")
    parser.add_argument("--compare", action="store_true", help="start both systems and compare their times")
    parser.add_argument("--nodes", type=int, default=1, help="of PyDistDB, with --compare")
    parser.add_argument("--sharding", choices=["hash", "range"], default="hash", help="with several nodes")
    parser.add_argument("--quick", action="store_true", help="PostgreSQL has an index for queries 17 and 20")
    given = parser.parse_args()
    if given.compare:
        return compare(given.scale, given.nodes, given.sharding, quick=given.quick)
    failures = 0
    with psycopg.connect(given.postgres or given.url, autocommit=True) as connection:
        if not given.loaded:
            load(connection, given.scale, sharding=given.sharding if given.url and given.nodes > 1 else "")
        for name, text in QUERIES.items():
            started = time.perf_counter()
            rows = run(connection, text)
            elapsed_ms = (time.perf_counter() - started) * 1e3
            verdict = ""
            if given.postgres:
                (HERE / "answers" / f"{name}.txt").write_text("".join(f"{row}\n" for row in rows))
            elif given.scale == SCALE:
                verdict = "ok" if rows == answer(name) else "DIFFERENT"
                failures += rows != answer(name)
            print(f"{name} {len(rows):5} rows {elapsed_ms:9.1f} ms {verdict}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
