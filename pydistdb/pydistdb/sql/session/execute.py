"""Running a planned query for a session: pins, snapshot, retries, and handing rows to the sink.

Theory of operation
-------------------
Before a query runs, its tables are pinned (catalog/gate.py) and its plan is made again if the catalog moved on.  Then
it runs against the transaction's snapshot.  Conflicts that the client need not see are retried here:

* ReadRestart: under READ COMMITTED the statement's writes are undone and it runs again on a newer snapshot; under
  REPEATABLE READ that holds for the first statement of a transaction only;
* SerializationConflict, TransactionAborted: if the statement is a transaction of its own, that is begun anew;
* KeyExists at commit of an ON CONFLICT statement: it runs again and finds the row.

Once a row has left, nothing can be taken back.  So up to ``HELD_ROWS`` rows, or ``HELD_BYTES``, wait until the query has ended
(and, when the statement is a transaction of its own, has committed); only what exceeds that is streamed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Sequence
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from pydistdb_storage.errors import StorageError

from pydistdb.kv import api as kv
from pydistdb.sql import exec as executor
from pydistdb.sql.api import Sink
from pydistdb.sql.catalog import keys
from pydistdb.sql.errors import DatabaseError, FeatureNotSupported, SerializationFailure
from pydistdb.sql.exec import RunContext
from pydistdb.sql.exec.values import batch_bytes
from pydistdb.sql.kv_errors import database_error
from pydistdb.sql.plan_cache import CachedPlan
from pydistdb.sql.session.fields import check_same_columns
from pydistdb.sql.session.routes import route_of
from pydistdb.tasks import sleep

if TYPE_CHECKING:
    from pydistdb.sql.session.base import SessionBase

Row = tuple[Any, ...]

HELD_ROWS = 2_000
HELD_BYTES = 4 << 20
MAX_RETRIES = 100
LONGEST_BACKOFF_NS = 50_000_000


class Execution:
    """One query's run, which a portal may take in several pieces.

    ``alone``: the statement is a transaction of its own, to be committed by ``fetch`` at its end."""

    def __init__(
        self,
        session: SessionBase,
        plan: CachedPlan,
        parameters: Sequence[Any],
        *,
        alone: bool,
        announces: bool = False,
    ) -> None:
        self.session = session
        self.plan = plan
        self.fields = plan.fields
        """The columns that whoever takes the rows knows of; an execution that ``announces`` them itself does so once
        nothing can change them any more."""
        self._announces = announces
        self.parameters = parameters
        self.alone = alone
        self.rows_sent = 0
        self.affected_rows = 0
        self.done = False
        self._is_effective = False
        self._held: deque[list[Row]] = deque()
        self._batches: AsyncIterator[list[Row]] | None = None
        self._run: RunContext | None = None
        self.reader: kv.PastReader | None = None
        """What it reads from, if that lies in the past."""

    @property
    def tag(self) -> str:
        """The command tag with its count."""
        match self.plan.tag:
            case "INSERT":
                return f"INSERT 0 {self.affected_rows}"
            case "SELECT":
                return f"SELECT {self.rows_sent}"
            case tag:
                return f"{tag} {self.affected_rows}"

    async def fetch(self, most_rows: int, sink: Sink | None) -> bool:
        """Send up to ``most_rows`` rows (0: all); True once there are no more.  A None sink takes and drops them."""
        started_ns = perf_counter_ns() if self.session.traces_routes else 0
        if self._batches is None and not self.done:
            await self._start(most_rows, sink)
        left = most_rows or -1
        sent_before = self.rows_sent
        while left != 0:
            if not self._held and not await self._read_ahead():
                break
            batch = self._held.popleft()
            if 0 < left < len(batch):
                self._held.appendleft(batch[left:])
                batch = batch[:left]
            left -= len(batch) if left > 0 else 0
            self.rows_sent += len(batch)
            if sink is not None and self.plan.fields is not None:
                sink.rows(batch)
                await sink.drain()
        statistics = self.session.environment.statistics
        statistics.rows_sent += self.rows_sent - sent_before
        if started_ns and sink is not None and self.done and self._run is not None and self.plan.compiled is not None:
            route = await route_of(self.plan.compiled, self._run, started_ns)
            if route is not None:
                self.session.tell(route)
        # When the limit was reached it is "suspended", even if there happens to be nothing left, as in Postgres.
        return left != 0

    async def next_batch(self) -> list[Row] | None:
        """The next rows, as many as the query gives at once; None at the end."""
        if self._batches is None and not self.done:
            await self._start(1, None)
        if not self._held and not await self._read_ahead():
            return None
        batch = self._held.popleft()
        self.rows_sent += len(batch)
        return batch

    async def close(self) -> None:
        """Abandon what has not been fetched."""
        batches, self._batches = self._batches, None
        self.done = True
        self._held.clear()
        if batches is not None:
            await batches.aclose()  # type: ignore[attr-defined]

    async def _read_ahead(self) -> bool:
        """Have the next batch held; False at the end."""
        while self._batches is not None and not self.done:
            self.session.check_interrupt()
            try:
                batch = await anext(self._batches)
            except StopAsyncIteration:
                await self._finish()
                break
            except kv.MustWait as error:
                raise _cannot_wait() from error
            except (kv.KVError, StorageError) as error:
                raise self._explained(error) from error
            if self.session.owed_sleep_ns:
                await self.session.sleep_owed()
            if batch:
                self._held.append(batch)
                return True
        return bool(self._held)

    async def _finish(self) -> None:
        """The query has ended: count, and commit if it is alone."""
        self.done = True
        self._batches = None
        try:
            await self._effective()
        except (kv.KVError, StorageError) as error:
            raise self._explained(error) from error

    async def _effective(self) -> None:
        """The statement has done what it does: count, and commit if it is alone."""
        if self._is_effective:
            return
        if self.session.owed_sleep_ns:
            await self.session.sleep_owed()
        self._is_effective = True
        assert self._run is not None
        self.affected_rows = self._run.affected_rows
        if self.plan.writes:
            self.plan.changes.rows += self.affected_rows
        if self.alone:
            await self.session.transaction.commit()

    # ------------------------------------------------------------------------------------------ starting

    async def _start(self, most_rows: int, sink: Sink | None) -> None:
        """Run until the end, or until enough rows are held, retrying what may be."""
        session = self.session
        block = session.transaction
        retries = 0
        enough = HELD_ROWS if not most_rows else min(most_rows, HELD_ROWS)
        notified = session.notifications.mark()
        while True:
            mark: int | None = None
            try:
                transaction = await self._ready(sink)
                if transaction.starts_anew:
                    transaction.gives_up = not retries
                if self.plan.writes and block.in_block:
                    mark = transaction.savepoint()
                try:
                    await self._run_until_held(transaction, enough, retries)
                except DatabaseError:
                    await transaction.confirm()  # it may be about a row that never came to be
                    raise
                if not self.alone:  # else the transaction it counted for may be over
                    block.statements += 1
                if mark is not None:
                    block.forget_marks()
                return
            except kv.MustWait as error:
                raise _cannot_wait() from error
            except (kv.KVError, StorageError) as error:
                await self._abandon()
                session.notifications.rollback_to(notified)
                retries += 1
                if retries > MAX_RETRIES or not self._prepare_retry(error, mark):
                    raise self._explained(error) from error
            session.environment.statistics.retries += 1
            await back_off(session, retries)

    async def _ready(self, sink: Sink | None) -> kv.Transaction:
        """Pin the tables and take the statement's snapshot; what the query is to read from."""
        session = self.session
        block = session.transaction
        if self.plan.as_of is not None:
            if not self.alone:
                raise FeatureNotSupported(
                    "AS OF SYSTEM TIME is not supported in a query within a transaction block",
                    hint="Use BEGIN AS OF SYSTEM TIME.",
                )
            if self.plan.writing_tag:
                raise FeatureNotSupported(f"AS OF SYSTEM TIME is not supported in {self.plan.writing_tag}")
            if not block.past.at and not block.past.floor_at:
                block.read_as_of(self.plan.as_of)
        block.past.only_reads = self.alone and not self.plan.writing_tag
        self.plan = session.plans.for_values(await session.pin(self.plan), self.parameters)
        self._check_columns(sink)
        transaction = block.open()
        while (left_ns := block.past.left_ns()) > 0:
            await sleep(session.environment.scheduler, min(left_ns, LONGEST_BACKOFF_NS))
            session.check_interrupt()
        transaction.begin_statement(block.least_timestamp)
        transaction.starts_anew = self.alone and self.plan.writes and block.isolation is kv.Isolation.READ_COMMITTED
        if block.reader is not None:
            self.reader = block.reader
            await block.past.check_schema(
                session.environment.catalog, block.reader, self.plan.tables, block.statements == 0
            )
        return transaction

    def _check_columns(self, sink: Sink | None) -> None:
        """The plan, made anew perhaps, must have the columns that were promised; if none were, they are announced."""
        fields = self.plan.fields
        if self._announces:
            self._announces = False
            self.fields = fields
            if fields is not None and sink is not None:
                sink.row_description(fields)
        elif fields is not self.fields:
            check_same_columns(self.fields, fields)

    async def _run_until_held(self, transaction: kv.Transaction, enough: int, attempt: int) -> None:
        session, plan = self.session, self.plan
        assert plan.compiled is not None
        if plan.denied is not None:
            raise plan.denied.again()
        run = self._run = RunContext(
            transaction,
            session.environment.database,
            session.view(),
            session.context,
            self.parameters,
            session.environment.scheduler,
            session.check_interrupt,
            self.alone,
            session.checks,
            attempt,
        )
        self._held.clear()
        held_rows = held_bytes = 0
        self._batches = plan.compiled.run(run)
        async for batch in self._batches:
            if session.owed_sleep_ns:
                await session.sleep_owed()
            if batch:
                self._held.append(batch)
                held_rows += len(batch)
                held_bytes += batch_bytes(batch)
                if plan.writes:
                    await self._effective()
                if held_rows > enough or held_bytes > HELD_BYTES:
                    return
        self.done = True
        self._batches = None
        await self._effective()

    async def _abandon(self) -> None:
        batches, self._batches = self._batches, None
        self.done = self._is_effective = False
        self._held.clear()
        if batches is not None:
            await batches.aclose()  # type: ignore[attr-defined]

    def _prepare_retry(self, error: Exception, mark: int | None) -> bool:
        """Undo what the failed run did; False if it cannot be run again."""
        block = self.session.transaction
        if isinstance(error, kv.ReadRestart):
            if self.alone:
                if self._keeps_locks():
                    block.least_timestamp = max(block.least_timestamp, error.timestamp)
                else:
                    block.restart(error.timestamp)
                return True
            if block.kv is None:
                return False
            if block.isolation is kv.Isolation.READ_COMMITTED:
                if mark is not None:
                    block.kv.rollback_to(mark)
                block.least_timestamp = max(block.least_timestamp, error.timestamp)
                return True
            if block.statements == 0 and not block.kv.has_writes and block.ddl is None:
                block.restart(error.timestamp)
                return True
            return False
        if not self.alone:
            return False
        if isinstance(error, kv.PastIsReadOnly) and self.plan.as_of is None:
            block.past.is_suspended = True  # a function writes, or reads a table that has changed since
            block.restart()
            return True
        if isinstance(error, (kv.SerializationConflict, kv.TransactionAborted)) or (
            isinstance(error, kv.KeyExists) and self.plan.retries_duplicates
        ):
            block.restart()
            return True
        return False

    def _keeps_locks(self) -> bool:
        """Whether the next run goes on in the same kv transaction: if it had to stand in the queue for its rows again, they
        would have changed again when its turn comes."""
        block = self.session.transaction
        transaction = block.kv
        return (
            self.plan.writes
            and transaction is not None
            and transaction.isolation is kv.Isolation.READ_COMMITTED
            and not transaction.has_writes
            and block.ddl is None
        )

    def _explained(self, error: Exception) -> Exception:
        return self.session.explain_error(error)


class PiecemealExecution(Execution):
    """A query whose rows are taken in pieces while the transaction goes on: a cursor's, or a suspended portal's.

    It reads the snapshot of the moment it was opened, whatever the transaction writes or sees afterwards.  A query that
    locks rows reads and locks as it goes, in the transaction itself; so does one beside very large writes, which
    therefore runs to its end at once (``must_run_now``)."""

    def __init__(self, session: SessionBase, plan: CachedPlan, parameters: Sequence[Any]) -> None:
        super().__init__(session, plan, parameters, alone=False)
        self._reader: kv.Transaction | None = None
        self.must_run_now = False

    async def open(self, *, locks: bool = False) -> None:
        """Take the snapshot."""
        transaction = await super()._ready(None)
        try:
            self._reader = None if locks else transaction.snapshot()
        except kv.MustWait:
            self.must_run_now = True
        self.session.transaction.statements += 1

    async def _ready(self, sink: Sink | None) -> kv.Transaction:
        block = self.session.transaction
        if self._reader is not None:
            return self._reader
        transaction = block.open()
        transaction.begin_statement(block.least_timestamp)
        return transaction

    def _prepare_retry(self, error: Exception, mark: int | None) -> bool:
        reader, isolation = self._reader, self.session.transaction.isolation
        if reader is None:
            return super()._prepare_retry(error, mark)
        if isinstance(error, kv.ReadRestart) and isolation is kv.Isolation.READ_COMMITTED:
            reader.begin_statement(error.timestamp)
            return True
        return False


async def back_off(session: SessionBase, retries: int) -> None:
    """Wait a little more each time (the process id spreads those who collided)."""
    if retries < 3:
        return
    spread = 1 + (session.process_id * 7 + retries * 13) % 16
    await sleep(session.environment.scheduler, min(LONGEST_BACKOFF_NS, 20_000 * spread * retries))
    session.check_interrupt()


def _cannot_wait() -> Exception:
    """For a function with effects in a place where rows cannot be evaluated again."""
    return FeatureNotSupported(
        "nextval, setval and advisory lock functions are not supported in this place",
        hint="Call the function in the select list of a subquery.",
    )


def unique_violation(session: SessionBase, error: kv.KeyExists) -> Exception:
    """KeyExists in Postgres's words."""
    return executor.unique_violation(session.view(), error.key, session.context)


def explain(session: SessionBase, error: Exception) -> Exception:
    """A lower layer's error in SQL's terms; others as they are."""
    if isinstance(error, kv.KeyExists):
        if error.key.startswith(keys.PREFIX):  # two nodes committed DDL at the same time, since a lock was lost
            return SerializationFailure("could not serialize access due to a concurrent schema change")
        return unique_violation(session, error)
    if isinstance(error, (kv.KVError, StorageError)):
        return database_error(error)
    return error
