"""Proposing, applying and finishing membership changes (the rules are in membership.py)."""

from __future__ import annotations

from . import reads
from .errors import NotLeader, ProposalDropped
from .membership import change
from .messages import MEMBERSHIP, NOBODY, ConfChange, Entry, Membership, encode_conf_change
from .quorum import majority_value
from .ready import Role
from .replication import maybe_commit
from .state import State
from .transfer import hand_over


def propose_change(state: State, conf_change: ConfChange) -> tuple[int, int]:
    """Append a membership change, if none is under way; raises NotLeader, ProposalDropped, InvalidChange."""
    if state.role is not Role.LEADER:
        raise NotLeader(state.leader)
    if state.transfer_to != NOBODY:
        raise ProposalDropped("leadership is being transferred")
    if not _is_settled(state):
        raise ProposalDropped("another membership change is under way")
    change(state.membership, conf_change)
    return _append_change(state, conf_change)


def _is_settled(state: State) -> bool:
    return min(state.log.applied, state.log.committed) >= state.pending_membership_index


def is_known(state: State) -> bool:
    """Whether a quorum of the present configuration has durably applied the change that led to it."""
    if state.role is not Role.LEADER or not _is_settled(state):
        return False
    state.own_progress.applied = state.log.applied
    index = state.pending_membership_index
    return all(majority_value([progress.applied for progress in half]) >= index for half in state.halves)


def _append_change(state: State, conf_change: ConfChange) -> tuple[int, int]:
    index = state.log.last_index + 1
    state.log.append(Entry(index, state.term, MEMBERSHIP, encode_conf_change(conf_change)))
    state.pending_membership_index = index
    state.append_wanted = True
    state.idle_ticks = 0
    return index, state.term


def leave_joint_if_due(state: State) -> None:
    """Propose the second half of a joint change once the first half is in force."""
    if state.role is Role.LEADER and state.membership.auto_leave and _is_settled(state):
        _append_change(state, ConfChange())


def apply_change(state: State, conf_change: ConfChange) -> Membership:
    """Put an applied change into force; a leader that it removes hands over."""
    old = state.membership
    new = change(old, conf_change)
    state.set_membership(new)
    if state.role is not Role.LEADER:
        return new
    if not new.is_voter(state.peer):
        if not state.transfer_sent:
            state.transfer_to = NOBODY
            hand_over(state)
    elif not state.transfer_sent and not new.is_voter(state.transfer_to):
        state.transfer_to = NOBODY
    if (old.voters, old.outgoing) != (new.voters, new.outgoing):
        reads.voters_changed(state)
        maybe_commit(state)
    state.append_wanted = True
    return new
