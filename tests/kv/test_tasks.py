"""Tasks that are cancelled (pydistdb.tasks)."""

from __future__ import annotations

import pytest
from pydistdb.tasks import Completion, SimulatedScheduler, Task, pause


def test_who_asks_without_a_pause_is_found_out() -> None:
    scheduler = SimulatedScheduler()

    async def ask() -> None:
        while True:
            await pause(scheduler)

    scheduler.spawn(ask())
    with pytest.raises(RuntimeError, match="no time has passed"):
        scheduler.advance(1)


def test_one_that_is_cancelled_from_within_its_own_step_wakes_only_for_what_it_waits_for() -> None:
    """A node dies while it sends a message: the sender's task is cancelled in the middle of its own call."""
    scheduler = SimulatedScheduler()
    answer, retried = Completion[int](), Completion[int]()
    tasks: list[Task[int]] = []

    async def ask() -> int:
        await started
        tasks[0].cancel(ConnectionError("the node is gone"))
        try:
            return await answer
        except ConnectionError:
            return await retried

    started = Completion[None]()
    tasks.append(scheduler.spawn(ask()))
    started.set(None)
    scheduler.advance(1)
    answer.set(1)  # too late
    scheduler.advance(1)
    assert not tasks[0].completion.done
    retried.set(2)
    scheduler.advance(1)
    assert tasks[0].completion.result() == 2
