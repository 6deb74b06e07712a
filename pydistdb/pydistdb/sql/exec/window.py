"""Window functions.

Calls that share PARTITION BY and ORDER BY make a stage: it sorts its input, takes one partition at a time, and appends a value
per call to every row (window_partition.py).  Several such stages stand on each other.  Past ``work_mem`` the rows of a partition
go to disk, and what the calls look at does too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from functools import cached_property, partial
from typing import Any

from pydistdb.sql.exec.codegen import tuple_source
from pydistdb.sql.exec.grouping import group_key_source
from pydistdb.sql.exec.memory import Holding
from pydistdb.sql.exec.operator import Batch, Operator, ProjectOperator, Row
from pydistdb.sql.exec.run import State
from pydistdb.sql.exec.sort import SortOperator
from pydistdb.sql.exec.spill import RowBuffer, in_batches
from pydistdb.sql.exec.values import batch_bytes
from pydistdb.sql.exec.window_partition import PartitionRun, Parts
from pydistdb.sql.plan.explain_formats import Actual
from pydistdb.sql.tree import ColumnRef, OutputColumn, SortKey, Window, WindowCall


class WindowOperator(Operator):
    """All stages of a Window node, and its columns in the order asked for."""

    def __init__(self, source: Operator, node: Window) -> None:
        counts = {
            column.id
            for column, call in zip(node.columns[len(node.columns) - len(node.calls) :], node.calls, strict=True)
            if call.function.name in ("count", "row_number", "rank", "dense_rank")
        }
        super().__init__(node.columns, source.not_null | counts)
        calls = list(zip(node.columns[len(node.columns) - len(node.calls) :], node.calls, strict=True))
        stage: Operator = source
        while calls:
            partition_by, order_by = calls[0][1].partition_by, calls[0][1].order_by
            chosen = [pair for pair in calls if (pair[1].partition_by, pair[1].order_by) == (partition_by, order_by)]
            calls = [pair for pair in calls if pair not in chosen]
            stage = StageOperator(stage, chosen)
        if stage.ids != self.ids:
            references = [ColumnRef(column.type, column.id) for column in node.columns]
            stage = ProjectOperator(stage, node.columns, references)
        self.stage = stage

    def observe(self, actual: Actual) -> None:
        """The stages are no nodes of their own: what they sort and keep is told here."""
        super().observe(actual)
        stage: Operator = self.stage
        while isinstance(stage, StageOperator | ProjectOperator):
            stage.observe(actual)
            if isinstance(stage, StageOperator) and stage.sorted is not stage.source:
                stage.sorted.observe(actual)
            stage = stage.source

    async def batches(self, state: State) -> AsyncIterator[Batch]:
        async for batch in self.stage.batches(state):
            yield batch


class StageOperator(Operator):
    """The calls over one kind of partition."""

    def __init__(self, source: Operator, calls: Sequence[tuple[OutputColumn, WindowCall]]) -> None:
        super().__init__(source.columns + tuple(column for column, _ in calls), source.not_null)
        self.source = source
        self.calls = [call for _, call in calls]
        self.partition_by = self.calls[0].partition_by
        self.order_by = self.calls[0].order_by
        keys = [SortKey(expression) for expression in self.partition_by] + list(self.order_by)
        self.sorted = SortOperator(source, keys) if keys else source

    def _keys(self, expressions: Sequence[Any]) -> Callable[[Batch, State], list[Any]]:
        code = self.sorted.code()
        source = group_key_source(code, expressions) if expressions else "()"
        function: Callable[[Batch, State], list[Any]] = code.build("f(batch, S)", f"return [{source} for r in batch]")
        return function

    @cached_property
    def partition_keys(self) -> Callable[[Batch, State], list[Any]]:
        return self._keys(self.partition_by)

    @cached_property
    def order_keys(self) -> Callable[[Batch, State], list[Any]]:
        return self._keys([key.expression for key in self.order_by])

    @cached_property
    def arguments(self) -> list[Callable[[Batch, State], list[Row]]]:
        """Per call ``f(rows, S)``: its arguments for every row."""
        functions: list[Callable[[Batch, State], list[Row]]] = []
        for call in self.calls:
            code = self.sorted.code()
            source = tuple_source(list(map(code.value, call.arguments)))
            functions.append(code.build("f(batch, S)", f"return [{source} for r in batch]"))
        return functions

    @cached_property
    def filters(self) -> list[Callable[[Batch, State], list[bool]] | None]:
        functions: list[Callable[[Batch, State], list[bool]] | None] = []
        for call in self.calls:
            if call.filter is None:
                functions.append(None)
                continue
            code = self.sorted.code()
            source = code.truth(call.filter)
            functions.append(code.build("f(batch, S)", f"return [bool({source}) for r in batch]"))
        return functions

    @cached_property
    def order_values(self) -> Callable[[Batch, State], list[Any]]:
        code = self.sorted.code()
        source = code.value(self.order_by[0].expression)
        function: Callable[[Batch, State], list[Any]] = code.build("f(batch, S)", f"return [{source} for r in batch]")
        return function

    async def batches(self, state: State) -> AsyncIterator[Batch]:
        rows: Batch = []
        stored: RowBuffer | None = None
        """A partition's rows before ``rows``, once they are too many for memory."""
        size = 0
        """The rows stored."""
        last: Any = None
        with state.hold(self.actual) as held:
            async for batch in self.sorted.batches(state):
                keys = self.partition_keys(batch, state)
                start = 0
                for position, key in enumerate(keys):
                    if key != last and (rows or stored or position):
                        rows += batch[start:position]
                        async for output in self._partition(rows, stored, size, held, state):
                            yield output
                        rows, stored, size = [], None, 0
                        start = position
                    last = key
                rows += batch[start:]
                if stored is None:
                    held.resize(batch_bytes(rows))
                    if held.is_over:
                        held.clear()
                        stored = RowBuffer(lambda: self.sorted.codec, held)
                if stored is not None:
                    for part in in_batches(rows):
                        stored.append(part)
                    size += len(rows)
                    rows = []
                await state.breathe()
            if rows or stored:
                async for output in self._partition(rows, stored, size, held, state):
                    yield output

    async def _partition(
        self, rows: Batch, stored: RowBuffer | None, size: int, held: Holding, state: State
    ) -> AsyncIterator[Batch]:
        """The rows of a partition with the calls' values."""
        parts: Parts = partial(in_batches, rows)
        if stored is not None:
            if rows:
                stored.append(rows)
            parts = stored.read
        run = PartitionRun(self, parts, size + len(rows), held, state)
        await run.begin()
        for part in parts():
            values = await run.take(len(part))
            yield [row + found for row, found in zip(part, values, strict=True)]
            await state.breathe()
        run.close()
        held.clear()
        if stored is not None:
            stored.close()
