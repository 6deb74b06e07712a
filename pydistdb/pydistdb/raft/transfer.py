"""Handing leadership over.

Theory of operation
-------------------
(Thesis §3.10.)  The leader stops taking proposals, brings the target's log up to date, and tells it to campaign at once
(TimeoutNow).  The target's vote requests carry ``force``, so that voters who have just heard from the old leader vote
nevertheless.  That breaks the promise on which the lease rests, therefore:

* before TimeoutNow is sent the leader gives up its lease, **for the rest of its term**.  The network may deliver
  TimeoutNow at any later time, as long as the target is still in this term; no timer makes it harmless;
* if the transfer does not come about within an election timeout, the leader goes back to work.  If TimeoutNow had been
  sent, it starts a new term, by a forced election of its own: once a majority is in that term a late TimeoutNow can't
  win anything, and the new term's lease is as good as any.

A leader that is no voter any more, because a membership change says so, hands over in the same way, to one voter after
the other until one takes it.

Example: 1 leads term 3 and transfers to 2, which has everything: lease given up, TimeoutNow(term 3) sent, 2 is elected
in term 4.  If 2 is dead: after 10 ticks 1 campaigns, and leads term 4 with a lease.
"""

from __future__ import annotations

from .election import campaign
from .errors import InvalidChange, NotLeader
from .messages import NOBODY, PeerId, TimeoutNow
from .ready import Role
from .state import State
from .tracker import Progress


def start_transfer(state: State, to: PeerId) -> None:
    """Begin to hand over to ``to``; naming this node itself calls a transfer off that has not gone out yet."""
    if state.role is not Role.LEADER:
        raise NotLeader(state.leader)
    if to == state.peer:
        if not state.transfer_sent:
            state.transfer_to = NOBODY
        return
    progress = state.progress.get(to)
    if progress is None or not state.membership.is_voter(to):
        raise InvalidChange(f"{to} is not a voter")
    if state.transfer_to == to or state.transfer_sent:
        return
    state.transfer_to = to
    state.transfer_elapsed = 0
    transfer_progressed(state, progress)


def transfer_progressed(state: State, progress: Progress) -> None:
    """Tell the target to campaign if it has all of the log, else send it what it lacks."""
    if progress.match >= state.log.last_index:
        state.lease_given_up = True
        state.transfer_sent = True
        state.messages.append(TimeoutNow(progress.peer, state.peer, state.term))
    else:
        progress.poke = True
        state.append_wanted = True


def tick_transfer(state: State) -> None:
    """Count a tick of a transfer under way; past an election timeout it has failed."""
    state.transfer_elapsed += 1
    if state.transfer_elapsed < state.config.election_timeout_ticks:
        target = state.progress.get(state.transfer_to)
        if state.transfer_sent and state.heartbeat_elapsed == 0 and target is not None:
            transfer_progressed(state, target)  # the first one may have been lost
        return
    sent = state.transfer_sent
    state.transfer_to = NOBODY
    state.transfer_sent = False
    if sent and state.membership.is_voter(state.peer):
        campaign(state, force=True)


def hand_over(state: State) -> None:
    """This leader is no voter (any more): give leadership to the voter that is furthest ahead.

    Until that one is elected somebody has to tell the others that the change is committed: so keep on leading.
    """
    heirs = [progress for progress in state.followers if state.membership.is_voter(progress.peer)]
    heir = max(heirs, key=lambda progress: (progress.recent_active, progress.match), default=None)
    state.lease_given_up = True
    if heir is not None:
        start_transfer(state, heir.peer)
