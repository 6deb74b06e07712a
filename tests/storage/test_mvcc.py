"""Multi-version reads against a plain model: a dictionary of (key, timestamp) to value."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydistdb_storage import mvcc, rows
from pydistdb_storage.engine import MAX_KEY_BYTES, Space, WriteBatch
from pydistdb_storage.errors import KeyTooLong
from pydistdb_storage.keys import key_encoder
from pydistdb_storage.memory_engine import MemoryEngine

_encode = key_encoder(["int"])
NUMBERS = st.integers(0, 6)
TIMES = st.integers(1, 12)
HISTORIES = st.dictionaries(st.tuples(NUMBERS, TIMES), st.none() | st.binary(min_size=1, max_size=3), max_size=60)
History = dict[tuple[int, int], bytes | None]


def _engine(history: History) -> MemoryEngine:
    engine = MemoryEngine()
    batch = WriteBatch()
    for (number, time), value in history.items():
        mvcc.put_version(batch, _encode((number,)), time, value)
    engine.apply([batch])
    return engine


def _model(history: History, time: int) -> dict[int, bytes]:
    newest: dict[int, tuple[int, bytes | None]] = {}
    for (number, written), value in history.items():
        if written <= time and written > newest.get(number, (0, None))[0]:
            newest[number] = (written, value)
    return {number: value for number, (_, value) in sorted(newest.items()) if value is not None}


@given(HISTORIES, NUMBERS, TIMES)
def test_get_returns_the_newest_at_or_below(history: History, number: int, time: int) -> None:
    value, written = mvcc.get(_engine(history).latest(), _encode((number,)), time)
    assert value == _model(history, time).get(number)
    assert written == max((t for n, t in history if n == number and t <= time), default=0)


@given(HISTORIES, NUMBERS, NUMBERS, TIMES, st.integers(1, 3), st.booleans())
@settings(deadline=None)
def test_scans_in_chunks_see_what_the_model_has(
    history: History, low: int, high: int, time: int, limit: int, reverse: bool
) -> None:
    view = _engine(history).latest()
    start, end = _encode((low,)), _encode((high,))
    found: list[tuple[bytes, bytes]] = []
    while True:
        chunk = mvcc.scan(view, start, end, time, limit, reverse=reverse)
        assert len(chunk.keys) <= limit
        found += zip(chunk.keys, chunk.values, strict=True)
        if chunk.resume is None:
            break
        if reverse:
            end = chunk.resume
        else:
            start = chunk.resume
    expected = [(_encode((n,)), v) for n, v in _model(history, time).items() if low <= n < high]
    assert found == (expected[::-1] if reverse else expected)


def test_a_scan_tells_of_newer_versions_it_passed_over() -> None:
    history: History = {(1, 5): b"old", (1, 9): b"new", (2, 7): b"other"}
    view = _engine(history).latest()
    for reverse in (False, True):
        chunk = mvcc.scan(view, _encode((0,)), _encode((9,)), 6, 10, reverse=reverse)
        assert chunk.values == [b"old"]
        assert chunk.newest_above == 9


@given(HISTORIES, TIMES, TIMES, st.integers(0, 9), st.integers(0, 9))
def test_the_newest_version_in_a_window_of_time(history: History, above: int, most: int, low: int, high: int) -> None:
    inside = [time for (number, time) in history if low <= number < high and above < time <= most]
    view = _engine(history).latest()
    assert mvcc.newest_within(view, _encode((low,)), _encode((high,)), above, most) == max(inside, default=0)


def test_a_scan_passes_over_many_versions_of_a_hot_row() -> None:
    history: History = {(1, time): b"%d" % time for time in range(1, 500)}
    history[(2, 3)] = b"next"
    chunk = mvcc.scan(_engine(history).latest(), _encode((0,)), _encode((9,)), 400, 10)
    assert chunk.values == [b"400", b"next"]


def test_scan_chunks_are_bounded_in_bytes() -> None:
    history: History = {(number, 1): bytes(10) or None for number in range(6)}
    chunk = mvcc.scan(_engine(history).latest(), _encode((0,)), _encode((9,)), 5, 100, max_bytes=25)
    assert len(chunk.values) == 3
    assert chunk.resume is not None


@given(HISTORIES, TIMES, TIMES, st.integers(1, 5))
def test_garbage_collection_is_invisible_at_and_above_the_threshold(
    history: History, threshold: int, later: int, slice_versions: int
) -> None:
    engine = _engine(history)
    start: bytes | None = _encode((0,))
    while start is not None:
        batch = WriteBatch()
        result = mvcc.collect_garbage(engine.latest(), batch, start, b"\xff", threshold, slice_versions)
        engine.apply([batch])
        start = result.resume
    time = max(threshold, later)
    chunk = mvcc.scan(engine.latest(), b"", b"\xff", time, 100)
    assert chunk.values == list(_model(history, time).values())
    # Nothing unneeded is left: at most one version at or below the threshold, and no tombstone among them.
    left = [mvcc.split_version(key) for key, _ in engine.latest().scan(Space.VERSIONS, b"", b"\xff")]
    old = [key for key, written in left if written <= threshold]
    assert len(old) == len(set(old)) == len(_model(history, threshold))


def test_long_keys_are_refused_with_the_limit() -> None:
    batch = WriteBatch()
    mvcc.put_version(batch, bytes(MAX_KEY_BYTES - 8), 1, b"x")
    with pytest.raises(KeyTooLong, match="limit of 503 bytes"):
        mvcc.put_version(batch, bytes(MAX_KEY_BYTES - 7), 1, b"x")


@given(st.lists(st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text()))
def test_rows_come_back_as_they_went(values: list[object]) -> None:
    assert rows.decode_row(rows.encode_row(7, values)) == [7, *values]
