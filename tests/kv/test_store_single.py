"""A store alone: one apply per commit, group commit, restart, splits, full disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydistdb.kv.api import DiskFull, OutcomeUnknown
from pydistdb.kv.command import Command, CommandTooLarge, NotLeaseholder, ProposalLost, transaction_prefix
from pydistdb.kv.replica import Replica
from pydistdb_storage import mvcc
from pydistdb_storage.engine import Engine, Space
from pydistdb_storage.errors import StoreCorrupt, StoreFull
from pydistdb_storage.lmdb_engine import LMDBEngine
from pydistdb_storage.memory_engine import MemoryEngine
from pydistdb_storage.rows import encode

from tests.support.cluster import Cluster

VERSIONS = int(Space.VERSIONS)
STATE = int(Space.STATE)


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster()
    cluster.bootstrap("n1")
    cluster.advance(2)
    return cluster


def leaseholder(cluster: Cluster, key: bytes = b"\x04") -> Replica:
    replica = cluster.leaseholder(key)
    assert replica is not None
    return replica


def command(replica: Replica, key: bytes, value: bytes, generation: int | None = None) -> Command:
    timestamp = replica.owner.clock.now()
    write = (VERSIONS, mvcc.versioned(key, timestamp), value)
    return Command(
        replica.lease_epoch, replica.descriptor.generation if generation is None else generation, timestamp, [write]
    )


def log_length(engine: Engine) -> int:
    return len(list(engine.latest().scan(Space.LOG, b"", b"\xff" * 16)))


def test_a_commit_is_one_apply_and_leaves_no_log(cluster: Cluster) -> None:
    node = cluster.nodes["n1"]
    before = node.committer.applies
    replica = leaseholder(cluster)
    done = replica.propose(command(replica, b"\x04k", b"v"))
    assert not done.done, "nothing is acknowledged before it is durable"
    assert mvcc.get(node.engine.latest(), b"\x04k", mvcc.MAX_TIMESTAMP)[0] is None
    cluster.advance(0.0005)
    assert done.done and done.error() is None
    assert node.committer.applies == before + 1
    assert log_length(node.engine) == 0


def test_what_waits_shares_an_apply(cluster: Cluster) -> None:
    node = cluster.nodes["n1"]
    replica = leaseholder(cluster)
    before = node.committer.applies
    done = [replica.propose(command(replica, b"\x04k%d" % i, b"v")) for i in range(100)]
    cluster.advance(0.0001)
    done += [replica.propose(command(replica, b"\x04l%d" % i, b"v")) for i in range(100)]
    cluster.advance(0.01)
    assert all(completion.error() is None and completion.done for completion in done)
    assert node.committer.applies == before + 2


def test_refused_commands(cluster: Cluster) -> None:
    replica = leaseholder(cluster)
    stale = replica.propose(command(replica, b"\x04k", b"v", generation=99))
    assert isinstance(stale.error(), ProposalLost)
    other_term = command(replica, b"\x04k", b"v")
    other_term.lease_epoch += 1
    assert isinstance(replica.propose(other_term).error(), NotLeaseholder)
    assert isinstance(replica.propose(command(replica, b"\x04k", b"v" * (5 << 20))).error(), CommandTooLarge)


def test_a_crash_loses_what_was_not_acknowledged_only(tmp_path: Path) -> None:
    engines: dict[str, LMDBEngine] = {}

    def engine(name: str) -> Engine:
        engines[name] = LMDBEngine(tmp_path / name, map_bytes=1 << 26)
        return engines[name]

    cluster = Cluster(engine_factory=engine)
    node = cluster.bootstrap("n1")
    cluster.run(cluster.put(b"\x04a", b"1"))
    cluster.run(cluster.split(b"\x04m"))
    cluster.run(cluster.put(b"\x04z", b"2"))
    replica = leaseholder(cluster, b"\x04a")
    unfinished = replica.propose(command(replica, b"\x04b", b"3"))
    cluster.advance(0.0001)
    cluster.crash("n1")
    assert isinstance(unfinished.error(), OutcomeUnknown)
    engines["n1"].close()
    node.engine = LMDBEngine(tmp_path / "n1", map_bytes=1 << 26)
    cluster.restart("n1")
    assert cluster.wait_until(cluster.covered) < 0.5, "a store alone serves at once"
    assert cluster.run(cluster.get(b"\x04a")) == b"1"
    assert cluster.run(cluster.get(b"\x04z")) == b"2"
    assert cluster.run(cluster.get(b"\x04b")) is None
    assert leaseholder(cluster, b"\x04z").range_id == 2
    cluster.run(cluster.put(b"\x04b", b"4"))
    node.engine.close()


def test_a_split_moves_keys_and_transaction_records(cluster: Cluster) -> None:
    replica = leaseholder(cluster)
    left, right = transaction_prefix(1), transaction_prefix(2)
    records = [(left + b"t1".ljust(16), encode([b"\x04a", 1])), (left + b"t2".ljust(16), encode([b"\x04x", 2]))]
    first = command(replica, b"\x04x", b"v")
    first.writes.append((STATE, *records[0]))
    done = replica.propose(first)
    cluster.advance(0.01)
    assert done.error() is None
    # The second record is still on its way when the split is applied.
    second = command(replica, b"\x04y", b"v")
    second.writes.append((STATE, *records[1]))
    overtaken = command(replica, b"\x04z", b"v")
    replica.propose(second)
    split = cluster.scheduler.spawn(cluster.split(b"\x04m"))
    cluster.scheduler.run_until(split.completion)
    assert isinstance(replica.propose(overtaken).error(), ProposalLost), "evaluated before the split"
    view = cluster.nodes["n1"].engine.latest()
    assert view.get(Space.STATE, records[0][0]) is not None
    assert view.get(Space.STATE, records[1][0]) is None
    assert view.get(Space.STATE, right + b"t2".ljust(16)) == records[1][1]
    holder = leaseholder(cluster, b"\x04y")
    assert (holder.range_id, holder.descriptor.start) == (2, b"\x04m")
    assert replica.descriptor.end == b"\x04m" and replica.is_leaseholder()
    cluster.run(cluster.split(b"\x04m"))  # already a boundary
    assert len(cluster.store("n1").replicas) == 2


def test_many_splits_are_published(cluster: Cluster) -> None:
    store = cluster.store("n1")
    keys = [b"\x05" + bytes([i]) for i in range(0, 250, 10)] + [b"\x04m", b"\x04mm", b"\x04m\x00"]
    for key in keys:
        cluster.run(cluster.split(key))
    cluster.advance(0.5)
    published = store.directory.published(b"", b"\xff", 1000)
    assert [descriptor.start for descriptor in published] == [b"", *sorted(keys)]
    assert [d.start for d in store.directory.published(b"\x04mm", b"\x04mn", 10)] == [b"\x04mm"]
    assert [d.start for d in cluster.run(store.directory.look_up(b"\x04a", b"\x04b"))] == [b""]
    assert [replica.descriptor.start for replica in store.overlapping(b"\x04m", b"\x04mm")] == [b"\x04m", b"\x04m\x00"]
    with pytest.raises(Exception, match="stay in one range"):
        cluster.run(store.split(b"\x01x"))


def test_a_crash_between_split_and_publication_is_made_good(cluster: Cluster) -> None:
    store = cluster.store("n1")
    split = cluster.scheduler.spawn(store.split(b"\x04m"))
    while not split.completion.done:
        cluster.advance(0.0001)
    cluster.crash("n1")
    cluster.restart("n1")
    cluster.advance(1.0)
    starts = [descriptor.start for descriptor in cluster.store("n1").directory.published(b"", b"\xff", 10)]
    assert starts == [b"", b"\x04m"]


def test_a_full_disk_refuses_writes_and_reads_go_on(cluster: Cluster) -> None:
    node = cluster.nodes["n1"]
    cluster.run(cluster.put(b"\x04a", b"1"))
    replica = leaseholder(cluster)
    node.committer.error = StoreFull("no room")
    caught = replica.propose(command(replica, b"\x04b", b"2"))
    cluster.advance(0.1)
    assert isinstance(caught.error(), DiskFull)
    assert isinstance(replica.propose(command(replica, b"\x04c", b"3")).error(), DiskFull)
    assert cluster.run(cluster.get(b"\x04a")) == b"1"
    assert cluster.store("n1").status().write_error == "no room"
    cluster.advance(5)
    node.committer.error = None
    cluster.advance(2)
    cluster.run(cluster.put(b"\x04d", b"4"))
    assert cluster.run(cluster.get(b"\x04b")) is None, "its client was told that it was not written"
    cluster.crash("n1")
    cluster.restart("n1")
    assert cluster.run(cluster.get(b"\x04d")) == b"4"
    assert cluster.run(cluster.get(b"\x04b")) is None


def test_a_damaged_store_stops_the_node(cluster: Cluster) -> None:
    node = cluster.nodes["n1"]
    node.committer.error = StoreCorrupt("damaged")
    replica = leaseholder(cluster)
    done = replica.propose(command(replica, b"\x04b", b"2"))
    cluster.advance(0.1)
    assert isinstance(node.fatal, StoreCorrupt)
    assert isinstance(done.error(), OutcomeUnknown)
    assert not node.running


def test_read_barrier_and_status(cluster: Cluster) -> None:
    replica = leaseholder(cluster)
    cluster.run(cluster.put(b"\x04a", b"1"))
    barrier = replica.read_barrier()
    cluster.scheduler.run_until(barrier)
    status = cluster.store("n1").status()
    assert [(node.name, node.state, node.address) for node in status.nodes] == [("n1", "live", "n1")]
    (only,) = status.ranges
    assert (only.role, only.leaseholder, only.leader, only.log_length) == ("leader", True, 1, 0)
    assert only.commit_index == only.applied_index == only.last_index


def test_an_idle_store_does_nothing(cluster: Cluster) -> None:
    for i in range(50):
        cluster.run(cluster.split(b"\x05" + bytes([i])))
    cluster.advance(10)
    store = cluster.store("n1")
    ticks, applies = store.metrics.ticks, cluster.nodes["n1"].committer.applies
    cluster.advance(60)
    assert store.metrics.ticks == ticks
    assert cluster.nodes["n1"].committer.applies == applies
    assert all(replica.is_leaseholder() for replica in store.replicas.values())


def test_memory_engine_restart_keeps_everything(cluster: Cluster) -> None:
    assert isinstance(cluster.nodes["n1"].engine, MemoryEngine)
    for i in range(20):
        cluster.run(cluster.put(b"\x04%d" % i, b"v"))
    cluster.crash("n1")
    cluster.restart("n1")
    for i in range(20):
        assert cluster.run(cluster.get(b"\x04%d" % i)) == b"v"


def test_a_clear_takes_what_came_before_it_in_the_same_round(cluster: Cluster) -> None:
    node = cluster.nodes["n1"]
    cluster.run(cluster.put(b"\x04a", b"old"))
    replica = leaseholder(cluster)
    before = node.committer.applies
    first = replica.propose(command(replica, b"\x04b", b"1"))
    clearing = Command(replica.lease_epoch, replica.descriptor.generation, 0, [], [(VERSIONS, b"\x04", b"\x05")])
    second = replica.propose(clearing)
    third = replica.propose(command(replica, b"\x04c", b"3"))
    cluster.advance(0.01)
    assert all(done.done and done.error() is None for done in (first, second, third))
    assert node.committer.applies == before + 1, "all or nothing"
    found = mvcc.scan(node.engine.latest(), b"\x04", b"\x05", mvcc.MAX_TIMESTAMP, 10)
    assert found.keys == [b"\x04c"]


def test_a_clock_begins_above_what_the_store_holds(cluster: Cluster) -> None:
    cluster.run(cluster.put(b"\x04a", b"1"))
    written = cluster.nodes["n1"].clock.last()
    cluster.crash("n1")
    cluster.nodes["n1"].skew_us = -5_000_000
    cluster.restart("n1")
    cluster.run(cluster.put(b"\x04a", b"2"))
    assert cluster.nodes["n1"].clock.last() > written
    assert cluster.run(cluster.get(b"\x04a")) == b"2"
