"""``proddb admin rebalance``: how even the shards are, and what makes them more so.

The cluster splits, merges and moves by itself, in its own time.  ``--execute`` does at once what ``--check`` recommends, one
deed after the other, and looks again, until nothing is recommended or ``MOST_PASSES`` were made::

    [Starting automatic rebalancing...]
    Pass 1: splits     ██████████████████████████████ 2/2
    Pass 1: leases     ██████████████████████████████ 1/1
    Pass 1: replicas   ██████████████████████████████ 3/3 copied
    [Rebalancing complete, 5 shards now]

Each deed is whole in itself and what is left to do is read from the cluster every time, so Ctrl-C stops after nothing is half
done, and the same command goes on from there.  ``--pause`` and ``--resume`` switch what the cluster does by itself.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time

import psycopg

from pydistdb_tools.admin import Connection, Row, balance_report, connected, node_names, print_rows, rows_of

MOST_PASSES = 10
SETTLE_SECONDS = 6.0
"""After a pass the measured load needs so long to follow."""
COPY_SECONDS = 600.0
_BAR = 30


def run(arguments: argparse.Namespace) -> int:
    with connected(arguments.find_url(arguments)) as connection:
        if arguments.execute:
            return _execute(connection, arguments)
        if arguments.pause or arguments.resume:
            value = "on" if arguments.resume else "off"
            rows_of(connection, "SELECT proddb.set_setting('rebalance.enabled', %s)", value)
            text = "goes on" if arguments.resume else "pauses; replicas of dead nodes are still replaced"
            print(json.dumps({"rebalancing": value}) if arguments.format == "json" else f"Rebalancing {text}")
            return 0
        names = node_names(connection)
        found = rows_of(connection, "SELECT * FROM proddb.ranges")
    print_rows(found, lambda rows: balance_report(rows, names), arguments)
    return 0


def _execute(connection: Connection, arguments: argparse.Namespace) -> int:
    progress = _Progress(quiet=arguments.format == "json")
    done: list[Row] = []
    progress.say("[Starting automatic rebalancing...]")
    try:
        for number in range(1, MOST_PASSES + 1):
            if not _pass(connection, number, progress, done):
                break
            time.sleep(SETTLE_SECONDS)
    except KeyboardInterrupt:
        progress.say("\n[Interrupted: nothing is half done; the same command goes on from here]")
        return 130
    (shards,) = rows_of(connection, "SELECT count(*) AS count FROM proddb.ranges")
    progress.say(f"[Rebalancing complete, {shards['count']} shards now]")
    if arguments.format == "json":
        print(json.dumps({"steps": done, "shards": shards["count"]}, indent=2))
    return 0


def _pass(connection: Connection, number: int, progress: _Progress, done: list[Row]) -> bool:
    """Do what is recommended now; tells whether anything was."""
    advice = rows_of(connection, "SELECT range_id, recommendation FROM proddb.ranges WHERE recommendation IS NOT NULL")
    splits = [row for row in advice if row["recommendation"].startswith("split")]
    moves = [row for row in advice if row["recommendation"].startswith("move its lease")]
    before = len(done)
    for position, row in enumerate(splits):
        progress.show(f"Pass {number}: splits", position, len(splits))
        if _try(connection, "SELECT proddb.split_range(%s)", row["range_id"]):
            done.append({"step": "split", "range_id": row["range_id"]})
    progress.close(f"Pass {number}: splits", len(splits))
    for position, row in enumerate(moves):
        progress.show(f"Pass {number}: leases", position, len(moves))
        target = re.search(r"node (\d+)$", row["recommendation"])
        if target and _try(connection, "SELECT proddb.move_lease(%s, %s)", row["range_id"], int(target[1])):
            done.append({"step": "move lease", "range_id": row["range_id"], "node_id": int(target[1])})
    progress.close(f"Pass {number}: leases", len(moves))
    _wait_for_copies(connection, number, progress)
    return len(done) > before


def _wait_for_copies(connection: Connection, number: int, progress: _Progress) -> None:
    """Watch the replicas that placement copies meanwhile."""
    deadline, most = time.monotonic() + COPY_SECONDS, 0
    while time.monotonic() < deadline:
        left = len(rows_of(connection, "SELECT 1 AS one FROM proddb.jobs WHERE kind = 'add replica'"))
        most = max(most, left)
        if not left:
            break
        progress.show(f"Pass {number}: replicas", most - left, most)
        time.sleep(0.5)
    progress.close(f"Pass {number}: replicas", most)


def _try(connection: Connection, text: str, *values: object) -> bool:
    """Whether it could be done: the cluster may have been faster, or a range may have no boundary inside."""
    try:
        rows_of(connection, text, *values)
    except psycopg.errors.ObjectNotInPrerequisiteState:
        return False
    return True


class _Progress:
    """A line per phase, on standard error where that is a terminal."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        if not self._quiet:
            print(text, flush=True)

    def show(self, phase: str, done: int, total: int) -> None:
        if self._quiet or not sys.stderr.isatty():
            return
        if not done:
            self._began = time.monotonic()
        seconds = time.monotonic() - self._began
        left = f", {seconds / done * (total - done):.0f} s left" if done else ""
        filled = _BAR * done // max(total, 1)
        print(f"\r{phase:<20} {'█' * filled}{'░' * (_BAR - filled)} {done}/{total}{left}  ", end="", file=sys.stderr)

    def close(self, phase: str, total: int) -> None:
        if total and not self._quiet:
            print("\r" * sys.stderr.isatty() + f"{phase:<20} {'█' * _BAR} {total}/{total}", flush=True)
