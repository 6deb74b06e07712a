"""What a node with many ranges does while nobody uses them must not grow with their number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from pydistdb.kv.gateway import Gateway
from pydistdb.kv.lease import RangeLease
from pydistdb.kv.operations import Operations
from pydistdb.kv.placement.residency import Residency
from pydistdb.kv.range_local import RangeLocal
from pydistdb.kv.store import Store
from pydistdb.kv.store_base import CAMPAIGNS_A_TURN

from tests.support.cluster import Cluster

RANGES = 200


class World:
    def __init__(self, nodes: int) -> None:
        self.cluster = Cluster(seed=3)
        self.gateways: dict[int, Gateway] = {}
        self.operations: dict[int, Operations] = {}
        self.cluster.on_open.append(self._open)
        self.cluster.start(nodes)

    def _open(self, store: Store) -> None:
        gateway = self.gateways[store.node_id] = Gateway(store)
        gateway.start()
        operations = self.operations[store.node_id] = Operations(store, gateway)
        operations.reshaper.start()

    def split(self) -> list[bytes]:
        keys = [b"\x04k%04d" % number for number in range(RANGES)]
        self.cluster.run(self.gateways[1].split(keys))
        return keys


def test_an_idle_node_leaves_its_ranges_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(1)
    world.split()
    world.cluster.advance(30)
    calls: Counter[str] = Counter()

    def counted(owner: Any, name: str) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        def call(*arguments: Any, **named: Any) -> Any:
            calls[name] += 1
            return original(*arguments, **named)

        monkeypatch.setattr(owner, name, call)

    counted(RangeLease, "is_leaseholder")
    counted(Residency, "step")
    world.cluster.advance(60)
    assert calls["step"] == 0
    assert calls["is_leaseholder"] < RANGES, "in a minute, for all together"


def test_reads_spread_over_many_ranges_do_not_look_for_their_leases_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(1)
    keys, gateway = world.split(), world.gateways[1]
    looked: Counter[int] = Counter()
    look = RangeLease._extend_lease

    def counted(replica: RangeLease) -> bool:
        looked[replica.replica_id] += 1
        return look(replica)

    for key in keys:
        assert gateway.try_get(key) is None
    monkeypatch.setattr(RangeLease, "_extend_lease", counted)
    for _ in range(3):
        world.cluster.advance(5)
        for key in keys:
            gateway.try_get(key)
    assert not looked, "a lease of the only voter has no end"


def test_an_only_voter_stops_serving_when_its_clock_goes_wrong() -> None:
    cluster = Cluster(seed=5)
    cluster.start(3, replication_factor=1)
    [store] = [store for store in cluster.stores() if store.leased]
    [node] = [node for node in cluster.nodes.values() if node.node_id == store.node_id]
    held = list(store.leased.values())
    assert all(replica.is_leaseholder() for replica in held)
    node.skew_us = -30_000_000
    cluster.wait_until(lambda: node.clock.out_of_bounds, 10)
    assert not any(replica.is_leaseholder() for replica in held)
    node.skew_us = 0
    cluster.wait_until(lambda: not node.clock.out_of_bounds, 10)
    assert all(replica.is_leaseholder() for replica in held)


def test_an_only_voter_looks_at_its_lease_again_once_others_vote() -> None:
    cluster = Cluster(seed=5)
    cluster.start(1)
    [store] = cluster.stores()
    [replica] = store.leased.values()
    assert replica.is_leaseholder() and replica.lease_until_ns > cluster.scheduler.now_ns() + 10**18
    cluster.add("n2")
    cluster.add("n3")
    cluster.wait_until(lambda: len(replica.log.membership.voters) == 3)
    assert replica.lease_until_ns < cluster.scheduler.now_ns() + 10**10
    cluster.advance(2)
    assert replica.leased and replica.is_leaseholder()
    cluster.network.partition(["n1"], ["n2", "n3"])
    cluster.advance(5)
    assert not replica.is_leaseholder()


def test_many_splits_at_once_cut_everywhere() -> None:
    world = World(3)
    keys = world.split()
    starts = {replica.descriptor.start for store in world.cluster.stores() for replica in store.leased.values()}
    assert starts >= set(keys)


def test_leases_are_found_after_any_of_them_is_lost() -> None:
    world = World(1)
    keys = world.split()
    leases = world.gateways[1].leases
    lost = leases.find(keys[50])
    assert isinstance(lost, RangeLocal)
    leases.lease_lost(lost.replica)
    assert lost.detached and leases.find(keys[50]) is None
    found = [leases.find(key) for key in (keys[49], keys[51])]
    assert [local.start for local in found if local is not None] == [keys[49], keys[51]]


def test_load_is_requests_and_what_scans_go_through() -> None:
    world = World(1)
    keys = world.split()
    gateway = world.gateways[1]
    spent = [0]
    gateway.load.cpu_ns = lambda: spent[0]
    world.cluster.advance(10)
    busy, scanned = gateway.leases.find(keys[5]), gateway.leases.find(keys[9])
    assert busy is not None and scanned is not None
    for _ in range(30):
        busy.requests += 200
        scanned.requests, scanned.rows = scanned.requests + 1, scanned.rows + 3_184
        spent[0] += 400_000_000
        world.cluster.advance(1)
    assert {busy.range_id, scanned.range_id} <= gateway.load.rates().keys()
    assert busy.request_rate == pytest.approx(200, rel=0.05) and busy.load == pytest.approx(200, rel=0.05)
    assert scanned.request_rate == pytest.approx(1, rel=0.1) and scanned.load == pytest.approx(200, rel=0.05)
    # The process's time is divided among the two.
    assert busy.cpu_share == pytest.approx(0.2, rel=0.1) and scanned.cpu_share == pytest.approx(0.2, rel=0.1)
    gateway.leases.lease_lost(busy.replica)
    assert busy.range_id not in gateway.load.rates() and scanned.range_id in gateway.load.rates()
    world.cluster.advance(60)
    assert not {busy.range_id, scanned.range_id} & gateway.load.rates().keys()


def test_groups_fall_silent_although_answers_take_long() -> None:
    """On a node too busy to answer within two heartbeats, heartbeats that wait for answers would keep it so."""
    world = World(3)
    world.split()
    cluster = world.cluster
    cluster.advance(40)  # the leases have spread

    def awake() -> int:
        return sum(not replica.raft.quiescent for store in cluster.stores() for replica in store.replicas.values())

    assert awake() < RANGES // 10
    cluster.network.delay_ns = (300_000_000, 350_000_000)
    for store in cluster.stores():
        for node_id in (1, 2, 3):
            store.wake_led_with(node_id)
    cluster.advance(0.5)
    assert awake() > RANGES
    cluster.advance(4)
    assert awake() < RANGES // 10


def test_a_new_leader_for_every_range_is_found_a_few_at_a_time() -> None:
    world = World(3)
    world.split()
    cluster = world.cluster
    cluster.advance(20)
    cluster.crash("n2")
    won: list[int] = []
    for _ in range(1_000):
        won.append(sum(store.metrics.elections for store in cluster.stores()))
        cluster.advance(0.003)
    steps = [after - before for before, after in pairwise(won)]
    assert sum(steps) > RANGES // 4 and max(steps) <= 2 * 2 * CAMPAIGNS_A_TURN, "by two nodes, in up to two turns"
    assert cluster.covered()
