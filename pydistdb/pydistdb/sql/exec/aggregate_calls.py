"""The calls of an aggregate: their states, and what those with DISTINCT or ORDER BY collect.

Such a call collects its arguments and sort values, entry by entry; in the end they are sorted, doublets fall out, and the rest
goes through the aggregate.  Without groups, entries past ``work_mem`` go to disk in sorted runs (``Collected``); with groups
it is the rows that are sorted, by group (aggregate.py)::

    string_agg(DISTINCT a, ',' ORDER BY a)      entries ('b', ',', 'b') ('a', ',', 'a') ('b', ',', 'b')     'a,b'
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from functools import cached_property
from itertools import groupby
from typing import Any

from pydistdb.sql.exec.codegen import Code, scope
from pydistdb.sql.exec.grouping import group_key_source
from pydistdb.sql.exec.operator import Batch, Row
from pydistdb.sql.exec.run import State
from pydistdb.sql.exec.sort import Sorter, Sorting
from pydistdb.sql.exec.spill import RowCodec
from pydistdb.sql.plan.distribute import grows
from pydistdb.sql.tree import AggregateCall, ColumnRef, Expr, SortKey
from pydistdb.sql.types.base import HypotheticalPlace

NOTHING: Any = object()


class CallPlan:
    """How one aggregate call is computed."""

    def __init__(self, call: AggregateCall) -> None:
        self.call = call
        self.function = call.function
        self.is_star = call.function.name == "count" and not call.arguments and not call.distinct
        self.collects = call.distinct or bool(call.order_by)
        self.takes_batches = (
            not self.collects
            and len(call.arguments) == 1
            and call.function.strict
            and call.function.batch is not None
            and call.function.combine is not None
        )

    @property
    def grows(self) -> bool:
        """Whether the state takes more memory with every row."""
        return grows(self.call)

    def initial(self) -> Any:
        return [] if self.collects else self.function.initial()

    def joined(self, left: Any, right: Any) -> Any:
        """The state of the rows behind two states."""
        if self.collects:
            left += right
            return left
        assert self.function.combine is not None
        return self.function.combine(left, right)

    def finish(self, value: Any, state: State) -> Any:
        return self._finish(self._worked_off(value, state) if self.collects else value, state)

    def _finish(self, value: Any, state: State) -> Any:
        function = self.function
        return function.finish(value, state.context) if function.needs_context else function.finish(value)  # type: ignore[call-arg]

    # ---- calls that collect: entries are (argument, …, sort value, …)

    @cached_property
    def _entry_columns(self) -> list[ColumnRef]:
        expressions = [*self.call.arguments, *(key.expression for key in self.call.order_by)]
        return [ColumnRef(expression.type, position) for position, expression in enumerate(expressions)]

    @cached_property
    def entry_expressions(self) -> list[Expr]:
        return [*self.call.arguments, *(key.expression for key in self.call.order_by)]

    @cached_property
    def sorter(self) -> Sorter:
        count = len(self.call.arguments)
        columns = self._entry_columns
        keys = [
            SortKey(columns[count + position], key.descending, key.nulls_first)
            for position, key in enumerate(self.call.order_by)
        ]
        if self.call.distinct:
            keys += [SortKey(column) for column in columns[:count]]
        return Sorter(Code(scope(range(len(columns)), set())), keys)

    @cached_property
    def _distinct_key(self) -> Callable[[Row, State], Any]:
        count = len(self.call.arguments)
        code = Code(scope(range(len(self._entry_columns)), set()))
        source = group_key_source(code, self._entry_columns[:count])
        function: Callable[[Row, State], Any] = code.build("f(r, S)", f"return {source}")
        return function

    def _place(self, entries: list[Row], state: State) -> HypotheticalPlace:
        """Where the row of the direct arguments would stand among the entries."""
        if not entries:
            return HypotheticalPlace()
        count = len(self.call.order_by)
        key = self.sorter.key(state)
        mine = key((*entries[0][: 2 * count], *entries[0][:count]))
        keys = sorted([key(entry) for entry in entries], reverse=self.sorter.reverse)
        before = groups = peers = 0
        for other, same in groupby(keys):
            size = len(list(same))
            if other == mine:
                peers = size
            elif (other > mine) == self.sorter.reverse:
                before += size
                groups += 1
        return HypotheticalPlace(len(keys), before, groups, peers)

    def _worked_off(self, entries: list[Row], state: State) -> Any:
        if self.function.hypothetical:
            return self._place(entries, state)
        entries = self.reduced(entries, state)
        count = len(self.call.arguments)
        accumulate = self.function.accumulate
        value = self.function.initial()
        for entry in entries:
            value = accumulate(value, *entry[:count])
        return value

    def reduced(self, entries: list[Row], state: State) -> list[Row]:
        """The entries in order and, with DISTINCT, the first of equal ones."""
        self.sorter.sort(entries, state)
        if not self.call.distinct:
            return entries
        key = self._distinct_key
        unique: dict[Any, Row] = {}
        for entry in entries:
            unique.setdefault(key(entry, state), entry)
        return list(unique.values())

    @cached_property
    def codec(self) -> RowCodec:
        return RowCodec([column.type for column in self._entry_columns])

    async def finish_sorted(self, batches: AsyncIterator[Batch], state: State) -> Any:
        """The same for entries that come sorted from elsewhere: equal ones are neighbours."""
        count, distinct, key = len(self.call.arguments), self.call.distinct, self._distinct_key
        accumulate = self.function.accumulate
        value = self.function.initial()
        last: Any = NOTHING
        async for batch in batches:
            for entry in batch:
                if distinct:
                    before, last = last, key(entry, state)
                    if before == last:
                        continue
                value = accumulate(value, *entry[:count])
        return self._finish(value, state)


class Collected:
    """What the calls of an aggregate without groups collect: sorted on disk past ``work_mem``, as far as they sort at all."""

    def __init__(self, calls: Sequence[CallPlan], state: State) -> None:
        self._calls = calls
        self._state = state
        self._held = state.hold()
        self._sorts = {
            number: Sorting(plan.sorter, plan.codec, state, self._held)
            for number, plan in enumerate(calls)
            if plan.collects and not plan.function.hypothetical
        }
        stays = any(plan.grows and number not in self._sorts for number, plan in enumerate(calls))
        self._kept = state.hold() if stays else None
        self._is_sorted = False

    async def count(self, batch: Batch, states: list[Any]) -> None:
        """The states have taken a batch in."""
        if self._kept is not None:
            self._kept.take(batch)
        if not self._sorts:
            return
        self._held.take(batch)
        if self._held.is_over:
            self._is_sorted = True
            for number, sorting in self._sorts.items():
                sorting.rows, states[number] = states[number], []
                await sorting.spill()

    async def finished(self, states: list[Any]) -> list[Any]:
        values: list[Any] = []
        for number, (plan, value) in enumerate(zip(self._calls, states, strict=True)):
            sorting = self._sorts.get(number) if self._is_sorted else None
            if sorting is None:
                values.append(plan.finish(value, self._state))
            else:
                sorting.rows = value
                values.append(await plan.finish_sorted(sorting.sorted(), self._state))
        return values
