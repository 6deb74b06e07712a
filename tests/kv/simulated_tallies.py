"""Clients that crowd on two keys, each adding its number to a list there, most of them without waiting for one another.

A statement that begins anew when it fails may build on commits that are not durable yet (pydistdb.kv.pending), as long as
it tells nobody before they are.  So whatever anybody was told must be part of the list for ever::

    T1 adds 1, T2 adds 2 on top of it, neither durable     the leader dies: both are lost, T2 adds again: 2
    T3 looks, finds 1 2 under way, and waits               it was told 1 2, or begins anew and is told what came of it
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydistdb.kv.api import Isolation, KVError, LockStrength, OutcomeUnknown, ReadRestart, SerializationConflict
from pydistdb.kv.gateway import Gateway
from pydistdb.kv.txn.coordinator import Coordinator

from tests.chaos.history import FAILED, OK, UNKNOWN
from tests.kv.simulated_clients import parsed
from tests.kv.trouble import Canceled

if TYPE_CHECKING:
    from tests.kv.simulate import Simulation

TALLIES = 2
MOST_ATTEMPTS = 30


def tally(number: int) -> bytes:
    return b"\x04tally%03d" % number


@dataclass
class Entry:
    """One client's statement: what it added (0: it only looked), what it was told was there before, and what came of it."""

    number: int
    added: int
    start: float
    end: float = 0.0
    before: list[int] = field(default_factory=list)
    outcome: str = OK


class Tallies:
    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.history: list[Entry] = []

    async def step(self, gateway: Gateway) -> None:
        simulation = self.simulation
        entry = Entry(simulation.rand.randrange(TALLIES), len(self.history) + 1, simulation.seconds())
        self.history.append(entry)
        choice = simulation.rand.random()
        try:
            if choice < 0.7:
                await self._add(gateway, entry)
            elif choice < 0.85:
                entry.added = 0
                await self._look(gateway, entry, fails=simulation.rand.random() < 0.5)
            else:
                await self._add_slowly(gateway, entry)
        except (OutcomeUnknown, Canceled):
            entry.outcome = UNKNOWN
        except (KVError, ReadRestart):
            entry.outcome = FAILED
        if not simulation.is_alive(gateway):  # nobody has heard its answer
            entry.outcome = UNKNOWN
        entry.end = simulation.seconds()

    async def _add(self, gateway: Gateway, entry: Entry) -> None:
        """As an UPDATE outside a block does it."""

        async def add(txn: Coordinator) -> bytes | None:
            [found] = await txn.lock([tally(entry.number)], LockStrength.NO_KEY_UPDATE)
            txn.put(tally(entry.number), _with(found.value, entry.added))
            await txn.commit()
            return found.value

        entry.before = parsed(await _begun_anew(gateway, add))

    async def _look(self, gateway: Gateway, entry: Entry, *, fails: bool) -> None:
        """An UPDATE that finds that it has nothing to change, or that something is wrong with the row."""

        async def look(txn: Coordinator) -> bytes | None:
            [found] = await txn.lock([tally(entry.number)], LockStrength.NO_KEY_UPDATE)
            await (txn.confirm() if fails else txn.commit())
            return found.value

        entry.before = parsed(await _begun_anew(gateway, look))

    async def _add_slowly(self, gateway: Gateway, entry: Entry) -> None:
        """As a block does it, which tells its client what it finds."""
        txn = gateway.begin(Isolation.READ_COMMITTED)
        try:
            txn.begin_statement()
            [found] = await txn.lock([tally(entry.number)], LockStrength.NO_KEY_UPDATE)
            await self.simulation.pause(20)
            txn.put(tally(entry.number), _with(found.value, entry.added))
            await txn.commit()
        except BaseException:
            txn.rollback()
            raise
        entry.before = parsed(found.value)

    def check(self, final: list[list[int]]) -> list[str]:
        """What is wrong, given what the lists are in the end."""
        problems: list[str] = []
        for entry in self.history:
            there = final[entry.number]
            times = there.count(entry.added) if entry.added else 1
            if times != 1 and (times > 1 or entry.outcome == OK):
                problems.append(f"{entry.added} was added {times} times to tally {entry.number}")
            if times and entry.added and entry.outcome == FAILED:
                problems.append(
                    f"{entry.added} was added to tally {entry.number}, though its client was told otherwise"
                )
            if entry.outcome != OK:
                continue
            if there[: len(entry.before)] != entry.before:
                problems.append(
                    f"somebody was told of {entry.before[-5:]} in tally {entry.number}, which never were there"
                )
            told = set(entry.before)
            missed = [
                e.added
                for e in self.history
                if e.number == entry.number
                and e.added
                and e.outcome == OK
                and e.end < entry.start
                and e.added not in told
            ]
            if missed:
                problems.append(
                    f"{missed[:5]} had been added to tally {entry.number} before somebody looked, who missed it"
                )
        return problems


async def _begun_anew(gateway: Gateway, work: Callable[[Coordinator], Awaitable[bytes | None]]) -> bytes | None:
    """What came of a statement of its own, however often it had to begin."""
    for _ in range(MOST_ATTEMPTS):
        txn = gateway.begin(Isolation.READ_COMMITTED)
        txn.starts_anew = True
        try:
            txn.begin_statement()
            return await work(txn)
        except SerializationConflict:
            continue
        finally:
            txn.rollback()
    raise SerializationConflict("too many attempts")


def _with(value: bytes | None, added: int) -> bytes:
    return b"%s,%d" % (value, added) if value else b"%d" % added
