"""What a message does, by role; and what a tick does to a leader.

Terms are compared first.  A higher one makes a follower, unless a promise to a live leader says to ignore the message
(that was looked at before); a lower one is out of date, and its sender is told so if it takes itself for a leader.
Then the table of the role says which function handles the message; what is not in it is ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from . import election, quiescence, reads, transfer
from .follower import handle_append, handle_heartbeat
from .messages import (
    NOBODY,
    Append,
    AppendResponse,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    Message,
    Quiesce,
    ReadIndex,
    ReadIndexResponse,
    SnapshotResponse,
    TimeoutNow,
    Vote,
    VoteResponse,
)
from .ready import Role
from .replication import check_quorum, handle_append_response, handle_heartbeat_response
from .roles import become_follower
from .snapshots import handle_install_snapshot, handle_snapshot_response, tick_snapshot
from .state import State

FROM_LEADER: Final = frozenset({Append, Heartbeat, InstallSnapshot, Quiesce})


def _two_leaders(state: State, message: Message) -> None:
    raise AssertionError(f"{message.sender} and {state.peer} both lead term {state.term}")


def _after_following(handler: Callable[[State, Any], None]) -> Callable[[State, Any], None]:
    """For candidates: a message from a leader of this term ends the campaign."""

    def follow(state: State, message: Message) -> None:
        become_follower(state, state.term, message.sender)
        handler(state, message)

    return follow


_Handlers = dict[type, Callable[[State, Any], None]]

_AS_FOLLOWER: _Handlers = {
    Append: handle_append,
    Heartbeat: handle_heartbeat,
    InstallSnapshot: handle_install_snapshot,
    Quiesce: quiescence.handle_quiesce,
    Vote: election.handle_vote,
    TimeoutNow: election.handle_timeout_now,
    ReadIndexResponse: reads.handle_read_index_response,
}
_AS_CANDIDATE: _Handlers = {
    **{kind: _after_following(_AS_FOLLOWER[kind]) for kind in FROM_LEADER},
    Vote: election.handle_vote,
    VoteResponse: election.handle_vote_response,
}
_AS_LEADER: _Handlers = {
    **dict.fromkeys(FROM_LEADER, _two_leaders),
    AppendResponse: handle_append_response,
    HeartbeatResponse: handle_heartbeat_response,
    SnapshotResponse: handle_snapshot_response,
    ReadIndex: reads.handle_read_index,
    Vote: election.handle_vote,
}
# By role.  Wake has no handler: arriving is all it does.
HANDLERS: Final = (_AS_FOLLOWER, _AS_CANDIDATE, _AS_CANDIDATE, _AS_LEADER)


def tick_leader(state: State) -> None:
    config = state.config
    state.idle_ticks += 1
    state.election_elapsed += 1
    state.heartbeat_elapsed += 1
    if state.heartbeat_elapsed >= config.heartbeat_ticks:
        state.heartbeat_elapsed = 0
        if quiescence.quiesce_if_idle(state):
            return
        if state.followers:
            reads.start_round(state)
    for progress in state.followers:
        if progress.sender is not None:
            tick_snapshot(state, progress)
    if state.transfer_to or state.transfer_sent:
        transfer.tick_transfer(state)
    elif not state.membership.is_voter(state.peer):
        transfer.hand_over(state)
    if state.election_elapsed >= config.election_timeout_ticks and state.role is Role.LEADER:
        state.election_elapsed = 0
        if config.check_quorum:
            check_quorum(state)


def terms_agree(state: State, message: Message) -> bool:
    """Deal with a term that differs from ours; returns whether the message is to be handled."""
    kind = type(message)
    if message.term > state.term:
        if isinstance(message, Vote) and message.pre:
            return True  # asks about a term that nobody is in yet
        if isinstance(message, VoteResponse) and message.pre and not message.reject:
            return True  # grants a pre-vote for the term that this node would start
        become_follower(state, message.term, message.sender if kind in FROM_LEADER else NOBODY)
        return True
    if kind in FROM_LEADER and (state.config.check_quorum or state.config.pre_vote):
        # A leader that is behind must hear of our term from somewhere, as we won't disturb it by campaigning.
        state.messages.append(HeartbeatResponse(message.sender, state.peer, state.term, 0))
    elif isinstance(message, Vote) and message.pre:
        state.messages.append(VoteResponse(message.sender, state.peer, state.term, True, True))
    return False
