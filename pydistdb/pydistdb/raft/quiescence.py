"""Quiescence: an idle group stops ticking.

Theory of operation
-------------------
A node may have thousands of groups, most of them idle; their heartbeats would be most of its work.  When a leader has
had nothing to do for ``quiesce_after_ticks`` and *every* member has acknowledged the whole log, all of it committed and
applied here, and has been heard of lately, it sends Quiesce instead of a heartbeat and stops.  A follower that finds the
same last entry commits up to it and stops too; one that does not says so with Wake.  Time stands still in a quiescent
group: no heartbeats, no elections.  The lease runs out meanwhile (the only voter's doesn't); the first read confirms itself
by a round.

Anything ends it: a proposal, a read, a transfer, ``wake()``, or any message, on whichever node.  A follower that wakes
tells its leader, which answers with heartbeats, which wake the rest.  If Quiesce got lost the follower misses its
heartbeats, asks for pre-votes, and thereby wakes the others.  **Nobody notices the leader's death in a quiescent group**:
whoever knows of it (node liveness) must ``wake`` the groups it led.

"Lately" is generous: on a node so busy that answers take seconds, a group that waited for the answer to its last heartbeat
would send the next one, and thousands of them would keep the node busy for ever.  For the same reason a group that was
merely woken is quiet again after a single round.

A late answer to a heartbeat is the one message that does not wake a leader: it is about the past.
"""

from __future__ import annotations

from typing import Final

from . import reads
from .messages import NOBODY, HeartbeatResponse, Message, Quiesce, Wake
from .ready import Role
from .state import State
from .tracker import PeerState

MOST_OPEN_ROUNDS: Final = 16
"""A member that has not answered so many rounds is not known to be there."""


def quiesce_if_idle(state: State) -> bool:
    """Called when a heartbeat would be due: quiesce instead if there is nothing left to say."""
    config = state.config
    log = state.log
    if (
        not config.quiesce_after_ticks
        or state.idle_ticks < config.quiesce_after_ticks
        or log.applied != log.last_index
        or log.committed != log.last_index
        or log.stable != log.last_index
        or state.transfer_to != NOBODY
        or state.pending_reads
        or state.new_reads
        or state.membership.is_joint
    ):
        return False
    for progress in state.followers:
        if (
            progress.state is not PeerState.REPLICATE
            or progress.match != log.last_index
            or progress.acked_round < state.round - MOST_OPEN_ROUNDS
        ):
            return False
    for progress in state.followers:
        state.messages.append(Quiesce(progress.peer, state.peer, state.term, log.last_index, log.last_term))
    _stop(state)
    return True


def _stop(state: State) -> None:
    state.quiescent = True
    state.log.trim(0)


def handle_quiesce(state: State, message: Quiesce) -> None:
    log = state.log
    if message.index == log.last_index and message.log_term == log.last_term:
        log.commit_to(message.index)
        _stop(state)
    else:
        state.messages.append(Wake(message.sender, state.peer, state.term))


def wake_by(state: State, message: Message) -> None:
    """A message has come for a quiescent node: it ends quiescence, unless it is about the past."""
    if state.role is Role.LEADER:
        if type(message) is not HeartbeatResponse or message.term != state.term:
            wake(state)
    elif message.sender == state.leader:
        _go_on(state)
    else:
        wake(state)


def wake(state: State) -> None:
    """Go on ticking, and see to it that the others do."""
    _go_on(state)
    if state.role is Role.LEADER:
        config = state.config
        state.idle_ticks = max(0, config.quiesce_after_ticks - config.heartbeat_ticks)
        for progress in state.followers:
            progress.recent_active = True
        if state.followers:
            reads.start_round(state)
    elif state.leader != NOBODY:
        state.messages.append(Wake(state.leader, state.peer, state.term))


def _go_on(state: State) -> None:
    state.quiescent = False
    state.idle_ticks = 0
    state.election_elapsed = 0
