"""Tables that have changed a good deal are analysed by themselves.

Every plan that changes a table adds to that table's counter, on its own node (one addition, in place of the one that counted
all changes).  Once a minute a node that has seen changes asks all nodes for theirs; where the sum since the last ANALYZE
reaches Postgres's threshold, the node with most of them does it::

    pgbench_history, 10,000 rows when analysed        threshold 50 + 10,000 / 10 = 1,050
    node 1: 700   node 2: 600   node 3: 0             1,300: node 1 analyses it

Counters are hints: they are lost with the process, and rows of transactions that rolled back count.  Temporary tables are
left to their sessions.

Source: PostgreSQL 15 manual, 25.1.6 "The Autovacuum Daemon".
"""

from __future__ import annotations

from collections import Counter

import msgspec

from pydistdb.kv.api import KVError
from pydistdb.sql.catalog.analyze import analyze_tables
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.catalog.state import DatabaseState
from pydistdb.sql.catalog.store import CatalogStore
from pydistdb.sql.catalog.transaction import DdlTransaction, in_own_transaction
from pydistdb.sql.clock import now_us
from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.types.base import EvalContext

INTERVAL_NS = 60_000_000_000
THRESHOLD_ROWS = 50
THRESHOLD_SHARE = 0.1
WORTH_ASKING = 0.01
"""The share of a threshold from which on a node asks the others."""
TOPIC = "changes"
ANSWER_TIMEOUT_NS = 1_000_000_000
MOST_COUNTERS = 10_000


class TableChanges:
    """How many rows of a table have been changed through this node."""

    __slots__ = ("rows",)

    def __init__(self) -> None:
        self.rows = 0


class ChangeCounters:
    """The counters of a node, by table."""

    def __init__(self) -> None:
        self.tables: dict[int, TableChanges] = {}
        self._forgotten = 0

    def of(self, table: int) -> TableChanges:
        found = self.tables.get(table)
        if found is None:
            if len(self.tables) >= MOST_COUNTERS:
                self._forgotten = self.rows
                self.tables.clear()
            found = self.tables[table] = TableChanges()
        return found

    @property
    def rows(self) -> int:
        """Of all tables."""
        return self._forgotten + sum(changes.rows for changes in self.tables.values())


class AutoAnalyze:
    """Looks after the statistics of the tables that change through this node."""

    def __init__(self, store: CatalogStore, counters: ChangeCounters) -> None:
        self._store = store
        self._counters = counters
        self._marks: dict[int, tuple[int, int]] = {}
        """By table: when it was analysed last, as far as seen, and its counter then."""
        self._seen: dict[int, int] = {}
        """By table, its counter at the last look, or when somebody here began to analyse it."""
        self._running = False
        store.database.on_broadcast(TOPIC, self._on_question)
        store.analyze_begins = self._note

    def start(self) -> None:
        if not self._running:
            self._running = True
            self._schedule()

    def stop(self) -> None:
        self._running = False

    def _schedule(self) -> None:
        scheduler = self._store.scheduler
        scheduler.call_at(scheduler.now_ns() + INTERVAL_NS, self._tick)

    def _tick(self) -> None:
        if not self._running:
            return
        own = self.changes()
        for table in list(self._counters.tables):
            self._note(table)
        if any(count >= WORTH_ASKING * self._threshold(table) for table, count in own.items()):
            self._store.scheduler.spawn(self._look_and_go_on(), "analyse changed tables")
        else:
            self._schedule()

    async def _look_and_go_on(self) -> None:
        try:
            await self.look()
        except (KVError, DatabaseError):
            pass  # the next look is in a minute
        finally:
            self._schedule()

    # ------------------------------------------------------------------------------------------ what has changed

    def _note(self, table: int) -> None:
        self._seen[table] = self._counters.of(table).rows

    def changes(self) -> dict[int, int]:
        """By table, how many rows have been changed through this node since the last ANALYZE."""
        found: dict[int, int] = {}
        for oid, counter in list(self._counters.tables.items()):
            database = self._database_of(oid)
            if database is None or not _is_looked_after(database, database.tables[oid]):
                self._marks.pop(oid, None)
                self._seen.pop(oid, None)
                continue
            statistics = database.statistics.get(oid)
            analyzed_at = 0 if statistics is None else statistics.analyzed_at
            mark = self._marks.get(oid)
            if mark is None or mark[0] != analyzed_at or counter.rows < mark[1]:
                # It has been analysed, on another node perhaps: rather count too much than too little.
                mark = self._marks[oid] = (analyzed_at, min(self._seen.get(oid, 0), counter.rows))
            if counter.rows > mark[1]:
                found[oid] = counter.rows - mark[1]
        return found

    def _database_of(self, table: int) -> DatabaseState | None:
        databases = self._store.state.databases.values()
        return next((database for database in databases if table in database.tables), None)

    def _threshold(self, table: int) -> float:
        database = self._database_of(table)
        statistics = None if database is None else database.statistics.get(table)
        return THRESHOLD_ROWS + THRESHOLD_SHARE * (0.0 if statistics is None else statistics.rows)

    async def _on_question(self, sender: int, payload: bytes) -> bytes:
        return msgspec.msgpack.encode(list(self.changes().items()))

    # ------------------------------------------------------------------------------------------ doing it

    async def look(self) -> None:
        """Analyse the tables that have changed enough, if most of it happened here."""
        database = self._store.database
        answers = await database.broadcast(TOPIC, b"", ANSWER_TIMEOUT_NS)
        total: Counter[int] = Counter()
        most: dict[int, tuple[int, int]] = {}
        for node, answer in answers.items():
            for table, count in [] if answer is None else msgspec.msgpack.decode(answer, type=list[tuple[int, int]]):
                total[table] += count
                most[table] = max(most.get(table, (0, 0)), (count, -node))
        for table, count in total.items():
            if count >= self._threshold(table) and most[table][1] == -database.node_id:
                await self._analyze(table)

    async def _analyze(self, oid: int) -> None:
        async def work(ddl: DdlTransaction) -> None:
            database = self._database_of(oid)
            if database is not None:
                context = EvalContext()
                context.statement_timestamp = now_us()
                own = DdlContext(ddl, database.descriptor.name, (), context)
                await analyze_tables(own, [database.tables[oid]], automatic=True)

        await in_own_transaction(self._store, work)


def _is_looked_after(database: DatabaseState, table: Table) -> bool:
    schema = database.schemas.get(table.schema)
    return table.kind in "rm" and schema is not None and not schema.session
