"""ALTER TABLE actions on constraints, and what they do to the rows that are there.

* PRIMARY KEY: rows are keyed by it, so the table gets new storage; the same when it is dropped (a hidden row id then
  takes its place).
* UNIQUE: an index is built; duplicates stop it.
* CHECK, FOREIGN KEY: a query looks for a row that violates it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace as replace_spec

from msgspec.structs import replace

from pydistdb.sql.catalog import constraints, expressions
from pydistdb.sql.catalog.backfill import describe_key, fill_index
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.create_table import put_foreign_key
from pydistdb.sql.catalog.dependencies import described
from pydistdb.sql.catalog.descriptors import ForeignKey, Index, IndexColumn, Table
from pydistdb.sql.catalog.drop import (
    drop_foreign_keys,
    foreign_keys_using,
    report_dependents,
    without_index,
)
from pydistdb.sql.catalog.garbage import index_garbage
from pydistdb.sql.catalog.naming import clip
from pydistdb.sql.catalog.queries import bind_query, first_row, full_name, quote, run_bound
from pydistdb.sql.catalog.rewrite import rewrite
from pydistdb.sql.errors import (
    CheckViolation,
    DuplicateObject,
    DuplicateTable,
    FeatureNotSupported,
    ForeignKeyViolation,
    InvalidTableDefinition,
    UndefinedObject,
    WrongObjectType,
)
from pydistdb.sql.statements import AlterTableAction, ConstraintSpec


async def add_constraint(ddl: DdlContext, table: Table, action: AlterTableAction) -> None:
    spec = action.constraint
    assert spec is not None
    columns = spec.columns
    if spec.kind == "foreign":
        assert spec.foreign is not None
        columns = spec.foreign.columns
    if spec.using_index is not None:
        await _add_using_index(ddl, table, spec)
    else:
        await add_one(ddl, table, spec, columns)


async def add_one(ddl: DdlContext, table: Table, spec: ConstraintSpec, columns: Sequence[str]) -> None:
    """Add one constraint to a table that may have rows."""
    if spec.not_valid:
        raise FeatureNotSupported("NOT VALID constraints are not supported")
    match spec.kind:
        case "primary":
            await _add_primary_key(ddl, table, spec, columns)
        case "unique":
            table = await constraints.add_key(ddl, table, spec, columns)
            table = replace(table, version=table.version + 1)
            index = table.indexes[-1]
            ddl.ddl.overlay.made_storage.append(index_garbage(table, index))
            await fill_index(ddl, table, index)
            ddl.put_table(table)
        case "check":
            await _add_check(ddl, table, spec)
        case "foreign":
            await _add_foreign_key(ddl, table, spec, columns)
        case _:
            raise FeatureNotSupported(f"{spec.kind} constraints are not supported")


async def _add_primary_key(ddl: DdlContext, table: Table, spec: ConstraintSpec, columns: Sequence[str]) -> None:
    new = await constraints.add_key(ddl, table, spec, columns)
    await rewrite(ddl, table, new)


async def _add_using_index(ddl: DdlContext, table: Table, spec: ConstraintSpec) -> None:
    """Make a constraint of a unique index: the index takes the constraint's name."""
    assert spec.using_index is not None
    index = constraints.index_named_in(table, spec.using_index)
    if index is None:
        raise UndefinedObject(f'index "{spec.using_index}" does not exist')
    if not index.unique:
        raise WrongObjectType(f'"{index.name}" is not a unique index')
    if index.constraint:
        raise InvalidTableDefinition(f'index "{index.name}" is already associated with a constraint')
    name = clip(spec.name) if spec.name is not None else index.name
    if name != index.name:
        if ddl.view.is_name_taken(table.schema, name):
            raise DuplicateTable(f'relation "{name}" already exists')
        ddl.tell(f'ALTER TABLE / ADD CONSTRAINT USING INDEX will rename index "{index.name}" to "{name}"', "00000")
    if spec.kind == "primary":
        names = tuple(constraints.column_numbered(table, column.column).name for column in index.columns)
        table = without_index(ddl, table, index)
        ddl.put_table(table)
        await _add_primary_key(ddl, table, replace_spec(spec, name=name, using_index=None), names)
        return
    indexes = tuple(
        replace(each, name=name, constraint=True) if each.oid == index.oid else each for each in table.indexes
    )
    ddl.put_table(replace(table, indexes=indexes, version=table.version + 1))


async def _add_check(ddl: DdlContext, table: Table, spec: ConstraintSpec) -> None:
    assert spec.expression is not None
    used = expressions.check_columns(ddl, table, spec.expression)
    new = await constraints.add_check(ddl, table, spec, used)
    name = next(check.name for check in new.checks if check not in table.checks)
    query = f"SELECT 1 FROM {full_name(ddl, table)} WHERE NOT ({spec.expression}) LIMIT 1"
    if await first_row(ddl, query) is not None:
        raise CheckViolation(
            f'check constraint "{name}" of relation "{table.name}" is violated by some row',
            table=table.name,
            constraint=name,
        )
    ddl.put_table(replace(new, version=new.version + 1))


async def _add_foreign_key(ddl: DdlContext, table: Table, spec: ConstraintSpec, columns: Sequence[str]) -> None:
    table = await put_foreign_key(ddl, table, spec, columns)
    key = table.foreign_keys[-1]
    referenced = ddl.view.state.tables[key.referenced_table]
    await validate_foreign_key(ddl, table, referenced, key)
    table = ddl.view.state.tables[table.oid]
    ddl.put_table(replace(table, version=table.version + 1))


async def validate_foreign_key(ddl: DdlContext, table: Table, referenced: Table, key: ForeignKey) -> None:
    """Look for a row whose key is not there."""
    own = [constraints.column_numbered(table, number) for number in key.columns]
    theirs = [constraints.column_numbered(referenced, number) for number in key.referenced_columns]
    pairs = [f"f.{quote(a.name)} = p.{quote(b.name)}" for a, b in zip(own, theirs, strict=True)]
    present = [f"f.{quote(column.name)} IS NOT NULL" for column in own]
    query = bind_query(
        ddl,
        f"SELECT {', '.join(f'f.{quote(column.name)}' for column in own)} FROM {full_name(ddl, table)} f "
        f"WHERE {' AND '.join(present)} AND NOT EXISTS "
        f"(SELECT 1 FROM {full_name(ddl, referenced)} p WHERE {' AND '.join(pairs)}) LIMIT 1",
    )
    async for batch in run_bound(ddl, query):
        for values in batch:
            row = [None] * max(column.number for column in table.columns)
            for column, value in zip(own, values, strict=True):
                row[column.number - 1] = value
            raise ForeignKeyViolation(
                f'insert or update on table "{table.name}" violates foreign key constraint "{key.name}"',
                detail=f'Key {describe_key(ddl, table, key.columns, row)} is not present in table "{referenced.name}".',
                table=table.name,
                constraint=key.name,
            )


# ---------------------------------------------------------------------------------------------------- drop


async def drop_constraint(ddl: DdlContext, table: Table, action: AlterTableAction) -> None:
    name = action.name
    assert name is not None
    index = next((i for i in table.indexes if i.oid and i.constraint and i.name == name), None)
    if index is not None:
        await _drop_key(ddl, table, index, action.cascade)
        return
    if any(check.name == name for check in table.checks):
        left = tuple(check for check in table.checks if check.name != name)
        ddl.put_table(replace(table, checks=left, version=table.version + 1))
        return
    key = next((key for key in table.foreign_keys if key.name == name), None)
    if key is not None:
        await ddl.ddl.lock_tables([key.referenced_table])
        drop_foreign_keys(ddl, [(table, key)])
        return
    message = f'constraint "{name}" of relation "{table.name}" does not exist'
    if not action.missing_ok:
        raise UndefinedObject(message)
    ddl.tell(message + ", skipping", "00000")


async def _drop_key(ddl: DdlContext, table: Table, index: Index, cascade: bool) -> None:
    what = f"constraint {index.name} on {described(ddl, table)}"
    users = foreign_keys_using(ddl, table, index)
    if users:
        dependents = [
            (f"constraint {key.name} on {described(ddl, other)}", f"index {index.name}") for other, key in users
        ]
        report_dependents(ddl, dependents, cascade, [what])
        await ddl.ddl.lock_tables([other.oid for other, _ in users])
        drop_foreign_keys(ddl, users)
        table = ddl.view.state.tables[table.oid]
    if index.primary:
        ddl.put_table(await drop_primary_key(ddl, table))
    else:
        ddl.put_table(without_index(ddl, table, index))


async def drop_primary_key(ddl: DdlContext, table: Table) -> Table:
    """The table keyed by hidden row ids instead of its primary key (columns stay NOT NULL, as in Postgres)."""
    first = table.indexes[0]
    hidden = Index(0, "", constraints.PRIMARY_STORAGE_ID, (IndexColumn(0),))
    others = tuple(index for index in table.indexes[1:] if index.oid or index.name != first.name)
    return await rewrite(ddl, table, replace(table, indexes=(hidden, *others)))


# ---------------------------------------------------------------------------------------------------- rename, validate


def rename_constraint(ddl: DdlContext, table: Table, action: AlterTableAction) -> None:
    from pydistdb.sql.catalog.alter_table import rename_index

    old, new = action.name, clip(action.new_name or "")
    if old not in constraints.constraint_names(table):
        raise UndefinedObject(f'constraint "{old}" for table "{table.name}" does not exist')
    if new in constraints.constraint_names(table):
        raise DuplicateObject(f'constraint "{new}" for relation "{table.name}" already exists')
    index = next((i for i in table.indexes if i.oid and i.constraint and i.name == old), None)
    if index is not None:
        if ddl.view.is_name_taken(table.schema, new):
            raise DuplicateTable(f'relation "{new}" already exists')
        ddl.put_table(rename_index(table, index, new))
        return
    renamed = (replace(check, name=new) if check.name == old else check for check in table.checks)
    checks = tuple(sorted(renamed, key=lambda check: check.name))
    foreign_keys = tuple(replace(key, name=new) if key.name == old else key for key in table.foreign_keys)
    ddl.put_table(replace(table, checks=checks, foreign_keys=foreign_keys, version=table.version + 1))


def validate_constraint(table: Table, action: AlterTableAction) -> None:
    """Every constraint is valid here: there is nothing to do if it exists."""
    if action.name not in constraints.constraint_names(table):
        raise UndefinedObject(f'constraint "{action.name}" of relation "{table.name}" does not exist')
