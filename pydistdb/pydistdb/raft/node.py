"""One member of one Raft group: the public face of the core.

Theory of operation
-------------------
A node is fed with ticks, messages and proposals, and gathers what they call for; ``ready()`` hands that out and the
owner carries it out (ready.py says in which order).  Nothing happens by itself, and nothing waits::

    node = RaftNode(Config(peer=1), storage, random.randint, now_ns)
    node.campaign()
    index, term = node.propose(b"x = 1")
    while node.has_ready:
        ready = node.ready()
        storage.write(ready.hard_state, ready.entries)            # durable when this returns
        for entry in ready.committed: apply(entry)                # MEMBERSHIP: node.apply_membership(decode(entry.data))
        node.advance(ready)

What a message does depends on the role: see dispatch.py.

Costs, measured in Python 3.11 (tests/raft/benchmark.py): propose → ready → advance of a single voter 2.5 µs; the leader
of three voters, one proposal from propose to applied, 8 µs, ten in a batch 14 µs; each follower 3 µs.
"""

from __future__ import annotations

from collections.abc import Callable

from . import election, quiescence, reads, transfer
from .config import Config
from .dispatch import FROM_LEADER, HANDLERS, terms_agree, tick_leader
from .errors import NotLeader, ProposalDropped
from .messages import (
    NOBODY,
    NORMAL,
    ConfChange,
    Entry,
    HardState,
    Membership,
    Message,
    PeerId,
    Vote,
)
from .ready import MemberStatus, Ready, Role
from .reconfigure import apply_change, is_known, leave_joint_if_due, propose_change
from .replication import maybe_commit, pump
from .snapshots import (
    restart_snapshot,
    retry_snapshots,
    snapshot_delivered,
)
from .state import State
from .storage import LogStorage
from .tracker import PeerState


class RaftNode:
    """Give it ticks, messages and proposals; carry out what ``ready()`` returns.

    ``now_ns`` is always the monotonic clock, read after the message had arrived.  ``rand(low, high)`` returns a random
    integer, both ends included.
    """

    __slots__ = ("_reported", "_state")

    def __init__(self, config: Config, log: LogStorage, rand: Callable[[int, int], int], now_ns: int) -> None:
        self._state = State(config, log, rand, now_ns)
        self._reported = (Role.FOLLOWER, NOBODY)

    # ---- inputs

    def tick(self, now_ns: int) -> None:
        """Let one ``tick_interval_ns`` pass."""
        state = self._state
        state.now_ns = now_ns
        if state.quiescent:
            return
        if state.role is Role.LEADER:
            tick_leader(state)
        else:
            if state.forwarded_reads:
                reads.tick_forwarded_reads(state)
            election.tick_election(state)

    def step(self, message: Message, now_ns: int) -> None:
        """Take a message that was addressed to this node."""
        state = self._state
        state.now_ns = now_ns
        if state.quiescent:
            quiescence.wake_by(state, message)
        kind = type(message)
        if kind is Vote and not message.force and election.is_bound(state):  # type: ignore[union-attr]
            return
        if message.term != state.term and not terms_agree(state, message):
            return
        if kind in FROM_LEADER and state.role is not Role.LEADER:
            state.leader = message.sender
            state.election_elapsed = 0
            state.needed = False
            state.promise_until_ns = now_ns + state.config.election_timeout_ns
        handler = HANDLERS[state.role].get(kind)
        if handler is not None:
            handler(state, message)

    def propose(self, data: bytes) -> tuple[int, int]:
        """Append an entry and return its (index, term); raises NotLeader or ProposalDropped.

        The entry is decided once an entry with that index is committed: it is this one iff the terms are equal.
        """
        state = self._state
        if state.role is not Role.LEADER:
            raise NotLeader(state.leader)
        if state.transfer_to:
            raise ProposalDropped("leadership is being transferred")
        uncommitted = state.uncommitted_bytes
        if uncommitted and uncommitted + len(data) > state.config.max_uncommitted_bytes:
            raise ProposalDropped("too much is waiting to be committed")
        if state.quiescent:
            quiescence.wake(state)
        state.uncommitted_bytes = uncommitted + len(data)
        log = state.log
        index, term = log.last_index + 1, state.term
        log.append(Entry(index, term, NORMAL, data))
        state.append_wanted = True
        state.idle_ticks = 0
        return index, term

    def propose_membership(self, change: ConfChange) -> tuple[int, int]:
        """Like ``propose``, for a membership change; raises InvalidChange too.  One at a time: else ProposalDropped."""
        if self._state.quiescent:
            quiescence.wake(self._state)
        return propose_change(self._state, change)

    def apply_membership(self, change: ConfChange) -> Membership:
        """Call for every MEMBERSHIP entry in ``Ready.committed``, in order, before the node gets any other input.

        Returns the membership to be stored.  An entry that the state machine rejects is simply not passed to this.
        """
        return apply_change(self._state, change)

    def read_index(self, context: int) -> None:
        """Ask for a linearizable read; the answer is a ReadState (or a dropped read) in a later Ready.

        Raises NotLeader if no leader is known, ProposalDropped if too many reads are pending.
        """
        state = self._state
        if state.quiescent:
            quiescence.wake(state)
        state.idle_ticks = 0
        reads.request_read(state, context)

    def transfer_leadership(self, to: PeerId) -> None:
        """Hand leadership to ``to`` once it has caught up; proposals are dropped meanwhile.

        Raises NotLeader, and InvalidChange if ``to`` is no voter.  Without success within an election timeout the
        leader goes back to work, possibly in a new term.
        """
        if self._state.quiescent:
            quiescence.wake(self._state)
        transfer.start_transfer(self._state, to)

    def campaign(self, *, pre_vote: bool = True) -> None:
        """Start an election now, unless bound by a promise to a live leader.

        Without a pre-vote (even if it is configured) where nobody can be disturbed: in a group that has just come into being."""
        state = self._state
        if state.role is not Role.LEADER:
            state.quiescent = False
            election.campaign(state, force=False, pre_vote=pre_vote)

    def begin_led(self, leader: PeerId, *, takes_over: bool = False) -> None:
        """As a member of a group that has just come into being: hold ``leader`` for elected in its first term.

        All members must be told the same.  ``takes_over``: this is the leader, and leads from now on.  No two lives of it may be
        told that.  Without effect on a member that has got to know a later term already."""
        election.begin_led(self._state, leader, takes_over)

    def ask_again(self) -> None:
        """As a candidate: ask those that have not answered for their votes once more."""
        election.ask_again(self._state)

    def send_heartbeats(self) -> None:
        """As leader: send heartbeats now; their answers begin or extend the lease."""
        if self._state.role is Role.LEADER:
            reads.start_round(self._state)

    def report_unreachable(self, peer: PeerId) -> None:
        """Tell that a message to ``peer`` was probably lost."""
        progress = self._state.progress.get(peer)
        if progress is not None and progress.state is PeerState.REPLICATE:
            progress.become_probe()
            progress.paused = progress.poke = True  # until it answers a heartbeat

    def report_snapshot(self, peer: PeerId, ok: bool) -> None:
        """As leader: tell how a snapshot went that was carried outside of messages; not ok: start over."""
        if self._state.role is not Role.LEADER:
            return  # it sends nothing any more, whatever its owner still takes it for
        progress = self._state.progress.get(peer)
        if progress is not None and progress.state is PeerState.SNAPSHOT:
            if ok:
                snapshot_delivered(self._state, progress)
            else:
                restart_snapshot(self._state, progress)
                progress.paused = True

    def wake(self, now_ns: int) -> None:
        """End quiescence."""
        self._state.now_ns = now_ns
        if self._state.quiescent:
            quiescence.wake(self._state)

    # ---- outputs

    @property
    def is_snapshot_pending(self) -> bool:
        """Whether a snapshot has arrived whole and is not installed yet."""
        return self._state.log.is_snapshot_pending

    @property
    def has_ready(self) -> bool:
        """Whether ``ready()`` would return anything new."""
        state = self._state
        log = state.log
        return bool(
            state.messages
            or state.messages_after_persist
            or state.append_wanted
            or log.writing < log.last_index
            or log.applying < _apply_limit(state)
            or state.read_states
            or state.dropped_reads
            or (state.new_reads and len(state.round_starts) < reads.MAX_OPEN_ROUNDS)
            or state.snapshot_chunks
            or state.snapshot is not None
            or state.term != state.hard_state.term
            or state.vote != state.hard_state.vote
            or self._reported != (state.role, state.leader)
        )

    def ready(self) -> Ready:
        """Return what is to be done since the last call; may be called before earlier Readys are carried out."""
        state = self._state
        log = state.log
        is_leader = state.role is Role.LEADER
        if is_leader:
            if state.new_reads and len(state.round_starts) < reads.MAX_OPEN_ROUNDS:
                reads.start_round(state)
            if state.append_wanted:
                pump(state)
        entries = log.take_unwritten() if log.writing < log.last_index else []
        limit = _apply_limit(state)
        if limit > log.committed:
            log.commit_to(min(limit, log.stable))  # the only voter: what is durable is committed
        committed = log.take_committed(limit, state.config.max_committed_bytes) if log.applying < limit else []
        on_persist = log.applying > log.committed
        if on_persist:
            state.self_committed = log.applying
        if is_leader and committed and state.uncommitted_bytes:
            size = 0
            for entry in committed:
                size += len(entry.data)
            state.uncommitted_bytes = max(0, state.uncommitted_bytes - size)
        messages, after = state.messages, state.messages_after_persist
        if state.hold_messages:
            messages, after = [], messages + after
        ready = Ready(
            state.role,
            state.leader,
            state.term,
            _changed_hard_state(state, entries),
            entries,
            committed,
            on_persist and bool(committed),
            messages,
            after,
            state.read_states,
            state.dropped_reads,
            state.snapshot,
            state.snapshot_chunks,
        )
        # The Ready owns its lists from here on, empty or not.
        state.messages, state.messages_after_persist = [], []
        state.read_states, state.dropped_reads = [], []
        state.snapshot, state.snapshot_chunks = None, []
        self._reported = (state.role, state.leader)
        return ready

    def persisted(self, index: int, term: int) -> None:
        """Tell that the log is durable up to ``index`` (the last entry of a Ready, of ``term``)."""
        state = self._state
        log = state.log
        if not log.mark_stable(index, term):
            return
        if state.role is Role.LEADER:
            state.own_progress.match = index
            if state.hold_messages and index >= state.term_start_index:
                state.hold_messages = False
            maybe_commit(state)
        if log.committed < state.self_committed:
            # Handed out while this node was the only voter, though a change of membership may be in force by now.
            log.commit_to(min(index, state.self_committed))
        if state.role is Role.LEADER:
            if state.early_reads and log.committed >= state.complete_index:
                reads.admit_early_reads(state)
            if state.membership.auto_leave:
                leave_joint_if_due(state)

    def applied(self, index: int) -> None:
        """Tell that the state machine has applied everything up to ``index``."""
        state = self._state
        state.log.mark_applied(index)
        if state.membership.auto_leave:
            leave_joint_if_due(state)
        if state.campaign_when_applied:
            election.campaign_if_due(state)
        if state.snapshot_refused:
            retry_snapshots(state)

    def advance(self, ready: Ready) -> None:
        """Tell that ``ready`` is written and applied: ``persisted`` and ``applied`` in one."""
        if ready.snapshot is not None:
            self.persisted(ready.snapshot.index, ready.snapshot.term)
            self.applied(ready.snapshot.index)
        if ready.entries:
            last = ready.entries[-1]
            self.persisted(last.index, last.term)
        if ready.committed:
            self.applied(ready.committed[-1].index)

    # ---- state

    @property
    def role(self) -> Role:
        return self._state.role

    @property
    def term(self) -> int:
        return self._state.term

    @property
    def leader(self) -> PeerId:
        """The leader of this term as far as known; 0 if it is not."""
        return self._state.leader

    @property
    def membership(self) -> Membership:
        return self._state.membership

    @property
    def quiescent(self) -> bool:
        """Whether ticks do nothing; they may be left out then."""
        return self._state.quiescent

    @property
    def membership_known(self) -> bool:
        """As leader: whether a quorum of the present membership has durably applied the change that led to it.

        Before that, a removed member may still be needed for an election: don't destroy it.
        """
        return is_known(self._state)

    @property
    def commit_index(self) -> int:
        return self._state.log.committed

    @property
    def applied_index(self) -> int:
        return self._state.log.applied

    @property
    def last_index(self) -> int:
        return self._state.log.last_index

    @property
    def term_start_index(self) -> int:
        """As leader: the index of the first entry of its term."""
        return self._state.term_start_index

    @property
    def complete_index(self) -> int:
        """As leader: once this is applied, so is whatever earlier leaders have acknowledged."""
        return self._state.complete_index

    @property
    def is_confirmed(self) -> bool:
        """As leader: whether a quorum has answered heartbeats of this term; the only voter needs nobody."""
        return self._state.is_sole_voter or self._state.confirmed_start_ns >= 0

    @property
    def previous_term(self) -> int:
        """As leader: the term of the last entry before its own; 0 if there is none, and nobody can have led before.

        Whoever led a term between that and this one has committed nothing.  Only who is born to lead may serve without an entry
        of its own: in the first term."""
        state = self._state
        return state.log.term(state.term_start_index - 1) or min(state.term - 1, election.FIRST_TERM)

    @property
    def transfer_target(self) -> PeerId:
        """Who is about to take leadership over; 0 if no transfer is under way."""
        return self._state.transfer_to

    @property
    def lease_expiry_ns(self) -> int:
        """Until when (monotonic clock) this node certainly is the only leader; 0 if it has no lease.

        It is non-zero only once an entry of this term is committed.  The only voter's lease never ends.
        """
        return reads.lease_expiry_ns(self._state)

    def lease_valid(self, now_ns: int) -> bool:
        """Whether ``now_ns`` lies within the lease."""
        return now_ns < reads.lease_expiry_ns(self._state)

    def members(self) -> list[MemberStatus]:
        """As leader: how far each member is; empty otherwise."""
        state = self._state
        if state.role is not Role.LEADER:
            return []
        return [
            MemberStatus(
                peer,
                progress.match,
                progress.next if peer != state.peer else state.log.last_index + 1,
                progress.state.name if peer != state.peer else PeerState.REPLICATE.name,
                progress.is_learner,
                progress.recent_active,
                progress.applied if peer != state.peer else state.log.applied,
            )
            for peer, progress in state.progress.items()
        ]


def _apply_limit(state: State) -> int:
    """How far entries may be handed out for apply."""
    log = state.log
    if not state.is_sole_voter or state.role is not Role.LEADER:
        return log.committed
    # The only voter's entries are committed by being written.  A membership entry is the last of its batch, as what
    # follows may need the votes of others.
    pending = state.pending_membership_index
    limit = log.last_index if log.applied >= pending else pending
    return max(limit, log.committed)


def _changed_hard_state(state: State, entries: list[Entry]) -> HardState | None:
    """The hard state, if it has to be written: changed, or along with a membership entry (see membership.py)."""
    written = state.hard_state
    if written.term == state.term and written.vote == state.vote:
        for entry in entries:
            if entry.kind != NORMAL:
                break
        else:
            return None
    state.hard_state = state.hard_state_now()
    return state.hard_state
