"""How long nobody gets an answer: when the leader of everything is killed, and when it goes by plan.

    python -m tests.chaos.gaps                                   20 kills, 5 drains, 20 handovers, 5 dead coordinators of 4 kinds
    python -m tests.chaos.gaps --kills 3 --drains 1 --folder /tmp/gaps

Three nodes; two clients of each read and change single rows of a table of PARTS ranges, one statement after the other, and go to
the next node when theirs is gone.  For each event one node is given the lease of every range, so that no statement can do
without it; then comes a quiet second, and then

* kill         kill -9 of that node; it is started again afterwards (`return`);
* drain        proddb.drain of it, until it has no lease left;
* handover     proddb.move_lease of every range to another node, one after the other;
* intents      a COPY that has laid rows down in two ranges, and is not decided, loses its node: how long does a writer of the
               same keys wait, who came just before;
* locks        the same for a transaction that holds row locks; in both, only with `leader` does the node lead the ranges.

The **gap** of an event is the longest time in which no statement of any client succeeded; beside it stands the longest one of the
quiet time before, which tells what the machine does by itself.  FOLDER gets operations.jsonl, gaps.json, timeline.svg.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import psycopg
from pydistdb_tools.local_cluster import (
    LocalCluster,
    LocalNode,
    free_base_port,
    plan_cluster,
    start_cluster,
    stop_cluster,
)

from tests.chaos.history import FAILED, OK, Operation
from tests.chaos.report import Fault, timeline

PARTS = 8
ROWS = 800
CLIENTS_PER_NODE = 2
THINKING_SECONDS = 0.004
QUIET_SECONDS = 1.5
SETTLED_SECONDS = 1.5
"""An event has passed when clients have got through for so long."""
LONGEST_SECONDS = 60.0


@dataclass
class Event:
    kind: str
    node: str
    begin: float
    end: float = 0.0
    gap_seconds: float = 0.0
    range_gap_seconds: float = 0.0
    """The longest time in which no statement on one certain range succeeded."""
    idle_gap_seconds: float = 0.0
    idle_range_gap_seconds: float = 0.0
    blocked_seconds: float = 0.0
    """How long whoever wanted the same rows has waited (intents, locks)."""
    errors: dict[str, int] = field(default_factory=dict)
    """What clients of other nodes were told, by SQLSTATE."""


class Load:
    """Clients, and what they were told."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        self.began = time.monotonic()
        self.operations: list[Operation] = []
        self.stopping = False
        self.threads = [
            threading.Thread(target=self._client, args=(number,), daemon=True)
            for number in range(CLIENTS_PER_NODE * len(cluster.nodes))
        ]

    def now(self) -> float:
        return time.monotonic() - self.began

    def _client(self, number: int) -> None:
        rand = random.Random(number)
        while not self.stopping:
            node = self.cluster.nodes[number % len(self.cluster.nodes)]
            number += 1
            try:
                with psycopg.connect(node.url, autocommit=True, connect_timeout=2) as connection:
                    self._work(connection, node.name, rand)
            except psycopg.Error:
                time.sleep(0.01)

    def _work(self, connection: psycopg.Connection[Any], node: str, rand: random.Random) -> None:
        while not self.stopping and not connection.closed:
            row, writes = rand.randrange(ROWS), rand.random() < 0.5
            operation = Operation(threading.get_ident(), "write" if writes else "read", row * PARTS // ROWS, node=node)
            operation.start = self.now()
            try:
                if writes:
                    connection.execute("UPDATE gaps SET n = n + 1 WHERE id = %s", (row,))
                else:
                    connection.execute("SELECT n FROM gaps WHERE id = %s", (row,)).fetchall()
            except psycopg.Error as error:
                operation.outcome, operation.error = FAILED, error.sqlstate or "connection"
            operation.end = self.now()
            self.operations.append(operation)
            time.sleep(THINKING_SECONDS)

    def all_got_through(self, since: float) -> bool:
        """Whether every range has answered again."""
        return {op.value for op in self.operations if op.outcome == OK and op.start > since} >= set(range(PARTS))

    def longest_gap(self, begin: float, end: float, part: int | None = None) -> float:
        """The longest time without success, on any range or one, that overlaps the span, as far as it lies within reach."""
        earliest, latest = begin - QUIET_SECONDS, end + SETTLED_SECONDS
        times = sorted(
            op.end
            for op in list(self.operations)
            if op.outcome == OK and (part is None or op.value == part) and earliest < op.end < latest
        )
        return max((after - before for before, after in pairwise(times) if before < end and after > begin), default=0.0)

    def longest_range_gap(self, begin: float, end: float) -> float:
        return round(max(self.longest_gap(begin, end, part) for part in range(PARTS)), 3)


class Gaps:
    """One run."""

    def __init__(self, cluster: LocalCluster, load: Load) -> None:
        self.cluster = cluster
        self.load = load
        self.events: list[Event] = []

    def control(self, node: LocalNode) -> psycopg.Connection[Any]:
        return psycopg.connect(node.url, autocommit=True)

    def gather_leases(self, node: LocalNode) -> int:
        """Give the node the lease of every range; returns its id."""
        with self.control(node) as connection:
            deadline = time.monotonic() + LONGEST_SECONDS
            (node_id,) = _one(connection, "SELECT node_id FROM proddb.nodes WHERE node_name = %s", node.name)
            while True:
                text = "SELECT range_id FROM proddb.ranges WHERE leaseholder IS DISTINCT FROM %s"
                others = connection.execute(text, (node_id,)).fetchall()
                if not others:
                    return int(node_id)
                for (range_id,) in others:
                    try:
                        connection.execute("SELECT proddb.move_lease(%s, %s)", (range_id, node_id))
                    except psycopg.Error:
                        if time.monotonic() > deadline:
                            raise
                        time.sleep(0.2)

    def event(self, kind: str, node: LocalNode, happen: Callable[[], float | None]) -> Event:
        load = self.load
        quiet = load.now()
        time.sleep(QUIET_SECONDS)
        event = Event(kind, node.name, load.now())
        event.idle_gap_seconds = round(load.longest_gap(quiet, event.begin), 3)
        event.idle_range_gap_seconds = load.longest_range_gap(quiet, event.begin)
        event.blocked_seconds = round(happen() or 0.0, 3)
        passed = load.now()
        deadline = time.monotonic() + LONGEST_SECONDS
        while not load.all_got_through(passed) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(SETTLED_SECONDS)
        event.end = load.now()
        event.gap_seconds = round(load.longest_gap(event.begin, event.end), 3)
        event.range_gap_seconds = load.longest_range_gap(event.begin, event.end)
        event.errors = Counter(
            op.error
            for op in list(load.operations)
            if op.outcome == FAILED and event.begin < op.end <= event.end and (op.node != node.name or kind == "drain")
        )
        self.events.append(event)
        print(_line(event), flush=True)
        return event

    # ------------------------------------------------------------------------------------------------------- kinds

    def kill(self, victim: LocalNode) -> None:
        self.gather_leases(victim)

        def die() -> None:
            _kill(victim)

        self.event("kill", victim, die)
        self.come_back(victim)

    def come_back(self, victim: LocalNode) -> None:
        self.event("return", victim, lambda: start_cluster(self.cluster, lambda text: None))

    def drain(self, node: LocalNode) -> None:
        node_id = self.gather_leases(node)
        other = next(each for each in self.cluster.nodes if each is not node)

        def empty() -> None:
            with self.control(other) as connection:
                connection.execute("SELECT proddb.drain(%s)", (node_id,))
                text = "SELECT leases FROM proddb.nodes WHERE node_id = %s"
                while _one(connection, text, node_id)[0]:
                    time.sleep(0.05)

        self.event("drain", node, empty)
        with self.control(other) as connection:
            connection.execute("SELECT proddb.recommission(%s)", (node_id,))

    def handover(self, to: LocalNode) -> None:
        self.event("handover", to, lambda: self.gather_leases(to) and None)

    def coordinator(self, kind: str, node: LocalNode) -> None:
        """Somebody who waits for rows that a transaction has touched whose node dies."""
        other = next(each for each in self.cluster.nodes if each is not node)
        with self.control(other) as connection:
            connection.execute("SELECT proddb.recommission(node_id) FROM proddb.nodes")
            self.gather_leases(node if kind.endswith("leader") else other)
        dying = psycopg.connect(node.url)
        if kind.startswith("intents"):
            with dying.cursor().copy("COPY large FROM STDIN") as copy:
                for number in (*range(-10, 0), *range(101, 111)):
                    copy.write_row((number, "x" * 300_000))
            self._wait_until_in_doubt(other)
            text = "INSERT INTO large VALUES (-5, 'after'), (103, 'after')"
        else:
            dying.execute("UPDATE held SET n = n + 1")
            text = "UPDATE held SET n = n + 1"

        waiter = self.control(other)

        def die() -> float:
            waiting = threading.Thread(target=lambda: waiter.execute(text), daemon=True)
            waiting.start()
            time.sleep(0.1)
            began = time.monotonic()
            _kill(node)
            waiting.join(LONGEST_SECONDS)
            return time.monotonic() - began

        self.event(kind, node, die)
        waiter.execute("DELETE FROM large WHERE pad = 'after'")
        waiter.close()
        self.come_back(node)

    def _wait_until_in_doubt(self, node: LocalNode) -> None:
        with self.control(node) as connection:
            text = "SELECT count(*) FROM proddb.transactions_in_doubt WHERE cardinality(ranges) > 1"
            while not _one(connection, text)[0]:
                time.sleep(0.05)


def _one(connection: psycopg.Connection[Any], text: str, *arguments: object) -> Any:
    row = connection.execute(text, arguments or None).fetchone()
    assert row is not None
    return row


def _kill(node: LocalNode) -> None:
    os.kill(node.pid, signal.SIGKILL)
    os.waitpid(node.pid, 0)


def _line(event: Event) -> str:
    text = f"{event.begin:7.1f} s  {event.kind:10} {event.node}  gap {event.gap_seconds:.3f} s"
    text += f"  of one range {event.range_gap_seconds:.3f} s"
    text += f"  quiet {event.idle_gap_seconds:.3f}, {event.idle_range_gap_seconds:.3f} s"
    blocked = f"  blocked {event.blocked_seconds:.3f} s" if event.blocked_seconds else ""
    return text + blocked + (f"  errors {dict(event.errors)}" if event.errors else "")


def set_up(cluster: LocalCluster) -> None:
    with psycopg.connect(cluster.nodes[0].url, autocommit=True) as connection:
        connection.execute("SELECT proddb.set_setting('rebalance.enabled', 'off')")
        connection.execute("CREATE TABLE gaps (id int PRIMARY KEY, n int NOT NULL)")
        connection.execute("INSERT INTO gaps SELECT n, 0 FROM generate_series(0, %s - 1) n", (ROWS,))
        for part in range(1, PARTS):
            connection.execute("SELECT proddb.split_at('gaps', %s)", (str(part * ROWS // PARTS),))
        connection.execute("CREATE TABLE large (id int PRIMARY KEY, pad text)")
        connection.execute("SELECT proddb.split_at('large', '11')")
        connection.execute("CREATE TABLE held (id int PRIMARY KEY, n int)")
        connection.execute("INSERT INTO held SELECT n, 0 FROM generate_series(1, 5) n")


def summary(events: list[Event]) -> list[str]:
    """One line per kind."""
    lines = [
        "| event | times | gap: median, longest | of one range | quiet before | of one range | blocked | errors |",
        "|" + "---|" * 8,
    ]
    for kind in dict.fromkeys(event.kind for event in events):
        some = [event for event in events if event.kind == kind]

        def both(values: list[float]) -> str:
            return f"{median(values):.2f}, {max(values):.2f} s"

        blocked = [event.blocked_seconds for event in some]
        errors = sum((Counter(event.errors) for event in some), Counter())
        lines.append(
            f"| {kind} | {len(some)} | {both([event.gap_seconds for event in some])} "
            f"| {both([event.range_gap_seconds for event in some])} | {both([event.idle_gap_seconds for event in some])} "
            f"| {both([event.idle_range_gap_seconds for event in some])} "
            f"| {both(blocked) if any(blocked) else ''} | {', '.join(f'{n} × {e}' for e, n in errors.items())} |"
        )
    return lines


def write_down(folder: Path, load: Load, events: list[Event]) -> None:
    with (folder / "operations.jsonl").open("w") as file:
        for operation in load.operations:
            file.write(json.dumps(asdict(operation)) + "\n")
    (folder / "gaps.json").write_text(json.dumps([asdict(event) for event in events], indent=1))
    faults = [
        Fault(each.begin, each.end, f"{each.kind} {each.gap_seconds:.1f}", each.gap_seconds)
        for each in events
        if each.kind != "return"
    ]
    (folder / "timeline.svg").write_text(timeline(load.operations, faults, load.now(), "kills, drains, handovers"))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos.gaps", description="Measure how long nobody is answered."
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--drains", type=int, default=5)
    parser.add_argument("--handovers", type=int, default=20)
    parser.add_argument("--coordinators", type=int, default=5, help="deaths of each kind")
    parser.add_argument("--folder", type=Path, help="where the results go")
    parser.add_argument("--port", type=int, default=10_000 + os.getpid() % 70 * 300)
    options = parser.parse_args(arguments)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="gaps-"))
    folder.mkdir(parents=True, exist_ok=True)
    cluster = plan_cluster(folder / "cluster", 3, 3, free_base_port(options.port, 3))
    try:
        start_cluster(cluster, lambda text: None)
        set_up(cluster)
        load = Load(cluster)
        run = Gaps(cluster, load)
        for thread in load.threads:
            thread.start()
        for number in range(options.handovers):
            run.handover(cluster.nodes[number % 3])
        for number in range(options.drains):
            run.drain(cluster.nodes[number % 3])
        for number in range(options.kills):
            run.kill(cluster.nodes[number % 3])
        for number in range(options.coordinators):
            run.coordinator("intents", cluster.nodes[number % 3])
            run.coordinator("intents, leader", cluster.nodes[number % 3])
            run.coordinator("locks", cluster.nodes[number % 3])
            run.coordinator("locks, leader", cluster.nodes[number % 3])
        load.stopping = True
        for thread in load.threads:
            thread.join(LONGEST_SECONDS)
        write_down(folder, load, run.events)
        print("\n".join(summary(run.events)), f"\n{folder}")
    finally:
        stop_cluster(cluster, lambda text: None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
