"""``CompiledQuery``: a plan made executable."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from pydistdb.sql.errors import FeatureNotSupported
from pydistdb.sql.exec.run import RunContext
from pydistdb.sql.plan.planner import PhysicalPlan
from pydistdb.sql.types.base import SqlType

Row = tuple[Any, ...]


class CompiledQuery:
    """One statement, ready to run; shared by all sessions that run it, so it keeps no state of a run."""

    def __init__(self, plan: PhysicalPlan) -> None:
        self.plan = plan
        self.field_types: Sequence[SqlType] = tuple(column.type for column in plan.columns)

    def try_run(self, run: RunContext) -> list[Row] | None:
        """Run without waiting, if this is a read by key: the rows.  None if the statement is not of that kind.

        Raises MustWait, before any effect, where the key does not lie at hand."""
        return None

    async def run(self, run: RunContext) -> AsyncIterator[list[Row]]:
        """Run; yields batches of result rows (none without RETURNING).  Afterwards ``run.affected_rows`` is set."""
        raise FeatureNotSupported("this statement cannot be executed yet")
        yield []

    def explain(self) -> list[str]:
        """The plan as EXPLAIN shows it, a line each."""
        return []


def compile_plan(plan: PhysicalPlan) -> CompiledQuery:
    """Make a plan executable; code is generated when an operator first runs."""
    return CompiledQuery(plan)
