"""Window functions.

Calls that share PARTITION BY and ORDER BY make a stage: it sorts its input, takes one partition at a time, and appends a value
per call to every row.  Several such stages stand on each other.

A pure window function gets the whole partition at once (``functions.window``).  An aggregate runs over each row's frame: where
frames only grow at their end, as by default, one state is carried along; equal frames in a row share their result.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any, TypeVar

from pydistdb.sql.exec.codegen import tuple_source
from pydistdb.sql.exec.frames import Frame, Peers, frames
from pydistdb.sql.exec.grouping import group_key_source
from pydistdb.sql.exec.memory import Holding
from pydistdb.sql.exec.operator import Batch, Operator, ProjectOperator, Row
from pydistdb.sql.exec.run import MOST_PAIRS, State
from pydistdb.sql.exec.sort import SortOperator
from pydistdb.sql.exec.spill import RowBuffer, in_batches
from pydistdb.sql.exec.values import batch_bytes
from pydistdb.sql.functions.window import USES_FRAME, Partition
from pydistdb.sql.plan.explain_formats import Actual
from pydistdb.sql.tree import ColumnRef, OutputColumn, SortKey, Window, WindowCall
from pydistdb.sql.types.base import AggregateFunction, Function

T = TypeVar("T")
Parts = Callable[[], Iterator[Batch]]
"""A partition's rows in batches, as often as wanted."""
VALUE_BYTES = 64
"""What an argument, a key or a frame of a row takes, about."""


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
        last: Any = None
        with state.hold(self.actual) as held:
            async for batch in self.sorted.batches(state):
                keys = self.partition_keys(batch, state)
                start = 0
                for position, key in enumerate(keys):
                    if key != last and (rows or stored or position):
                        rows += batch[start:position]
                        async for output in self._partition(rows, stored, held, state):
                            yield output
                        rows, stored = [], None
                        start = position
                    last = key
                rows += batch[start:]
                if stored is not None:
                    stored.append(rows)
                    rows = []
                else:
                    held.resize(batch_bytes(rows))
                    if held.is_over:
                        stored = RowBuffer(lambda: self.sorted.codec, state.hold(self.actual))
                        for part in in_batches(rows):
                            stored.append(part)
                        rows = []
                        held.clear()
                await state.breathe()
            if rows or stored:
                async for output in self._partition(rows, stored, held, state):
                    yield output

    async def _partition(
        self, rows: Batch, stored: RowBuffer | None, held: Holding, state: State
    ) -> AsyncIterator[Batch]:
        """The rows of a partition with the calls' values.  The rows may lie on disk; what the calls look at does not."""
        parts: Parts = partial(in_batches, rows)
        if stored is not None:
            if rows:
                stored.append(rows)
            parts = stored.read
        columns = await self._columns(parts, held, state)
        start = 0
        for part in parts():
            found = zip(*[column[start : start + len(part)] for column in columns], strict=True)
            yield [row + values for row, values in zip(part, found, strict=True)]
            start += len(part)
        held.clear()
        if stored is not None:
            stored.close()

    async def _columns(self, parts: Parts, held: Holding, state: State) -> list[Sequence[Any]]:
        """The values of each call for the rows of a partition."""
        keys = await _for_each(self.order_keys, parts, held, state) if self.order_by else []
        size = len(keys) if self.order_by else sum(map(len, parts()))
        peers = Peers.from_keys(keys or [()] * size)
        columns: list[Sequence[Any]] = []
        for number, call in enumerate(self.calls):
            arguments = await _for_each(self.arguments[number], parts, held, state)
            needs_frames = isinstance(call.function, AggregateFunction) or call.function.name in USES_FRAME
            chosen: list[Frame] = []
            has_offsets = bool(call.frame) and any(bound[1] is not None for bound in call.frame[1:3])
            if needs_frames or has_offsets:  # row_number() has no use for its frame, but bad offsets are an error
                values = await _for_each(self.order_values, parts, held, state) if has_offsets and self.order_by else ()
                chosen = frames(call.frame, peers, values, self.order_by, state)
            if isinstance(call.function, Function):
                partition = Partition(size, peers.of, chosen)
                columns.append(call.function.implementation(partition, *zip(*arguments, strict=True)))
            else:
                passes = self.filters[number]
                kept = None if passes is None else await _for_each(passes, parts, held, state)
                columns.append(await over_frames(call.function, arguments, kept, chosen, state))
            await state.breathe()
        return columns


async def _for_each(function: Callable[[Batch, State], list[T]], parts: Parts, held: Holding, state: State) -> list[T]:
    """What a function of batches gives for all rows."""
    found: list[T] = []
    for part in parts():
        found += function(part, state)
        held.resize(held.size_bytes + VALUE_BYTES * len(part))
        await state.breathe()
    return found


def _parts(positions: Frame) -> Iterator[Frame]:
    return (positions[first : first + MOST_PAIRS] for first in range(0, len(positions), MOST_PAIRS))


async def over_frames(
    function: AggregateFunction,
    arguments: list[Row],
    kept: list[bool] | None,
    chosen: list[Frame],
    state: State,
) -> list[Any]:
    """An aggregate's value for every frame."""
    strict, accumulate = function.strict, function.accumulate
    results: list[Any] = []
    value: Any = None
    start = end = -1
    previous: Frame | None = None
    looked_at = 0
    """Rows, since the last breath."""
    for frame in chosen:
        if previous is not None and frame == previous:
            results.append(results[-1])
            continue
        grows = isinstance(frame, range) and frame.start == start and frame.stop >= end
        if not grows:
            value = function.initial()
        positions = range(end, frame.stop) if grows and isinstance(frame, range) else frame
        for part in (positions,) if len(positions) <= MOST_PAIRS else _parts(positions):
            if part is not positions:
                await state.breathe()
            for position in part:
                row = arguments[position]
                if (kept is None or kept[position]) and not (strict and None in row):
                    value = accumulate(value, *row)
        looked_at += len(frame)  # of all the frame: an array is made of as many
        if looked_at >= MOST_PAIRS:
            await state.breathe()
            looked_at = 0
        start, end = (frame.start, frame.stop) if isinstance(frame, range) else (-1, -1)
        previous = frame
        finish: Callable[..., Any] = function.finish
        results.append(finish(value, state.context) if function.needs_context else finish(value))
    return results
