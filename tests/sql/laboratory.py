"""SQL on an in-memory database without a session: bind, plan, compile, run.

>>> lab = Laboratory("create table t (id int8 primary key, v int4)")
>>> lab.run("insert into t values (1, 2) returning v")
[(2,)]
"""

from __future__ import annotations

from typing import Any

from msgspec import structs
from pydistdb.kv.api import Isolation, KeyExists, Transaction
from pydistdb.sql.bind import parse
from pydistdb.sql.bind.analyze import analyze
from pydistdb.sql.exec import CompiledQuery, RunContext, compile_plan, unique_violation
from pydistdb.sql.plan import PhysicalPlan, plan
from pydistdb.sql.plan.cost import disabled_ways
from pydistdb.sql.tree import BoundStatement
from pydistdb.sql.types import registry
from pydistdb.sql.types.base import EvalContext
from pydistdb.tasks import SimulatedScheduler

from tests.support.fake_catalog import FakeCatalog
from tests.support.memory_database import MemoryDatabase


class Laboratory:
    """A catalog, a database and a scheduler; statements run in autocommit unless ``transaction`` is set."""

    def __init__(self, ddl: str = "", fill: str = "", **database_options: Any) -> None:
        """``fill``: statements that put rows into the tables, without semicolons in strings."""
        self.catalog = FakeCatalog(ddl)
        self._link_foreign_keys()
        self.database = MemoryDatabase(**database_options)
        self.scheduler = SimulatedScheduler()
        self.context = EvalContext()
        self.context.catalog = self.catalog
        self.transaction: Transaction | None = None
        self.affected_rows = 0
        for text in filter(None, fill.split(";")):
            self.run(text)

    def _link_foreign_keys(self) -> None:
        """Tell the tables that are referred to by whom."""
        tables = self.catalog._tables
        for name, table in list(tables.items()):
            children = [t.oid for t in tables.values() if any(k.referenced_table == table.oid for k in t.foreign_keys)]
            if children:
                tables[name] = structs.replace(table, referenced_by=tuple(children))

    def bound(self, text: str, parameter_oids: tuple[int, ...] = ()) -> BoundStatement:
        (parsed,) = parse(text)
        statement = analyze(parsed, self.catalog, self.context, parameter_oids)
        assert isinstance(statement, BoundStatement)
        return statement

    def plan(self, text: str, parameter_oids: tuple[int, ...] = ()) -> PhysicalPlan:
        return plan(self.bound(text, parameter_oids), self.catalog, disabled_ways(self.context.settings))

    def compile(self, text: str, parameter_oids: tuple[int, ...] = ()) -> CompiledQuery:
        return compile_plan(self.plan(text, parameter_oids))

    def explain(self, text: str) -> list[str]:
        return self.compile(text).explain()

    def context_of(self, transaction: Transaction | None, parameters: tuple[Any, ...], autocommit: bool) -> RunContext:
        return RunContext(
            transaction,
            self.database,
            self.catalog,
            self.context,
            parameters,
            self.scheduler,
            autocommit=autocommit,
        )

    def run(self, text: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run one statement; returns its rows."""
        return self.execute(self.compile(text), *parameters)

    def execute(self, query: CompiledQuery, *parameters: Any) -> list[tuple[Any, ...]]:
        return self.scheduler.run(self._execute(query, parameters))

    async def _execute(self, query: CompiledQuery, parameters: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        autocommit = self.transaction is None
        transaction = self.transaction or self.database.begin(Isolation.READ_COMMITTED)
        transaction.begin_statement()
        run = self.context_of(transaction, parameters, autocommit)
        rows: list[tuple[Any, ...]] = []
        async for batch in query.run(run):
            rows.extend(batch)
        if autocommit:
            try:
                await transaction.commit()
            except KeyExists as error:
                raise unique_violation(self.catalog, error.key, self.context) from error
        self.affected_rows = run.affected_rows
        return rows

    def begin(self, isolation: Isolation = Isolation.READ_COMMITTED) -> None:
        self.transaction = self.database.begin(isolation)

    def commit(self) -> None:
        assert self.transaction is not None
        transaction, self.transaction = self.transaction, None
        self.scheduler.run(transaction.commit())

    def text(self, text: str, *parameters: Any, null: str = "NULL") -> str:
        """Run a statement and write its rows a line each."""
        query = self.compile(text)
        rows = self.execute(query, *parameters)
        types = query.field_types
        lines: list[str] = []
        for row in rows:
            cells = [
                null if value is None else registry.io(type_.oid).format(value, self.context)
                for value, type_ in zip(row, types, strict=True)
            ]
            lines.append("|".join(cells))
        return "\n".join(lines)
