"""Elections: campaigns, votes, and the promise that makes leases safe.

Theory of operation
-------------------
A follower that has not heard from a leader for a random 1 to 2 election timeouts asks for pre-votes; if a majority would
vote for it, it starts a new term and asks for votes (Raft paper §5.2, thesis §9.6).  A vote is given once per term, only
to a candidate whose log is at least as up to date, and leaves only after it is durable.

**The promise.**  Whoever has heard from a leader at time t gives no vote, and does not campaign, before t + election
timeout on its own monotonic clock (thesis §4.2.3).  A leader whose heartbeats a majority has answered thus knows that
nobody can be elected before (start of that round + election timeout), clocks allowing: its lease (reads.py).  Hence

* the promise is measured in nanoseconds, not ticks: ticks may come late and then in a bunch;
* it outlives a change of term or of leader, for the old leader may not know of it yet;
* a restarted node does not know what it promised, so it acts as if it had heard from a leader just now.  Only a node
  that has never been in any term (so never answered a leader) is exempt, and the only voter of its group, since nobody
  else's lease can depend on it: a leader whose removal is committed but not applied holds no lease (reads.py);
* a leader keeps the promise towards itself, as its own answer is counted in every round.

A vote request with ``force`` overrides the promise: the leader itself has asked for that election (transfer.py), and it
gave up its lease for the rest of its term before it did.

**Outsiders.**  A voter that has been removed may be the only one who knows that its removal is committed.  Others, still
going by the old configuration, ask it for votes, and it must refuse whoever has less of the log.  Nobody could ever be
elected.  So a non-voter that has refused a vote for that reason campaigns itself, under the configuration that it
knows; the votes of a majority are what makes a leader, whether it is a voter or not (thesis §4.2.2).  It does not count
itself, and hands over as soon as it can (transfer.py).

**Groups that are born led.**  When a group comes into being by what all its members do alike (a split), that may say who leads
it first: every member is born with its vote of the first term given to that one, so nobody else can ever win that term, and
the chosen one has won it without asking.  Nobody led before, so there is nothing that only a commit of its own term would
make certain: it begins without the empty entry.  It must not take the term up twice, though, which is its owner's concern:
after a crash it may have forgotten what it told others in it.

Example (timeout 1000 ms): 2 hears from 1 at 0 ms.  3, partitioned, asks 2 for a pre-vote at 700 ms: ignored.  At 1000 ms
the promise is over; at 1400 ms the random timeout of 2 runs out, and it campaigns.
"""

from __future__ import annotations

from typing import Final

from .messages import NOBODY, PeerId, TimeoutNow, Vote, VoteResponse
from .quorum import vote_result
from .ready import Role
from .roles import become_candidate, become_follower, become_leader, become_pre_candidate
from .state import State

FIRST_TERM: Final = 1


def tick_election(state: State) -> None:
    """Count a tick of a node that is not the leader."""
    state.election_elapsed += 1
    if state.election_elapsed >= state.election_timeout or state.is_sole_voter:
        campaign(state, force=False)


def campaign(state: State, force: bool, pre_vote: bool = True) -> None:
    """Start an election, unless this node is bound by its promise or may not be elected."""
    if state.role is Role.LEADER and not force:
        return
    if not state.is_promotable:
        return
    if not force and is_bound(state) and not state.is_sole_voter:
        return
    if state.config.pre_vote and pre_vote and not force:
        become_pre_candidate(state)
    else:
        become_candidate(state)
    _request_votes(state, force)


def begin_led(state: State, leader: PeerId, takes_over: bool) -> None:
    """In a group that has just come into being: vote for ``leader`` in the first term; perhaps be the one, and take over."""
    if state.term > FIRST_TERM or state.vote != NOBODY:
        return  # the group has gone on without this member, which was waiting for a snapshot until now
    state.term = FIRST_TERM
    state.vote = leader
    if takes_over:
        assert leader == state.peer, "somebody else is to lead"
        state.role = Role.CANDIDATE
        become_leader(state, is_first=True)


def ask_again(state: State) -> None:
    """As a candidate: ask those that have not answered once more."""
    if state.role in (Role.PRE_CANDIDATE, Role.CANDIDATE):
        _request_votes(state, force=False)


def is_bound(state: State) -> bool:
    """Whether a promise to a leader that may be alive forbids voting."""
    if not state.config.check_quorum:
        return False
    if state.role is Role.LEADER and state.is_sole_voter:
        return True
    return state.now_ns < state.promise_until_ns


def _request_votes(state: State, force: bool) -> None:
    pre = state.role is Role.PRE_CANDIDATE
    term = state.term + 1 if pre else state.term
    state.votes[state.peer] = True
    if vote_result(state.membership, state.votes):
        _won(state)
        return
    log = state.log
    # A pre-vote promises nothing.  A vote request implies this node's vote for itself, which must be durable first.
    outbox = state.messages if pre else state.messages_after_persist
    for progress in state.followers:
        if progress.peer not in state.votes and state.membership.is_voter(progress.peer):
            outbox.append(Vote(progress.peer, state.peer, term, log.last_index, log.last_term, pre, force))


def _won(state: State) -> None:
    if state.role is Role.PRE_CANDIDATE:
        become_candidate(state)
        _request_votes(state, force=False)
    else:
        become_leader(state)


def handle_vote(state: State, message: Vote) -> None:
    """Answer a (pre-)vote request of this term (a pre-vote: of this or a later one)."""
    free = (
        state.vote == message.sender
        or (state.vote == NOBODY and state.leader == NOBODY)
        or (message.pre and message.term > state.term)
    )
    if free and state.log.is_behind(message.index, message.log_term):
        # The grant of a pre-vote carries the term that was asked for: the candidate's next one.
        response = VoteResponse(message.sender, state.peer, message.term, False, message.pre)
        if message.pre:
            state.messages.append(response)
        else:
            state.vote = message.sender
            state.election_elapsed = 0
            state.messages_after_persist.append(response)
    else:
        if free and state.membership.voters and not state.membership.is_voter(state.peer):
            state.needed = True
        state.messages.append(VoteResponse(message.sender, state.peer, state.term, True, message.pre))


def handle_vote_response(state: State, message: VoteResponse) -> None:
    """Count a vote, if it answers the campaign that this candidate is in."""
    if message.pre is not (state.role is Role.PRE_CANDIDATE):
        return
    state.votes.setdefault(message.sender, not message.reject)
    result = vote_result(state.membership, state.votes)
    if result is True:
        _won(state)
    elif result is False:
        become_follower(state, state.term, NOBODY)


def handle_timeout_now(state: State, message: TimeoutNow) -> None:
    """Campaign at the leader's wish; at once, or as soon as a committed membership change is applied."""
    if state.is_promotable:
        campaign(state, force=True)
    else:
        state.campaign_when_applied = state.term


def campaign_if_due(state: State) -> None:
    """After an apply: hold the election that a membership change had delayed."""
    if state.campaign_when_applied:
        if state.campaign_when_applied != state.term or state.role is Role.LEADER:
            state.campaign_when_applied = 0
        elif state.is_promotable:
            campaign(state, force=True)
