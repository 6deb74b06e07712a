"""``make chaos``: real processes on a bad network, clients on all nodes, and a verdict.

    python -m tests.chaos.run                                every nemesis, one after the other, a minute each
    python -m tests.chaos.run --nemesis kill,one-way --seconds 30 --seed 7 --nodes 5
    python -m tests.chaos.run --workloads register --nemesis none

Per nemesis a new cluster; all workloads run at once against all of its nodes, at a low rate.  Faults and quiet take turns, as
the seed says; then everything is mended, and within RECOVERY_SECONDS every client must get through again.  At the end every
workload reads what it needs, the cluster's own doctor compares all replicas, and the checker (check.py) judges.

FOLDER/NEMESIS keeps the histories (``WORKLOAD.jsonl``), the nodes' logs, timeline.svg, report.md and verdict.json.  Exit
status: 0 all is valid, 1 something is not.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from itertools import cycle
from pathlib import Path
from typing import Any

import psycopg

from tests.chaos.check import verdict as verdict_of
from tests.chaos.client import Client, Clock
from tests.chaos.cluster import ChaosCluster, Node
from tests.chaos.history import OK, History, Operation, Recorder
from tests.chaos.members import Members
from tests.chaos.nemeses import NEMESES as NEMESES_OF_A_MOMENT
from tests.chaos.nemeses import Nemesis, World, is_possible
from tests.chaos.report import Fault, note_gaps, timeline, words
from tests.chaos.workloads import WORKLOADS, Workload

RECOVERY_SECONDS = 20.0
"""After everything is mended: by then every client has got through."""
LONGEST_SECONDS = 40.0
"""No answer takes longer, whatever the fault."""
FINAL_SECONDS = 60.0
WARM_SECONDS = 3.0
START_SECONDS = 5.0
NEMESES = NEMESES_OF_A_MOMENT | {"members": Members}
_STATE = re.compile(r"([0-9A-Z]{5}|) ")
"""How an error that the server or the connection has raised is noted (client.py); what a client decided is not."""
_CONFLICTS = ("40001", "40003", "40P01")


class Run:
    """One nemesis against one cluster."""

    def __init__(self, cluster: ChaosCluster, folder: Path, nemesis: str, options: argparse.Namespace) -> None:
        self.cluster = cluster
        self.folder = folder
        self.nemesis_name = nemesis
        self.options = options
        self.rand = random.Random(f"{options.seed} {nemesis}")
        self.clock = Clock(time.monotonic())
        self.clients: list[Client] = []
        self.recorders: list[Recorder] = []
        self.workloads: list[Workload] = [WORKLOADS[name]() for name in options.workloads]
        self.finishers: list[tuple[Workload, Client]] = []
        self.faults: list[Fault] = []
        self.problems: list[str] = []
        self.orders: dict[str, int] = {}
        self.is_strict = all(NEMESES[name].is_strict for name in nemesis.split("+"))

    def run(self) -> dict[str, Any]:
        self._set_up()
        for client in self.clients:
            client.start()
        time.sleep(WARM_SECONDS)
        world = World(self.cluster, self.rand, [table for workload in self.workloads for table in workload.tables])
        self._make_trouble(world)
        mended = self.clock.now()
        self._wait_for_recovery(mended)
        for client in self.clients:
            client.stopping = True
        for client in self.clients:
            client.join(LONGEST_SECONDS)
            if client.is_alive():
                self.problems.append(f"hung: client {client.process} at {client.node} does not come back")
            self.problems += [f"surprise: {text} (client {client.process})" for text in client.surprises[:3]]
        self.problems += world.surprises
        self.orders = dict(world.orders)
        self._finish()
        for recorder in self.recorders:
            recorder.close()
        return self._judge()

    # ------------------------------------------------------------------------------------------------------ phases

    def _set_up(self) -> None:
        with psycopg.connect(self.cluster.nodes[0].url, autocommit=True) as connection:
            connection.execute("SET pydistdb.split_new_tables = on")
            for workload in self.workloads:
                workload.set_up(connection)
        self.cluster.wait_replicated()
        self.clock.began = time.monotonic()
        count = 0
        for workload in self.workloads:
            recorder = Recorder(
                self.folder / f"{workload.name}.jsonl", {**workload.header(), "longest_seconds": LONGEST_SECONDS}
            )
            self.recorders.append(recorder)
            for _ in range(self.options.clients):
                self.clients.append(self._client(workload, count, recorder))
                count += 1
            self.finishers.append((workload, self._client(workload, 1_000 + count, recorder)))

    def _client(self, workload: Workload, number: int, recorder: Recorder) -> Client:
        node = self.cluster.nodes[number % len(self.cluster.nodes)]
        client = Client(number, node.url, node.name, recorder, self.clock, self.options.rate, self.options.seed)
        client.step = workload.step
        return client

    def _make_trouble(self, world: World) -> None:
        end = self.clock.now() + self.options.seconds
        for nemesis in cycle(possible_nemeses(self.nemesis_name, world)):
            now = self.clock.now()
            if now >= end:
                break
            name = nemesis.begin(world)
            time.sleep(self.rand.uniform(*nemesis.seconds))
            nemesis.end(world)
            self.faults.append(Fault(now, self.clock.now(), name))
            self._watch()
            if nemesis.settles:
                self._wait_for_all(self.clock.now())
            time.sleep(self.rand.uniform(0.5, 5.0))
        self.cluster.network()

    def _watch(self) -> None:
        """A node that ends by itself, though nobody has broken it, is started again and reported."""
        for node in self.cluster.nodes:
            if node.is_wanted and not node.running:
                self.problems.append(
                    f"{node.name} ended by itself with status {node.process and node.process.returncode}"
                )
                self.cluster.start(node)

    def _wait_for_recovery(self, mended: float) -> None:
        self._wait_for_all(mended)
        stuck = [client for client in self.clients if client.last_ok <= mended]
        for client in stuck:
            doing = f"waits since {client.busy_since:.1f}" if client.busy_since else "is refused"
            self.problems.append(
                f"stuck: client {client.process} at {client.node} {doing}, all was well at {mended:.1f}"
            )

    def _wait_for_all(self, since: float) -> None:
        """Wait until every client has got through, but not for ever."""
        while self.clock.now() < since + RECOVERY_SECONDS:
            if all(client.last_ok > since for client in self.clients):
                return
            time.sleep(0.2)

    def _finish(self) -> None:
        for workload, client in self.finishers:
            deadline = time.monotonic() + FINAL_SECONDS
            client.last_ok = -1.0
            while client.last_ok < 0 and time.monotonic() < deadline:
                thread = threading.Thread(target=_quietly, args=(workload, client), daemon=True)
                thread.start()
                thread.join(LONGEST_SECONDS)
                time.sleep(0.2)
            client._drop()
        try:
            self._examine()
        except psycopg.Error as error:
            self.problems.append(f"the cluster cannot be examined: {error}")

    def _examine(self) -> None:
        """What the cluster says of itself once all is quiet: nothing is left behind, and all replicas are equal."""
        deadline = time.monotonic() + RECOVERY_SECONDS
        found: list[str] = ["?"]
        while found and time.monotonic() < deadline:
            time.sleep(1)
            with psycopg.connect(self.cluster.nodes[-1].url, autocommit=True, connect_timeout=5) as connection:
                bad = ("error", "warning") if self.is_strict else ("error",)
                rows = connection.execute("SELECT * FROM proddb.doctor").fetchall()
                found = [f"doctor: {row}" for row in rows if row[2] in bad]
                locks = connection.execute("SELECT * FROM pg_locks WHERE pid <> pg_backend_pid()").fetchall()
                found += [f"left behind: lock {row}" for row in locks]
        self.problems += found

    # ----------------------------------------------------------------------------------------------------- judgment

    def _judge(self) -> dict[str, Any]:
        seconds = self.clock.now()
        operations: list[Operation] = []
        found = []
        for workload in self.workloads:
            history = History.load(self.folder / f"{workload.name}.jsonl")
            operations += history.operations
            found.append(verdict_of(history))
        if self.is_strict:
            self.problems += unexpected(operations, self.cluster.nodes, self.clock.began)
        verdict = {
            "nemesis": self.nemesis_name,
            "valid": not self.problems and all(item["valid"] for item in found),
            "nodes": len(self.cluster.nodes),
            "seed": self.options.seed,
            "seconds": seconds,
            "faults": len(self.faults),
            "longest_gap_seconds": note_gaps(self.faults, operations),
            "slowest_success_seconds": max((op.end - op.start for op in operations if op.outcome == OK), default=0.0),
            "orders": self.orders,
            "gaps_seconds": [round(fault.gap_seconds, 3) for fault in self.faults],
            "problems": self.problems,
            "skipped": self.cluster.skipped,
            "workloads": found,
        }
        (self.folder / "verdict.json").write_text(json.dumps(verdict, indent=2) + "\n")
        (self.folder / "report.md").write_text(words(verdict, self.faults))
        title = f"{self.nemesis_name}, seed {self.options.seed}"
        (self.folder / "timeline.svg").write_text(timeline(operations, self.faults, seconds, title))
        return verdict


def _quietly(workload: Workload, client: Client) -> None:
    try:
        workload.final(client)
        if type(workload).final is Workload.final:
            client.last_ok = client.clock.now()
    except psycopg.Error:
        pass


def unexpected(operations: list[Operation], nodes: list[Node], began: float) -> list[str]:
    """The errors that are neither conflicts nor connections to a node that was down at the time."""
    absences = {node.name: node.absences for node in nodes}
    found: dict[str, list[Operation]] = {}
    for op in operations:
        state = _STATE.match(op.error)
        if op.outcome == OK or state is None or state[1] in _CONFLICTS:
            continue
        was_down = any(
            op.end >= left[0] - began and (len(left) == 1 or op.start <= left[1] - began + START_SECONDS)
            for left in absences[op.node]
        )
        if not was_down or state[1] not in ("", "57P01", "57P03"):
            found.setdefault(op.error[:80], []).append(op)
    return [
        f"{len(some)} times: {error} ({some[0].kind} at {some[0].node}, {some[0].start:.1f} to {some[0].end:.1f})"
        for error, some in found.items()
    ]


def possible_nemeses(names: str, world: World) -> list[Nemesis]:
    """Those of ``kill+one-way`` that this machine allows."""
    return [NEMESES[name]() for name in names.split("+") if is_possible(NEMESES[name], world)]


def run_one(nemesis: str, options: argparse.Namespace) -> dict[str, Any] | None:
    """Run one nemesis; None if this machine does not allow it."""
    folder = options.folder / nemesis
    shutil.rmtree(folder, ignore_errors=True)
    kinds = [NEMESES[name] for name in nemesis.split("+")]
    count = max(options.nodes, *(kind.least_nodes for kind in kinds))
    with ChaosCluster(folder, count, max(kind.replication_factor for kind in kinds)) as cluster:
        if not possible_nemeses(nemesis, World(cluster, random.Random(), [])):
            return None
        return Run(cluster, folder, nemesis, options).run()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description="Real processes, real faults, and a verdict.")
    parser.add_argument(
        "--nemesis",
        help="a run for each of a,b+c (b and c take turns)",
        default=",".join(name for name in NEMESES if name != "none"),
    )
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    parser.add_argument("--seconds", type=float, default=60.0, help="of trouble per nemesis")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--clients", type=int, default=3, help="per workload")
    parser.add_argument("--rate", type=float, default=4.0, help="operations per second and client, at most")
    parser.add_argument("--folder", type=Path, default=None, help="where the histories go (kept)")
    options = parser.parse_args(arguments)
    options.workloads = options.workloads.split(",")
    names = options.nemesis.split(",")
    for name in [*"+".join(names).split("+"), *options.workloads]:
        if name not in NEMESES and name not in WORKLOADS:
            parser.error(f"there is no {name}; nemeses: {', '.join(NEMESES)}; workloads: {', '.join(WORKLOADS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))  # so that nothing is left behind
    options.folder = options.folder or Path(tempfile.mkdtemp(prefix="pydistdb-chaos-"))
    valid = True
    for name in names:
        found = run_one(name, options)
        if found is None:
            print(f"{name}: SKIPPED, this machine does not allow it", flush=True)
            continue
        valid = valid and found["valid"]
        counts = {
            kind: sum(item["operations"][kind] for item in found["workloads"]) for kind in ("ok", "failed", "unknown")
        }
        print(
            f"{name}: {'valid' if found['valid'] else 'INVALID'}, {found['faults']} faults, "
            f"{counts['ok']} ok, {counts['failed']} failed, {counts['unknown']} unknown, "
            f"longest gap {found['longest_gap_seconds']:.1f} s, "
            f"slowest success {found['slowest_success_seconds']:.1f} s",
            flush=True,
        )
        for problem in [*found["problems"], *(p for item in found["workloads"] for p in item["problems"])][:10]:
            print(f"    {problem}", flush=True)
    print(f"histories and reports: {options.folder}")
    return 0 if valid else 1


if __name__ == "__main__":
    sys.exit(main())
