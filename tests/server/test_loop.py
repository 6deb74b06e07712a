"""The serving loop: descriptors, timers, other threads, other trio tasks, and sleep."""

from __future__ import annotations

import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
from pydistdb.tasks import Completion, SimulatedScheduler, sleep
from pydistdb_server.commit import ThreadCommitter
from pydistdb_server.deadline import Deadline
from pydistdb_server.loop import ServingLoop
from pydistdb_storage.engine import Space, WriteBatch
from pydistdb_storage.errors import StoreFull
from pydistdb_storage.memory_engine import MemoryEngine


def run(loop: ServingLoop, main: Callable[[], Awaitable[None]], alone: bool = False) -> None:
    """Run a coroutine on the loop until it ends."""
    failure: list[BaseException] = []

    async def wrapped() -> None:
        try:
            await main()
        except BaseException as error:
            failure.append(error)
        finally:
            loop.stop()

    def begin() -> None:
        loop.spawn(wrapped())

    loop.call_soon(begin)
    trio.run(partial(loop.run, alone=alone))
    loop.close()
    if failure:
        raise failure[0]


def test_a_descriptor_calls_back() -> None:
    loop = ServingLoop()
    ours, theirs = socket.socketpair()
    got: Completion[bytes] = Completion()
    loop.register(ours.fileno(), lambda _: got.set(ours.recv(10)))

    async def main() -> None:
        await sleep(loop, 5_000_000)  # the loop sleeps meanwhile
        theirs.send(b"hello")
        assert await got == b"hello"
        loop.unregister(ours.fileno())

    run(loop, main)
    ours.close()
    theirs.close()


def test_a_callback_may_unregister_another_ready_descriptor() -> None:
    loop = ServingLoop()
    pairs = [socket.socketpair() for _ in range(2)]
    called: list[int] = []

    def callback(index: int) -> Callable[[int], None]:
        def on_ready(_: int) -> None:
            called.append(index)
            for ours, _theirs in pairs:
                loop.unregister(ours.fileno())

        return on_ready

    for index, (ours, theirs) in enumerate(pairs):
        loop.register(ours.fileno(), callback(index))
        theirs.send(b"x")
    loop.run_once()
    loop.run_once()
    assert len(called) == 1
    for pair in pairs:
        for end in pair:
            end.close()
    loop.close()


def test_timers_fire_in_order_and_on_time() -> None:
    loop = ServingLoop()
    order: list[int] = []

    async def main() -> None:
        started = time.monotonic()
        done: Completion[None] = Completion()
        loop.call_at(loop.now_ns() + 20_000_000, lambda: (order.append(2), done.set(None))[1])
        loop.call_at(loop.now_ns() + 5_000_000, lambda: order.append(1))
        loop.call_at(loop.now_ns() + 10_000_000, lambda: order.append(9)).cancel()
        await done
        assert 0.018 < time.monotonic() - started < 0.5

    run(loop, main)
    assert order == [1, 2]


def test_another_thread_wakes_the_loop_once_for_many_calls() -> None:
    loop = ServingLoop()
    seen: list[int] = []

    async def main() -> None:
        done: Completion[None] = Completion()

        def work() -> None:
            time.sleep(0.01)
            for number in range(1000):
                loop.call_from_thread(lambda number=number: seen.append(number))  # type: ignore[misc]
            loop.call_from_thread(lambda: done.set(None))

        thread = threading.Thread(target=work)
        thread.start()
        await done
        thread.join()

    run(loop, main)
    assert seen == list(range(1000))


def test_another_trio_task_wakes_the_sleeping_loop() -> None:
    loop = ServingLoop()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(loop.run)
            await trio.sleep(0.02)
            loop.call_soon(loop.stop)
            with trio.fail_after(2):
                while nursery.child_tasks:
                    await trio.sleep(0.001)

    trio.run(main)
    loop.close()


def test_a_loop_alone_is_woken_by_timers_descriptors_threads_and_signals() -> None:
    loop = ServingLoop()
    ours, theirs = socket.socketpair()
    seen: list[str] = []
    signalled: Completion[None] = Completion()

    async def main() -> None:
        for wake in (
            lambda: theirs.send(b"x"),
            lambda: loop.call_from_thread(lambda: seen.append("thread")),
            lambda: os.kill(os.getpid(), signal.SIGUSR1),
        ):
            await sleep(loop, 5_000_000)
            timer = threading.Timer(0.01, wake)
            timer.start()
            await sleep(loop, 30_000_000)
            timer.join()
        await signalled

    loop.register(ours.fileno(), lambda _: seen.append(ours.recv(1).decode()))
    before = signal.signal(signal.SIGUSR1, lambda *_: loop.call_from_thread(lambda: signalled.set(None)))
    try:
        run(loop, main, alone=True)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == ["x", "thread"]
    ours.close()
    theirs.close()


@pytest.mark.parametrize("alone", [False, True])
def test_an_idle_loop_costs_nothing(alone: bool) -> None:
    loop = ServingLoop()

    async def main() -> None:
        await sleep(loop, 50_000_000)
        before = resource.getrusage(resource.RUSAGE_SELF)
        passes = loop.passes
        await sleep(loop, 300_000_000)
        after = resource.getrusage(resource.RUSAGE_SELF)
        assert loop.passes - passes < 100
        assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.05

    run(loop, main, alone)


def test_a_deadline_is_moved_without_new_timers() -> None:
    scheduler = SimulatedScheduler()
    fired: list[int] = []
    deadline = Deadline(scheduler, lambda: fired.append(scheduler.now_ns()))
    for _ in range(1000):
        deadline.arm(100)
        scheduler.advance(10)
    assert not fired
    assert len(scheduler._timers) <= 2
    scheduler.advance(1000)
    assert fired == [10_090]
    deadline.arm(100)
    deadline.disarm()
    scheduler.advance(1000)
    deadline.arm(500)
    deadline.arm(50)  # earlier than what rings already
    scheduler.advance(60)
    assert len(fired) == 2
    deadline.arm(50)
    deadline.close()
    scheduler.advance(1000)
    assert len(fired) == 2


class SlowEngine(MemoryEngine):
    """Counts groups; each takes a while, as a disk does."""

    def __init__(self) -> None:
        super().__init__()
        self.groups: list[int] = []
        self.error: Exception | None = None

    def apply(self, batches: list[WriteBatch]) -> None:
        time.sleep(0.005)
        if self.error is not None:
            raise self.error
        self.groups.append(len(batches))
        super().apply(batches)


def put(key: bytes) -> WriteBatch:
    batch = WriteBatch()
    batch.put(Space.STATE, key, b"v")
    return batch


def test_commits_that_wait_together_are_one_group() -> None:
    loop = ServingLoop()
    engine = SlowEngine()
    committer = ThreadCommitter(engine, loop.call_from_thread)
    order: list[int] = []

    async def main() -> None:
        done: Completion[None] = Completion()

        def finished(number: int, error: object) -> None:
            assert error is None
            order.append(number)
            if len(order) == 50:
                done.set(None)

        for number in range(50):
            committer.submit(put(b"%d" % number), lambda error, number=number: finished(number, error))  # type: ignore[misc]
        await done

    run(loop, main)
    committer.close()
    assert order == list(range(50))
    assert sum(engine.groups) == 50
    assert len(engine.groups) <= 3
    assert engine.latest().get(Space.STATE, b"49") == b"v"


def test_a_failed_group_fails_all_of_its_batches() -> None:
    loop = ServingLoop()
    engine = SlowEngine()
    committer = ThreadCommitter(engine, loop.call_from_thread)

    async def main() -> None:
        for failure in (StoreFull("full"), ZeroDivisionError("bug")):
            engine.error = failure
            outcome: Completion[object] = Completion()
            committer.submit(put(b"a"), outcome.set)
            error = await outcome
            assert str(failure) in str(error)

    run(loop, main)
    committer.close()


def test_closing_finishes_what_was_submitted() -> None:
    loop = ServingLoop()
    engine = SlowEngine()
    committer = ThreadCommitter(engine, loop.call_from_thread)
    committer.submit(put(b"a"), lambda error: None)
    committer.close()
    assert engine.latest().get(Space.STATE, b"a") == b"v"
    committer.submit(put(b"b"), lambda error: None)
    assert engine.latest().get(Space.STATE, b"b") is None
    loop.close()
