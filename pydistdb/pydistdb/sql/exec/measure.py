"""EXPLAIN ANALYZE: operators that note how often they ran, how many rows they gave, and how long that took.

Only a plan that is compiled for this purpose has them; all others run as ever.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from time import perf_counter

from pydistdb.kv.api import RangeWaits, Transaction
from pydistdb.sql.exec.operator import Batch, Operator
from pydistdb.sql.exec.run import State
from pydistdb.sql.plan.explain_formats import Actual


def measure(operator: Operator, actual: Actual, *, locks: bool = False) -> None:
    """Have ``operator`` note in ``actual`` what it does, its inputs included; ``locks``: it locks rows, and may wait for that."""
    inner = operator.batches

    async def batches(state: State) -> AsyncIterator[Batch]:
        actual.loops += 1
        rows_before = actual.rows
        source = inner(state)
        if locks:
            source = _noting_waits(source, state.transaction, actual.lock_waits)
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


async def _noting_waits(
    source: AsyncIterator[Batch], transaction: Transaction, lock_waits: dict[int, RangeWaits]
) -> AsyncIterator[Batch]:
    """What the transaction waits for while a step is at work, less what steps below it that lock rows have waited for."""
    while True:
        above, transaction.lock_waits = transaction.lock_waits, lock_waits
        try:
            batch = await anext(source, None)
        finally:
            transaction.lock_waits = above
        if batch is None:
            return
        yield batch
