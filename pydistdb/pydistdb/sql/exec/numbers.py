"""``nextval`` (and ``setval``) among expressions: when this node's block of numbers is used up, get another and go on.

Generated code is synchronous, and taking a block is not.  So ``nextval`` raises (``catalog.sequence_numbers.NeedsBlock``), and
expressions that call it are evaluated row by row: the rows done so far stay done, and no number is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from pydistdb.kv.api import MustWait
from pydistdb.sql.exec.run import State
from pydistdb.sql.plan.expressions import walk
from pydistdb.sql.tree import Call, Expr

T = TypeVar("T")


def draws_numbers(expressions: Iterable[Expr]) -> bool:
    """Whether one of the expressions calls a volatile function that may have to wait."""
    return any(
        isinstance(node, Call) and node.function.name in ("nextval", "setval")
        for expression in expressions
        for node in walk(expression)
    )


async def wait_for(need: MustWait, count: int) -> None:
    """Get what an expression lacked, enough for ``count`` more evaluations; anything else is raised again."""
    fill = getattr(need, "fill", None)
    if fill is None:
        raise need
    await fill(count)


async def once(function: Callable[[State], T], state: State) -> T:
    """``function`` of the state, where no row is involved (LIMIT)."""
    while True:
        try:
            return function(state)
        except MustWait as need:
            await wait_for(need, 1)


async def row_by_row(function: Callable[[Any, State], Any], rows: list[Any], state: State) -> list[Any]:
    """``function`` of each row."""
    output: list[Any] = []
    while len(output) < len(rows):
        try:
            for row in rows[len(output) :]:
                output.append(function(row, state))
        except MustWait as need:
            await wait_for(need, len(rows) - len(output))
    return output
