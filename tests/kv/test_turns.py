"""Turns: order, pauses, and no more in a late turn than in one in time."""

from __future__ import annotations

from pydistdb.kv.turns import Turns
from pydistdb.tasks import SimulatedScheduler


def test_what_is_due_is_done_a_few_at_a_time() -> None:
    scheduler = SimulatedScheduler()
    turns = Turns(scheduler, 2, 10)
    done: list[tuple[int, str]] = []

    def add(name: str, due_ns: int, has_work: bool = True) -> None:
        def action() -> bool:
            done.append((scheduler.now_ns(), name))
            return has_work

        turns.add(action, due_ns)

    add("later", 200)
    for name in "abc":
        add(name, 100)
    add("idle", 99, has_work=False)
    scheduler.advance(100)
    assert done == [(99, "idle")]
    scheduler.advance(300)
    assert [name for _, name in done] == ["idle", "a", "b", "c", "later"]
    assert [time for time, name in done if name in "abc"] == [109, 109, 119]
    assert done[-1] == (200, "later") and len(turns) == 0


def test_an_earlier_one_is_not_kept_waiting_by_a_later_one() -> None:
    scheduler = SimulatedScheduler()
    turns = Turns(scheduler, 1, 10)
    done: list[int] = []

    def action() -> bool:
        done.append(scheduler.now_ns())
        return True

    turns.add(action, 1_000)
    turns.add(action, 50)
    scheduler.advance(60)
    assert done == [50]
    scheduler.advance(1_000)
    assert done == [50, 1_000]
