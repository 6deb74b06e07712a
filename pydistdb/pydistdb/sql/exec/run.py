"""What one execution of a statement carries along.

``RunContext`` is what the session hands in; ``State`` is the executor's own: correlated values, shared tables of CTEs,
the memory budget and the clock by which long loops make room for other tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from pydistdb.kv.api import Database, Transaction
from pydistdb.sql.catalog.view import CatalogView
from pydistdb.sql.exec.deferred import DeferredChecks
from pydistdb.sql.exec.memory import Holding
from pydistdb.sql.exec.writes import StatementWrites
from pydistdb.sql.plan.explain_formats import Actual
from pydistdb.sql.resources import NodeResources, QueryResources, SessionResources
from pydistdb.sql.settings import kilobytes
from pydistdb.sql.types.base import EvalContext
from pydistdb.tasks import Scheduler, pause

BATCH_ROWS = 1_024
PAUSE_NS = 3_000_000
MOST_PAIRS = 64 * BATCH_ROWS
"""So many pairs of rows, or rows of window frames, may be looked at between two breaths: some 10 ms."""
"""A loop that ran this long gives other tasks a turn."""
DEFAULT_WORK_MEMORY_BYTES = 4 << 20


def _never_interrupted() -> None:
    return None


class RunContext:
    """One execution: whose transaction, which parameters, and what came of it.

    ``transaction`` may be None only for ``CompiledQuery.try_run`` of an autocommit read.  ``autocommit``: the statement
    is a transaction of its own, so inserts may leave duplicates to the commit (``exec.unique_violation`` words its
    KeyExists).
    """

    __slots__ = (
        "affected_rows",
        "attempt",
        "autocommit",
        "catalog",
        "check_interrupt",
        "context",
        "database",
        "deferred",
        "parameters",
        "scheduler",
        "transaction",
    )

    def __init__(
        self,
        transaction: Transaction | None,
        database: Database,
        catalog: CatalogView,
        context: EvalContext,
        parameters: Sequence[Any],
        scheduler: Scheduler,
        check_interrupt: Callable[[], None] = _never_interrupted,
        autocommit: bool = False,
        deferred: DeferredChecks | None = None,
        attempt: int = 0,
    ) -> None:
        self.transaction = transaction
        self.database = database
        self.catalog = catalog
        self.context = context
        self.parameters = parameters
        self.scheduler = scheduler
        self.check_interrupt = check_interrupt
        """Raises QueryCanceled once the client asked for it; called between batches."""
        self.autocommit = autocommit
        self.deferred = deferred
        """The transaction's pending constraint checks (None: nothing can wait)."""
        self.attempt = attempt
        """How often the statement has been run before, and what it did taken back."""
        self.affected_rows = 0
        """Rows inserted, updated or deleted (selected, for a SELECT), for the command tag."""


class State:
    """The executor's side of a run."""

    __slots__ = (
        "_resources",
        "_work_memory_bytes",
        "affected_rows",
        "context",
        "outer",
        "parameters",
        "run",
        "scheduler",
        "shared",
        "transaction",
        "turn_end_ns",
        "writes",
    )

    def __init__(self, run: RunContext) -> None:
        self.run = run
        # Only EXPLAIN, which evaluates bounds and reads nothing, comes without one.
        self.transaction = cast(Transaction, run.transaction)
        self.parameters = run.parameters
        self.context = run.context
        self.scheduler = run.scheduler
        self.outer: dict[int, Any] = {}
        """Values of the enclosing queries' columns, by column id."""
        self.shared: dict[int, Any] = {}
        """What is computed once per run (tables of CTEs, uncorrelated subqueries), by the operator's number."""
        self.affected_rows = 0
        self.writes = StatementWrites()
        self._resources: QueryResources | None = None
        self._work_memory_bytes = 0
        self.turn_end_ns = run.scheduler.now_ns() + PAUSE_NS

    @property
    def work_memory_bytes(self) -> int:
        """What one operation may keep in memory."""
        known = self._work_memory_bytes
        if not known:
            known = self._work_memory_bytes = work_memory_bytes(self.context)
        return known

    @property
    def resources(self) -> QueryResources:
        """What this run holds."""
        found = self._resources
        if found is None:
            found = self._resources = query_resources(self.context)
        return found

    def hold(self, actual: Actual | None = None, *, hashed: bool = False) -> Holding:
        """The account of a step that keeps rows; ``hashed``: it may keep hash_mem_multiplier times as much."""
        limit_bytes = self.work_memory_bytes
        if hashed:
            limit_bytes = int(limit_bytes * float(self.context.settings.get("hash_mem_multiplier", 1)))
        return Holding(self.resources, limit_bytes, actual)

    def close(self) -> None:
        """The run is over, whatever way: nothing of it stays in memory or on disk."""
        if self._resources is not None:
            self._resources.close()

    async def breathe(self) -> None:
        """Between batches: stop if interrupted, and let other tasks run if this one has had its turn."""
        if self.scheduler.now_ns() >= self.turn_end_ns:
            self.run.check_interrupt()
            await pause(self.scheduler)
            self.run.check_interrupt()
            self.turn_end_ns = self.scheduler.now_ns() + PAUSE_NS


_NO_SESSION = NodeResources()


def query_resources(context: EvalContext) -> QueryResources:
    """An account for a query of the session that evaluates in ``context``."""
    return QueryResources(context.resources or SessionResources(_NO_SESSION))


def work_memory_bytes(context: EvalContext) -> int:
    """The setting work_mem."""
    text = context.settings.get("work_mem")
    return kilobytes(text) << 10 if text else DEFAULT_WORK_MEMORY_BYTES
