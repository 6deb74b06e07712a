"""What makes trouble in a chaos run: each fault is a small object that begins, lasts for a while, and ends.

``NEMESES`` has them by name.  ``begin`` says in words what it does; ``end`` takes it back.  ``needs`` names what the machine must
allow (``network``: namespaces; ``disks``: file systems of the nodes' own).
"""

from __future__ import annotations

import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import psycopg

from tests.chaos.cluster import ChaosCluster, Node

LEASE_SECONDS = 3.0
"""Longer than any lease."""
FAILED_SYNC_SECONDS = 15.0
"""Every node writes something within this time, if only because of the clients."""


@dataclass
class World:
    cluster: ChaosCluster
    rand: random.Random
    definitions: list[str]
    """Of the workloads' tables: name, and columns in parentheses."""
    surprises: list[str] = field(default_factory=list)
    orders: Counter[str] = field(default_factory=Counter)
    """What was asked for beside faults (splits and merges), and how often."""

    def some_table(self, *, keyed: bool = False) -> str:
        """A table's name; ``keyed``: of one that can be split at a value of its primary key."""
        return self.rand.choice([text.split()[0] for text in self.definitions if not keyed or "PRIMARY KEY" in text])

    def some_node(self) -> Node:
        return self.rand.choice(self.cluster.nodes)

    def leader_or_other(self) -> Node:
        """Half of the time the node that leads most ranges."""
        return self.cluster.leader_of_most() if self.rand.random() < 0.5 else self.some_node()

    def others(self, node: Node) -> list[Node]:
        return [other for other in self.cluster.nodes if other is not node]


class Nemesis:
    needs: str = ""
    least_nodes = 1
    replication_factor = 0
    """0: a replica on every node."""
    is_strict = False
    """Whether clients may see nothing but conflicts, and broken connections to a node that was brought down."""
    seconds = (2.0, 6.0)
    """How long a fault lasts."""
    settles = False
    """Whether the next fault waits until the clients get through again."""

    def begin(self, world: World) -> str:
        raise NotImplementedError

    def end(self, world: World) -> None:
        raise NotImplementedError


def _bring_back(world: World) -> None:
    """Start the nodes that were brought down (one that ended by itself is a finding of the runner's)."""
    for node in world.cluster.nodes:
        if not node.running and not node.is_wanted:
            world.cluster.start(node)


class Kill(Nemesis):
    """kill -9 of one node, which is started again later."""

    settles = True

    def begin(self, world: World) -> str:
        node = world.leader_or_other()
        node.is_wanted = False
        world.cluster.kill(node)
        return f"kill {node.name}"

    def end(self, world: World) -> None:
        _bring_back(world)


class KillLeader(Kill):
    """kill -9 of the node that leads most ranges: how long does nothing succeed?"""

    seconds = (4.0, 5.0)

    def begin(self, world: World) -> str:
        node = world.cluster.leader_of_most()
        node.is_wanted = False
        world.cluster.kill(node)
        return f"kill {node.name}"


class KillAll(Nemesis):
    """kill -9 of every node at once."""

    seconds = (0.0, 2.0)
    settles = True

    def begin(self, world: World) -> str:
        for node in world.cluster.nodes:
            node.is_wanted = False
        for node in world.cluster.nodes:
            world.cluster.kill(node)
        return "kill all"

    def end(self, world: World) -> None:
        _bring_back(world)


class Pause(Nemesis):
    """SIGSTOP for longer than a lease: the node wakes up in the belief that nothing has happened."""

    seconds = (LEASE_SECONDS + 1, LEASE_SECONDS + 6)

    def begin(self, world: World) -> str:
        node = world.leader_or_other()
        world.cluster.pause(node)
        return f"pause {node.name}"

    def end(self, world: World) -> None:
        for node in world.cluster.nodes:
            if node.paused:
                world.cluster.resume(node)


class Network(Nemesis):
    """A fault that the switch makes."""

    needs = "network"

    def rules(self, world: World) -> tuple[str, dict[str, object]]:
        raise NotImplementedError

    def begin(self, world: World) -> str:
        text, rules = self.rules(world)
        world.cluster.network(**rules)
        return text

    def end(self, world: World) -> None:
        world.cluster.network()


def both_ways(left: list[Node], right: list[Node]) -> list[list[int]]:
    pairs = [(a.number, b.number) for a in left for b in right]
    return [[a, b] for a, b in pairs] + [[b, a] for a, b in pairs]


class Halves(Network):
    """Two sides that do not hear each other."""

    def rules(self, world: World) -> tuple[str, dict[str, object]]:
        nodes = world.rand.sample(world.cluster.nodes, len(world.cluster.nodes))
        middle = len(nodes) // 2
        left, right = nodes[:middle], nodes[middle:]
        return f"{_names(left)} | {_names(right)}", {"cut": both_ways(left, right)}


class LeaderAlone(Network):
    """Nobody hears the node that leads most ranges, nor does it hear anybody."""

    def rules(self, world: World) -> tuple[str, dict[str, object]]:
        leader = world.cluster.leader_of_most()
        return f"{leader.name} alone", {"cut": both_ways([leader], world.others(leader))}


class OneWay(Network):
    """One node hears the others, and they do not hear it; or the other way round."""

    def rules(self, world: World) -> tuple[str, dict[str, object]]:
        node = world.leader_or_other()
        if world.rand.random() < 0.5:
            return f"{node.name} is not heard", {"cut": [[node.number, other.number] for other in world.others(node)]}
        return f"{node.name} hears nobody", {"cut": [[other.number, node.number] for other in world.others(node)]}


class Ring(Network):
    """Every node sees a majority, and no two the same (three nodes: two of them do not see each other)."""

    def rules(self, world: World) -> tuple[str, dict[str, object]]:
        nodes = world.rand.sample(world.cluster.nodes, len(world.cluster.nodes))
        count = len(nodes)
        reach = count // 2 // 2
        if count < 5:
            return f"{nodes[0].name} - {nodes[2].name} cut", {"cut": both_ways([nodes[0]], [nodes[2]])}
        cut = [
            [a.number, b.number]
            for i, a in enumerate(nodes)
            for j, b in enumerate(nodes)
            if min((i - j) % count, (j - i) % count) > reach
        ]
        return f"ring {_names(nodes)}", {"cut": cut}


class Loss(Network):
    """Packets are lost."""

    def rules(self, world: World) -> tuple[str, dict[str, object]]:
        loss = world.rand.choice((0.02, 0.1, 0.25))
        return f"loss {loss:.0%}", {"loss": loss}


class Delay(Network):
    """Packets take their time."""

    def rules(self, world: World) -> tuple[str, dict[str, object]]:
        most = world.rand.choice((20, 80, 250))
        return f"delay to {most} ms", {"delay_ms": [most / 4, most]}


class Clocks(Nemesis):
    """Wall clocks jump, within the bound (250 ms) or far beyond it."""

    def begin(self, world: World) -> str:
        moved = []
        for node in world.cluster.nodes:
            if world.rand.random() < 0.6:
                most = world.rand.choice((100_000, 100_000, 400_000, 5_000_000))
                offset_us = world.rand.randint(-most, most)
                node.faults.set(clock_us=offset_us)
                moved.append(f"{node.name} {offset_us / 1000:+.0f} ms")
        return "clocks " + (", ".join(moved) or "right")

    def end(self, world: World) -> None:
        for node in world.cluster.nodes:
            node.faults.set()


class ClocksWithinBounds(Clocks):
    """Wall clocks jump to and fro all the time, no two further apart than the bound."""

    def begin(self, world: World) -> str:
        for node in world.cluster.nodes:
            node.faults.set(clock_us=world.rand.randint(-90_000, 90_000))
        return "clocks ±90 ms"

    seconds = (0.2, 1.0)


class FullDisk(Nemesis):
    """A node's file system has no room left."""

    needs = "disks"

    def begin(self, world: World) -> str:
        node = world.leader_or_other()
        world.cluster.fill_disk(node)
        return f"disk of {node.name} full"

    def end(self, world: World) -> None:
        for node in world.cluster.nodes:
            world.cluster.empty_disk(node)


class SlowSync(Nemesis):
    """Syncs take up to seconds."""

    def begin(self, world: World) -> str:
        node = world.leader_or_other()
        delay_us = world.rand.choice((50_000, 300_000, 2_000_000))
        node.faults.set(sync_us=delay_us)
        return f"syncs of {node.name} +{delay_us // 1000} ms"

    def end(self, world: World) -> None:
        for node in world.cluster.nodes:
            node.faults.set()


class FailedSync(Nemesis):
    """A sync fails: the node must stop, for nobody knows what is on its disk; it is started again."""

    settles = True

    def begin(self, world: World) -> str:
        node = world.leader_or_other()
        node.is_wanted = False
        node.faults.set(sync_fails=True)
        return f"syncs of {node.name} fail"

    def end(self, world: World) -> None:
        for node in world.cluster.nodes:
            if not node.faults.sync_fails:
                continue
            try:
                # One that has only just come up has yet to write something.
                if node.process is not None and not node.paused:
                    node.process.wait(FAILED_SYNC_SECONDS)
            except subprocess.TimeoutExpired:
                world.surprises.append(f"{node.name} goes on though its syncs fail")
                world.cluster.kill(node)
            node.faults.set()
        _bring_back(world)


class RollingRestart(Nemesis):
    """Every node in turn is stopped cleanly and started again."""

    seconds = (0.0, 0.5)

    def begin(self, world: World) -> str:
        for node in world.cluster.nodes:
            node.is_wanted = False
            world.cluster.stop(node)
            world.cluster.start(node)
            world.cluster.wait_ready([node])
            time.sleep(1)
        return "rolling restart"

    def end(self, world: World) -> None:
        _bring_back(world)


class SchemaChanges(Nemesis):
    """Columns and indexes come and go, ranges are split and moved, under the running workloads."""

    seconds = (0.1, 0.5)

    def begin(self, world: World) -> str:
        table = world.some_table()
        name = f"nemesis_{world.rand.randrange(10**6)}"
        some_range = "(SELECT range_id FROM proddb.ranges ORDER BY random() LIMIT 1)"
        choices: dict[str, Callable[[psycopg.Connection[tuple[object, ...]]], object]] = {
            "column": lambda c: (
                c.execute(f"ALTER TABLE {table} ADD COLUMN {name} int DEFAULT 7"),
                time.sleep(1),
                c.execute(f"ALTER TABLE {table} DROP COLUMN {name}"),
            ),
            "index": lambda c: (
                c.execute(f"CREATE INDEX CONCURRENTLY {name} ON {table} ((1))"),
                time.sleep(1),
                c.execute(f"DROP INDEX {name}"),
            ),
            "table": lambda c: (
                c.execute(f"CREATE TABLE {name} AS SELECT * FROM {table}"),
                c.execute(f"DROP TABLE {name}"),
            ),
            "split": lambda c: c.execute(f"SELECT proddb.split_range({some_range})"),
            "lease": lambda c: c.execute(
                f"SELECT proddb.move_lease({some_range}, (SELECT node_id FROM proddb.nodes ORDER BY random() LIMIT 1))"
            ),
        }
        kind = world.rand.choice(list(choices))
        try:
            with psycopg.connect(world.some_node().url, autocommit=True, connect_timeout=4) as connection:
                choices[kind](connection)
        except psycopg.Error as error:
            return f"{kind} {table}: {error.sqlstate} {str(error).splitlines()[0][:80]}"
        return f"{kind} {table}"

    def end(self, world: World) -> None:
        pass


class Nothing(Nemesis):
    """No fault at all: what there is without."""

    def begin(self, world: World) -> str:
        return "nothing"

    def end(self, world: World) -> None:
        pass


class Mixed(Nemesis):
    """Now this fault, now that one, up to two at a time."""

    def __init__(self) -> None:
        self._running: list[Nemesis] = []
        self._lock = threading.Lock()

    def begin(self, world: World) -> str:
        alone = ("mixed", "none", "rolling-restart")  # the last waits for what the other fault keeps away
        possible = [kind for name, kind in NEMESES.items() if name not in alone and is_possible(kind, world)]
        chosen = [kind() for kind in world.rand.sample(possible, world.rand.randint(1, 2))]
        said = []
        for nemesis in chosen:
            self._running.append(nemesis)
            said.append(nemesis.begin(world))
        return " + ".join(said)

    def end(self, world: World) -> None:
        while self._running:
            self._running.pop().end(world)


NEMESES: dict[str, type[Nemesis]] = {
    "none": Nothing,
    "kill": Kill,
    "kill-leader": KillLeader,
    "kill-all": KillAll,
    "pause": Pause,
    "halves": Halves,
    "leader-alone": LeaderAlone,
    "one-way": OneWay,
    "ring": Ring,
    "loss": Loss,
    "delay": Delay,
    "clocks": Clocks,
    "clock-strobe": ClocksWithinBounds,
    "full-disk": FullDisk,
    "slow-sync": SlowSync,
    "failed-sync": FailedSync,
    "rolling-restart": RollingRestart,
    "ddl": SchemaChanges,
    "mixed": Mixed,
}


def is_possible(kind: type[Nemesis], world: World) -> bool:
    cluster = world.cluster
    return not (
        (kind.needs == "network" and not cluster.has_network)
        or (kind.needs == "disks" and not cluster.has_small_disks)
        or len(cluster.nodes) < kind.least_nodes
    )


def _names(nodes: list[Node]) -> str:
    return " ".join(node.name for node in nodes)
