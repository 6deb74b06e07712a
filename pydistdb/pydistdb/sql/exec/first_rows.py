"""The first rows of each group, out of rows in any order (plan/rules/first_rows.py).

Rows are gathered; when they are twice as many as were kept before, they are sorted and each group is cut off behind its first
ones, so that memory holds some multiple of the rows wanted::

    row_number() <= 2, by g, order v     (a 5) (a 1) (b 7) (a 3) (a 9) (b 2)     ->    (a 1) (a 3) (b 2) (b 7)
    rank() <= 1                          (a 1) (a 1) (a 2)                       ->    (a 1) (a 1)

A row that goes has had enough rows before it, which stay; so it does not matter how the input was cut into parts.  Where even the
rows wanted outgrow ``work_mem``, or what may be sorted in one go, they are handed on as they are: the step above sorts them
anyway, and does so on disk.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from functools import cached_property
from typing import Any

from pydistdb.sql.exec.codegen import Code, evaluator
from pydistdb.sql.exec.operator import Batch, Operator
from pydistdb.sql.exec.run import BATCH_ROWS, State
from pydistdb.sql.exec.setops import Keys, keys_function
from pydistdb.sql.exec.sort import MOST_SORTED_ROWS, Sorter
from pydistdb.sql.exec.spill import in_batches
from pydistdb.sql.exec.values import batch_bytes
from pydistdb.sql.exec.waiting import once
from pydistdb.sql.plan.rules.first_rows import MOST_FIRST_ROWS
from pydistdb.sql.tree import Expr, FirstRows, SortKey


class Picker:
    """Keeps the first rows of each group."""

    def __init__(
        self, code: Callable[[], Code], groups: Sequence[Expr], keys: Sequence[SortKey], counting: str
    ) -> None:
        self._group_keys: Keys | None = keys_function(code(), groups) if groups else None
        self._sorter = Sorter(code(), keys) if keys else None
        self._ties: Keys | None = keys_function(code(), [key.expression for key in keys]) if keys else None
        self._counting = counting

    def pick(self, rows: Batch, most: int, state: State) -> Batch:
        """The rows of which ``counting`` is at most ``most``, each group's in order; equal ones as they came."""
        if self._sorter is not None:
            self._sorter.sort(rows, state)
        groups = [None] * len(rows) if self._group_keys is None else self._group_keys(rows, state)
        if self._counting == "row_number" or self._ties is None:
            return self._numbered(rows, groups, most)
        return self._ranked(rows, groups, self._ties(rows, state), most)

    @staticmethod
    def _numbered(rows: Batch, groups: list[Any], most: int) -> Batch:
        picked: Batch = []
        counts: dict[Any, int] = {}
        for row, group in zip(rows, groups, strict=True):
            count = counts.get(group, 0)
            if count < most:
                counts[group] = count + 1
                picked.append(row)
        return picked

    def _ranked(self, rows: Batch, groups: list[Any], ties: list[Any], most: int) -> Batch:
        picked: Batch = []
        is_dense = self._counting == "dense_rank"
        places: dict[Any, tuple[int, int, Any]] = {}
        """By group: the rank of the row before, how many rows there have been, and what ties with the last."""
        for row, group, tie in zip(rows, groups, ties, strict=True):
            rank, count, last = places.get(group, (0, 0, None))
            if not count or tie != last:
                rank = rank + 1 if is_dense else count + 1
            places[group] = rank, count + 1, tie
            if rank <= most:
                picked.append(row)
        return picked


class FirstRowsOperator(Operator):
    def __init__(self, source: Operator, node: FirstRows) -> None:
        super().__init__(source.columns, source.not_null)
        self.source = source
        self.node = node

    @cached_property
    def most(self) -> Callable[[State], tuple[int | None]]:
        function: Callable[[State], tuple[int | None]] = evaluator((self.node.limit,))
        return function

    @cached_property
    def picker(self) -> Picker:
        return Picker(self.source.code, self.node.groups, self.node.keys, self.node.counting)

    async def batches(self, state: State) -> AsyncIterator[Batch]:
        (most,) = await once(self.most, state)
        if most is None or most < 1:
            return
        if most > MOST_FIRST_ROWS:
            async for batch in self.source.batches(state):
                yield batch
            return
        rows: Batch = []
        next_cut = 4 * BATCH_ROWS
        with state.hold(self.actual) as held:
            async for batch in self.source.batches(state):
                rows += batch
                held.take(batch)
                if len(rows) >= next_cut or held.is_over:
                    rows = self.picker.pick(rows, most, state)
                    next_cut = 2 * len(rows) + 4 * BATCH_ROWS
                    held.resize(batch_bytes(rows))
                    if 2 * held.size_bytes > held.limit_bytes or 2 * len(rows) > MOST_SORTED_ROWS:
                        for part in in_batches(rows):
                            yield part
                        rows, next_cut = [], 4 * BATCH_ROWS
                        held.clear()
                await state.breathe()
            for part in in_batches(self.picker.pick(rows, most, state)):
                yield part
