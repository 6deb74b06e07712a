"""What functions with effects gave while a row was evaluated, so that it can be evaluated again without another effect.

A function that cannot answer at once makes the executor wait and evaluate its row again (exec/waiting.py).  Effects that
the row has had by then must not be had twice: a number is not drawn again, a lock not taken again.  So such functions go
through ``effect``, which gives the recorded results, in the order of the calls, before it lets anything new happen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pydistdb.kv.api import MustWait
from pydistdb.sql.types.base import EvalContext

T = TypeVar("T")

_LOCK_NAMES = ("lock", "lock_shared", "xact_lock", "xact_lock_shared")
WAITING = frozenset(
    (
        "nextval",
        "setval",
        "pg_sequence_last_value",
        "pg_advisory_unlock",
        "pg_advisory_unlock_shared",
        "pg_advisory_unlock_all",
    )
    + tuple(f"pg_advisory_{name}" for name in _LOCK_NAMES)
    + tuple(f"pg_try_advisory_{name}" for name in _LOCK_NAMES)
    + ("pg_cancel_backend", "pg_terminate_backend", "pg_blocking_pids")
    + ("pg_stat_statements_reset",)
    + ("txid_current_snapshot", "pg_current_snapshot", "txid_status", "pg_xact_status")
    + (
        "split_range",
        "split_at",
        "merge_range",
        "merge_at",
        "set_setting",
        "move_lease",
        "move_replica",
        "drain",
        "decommission",
        "recommission",
        "recover_transactions",
        "directory_assign",
        "directory_move",
        "reshard_cancel",
    )
)
"""The functions that may have to wait."""


class Effects:
    """The results of one row's effects so far; ``position`` is the call that comes next."""

    __slots__ = ("_repeats", "position", "results")

    def __init__(self) -> None:
        self.results: list[Any] = []
        self.position = 0
        self._repeats = False

    def begin_row(self) -> None:
        """A row is evaluated: the next one, or after ``repeat`` the same again."""
        if self._repeats:
            self._repeats = False
        else:
            self.results.clear()
        self.position = 0

    def repeat(self) -> None:
        """The row could not be finished."""
        self._repeats = True


class MustAct(MustWait):
    """A function's effect takes waiting for: the executor awaits ``act``, and the row's call then gives its result."""

    async def act(self) -> Any:
        """Have the effect; its result."""
        raise NotImplementedError


def act(context: EvalContext, deed: MustAct) -> Any:
    """The result of what has to be waited for; raises it the first time."""

    def first_time() -> Any:
        raise deed

    return effect(context, first_time)


def effect(context: EvalContext, act: Callable[[], T]) -> T:
    """The result of ``act``, which happens once for a row however often that is evaluated."""
    effects = context.effects
    if effects is None:
        return act()
    position = effects.position
    if position == len(effects.results):
        effects.results.append(act())
    effects.position = position + 1
    result: T = effects.results[position]
    return result
