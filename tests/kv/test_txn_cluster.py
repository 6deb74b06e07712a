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
    ClockOutOfBounds,
    DeadlockDetected,
    DiskFull,
    Isolation,
    KeyExists,
    KVError,
    LockNotAvailable,
    LockStrength,
    OutcomeUnknown,
    RangeUnavailable,
    ReadRestart,
    SerializationConflict,
    TransactionAborted,
    WaitPolicy,
)
from pydistdb.kv.command import NotLeaseholder
from pydistdb.kv.gateway import Gateway
from pydistdb.kv.locking import NO_LIMITS
from pydistdb.kv.store import Store
from pydistdb.kv.txn.coordinator import Coordinator
from pydistdb.tasks import Task, sleep
from pydistdb_storage.engine import Space
from pydistdb_storage.errors import StoreFull

from tests.support.cluster import SECOND, Cluster, Node

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
        self.cluster.on_crash.append(self._end)
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
        self.under_way: dict[Task[None], Gateway] = {}
        """What the clients do just now, and through which node."""
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

    def _end(self, node_id: int) -> None:
        """The clients of a node that dies notice that at once: their connections break."""
        for task, gateway in self.under_way.items():
            if gateway.node_id == node_id:
                task.cancel(RangeUnavailable("the connection broke"))

    def gateway(self) -> Gateway:
        """That of some node that runs."""
        running = [node.node_id for node in self.cluster.nodes.values() if node.running]
        return self.gateways[self.rand.choice(running)]

    def alive(self, gateway: Gateway) -> bool:
        return any(node.running and self.gateways[node.node_id] is gateway for node in self.cluster.nodes.values())

    async def pause(self, most_ms: int) -> None:
        await sleep(self.cluster.scheduler, self.rand.randint(1, most_ms) * 1_000_000)

    # ---------------------------------------------------------------------------------------------------- clients

    async def transfer(self, gateway: Gateway) -> None:
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

    async def increment(self, gateway: Gateway) -> None:
        number = self.rand.randrange(REGISTERS)
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

    async def read_all(self, gateway: Gateway) -> None:
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
                gateway = self.gateway()
                task = self.cluster.scheduler.spawn(action(gateway), action.__name__)
                self.under_way[task] = gateway
                try:
                    await task.completion
                except KVError as error:
                    if self.alive(gateway):
                        self.failures.append(f"{type(error).__name__}: {error}")
                finally:
                    del self.under_way[task]
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
        cluster.mend()
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


def leader_of(world: World, key: bytes) -> int:
    replica = world.cluster.leaseholder(key)
    assert replica is not None
    return replica.owner.node_id


def test_a_read_from_a_node_whose_clock_is_behind_restarts_once() -> None:
    world = World(11)
    key = register(0)
    leader = leader_of(world, key)
    [reader_node] = [n for n in world.cluster.nodes.values() if n.node_id != leader][:1]
    reader_node.skew_us = -150_000
    cluster = world.cluster
    cluster.network.partition([reader_node.name], ["n1", "n2", "n3"])  # no message tells it the time meanwhile
    cluster.advance(0.2)
    cluster.network.heal()
    writer = world.gateways[leader].begin(RC)
    writer.put(key, b"new")
    reader = world.gateways[reader_node.node_id].begin(RR)
    cluster.run(writer.commit())
    reader.read_timestamp = reader_node.clock.physical_us() << 12
    with pytest.raises(ReadRestart) as restart:
        cluster.run(reader.get_many([key]))
    assert restart.value.timestamp > reader.read_timestamp
    reader.begin_statement(restart.value.timestamp)
    assert cluster.run(reader.get_many([key])) == [b"new"]
    # What the leader writes from now on cannot be older than the reader: its clock was seen.
    writer = world.gateways[leader].begin(RC)
    writer.put(key, b"newer")
    cluster.run(writer.commit())
    assert cluster.run(reader.get_many([key])) == [b"new"]


def move_lease(world: World, key: bytes, to: str) -> None:
    cluster = world.cluster
    while (name := cluster.leaseholder_name(key)) != to:
        replica = cluster.leaseholder(key)
        if name is not None and replica is not None:
            cluster.store(name).transfer_lease(replica, cluster.nodes[to].node_id)
        cluster.advance(0.05)


@pytest.mark.parametrize("resolved", [False, True])
def test_a_commit_is_not_missed_by_a_leaseholder_that_came_after_the_prepare(resolved: bool) -> None:
    """The lease of one participant moves to n3 between prepare and commit; n3's clock is behind, and nobody tells it that
    the transaction has committed.  Who begins at n3 when the client has its answer must see the commit all the same."""
    world = World(31, (150_000, 0, 0))
    cluster = world.cluster
    world.cluster.advance(10)
    anchor, key = account(0), register(2)
    move_lease(world, anchor, "n1")
    move_lease(world, key, "n2")
    gateway = world.gateways[cluster.nodes["n1"].node_id]
    late = world.gateways[cluster.nodes["n3"].node_id]
    writer = gateway.begin(RC)
    writer.put(anchor, b"new")
    writer.put(key, b"new")
    cluster.run(writer._lay_down(writer._buffer, []))
    two_phase = writer._two_phase
    assert two_phase is not None
    move_lease(world, key, "n3")
    cluster.network.partition(["n1"], ["n3"])
    cluster.network.partition(["n2"], ["n3"])
    cluster.advance(0.03)
    timestamp = cluster.run(two_phase.decide())
    readers = [late.begin(RR) for _ in range(2)]
    for reader in readers:
        reader.begin_statement()
        assert reader.read_timestamp < timestamp, "else this test shows nothing"
    cluster.network.heal()
    if resolved:
        cluster.run(two_phase.resolve(timestamp))
    getter, scanner = readers

    async def scan() -> list[bytes]:
        return (await scanner.scan(key, key + b"\xff", limit=10)).values

    async def get() -> list[bytes | None]:
        return await getter.get_many([key])

    for reader, read in ((getter, get), (scanner, scan)):
        with pytest.raises(ReadRestart) as restart:
            cluster.run(read())
        reader.begin_statement(restart.value.timestamp)
        assert cluster.run(read()) == [b"new"]


def test_a_deadlock_across_nodes_is_broken() -> None:
    world = World(13)
    cluster = world.cluster
    cluster.advance(10)  # until the leases lie where they should: locks do not move along
    older = world.gateways[1].begin(RC)
    cluster.advance(0.1)
    younger = world.gateways[2].begin(RC)
    cluster.run(older.lock([account(1)], LockStrength.UPDATE))
    cluster.run(younger.lock([account(9)], LockStrength.UPDATE))
    first = cluster.scheduler.spawn(older.lock([account(9)], LockStrength.UPDATE))
    second = cluster.scheduler.spawn(younger.lock([account(1)], LockStrength.UPDATE))
    cluster.advance(4)
    assert isinstance(second.completion.error(), DeadlockDetected)
    younger.rollback()
    cluster.advance(1)
    assert first.completion.done and first.completion.error() is None


def test_a_remote_lock_waits_longer_than_one_call() -> None:
    world = World(17)
    cluster = world.cluster
    cluster.advance(10)
    key = register(1)
    leader = leader_of(world, key)
    others = [node_id for node_id in world.gateways if node_id != leader]
    holder, waiter = world.gateways[others[0]].begin(RC), world.gateways[others[1]].begin(RC)
    cluster.run(holder.lock([key], LockStrength.UPDATE))
    holder.put(key, b"1")
    waiting = cluster.scheduler.spawn(waiter.lock([key], LockStrength.UPDATE))
    cluster.advance(9)
    assert not waiting.completion.done
    cluster.run(holder.commit())
    cluster.advance(1)
    assert waiting.completion.result()[0].value == b"1"


def test_a_savepoint_gives_locks_back_to_other_nodes() -> None:
    world = World(29)
    cluster = world.cluster
    cluster.advance(10)
    keys = [register(n) for n in range(REGISTERS)] + [account(n) for n in range(ACCOUNTS)]
    for node_id in world.gateways:
        txn, other = world.gateways[node_id].begin(RC), world.gateways[1].begin(RC)
        cluster.run(txn.lock(keys[:2], LockStrength.SHARE))
        mark = txn.savepoint()
        cluster.run(txn.lock(keys, LockStrength.UPDATE))
        txn.rollback_to(mark)
        with pytest.raises(LockNotAvailable):
            cluster.run(other.lock(keys[-1:], LockStrength.KEY_SHARE, WaitPolicy.NOWAIT))
        txn.rollback_to(mark, release_locks=True)
        assert cluster.run(txn.lock(keys[4:5], LockStrength.UPDATE))[0].value  # after what it gave back
        cluster.advance(0.1)
        cluster.run(other.lock(keys[5:], LockStrength.UPDATE, WaitPolicy.NOWAIT))
        cluster.run(other.lock(keys[:2], LockStrength.SHARE, WaitPolicy.NOWAIT))
        for key, strength in ((keys[0], LockStrength.UPDATE), (keys[4], LockStrength.KEY_SHARE)):
            with pytest.raises(LockNotAvailable):
                cluster.run(other.lock([key], strength, WaitPolicy.NOWAIT))
        txn.rollback()
        other.rollback()
        cluster.advance(1)


def locked_from_afar(key: bytes) -> tuple[World, Node, int]:
    """A transaction has locked ``key`` through one node; that, and the number of another one, which leads the range."""
    world = World(19)
    cluster = world.cluster
    cluster.advance(10)
    leader = leader_of(world, key)
    gateway = next(node for node in cluster.nodes.values() if node.node_id != leader)
    cluster.run(world.gateways[gateway.node_id].begin(RC).lock([key], LockStrength.UPDATE))
    return world, gateway, leader


@pytest.mark.parametrize("cut_off", [False, True])
def test_locks_of_a_dead_gateway_are_released(cut_off: bool) -> None:
    key = register(1)
    world, victim, leader = locked_from_afar(key)
    cluster = world.cluster
    waiter = world.gateways[leader].begin(RC)
    waiting = cluster.scheduler.spawn(waiter.lock([key], LockStrength.UPDATE))
    cluster.advance(3)
    assert not waiting.completion.done
    if cut_off:
        cluster.network.partition([victim.name], [name for name in cluster.nodes if name != victim.name])
    else:
        cluster.crash(victim.name)
    cluster.advance(1.5)
    assert not waiting.completion.done
    cluster.advance(1.5)
    assert waiting.completion.done and waiting.completion.error() is None


def test_locks_of_a_dead_gateway_go_from_a_range_that_nobody_asks_for() -> None:
    """Its replicas have changed meanwhile, and nobody has come by to notice it."""
    key = register(1)
    world, victim, leader = locked_from_afar(key)
    cluster = world.cluster
    local = world.gateways[leader].leases.find(key)
    assert local is not None and len(local.locks)
    cluster.crash(victim.name)
    local.generation -= 1  # as before the change
    cluster.advance(50)
    assert not len(local.locks)


def test_nobody_waits_for_a_lost_node_that_led_a_range_once() -> None:
    """Who has no replica of a range remembers who led it; a node that is gone keeps its callers waiting for seconds."""
    cluster = Cluster(seed=71)
    gateways: dict[int, Gateway] = {}
    cluster.on_open.append(lambda store: gateways.update({store.node_id: Gateway(store)}))
    cluster.start(4)
    key = register(0)
    cluster.run(gateways[1].ingest([(key, b"0")]))
    cluster.run(gateways[1].split([register(0)]))
    cluster.advance(20)
    replica = cluster.leaseholder(key)
    assert replica is not None
    holders = {held.node_id for held in replica.descriptor.replicas}
    (stranger,) = {1, 2, 3, 4} - holders

    async def read() -> bytes | None:
        transaction = gateways[stranger].begin(RC)
        transaction.begin_statement()
        return (await transaction.get_many([key]))[0]

    assert cluster.run(read()) == b"0"
    lost = cluster.leaseholder_name(key)
    assert lost is not None
    cluster.crash(lost)
    cluster.advance(10)
    begun_ns = cluster.scheduler.now_ns()
    assert cluster.run(read()) == b"0"
    assert cluster.scheduler.now_ns() - begun_ns < SECOND


def test_who_waits_for_copies_waits_also_where_the_answer_is_no_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a node whose clock is out of bounds: it must not ask without a pause."""
    world = World(5)
    gateway = world.gateways[1]
    asked = 0

    async def send(request: Any, timeout_ns: int) -> Any:
        nonlocal asked
        asked += 1
        assert asked < 1_000
        raise ClockOutOfBounds("the clock of this node differs too much")

    async def locate(key: bytes) -> Any:
        return world.cluster.leaseholder(key).descriptor  # type: ignore[union-attr]

    monkeypatch.setattr(gateway.router, "send", send)
    monkeypatch.setattr(gateway.router, "locate", locate)
    missing = world.cluster.run(gateway.await_copies([(account(0), account(1))], SECOND))
    assert missing == [1, 2, 3]
    assert asked > 1


def test_a_commit_that_a_full_disk_refuses_leaves_nothing_in_anybodys_way() -> None:
    world = World(5)
    cluster = world.cluster
    name = cluster.leaseholder_name(register(0))
    assert name is not None
    holder = cluster.nodes[name]
    other = next(gateway for gateway in world.gateways.values() if gateway.node_id != holder.node_id)
    holder.committer.error = StoreFull("no room")

    async def write(key: bytes) -> None:
        txn = other.begin(RC)
        txn.begin_statement()
        txn.put(key, b"1")
        await txn.commit()

    cluster.scheduler.spawn(write(register(0)))  # it finds out, and waits for room
    assert holder.store is not None
    cluster.wait_until(lambda: holder.store.write_error() is not None, step=0.0005)  # type: ignore[union-attr]
    with pytest.raises(DiskFull):
        cluster.run(write(register(1)))
    local = world.gateways[holder.node_id].leases.find(register(1))
    assert local is not None
    assert register(1) not in local.pending.by_key and not local.pending.groups()[1:] and len(local.deciding) <= 1
    holder.committer.error = None
    cluster.advance(5)
    cluster.run(write(register(1)))
    cluster.advance(1)
    for gateway in world.gateways.values():
        for local in gateway.leases.all():
            assert not local.pending.groups() and not local.deciding


def test_nobody_queues_for_a_lock_of_a_lease_that_is_gone() -> None:
    """Nobody would grant it, nor wake who waits: a range was split and moved while a commit waited for something else."""
    world = World(5)
    key = account(0)
    gateway = world.gateways[leader_of(world, key)]
    local = gateway.leases.find(key)
    assert local is not None
    holder, waiter = gateway.begin(RC).transaction_id, gateway.begin(RC).transaction_id
    assert local.locks.try_acquire(holder, key, LockStrength.UPDATE)
    gateway.leases.lease_lost(local.replica)
    with pytest.raises(NotLeaseholder):
        world.cluster.run(gateway.server.locker.queue(local, waiter, key, LockStrength.UPDATE, NO_LIMITS))


def test_broadcast_reaches_every_node() -> None:
    world = World(23)
    heard: list[tuple[int, int]] = []
    for node_id, gateway in world.gateways.items():

        async def handler(sender: int, payload: bytes, node_id: int = node_id) -> bytes:
            heard.append((sender, node_id))
            return payload + b"%d" % node_id

        gateway.on_broadcast("topic", handler)
    answers = world.cluster.run(world.gateways[2].broadcast("topic", b"x", SECOND))
    assert answers == {1: b"x1", 2: b"x2", 3: b"x3"} and len(heard) == 3


@pytest.mark.parametrize("skews_us", [(0, 0, 0), (-20_000, 20_000, 40_000)])
def test_a_snapshot_on_another_node_goes_on_while_rows_change(skews_us: tuple[int, int, int]) -> None:
    """What is written after a REPEATABLE READ transaction has met a node cannot be older than it: no restart for that."""
    world = World(1, skews_us)

    async def read_and_write() -> None:
        leader = (await world.gateways[1].ranges(account(0), account(1)))[0].leader
        writer = world.gateways[leader]
        reader = world.gateways[next(number for number in world.gateways if number != leader)]
        span = (account(0), account(4))
        txn = reader.begin(RR)
        txn.begin_statement()
        try:
            first = await txn.scan(*span, limit=10)
        except ReadRestart as restart:
            txn.begin_statement(restart.timestamp)
            first = await txn.scan(*span, limit=10)
        for number in (1, 2, 1):
            change = writer.begin(RC)
            change.begin_statement()
            await change.lock([account(number)], LockStrength.NO_KEY_UPDATE)
            change.put(account(number), b"7")
            await change.commit()
            for reverse in (False, True):
                txn.begin_statement()
                again = await txn.scan(*span, limit=10, reverse=reverse)
                assert (sorted(again.keys), again.values) == (first.keys, first.values)

    world.cluster.run(read_and_write())


@pytest.mark.parametrize("through", [1, 2, 3])
def test_row_locks_go_along_with_a_lease(through: int) -> None:
    """Of whatever node: the new leaseholder keeps others away, and the commit finds its locks unbroken."""
    world = World(3)
    cluster, gateway = world.cluster, world.gateways[through]
    txn = gateway.begin(RC)
    gone = world.gateways[through % 3 + 1].begin(RC)
    assert cluster.run(txn.lock([account(0), account(1)], LockStrength.UPDATE))
    assert cluster.run(gone.lock([account(2)], LockStrength.UPDATE))
    name = cluster.leaseholder_name(account(0))
    assert name is not None
    leader = cluster.nodes[name].node_id
    to = leader % 3 + 1
    replica = cluster.leaseholder(account(0))
    assert replica is not None and cluster.store(name).transfer_lease(replica, to)
    gone.rollback()  # while nobody holds the lease
    cluster.wait_until(lambda: cluster.leaseholder_name(account(0)) == f"n{to}")
    other = world.gateways[leader].begin(RC)
    with pytest.raises(LockNotAvailable):
        cluster.run(other.lock([account(1)], LockStrength.KEY_SHARE, WaitPolicy.NOWAIT))
    cluster.advance(0.1)
    assert cluster.run(other.lock([account(2)], LockStrength.UPDATE, WaitPolicy.NOWAIT)), (
        "nothing is left of what has ended"
    )
    txn.put(account(0), b"1")
    cluster.run(txn.commit())
    cluster.run(other.lock([account(1)], LockStrength.UPDATE))
    other.rollback()


def test_every_node_knows_whose_locks_a_failed_transaction_held() -> None:
    world = World(3)
    for gateway in world.gateways.values():
        txn = gateway.begin(RC)
        for number in (0, 9):
            world.cluster.run(txn.lock([account(number)], LockStrength.UPDATE))
        txn.rollback("because")
        [entry] = [entry for entry in gateway.journal._entries if entry.detail == "because"]
        assert len(entry.participants) == 2
