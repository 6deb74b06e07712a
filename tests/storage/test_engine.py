"""Both engines against one contract: every answer of LMDB is compared with the in-memory twin's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import lmdb
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from pydistdb_storage.engine import Engine, Space, WriteBatch
from pydistdb_storage.errors import StorageError, StoreFull, StoreInUse, StoreVersionMismatch
from pydistdb_storage.lmdb_engine import LMDBEngine
from pydistdb_storage.memory_engine import MemoryEngine, MirrorEngine

KEYS = st.binary(min_size=1, max_size=3)
SPACES = st.sampled_from(list(Space))


def _put(*entries: tuple[bytes, bytes], space: Space = Space.VERSIONS) -> WriteBatch:
    batch = WriteBatch()
    for key, value in entries:
        batch.put(space, key, value)
    return batch


class EnginesAgree(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.engine = MirrorEngine(self.opened(), MemoryEngine())
        # The store's version record belongs to LMDB alone; take it out of the comparison.
        batch = WriteBatch()
        batch.delete(Space.STATE, b"store_version")
        self.engine.apply([batch])
        self.batches: list[WriteBatch] = [WriteBatch()]

    def opened(self) -> Engine:
        return LMDBEngine(self.folder.name, sync=False)

    @rule(space=SPACES, key=KEYS, value=st.binary(max_size=5))
    def put(self, space: Space, key: bytes, value: bytes) -> None:
        self.batches[-1].put(space, key, value)

    @rule(space=SPACES, key=KEYS)
    def delete(self, space: Space, key: bytes) -> None:
        self.batches[-1].delete(space, key)

    @rule(space=SPACES, start=KEYS, end=KEYS)
    def clear(self, space: Space, start: bytes, end: bytes) -> None:
        self.batches[-1].clear_range(space, start, end)

    @rule()
    def next_batch(self) -> None:
        self.batches.append(WriteBatch())

    @rule()
    def apply(self) -> None:
        self.engine.apply(self.batches)
        self.batches = [WriteBatch()]

    @rule(space=SPACES, key=KEYS)
    def read(self, space: Space, key: bytes) -> None:
        view = self.engine.latest()
        view.get(space, key)
        view.seek(space, key)
        view.version(key, bytes(8))

    @rule(space=SPACES, start=KEYS, end=KEYS, reverse=st.booleans())
    def scan(self, space: Space, start: bytes, end: bytes, reverse: bool) -> None:
        list(self.engine.latest().scan(space, start, end, reverse=reverse))

    def teardown(self) -> None:
        self.engine.close()
        self.folder.cleanup()


TestEnginesAgree = EnginesAgree.TestCase
TestEnginesAgree.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)


def test_a_snapshot_does_not_see_later_commits(tmp_path: Path) -> None:
    engine = LMDBEngine(tmp_path)
    engine.apply([_put((b"a", b"1"))])
    snapshot = engine.snapshot()
    engine.apply([_put((b"a", b"2"))])
    assert snapshot.get(Space.VERSIONS, b"a") == b"1"
    assert engine.latest().get(Space.VERSIONS, b"a") == b"2"
    snapshot.close()
    engine.close()


def test_a_commit_from_another_thread_is_seen_at_once(tmp_path: Path) -> None:
    engine = LMDBEngine(tmp_path)
    assert engine.latest().get(Space.VERSIONS, b"a") is None
    writer = threading.Thread(target=engine.apply, args=([_put((b"a", b"1"))],))
    writer.start()
    writer.join()
    assert engine.latest().get(Space.VERSIONS, b"a") == b"1"
    engine.close()


def test_a_reopened_store_has_everything(tmp_path: Path) -> None:
    engine = LMDBEngine(tmp_path)
    engine.apply([_put((b"a", b"1")), _put((b"b", b"2"), space=Space.LOG)])
    engine.close()
    engine = LMDBEngine(tmp_path)
    assert engine.latest().get(Space.VERSIONS, b"a") == b"1"
    assert engine.latest().get(Space.LOG, b"b") == b"2"
    engine.close()


CRASHING_WRITER = """
import sys
from pydistdb_storage.engine import Engine, Space, WriteBatch
from pydistdb_storage.lmdb_engine import LMDBEngine
engine = LMDBEngine(sys.argv[1])
for number in range(1_000_000):
    batch = WriteBatch()
    for part in range(20):
        batch.put(Space.VERSIONS, b"%08d/%02d" % (number, part), b"x" * 50)
    engine.apply([batch])
    print(number, flush=True)
"""


def test_a_killed_writer_loses_nothing_acknowledged_and_tears_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", CRASHING_WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    acknowledged = -1
    for line in process.stdout:
        acknowledged = int(line)
        if acknowledged >= 50:
            break
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read().split()
    acknowledged = int(rest[-1]) if rest else acknowledged
    process.wait()
    process.stdout.close()
    engine = LMDBEngine(tmp_path)
    entries = list(engine.latest().scan(Space.VERSIONS, b"", b"\xff"))
    engine.close()
    assert len(entries) % 20 == 0, "a batch is there in part"
    assert len(entries) // 20 >= acknowledged + 1


def test_a_store_is_opened_by_one_process_at_a_time(tmp_path: Path) -> None:
    engine = LMDBEngine(tmp_path)
    with pytest.raises(StoreInUse, match="open in another process"):
        LMDBEngine(tmp_path)
    engine.close()
    LMDBEngine(tmp_path).close()


def test_a_store_of_another_version_is_refused(tmp_path: Path) -> None:
    LMDBEngine(tmp_path).close()
    with lmdb.open(str(tmp_path), max_dbs=8) as environment:
        state = environment.open_db(b"state")
        with environment.begin(write=True) as transaction:
            transaction.put(b"store_version", b"99", db=state)
    with pytest.raises(StoreVersionMismatch, match="has format 99"):
        LMDBEngine(tmp_path)
    with pytest.raises(StoreVersionMismatch):  # and the refusal has let go of the folder
        LMDBEngine(tmp_path)


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="Not a directory"):
        LMDBEngine(tmp_path / "file" / "store")


def test_the_map_grows_when_it_is_full(tmp_path: Path) -> None:
    engine = LMDBEngine(tmp_path, map_bytes=1 << 20)
    for number in range(40):
        engine.apply([_put((b"%04d" % number, bytes(100_000)))])
    assert len(list(engine.latest().scan(Space.VERSIONS, b"", b"\xff"))) == 40
    engine.close()


def test_a_full_map_under_an_open_snapshot_is_an_error_and_loses_nothing(tmp_path: Path) -> None:
    engine = LMDBEngine(tmp_path, map_bytes=1 << 20)
    engine.apply([_put((b"a", b"1"))])
    snapshot = engine.snapshot()
    with pytest.raises(StoreFull):
        for number in range(40):
            engine.apply([_put((b"k%04d" % number, bytes(100_000)))])
    assert snapshot.get(Space.VERSIONS, b"a") == b"1"
    snapshot.close()
    engine.apply([_put((b"b", bytes(2_000_000)))])
    assert engine.latest().get(Space.VERSIONS, b"a") == b"1"
    engine.close()


@pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/bin/mount"), reason="needs to mount a small file system")
def test_a_full_disk_is_an_error_and_reading_goes_on(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        engine = LMDBEngine(place / "store")
        engine.apply([_put((b"a", b"1"))])
        with pytest.raises(StoreFull):
            for number in range(100):
                engine.apply([_put((b"k%04d" % number, bytes(100_000)))])
        assert engine.latest().get(Space.VERSIONS, b"a") == b"1"
        engine.close()
        assert len(list(LMDBEngine(place / "store").latest().scan(Space.VERSIONS, b"", b"\xff"))) > 5
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
