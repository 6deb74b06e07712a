"""Transactions on a simulated cluster of three nodes, with several ranges, skewed clocks, crashes and partitions.

What must hold whatever happens:

* bank: transfers between accounts of different ranges never change the total that any snapshot shows;
* registers: increments under a row lock are never lost (acknowledged ≤ final value ≤ acknowledged + unknown), and a
  transaction that begins after an increment was acknowledged, on any node, reads it.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from pydistdb.kv.api import (
    DeadlockDetected,
    Isolation,
    KeyExists,
    KVError,
    LockStrength,
    OutcomeUnknown,
    RangeUnavailable,
    ReadRestart,
    SerializationConflict,
    TransactionAborted,
)
from pydistdb.kv.gateway import Gateway
from pydistdb.kv.store import Store
from pydistdb.kv.txn.coordinator import Coordinator
from pydistdb.tasks import sleep
from pydistdb_storage.engine import Space

from tests.support.cluster import SECOND, Cluster

ACCOUNTS = 12
START_BALANCE = 100
REGISTERS = 4
RC = Isolation.READ_COMMITTED
RR = Isolation.REPEATABLE_READ


def account(number: int) -> bytes:
    return b"\x04acc%03d" % number


def register(number: int) -> bytes:
    return b"\x04reg%03d" % number


class World:
    """A cluster with a gateway on each node, clients, and what they know for sure."""

    def __init__(self, seed: int, skews_us: tuple[int, int, int] = (0, 0, 0)) -> None:
        self.rand = random.Random(seed)
        self.cluster = Cluster(seed=seed)
        self.gateways: dict[int, Gateway] = {}
        self.cluster.on_open.append(self._open)
        self.cluster.start(3)
        for name, skew in zip(("n1", "n2", "n3"), skews_us, strict=True):
            self.cluster.nodes[name].skew_us = skew
        self.stopping = False
        self.acknowledged = [0] * REGISTERS
        self.values_acknowledged = [0] * REGISTERS
        self.unknown = [0] * REGISTERS
        self.transfers = 0
        self.snapshots = 0
        self.failures: list[str] = []
        self.clients = 0
        gateway = self.gateways[1]
        entries = [(account(n), b"%d" % START_BALANCE) for n in range(ACCOUNTS)]
        self.cluster.run(gateway.ingest(entries + [(register(n), b"0") for n in range(REGISTERS)]))
        self.cluster.run(gateway.split([account(4), account(8), register(0), register(2)]))

    def _open(self, store: Store) -> None:
        old = self.gateways.get(store.node_id)
        if old is not None:
            old.stop()
        gateway = self.gateways[store.node_id] = Gateway(store)
        gateway.start()

    def gateway(self) -> Gateway:
        """That of some node that runs."""
        running = [node.node_id for node in self.cluster.nodes.values() if node.running]
        return self.gateways[self.rand.choice(running)]

    def alive(self, gateway: Gateway) -> bool:
        return any(node.running and self.gateways[node.node_id] is gateway for node in self.cluster.nodes.values())

    async def pause(self, most_ms: int) -> None:
        await sleep(self.cluster.scheduler, self.rand.randint(1, most_ms) * 1_000_000)

    # ---------------------------------------------------------------------------------------------------- clients

    async def transfer(self) -> None:
        gateway = self.gateway()
        txn = gateway.begin(self.rand.choice((RC, RR)))
        keys = [account(n) for n in self.rand.sample(range(ACCOUNTS), 2)]
        amount = self.rand.randint(1, 20)
        try:
            txn.begin_statement()
            locked = []
            for key in keys:
                locked += await txn.lock([key], LockStrength.NO_KEY_UPDATE)
                if self.rand.random() < 0.3:
                    await self.pause(20)
            for key, entry, sign in zip(keys, locked, (-1, 1), strict=True):
                assert entry.value is not None
                txn.put(key, b"%d" % (int(entry.value) + sign * amount))
            await txn.commit()
            self.transfers += 1
        except (SerializationConflict, DeadlockDetected, TransactionAborted, RangeUnavailable, OutcomeUnknown):
            txn.rollback()

    async def increment(self) -> None:
        number = self.rand.randrange(REGISTERS)
        gateway = self.gateway()
        txn = gateway.begin(RC)
        committing = False
        try:
            txn.begin_statement()
            [entry] = await txn.lock([register(number)], LockStrength.NO_KEY_UPDATE)
            assert entry.value is not None
            value = int(entry.value) + 1
            txn.put(register(number), b"%d" % value)
            if self.rand.random() < 0.4:  # a second range, so that it commits in two phases
                other = account(self.rand.randrange(ACCOUNTS))
                [balance] = await txn.lock([other], LockStrength.UPDATE)
                assert balance.value is not None
                txn.put(other, balance.value)
            committing = True
            await txn.commit()
            if self.alive(gateway):
                self.acknowledged[number] += 1
                self.values_acknowledged[number] = max(self.values_acknowledged[number], value)
            else:
                self.unknown[number] += 1
        except OutcomeUnknown:
            self.unknown[number] += 1
        except (SerializationConflict, DeadlockDetected, TransactionAborted, RangeUnavailable):
            if committing and not self.alive(gateway):
                self.unknown[number] += 1
            txn.rollback()

    async def read_all(self) -> None:
        gateway = self.gateway()
        floors = list(self.values_acknowledged)
        txn = gateway.begin(RR)
        txn.begin_statement()
        for _ in range(50):
            try:
                batch = await txn.scan(account(0), account(999), limit=1_000, reverse=self.rand.random() < 0.5)
                registers = await txn.get_many([register(n) for n in range(REGISTERS)])
                break
            except ReadRestart as restart:
                txn.begin_statement(restart.timestamp)
            except (RangeUnavailable, SerializationConflict):
                return
        else:
            self.failures.append("a read is restarted for ever")
            return
        if not self.alive(gateway):
            return
        total = sum(int(value) for value in batch.values)
        if total != ACCOUNTS * START_BALANCE or len(batch.keys) != ACCOUNTS:
            self.failures.append(f"total {total} of {len(batch.keys)} at {txn.read_timestamp} on {gateway.node_id}")
        for number, (value, floor) in enumerate(zip(registers, floors, strict=True)):
            if value is None or int(value) < floor:
                self.failures.append(f"register {number} reads {value!r} after {floor} was acknowledged")
        if self.rand.random() < 0.3:
            await self.pause(200)
            try:
                again = await txn.get_many([register(n) for n in range(REGISTERS)])
            except (KVError, ReadRestart):
                return
            if again != registers and self.alive(gateway):
                self.failures.append(f"a snapshot moved from {registers} to {again}")

    async def client(self) -> None:
        self.clients += 1
        try:
            while not self.stopping:
                action = self.rand.choice((self.transfer, self.transfer, self.increment, self.read_all))
                try:
                    await action()
                except KVError as error:
                    self.failures.append(f"{type(error).__name__}: {error}")
                await self.pause(10)
        finally:
            self.clients -= 1

    # ----------------------------------------------------------------------------------------------------- running

    def run_clients(self, count: int, trouble: Any, seconds: float) -> None:
        scheduler = self.cluster.scheduler
        for _ in range(count):
            scheduler.spawn(self.client(), "client")
        end = scheduler.now_ns() + int(seconds * SECOND)
        while scheduler.now_ns() < end:
            trouble(self)
            self.cluster.advance(self.rand.uniform(0.1, 1.5))
        self.calm()

    def calm(self) -> None:
        cluster = self.cluster
        cluster.network.heal()
        cluster.network.loss = cluster.network.late = cluster.network.duplicates = 0.0
        for node in cluster.nodes.values():
            if not node.running:
                cluster.restart(node.name)
        cluster.advance(5)
        self.stopping = True
        cluster.wait_until(lambda: self.clients == 0, 120)
        cluster.advance(60)

    def check(self) -> None:
        assert not self.cluster.fatal_errors
        gateway = self.gateway()

        async def final(txn: Coordinator) -> tuple[list[bytes], list[bytes | None]]:
            while True:
                try:
                    batch = await txn.scan(account(0), account(999), limit=1_000)
                    return batch.values, await txn.get_many([register(n) for n in range(REGISTERS)])
                except ReadRestart as restart:
                    txn.begin_statement(restart.timestamp)

        txn = gateway.begin(RR)
        txn.begin_statement()
        balances, registers = self.cluster.run(final(txn))
        assert sum(map(int, balances)) == ACCOUNTS * START_BALANCE
        for number, value in enumerate(registers):
            assert value is not None
            low, most = self.acknowledged[number], self.acknowledged[number] + self.unknown[number]
            assert low <= int(value) <= most, f"register {number}: {value!r}, {low} to {most} increments"
        assert not self.failures, self.failures[:5]
        for store in self.cluster.stores():
            left = sum(1 for _ in store.engine.latest().scan(Space.INTENTS, b"", b"\xff\xff"))
            assert left == 0, f"node {store.node_id} has {left} intents left"
        for gateway in self.gateways.values():
            assert not gateway.active, "every transaction is forgotten in the end"


def no_trouble(world: World) -> None:
    pass


def crashes(world: World) -> None:
    down = [node.name for node in world.cluster.nodes.values() if not node.running]
    if down:
        if world.rand.random() < 0.6:
            world.cluster.restart(*down)
    elif world.rand.random() < 0.5:
        world.cluster.crash(world.rand.choice(["n1", "n2", "n3"]))


def partitions(world: World) -> None:
    network = world.cluster.network
    network.heal()
    network.loss = world.rand.choice((0.0, 0.0, 0.02, 0.1))
    if world.rand.random() < 0.5:
        lonely = world.rand.choice(["n1", "n2", "n3"])
        network.partition([lonely], [name for name in ("n1", "n2", "n3") if name != lonely])


def everything(world: World) -> None:
    world.rand.choice((crashes, partitions, splits))(world)


def splits(world: World) -> None:
    async def split() -> None:
        try:
            await world.gateway().split([world.rand.choice((account, register))(world.rand.randrange(ACCOUNTS))])
        except KVError:
            pass

    world.cluster.scheduler.spawn(split())


@pytest.mark.parametrize("seed", range(3))
def test_calm(seed: int) -> None:
    world = World(seed, (0, 40_000, -60_000))
    world.run_clients(6, no_trouble, 5)
    world.check()
    assert world.transfers > 100 and sum(world.acknowledged) > 50
    assert sum(world.unknown) == 0


@pytest.mark.parametrize("trouble", [crashes, partitions, splits, everything])
@pytest.mark.parametrize("seed", range(2))
def test_trouble(seed: int, trouble: Any) -> None:
    world = World(seed + 100, (0, 50_000, -50_000))
    world.run_clients(6, trouble, 20)
    world.check()
    assert world.transfers > 20


def test_key_exists_is_found_across_nodes() -> None:
    world = World(7)
    first = world.gateways[1].begin(RC)
    first.insert(b"\x04new", b"1")
    world.cluster.run(first.commit())
    second = world.gateways[2].begin(RC)
    second.insert(b"\x04new", b"2")
    with pytest.raises(KeyExists):
        world.cluster.run(second.commit())
