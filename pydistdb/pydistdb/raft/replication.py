"""The leader's side of replication: appends, acknowledgements, the commit index.

Theory of operation
-------------------
Proposals only grow the log.  Appends are made when the next Ready is: everything proposed since the last one travels in
one message per follower.  A follower acknowledges what is durable at it; the leader counts itself the same way.  The
commit index is the largest index on a majority (of both halves when joint), *provided that entry is of the leader's own
term*: an older entry on a majority may still be overwritten (Raft paper, figure 8), and is committed only by way of a
newer one above it.  Since a leader's own entries begin at ``term_start_index``, that is one comparison.

Lost appends are noticed in two ways: the next append is rejected, as its predecessor is missing; and a heartbeat's
answer from a follower that is known to be behind provokes an append, empty if need be, that is rejected or confirmed.
"""

from __future__ import annotations

from . import reads
from .errors import Compacted
from .messages import NOBODY, Append, AppendResponse, HeartbeatResponse
from .quorum import majority_value
from .roles import become_follower
from .snapshots import pump_snapshot, restart_snapshot, snapshot_is_of_no_use, start_snapshot
from .state import State
from .tracker import PeerState, Progress
from .transfer import transfer_progressed


def pump(state: State) -> None:
    """Send every follower what it may be sent now."""
    state.append_wanted = False
    last = state.log.last_index
    for progress in state.followers:
        match progress.state:
            case PeerState.REPLICATE:
                if progress.next <= last or progress.poke:
                    _replicate(state, progress, last)
            case PeerState.PROBE:
                if not progress.paused and (progress.next <= last or progress.poke):
                    _probe(state, progress)
            case PeerState.SNAPSHOT:
                pump_snapshot(state, progress)


def _replicate(state: State, progress: Progress, last: int) -> None:
    config = state.config
    most_messages, most_bytes = config.max_inflight_messages, config.max_inflight_bytes
    log = state.log
    while progress.next <= last or progress.poke:
        full = len(progress.inflight) >= most_messages or progress.inflight_bytes >= most_bytes
        if full and not progress.poke:
            return
        before = progress.next - 1
        try:
            before_term = log.term(before)
            entries = [] if full else log.slice(before + 1, last + 1, config.max_message_bytes)
        except Compacted:
            start_snapshot(state, progress)
            return
        progress.poke = False
        progress.commit_sent = committed = log.committed
        state.messages.append(Append(progress.peer, state.peer, state.term, before, before_term, committed, entries))
        if entries:
            size = 0
            for entry in entries:
                size += len(entry.data)
            progress.sent(entries[-1].index, size)


def _probe(state: State, progress: Progress) -> None:
    log = state.log
    before = progress.next - 1
    try:
        before_term = log.term(before)
        entries = log.slice(before + 1, log.last_index + 1, state.config.max_message_bytes)
    except Compacted:
        start_snapshot(state, progress)
        return
    progress.paused = True
    progress.poke = False
    progress.commit_sent = log.committed
    state.messages.append(Append(progress.peer, state.peer, state.term, before, before_term, log.committed, entries))


def handle_append_response(state: State, message: AppendResponse) -> None:
    progress = state.progress.get(message.sender)
    if progress is None:
        return
    progress.recent_active = True
    if message.reject:
        # Skip the terms that the follower can't have in common with us, instead of one entry per round trip.
        hint = message.hint_index
        if message.hint_term > 0:
            hint, _ = state.log.conflict_hint(hint, message.hint_term)
        if progress.rejected(message.index, hint):
            progress.poke = True
            state.append_wanted = True
        return
    news = progress.acknowledged(message.index)
    if progress.state is not PeerState.REPLICATE:
        if not news and not (progress.state is PeerState.PROBE and progress.match == message.index):
            return
        if progress.state is PeerState.SNAPSHOT and not _can_resume(state, progress):
            if snapshot_is_of_no_use(progress):
                restart_snapshot(state, progress)
            return
        progress.become_replicate()
        state.append_wanted = True
    if news:
        maybe_commit(state)
        if state.transfer_to == message.sender:
            transfer_progressed(state, progress)
    if progress.next <= state.log.last_index:
        state.append_wanted = True


def _can_resume(state: State, progress: Progress) -> bool:
    """Whether the log reaches back to what a follower in SNAPSHOT state now has."""
    try:
        state.log.term(progress.match)
    except Compacted:
        return False
    return True


def handle_heartbeat_response(state: State, message: HeartbeatResponse) -> None:
    progress = state.progress.get(message.sender)
    if progress is None:
        return
    progress.recent_active = True
    progress.applied = max(progress.applied, message.applied)
    progress.paused = False
    if progress.match < state.log.last_index or progress.state is PeerState.PROBE:
        if len(progress.inflight) >= state.config.max_inflight_messages:
            progress.free_oldest()
        if progress.state is not PeerState.SNAPSHOT:
            progress.poke = True
        state.append_wanted = True
    reads.round_answered(state, message)


def maybe_commit(state: State) -> None:
    """Advance the commit index to what a quorum has, if that is an entry of this term."""
    halves = state.halves
    index = majority_value([progress.match for progress in halves[0]])
    if len(halves) > 1:
        index = min(index, majority_value([progress.match for progress in halves[1]]))
    log = state.log
    if index <= log.committed or index < state.term_start_index:
        return
    log.commit_to(index)
    if state.early_reads:
        reads.admit_early_reads(state)
    if state.config.eager_commit:
        for progress in state.followers:
            if progress.commit_sent < index and progress.state is PeerState.REPLICATE:
                progress.poke = True
        state.append_wanted = True


def check_quorum(state: State) -> None:
    """Once per election timeout: step down unless a quorum has been heard from since the last time."""
    state.own_progress.recent_active = True
    for half in state.halves:
        if sum(progress.recent_active for progress in half) <= len(half) // 2:
            become_follower(state, state.term, NOBODY)
            return
    for progress in state.followers:
        progress.recent_active = False
