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
from pydistdb.sql.catalog.create_index import build_index
from pydistdb.sql.catalog.create_table import put_foreign_key
from pydistdb.sql.catalog.dependencies import described, views_broken_by
from pydistdb.sql.catalog.descriptors import ForeignKey, Index, IndexColumn, Table
from pydistdb.sql.catalog.drop_index import drop_foreign_keys, foreign_keys_using, without_index
from pydistdb.sql.catalog.drop_plan import DependentText, forget_table, report_dependents
from pydistdb.sql.catalog.garbage import index_garbage
from pydistdb.sql.catalog.naming import clip
from pydistdb.sql.catalog.queries import bind_query, first_row, full_name, quote, run_bound
from pydistdb.sql.catalog.rewrite import contains_nulls, rewrite
from pydistdb.sql.errors import (
    CheckViolation,
    DatabaseError,
    DuplicateObject,
    DuplicateTable,
    FeatureNotSupported,
    ForeignKeyViolation,
    UndefinedColumn,
    UndefinedObject,
    WrongObjectType,
)
from pydistdb.sql.exec import violations
from pydistdb.sql.pg_catalog.type_facts import is_default_class
from pydistdb.sql.schema_statements import AlterTableAction, ConstraintSpec


async def add_constraint(ddl: DdlContext, table: Table, action: AlterTableAction) -> None:
    spec = action.constraint
    assert spec is not None
    columns = spec.columns
    if spec.kind == "foreign":
        assert spec.foreign is not None
        columns = spec.foreign.columns
    for name in columns if spec.kind == "primary" else ():
        if constraints.column_named(table, name) is None:
            raise UndefinedColumn(f'column "{name}" of relation "{table.name}" does not exist')
    if spec.using_index is not None:
        await _add_using_index(ddl, table, spec)
    else:
        await add_one(ddl, table, spec, columns)


async def add_one(ddl: DdlContext, table: Table, spec: ConstraintSpec, columns: Sequence[str]) -> None:
    """Add one constraint to a table that may have rows."""
    match spec.kind:
        case "primary" if not spec.deferrable:
            await _add_primary_key(ddl, table, spec, columns)
        case "unique" | "primary":
            old = table
            table = await constraints.add_key(ddl, table, replace_spec(spec, position=None), columns)
            await _refuse_nulls(ddl, old, table)
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


async def _refuse_nulls(ddl: DdlContext, old: Table, new: Table) -> None:
    """A deferrable primary key makes its columns NOT NULL without rewriting the rows."""
    for before, column in zip(old.columns, new.columns, strict=True):
        if column.not_null and not before.not_null:
            query = f"SELECT 1 FROM {full_name(ddl, old)} WHERE {quote(column.name)} IS NULL LIMIT 1"
            if await first_row(ddl, query) is not None:
                raise contains_nulls(ddl, new, column)


async def _add_primary_key(ddl: DdlContext, table: Table, spec: ConstraintSpec, columns: Sequence[str]) -> None:
    new = await constraints.add_key(ddl, table, replace_spec(spec, position=None), columns)
    await rewrite(ddl, table, new)


async def _add_using_index(ddl: DdlContext, table: Table, spec: ConstraintSpec) -> None:
    """Make a constraint of a unique index: the index takes the constraint's name."""
    assert spec.using_index is not None
    index = _key_index(ddl, table, spec)
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
    changed = replace(index, name=name, constraint=True)
    if spec.deferrable:  # its entries must be able to stand side by side
        await _as_deferrable(ddl, table, replace(changed, deferrable=True, deferred=spec.deferred))
        return
    indexes = tuple(changed if each.oid == index.oid else each for each in table.indexes)
    ddl.put_table(replace(table, indexes=indexes, version=table.version + 1))


def _key_index(ddl: DdlContext, table: Table, spec: ConstraintSpec) -> Index:
    """The index of USING INDEX, if it can back a constraint."""
    detail = "Cannot create a primary key or unique constraint using such an index."
    index = constraints.index_named_in(table, spec.using_index or "")
    if index is None:
        raise UndefinedObject(f'index "{spec.using_index}" does not exist', position=spec.position)
    if index.constraint:
        raise DatabaseError.of(
            "55000", f'index "{index.name}" is already associated with a constraint', position=spec.position
        )
    if not index.is_readable:
        raise DatabaseError.of("55000", f'index "{index.name}" is not valid', position=spec.position)
    problem = None
    if not index.unique:
        problem = f'"{index.name}" is not a unique index'
    elif any(column.expression for column in index.columns):
        problem = f'index "{index.name}" contains expressions'
    elif index.predicate:
        problem = f'"{index.name}" is a partial index'
    if problem is not None:
        raise WrongObjectType(problem, detail=detail, position=spec.position)
    for number, column in enumerate(index.columns, 1):
        if (
            column.descending
            or column.nulls_first
            or (column.operator_class and not is_default_class(column.operator_class))
        ):
            raise WrongObjectType(
                f'index "{index.name}" column number {number} does not have default sorting behavior',
                detail=detail,
                position=spec.position,
            )
    return index


async def _as_deferrable(ddl: DdlContext, table: Table, index: Index) -> None:
    """Build the index anew with keys that end with their rows'."""
    old = next(each for each in table.indexes if each.oid == index.oid)
    index = replace(index, storage_id=table.next_index_id)
    await build_index(ddl, without_index(ddl, table, old), index)


async def _add_check(ddl: DdlContext, table: Table, spec: ConstraintSpec) -> None:
    assert spec.expression is not None
    used = expressions.check_columns(ddl, table, spec.expression)
    new = await constraints.add_check(ddl, table, spec, used)
    name = next(check.name for check in new.checks if check not in table.checks)
    if not spec.not_valid:
        await _validate_check(ddl, table, name, spec.expression)
    ddl.put_table(replace(new, version=new.version + 1))


async def _validate_check(ddl: DdlContext, table: Table, name: str, expression: str) -> None:
    """Look for a row that breaks the condition."""
    query = f"SELECT 1 FROM {full_name(ddl, table)} WHERE NOT ({expression}) LIMIT 1"
    if await first_row(ddl, query) is not None:
        raise CheckViolation(
            f'check constraint "{name}" of relation "{table.name}" is violated by some row',
            schema=violations.schema_name(ddl.view, table),
            table=table.name,
            constraint=name,
        )


async def _add_foreign_key(ddl: DdlContext, table: Table, spec: ConstraintSpec, columns: Sequence[str]) -> None:
    table = await put_foreign_key(ddl, table, spec, columns)
    key = table.foreign_keys[-1]
    referenced = ddl.view.state.tables[key.referenced_table]
    if key.validated:
        await validate_foreign_key(ddl, table, referenced, key)
    table = ddl.view.state.tables[table.oid]
    ddl.put_table(replace(table, version=table.version + 1))


async def validate_foreign_key(ddl: DdlContext, table: Table, referenced: Table, key: ForeignKey) -> None:
    """Look for a row whose key is not there, or not whole where it must be."""
    own = [constraints.column_numbered(table, number) for number in key.columns]
    if key.match_full and len(own) > 1:
        nulls = [f"{quote(column.name)} IS NULL" for column in own]
        mixed = f"({' OR '.join(nulls)}) AND NOT ({' AND '.join(nulls)})"
        if await first_row(ddl, f"SELECT 1 FROM {full_name(ddl, table)} WHERE {mixed} LIMIT 1") is not None:
            raise violations.mixed_key(ddl.view, table, key)
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
                schema=violations.schema_name(ddl.view, table),
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
    dependents = [
        DependentText(key.oid, f"constraint {key.name} on {described(ddl, other)}", f"index {index.name}")
        for other, key in users
    ]
    # GROUP BY of a primary key lets a view have the other columns.
    without = [replace(each, primary=False) if each.oid == index.oid else each for each in table.indexes]
    views = views_broken_by(ddl, table, replace(table, indexes=tuple(without))) if index.primary else []
    dependents += [DependentText(view.oid, described(ddl, view), what) for view in views]
    if dependents:
        report_dependents(ddl, dependents, cascade, [what])
        await ddl.ddl.lock_tables([*(other.oid for other, _ in users), *(view.oid for view in views)])
        drop_foreign_keys(ddl, users)
        for view in views:
            if view.oid in ddl.view.state.tables:
                ddl.apply(forget_table(ddl, view))
        table = ddl.view.state.tables[table.oid]
    if index.storage_id == table.indexes[0].storage_id:
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


async def validate_constraint(ddl: DdlContext, table: Table, action: AlterTableAction) -> None:
    """Check the rows that a NOT VALID constraint has spared."""
    name = action.name
    check = next((check for check in table.checks if check.name == name), None)
    if check is not None:
        if not check.validated:
            await _validate_check(ddl, table, check.name, check.expression)
            checks = tuple(replace(each, validated=True) if each is check else each for each in table.checks)
            ddl.put_table(replace(table, checks=checks, version=table.version + 1))
        return
    key = next((key for key in table.foreign_keys if key.name == name), None)
    if key is not None:
        if not key.validated:
            await validate_foreign_key(ddl, table, ddl.view.state.tables[key.referenced_table], key)
            _replace_key(ddl, table, replace(key, validated=True))
        return
    if name in constraints.constraint_names(table):
        raise WrongObjectType(
            f'constraint "{name}" of relation "{table.name}" is not a foreign key or check constraint'
        )
    raise UndefinedObject(f'constraint "{name}" of relation "{table.name}" does not exist')


def alter_constraint(ddl: DdlContext, table: Table, action: AlterTableAction) -> None:
    """ALTER CONSTRAINT: when a foreign key is checked."""
    name, spec = action.name, action.constraint
    assert spec is not None
    key = next((key for key in table.foreign_keys if key.name == name), None)
    if key is None:
        if name in constraints.constraint_names(table):
            raise WrongObjectType(f'constraint "{name}" of relation "{table.name}" is not a foreign key constraint')
        raise UndefinedObject(f'constraint "{name}" of relation "{table.name}" does not exist')
    _replace_key(ddl, table, replace(key, deferrable=spec.deferrable, deferred=spec.deferred))


def _replace_key(ddl: DdlContext, table: Table, key: ForeignKey) -> None:
    keys = tuple(key if each.oid == key.oid else each for each in table.foreign_keys)
    ddl.put_table(replace(table, foreign_keys=keys, version=table.version + 1))
