"""``python -m tests.fuzz``: run random statements on a node and on PostgreSQL 15, and report where they differ."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from pydistdb_tools.local_cluster import stop_cluster

from tests.cluster.conftest import make_cluster
from tests.fuzz.compare import Side, answers_of_other_plans, differ, same_numbers
from tests.fuzz.grammar import SCHEMA, Grammar
from tests.fuzz.shrink import shrink

DEFAULT_COUNT = 2_000
MOST_REPORTS = 20


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--postgres", default="postgresql://postgres@127.0.0.1:5432/postgres", help="PostgreSQL 15")
    parser.add_argument("--url", help="a node (default: one of its own, in a temporary folder)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first statement")
    parser.add_argument("--count", type=int, default=DEFAULT_COUNT)
    parser.add_argument("--splits", action="store_true", help="cut every table into several ranges")
    parser.add_argument("--show", action="store_true", help="print every statement")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    if given.url:
        return run(given, given.url)
    with TemporaryDirectory(prefix="fuzz") as folder:
        cluster = make_cluster(Path(folder), 1)
        try:
            return run(given, cluster.nodes[0].url)
        finally:
            stop_cluster(cluster, print)


def run(given: argparse.Namespace, url: str) -> int:
    splits = "SET pydistdb.split_new_tables = on;" if given.splits else ""
    theirs, ours = Side(given.postgres, SCHEMA), Side(url, splits + SCHEMA)
    reports = failed = 0
    for number in range(given.first, given.first + given.count):
        statement = Grammar(Random(given.seed * 1_000_003 + number)).statement()
        is_change = statement.kind == "change"

        def differs(text: str, is_change: bool = is_change) -> bool:
            ask, answer = (side.run_and_undo if is_change else side.run for side in (theirs, ours))
            expected, got = ask(text), answer(text)
            if not differ(expected, got, is_change):
                return False
            if expected.sqlstate or got.sqlstate:
                return True
            plans = answers_of_other_plans(theirs, ask, text)
            return not same_numbers(expected, got) and all(differ(other, got, is_change) for other in plans)

        text = statement.sql()
        if given.show:
            print(text)
        failed += bool(theirs.run(text).sqlstate) if not is_change else 0
        if not differs(text):
            continue
        small = shrink(statement, differs)
        expected, got = (side.run_and_undo(small) if is_change else side.run(small) for side in (theirs, ours))
        print(f"--- seed {given.seed} number {number}\n{small}", flush=True)
        for name, answer in (("PostgreSQL", expected), ("PyDistDB", got)):
            print(f"  {name}: {answer.sqlstate} {answer.message} {answer.tag} {answer.rows[:6]}")
        reports += 1
        if reports >= MOST_REPORTS:
            break
    print(f"{given.count} statements, {failed} errors on both sides, {reports} differences")
    return 1 if reports else 0


if __name__ == "__main__":
    sys.exit(main())
