"""Waiting without an event loop: completions, tasks, and the scheduler that drives them.

Theory of operation
-------------------
A statement usually finishes at once, from memory or LMDB.  It is written as a coroutine all the same, because now and
then it must wait: for a commit, a row lock, another node.  A coroutine that never waits costs one ``send`` and about
0.3 µs; a trio task would cost 10 µs (docs/decisions/001-own-completions.md).  So everything below the server awaits
just one kind of thing, a ``Completion``, and whoever drives the coroutine decides what waiting means:

* the server's serving loop steps a statement inline; when it parks, other connections are served, and whoever fulfils
  the completion (the commit thread's wake-up, an RPC answer, a released lock) puts the task on the ready queue;
* a simulation steps the same code under a virtual clock, so that one seed replays a whole cluster.

Example::

    reply: Completion[int] = Completion()
    async def statement() -> int:
        return await reply + 1
    task = scheduler.spawn(statement())      # runs until it parks on `reply`
    reply.set(41)                            # makes the task ready
    scheduler.run_ready()                    # task.completion.result() == 42

Everything here belongs to one thread.  Another thread hands results over through the scheduler's owner (the server has
an eventfd for that), never by touching a completion.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable
from typing import Any, Generic, Protocol, TypeVar, cast

T = TypeVar("T")

_PENDING: Any = object()


class Completion(Generic[T]):
    """A value or an error that will be there once; await it, or register a callback."""

    __slots__ = ("_callbacks", "_error", "_value", "done")

    def __init__(self) -> None:
        self.done = False
        self._value: Any = _PENDING
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[Completion[T]], None]] = []

    def set(self, value: T) -> None:
        """Fulfil with ``value``; a completion that is done already stays as it is."""
        if not self.done:
            self._value = value
            self._finish()

    def fail(self, error: BaseException) -> None:
        """Fulfil with an error, which every awaiting task sees raised."""
        if not self.done:
            self._error = error
            self._finish()

    def _finish(self) -> None:
        self.done = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)

    def result(self) -> T:
        """The value; raises the error it failed with, or RuntimeError if it is not done."""
        if self._error is not None:
            raise self._error
        if not self.done:
            raise RuntimeError("completion is not done")
        return cast(T, self._value)

    def error(self) -> BaseException | None:
        return self._error

    def on_done(self, callback: Callable[[Completion[T]], None]) -> None:
        """Call ``callback(self)`` when done (now, if it is)."""
        if self.done:
            callback(self)
        else:
            self._callbacks.append(callback)

    def remove_callback(self, callback: Callable[[Completion[T]], None]) -> None:
        if callback in self._callbacks:
            self._callbacks.remove(callback)

    def __await__(self) -> Generator[Completion[T], None, T]:
        if not self.done:
            yield self
        return self.result()


def completed(value: T) -> Completion[T]:
    """A completion that is done with ``value``."""
    completion: Completion[T] = Completion()
    completion.set(value)
    return completion


class Timer:
    """A pending ``call_at``; ``cancel()`` makes it do nothing."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Task(Generic[T]):
    """A coroutine being driven; its outcome arrives at ``completion``."""

    __slots__ = ("_coroutine", "_pending_error", "_queued", "_scheduler", "_waiting_on", "completion", "name")

    def __init__(self, coroutine: Coroutine[Any, None, T], scheduler: Scheduler, name: str) -> None:
        self._coroutine = coroutine
        self._scheduler = scheduler
        self._waiting_on: Completion[Any] | None = None
        self._pending_error: BaseException | None = None
        self._queued = False
        self.completion: Completion[T] = Completion()
        self.name = name

    def cancel(self, error: BaseException) -> None:
        """Raise ``error`` inside the coroutine at the point where it waits (soon, not from within this call)."""
        if self.completion.done:
            return
        self._pending_error = error
        if self._waiting_on is not None:
            self._waiting_on.remove_callback(self._wake)
            self._waiting_on = None
        self._enqueue()

    def _wake(self, _: Completion[Any]) -> None:
        self._waiting_on = None
        self._enqueue()

    def _enqueue(self) -> None:
        if not self._queued:
            self._queued = True
            self._scheduler.call_soon(self.step)

    def step(self) -> None:
        """Run the coroutine until it waits or ends."""
        self._queued = False
        if self.completion.done:
            return
        error, self._pending_error = self._pending_error, None
        if error is not None and self._waiting_on is not None:
            # Cancelled from within itself, before it came to wait: what it waits for must not wake it out of its next wait.
            self._waiting_on.remove_callback(self._wake)
            self._waiting_on = None
        try:
            waiting_on = self._coroutine.send(None) if error is None else self._coroutine.throw(error)
        except StopIteration as stop:
            self.completion.set(stop.value)
        except Exception as exc:  # the waiter of `completion` decides what an error means
            self.completion.fail(exc)
        else:
            self._waiting_on = waiting_on
            waiting_on.on_done(self._wake)


class Scheduler(Protocol):
    """What drives tasks: a ready queue and timers under one monotonic clock."""

    def now_ns(self) -> int:
        """Read the monotonic clock, in nanoseconds."""

    @property
    def idle_ns(self) -> int:
        """How long there has been nothing to run, all in all."""

    @property
    def housekeeping(self) -> Housekeeping:
        """What paces the chores."""

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Run ``callback`` in this thread, after the current step."""

    def call_last(self, callback: Callable[[], None]) -> None:
        """Run ``callback`` when everything that is ready now has had its turn."""

    def call_at(self, deadline_ns: int, callback: Callable[[], None]) -> Timer:
        """Run ``callback`` once ``now_ns()`` has reached ``deadline_ns``."""

    def spawn(self, coroutine: Coroutine[Any, None, T], name: str = "") -> Task[T]:
        """Drive ``coroutine``, starting now, within this call, until it first waits."""


class BaseScheduler:
    """Ready queue and timers; the owner supplies the clock and decides when to sleep."""

    def __init__(self) -> None:
        self._ready: deque[Callable[[], None]] = deque()
        self._last: deque[Callable[[], None]] = deque()
        """What gives way to everything that is ready: one runs at a time (``run_last``)."""
        self._timers: list[tuple[int, int, Timer]] = []
        self._sequence = itertools.count()
        self._housekeeping: Housekeeping | None = None

    @property
    def housekeeping(self) -> Housekeeping:
        if self._housekeeping is None:
            self._housekeeping = Housekeeping(self)
        return self._housekeeping

    def now_ns(self) -> int:
        raise NotImplementedError

    @property
    def idle_ns(self) -> int:
        raise NotImplementedError

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._ready.append(callback)

    def call_last(self, callback: Callable[[], None]) -> None:
        self._last.append(callback)

    def call_at(self, deadline_ns: int, callback: Callable[[], None]) -> Timer:
        timer = Timer(callback)
        heapq.heappush(self._timers, (deadline_ns, next(self._sequence), timer))
        return timer

    def spawn(self, coroutine: Coroutine[Any, None, T], name: str = "") -> Task[T]:
        task = Task(coroutine, self, name)
        task.step()
        return task

    @property
    def ready_count(self) -> int:
        """How many callbacks are due."""
        return len(self._ready)

    def run_ready(self, most: int = 1_000) -> int:
        """Run up to ``most`` ready callbacks; returns how many ran."""
        ready = self._ready
        count = 0
        while ready and count < most:
            ready.popleft()()
            count += 1
        return count

    def run_last(self) -> None:
        """Give one of those a turn that gave way."""
        if self._last:
            self._last.popleft()()

    def run_timers(self) -> None:
        """Run every timer that is due."""
        timers = self._timers
        if not timers:
            return
        now = self.now_ns()
        while timers and timers[0][0] <= now:
            callback = heapq.heappop(timers)[2].callback
            if callback is not None:
                callback()

    def next_deadline_ns(self) -> int | None:
        """When the earliest live timer is due; None if there is none."""
        timers = self._timers
        while timers and timers[0][2].callback is None:
            heapq.heappop(timers)
        return timers[0][0] if timers else None

    @property
    def has_ready(self) -> bool:
        return bool(self._ready or self._last)


MOST_STEPS_AT_ONCE = 1_000_000


class SimulatedScheduler(BaseScheduler):
    """A scheduler under a virtual clock, for tests: time passes only in ``run_until`` and ``advance``."""

    def __init__(self) -> None:
        super().__init__()
        self._now_ns = 0

    def now_ns(self) -> int:
        return self._now_ns

    @property
    def idle_ns(self) -> int:
        return self._now_ns  # work takes no time

    def advance(self, duration_ns: int) -> None:
        """Let ``duration_ns`` pass, running everything that falls due on the way, in order."""
        end = self._now_ns + duration_ns
        self._drain()
        while (deadline := self.next_deadline_ns()) is not None and deadline <= end:
            self._now_ns = max(self._now_ns, deadline)
            self.run_timers()
            self._drain()
        self._now_ns = end

    def run_until(self, completion: Completion[T], timeout_ns: int = 60_000_000_000) -> T:
        """Advance the virtual clock until ``completion`` is done; raises TimeoutError past ``timeout_ns``."""
        end = self._now_ns + timeout_ns
        self._drain()
        while not completion.done:
            deadline = self.next_deadline_ns()
            if deadline is None or deadline > end:
                raise TimeoutError("nothing left that could complete this")
            self._now_ns = max(self._now_ns, deadline)
            self.run_timers()
            self._drain()
        return completion.result()

    def run(self, coroutine: Coroutine[Any, None, T], timeout_ns: int = 60_000_000_000) -> T:
        return self.run_until(self.spawn(coroutine).completion, timeout_ns)

    def _drain(self) -> None:
        steps = 0
        while self.has_ready:
            steps += self.run_ready()
            self.run_last()
            if steps > MOST_STEPS_AT_ONCE:
                raise RuntimeError(f"{steps} steps, and no time has passed: somebody asks without a pause")


def sleep(scheduler: Scheduler, duration_ns: int) -> Completion[None]:
    """A completion that is done after ``duration_ns``."""
    completion: Completion[None] = Completion()
    scheduler.call_at(scheduler.now_ns() + duration_ns, lambda: completion.set(None))
    return completion


def pause(scheduler: Scheduler) -> Completion[None]:
    """Give every other ready task a turn: await this in loops that may run for more than a few milliseconds."""
    completion: Completion[None] = Completion()
    scheduler.call_last(lambda: completion.set(None))
    return completion


LOOK_NS = 2_000_000
BUSY_SHARE = 0.25
AWAY_FACTOR = 10


class Housekeeping:
    """Paces the chores of a scheduler that can wait.

    After each piece of work a chore looks on for 2 ms: clients that wait for answers do not show their demand while it
    works.  Where others use more than a quarter of that time, all chores together take a tenth from then on; where not,
    the next piece follows.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._work_ns = 0
        self._next_turn_ns = 0

    async def give_way(self, work_ns: int) -> None:
        scheduler = self._scheduler
        self._work_ns += work_ns
        before_ns, idle_ns, chores_ns = scheduler.now_ns(), scheduler.idle_ns, self._work_ns
        await sleep(scheduler, LOOK_NS)
        await pause(scheduler)
        now_ns = scheduler.now_ns()
        free_ns = now_ns - before_ns - (self._work_ns - chores_ns)
        others_ns = free_ns - (scheduler.idle_ns - idle_ns)
        if others_ns > max(free_ns, LOOK_NS) * BUSY_SHARE:
            self._next_turn_ns = max(self._next_turn_ns, now_ns) + AWAY_FACTOR * work_ns
            await sleep(scheduler, self._next_turn_ns - now_ns)


async def give_way(scheduler: Scheduler, work_ns: int) -> None:
    """Await this in housekeeping, after each piece of about ``work_ns``."""
    await scheduler.housekeeping.give_way(work_ns)


def with_deadline(
    scheduler: Scheduler, completion: Completion[T], deadline_ns: int, error: BaseException
) -> Completion[T]:
    """A completion with the outcome of ``completion``, or ``error`` if that comes too late."""
    bounded: Completion[T] = Completion()
    timer = scheduler.call_at(deadline_ns, lambda: bounded.fail(error))

    def forward(done: Completion[T]) -> None:
        timer.cancel()
        failure = done.error()
        if failure is not None:
            bounded.fail(failure)
        else:
            bounded.set(done.result())

    completion.on_done(forward)
    return bounded


async def gather(scheduler: Scheduler, coroutines: Iterable[Coroutine[Any, None, T]]) -> list[T]:
    """Run coroutines side by side; all outcomes in order.  The first error is raised once every one has ended.

    If the task that waits here is cancelled, so are they."""
    tasks = [scheduler.spawn(coroutine) for coroutine in coroutines]
    error: BaseException | None = None
    for task in tasks:
        while True:
            try:
                await task.completion
            except Exception as exc:
                if exc is not task.completion.error():
                    for each in tasks:
                        each.cancel(exc)
                error = error or exc
            if task.completion.done:
                break
    if error is not None:
        raise error
    return [task.completion.result() for task in tasks]


def run_inline(coroutine: Coroutine[Any, None, T]) -> T:
    """Run a coroutine that is known not to wait; raises RuntimeError if it does."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return cast(T, stop.value)
    coroutine.close()
    raise RuntimeError("the coroutine had to wait")
