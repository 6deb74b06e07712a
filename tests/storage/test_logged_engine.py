"""The engine of a node: log, layers and tree against the in-memory twin; crashes, torn logs and lost helpers."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from pydistdb_storage import mvcc, overlay
from pydistdb_storage.engine import Engine, Space, WriteBatch
from pydistdb_storage.errors import StorageError, StoreCorrupt, StoreFull
from pydistdb_storage.lmdb_engine import LMDBEngine
from pydistdb_storage.log_file import SPARE_SEGMENTS, LogReader, LogWriter, segments
from pydistdb_storage.logged_engine import LoggedEngine
from pydistdb_storage.memory_engine import MemoryEngine, MirrorEngine
from pydistdb_storage.overlay import Layer, LayeredSnapshot

from tests.storage.crash import one_round
from tests.storage.test_engine import KEYS, SPACES, EnginesAgree

ALL = (b"", b"\xff" * 20)


@pytest.fixture(autouse=True, scope="module")
def _short_runs() -> Iterator[None]:
    """Two operations in order are a run here."""
    with mock.patch.object(overlay, "RUN_LENGTH", 2):
        yield


def _put(*entries: tuple[bytes, bytes], space: Space = Space.VERSIONS) -> WriteBatch:
    batch = WriteBatch()
    for key, value in entries:
        batch.put(space, key, value)
    return batch


def _wait(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def _checkpointed(engine: LoggedEngine) -> bool:
    engine.latest()
    return not engine._frozen and engine._applied > 0


# ---------------------------------------------------------------------------------------------- the same answers


class LayersAgree(EnginesAgree):
    """The machine of test_engine.py over a layer that grows (no checkpoint is ever due)."""

    def opened(self) -> Engine:
        return LoggedEngine(self.folder.name)


class CheckpointsAgree(EnginesAgree):
    """The same with a checkpoint every few operations, and restarts."""

    def opened(self) -> Engine:
        return LoggedEngine(self.folder.name, checkpoint_operations=6)

    @precondition(lambda self: len(self.batches) == 1 and not len(self.batches[0]))
    @rule()
    def reopen(self) -> None:
        engine = self.engine
        assert isinstance(engine, MirrorEngine)
        engine._first.close()
        engine._first = self.opened()
        batch = WriteBatch()
        batch.delete(Space.STATE, b"store_version")
        engine._first.apply([batch])

    @rule()
    def settle(self) -> None:
        assert isinstance(self.engine, MirrorEngine) and isinstance(self.engine._first, LoggedEngine)
        logged = self.engine._first

        def is_settled() -> bool:
            logged.latest()
            return not logged._frozen

        _wait(is_settled)

    @rule(space=SPACES, key=KEYS)
    def compare_a_snapshot(self, space: Space, key: bytes) -> None:
        view = self.engine.snapshot()
        list(view.scan(space, b"", key))
        view.close()


TestLayersAgree = LayersAgree.TestCase
TestLayersAgree.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestCheckpointsAgree = CheckpointsAgree.TestCase
TestCheckpointsAgree.settings = settings(max_examples=8, stateful_step_count=60, deadline=None)


@given(
    written=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 30)), max_size=30, unique=True),
    deleted=st.lists(st.integers(0, 29), max_size=6),
    moved=st.integers(0, 30),
    asked=st.integers(0, 31),
)
@settings(max_examples=150, deadline=None)
def test_versions_are_found_wherever_they_are(
    written: list[tuple[int, int]], deleted: list[int], moved: int, asked: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Some versions in the tree, some in the layer, in any order, some deleted again."""
    folder = tmp_path_factory.mktemp("store")
    tree = LMDBEngine(folder, sync=False)
    memory = MemoryEngine()
    first, second = WriteBatch(), WriteBatch()
    for number, (key, time_) in enumerate(written):
        mvcc.put_version(first if number < moved else second, b"key%d" % key, time_, b"%d" % time_)
    for number in deleted:
        if number < len(written):
            key, time_ = written[number]
            second.delete(Space.VERSIONS, mvcc.versioned(b"key%d" % key, time_))
    tree.apply([first])
    tree.close()
    engine = LoggedEngine(folder)
    engine.apply([second])
    memory.apply([first, second])
    for key in range(3):
        assert mvcc.get(engine.latest(), b"key%d" % key, asked) == mvcc.get(memory.latest(), b"key%d" % key, asked)
        assert mvcc.newest_timestamp(engine.latest(), b"key%d" % key) == mvcc.newest_timestamp(
            memory.latest(), b"key%d" % key
        )
    engine.close()


_OPERATIONS = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 2), st.integers(0, 9)),
    st.tuples(st.just("delete"), st.integers(0, 2), st.integers(0, 9)),
    st.tuples(st.just("clear"), st.integers(0, 20), st.integers(0, 30)),
    st.tuples(st.just("load"), st.integers(0, 26), st.integers(2, 8)),
    st.tuples(st.just("unload"), st.integers(0, 26), st.integers(2, 8)),
)


def _engine_key(key: int, time_: int) -> bytes:
    return mvcc.versioned(b"%d" % key, time_)


@given(parts=st.lists(st.lists(_OPERATIONS, max_size=8), min_size=3, max_size=3))
@settings(max_examples=300, deadline=None)
def test_layers_over_a_tree_read_like_one_store(parts: list[list[tuple[str, int, int]]]) -> None:
    """Every kind of read, with the history cut into tree, older and newest layer."""
    whole, tree = MemoryEngine(), MemoryEngine()
    older, newest = Layer(), Layer()
    for number, part in enumerate(parts):
        for kind, first, second in part:
            batch = WriteBatch()
            match kind:
                case "put":
                    batch.put(Space.VERSIONS, _engine_key(first, second), b"%d" % number)
                case "delete":
                    batch.delete(Space.VERSIONS, _engine_key(first, second))
                case "load" | "unload":  # many at once, in order
                    for key in sorted(_engine_key(place // 10, place % 10) for place in range(first, first + second)):
                        batch.operations.append((Space.VERSIONS, key, b"%d" % number if kind == "load" else None))
                case _:
                    spans = sorted([_engine_key(first // 10, first % 10), _engine_key(second // 10, second % 10)])
                    batch.clear_range(Space.VERSIONS, spans[0], spans[1])
            whole.apply([batch])
            if number == 0:
                tree.apply([batch])
            else:
                record = [(batch.operations, batch.cleared)]
                (older if number == 1 else newest).add(1, record)  # type: ignore[arg-type]  # Space is an int
    expected, view = whole.latest(), LayeredSnapshot(tree.latest(), (newest, older))
    for key in range(4):
        for time_ in range(10):
            engine_key = _engine_key(key, time_)
            assert view.get(Space.VERSIONS, engine_key) == expected.get(Space.VERSIONS, engine_key)
            assert view.seek(Space.VERSIONS, engine_key) == expected.seek(Space.VERSIONS, engine_key)
            assert mvcc.get(view, b"%d" % key, time_) == mvcc.get(expected, b"%d" % key, time_)
            for reverse in (False, True):
                for span in ((engine_key, b"\xff"), (b"", engine_key)):
                    assert list(view.scan(Space.VERSIONS, *span, reverse=reverse)) == list(
                        expected.scan(Space.VERSIONS, *span, reverse=reverse)
                    )


def test_a_snapshot_keeps_what_it_saw(tmp_path: Path) -> None:
    engine = LoggedEngine(tmp_path, checkpoint_operations=3)
    engine.apply([_put((b"a", b"1"))])
    snapshot = engine.snapshot()
    engine.apply([_put((b"a", b"2"), (b"b", b"2"), (b"c", b"2"))])
    _wait(lambda: _checkpointed(engine))
    assert list(snapshot.scan(Space.VERSIONS, *ALL)) == [(b"a", b"1")]
    assert engine.latest().get(Space.VERSIONS, b"a") == b"2"
    snapshot.close()
    engine.close()


def test_a_store_without_a_log_is_taken_over(tmp_path: Path) -> None:
    tree = LMDBEngine(tmp_path)
    tree.apply([_put((b"a", b"1"))])
    batch = WriteBatch()
    batch.put(Space.STATE, b"store_version", b"1")
    tree.apply([batch])
    tree.close()
    engine = LoggedEngine(tmp_path)
    assert engine.latest().get(Space.VERSIONS, b"a") == b"1"
    assert engine.latest().get(Space.STATE, b"store_version") == b"2"
    engine.close()


# ---------------------------------------------------------------------------------------------- checkpoints


def test_checkpoints_empty_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pydistdb_storage.log_file.SEGMENT_BYTES", 2_000)
    engine = LoggedEngine(tmp_path, checkpoint_operations=50)
    for number in range(400):
        engine.apply([_put((b"%06d" % number, bytes(100)))])
        engine.latest()
    _wait(lambda: _checkpointed(engine))
    engine.apply([_put((b"last", b"1"))])
    assert len(list(engine.latest().scan(Space.VERSIONS, *ALL))) == 401
    assert len(segments(tmp_path / "log")) < 20, "segments in the tree are reused"
    engine.close()
    tree = LMDBEngine(tmp_path)
    assert len(list(tree.latest().scan(Space.VERSIONS, *ALL))) >= 350
    tree.close()


def test_a_lost_checkpoint_process_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pydistdb_storage.checkpoint.RETRY_SECONDS", 0.01)
    engine = LoggedEngine(tmp_path, checkpoint_operations=2)
    engine.apply([_put((b"a", b"1"), (b"b", b"1"))])
    _wait(lambda: _checkpointed(engine))
    child = engine._checkpointer._child
    assert child is not None
    child.send_signal(signal.SIGSTOP)
    engine.apply([_put((b"c", b"1"), (b"d", b"1"))])
    engine.latest()
    assert engine._frozen
    child.kill()
    _wait(lambda: _checkpointed(engine))
    assert len(list(engine.latest().scan(Space.VERSIONS, *ALL))) == 4
    engine.close()


def test_writers_are_held_back_while_checkpoints_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pydistdb_storage.logged_engine.WAIT_SECONDS", 0.05)
    engine = LoggedEngine(tmp_path, checkpoint_operations=2)
    monkeypatch.setattr(engine._checkpointer, "begin", lambda sequence: None)
    monkeypatch.setattr(engine, "_owner_thread", -1)
    with pytest.raises(StoreFull, match="too far behind"):
        for number in range(20):
            engine.apply([_put((b"%d" % number, b"1"))])
            engine.latest()
            # Half way there it tells, so that who can wait leaves the room to the others.
            assert engine.is_behind() is (number >= 3)
    assert len(list(engine.latest().scan(Space.VERSIONS, *ALL))) == 8
    engine.close()


def test_whoever_waits_for_the_tree_sees_that_it_has_caught_up(tmp_path: Path) -> None:
    """Also where nobody reads or writes meanwhile."""
    engine = LoggedEngine(tmp_path, checkpoint_operations=2)
    for number in range(6):
        engine.apply([_put((b"%d" % number, b"1"))])
    assert engine.is_behind()
    _wait(lambda: not engine.is_behind())
    engine.close()


def test_the_reader_follows_a_tree_that_outgrew_its_map(tmp_path: Path) -> None:
    LMDBEngine(tmp_path, map_bytes=1 << 20).close()
    reader = LMDBEngine(tmp_path, map_bytes=1 << 20)
    assert reader.latest().get(Space.VERSIONS, b"a") is None
    code = (
        "import sys; from pydistdb_storage.engine import *; from pydistdb_storage.lmdb_engine import LMDBEngine\n"
        "engine = LMDBEngine(sys.argv[1], map_bytes=1 << 20, owned=False)\n"
        "batch = WriteBatch(); batch.put(Space.VERSIONS, b'a', bytes(5_000_000)); engine.apply([batch])"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    reader.renew()
    assert len(reader.latest().get(Space.VERSIONS, b"a") or b"") == 5_000_000
    reader.close()


# ---------------------------------------------------------------------------------------------- crashes


def test_kill_at_any_moment_loses_nothing_acknowledged(tmp_path: Path) -> None:
    rand = random.Random(7)
    for _ in range(6):
        one_round(tmp_path, rand)


@given(cut=st.integers(0, 700), flipped=st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_torn_log_ends_before_the_tear(cut: int, flipped: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("log")
    writer = LogWriter(folder, 1)
    ends = [0]
    for number in range(1, 6):
        assert writer.append([_put((b"k%d" % number, b"v" * 40 * number))]) == number
        ends.append(writer._position)
    writer.close()
    [first] = segments(folder)
    path = folder / f"{first:016x}.log"
    data = path.read_bytes()
    cut = min(cut, len(data))
    path.write_bytes(data[:cut] + (b"\xa5" * 50 if flipped else b""))
    whole = max(number for number, end in enumerate(ends) if end <= cut)
    assert [sequence for sequence, _ in LogReader(folder, 0).records()] == list(range(1, whole + 1))


def test_a_damaged_record_with_others_behind_it_is_never_skipped(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path, 1)
    ends = [writer._position]
    for number in range(4):
        writer.append([_put((b"%d" % number, b"value"))])
        ends.append(writer._position)
    writer.close()
    path = tmp_path / f"{1:016x}.log"
    data = bytearray(path.read_bytes())
    data[ends[1] + 20] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreCorrupt, match="record 2 is damaged"):
        list(LogReader(tmp_path, 0).records())


def test_a_missing_segment_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pydistdb_storage.log_file.SEGMENT_BYTES", 100)
    writer = LogWriter(tmp_path, 1)
    for number in range(10):
        writer.append([_put((b"%d" % number, bytes(60)))])
    writer.close()
    firsts = segments(tmp_path)
    assert len(firsts) > 3
    (tmp_path / f"{firsts[1]:016x}.log").unlink()
    with pytest.raises(StoreCorrupt):
        list(LogReader(tmp_path, 0).records())
    with pytest.raises(StoreCorrupt, match="begins at record"):
        (tmp_path / f"{firsts[0]:016x}.log").unlink()
        list(LogReader(tmp_path, 0).records())


def test_reused_segments_show_none_of_their_past(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pydistdb_storage.log_file.SEGMENT_BYTES", 500)
    writer = LogWriter(tmp_path, 1)
    for number in range(1, 61):
        assert writer.append([_put((b"%d" % number, bytes(90)))]) == number
        writer.release(number - 3)
        found = [sequence for sequence, _ in LogReader(tmp_path, max(number - 3, 0)).records()]
        assert found == list(range(max(number - 3, 0) + 1, number + 1))
    writer.close()


def test_spare_segments_of_earlier_processes_are_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pydistdb_storage.log_file.SEGMENT_BYTES", 100)
    for number in range(6):
        (tmp_path / f"{number:016x}.spare").write_bytes(b"old")
    writer = LogWriter(tmp_path, 1)
    assert len(list(tmp_path.glob("*.spare"))) < SPARE_SEGMENTS
    for _ in range(5):
        writer.append([_put((b"key", bytes(90)))])
    assert not list(tmp_path.glob("*.spare"))
    assert [sequence for sequence, _ in LogReader(tmp_path, 0).records()] == [1, 2, 3, 4, 5]
    writer.close()


@pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/bin/mount"), reason="needs to mount a small file system")
def test_a_full_disk_refuses_writes_and_recovers(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        engine = LoggedEngine(place / "store")
        engine.apply([_put((b"a", b"1"))])
        written = 0
        with pytest.raises(StoreFull):
            for number in range(100):
                engine.apply([_put((b"k%04d" % number, bytes(100_000)))])
                written = number + 1
        assert len(list(engine.latest().scan(Space.VERSIONS, *ALL))) == written + 1
        engine.apply([_put((b"z", b"still room for a small one"))])
        engine.close()
        engine = LoggedEngine(place / "store")
        assert len(list(engine.latest().scan(Space.VERSIONS, *ALL))) == written + 2
        engine.close()
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_an_oversized_record_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pydistdb_storage.log_file.MAX_RECORD_BYTES", 1_000)
    engine = LoggedEngine(tmp_path)
    with pytest.raises(StorageError, match="beyond the limit"):
        engine.apply([_put((b"a", bytes(2_000)))])
    engine.apply([_put((b"b", b"1"))])
    assert [key for key, _ in engine.latest().scan(Space.VERSIONS, *ALL)] == [b"b"]
    engine.close()


SPANS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=12)


@given(SPANS, st.integers(0, 30), st.integers(0, 30), st.booleans())
def test_cleared_spans_hide_what_is_below_them(
    spans: list[tuple[int, int]], start: int, end: int, reverse: bool
) -> None:
    below = {bytes([number]) + bytes(8): b"v" for number in range(31)}
    layer = Layer()
    hidden: set[int] = set()
    for first, last in spans:
        layer.add(1, [([], [(Space.VERSIONS, bytes([first]), bytes([last]))])])
        hidden.update(range(first, last))

    def base(space: int, first: bytes, last: bytes, backwards: bool) -> Iterator[tuple[bytes, bytes]]:
        return iter([(k, below[k]) for k in sorted(below, reverse=backwards) if first <= k < last])

    found = [key[0] for key, _ in layer.scan_over(base, 0, bytes([start]), bytes([end]), reverse=reverse)]
    assert found == sorted(set(range(start, end)) - hidden, reverse=reverse)
    assert all(layer.is_cleared(0, key) == (key[0] in hidden) for key in below)
    cleared = layer.cleared[0]
    assert all(one[1] < other[0] for one, other in pairwise(cleared)), "sorted, and as few as can be"
