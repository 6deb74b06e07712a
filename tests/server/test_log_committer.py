"""Commits by the process that syncs the log: nothing is told before it is durable, whatever happens to the process."""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydistdb.tasks import Completion, sleep
from pydistdb_server.log_committer import LogCommitter
from pydistdb_server.loop import ServingLoop
from pydistdb_storage import log_sync
from pydistdb_storage.engine import Space, WriteBatch
from pydistdb_storage.errors import StorageError, StoreFull
from pydistdb_storage.logged_engine import LoggedEngine

from tests.server.test_loop import run

FAILING_CHILD = """
import os, sys
sys.path.insert(0, sys.argv[1])
def sync(file): raise OSError(5, "no")
os.fdatasync = sync
from pydistdb_storage.log_sync import main
main()
"""


class Place:
    """A store, its committer and loop."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loop = ServingLoop()
        self.engine = LoggedEngine(folder)
        self.committer = LogCommitter(self.engine, self.loop)
        self.told: list[tuple[int, StorageError | None]] = []

    def submit(self, number: int, value: bytes = b"v") -> Completion[StorageError | None]:
        batch = WriteBatch()
        batch.put(Space.STATE, b"%04d" % number, value)
        outcome: Completion[StorageError | None] = Completion()
        outcome.on_done(lambda done: self.told.append((number, done.result())))
        self.committer.submit(batch, outcome.set)
        return outcome

    @property
    def child(self) -> Any:
        assert self.committer._sync is not None
        return self.committer._sync._child

    def close(self) -> None:
        self.committer.close()
        self.engine.close()

    def kept(self) -> list[int]:
        """What a store opened anew has."""
        self.close()
        engine = LoggedEngine(self.folder)
        keys = [int(key) for key, _ in engine.latest().scan(Space.STATE, b"0", b":")]
        engine.close()
        return keys


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    yield Place(tmp_path / "store")


def test_batches_become_durable_in_order_by_either_way(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large ones go to the thread, and so do those that begin a segment."""
    monkeypatch.setattr("pydistdb_storage.log_file.SEGMENT_BYTES", 300_000)

    async def main() -> None:
        for start in range(0, 400, 4):
            last = [place.submit(start + n, bytes(200_000 if (start + n) % 41 == 0 else 100)) for n in range(4)][-1]
            if start % 8:
                await last
        await last

    run(place.loop, main)
    assert place.told == [(number, None) for number in range(400)]
    assert place.committer.batches == 400 and place.committer._groups > 50
    assert place.committer._thread.groups > 5
    assert place.kept() == list(range(400))


def test_nothing_is_told_before_the_process_has_answered(place: Place) -> None:
    async def main() -> None:
        await place.submit(1)
        place.child.send_signal(signal.SIGSTOP)
        outcomes = [place.submit(2), place.submit(3)]
        await sleep(place.loop, 100_000_000)
        assert place.told == [(1, None)]
        assert place.engine.latest().get(Space.STATE, b"0002") is None, "nor can it be seen"
        place.child.send_signal(signal.SIGCONT)
        for outcome in outcomes:
            await outcome

    run(place.loop, main)
    assert place.told == [(1, None), (2, None), (3, None)]
    assert place.kept() == [1, 2, 3]


@pytest.mark.parametrize("is_busy", [False, True])
def test_without_the_process_the_thread_does_it_all(place: Place, is_busy: bool) -> None:
    async def main() -> None:
        await place.submit(1)
        outcomes = []
        if is_busy:
            place.child.send_signal(signal.SIGSTOP)
            outcomes = [place.submit(2), place.submit(3)]
        place.child.kill()
        await sleep(place.loop, 50_000_000)
        outcomes.append(place.submit(4))
        for outcome in outcomes:
            assert await outcome is None

    run(place.loop, main)
    assert place.committer._sync is None
    numbers = [1, 2, 3, 4] if is_busy else [1, 4]
    assert place.told == [(number, None) for number in numbers]
    assert place.kept() == numbers


def test_a_failed_sync_is_an_error_that_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = str(Path(log_sync.__file__).parent.parent)
    monkeypatch.setattr(log_sync, "COMMAND", [sys.executable, "-c", FAILING_CHILD, source])
    place = Place(tmp_path / "store")

    async def main() -> None:
        error = await place.submit(1)
        assert type(error) is StorageError and os.strerror(errno.EIO) in str(error)
        assert place.engine.latest().get(Space.STATE, b"0001") is None

    run(place.loop, main)
    place.close()


def test_the_helper_ends_in_silence_when_its_answer_is_not_waited_for(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sync = log_sync.LogSync()
    with open(tmp_path / "log", "wb") as file:
        sync.request(file.fileno(), 1)
        select.select([sync], [], [])  # the answer is there, and stays unread
        sync.close()
    assert sync._child.returncode == 0
    assert capfd.readouterr().err == ""


def test_a_full_disk_is_told_and_what_follows_is_kept(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    true_write: Callable[..., int] = os.pwritev

    def full(*arguments: Any) -> int:
        raise OSError(errno.ENOSPC, "no space")

    async def main() -> None:
        await place.submit(1)
        monkeypatch.setattr(os, "pwritev", full)
        failed = [place.submit(2), place.submit(3)]
        for outcome in failed:
            assert isinstance(await outcome, StoreFull)
        monkeypatch.setattr(os, "pwritev", true_write)
        assert await place.submit(4) is None

    run(place.loop, main)
    assert [number for number, _ in place.told] == [1, 2, 3, 4]
    assert place.kept() == [1, 4]


def test_closing_finishes_what_was_submitted(place: Place) -> None:
    place.submit(1)
    place.submit(2)
    place.submit(3, bytes(200_000))
    assert place.kept() == [1, 2, 3]
    place.submit(4)
    assert not place.told
    place.loop.close()


def test_a_store_opened_again_syncs_what_may_not_have_been(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = WriteBatch()
    batch.put(Space.STATE, b"0001", b"v")
    assert place.engine.begin([batch]) is not None  # and the process ends before the sync
    segment = os.fstat(place.engine.log_file[0]).st_ino
    place.close()
    synced: list[int] = []
    true_sync: Callable[[int], None] = os.fsync

    def sync(file: int) -> None:
        synced.append(os.fstat(file).st_ino)
        true_sync(file)

    monkeypatch.setattr(os, "fsync", sync)
    assert Place(place.folder).kept() == [1]
    assert segment in synced
