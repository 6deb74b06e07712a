"""Nodes come and go for good while ranges are split and merged: the orders of an operator who cannot make up his mind.

Five nodes with three replicas of every range.  Each fault is one of ``Members.KINDS``, on nodes chosen by the seed::

    kill            kill -9, started again after a while; half of the time so late that its replicas have been replaced
    drain           drained, stopped cleanly half of the time, taken back
    decommission    one or two nodes at a time: left alone until they are empty, or taken back in the middle
    re-add          decommissioned until empty, stopped, its store erased, and started under its name: a new member
    lost            killed, its store erased, started under its name
    leave and kill  one node is decommissioned, and another killed in the middle of that

At no time more than one node is down, so nobody may see anything but broken connections to that one, and conflicts
(``run.py`` judges by ``is_strict``).
"""

from __future__ import annotations

import threading
import time

import psycopg

from tests.chaos.cluster import Node
from tests.chaos.nemeses import Nemesis, World

EMPTY_SECONDS = 90.0
DEAD_SECONDS = 8
"""``server.time_until_dead`` while this goes on."""
_TURN_SECONDS = (0.1, 0.8)
"""Between two splits or merges."""
_KEYS = 8
"""Splits are made before the rows with keys below: the accounts of the bank."""


class Members(Nemesis):
    """Kill, drain, decommission and re-add at random, splits and merges all the time."""

    least_nodes = 5
    replication_factor = 3
    is_strict = True
    settles = True
    seconds = (2.0, 14.0)

    def __init__(self) -> None:
        self._undo: list[tuple[str, Node]] = []
        self._reshaping: _Reshaping | None = None

    def begin(self, world: World) -> str:
        self._reshaping = _Reshaping(world)
        self._reshaping.start()
        order(world, [], "SELECT proddb.set_setting('server.time_until_dead', %s)", f"{DEAD_SECONDS}s")
        first, second = world.rand.sample(world.cluster.nodes, 2)
        kind = world.rand.choice(
            ("kill", "drain", "decommission", "decommission two", "re-add", "lost", "leave and kill")
        )
        if kind == "kill":
            self._kill(world, first)
        elif kind == "drain":
            self._call(world, "drain", first)
            if world.rand.random() < 0.5:
                time.sleep(world.rand.uniform(0, 3))
                first.is_wanted = False
                world.cluster.stop(first)
                self._undo.append(("start", first))
        elif kind == "lost":
            self._kill(world, first)
            world.cluster.erase(first)
        else:
            self._call(world, "decommission", first)
        if kind == "decommission two":
            self._call(world, "decommission", second)
        if kind == "re-add":
            wait_until_empty(world, first)
            first.is_wanted = False
            world.cluster.stop(first)
            world.cluster.erase(first)
            self._undo = [("start", first)]
        elif kind == "leave and kill":
            time.sleep(world.rand.uniform(0, 2))
            self._kill(world, second)
        elif kind.startswith("decommission") and world.rand.random() < 0.5:
            for node in [first, second] if kind == "decommission two" else [first]:
                wait_until_empty(world, node)
            kind += " until empty"
        two = kind == "leave and kill" or "two" in kind
        return f"{kind} {first.name}" + (f" {second.name}" if two else "")

    def end(self, world: World) -> None:
        undo, self._undo = self._undo, []
        started = [node for what, node in undo if what == "start"]
        for node in started:
            world.cluster.start(node)
        world.cluster.wait_ready(started)
        for what, node in undo:
            if what == "recommission":
                order(world, [], "SELECT proddb.recommission(%s)", number_of(world, node))
        if self._reshaping is not None:
            self._reshaping.end()

    def _kill(self, world: World, node: Node) -> None:
        node.is_wanted = False
        world.cluster.kill(node)
        self._undo.append(("start", node))

    def _call(self, world: World, what: str, node: Node) -> None:
        order(world, [node], f"SELECT proddb.{what}(%s)", number_of(world, node))
        self._undo.append(("recommission", node))


class _Reshaping(threading.Thread):
    """Splits and merges, by whatever node is up, one at a time, until told to end."""

    def __init__(self, world: World) -> None:
        super().__init__(daemon=True)
        self._world = world
        self._ending = threading.Event()

    def run(self) -> None:
        rand = self._world.rand
        while not self._ending.wait(rand.uniform(*_TURN_SECONDS)):
            what = rand.choice(("split", "split", "merge", "merge range"))
            table, key = self._world.some_table(keyed=True), rand.randrange(_KEYS)
            text = f"SELECT proddb.{what}_at('{table}', '{key}')"
            if what == "merge range":
                some_range = "(SELECT range_id FROM proddb.ranges WHERE tables <> '' ORDER BY random() LIMIT 1)"
                text = f"SELECT proddb.merge_range({some_range})"
            try:
                order(self._world, [], text, attempts=1)
                self._world.orders[what] += 1
            except psycopg.Error as error:
                self._world.orders[f"{what} refused: {error.sqlstate}"] += 1
                if (error.sqlstate or "").startswith(("XX", "42", "22")):
                    self._world.surprises.append(f"{what}: {error}")

    def end(self) -> None:
        self._ending.set()
        self.join(180)
        if self.is_alive():
            self._world.surprises.append("a split or a merge does not end")


def order(world: World, besides: list[Node], text: str, *arguments: object, attempts: int = 20) -> object:
    """Have any node that is up do something, but for ``besides``; the first value that it answers."""
    for attempt in range(attempts):
        up = [node for node in world.cluster.nodes if node.running and node.is_wanted and node not in besides]
        try:
            with psycopg.connect(world.rand.choice(up).url, autocommit=True, connect_timeout=4) as connection:
                row = connection.execute(text, arguments or None).fetchone()  # type: ignore[call-overload]
                return row[0] if row else None
        except psycopg.OperationalError:
            if attempt == attempts - 1:
                raise
            time.sleep(0.3)
    return None


def number_of(world: World, node: Node) -> object:
    """The number that the node of this name has at present."""
    return order(world, [], "SELECT max(node_id) FROM proddb.nodes WHERE node_name = %s", node.name)


def wait_until_empty(world: World, node: Node) -> None:
    number, deadline = number_of(world, node), time.monotonic() + EMPTY_SECONDS
    while left := order(world, [node], "SELECT replicas FROM proddb.nodes WHERE node_id = %s", number):
        if time.monotonic() > deadline:
            world.surprises.append(f"{node.name} keeps {left} replicas, though it is to leave")
            return
        time.sleep(0.3)
