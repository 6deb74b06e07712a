"""Advisory locks on a simulated cluster: never two holders, through lease transfers, crashes and partitions.

A session *believes* it holds a lock from the answer to its request until it unlocks, is told that the lock is lost, or its
node crashes.  No two sessions may believe so at the same time.
"""

from __future__ import annotations

import random

import pytest
from pydistdb.kv.advisory import ADVISORY_PREFIX, HOLD_NS, TAKEOVER_NS, AdvisoryLocker
from pydistdb.kv.api import DeadlockDetected, Isolation, KVError, LockNotAvailable, LockStrength, WaitPolicy
from pydistdb.kv.gateway import Gateway
from pydistdb.kv.range_local import RangeLocal
from pydistdb.kv.session_locks import SessionLocks
from pydistdb.kv.store import Store
from pydistdb.tasks import Completion, sleep

from tests.support.cluster import SECOND, Cluster

KEY = ADVISORY_PREFIX + b"k"
OTHER_KEY = ADVISORY_PREFIX + b"other"
ROW = b"\x04row"


class Session:
    def __init__(self, world: World, node: int) -> None:
        self.world = world
        self.node = node
        self.lost = False
        self.transaction: object = None
        self.gateway = world.gateways[node]
        self.locks: SessionLocks = self.gateway.session_locks(lambda: self.transaction, self._lost)

    @property
    def lives(self) -> bool:
        """Its process has not crashed, and it has not been told to stop."""
        node = self.world.cluster.nodes[f"n{self.node}"]
        return not self.lost and node.running and self.world.gateways[self.node] is self.gateway

    def _lost(self) -> None:
        self.lost = True
        self.world.believers.discard(self)

    async def take(self, key: bytes = KEY, wait: WaitPolicy = WaitPolicy.NOWAIT, timeout_ns: int = 0) -> bool:
        return await self.locks.lock(key, LockStrength.UPDATE, wait, timeout_ns)


class World:
    def __init__(self, seed: int = 1) -> None:
        self.cluster = Cluster(seed=seed)
        self.gateways: dict[int, Gateway] = {}
        self.believers: set[Session] = set()
        self.cluster.on_open.append(self._open)
        self.cluster.start(3)
        self.cluster.wait_until(lambda: self.cluster.replicated(3))

    def _open(self, store: Store) -> None:
        old = self.gateways.get(store.node_id)
        if old is not None:
            old.stop()
        gateway = self.gateways[store.node_id] = Gateway(store)
        gateway.start()

    def leader(self) -> str:
        found: list[str] = []

        def is_led() -> bool:
            name = self.cluster.leaseholder_name(ADVISORY_PREFIX)
            if name is not None:
                found.append(name)
            return name is not None

        self.cluster.wait_until(is_led)
        return found[-1]

    def move_lease(self) -> None:
        """Hand range 1 to another node."""
        name = self.leader()
        store = self.cluster.store(name)
        replica = store.replica_for_key(ADVISORY_PREFIX)
        assert replica is not None
        target = next(node.node_id for node in self.cluster.nodes.values() if node.name != name and node.running)
        if store.transfer_lease(replica, target):
            self.cluster.wait_until(lambda: self.cluster.leaseholder_name(ADVISORY_PREFIX) not in (None, name), 10)

    def node_of(self, name: str) -> int:
        return self.cluster.nodes[name].node_id


def test_a_lock_stays_held_through_changes_of_the_lease() -> None:
    world = World()
    run = world.cluster.run
    holder, other = Session(world, 1), Session(world, 2)
    assert run(holder.take())
    for _ in range(4):
        world.move_lease()
        assert not run(other.take())
    assert not holder.lost
    run(holder.locks.unlock([KEY]))
    assert run(other.take())


def test_a_lock_outlives_the_leaseholder_and_goes_with_its_own_node() -> None:
    world = World()
    run = world.cluster.run
    leader = world.leader()
    keeper, other = (Session(world, node.node_id) for node in world.cluster.nodes.values() if node.name != leader)
    doomed = Session(world, world.node_of(leader))
    assert run(keeper.take()) and run(doomed.take(OTHER_KEY))
    world.cluster.crash(leader)
    assert not run(other.take())
    assert run(other.take(OTHER_KEY))
    assert not keeper.lost


def test_a_node_that_is_cut_off_gives_its_locks_up_before_others_can_have_them() -> None:
    world = World()
    run = world.cluster.run
    leader = world.leader()
    others = [name for name in world.cluster.nodes if name != leader]
    holder, other = Session(world, world.node_of(others[0])), Session(world, world.node_of(others[1]))
    assert run(holder.take())
    world.cluster.network.partition([others[0]], [leader, others[1]])
    start = world.cluster.scheduler.now_ns()
    assert run(other.take(wait=WaitPolicy.WAIT), 120)
    assert holder.lost
    waited = world.cluster.scheduler.now_ns() - start
    assert HOLD_NS < waited < TAKEOVER_NS + 10 * SECOND


def test_waiting_has_an_end() -> None:
    world = World()
    run = world.cluster.run
    first, second = Session(world, 1), Session(world, 2)
    assert run(first.take())
    with pytest.raises(LockNotAvailable):
        run(second.take(wait=WaitPolicy.WAIT, timeout_ns=3 * SECOND))
    run(first.locks.unlock([KEY]))
    assert run(second.take())
    run(second.locks.unlock([KEY]))
    assert run(first.take(OTHER_KEY)) and run(second.take())
    waiting = world.cluster.scheduler.spawn(first.take(wait=WaitPolicy.WAIT))
    world.cluster.advance(0.1)
    crossing = world.cluster.scheduler.spawn(second.take(OTHER_KEY, WaitPolicy.WAIT))
    world.cluster.wait_until(lambda: waiting.completion.done or crossing.completion.done, 10)
    errors = [task.completion.error() for task in (waiting, crossing)]
    assert [type(error) for error in errors if error is not None] == [DeadlockDetected]


def test_an_unlock_that_is_stopped_is_done_all_the_same() -> None:
    """Its request was on its way; the session did not know of the lock any more, and nobody else got it while that lived."""
    world = World()
    run, cluster = world.cluster.run, world.cluster
    leader = world.leader()
    name, third = [name for name in cluster.nodes if name != leader]
    holder, other = Session(world, world.node_of(name)), Session(world, world.node_of(third))
    assert run(holder.take())
    cluster.network.partition([name], [leader, third])
    task = cluster.scheduler.spawn(holder.locks.unlock([KEY]))
    cluster.advance(0.2)
    task.cancel(RuntimeError("told to stop"))
    cluster.network.heal()
    assert run(other.take(wait=WaitPolicy.WAIT, timeout_ns=10 * SECOND))
    again = cluster.scheduler.spawn(holder.take(wait=WaitPolicy.WAIT))
    cluster.advance(1)
    run(other.locks.unlock([KEY]))
    cluster.wait_until(lambda: again.completion.done, 5)
    assert not run(other.take()) and not holder.lost


def test_a_lock_that_is_given_up_while_earlier_ones_are_found_out_stays_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """The new leaseholder heard that it was given up before it granted it, and of nothing after that."""
    world = World()
    cluster = world.cluster
    leader = world.leader()
    name = next(name for name in cluster.nodes if name != leader)
    waiter, other = Session(world, world.node_of(name)), Session(world, world.node_of(leader))
    answered: Completion[None] = Completion()

    async def recover(_: AdvisoryLocker, local: RangeLocal, recovery: Completion[None]) -> None:
        await answered
        recovery.set(None)

    monkeypatch.setattr(AdvisoryLocker, "_recover", recover)
    task = cluster.scheduler.spawn(waiter.take(wait=WaitPolicy.WAIT))
    cluster.advance(0.5)
    task.cancel(RuntimeError("told to stop"))
    cluster.advance(0.5)
    answered.set(None)
    cluster.advance(1)
    assert cluster.run(other.take())


def test_a_cycle_through_a_row_lock_is_found() -> None:
    world = World()
    run, spawn = world.cluster.run, world.cluster.scheduler.spawn
    run(world.gateways[1].ingest([(ROW, b"1")]))
    first, second = Session(world, 1), Session(world, 2)
    mine = first.transaction = world.gateways[1].begin(Isolation.READ_COMMITTED)
    theirs = second.transaction = world.gateways[2].begin(Isolation.READ_COMMITTED)
    mine.begin_statement()
    theirs.begin_statement()
    assert run(first.take())
    run(theirs.lock([ROW], LockStrength.UPDATE))
    tasks = [spawn(mine.lock([ROW], LockStrength.UPDATE)), spawn(second.take(wait=WaitPolicy.WAIT))]
    world.cluster.wait_until(lambda: any(task.completion.done for task in tasks), 10)
    errors = [task.completion.error() for task in tasks]
    assert [type(error) for error in errors if error is not None] == [DeadlockDetected]


@pytest.mark.parametrize("seed", range(6))
def test_never_two_holders(seed: int) -> None:
    world = World(seed)
    rand = random.Random(seed)
    cluster = world.cluster
    grants = 0

    async def client(node: int) -> None:
        nonlocal grants
        for _ in range(30):
            session = Session(world, node)
            if not session.lives:
                return
            try:
                wait = rand.choice((WaitPolicy.WAIT, WaitPolicy.NOWAIT))
                if await session.take(wait=wait, timeout_ns=5 * SECOND):
                    if session.lives:
                        assert not world.believers, "two sessions hold the lock"
                        world.believers.add(session)
                        grants += 1
                    await sleep(cluster.scheduler, rand.randint(1, 3_000) * 1_000_000)
                    world.believers.discard(session)
            except (KVError, AssertionError) as error:
                if isinstance(error, AssertionError):
                    raise
            session.locks.close()
            await sleep(cluster.scheduler, rand.randint(1, 300) * 1_000_000)

    clients = [cluster.scheduler.spawn(client(node), "client") for node in (1, 2, 3) for _ in range(2)]
    for _ in range(5):
        cluster.advance(rand.random() * 4)
        match rand.randrange(3):
            case 0:
                world.move_lease()
            case 1:
                alone = rand.choice(["n1", "n2", "n3"])
                cluster.network.partition([alone], [name for name in cluster.nodes if name != alone])
                cluster.advance(rand.random() * 15)
                cluster.network.heal()
            case 2:
                name = rand.choice(["n1", "n2", "n3"])
                cluster.crash(name)
                world.believers = {s for s in world.believers if s.node != world.node_of(name)}
                cluster.advance(rand.random() * 12)
                cluster.restart(name)
        cluster.advance(3)
    for task in clients:
        error = task.completion.error() if task.completion.done else None
        assert not isinstance(error, AssertionError), error
    assert grants > 3
