"""One node's view of a simulated cluster's scheduler: it can be stopped like a process by SIGSTOP, and has a clock of its own.

While a node is stopped the rest goes on; what falls due for it (timers, messages, finished writes) happens when it goes on,
all at once, and in the order in which it fell due.  Its monotonic clock may begin anywhere and be a little fast or slow::

    node.stop()                    the node stops in the middle of whatever waits
    cluster.advance(5)             its lease runs out, others take over
    node.resume()                  it still believes to lead, for as long as nobody tells it otherwise
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from pydistdb.tasks import Housekeeping, SimulatedScheduler, Task, Timer

T = TypeVar("T")


class NodeScheduler:
    """``pydistdb.tasks.Scheduler`` of one node."""

    def __init__(self, base: SimulatedScheduler, offset_ns: int = 0, rate: float = 1.0) -> None:
        self._base = base
        self._offset_ns = offset_ns
        self._rate = rate
        self._held: list[Callable[[], None]] | None = None

    @property
    def stopped(self) -> bool:
        return self._held is not None

    def stop(self) -> None:
        if self._held is None:
            self._held = []

    def resume(self) -> None:
        held, self._held = self._held, None
        for callback in held or ():
            self._base.call_soon(callback)

    def run(self, callback: Callable[[], None]) -> None:
        """Run something of the node's now, or when it goes on."""
        if self._held is None:
            callback()
        else:
            self._held.append(callback)

    # --------------------------------------------------------------------------------------------- tasks.Scheduler

    def now_ns(self) -> int:
        now_ns = self._base.now_ns()
        return now_ns if self._rate == 1.0 else self._offset_ns + int(now_ns * self._rate)

    @property
    def idle_ns(self) -> int:
        return self.now_ns()  # work takes no time

    @property
    def housekeeping(self) -> Housekeeping:
        return self._base.housekeeping

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._base.call_soon(lambda: self.run(callback))

    def call_last(self, callback: Callable[[], None]) -> None:
        self._base.call_last(lambda: self.run(callback))

    def call_at(self, deadline_ns: int, callback: Callable[[], None]) -> Timer:
        timer = Timer(callback)
        at_ns = deadline_ns if self._rate == 1.0 else int((deadline_ns - self._offset_ns) / self._rate) + 1
        self._base.call_at(at_ns, lambda: self.run(lambda: _fire(timer)))
        return timer

    def spawn(self, coroutine: Coroutine[Any, None, T], name: str = "") -> Task[T]:
        task = Task(coroutine, self, name)
        task.step()
        return task


def _fire(timer: Timer) -> None:
    if timer.callback is not None:
        timer.callback()
