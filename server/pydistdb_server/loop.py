"""The serving loop: one trio task on a private epoll that answers every ready connection synchronously.

Theory of operation
-------------------
A trio task per connection costs 33-52 µs per request in switches and checkpoints alone; a callback under a private
epoll costs about 15.  So one trio task owns an epoll of its own.  Each *pass* of the loop

1. polls without waiting, and calls the callback of every file descriptor that is ready;
2. runs the ready queue (tasks whose completion was fulfilled) and the timers that are due;
3. sends the answers that have gathered: a send wakes its client, which may take the core away at once, so that
   everything else is done first, and the next write is under way to the disk by then;
4. gives one of the long tasks that gave way (``pause``) its turn;
5. if there was nothing to do, spins a dozen more passes (the next request of a busy client is usually microseconds
   away), and then sleeps until a descriptor or the next timer is due.

Every ``BATCHES_PER_CHECKPOINT`` busy passes it lets trio's other tasks run once.  An idle loop sits in the kernel: in
trio's ``wait_readable(epoll)``, or, told that it is ``alone`` in trio, in the epoll itself.  Most of what a node does
while nobody asks it anything is to wake up, and trio's way there and back is dearer than taking in a ping.

Everything the database runs belongs to this one thread.  The commit thread, or any other, hands over a callback with
``call_from_thread``: an append to a deque, which every pass looks at, and one write to an eventfd if the loop may be asleep
and has not been told already.  A busy loop is spared both ends of that, each of which gives the interpreter's lock away.

Example::

    loop = ServingLoop()
    loop.register(listener.fileno(), on_connection)
    trio.run(loop.run)

The figures are in docs/architecture.md; the pattern is the reactor of Schmidt (1995).
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections import deque
from collections.abc import Callable

import trio
from pydistdb.tasks import BaseScheduler, Timer

SPIN_PASSES = 12
"""Empty polls before sleeping: about 10 µs, the time in which a local client sends its next request."""

IDLE_SLEEP_NS = 1_000_000
"""Whoever slept this long is not kept busy by anybody: it sleeps again without spinning first."""

LONGEST_SLEEP_NS = 1_000_000_000
"""Of a loop that is alone: a signal that arrives right before the wait begins does not end it."""

BATCHES_PER_CHECKPOINT = 64
EVENTS_PER_POLL = 256
CALLBACKS_PER_PASS = 1_000
ANSWERS_PER_SEND = 32
"""So many answers wait for each other at most: about half a millisecond."""

READABLE = select.EPOLLIN
WRITABLE = select.EPOLLOUT
HANGUP = select.EPOLLHUP | select.EPOLLERR
PEER_CLOSED = select.EPOLLRDHUP

Callback = Callable[[], None]
DescriptorCallback = Callable[[int], None]


class ServingLoop(BaseScheduler):
    """A scheduler that sleeps in epoll; see the module's introduction."""

    def __init__(self) -> None:
        super().__init__()
        self._epoll = select.epoll()
        self._callbacks: dict[int, DescriptorCallback] = {}
        self._thread_calls: deque[Callback] = deque()
        self._wake_up = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._outgoing: list[Callback] = []
        self._told = False
        self._may_wait = True
        """The loop is waiting for descriptors, or about to, or not running: another thread must wake it."""
        self._asleep = False
        self._stopping = False
        self._idle_ns = 0
        self.passes = 0
        self.sleeps = 0
        self.register(self._wake_up, self._on_wake_up)

    def now_ns(self) -> int:
        return time.monotonic_ns()

    @property
    def idle_ns(self) -> int:
        return self._idle_ns

    # ------------------------------------------------------------------------------------------ descriptors

    def register(self, descriptor: int, callback: DescriptorCallback, events: int = READABLE) -> None:
        """Call ``callback(events)`` whenever ``descriptor`` is ready for any of ``events`` (level-triggered)."""
        self._callbacks[descriptor] = callback
        self._epoll.register(descriptor, events)

    def modify(self, descriptor: int, events: int) -> None:
        """Change what a registered descriptor is watched for."""
        self._epoll.modify(descriptor, events)

    def unregister(self, descriptor: int) -> None:
        """Forget a descriptor; call this before closing it."""
        if self._callbacks.pop(descriptor, None) is not None:
            with contextlib.suppress(OSError):
                self._epoll.unregister(descriptor)

    # ------------------------------------------------------------------------------------------ other threads

    def call_from_thread(self, callback: Callback) -> None:
        """Run ``callback`` in the loop's thread; the one method that other threads and signal handlers may call."""
        # The order matters, here and where the loop goes to sleep: either it sees the call, or this sees that it may wait.
        self._thread_calls.append(callback)
        if self._may_wait and not self._told:
            self._told = True
            os.eventfd_write(self._wake_up, 1)

    def _on_wake_up(self, _: int) -> None:
        # The order matters: a call appended after `_told` is cleared writes to the eventfd again.
        try:  # not contextlib.suppress, which takes a microsecond of every commit
            os.eventfd_read(self._wake_up)
        except BlockingIOError:
            pass
        self._told = False
        self._run_thread_calls()

    def _run_thread_calls(self) -> None:
        calls = self._thread_calls
        while calls:
            calls.popleft()()

    # ------------------------------------------------------------------------------------------ running

    def stop(self) -> None:
        """End ``run`` after the current pass."""
        self._stopping = True
        self.call_from_thread(lambda: None)

    def call_soon(self, callback: Callback) -> None:
        self._ready.append(callback)
        self._rouse()

    def call_last(self, callback: Callback) -> None:
        self._last.append(callback)
        self._rouse()

    def call_at(self, deadline_ns: int, callback: Callback) -> Timer:
        timer = super().call_at(deadline_ns, callback)
        self._rouse()
        return timer

    def _rouse(self) -> None:
        """End the loop's sleep, if it is another trio task that has something for it."""
        if self._asleep and not self._told:
            self._told = True
            os.eventfd_write(self._wake_up, 1)

    def run_once(self, wait_seconds: float = 0) -> bool:
        """One pass: everything that is ready now, or within ``wait_seconds``.  Tells whether there was anything."""
        callbacks = self._callbacks
        if wait_seconds:
            self._may_wait = True
            if self._thread_calls:
                wait_seconds = 0
            self._idle_ns -= time.monotonic_ns()
            events = self._epoll.poll(wait_seconds, EVENTS_PER_POLL)
            self._idle_ns += time.monotonic_ns()
        else:
            events = self._epoll.poll(0, EVENTS_PER_POLL)
        self._may_wait = False
        called = bool(self._thread_calls)
        if called:
            self._run_thread_calls()
        for descriptor, mask in events:
            callback = callbacks.get(descriptor)
            if callback is not None:  # else a callback before it in this batch has closed it
                callback(mask)
        ran = self.run_ready(CALLBACKS_PER_PASS) if self._ready else 0
        if self._timers:
            self.run_timers()
        if self._outgoing:
            self._send_all()
        if self._last:
            self.run_last()
            ran += 1
        self.passes += 1
        return bool(events) or called or ran > 0

    def send_later(self, send: Callback) -> None:
        """Call ``send`` at the end of the pass, or earlier if many wait for that."""
        self._outgoing.append(send)
        if len(self._outgoing) >= ANSWERS_PER_SEND:
            self._send_all()

    def _send_all(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        for send in outgoing:
            send()

    async def run(self, *, alone: bool = False) -> None:
        """Serve until ``stop``.  ``alone``: no other trio task has anything to do meanwhile."""
        # trio would keep book of every async generator; ours never belong to a trio task.
        sys.set_asyncgen_hooks(firstiter=None, finalizer=None)
        idle_passes = 0
        batches = 0
        while not self._stopping:
            if self.run_once() or self.has_ready:
                idle_passes = 0
                batches += 1
                if batches >= BATCHES_PER_CHECKPOINT:
                    batches = 0
                    await trio.lowlevel.checkpoint()
                continue
            idle_passes += 1
            if idle_passes < SPIN_PASSES:
                continue
            idle_passes = 0
            if alone:
                self._sleep_alone()
            else:
                await self._sleep()

    def _sleep_alone(self) -> None:
        """Sleep, and do what there is to do, until that comes in quick succession."""
        started_ns = self.now_ns()
        while not self._stopping:
            deadline_ns = self.next_deadline_ns()
            sleep_ns = LONGEST_SLEEP_NS if deadline_ns is None else min(deadline_ns - started_ns, LONGEST_SLEEP_NS)
            self.sleeps += 1
            self.run_once(max(sleep_ns, 0) / 1e9)
            ended_ns = self.now_ns()
            if self.has_ready or ended_ns - started_ns < IDLE_SLEEP_NS:
                return
            started_ns = ended_ns

    async def _sleep(self) -> None:
        deadline_ns = self.next_deadline_ns()
        self.sleeps += 1
        self._asleep = self._may_wait = True
        self._idle_ns -= self.now_ns()
        try:
            if self._thread_calls:
                return
            if deadline_ns is None:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                return
            remaining_ns = deadline_ns - self.now_ns()
            if remaining_ns > 0:
                with trio.move_on_after(remaining_ns / 1e9):
                    await trio.lowlevel.wait_readable(self._epoll.fileno())
        finally:
            self._asleep = self._may_wait = False
            self._idle_ns += self.now_ns()

    def close(self) -> None:
        """Give the descriptors back; the loop cannot run again."""
        self._callbacks.clear()
        self._epoll.close()
        os.close(self._wake_up)
