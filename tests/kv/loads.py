"""What COPY does to a large table, in the simulation: rows laid down early on keys that nobody else knows.

They come in several parts, over two ranges, and lie among the rows of other loads; whoever scans them must see all of a
load or nothing of it, and what was acknowledged for ever: any snapshot that is later by its timestamp, and any that begins
later while the clocks are within their bound::

    node 1 (clock right)                 commits a load at 900, acknowledged
    node 2 (400 ms behind, unnoticed)    takes a snapshot at 510, certain up to 760: does not show it, and need not
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from pydistdb.kv.api import Isolation, KVError, ReadRestart
from pydistdb.kv.gateway import Gateway

from tests.kv.trouble import Canceled

if TYPE_CHECKING:
    from tests.kv.simulate import Simulation

ROWS = 12
PART_ROWS = 4
RESTARTS = 20


def row(load: int, number: int) -> bytes:
    return b"\x04row%03d-%05d" % (number, load)


FIRST_ROW, MIDDLE_ROW, END = b"\x04row", row(0, ROWS // 2), b"\x04rox"


class Loads:
    """The loads of one simulation."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self.started = 0
        self.acknowledged: dict[int, tuple[int, int]] = {}
        """Load → (when it began, on the simulation's clock; its timestamp)."""

    async def load(self, gateway: Gateway) -> None:
        simulation, rand = self._simulation, self._simulation.rand
        self.started += 1
        load = self.started
        began_ns = simulation.cluster.scheduler.now_ns()
        txn = gateway.begin(rand.choice(list(Isolation)))
        try:
            txn.begin_statement()
            numbers = rand.sample(range(ROWS), ROWS)
            for first in range(0, ROWS, PART_ROWS):
                part = numbers[first : first + PART_ROWS]
                await txn.lay_down_fresh([(row(load, number), b"%d" % load) for number in part])
                if rand.random() < 0.3:
                    await simulation.pause(30)
            if rand.random() < 0.3:
                found = await txn.get_many([row(load, number) for number in range(ROWS)])
                if simulation.is_alive(gateway) and found != [b"%d" % load] * ROWS:
                    simulation.problems.append(f"load {load} does not see its own rows")
            ending = rand.random()
            if ending < 0.2:
                txn.rollback()
                return
            if ending < 0.3:
                for number in range(ROWS):
                    txn.delete(row(load, number))
            committed = await txn.commit()
            if simulation.is_alive(gateway) and ending >= 0.3:
                self.acknowledged[load] = began_ns, committed
        except (KVError, ReadRestart, Canceled):
            txn.rollback()

    async def look(self, gateway: Gateway) -> None:
        """Scan all rows at one snapshot."""
        txn = gateway.begin(Isolation.REPEATABLE_READ)
        known = dict(self.acknowledged)
        values: list[bytes] = []
        start: bytes | None = FIRST_ROW
        restarts = at_least = 0
        while start is not None:
            try:
                if start == FIRST_ROW:
                    txn.begin_statement(at_least)
                batch = await txn.scan(start, END, limit=100_000)
            except ReadRestart as restart:
                restarts += 1
                if restarts > RESTARTS:
                    self._simulation.problems.append("a read is restarted for ever")
                    return
                at_least, values, start = restart.timestamp, [], FIRST_ROW
            except KVError:
                return
            else:
                values += batch.values
                start = batch.resume
        if self._simulation.is_alive(gateway):
            self._check(values, known, txn.read_timestamp)

    def _check(self, values: list[bytes], known: dict[int, tuple[int, int]], read_timestamp: int) -> None:
        counts = Counter(map(int, values))
        problems = self._simulation.problems
        clocks_are_right = self._simulation.trouble.clocks_are_right
        problems += [f"of load {load} {count} rows are seen" for load, count in counts.items() if count != ROWS]
        missing = [
            load
            for load, (began_ns, committed) in known.items()
            if load not in counts and (committed <= read_timestamp or clocks_are_right(began_ns))
        ]
        if missing:
            problems.append(f"the rows of loads {missing[:5]} are gone")
