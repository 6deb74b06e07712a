"""Fragments on a simulated cluster: what they are fed is what a plain scan would have read, whatever happens meanwhile.

The fragment here adds balances up; transfers between accounts of several ranges never change the total of any snapshot,
while ranges split, leases move, nodes die and messages are lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import pytest
from pydistdb.kv.api import RangeUnavailable, ReadRestart, SerializationConflict, Transaction
from pydistdb.kv.fragments import FragmentRun
from pydistdb.kv.gateway import Gateway
from pydistdb.kv.store import Store

from tests.kv.test_txn_cluster import ACCOUNTS, RC, RR, START_BALANCE, World, account, everything, no_trouble, splits


class Adding:
    """Adds up what it is fed; ``arguments`` are added to every balance."""

    is_upkeep = False
    picks = None
    held: ClassVar[set[Adding]] = set()
    """Runs that have not given back what they hold."""

    def __init__(self, fragment: bytes, arguments: bytes) -> None:
        if fragment != b"add":
            raise ValueError(fragment)
        self.more = int(arguments)
        self.total = 0
        self.held.add(self)

    def take(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        self.total += sum(map(int, values)) + self.more * len(values)

    def step(self) -> bool:
        return False

    def close(self, resume: bytes | None, end: bytes) -> bytes | None:
        return resume

    @property
    def is_full(self) -> bool:
        return False

    def outgoing(self) -> Sequence[tuple[int, bytes]]:
        return ()

    def finish(self) -> bytes:
        return b"%d" % self.total

    @property
    def peaks_bytes(self) -> tuple[int, int]:
        return 1_000, 7

    def release(self) -> None:
        self.held.remove(self)


def adding(fragment: bytes, arguments: bytes) -> FragmentRun:
    return Adding(fragment, arguments)


async def total_of(txn: Transaction, reverse: bool = False, more: int = 0) -> tuple[int, int]:
    """The sum and the number of all balances, by fragments."""
    start, end = account(0), account(999)
    total = entries = 0
    while start < end:
        answer = await txn.evaluate(b"add", b"%d" % more, start, end, reverse=reverse)
        assert answer is not None
        total += int(answer.output)
        entries += answer.entries
        if answer.resume is None:
            break
        if reverse:
            end = answer.resume
        else:
            start = answer.resume
    return total, entries


class FragmentWorld(World):
    """A world whose readers add up at the leaseholders."""

    totals = 0

    def _open(self, store: Store) -> None:
        super()._open(store)
        self.gateways[store.node_id].server.fragments.start = adding

    async def added_up(self, txn: Transaction, gateway: Gateway) -> tuple[int, int]:
        """The total of a snapshot's balances, and of how many."""
        return await total_of(txn, self.rand.random() < 0.5)

    async def read_all(self, gateway: Gateway) -> None:
        txn = gateway.begin(RR)
        txn.begin_statement()
        for _ in range(50):
            try:
                total, entries = await self.added_up(txn, gateway)
                break
            except ReadRestart as restart:
                txn.begin_statement(restart.timestamp)
            except (RangeUnavailable, SerializationConflict):
                return
        else:
            self.failures.append("a fragment is restarted for ever")
            return
        self.totals += 1
        if self.alive(gateway) and (total, entries) != (ACCOUNTS * START_BALANCE, ACCOUNTS):
            self.failures.append(f"total {total} of {entries} at {txn.read_timestamp} on {gateway.node_id}")


@pytest.mark.parametrize(
    ("seed", "trouble"), [(1, no_trouble), (2, splits), (6, everything)], ids=["calm", "splits", "everything"]
)
def test_snapshots_add_up(seed: int, trouble: object) -> None:
    world = FragmentWorld(seed, (0, 40_000, -60_000))
    world.run_clients(6, trouble, 4)
    world.check()
    assert world.totals > 20 and world.transfers > 10


def test_refusals_and_own_writes() -> None:
    world = FragmentWorld(7)
    cluster, gateway = world.cluster, world.gateways[2]
    txn = gateway.begin(RC)
    txn.begin_statement()
    assert cluster.run(total_of(txn, more=1)) == (ACCOUNTS * (START_BALANCE + 1), ACCOUNTS)
    assert cluster.run(txn.evaluate(b"unknown", b"0", account(0), account(999))) is None
    assert cluster.run(txn.evaluate(b"add", b"x", account(0), account(999))) is None
    txn.put(account(2), b"5")
    assert cluster.run(txn.evaluate(b"add", b"0", account(0), account(3))) is None
    found = cluster.run(txn.evaluate(b"add", b"0", account(4), account(6)))
    assert found is not None and (found.memory_bytes, found.disk_bytes) == (1_000, 7)
    assert not Adding.held  # nor of those that have been refused
    txn.rollback()


def test_a_snapshot_stays_readable_after_later_commits() -> None:
    """What a node commits after a transaction first heard of it is later than the snapshot for sure: no restart."""
    world = FragmentWorld(8, (0, 40_000, -60_000))

    async def write(value: int) -> None:
        for number in (1, 5, 9):
            writer = world.gateways[1].begin(RC)
            writer.begin_statement()
            writer.put(account(number), b"%d" % value)
            await writer.commit()

    async def history() -> list[int]:
        found: list[int] = []
        for gateway in world.gateways.values():
            reader = gateway.begin(RR)
            reader.begin_statement()
            while True:
                try:
                    found.append((await total_of(reader))[0])
                    break
                except ReadRestart as restart:
                    reader.begin_statement(restart.timestamp)
            await write(found[-1])
            assert (await total_of(reader))[0] == found[-1]
            batch = await reader.scan(account(0), account(999), limit=100, reverse=True)
            assert sum(map(int, batch.values)) == found[-1]
        return found

    assert len(set(world.cluster.run(history()))) == 3


def test_a_fragment_waits_for_what_commits_below_it() -> None:
    """An intent is pushed, a committed one is read, before a fragment answers."""
    world = FragmentWorld(9)
    cluster = world.cluster

    async def history() -> list[int]:
        found = []
        for number in range(5):
            writer = world.gateways[number % 3 + 1].begin(RC)
            writer.begin_statement()
            writer.put(account(1), b"%d" % (START_BALANCE - number))
            writer.put(account(9), b"%d" % (START_BALANCE + number + 1))
            await writer.commit()
            for gateway in world.gateways.values():
                reader = gateway.begin(RC)
                reader.begin_statement()
                while True:
                    try:
                        found.append((await total_of(reader))[0] - ACCOUNTS * START_BALANCE)
                        break
                    except ReadRestart as restart:
                        reader.begin_statement(restart.timestamp)
        return found

    assert cluster.run(history()) == [1] * 15
