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
from typing import Any, Protocol, cast

from pydistdb_storage.engine import Engine, Space, WriteBatch
from pydistdb_storage.errors import StorageError

from pydistdb.kv.command import Clear, Write
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
        """Set to make every apply fail (a full disk, a failed sync)."""
        self.applies_all_the_same = False
        """Whether what fails is on the disk nevertheless: a failed sync tells nothing."""
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
        if error is None or self.applies_all_the_same:
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


class RoundItem(Protocol):
    """What a round carries for one replica."""

    def finish(self) -> None:
        """Go on, now that the round is durable."""

    def abandon(self, error: BaseException) -> None:
        """Fail everything that waits for the round, which may or may not reach the disk."""

    def voided(self) -> list[object]:
        """Fail the commands that may still be taken back after a failed write; return their writes and clears."""


_SPACES = range(len(Space))


class Round:
    """What the next apply will write, for all ranges together, as one atomic batch.

    Writes are kept apart by space, so that the engine gets long runs of one kind.  The engine does a batch's clears
    before its writes; so a clear that comes later here takes the earlier writes of its span out of the round.
    """

    __slots__ = ("_cleared", "_writes", "batch", "items", "size", "states")

    def __init__(self) -> None:
        self.batch: WriteBatch | None = None
        """The result, once sealed."""
        self.items: list[RoundItem] = []
        self.states: dict[bytes, Callable[[], bytes]] = {}
        """STATE records that are written once, however often they changed: key → current value."""
        self.size = 0
        self._writes: list[list[Write]] = [[] for _ in _SPACES]
        self._cleared: list[Clear] = []

    def write(self, write: Write) -> None:
        self._writes[write[0]].append(write)
        self.size += 1

    def write_all(self, writes: list[Write]) -> None:
        by_space = self._writes
        for write in writes:
            by_space[write[0]].append(write)
        self.size += len(writes)

    def clear(self, clear: Clear) -> None:
        """Delete every key in a span, those that this round has written so far included."""
        space, start, end = clear
        writes = self._writes[space]
        if writes:
            writes[:] = [write for write in writes if not start <= write[1] < end]
        self._cleared.append(clear)
        self.size += 1

    def is_empty(self) -> bool:
        return not (self.size or self.states or self.items)

    def seal(self) -> WriteBatch:
        """Make the batch: nothing may be added any more."""
        operations: list[Any] = []
        for writes in self._writes:
            operations.extend(writes)
        for key, value in self.states.items():
            operations.append((Space.STATE, key, value()))
        self.batch = WriteBatch()
        self.batch.operations = operations
        self.batch.cleared = cast("list[tuple[Space, bytes, bytes]]", self._cleared)
        return self.batch

    def pending(self, space: Space, start: bytes, end: bytes) -> list[Write]:
        """The writes of this round to [start, end), in order."""
        return [write for write in self._writes[space] if start <= write[1] < end]

    def without_voided(self) -> None:
        """After a failed apply: take back what may be taken back, so that the rest fits a full disk more easily."""
        gone = {id(write) for item in self.items for write in item.voided()}
        for writes in self._writes:
            writes[:] = [write for write in writes if id(write) not in gone]
        self._cleared[:] = [span for span in self._cleared if id(span) not in gone]
        if self.batch is not None:
            self.batch.operations = [op for op in self.batch.operations if id(op) not in gone]
