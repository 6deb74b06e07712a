"""Majorities, single and joint.

A joint configuration has two halves, and everything needs a majority of both: so the value that a quorum has reached
is the smaller of what the two majorities have.  Example: matches (9, 7, 4) → 7 is on two of three.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from .messages import Membership, PeerId


def majority_value(values: Iterable[int]) -> int:
    """The largest value that a majority has reached."""
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 2]


def halves(membership: Membership) -> Sequence[Collection[PeerId]]:
    """The sets of voters of each of which a majority is needed."""
    return (membership.voters, membership.outgoing) if membership.outgoing else (membership.voters,)


def vote_result(membership: Membership, votes: Mapping[PeerId, bool]) -> bool | None:
    """True if the votes elect, False if they can't any more, None if it is still open."""
    result: bool | None = True
    for half in halves(membership):
        needed = len(half) // 2 + 1
        granted = sum(1 for peer in half if votes.get(peer) is True)
        refused = sum(1 for peer in half if votes.get(peer) is False)
        if len(half) - refused < needed:
            return False
        if granted < needed:
            result = None
    return result


def is_quorum(membership: Membership, peers: Collection[PeerId]) -> bool:
    return all(sum(1 for peer in half if peer in peers) > len(half) // 2 for half in halves(membership))
