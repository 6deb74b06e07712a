"""All replicas of one node, and their conversation with those of other nodes.

``MultiRaft`` turns one engine, one clock, one transport and many sans-IO Raft groups into a working whole::

    transport ──receive_raft──► replica.step ┐                           ┌► engine.apply (one fsync for all ranges)
    leaseholder ──propose──────► raft        ├─► wake ─► _pump: process ─┤
    timer ──────tick───────────► raft        ┘           a Round         └► outbox ─► one message list per node

    store_base.py   replicas, rounds, outbox          elections.py   ticks, campaigns, failover
    lifecycle.py    splits, snapshots, removal        this module    start, and what comes in from other nodes
"""

from __future__ import annotations

from typing import Any, cast

from pydistdb_storage.engine import Space
from pydistdb_storage.keys import prefix_end

from pydistdb import raft
from pydistdb.kv.descriptor import (
    NodeId,
    RangeId,
)
from pydistdb.kv.lifecycle import RangeLifecycle
from pydistdb.kv.range_log import (
    INITIAL_INDEX,
    STATE_PREFIX,
)
from pydistdb.kv.replica import Replica
from pydistdb.kv.store_config import ClusterHooks, RangeObserver, StoreConfig
from pydistdb.kv.transport import (
    ClosedUpTo,
    ClosedWanted,
    Control,
    LeadershipCheck,
    LeadershipDenied,
    Ping,
    Pong,
    RaftEnvelope,
    ReplicaRemoved,
    ReplicaWaiting,
)
from pydistdb.raft.messages import Append, AppendResponse, Heartbeat, HeartbeatResponse, InstallSnapshot, Vote

MAX_KEPT = 4
"""Messages for one range."""


class MultiRaft(RangeLifecycle):
    """See the module's docstring."""

    def start(self) -> None:
        """Load every replica and begin to take part."""
        view = self.engine.latest()
        found = [key for key, _ in view.scan(Space.STATE, STATE_PREFIX, prefix_end(STATE_PREFIX))]
        range_ids = [int.from_bytes(key[len(STATE_PREFIX) :], "big") for key in found]
        for range_id in range_ids:
            self.finish_install(range_id)
        for range_id in range_ids:
            self.load(range_id)
        self.started = True
        for replica in list(self.replicas.values()):
            if replica.commits_alone and replica.is_initialized:
                self.campaign_for(replica, 0, 1)
            else:
                self.activate(replica)
                self.campaign_for(replica, self.config.election_timeout_ns + self.rank_ns(replica), 20)
        self.audit_later()

    def receive_raft(self, from_node: NodeId, envelopes: list[RaftEnvelope]) -> None:
        """Take one-way messages of another node (the transport has fed the clock already)."""
        if self.stopped or not self.started:
            return
        self.liveness.heard(from_node)
        self.metrics.messages_received += len(envelopes)
        for envelope in envelopes:
            message = envelope.message
            if isinstance(message, Control):
                self._control(from_node, envelope.range_id, message)
            elif type(message) is InstallSnapshot:
                self.intake.offer(from_node, envelope)
            else:
                self.deliver_raft(from_node, envelope)

    def deliver_raft(self, from_node: NodeId, envelope: RaftEnvelope) -> None:
        if self.stopped:
            return
        message: Any = envelope.message
        replica = self.replicas.get(envelope.range_id)
        if replica is None or message.to != replica.replica_id:
            replica = self._misaddressed(from_node, envelope, replica)
            if replica is None:
                return
        if self._admits(from_node, replica, message):
            replica.step(message, envelope.epoch)

    def _admits(self, from_node: NodeId, replica: Replica, message: raft.Message) -> bool:
        if message.sender not in replica.nodes:
            if replica.knows_removed(message.sender):
                self.tell_removed(replica, message.sender, from_node)
                return False
            replica.nodes[message.sender] = from_node
        kind = type(message)
        if kind is Vote:
            assert isinstance(message, Vote)
            bound = self.leader_node(replica)
            if bound == from_node:
                if message.term > replica.raft.term:
                    # Our leader campaigns, so it does not lead any more.
                    replica.expected_leader = 0
                    replica.leader_resigned = True
                    self.activate(replica)
            elif bound and not message.force and self.liveness.supports(bound):
                return False
        elif kind is InstallSnapshot:
            assert isinstance(message, InstallSnapshot)
            return self.admits_chunk(replica, message)
        return True

    def _misaddressed(self, from_node: NodeId, envelope: RaftEnvelope, replica: Replica | None) -> Replica | None:
        """Deal with a message to a replica that is not here; returns the replica if one is made for it."""
        range_id, message = envelope.range_id, cast("raft.Message", envelope.message)
        if replica is not None:
            if message.to > replica.replica_id:
                # This node has been given a new replica, so the old one was removed, which it has not heard of.
                self.destroy(replica)
            return None
        if message.to < self.tombstone(range_id):
            return None
        kind = type(message)
        now = self.scheduler.now_ns()
        if kind is InstallSnapshot:
            assert isinstance(message, InstallSnapshot)
            if message.number != 0:
                return None
            return self.create_empty(from_node, range_id, message)
        if kind is Append:
            assert isinstance(message, Append)
            if message.index == INITIAL_INDEX and self._is_early(range_id, now):
                if not any(entry.data for entry in message.entries):  # the first of its term, which is short
                    self._keep(from_node, envelope)
                return None
            # As an empty log would answer: the leader falls back to a snapshot.
            answer = AppendResponse(message.sender, message.to, message.term, message.index, True, 0, 0)
            self.send_envelope(from_node, RaftEnvelope(range_id, 0, answer))
        elif kind is Heartbeat:
            if self._is_early(range_id, now):
                self._keep(from_node, envelope)
            else:
                self.send_envelope(from_node, RaftEnvelope(range_id, 0, ReplicaWaiting(message.to)))
        return None

    def _keep(self, from_node: NodeId, envelope: RaftEnvelope) -> None:
        """Keep a message for the replica that a split is about to bring: with its first entry and its first heartbeat the leader
        has its lease."""
        kept = self._early.setdefault(envelope.range_id, [])
        if len(kept) < MAX_KEPT:
            kept.append((from_node, envelope))

    def _is_early(self, range_id: RangeId, now_ns: int) -> bool:
        """Whether the range has been unknown for so short that a split under way may still bring it."""
        if len(self._first_seen) > 10_000:
            self._first_seen.clear()
            self._early.clear()
        return now_ns - self._first_seen.setdefault(range_id, now_ns) < self.config.split_patience_ns

    def _control(self, from_node: NodeId, range_id: RangeId, message: Any) -> None:
        replica = self.replicas.get(range_id)
        match message:
            case ReplicaWaiting() if replica is not None and replica.is_leader:
                if message.replica_id in replica.nodes:
                    # Makes the leader probe again; what is missing there answers that by asking for a snapshot.
                    me, node = replica.replica_id, replica.raft
                    replica.step(HeartbeatResponse(me, message.replica_id, node.term, 0), 0)
            case ReplicaWaiting() if replica is not None and replica.raft.role is not raft.Role.FOLLOWER:
                # It has just come into being by a split, and has missed the first request for its vote (lifecycle.py).
                replica.raft.ask_again()
                self.wake(replica)
            case ReplicaRemoved() if replica is not None and replica.replica_id == message.replica_id:
                # Equal: it has applied its removal itself, and waited to be let go (``removed``).
                if not replica.is_initialized or replica.descriptor.generation <= message.generation:
                    self.destroy(replica)
            case LeadershipCheck():
                self.answer_leadership(from_node, message)
            case LeadershipDenied():
                self.leadership_denied(from_node, message)
            case Ping() | Pong():
                self.cluster_hooks.control(from_node, message)
            case ClosedUpTo():
                self.closed.receive(from_node, message)
            case ClosedWanted():
                self.closed.wanted(from_node)
            case _:
                pass


__all__ = ["ClusterHooks", "MultiRaft", "RangeObserver", "StoreConfig"]
