"""All replicas of one node: one pipeline to the disk, one conversation with each other node.

``MultiRaft`` turns one engine, one clock, one transport and many sans-IO Raft groups into a working whole::

    transport ──receive_raft──► replica.step ┐                           ┌► engine.apply (one fsync for all ranges)
    leaseholder ──propose──────► raft        ├─► wake ─► _pump: process ─┤
    timer ──────tick───────────► raft        ┘           a Round         └► outbox ─► one message list per node

* **Rounds** (commit.py).  At most one is in flight.  What becomes ready meanwhile goes into the next; a range with peers
  is processed at once, because its messages should not wait for this node's disk, a range without waits for the disk
  to be free, because then all its waiting commands share one Ready.
* **Ticks** go only to groups that have something to wait for.  A quiescent group costs nothing; a follower is not
  ticked as long as its leader's node is supported (liveness.py), for it would not campaign anyway.
* **Failover.**  When support for a node is withdrawn, the ranges that it led are campaigned for at once, staggered by
  rank so that candidates seldom collide, and with the rank rotated by range so that leadership spreads.
* **Splits, snapshots, removals** change the set of replicas here, in the same rounds as the data.

A write that the disk refuses (full, read-only) is tried again every second; meanwhile proposals are refused with
``DiskFull``, and reads go on.  Anything else that the engine reports, and any apply that is not as deterministic as it
must be, is fatal: ``on_fatal`` is called and the store does nothing any more.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from pydistdb_storage.engine import Engine, Space, WriteBatch
from pydistdb_storage.errors import StorageError, StoreFull, StoreReadOnly
from pydistdb_storage.keys import prefix_end
from sortedcontainers import SortedDict

from pydistdb import raft
from pydistdb.kv.api import DiskFull, KVError, OutcomeUnknown
from pydistdb.kv.command import Command, ProposalLost, moved_records, transaction_prefix
from pydistdb.kv.commit import Committer, Round
from pydistdb.kv.descriptor import (
    NodeId,
    NodeIdentity,
    RangeDescriptor,
    RangeId,
    ReplicaDescriptor,
    ReplicaId,
    encode_descriptor,
)
from pydistdb.kv.hlc import HybridClock
from pydistdb.kv.liveness import Liveness
from pydistdb.kv.range_log import (
    INITIAL_INDEX,
    STATE_PREFIX,
    RangeLog,
    ReplicaState,
    descriptor_key,
    empty_state,
    initial_state,
    load_descriptor,
    load_state,
    log_span,
    membership_of,
    state_key,
    tombstone_key,
)
from pydistdb.kv.replica import Replica
from pydistdb.kv.snapshot import (
    SnapshotDamaged,
    SnapshotSlots,
    decode_chunk,
    install_batches,
    removal,
    stage_span,
    staged_descriptor,
)
from pydistdb.kv.transport import (
    Handler,
    LeadershipCheck,
    LeadershipDenied,
    Message,
    Ping,
    Pong,
    RaftEnvelope,
    ReplicaRemoved,
    ReplicaWaiting,
    Transport,
)
from pydistdb.raft.messages import Append, AppendResponse, Heartbeat, HeartbeatResponse, InstallSnapshot, Vote
from pydistdb.tasks import Completion, Scheduler

logger = logging.getLogger(__name__)

_MILLISECOND = 1_000_000


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Times and limits of a store; all nodes must agree on ``election_timeout_ns``."""

    tick_ns: int = 100 * _MILLISECOND
    election_timeout_ns: int = 1_000 * _MILLISECOND
    ping_ns: int = 200 * _MILLISECOND
    clock_drift_percent: int = 10
    campaign_stagger_ns: int = 150 * _MILLISECOND
    audit_ns: int = 5_000 * _MILLISECOND
    """How often followers ask whether the leader they know of still leads."""
    write_retry_ns: int = 1_000 * _MILLISECOND
    split_patience_ns: int = 1_000 * _MILLISECOND
    """How long a replica may be unknown here because the split that makes it is not applied yet."""
    log_entries_kept: int = 1_000
    log_entries_most: int = 3_000
    log_bytes_most: int = 8 << 20
    quiesce_after_ticks: int = 4
    dead_after_ns: int = 60_000 * _MILLISECOND
    """A node silent for this long is given up: its replicas are replaced."""
    replicate_ns: int = 1_000 * _MILLISECOND
    snapshots_at_once: int = 16
    """Snapshots that this node sends at a time; each pins old pages of the engine."""


class RangeObserver(Protocol):
    """Who serves the requests of ranges leased here."""

    def lease_acquired(self, replica: Replica) -> None:
        """Begin to serve: ``replica.local`` is the observer's."""

    def lease_lost(self, replica: Replica) -> None:
        """Stop; what waits must be sent elsewhere."""

    def range_split(self, left: Replica, right: Replica) -> None:
        """Note that keys from ``right.descriptor.start`` on have left ``left``, which keeps its lease."""


class ClusterHooks:
    """What the cluster's side of a node (membership.py, placement/) wants to hear of."""

    def descriptor_changed(self, replica: Replica) -> None:
        pass

    def lease_acquired(self, replica: Replica) -> None:
        pass

    def node_lost(self, node_id: NodeId) -> None:
        pass

    def node_found(self, node_id: NodeId) -> None:
        pass

    def write_refused(self) -> None:
        pass

    def leaderless(self, replica: Replica) -> None:
        pass

    def control(self, from_node: NodeId, message: Ping | Pong) -> None:
        pass


@dataclass(slots=True)
class Metrics:
    """Plain counters."""

    rounds: int = 0
    writes: int = 0
    write_failures: int = 0
    messages_sent: int = 0
    messages_received: int = 0
    ticks: int = 0
    elections: int = 0
    leases_acquired: int = 0
    splits: int = 0
    snapshots_installed: int = 0


class MultiRaft:
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
        self.metrics = Metrics()
        self.replicas: dict[RangeId, Replica] = {}
        self.observers: list[RangeObserver] = []
        self.on_fatal: Callable[[BaseException], None] = lambda error: None
        self.cluster_hooks = ClusterHooks()
        self.liveness = Liveness(
            node.incarnation, self.config.election_timeout_ns, scheduler.now_ns, self._node_lost, self._node_found
        )
        self._by_start: SortedDict = SortedDict()
        self._start_of: dict[RangeId, bytes] = {}
        self._snapshot_slots = SnapshotSlots(self.config.snapshots_at_once)
        self._handlers: dict[type[Message], Handler] = {}
        self._dirty: dict[Replica, None] = {}
        self._active: dict[Replica, None] = {}
        self._pump_scheduled = False
        self._tick_scheduled = False
        self._round = Round()
        self._in_flight: Round | None = None
        self._outbox: dict[NodeId, list[RaftEnvelope]] = {}
        self._first_seen: dict[RangeId, int] = {}
        self._write_error: KVError | None = None
        self.stopped = False
        self.started = False

    # ------------------------------------------------------------------------------------------------------- lifecycle

    def start(self) -> None:
        """Load every replica and begin to take part."""
        view = self.engine.latest()
        found = [key for key, _ in view.scan(Space.STATE, STATE_PREFIX, prefix_end(STATE_PREFIX))]
        for key in found:
            self._load(int.from_bytes(key[len(STATE_PREFIX) :], "big"))
        self.started = True
        for replica in list(self.replicas.values()):
            if replica.is_initialized and replica.descriptor.replica(replica.replica_id) is None:
                self.destroy(replica)
            elif replica.commits_alone and replica.is_initialized:
                self._campaign(replica, 0, 1)
            else:
                self._activate(replica)
                self._campaign(replica, self.config.election_timeout_ns + self._rank(replica), 20)
        self._audit_later()

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

    def _load(self, range_id: RangeId) -> None:
        state = load_state(self.engine.latest(), range_id)
        assert state is not None
        if state.installing:
            state = self._finish_install(range_id, state)
        descriptor = load_descriptor(self.engine.latest(), range_id)
        self._add_replica(descriptor, range_id, state)

    def _finish_install(self, range_id: RangeId, state: ReplicaState) -> ReplicaState:
        """Do the rest of a snapshot's installation that a crash interrupted."""
        view = self.engine.snapshot()
        try:
            old = load_descriptor(view, range_id)
            descriptor = staged_descriptor(view, range_id)
            for batch in install_batches(view, range_id, state.installing, old):
                self.engine.apply([batch])
        finally:
            view.close()
        log = RangeLog(self.engine, range_id, state, membership_of(descriptor), self._snapshot_slots)
        meta = raft.SnapshotMeta(state.install_index, state.install_term, log.membership)
        self.engine.apply([_last_install_batch(log, descriptor, meta)])
        return log.state

    def _add_replica(self, descriptor: RangeDescriptor | None, range_id: RangeId, state: ReplicaState) -> Replica:
        membership = membership_of(descriptor) if descriptor is not None else raft.Membership()
        log = RangeLog(self.engine, range_id, state, membership, self._snapshot_slots)
        self.clock.raise_to(state.clock)
        replica = Replica(self, self._raft_config(state.replica_id), descriptor, log, self.rand)
        self.replicas[range_id] = replica
        if descriptor is not None:
            self._index(replica)
        return replica

    def _raft_config(self, replica_id: ReplicaId) -> raft.Config:
        config = self.config
        return raft.Config(
            peer=replica_id,
            tick_interval_ns=config.tick_ns,
            election_timeout_ticks=config.election_timeout_ns // config.tick_ns,
            heartbeat_ticks=max(1, config.ping_ns // config.tick_ns),
            clock_drift_percent=config.clock_drift_percent,
            quiesce_after_ticks=config.quiesce_after_ticks,
        )

    # --------------------------------------------------------------------------------------------------------- look-up

    def replica_for_key(self, key: bytes) -> Replica | None:
        """The replica here whose range holds ``key``."""
        position = self._by_start.bisect_right(key) - 1
        if position < 0:
            return None
        replica: Replica = self._by_start.peekitem(position)[1]
        return replica if key < replica.descriptor.end else None

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
        return [replica for replica in self.replicas.values() if replica.leased]

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

    # -------------------------------------------------------------------------------------------------------- requests

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

    # --------------------------------------------------------------------------------------------------------- rounds

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
        if replica not in self._active and self._needs_ticks(replica):
            self._activate(replica)

    def _submit(self) -> None:
        round = self._round
        if round.is_empty():
            return
        self._round = Round()
        self._in_flight = round
        round.seal()
        self.metrics.rounds += 1
        self.metrics.writes += round.size
        self._submit_batch(round, 0)

    def _submit_batch(self, round: Round, number: int) -> None:
        if self.stopped:
            return
        if number == len(round.batches):
            self._round_done(round)
            return

        def done(error: StorageError | None) -> None:
            if self.stopped:
                return
            if error is None:
                self._write_error = None
                self._submit_batch(round, number + 1)
            else:
                self._write_failed(round, number, error)

        self.committer.submit(round.batches[number], done)

    def _write_failed(self, round: Round, number: int, error: StorageError) -> None:
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
        self.scheduler.call_at(
            self.scheduler.now_ns() + self.config.write_retry_ns, lambda: self._submit_batch(round, number)
        )

    def _round_done(self, round: Round) -> None:
        self._in_flight = None
        try:
            for item in round.items:
                item.finish()
        except Exception as error:
            self.fatal(error)
            return
        if self._dirty or not self._round.is_empty():
            self._pump_scheduled = True
            self._pump()
        else:
            self._flush()

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

    def write_error(self) -> KVError | None:
        return self._write_error

    def background(self, work: Coroutine[Any, None, None], name: str) -> None:
        """Run ``work`` by itself; an error that is not one of this layer's is a bug and stops the node."""

        def ended(done: Completion[None]) -> None:
            error = done.error()
            if error is not None and not isinstance(error, KVError):
                self.fatal(error)

        self.scheduler.spawn(work, name).completion.on_done(ended)

    # ------------------------------------------------------------------------------------------------------- messages

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

    def _flush(self) -> None:
        if self._outbox and not self.stopped:
            outbox, self._outbox = self._outbox, {}
            for node_id, envelopes in outbox.items():
                self.metrics.messages_sent += len(envelopes)
                self.transport.send_raft(node_id, envelopes)

    def receive_raft(self, from_node: NodeId, envelopes: list[RaftEnvelope]) -> None:
        """Take one-way messages of another node (the transport has fed the clock already)."""
        if self.stopped or not self.started:
            return
        self.liveness.heard(from_node)
        self.metrics.messages_received += len(envelopes)
        for envelope in envelopes:
            message = envelope.message
            if isinstance(message, Ping | Pong | ReplicaWaiting | ReplicaRemoved | LeadershipCheck | LeadershipDenied):
                self._control(from_node, envelope.range_id, message)
                continue
            replica = self.replicas.get(envelope.range_id)
            if replica is None or message.to != replica.replica_id:
                replica = self._misaddressed(from_node, envelope.range_id, replica, message)
                if replica is None:
                    continue
            if self._admits(from_node, replica, message):
                replica.step(message, envelope.epoch)

    def _admits(self, from_node: NodeId, replica: Replica, message: raft.Message) -> bool:
        if message.sender not in replica.nodes:
            if replica.knows_removed(message.sender):
                self._tell_removed(replica, message.sender, from_node)
                return False
            replica.nodes[message.sender] = from_node
        kind = type(message)
        if kind is Vote:
            assert isinstance(message, Vote)
            bound = self._leader_node(replica)
            if bound == from_node:
                if message.term > replica.raft.term:
                    # Our leader campaigns, so it does not lead any more.
                    replica.expected_leader = 0
                    replica.leader_resigned = True
                    self._activate(replica)
            elif bound and not message.force and self.liveness.supports(bound):
                return False
        elif kind is InstallSnapshot:
            assert isinstance(message, InstallSnapshot)
            return self._admits_chunk(replica, message)
        return True

    def _leader_node(self, replica: Replica) -> NodeId:
        """The node that leads the range as far as this one knows, or is to lead it after a split."""
        leader = replica.raft.leader
        return replica.nodes.get(leader, 0) if leader else replica.expected_leader

    def _admits_chunk(self, replica: Replica, message: InstallSnapshot) -> bool:
        """Check a snapshot chunk's bytes, and that what it brings does not lie where another range is."""
        try:
            chunk = decode_chunk(message.data)
        except SnapshotDamaged as error:
            logger.warning("range %d: %s", replica.range_id, error)
            return False
        descriptor = chunk.descriptor
        if descriptor is None:
            return True
        return all(other is replica for other in self.overlapping(descriptor.start, descriptor.end))

    def _misaddressed(
        self, from_node: NodeId, range_id: RangeId, replica: Replica | None, message: raft.Message
    ) -> Replica | None:
        """Deal with a message to a replica that is not here; returns the replica if one is made for it."""
        if replica is not None:
            if message.to > replica.replica_id:
                # This node has been given a new replica, so the old one was removed, which it has not heard of.
                self.destroy(replica)
            return None
        if message.to < self._tombstone(range_id):
            return None
        kind = type(message)
        now = self.scheduler.now_ns()
        if kind is InstallSnapshot:
            assert isinstance(message, InstallSnapshot)
            if message.number != 0:
                return None
            return self._create_empty(from_node, range_id, message)
        if kind is Append:
            assert isinstance(message, Append)
            if message.index == INITIAL_INDEX and self._is_early(range_id, now):
                return None
            # As an empty log would answer: the leader falls back to a snapshot.
            answer = AppendResponse(message.sender, message.to, message.term, message.index, True, 0, 0)
            self.send_envelope(from_node, RaftEnvelope(range_id, 0, answer))
        elif kind is Heartbeat and not self._is_early(range_id, now):
            self.send_envelope(from_node, RaftEnvelope(range_id, 0, ReplicaWaiting(message.to)))
        return None

    def _is_early(self, range_id: RangeId, now_ns: int) -> bool:
        """Whether the range has been unknown for so short that a split under way may still bring it."""
        if len(self._first_seen) > 10_000:
            self._first_seen.clear()
        return now_ns - self._first_seen.setdefault(range_id, now_ns) < self.config.split_patience_ns

    def _create_empty(self, from_node: NodeId, range_id: RangeId, message: InstallSnapshot) -> Replica | None:
        try:
            descriptor = decode_chunk(message.data).descriptor
        except SnapshotDamaged:
            return None
        if descriptor is None or self.overlapping(descriptor.start, descriptor.end):
            return None
        replica = self._add_replica(None, range_id, empty_state(message.to))
        replica.nodes[message.sender] = from_node
        replica.nodes[message.to] = self.node_id
        self._first_seen.pop(range_id, None)
        return replica

    def _tombstone(self, range_id: RangeId) -> ReplicaId:
        data = self.engine.latest().get(Space.STATE, tombstone_key(range_id))
        return 0 if data is None else int.from_bytes(data, "big")

    def _control(self, from_node: NodeId, range_id: RangeId, message: Any) -> None:
        replica = self.replicas.get(range_id)
        match message:
            case ReplicaWaiting() if replica is not None and replica.is_leader:
                if message.replica_id in replica.nodes:
                    # Makes the leader probe again; what is missing there answers that by asking for a snapshot.
                    me, node = replica.replica_id, replica.raft
                    replica.step(HeartbeatResponse(me, message.replica_id, node.term, 0), 0)
            case ReplicaRemoved() if replica is not None and replica.replica_id == message.replica_id:
                if not replica.is_initialized or replica.descriptor.generation < message.generation:
                    self.destroy(replica)
            case LeadershipCheck():
                self._answer_leadership(from_node, message)
            case LeadershipDenied():
                self._leadership_denied(from_node, message)
            case Ping() | Pong():
                self.cluster_hooks.control(from_node, message)
            case _:
                pass

    # ----------------------------------------------------------------------------------------------------- leadership

    def supported_since_ns(self, node_id: NodeId, epoch: int) -> int:
        return self.liveness.supported_since_ns(node_id, epoch)

    def lease_duration_ns(self) -> int:
        return self.config.election_timeout_ns * (100 - self.config.clock_drift_percent) // 100

    def lease_needs_wait(self, replica: Replica) -> bool:
        # The only voter in a cluster of one: whatever was served was served by this node's clock.
        return not (replica.commits_alone and len(self.liveness.peers) == 0)

    def leadership_changed(self, replica: Replica) -> None:
        if replica.is_leader:
            self.metrics.elections += 1
            replica.leader_resigned = False
        elif replica.raft.leader:
            replica.leader_resigned = False

    def lease_changed(self, replica: Replica, acquired: bool) -> None:
        if acquired:
            self.metrics.leases_acquired += 1
        for observer in self.observers:
            if acquired:
                observer.lease_acquired(replica)
            else:
                observer.lease_lost(replica)
        if acquired:
            self.cluster_hooks.lease_acquired(replica)

    def _node_lost(self, node_id: NodeId) -> None:
        """Support for a node is withdrawn: find new leaders for what it led, and doubt our own leases."""
        if self.stopped:
            return
        now = self.scheduler.now_ns()
        for replica in list(self.replicas.values()):
            if self._leader_node(replica) == node_id:
                self._activate(replica)
                self._campaign(replica, self._rank(replica, node_id), 20)
            elif replica.is_leader and node_id in replica.nodes.values() and not replica.is_leaseholder():
                # Whether a majority is left shows once Raft asks.
                replica.raft.wake(now)
                self.wake(replica)
                self._activate(replica)
            if replica.is_leader:
                for replica_id, other in replica.nodes.items():
                    if other == node_id:
                        replica.raft.report_snapshot(replica_id, False)  # lets go of the engine's snapshot
        self.cluster_hooks.node_lost(node_id)

    def _node_found(self, node_id: NodeId) -> None:
        self.wake_led_with(node_id)
        self.cluster_hooks.node_found(node_id)

    def wake_led_with(self, node_id: NodeId) -> None:
        """Have every group led here hear anew from its replica on ``node_id``."""
        now = self.scheduler.now_ns()
        for replica in self.replicas.values():
            if replica.is_leader and node_id in replica.nodes.values():
                replica.raft.wake(now)
                self.wake(replica)

    def _rank(self, replica: Replica, without: NodeId = 0) -> int:
        """How long to wait before campaigning, so that the voters of a range do it one after another."""
        if not replica.is_initialized:
            return self.config.election_timeout_ns
        voters = [r.node_id for r in replica.descriptor.voters() if r.node_id != without]
        if self.node_id not in voters:
            return self.config.election_timeout_ns
        rank = (voters.index(self.node_id) + replica.range_id) % len(voters)
        return rank * self.config.campaign_stagger_ns + self.rand(0, self.config.campaign_stagger_ns // 3)

    def _campaign(self, replica: Replica, delay_ns: int, attempts: int, pause_ns: int = 300 * _MILLISECOND) -> None:
        """Campaign, again and again until somebody leads."""

        def campaign() -> None:
            node = replica.raft
            if self.stopped or replica.destroyed or node.role is raft.Role.LEADER:
                return
            leader = self._leader_node(replica) if node.leader else 0
            if leader and not replica.leader_resigned and self.liveness.supports(leader):
                return
            if node.role is not raft.Role.CANDIDATE:
                node.tick(self.scheduler.now_ns())
                node.campaign()
                self.wake(replica)
            if attempts > 1:
                self._campaign(replica, pause_ns + self.rand(0, pause_ns), attempts - 1, pause_ns)

        if delay_ns:
            self.scheduler.call_at(self.scheduler.now_ns() + delay_ns, campaign)
        else:
            campaign()

    def transfer_lease(self, replica: Replica, to: NodeId) -> bool:
        """Begin to hand leadership to the replica on ``to``; tells whether that is possible."""
        target = replica.descriptor.replica_on(to)
        if target is None or not replica.is_leader:
            return False
        try:
            replica.raft.transfer_leadership(target.replica_id)
        except raft.RaftError:
            return False
        replica.lease_until_ns = 0
        self.wake(replica)
        self._activate(replica)
        return True

    # ----------------------------------------------------------------------------------------------------------- ticks

    def _needs_ticks(self, replica: Replica) -> bool:
        node = replica.raft
        if node.quiescent or replica.destroyed:
            return False
        if node.role is not raft.Role.FOLLOWER or replica.leader_resigned:
            return True
        leader = self._leader_node(replica)
        return not (leader and self.liveness.supports(leader))

    def _activate(self, replica: Replica) -> None:
        self._active[replica] = None
        if not self._tick_scheduled and not self.stopped:
            self._tick_scheduled = True
            self.scheduler.call_at(self.scheduler.now_ns() + self.config.tick_ns, self._tick)

    def _tick(self) -> None:
        self._tick_scheduled = False
        if self.stopped:
            return
        now = self.scheduler.now_ns()
        active, self._active = self._active, {}
        for replica in active:
            if self._needs_ticks(replica):
                self.metrics.ticks += 1
                replica.tick()
                replica.expire_proposals(now)
                self._active[replica] = None
            elif replica.pending_proposals and not replica.destroyed:
                replica.expire_proposals(now)
                self._active[replica] = None
        if self._active:
            self._tick_scheduled = True
            self.scheduler.call_at(now + self.config.tick_ns, self._tick)

    def _audit_later(self) -> None:
        self.scheduler.call_at(self.scheduler.now_ns() + self.config.audit_ns, self._audit)

    def _audit(self) -> None:
        """Ask whether the leaders that this node relies on still lead: a supported node may have lost a range."""
        if self.stopped:
            return
        asked: dict[NodeId, list[tuple[RangeId, int, ReplicaId]]] = {}
        for replica in self.replicas.values():
            leader = self._leader_node(replica)
            if not leader and replica.is_initialized:
                self.cluster_hooks.leaderless(replica)
            if leader and leader != self.node_id and replica.is_initialized:
                asked.setdefault(leader, []).append((replica.range_id, replica.raft.term, replica.replica_id))
        for node_id, ranges in asked.items():
            self.send_envelope(node_id, RaftEnvelope(0, 0, LeadershipCheck(tuple(ranges))))
        self._audit_later()

    def _answer_leadership(self, from_node: NodeId, check: LeadershipCheck) -> None:
        denied: list[tuple[RangeId, int]] = []
        for range_id, term, replica_id in check.ranges:
            replica = self.replicas.get(range_id)
            if replica is not None and replica.is_leader and replica.knows_removed(replica_id):
                self._tell_removed(replica, replica_id, from_node)
            elif replica is None or replica.raft.term > term or (replica.raft.term == term and not replica.is_leader):
                denied.append((range_id, term))
        if denied:
            self.send_envelope(from_node, RaftEnvelope(0, 0, LeadershipDenied(tuple(denied))))

    def _leadership_denied(self, from_node: NodeId, denied: LeadershipDenied) -> None:
        for range_id, term in denied.ranges:
            replica = self.replicas.get(range_id)
            if replica is None or replica.raft.term != term or self._leader_node(replica) != from_node:
                continue
            replica.expected_leader = 0
            replica.leader_resigned = True
            replica.raft.wake(self.scheduler.now_ns())
            self._activate(replica)
            self._campaign(replica, self._rank(replica), 5)

    # --------------------------------------------------------------------------------------- splits, snapshots, removal

    def split_applied(self, left: Replica, old: RangeDescriptor, command: Command, round: Round) -> None:
        split = command.split
        assert split is not None
        right_id = split.right_range_id
        descriptor = RangeDescriptor(
            right_id, split.split_key, old.end, old.generation + 1, old.replicas, old.next_replica_id
        )
        records = self._current(round, Space.STATE, transaction_prefix(old.range_id))
        for old_key, new_key, value in moved_records(records, old.range_id, right_id, split.split_key):
            round.write((Space.STATE, old_key, None))
            round.write((Space.STATE, new_key, value))
        state = initial_state(left.replica_id)
        stranger = self.replicas.pop(right_id, None)
        if stranger is not None:
            # It waits for a snapshot, and may have voted already.
            assert not stranger.is_initialized, "the right part of a split exists already"
            state.term, state.vote = stranger.log.state.term, stranger.log.state.vote
            stranger.close(ProposalLost("the replica came into being by a split"))
            round.states.pop(state_key(right_id), None)
        round.write((Space.STATE, descriptor_key(right_id), encode_descriptor(descriptor)))
        right = self._add_replica(descriptor, right_id, state)
        round.states[state_key(right_id)] = right.log.encode_state
        self._first_seen.pop(right_id, None)
        self.metrics.splits += 1
        if left.is_leader:
            if left.leased:
                right.inherit_lease()
                if not right.commits_alone:
                    left.read_barrier()  # its heartbeats tell the followers that the split is committed
            # The followers may not have applied the split when the first request for votes comes.
            self._campaign(right, 0, 40, 25 * _MILLISECOND)
        else:
            right.expected_leader = leader = self._leader_node(left)
            self._activate(right)
            if leader:
                self.send_envelope(leader, RaftEnvelope(right_id, 0, ReplicaWaiting(right.replica_id)))
        for observer in self.observers:
            observer.range_split(left, right)

    def _current(self, round: Round, space: Space, prefix: bytes) -> list[tuple[bytes, bytes]]:
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

    def install(self, replica: Replica, meta: raft.SnapshotMeta) -> None:
        self.background(self._install(replica, meta), f"install range {replica.range_id}")

    async def _install(self, replica: Replica, meta: raft.SnapshotMeta) -> None:
        range_id = replica.range_id
        view = self.engine.snapshot()
        try:
            descriptor = staged_descriptor(view, range_id)
            old = load_descriptor(view, range_id)
            if any(other is not replica for other in self.overlapping(descriptor.start, descriptor.end)):
                self.fatal(AssertionError(f"snapshot of range {range_id} overlaps another range"))
                return
            for batch in install_batches(view, range_id, replica.log.state.installing, old):
                await self.write(batch)
        finally:
            view.close()
        if self.stopped or replica.destroyed:
            return
        await self.write(_last_install_batch(replica.log, descriptor, meta))
        self.metrics.snapshots_installed += 1
        replica.installed(descriptor, meta)

    def replicas_left(self, replica: Replica, gone: list[ReplicaDescriptor]) -> None:
        for former in gone:
            if former.node_id != self.node_id:
                self._tell_removed(replica, former.replica_id, former.node_id)

    def _tell_removed(self, replica: Replica, replica_id: ReplicaId, node_id: NodeId) -> None:
        """Let the node of a former replica know, so that it can delete its data."""
        message = ReplicaRemoved(replica_id, replica.descriptor.generation)
        self.send_envelope(node_id, RaftEnvelope(replica.range_id, 0, message))

    def metric_values(self) -> dict[str, int]:
        """The counters, by name."""
        return dataclasses.asdict(self.metrics)

    def removed(self, replica: Replica) -> None:
        self.scheduler.call_soon(lambda: self.destroy(replica))

    def destroy(self, replica: Replica) -> None:
        """Delete a replica and all it had; its id is never taken again."""
        range_id = replica.range_id
        if self.replicas.get(range_id) is not replica or self.stopped:
            return
        if replica.installing:
            self.scheduler.call_at(self.scheduler.now_ns() + self.config.tick_ns, lambda: self.destroy(replica))
            return
        logger.info("node %d gives up its replica of range %d", self.node_id, range_id)
        replica.close(OutcomeUnknown("the replica was removed"))
        del self.replicas[range_id]
        self._active.pop(replica, None)
        self._dirty.pop(replica, None)
        batch = WriteBatch()
        batch.cleared.append((Space.LOG, *log_span(range_id)))
        self._round.states.pop(state_key(range_id), None)
        if replica.is_initialized:
            self._unindex(replica)
            batch.cleared.extend(removal(replica.descriptor))
        else:
            batch.cleared.append((Space.STATE, *stage_span(range_id)))
        batch.delete(Space.STATE, descriptor_key(range_id))
        batch.delete(Space.STATE, state_key(range_id))
        batch.put(Space.STATE, tombstone_key(range_id), (replica.replica_id + 1).to_bytes(8, "big"))
        self.write(batch)


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


def _last_install_batch(log: RangeLog, descriptor: RangeDescriptor, meta: raft.SnapshotMeta) -> WriteBatch:
    """The batch that makes an installed snapshot the replica's state."""
    range_id = log.range_id
    log.reset(raft.SnapshotMeta(meta.index, meta.term, membership_of(descriptor)))
    batch = WriteBatch()
    batch.cleared.append((Space.LOG, *log_span(range_id)))
    batch.cleared.append((Space.STATE, *stage_span(range_id)))
    batch.put(Space.STATE, descriptor_key(range_id), encode_descriptor(descriptor))
    batch.put(Space.STATE, state_key(range_id), log.encode_state())
    return batch


async def _coroutine(awaitable: Awaitable[Message]) -> Message:
    return await awaitable
