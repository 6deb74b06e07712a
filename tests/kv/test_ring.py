"""Consistent hashing: what belongs where, what moves, and what never does."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydistdb.kv.placement.ring import CIRCLE, Ring, RingError, degrees, hash_of

NAMES = st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=6, unique=True)
KEYS = [f"user:{number}" for number in range(300)]
few_places = settings(max_examples=60, deadline=None)


@given(names=NAMES, places=st.integers(1, 20))
@few_places
def test_a_key_belongs_to_the_first_node_clockwise(names: list[str], places: int) -> None:
    ring = Ring(names, places)
    circle = ring.places()
    for key in KEYS[:40]:
        angle = degrees(hash_of(key))
        expected = next((node for place, node in circle if place >= angle), circle[0][1])
        assert ring.lookup(key) == expected


@given(names=NAMES, new=st.text(min_size=5, max_size=6), weight=st.floats(0.1, 4))
@few_places
def test_a_new_node_takes_keys_and_nothing_else_moves(names: list[str], new: str, weight: float) -> None:
    before = Ring(names, 10)
    after = before.with_node(new, weight)
    for key in KEYS:
        assert after.lookup(key) in (before.lookup(key), new)
    assert {to for _, to in after.moved(before, KEYS).moves} <= {new}
    back = after.without_node(new)
    assert back.moved(before, KEYS).moved_keys == 0
    assert {gone for gone, _ in back.moved(after, KEYS).moves} <= {new}


@given(names=NAMES, count=st.integers(0, 8))
@few_places
def test_replicas_are_distinct_and_begin_with_the_owner(names: list[str], count: int) -> None:
    ring = Ring(names, 5)
    for key in KEYS[:30]:
        replicas = ring.replicas(key, count)
        assert len(replicas) == len(set(replicas)) == min(count, len(names))
        assert replicas[:1] == ([ring.lookup(key)] if count else [])


@given(names=NAMES, factor=st.floats(1, 2), weights=st.lists(st.floats(0.5, 3), min_size=6, max_size=6))
@few_places
def test_no_node_is_given_more_than_its_bound(names: list[str], factor: float, weights: list[float]) -> None:
    weighted = dict(zip(names, weights, strict=False))
    ring = Ring(weighted, 3)
    assigned = ring.assign(KEYS, factor)
    assert list(assigned) == KEYS
    for node, weight in weighted.items():
        got = sum(owner == node for owner in assigned.values())
        assert got <= math.ceil(factor * len(KEYS) * weight / sum(weighted.values()))


def test_keys_stay_with_their_owner_while_there_is_room() -> None:
    ring = Ring("ABC", 50)
    assert ring.assign(KEYS, 100.0) == {key: ring.lookup(key) for key in KEYS}


@given(names=NAMES, places=st.integers(1, 30))
@few_places
def test_the_shares_are_the_whole_circle(names: list[str], places: int) -> None:
    shares = Ring(names, places).shares()
    assert set(shares) == set(names)
    assert sum(shares.values()) == pytest.approx(1)


def test_shares_follow_the_weights() -> None:
    ring = Ring({"A": 1, "B": 2, "C": 1}, 1_000)
    keys = [f"key{number}" for number in range(20_000)]
    found = ring.distribution(keys)
    assert found.total == 20_000
    assert found.share("B") == pytest.approx(0.5, abs=0.03)
    assert found.share("A") == pytest.approx(0.25, abs=0.03)
    assert found.deviation < 0.02


def test_the_order_of_the_nodes_does_not_matter() -> None:
    assert Ring("ABC", 20).places() == Ring("CAB", 20).places()


def test_the_hash_never_changes() -> None:
    """Where keys lie depends on it (published test value of XXH3-64 for the empty input)."""
    assert hash_of("") == 0x2D06800538D394C2
    assert hash_of("user:12345") == hash_of(b"user:12345") == 0xEE6DDCE90FFEE5B3
    assert 0 <= hash_of("x") < CIRCLE


def test_broken_rings_are_refused() -> None:
    ring = Ring("AB")
    with pytest.raises(RingError, match="on the ring already"):
        ring.with_node("A")
    with pytest.raises(RingError, match="not on the ring"):
        ring.without_node("Z")
    with pytest.raises(RingError, match="must be positive"):
        Ring({"A": 0})
    with pytest.raises(RingError, match="at least one virtual node"):
        Ring("A", 0)
    with pytest.raises(RingError, match="at most"):
        Ring({"A": 1e9})
    with pytest.raises(RingError, match="no nodes"):
        Ring({}).lookup("x")
    with pytest.raises(RingError, match="fair share"):
        ring.assign(KEYS, 0.5)
