"""What every part of a store stands on: its replicas by id and by key, the pipeline to the disk, the outbox.

**Rounds** (commit.py).  At most one is in flight.  What becomes ready meanwhile goes into the next; a range with peers is
processed at once, because its messages should not wait for this node's disk, a range without waits for the disk to be
free, because then all its waiting commands share one Ready::

    wake(replica) ─► _pump: replica.process(round) ─► outbox ─► one list of messages per node
                                  └─► submit ─► (durable) ─► round items finish ─► wake …

A write that the disk refuses (full, read-only) is tried again every second; meanwhile proposals are refused with
``DiskFull``, and reads go on.  Anything else that the engine reports, and any apply that is not as deterministic as it
must be, is fatal: ``on_fatal`` is called and the store does nothing any more.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from pydistdb_storage.engine import Engine, Space, WriteBatch
from pydistdb_storage.errors import StorageError, StoreFull, StoreReadOnly
from pydistdb_storage.keys import prefix_end
from sortedcontainers import SortedDict

from pydistdb.kv.api import DiskFull, KVError, OutcomeUnknown
from pydistdb.kv.closed import ClosedTimestamps
from pydistdb.kv.command import ProposalLost
from pydistdb.kv.commit import Committer, Round
from pydistdb.kv.descriptor import (
    NodeId,
    NodeIdentity,
    RangeId,
    ReplicaId,
)
from pydistdb.kv.garbage import GarbageCollector
from pydistdb.kv.hlc import HybridClock
from pydistdb.kv.intake import SnapshotIntake
from pydistdb.kv.liveness import Liveness
from pydistdb.kv.replica import Replica
from pydistdb.kv.snapshot import (
    SnapshotBudget,
)
from pydistdb.kv.store_config import ClusterHooks, Metrics, RangeObserver, StoreConfig
from pydistdb.kv.transport import (
    Handler,
    Message,
    RaftEnvelope,
    ReplicaRemoved,
    Transport,
)
from pydistdb.kv.turns import Turns
from pydistdb.kv.versions import ClusterVersion
from pydistdb.tasks import Completion, Scheduler

logger = logging.getLogger(__name__)

CAMPAIGNS_A_TURN = 8
WOKEN_A_TURN = 64
TURN_NS = 4_000_000
"""See elections.py on pace."""


class StoreBase:
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
        versions: ClusterVersion | None = None,
    ) -> None:
        self.identity = node
        self.node_id: NodeId = node.node_id
        self.engine = engine
        self.scheduler = scheduler
        self.clock = clock
        self.transport = transport
        self.committer = committer
        self.rand = rand
        self.config = config or StoreConfig()
        if versions is None:
            versions = ClusterVersion()
            versions.load(engine)
        self.versions = versions
        self.metrics = Metrics()
        self.closed = ClosedTimestamps(self)
        self.garbage = GarbageCollector(engine, scheduler, committer, clock, self.config.garbage_ttl_seconds)
        self.replicas: dict[RangeId, Replica] = {}
        self.leased: dict[RangeId, Replica] = {}
        """Those that hold the lease: nothing that is done often goes through all the others."""
        self.observers: list[RangeObserver] = []
        self.on_fatal: Callable[[BaseException], None] = lambda error: None
        self.cluster_hooks = ClusterHooks()
        self.range_rates: Callable[[], Mapping[RangeId, float]] = dict
        """Tells the requests per second to the ranges leased here (the gateway counts them)."""
        self.liveness = Liveness(
            node.incarnation, self.config.election_timeout_ns, scheduler.now_ns, self.node_lost, self.node_found
        )
        self._by_start: SortedDict = SortedDict()
        self._start_of: dict[RangeId, bytes] = {}
        self.snapshot_budget = SnapshotBudget(self.config.snapshots_at_once, scheduler.now_ns)
        self.intake = SnapshotIntake(engine, scheduler, self.deliver_raft, self._is_idle)
        self._handlers: dict[type[Message], Handler] = {}
        self._campaigns = Turns(scheduler, CAMPAIGNS_A_TURN, TURN_NS)
        self._to_wake = Turns(scheduler, WOKEN_A_TURN, TURN_NS)
        self._dirty: dict[Replica, None] = {}
        self._active: dict[Replica, None] = {}
        self._pump_scheduled = False
        self._tick_scheduled = False
        self._round = Round()
        self._in_flight: Round | None = None
        self._outbox: dict[NodeId, list[RaftEnvelope]] = {}
        self._first_seen: dict[RangeId, int] = {}
        self._early: dict[RangeId, list[tuple[NodeId, RaftEnvelope]]] = {}
        """What to deliver when a split brings the right part: nodes, and messages from them."""
        self._to_tell: set[tuple[RangeId, ReplicaId]] = set()
        """Former replicas that are told of their removal as soon as enough others know."""
        self._write_error: KVError | None = None
        self.stopped = False
        self.started = False

    def stop(self) -> None:
        """Stop at once, as in a crash: whatever is not durable is lost."""
        self.stopped = True
        error = OutcomeUnknown("the node stopped")
        for replica in list(self.replicas.values()):
            replica.close(error)
        for round in (self._in_flight, self._round):
            for item in round.items if round is not None else ():
                item.abandon(error)

    def fatal(self, error: BaseException) -> None:
        if not self.stopped:
            logger.critical("node %d stops: %s", self.node_id, error)
            self.stop()
            self.on_fatal(error)

    # ---------------------------------------------------------------------------------------------------------- look-up

    def replica_for_key(self, key: bytes) -> Replica | None:
        """The replica here whose range holds ``key``."""
        position = self._by_start.bisect_right(key) - 1
        if position < 0:
            return None
        replica: Replica = self._by_start.peekitem(position)[1]
        return replica if key < replica.descriptor.end else None

    def replica_before(self, end: bytes) -> Replica | None:
        """The replica here whose range holds the keys just below ``end``."""
        position = self._by_start.bisect_left(end) - 1
        if position < 0:
            return None
        replica: Replica = self._by_start.peekitem(position)[1]
        return replica if end <= replica.descriptor.end else None

    def replica_ending_at(self, end: bytes) -> Replica | None:
        """The replica here whose range ends at ``end``."""
        replica = self.replica_before(end)
        return replica if replica is not None and replica.descriptor.end == end else None

    def overlapping(self, start: bytes, end: bytes) -> list[Replica]:
        """The replicas here whose ranges overlap [start, end), in order."""
        first = max(self._by_start.bisect_right(start) - 1, 0)
        found: list[Replica] = []
        for key in self._by_start.islice(first):
            replica: Replica = self._by_start[key]
            if replica.descriptor.start >= end:
                break
            if replica.descriptor.end > start:
                found.append(replica)
        return found

    def leased_replicas(self) -> list[Replica]:
        return list(self.leased.values())

    def descriptor_changed(self, replica: Replica) -> None:
        self._index(replica)
        self.cluster_hooks.descriptor_changed(replica)

    def _index(self, replica: Replica) -> None:
        """Enter a replica in the look-up by key, under its present start."""
        self._unindex(replica)
        start = replica.descriptor.start
        self._by_start[start] = replica
        self._start_of[replica.range_id] = start

    def _unindex(self, replica: Replica) -> None:
        start = self._start_of.pop(replica.range_id, None)
        if start is not None and self._by_start.get(start) is replica:
            del self._by_start[start]

    # --------------------------------------------------------------------------------------------------------- requests

    def register(self, request: type[Message], handler: Handler) -> None:
        """Answer requests of a class with ``handler(from_node, request)``."""
        assert request not in self._handlers, f"{request.__name__} has a handler already"
        self._handlers[request] = handler

    async def handle(self, from_node: NodeId, request: Message) -> Message:
        """Answer a request that came over the transport."""
        if self.stopped:
            raise ProposalLost("the node is stopping")
        handler = self._handlers.get(type(request))
        if handler is None:
            raise KVError(f"no handler for {type(request).__name__}")
        return await handler(from_node, request)

    def call(self, node_id: NodeId, request: Message) -> Completion[Any]:
        """Ask a node; this one without the transport."""
        if node_id == self.node_id:
            task = self.scheduler.spawn(_coroutine(self.handle(node_id, request)), "local call")
            return task.completion
        return self.transport.call(node_id, request)

    def background(self, work: Coroutine[Any, None, None], name: str) -> None:
        """Run ``work`` by itself; an error that is not one of this layer's is a bug and stops the node."""

        def ended(done: Completion[None]) -> None:
            error = done.error()
            if error is not None and not isinstance(error, KVError):
                self.fatal(error)

        self.scheduler.spawn(work, name).completion.on_done(ended)

    # ----------------------------------------------------------------------------------------------------------- rounds

    def wake(self, replica: Replica) -> None:
        self._dirty[replica] = None
        if not self._pump_scheduled:
            self._pump_scheduled = True
            self.scheduler.call_soon(self._pump)

    def _pump(self) -> None:
        """Process what is ready, start the next round if the disk is free, send."""
        self._pump_scheduled = False
        if self.stopped:
            return
        dirty, self._dirty = self._dirty, {}
        waiting = self._in_flight is not None
        round = self._round
        try:
            for replica in dirty:
                if waiting and replica.commits_alone:
                    self._dirty[replica] = None
                    continue
                self._process(replica, round)
        except Exception as error:
            self.fatal(error)
            return
        if not waiting:
            self._submit()
        self._flush()

    def _process(self, replica: Replica, round: Round) -> None:
        replica.process(round)
        if replica.destroyed:
            return
        log = replica.log
        config = self.config
        if log.length > config.log_entries_most:
            replica.truncate_log(config.log_entries_kept, round)
        elif log.size_bytes > config.log_bytes_most:
            replica.truncate_log(log.length // 4, round)
        if replica.raft.has_ready and not replica.installing:
            self._dirty[replica] = None
        self.processed(replica)

    def _submit(self) -> None:
        round = self._round
        if round.is_empty():
            return
        self._round = Round()
        self._in_flight = round
        batch = round.seal()
        if len(batch):
            self.metrics.rounds += 1
            self.metrics.writes += round.size
            self._write(round, batch)
        else:
            self._round_done(round)

    def _write(self, round: Round, batch: WriteBatch) -> None:
        def done(error: StorageError | None) -> None:
            if self.stopped:
                return
            if error is None:
                self._write_error = None
                self._round_done(round)
            else:
                self._write_failed(round, error)

        if not self.stopped:
            self.committer.submit(batch, done)

    def _write_failed(self, round: Round, error: StorageError) -> None:
        self.metrics.write_failures += 1
        if not isinstance(error, StoreFull | StoreReadOnly):
            self.fatal(error)
            return
        if self._write_error is None:
            logger.error("node %d cannot write: %s", self.node_id, error)
        self._write_error = DiskFull(str(error))
        round.without_voided()
        # What was proposed meanwhile would only run into the same error: answer it now.
        dirty, self._dirty = self._dirty, {}
        for replica in dirty:
            self._process(replica, self._round)
        self._round.without_voided()
        self._flush()
        self.cluster_hooks.write_refused()
        batch = round.batch
        assert batch is not None

        def again() -> None:
            self._write(round, batch)

        self.scheduler.call_at(self.scheduler.now_ns() + self.config.write_retry_ns, again)

    def _round_done(self, round: Round) -> None:
        self._in_flight = None
        try:
            for item in round.items:
                item.finish()
            self.intake.round_ended()
        except Exception as error:
            self.fatal(error)
            return
        if self._dirty or not self._round.is_empty():
            self._pump_scheduled = True
            self._pump()
        else:
            self._flush()

    def _is_idle(self) -> bool:
        return self._in_flight is None and self._round.is_empty() and not self._dirty

    def write(self, batch: WriteBatch) -> Completion[None]:
        """Write something of the store's own, in order with everything else; done once durable."""
        item = _Notify()
        for space, start, end in batch.cleared:
            self._round.clear((space, start, end))
        self._round.write_all(batch.operations)  # type: ignore[arg-type]  # Space is an int
        self._round.items.append(item)
        if not self._pump_scheduled:
            self._pump_scheduled = True
            self.scheduler.call_soon(self._pump)
        return item.completion

    def when_durable(self, round: Round) -> Completion[None]:
        """Done once what ``round`` holds so far is durable and visible."""
        item = _Notify()
        round.items.append(item)
        return item.completion

    def write_error(self) -> KVError | None:
        return self._write_error

    def current_entries(self, round: Round, space: Space, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """The entries under ``prefix`` as they will be once everything that is on its way is written."""
        end = prefix_end(prefix)
        entries = dict(self.engine.latest().scan(space, prefix, end))
        for source in (self._in_flight, round):
            if source is None:
                continue
            for _, key, value in source.pending(space, prefix, end):
                if value is None:
                    entries.pop(key, None)
                else:
                    entries[key] = value
        return sorted(entries.items())

    def metric_values(self) -> dict[str, int]:
        """The counters, by name."""
        return dataclasses.asdict(self.metrics)

    # --------------------------------------------------------------------------------------------------------- messages

    def send(self, replica: Replica, messages: list[Any]) -> None:
        node = replica.raft
        for message in messages:
            to = replica.nodes.get(message.to)
            if to is None or to == self.node_id:
                continue
            # The epoch vouches that this replica follows the receiver, so it must still be true when this is sent.
            follows = message.term == node.term and node.leader == message.to
            epoch = self.liveness.epoch_for(to) if follows else 0
            self.send_envelope(to, RaftEnvelope(replica.range_id, epoch, message))

    def send_envelope(self, to: NodeId, envelope: RaftEnvelope) -> None:
        queue = self._outbox.get(to)
        if queue is None:
            queue = self._outbox[to] = []
            if not self._pump_scheduled:
                self._pump_scheduled = True
                self.scheduler.call_soon(self._pump)
        queue.append(envelope)

    def tell_removed(self, replica: Replica, replica_id: ReplicaId, node_id: NodeId) -> None:
        """Let the node of a former replica know, so that it can delete its data, once nobody can need its vote.

        Whoever is not told now is told when it asks (``LeadershipCheck``)."""
        if replica.is_leader and not replica.raft.membership_known:
            if (replica.range_id, replica_id) in self._to_tell:
                return  # it has asked again
            self._to_tell.add((replica.range_id, replica_id))
            if replica.raft.quiescent:  # asleep it never hears who else knows of the change
                replica.raft.wake(self.scheduler.now_ns())
                self.wake(replica)
            deadline_ns = self.scheduler.now_ns() + self.config.tick_ns
            self.scheduler.call_at(deadline_ns, lambda: self._tell_removed_later(replica, replica_id, node_id))
            return
        message = ReplicaRemoved(replica_id, replica.descriptor.generation)
        self.send_envelope(node_id, RaftEnvelope(replica.range_id, 0, message))

    def _tell_removed_later(self, replica: Replica, replica_id: ReplicaId, node_id: NodeId) -> None:
        self._to_tell.discard((replica.range_id, replica_id))
        if replica.is_leader and not replica.destroyed and not self.stopped:
            self.tell_removed(replica, replica_id, node_id)

    def _flush(self) -> None:
        if self._outbox and not self.stopped:
            outbox, self._outbox = self._outbox, {}
            for node_id, envelopes in outbox.items():
                self.metrics.messages_sent += len(envelopes)
                self.transport.send_raft(node_id, envelopes)

    # ----------------------------------------------------------------------------- for the parts that stand on this one

    def deliver_raft(self, from_node: NodeId, envelope: RaftEnvelope) -> None:
        """Hand a message of Raft to the replica that it is for."""

    def processed(self, replica: Replica) -> None:
        """Called after a replica was processed."""

    def node_lost(self, node_id: NodeId) -> None:
        """Called when support for a node is withdrawn."""

    def node_found(self, node_id: NodeId) -> None:
        """Called when a node is supported (again)."""


class _Notify:
    """A round item that only tells when it is durable."""

    def __init__(self) -> None:
        self.completion: Completion[None] = Completion()

    def finish(self) -> None:
        self.completion.set(None)

    def abandon(self, error: BaseException) -> None:
        self.completion.fail(error)

    def voided(self) -> list[object]:
        return []


async def _coroutine(awaitable: Awaitable[Message]) -> Message:
    return await awaitable
