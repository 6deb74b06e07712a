"""Heartbeat rounds, and what a confirmed round is good for: read-index and the leader lease.

Theory of operation
-------------------
Every broadcast of heartbeats is a *round* with a number, and the leader notes when it began.  A follower's answer
repeats the number.  Once a quorum has answered round r (or a later one), it is certain that at the start of r this node
was the leader, and nobody else had been elected.  Two things follow:

* **Read-index** (thesis §6.4): a read that arrived before round r began may be served at the commit index of its arrival,
  once that is applied.  No clock is involved.  Reads that arrive together share a round.
* **Lease** (thesis §6.4.1): everybody who answered round r had heard from this leader no earlier than its start, and
  promised not to vote for one election timeout from then (election.py).  So until start + election timeout, less the
  bound on clock drift, this node is the only leader and may read without asking anybody::

      leader    start of round ├───────────────────── lease ───────────────────┤ drift margin │
      follower          hears it ├───────────────────── promise ──────────────────────────────────┤

A read under the lease is linearizable once the commit index as of its arrival is applied.  (What is committed but not
applied here has been acknowledged to nobody by this leader; but a follower may have applied it, and served it.)

There is no lease
* before an entry of this term is committed: the commit index may be behind what earlier leaders acknowledged (in the first
  term of a group that is born led there were none);
* once leadership has been offered to another node, for the rest of the term: the offer may be delivered late;
* while a membership change is committed but not applied: others may go by the new configuration already, in which this
  node's say may count for nothing;
* after a change of voters, until a round is confirmed by the new quorum.

The only voter needs no rounds: its reads are confirmed at once and its lease never ends.
"""

from __future__ import annotations

from typing import Final

from .errors import NotLeader, ProposalDropped
from .messages import NOBODY, Heartbeat, HeartbeatResponse, PeerId, ReadIndex, ReadIndexResponse
from .quorum import majority_value
from .ready import ReadState, Role
from .state import NEVER_NS, PendingRead, State

MAX_OPEN_ROUNDS: Final = 64
"""At this many, reads wait for the next periodic heartbeat instead of starting a round of their own."""


# ---- rounds


def start_round(state: State) -> None:
    """Send heartbeats to everybody; reads that wait for a round join this one."""
    state.round += 1
    number = state.round
    starts = state.round_starts
    starts.append((number, state.now_ns))
    if len(starts) > MAX_OPEN_ROUNDS:
        starts.popleft()  # a round that is still open after so many is of no use any more
    state.own_progress.acked_round = number
    for commit, context, requester in state.new_reads:
        state.pending_reads.append(PendingRead(number, commit, context, requester))
    state.new_reads.clear()
    state.heartbeat_elapsed = 0
    committed = state.log.committed
    term, me = state.term, state.peer
    for progress in state.followers:
        # Not past what the follower is known to have: its log beyond may still differ from ours.
        commit = progress.match if progress.match < committed else committed
        progress.commit_sent = max(progress.commit_sent, commit)
        state.messages.append(Heartbeat(progress.peer, me, term, commit, number))


def round_answered(state: State, message: HeartbeatResponse) -> None:
    """Note an answer; confirms rounds, answers the reads that waited for them, and extends the lease."""
    progress = state.progress[message.sender]
    if message.round <= progress.acked_round:
        return
    progress.acked_round = message.round
    quorum_round = confirmed_by_quorum(state)
    if quorum_round <= state.confirmed_round:
        return
    state.confirmed_round = quorum_round
    starts = state.round_starts
    while starts and starts[0][0] <= quorum_round:
        state.confirmed_start_ns = starts.popleft()[1]
    # This node's own answer is part of the quorum, and so is its promise.
    state.promise_until_ns = max(state.promise_until_ns, state.confirmed_start_ns + state.config.election_timeout_ns)
    release_reads(state)


def confirmed_by_quorum(state: State) -> int:
    return min(majority_value([progress.acked_round for progress in half]) for half in state.halves)


def release_reads(state: State) -> None:
    """Answer the reads whose round is confirmed."""
    pending = state.pending_reads
    while pending and pending[0].round <= state.confirmed_round:
        _, commit, context, requester = pending.popleft()
        _answer_read(state, commit, context, requester)


def voters_changed(state: State) -> None:
    """Start over with the new quorum: what the old one confirmed no longer holds a lease."""
    state.round_starts.clear()
    state.confirmed_start_ns = -1
    if state.is_sole_voter:
        state.confirmed_round = state.round
        for commit, context, requester in state.new_reads:
            _answer_read(state, commit, context, requester)
        state.new_reads.clear()
        release_reads(state)
    start_round(state)


# ---- read-index


def request_read(state: State, context: int) -> None:
    """Start a linearizable read on behalf of this node."""
    if state.role is Role.LEADER:
        _admit_read(state, context, NOBODY)
    elif state.leader == NOBODY:
        raise NotLeader(NOBODY)
    else:
        if len(state.forwarded_reads) >= state.config.max_pending_reads:
            raise ProposalDropped("too many reads are pending")
        state.forwarded_reads[context] = state.config.election_timeout_ticks
        state.messages.append(ReadIndex(state.leader, state.peer, state.term, context))


def _admit_read(state: State, context: int, requester: PeerId) -> None:
    if len(state.pending_reads) + len(state.new_reads) + len(state.early_reads) >= state.config.max_pending_reads:
        raise ProposalDropped("too many reads are pending")
    committed = state.log.committed
    if committed < state.complete_index:
        state.early_reads.append((context, requester))
    elif state.is_sole_voter:
        _answer_read(state, committed, context, requester)
    else:
        state.new_reads.append((committed, context, requester))


def admit_early_reads(state: State) -> None:
    """The first entry of the term is committed: from here on the commit index is good for reads."""
    early, state.early_reads = state.early_reads, []
    for context, requester in early:
        _admit_read(state, context, requester)


def _answer_read(state: State, commit: int, context: int, requester: PeerId) -> None:
    if requester == NOBODY:
        state.read_states.append(ReadState(context, commit))
    elif requester in state.progress:
        state.messages.append(ReadIndexResponse(requester, state.peer, state.term, context, commit))


def handle_read_index(state: State, message: ReadIndex) -> None:
    try:
        _admit_read(state, message.context, message.sender)
    except ProposalDropped:
        pass  # the follower gives the read up by itself


def handle_read_index_response(state: State, message: ReadIndexResponse) -> None:
    if state.forwarded_reads.pop(message.context, None) is not None:
        state.read_states.append(ReadState(message.context, message.index))


def tick_forwarded_reads(state: State) -> None:
    """Give up reads whose answer does not come."""
    forwarded = state.forwarded_reads
    for context in list(forwarded):
        forwarded[context] -= 1
        if forwarded[context] <= 0:
            del forwarded[context]
            state.dropped_reads.append(context)


# ---- lease


def lease_expiry_ns(state: State) -> int:
    """When this leader's lease ends; 0 without one."""
    log = state.log
    if (
        state.role is not Role.LEADER
        or log.committed < state.complete_index
        or state.lease_given_up
        or not state.config.lease
        or log.committed >= state.pending_membership_index > log.applied
    ):
        return 0
    if state.is_sole_voter:
        return NEVER_NS
    if state.confirmed_start_ns < 0:
        return 0
    return state.confirmed_start_ns + state.config.lease_duration_ns
