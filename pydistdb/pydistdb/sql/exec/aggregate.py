"""GROUP BY and aggregates.

Without groups, each call takes whole batches: its argument's column goes through the aggregate's ``batch`` function
(``sum``, ``len`` …), and the states are combined.  With groups, one generated loop finds the group's states in a
dictionary and updates them in line for the everyday aggregates, else by ``accumulate``::

    for r in batch:
        if (g := get(k := r[0])) is None: …
        g[1] += 1                                                  # count(*)
        if (t1 := r[2]) is not None: g[2] = t1 if g[2] is None else g[2] + t1      # sum(int)

Calls with DISTINCT or ORDER BY are in aggregate_calls.py.  A batch of ``Partials`` holds states that other nodes have made of
rows of theirs (fragment.py): they are combined with what is here.  The dictionary of groups, and what happens when it outgrows
``work_mem``, is in grouping.py; where single groups grow (array_agg …), the rows are sorted by group instead.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from functools import cached_property
from typing import Any

from pydistdb.sql.exec.aggregate_calls import NOTHING, CallPlan, Collected
from pydistdb.sql.exec.codegen import Code, tuple_source
from pydistdb.sql.exec.fragment import Partials
from pydistdb.sql.exec.grouping import GroupingRun, GroupingSet, Table
from pydistdb.sql.exec.operator import Batch, Operator
from pydistdb.sql.exec.run import State
from pydistdb.sql.exec.sort import Sorting, SortOperator
from pydistdb.sql.exec.spill import in_batches
from pydistdb.sql.exec.values import is_native
from pydistdb.sql.tree import Aggregate, SortKey
from pydistdb.sql.types import registry as types

_INTEGERS = frozenset({types.INT2.oid, types.INT4.oid, types.INT8.oid})


class AggregateOperator(Operator):
    def __init__(self, source: Operator, node: Aggregate, raw: Operator | None = None) -> None:
        """``raw``: the source without its tail, where groups grow."""
        code = source.code()
        never_null = {
            column.id for column, group in zip(node.columns, node.groups, strict=False) if not code.nullable(group)
        }
        counts = {
            column.id
            for column, call in zip(node.columns[len(node.groups) :], node.calls, strict=False)
            if call.function.name == "count"
        }
        super().__init__(node.columns, frozenset(counts | (set() if node.grouping_sets else never_null)))
        self.source = source
        self.raw = raw
        self.node = node
        self.calls = [CallPlan(call) for call in node.calls]

    def batches(self, state: State) -> AsyncIterator[Batch]:
        if not self.node.groups and not self.node.grouping_sets and not self.node.groupings:
            return self._plain(state)
        if self.grows and len(self.grouping_sets) == 1 and self.grouping_sets[0].chosen:
            return self._growing(state)
        return self._grouped(state)

    @cached_property
    def grows(self) -> bool:
        """Whether a group may take more memory with every row."""
        return any(plan.grows for plan in self.calls)

    # ------------------------------------------------------------------------------------------ without groups

    @cached_property
    def feed(self) -> Callable[[Batch, list[Any], State], None]:
        """``f(batch, states, S)``: take a whole batch."""
        code = self.source.code()
        lines: list[str] = []
        loop: list[str] = []
        for position, plan in enumerate(self.calls):
            state_name = f"states[{position}]"
            condition = "" if plan.call.filter is None else code.truth(plan.call.filter)
            if plan.is_star:
                lines.append(
                    f"{state_name} += len([1 for r in batch if {condition}])"
                    if condition
                    else f"{state_name} += len(batch)"
                )
            elif plan.takes_batches:
                lines.append(self._batch_line(code, plan, position, condition))
            else:
                loop.extend(self._row_lines(code, plan, position, state_name, condition))
        if loop:
            lines.append("for r in batch:")
            lines.extend(f"    {line}" for line in loop)
        function: Callable[[Batch, list[Any], State], None] = code.build(
            "f(batch, states, S)", "\n".join(lines or ["pass"])
        )
        return function

    @staticmethod
    def _batch_line(code: Code, plan: CallPlan, position: int, condition: str) -> str:
        argument = plan.call.arguments[0]
        source = code.value(argument)
        tests = [condition] if condition else []
        if code.nullable(argument):
            name = code.temporary()
            tests.append(f"({name} := {source}) is not None")
            source = name
        test = f" if {' and '.join(tests)}" if tests else ""
        code.namespace[f"batch{position}"] = plan.function.batch
        code.namespace[f"combine{position}"] = plan.function.combine
        values = f"[{source} for r in batch{test}]"
        return f"states[{position}] = combine{position}(states[{position}], batch{position}({values}))"

    async def _plain(self, state: State) -> AsyncIterator[Batch]:
        feed = self.feed
        states = [plan.initial() for plan in self.calls]
        collected = Collected(self.calls, state) if self.grows else None
        async for batch in self.source.batches(state):
            if type(batch) is Partials:
                for partial in batch:
                    states = [plan.joined(*pair) for plan, *pair in zip(self.calls, states, partial, strict=True)]
            else:
                feed(batch, states, state)
            if collected is not None:
                await collected.count(batch, states)
            await state.breathe()
        if collected is not None:
            yield [tuple(await collected.finished(states))]
        else:
            yield [tuple([plan.finish(value, state) for plan, value in zip(self.calls, states, strict=True)])]

    # ------------------------------------------------------------------------------------------ row by row

    def _row_lines(self, code: Code, plan: CallPlan, position: int, state_name: str, condition: str) -> list[str]:
        """Statements that bring a state up to date with the row ``r``."""
        lines: list[str] = []
        names: list[str] = []
        tests = [condition] if condition else []
        if plan.collects:
            sources = list(map(code.value, plan.entry_expressions))
        else:
            sources = list(map(code.value, plan.call.arguments))
        direct = plan.function.direct_count if plan.function.ordered_set else 0
        for number, (argument, source) in enumerate(zip(plan.call.arguments, sources, strict=False)):
            if plan.function.strict and number >= direct and code.nullable(argument):
                name = code.temporary()
                tests.append(f"({name} := {source}) is not None")
                source = name
            names.append(source)
        names.extend(sources[len(names) :])
        lines.extend(self._update(code, plan, position, state_name, names))
        if tests:
            return [f"if {' and '.join(tests)}:", *(f"    {line}" for line in lines)]
        return lines

    @staticmethod
    def _update(code: Code, plan: CallPlan, position: int, state: str, names: list[str]) -> list[str]:
        function = plan.function
        if plan.collects:
            return [f"{state}.append({tuple_source(names)})"]
        if function.name == "count":
            return [f"{state} += 1"]
        if len(names) == 1 and function.strict:
            name = names[0]
            oid = function.argument_types[0].oid
            if function.name == "sum" and oid in _INTEGERS:
                return [f"{state} = {name} if (s := {state}) is None else s + {name}"]
            if function.name in ("min", "max") and is_native(function.argument_types[0]):
                sign = "<" if function.name == "min" else ">"
                return [f"if (s := {state}) is None or {name} {sign} s:", f"    {state} = {name}"]
            if function.name == "avg" and oid in _INTEGERS:
                return [f"s = {state}", "s[0] += 1", f"s[1] += {name}"]
        code.namespace[f"accumulate{position}"] = function.accumulate
        return [f"{state} = accumulate{position}({', '.join([state, *names])})"]

    # ------------------------------------------------------------------------------------------ with groups

    @cached_property
    def grouping_sets(self) -> list[GroupingSet]:
        sets = self.node.grouping_sets or (tuple(range(len(self.node.groups))),)
        return [GroupingSet(self, set(chosen)) for chosen in sets]

    async def _grouped(self, state: State) -> AsyncIterator[Batch]:
        with ExitStack() as stack:
            runs = [
                GroupingRun(grouping_set, stack.enter_context(state.hold(self.actual, hashed=True)))
                for grouping_set in self.grouping_sets
            ]
            async for batch in self.source.batches(state):
                for run in runs:
                    if type(batch) is Partials:
                        run.take_partials(batch, state)
                    else:
                        run.take(batch, state)
                await state.breathe()
            for run in runs:
                async for output in run.results(state):
                    yield output

    @cached_property
    def _by_group(self) -> SortOperator:
        return SortOperator(self.source, [SortKey(group) for group in self.node.groups])

    async def _growing(self, state: State) -> AsyncIterator[Batch]:
        """Groups that take more memory with every row: past the limit all rows are sorted by group, and one is made at a time.

        Where groups come from elsewhere, all is read again for that, as rows."""
        groups = self.grouping_sets[0]
        table: Table = {}
        kept: Batch = []
        source = self.source.batches(state)
        with state.hold(self.actual, hashed=True) as held:
            async for batch in source:
                held.take(batch)
                if type(batch) is Partials:
                    groups.join(batch, table, state)
                else:
                    kept += batch
                    groups.take(batch, table, True, state)
                await state.breathe()
                if held.is_over:
                    break
            if not held.is_over:
                del kept
                for part in in_batches(list(table.values())):  # type: ignore[arg-type]
                    yield groups.finished(part, state)
                    await state.breathe()
                return
            table = {}
            if self.raw is not None:
                kept, source = [], self.raw.batches(state)
            sorting = Sorting(self._by_group.sorter, self._by_group.codec, state, held)
            sorting.rows, kept = kept, []
            await sorting.spill()
            async for batch in source:
                held.take(batch)
                sorting.rows += batch
                if held.is_over:
                    await sorting.spill()
                sorting.settle()
            async for output in self._one_by_one(sorting, state):
                yield output

    async def _one_by_one(self, sorting: Sorting, state: State) -> AsyncIterator[Batch]:
        """The groups of sorted rows."""
        groups = self.grouping_sets[0]
        table: Table = {}
        last: Any = NOTHING
        with state.hold() as held:
            async for batch in sorting.sorted():
                groups.take(batch, table, True, state)
                (key,) = groups.keys(batch[-1:], state)
                if key != last:
                    unfinished = table.pop(key)
                    if table:
                        yield groups.finished(table.values(), state)
                    table = {key: unfinished}
                    last = key
                    held.clear()
                held.take(batch)
            if table:
                yield groups.finished(table.values(), state)
