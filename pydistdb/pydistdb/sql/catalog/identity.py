"""ALTER TABLE … ADD, SET and DROP IDENTITY; DROP EXPRESSION of generated columns.

Source: PostgreSQL 15, tablecmds.c (ATExecAddIdentity, ATExecSetIdentity, ATExecDropIdentity, ATExecDropExpression).
"""

from __future__ import annotations

from msgspec.structs import replace

from pydistdb.sql.catalog import sequences
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.create_sequence import changed_sequence
from pydistdb.sql.catalog.descriptors import Column, Table
from pydistdb.sql.catalog.drop_plan import forget_table, owned_sequences
from pydistdb.sql.errors import DatabaseError, UndefinedColumn
from pydistdb.sql.schema_statements import AlterTableAction

_GENERATED = {97: "a", 100: "d"}
"""How SET GENERATED says ALWAYS and BY DEFAULT: as the letters' codes."""


def _column(table: Table, action: AlterTableAction) -> Column:
    for column in table.columns:
        if column.name == action.name and not column.dropped:
            return column
    raise UndefinedColumn(f'column "{action.name}" of relation "{table.name}" does not exist')


def _put(ddl: DdlContext, table: Table, column: Column) -> None:
    columns = tuple(column if each.number == column.number else each for each in table.columns)
    ddl.put_table(replace(table, columns=columns, version=table.version + 1))


async def add_identity(ddl: DdlContext, table: Table, action: AlterTableAction) -> None:
    column = _column(table, action)
    what = f'column "{column.name}" of relation "{table.name}"'
    sequences.check_identity_type(column.type_oid)
    if not column.not_null:
        raise _refused(f"{what} must be declared NOT NULL before identity can be added")
    if column.identity:
        raise _refused(f"{what} is already an identity column")
    if column.default is not None:
        raise _refused(f"{what} already has a default value")
    sequence = await sequences.owned_sequence(ddl, table, column, (), True, action.options)
    ddl.put_table(sequence)
    default = sequences.next_value_expression(ddl, sequence)
    _put(ddl, table, replace(column, default=default, identity=action.new_name or "d"))


async def follow_type(ddl: DdlContext, table: Table, action: AlterTableAction) -> None:
    """ALTER COLUMN … TYPE of an identity column: its sequence becomes one of the new type."""
    assert action.type is not None
    column = _column(table, action)
    if not column.identity or action.type.oid == column.type_oid:
        return
    sequences.check_identity_type(action.type.oid)
    for sequence in owned_sequences(ddl, table.oid, column.number):
        await ddl.ddl.lock_tables([sequence.oid])
        ddl.put_table(await changed_sequence(ddl, sequence, (("as", action.type.name),)))


async def set_identity(ddl: DdlContext, table: Table, action: AlterTableAction) -> None:
    column = _column(table, action)
    if not column.identity:
        raise _refused(f'column "{column.name}" of relation "{table.name}" is not an identity column')
    options = dict(action.options)
    generated = options.pop("generated", None)
    if options:
        for sequence in owned_sequences(ddl, table.oid, column.number):
            await ddl.ddl.lock_tables([sequence.oid])
            ddl.put_table(await changed_sequence(ddl, sequence, tuple(options.items())))
    if generated is not None:
        _put(ddl, table, replace(column, identity=_GENERATED[int(generated)]))


def drop_identity(ddl: DdlContext, table: Table, action: AlterTableAction) -> None:
    column = _column(table, action)
    if not column.identity:
        message = f'column "{column.name}" of relation "{table.name}" is not an identity column'
        if not action.missing_ok:
            raise _refused(message)
        ddl.tell(f"{message}, skipping")
        return
    for sequence in owned_sequences(ddl, table.oid, column.number):
        ddl.apply(forget_table(ddl, sequence))
    _put(ddl, table, replace(column, identity="", default=None))


def drop_expression(ddl: DdlContext, table: Table, action: AlterTableAction) -> None:
    """The column keeps its values, and is a plain one from now on."""
    column = _column(table, action)
    if not column.generated:
        message = f'column "{column.name}" of relation "{table.name}" is not a stored generated column'
        if not action.missing_ok:
            raise _refused(message)
        ddl.tell(f"{message}, skipping")
        return
    _put(ddl, table, replace(column, generated=False, default=None))


def _refused(message: str) -> DatabaseError:
    return DatabaseError.of("55000", message)
