"""EXPLAIN ANALYZE: operators that note how often they ran, how many rows they gave, and how long that took.

Only a plan that is compiled for this purpose has them; all others run as ever.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from time import perf_counter

from pydistdb.sql.exec.operator import Batch, Operator
from pydistdb.sql.exec.run import State
from pydistdb.sql.plan.explain_formats import Actual


def measure(operator: Operator, actual: Actual) -> None:
    """Have ``operator`` note in ``actual`` what it does, its inputs included."""
    inner = operator.batches

    async def batches(state: State) -> AsyncIterator[Batch]:
        actual.loops += 1
        rows_before = actual.rows
        source = inner(state)
        started = perf_counter()
        async for batch in source:
            now = perf_counter()
            if actual.rows == rows_before:
                actual.first_seconds += now - started
            actual.seconds += now - started
            actual.rows += len(batch)
            yield batch
            started = perf_counter()
        actual.seconds += perf_counter() - started

    operator.batches = batches  # type: ignore[method-assign]
