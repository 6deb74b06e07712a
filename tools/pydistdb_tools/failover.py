"""``proddb admin failover --simulate``: what the loss of a node costs, tried on a cluster made by ``proddb init``.

1. A table of its own gets a range of its own, and the node the lease of it.
2. A client of another node inserts row after row, and notes each that was acknowledged.
3. The node's process is killed (``--isolate``: frozen, as a node that nobody reaches any more looks to the others).
4. Elections are waited for; the longest time between two acknowledged rows is the gap.
5. Every acknowledged row must be there.  Then the node comes back and catches up, every acknowledged row must be there
   still, and the checksums of all replicas must agree.

Nothing but that table is written, and it is dropped at the end; other clients notice the same gap.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import psycopg

from pydistdb_tools.admin import connected, find_node, rows_of
from pydistdb_tools.errors import ClusterError
from pydistdb_tools.local_cluster import DEFAULT_FOLDER, LocalCluster, LocalNode, fetch_status, start_cluster
from pydistdb_tools.remote import connect

ELECTION_SECONDS = 60.0
WARM_UP_SECONDS = 1.0
AFTERWARDS_SECONDS = 1.0
RETURN_SECONDS = 60.0
CLEAN_UP_ATTEMPTS = 5
_TABLE = "proddb_failover_check"

Say = Callable[[str], None]


@dataclass
class Election:
    range_id: int
    leader: str
    term: int
    seconds: float


@dataclass
class Outcome:
    """What was found; ``lost`` lists acknowledged rows that are not there."""

    node: str
    how: str
    elections: list[Election] = field(default_factory=list)
    gap_seconds: float = 0.0
    acknowledged: int = 0
    unknown: int = 0
    """Inserts that failed: they took effect or not."""
    lost: list[int] = field(default_factory=list)
    healthy: bool = False

    @property
    def is_good(self) -> bool:
        return self.healthy and not self.lost


class Writer(threading.Thread):
    """Inserts rows one by one, and remembers which were acknowledged and when."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self.acknowledged: dict[int, float] = {}
        self.unknown = 0
        self.stopping = False
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            number = 0
            with connect(self._url) as connection:
                while not self.stopping:
                    number += 1
                    try:
                        connection.execute(f"INSERT INTO {_TABLE} VALUES (%s)", (number,))
                        self.acknowledged[number] = time.monotonic()
                    except psycopg.Error:
                        if connection.closed:
                            raise
                        self.unknown += 1
        except BaseException as error:
            self.error = error

    def gap_seconds(self, since: float) -> float:
        """The longest time between two acknowledgements, from the last one before ``since`` on."""
        times = sorted(self.acknowledged.values())
        first = max([0, *(position for position, moment in enumerate(times) if moment <= since)])
        return max(
            (later - earlier for earlier, later in zip(times[first:], times[first + 1 :], strict=False)), default=0
        )

    def check(self) -> None:
        if self.error is not None:
            raise ClusterError(f"the writing client failed: {self.error}")


def run(arguments: argparse.Namespace) -> int:
    if arguments.url:
        raise ClusterError(
            "a failover can only be simulated on a cluster made by proddb init: give its folder by --dir"
        )
    cluster = LocalCluster.load(arguments.dir or DEFAULT_FOLDER)
    wants_json = arguments.format == "json"
    outcome = simulate(cluster, arguments.node, arguments.isolate, (lambda text: None) if wants_json else _say)
    if wants_json:
        print(json.dumps(asdict(outcome), indent=2))
    return 0 if outcome.is_good else 1


def _say(text: str) -> None:
    print(f"[{text}]", flush=True)


def simulate(cluster: LocalCluster, given: str, isolate: bool, say: Say) -> Outcome:
    """See the module's docstring."""
    running = [node for node in cluster.nodes if node.running]
    if len(running) < len(cluster.nodes) or len(running) < 3 or cluster.replication_factor < 3:
        raise ClusterError("a failover needs three replicas and all nodes of the cluster running")
    with connected(running[0].url) as connection:
        node_id = find_node(connection, given)
        (found,) = rows_of(connection, "SELECT node_name FROM proddb.nodes WHERE node_id = %s", node_id)
    victim = next((node for node in cluster.nodes if node.name == found["node_name"]), None)
    if victim is None:
        raise ClusterError(f"node {given} is none of the cluster in {cluster.folder}")
    survivor = next(node for node in cluster.nodes if node is not victim)
    with connected(survivor.url) as connection:
        if not _is_well(connection, RETURN_SECONDS):
            raise ClusterError("the cluster is not healthy as it is (see proddb admin doctor)")
        connection.execute(f"DROP TABLE IF EXISTS {_TABLE}")
        connection.execute(f"CREATE TABLE {_TABLE} (id int8 PRIMARY KEY)")
        try:
            (own,) = rows_of(connection, f"SELECT proddb.split_at('{_TABLE}', '0') AS range_id")
            _hand_over(connection, own["range_id"], node_id)
            outcome, numbers = _fail_over(cluster, victim, survivor, node_id, isolate, say)
            _examine(connection, outcome, numbers, "after the failure", say)
            _bring_back(cluster, victim, isolate, say)
            outcome.healthy = _is_well(connection, RETURN_SECONDS)
            _examine(connection, outcome, numbers, f"after the return of {victim.name}", say)
        finally:
            if isolate and victim.running:
                os.kill(victim.pid, signal.SIGCONT)
            _clean_up(connection)
    say("Cluster healthy, no data loss" if outcome.is_good else "NOT WELL: see proddb admin doctor")
    return outcome


def _hand_over(connection: psycopg.Connection[Any], range_id: int, node_id: int) -> None:
    """Have the node lead a range, with a replica that it may not have yet."""
    text = "SELECT replicas, leaseholder FROM proddb.ranges WHERE range_id = %s"
    (row,) = rows_of(connection, text, range_id)
    if node_id not in row["replicas"]:
        away = next(node for node in row["replicas"] if node != row["leaseholder"])
        rows_of(connection, "SELECT proddb.move_replica(%s, %s, %s)", range_id, away, node_id)
    rows_of(connection, "SELECT proddb.move_lease(%s, %s)", range_id, node_id)


def _clean_up(connection: psycopg.Connection[Any]) -> None:
    """Leave neither table nor shard behind."""
    for _ in range(CLEAN_UP_ATTEMPTS):
        try:
            rows_of(connection, f"SELECT proddb.merge_at('{_TABLE}', '0')")
            break
        except psycopg.Error:
            time.sleep(1.0)  # leases may still be on their way; and an empty shard does no harm in the end
    connection.execute(f"DROP TABLE IF EXISTS {_TABLE}")


def _fail_over(
    cluster: LocalCluster, victim: LocalNode, survivor: LocalNode, node_id: int, isolate: bool, say: Say
) -> tuple[Outcome, set[int]]:
    before = _leaders(survivor)
    led = {range_id: term for range_id, (leader, term) in before.items() if leader == node_id}
    outcome = Outcome(victim.name, "isolated" if isolate else "killed")
    writer = Writer(survivor.url)
    writer.start()
    time.sleep(WARM_UP_SECONDS)
    writer.check()
    say(f"Simulating {victim.name} failure: it is {outcome.how}, and led {len(led)} shards")
    failed = time.monotonic()
    os.kill(victim.pid, signal.SIGSTOP if isolate else signal.SIGKILL)
    names = {int(node["id"]): str(node["name"]) for node in _status(survivor)["nodes"]}
    while led:
        elapsed = time.monotonic() - failed
        for range_id, (leader, term) in _leaders(survivor).items():
            if range_id in led and leader not in (0, node_id) and term > led[range_id]:
                del led[range_id]
                outcome.elections.append(Election(range_id, names[leader], term, round(elapsed, 2)))
                say(f"Shard {range_id}: {names[leader]} elected as new leader (Raft term {term})")
        if elapsed > ELECTION_SECONDS:
            raise ClusterError(f"shards without a new leader after {elapsed:.0f} s: {', '.join(map(str, led))}")
        time.sleep(0.05)
    deadline = time.monotonic() + ELECTION_SECONDS
    while max(writer.acknowledged.values(), default=0.0) < failed + AFTERWARDS_SECONDS and not writer.error:
        if time.monotonic() > deadline:
            raise ClusterError("no write is acknowledged any more")
        time.sleep(0.05)
    writer.stopping = True
    writer.join(ELECTION_SECONDS)
    writer.check()
    outcome.gap_seconds = round(writer.gap_seconds(failed), 3)
    outcome.acknowledged, outcome.unknown = len(writer.acknowledged), writer.unknown
    failed_writes = f"{writer.unknown} failed, none of them acknowledged" if writer.unknown else "none failed"
    say(f"Writes stood still for {outcome.gap_seconds:.2f} s; {failed_writes}")
    return outcome, set(writer.acknowledged)


def _status(node: LocalNode) -> dict[str, Any]:
    for _ in range(5):
        found = fetch_status(f"127.0.0.1:{node.http_port}")
        if found is not None:
            return found
    raise ClusterError(f"{node.name} does not answer over HTTP")


def _leaders(node: LocalNode) -> dict[int, tuple[int, int]]:
    """Leader and term by range, as the living nodes tell it."""
    return {int(item["id"]): (int(item["leader"]), int(item["term"])) for item in _status(node)["ranges"]}


def _examine(
    connection: psycopg.Connection[Any], outcome: Outcome, acknowledged: set[int], when: str, say: Say
) -> None:
    """Look for every acknowledged row; one that was missing once stays lost."""
    present = {row["id"] for row in rows_of(connection, f"SELECT id FROM {_TABLE}")}
    outcome.lost = sorted({*outcome.lost, *(acknowledged - present)})
    say(f"{len(acknowledged & present):,} of {len(acknowledged):,} acknowledged rows are there {when}")


def _bring_back(cluster: LocalCluster, victim: LocalNode, isolate: bool, say: Say) -> None:
    if isolate:
        os.kill(victim.pid, signal.SIGCONT)
    else:
        _wait_ended(victim)
        start_cluster(cluster, lambda text: None)
    say(f"{victim.name} is back")


def _wait_ended(node: LocalNode) -> None:
    deadline = time.monotonic() + 10
    while node.running and time.monotonic() < deadline:
        try:
            os.waitpid(node.pid, os.WNOHANG)
        except ChildProcessError:
            pass  # started by another proddb; init reaps it
        time.sleep(0.02)


def _is_well(connection: psycopg.Connection[Any], within_seconds: float) -> bool:
    """Whether every check of proddb.doctor but those of clocks and disks is ok, now or soon."""
    text = "SELECT * FROM proddb.doctor WHERE status <> 'ok' AND area IN ('nodes', 'ranges', 'checksums')"
    deadline = time.monotonic() + within_seconds
    while rows_of(connection, text):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True
