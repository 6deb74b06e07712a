"""Layered mappings against dictionaries, which they must not be told from."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from pydistdb.sql.catalog.layered import DELTA_SHARE, LEAST_DELTA, Layered

KEYS = st.integers(0, 2 * LEAST_DELTA)
CHANGES = st.lists(st.tuples(KEYS, st.one_of(st.none(), st.integers(0, 3))), max_size=3 * LEAST_DELTA)


@given(st.dictionaries(KEYS, st.integers(0, 3)), st.lists(st.tuples(CHANGES, st.booleans()), max_size=4))
def test_a_layered_mapping_is_like_a_dictionary(start: dict[int, int], rounds: list[tuple[list, bool]]) -> None:
    layered, plain = Layered(dict(start)), dict(start)
    states = []
    for changes, is_read in rounds:
        states.append((layered, dict(plain)))
        draft = layered.draft()
        for key, value in changes:
            plain.pop(key, None)  # what is set anew goes to the end
            if value is None:
                draft.pop(key, None)
            else:
                draft[key] = plain[key] = value
        assert len(draft) == len(plain)
        layered = draft.finish()
        for key in range(2 * LEAST_DELTA + 1):
            assert layered.get(key) == plain.get(key) and (key in layered) == (key in plain)
        assert bool(layered) == bool(plain)
        if is_read:
            assert list(layered.items()) == list(plain.items()) and len(layered) == len(plain)
    for older, was in states:
        differing = {key for key in was.keys() | plain.keys() if was.get(key, -1) != plain.get(key, -1)}
        assert set(older.differing(layered)) == differing
        assert dict(older) == was


def test_small_changes_of_a_large_mapping_share_its_base() -> None:
    count = 10_000
    layered = Layered({number: number for number in range(count)})
    base = layered._base
    for number in range(count // DELTA_SHARE):
        draft = layered.draft()
        draft[count + number] = number
        layered = draft.finish()
        assert layered._base is base
    draft = layered.draft()
    draft[-1] = 0
    assert draft.finish()._base is not base
