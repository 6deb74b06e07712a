"""Functions that have to wait among expressions: ``nextval`` whose block of numbers is used up, an advisory lock, a question
to other nodes.

Generated code is synchronous, and such a function is not.  So it raises a MustWait with a ``fill``, the executor awaits that
and evaluates the row again; expressions with such calls are evaluated row by row, and the rows done so far stay done.
What the row's earlier calls gave is not drawn a second time: it is kept in ``EvalContext.effects`` and given again
(functions/effects.py)::

    SELECT nextval('a'), nextval('b')       a gives 7; b has no number at hand: wait
                                            again: a gives 7 from the record, b gives 1
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from pydistdb.kv.api import MustWait
from pydistdb.sql.exec.run import State
from pydistdb.sql.functions.effects import WAITING, Effects, MustAct
from pydistdb.sql.plan.expressions import walk
from pydistdb.sql.tree import Call, Expr

T = TypeVar("T")


def may_wait(expressions: Iterable[Expr]) -> bool:
    """Whether one of the expressions calls a function that may have to wait."""
    return any(
        isinstance(node, Call) and node.function.name in WAITING
        for expression in expressions
        for node in walk(expression)
    )


def begin_row(state: State) -> None:
    """Generated code begins a row; where nothing is recorded (exec/point_write.py), a new try draws new numbers."""
    effects = state.context.effects
    if effects is not None:
        effects.begin_row()


async def wait_for(need: MustWait, count: int, effects: Effects) -> None:
    """Get what a row lacked, enough for ``count`` more; anything else is raised again.  The row is evaluated anew."""
    if isinstance(need, MustAct):
        effects.repeat()
        effects.results.append(await need.act())
        return
    fill = getattr(need, "fill", None)
    if fill is None:
        raise need
    effects.repeat()
    await fill(count)


async def once(function: Callable[[State], T], state: State) -> T:
    """``function`` of the state, where no row is involved (LIMIT)."""
    context = state.context
    effects = Effects()
    while True:
        context.effects = effects
        effects.begin_row()
        try:
            return function(state)
        except MustWait as need:
            await wait_for(need, 1, effects)
        finally:
            context.effects = None


async def row_by_row(function: Callable[[Any, State], Any], rows: list[Any], state: State) -> list[Any]:
    """``function`` of each row."""
    output: list[Any] = []
    context = state.context
    effects = Effects()
    while len(output) < len(rows):
        context.effects = effects
        try:
            for row in rows[len(output) :]:
                effects.begin_row()
                output.append(function(row, state))
        except MustWait as need:
            await wait_for(need, len(rows) - len(output), effects)
        finally:
            context.effects = None
    return output
