"""One range on one node: a member of its Raft group, and the state machine that its log drives.

Life of a command on a leaseholder::

    propose(command) ── raft.propose ──► index i, term t          remembered as proposal i
    process(round)      raft.ready() ──► entries to log           into the round (one engine batch for all ranges)
                                         messages                 sent at once, in parallel to this node's own disk
    (round durable)     raft.persisted
    process(round)      committed: entry i ──► _apply             data and applied index into the same batch
    (round durable)     proposal i is done: visible here and durable on a majority

On the only voter of a range the two rounds are one and the log entry is not written at all (range_log.py).

A proposal ends in one of three ways.  Applied: entry i has term t and was not refused.  ``ProposalLost``: another entry
took index i, or every replica refused it alike (generation).  ``OutcomeUnknown``: nobody could tell in time.

Who may serve reads, and when, is in lease.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
from pydistdb_storage.engine import Space

from pydistdb import raft
from pydistdb.kv.api import OutcomeUnknown
from pydistdb.kv.command import (
    ANY_GENERATION,
    MAX_COMMAND_BYTES,
    AddedReplica,
    Command,
    CommandTooLarge,
    MembershipContext,
    MergeStep,
    MergeStepKind,
    NotLeaseholder,
    Overtaken,
    ProposalLost,
    decode_command,
    decode_context,
    encode_command,
    encode_context,
)
from pydistdb.kv.descriptor import (
    NodeId,
    RangeDescriptor,
    RangeId,
    ReplicaId,
    ReplicaRole,
    encode_descriptor,
)
from pydistdb.kv.lease import RangeLease
from pydistdb.kv.proposals import NonDeterministicApply, Proposal, ReplicaOwner, Written
from pydistdb.kv.range_log import INITIAL_INDEX, RangeLog, descriptor_for, descriptor_key, membership_of, state_key
from pydistdb.kv.snapshot import stage_key, stage_span
from pydistdb.kv.versions import Feature
from pydistdb.raft.messages import AppendResponse, HeartbeatResponse, TimeoutNow
from pydistdb.tasks import Completion

if TYPE_CHECKING:
    from pydistdb.kv.commit import Round

MAX_PENDING_PROPOSALS = 10_000
MAX_ROUND_WRITES = 50_000
"""Past this a round goes to disk before more is added."""

PROPOSAL_TIMEOUT_NS = 10_000_000_000
"""After this long a proposal's fate is called unknown."""


class Replica(RangeLease):
    """See the module's docstring.  ``local`` is for whoever serves the range's requests while it is leased here."""

    def __init__(
        self,
        owner: ReplicaOwner,
        config: raft.Config,
        descriptor: RangeDescriptor | None,
        log: RangeLog,
        rand: Callable[[int, int], int],
    ) -> None:
        super().__init__(owner)
        self.engine = owner.engine
        self.range_id: RangeId = log.range_id
        self.replica_id: ReplicaId = log.state.replica_id
        self._descriptor = descriptor
        self.log = log
        self.raft = raft.RaftNode(config, log, rand, owner.scheduler.now_ns())
        self.nodes: dict[ReplicaId, NodeId] = {}
        """Where other replicas live: from the descriptor, or (before there is one) from the messages they sent."""
        self.support_epochs: dict[ReplicaId, int] = {}
        """Under which support epoch of its node each follower last answered this leader in this term."""
        self.expected_leader: NodeId = 0
        """Set by a split: the node that led the whole and is to lead this part."""
        self.leader_resigned = False
        """The known leader has been seen not to lead any more: its node's support binds nobody here."""
        self.destroyed = False
        self.installing = False
        self.arriving: tuple[tuple[ReplicaId, int, int], RangeDescriptor] | None = None
        """The snapshot whose first chunk came last: its stream, and what it brings."""
        self.claimed: RangeDescriptor | None = None
        """What the snapshot brings whose last chunk came last."""
        self.published_generation = -1
        self.logged_writes = 0
        """Counts applied writes, as a measure of load."""
        self._proposals: dict[int, Proposal] = {}
        self._reads: dict[int, Completion[None]] = {}
        self._read_states: list[raft.ReadState] = []
        self._next_read = 1
        self._role = raft.Role.FOLLOWER
        self._leader: ReplicaId = 0
        self._term = self.raft.term
        self._unwritten = 0
        self._staged_chunks = 0
        self._install_messages: list[Any] = []
        self.durable_applied = log.state.applied_index
        self._state_key = state_key(self.range_id)
        self._learn_nodes()

    # ------------------------------------------------------------------------------------------------------- questions

    @property
    def descriptor(self) -> RangeDescriptor:
        """The range as of the last applied command."""
        assert self._descriptor is not None, "the replica still waits for its first snapshot"
        return self._descriptor

    @property
    def is_initialized(self) -> bool:
        """Whether the replica has data (a new one waits for a snapshot)."""
        return self._descriptor is not None

    def knows_removed(self, replica_id: ReplicaId) -> bool:
        """Whether that replica was part of the range once and is no longer (a newer one is not part of it yet)."""
        descriptor = self._descriptor
        return (
            descriptor is not None
            and replica_id < descriptor.next_replica_id
            and descriptor.replica(replica_id) is None
        )

    @property
    def lease_epoch(self) -> int:
        """The Raft term: what was evaluated in another one is void."""
        return self._term

    @property
    def is_leader(self) -> bool:
        return self._role is raft.Role.LEADER

    @property
    def leader_hint(self) -> NodeId | None:
        """The node that probably holds the lease, or is to have it once it is elected."""
        return self.nodes.get(self._leader) or self.expected_leader or None

    @property
    def is_about_to_lead(self) -> bool:
        """Whether the lease may begin here any moment: this replica campaigns, or was elected just now."""
        return not self.leased and self.raft.role is not raft.Role.FOLLOWER

    @property
    def applied_index(self) -> int:
        return self.raft.applied_index

    # ------------------------------------------------------------------------------------------------------- proposals

    def propose(self, command: Command) -> Completion[None]:
        """Replicate and apply ``command``; done once it is visible here and durable on a majority.

        Fails with ProposalLost (certainly not applied; NotLeaseholder is one), OutcomeUnknown, or DiskFull."""
        if command.lease_epoch != self._term or not self.leased:
            return _failed(NotLeaseholder(self.range_id, self.leader_hint or 0))
        if command.generation not in (self.descriptor.generation, ANY_GENERATION):
            return _failed(Overtaken())
        data = encode_command(command)
        if len(data) > MAX_COMMAND_BYTES:
            return _failed(CommandTooLarge(f"command of {len(data)} bytes exceeds {MAX_COMMAND_BYTES}"))
        return self._propose(self.raft.propose, data, command)

    def propose_membership(self, changes: tuple[raft.Change, ...], added: tuple[AddedReplica, ...]) -> Completion[None]:
        """Change who holds the range; done once the change is applied (for a joint change: begun)."""
        if not self.leased:
            return _failed(NotLeaseholder(self.range_id, self.leader_hint or 0))
        context = encode_context(MembershipContext(self.descriptor.generation, added))
        change = raft.ConfChange(changes, context, joint=len(changes) > 1)
        self.lease_until_ns = 0
        done = self._propose(self.raft.propose_membership, change, None)
        if not done.done:
            self.membership_pending += 1
            done.on_done(self._membership_done)
        return done

    def _membership_done(self, _: Completion[None]) -> None:
        self.membership_pending -= 1

    def _propose(
        self, propose: Callable[[Any], tuple[int, int]], what: Any, command: Command | None
    ) -> Completion[None]:
        refusal = self.owner.write_error()
        if refusal is not None:
            return _failed(refusal)
        if len(self._proposals) >= MAX_PENDING_PROPOSALS:
            return _failed(ProposalLost("too many proposals are pending"))
        if self.raft.quiescent:
            self.raft.wake(self.owner.scheduler.now_ns())
        try:
            index, term = propose(what)
        except raft.NotLeader:
            return _failed(NotLeaseholder(self.range_id, self.leader_hint or 0))
        except (raft.ProposalDropped, raft.InvalidChange) as error:
            return _failed(ProposalLost(str(error)))
        proposal = Proposal(term, command, self.owner.scheduler.now_ns() + PROPOSAL_TIMEOUT_NS)
        earlier = self._proposals.get(index)
        if earlier is not None:
            # Of an earlier term of this leader, and no longer in its log; somebody may have the entry yet, and win with it.
            earlier.completion.fail(OutcomeUnknown(f"range {self.range_id} has had another leader"))
        self._proposals[index] = proposal
        self.owner.wake(self)
        return proposal.completion

    def read_barrier(self) -> Completion[None]:
        """Done once everything committed before this call is applied here (a linearizable read without a lease)."""
        completion: Completion[None] = Completion()
        context = self._next_read
        self._next_read += 1
        if self.raft.quiescent:
            self.raft.wake(self.owner.scheduler.now_ns())
        try:
            self.raft.read_index(context)
        except raft.RaftError as error:
            completion.fail(ProposalLost(str(error)))
            return completion
        self._reads[context] = completion
        self.owner.wake(self)
        return completion

    def expire_proposals(self, now_ns: int) -> None:
        """Give up on proposals that nobody has heard of for too long."""
        for proposal in self._proposals.values():
            if proposal.deadline_ns <= now_ns and not proposal.completion.done:
                proposal.completion.fail(OutcomeUnknown(f"range {self.range_id} did not answer in time"))

    @property
    def pending_proposals(self) -> int:
        return len(self._proposals)

    # ---------------------------------------------------------------------------------------------------------- inputs

    def step(self, message: raft.Message, epoch: int) -> None:
        """Take a Raft message; ``epoch`` is the sender's support epoch for this node."""
        node = self.raft
        kind = type(message)
        if (kind is AppendResponse or kind is HeartbeatResponse) and message.term == node.term:
            self.support_epochs[message.sender] = epoch
        elif kind is TimeoutNow and message.term == node.term:
            # The leader stopped serving before it sent this, and its clock came along.
            self.expect_handover()
        node.step(message, self.owner.scheduler.now_ns())
        if node.role is not raft.Role.LEADER or node.transfer_target:
            self.lease_until_ns = 0
        if kind is HeartbeatResponse and not self.leased and self._role is raft.Role.LEADER:
            self.try_lease()
        self.owner.wake(self)

    def tick(self) -> None:
        self.raft.tick(self.owner.scheduler.now_ns())
        if self.raft.has_ready:
            self.owner.wake(self)

    # --------------------------------------------------------------------------------------------------------- effects

    @property
    def commits_alone(self) -> bool:
        """Whether nobody else hears of this range's log, so that nothing is gained by processing before the disk is free."""
        return len(self.nodes) <= 1

    def process(self, round: Round) -> None:
        """Carry out what Raft wants done: send, and add to ``round`` what must be written."""
        node = self.raft
        while node.has_ready and not self.installing and not self.destroyed and round.size < MAX_ROUND_WRITES:
            self._carry_out(node.ready(), round)

    def _carry_out(self, ready: raft.Ready, round: Round) -> None:
        if ready.messages:
            self.owner.send(self, ready.messages)
        written = Written(self)
        written.messages = ready.messages_after_persist
        log = self.log
        state = log.state
        if ready.hard_state is not None:
            hard = ready.hard_state
            state.term, state.vote, state.commit = hard.term, hard.vote, hard.commit
        for chunk in ready.snapshot_chunks:
            if chunk.number == 0:
                round.clear((Space.STATE, *stage_span(self.range_id)))
            round.write((Space.STATE, stage_key(self.range_id, chunk.number), chunk.data))
            self._staged_chunks = chunk.number + 1
        if ready.snapshot is not None:
            assert not ready.entries and not ready.committed, "a snapshot comes alone"
            self.installing = True
            state.installing = self._staged_chunks
            state.install_index, state.install_term = ready.snapshot.index, ready.snapshot.term
            written.snapshot = ready.snapshot
            round.states[self._state_key] = log.encode_state
            self._add(written, round)
            return
        elided = 0
        if ready.entries:
            elided = self._log_entries(ready, round)
            written.persisted = (ready.entries[-1].index, ready.entries[-1].term)
        for entry in ready.committed:
            self._apply(entry, entry.index <= elided, written, round)
        if ready.read_states:
            self._read_states.extend(ready.read_states)
            self._finish_reads()
        for context in ready.dropped_reads:
            dropped = self._reads.pop(context, None)
            if dropped is not None:
                dropped.fail(ProposalLost("the leader changed"))
        self._note_role(ready)
        if ready.hard_state is not None or ready.entries or ready.committed or ready.snapshot_chunks:
            round.states[self._state_key] = log.encode_state
            self._add(written, round)
        elif self._unwritten:
            self._add(written, round)
        elif written.messages:
            self.owner.send(self, written.messages)

    def _add(self, written: Written, round: Round) -> None:
        self._unwritten += 1
        round.items.append(written)

    def _log_entries(self, ready: raft.Ready, round: Round) -> int:
        """Log new entries, except those that the same round applies; returns the last index of these."""
        entries = ready.entries
        log = self.log
        if not (ready.committed_on_persist and ready.committed) or log.membership.learners:
            log.append(entries, round)
            return 0
        elided = ready.committed[-1].index
        last: raft.Entry | None = None
        for entry in entries:
            if entry.index <= elided:
                last = entry
        if last is None:
            log.append(entries, round)
            return 0
        log.elide(last, round)
        rest = [entry for entry in entries if entry.index > elided]
        if rest:
            log.append(rest, round)
        return elided

    def written(self, written: Written) -> None:
        """A round is durable (and visible)."""
        self._unwritten -= 1
        if not self.is_stored:
            self.is_stored, self.durable_applied = True, INITIAL_INDEX
        if self.destroyed:
            return
        node = self.raft
        if written.snapshot is not None:
            self._install_messages = written.messages
            self.owner.install(self, written.snapshot)
            return
        if written.persisted is not None:
            node.persisted(*written.persisted)
        if written.messages:
            self.owner.send(self, written.messages)
        if written.applied_index:
            self.durable_applied = written.applied_index
            node.applied(written.applied_index)
            if self._read_states:
                self._finish_reads()
        if self._role is raft.Role.LEADER and not self.leased:
            self.try_lease()
        if node.has_ready:
            self.owner.wake(self)

    def _finish_reads(self) -> None:
        applied = self.raft.applied_index
        waiting, self._read_states = self._read_states, []
        for read in waiting:
            if read.index > applied:
                self._read_states.append(read)
                continue
            completion = self._reads.pop(read.context, None)
            if completion is not None:
                completion.set(None)

    # ----------------------------------------------------------------------------------------------------------- apply

    def _apply(self, entry: raft.Entry, elided: bool, written: Written, round: Round) -> None:
        state = self.log.state
        if entry.index != state.applied_index + 1:
            raise NonDeterministicApply(f"range {self.range_id}: entry {entry.index} after {state.applied_index}")
        state.applied_index = entry.index
        state.applied_term = entry.term
        written.applied_index = entry.index
        proposal = self._proposals.pop(entry.index, None)
        if proposal is not None and proposal.term != entry.term:
            written.add_outcome(proposal, ProposalLost("another leader's entry took its place"))
            proposal = None
        if entry.kind == raft.MEMBERSHIP:
            error = self._apply_membership(entry, round)
        elif entry.data:
            command = proposal.command if proposal is not None else None
            error = self._apply_command(command or decode_command(entry.data), round)
            if elided and proposal is not None and command is not None and error is None and _is_plain(command):
                written.add_elided(proposal, command)
        else:
            error = None
        if proposal is not None:
            written.add_outcome(proposal, error)

    def _apply_command(self, command: Command, round: Round) -> BaseException | None:
        descriptor = self.descriptor
        if command.generation not in (descriptor.generation, ANY_GENERATION):
            return Overtaken()
        if command.step is not None:
            return self._apply_merge_step(command.step, command, round)
        if descriptor.frozen:
            return ProposalLost("the range is being merged into its left neighbour")
        split = command.split
        if split is not None and (descriptor.is_changing or not descriptor.start < split.split_key < descriptor.end):
            return ProposalLost("the range cannot be split there now")
        for clear in command.clears:
            round.clear(clear)
        round.write_all(command.writes)
        self.owner.garbage.note_all(command.writes, round.write)
        self.logged_writes += len(command.writes)
        if command.clock > self.log.state.clock:
            self.log.state.clock = command.clock
            self.owner.clock.raise_to(command.clock)
        if split is not None:
            left = msgspec.structs.replace(descriptor, end=split.split_key, generation=descriptor.generation + 1)
            self._set_descriptor(left, round)
            self.owner.split_applied(self, descriptor, command, round)
        return None

    def _apply_merge_step(self, step: MergeStep, command: Command, round: Round) -> BaseException | None:
        """Carry out one step of a merge (merging.py), or refuse it, on every replica alike."""
        old = self.descriptor
        changes: dict[str, Any] = {}
        match step.kind:
            case MergeStepKind.MARK:
                allowed, changes = not old.is_changing, {"merging": step.right_range_id}
            case MergeStepKind.FREEZE:
                allowed, changes = not old.is_changing and _all_vote(old), {"frozen": True}
            case MergeStepKind.THAW:
                allowed, changes = True, {"frozen": False}
            case MergeStepKind.FENCE:
                allowed = old.merging != 0
            case MergeStepKind.CLEAR:
                allowed, changes = old.merging != 0, {"merging": 0}
            case MergeStepKind.MERGE:
                allowed, changes = old.merging == step.right_range_id, {"merging": 0, "end": step.right_end}
            case MergeStepKind.LOOSEN:
                assert self.owner.versions.knows(Feature.LOOSE_RANGES), "an entry that an older release cannot read"
                allowed, changes = not old.frozen, {"automatic": True}
        if not allowed:
            return ProposalLost("the range cannot take part in a merge now")
        if command.clock > self.log.state.clock:
            self.log.state.clock = command.clock
            self.owner.clock.raise_to(command.clock)
        if step.kind is MergeStepKind.MERGE:
            self.owner.merge_applied(self, step, round)
        # What is under way in a range that is loosened need not be done again: nothing that it went by has changed.
        is_same = step.kind is MergeStepKind.LOOSEN
        generation = old.generation if is_same else max(old.generation, step.right_generation) + 1
        self._set_descriptor(msgspec.structs.replace(old, generation=generation, **changes), round)
        return None

    def _apply_membership(self, entry: raft.Entry, round: Round) -> BaseException | None:
        change = raft.decode_conf_change(entry.data)
        descriptor = self.descriptor
        added: dict[ReplicaId, NodeId] = {}
        if change.changes:
            context = decode_context(change.context)
            if context.generation != descriptor.generation or descriptor.is_changing:
                return Overtaken()
            added = {replica.replica_id: replica.node_id for replica in context.added}
        membership = self.raft.apply_membership(change)
        self._set_descriptor(descriptor_for(descriptor, membership, added), round)
        self.log.membership = membership_of(self.descriptor)
        gone = [former for former in descriptor.replicas if self.descriptor.replica(former.replica_id) is None]
        if gone and self.is_leader:
            self.owner.replicas_left(self, gone)
        if self.knows_removed(self.replica_id):
            self.owner.removed(self)
        return None

    def _set_descriptor(self, descriptor: RangeDescriptor, round: Round) -> None:
        self._descriptor = descriptor
        if descriptor.frozen:
            self.lease_until_ns = 0
        round.write((Space.STATE, descriptor_key(self.range_id), encode_descriptor(descriptor)))
        self._learn_nodes()
        self.owner.descriptor_changed(self)

    def _learn_nodes(self) -> None:
        if self._descriptor is not None:
            self.nodes = {replica.replica_id: replica.node_id for replica in self._descriptor.replicas}

    def installed(self, descriptor: RangeDescriptor, meta: raft.SnapshotMeta) -> None:
        """A snapshot is in place and durable."""
        self.installing = False
        self._staged_chunks = 0
        self._descriptor = descriptor
        self.durable_applied = meta.index
        self._learn_nodes()
        for index in [index for index in self._proposals if index <= meta.index]:
            self._proposals.pop(index).completion.fail(OutcomeUnknown("a snapshot replaced the log"))
        self.raft.persisted(meta.index, meta.term)
        self.raft.applied(meta.index)
        messages, self._install_messages = self._install_messages, []
        self.owner.send(self, messages)
        self.owner.descriptor_changed(self)
        self.owner.wake(self)

    def truncate_log(self, keep: int, round: Round) -> None:
        """Forget old entries, all but the last ``keep`` applied ones."""
        upto = self.durable_applied - keep
        if upto > self.log.state.truncated_index and not self.installing:
            self.log.truncate(upto, self.log.term(upto), round)
            round.states[self._state_key] = self.log.encode_state

    # ------------------------------------------------------------------------------------------------------ leadership

    def _note_role(self, ready: raft.Ready) -> None:
        if ready.role is self._role and ready.leader == self._leader and ready.term == self._term:
            return
        was_leading = self._role is raft.Role.LEADER and ready.term == self._term
        if self.leased and not (ready.role is raft.Role.LEADER and ready.term == self._term):
            self.drop_lease()
        if ready.term != self._term:
            self.support_epochs.clear()
        self._role, self._leader, self._term = ready.role, ready.leader, ready.term
        if ready.leader:
            self.expected_leader = 0
        if ready.role is raft.Role.LEADER and not was_leading:
            self.begin_term(ready.term)
        self.owner.leadership_changed(self)

    def lease_changed(self, acquired: bool) -> None:
        self.owner.lease_changed(self, acquired)

    def lease_needs_wait(self) -> bool:
        return self.owner.lease_needs_wait(self)

    def close(self, error: BaseException) -> None:
        """End everything that waits for this replica."""
        self.destroyed = True
        if self.leased:
            self.drop_lease()
        proposals, self._proposals = self._proposals, {}
        for proposal in proposals.values():
            proposal.completion.fail(error)
        reads, self._reads = self._reads, {}
        for read in reads.values():
            read.fail(ProposalLost("the replica is gone"))


def _is_plain(command: Command) -> bool:
    """Whether all that the command does is to write and clear."""
    return command.split is None and command.step is None


def _all_vote(descriptor: RangeDescriptor) -> bool:
    return all(replica.role is ReplicaRole.VOTER for replica in descriptor.replicas)


def _failed(error: BaseException) -> Completion[None]:
    completion: Completion[None] = Completion()
    completion.fail(error)
    return completion
