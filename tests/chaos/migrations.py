"""A node is killed in the middle of every phase of every migration; the migration must go on, or be undone, by itself.

    python -m tests.chaos.migrations                              every case, about ten minutes
    python -m tests.chaos.migrations --cases re-shard/copying --victims gateway

Four nodes with three replicas.  Per case a table of its own, while clients on all nodes insert into it and add to its rows::

    re-shard     ALTER TABLE … SHARD BY: preparing, copying, verifying, cutting over, cleaning up
                 killed: the node that does it, the one that leads the table, the one that leads the catalog
    index        CREATE INDEX CONCURRENTLY: waiting for writers, building; killed: the same
    move         proddb.move_replica: the learner is there, its snapshot is under way, the change of members is joint
                 killed: the leaseholder, the newcomer, the node that is to give its replica away

A phase is held where it would be too short to be met: by a transaction that the migration must wait for, by copies that get
few bytes a second, by syncs and messages that take their time.  Half of the victims come back at once, the others when all is
over.

In the end no job is left, every range has its three voters, what was acknowledged is there once (rows, sums; through every
index, too), and the replicas are equal.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg

from tests.chaos.client import Connection
from tests.chaos.cluster import ChaosCluster, Node

ROWS = 6_000
GROUPS = 10
PHASE_SECONDS = 90.0
FINISH_SECONDS = 60.0
DEAD_SECONDS = 8
STATEMENT_SECONDS = 40.0
SLOW_SYNC_US = 150_000
"""So that a change of members takes longer than looking for it does."""
SLOW_MESSAGES_MS = (50, 60)
"""The same for verification, which asks one leader after the other for a thousand rows at a time."""

CASES: dict[str, tuple[str, ...]] = {
    "re-shard/preparing": ("gateway", "leader", "catalog"),
    "re-shard/copying": ("gateway", "leader", "catalog"),
    "re-shard/verifying": ("gateway", "leader", "catalog"),
    "re-shard/cutting over": ("gateway", "leader", "catalog"),
    "re-shard/cleaning up": ("gateway", "leader", "catalog"),
    "index/waiting for writers": ("gateway", "leader", "catalog"),
    "index/building": ("gateway", "leader", "catalog"),
    "move/learner": ("leader", "newcomer", "leaving"),
    "move/snapshot": ("leader", "newcomer", "leaving"),
    "move/joint": ("leader", "newcomer", "leaving"),
}


class Writer(threading.Thread):
    """Inserts rows and adds to others, one statement each, and notes what surely and what perhaps took effect."""

    def __init__(self, node: Node, table: str, number: int) -> None:
        super().__init__(daemon=True)
        self.node, self.table, self.number = node, table, number
        self.stopping = False
        self.inserted: set[int] = set()
        self.perhaps_inserted: set[int] = set()
        self.added = self.perhaps_added = 0
        self.surprises: list[str] = []
        self.longest_seconds = 0.0

    def run(self) -> None:
        rand, count = random.Random(self.number), 0
        connection: Connection | None = None
        while not self.stopping:
            count += 1
            time.sleep(0.03)
            is_insert, key = rand.random() < 0.5, (self.number + 1) * 1_000_000 + count
            try:
                if connection is None or connection.closed:
                    connection = psycopg.connect(self.node.url, autocommit=True, connect_timeout=4)
            except psycopg.Error:
                continue
            begun = time.monotonic()
            try:
                if is_insert:
                    text = f"INSERT INTO {self.table} VALUES (%s, 0, 'g' || %s %% {GROUPS})"
                    connection.execute(text, (key, key))  # type: ignore[arg-type]
                    self.inserted.add(key)
                else:
                    text = f"UPDATE {self.table} SET v = v + 1 WHERE id = %s"
                    connection.execute(text, (rand.randrange(ROWS),))  # type: ignore[arg-type]
                    self.added += 1
            except psycopg.Error as error:
                is_broken = error.sqlstate in (None, "57P01", "57P02", "57P03", "40003")
                if is_broken and is_insert:
                    self.perhaps_inserted.add(key)
                elif is_broken:
                    self.perhaps_added += 1
                elif error.sqlstate not in ("40001", "40P01"):
                    self.surprises.append(f"{error.sqlstate} {error}".strip())
            self.longest_seconds = max(self.longest_seconds, time.monotonic() - begun)


class Case:
    """One migration, and one death in the middle of it."""

    def __init__(self, cluster: ChaosCluster, name: str, victim: str, number: int) -> None:
        self.cluster, self.name, self.victim_kind, self.number = cluster, name, victim, number
        self.kind, self.phase = name.split("/")
        self.table = f"migrated_{number}"
        self.problems: list[str] = []
        self.outcome = ""
        self.returns_at_once = number % 2 == 0

    def run(self) -> None:
        with self.control() as control:
            control.execute("SELECT proddb.set_setting('rebalance.enabled', 'off')")
            control.execute(f"SELECT proddb.set_setting('server.time_until_dead', '{DEAD_SECONDS}s')")
            control.execute(
                f"CREATE TABLE {self.table} (id int8 PRIMARY KEY, v int8, t text) SHARD BY HASH (id) SHARDS 2"
            )
            control.execute(f"CREATE INDEX ON {self.table} (t)")
            made = f"INSERT INTO {self.table} SELECT g, 0, 'g' || g % {GROUPS} FROM generate_series(0, {ROWS - 1}) g"
            control.execute(made)
        writers = [Writer(node, self.table, n) for n, node in enumerate(self.cluster.nodes)]
        for writer in writers:
            writer.start()
        try:
            (self._move if self.kind == "move" else self._change)()
            self._wait_until_over()
        finally:
            self.cluster.network()
            for node in self.cluster.nodes:
                node.faults.set()
            for writer in writers:
                writer.stopping = True
        for writer in writers:
            writer.join(STATEMENT_SECONDS)
            if writer.is_alive():
                self.problems.append(f"a statement at {writer.node.name} hangs")
            self.problems += writer.surprises[:3]
        self._audit(writers)
        with self.control() as control:
            control.execute(f"DROP TABLE {self.table}")
        self.outcome += f", longest statement {max(writer.longest_seconds for writer in writers):.1f} s"

    # --------------------------------------------------------------------------------------------- tables and indexes

    def _change(self) -> None:
        leaders = self._leaders()
        leader = max(leaders, key=leaders.count)
        catalog = self._leader_of("range_id = 1")
        free = [node for node in self.cluster.nodes if node not in (leader, catalog)]
        gateway = free[0]
        victim = {"gateway": gateway, "leader": leader, "catalog": catalog}[self.victim_kind]
        holder = next(node for node in [*free[1:], leader, catalog] if node is not victim)
        with self.control(holder) as held, self.control(holder) as control:
            if self.phase in ("preparing", "waiting for writers"):
                self._hold(held)
            text = f"ALTER TABLE {self.table} SHARD BY HASH (v) SHARDS 3"
            if self.kind == "index":
                text = f"CREATE INDEX CONCURRENTLY {self.table}_made ON {self.table} (v, t)"
            with self._begun(gateway, text):
                if self.phase in ("verifying", "cutting over"):
                    self._wait_for(lambda: self._copied(control) > ROWS * 3 // 4)
                    self.cluster.network(delay_ms=SLOW_MESSAGES_MS)
                    self._wait_for(lambda: self._job_phase(control) == "verifying")
                if self.phase == "cutting over":
                    self._hold(held)
                    self.cluster.network()
                self._wait_for(lambda: self._is_phase(control))
                self._kill(victim)
                self.cluster.network()
                if held.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS:
                    time.sleep(1)
                    held.rollback()

    def _hold(self, connection: Connection) -> None:
        """Begin a transaction that whoever changes the table must wait for."""
        connection.autocommit = False
        connection.execute(f"UPDATE {self.table} SET v = v + 1 WHERE id = 7")  # type: ignore[arg-type]

    def _job_phase(self, control: Connection) -> str:
        kind = "create index" if self.kind == "index" else "re-shard"
        found = control.execute("SELECT state FROM proddb.jobs WHERE kind = %s", (kind,)).fetchone()
        return str(found[0]) if found else ""

    def _copied(self, control: Connection) -> int:
        """How many rows the re-sharding has copied so far."""
        found = control.execute("SELECT details FROM proddb.jobs WHERE kind = 're-shard'").fetchone()
        count = str(found[0]).split()[0] if found else ""
        return int(count) if count.isdigit() else 0

    def _is_phase(self, control: Connection) -> bool:
        if self.phase == "cleaning up":
            # Not what is cleared of the table of the case before.
            cleared = "SELECT count(*) FROM proddb.jobs, pg_class WHERE kind = 'clear storage'"
            text = cleared + " AND relname = %s AND reloptions[1] LIKE %s"
            found = control.execute(text, (self.table, "%(v)%")).fetchone()
            return bool(found and found[0])
        phase = self._job_phase(control)
        if self.phase in ("preparing", "waiting for writers"):
            return phase != ""
        return phase.startswith(self.phase)

    # ------------------------------------------------------------------------------------------------------- replicas

    def _move(self) -> None:
        names = self._names()
        with self.control() as control:
            # What replaces the victim of the case before comes first, and would be as slow as the move is to be.
            moving = "SELECT 1 FROM proddb.ranges WHERE cardinality(replicas) <> 3 OR cardinality(learners) > 0"
            self._wait_for(lambda: not control.execute(moving).fetchall())
            text = "SELECT range_id, leaseholder, replicas FROM proddb.ranges WHERE tables LIKE %s ORDER BY 1 LIMIT 1"
            found = control.execute(text, (f"%{self.table}%",)).fetchone()
            assert found is not None
            range_id, leader, replicas = found
            away = next(number for number in replicas if number != leader)
            to = next(number for number in names if number not in replicas)
            victim = names[{"leader": leader, "newcomer": to, "leaving": away}[self.victim_kind]]
            bystander = next(names[number] for number in replicas if number not in (leader, away))
            if self.phase != "joint":
                control.execute("SELECT proddb.set_setting('snapshot.bytes_per_second', '20kB')")
                time.sleep(2)  # until all know
        if self.phase == "joint":
            for node in self.cluster.nodes:
                node.faults.set(sync_us=SLOW_SYNC_US)
        look = f"SELECT cardinality(replicas), cardinality(learners) FROM proddb.ranges WHERE range_id = {range_id}"
        with self.control(bystander) as watching:
            with self._begun(bystander, f"SELECT proddb.move_replica({range_id}, {away}, {to})"):
                self._wait_for(lambda: watching.execute(look).fetchone() != (3, 0))
                if self.phase == "snapshot":
                    time.sleep(2)
                elif self.phase == "joint":
                    self._wait_for(lambda: watching.execute(look).fetchone() == (4, 0))
                self._kill(victim)
                for node in self.cluster.nodes:
                    node.faults.set()
                if self.phase != "joint":
                    watching.execute("SELECT proddb.set_setting('snapshot.bytes_per_second', '128MB')")

    # ------------------------------------------------------------------------------------------------------- the same

    @contextmanager
    def _begun(self, gateway: Node, text: str) -> Iterator[None]:
        """While the statement runs; its error, if its node or another one dies, is no problem."""

        def run() -> None:
            try:
                with self.control(gateway) as connection:
                    connection.execute("SET statement_timeout = 0")
                    connection.execute(text)  # type: ignore[arg-type]
                self.outcome = "the statement succeeded"
            except psycopg.Error as error:
                self.outcome = f"the statement failed ({str(error).splitlines()[0][:60]})"

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield
        thread.join(FINISH_SECONDS)
        if thread.is_alive():
            self.problems.append("the statement hangs")

    def _kill(self, victim: Node) -> None:
        self.cluster.kill(victim)
        if self.returns_at_once:
            self.cluster.start(victim)

    def _wait_until_over(self) -> None:
        """Until no job is left; then bring back who is down."""
        begun = time.monotonic()

        def jobs() -> list[Any]:
            with suppress(psycopg.OperationalError), self.control() as control:
                # Clearing what is gone takes its time and keeps nobody waiting: only where it is what was interrupted.
                ignored = "" if self.phase == "cleaning up" else "clear storage"
                text = "SELECT kind, subject, state, details FROM proddb.jobs WHERE kind <> %s"
                found = control.execute(text, (ignored,)).fetchall()
                unfinished = "SELECT relname FROM pg_index JOIN pg_class c ON c.oid = indexrelid WHERE NOT indisvalid"
                # A node that has just started learns of the jobs within two seconds.
                return found or control.execute(unfinished).fetchall()
            return ["nobody answers"]

        while (left := jobs()) and time.monotonic() < begun + FINISH_SECONDS:
            time.sleep(0.5)
        if left:
            self.problems.append(f"after {FINISH_SECONDS} s there is still {left}")
        self.outcome += f", over {time.monotonic() - begun:.0f} s later"
        for node in self.cluster.nodes:
            if not node.running:
                self.cluster.start(node)
        self.cluster.wait_ready(self.cluster.nodes)

    def _audit(self, writers: list[Writer]) -> None:
        inserted = set().union(*(writer.inserted for writer in writers))
        perhaps = set().union(*(writer.perhaps_inserted for writer in writers))
        added = sum(writer.added for writer in writers)
        most = added + sum(writer.perhaps_added for writer in writers)
        with self.control() as control:
            rows = control.execute(f"SELECT id, v, t FROM {self.table}").fetchall()
            ids = [row[0] for row in rows]
            there = set(ids)
            if len(there) != len(ids):
                self.problems.append(f"{len(ids) - len(there)} rows are doubled")
            wanted = inserted | set(range(ROWS))
            if wanted - there or there - wanted - perhaps:
                self.problems.append(
                    f"{len(wanted - there)} rows are lost, {len(there - wanted - perhaps)} were never made"
                )
            total = sum(row[1] for row in rows)
            if not added <= total <= most:
                self.problems.append(f"the sum is {total}, and should be {added} to {most}")
            groups = {f"g{n}": sorted(row[0] for row in rows if row[2] == f"g{n}") for n in range(GROUPS)}
            for group, keys in groups.items():
                found = control.execute(f"SELECT id FROM {self.table} WHERE t = %s", (group,)).fetchall()
                if sorted(key for (key,) in found) != keys:
                    self.problems.append(f"by index {group} has {len(found)} rows, by table {len(keys)}")
            if self.kind == "index":
                self._audit_index(control, rows)
            shown = control.execute("SELECT reloptions[1] FROM pg_class WHERE relname = %s", (self.table,)).fetchone()
            self.outcome += f", {len(rows)} rows, {shown and shown[0]}"
            deadline = time.monotonic() + FINISH_SECONDS
            while bad := control.execute("SELECT * FROM proddb.doctor WHERE status <> 'ok'").fetchall():
                if time.monotonic() > deadline:
                    self.problems.append(f"doctor: {bad}")
                    break
                time.sleep(1)

    def _audit_index(self, control: Connection, rows: list[Any]) -> None:
        found = control.execute(
            "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", (f"{self.table}_made",)
        ).fetchone()
        self.outcome += f", index {found and found[0]}"
        for value in {row[1] for row in rows[:300]}:
            counted = control.execute(f"SELECT count(*) FROM {self.table} WHERE v = %s", (value,)).fetchone()
            if counted != (sum(row[1] == value for row in rows),):
                self.problems.append(f"by the new index {counted} rows have v = {value}")

    # ------------------------------------------------------------------------------------------------------ the cluster

    def control(self, node: Node | None = None) -> Any:
        chosen = node or next(node for node in self.cluster.nodes if node.running and node.is_healthy())
        options = f"-c statement_timeout={int(FINISH_SECONDS * 1000)}"
        return psycopg.connect(chosen.url, autocommit=True, connect_timeout=20, options=options)

    def _names(self) -> dict[int, Node]:
        by_name = {node.name: node for node in self.cluster.nodes}
        with self.control() as control:
            found = control.execute("SELECT node_id, node_name FROM proddb.nodes").fetchall()
        return {number: by_name[name] for number, name in found}

    def _leaders(self) -> list[Node]:
        names = self._names()
        with self.control() as control:
            text = "SELECT leaseholder FROM proddb.ranges WHERE tables LIKE %s"
            return [names[number] for (number,) in control.execute(text, (f"%{self.table}%",)) if number]

    def _leader_of(self, condition: str) -> Node:
        names = self._names()
        with self.control() as control:
            found = control.execute(f"SELECT leaseholder FROM proddb.ranges WHERE {condition}").fetchone()
        assert found is not None
        return names[found[0]]

    def _wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PHASE_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                self.problems.append("the phase was not seen")
                return
            time.sleep(0.005)


def run(names: list[str], victims: list[str], folder: Path, seed: int = 0) -> list[Case]:
    """Run the cases on one cluster, and tell of each."""
    cases = []
    with ChaosCluster(folder, 4, 3) as cluster:
        for name in names:
            for victim in CASES[name]:
                if victims and victim not in victims:
                    continue
                case = Case(cluster, name, victim, seed + len(cases))
                begun = time.monotonic()
                case.run()
                cases.append(case)
                verdict = "; ".join(case.problems) or "good"
                print(
                    f"{name}, {victim} killed ({time.monotonic() - begun:.0f} s): {verdict}; {case.outcome}", flush=True
                )
    return cases


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos.migrations", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--cases", default=",".join(CASES), help="beginnings of names")
    parser.add_argument("--victims", default="", help="only these")
    parser.add_argument("--seed", type=int, default=0, help="even: the first victim comes back at once")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))  # so that nothing is left behind
    folder = options.folder or Path(tempfile.mkdtemp(prefix="migrations-"))
    chosen = [name for name in CASES if name.startswith(tuple(options.cases.split(",")))]
    cases = run(chosen, [victim for victim in options.victims.split(",") if victim], folder, options.seed)
    print(f"{sum(not case.problems for case in cases)} of {len(cases)} are good")
    return 0 if cases and not any(case.problems for case in cases) else 1


if __name__ == "__main__":
    sys.exit(main())
