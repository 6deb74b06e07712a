"""Majorities, votes and membership arithmetic, against their definitions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydistdb.raft import ADD_LEARNER, ADD_VOTER, REMOVE, Change, ConfChange, InvalidChange, Membership
from pydistdb.raft.membership import change, describe
from pydistdb.raft.quorum import halves, is_quorum, majority_value, vote_result

peers = st.frozensets(st.integers(1, 7), min_size=1, max_size=5)
changes = st.lists(
    st.builds(Change, st.sampled_from([ADD_VOTER, ADD_LEARNER, REMOVE]), st.integers(1, 7)), min_size=1, max_size=4
)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=7))
def test_majority_value(values: list[int]) -> None:
    value = majority_value(values)
    assert sum(v >= value for v in values) > len(values) // 2
    assert sum(v > value for v in values) <= len(values) // 2


@given(peers, st.one_of(st.just(frozenset[int]()), peers), st.dictionaries(st.integers(1, 7), st.booleans()))
def test_vote_result(voters: frozenset[int], outgoing: frozenset[int], votes: dict[int, bool]) -> None:
    membership = Membership(tuple(voters), tuple(outgoing))
    granted = {peer for peer, vote in votes.items() if vote}
    possible = granted | {peer for peer in range(1, 8) if peer not in votes}
    result = vote_result(membership, votes)
    assert (result is True) == is_quorum(membership, granted)
    assert (result is False) == (not is_quorum(membership, possible))


@given(peers, changes, st.booleans())
def test_successive_configurations_overlap(voters: frozenset[int], steps: list[Change], joint: bool) -> None:
    """Any majority of a configuration meets any majority of the next: the heart of safe membership changes."""
    before = Membership(tuple(sorted(voters)))
    try:
        after = change(before, ConfChange(tuple(steps), joint=joint))
    except InvalidChange:
        return
    assert_overlap(before, after)
    assert set(after.learners).isdisjoint(after.voters)
    if after.is_joint:
        left = change(after, ConfChange())
        assert_overlap(after, left)
        assert left.voters == after.voters
        assert set(left.learners) == set(after.learners) | set(after.learners_next)


def assert_overlap(one: Membership, other: Membership) -> None:
    everybody = sorted(one.peers() | other.peers())
    for bits in range(1 << len(everybody)):
        side = {peer for position, peer in enumerate(everybody) if bits >> position & 1}
        if is_quorum(one, side):
            assert not is_quorum(other, set(everybody) - side)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([(ADD_VOTER, 4)], "voters 1 2 3 4"),
        ([(ADD_LEARNER, 4)], "voters 1 2 3, learners 4"),
        ([(REMOVE, 3)], "voters 1 2"),
        ([(ADD_LEARNER, 3)], "voters 1 2, learners 3"),
        ([(ADD_VOTER, 4), (REMOVE, 3)], "voters 1 2 4 & 1 2 3"),
        ([(ADD_VOTER, 4), (ADD_LEARNER, 3)], "voters 1 2 4 & 1 2 3, next learners 3"),
    ],
)
def test_change(steps: list[tuple[int, int]], expected: str) -> None:
    after = change(Membership((1, 2, 3)), ConfChange(tuple(Change(*step) for step in steps)))
    assert describe(after) == expected
    assert len(halves(after)) == (2 if after.is_joint else 1)
