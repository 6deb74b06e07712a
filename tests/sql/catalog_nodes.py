"""Several nodes over one in-memory key space: every node has its own handlers, a broadcast reaches all that are up.

>>> nodes = Nodes(2)
>>> nodes.run(nodes.stores[0].start(renew=False))
>>> nodes.databases[1].up = False        # the cluster counts it as dead
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from pydistdb.kv.api import BroadcastHandler, Isolation
from pydistdb.sql.bind import parse
from pydistdb.sql.bind.utility import to_utility
from pydistdb.sql.catalog.ddl import DdlContext, execute
from pydistdb.sql.catalog.store import CatalogStore
from pydistdb.sql.catalog.transaction import DdlTransaction
from pydistdb.sql.types.base import EvalContext
from pydistdb.tasks import SimulatedScheduler, gather, sleep

from tests.support.memory_database import MemoryDatabase

T = TypeVar("T")


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

    async def execute(self, node: int, *texts: str) -> list[str]:
        """Run statements in one transaction on a node; returns the tags and notices."""
        store = self.stores[node]
        transaction = store.database.begin(Isolation.READ_COMMITTED)
        ddl = DdlTransaction(store, transaction)
        lines: list[str] = []
        try:
            for text in texts:
                transaction.begin_statement()
                context = DdlContext(
                    ddl,
                    "postgres",
                    ("public",),
                    EvalContext(),
                    lambda notice, severity="NOTICE": lines.append(f"{severity}: {notice.message}"),
                )
                lines.append(await execute(to_utility(parse(text)[0]), context))
            await ddl.prepare_commit()
            await transaction.commit()
        except BaseException:
            transaction.rollback()
            await ddl.rolled_back()
            raise
        await ddl.committed()
        return lines

    def ddl(self, node: int, *texts: str) -> list[str]:
        return self.run(self.execute(node, *texts))

    def table_names(self, node: int) -> list[str]:
        return sorted(table.name for table in self.stores[node].view("postgres", ("public",)).tables())
