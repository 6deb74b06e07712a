"""Chores go on while nobody else is there, and take a tenth of the time together while somebody is."""

from __future__ import annotations

import pytest
from pydistdb.tasks import SimulatedScheduler, give_way, sleep

PIECE_NS = 5_000_000


class WorkingScheduler(SimulatedScheduler):
    """Work takes time here, and is not idleness."""

    def __init__(self) -> None:
        super().__init__()
        self.worked_ns = 0

    @property
    def idle_ns(self) -> int:
        return self._now_ns - self.worked_ns

    def work(self, duration_ns: int) -> None:
        self._now_ns += duration_ns
        self.worked_ns += duration_ns

    def wait_until(self, deadline_ns: int) -> None:
        self._now_ns = max(self._now_ns, deadline_ns)


async def _chore(scheduler: WorkingScheduler, pieces: list[int]) -> None:
    while True:
        scheduler.work(PIECE_NS)
        pieces.append(scheduler.now_ns())
        await give_way(scheduler, PIECE_NS)


async def _statements(scheduler: WorkingScheduler, share: float) -> None:
    while True:
        scheduler.work(int(1_000_000 * share))
        await sleep(scheduler, int(1_000_000 * (1 - share)))


def _pieces(scheduler: WorkingScheduler, chores: int, seconds: int) -> int:
    pieces: list[int] = []
    start_ns = scheduler.now_ns()
    for _ in range(chores):
        scheduler.spawn(_chore(scheduler, pieces))
    while scheduler.now_ns() < start_ns + seconds * 1_000_000_000:
        scheduler.run_ready()
        scheduler.run_timers()
        scheduler.run_last()
        if not scheduler.has_ready and (deadline_ns := scheduler.next_deadline_ns()):
            scheduler.wait_until(deadline_ns)
    return len(pieces)


@pytest.mark.parametrize("chores", [1, 3])
def test_alone_they_go_on_at_once(chores: int) -> None:
    assert _pieces(WorkingScheduler(), chores, 1) >= (140 if chores == 1 else 190)


@pytest.mark.parametrize("chores", [1, 3])
def test_beside_statements_they_share_a_tenth(chores: int) -> None:
    scheduler = WorkingScheduler()
    scheduler.spawn(_statements(scheduler, 0.6))
    pieces = _pieces(scheduler, chores, 10)
    assert 140 <= pieces <= 230, "10 s have room for 2,000"


def test_they_go_on_when_the_statements_are_few() -> None:
    scheduler = WorkingScheduler()
    scheduler.spawn(_statements(scheduler, 0.1))
    assert _pieces(scheduler, 1, 1) >= 90
