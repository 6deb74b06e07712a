"""Several streams at once: what a scan over many ranges asks of them side by side.

``scatter`` runs up to WIDTH streams as tasks of their own.  Each puts its items into a queue of its own that holds
QUEUE_ITEMS and waits while it is full (that is the back-pressure: what the reader does not take is not asked for).  The
reader takes them stream by stream if order is wanted, else as they come::

    streams    a: 1 2 3    b: 4 5    c: 6              in order:  1 2 3 4 5 6, while b and c are fetched ahead
                                                       else:      1 4 6 2 5 3, say

A scan that may soon have enough (LIMIT) begins with one stream and doubles their number with each that ends.  An error in a
stream is raised at its place; whoever stops reading (an error, a LIMIT, a closed cursor) ends all streams.

Source: G. Graefe, "Volcano, an extensible and parallel query evaluation system" (1994): the exchange operator.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

from pydistdb.tasks import Completion, Scheduler, Task

T = TypeVar("T")

WIDTH = 8
QUEUE_ITEMS = 2


class Stopped(Exception):
    """The reader wants no more."""


class Signal:
    """Something that happens again and again; one task waits for the next time."""

    __slots__ = ("_completion",)

    def __init__(self) -> None:
        self._completion: Completion[None] = Completion()

    def notify(self) -> None:
        self._completion.set(None)

    async def wait(self) -> None:
        await self._completion
        self._completion = Completion()


class Lane(Generic[T]):
    """One stream, read ahead by a task."""

    def __init__(self, scheduler: Scheduler, source: AsyncIterator[T], filled: Signal) -> None:
        self.items: deque[T] = deque()
        self.ended = False
        self.error: Exception | None = None
        self._room = Signal()
        self._filled = filled
        self._task: Task[None] = scheduler.spawn(self._read(source), "part of a scan")

    async def _read(self, source: AsyncIterator[T]) -> None:
        try:
            async for item in source:
                self.items.append(item)
                self._filled.notify()
                while len(self.items) >= QUEUE_ITEMS:
                    await self._room.wait()
        except Stopped:
            pass
        except Exception as error:  # raised where the reader meets it
            self.error = error
        finally:
            self.ended = True
            self._filled.notify()

    def take(self) -> T:
        item = self.items.popleft()
        self._room.notify()
        return item

    def stop(self) -> None:
        self._task.cancel(Stopped())


async def scatter(
    scheduler: Scheduler,
    streams: AsyncIterator[AsyncIterator[T]],
    *,
    ordered: bool,
    width: int = WIDTH,
    most: int = WIDTH,
) -> AsyncIterator[T]:
    """The items of all streams.  ``width``: how many run at first; ``most``: how many ever."""
    lanes: deque[Lane[T]] = deque()
    filled = Signal()
    more = True
    try:
        while True:
            while more and len(lanes) < width:
                stream = await anext(streams, None)
                if stream is None:
                    more = False
                else:
                    lanes.append(Lane(scheduler, stream, filled))
            if not lanes:
                return
            candidates = [lanes[0]] if ordered else [*lanes]
            lane = next((one for one in candidates if one.items or one.ended), None)
            if lane is None:
                await filled.wait()
            elif lane.items:
                yield lane.take()
                lanes.rotate(0 if ordered else -1)
            else:
                lanes.remove(lane)
                width = min(width * 2, most)
                if lane.error is not None:
                    raise lane.error
    finally:
        for lane in lanes:
            lane.stop()
