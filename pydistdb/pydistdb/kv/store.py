"""One node's store as the rest of the database sees it: ranges, membership, addressing and placement together.

``MultiRaft`` (multiraft.py) does the work for the replicas that are here; around it stand

* ``membership``  who is in the cluster, pings, clocks (membership.py);
* ``directory``   where the ranges are, and the records of range 1 (placement/directory.py);
* ``queue``       replicas and leases in the right places (placement/queue.py);
* ``merger``      merges of ranges that are led here (merging.py), ``sweeper`` of those that are empty (placement/sweeping.py).

Example (the embedded default, a cluster of one)::

    identity = open_identity(engine) or bootstrap(engine, clock, cluster_id, "n1", NodeAddresses("localhost:26257"))
    store = Store(identity, engine, scheduler, clock, LoopbackTransport(), committer, random.randint)
    store.start()
    replica = store.replica_for_key(b"k")       # leased at once: this node is its only voter
    replica.propose(Command(replica.lease_epoch, replica.descriptor.generation, now, writes))
"""

from __future__ import annotations

from collections.abc import Callable

from pydistdb_storage.engine import Engine

from pydistdb.kv.api import KVError
from pydistdb.kv.command import Command, NotLeaseholder, ProposalLost, SplitTrigger
from pydistdb.kv.commit import Committer
from pydistdb.kv.descriptor import FIRST_RANGE_ID, FIRST_SPLIT_KEY, NodeId, NodeIdentity, RangeDescriptor
from pydistdb.kv.hlc import HybridClock
from pydistdb.kv.membership import Membership, NodeAddresses
from pydistdb.kv.merging import Merger
from pydistdb.kv.multiraft import ClusterHooks, MultiRaft, RangeObserver, StoreConfig
from pydistdb.kv.placement.directory import Directory, Done, NotHere
from pydistdb.kv.placement.queue import ReplicateQueue
from pydistdb.kv.placement.sweeping import Sweeper
from pydistdb.kv.replica import Replica
from pydistdb.kv.status import StoreStatus, store_status
from pydistdb.kv.transport import Message, Ping, Pong, Transport, register
from pydistdb.kv.versions import ClusterVersion, Feature
from pydistdb.tasks import Scheduler, sleep

_ELECTION_WAIT_NS = 500_000_000
_POLL_NS = 2_000_000


class SplitRange(Message):
    """Make ``key`` a boundary; sent to the leaseholder.  Answered by Done or NotHere."""

    key: bytes


class MergeRange(Message):
    """Make ``key`` no boundary any more; sent to the node that leads both ranges.  Answered by Done or NotHere."""

    key: bytes


class TransferLease(Message):
    """Hand the lease of the range that holds ``key`` to node ``to``; sent to the leaseholder."""

    key: bytes
    to: NodeId


class StatusRequest(Message):
    """Answered by StoreStatus."""


register(SplitRange, MergeRange, TransferLease, StatusRequest)


class Store(MultiRaft):
    """See the module's docstring."""

    def __init__(
        self,
        node: NodeIdentity,
        engine: Engine,
        scheduler: Scheduler,
        clock: HybridClock,
        transport: Transport,
        committer: Committer,
        rand: Callable[[int, int], int],
        config: StoreConfig | None = None,
        addresses: NodeAddresses | None = None,
        versions: ClusterVersion | None = None,
    ) -> None:
        super().__init__(node, engine, scheduler, clock, transport, committer, rand, config, versions)
        self.directory = Directory(self)
        self.membership = Membership(self, self.directory, addresses)
        settings = self.membership.settings
        self.snapshot_budget.bytes_per_second = lambda: settings.value("snapshot.bytes_per_second")
        self.snapshot_budget.time_share = lambda: settings.value("snapshot.cpu_percent") / 100
        self.queue = ReplicateQueue(self, self.membership)
        self.merger = Merger(self)
        self.sweeper = Sweeper(self)
        self.queue.swept = self.sweeper.swept
        self.cluster_hooks = _Hooks(self)
        self.register(SplitRange, self._on_split)
        self.register(MergeRange, self._on_merge)
        self.register(TransferLease, self._on_transfer)
        self.register(StatusRequest, self._on_status)

    def start(self) -> None:
        self.membership.start()
        super().start()
        self.queue.start()
        self.garbage.start()

    # ---------------------------------------------------------------------------------------------------------- splits

    async def split(self, key: bytes, *, automatic: bool = False) -> RangeDescriptor | None:
        """Make ``key`` a boundary of the range leased here that holds it; returns the right part, None if it was one.

        Raises NotLeaseholder; ProposalLost if another change got in the way (try again)."""
        if key < FIRST_SPLIT_KEY:
            raise KVError(f"keys below {FIRST_SPLIT_KEY!r} stay in one range")
        replica = self._leaseholder_of(key)
        if replica.descriptor.start == key:
            return None
        if replica.descriptor.is_changing:
            raise ProposalLost("the range is being changed")
        right_id = await self.directory.allocate(b"range")
        replica = self._leaseholder_of(key)
        descriptor = replica.descriptor
        if descriptor.start == key:
            return None
        leader = replica.replica_id if self.versions.is_active(Feature.BORN_LED) else 0
        trigger = SplitTrigger(key, right_id, automatic, leader)
        command = Command(replica.lease_epoch, descriptor.generation, 0, [], [], trigger)
        await replica.propose(command)
        right = self.replicas.get(right_id)
        if right is None:
            raise ProposalLost("the right part of the split went elsewhere")
        # Its first election is under way; whoever asked for the split wants to use it.
        deadline = self.scheduler.now_ns() + _ELECTION_WAIT_NS
        while not right.is_leaseholder() and self.scheduler.now_ns() < deadline and not self.stopped:
            await sleep(self.scheduler, _POLL_NS)
        return right.descriptor

    def _leaseholder_of(self, key: bytes) -> Replica:
        replica = self.replica_for_key(key)
        if replica is None:
            raise NotLeaseholder(0, 0)
        if not replica.is_leaseholder():
            raise NotLeaseholder(replica.range_id, replica.leader_hint or 0)
        return replica

    async def _on_split(self, from_node: NodeId, request: SplitRange) -> Message:
        for _ in range(5):
            try:
                await self.split(request.key)
                return Done()
            except NotLeaseholder as error:
                return NotHere(error.leader)
            except ProposalLost:
                await sleep(self.scheduler, _POLL_NS)
        return NotHere(self.node_id)

    async def _on_merge(self, from_node: NodeId, request: MergeRange) -> Message:
        try:
            await self.merger.merge(request.key)
        except NotLeaseholder as error:
            return NotHere(error.leader)
        return Done()

    async def _on_transfer(self, from_node: NodeId, request: TransferLease) -> Message:
        replica = self.replica_for_key(request.key)
        if replica is None or not replica.is_leader:
            return NotHere((replica.leader_hint or 0) if replica is not None else 0)
        if not self.transfer_lease(replica, request.to):
            raise KVError(f"node {request.to} cannot take the lease of range {replica.range_id}")
        return Done()

    # ---------------------------------------------------------------------------------------------------------- status

    def status(self) -> StoreStatus:
        """What this node knows, for ``proddb status``."""
        return store_status(self, self.membership)

    async def _on_status(self, from_node: NodeId, request: StatusRequest) -> Message:
        return self.status()

    def live_nodes(self) -> list[NodeId]:
        """The nodes of the cluster that have been heard of lately, this one included."""
        return [
            record.node_id
            for record in self.membership.active()
            if record.node_id == self.node_id or self.liveness.is_live(record.node_id)
        ]

    def silent_ns(self, node_id: NodeId) -> int:
        """How long nothing at all has been heard of another node."""
        return self.liveness.silent_ns(node_id)

    def round_trip_us(self, node_id: NodeId) -> int:
        """How long the last ping to a node took."""
        return self.membership.offsets.round_trip_us(node_id)

    def known_nodes(self) -> list[NodeId]:
        """The nodes of the cluster, heard of or not."""
        return [record.node_id for record in self.membership.active()] or [self.node_id]

    def drain(self) -> None:
        """Hand every lease to another node, before a planned stop."""
        self.membership.draining = True
        self.membership.note_emptying()
        self.queue.shed_leases()


class _Hooks(ClusterHooks):
    """Passes on what the parts want to hear of."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def descriptor_changed(self, replica: Replica) -> None:
        if replica.leased:
            self._store.directory.publish_soon(replica)
            self._store.queue.look_at(replica)

    def lease_acquired(self, replica: Replica) -> None:
        self._store.directory.publish_soon(replica)
        self._store.queue.look_at(replica)
        self._store.merger.look_at(replica)
        if replica.range_id == FIRST_RANGE_ID:
            self._store.membership.first_range_acquired()

    def leaderless(self, replica: Replica) -> None:
        self._store.directory.check_soon(replica)

    def write_refused(self) -> None:
        self._store.queue.shed_leases()

    def control(self, from_node: NodeId, message: Ping | Pong) -> None:
        if isinstance(message, Ping):
            self._store.membership.on_ping(from_node, message)
        else:
            self._store.membership.on_pong(from_node, message)


__all__ = [
    "ClusterHooks",
    "MergeRange",
    "RangeObserver",
    "SplitRange",
    "StatusRequest",
    "Store",
    "StoreConfig",
    "TransferLease",
]
