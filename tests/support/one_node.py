"""One node's kv without Raft: fake replicas whose commands are applied at once, after a delay, or not at all.

node = OneNode()                                  # one range over everything, lease held
db = node.gateway
node.run(txn.commit())
node.store.split_at(b"m"); node.store.lose_lease(b"a"); node.store.hold = True      # to play trouble
"""

from __future__ import annotations

from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any, TypeVar

from pydistdb.kv.api import OutcomeUnknown
from pydistdb.kv.command import Command, NotLeaseholder, ProposalLost, moved_records, transaction_prefix
from pydistdb.kv.descriptor import RangeDescriptor, ReplicaDescriptor
from pydistdb.kv.gateway import Gateway
from pydistdb.kv.hlc import HybridClock
from pydistdb.kv.store_config import Metrics
from pydistdb.kv.transport import LoopbackTransport
from pydistdb.kv.versions import THIS_RELEASE, ClusterVersion
from pydistdb.tasks import Completion, SimulatedScheduler
from pydistdb_storage.engine import Engine, Space, WriteBatch
from pydistdb_storage.memory_engine import MemoryEngine

T = TypeVar("T")
START_US = 1_700_000_000_000_000


class FakeReplica:
    """A replica whose log is a list of commands."""

    def __init__(self, store: FakeStore, descriptor: RangeDescriptor) -> None:
        self.store = store
        self.descriptor = descriptor
        self.leased = True
        self.lease_epoch = 1
        self.previous_epoch = 0
        self.queue: list[tuple[Command, Completion[None]]] = []
        self.proposals = 0

    @property
    def leader_hint(self) -> int | None:
        return self.store.node_id if self.leased else None

    @property
    def is_about_to_lead(self) -> bool:
        return False

    def is_leaseholder(self) -> bool:
        return self.leased

    def propose(self, command: Command) -> Completion[None]:
        completion: Completion[None] = Completion()
        self.proposals += 1
        if not self.leased:
            completion.fail(NotLeaseholder(self.descriptor.range_id, 0))
            return completion
        self.queue.append((command, completion))
        if not self.store.hold:
            if self.store.delay_ns:
                scheduler = self.store.scheduler
                scheduler.call_at(scheduler.now_ns() + self.store.delay_ns, self.apply_next)
            else:
                self.apply_next()
        return completion

    def apply_next(self) -> None:
        if not self.queue:
            return
        command, completion = self.queue.pop(0)
        if command.generation != self.descriptor.generation or command.lease_epoch != self.lease_epoch:
            completion.fail(ProposalLost("overtaken"))
            return
        batch = WriteBatch()
        for space, start, end in command.clears:
            batch.clear_range(Space(space), start, end)
        for space, key, value in command.writes:
            batch.operations.append((Space(space), key, value))
        self.store.engine.apply([batch])
        completion.set(None)

    def drop_next(self) -> None:
        """Lose the oldest command that waits."""
        self.queue.pop(0)[1].fail(ProposalLost("lost"))


class FakeStore:
    """A node's store that holds one fake replica for each range."""

    def __init__(self, scheduler: SimulatedScheduler, engine: Engine | None = None, node_id: int = 1) -> None:
        self.node_id = node_id
        self.engine: Engine = engine or MemoryEngine()
        self.scheduler = scheduler
        self.clock = HybridClock(lambda: START_US + scheduler.now_ns() // 1_000)
        self.transport = LoopbackTransport(node_id)
        self.observers: list[Any] = []
        self.closed: Any = SimpleNamespace(last=0, at=lambda replica: 0, resolved=lambda: 0)
        self.garbage: Any = SimpleNamespace(horizon=0)
        self.metrics = Metrics()
        self.versions = ClusterVersion()
        self.versions.raise_to(THIS_RELEASE.newest)
        self.delay_ns = 0
        self.hold = False
        """Commands wait for ``apply_next``."""
        descriptor = RangeDescriptor(1, b"", b"\xff", 1, (ReplicaDescriptor(node_id, 1),), 2)
        self.replicas = [FakeReplica(self, descriptor)]

    def start(self) -> None:
        for replica in self.replicas:
            self.gain_lease(replica.descriptor.start)

    def register(self, request: Any, handler: Any) -> None:
        pass

    def silent_ns(self, node_id: int) -> int:
        return 0

    def live_nodes(self) -> list[int]:
        return [self.node_id]

    def known_nodes(self) -> list[int]:
        return [self.node_id]

    def replica_for_key(self, key: bytes) -> FakeReplica:
        return next(r for r in self.replicas if r.descriptor.contains(key))

    def replica_before(self, end: bytes) -> FakeReplica:
        return next(r for r in self.replicas if r.descriptor.start < end <= r.descriptor.end)

    def round_trip_us(self, node_id: int) -> int:
        return 0

    async def split(self, key: bytes) -> None:
        self.split_at(key)

    def split_at(self, key: bytes) -> None:
        left = self.replica_for_key(key)
        old = left.descriptor
        generation = old.generation + 1
        right_id = max(r.descriptor.range_id for r in self.replicas) + 1
        left.descriptor = RangeDescriptor(old.range_id, old.start, key, generation, old.replicas, 2)
        right = FakeReplica(self, RangeDescriptor(right_id, key, old.end, generation, old.replicas, 2))
        self.replicas.append(right)
        prefix = transaction_prefix(old.range_id)
        records = list(self.engine.latest().scan(Space.STATE, prefix, prefix + b"\xff" * 17))
        batch = WriteBatch()
        for old_key, new_key, value in moved_records(records, old.range_id, right_id, key):
            batch.delete(Space.STATE, old_key)
            batch.put(Space.STATE, new_key, value)
        self.engine.apply([batch])
        for observer in self.observers:
            observer.range_split(left, right)
            observer.lease_acquired(right)

    def lose_lease(self, key: bytes, *, apply: bool | None = None) -> None:
        """The lease goes; commands under way are applied, lost, or (None) of unknown outcome and applied later."""
        replica = self.replica_for_key(key)
        replica.leased = False
        for observer in self.observers:
            observer.lease_lost(replica)
        while replica.queue:
            if apply is None:
                break
            if apply:
                command, completion = replica.queue[0]
                replica.queue[0] = (command, Completion())
                replica.apply_next()
                completion.fail(OutcomeUnknown("lease lost"))
            else:
                replica.queue.pop(0)[1].fail(OutcomeUnknown("lease lost"))

    def gain_lease(self, key: bytes) -> None:
        replica = self.replica_for_key(key)
        replica.leased = True
        replica.lease_epoch += 1
        for observer in self.observers:
            observer.lease_acquired(replica)


class OneNode:
    """Scheduler, fake store and gateway together."""

    def __init__(self, engine: Engine | None = None) -> None:
        self.scheduler = SimulatedScheduler()
        self.store = FakeStore(self.scheduler, engine)
        self.gateway = Gateway(self.store)
        self.store.start()
        self.gateway.start()

    def run(self, coroutine: Coroutine[Any, None, T], seconds: float = 60.0) -> T:
        return self.scheduler.run(coroutine, int(seconds * 1e9))

    def advance(self, seconds: float) -> None:
        self.scheduler.advance(int(seconds * 1e9))

    def restart_gateway(self) -> None:
        """A new gateway process over the same store: every transaction of the old one is gone."""
        self.gateway.stop()
        self.store.observers.clear()
        self.gateway = Gateway(self.store)
        for replica in self.store.replicas:
            self.store.gain_lease(replica.descriptor.start)
        self.gateway.start()

    def intents(self) -> int:
        return sum(1 for _ in self.store.engine.latest().scan(Space.INTENTS, b"", b"\xff\xff"))

    def records(self) -> int:
        return sum(1 for _ in self.store.engine.latest().scan(Space.STATE, b"txn/", b"txn0"))
