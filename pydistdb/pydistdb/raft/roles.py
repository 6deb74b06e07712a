"""Becoming follower, candidate, leader: what each change of role resets.

    FOLLOWER ── timeout ──▶ PRE_CANDIDATE ── majority would vote ──▶ CANDIDATE ── majority votes ──▶ LEADER
        ▲                         │                                       │                             │
        └───── a leader is heard of, a higher term is seen, the vote is lost, no quorum answers ────────┘

A pre-candidate has changed nothing that is stored: its term is its old one until others have said that they would
elect it (Raft thesis §9.6), so a node that comes back from a partition does not depose anybody.
"""

from __future__ import annotations

from .messages import NOBODY, NORMAL, Entry, PeerId
from .ready import Role
from .state import State


def become_follower(state: State, term: int, leader: PeerId) -> None:
    """Follow ``leader`` (NOBODY: not known) in ``term``."""
    _reset(state, term)
    state.role = Role.FOLLOWER
    state.leader = leader


def become_pre_candidate(state: State) -> None:
    _leave_leadership(state)
    state.role = Role.PRE_CANDIDATE
    state.leader = NOBODY
    state.votes = {}
    _restart_election_timer(state)


def become_candidate(state: State) -> None:
    _reset(state, state.term + 1)
    state.role = Role.CANDIDATE
    state.vote = state.peer


def become_leader(state: State, *, is_first: bool = False) -> None:
    """Take over: an empty entry of the new term makes everything before it committable (Raft paper §5.4.2, §8).

    ``is_first``: nobody can have led this group before.  All that is committed in it is what it came into being with, which this
    node has, and nothing else was ever appended: the term needs no entry to begin with."""
    assert state.role is Role.CANDIDATE, "only a candidate becomes leader"
    _reset(state, state.term)
    state.role = Role.LEADER
    state.leader = state.peer
    log = state.log
    last = log.last_index
    state.pending_membership_index = last
    state.term_start_index = last + 1
    state.complete_index = last if is_first else last + 1
    state.uncommitted_bytes = 0
    state.hold_messages = state.is_sole_voter
    for progress in state.followers:
        progress.match = 0
        progress.become_probe()
        progress.next = last + 1
        progress.poke = True
        progress.recent_active = True
        progress.acked_round = 0
        progress.applied = 0
        progress.commit_sent = 0
    state.own_progress.match = log.stable
    state.needed = False
    if not is_first:
        log.append(Entry(last + 1, state.term, NORMAL, b""))
    state.append_wanted = True


def _reset(state: State, term: int) -> None:
    if term != state.term:
        assert term > state.term, "terms only grow"
        state.term = term
        state.vote = NOBODY
    _leave_leadership(state)
    state.leader = NOBODY
    state.votes = {}
    state.quiescent = False
    state.idle_ticks = 0
    _restart_election_timer(state)
    drop_forwarded_reads(state)


def _restart_election_timer(state: State) -> None:
    ticks = state.config.election_timeout_ticks
    state.election_elapsed = 0
    state.election_timeout = state.rand(ticks, 2 * ticks - 1)
    state.heartbeat_elapsed = 0


def _leave_leadership(state: State) -> None:
    """Drop what only a leader has: reads under way, the lease, snapshots being sent, a transfer."""
    if state.role is Role.LEADER:
        for _, _, context, requester in state.pending_reads:
            _drop_read(state, context, requester)
        for _, context, requester in state.new_reads:
            _drop_read(state, context, requester)
        for context, requester in state.early_reads:
            _drop_read(state, context, requester)
        state.pending_reads.clear()
        state.new_reads.clear()
        state.early_reads.clear()
        for progress in state.followers:
            progress.close()
    state.round = 0
    state.round_starts.clear()
    state.confirmed_round = 0
    state.confirmed_start_ns = -1
    state.lease_given_up = False
    state.transfer_to = NOBODY
    state.transfer_sent = False
    state.transfer_elapsed = 0
    state.append_wanted = False
    state.hold_messages = False
    state.campaign_when_applied = 0
    state.snapshot_refused = False


def _drop_read(state: State, context: int, requester: PeerId) -> None:
    if requester == NOBODY:
        state.dropped_reads.append(context)


def drop_forwarded_reads(state: State) -> None:
    """Give up reads that were sent to a leader which is none any more."""
    if state.forwarded_reads:
        state.dropped_reads.extend(state.forwarded_reads)
        state.forwarded_reads.clear()
