"""COPY FROM STDIN and COPY TO STDOUT: between the client's bytes (sql/copy) and the executor.

Theory of operation
-------------------
COPY FROM collects rows until ``INSERT_ROWS`` are there and hands them to the executor's ``BulkInsert``, which checks
constraints and writes into the transaction; it pauses every few milliseconds, so that other clients are served.  If a
batch fails, its writes are undone and it goes in again row by row, to tell the client the line, as Postgres does:

    ERROR:  duplicate key value violates unique constraint "t_pkey"
    DETAIL:  Key (a)=(1) already exists.
    CONTEXT:  COPY t, line 3

COPY TO runs a query (``SELECT columns FROM table``, or the one given) and writes a message per row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydistdb_storage.errors import StorageError

from pydistdb.kv.api import KVError, MustWait
from pydistdb.sql import bind
from pydistdb.sql.api import Sink
from pydistdb.sql.catalog.acl import INSERT
from pydistdb.sql.catalog.descriptors import Column, Table
from pydistdb.sql.catalog.needs import Need, require
from pydistdb.sql.catalog.view import VirtualTable
from pydistdb.sql.copy import formats
from pydistdb.sql.copy.binary import Batch, CopyColumn
from pydistdb.sql.copy.formats import CopyOptions
from pydistdb.sql.copy.reader import copy_reader
from pydistdb.sql.errors import (
    CheckViolation,
    DatabaseError,
    DuplicateColumn,
    FeatureNotSupported,
    InsufficientPrivilege,
    NotNullViolation,
    UndefinedColumn,
    UndefinedTable,
    UniqueViolation,
    WrongObjectType,
)
from pydistdb.sql.exec import BulkInsert, RunContext
from pydistdb.sql.exec.codegen import evaluator
from pydistdb.sql.exec.index_keys import bound_layout
from pydistdb.sql.exec.run import State
from pydistdb.sql.exec.violations import index_key_text
from pydistdb.sql.exec.waiting import wait_for
from pydistdb.sql.functions.effects import Effects
from pydistdb.sql.session.execute import Execution
from pydistdb.sql.statements import Copy, Name
from pydistdb.sql.types import domains, registry
from pydistdb.sql.types.base import SqlType
from pydistdb.tasks import pause

if TYPE_CHECKING:
    from pydistdb.sql.session.session import ClientSession

INSERT_ROWS = 1_000
PAUSE_NS = 4_000_000


async def run(session: ClientSession, utility: Copy, sink: Sink) -> str:
    """Execute a COPY statement; returns its command tag."""
    if utility.filename is not None:
        raise InsufficientPrivilege(
            "COPY with a file name is not supported",
            hint="Use COPY FROM STDIN or COPY TO STDOUT; psql's \\copy reads and writes files of the client.",
        )
    options = CopyOptions.of(utility.options, is_from=utility.is_from)
    if utility.is_from:
        session.transaction.check_writable("COPY FROM")
        count = await _copy_from(session, utility, options, sink)
    else:
        count = await _copy_to(session, utility, options, sink)
    return f"COPY {count}"


def _table(session: ClientSession, name: Name) -> Table:
    relation = session.view().relation(name.name, name.schema)
    if relation is None:
        written = name.name if name.schema is None else f"{name.schema}.{name.name}"
        raise UndefinedTable(f'relation "{written}" does not exist', position=name.position)
    if isinstance(relation, VirtualTable):
        raise WrongObjectType(f'cannot copy to system catalog "{name.name}"')
    if relation.kind != "r":
        kind = {"v": "view", "m": "materialized view", "S": "sequence"}.get(relation.kind, "relation")
        raise WrongObjectType(f'cannot copy to {kind} "{name.name}"')
    return relation


def _columns(table: Table, names: Sequence[str]) -> list[Column]:
    """The columns that take part, in the order given, or all of them."""
    if not names:
        return [column for column in table.columns if not column.dropped and not column.generated]
    by_name = {column.name: column for column in table.columns if not column.dropped}
    found: list[Column] = []
    for name in names:
        column = by_name.get(name)
        if column is None:
            raise UndefinedColumn(f'column "{name}" of relation "{table.name}" does not exist')
        if column.generated:
            raise DatabaseError.of(
                "42P10",
                f'column "{name}" is a generated column',
                detail="Generated columns cannot be used in COPY.",
            )
        if column in found:
            raise DuplicateColumn(f'column "{name}" specified more than once')
        found.append(column)
    return found


def _type_of(column: Column) -> SqlType:
    return registry.type_by_oid(column.type_oid).with_modifier(column.modifier)


# ---------------------------------------------------------------------------------------------- COPY FROM


class _Importer:
    """The rows of one COPY FROM on their way into the table."""

    def __init__(self, session: ClientSession, table: Table, columns: list[Column], run: RunContext) -> None:
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
                    _type_of(by_number[n]),
                )
                for n in self._defaulted
            ]
        )
        self._rows: list[list[Any]] = []
        self._lines: list[int] = []
        self._turn_ends_ns = session.environment.scheduler.now_ns() + PAUSE_NS
        self.count = 0

    async def add(self, batch: Batch) -> None:
        """Take rows; insert whole batches of them."""
        self._rows.extend(batch.rows)
        self._lines.extend(batch.lines)
        start = 0
        while len(self._rows) - start >= INSERT_ROWS:
            await self._insert(start, start + INSERT_ROWS)
            start += INSERT_ROWS
        if start:
            del self._rows[:start]
            del self._lines[:start]

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
        rows = self._rows[start:end]
        if not self._in_order:
            rows = [self._complete(row) for row in rows]
        if self._defaulted:
            await self._fill_defaults(rows)
        transaction = self._run.transaction
        assert transaction is not None
        try:
            await self._bulk.insert(rows)
        except (NotNullViolation, CheckViolation) as error:
            await self._find_line(rows, self._lines[start:end], error)
        except UniqueViolation as error:
            self._name_line(rows, self._lines[start:end], error)
            raise
        await transaction.relieve()
        self.count += len(rows)
        scheduler = session.environment.scheduler
        if scheduler.now_ns() >= self._turn_ends_ns:
            session.check_interrupt()
            await pause(scheduler)
            session.check_interrupt()
            self._turn_ends_ns = scheduler.now_ns() + PAUSE_NS

    async def _find_line(self, rows: list[list[Any]], lines: Sequence[int], batch_error: DatabaseError) -> None:
        """Rows are checked before any of them is written: insert them one by one, to raise the error with its line."""
        for row, line in zip(rows, lines, strict=True):
            try:
                await self._bulk.insert([row])
            except DatabaseError as error:
                error.where = f"COPY {self._table.name}, line {line}"
                raise
        raise batch_error

    def _name_line(self, rows: list[list[Any]], lines: Sequence[int], error: UniqueViolation) -> None:
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

    def _complete(self, values: list[Any]) -> list[Any]:
        """A row of the table: the values copied at their places, defaults at the others."""
        row: list[Any] = [None] * self._width
        for position, value in zip(self._positions, values, strict=True):
            row[position] = value
        return row

    async def _fill_defaults(self, rows: list[list[Any]]) -> None:
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


def _defaulted(table: Table, columns: list[Column]) -> list[int]:
    """The numbers of the columns that are not copied and have a default."""
    copied = {column.number for column in columns}
    numbers = []
    for column in table.columns:
        if (
            column.number in copied
            or column.dropped
            or (column.default is None and not column.identity and not domains.is_domain(column.type_oid))
        ):
            continue
        if column.generated:
            raise FeatureNotSupported(f'COPY into a table with generated column "{column.name}" is not supported')
        numbers.append(column.number)
    return numbers


async def _copy_from(session: ClientSession, utility: Copy, options: CopyOptions, sink: Sink) -> int:
    assert utility.table is not None
    if utility.where is not None:
        raise FeatureNotSupported("COPY FROM ... WHERE is not supported")
    block = session.transaction
    transaction = block.open()
    environment = session.environment
    while True:
        table = _table(session, utility.table)
        await environment.catalog.gate.enter(transaction, frozenset((table.oid,)), True, session.lock_deadline_ns())
        if _table(session, utility.table) is table:
            break
    columns = _columns(table, utility.columns)
    inserted = frozenset(column.number for column in columns)
    require([Need(table, INSERT, inserted=inserted)], session.view())
    _check_column_options(options, table, columns)
    transaction.begin_statement(block.least_timestamp)
    run_context = RunContext(
        transaction,
        environment.database,
        session.view(),
        session.context,
        (),
        environment.scheduler,
        session.check_interrupt,
        deferred=session.checks,
    )
    importer = _Importer(session, table, columns, run_context)
    reader = copy_reader(
        options,
        table.name,
        [CopyColumn(column.name, _type_of(column)) for column in columns],
        session.context,
    )
    try:
        async for chunk in await sink.copy_in(options.binary, len(columns)):
            await importer.add(reader.feed(chunk))
        await importer.add(reader.finish())
        await importer.finish()
    except BaseException as error:
        await importer.settle()
        if isinstance(error, (KVError, StorageError)):
            raise session.explain_error(error) from error
        raise
    block.statements += 1
    environment.statistics.rows_changed += importer.count
    return importer.count


def _check_column_options(options: CopyOptions, table: Table, columns: list[Column]) -> None:
    names = {column.name for column in columns}
    known = {column.name for column in table.columns if not column.dropped}
    for label, listed in (
        ("FORCE_QUOTE", options.force_quote),
        ("FORCE_NOT_NULL", options.force_not_null),
        ("FORCE_NULL", options.force_null),
    ):
        for name in listed:
            if name == "*":
                continue
            if name not in known:
                raise UndefinedColumn(f'column "{name}" of relation "{table.name}" does not exist')
            if name not in names:
                raise DatabaseError.of("42P10", f'{label} column "{name}" not referenced by COPY')


# ---------------------------------------------------------------------------------------------- COPY TO


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _query_for(session: ClientSession, utility: Copy, options: CopyOptions) -> str:
    """The SELECT behind COPY TO."""
    name = utility.table
    if name is None:
        assert utility.query is not None
        return utility.query
    source = _quote(name.name) if name.schema is None else f"{_quote(name.schema)}.{_quote(name.name)}"
    relation = session.view().relation(name.name, name.schema)
    if isinstance(relation, VirtualTable):
        return f"SELECT {', '.join(map(_quote, utility.columns)) or '*'} FROM {source}"
    if relation is not None and relation.kind in "vm":
        kind = "view" if relation.kind == "v" else "materialized view"
        raise WrongObjectType(f'cannot copy from {kind} "{name.name}"', hint="Try the COPY (SELECT ...) TO variant.")
    table = _table(session, name)
    columns = _columns(table, utility.columns)
    _check_column_options(options, table, columns)
    return f"SELECT {', '.join(_quote(column.name) for column in columns)} FROM {source}"


async def _copy_to(session: ClientSession, utility: Copy, options: CopyOptions, sink: Sink) -> int:
    text = _query_for(session, utility, options)
    statements = bind.parse(text)
    if len(statements) != 1 or not statements[0].is_query:
        raise FeatureNotSupported("COPY takes a SELECT, VALUES, INSERT, UPDATE or DELETE statement")
    plan = session.plans.make(statements[0], ())
    if plan.bound is None or plan.fields is None:
        raise FeatureNotSupported("COPY query must have a RETURNING clause")
    if plan.writes:
        session.transaction.check_writable(plan.tag)
    plan = await session.pin(plan)  # from here on its columns are what they are
    assert plan.bound is not None and plan.fields is not None
    if plan.denied is not None:
        raise plan.denied.again()
    names = [field.name for field in plan.fields]
    types = [column.type for column in plan.bound.query.columns]
    output = _CopyOut(sink, formats.row_writer(options, types, session.context, names))
    sink.copy_out(options.binary, len(names))
    if options.binary:
        sink.copy_data(formats.BINARY_HEADER)
    elif options.header:
        sink.copy_data(formats.header_line(options, names))
    execution = Execution(session, plan, (), alone=not session.transaction.in_block)
    try:
        await execution.fetch(0, output)  # type: ignore[arg-type]  # it uses rows and drain only
    except BaseException:
        await execution.close()
        raise
    if options.binary:
        sink.copy_data(formats.BINARY_TRAILER)
    sink.copy_done()
    return execution.rows_sent


class _CopyOut:
    """The part of a Sink that a running query uses, with rows as COPY data."""

    def __init__(self, sink: Sink, write: formats.RowWriter) -> None:
        self._sink = sink
        self._write = write

    def rows(self, batch: list[tuple[Any, ...]]) -> None:
        copy_data = self._sink.copy_data
        for line in self._write(batch):
            copy_data(line)

    async def drain(self) -> None:
        await self._sink.drain()
