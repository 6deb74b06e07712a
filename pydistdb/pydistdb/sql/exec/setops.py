"""DISTINCT, UNION, INTERSECT and EXCEPT, by hashing.

Rows are compared by a key in which equal values are equal and NULLs are too.  The ALL forms count: ``EXCEPT ALL`` takes
one row away for every row on the right, ``INTERSECT ALL`` keeps one for every pair.  What outgrows ``work_mem`` is dealt
out to partition files by the hash of the key, and each partition is worked off by itself.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

from pydistdb.sql.exec.codegen import Code, scope
from pydistdb.sql.exec.grouping import group_key_source
from pydistdb.sql.exec.memory import Holding
from pydistdb.sql.exec.operator import Batch, Operator, Row
from pydistdb.sql.exec.run import BATCH_ROWS, State
from pydistdb.sql.exec.spill import RowCodec, SpillFile
from pydistdb.sql.tree import ColumnRef, Expr, OutputColumn
from pydistdb.sql.types.known import INT8

PARTITIONS = 16
DEEPEST_PARTITION = 4

Keys = Callable[[Batch, State], list[Any]]


def keys_function(code: Code, expressions: Sequence[Expr]) -> Keys:
    source = group_key_source(code, expressions)
    function: Keys = code.build("f(batch, S)", f"return [{source} for r in batch]")
    return function


def row_keys(columns: Sequence[OutputColumn]) -> Keys:
    """The key of a whole row."""
    if not columns:
        return lambda batch, state: [()] * len(batch)
    code = Code(scope([column.id for column in columns], set()))
    return keys_function(code, [ColumnRef(column.type, column.id) for column in columns])


def deal(batch: Batch, keys: list[Any], files: list[SpillFile], level: int) -> None:
    parts: list[Batch] = [[] for _ in files]
    for row, key in zip(batch, keys, strict=True):
        parts[hash((level, key)) % PARTITIONS].append(row)
    for file, part in zip(files, parts, strict=True):
        file.write(part)


def partition_files(codec: RowCodec, held: Holding) -> list[SpillFile]:
    held.usage.batches += PARTITIONS
    return [held.file(codec) for _ in range(PARTITIONS)]


class DistinctOperator(Operator):
    """The first row of each key, in input order as long as the keys fit into memory."""

    def __init__(self, source: Operator, on: Sequence[Expr]) -> None:
        super().__init__(source.columns, source.not_null)
        self.source = source
        self.on = tuple(on)

    @cached_property
    def keys(self) -> Keys:
        return keys_function(self.source.code(), self.on) if self.on else row_keys(self.columns)

    async def batches(self, state: State) -> AsyncIterator[Batch]:
        with state.hold(self.actual, hashed=True) as held:
            async for output in self._distinct(state, held, self.source.batches(state), 0):
                yield output

    @cached_property
    def numbered(self) -> RowCodec:
        """For rows with their place in the input behind their columns: DISTINCT ON goes by that, which partitions lose."""
        return RowCodec((*self.types, INT8))

    async def _distinct(
        self, state: State, held: Holding, source: AsyncIterator[Batch], level: int
    ) -> AsyncIterator[Batch]:
        keys, ordered = self.keys, bool(self.on)
        codec = self.numbered if ordered else self.codec
        seen: set[Any] = set()
        files: list[SpillFile] = []
        dealt = 0
        async for batch in source:
            output: Batch = []
            rest: Batch = []
            rest_keys: list[Any] = []
            for row, key in zip(batch, keys(batch, state), strict=True):
                if key in seen:
                    continue
                if files:
                    rest.append(row)
                    rest_keys.append(key)
                else:
                    seen.add(key)
                    output.append(row)
            if rest:
                if ordered and not level:
                    rest = [(*row, number) for number, row in enumerate(rest, dealt)]
                    dealt += len(rest)
                deal(rest, rest_keys, files, level)
            if output:
                held.take(output)
                if held.is_over and level < DEEPEST_PARTITION:
                    files = partition_files(codec, held)
                yield output
            await state.breathe()
        del seen
        held.clear()
        if not ordered:
            for file in files:
                async for output in self._distinct(state, held, _from_file(file), level + 1):
                    yield output
                file.close()
            return
        async for output in self._in_order(state, held, files, level):
            yield output if level else [row[:-1] for row in output]

    async def _in_order(self, state: State, held: Holding, files: list[SpillFile], level: int) -> AsyncIterator[Batch]:
        """The first row of each key out of partitions, merged by their numbers."""
        results: list[SpillFile] = []
        for file in files:
            found = held.file(self.numbered)
            async for output in self._distinct(state, held, _from_file(file), level + 1):
                found.write(output)
            file.close()
            results.append(found)
        merged = heapq.merge(*map(_rows, results), key=lambda row: row[-1])
        while batch := list(islice(merged, BATCH_ROWS)):
            yield batch
            await state.breathe()
        for found in results:
            found.close()


def _rows(file: SpillFile) -> Iterator[Row]:
    for batch in file.read():
        yield from batch


async def _from_file(file: SpillFile) -> AsyncIterator[Batch]:
    for batch in file.read():
        yield batch


class UnionAllOperator(Operator):
    def __init__(self, columns: Sequence[OutputColumn], arms: Sequence[Operator]) -> None:
        never_null = frozenset(
            column.id
            for position, column in enumerate(columns)
            if all(arm.ids[position] in arm.not_null for arm in arms)
        )
        super().__init__(columns, never_null)
        self.arms = list(arms)

    async def batches(self, state: State) -> AsyncIterator[Batch]:
        for arm in self.arms:
            async for batch in arm.batches(state):
                yield batch


class IntersectExceptOperator(Operator):
    """``kind``: intersect or except.  Without ``every`` the rows of the left side that belong to the result still come as
    often as they are there: a DistinctOperator stands above."""

    def __init__(
        self, columns: Sequence[OutputColumn], kind: str, every: bool, left: Operator, right: Operator
    ) -> None:
        super().__init__(columns)
        self.is_except = kind == "except"
        self.every = every
        self.left = left
        self.right = right

    @cached_property
    def keys(self) -> Keys:
        return row_keys(self.columns)

    async def batches(self, state: State) -> AsyncIterator[Batch]:
        with state.hold(self.actual, hashed=True) as held:
            async for output in self._combined(state, held, self.left.batches(state), self.right.batches(state), 0):
                yield output

    async def _combined(
        self, state: State, held: Holding, left: AsyncIterator[Batch], right: AsyncIterator[Batch], level: int
    ) -> AsyncIterator[Batch]:
        counts: dict[Any, int] = {}
        kept: list[Batch] = []
        async for batch in right:
            for key in self.keys(batch, state):
                counts[key] = counts.get(key, 0) + 1
            kept.append(batch)
            held.take(batch)
            if held.is_over and level < DEEPEST_PARTITION:
                counts.clear()
                async for output in self._partitioned(state, held, left, right, kept, level):
                    yield output
                return
            await state.breathe()
        kept.clear()
        async for batch in left:
            output = []
            for row, key in zip(batch, self.keys(batch, state), strict=True):
                count = counts.get(key, 0)
                if count and self.every:
                    counts[key] = count - 1
                if (count == 0) == self.is_except:
                    output.append(row)
            if output:
                yield output
            await state.breathe()
        held.clear()

    async def _partitioned(
        self,
        state: State,
        held: Holding,
        left: AsyncIterator[Batch],
        right: AsyncIterator[Batch],
        kept: list[Batch],
        level: int,
    ) -> AsyncIterator[Batch]:
        left_files, right_files = partition_files(self.codec, held), partition_files(self.codec, held)
        for batch in kept:
            deal(batch, self.keys(batch, state), right_files, level)
            await state.breathe()
        kept.clear()
        held.clear()
        async for batch in right:
            deal(batch, self.keys(batch, state), right_files, level)
            await state.breathe()
        async for batch in left:
            deal(batch, self.keys(batch, state), left_files, level)
            await state.breathe()
        for left_file, right_file in zip(left_files, right_files, strict=True):
            async for output in self._combined(state, held, _from_file(left_file), _from_file(right_file), level + 1):
                yield output
            left_file.close()
            right_file.close()
