"""How a membership change turns one configuration into the next.

Theory of operation
-------------------
A configuration takes effect when its entry is *applied* (not when it is appended, as in Raft thesis §4.1).  That is
safe under three rules:

1. A leader proposes a change only when the one before is committed and applied at itself; a new leader counts its
   whole inherited log as possibly containing one.
2. A node that knows of a committed change which it has not applied does not campaign.
3. Hard state is written along with every membership entry, commit index included.  By rule 1 the append that carries a
   second change tells that the first one is committed; a restarted node must still know it, or it could campaign with
   the voters of a configuration two steps back, whose majority need not meet the present one.

One change of one voter keeps any two majorities overlapping.  Anything more passes through a joint configuration
(thesis §4.3): ``{1,2,3}`` → ``{1,2,4}&{1,2,3}`` → ``{1,2,4}``, where the second step is an empty ConfChange that the
leader proposes by itself.  Example::

    change(Membership((1, 2, 3)), ConfChange((Change(ADD_VOTER, 4), Change(REMOVE, 3))))
        == Membership(voters=(1, 2, 4), outgoing=(1, 2, 3), auto_leave=True)

A node that has been removed may still be needed: as long as too few of the others know that its removal is committed,
they need its vote.  ``RaftNode.membership_known`` says when it may be destroyed (and see "Outsiders" in election.py).

A voter that is demoted to learner stays a voter of the outgoing half until the joint configuration is left.
"""

from __future__ import annotations

from .errors import InvalidChange
from .messages import ADD_LEARNER, ADD_VOTER, REMOVE, Change, ConfChange, Membership, PeerId

MAX_MEMBERS = 64


def change(present: Membership, conf_change: ConfChange) -> Membership:
    """The configuration after ``conf_change``; raises InvalidChange."""
    if conf_change.leaves_joint:
        return _leave_joint(present)
    if present.is_joint:
        raise InvalidChange("a joint configuration has to be left first")
    voters, learners = set(present.voters), set(present.learners)
    outgoing = frozenset(present.voters)
    learners_next: set[PeerId] = set()
    for one in conf_change.changes:
        _change_one(one, voters, learners, learners_next, outgoing)
    if not voters:
        raise InvalidChange("the last voter can't be removed")
    if len(voters | learners | outgoing) > MAX_MEMBERS:
        raise InvalidChange(f"a group has at most {MAX_MEMBERS} members")
    if conf_change.joint or len(outgoing ^ voters) > 1:
        return Membership(
            tuple(sorted(voters)),
            tuple(sorted(outgoing)),
            tuple(sorted(learners)),
            tuple(sorted(learners_next)),
            conf_change.auto_leave,
        )
    return Membership(tuple(sorted(voters)), (), tuple(sorted(learners | learners_next)))


def _change_one(
    one: Change, voters: set[PeerId], learners: set[PeerId], learners_next: set[PeerId], outgoing: frozenset[PeerId]
) -> None:
    peer = one.peer
    if peer <= 0:
        raise InvalidChange("peers are positive integers")
    voters.discard(peer)
    learners.discard(peer)
    learners_next.discard(peer)
    if one.kind == ADD_VOTER:
        voters.add(peer)
    elif one.kind == ADD_LEARNER:
        (learners_next if peer in outgoing else learners).add(peer)
    elif one.kind != REMOVE:
        raise InvalidChange(f"unknown kind of change: {one.kind}")


def _leave_joint(present: Membership) -> Membership:
    if not present.is_joint:
        raise InvalidChange("the configuration is not joint")
    return Membership(present.voters, (), tuple(sorted({*present.learners, *present.learners_next})))


def describe(membership: Membership) -> str:
    """For people: ``voters 1 2 4 & 1 2 3, learners 5``."""
    text = "voters " + " ".join(map(str, membership.voters))
    if membership.outgoing:
        text += " & " + " ".join(map(str, membership.outgoing))
    if membership.learners:
        text += ", learners " + " ".join(map(str, membership.learners))
    if membership.learners_next:
        text += ", next learners " + " ".join(map(str, membership.learners_next))
    return text
