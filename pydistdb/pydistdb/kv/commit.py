"""Group commit: many waiting writes, one ``engine.apply``, one fsync.

A store has at most one batch in flight.  While the disk works, everything that becomes ready on any range (log entries,
applied commands, hard states) collects in the next batch; so the number of fsyncs per second is the disk's, and the
number of commits per second is that times whatever waits.

The server supplies a ``Committer`` with a thread; tests use ``InlineCommitter``, whose "disk" takes a fixed time of the
scheduler's clock, or stalls, fills up and loses what was in flight when a crash is played.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from pydistdb_storage.engine import Engine, WriteBatch
from pydistdb_storage.errors import StorageError

from pydistdb.tasks import Scheduler

Done = Callable[[StorageError | None], None]


class Committer(Protocol):
    """Makes batches durable, in the order submitted."""

    def submit(self, batch: WriteBatch, done: Done) -> None:
        """Queue ``batch``; call ``done(None)`` in the scheduler's thread once it is durable, or ``done(error)``.

        Batches that wait together become durable together; ``done`` calls come in order of submission."""


class InlineCommitter:
    """A committer without a thread: the apply happens on the scheduler, ``delay_ns`` after it was submitted."""

    def __init__(self, scheduler: Scheduler, engine: Engine, delay_ns: int = 0) -> None:
        self._scheduler = scheduler
        self._engine = engine
        self.delay_ns = delay_ns
        self.error: StorageError | None = None
        """Set to make every apply fail (a full disk)."""
        self.applies = 0
        self._waiting: deque[tuple[WriteBatch, Done]] = deque()
        self._scheduled = False
        self._stopped = False

    def submit(self, batch: WriteBatch, done: Done) -> None:
        if self._stopped:
            return
        self._waiting.append((batch, done))
        self._schedule()

    def stop(self) -> None:
        """Lose everything that is not durable yet, as a crash does."""
        self._stopped = True
        self._waiting.clear()

    def _schedule(self) -> None:
        if self._scheduled:
            return
        self._scheduled = True
        if self.delay_ns:
            self._scheduler.call_at(self._scheduler.now_ns() + self.delay_ns, self._apply)
        else:
            self._scheduler.call_soon(self._apply)

    def _apply(self) -> None:
        self._scheduled = False
        if self._stopped:
            return
        group = list(self._waiting)
        self._waiting.clear()
        error = self.error
        if error is None:
            try:
                self._engine.apply([batch for batch, _ in group])
                self.applies += 1
            except StorageError as failure:
                error = failure
        for _, done in group:
            if not self._stopped:
                done(error)
        if self._waiting:
            self._schedule()
