"""Work on very many ranges, a few at a time: what is due is done in turns with pauses, in which everything else is served.

    turns = Turns(scheduler, most=8, pause_ns=4_000_000)
    turns.add(campaign, due_ns)      # at due_ns if few wait, else as soon as those that were due earlier have had their turn

A turn that comes late (the node is busy with what the last one led to) does no more than one in time, so the work adapts to
what the node can bear.  Thousands of timers of their own would all be run at once by then.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

from pydistdb.tasks import Scheduler, Timer

Action = Callable[[], bool]
"""Tells whether there was anything to do: what has settled itself meanwhile takes no part of a turn."""


class Turns:
    """See the module's docstring."""

    def __init__(self, scheduler: Scheduler, most: int, pause_ns: int) -> None:
        self._scheduler = scheduler
        self._most = most
        self._pause_ns = pause_ns
        self._waiting: list[tuple[int, int, Action]] = []
        self._sequence = count()
        self._next_turn_ns = 0
        self._timer: Timer | None = None
        self._timer_ns = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, action: Action, due_ns: int) -> None:
        """Have ``action`` called at ``due_ns`` or later."""
        heapq.heappush(self._waiting, (due_ns, next(self._sequence), action))
        self._set_timer()

    def _set_timer(self) -> None:
        turn_ns = max(self._waiting[0][0], self._next_turn_ns)
        if self._timer is not None:
            if self._timer_ns <= turn_ns:
                return
            self._timer.cancel()
        self._timer_ns = turn_ns
        self._timer = self._scheduler.call_at(turn_ns, self._turn)

    def _turn(self) -> None:
        self._timer = None
        waiting, now_ns = self._waiting, self._scheduler.now_ns()
        self._next_turn_ns = now_ns + self._pause_ns
        left = self._most
        while left and waiting and waiting[0][0] <= now_ns:
            if heapq.heappop(waiting)[2]():
                left -= 1
        if waiting:
            self._set_timer()
