"""Copies for other nodes take no more bytes and time than they are given, and can be stopped."""

from __future__ import annotations

import pytest
from pydistdb.kv.gateway import Gateway
from pydistdb.kv.operations import Operations
from pydistdb.kv.snapshot import SnapshotBudget
from pydistdb.kv.store import Store
from pydistdb.tasks import Task

from tests.support.cluster import SECOND, Cluster


def test_buckets_fill_with_time_and_may_go_into_debt() -> None:
    now = [0]
    budget = SnapshotBudget(2, lambda: now[0])
    assert budget.allows_more(), "without limits"
    budget.bytes_per_second, budget.time_share = (lambda: 1_000.0), (lambda: 0.5)
    assert budget.allows_more()
    budget.spend(800, 0)
    assert not budget.allows_more()
    now[0] += SECOND // 2
    assert not budget.allows_more(), "there were 250, and half a second brings 500"
    now[0] += SECOND // 5
    assert budget.allows_more()
    now[0] += 100 * SECOND
    assert budget.allows_more()
    budget.spend(260, 0)
    assert not budget.allows_more(), "what was not used is not kept for longer than a quarter of a second"
    now[0] += 100 * SECOND
    assert budget.allows_more()
    budget.spend(0, SECOND)
    now[0] += SECOND
    assert not budget.allows_more(), "half of the time is not its"
    now[0] += SECOND
    assert budget.allows_more()


def test_only_so_many_are_open_and_none_is_begun_while_they_are_stopped() -> None:
    budget = SnapshotBudget(1, lambda: 0)
    assert budget.take() and not budget.take()
    budget.give_back()
    budget.bytes_per_second = lambda: 0.0
    assert not budget.take() and not budget.allows_more()


class World:
    """Three megabytes on three of four nodes."""

    def __init__(self) -> None:
        self.cluster = Cluster(seed=11)
        self.gateways: dict[int, Gateway] = {}
        self.operations: dict[int, Operations] = {}
        self.cluster.on_open.append(self._open)
        self.cluster.start(4, 3)
        self.run = self.cluster.run
        self.set("rebalance.enabled", "off")
        for first in range(0, 3_000, 500):
            rows = [(b"\x04k%04d" % number, bytes(1_000)) for number in range(first, first + 500)]
            self.run(self.gateways[1].ingest(rows))
        self.cluster.advance(5)

    def _open(self, store: Store) -> None:
        gateway = self.gateways[store.node_id] = Gateway(store)
        gateway.start()
        self.operations[store.node_id] = Operations(store, gateway)

    def set(self, name: str, text: str) -> None:
        self.run(self.operations[1].set(name, text))
        self.cluster.advance(3)

    def move(self) -> Task[None]:
        """Begin to move a replica to the node that has none."""
        (report,) = self.run(self.operations[1].surveyor.survey()).ranges()
        (free,) = {1, 2, 3, 4} - set(report.nodes)
        away = next(node for node in report.nodes if node != report.leader)
        return self.cluster.scheduler.spawn(self.operations[1].move_replica(report.range_id, away, free), "move")

    def seconds(self, task: Task[None]) -> float:
        began = self.cluster.scheduler.now_ns()
        self.cluster.wait_until(lambda: task.completion.done, 60)
        task.completion.result()
        return (self.cluster.scheduler.now_ns() - began) / SECOND


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def test_a_move_takes_as_long_as_its_bytes_may(world: World) -> None:
    assert world.seconds(world.move()) < 3
    world.set("snapshot.bytes_per_second", "300kB")
    assert 8 < world.seconds(world.move()) < 15


def test_moves_can_be_stopped_in_the_middle(world: World) -> None:
    world.set("snapshot.bytes_per_second", "300kB")
    task = world.move()
    world.cluster.advance(4)
    sent = sum(store.snapshot_budget.sent_bytes for store in world.cluster.stores())
    world.set("snapshot.bytes_per_second", "0")
    stopped = sum(store.snapshot_budget.sent_bytes for store in world.cluster.stores())
    assert 0 < sent <= stopped < sent + 1_200_000, "until all nodes know"
    world.cluster.advance(30)
    assert sum(store.snapshot_budget.sent_bytes for store in world.cluster.stores()) == stopped
    assert not task.completion.done
    world.set("snapshot.bytes_per_second", "128MB")
    assert world.seconds(task) < 5
