"""The follower's side: accept entries, follow the commit index, answer heartbeats.

Theory of operation
-------------------
An append is accepted if the log holds the entry just before it (Raft paper §5.3).  The answer leaves only once the
entries are durable here.  A rejection promises nothing and leaves at once; it carries a hint: the last entry of this log
that could still match, at or below the position that failed, and its term.  The leader takes the hint through its own
log in the same way, so that one round trip skips a whole term of conflicting entries::

    index      1 2 3 4 5 6 7 8 9
    leader     1 3 3 3 5 5 5 5 5         append behind 9 (term 5) is rejected; the hint is (6, 2)
    follower   1 1 1 1 2 2               the leader's last entry of a term ≤ 2 at or below 6 is 1: next append behind 1
"""

from __future__ import annotations

from .messages import Append, AppendResponse, Heartbeat, HeartbeatResponse
from .state import State


def handle_append(state: State, message: Append) -> None:
    log = state.log
    if state.snapshot is not None:
        return  # a Ready with a snapshot comes without entries; the leader asks again
    before = message.index
    if before < log.committed:
        # An old message; what is committed here matches any leader, so say how far that is.
        state.messages_after_persist.append(AppendResponse(message.sender, state.peer, state.term, log.committed))
        return
    if (before == log.last_index and message.log_term == log.last_term) or log.matches(before, message.log_term):
        assert state.membership.voters, "a newcomer starts from a snapshot (storage.py)"
        entries = message.entries
        last = before
        if entries:
            log.accept(entries)
            last = entries[-1].index
        commit = message.commit if message.commit < last else last
        if commit > log.committed:
            log.commit_to(commit)
        state.messages_after_persist.append(AppendResponse(message.sender, state.peer, state.term, last))
        return
    hint_index, hint_term = log.conflict_hint(min(before, log.last_index), message.log_term)
    if hint_index < log.committed:
        # Nothing below the commit index conflicts with any leader.
        hint_index, hint_term = log.committed, 0
    state.messages.append(AppendResponse(message.sender, state.peer, state.term, before, True, hint_index, hint_term))


def handle_heartbeat(state: State, message: Heartbeat) -> None:
    log = state.log
    if message.commit > log.committed:
        # The leader sends no more than what it knows to match, and an acknowledgement outlives a restart.
        log.commit_to(message.commit)
    state.messages.append(HeartbeatResponse(message.sender, state.peer, state.term, message.round, log.applied))
