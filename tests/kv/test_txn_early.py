"""Commits that build on one another before they are durable (pydistdb.kv.pending), and what comes of them."""

from __future__ import annotations

import pytest
from pydistdb.kv.api import LockNotAvailable, LockStrength, SerializationConflict, WaitPolicy
from pydistdb.kv.command import Command, SplitTrigger
from pydistdb.kv.gateway import Gateway
from pydistdb.kv.txn.coordinator import Coordinator
from pydistdb.tasks import Task

from tests.kv.simulate import Simulation
from tests.kv.test_txn_cluster import RC, World, leader_of, register

KEY = register(1)
UPDATE = LockStrength.NO_KEY_UPDATE


class Crowd:
    """A cluster whose leaseholder of KEY hears nothing of its followers for now, and statements that crowd on KEY."""

    def __init__(self, seed: int) -> None:
        self.world = World(seed)
        self.cluster = self.world.cluster
        self.cluster.advance(10)
        self.leader = leader_of(self.world, KEY)
        self.gateway = self.world.gateways[self.leader]
        self.others = [node.name for node in self.cluster.nodes.values() if node.node_id != self.leader]
        [self.name] = [name for name in self.cluster.nodes if name not in self.others]
        self.local = self.gateway.leases.need(KEY)

    def cut(self) -> None:
        self.cluster.network.partition([self.name], self.others)

    def heal(self) -> None:
        self.cluster.network.heal()

    def begin_block(self) -> Coordinator:
        txn = self.gateway.begin(RC)
        txn.begin_statement()
        return txn

    def begin(self) -> Coordinator:
        txn = self.begin_block()
        txn.starts_anew = True
        return txn

    def spawn_increments(self, count: int) -> list[Task[bytes]]:
        return [self.cluster.scheduler.spawn(self._increment(), "increment") for _ in range(count)]

    async def _increment(self) -> bytes:
        txn = self.begin()
        [found] = await txn.lock([KEY], UPDATE)
        new = b"%d" % (int(found.value or b"0") + 1)
        txn.put(KEY, new)
        await txn.commit()
        return new

    def value(self, gateway: Gateway | None = None) -> bytes | None:
        reader = (gateway or self.gateway).begin(RC)
        reader.begin_statement()
        [found] = self.cluster.run(reader.get_many([KEY]))
        return found

    def groups(self) -> int:
        return sum(KEY in group.keys for group in self.local.pending.groups())


def test_a_hot_row_is_written_many_times_in_one_round_trip() -> None:
    crowd = Crowd(3)
    crowd.cut()
    tasks = crowd.spawn_increments(20)
    crowd.cluster.advance(0.1)
    assert crowd.groups() == 20 and not any(task.completion.done for task in tasks)
    crowd.heal()
    crowd.cluster.advance(1)
    assert [task.completion.result() for task in tasks] == [b"%d" % n for n in range(1, 21)]
    assert crowd.value() == b"20" and not crowd.local.pending.by_key and not len(crowd.local.locks)


def test_readers_wait_for_what_is_below_them_and_for_no_more() -> None:
    crowd = Crowd(4)
    crowd.cut()
    before = crowd.begin_block()
    [first] = crowd.spawn_increments(1)
    crowd.cluster.advance(0.01)
    reader = crowd.begin_block()
    crowd.spawn_increments(5)
    crowd.cluster.advance(0.05)
    assert crowd.groups() == 6
    found = crowd.cluster.scheduler.spawn(reader.get_many([KEY]))
    crowd.cluster.advance(0.05)
    assert crowd.cluster.run(before.get_many([KEY])) == [b"0"]
    assert not found.completion.done, "what stands below the reader is overlooked for what stands above it"
    crowd.heal()
    crowd.cluster.advance(1)
    assert first.completion.done and found.completion.result() == [b"1"]


def test_what_is_not_durable_is_told_to_nobody() -> None:
    """A statement that finds nothing to change, or that fails, waits for what it saw; and so does whoever asks not to wait."""
    crowd = Crowd(5)
    crowd.cut()
    crowd.spawn_increments(3)
    crowd.cluster.advance(0.05)
    idle, failing = crowd.begin(), crowd.begin()
    impatient, skipping = crowd.begin_block(), crowd.begin_block()

    async def look(txn: Coordinator, *, fails: bool) -> bytes | None:
        [found] = await txn.lock([KEY], LockStrength.SHARE)
        await (txn.confirm() if fails else txn.commit())
        return found.value

    tasks = [crowd.cluster.scheduler.spawn(look(txn, fails=txn is failing)) for txn in (idle, failing)]
    crowd.cluster.advance(0.05)
    assert not any(task.completion.done for task in tasks)
    with pytest.raises(LockNotAvailable):
        crowd.cluster.run(impatient.lock([KEY], LockStrength.KEY_SHARE, WaitPolicy.NOWAIT))
    impatient.rollback()
    crowd.heal()
    crowd.cluster.advance(1)
    assert [task.completion.result() for task in tasks] == [b"3", b"3"]
    failing.rollback()
    crowd.cut()
    crowd.spawn_increments(1)
    crowd.cluster.advance(0.05)
    assert crowd.local.locks.is_free(skipping.transaction_id, KEY, UPDATE), "the commit has let its lock go"
    [skipped] = crowd.cluster.run(skipping.lock([KEY], UPDATE, WaitPolicy.SKIP_LOCKED))
    assert skipped.skipped


def test_a_block_waits_until_what_it_finds_is_durable() -> None:
    crowd = Crowd(6)
    crowd.cut()
    crowd.spawn_increments(2)
    crowd.cluster.advance(0.05)
    block = crowd.begin_block()
    found = crowd.cluster.scheduler.spawn(block.lock([KEY], UPDATE))
    crowd.cluster.advance(0.05)
    assert not found.completion.done
    crowd.heal()
    crowd.cluster.advance(1)
    assert found.completion.result()[0].value == b"2"
    block.put(KEY, b"9")
    crowd.cluster.run(block.commit())
    assert crowd.value() == b"9"


def test_what_is_lost_takes_along_what_was_built_on_it() -> None:
    crowd = Crowd(7)
    crowd.cut()
    tasks = crowd.spawn_increments(5)
    looking = crowd.begin()
    [seen] = crowd.cluster.run(looking.lock([KEY], UPDATE), 1)
    assert seen.value == b"5"
    confirming = crowd.cluster.scheduler.spawn(looking.confirm())
    crowd.cluster.advance(15)  # the others have a leaseholder of their own
    other = crowd.world.gateways[next(n for n in crowd.world.gateways if n != crowd.leader)]
    assert crowd.value(other) == b"0"
    crowd.heal()
    crowd.cluster.advance(5)
    assert confirming.completion.done
    looking.rollback()
    crowd.cluster.advance(25)
    # Each of them either finds that somebody wrote before it, or is told that nobody knows.
    assert all(task.completion.done for task in tasks)
    errors = [task.completion.error() for task in tasks]
    lost = sum(error is None for error in errors)
    assert crowd.value(other) == b"%d" % lost
    assert isinstance(confirming.completion.error(), SerializationConflict) or lost == 5


def test_a_refused_commit_is_not_built_upon() -> None:
    """The range is split by a command that stands before it in the log: it is void, and goes to the end of the queue."""
    crowd = Crowd(8)
    crowd.cut()
    replica = crowd.local.replica
    trigger = SplitTrigger(KEY + b"\1", 9_999)
    splitting = replica.propose(Command(replica.lease_epoch, replica.descriptor.generation, 0, [], [], trigger))
    tasks = crowd.spawn_increments(4)
    crowd.cluster.advance(0.05)
    assert crowd.groups() == 4
    early = crowd.begin()
    [seen] = crowd.cluster.run(early.lock([KEY], UPDATE), 1)
    assert seen.value == b"4"
    early.put(KEY, b"5")
    crowd.heal()
    crowd.cluster.advance(0.2)
    assert splitting.done and splitting.error() is None
    committing = crowd.cluster.scheduler.spawn(early.commit())
    crowd.cluster.advance(5)
    done = [task.completion.result() for task in tasks if task.completion.error() is None]
    assert all(isinstance(task.completion.error(), SerializationConflict | None) for task in tasks)
    assert isinstance(committing.completion.error(), SerializationConflict)
    assert crowd.value() == b"%d" % len(done)
    assert done == [b"%d" % n for n in range(1, len(done) + 1)]


@pytest.mark.parametrize("seed", [1, 4])
def test_simulated_crowds(seed: int) -> None:
    simulation = Simulation(seed, looks_back=False, harsh=seed > 2, crowds=True)
    simulation.run(20)
    assert simulation.tallies is not None and len(simulation.tallies.history) > 100
