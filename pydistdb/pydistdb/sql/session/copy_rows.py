"""The rows of one COPY FROM on their way into the table: defaults, WHERE, batches, and the line of an error.

Rows come as they were read.  Each batch of ``INSERT_ROWS`` gets its defaults, loses what WHERE does not let through, and
goes to the executor's ``BulkInsert``, which computes generated columns, checks constraints and writes into the
transaction; it pauses every few milliseconds, so that other clients are served.  If a batch fails, its rows are gone
through again one by one, to tell the client the line, as Postgres does::

    ERROR:  duplicate key value violates unique constraint "t_pkey"
    DETAIL:  Key (a)=(1) already exists.
    CONTEXT:  COPY t, line 3

Source: PostgreSQL 15, copyfrom.c (CopyFrom): defaults come before WHERE, generated columns after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pydistdb.kv.api import MustWait
from pydistdb.sql import bind
from pydistdb.sql.catalog.descriptors import Column, Table
from pydistdb.sql.copy.binary import Batch
from pydistdb.sql.copy.reader import shown
from pydistdb.sql.errors import CheckViolation, DatabaseError, NotNullViolation, UniqueViolation
from pydistdb.sql.exec import BulkInsert, RunContext
from pydistdb.sql.exec.checks import row_scope
from pydistdb.sql.exec.codegen import Code, evaluator
from pydistdb.sql.exec.index_keys import bound_layout
from pydistdb.sql.exec.run import State
from pydistdb.sql.exec.violations import index_key_text
from pydistdb.sql.exec.waiting import wait_for
from pydistdb.sql.functions.effects import Effects
from pydistdb.sql.tree import Expr
from pydistdb.sql.types import domains, registry
from pydistdb.sql.types.base import SqlType
from pydistdb.tasks import pause

if TYPE_CHECKING:
    from pydistdb.sql.session.session import ClientSession

INSERT_ROWS = 1_000
PAUSE_NS = 4_000_000

Row = list[Any]


def type_of(column: Column) -> SqlType:
    return registry.type_by_oid(column.type_oid).with_modifier(column.modifier)


class Importer:
    """Takes batches of rows as they were read; ``finish`` (or ``settle``, after an error) ends it."""

    def __init__(
        self,
        session: ClientSession,
        table: Table,
        columns: list[Column],
        run: RunContext,
        condition: Expr | None = None,
    ) -> None:
        self._session = session
        self._table = table
        self._run = run
        self._width = max((column.number for column in table.columns), default=0)
        self._positions = [column.number - 1 for column in columns]
        self._in_order = self._positions == list(range(self._width))
        self._defaulted = _defaulted(table, columns)
        self._state = State(run)
        ddl = session.transaction.ddl
        self._bulk = BulkInsert(run, table, ddl is not None and ddl.is_private_storage(table))
        by_number = {column.number: column for column in table.columns}
        self._defaults = evaluator(
            [
                bind.bind_scalar(
                    bind.default_text(run.catalog, by_number[n]) or "NULL",
                    run.catalog,
                    run.context,
                    type_of(by_number[n]),
                )
                for n in self._defaulted
            ]
        )
        self._holds = None if condition is None else _row_test(table, condition)
        self._rows: list[Row] = []
        self._lines: list[int] = []
        self._texts: list[str] = []
        """The lines themselves, for CONTEXT; of binary data there are none."""
        self._turn_ends_ns = session.environment.scheduler.now_ns() + PAUSE_NS
        self.count = 0

    async def add(self, batch: Batch) -> None:
        """Take rows; insert whole batches of them."""
        self._rows.extend(batch.rows)
        self._lines.extend(batch.lines)
        self._texts.extend(batch.texts)
        start = 0
        while len(self._rows) - start >= INSERT_ROWS:
            await self._insert(start, start + INSERT_ROWS)
            start += INSERT_ROWS
        if start:
            del self._rows[:start]
            del self._lines[:start]
            del self._texts[:start]

    async def finish(self) -> None:
        """Insert what is left."""
        await self._insert(0, len(self._rows))
        await self._bulk.finish()

    async def settle(self) -> None:
        """The statement has failed: leave nothing on its way."""
        await self._bulk.settle()

    async def _insert(self, start: int, end: int) -> None:
        if start == end:
            return
        session = self._session
        rows, lines, texts = self._rows[start:end], self._lines[start:end], self._texts[start:end]
        if not self._in_order:
            rows = [self._complete(row) for row in rows]
        if self._defaulted:
            await self._fill_defaults(rows)
        if self._holds is not None:
            kept = await self._filter(self._holds, rows, lines, texts)
            rows, lines = [rows[place] for place in kept], [lines[place] for place in kept]
            texts = [texts[place] for place in kept] if texts else texts
        transaction = self._run.transaction
        assert transaction is not None
        try:
            await self._bulk.insert(rows)
        except UniqueViolation as error:
            self._name_line(rows, lines, error)
            raise
        except DatabaseError as error:
            if isinstance(error, NotNullViolation | CheckViolation) or self._bulk.computes:
                await self._find_line(rows, lines, texts, error)
            raise
        await transaction.relieve()
        self.count += len(rows)
        scheduler = session.environment.scheduler
        if scheduler.now_ns() >= self._turn_ends_ns:
            session.check_interrupt()
            await pause(scheduler)
            session.check_interrupt()
            self._turn_ends_ns = scheduler.now_ns() + PAUSE_NS

    async def _find_line(
        self, rows: list[Row], lines: Sequence[int], texts: Sequence[str], batch_error: DatabaseError
    ) -> None:
        """Rows are checked before any of them is written: insert them one by one, to raise the error with its line."""
        for place, row in enumerate(rows):
            try:
                await self._bulk.insert([row])
            except DatabaseError as error:
                error.where = self._where(lines, texts, place)
                raise
        raise batch_error

    def _where(self, lines: Sequence[int], texts: Sequence[str], place: int) -> str:
        where = f"COPY {self._table.name}, line {lines[place]}"
        return f'{where}: "{shown(texts[place])}"' if texts else where

    async def _filter(
        self, holds: Callable[[Row, State], bool], rows: list[Row], lines: Sequence[int], texts: Sequence[str]
    ) -> list[int]:
        """The places of the rows that WHERE lets through."""
        kept: list[int] = []
        effects = Effects()
        place = 0
        while place < len(rows):
            self._state.context.effects = effects
            try:
                while place < len(rows):
                    effects.begin_row()
                    if holds(rows[place], self._state):
                        kept.append(place)
                    place += 1
            except MustWait as need:
                await wait_for(need, len(rows) - place, effects)
            except DatabaseError as error:
                error.where = self._where(lines, texts, place)
                raise
            finally:
                self._state.context.effects = None
        return kept

    def _name_line(self, rows: list[Row], lines: Sequence[int], error: UniqueViolation) -> None:
        """Add the line to a duplicate key, by the key that the error names; of two in one batch it is the second."""
        table = self._table
        index = next((index for index in table.indexes if index.name == error.constraint), None)
        if index is None or error.detail is None:
            return
        layout = bound_layout(table, self._session.view())
        keys = layout.by_storage_id[index.storage_id]
        context = self._session.context
        found = [
            line
            for row, line in zip(rows, lines, strict=True)
            if layout.unique_key(keys, row) is not None
            and error.detail.startswith("Key " + index_key_text(keys, keys.values(row), context))
        ]
        if found:
            error.where = f"COPY {table.name}, line {found[min(1, len(found) - 1)]}"

    def _complete(self, values: Row) -> Row:
        """A row of the table: the values copied at their places, defaults at the others."""
        row: Row = [None] * self._width
        for position, value in zip(self._positions, values, strict=True):
            row[position] = value
        return row

    async def _fill_defaults(self, rows: list[Row]) -> None:
        """Evaluate the defaults for each row; nextval may have to fetch numbers first."""
        numbers = self._defaulted
        done = 0
        effects = Effects()
        while done < len(rows):
            self._state.context.effects = effects
            try:
                for row in rows[done:]:
                    effects.begin_row()
                    for number, value in zip(numbers, self._defaults(self._state), strict=True):
                        row[number - 1] = value
                    done += 1
            except MustWait as need:
                await wait_for(need, len(rows) - done, effects)
            finally:
                self._state.context.effects = None


def _row_test(table: Table, condition: Expr) -> Callable[[Row, State], bool]:
    """``f(row, S)``: whether the condition holds for a row of the table."""
    code = Code(row_scope({column.number: column.number for column in table.columns}, "r"), ("r",))
    function: Callable[[Row, State], bool] = code.build("f(r, S)", f"return {code.truth(condition)}")
    return function


def _defaulted(table: Table, columns: list[Column]) -> list[int]:
    """The numbers of the columns that are not copied and have a default."""
    copied = {column.number for column in columns}
    numbers = []
    for column in table.columns:
        if (
            column.number in copied
            or column.dropped
            or column.generated
            or (column.default is None and not column.identity and not domains.is_domain(column.type_oid))
        ):
            continue
        numbers.append(column.number)
    return numbers
