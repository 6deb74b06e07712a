"""The node's engine: a write-ahead log that makes commits durable, and a B+tree that follows it.

Theory of operation
-------------------
``apply`` appends one record to the log and syncs it (log_file.py): that is all a commit waits for.  Small commits do the
same in two steps, ``begin`` and ``finish``, and leave the sync between to a process (log_sync.py).  What the record says
goes into a layer in memory that is laid over the tree for reads (overlay.py).  When the layer has grown enough, or a snapshot
wants it to stay as it is, it is *frozen*, a new one takes its place, and a checkpoint writes the frozen one's records from
the log into the tree (checkpoint.py).  Then the view of the tree is renewed, the frozen layer dropped, and its part of the
log reused::

    apply    r1 r2 r3 … r900 │ r901 r902 …
    layers   [ frozen       ]│[ newest  ]
    tree     … r0            └ checkpoint "900" under way

Opening a store reads what the log has beyond the tree into the newest layer; nothing is written for that.

Threads: ``apply`` belongs to the commit thread (or to the owner's before there is one), everything else to the owner's.
What ``apply`` has written is taken into the layer by the owner's next ``latest``, which every commit's completion calls; the
same goes for the end of a checkpoint.  So a view never changes while the owner uses it.

Limits: a checkpoint is due at CHECKPOINT_OPERATIONS or CHECKPOINT_BYTES; when all layers have ``WAIT_FACTOR`` times that
(the checkpoints cannot keep up, or the tree's disk is full), ``apply`` waits, and then reports StoreFull.  At
``BEHIND_FACTOR`` times it ``is_behind``: copies for and from other nodes wait, so that statements need not.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from pathlib import Path
from typing import cast

from pydistdb_storage.checkpoint import Checkpointer
from pydistdb_storage.engine import Snapshot, WriteBatch
from pydistdb_storage.errors import StorageError, StoreFull, translated
from pydistdb_storage.lmdb_engine import LMDBEngine
from pydistdb_storage.log_file import LogReader, LogWriter, Record
from pydistdb_storage.overlay import Layer, LayeredSnapshot

logger = logging.getLogger(__name__)

CHECKPOINT_OPERATIONS = 30_000
CHECKPOINT_BYTES = 8 << 20
WAIT_FACTOR = 4
BEHIND_FACTOR = 2
WAIT_SECONDS = 30.0


class LoggedEngine:
    """One store folder; raises what LMDBEngine raises when opened, and StoreCorrupt for a damaged log."""

    def __init__(
        self,
        path: Path | str,
        *,
        checkpoint_operations: int = CHECKPOINT_OPERATIONS,
        checkpoint_bytes: int = CHECKPOINT_BYTES,
    ) -> None:
        path = Path(path)
        self._tree = LMDBEngine(path)
        self._checkpoint_operations = checkpoint_operations
        self._checkpoint_bytes = checkpoint_bytes
        self._news: deque[tuple[int, Record] | tuple[int, StorageError | None]] = deque()
        """Records that are durable, and checkpoints that have ended, in order; the owner takes them in."""
        self._newest = Layer()
        self._frozen: list[Layer] = []
        """Layers that change no more, oldest first, on their way into the tree."""
        self._checkpointing = False
        self._view: LayeredSnapshot | None = None
        self._applied = self._tree.applied()
        self._room = threading.Condition()
        self._apply_lock = threading.Lock()
        self._checkpoint_error: StorageError | None = None
        self.checkpoints = 0
        """Finished since the store was opened."""
        self._owner_thread = threading.get_ident()
        try:
            self._log = self._open_log(path / "log")
        except BaseException:
            self._tree.close()
            raise
        self._checkpointer = Checkpointer(path, self._checkpoint_ended)

    def _open_log(self, folder: Path) -> LogWriter:
        try:
            folder.mkdir(exist_ok=True)
            reader = LogReader(folder, self._applied)
            last = self._applied
            for sequence, record in reader.records():
                self._newest.add(sequence, record)
                last = sequence
            reader.close()
            return LogWriter(folder, max(last, self._applied) + 1)
        except OSError as error:
            raise translated(error) from error

    # ------------------------------------------------------------------------------------------------------ reading

    def latest(self) -> Snapshot:
        if self._news:
            self._take_news()
        view = self._view
        if view is None:
            view = self._view = LayeredSnapshot(self._tree.latest(), self._layers())
        return view

    def snapshot(self) -> Snapshot:
        self.latest()
        if self._newest.size:
            self._freeze()
        return LayeredSnapshot(self._tree.snapshot(), tuple(reversed(self._frozen)))

    def _layers(self) -> tuple[Layer, ...]:
        return (self._newest, *reversed(self._frozen))

    def _freeze(self) -> None:
        """Begin a new layer; what was the newest is for the next checkpoint."""
        self._frozen.append(self._newest)
        self._newest = Layer()
        self._view = None
        if not self._checkpointing:
            self._begin_checkpoint()

    def _begin_checkpoint(self) -> None:
        self._checkpointing = True
        self._checkpointer.begin(self._frozen[-1].last_sequence)

    def _take_news(self) -> None:
        news = self._news
        while news:
            sequence, what = news.popleft()
            if isinstance(what, list):
                self._newest.add(sequence, what)
            elif what is None:
                self._checkpointed(sequence)
            else:
                if self._checkpoint_error is None:
                    logger.error("a checkpoint failed, and is tried again: %s", what)
                self._checkpoint_error = what
        newest = self._newest
        if not self._checkpointing and (
            newest.size >= self._checkpoint_operations or newest.size_bytes >= self._checkpoint_bytes
        ):
            self._freeze()

    def _checkpointed(self, sequence: int) -> None:
        self._applied = sequence
        self._checkpoint_error = None
        self.checkpoints += 1
        self._frozen = [layer for layer in self._frozen if layer.last_sequence > sequence]
        self._view = None
        self._tree.renew()
        self._checkpointing = False
        if self._frozen:
            self._begin_checkpoint()
        with self._room:
            self._room.notify_all()

    # ------------------------------------------------------------------------------------------------------ writing

    def apply(self, batches: list[WriteBatch]) -> None:
        self._wait_for_room()
        with self._apply_lock:
            self._log.release(self._applied)
            sequence = self._log.append(batches)
            self._news.append((sequence, _record(batches)))

    def begin(self, batches: list[WriteBatch]) -> tuple[int, Record] | None:
        """Write what ``apply`` would, in the owner's thread and without waiting: it is durable, and to be told to
        ``finish``, once ``log_file`` is synced.  None where it would have to wait; nothing else may be applied meanwhile."""
        if self._is_full():
            return None
        with self._apply_lock:
            sequence = self._log.write(batches)
        return None if sequence is None else (sequence, _record(batches))

    def finish(self, begun: tuple[int, Record]) -> None:
        """What was begun is durable."""
        self._news.append(begun)

    @property
    def log_file(self) -> tuple[int, int]:
        """The descriptor of the log's segment that is written at present, and the number that tells it from others."""
        return self._log.file, self._log.segment

    def _wait_for_room(self) -> None:
        """Hold the writer back while the checkpoints are far behind."""
        if not self._is_full() or threading.get_ident() == self._owner_thread:
            return
        deadline = time.monotonic() + WAIT_SECONDS
        with self._room:
            while self._is_full() and time.monotonic() < deadline:
                if isinstance(self._checkpoint_error, StoreFull):
                    break
                self._room.wait(0.1)
        if self._is_full():
            raise self._checkpoint_error or StoreFull("the store's checkpoints are too far behind")

    def _is_full(self) -> bool:
        return self._has_checkpoints_for(WAIT_FACTOR)

    def is_behind(self) -> bool:
        self.latest()  # else nobody may notice for a while that a checkpoint has ended, or begin the next
        return self._has_checkpoints_for(BEHIND_FACTOR)

    def _has_checkpoints_for(self, factor: int) -> bool:
        """Whether as much waits for the tree as makes ``factor`` checkpoints."""
        if not self._frozen:
            return False  # a checkpoint begins when there is enough for one
        layers = self._layers()
        return (
            sum(layer.size for layer in layers) >= self._checkpoint_operations * factor
            or sum(layer.size_bytes for layer in layers) >= self._checkpoint_bytes * factor
        )

    def _checkpoint_ended(self, sequence: int, error: StorageError | None) -> None:
        self._news.append((sequence, error))

    # -------------------------------------------------------------------------------------------------------- the rest

    def maintain(self) -> None:
        """Take in what has happened meanwhile (owner's thread, now and then)."""
        self.latest()

    def size_bytes(self) -> int:
        """Bytes of the tree and of what waits to be written into it."""
        return self._tree.size_bytes() + self.waiting_bytes

    @property
    def waiting_bytes(self) -> int:
        """Bytes that are in the log and in memory only."""
        return sum(layer.size_bytes for layer in self._layers())

    def close(self) -> None:
        self._checkpointer.close()
        self._view = None
        self._log.close()
        self._tree.close()


def _record(batches: list[WriteBatch]) -> Record:
    return cast(Record, [(batch.operations, batch.cleared) for batch in batches])
