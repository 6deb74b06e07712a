"""Several nodes over one in-memory key space: every node has its own handlers, a broadcast reaches all that are up.

>>> nodes = Nodes(2)
>>> nodes.run(nodes.stores[0].start(renew=False))
>>> nodes.databases[1].up = False        # the cluster counts it as dead
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from pydistdb.kv.api import BroadcastHandler, Isolation, LockNotAvailable, Transaction
from pydistdb.sql.bind import analyze, parse
from pydistdb.sql.catalog.ddl import DdlContext, execute
from pydistdb.sql.catalog.store import CatalogStore
from pydistdb.sql.catalog.transaction import DdlTransaction
from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.statements import Utility
from pydistdb.sql.types.base import EvalContext
from pydistdb.tasks import Completion, SimulatedScheduler, gather, sleep, with_deadline

from tests.support.memory_database import MemoryDatabase

T = TypeVar("T")
LOCK_TIMEOUT = "canceling statement due to lock timeout"


class NodeDatabase(MemoryDatabase):
    """One node's view of the shared key space."""

    def __init__(self, node_id: int, nodes: Nodes, shared: MemoryDatabase) -> None:
        super().__init__()
        self.node_id = node_id
        self.nodes = nodes
        self.up = True
        self.silent = False
        """Reachable by nobody, but not yet counted as dead."""
        self.versions, self.counters, self.boundaries = shared.versions, shared.counters, shared.boundaries
        self.shared = shared

    def now(self) -> int:
        self.clock = self.shared.clock = max(self.clock, self.shared.clock) + 1
        return self.clock

    def try_get(self, key: bytes) -> bytes | None:
        self.clock = self.shared.clock
        return super().try_get(key)

    async def wait_for(
        self,
        completion: Completion[None],
        transaction: Transaction,
        holders: Callable[[], Iterable[bytes]],
        *,
        since_ns: int = 0,
        deadline_ns: int = 0,
    ) -> None:
        scheduler = self.nodes.scheduler
        if deadline_ns:
            completion = with_deadline(scheduler, completion, deadline_ns, LockNotAvailable(LOCK_TIMEOUT))
        await completion

    async def broadcast(self, topic: str, payload: bytes, timeout_ns: int) -> dict[int, bytes | None]:
        async def ask(node: NodeDatabase) -> bytes | None:
            if node.silent:
                await sleep(self.nodes.scheduler, timeout_ns)
                return None
            handler: BroadcastHandler | None = node.handlers.get(topic)
            return None if handler is None else await handler(self.node_id, payload)

        alive = [node for node in self.nodes.databases if node.up]
        answers = await gather(self.nodes.scheduler, [ask(node) for node in alive])
        return {node.node_id: answer for node, answer in zip(alive, answers, strict=True)}


class OpenTransaction:
    """A transaction of one node; an error ends it."""

    def __init__(self, store: CatalogStore) -> None:
        self.transaction = store.database.begin(Isolation.READ_COMMITTED)
        self.ddl = DdlTransaction(store, self.transaction)
        self.lines: list[str] = []
        self.over = False

    async def execute(self, text: str) -> None:
        def tell(notice: DatabaseError, severity: str = "NOTICE") -> None:
            self.lines.append(f"{severity}: {notice.message}")

        async def execute_here() -> None:
            self.transaction.begin_statement()
            context = DdlContext(self.ddl, "postgres", ("public",), EvalContext(), tell)
            statement = analyze(parse(text)[0], context.view, context.context)
            assert isinstance(statement, Utility)
            self.lines.append(await execute(statement, context))

        await self._or_roll_back(execute_here())

    async def commit(self) -> None:
        self.over = True

        async def commit_here() -> None:
            await self.ddl.prepare_commit()
            await self.transaction.commit()

        await self._or_roll_back(commit_here())
        await self.ddl.committed()

    async def _or_roll_back(self, work: Coroutine[Any, None, None]) -> None:
        try:
            await work
        except BaseException:
            self.over = True
            self.transaction.rollback()
            await self.ddl.rolled_back()
            raise


class Nodes:
    def __init__(self, count: int) -> None:
        self.scheduler = SimulatedScheduler()
        shared = MemoryDatabase()
        self.databases: list[NodeDatabase] = []
        for number in range(1, count + 1):
            self.databases.append(NodeDatabase(number, self, shared))
        self.stores = [CatalogStore(database, self.scheduler) for database in self.databases]
        for store in self.stores:
            self.run(store.start(renew=False))

    def run(self, coroutine: Coroutine[Any, None, T]) -> T:
        return self.scheduler.run(coroutine)

    def begin(self, node: int) -> OpenTransaction:
        return OpenTransaction(self.stores[node])

    async def execute(self, node: int, *texts: str) -> list[str]:
        """Run statements in one transaction on a node; returns the tags and notices."""
        transaction = self.begin(node)
        for text in texts:
            await transaction.execute(text)
        await transaction.commit()
        return transaction.lines

    def ddl(self, node: int, *texts: str) -> list[str]:
        return self.run(self.execute(node, *texts))

    def table_names(self, node: int) -> list[str]:
        return sorted(table.name for table in self.stores[node].view("postgres", ("public",)).tables())
