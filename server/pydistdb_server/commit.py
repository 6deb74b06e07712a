"""The commit thread: group commit for whoever has something to make durable.

Theory of operation
-------------------
A durable LMDB commit takes 0.3-0.9 ms, most of it in fdatasync with the GIL released.  One worker thread does nothing
else.  While it syncs one group, the serving loop goes on evaluating, and whatever is submitted meanwhile forms the next
group: the busier the node, the larger the groups, with no timer to tune.  When a group is done the loop is woken once,
for all of its callbacks.

    loop    submit(a)            submit(b) submit(c)            done(a) …             done(b) done(c)
    thread            apply([a]) ─────────────── wake   apply([b, c]) ───────── wake

The thread asks for the GIL after each LMDB call that released it.  The interpreter grants it when the loop gives it up
(each of the loop's own LMDB calls and polls does so) or after the switch interval, 5 ms by default: a serving loop that
computes would hold a finished commit back that long, hence ``SWITCH_INTERVAL_SECONDS``.

Submitting is bounded by the callers (every client waits for its commit); ``queued`` tells how much is waiting.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable

from pydistdb_storage.engine import Engine, WriteBatch
from pydistdb_storage.errors import StorageError

SWITCH_INTERVAL_SECONDS = 0.000_05
"""How long a thread that wants the GIL waits before asking for it.

pgbench -N with 8 clients: 800 tps at the interpreter's 5 ms, 1400 at 0.5 ms, no more at 0.05 ms."""

MAX_GROUP_BATCHES = 4_096
"""Largest group: bounds the time one LMDB write transaction takes."""

Done = Callable[[StorageError | None], None]


class ThreadCommitter:
    """Applies batches on one worker thread, as many at once as are waiting."""

    def __init__(self, engine: Engine, call_from_thread: Callable[[Callable[[], None]], None]) -> None:
        self._engine = engine
        self._call_from_thread = call_from_thread
        # Every lock that the thread takes in Python is one more wait for the GIL; this queue is one, in C.
        self._waiting: queue.SimpleQueue[tuple[WriteBatch, Done] | None] = queue.SimpleQueue()
        self._closing = False
        self.groups = 0
        self.batches = 0
        self.busy_ns = 0
        sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
        self._thread = threading.Thread(target=self._run, name="pydistdb-commit", daemon=True)
        self._thread.start()

    @property
    def queued(self) -> int:
        """How many batches wait for the thread."""
        return self._waiting.qsize()

    def submit(self, batch: WriteBatch, done: Done) -> None:
        """Make ``batch`` durable with the next group; ``done(error or None)`` is called in the loop's thread."""
        if not self._closing:  # else as in a crash: not durable, so never confirmed
            self._waiting.put((batch, done))

    def close(self) -> None:
        """Finish what was submitted and end the thread."""
        self._closing = True
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        waiting = self._waiting
        while True:
            group: list[tuple[WriteBatch, Done]] = []
            item = waiting.get()
            while item is not None:
                group.append(item)
                if waiting.empty() or len(group) >= MAX_GROUP_BATCHES:
                    break
                item = waiting.get()
            if group:
                self._commit(group)
            if item is None:
                return

    def _commit(self, group: list[tuple[WriteBatch, Done]]) -> None:
        started_ns = time.monotonic_ns()
        error: StorageError | None = None
        try:
            self._engine.apply([batch for batch, _ in group])
        except StorageError as exc:
            error = exc
        except Exception as exc:  # a bug or a fault of the machine: nobody may be told that it is durable
            error = StorageError(f"{type(exc).__name__}: {exc}")
        self.groups += 1
        self.batches += len(group)
        self.busy_ns += time.monotonic_ns() - started_ns

        def finish() -> None:
            self._engine.latest()  # takes in what was applied
            for _, done in group:
                done(error)

        self._call_from_thread(finish)
