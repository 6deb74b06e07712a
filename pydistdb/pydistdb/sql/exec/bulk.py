"""The way into a table for many rows at once: COPY FROM.

Rows are checked in batches by one generated function, then written

* past the transaction (sql/ingest.py) where the table's storage was made by this very transaction, so that nobody
  else can see it, and rows need no unique key: nothing is buffered, whatever the number of rows;
* to the transaction in one call per batch where nothing but the row itself is written, and past its buffer once that
  holds BUFFERED_ROWS: nobody else can know the keys of rows without a unique key, so they need no checks;
* through ``TableWriter`` otherwise: unique keys, secondary indexes, foreign keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.exec.checks import Checker, row_scope
from pydistdb.sql.exec.codegen import Code
from pydistdb.sql.exec.defaults import bound_checks, bound_generated
from pydistdb.sql.exec.foreign_keys import finish_statement
from pydistdb.sql.exec.run import RunContext, State
from pydistdb.sql.exec.writer import TableWriter
from pydistdb.sql.ingest import Ingest

Row = list[Any]

BUFFERED_ROWS = 5_000
"""Up to so many rows commit in one phase, if they lie in one range."""


class BulkInsert:
    """Inserts rows (lists by column number - 1, defaults filled in) into one table; computes generated columns.

    ``private_storage``: nobody outside this transaction can see the table's storage."""

    def __init__(self, run: RunContext, table: Table, private_storage: bool = False) -> None:
        self._run = run
        self._state = State(run)
        self._writer = TableWriter(table)
        layout = self._writer.layout
        code = Code(row_scope({column.number: column.number for column in table.columns}, "r"))
        generated = bound_generated(table, self._state)
        self.computes = bool(generated)
        """Rows have generated columns."""
        lines = [f"r[{number - 1}] = {code.value(value)}" for number, value in generated]
        lines += Checker(table, bound_checks(table, self._state)).lines(code)
        loop = "\n".join(["for r in rows:", *("    " + line for line in lines)])
        self._check: Callable[[Sequence[Row], State], None] | None = code.build("f(rows, S)", loop) if lines else None
        self._only_rows = layout.has_row_id and not layout.secondary and not table.foreign_keys
        transaction = self._state.transaction
        self._ingests = self._only_rows and private_storage
        self._ingest = Ingest(run.database.ingest if self._ingests else transaction.lay_down_fresh, run.scheduler)

    async def insert(self, rows: Sequence[Row]) -> None:
        """Check and write rows; raises what the first bad row violates, before any of them is written."""
        state = self._state
        if self._check is not None:
            self._check(rows, state)
        if not self._only_rows:
            await self._writer.insert(rows, state)
            await finish_statement(state)
        else:
            keys = await self._writer.keys_of(rows, state)
            entries = zip(keys, map(self._writer.layout.row_value, rows), strict=True)
            if self._ingests or (self._run.affected_rows >= BUFFERED_ROWS and state.transaction.can_lay_down):
                await self._ingest.add(entries)
            else:
                state.transaction.put_all(dict(entries))
        self._run.affected_rows += len(rows)

    async def finish(self) -> None:
        """Wait until everything is written."""
        await self._ingest.finish()

    async def settle(self) -> None:
        """The statement has failed: wait for what is on its way, unless it ends with the transaction."""
        if self._ingests:
            await self._ingest.settle()
