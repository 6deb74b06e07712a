"""Checkpoints: writing a stretch of the log into the tree, in a process of its own.

A checkpoint is a long run of LMDB calls, each of which gives the interpreter's lock away and asks for it again: in a thread
of the serving process it would slow every statement down for as long as it lasts.  A process has its own lock, and LMDB
lets another process read meanwhile.  The child is started with the first checkpoint; an idle node never has one.

    engine                                    child
    "17000\\n" ─────────────────────────────►  reads records up to 17000, sorts them, LMDB transactions
    frozen layer serves reads                  (with the last record's number in each)
      ◄──────────────────────────────── "done 17000\\n"
    new view, layer dropped, segments reused

The number of the last record in the tree is written in the same transaction as the records themselves, so a crash of
either process leaves the tree at some record, and the log has the rest.  The layers above the tree hide how far it is.
The child ends when its input does: with the engine, however that ends.  A second child for the same store waits for the
first one to end.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from pydistdb_storage.engine import Space, WriteBatch
from pydistdb_storage.errors import StorageError, StoreFull
from pydistdb_storage.lmdb_engine import LMDBEngine
from pydistdb_storage.log_file import LogReader, Operation, Span

RETRY_SECONDS = 1.0
TRANSACTION_BYTES = 4 << 20
"""Keys and values of one tree transaction: Python needs about ten times that while it is put together."""
_STOP = -1
_NICENESS = 5
"""Statements come first; a layer that has grown too much makes its writers wait."""

Done = Callable[[int, StorageError | None], None]


class Checkpointer:
    """The engine's end: hands out one checkpoint at a time and waits for it in a thread."""

    def __init__(self, path: Path, on_done: Done) -> None:
        self._path = path
        self._on_done = on_done
        self._requests: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._child: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()

    def begin(self, sequence: int) -> None:
        """Write everything up to ``sequence`` into the tree; ``on_done(sequence, None)`` is called in another thread.

        A failure is reported as ``on_done(sequence, error)``, and tried again until it succeeds."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="pydistdb-checkpoint", daemon=True)
            self._thread.start()
        self._requests.put(sequence)

    def close(self) -> None:
        """Wait for the checkpoint under way, if any, and end the child."""
        self._closing.set()
        self._requests.put(_STOP)
        if self._thread is not None:
            self._thread.join()
        child, self._child = self._child, None
        if child is not None:
            assert child.stdin is not None and child.stdout is not None
            child.stdin.close()
            child.wait()
            child.stdout.close()

    def _run(self) -> None:
        while (sequence := self._requests.get()) != _STOP:
            while True:
                error = self._checkpoint(sequence)
                self._on_done(sequence, error)
                if error is None or self._closing.wait(RETRY_SECONDS):
                    break

    def _checkpoint(self, sequence: int) -> StorageError | None:
        child = self._child
        if child is None or child.poll() is not None:
            child = self._child = self._start()
        assert child.stdin is not None and child.stdout is not None
        try:
            child.stdin.write(b"%d\n" % sequence)
            child.stdin.flush()
        except OSError as error:
            return StorageError(f"the checkpoint process has ended: {error}")
        answer = child.stdout.readline().decode().strip()
        if answer == f"done {sequence}":
            return None
        kind, _, text = answer.partition(" ")
        if kind == "full":
            return StoreFull(text)
        return StorageError(text or f"the checkpoint process has ended with status {child.wait()}")

    def _start(self) -> subprocess.Popen[bytes]:
        source = str(Path(__file__).parent.parent)
        paths = os.environ.get("PYTHONPATH")
        return subprocess.Popen(
            [sys.executable, "-m", "pydistdb_storage.checkpoint", str(self._path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": source if paths is None else f"{source}{os.pathsep}{paths}"},
        )


def write_down(engine: LMDBEngine, reader: LogReader, until: int) -> None:
    """One checkpoint: the log's records up to ``until``, in transactions of about TRANSACTION_BYTES."""
    folded = _Folded()
    for sequence, record in reader.records(until):
        for operations, cleared in record:
            folded.add(operations, cleared)
        if folded.size_bytes >= TRANSACTION_BYTES or sequence == until:
            engine.apply([folded.batch()], applied=sequence)
            folded = _Folded()


class _Folded:
    """The net effect of consecutive records."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._values: tuple[dict[bytes, bytes | None], ...] = tuple({} for _ in Space)
        self._batch = WriteBatch()

    def add(self, operations: list[Operation], cleared: list[Span]) -> None:
        for space, start, end in cleared:
            values = self._values[space]
            for key in [key for key in values if start <= key < end]:
                del values[key]
            self._batch.clear_range(Space(space), start, end)
        for space, key, value in operations:
            self._values[space][key] = value
            self.size_bytes += len(key) + len(value or b"")

    def batch(self) -> WriteBatch:
        """Deletes and puts, each in the order of the keys: neighbours share pages."""
        operations = self._batch.operations
        for space in Space:
            entries = sorted(self._values[space].items())
            operations += [(space, key, value) for key, value in entries if value is None]
            operations += [(space, key, value) for key, value in entries if value is not None]
        return self._batch


def main() -> None:
    """``python -m pydistdb_storage.checkpoint STORE``: one line in, one checkpoint, one line out."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the engine decides when this ends
    os.nice(_NICENESS)
    path = Path(sys.argv[1])
    lock = os.open(path / "CHECKPOINT", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    engine = LMDBEngine(path, owned=False)
    reader = LogReader(path / "log", engine.applied())
    with contextlib.suppress(BrokenPipeError):  # the engine has gone meanwhile
        _serve(engine, reader, path)
    os.close(lock)
    os._exit(0)  # without a last try to flush the pipe


def _serve(engine: LMDBEngine, reader: LogReader, path: Path) -> None:
    for line in sys.stdin:
        until = int(line)
        try:
            if until > engine.applied():
                write_down(engine, reader, until)
            print(f"done {until}", flush=True)
        except StorageError as error:
            print("full" if isinstance(error, StoreFull) else "error", str(error).replace("\n", " "), flush=True)
            reader.close()
            reader = LogReader(path / "log", engine.applied())


if __name__ == "__main__":
    main()
