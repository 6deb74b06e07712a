"""Scans that pass over what their reader has no use for give it all the rest, however often they stop."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydistdb_storage import engine as engines
from pydistdb_storage import mvcc, overlay
from pydistdb_storage.engine import Picks, Snapshot, Space, WriteBatch
from pydistdb_storage.lmdb_engine import LMDBEngine
from pydistdb_storage.overlay import Layer, LayeredSnapshot

PLACE = 2
BUCKETS = st.sampled_from([0, 1, 2, 3, 0xFF, 0x100, 0xFFFE, 0xFFFF])
MARKS = st.sampled_from([b"aa", b"bb", b"cc", b"zz"])
KEYS = st.builds(
    lambda bucket, mark, rest: bucket.to_bytes(PLACE, "big") + mark + bytes([rest]), BUCKETS, MARKS, st.integers(0, 5)
)
WRITES = st.lists(st.tuples(KEYS, st.integers(1, 9), st.sampled_from([b"x", b"y", b""])), max_size=60)
"""Key, time and value: empty for a delete."""
Write = tuple[bytes, int, bytes]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LMDBEngine]:
    engine = LMDBEngine(tmp_path_factory.mktemp("picks"), sync=False)
    yield engine
    engine.close()


def fill(engine: LMDBEngine, writes: list[Write]) -> None:
    batch = WriteBatch()
    batch.clear_range(Space.VERSIONS, b"", b"\xff" * 20)
    for key, timestamp, value in writes:
        mvcc.put_version(batch, key, timestamp, value or None)
    engine.apply([batch])


def layer_of(sequence: int, writes: list[Write]) -> Layer:
    layer = Layer()
    operations = {mvcc.versioned(key, timestamp): value for key, timestamp, value in writes}
    layer.add(sequence, [([(0, key, operations[key]) for key in sorted(operations)], [])])
    return layer


def all_of(
    snapshot: Snapshot, start: bytes, end: bytes, timestamp: int, limit: int, picks: Picks | None
) -> tuple[list[tuple[bytes, bytes]], int]:
    """Every entry, and how many calls it took."""
    found: list[tuple[bytes, bytes]] = []
    calls = 0
    position: bytes | None = start
    while position is not None and position < end:
        part = mvcc.scan(snapshot, position, end, timestamp, limit, picks=picks)
        assert part.resume is None or position < part.resume, "it goes on"
        assert all(position <= key for key in part.keys) and all(key < (part.resume or end) for key in part.keys)
        found += zip(part.keys, part.values, strict=True)
        position, calls = part.resume, calls + 1
    return found, calls


@given(
    tree=WRITES,
    layers=st.lists(WRITES, max_size=2),
    marks=st.sets(MARKS, min_size=1, max_size=3),
    bounds=st.tuples(KEYS, KEYS),
    timestamp=st.integers(1, 9),
    limit=st.integers(1, 10),
    most_seeks=st.integers(0, 3),
    run_length=st.sampled_from([3, 500]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_what_is_picked_is_what_sorting_out_leaves(
    engine: LMDBEngine,
    tree: list[Write],
    layers: list[list[Write]],
    marks: set[bytes],
    bounds: tuple[bytes, bytes],
    timestamp: int,
    limit: int,
    most_seeks: int,
    run_length: int,
) -> None:
    picks = Picks(PLACE, tuple(sorted(marks)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "MOST_SEEKS", most_seeks)
        patch.setattr(overlay, "RUN_LENGTH", run_length)
        fill(engine, tree)
        laid_over = [layer_of(number, writes) for number, writes in enumerate(layers)]
        snapshot = LayeredSnapshot(engine.latest(), tuple(laid_over)) if layers else engine.latest()
        start, end = min(bounds), max(bounds) + b"\xff"
        whole, _ = all_of(snapshot, start, end, timestamp, limit, None)
        found, _ = all_of(snapshot, start, end, timestamp, limit, picks)
    assert [each for each in found if each[0][PLACE : PLACE + 2] in marks] == [
        each for each in whole if each[0][PLACE : PLACE + 2] in marks
    ]


def test_others_are_passed_over(engine: LMDBEngine) -> None:
    others = [(bucket.to_bytes(2, "big") + b"oo" + bytes([each]), 1, b"v") for bucket in range(50) for each in range(9)]
    mine = [(bucket.to_bytes(2, "big") + b"mm\0", 1, b"v") for bucket in range(0, 50, 10)]
    fill(engine, others + mine)
    found, calls = all_of(engine.latest(), b"", b"\xff", 5, 1_000, Picks(2, (b"mm",)))
    assert ([key for key, _ in found], calls) == ([key for key, _, _ in mine], 1), "nothing else, in one call"


def test_a_scan_stops_after_so_many_seeks(engine: LMDBEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "MOST_SEEKS", 10)
    fill(engine, [(bucket.to_bytes(2, "big") + b"oo\0", 1, b"v") for bucket in range(50)])
    found, calls = all_of(engine.latest(), b"", b"\xff", 5, 1_000, Picks(2, (b"mm",)))
    assert (found, calls) == ([], 5)
