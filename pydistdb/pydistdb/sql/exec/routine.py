"""Functions written in SQL: their statements are run by the session, which has the catalog, the plans and the locks.

The operator evaluates the arguments (over the outer row, if the call stands in an expression) and hands them to the
session's ``RoutineRunner``; a strict function with a NULL argument is not run at all.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import cached_property
from typing import Any

from pydistdb.sql.errors import FeatureNotSupported
from pydistdb.sql.exec.codegen import Code, tuple_source
from pydistdb.sql.exec.operator import Batch, Operator
from pydistdb.sql.exec.run import State
from pydistdb.sql.tree import RoutineScan
from pydistdb.sql.types.pseudo import Record


class RoutineScanOperator(Operator):
    def __init__(self, node: RoutineScan) -> None:
        super().__init__(node.columns)
        self.node = node
        function = node.function
        self.field_types = [sql_type for _, sql_type in function.out_columns]
        self.names = [name for name, _ in function.out_columns]
        self.as_record = node.whole and function.returns_row

    @cached_property
    def arguments(self) -> Callable[[State], tuple[Any, ...]]:
        code = Code({}, ())
        source = tuple_source([code.value(argument) for argument in self.node.arguments])
        function: Callable[[State], tuple[Any, ...]] = code.build("f(S)", f"return {source}")
        return function

    async def batches(self, state: State) -> AsyncIterator[Batch]:
        function = self.node.function
        values = self.arguments(state)
        nothing: Batch = [] if function.returns_set else [(None,) * len(self.columns)]
        if function.strict and None in values:
            yield nothing
            return
        runner = getattr(state.context.extra, "routines", None)
        if runner is None:
            raise FeatureNotSupported("functions written in SQL need a session")
        found = False
        async for batch in runner.rows(function, values, state.run):
            if not batch:
                continue
            found = True
            if not function.returns_set:
                batch = batch[:1]
            yield self._as_values(batch) if self.as_record else batch
            if not function.returns_set:
                return
            await state.breathe()
        if not found and nothing:
            yield nothing

    def _as_values(self, batch: Batch) -> Batch:
        """Rows as values of one column each."""
        if not self.field_types:
            return [row if len(row) == 1 and isinstance(row[0], Record) else (row,) for row in batch]
        return [(Record(row, self.field_types, self.names),) for row in batch]
