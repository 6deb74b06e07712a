"""A deadline that is moved often and reached rarely, without a timer for every move.

Statements and idle times set and clear a deadline thousands of times a second; a timer each would fill the loop's heap with
cancelled ones.  A ``Deadline`` keeps one timer at most: when it rings too early, it is set again for the time that counts.
"""

from __future__ import annotations

from collections.abc import Callable

from pydistdb.tasks import Scheduler, Timer


class Deadline:
    """Calls ``action`` once ``arm``'s time has passed without ``disarm`` or another ``arm``."""

    __slots__ = ("_action", "_at_ns", "_rings_ns", "_scheduler", "_timer")

    def __init__(self, scheduler: Scheduler, action: Callable[[], None]) -> None:
        self._scheduler = scheduler
        self._action = action
        self._at_ns = 0
        self._rings_ns = 0
        self._timer: Timer | None = None

    def arm(self, duration_ns: int) -> None:
        """Act after ``duration_ns``."""
        self._at_ns = self._scheduler.now_ns() + duration_ns
        if self._timer is None or self._rings_ns > self._at_ns:
            self._set()

    def disarm(self) -> None:
        """Do not act, for now."""
        self._at_ns = 0

    def close(self) -> None:
        """Never act again."""
        self._at_ns = 0
        if self._timer is not None:
            self._timer.cancel()

    def _set(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings_ns = self._at_ns
        self._timer = self._scheduler.call_at(self._at_ns, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if not self._at_ns:
            return
        if self._scheduler.now_ns() >= self._at_ns:
            self._at_ns = 0
            self._action()
        else:
            self._set()
