"""Old versions go, and nothing that a read at or above the threshold can see."""

from __future__ import annotations

from pydistdb.kv.commit import InlineCommitter
from pydistdb.kv.garbage import PASS_INTERVAL_NS, GarbageCollector
from pydistdb.kv.hlc import COUNTER_BITS, HybridClock
from pydistdb.tasks import SimulatedScheduler
from pydistdb_storage import mvcc
from pydistdb_storage.engine import Space, WriteBatch
from pydistdb_storage.memory_engine import MemoryEngine

SECOND = 1_000_000 << COUNTER_BITS


class Node:
    """A store under a virtual clock."""

    def __init__(self, ttl_seconds: float) -> None:
        self.scheduler = SimulatedScheduler()
        self.engine = MemoryEngine()
        self.clock = HybridClock(lambda: self.scheduler.now_ns() // 1000)
        committer = InlineCommitter(self.scheduler, self.engine)
        self.collector = GarbageCollector(self.engine, self.scheduler, committer, self.clock, ttl_seconds)

    def write(self, key: bytes, value: bytes | None, note: bool = True) -> None:
        batch = WriteBatch()
        timestamp = self.clock.now()
        mvcc.put_version(batch, key, timestamp, value)
        if note:
            writes = [(int(Space.VERSIONS), mvcc.versioned(key, timestamp), value)]
            self.collector.note_all(writes, lambda write: batch.delete(Space.VERSIONS, write[1]))
        self.engine.apply([batch])

    def versions(self, key: bytes) -> int:
        return len(list(self.engine.latest().scan(Space.VERSIONS, key, key + b"\xff" * 9)))


def test_a_hot_row_sheds_its_versions_as_it_is_written() -> None:
    node = Node(ttl_seconds=10)
    for number in range(1000):
        node.write(b"row", b"%d" % number)
        node.scheduler.advance(1_000_000_000)
    assert node.versions(b"row") <= 13
    assert mvcc.get(node.engine.latest(), b"row", node.clock.now())[0] == b"999"
    at_threshold = mvcc.get(node.engine.latest(), b"row", node.collector.threshold)[0]
    assert at_threshold is not None and 985 <= int(at_threshold) <= 990


def test_the_background_pass_removes_what_was_overwritten_or_deleted() -> None:
    node = Node(ttl_seconds=10)
    for number in range(5000):
        node.write(b"k%05d" % number, b"old", note=False)
    for number in range(5000):
        node.write(b"k%05d" % number, None if number % 2 else b"new")
    node.collector.start()
    node.scheduler.advance(2 * PASS_INTERVAL_NS)
    left = list(node.engine.latest().scan(Space.VERSIONS, b"k", b"l"))
    assert len(left) == 2500
    assert {value for _, value in left} == {b"new"}


def test_a_store_at_rest_is_left_alone() -> None:
    node = Node(ttl_seconds=1)
    node.write(b"a", b"1")
    node.collector.start()
    node.scheduler.advance(3 * PASS_INTERVAL_NS)
    threshold = node.collector.threshold
    node.scheduler.advance(100 * PASS_INTERVAL_NS)
    assert node.collector.threshold == threshold


def test_nothing_younger_than_the_ttl_goes() -> None:
    node = Node(ttl_seconds=1_000_000)
    for number in range(50):
        node.write(b"row", b"%d" % number)
    node.scheduler.run(node.collector.collect())
    assert node.versions(b"row") == 50
