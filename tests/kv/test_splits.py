"""What those who are at work notice of a split: the right part is led by nobody until it has been elected for."""

from __future__ import annotations

import random
from typing import Any

import pytest
from pydistdb.kv.api import Isolation
from pydistdb.kv.command import NotLeaseholder
from pydistdb.kv.gateway import Gateway
from pydistdb.kv.router import Router
from pydistdb.kv.store import Store
from pydistdb.tasks import sleep

from tests.support.cluster import Cluster

MILLISECOND = 1_000_000
KEYS = 1_000
SPLITS = 10
CLIENTS = 8


def key_of(number: int) -> bytes:
    return b"\x04k%04d" % number


class Traffic:
    """Clients at all nodes that read and write single keys."""

    def __init__(self, delay_ms: tuple[int, int], sync_ms: int) -> None:
        self.cluster = Cluster(seed=3)
        self.gateways: dict[int, Gateway] = {}
        self.cluster.on_open.append(self._open)
        self.cluster.start(3)
        self.cluster.network.delay_ns = delay_ms[0] * MILLISECOND, delay_ms[1] * MILLISECOND
        for node in self.cluster.nodes.values():
            node.committer.delay_ns = sync_ms * MILLISECOND
        self.taken: list[tuple[int, int]] = []
        """When each statement began, and how long it took."""
        self._stopping = False
        self._tasks = [self.cluster.scheduler.spawn(self._client(number)) for number in range(CLIENTS)]

    def _open(self, store: Store) -> None:
        self.gateways[store.node_id] = Gateway(store)
        self.gateways[store.node_id].start()

    async def _client(self, number: int) -> None:
        rand, scheduler, gateway = random.Random(number), self.cluster.scheduler, self.gateways[number % 3 + 1]
        while not self._stopping:
            key, begun_ns = key_of(rand.randrange(KEYS)), scheduler.now_ns()
            transaction = gateway.begin(Isolation.READ_COMMITTED)
            transaction.begin_statement()
            if rand.random() < 0.5:
                await transaction.get_many([key])
            else:
                transaction.put(key, b"v")
            await transaction.commit()
            self.taken.append((begun_ns, scheduler.now_ns() - begun_ns))
            await sleep(scheduler, 4 * MILLISECOND)

    def longest_ms(self) -> list[float]:
        """Split where the clients are at work; per split, how long the longest statement took in the half second after."""
        longest: list[float] = []
        for number in range(SPLITS):
            begun_ns = self.cluster.scheduler.now_ns()
            self.cluster.run(self.gateways[1].split([key_of((2 * number + 1) * KEYS // (2 * SPLITS))]))
            self.cluster.advance(0.5)
            longest.append(max(taken for begun, taken in self.taken if begun + taken > begun_ns) / MILLISECOND)
        self._stopping = True
        for task in self._tasks:
            self.cluster.scheduler.run_until(task.completion)
        return longest


def at_work() -> tuple[Traffic, str]:
    """Clients on a quick network and disk, and the name of the node that leads the middle of their keys."""
    traffic = Traffic((1, 1), 1)
    traffic.cluster.advance(3)
    name = traffic.cluster.leaseholder_name(key_of(500))
    assert name is not None
    return traffic, name


def test_statements_wait_for_the_election_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message takes 2 to 4 ms and a sync 3 ms, as on a busy machine; a statement without a split takes up to 24 ms.

    From the split on the right part's lease takes four messages and three syncs, and who waits for it is not sent away."""
    sent_away: list[str] = []
    back_off = Router._back_off

    async def counted(router: Router, search: Any, request: Any) -> None:
        if search.error is None:  # else its proposal came behind the split's
            sent_away.append(type(request).__name__)
        await back_off(router, search, request)

    traffic = Traffic((2, 4), 3)
    traffic.cluster.advance(3)
    monkeypatch.setattr(Router, "_back_off", counted)
    longest = traffic.longest_ms()
    assert max(longest) < 60 and sorted(longest)[len(longest) // 2] < 50
    assert not sent_away


def test_a_request_waits_a_little_where_the_lease_is_about_to_begin() -> None:
    """At the node that campaigns; at others it is sent to where the lease should be."""
    traffic, name = at_work()
    cluster = traffic.cluster
    store = cluster.store(name)
    leader, others = store.node_id, [other for other in cluster.stores() if other.node_id != store.node_id]
    split = cluster.scheduler.spawn(store.split(key_of(500)))
    cluster.wait_until(lambda: store.replica_for_key(key_of(500)).descriptor.start == key_of(500), step=0.0001)
    right = store.replica_for_key(key_of(500))
    assert right is not None and not right.leased and right.is_about_to_lead
    leases = traffic.gateways[leader].leases
    assert cluster.run(leases.begins(key_of(700))) and right.leased
    assert not cluster.run(leases.begins(key_of(700))), "it has begun"
    cluster.scheduler.run_until(split.completion)
    for other in others:
        replica = other.replica_for_key(key_of(700))
        assert replica is not None and not replica.is_about_to_lead and replica.leader_hint == leader
        with pytest.raises(NotLeaseholder):
            traffic.gateways[other.node_id].leases.need(key_of(700))


def test_a_request_is_sent_away_when_the_election_takes_long() -> None:
    traffic, name = at_work()
    cluster = traffic.cluster
    store = cluster.store(name)
    cluster.network.partition([name], [other for other in cluster.nodes if other != name])
    cluster.advance(4)
    replica = store.replica_for_key(key_of(500))
    assert replica is not None
    cluster.wait_until(lambda: replica.is_about_to_lead, 10)
    begun_ns = cluster.scheduler.now_ns()
    leases = traffic.gateways[store.node_id].leases
    assert not cluster.run(leases.begins(key_of(500)))
    assert 99 <= (cluster.scheduler.now_ns() - begun_ns) / MILLISECOND <= 101 and not leases._begun
