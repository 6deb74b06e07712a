"""Copies that come in are taken in small parts, and not at all while the store is behind with its tree."""

from __future__ import annotations

import pytest
from pydistdb.kv import intake
from pydistdb.kv.descriptor import RangeDescriptor, ReplicaDescriptor
from pydistdb.kv.intake import SnapshotIntake
from pydistdb.kv.range_log import membership_of
from pydistdb.kv.snapshot import SnapshotChunk, encode_chunk
from pydistdb.kv.transport import RaftEnvelope
from pydistdb.raft.messages import InstallSnapshot
from pydistdb.tasks import SimulatedScheduler
from pydistdb_storage.memory_engine import MemoryEngine

from pydistdb import raft
from tests.kv.test_snapshot_budget import World
from tests.support.cluster import Cluster

META = raft.SnapshotMeta(9, 1, raft.Membership(frozenset({1}), frozenset(), frozenset()))
CHUNK = 400_000


class Receiver:
    """An intake of which the test plays the rest."""

    def __init__(self) -> None:
        self.scheduler = SimulatedScheduler()
        self.engine = MemoryEngine()
        self.is_idle = False
        self.taken: list[tuple[int, int]] = []
        self.intake = SnapshotIntake(
            self.engine, self.scheduler, lambda _, envelope: self._take(envelope), lambda: self.is_idle
        )

    def _take(self, envelope: RaftEnvelope) -> None:
        chunk = envelope.message
        assert isinstance(chunk, InstallSnapshot)
        self.taken.append((envelope.range_id, chunk.number))

    def offer(self, range_id: int, *numbers: int) -> None:
        for number in numbers:
            chunk = InstallSnapshot(2, 1, 1, 7, META, number, bytes(CHUNK), False)
            self.intake.offer(1, RaftEnvelope(range_id, 0, chunk))


def test_a_round_gets_a_megabyte_or_so_of_all_ranges_together() -> None:
    receiver = Receiver()
    receiver.offer(5, 0, 1)
    receiver.offer(6, 0, 1, 2)
    receiver.offer(6, 1, 2)  # sent again, for there was no answer yet
    assert receiver.taken == [(5, 0), (5, 1), (6, 0)] and receiver.intake.waiting_bytes == 2 * CHUNK
    receiver.scheduler.advance(1_000_000_000)
    assert len(receiver.taken) == 3, "the round takes its time"
    receiver.intake.round_ended()
    assert receiver.taken[3:] == [(6, 1), (6, 2)] and receiver.intake.waiting_bytes == 0


def test_chunks_that_nobody_wanted_keep_nobody_waiting() -> None:
    receiver = Receiver()
    receiver.offer(5, 0, 1, 2, 3)
    receiver.is_idle = True
    receiver.scheduler.advance(intake.LOOK_AGAIN_NS)
    assert len(receiver.taken) == 4


def test_what_waits_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "MOST_WAITING_BYTES", 2 * CHUNK)
    receiver = Receiver()
    receiver.offer(5, *range(10))
    receiver.intake.round_ended()
    assert [number for _, number in receiver.taken] == [0, 1, 2, 3, 4]


def test_a_store_that_is_behind_takes_commits_and_no_copies() -> None:
    world = World()
    cluster = world.cluster
    (report,) = world.run(world.operations[1].surveyor.survey()).ranges()
    (free,) = {1, 2, 3, 4} - set(report.nodes)
    engine = next(node for node in cluster.nodes.values() if node.node_id == free).engine
    engine.is_behind = lambda: True  # type: ignore[method-assign]
    task = world.move()
    cluster.advance(10)
    store = next(store for store in cluster.stores() if store.node_id == free)
    assert not task.completion.done and store.intake.waiting_bytes > 0
    assert store.metrics.snapshots_installed == 0
    world.run(cluster.put(b"\x04kother", b"v"), 2)
    engine.is_behind = lambda: False  # type: ignore[method-assign]
    assert world.seconds(task) < 5


def test_snapshots_that_overlap_are_never_installed_both() -> None:
    """A range's snapshot from before a split, and one of what was cut off, arrive at the same time."""
    cluster = Cluster(seed=3)
    cluster.start(1, replication_factor=1)
    cluster.run(cluster.store("n1").split(b"\x04m"))
    cluster.add("n2")
    store = cluster.store("n2")

    def deliver(range_id: int, start: bytes, end: bytes, number: int = 0, *, done: bool, stream: int = 1) -> None:
        descriptor = RangeDescriptor(range_id, start, end, 3, (ReplicaDescriptor(1, 1), ReplicaDescriptor(2, 2)), 3)
        head = SnapshotChunk(None if number else descriptor, [], 1)
        meta = raft.SnapshotMeta(10, 5, membership_of(descriptor))
        message = InstallSnapshot(2, 1, 5, stream, meta, number, encode_chunk(head), done)
        store.deliver_raft(1, RaftEnvelope(range_id, 0, message))

    deliver(50, b"\x05a", b"\x05m", done=True)
    deliver(51, b"\x05g", b"\x05m", done=False)
    deliver(51, b"\x05g", b"\x05m", 1, done=True)
    deliver(52, b"\x05m", b"\x05z", done=True)
    pending = {range_id: store.replicas[range_id].raft.is_snapshot_pending for range_id in (50, 51, 52)}
    assert pending == {50: True, 51: False, 52: True}
    cluster.advance(1)
    assert store.replicas[50].is_initialized and not store.replicas[51].is_initialized
    deliver(51, b"\x05g", b"\x05m", 1, done=True)  # it comes again, and the first one is there now
    assert not store.replicas[51].raft.is_snapshot_pending
