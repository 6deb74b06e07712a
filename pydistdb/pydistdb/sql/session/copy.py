"""COPY FROM STDIN and COPY TO STDOUT: between the client's bytes (sql/copy) and the executor.

Theory of operation
-------------------
COPY FROM reads rows out of what the client sends (copy/reader.py) and hands them to an ``Importer`` (copy_rows.py), which
puts them into the table batch by batch.  Data in another encoding than UTF8 are transcoded first (copy/encodings.py).

COPY TO runs a query (``SELECT columns FROM table``, or the one given) and writes a message per row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydistdb_storage.errors import StorageError

from pydistdb.kv.api import KVError
from pydistdb.sql import bind
from pydistdb.sql.api import Sink
from pydistdb.sql.catalog.acl import INSERT
from pydistdb.sql.catalog.descriptors import Column, Table
from pydistdb.sql.catalog.needs import Need, require
from pydistdb.sql.catalog.view import VirtualTable
from pydistdb.sql.copy import encodings, formats
from pydistdb.sql.copy.binary import CopyColumn
from pydistdb.sql.copy.formats import CopyOptions
from pydistdb.sql.copy.reader import copy_reader
from pydistdb.sql.errors import (
    DatabaseError,
    DuplicateColumn,
    FeatureNotSupported,
    InsufficientPrivilege,
    UndefinedColumn,
    UndefinedTable,
    WrongObjectType,
)
from pydistdb.sql.exec import RunContext
from pydistdb.sql.session.copy_rows import Importer, type_of
from pydistdb.sql.session.execute import Execution
from pydistdb.sql.statements import Copy, Name

if TYPE_CHECKING:
    from pydistdb.sql.session.session import ClientSession


async def run(session: ClientSession, parsed: bind.ParsedStatement | None, utility: Copy, sink: Sink) -> str:
    """Execute a COPY statement; returns its command tag."""
    if utility.filename is not None:
        raise InsufficientPrivilege(
            "COPY with a file name is not supported",
            hint="Use COPY FROM STDIN or COPY TO STDOUT; psql's \\copy reads and writes files of the client.",
        )
    options = CopyOptions.of(utility.options, utility.positions, is_from=utility.is_from)
    if utility.is_from:
        session.transaction.check_writable("COPY FROM")
        count = await _copy_from(session, parsed, utility, options, sink)
    else:
        count = await _copy_to(session, utility, options, sink)
    return f"COPY {count}"


def _table(session: ClientSession, name: Name) -> Table:
    relation = session.view().relation(name.name, name.schema)
    if relation is None:
        written = name.name if name.schema is None else f"{name.schema}.{name.name}"
        raise UndefinedTable(f'relation "{written}" does not exist')
    if isinstance(relation, VirtualTable):
        raise WrongObjectType(f'cannot copy to system catalog "{name.name}"')
    if relation.kind != "r":
        kind = {"v": "view", "m": "materialized view", "S": "sequence"}.get(relation.kind, "relation")
        hint = "To enable copying to a view, provide an INSTEAD OF INSERT trigger." if relation.kind == "v" else None
        raise WrongObjectType(f'cannot copy to {kind} "{name.name}"', hint=hint)
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


# ---------------------------------------------------------------------------------------------- COPY FROM


def _check_freeze(session: ClientSession, table: Table) -> None:
    """FREEZE promises that nobody else can see the rows; they are stored as ever."""
    ddl = session.transaction.ddl
    if ddl is None or table.storage_id not in ddl.overlay.private_storage:
        raise DatabaseError.of(
            "55000",
            "cannot perform COPY FREEZE because the table was not created or truncated in the current subtransaction",
        )


async def _copy_from(
    session: ClientSession,
    parsed: bind.ParsedStatement | None,
    utility: Copy,
    options: CopyOptions,
    sink: Sink,
) -> int:
    assert utility.table is not None
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
    condition = None
    if utility.has_condition:
        assert parsed is not None
        condition = bind.bind_copy_condition(parsed, table, session.view(), session.context)
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
    importer = Importer(session, table, columns, run_context, condition)
    reader = copy_reader(
        options,
        table.name,
        [CopyColumn(column.name, type_of(column)) for column in columns],
        session.context,
    )
    decoder = encodings.Decoder(options.encoding)
    try:
        chunks = await sink.copy_in(options.binary, len(columns))
        if options.freeze:
            _check_freeze(session, table)
        async for chunk in chunks:
            await importer.add(reader.feed(decoder.feed(chunk)))
        await importer.add(reader.feed(decoder.finish()))
        await importer.add(reader.finish())
        await importer.finish()
    except BaseException as error:
        await importer.settle()
        if isinstance(error, (KVError, StorageError)):
            raise session.explain_error(error) from error
        raise
    block.statements += 1
    environment.statistics.changes.of(table.oid).rows += importer.count
    return importer.count


def _check_column_options(options: CopyOptions, table: Table, columns: list[Column]) -> None:
    names = {column.name for column in columns}
    known = {column.name for column in table.columns if not column.dropped}
    for label, listed in (
        ("FORCE_QUOTE", options.force_quote),
        ("FORCE_NOT_NULL", options.force_not_null),
        ("FORCE_NULL", options.force_null),
    ):
        for number, name in enumerate(listed):
            if name == "*":
                continue
            if name in listed[:number]:
                raise DuplicateColumn(f'column "{name}" specified more than once')
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
    if any(statement.name == "MergeStmt" for statement in statements):
        raise FeatureNotSupported("MERGE not supported in COPY")
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
    write = formats.row_writer(options, types, session.context, names)
    output = _CopyOut(sink, encodings.encoded(write, options.encoding))
    sink.copy_out(options.binary, len(names))
    if options.binary:
        output.head = formats.BINARY_HEADER
    elif options.header:
        sink.copy_data(encodings.encode_line(formats.header_line(options, names), options.encoding))
    execution = Execution(session, plan, (), alone=not session.transaction.in_block)
    try:
        await execution.fetch(0, output)  # type: ignore[arg-type]  # it uses rows and drain only
    except BaseException:
        await execution.close()
        raise
    if options.binary:
        sink.copy_data(output.head + formats.BINARY_TRAILER)
    sink.copy_done()
    return execution.rows_sent


class _CopyOut:
    """The part of a Sink that a running query uses, with rows as COPY data."""

    def __init__(self, sink: Sink, write: formats.RowWriter) -> None:
        self._sink = sink
        self._write = write
        self.head = b""
        """What is to stand before the first row, in one message with it: so Postgres sends the header of the binary format,
        and drivers take a message for a row."""

    def rows(self, batch: list[tuple[Any, ...]]) -> None:
        copy_data = self._sink.copy_data
        lines = self._write(batch)
        if self.head and lines:
            lines[0] = self.head + lines[0]
            self.head = b""
        for line in lines:
            copy_data(line)

    async def drain(self) -> None:
        await self._sink.drain()
