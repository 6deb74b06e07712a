"""Sorting: in memory, by runs on disk past ``work_mem``, and top-N.

A sort key becomes one generated function from a row to something Python orders as SQL does: the bare value where that
is enough, else a tuple of keys, with NULL replaced by the sentinel FIRST or LAST.  If all keys descend, the list is
sorted in reverse (which keeps equal rows in order); a mixture negates integers and wraps the rest::

    ORDER BY a, b DESC      ->  lambda r: (r[0] if r[0] is not None else LAST, -r[1])

Past the budget the sorted rows so far become a run in a temporary file; in the end the runs are merged (Knuth, 5.4).
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

from pydistdb.sql.exec.codegen import Code
from pydistdb.sql.exec.memory import Holding
from pydistdb.sql.exec.operator import Batch, LimitOperator, Operator, Row, limit_bounds
from pydistdb.sql.exec.run import BATCH_ROWS, State
from pydistdb.sql.exec.spill import RowCodec, SpillFile, in_batches
from pydistdb.sql.exec.values import FIRST, LAST, Descending, batch_bytes, is_negatable, sort_template
from pydistdb.sql.exec.waiting import once
from pydistdb.sql.plan.physical import TopN
from pydistdb.sql.tree import Limit, SortKey

MOST_RUNS = 64
"""More than these are merged into one first: each holds a file descriptor."""
MOST_SORTED_ROWS = 1 << 16
"""So many rows are sorted in one go, some 60 ms: nothing else runs meanwhile."""
MOST_TOP_ROWS = 10_000
"""A top-N of more rows is an ordinary sort."""

KeyFunction = Callable[[Row], Any]


def sort_key_source(code: Code, keys: Sequence[SortKey]) -> tuple[str, bool]:
    """Source of a sort key over the row ``r``, and whether to sort in reverse."""
    reverse = bool(keys) and all(key.descending for key in keys)
    parts: list[str] = []
    for key in keys:
        source = code.value(key.expression)
        template = sort_template(key.expression.type, code.namespace)
        nullable = code.nullable(key.expression)
        if (nullable or template.count("{0}") > 1) and not source.isidentifier():
            name = code.temporary()
            fetch, source = f"({name} := {source})", name
        else:
            fetch = source
        part = template.format(source)
        if key.descending and not reverse:
            if is_negatable(key.expression.type):
                part = f"-{part}"
            else:
                code.namespace["Descending"] = Descending
                part = f"Descending({part})"
        if fetch != source or nullable:
            code.namespace.update(FIRST=FIRST, LAST=LAST)
            edge = "FIRST" if key.nulls_first != reverse else "LAST"
            part = f"({edge} if {fetch} is None else {part})"
        parts.append(part)
    return (parts[0] if len(parts) == 1 else f"({', '.join(parts)})"), reverse


class Sorter:
    """A sort order over rows of one shape."""

    def __init__(self, code: Code, keys: Sequence[SortKey]) -> None:
        source, self.reverse = sort_key_source(code, keys)
        self._make: Callable[[State], KeyFunction] = code.build("f(S)", f"def key(r):\n    return {source}\nreturn key")
        self._code = code
        self._test = f"bound < {source}" if self.reverse else f"{source} < bound"

    @cached_property
    def before(self) -> Callable[[Batch, Any, State], Batch]:
        """``f(batch, bound, S)``: the rows whose keys come before another key."""
        function: Callable[[Batch, Any, State], Batch] = self._code.build(
            "f(batch, bound, S)", f"return [r for r in batch if {self._test}]"
        )
        return function

    def key(self, state: State) -> KeyFunction:
        return self._make(state)

    def sort(self, rows: Batch, state: State) -> None:
        """Sort in place, equal rows in their order."""
        rows.sort(key=self._make(state), reverse=self.reverse)


def tie_key(code: Code, keys: Sequence[SortKey]) -> Callable[[Row, State], Any]:
    """``f(r, S)``: what rows that tie in a sort have in common."""
    source, _ = sort_key_source(code, keys)
    function: Callable[[Row, State], Any] = code.build("f(r, S)", f"return {source}")
    return function


class SortOperator(Operator):
    def __init__(self, source: Operator, keys: Sequence[SortKey]) -> None:
        super().__init__(source.columns, source.not_null)
        self.source = source
        self.keys = tuple(keys)

    @cached_property
    def sorter(self) -> Sorter:
        return Sorter(self.source.code(), self.keys)

    async def batches(self, state: State) -> AsyncIterator[Batch]:
        with state.hold(self.actual) as held:
            sorting = Sorting(self.sorter, self.codec, state, held)
            async for batch in self.source.batches(state):
                held.take(batch)
                sorting.rows += batch
                if held.is_over:
                    await sorting.spill()
                sorting.settle()
                await state.breathe()
            async for batch in sorting.sorted():
                yield batch


class Sorting:
    """One sort of a run: rows to be sorted, and what of them is in sorted runs already, on disk or (where work_mem is large:
    ``list.sort`` cannot be interrupted) in memory.  Runs in memory are later than those on disk."""

    def __init__(self, sorter: Sorter, codec: RowCodec, state: State, held: Holding) -> None:
        self.rows: Batch = []
        self._sorter = sorter
        self._codec = codec
        self._state = state
        self._held = held
        self._runs: list[SpillFile] = []
        self._settled: list[Batch] = []
        self.settled_bytes = 0

    @property
    def is_spilled(self) -> bool:
        return bool(self._runs or self._settled)

    def settle(self) -> None:
        """Sort the rows gathered so far if they are as many as may be sorted in one go."""
        if len(self.rows) >= MOST_SORTED_ROWS:
            self._sorter.sort(self.rows, self._state)
            self._settled.append(self.rows)
            self.settled_bytes += batch_bytes(self.rows)
            self.rows = []

    async def spill(self) -> None:
        """Make the rows gathered so far a run."""
        self._sorter.sort(self.rows, self._state)
        self._runs.append(await self._written(self._merged([*self._settled, self.rows])))
        self.rows, self._settled, self.settled_bytes = [], [], 0
        self._held.clear()
        if len(self._runs) >= MOST_RUNS:
            merged = await self._written(self._merged([], self._runs))
            for run in self._runs:
                run.close()
            self._runs = [merged]

    async def sorted(self) -> AsyncIterator[Batch]:
        """All rows in order; they are given back afterwards."""
        self._sorter.sort(self.rows, self._state)
        usage = self._held.usage
        usage.method = "external merge" if self._runs else usage.method or "quicksort"
        for batch in self._merged([*self._settled, self.rows], self._runs):
            yield batch
            await self._state.breathe()
        for run in self._runs:
            run.close()
        self._runs = []
        self.rows, self._settled, self.settled_bytes = [], [], 0
        self._held.clear()

    async def _written(self, batches: Iterator[Batch]) -> SpillFile:
        run = self._held.file(self._codec)
        for batch in batches:
            run.write(batch)
            await self._state.breathe()
        return run

    def _merged(self, lists: Sequence[Batch], runs: Sequence[SpillFile] = ()) -> Iterator[Batch]:
        """Sorted runs on disk and sorted lists as one."""
        if len(lists) == 1 and not runs:
            yield from in_batches(lists[0])
            return
        streams: list[Iterator[Row]] = [(row for batch in run.read() for row in batch) for run in runs]
        streams += map(iter, lists)
        batch: Batch = []
        for row in heapq.merge(*streams, key=self._sorter.key(self._state), reverse=self._sorter.reverse):
            batch.append(row)
            if len(batch) >= BATCH_ROWS:
                yield batch
                batch = []
        if batch:
            yield batch


class TopNOperator(Operator):
    """ORDER BY … LIMIT n: keeps the first n rows seen so far."""

    def __init__(self, source: Operator, node: TopN) -> None:
        super().__init__(source.columns, source.not_null)
        self.source = source
        self.node = node
        self.full_sort = SortOperator(source, node.keys)
        self.full_limit = LimitOperator(self.full_sort, Limit(node.columns, node, node.limit, node.offset))

    @cached_property
    def bounds(self) -> Callable[[State], tuple[int, int | None]]:
        return limit_bounds(self.node.limit, self.node.offset)

    async def batches(self, state: State) -> AsyncIterator[Batch]:
        offset, limit = await once(self.bounds, state)
        if limit == 0:
            return
        if limit is None or limit + offset > MOST_TOP_ROWS:
            async for batch in self.full_limit.batches(state):
                yield batch
            return
        async for batch in self._first(offset, limit + offset, state):
            yield batch

    async def _first(self, start: int, end: int, state: State) -> AsyncIterator[Batch]:
        """The rows from ``start`` to ``end`` of all in order.  What is too wide for memory even so is sorted on disk."""
        sorter = self.full_sort.sorter
        with state.hold(self.actual) as held:
            sorting = Sorting(sorter, self.codec, state, held)
            key = sorter.key(state)
            is_external = False
            seen = 0
            bound: Any = None
            """The key of the last row wanted so far, once there are enough: what does not come before it is passed over."""
            async for batch in self.source.batches(state):
                seen += len(batch)
                if bound is not None:
                    batch = sorter.before(batch, bound, state)
                    if not batch:
                        await state.breathe()
                        continue
                sorting.rows += batch
                held.take(batch)
                if not is_external and (held.is_over or len(sorting.rows) >= 2 * end + BATCH_ROWS):
                    sorter.sort(sorting.rows, state)
                    del sorting.rows[end:]
                    held.resize(batch_bytes(sorting.rows))
                    is_external = 2 * held.size_bytes > held.limit_bytes
                    if len(sorting.rows) == end:
                        bound = key(sorting.rows[-1])
                if is_external and held.is_over:
                    await sorting.spill()
                await state.breathe()
            if seen > 2 * end:
                held.usage.method = "top-N heapsort"
            place = 0
            async for batch in sorting.sorted():
                part = batch[max(0, start - place) : end - place]
                if part:
                    yield part
                place += len(batch)
                if place >= end:
                    return


class IncrementalSortOperator(Operator):
    """Sorts an input that comes sorted by its first keys already: one small sort per run of equal first keys."""

    def __init__(self, source: Operator, keys: Sequence[SortKey], presorted: int) -> None:
        super().__init__(source.columns, source.not_null)
        self.source = source
        self.keys = tuple(keys)
        self.presorted = presorted

    @cached_property
    def sorter(self) -> Sorter:
        return Sorter(self.source.code(), self.keys)

    @cached_property
    def prefix(self) -> Sorter:
        return Sorter(self.source.code(), self.keys[: self.presorted])

    async def batches(self, state: State) -> AsyncIterator[Batch]:
        prefix = self.prefix.key(state)
        last: Any = None
        with state.hold(self.actual) as held:
            sorting = Sorting(self.sorter, self.codec, state, held)
            async for batch in self.source.batches(state):
                output: Batch = []
                for row in batch:
                    key = prefix(row)
                    if key != last and (sorting.rows or sorting.is_spilled):
                        if sorting.is_spilled:
                            async for part in sorting.sorted():
                                yield part
                        else:
                            self.sorter.sort(sorting.rows, state)
                            output += sorting.rows
                            sorting.rows = []
                    last = key
                    sorting.rows.append(row)
                for part in in_batches(output):
                    yield part
                held.resize(sorting.settled_bytes + batch_bytes(sorting.rows))
                if held.is_over:
                    await sorting.spill()
                sorting.settle()
                await state.breathe()
            async for part in sorting.sorted():
                yield part
