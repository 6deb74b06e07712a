"""Word of one-phase commits: found whatever becomes of the range, dropped in time, and no burden to splits."""

from __future__ import annotations

import pytest
from pydistdb.kv.api import Isolation
from pydistdb.kv.command import transaction_prefix
from pydistdb.kv.descriptor import RangeDescriptor
from pydistdb.kv.gateway import Gateway
from pydistdb.kv.outcomes import LONGEST_KEY, RETENTION_US, find_outcome, outcome_span, outcome_write
from pydistdb.kv.requests import CommitOnePhase
from pydistdb.kv.snapshot import data_spans
from pydistdb.kv.store import Store
from pydistdb.kv.versions import FIRST_VERSION, THIS_RELEASE, Supported
from pydistdb_storage.engine import Space
from pydistdb_storage.keys import prefix_end

from tests.support.cluster import Cluster

OLD = Supported(FIRST_VERSION, FIRST_VERSION)
"""Releases that leave records instead."""


def key_of(number: int) -> bytes:
    return b"\x04k%04d" % number


class Writers:
    """Three nodes; single keys are written at one that does not lead them."""

    def __init__(self, release: Supported = THIS_RELEASE) -> None:
        self.cluster = Cluster(seed=5)
        self.cluster.releases = dict.fromkeys(("n1", "n2", "n3"), release)
        self.gateways: dict[int, Gateway] = {}
        self.cluster.on_open.append(self._open)
        self.cluster.start(3)
        self.cluster.advance(3)
        name = self.cluster.leaseholder_name(key_of(0))
        assert name is not None
        self.store = self.cluster.store(name)
        self.remote = next(g for node_id, g in self.gateways.items() if node_id != self.store.node_id)
        self.sent: list[CommitOnePhase] = []
        send = self.remote.router.send

        async def noting(request: object, **options: object) -> object:
            if isinstance(request, CommitOnePhase):
                self.sent.append(request)
            return await send(request, **options)  # type: ignore[arg-type]

        self.remote.router.send = noting  # type: ignore[method-assign]

    def _open(self, store: Store) -> None:
        self.gateways[store.node_id] = Gateway(store)
        self.gateways[store.node_id].start()

    def write(self, count: int) -> None:
        async def each(number: int) -> None:
            transaction = self.remote.begin(Isolation.READ_COMMITTED)
            transaction.begin_statement()
            transaction.put(key_of(number), b"v")
            await transaction.commit()

        for number in range(count):
            self.cluster.run(each(number))

    def ask_again(self) -> list[int]:
        """What the requests are told that come once more: the times of their commits."""
        return [self.cluster.run(self.remote.router.send(request)).timestamp for request in list(self.sent)]

    def kept(self, prefix: bytes) -> int:
        return len(list(self.store.engine.latest().scan(Space.STATE, prefix, prefix_end(prefix))))


@pytest.mark.parametrize("release", [OLD, THIS_RELEASE], ids=["old", "new"])
def test_a_commit_is_known_after_a_split_and_a_merge(release: Supported) -> None:
    world = Writers(release)
    world.write(10)
    known = world.ask_again()
    assert len(set(known)) == 10
    world.cluster.run(world.store.split(key_of(5)))
    assert world.ask_again()[:10] == known
    world.cluster.run(world.store.merger.merge(key_of(5)))
    assert world.ask_again()[:10] == known


@pytest.mark.parametrize(("release", "records", "outcomes"), [(OLD, 10, 0), (THIS_RELEASE, 0, 10)], ids=["old", "new"])
def test_a_cluster_of_older_releases_keeps_records(release: Supported, records: int, outcomes: int) -> None:
    world = Writers(release)
    world.write(10)
    descriptor = world.store.replica_for_key(key_of(0)).descriptor
    assert world.kept(transaction_prefix(descriptor.range_id)) == records
    assert world.kept(b"done/") == outcomes


def test_a_split_takes_as_long_however_many_commits_are_known() -> None:
    world = Writers()

    def writes_of_a_split(at: int) -> int:
        before = world.store.metrics.writes
        split = world.cluster.scheduler.spawn(world.store.split(key_of(at)))
        world.cluster.scheduler.run_until(split.completion)
        return world.store.metrics.writes - before

    world.write(1)
    few = writes_of_a_split(200)
    world.write(180)
    assert world.kept(b"done/") == 181
    assert writes_of_a_split(90) <= few + 5


def test_outcomes_are_dropped_when_nobody_can_ask_any_more() -> None:
    world = Writers()
    world.write(30)
    world.cluster.run(world.store.split(key_of(5)))
    world.cluster.advance(RETENTION_US / 1e6 - 5)
    assert world.kept(b"done/") == 30
    world.cluster.advance(45)
    assert world.kept(b"done/") == 0


def test_outcomes_lie_by_key() -> None:
    descriptor = RangeDescriptor(7, b"\x04b", b"\x04d", 1, (), 1)
    start, end = outcome_span(b"\x04b", b"\x04d")
    assert (Space.STATE, start, end) in data_spans(descriptor)
    for key, is_inside in ((b"\x04a", False), (b"\x04b", True), (b"\x04c", True), (b"\x04d", False)):
        for transaction_id in (bytes(16), b"\xff" * 16):
            written = outcome_write(key, transaction_id, 5)[1]
            assert (start <= written < end) is is_inside


def test_word_of_a_key_that_is_too_long_is_none() -> None:
    world = Writers()
    view = world.store.engine.latest()
    assert find_outcome(view, b"\x04" + b"k" * LONGEST_KEY, bytes(16)) == 0
