"""How replicas come, change and go on one node: loaded, split, merged, filled by a snapshot, removed.

Each of these is written in the same rounds as the data, so that a crash finds a replica wholly there or not at all.
"""

from __future__ import annotations

import logging
from functools import partial

import msgspec
from pydistdb_storage.engine import Snapshot, Space, WriteBatch
from pydistdb_storage.keys import prefix_end

from pydistdb import raft
from pydistdb.kv.api import OutcomeUnknown, Timestamp
from pydistdb.kv.command import (
    Command,
    MergeStep,
    ProposalLost,
    merged_records,
    moved_records,
    transaction_prefix,
)
from pydistdb.kv.commit import Round
from pydistdb.kv.descriptor import (
    NodeId,
    RangeDescriptor,
    RangeId,
    ReplicaDescriptor,
    ReplicaId,
    decode_descriptor,
    encode_descriptor,
)
from pydistdb.kv.elections import Elections
from pydistdb.kv.proposals import NonDeterministicApply
from pydistdb.kv.range_log import (
    DESCRIPTOR_PREFIX,
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
    chunk_descriptor,
    install_batches,
    removal,
    stage_span,
    staged_head,
)
from pydistdb.kv.transport import (
    RaftEnvelope,
    ReplicaWaiting,
)
from pydistdb.kv.versions import Feature
from pydistdb.raft.messages import InstallSnapshot
from pydistdb.tasks import Completion

logger = logging.getLogger(__name__)

_MILLISECOND = 1_000_000


class RangeLifecycle(Elections):
    """See the module's docstring."""

    # ---------------------------------------------------------------------------------------------------------- loading

    def finish_install(self, range_id: RangeId) -> None:
        """Do the rest of a snapshot's installation that a crash interrupted, if there was one."""
        state = load_state(self.engine.latest(), range_id)
        if state is not None and state.installing:
            self._finish_install(range_id, state)

    def load(self, range_id: RangeId) -> None:
        state = load_state(self.engine.latest(), range_id)
        if state is not None:  # else it was merged into one whose snapshot has just been installed
            descriptor = load_descriptor(self.engine.latest(), range_id)
            self._add_replica(descriptor, range_id, state)

    def _finish_install(self, range_id: RangeId, state: ReplicaState) -> None:
        view = self.engine.snapshot()
        try:
            old = load_descriptor(view, range_id)
            descriptor, clock = staged_head(view, range_id)
            for merged in _merged_away(view, descriptor):
                replaced = load_state(view, merged.range_id)
                self.engine.apply([_removal_batch(merged.range_id, replaced.replica_id if replaced else 0, merged)])
            for batch in install_batches(view, range_id, state.installing, old):
                self.engine.apply([batch])
        finally:
            view.close()
        log = RangeLog(self.engine, range_id, state, membership_of(descriptor), self.snapshot_budget)
        meta = raft.SnapshotMeta(state.install_index, state.install_term, log.membership)
        self.engine.apply([_last_install_batch(log, descriptor, meta, clock)])

    def _add_replica(self, descriptor: RangeDescriptor | None, range_id: RangeId, state: ReplicaState) -> Replica:
        membership = membership_of(descriptor) if descriptor is not None else raft.Membership()
        log = RangeLog(self.engine, range_id, state, membership, self.snapshot_budget)
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

    # ----------------------------------------------------------------------------------------------------------- splits

    def split_applied(self, left: Replica, old: RangeDescriptor, command: Command, round: Round) -> None:
        split = command.split
        assert split is not None
        right_id = split.right_range_id
        descriptor = msgspec.structs.replace(
            old, range_id=right_id, start=split.split_key, generation=old.generation + 1, automatic=split.automatic
        )
        records = self.current_entries(round, Space.STATE, transaction_prefix(old.range_id))
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
        right.is_stored, right.durable_applied = False, 0
        round.states[state_key(right_id)] = right.log.encode_state
        self.metrics.splits += 1
        for observer in self.observers:
            observer.range_split(left, right)
        # Whoever proposed the split leads the right part in its first term, and takes that up only in the term of the whole in
        # which it proposed it: no life of it after a crash can be in that one.
        leads = split.leader == left.replica_id and left.is_leader and left.raft.term == command.lease_epoch
        if split.leader:
            assert self.versions.knows(Feature.BORN_LED), "an entry that an older release cannot read"
            right.raft.begin_led(split.leader, takes_over=leads)
        if left.is_leader:
            self._lead_right_part(left, right, round)
        else:
            right.expected_leader = self.leader_node(left)
            self.activate(right)
            right.process(round)
            self._tell_of_right_part(right)

    def _lead_right_part(self, left: Replica, right: Replica, round: Round) -> None:
        """Have this node, which leads the whole, lead the right part: its keys are served by nobody meanwhile.

        As its first leader it needs a round trip for the first heartbeats, and the sync of the split itself: its term needs no
        entry, since nobody led before.  Otherwise it must be elected, which takes two more of both: nobody else can have
        campaigned, so a pre-vote would tell nothing."""
        if left.leased:
            right.inherit_lease()
            if not right.commits_alone:
                left.read_barrier()  # its heartbeats tell the followers that the split is committed
        is_elected = right.raft.role is raft.Role.LEADER
        if not is_elected:
            right.raft.tick(self.scheduler.now_ns())
            right.raft.campaign(pre_vote=False)
        if right.commits_alone:
            self.wake(right)
            return
        right.process(round)
        if not is_elected:
            # The followers may not have applied the split when the request for votes comes.  They say when they have
            # (ReplicaWaiting); asking again and again is for messages that get lost.
            self.campaign_for(right, 4 * _MILLISECOND, 40, 4 * _MILLISECOND)

    def _tell_of_right_part(self, right: Replica) -> None:
        """Have the leader of a right part that is there now send what came too early, unless that was kept."""
        early = self._has_come(right.range_id)
        for from_node, envelope in early:
            self.scheduler.call_soon(partial(self.deliver_raft, from_node, envelope))
        if not early and right.expected_leader:
            self.send_envelope(right.expected_leader, RaftEnvelope(right.range_id, 0, ReplicaWaiting(right.replica_id)))

    def _has_come(self, range_id: RangeId) -> list[tuple[NodeId, RaftEnvelope]]:
        """A replica is here that was waited for; returns what was kept for it."""
        self._first_seen.pop(range_id, None)
        return self._early.pop(range_id, [])

    # ----------------------------------------------------------------------------------------------------------- merges

    def merge_applied(self, left: Replica, step: MergeStep, round: Round) -> None:
        right_id = step.right_range_id
        right = self.replicas.get(right_id)
        if right is None or not right.is_initialized or right.installing:
            raise NonDeterministicApply(f"range {left.range_id} takes in range {right_id}, which is not here")
        descriptor = right.descriptor
        if (descriptor.generation, descriptor.start, descriptor.end, descriptor.frozen) != (
            step.right_generation,
            left.descriptor.end,
            step.right_end,
            True,
        ):
            raise NonDeterministicApply(f"range {left.range_id} takes in range {right_id}, which is {descriptor}")
        for observer in self.observers:
            observer.range_merged(left, right)
        records = self.current_entries(round, Space.STATE, transaction_prefix(right_id))
        for old_key, new_key, value in merged_records(records, right_id, left.range_id):
            round.write((Space.STATE, old_key, None))
            round.write((Space.STATE, new_key, value))
        self._forget(right, ProposalLost("the range was merged into its left neighbour"))
        round.clear((Space.LOG, *log_span(right_id)))
        round.clear((Space.STATE, *stage_span(right_id)))
        round.states.pop(state_key(right_id), None)
        round.write((Space.STATE, descriptor_key(right_id), None))
        round.write((Space.STATE, state_key(right_id), None))
        round.write((Space.STATE, tombstone_key(right_id), (right.replica_id + 1).to_bytes(8, "big")))
        self.metrics.merges += 1
        durable: Completion[None] = self.when_durable(round)
        durable.on_done(lambda done: self._merge_durable(left, done))

    def _merge_durable(self, left: Replica, done: Completion[None]) -> None:
        if done.error() is None and left.leased:
            left.read_barrier()  # its heartbeats tell the followers that the merge is committed
            for observer in self.observers:
                observer.merge_settled(left)

    def is_merged_away(self, replica: Replica, descriptor: RangeDescriptor) -> bool:
        """Whether ``descriptor`` proves that the replica's range has been merged into another one.

        A range keeps its start as long as it lives, and generations only grow at any key."""
        return _is_merged_away(replica.descriptor, descriptor)

    # -------------------------------------------------------------------------------------------------------- snapshots

    def _is_free(self, descriptor: RangeDescriptor, replica: Replica | None) -> bool:
        """Whether no other living range's replica lies here where the snapshot of a range would."""
        others = self.overlapping(descriptor.start, descriptor.end)
        return all(other is replica or self.is_merged_away(other, descriptor) for other in others)

    def admits_chunk(self, replica: Replica, message: InstallSnapshot) -> bool:
        """Check a snapshot chunk's bytes, and that what it brings does not lie where another range is."""
        try:
            descriptor = chunk_descriptor(message.data)
        except SnapshotDamaged as error:
            logger.warning("range %d: %s", replica.range_id, error)
            return False
        stream = (message.sender, message.term, message.stream)
        if descriptor is not None:
            replica.arriving = (stream, descriptor)
        elif not message.done or replica.arriving is None:
            return True  # Raft knows what it lacks
        elif replica.arriving[0] != stream:
            return False  # it is not known what it brings
        else:
            descriptor = replica.arriving[1]
        frozen = replica.is_initialized and replica.descriptor.frozen
        if frozen and descriptor.generation <= replica.descriptor.generation:
            return False  # its data is complete, and may change hands any moment
        if not self._is_free(descriptor, replica):
            return False
        if message.done and not replica.raft.is_snapshot_pending:
            # With its last chunk a snapshot is sure to be installed: never two that overlap, such as one of a range and one
            # of what a split has cut off from it since.  The second one's chunk comes again.
            if any(
                other.claimed is not None and other.raft.is_snapshot_pending and _overlap(other.claimed, descriptor)
                for other in self.replicas.values()
                if other is not replica
            ):
                return False
            replica.claimed = descriptor
        return True

    def create_empty(self, from_node: NodeId, range_id: RangeId, message: InstallSnapshot) -> Replica | None:
        try:
            descriptor = chunk_descriptor(message.data)
        except SnapshotDamaged:
            return None
        if descriptor is None or not self._is_free(descriptor, None):
            return None
        replica = self._add_replica(None, range_id, empty_state(message.to))
        replica.nodes[message.sender] = from_node
        replica.nodes[message.to] = self.node_id
        self._has_come(range_id)
        return replica

    def install(self, replica: Replica, meta: raft.SnapshotMeta) -> None:
        self.background(self._install(replica, meta), f"install range {replica.range_id}")

    async def _install(self, replica: Replica, meta: raft.SnapshotMeta) -> None:
        range_id = replica.range_id
        view = self.engine.snapshot()
        try:
            descriptor, clock = staged_head(view, range_id)
            old = load_descriptor(view, range_id)
            if not self._is_free(descriptor, replica):
                self.fatal(AssertionError(f"snapshot of range {range_id} overlaps another range"))
                return
            for other in self.overlapping(descriptor.start, descriptor.end):
                if other is not replica:
                    self.destroy(other)
            for batch in install_batches(view, range_id, replica.log.state.installing, old):
                turn = await self.intake.take_turn()
                try:
                    await self.write(batch)
                finally:
                    turn.set(None)
        finally:
            view.close()
        if self.stopped or replica.destroyed:
            return
        self.clock.raise_to(clock)
        await self.write(_last_install_batch(replica.log, descriptor, meta, clock))
        self.metrics.snapshots_installed += 1
        replica.installed(descriptor, meta)

    # ---------------------------------------------------------------------------------------------------------- removal

    def replicas_left(self, replica: Replica, gone: list[ReplicaDescriptor]) -> None:
        for former in gone:
            if former.node_id != self.node_id:
                self.tell_removed(replica, former.replica_id, former.node_id)

    def tombstone(self, range_id: RangeId) -> ReplicaId:
        data = self.engine.latest().get(Space.STATE, tombstone_key(range_id))
        return 0 if data is None else int.from_bytes(data, "big")

    def removed(self, replica: Replica) -> None:
        """A replica has applied its own removal.

        It goes when the leader of those that are left says so (``tell_removed``), and not before: until a quorum of
        them knows of the change, they may need its vote, and a leader that removed itself must go on leading."""

    def destroy(self, replica: Replica) -> None:
        """Delete a replica and all it had; its id is never taken again."""
        range_id = replica.range_id
        if self.replicas.get(range_id) is not replica or self.stopped:
            return
        if replica.installing:
            self.scheduler.call_at(self.scheduler.now_ns() + self.config.tick_ns, lambda: self.destroy(replica))
            return
        logger.info("node %d gives up its replica of range %d", self.node_id, range_id)
        self._forget(replica, OutcomeUnknown("the replica was removed"))
        self._round.states.pop(state_key(range_id), None)
        descriptor = replica.descriptor if replica.is_initialized else None
        self.write(_removal_batch(range_id, replica.replica_id, descriptor))

    def _forget(self, replica: Replica, error: BaseException) -> None:
        """Take a replica out of memory."""
        replica.close(error)
        del self.replicas[replica.range_id]
        self._active.pop(replica, None)
        self._dirty.pop(replica, None)
        if replica.is_initialized:
            self._unindex(replica)


def _removal_batch(range_id: RangeId, replica_id: ReplicaId, descriptor: RangeDescriptor | None) -> WriteBatch:
    """Delete a replica and all it had."""
    batch = WriteBatch()
    batch.cleared.append((Space.LOG, *log_span(range_id)))
    if descriptor is not None:
        batch.cleared.extend(removal(descriptor))
    else:
        batch.cleared.append((Space.STATE, *stage_span(range_id)))
    batch.delete(Space.STATE, descriptor_key(range_id))
    batch.delete(Space.STATE, state_key(range_id))
    batch.put(Space.STATE, tombstone_key(range_id), (replica_id + 1).to_bytes(8, "big"))
    return batch


def _overlap(one: RangeDescriptor, other: RangeDescriptor) -> bool:
    return one.start < other.end and other.start < one.end


def _is_merged_away(known: RangeDescriptor, newer: RangeDescriptor) -> bool:
    return (
        newer.range_id != known.range_id
        and newer.start <= known.start < newer.end
        and newer.generation > known.generation
    )


def _merged_away(view: Snapshot, newer: RangeDescriptor) -> list[RangeDescriptor]:
    """The ranges in a store that ``newer`` has taken in."""
    stored = view.scan(Space.STATE, DESCRIPTOR_PREFIX, prefix_end(DESCRIPTOR_PREFIX))
    known = [decode_descriptor(data) for _, data in stored]
    return [descriptor for descriptor in known if _is_merged_away(descriptor, newer)]


def _last_install_batch(
    log: RangeLog, descriptor: RangeDescriptor, meta: raft.SnapshotMeta, clock: Timestamp
) -> WriteBatch:
    """The batch that makes an installed snapshot the replica's state."""
    range_id = log.range_id
    log.reset(raft.SnapshotMeta(meta.index, meta.term, membership_of(descriptor)), clock)
    batch = WriteBatch()
    batch.cleared.append((Space.LOG, *log_span(range_id)))
    batch.cleared.append((Space.STATE, *stage_span(range_id)))
    batch.put(Space.STATE, descriptor_key(range_id), encode_descriptor(descriptor))
    batch.put(Space.STATE, state_key(range_id), log.encode_state())
    return batch
