"""ALTER TABLE actions on columns.

Adding a column is cheap wherever its default is the same for all rows: the descriptor's ``missing`` value stands in for
rows written before.  Only a volatile default (``nextval``, ``random()``) or a generated column rewrites the table.
Dropping a column just marks it: its values vanish as rows are rewritten.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from pydistdb.sql import bind
from pydistdb.sql.catalog import constraints, expressions
from pydistdb.sql.catalog.alter_constraints import add_one, drop_primary_key
from pydistdb.sql.catalog.attribute_dependents import drop_users
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.create_table import all_constraints, make_column, with_defaults
from pydistdb.sql.catalog.dependencies import described, views_broken_by
from pydistdb.sql.catalog.descriptors import Column, Index, StatisticsObject, Table
from pydistdb.sql.catalog.drop_index import drop_foreign_keys, foreign_keys_using, without_index
from pydistdb.sql.catalog.drop_plan import DependentText, forget_table, owned_sequences, report_dependents
from pydistdb.sql.catalog.follow import put_renamed
from pydistdb.sql.catalog.index_elements import check_key, columns_of_index, rebound_indexes
from pydistdb.sql.catalog.naming import clip
from pydistdb.sql.catalog.options import collation_named
from pydistdb.sql.catalog.queries import first_row, full_name, quote, type_text
from pydistdb.sql.catalog.renaming import rename_in_expression
from pydistdb.sql.catalog.rewrite import computed_rows, contains_nulls, rewrite
from pydistdb.sql.catalog.statistics_names import forget_comments, without_statistics
from pydistdb.sql.catalog.statistics_objects import forget_findings, rebound_statistics, using_column
from pydistdb.sql.catalog.stored_texts import field_renamed, follow
from pydistdb.sql.catalog.type_dependencies import columns_holding, refuse_itself
from pydistdb.sql.errors import (
    DatabaseError,
    DatatypeMismatch,
    DuplicateColumn,
    FeatureNotSupported,
    InvalidTableDefinition,
    UndefinedColumn,
)
from pydistdb.sql.functions import registry as functions
from pydistdb.sql.schema_statements import AlterTableAction
from pydistdb.sql.tree import Const
from pydistdb.sql.types import registry

_WIDENINGS = frozenset({(21, 23), (21, 20), (23, 20)})
"""Integer types whose values are stored alike, so that widening changes no row."""


def existing_column(table: Table, name: str) -> Column:
    column = constraints.column_named(table, name)
    if column is None:
        raise UndefinedColumn(f'column "{name}" of relation "{table.name}" does not exist')
    return column


def _check_row_type_unused(ddl: DdlContext, table: Table) -> None:
    """Rows that are kept in other tables' columns are not rewritten."""
    holding = columns_holding(ddl, table.row_type_oid) if table.row_type_oid else []
    if holding:
        user = f"{holding[0][0].name}.{holding[0][1].name}"
        raise FeatureNotSupported(f'cannot alter table "{table.name}" because column "{user}" uses its row type')


def _with_column(table: Table, column: Column) -> Table:
    """The next descriptor, with one column replaced."""
    columns = tuple(column if each.number == column.number else each for each in table.columns)
    return replace(table, columns=columns, version=table.version + 1)


# ---------------------------------------------------------------------------------------------------- add


async def add_column(ddl: DdlContext, table: Table, action: AlterTableAction) -> None:
    spec = action.column
    assert spec is not None
    name = clip(spec.name)
    if constraints.column_named(table, name) is not None:
        message = f'column "{name}" of relation "{table.name}" already exists'
        if not action.missing_ok:
            raise DuplicateColumn(message)
        ddl.tell(message + ", skipping", "42701")
        return
    number = max((column.number for column in table.columns), default=0) + 1
    bare = make_column(spec, number)
    ddl.require_type(bare.type_oid)
    refuse_itself(ddl, table.row_type_oid, bare.type_oid)
    old = table
    draft = replace(table, columns=(*table.columns, bare), version=table.version + 1)
    table, owned = await with_defaults(ddl, draft, [spec])
    column = table.columns[-1]
    if column.default is not None and column.default.lower() != "null":
        _check_row_type_unused(ddl, old)
    if owned:
        ddl.put_table(*owned)
    filling = await _filling(ddl, old, column)
    if column.generated or (filling.default is not None and _is_volatile(ddl, filling)):
        assert filling.default is not None
        nullable = replace(table, columns=(*old.columns, replace(column, not_null=False)))
        expression = filling.default
        await rewrite(ddl, old, nullable, computed_rows(ddl, old, [(column, expression)]))
        table = ddl.view.state.tables[table.oid]
        table = _with_column(table, replace(column, missing=None))
    elif filling.default is not None:
        value = await _value_of(ddl, filling)
        to_storage = registry.io(column.type_oid).to_storage
        missing = value if value is None or to_storage is None else to_storage(value)
        table = _with_column(table, replace(column, missing=missing))
        if value is None:
            await _refuse_rows(ddl, old, table, column)
    else:
        await _refuse_rows(ddl, old, table, column)
    ddl.put_table(table)
    for constraint, columns in all_constraints([spec], ()):
        await add_one(ddl, ddl.view.state.tables[table.oid], constraint, columns)


async def _filling(ddl: DdlContext, table: Table, column: Column) -> Column:
    """The column with the default that the rows which are there get: a domain's own, if it has none."""
    text = None if column.generated else bind.default_text(ddl.view, column)
    if text is None or text == column.default:
        return column
    if await first_row(ddl, f"SELECT 1 FROM {full_name(ddl, table)} LIMIT 1") is None:
        return column
    return replace(column, default=text)


def _is_volatile(ddl: DdlContext, column: Column) -> bool:
    """Whether the default may differ from row to row."""
    assert column.default is not None
    return expressions.is_volatile(expressions.check_default(ddl, column.default, column))


async def _value_of(ddl: DdlContext, column: Column) -> Any:
    """The one value of a default that is not volatile."""
    assert column.default is not None
    expression = expressions.check_default(ddl, column.default, column)
    if isinstance(expression, Const):
        return expression.value
    row = await first_row(ddl, f"SELECT CAST(({column.default}) AS {type_text(ddl, column)})")
    assert row is not None
    return row[0]


async def _refuse_rows(ddl: DdlContext, old: Table, table: Table, column: Column) -> None:
    """A NOT NULL column without a value for the rows that are there needs an empty table."""
    if column.not_null and await first_row(ddl, f"SELECT 1 FROM {full_name(ddl, old)} LIMIT 1") is not None:
        raise contains_nulls(ddl, table, column)


# ---------------------------------------------------------------------------------------------------- drop


async def drop_column(ddl: DdlContext, table: Table, action: AlterTableAction) -> None:
    assert action.name is not None
    column = constraints.column_named(table, action.name)
    if column is None:
        if action.name in constraints.SYSTEM_COLUMNS:
            raise FeatureNotSupported(f'cannot drop system column "{action.name}"')
        message = f'column "{action.name}" of relation "{table.name}" does not exist'
        if not action.missing_ok:
            raise UndefinedColumn(message)
        ddl.tell(message + ", skipping", "00000")
        return
    number = column.number
    if table.sharding is not None and number in table.sharding.columns:
        raise InvalidTableDefinition(f'cannot drop column "{column.name}": the table is sharded by it')
    affected = [index for index in table.indexes if number in columns_of_index(ddl, table, index)]
    await _drop_dependents(ddl, table, column, action.cascade)
    for sequence in owned_sequences(ddl, table.oid, number):
        ddl.apply(forget_table(ddl, sequence))
    table = ddl.view.state.tables[table.oid]
    column = constraints.column_numbered(table, number)
    keyed = [index.storage_id for index in affected if index.primary and index is table.indexes[0]]
    if any(index.primary and index.storage_id == table.indexes[0].storage_id for index in affected):
        table = await drop_primary_key(ddl, table)
    for index in affected:
        if index.oid and index.storage_id not in keyed:
            table = without_index(ddl, table, index)
    statistics = {each.oid for each in using_column(ddl, table, number)}
    ddl.apply(forget_comments(ddl, statistics))
    table = await _without_column(ddl, without_statistics(table, statistics), column)
    ddl.put_table(table)
    if table.row_type_oid and columns_holding(ddl, table.row_type_oid):
        what = f"column {column.name} of table {table.name}"
        await drop_users(ddl, table.row_type_oid, what, column.name, action.cascade)


async def _drop_dependents(ddl: DdlContext, table: Table, column: Column, cascade: bool) -> None:
    """Foreign keys of other tables, generated columns and views that need the column: refuse, or drop them too."""
    what = f"column {column.name} of table {table.name}"
    users = []
    for index in table.indexes:
        if index.is_plain and any(each.column == column.number for each in index.columns):
            users += [pair for pair in foreign_keys_using(ddl, table, index) if pair not in users]
    dependents = [
        DependentText(key.oid, f"constraint {key.name} on {described(ddl, other)}", what) for other, key in users
    ]
    generated = [
        each
        for each in table.columns
        if each.generated
        and not each.dropped
        and each.default is not None
        and each.number != column.number
        and column.number in expressions.column_numbers_used(ddl, table, each.default)
    ]
    dependents += [DependentText(table.oid, f"column {each.name} of table {table.name}", what) for each in generated]
    candidate = await _without_column(ddl, table, column)
    views = views_broken_by(ddl, table, candidate)
    dependents += [DependentText(view.oid, described(ddl, view), what) for view in views]
    if dependents:
        report_dependents(ddl, dependents, cascade, [what])
    await ddl.ddl.lock_tables([*(other.oid for other, _ in users), *(view.oid for view in views)])
    drop_foreign_keys(ddl, users)
    for view in views:
        if view.oid in ddl.view.state.tables:
            ddl.apply(forget_table(ddl, view))
    for each in generated:
        current = ddl.view.state.tables[table.oid]
        await drop_column(ddl, current, AlterTableAction("drop_column", each.name, cascade=True))
    own = [key for key in table.foreign_keys if column.number in key.columns]
    await ddl.ddl.lock_tables([key.referenced_table for key in own])
    for key in own:
        drop_foreign_keys(ddl, [(table, key)])


async def _without_column(ddl: DdlContext, table: Table, column: Column) -> Table:
    """The table without a column and the checks and foreign keys over it (the number stays taken)."""
    dropped = Column(
        column.number, f"........pg.dropped.{column.number}........", column.type_oid, column.modifier, dropped=True
    )
    checks = tuple(
        check
        for check in table.checks
        if column.number not in expressions.column_numbers_used(ddl, table, check.expression)
    )
    foreign_keys = tuple(key for key in table.foreign_keys if column.number not in key.columns)
    return replace(_with_column(table, dropped), checks=checks, foreign_keys=foreign_keys)


# ---------------------------------------------------------------------------------------------------- rename


async def rename_column(ddl: DdlContext, table: Table, action: AlterTableAction) -> None:
    assert action.name is not None and action.new_name is not None
    column = constraints.column_named(table, action.name)
    if column is None:
        raise UndefinedColumn(f'column "{action.name}" does not exist')
    new_name = clip(action.new_name)
    if constraints.column_named(table, new_name) is not None:
        raise DuplicateColumn(f'column "{new_name}" of relation "{table.name}" already exists')
    checks = tuple(
        replace(check, expression=rename_in_expression(check.expression, column.name, new_name))
        for check in table.checks
    )
    indexes = tuple(_renamed_in_index(index, column.name, new_name) for index in table.indexes)
    columns = tuple(
        replace(each, name=new_name)
        if each.number == column.number
        else replace(each, default=rename_in_expression(each.default, column.name, new_name))
        if each.generated and each.default is not None
        else each
        for each in table.columns
    )
    statistics = tuple(_renamed_in_statistics(each, column.name, new_name) for each in table.statistics_objects)
    renamed = replace(
        table,
        columns=columns,
        checks=checks,
        indexes=indexes,
        statistics_objects=statistics,
        version=table.version + 1,
    )
    await put_renamed(ddl, table, renamed, f'rename column "{column.name}"', column.number)
    if table.row_type_oid and columns_holding(ddl, table.row_type_oid):
        await follow(ddl, column.name, field_renamed(column.name, new_name), f'rename column "{column.name}"')


def _renamed_in_statistics(statistics: StatisticsObject, old: str, new: str) -> StatisticsObject:
    expressions = tuple(
        replace(each, text=rename_in_expression(each.text, old, new)) for each in statistics.expressions
    )
    return replace(statistics, expressions=expressions)


def _renamed_in_index(index: Index, old: str, new: str) -> Index:
    """The index with a column renamed in its expressions and its predicate."""
    if index.is_plain:
        return index
    columns = tuple(
        replace(each, expression=rename_in_expression(each.expression, old, new)) if each.expression else each
        for each in index.columns
    )
    predicate = rename_in_expression(index.predicate, old, new) if index.predicate else ""
    return replace(index, columns=columns, predicate=predicate)


# ---------------------------------------------------------------------------------------------------- properties


def change_default(ddl: DdlContext, table: Table, action: AlterTableAction) -> None:
    assert action.name is not None
    column = existing_column(table, action.name)
    if column.identity:
        raise DatabaseError.of(
            "42601",
            f'column "{column.name}" of relation "{table.name}" is an identity column',
            hint=None if action.expression else "Use ALTER TABLE ... ALTER COLUMN ... DROP IDENTITY instead.",
        )
    if column.generated:
        raise DatabaseError.of(
            "42601",
            f'column "{column.name}" of relation "{table.name}" is a generated column',
            hint=None if action.expression else "Use ALTER TABLE ... ALTER COLUMN ... DROP EXPRESSION instead.",
        )
    text = None if action.expression is None else expressions.stored_default(ddl, action.expression, column)
    ddl.put_table(_with_column(table, replace(column, default=text)))


async def set_not_null(ddl: DdlContext, table: Table, action: AlterTableAction) -> None:
    assert action.name is not None
    column = existing_column(table, action.name)
    if column.not_null:
        return
    query = f"SELECT 1 FROM {full_name(ddl, table)} WHERE {quote(column.name)} IS NULL LIMIT 1"
    if await first_row(ddl, query) is not None:
        raise contains_nulls(ddl, table, column)
    ddl.put_table(_with_column(table, replace(column, not_null=True)))


def drop_not_null(ddl: DdlContext, table: Table, action: AlterTableAction) -> None:
    assert action.name is not None
    column = existing_column(table, action.name)
    if column.identity:
        raise DatabaseError.of("42601", f'column "{column.name}" of relation "{table.name}" is an identity column')
    if any(index.primary and any(each.column == column.number for each in index.columns) for index in table.indexes):
        raise InvalidTableDefinition(f'column "{column.name}" is in a primary key')
    if column.not_null:
        ddl.put_table(_with_column(table, replace(column, not_null=False)))


# ---------------------------------------------------------------------------------------------------- type


async def alter_types(ddl: DdlContext, table: Table, actions: Sequence[AlterTableAction]) -> None:
    """ALTER COLUMN … TYPE, all of a statement at once: every USING sees the rows as they were."""
    new, computed = table, []
    for action in actions:
        new, column, expression = await _retyped(ddl, table, new, action)
        if expression is not None:
            computed.append((column, expression))
    if computed:
        await rewrite(ddl, table, new, computed_rows(ddl, table, computed))
    else:
        ddl.put_table(new)


async def _retyped(
    ddl: DdlContext, original: Table, table: Table, action: AlterTableAction
) -> tuple[Table, Column, str | None]:
    """The table with a column of another type, and how its values are computed of those there are, if they are not kept."""
    assert action.name is not None and action.type is not None
    old_column = existing_column(table, action.name)
    number = old_column.number
    if old_column.generated and action.expression is not None:
        raise InvalidTableDefinition(
            "cannot specify USING when altering type of generated column",
            detail=f'Column "{old_column.name}" is a generated column.',
        )
    for reader in table.columns:
        if not reader.generated or reader.dropped or reader.number == number or reader.default is None:
            continue
        if number in expressions.column_numbers_used(ddl, table, reader.default):
            raise FeatureNotSupported(
                "cannot alter type of a column used by a generated column",
                detail=f'Column "{old_column.name}" is used by generated column "{reader.name}".',
            )
    if number in [each.number for each in table.columns if each not in original.columns]:
        raise FeatureNotSupported(f'cannot alter type of column "{old_column.name}" twice')
    ddl.require_type(action.type.oid)
    refuse_itself(ddl, table.row_type_oid, action.type.oid)
    _check_row_type_unused(ddl, table)
    if table.sharding is not None and number in table.sharding.columns:
        raise FeatureNotSupported("changing the type of a shard column is not supported")
    column = replace(
        old_column,
        type_oid=action.type.oid,
        modifier=action.type.modifier,
        collation=collation_named(action.collation),
    )
    _check_conversion(old_column, column, action.expression)
    if action.expression is not None:
        _check_using(ddl, original, column, action.expression)
    for index in table.indexes:
        for each in index.columns:
            if each.column == number:
                check_key(column.type_oid, index.method, each.operator_class)
    column = _converted_default(ddl, original, old_column, column)
    new = _with_column(table, column)
    depending = [
        index for index in table.indexes if not index.is_plain and number in columns_of_index(ddl, table, index)
    ]
    new = replace(new, indexes=rebound_indexes(ddl, new, {index.storage_id for index in depending}))
    new = replace(new, statistics_objects=rebound_statistics(ddl, new))
    forget_findings(ddl, table, number)
    for check in table.checks:
        expressions.check_columns(ddl, new, check.expression)
    broken = views_broken_by(ddl, table, new)
    if broken:
        raise FeatureNotSupported(
            "cannot alter type of a column used by a view or rule",
            detail=f'rule _RETURN on view {broken[0].name} depends on column "{column.name}"',
        )
    await _check_foreign_keys(ddl, table, new, number)
    if action.expression is None and not depending and _keeps_values(old_column, column):
        return new, column, None
    return new, column, action.expression if action.expression is not None else quote(column.name)


def _check_using(ddl: DdlContext, table: Table, column: Column, expression: str) -> None:
    """What USING gives must be assignable."""
    try:
        bind.bind_expression(expression, table, ddl.view, ddl.context, expressions.column_type(column))
    except DatatypeMismatch:
        raise DatatypeMismatch(
            f'result of USING clause for column "{column.name}" cannot be cast automatically '
            f"to type {registry.format_type(column.type_oid, -1)}",
            hint="You might need to add an explicit cast.",
        ) from None
    except DatabaseError:
        return  # told with its place when the rows are computed


def _keeps_values(old: Column, new: Column) -> bool:
    """Whether every stored value is a value of the new type as it is."""
    texts = {registry.TEXT.oid, registry.VARCHAR.oid}
    if old.type_oid in texts and new.type_oid in texts:
        return new.modifier == -1 or (old.modifier != -1 and new.modifier >= old.modifier)
    if old.type_oid == new.type_oid:
        return new.modifier in (-1, old.modifier)
    return (old.type_oid, new.type_oid) in _WIDENINGS


def _check_conversion(old: Column, new: Column, using: str | None) -> None:
    if using is not None or old.type_oid == new.type_oid:
        return
    cast = functions.cast(old.type_oid, new.type_oid)
    if cast is None or cast.context == "e":
        target = registry.format_type(new.type_oid, new.modifier)
        raise DatatypeMismatch(
            f'column "{old.name}" cannot be cast automatically to type {registry.format_type(new.type_oid, -1)}',
            hint=None if old.generated else f'You might need to specify "USING {quote_if_needed(old.name)}::{target}".',
        )


def quote_if_needed(name: str) -> str:
    from pydistdb.sql.catalog.dependencies import quoted

    return quoted(name)


def _converted_default(ddl: DdlContext, table: Table, old: Column, new: Column) -> Column:
    if new.default is None:
        return new
    what = "generation expression for" if new.generated else "default for"
    try:
        if new.generated:
            target = expressions.column_type(new)
            bind.bind_expression(new.default, ddl.view.state.tables[table.oid], ddl.view, ddl.context, target)
        else:
            expressions.check_default(ddl, new.default, new)
    except DatabaseError as error:
        if error.sqlstate not in ("42804", "42846", "22P02"):
            raise
        raise DatatypeMismatch(
            f'{what} column "{old.name}" cannot be cast automatically to type {registry.format_type(new.type_oid, -1)}'
        ) from None
    return new


async def _check_foreign_keys(ddl: DdlContext, table: Table, new: Table, number: int) -> None:
    """Both sides of a foreign key must stay comparable; the key's bytes must not change under the other side."""
    state = ddl.view.state
    for key in new.foreign_keys:
        if number in key.columns:
            referenced = new if key.referenced_table == new.oid else state.tables[key.referenced_table]
            constraints.check_key_types(new, key.columns, referenced, key.referenced_columns, key.name)
    for oid in new.referenced_by:
        other = state.tables.get(oid)
        for key in other.foreign_keys if other is not None else ():
            if key.referenced_table == table.oid and number in key.referenced_columns:
                assert other is not None
                constraints.check_key_types(other, key.columns, new, key.referenced_columns, key.name)
