"""GROUP BY and aggregates.

Without groups, each call takes whole batches: its argument's column goes through the aggregate's ``batch`` function
(``sum``, ``len`` …), and the states are combined.  With groups, one generated loop finds the group's states in a
dictionary and updates them in line for the everyday aggregates, else by ``accumulate``::

    for r in batch:
        if (g := get(k := r[0])) is None: …
        g[1] += 1                                                  # count(*)
        if (t1 := r[2]) is not None: g[2] = t1 if g[2] is None else g[2] + t1      # sum(int)

Calls with DISTINCT or ORDER BY collect their arguments and are worked off at the end.  A batch of ``Partials`` holds states
that other nodes have made of rows of theirs (fragment.py): they are combined with what is here.  The dictionary of groups,
and what happens when it outgrows ``work_mem``, is in grouping.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import cached_property
from itertools import groupby
from typing import Any

from pydistdb.sql.exec.codegen import Code, scope, tuple_source
from pydistdb.sql.exec.fragment import Partials
from pydistdb.sql.exec.grouping import GroupingRun, GroupingSet, group_key_source
from pydistdb.sql.exec.operator import Batch, Operator, Row
from pydistdb.sql.exec.run import State
from pydistdb.sql.exec.sort import Sorter
from pydistdb.sql.exec.values import is_native
from pydistdb.sql.tree import Aggregate, AggregateCall, ColumnRef, Expr, SortKey
from pydistdb.sql.types import registry as types
from pydistdb.sql.types.base import HypotheticalPlace

_INTEGERS = frozenset({types.INT2.oid, types.INT4.oid, types.INT8.oid})


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

    def initial(self) -> Any:
        return [] if self.collects else self.function.initial()

    def joined(self, left: Any, right: Any) -> Any:
        """The state of the rows behind two states."""
        assert self.function.combine is not None
        return self.function.combine(left, right)

    def finish(self, value: Any, state: State) -> Any:
        function = self.function
        if self.collects:
            value = self._worked_off(value, state)
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
    def _sorter(self) -> Sorter:
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
        key = self._sorter.key(state)
        mine = key((*entries[0][: 2 * count], *entries[0][:count]))
        keys = sorted([key(entry) for entry in entries], reverse=self._sorter.reverse)
        before = groups = peers = 0
        for other, same in groupby(keys):
            size = len(list(same))
            if other == mine:
                peers = size
            elif (other > mine) == self._sorter.reverse:
                before += size
                groups += 1
        return HypotheticalPlace(len(keys), before, groups, peers)

    def _worked_off(self, entries: list[Row], state: State) -> Any:
        if self.function.hypothetical:
            return self._place(entries, state)
        self._sorter.sort(entries, state)
        count = len(self.call.arguments)
        if self.call.distinct:
            key = self._distinct_key
            unique: dict[Any, Row] = {}
            for entry in entries:
                unique.setdefault(key(entry, state), entry)
            entries = list(unique.values())
        accumulate = self.function.accumulate
        value = self.function.initial()
        for entry in entries:
            value = accumulate(value, *entry[:count])
        return value


class AggregateOperator(Operator):
    def __init__(self, source: Operator, node: Aggregate) -> None:
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
        self.node = node
        self.calls = [CallPlan(call) for call in node.calls]

    def batches(self, state: State) -> AsyncIterator[Batch]:
        if not self.node.groups and not self.node.grouping_sets and not self.node.groupings:
            return self._plain(state)
        return self._grouped(state)

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
        async for batch in self.source.batches(state):
            if type(batch) is Partials:
                for partial in batch:
                    states = [plan.joined(*pair) for plan, *pair in zip(self.calls, states, partial, strict=True)]
            else:
                feed(batch, states, state)
            await state.breathe()
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
        runs = [GroupingRun(grouping_set) for grouping_set in self.grouping_sets]
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
