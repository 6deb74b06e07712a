"""Ranges that look after themselves: split by load and size, merged when quiet, leases that follow the load."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest
from pydistdb.kv.api import Isolation, KVError
from pydistdb.kv.gateway import Gateway
from pydistdb.kv.operations import Operations
from pydistdb.kv.placement.allocator import NodeView
from pydistdb.kv.placement.evening import lease_for_load, leases_for_load, replica_for_load
from pydistdb.kv.placement.hotspots import assess
from pydistdb.kv.placement.reshaping import Reshaper
from pydistdb.kv.placement.splitting import SAMPLES, KeySampler, hot_key, split_points
from pydistdb.kv.settings import SETTINGS, SettingRefused, parse, shown
from pydistdb.kv.store import Store
from pydistdb.kv.survey import RangeReport
from pydistdb.tasks import sleep

from tests.kv.test_fragments import Adding
from tests.support.cluster import Cluster

KEYS = 3_000


def row(number: int) -> bytes:
    return b"\x04k%04d" % number


class World:
    """A cluster that reshapes itself: KEYS rows in three ranges."""

    def __init__(self, nodes: int = 3, settings: dict[str, str] | None = None) -> None:
        self.cluster = Cluster(seed=5)
        self.gateways: dict[int, Gateway] = {}
        self.operations: dict[int, Operations] = {}
        self.cluster.on_open.append(self._open)
        self.cluster.start(nodes)
        self.run = self.cluster.run
        self.rand = random.Random(1)
        self.failed: list[str] = []
        self.served = 0
        self.stopping = False
        self.slowest_ns = 0
        self.run(self.gateways[1].ingest([(row(number), b"v" * 100) for number in range(KEYS)]))
        self.run(self.gateways[1].split([row(0), row(1_000), row(2_000)]))
        for name, text in (settings or {"range.split_qps": "100"}).items():
            self.run(self.operations[1].set(name, text))
        self.cluster.advance(15)

    def _open(self, store: Store) -> None:
        gateway = self.gateways[store.node_id] = Gateway(store)
        gateway.start()
        operations = self.operations[store.node_id] = Operations(store, gateway)
        operations.reshaper.start()

    async def client(self, node: int, first: int, last: int, per_second: int) -> None:
        """Reads and writes of rows first to last."""
        while not self.stopping:
            key = row(self.rand.randrange(first, last))
            began_ns = self.cluster.scheduler.now_ns()
            try:
                transaction = self.gateways[node].begin(Isolation.READ_COMMITTED)
                transaction.begin_statement()
                await transaction.get_many([key])
                if self.rand.random() < 0.1:
                    transaction.put(key, b"w" * 100)
                    await transaction.commit()
                self.served += 1
                self.slowest_ns = max(self.slowest_ns, self.cluster.scheduler.now_ns() - began_ns)
            except KVError as error:
                self.failed.append(f"{type(error).__name__}: {error}")
            await sleep(self.cluster.scheduler, 1_000_000_000 // per_second)

    def load(self, first: int, last: int, per_second: int) -> None:
        """So many requests a second through every node."""
        for node in self.gateways:
            for _ in range(5):
                self.cluster.scheduler.spawn(self.client(node, first, last, per_second // 5))

    def reports(self) -> list[RangeReport]:
        reports = self.run(self.operations[1].surveyor.survey()).ranges()
        return [report for report in reports if report.status.start >= row(0)]

    def leases_acquired(self) -> int:
        return sum(store.metrics.leases_acquired for store in self.cluster.stores())

    def totals(self) -> tuple[int, int, int]:
        reshapers = [operations.reshaper for operations in self.operations.values()]
        return (
            sum(r.splits for r in reshapers),
            sum(r.merges for r in reshapers),
            sum(r.leases_moved for r in reshapers),
        )


def test_a_hot_tenth_is_split_and_spread_by_itself_within_a_minute() -> None:
    """The second acceptance of rebalancing, at small scale: nothing fails, and the nodes come to share the load."""
    world = World()
    assert len(world.reports()) == 3
    world.load(0, KEYS, 20)
    world.load(1_000, 1_100, 100)
    world.cluster.advance(60)
    splits, _, moved = world.totals()
    assert splits >= 1 and moved >= 1
    cuts = [report.status.start for report in world.reports()]
    assert any(row(1_000) < cut < row(1_100) for cut in cuts), "the hot tenth itself was divided"
    served = world.served
    world.cluster.advance(20)
    # At least 70 % of what was asked for; a request takes its time too.
    assert world.served - served > 0.7 * 20 * 3 * 120
    loads: dict[int, float] = {}
    for report in world.reports():
        loads[report.leader] = loads.get(report.leader, 0.0) + report.requests_per_second
    mean = sum(loads.values()) / 3
    assert len(loads) == 3 and max(loads.values()) < 1.5 * mean
    assert not world.failed
    splits_then, leases_then = world.totals()[0], world.leases_acquired()
    world.cluster.advance(60)
    assert world.totals()[0] <= splits_then + 2, "it comes to rest"
    assert world.leases_acquired() <= leases_then + 4, "leases that were moved for their load are not sent back"


def test_nobody_waits_long_for_a_split() -> None:
    """Not 10 ms, network included: each takes its moment at whatever commands are under way."""
    world = World(settings={"rebalance.enabled": "off"})
    world.load(0, KEYS, 200)
    world.cluster.advance(2)
    world.slowest_ns = 0
    world.cluster.advance(5)
    usual_ns, world.slowest_ns = world.slowest_ns, 0
    before = len(world.reports())
    for number in range(30):
        world.run(world.operations[1 + number % 3].split_at(row(50 + 97 * number)))
        world.cluster.advance(0.1)
    assert len(world.reports()) == before + 30
    assert usual_ns > 0 and 0 < world.slowest_ns < 10_000_000
    assert not world.failed


def test_a_single_hot_key_is_told_and_not_split_for_ever() -> None:
    world = World()
    world.load(1_500, 1_501, 100)
    world.cluster.advance(40)
    assert world.totals()[0] == 0
    reports = world.reports()
    (hot,) = [report for report in reports if report.hot_key]
    assert hot.hot_key == row(1_500)
    judged = assess(reports, [1, 2, 3])[hot.range_id]
    assert judged.recommendation == "one key gets most of it: a split does not help"


class Passing(Adding):
    """A fragment that makes nothing of what it is fed."""

    def take(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        pass


class Upkeep(Passing):
    is_upkeep = True


@pytest.mark.parametrize(("run", "splits"), [(Passing, True), (Upkeep, False)])
def test_what_the_database_reads_for_itself_splits_no_range(run: type[Passing], splits: bool) -> None:
    """ANALYZE passes through a table as fast as it can."""
    world = World()
    for gateway in world.gateways.values():
        gateway.server.fragments.start = lambda _, arguments: run(b"add", arguments)

    answers = 0

    async def passes() -> None:
        nonlocal answers
        while not world.stopping:
            transaction = world.gateways[1].begin(Isolation.READ_COMMITTED)
            transaction.begin_statement()
            number = world.rand.randrange(1_000, 1_900)
            answers += await transaction.evaluate(b"add", b"0", row(number), row(number) + b"\xff") is not None
            await sleep(world.cluster.scheduler, 5_000_000)

    for _ in range(5):
        world.cluster.scheduler.spawn(passes())
    world.cluster.advance(30)
    assert answers > 3_000
    assert (world.totals()[0] > 0) is splits
    assert any(report.requests_per_second > 50 for report in world.reports()) is splits


def test_what_was_split_by_itself_is_merged_when_it_is_quiet() -> None:
    world = World(settings={"range.split_qps": "50", "range.merge_after": "30s"})
    world.load(0, 1_000, 40)
    world.cluster.advance(40)
    grown = len(world.reports())
    assert grown > 3
    world.stopping = True
    world.cluster.advance(180)
    assert [report.status.start for report in world.reports()] == [row(0), row(1_000), row(2_000)], "cut by command"
    assert world.totals()[1] >= grown - 3
    assert not world.failed


def test_a_large_range_is_split_by_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reshaper, "_has_company", True)  # with other nodes leases would move meanwhile
    world = World(nodes=1, settings={"range.max_bytes": "512kB"})
    for first in range(3_000, 17_000, 1_000):
        rows = [(b"\x04l%05d" % number, b"v" * 100) for number in range(first, first + 1_000)]
        for each in rows:  # one command each, as transactions would
            world.run(world.gateways[1].ingest([each]))
    world.cluster.advance(60)
    sizes = [report.size_bytes or 0 for report in world.reports()]
    assert world.totals()[0] >= 2 and max(sizes) < 1.2 * (512 << 10)
    assert world.failed == []


def test_what_was_large_before_its_lease_came_is_split_without_being_written() -> None:
    """The node that led it before may have been about to."""
    world = World(settings={"rebalance.enabled": "off"})
    rows = [(b"\x04l%05d" % number, b"v" * 100) for number in range(12_000)]
    world.run(world.gateways[1].ingest(rows))
    world.run(world.gateways[1].split([rows[1][0]]))  # nothing was written to the part on the right since
    (large,) = [report for report in world.reports() if report.status.start == rows[1][0]]
    target = next(node for node in (1, 2, 3) if node != large.leader)
    world.run(world.operations[1].move_lease(large.range_id, target))
    world.cluster.advance(5)
    world.run(world.operations[1].set("range.max_bytes", "512kB"))
    world.run(world.operations[1].set("rebalance.enabled", "on"))
    world.cluster.advance(60)
    sizes = [report.size_bytes or 0 for report in world.reports()]
    assert world.totals()[0] >= 2 and max(sizes) < 1.2 * (512 << 10)


def test_a_replica_goes_where_no_voter_can_take_the_lease() -> None:
    """The third node is the only idle one, and has no voter of the busy ranges."""

    def view(node: int, load: float, zone: str) -> NodeView:
        return NodeView(node, True, locality=(("zone", zone),), load=load)

    nodes = {1: view(1, 900, "a"), 2: view(2, 800, "b"), 3: view(3, 850, "c"), 4: view(4, 10, "c"), 5: view(5, 0, "a")}
    rates, voters = {7: 600.0, 8: 300.0}, {7: [1, 2, 3], 8: [1, 2, 3]}
    assert lease_for_load(1, rates, voters, nodes, 100) is None
    # Node 5 stands in the leader's own zone; what leaves for node 4 is its neighbour in zone c.
    assert replica_for_load(1, rates, voters, {7: nodes, 8: nodes}, 100) == (8, 3, 4)
    others = {**nodes, 4: view(4, 700, "c")}
    assert replica_for_load(1, rates, voters, {7: others, 8: others}, 100) is None, "too even for a move"


def test_it_can_be_paused() -> None:
    world = World(settings={"range.split_qps": "100", "rebalance.enabled": "off"})
    world.load(1_000, 1_100, 100)
    world.cluster.advance(40)
    assert world.totals() == (0, 0, 0)
    world.run(world.operations[2].set("rebalance.enabled", "on"))
    world.cluster.advance(40)
    assert world.totals()[0] >= 1


def test_samples_are_of_all_that_was_asked_for() -> None:
    sampler = KeySampler()
    for number in range(100_000):
        sampler.note(b"%06d" % number)
        assert len(sampler.keys()) <= SAMPLES
    found = [int(key) for key in list(sampler.keys())]
    assert len(found) >= SAMPLES // 2 and found == sorted(found)
    assert max(after - before for before, after in itertools.pairwise(found)) <= 2 * 100_000 / len(found)


def test_where_a_busy_range_is_cut() -> None:
    def same(key: bytes) -> bytes:
        return key

    even = [b"%02d" % (number % 100) for number in range(500)]
    assert split_points(even, b"00", same) == [b"50"]
    assert split_points(even, b"00", same, 4) == [b"25", b"50", b"75"]
    assert split_points(even[:50], b"00", same) == [], "too few to tell"
    assert split_points([b"k"] * 200, b"a", same, 4) == []
    assert hot_key([b"k"] * 200 + even, same) == b"k"
    # Two rows share the load: the cut is between them, also where the range begins at one of them.
    assert split_points([b"a", b"b"] * 100, b"a", same, 3) == [b"b"]
    heavy = (
        [b"%02d" % number for number in range(10)] * 8
        + [b"50"] * 80
        + [b"%02d" % (60 + number) for number in range(10)] * 8
    )
    assert split_points(heavy, b"00", same, 3) == [b"50", b"60"]
    # Colocated rows are one.
    assert split_points([b"h1a", b"h1b", b"h1c"] * 100, b"a", lambda key: key[:2]) == []


def test_which_lease_goes_where() -> None:
    def nodes(*loads: float) -> dict[int, NodeView]:
        return {number: NodeView(number, True, load=load) for number, load in enumerate(loads, 1)}

    voters = {7: [1, 2, 3], 8: [1, 2, 3], 9: [1, 2]}
    rates = {7: 500.0, 8: 400.0, 9: 100.0}
    assert lease_for_load(1, rates, voters, nodes(1000, 200, 300), 50) == (8, 2)
    assert lease_for_load(1, rates, voters, nodes(1000, 900, 950), 50) is None, "nearly even"
    assert lease_for_load(1, {7: 1000.0}, {7: [1, 2]}, nodes(1000, 0), 50) is None, "it would only change sides"
    assert lease_for_load(1, rates, {7: [1]}, nodes(1000, 0, 0), 50) is None
    # Many small ones: each does little, several do it; but not from two nodes at a time.
    small = dict.fromkeys(range(10), 60.0)
    everywhere = {number: [1, 2, 3] for number in small}
    several = leases_for_load(1, small, everywhere, nodes(600, 0, 100), 50)
    assert [to for _, to in several] == [2, 2, 3, 2] and len({range_id for range_id, _ in several}) == 4
    assert len(leases_for_load(1, small, everywhere, nodes(600, 0, 700), 50)) == 1


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("server.time_until_dead", "90s", 90),
        ("server.time_until_dead", "5 min", 300),
        ("range.max_bytes", "64MB", 64 << 20),
        ("range.split_qps", "250", 250),
        ("rebalance.enabled", "off", 0),
    ],
)
def test_values_of_settings(name: str, text: str, value: float) -> None:
    assert parse(name, text) == value
    assert parse(name, shown(name, value)) == value
    assert all(parse(each, shown(each, setting.default)) == setting.default for each, setting in SETTINGS.items())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nonsense", "1"),
        ("range.max_bytes", "64 furlongs"),
        ("range.max_bytes", "1"),
        ("server.time_until_dead", "-5"),
        ("server.time_until_dead", ""),
        ("rebalance.enabled", "maybe"),
    ],
)
def test_values_that_settings_cannot_have(name: str, text: str) -> None:
    with pytest.raises(SettingRefused):
        parse(name, text)


def test_settings_reach_every_node_and_outlive_restarts() -> None:
    world = World(settings={"server.time_until_dead": "20s"})
    assert {store.membership.dead_after_ns for store in world.cluster.stores()} == {20_000_000_000}
    world.cluster.crash("n1", "n2", "n3")
    world.cluster.restart("n1", "n2", "n3")
    world.cluster.advance(10)
    assert {store.membership.dead_after_ns for store in world.cluster.stores()} == {20_000_000_000}


def test_a_node_without_others_keeps_its_ranges_whole() -> None:
    world = World(nodes=1, settings={"range.max_bytes": "512kB", "range.split_qps": "50"})
    world.load(1_000, 2_000, 100)
    for number in range(3_000, 11_000):
        world.run(world.gateways[1].ingest([(b"\x04l%05d" % number, b"v" * 100)]))
    world.cluster.advance(60)
    assert world.totals()[0] == 0
