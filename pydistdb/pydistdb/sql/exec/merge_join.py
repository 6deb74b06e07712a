"""The merge join: both sides come sorted by the keys, so neither has to be held as a whole.

Both sides are read as they come.  What is below the last key seen of either is complete on both; it is cut off and joined by
itself, with the hash join's own functions on a small table (in Python many times as fast as stepping from row to row)::

    left   1 2 2 5 | 5 7 9 …        last keys 5 and 4: all rows below 4 are here
    right  2 3 4 | 5 5 …            join left 1 2 2 with right 2 3; go on with left 5 and right 4, read on at the right

Rows with equal keys are held until a greater one has come.

Source: Blasgen and Eswaran, "Storage and access in relational data bases" (1977).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Sequence
from functools import cached_property
from typing import Any

from pydistdb.sql.exec.hash_join import HashJoinOperator, Table
from pydistdb.sql.exec.memory import Holding
from pydistdb.sql.exec.operator import Batch, Operator
from pydistdb.sql.exec.run import State
from pydistdb.sql.exec.sort import Sorter
from pydistdb.sql.plan.physical import HashJoin, MergeJoin
from pydistdb.sql.tree import Expr, SortKey


class _Side:
    """One side as far as it has been read and not been joined."""

    def __init__(self, operator: Operator, key: Callable[[Any], Any], state: State, held: Holding) -> None:
        self._source = operator.batches(state)
        self._key = key
        self._held = held
        self.rows: Batch = []
        self.keys: list[Any] = []
        self.ended = False

    async def read(self) -> None:
        batch = await anext(self._source, None)
        if batch is None:
            self.ended = True
            return
        self._held.take(batch)
        self.rows += batch
        self.keys += map(self._key, batch)

    def cut(self, below: Any) -> Batch:
        """Take the rows off whose keys are smaller."""
        place = bisect_left(self.keys, below)
        taken = self.rows[:place]
        del self.rows[:place], self.keys[:place]
        return taken

    async def close(self) -> None:
        await self._source.aclose()  # type: ignore[attr-defined]


class MergeJoinOperator(HashJoinOperator):
    def __init__(self, node: MergeJoin, left: Operator, right: Operator) -> None:
        super().__init__(
            HashJoin(
                node.columns,
                node.kind,
                node.left,
                node.right,
                node.left_keys,
                node.right_keys,
                node.residual,
                False,
                node.condition,
                node.rows,
            ),
            left,
            right,
        )

    @cached_property
    def orders(self) -> tuple[Sorter, Sorter]:
        def sorter(side: Operator, keys: Sequence[Expr]) -> Sorter:
            return Sorter(side.code(), tuple(SortKey(key) for key in keys))

        return sorter(self.left, self.node.left_keys), sorter(self.right, self.node.right_keys)

    async def batches(self, state: State) -> AsyncIterator[Batch]:
        with state.hold(self.actual) as held:
            left = _Side(self.left, self.orders[0].key(state), state, held)
            right = _Side(self.right, self.orders[1].key(state), state, held)
            try:
                async for output in self._merged(left, right, state):
                    yield output
                    await state.breathe()
                    held.resize(0)
                    held.take(left.rows)
                    held.take(right.rows)
            finally:
                await left.close()
                await right.close()

    async def _merged(self, left: _Side, right: _Side, state: State) -> AsyncIterator[Batch]:
        while not (left.ended and right.ended):
            for side in (left, right):
                if not side.rows and not side.ended:
                    await side.read()
            if not left.rows and left.ended and self.kind != "full":
                return
            if not right.rows and right.ended and self.kind in ("inner", "semi"):
                return
            open_sides = [side for side in (left, right) if not side.ended]
            if not open_sides:
                break
            lowest = min(open_sides, key=lambda side: side.keys[-1])
            below = lowest.keys[-1]
            async for output in self._window(left.cut(below), right.cut(below), state):
                yield output
            await lowest.read()
            await state.breathe()
        async for output in self._window(left.rows, right.rows, state):
            yield output

    async def _window(self, left: Batch, right: Batch, state: State) -> AsyncIterator[Batch]:
        if not left and not (right and self.kind == "full"):
            return
        table: Table = {}
        self.add_rows(right, table, state)
        if not table and self.kind in ("inner", "semi"):
            return

        async def rows() -> AsyncIterator[Batch]:
            if left:
                yield left

        async for output in self._joined(state, table, rows()):
            if output:
                yield output
