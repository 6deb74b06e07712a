"""Queries in expressions: each becomes a column that Apply adds to the row.

The value depends on the outer columns the query refers to, and on nothing else; so it is computed once per distinct
combination of them and remembered (once per run if there are none).  ``x IN (SELECT y …)`` that could not become a join
looks its operand up in the set of the query's values::

    in the set -> TRUE;  set empty -> FALSE;  operand or some y NULL -> NULL;  else FALSE
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import cached_property
from typing import Any

from pydistdb.sql.errors import CardinalityViolation
from pydistdb.sql.exec.codegen import Code
from pydistdb.sql.exec.memory import Holding
from pydistdb.sql.exec.operator import Batch, Operator, Row, collect
from pydistdb.sql.exec.run import MOST_PAIRS, State
from pydistdb.sql.exec.spill import RowBuffer
from pydistdb.sql.exec.support import flat_array, nested_array
from pydistdb.sql.exec.values import sort_template
from pydistdb.sql.plan.physical import Apply, SubPlan

MOST_REMEMBERED = 20_000
REMEMBERED_BYTES = 200
"""What a value that is remembered takes with its key, about."""
_MISSING: Any = object()


class SubPlanRunner:
    """Computes one subplan's value for a row."""

    def __init__(self, plan: SubPlan, query: Operator, source: Operator) -> None:
        self.plan = plan
        self.query = query
        self.source = source
        positions = {column: position for position, column in enumerate(source.ids)}
        self.outer = [(column, positions.get(column)) for column in plan.outer_ids]

    async def column(self, batch: Batch, state: State) -> list[Any]:
        """The value for every row of a batch; NULL for those whose value nobody asks for."""
        if self.guard is None:
            return await self._values(batch, state)
        wanted = [self.guard(row, state) for row in batch]
        computed = iter(await self._values([row for row, asked in zip(batch, wanted, strict=True) if asked], state))
        return [next(computed) if asked else None for asked in wanted]

    @cached_property
    def guard(self) -> Callable[[Row, State], bool] | None:
        """``f(r, S)``: whether the value is asked for."""
        if self.plan.guard is None:
            return None
        code = self.source.code()
        function: Callable[[Row, State], bool] = code.build("f(r, S)", f"return {code.value(self.plan.guard)} is True")
        return function

    async def _values(self, batch: Batch, state: State) -> list[Any]:
        if not batch:
            return []
        judge = self.judge
        if not self.outer and not self.plan.volatile:
            remembered = state.shared.get(self.plan.id, _MISSING)
            if remembered is _MISSING:
                remembered = state.shared[self.plan.id] = await self._result(state, state.hold())
            if judge is None:
                return [remembered] * len(batch)
            return await self._judged(judge, batch, remembered, state)
        memory, held = state.shared.setdefault(self.plan.id, ({}, state.hold()))
        values: list[Any] = []
        for row in batch:
            key = tuple([state.outer[column] if position is None else row[position] for column, position in self.outer])
            result = _MISSING if self.plan.volatile else memory.get(key, _MISSING)
            if result is _MISSING:
                for (column, _), value in zip(self.outer, key, strict=True):
                    state.outer[column] = value
                if len(memory) >= MOST_REMEMBERED or held.is_over:
                    memory.clear()
                    held.clear()
                held.resize(held.size_bytes + REMEMBERED_BYTES)
                result = await self._result(state, held)
                memory[key] = result
                await state.breathe()
            if judge is None:
                values.append(result)
            else:
                values += await self._judged(judge, [row], result, state)
        return values

    async def _judged(
        self, judge: Callable[[Row, Any, State], Any], batch: Batch, result: Any, state: State
    ) -> list[Any]:
        """The truth for each row of a batch; where every value has to be looked at, with breaths between."""
        if self.plan.probe is not None or len(batch) * len(result) <= MOST_PAIRS:
            found = [judge(row, result, state) for row in batch]
        else:
            at_once = max(1, MOST_PAIRS // len(result))
            found = []
            for start in range(0, len(batch), at_once):
                found += [judge(row, result, state) for row in batch[start : start + at_once]]
                await state.breathe()
        return found

    async def _result(self, state: State, held: Holding) -> Any:
        """What the query comes to for the outer values now in the state."""
        match self.plan.kind:
            case "exists":
                async for _ in self.query.batches(state):
                    return True
                return False
            case "scalar" | "call":
                return await self._scalar(state)
            case "rows":
                return [row[0] for row in await collect(self.query, state, held)]
            case "array":
                values = tuple([row[0] for row in await collect(self.query, state, held)])
                is_nested = self.plan.query.columns[0].type.is_array
                return nested_array(values) if is_nested else flat_array(values)
            case _:
                rows = await collect(self.query, state, held)
                return self.prepare(rows) if self.plan.probe is not None else rows

    async def _scalar(self, state: State) -> Any:
        found: Row | None = None
        async for batch in self.query.batches(state):
            if len(batch) > 1 or found is not None:
                raise CardinalityViolation("more than one row returned by a subquery used as an expression")
            found = batch[0]
        return None if found is None else found[0]

    @cached_property
    def prepare(self) -> Callable[[Batch], tuple[set[Any], bool]]:
        """``f(rows)``: the set of the first column's keys, and whether it has NULLs."""
        code = Code({})
        template = sort_template(self.plan.query.columns[0].type, code.namespace).format("x")
        function: Callable[[Batch], tuple[set[Any], bool]] = code.build(
            "f(rows)",
            f"keys = {{{template} for r in rows if (x := r[0]) is not None}}\n"
            "return keys, any([r[0] is None for r in rows])",
        )
        return function

    @cached_property
    def judge(self) -> Callable[[Row, Any, State], Any] | None:
        """``f(l, result, S)``: the truth of ANY or ALL for an outer row; None for the other kinds."""
        plan = self.plan
        if plan.kind not in ("any", "all"):
            return None
        code = Code({**self.source.scope("l"), **self.query.scope("r")}, ("l", "r"))
        if plan.probe is not None:
            template = sort_template(plan.probe.type, code.namespace).format("x")
            body = (
                f"keys, has_null = result\nx = {code.value(plan.probe)}\n"
                f"if x is None:\n    return None if keys or has_null else False\n"
                f"return True if {template} in keys else None if has_null else False"
            )
        else:
            assert plan.test is not None
            decisive, neutral = ("True", "False") if plan.kind == "any" else ("False", "True")
            body = (
                f"unknown = False\nfor r in result:\n    x = {code.value(plan.test)}\n"
                f"    if x is {decisive}:\n        return {decisive}\n    if x is None:\n        unknown = True\n"
                f"return None if unknown else {neutral}"
            )
        function: Callable[[Row, Any, State], Any] = code.build("f(l, result, S)", body)
        return function


class ApplyOperator(Operator):
    def __init__(self, node: Apply, source: Operator, queries: list[Operator]) -> None:
        exists = {plan.id for plan in node.subplans if plan.kind == "exists"}
        super().__init__(node.columns, source.not_null | exists)
        self.source = source
        self.may_write = any(plan.volatile and plan.kind in ("call", "rows") for plan in node.subplans)
        """A function that changes data must not feed the scan below it with what it wrote."""
        self.runners = [SubPlanRunner(plan, query, source) for plan, query in zip(node.subplans, queries, strict=True)]

    async def batches(self, state: State) -> AsyncIterator[Batch]:
        source = self.source.batches(state)
        if self.may_write:
            source = self._all_first(state)
        async for batch in source:
            columns = [await runner.column(batch, state) for runner in self.runners]
            yield [row + values for row, values in zip(batch, zip(*columns, strict=True), strict=True)]

    async def _all_first(self, state: State) -> AsyncIterator[Batch]:
        held = RowBuffer(lambda: self.source.codec, state.hold())
        async for batch in self.source.batches(state):
            held.append(batch)
        for batch in held.read():
            yield batch
