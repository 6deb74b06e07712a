"""Group commit by a process that syncs the log, and by the commit thread where that does not serve.

Theory of operation
-------------------
A small group is written into the log's pages by the loop itself, and a process is asked to sync it (log_sync.py of the storage
layer); what is submitted meanwhile is the next group.  No other thread wants the interpreter's lock while statements run::

    loop       submit(a) write        submit(b) submit(c)     done(a) write(b, c)            done(b) done(c)
    process                  sync ─────────────────── answer              sync ───── answer

Where a write may take long (a large group, a new segment, checkpoints that are far behind) the group goes to the thread
(commit.py), and so does what is submitted until the thread has nothing left.  If the process ends, for whatever reason,
the loop syncs what is under way, and from then on everything goes to the thread.
"""

from __future__ import annotations

import logging
import os

from pydistdb_storage.engine import WriteBatch
from pydistdb_storage.errors import StorageError
from pydistdb_storage.log_file import Record
from pydistdb_storage.log_sync import LogSync
from pydistdb_storage.logged_engine import LoggedEngine

from pydistdb_server.commit import Done, ThreadCommitter
from pydistdb_server.loop import ServingLoop

logger = logging.getLogger(__name__)

_Group = list[tuple[WriteBatch, Done]]


class LogCommitter:
    """Makes batches durable in the order they are submitted; everything here belongs to the loop's thread."""

    def __init__(self, engine: LoggedEngine, loop: ServingLoop) -> None:
        self._engine = engine
        self._loop = loop
        self._thread = ThreadCommitter(engine, loop.call_from_thread)
        self._on_thread = 0
        """Batches that the thread has not finished."""
        self._sync = _started()
        self._group: _Group = []
        """What is under way in the process."""
        self._begun: tuple[int, Record] | None = None
        self._begun_ns = 0
        self._waiting: _Group = []
        self._closing = False
        self._groups = self._batches = self._busy_ns = 0
        if self._sync is not None:
            loop.register(self._sync.fileno(), self._answered)

    @property
    def groups(self) -> int:
        return self._groups + self._thread.groups

    @property
    def batches(self) -> int:
        return self._batches + self._thread.batches

    @property
    def busy_ns(self) -> int:
        return self._busy_ns + self._thread.busy_ns

    @property
    def queued(self) -> int:
        """How many batches wait for their turn."""
        return len(self._waiting) + self._thread.queued

    def submit(self, batch: WriteBatch, done: Done) -> None:
        """Make ``batch`` durable with the next group; ``done(error or None)`` is called later, not from within."""
        if self._closing:
            return  # as in a crash: not durable, so never confirmed
        if self._group:
            self._waiting.append((batch, done))
        elif self._on_thread:
            self._submit_to_thread(batch, done)
        else:
            self._commit([(batch, done)])

    def close(self) -> None:
        """Finish what was submitted and end process and thread."""
        self._closing = True
        if self._begun is not None and self._sync_error() is None:
            self._engine.finish(self._begun)
        for batch, done in self._waiting:
            self._thread.submit(batch, done)
        self._thread.close()
        self._drop_process()

    def _commit(self, group: _Group) -> None:
        if self._sync is not None:
            self._begun_ns = self._loop.now_ns()
            try:
                self._begun = self._engine.begin([batch for batch, _ in group])
            except StorageError as failure:
                error = failure
                self._group = group
                self._loop.call_soon(lambda: self._end(error))
                return
            if self._begun is not None:
                self._group = group
                try:
                    self._sync.request(*self._engine.log_file)
                except OSError as error:
                    self._process_lost(error)
                return
        for batch, done in group:
            self._submit_to_thread(batch, done)

    def _submit_to_thread(self, batch: WriteBatch, done: Done) -> None:
        def finished(error: StorageError | None) -> None:
            self._on_thread -= 1
            done(error)

        self._on_thread += 1
        self._thread.submit(batch, finished)

    def _answered(self, _: int) -> None:
        assert self._sync is not None
        try:
            number = self._sync.answer()
        except OSError as error:
            self._process_lost(error)
            return
        self._synced(_sync_failure(number) if number else None)

    def _process_lost(self, reason: OSError) -> None:
        logger.warning("commits go to a thread from now on: %s", reason)
        self._drop_process()
        if self._group:
            error = self._sync_error()
            self._loop.call_soon(lambda: self._synced(error))

    def _drop_process(self) -> None:
        if self._sync is not None:
            self._loop.unregister(self._sync.fileno())
            self._sync.close()
            self._sync = None

    def _sync_error(self) -> StorageError | None:
        """Sync the log here and now."""
        try:
            os.fdatasync(self._engine.log_file[0])
        except OSError as error:
            return _sync_failure(error.errno or 0)
        return None

    def _synced(self, error: StorageError | None) -> None:
        assert self._begun is not None
        if error is None:
            self._engine.finish(self._begun)
            self._engine.latest()  # takes it in
        self._end(error)

    def _end(self, error: StorageError | None) -> None:
        """A group is through: begin the next one, then tell."""
        group, self._group, self._begun = self._group, [], None
        self._groups += 1
        self._batches += len(group)
        self._busy_ns += self._loop.now_ns() - self._begun_ns
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            self._commit(waiting)
        for _, done in group:
            done(error)


def _started() -> LogSync | None:
    try:
        return LogSync()
    except OSError as error:
        logger.warning("commits go to a thread: the process that syncs the log cannot be started: %s", error)
        return None


def _sync_failure(number: int) -> StorageError:
    """What a failed sync has left on the disk nobody knows: no second try can make that good."""
    return StorageError(f"the log could not be synced: {os.strerror(number)}")
