"""Closed timestamps and what copies serve by them; the whole under trouble is in simulate.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from pydistdb.kv.answers import TOO_LATE
from pydistdb.kv.api import Isolation, NotClosed, SnapshotTooOld, Timestamp
from pydistdb.kv.closed import ClosedTimestamps
from pydistdb.kv.gateway import Gateway
from pydistdb.kv.hlc import COUNTER_BITS
from pydistdb.kv.requests import Ingest
from pydistdb.kv.store import Store
from pydistdb.kv.transport import ClosedUpTo, ClosedWanted

from tests.support.cluster import Cluster

RR = Isolation.REPEATABLE_READ
KEY = b"\x04k"
FAR = b"\x04z"


# ------------------------------------------------------------------------------------------------ what a receiver believes


class Receiver:
    """Closed timestamps of a node that has a replica of range 7, and of range 9."""

    def __init__(self) -> None:
        self.replicas = {number: self._replica(number) for number in (7, 9)}
        self.scheduler = SimpleNamespace(now_ns=lambda: 0)
        self.sent: list[Any] = []
        self.closed = ClosedTimestamps(self)  # type: ignore[arg-type]

    def _replica(self, number: int) -> Any:
        return SimpleNamespace(range_id=number, durable_applied=0, installing=False, destroyed=False)

    def send_envelope(self, node_id: int, envelope: Any) -> None:
        self.sent.append(envelope.message)

    def at(self, number: int, applied: int) -> Timestamp:
        self.replicas[number].durable_applied = applied
        return self.closed.at(self.replicas[number])


def test_nothing_counts_before_the_index_is_applied() -> None:
    receiver = Receiver()
    receiver.closed.receive(2, ClosedUpTo(1, 1000, True, {7: 41, 9: 12}))
    assert receiver.at(7, 40) == 0
    assert receiver.at(7, 41) == receiver.at(9, 12) == 1000
    receiver.closed.receive(2, ClosedUpTo(2, 2000, False, {7: 43}))
    assert receiver.at(7, 42) == 1000
    assert receiver.at(9, 12) == 2000, "an idle range is not mentioned"
    receiver.closed.receive(2, ClosedUpTo(3, 3000, False, {}, [9]))
    assert receiver.at(7, 43) == 3000
    assert receiver.at(9, 99) == 2000


def test_a_copy_that_is_always_behind_gets_on() -> None:
    """The index of each message is applied only after the next one has come."""
    receiver = Receiver()
    seen = []
    for number in range(1, 10):
        receiver.closed.receive(2, ClosedUpTo(number, number * 1000, number == 1, {7: number * 10}))
        seen.append(receiver.at(7, number * 10 - 5))
    assert seen == [0, 1000, 2000, 3000, 4000, 5000, 6000, 7000, 8000]


def test_a_missing_message_is_asked_for() -> None:
    receiver = Receiver()
    receiver.closed.receive(2, ClosedUpTo(1, 1000, True, {7: 41}))
    assert receiver.at(7, 41) == 1000
    receiver.closed.receive(2, ClosedUpTo(3, 3000, False, {}))  # the second said that 7 has moved on
    assert receiver.at(7, 41) == 1000
    assert receiver.sent == [ClosedWanted()]
    receiver.closed.receive(2, ClosedUpTo(4, 4000, True, {7: 50}))
    assert receiver.at(7, 49) == 1000
    assert receiver.at(7, 50) == 4000
    receiver.closed.receive(2, ClosedUpTo(2, 2000, False, {7: 44}))  # overtaken
    assert receiver.at(7, 50) == 4000


def test_another_leaseholder_takes_over() -> None:
    receiver = Receiver()
    receiver.closed.receive(2, ClosedUpTo(1, 1000, True, {7: 41, 9: 5}))
    assert receiver.at(9, 5) == receiver.at(7, 41) == 1000
    receiver.closed.receive(3, ClosedUpTo(1, 1500, True, {7: 60}))
    assert receiver.at(7, 50) == 1000
    receiver.closed.receive(2, ClosedUpTo(2, 9000, False, {}))  # it has not heard yet that 7 is not its own
    assert receiver.at(7, 59) == 1000
    assert receiver.at(7, 60) == 1500
    assert receiver.at(9, 5) == 9000


# ---------------------------------------------------------------------------------------------------------- in a cluster


class World:
    def __init__(self, seed: int = 1, nodes: int = 3) -> None:
        self.cluster = Cluster(seed)
        self.gateways: dict[str, Gateway] = {}
        self.cluster.on_open.append(self._open)
        self.cluster.start(nodes)
        self.write(b"1", KEY, FAR)
        self.cluster.run(self.any.split([b"\x04m"]))

    def _open(self, store: Store) -> None:
        gateway = self.gateways[f"n{store.node_id}"] = Gateway(store)
        gateway.start()

    @property
    def any(self) -> Gateway:
        return self.gateways["n1"]

    def write(self, value: bytes, *keys: bytes) -> Timestamp:
        async def write() -> Timestamp:
            txn = self.any.begin(RR)
            for key in keys:
                txn.put(key, value)
            return await txn.commit()

        return self.cluster.run(write())

    def holder(self, key: bytes = KEY) -> str:
        name = self.cluster.leaseholder_name(key)
        assert name is not None
        return name

    def other(self, key: bytes = KEY) -> str:
        return next(name for name, node in self.cluster.nodes.items() if name != self.holder(key) and node.running)

    def look_back(self, name: str, floor: Timestamp, *keys: bytes, exact: bool = False) -> tuple[Timestamp, list[Any]]:
        async def read() -> tuple[Timestamp, list[Any]]:
            txn = self.gateways[name].begin_stale(RR, lambda: floor, exact=exact)
            txn.begin_statement()
            txn.schema_checked = True
            values = await txn.get_many(keys)
            served.append(dict(txn.served))
            return txn.read_timestamp, values

        served: list[dict[int, int]] = []
        found = self.cluster.run(read())
        self.served = served[0]
        return found


def test_a_follower_answers_by_itself() -> None:
    world = World()
    name = world.other()
    written = world.write(b"2", KEY)
    at = world.gateways[name].now()
    world.cluster.advance(1.5)
    sent = world.cluster.network.messages
    txn = world.gateways[name].begin_stale(RR, lambda: at)
    txn.begin_statement()
    txn.schema_checked = True
    assert txn.read_timestamp > at > written
    assert txn.try_get(KEY) == b"2"
    assert txn.try_scan(b"\x04", b"\x05", limit=10).values == [b"2"]
    assert txn.try_scan(b"\x04", b"\x05", limit=10, reverse=True).values == [b"1"]
    assert txn.is_local(b"\x04", b"\x05")
    assert world.cluster.network.messages == sent
    assert txn.served == {world.gateways[name].node_id: 3}
    # Not closed yet: the leaseholder answers.
    now = world.gateways[name].now()
    assert world.look_back(name, now, KEY) == (now, [b"2"])
    assert world.served == {world.cluster.nodes[world.holder()].node_id: 1}
    with pytest.raises(SnapshotTooOld):
        world.look_back(name, now - (400_000_000 << COUNTER_BITS), KEY, exact=True)


def test_the_past_stays_as_it_was() -> None:
    world = World()
    first = world.write(b"2", KEY, FAR)
    world.write(b"3", KEY, FAR)
    world.cluster.advance(1.5)
    for name in world.gateways:
        assert world.look_back(name, first, KEY, FAR, exact=True) == (first, [b"2", b"2"])
        assert world.look_back(name, first - 1, KEY, FAR, exact=True) == (first - 1, [b"1", b"1"])


def test_reads_go_on_while_the_leaseholder_is_gone() -> None:
    """From the moment on at which it is cut off: at some time in the past, and never back behind it."""
    world = World()
    world.write(b"2", KEY, FAR)
    world.cluster.advance(1.5)
    name = world.other()
    holder = world.holder()
    world.cluster.network.partition([holder], [other for other in world.cluster.nodes if other != holder])
    for _ in range(40):
        sent = world.cluster.scheduler.now_ns()
        assert world.look_back(name, 0, KEY, FAR)[1] == [b"2", b"2"]
        assert world.cluster.scheduler.now_ns() - sent < 50_000_000
        world.cluster.advance(0.1)
    # The one that is cut off has its own copy, too.
    assert world.look_back(holder, 0, KEY, FAR)[1] == [b"2", b"2"]


def test_an_undecided_write_is_read_around_only_if_its_leaseholder_is_silent() -> None:
    world = World()
    world.cluster.advance(1.5)
    name, holder = world.other(), world.holder()

    async def prepare() -> Any:
        txn = world.gateways[holder].begin(RR)
        txn.put(KEY, b"9")
        await txn._lay_down(txn._buffer, [])
        return txn

    txn = world.cluster.run(prepare())
    world.cluster.advance(2)
    follower = world.gateways[name].follower
    closed = world.gateways[name].store.closed.resolved()
    with pytest.raises(NotClosed) as refused:
        follower.get(KEY, closed)
    assert 0 < refused.value.usable < closed
    at, values = world.look_back(name, 0, KEY)
    assert (at, values) == (closed, [b"1"])
    assert world.served == {world.cluster.nodes[holder].node_id: 1}
    world.cluster.crash(*[other for other in world.cluster.nodes if other != name])
    world.cluster.advance(3)
    at, values = world.look_back(name, 0, KEY)
    assert (at, values) == (refused.value.usable, [b"1"])
    del txn


@pytest.mark.parametrize("phase", range(7))
def test_a_clock_that_has_jumped_closes_nothing(phase: int) -> None:
    """What a leaseholder with a wrong clock gave away would be in the future of the next one."""
    world = World(phase)
    cluster = world.cluster
    cluster.advance(5 + phase / 10)
    start_us = cluster.nodes["n2"].clock.physical_us() - cluster.scheduler.now_ns() // 1_000

    def check() -> None:
        latest = start_us + cluster.scheduler.now_ns() // 1_000 + 250_000 << COUNTER_BITS
        for store in cluster.stores():
            assert all(store.closed.at(replica) <= latest for replica in store.replicas.values())

    wrong = cluster.nodes[world.holder()]
    wrong.skew_us = 3_000_000
    for _ in range(10):
        cluster.advance(0.1)
        check()
    wrong.skew_us = 0
    for _ in range(20):
        cluster.advance(0.1)
        check()
    cluster.advance(10)
    name = world.other()
    at = world.gateways[name].now() - (1_000_000 << COUNTER_BITS)
    assert all(store.closed.at(replica) > at for store in cluster.stores() for replica in store.replicas.values())


def test_an_idle_cluster_says_little() -> None:
    world = World()
    world.cluster.run(world.any.split([b"\x04a%d" % number for number in range(30)]))
    world.cluster.advance(10)
    messages: list[ClosedUpTo] = []
    for store in world.cluster.stores():
        receive = store.closed.receive
        store.closed.receive = lambda node, message, receive=receive: (messages.append(message), receive(node, message))  # type: ignore[method-assign]
    world.cluster.advance(6)
    assert 60 <= len(messages) <= 110  # each node to itself and two others, every 600 ms
    assert not any(message.changed or message.removed for message in messages)


def test_nothing_is_ingested_at_a_closed_timestamp() -> None:
    world = World()
    holder = world.holder()
    gateway = world.gateways[holder]
    late = gateway.now()
    world.cluster.advance(2)
    answer = world.cluster.run(gateway.router.send(Ingest(late, [(KEY, b"5")])))
    assert answer.resume == TOO_LATE
    world.cluster.run(gateway.ingest([(KEY, b"6")]))
    world.cluster.advance(2)
    assert world.look_back(world.other(), 0, KEY)[1] == [b"6"]


def test_a_node_without_a_copy_asks_the_nearest() -> None:
    world = World(nodes=4)
    world.cluster.advance(20)  # replicas have gone where there were fewer
    held = {replica.node_id for replica in world.cluster.leaseholder(KEY).descriptor.replicas}  # type: ignore[union-attr]
    name = next((name for name, node in world.cluster.nodes.items() if node.node_id not in held), None)
    assert name is not None
    gateway = world.gateways[name]
    at = gateway.now() - (2_000_000 << COUNTER_BITS)
    for nearest in held:
        gateway.store.round_trip_us = lambda node_id, nearest=nearest: int(node_id != nearest)  # type: ignore[method-assign]
        assert world.look_back(name, at, KEY, exact=True)[1] == [b"1"]
        assert world.served == {nearest: 1}
