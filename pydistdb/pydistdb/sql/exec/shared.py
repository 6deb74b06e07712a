"""WITH: tables computed once and read by any number of scans, and recursion.

A ``SharedTable`` computes its definition as far as its readers have read: ``WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL
SELECT n + 1 FROM t) SELECT n FROM t LIMIT 3`` ends, as in Postgres.  A definition that changes data runs to its end,
read or not.

Recursion: the rows of the last round are the working table that the step reads; what it yields is the next one, until
a round yields nothing.  UNION (without ALL) drops rows seen in any round before.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import cached_property
from typing import Any

from pydistdb.sql.exec.operator import Batch, Operator
from pydistdb.sql.exec.run import State
from pydistdb.sql.exec.setops import Keys, row_keys
from pydistdb.sql.exec.spill import RowBuffer
from pydistdb.sql.tree import Cte, CteScan


class SharedTable:
    """Rows of a CTE in one run."""

    __slots__ = ("_buffer", "_source")

    def __init__(self, source: AsyncIterator[Batch], buffer: RowBuffer) -> None:
        self._source: AsyncIterator[Batch] | None = source
        self._buffer = buffer

    async def read(self) -> AsyncIterator[Batch]:
        number = 0
        while number < self._buffer.count or await self._advance():
            yield self._buffer.batch(number)
            number += 1

    async def _advance(self) -> bool:
        """Compute one more batch; False at the end."""
        if self._source is None:
            return False
        try:
            self._buffer.append(await anext(self._source))
        except StopAsyncIteration:
            self._source = None
            return False
        return True

    async def finish(self) -> None:
        while await self._advance():
            pass


class CteOperator(Operator):
    def __init__(
        self, node: Cte, definition: Operator, step: Operator | None, body: Operator, changes_data: bool
    ) -> None:
        super().__init__(body.columns, body.not_null)
        self.node = node
        self.definition = definition
        self.step = step
        self.body = body
        self.changes_data = changes_data

    @cached_property
    def keys(self) -> Keys:
        return row_keys(self.definition.columns)

    async def batches(self, state: State) -> AsyncIterator[Batch]:
        source = self.definition.batches(state) if self.step is None else self._recursive(state)
        table = SharedTable(source, self._buffer(state))
        state.shared[self.node.cte_id] = table
        if self.changes_data:
            affected_rows = state.affected_rows
            await table.finish()
            state.affected_rows = affected_rows  # the command tag counts what the statement itself changes
        async for batch in self.body.batches(state):
            yield batch

    def _buffer(self, state: State) -> RowBuffer:
        return RowBuffer(lambda: self.definition.codec, state.hold(self.actual))

    async def _recursive(self, state: State) -> AsyncIterator[Batch]:
        assert self.step is not None
        seen: set[Any] | None = None if self.node.union_all else set()
        known = state.hold()  # by the set, which stays in memory
        source = self.definition.batches(state)
        working: RowBuffer | None = None
        while True:
            done, working = working, self._buffer(state)
            async for batch in source:
                if seen is not None:
                    batch = self._new(batch, seen, state)
                    known.take(batch)
                if batch:
                    working.append(batch)
                    yield batch
                await state.breathe()
            if done is not None:
                done.close()
            if working.count == 0:
                return
            state.shared[working_table(self.node.cte_id)] = SharedTable(_nothing(), working)
            source = self.step.batches(state)

    def _new(self, batch: Batch, seen: set[Any], state: State) -> Batch:
        output: Batch = []
        for row, key in zip(batch, self.keys(batch, state), strict=True):
            if key not in seen:
                seen.add(key)
                output.append(row)
        return output


async def _nothing() -> AsyncIterator[Batch]:
    return
    yield []


def working_table(cte_id: int) -> int:
    """The number under which the step of a recursion finds the rows of the last round."""
    return -cte_id - 1


class CteScanOperator(Operator):
    def __init__(self, node: CteScan, is_working_table: bool) -> None:
        super().__init__(node.columns)
        self.number = working_table(node.cte_id) if is_working_table else node.cte_id

    async def batches(self, state: State) -> AsyncIterator[Batch]:
        table: SharedTable = state.shared[self.number]
        async for batch in table.read():
            yield batch
            await state.breathe()
