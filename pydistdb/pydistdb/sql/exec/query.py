"""``CompiledQuery``: a plan made executable.

A query streams its batches.  A statement that changes rows runs to its end first, holding back what RETURNING gives, then
writes and checks its foreign keys, and only then yields: so it can be run again after a conflict without a row having left.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from pydistdb.sql.exec.at_shards import AtShardsOperator
from pydistdb.sql.exec.compiler import Compiler
from pydistdb.sql.exec.foreign_keys import finish_statement
from pydistdb.sql.exec.modify import ChangeOperator
from pydistdb.sql.exec.operator import Operator
from pydistdb.sql.exec.point import PointRead, point_read
from pydistdb.sql.exec.point_write import PointWrite, point_write
from pydistdb.sql.exec.ranges import Touched, touched_ranges
from pydistdb.sql.exec.repartition import RepartitionedOperator
from pydistdb.sql.exec.run import RunContext, State
from pydistdb.sql.exec.scan import TableScanOperator
from pydistdb.sql.exec.spill import RowBuffer
from pydistdb.sql.plan.depth import deep_stack
from pydistdb.sql.plan.explain import explain, explain_tree
from pydistdb.sql.plan.explain_formats import Actual, PlanNode
from pydistdb.sql.plan.planner import PhysicalPlan
from pydistdb.sql.types.base import SqlType

Row = tuple[Any, ...]


class CompiledQuery:
    """One statement, ready to run; shared by all sessions that run it, so it keeps no state of a run."""

    def __init__(self, plan: PhysicalPlan, actuals: dict[int, Actual] | None = None) -> None:
        self._actuals = actuals
        self.plan = plan
        self.field_types: Sequence[SqlType] = tuple(column.type for column in plan.columns)
        self._changes_data = plan.changed_table is not None
        self._is_select = plan.statement.tag == "SELECT"
        self._make_point = point_read(plan) if actuals is None else None
        self._point: PointRead | None = None
        self._point_write: PointWrite | None = None
        self._root: Operator | None = None
        self._scans: dict[int, TableScanOperator] = {}
        """The scans by ``id(node)``, for EXPLAIN."""
        self._parts: dict[int, AtShardsOperator] = {}
        self._exchanges: dict[int, RepartitionedOperator] = {}

    def try_run(self, run: RunContext) -> list[Row] | None:
        """Run without waiting, if this reads or changes one row by its key: the rows, with ``run.affected_rows`` set.
        None if the statement is not of that kind.

        Raises MustWait, before any effect, where the key does not lie at hand."""
        point = self._point
        if point is None and self._make_point is not None:
            point = self._point = self._make_point()
        if point is not None:
            rows = point(run)
            run.affected_rows = len(rows)
            return rows
        if not self._changes_data or self._actuals is not None:
            return None
        write = self._point_write
        if write is None:
            write = self._point_write = point_write(self.root)
            if write is None:
                return None
        run.affected_rows = write(State(run))
        return []

    @property
    def root(self) -> Operator:
        if self._root is None:
            with deep_stack():
                compiler = Compiler(self._actuals)
                root = self._root = compiler.operator(self.plan.root)
                self._scans, self._parts, self._exchanges = compiler.scans, compiler.parts, compiler.exchanges
                if isinstance(root, ChangeOperator):
                    root.is_root = True
        return self._root

    async def run(self, run: RunContext) -> AsyncIterator[list[Row]]:
        """Run; yields batches of result rows (none without RETURNING).  Afterwards ``run.affected_rows`` is set."""
        state = State(run)
        root = self.root
        count = 0
        try:
            if not self._changes_data:
                async for batch in root.batches(state):
                    count += len(batch)
                    run.affected_rows = count
                    yield batch
                return
            held: RowBuffer | None = None
            async for batch in root.batches(state):
                count += len(batch)
                held = held or RowBuffer(lambda: root.codec, state.hold())
                held.append(batch)
            await finish_statement(state)
            run.affected_rows = count if self._is_select else state.affected_rows
            if held is not None:
                for batch in held.read():
                    yield batch
        finally:
            state.close()

    def explain(self) -> list[str]:
        """The plan as EXPLAIN shows it, a line each."""
        return explain(self.plan)

    async def explain_tree(self, run: RunContext, *, verbose: bool = False, distributed: bool = True) -> PlanNode:
        """The steps of the plan; if ``distributed``, with the ranges that each scan goes to, as far as they can be told
        beforehand.

        ``run`` needs no transaction; nothing is read."""
        assert self.root is not None
        if not distributed:
            return explain_tree(self.plan, {}, self._actuals, {}, run.catalog, verbose=verbose)
        found = await touched_ranges(self.root, self.plan.root, run, self._scans, self._parts, self._exchanges)
        return explain_tree(self.plan, found.notes, self._actuals, found.gathered, run.catalog, verbose=verbose)

    async def touched(self, run: RunContext) -> Touched:
        """Where the plan reads, with the parameters of ``run``."""
        assert self.root is not None
        return await touched_ranges(self.root, self.plan.root, run, self._scans, self._parts, self._exchanges)


def compile_plan(plan: PhysicalPlan) -> CompiledQuery:
    """Make a plan executable; code is generated when an operator first runs."""
    return CompiledQuery(plan)
