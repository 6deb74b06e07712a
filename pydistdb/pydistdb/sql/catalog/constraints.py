"""Adding constraints and indexes to a table descriptor.

Every function takes the descriptor and returns the next one; whether existing rows obey, and filling new indexes, is
the caller's business (create_table.py has no rows, alter_table.py validates).

A hash-sharded table whose primary key lacks a shard column keeps its rows under the hash of the shard columns, so its
primary index alone would allow two rows of one key under different hashes.  A second, global unique index over the key
keeps it unique across the cluster and finds rows by the key alone.  It bears the primary key's name (for error messages)
and oid 0: users do not see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from pydistdb.sql.catalog.acl import REFERENCES
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.descriptors import Check, Column, ForeignKey, Index, IndexColumn, Table
from pydistdb.sql.catalog.naming import choose, join_columns
from pydistdb.sql.catalog.needs import permission_denied
from pydistdb.sql.catalog.qualify import qualified_text
from pydistdb.sql.errors import (
    DatabaseError,
    DatatypeMismatch,
    DuplicateColumn,
    DuplicateObject,
    DuplicateTable,
    FeatureNotSupported,
    InvalidColumnReference,
    InvalidForeignKey,
    InvalidTableDefinition,
    ProgramLimitExceeded,
    UndefinedColumn,
    UndefinedFunction,
    UndefinedObject,
    UndefinedTable,
    WrongObjectType,
)
from pydistdb.sql.functions.registry import cast
from pydistdb.sql.pg_catalog.type_facts import operator_class
from pydistdb.sql.schema_statements import ConstraintSpec
from pydistdb.sql.types import registry
from pydistdb.sql.types.composite import unordered_part
from pydistdb.sql.types.domains import base_oid

SYSTEM_COLUMNS = frozenset({"tableoid", "cmax", "xmax", "cmin", "xmin", "ctid"})
PRIMARY_STORAGE_ID = 1
MOST_INDEX_COLUMNS = 32
MOST_INDEXES = 500


def column_named(table: Table, name: str) -> Column | None:
    for column in table.columns:
        if column.name == name and not column.dropped:
            return column
    return None


def column_numbered(table: Table, number: int) -> Column:
    return next(column for column in table.columns if column.number == number)


def constraint_names(table: Table) -> set[str]:
    """The names of all constraints of a table."""
    names = {check.name for check in table.checks} | {key.name for key in table.foreign_keys}
    return names | {index.name for index in table.indexes if index.oid and index.constraint}


def index_named_in(table: Table, name: str) -> Index | None:
    return next((index for index in table.indexes if index.oid and index.name == name), None)


def relation_name_taken(ddl: DdlContext, table: Table, name: str) -> bool:
    """Tell whether a relation of the table's schema has the name, the draft ``table``'s own indexes included."""
    return (
        name == table.name
        or ddl.view.is_name_taken(table.schema, name)
        or index_named_in(table, name) is not None
        or name in constraint_names(table)
    )


def check_constraint_name(table: Table, name: str) -> None:
    if name in constraint_names(table):
        raise DuplicateObject(f'constraint "{name}" for relation "{table.name}" already exists')


# ---------------------------------------------------------------------------------------------------- unique, primary


def key_columns(
    table: Table, names: Sequence[str], what: str, *, check_types: bool = True, position: int | None = None
) -> list[Column]:
    """The columns of a key; ``what`` is 'primary key', 'unique' or 'index'."""
    columns: list[Column] = []
    for name in names:
        column = column_named(table, name)
        if column is None:
            raise UndefinedColumn(f'column "{name}" named in key does not exist', position=position)
        if column in columns:
            raise DuplicateColumn(f'column "{name}" appears twice in {what} constraint', position=position)
        columns.append(column)
    for column in columns if check_types else ():
        check_indexable(column)
    if len(columns) > MOST_INDEX_COLUMNS:
        raise ProgramLimitExceeded(f"cannot use more than {MOST_INDEX_COLUMNS} columns in an index")
    return columns


def check_indexable(column: Column) -> None:
    check_key_type(column.type_oid)


def check_key_type(type_oid: int) -> None:
    """Raise unless values of the type can be index keys.

    Postgres finds out only when it compares the first values that an array or row has a part that has no order."""
    part = unordered_part(type_oid)
    if part is not None and part != type_oid:
        name = registry.format_type(part, -1)
        raise UndefinedFunction(f"could not identify a comparison function for type {name}")
    if registry.io(type_oid).key_kind is None:
        name = registry.format_type(type_oid, -1)
        if operator_class(type_oid):
            raise FeatureNotSupported(f"type {name} cannot be an index key")
        raise no_operator_class(name, "btree")


def no_operator_class(type_name: str, method: str) -> UndefinedObject:
    return UndefinedObject(
        f'data type {type_name} has no default operator class for access method "{method}"',
        hint="You must specify an operator class for the index or define a default operator class for the data type.",
    )


async def add_index(
    ddl: DdlContext,
    table: Table,
    name: str,
    columns: Sequence[IndexColumn],
    *,
    unique: bool = False,
    constraint: bool = False,
    hidden: bool = False,
    is_global: bool | None = None,
    **more: Any,
) -> Table:
    """The table with one more secondary index; ``more``: other fields of the descriptor."""
    if len(table.indexes) >= MOST_INDEXES:
        raise ProgramLimitExceeded(f"a table can have at most {MOST_INDEXES} indexes")
    if is_global is None:
        numbers = {column.column for column in columns}
        is_global = table.sharding is None or (unique and not numbers.issuperset(table.sharding.columns))
    oid = 0 if hidden else await ddl.store.allocate_oids()
    index = Index(oid, name, table.next_index_id, tuple(columns), unique, False, constraint, is_global)
    if more:
        index = replace(index, **more)
    return replace(table, indexes=(*table.indexes, index), next_index_id=table.next_index_id + 1)


async def add_key(ddl: DdlContext, table: Table, spec: ConstraintSpec, columns: Sequence[str]) -> Table:
    """The table with a UNIQUE constraint, or the PRIMARY KEY of a table that has no rows yet."""
    primary = spec.kind == "primary"
    if primary and any(index.primary for index in table.indexes):
        raise InvalidTableDefinition(
            f'multiple primary keys for table "{table.name}" are not allowed', position=spec.position
        )
    keyed = key_columns(table, columns, "primary key" if primary else "unique", position=spec.position)
    name = spec.name
    if name is None:
        parts = [table.name] if primary else [table.name, join_columns([*columns, *spec.include])]
        name = choose(parts, "pkey" if primary else "key", lambda n: relation_name_taken(ddl, table, n))
    else:
        if ddl.view.is_name_taken(table.schema, name) or index_named_in(table, name) or name == table.name:
            raise DuplicateTable(f'relation "{name}" already exists')
        check_constraint_name(table, name)
    index_columns = tuple(IndexColumn(column.number) for column in keyed)
    include = tuple(column.number for column in key_columns(table, spec.include, "included", check_types=False))
    if primary:
        numbers = {column.number for column in keyed}
        not_null = tuple(replace(c, not_null=True) if c.number in numbers else c for c in table.columns)
        table = replace(table, columns=not_null)
    if not primary or spec.deferrable:
        # Rows keyed by a deferrable primary key could not share it for a moment: they keep their hidden ids.
        return await add_index(
            ddl,
            table,
            name,
            index_columns,
            unique=True,
            constraint=True,
            primary=primary,
            include=include,
            nulls_not_distinct=spec.nulls_not_distinct,
            deferrable=spec.deferrable,
            deferred=spec.deferred,
        )
    oid = await ddl.store.allocate_oids()
    first = Index(
        oid, name, PRIMARY_STORAGE_ID, index_columns, True, True, True, table.sharding is None, include=include
    )
    table = replace(table, indexes=(first, *table.indexes[1:]))
    return await guard_primary_key(ddl, table)


async def guard_primary_key(ddl: DdlContext, table: Table) -> Table:
    """With the global unique index that a primary key without the shard columns needs."""
    first = table.indexes[0]
    if table.sharding is None or not first.primary:
        return table
    if {column.column for column in first.columns}.issuperset(table.sharding.columns):
        return table
    return await add_index(ddl, table, first.name, first.columns, unique=True, hidden=True, is_global=True)


# ---------------------------------------------------------------------------------------------------- checks


async def add_check(ddl: DdlContext, table: Table, spec: ConstraintSpec, column_names: Sequence[str]) -> Table:
    """The table with a CHECK constraint; ``column_names`` are the columns its expression uses."""
    assert spec.expression is not None
    if spec.name is not None:
        check_constraint_name(table, spec.name)
        name = spec.name
    else:
        parts = [table.name, *column_names] if len(column_names) == 1 else [table.name]
        name = choose(parts, "check", constraint_names(table).__contains__)
    oid = await ddl.store.allocate_oids()
    # Rows are checked in the order of the names, as in Postgres.
    checks = sorted(
        (
            *table.checks,
            Check(oid, name, qualified_text(ddl.view, spec.expression), not spec.not_valid, spec.no_inherit),
        ),
        key=lambda check: check.name,
    )
    return replace(table, checks=tuple(checks))


# ---------------------------------------------------------------------------------------------------- foreign keys


async def add_foreign_key(
    ddl: DdlContext, table: Table, spec: ConstraintSpec, columns: Sequence[str]
) -> tuple[Table, Table]:
    """The table with a FOREIGN KEY, and the referenced table that knows of it (maybe the same one)."""
    foreign = spec.foreign
    assert foreign is not None
    same = foreign.referenced.name == table.name and foreign.referenced.schema in (
        None,
        ddl.view.state.schemas[table.schema].name,
    )
    referenced = table if same else ddl.find(foreign.referenced, "rv")
    if referenced is None:
        raise UndefinedTable(f'relation "{ddl.written(foreign.referenced)}" does not exist')
    if referenced.kind != "r":
        raise WrongObjectType(f'referenced relation "{referenced.name}" is not a table')
    numbers = _foreign_columns(table, columns)
    referenced_numbers = _referenced_columns(referenced, foreign.referenced_columns)
    if not same:
        _check_references(ddl, referenced, referenced_numbers)
    if len(numbers) != len(referenced_numbers):
        raise InvalidForeignKey("number of referencing and referenced columns for foreign key disagree")
    if spec.name is not None:
        check_constraint_name(table, spec.name)
        name = spec.name
    else:
        name = choose([table.name, join_columns(columns)], "fkey", constraint_names(table).__contains__)
    check_key_types(table, numbers, referenced, referenced_numbers, name)
    oid = await ddl.store.allocate_oids()
    key = ForeignKey(
        oid,
        name,
        tuple(numbers),
        referenced.oid,
        tuple(referenced_numbers),
        foreign.on_delete,
        foreign.on_update,
        foreign.match_full,
        spec.deferrable,
        spec.deferred,
        not spec.not_valid,
        _delete_columns(table, numbers, foreign.delete_columns),
    )
    table = replace(table, foreign_keys=(*table.foreign_keys, key))
    if same:
        referenced = table
    if table.oid not in referenced.referenced_by:
        referenced = replace(referenced, referenced_by=(*referenced.referenced_by, table.oid))
    return (referenced, referenced) if same else (table, referenced)


def _check_references(ddl: DdlContext, referenced: Table, numbers: Sequence[int]) -> None:
    """A foreign key restricts what its target may do: it takes the REFERENCES privilege on the columns."""
    role, access = ddl.view.role, ddl.view.access
    if role is not None and not all(access.has_column(role, referenced.oid, number, REFERENCES) for number in numbers):
        raise permission_denied("table", referenced.name)


def _foreign_columns(table: Table, names: Sequence[str]) -> list[int]:
    numbers = []
    for name in names:
        column = column_named(table, name)
        if column is None and name in SYSTEM_COLUMNS:
            raise FeatureNotSupported("system columns cannot be used in foreign keys")
        if column is None:
            raise UndefinedColumn(f'column "{name}" referenced in foreign key constraint does not exist')
        numbers.append(column.number)
    return numbers


def _delete_columns(table: Table, key: Sequence[int], names: Sequence[str]) -> tuple[int, ...]:
    """The columns of ON DELETE SET NULL (…)."""
    numbers = _foreign_columns(table, names)
    for name, number in zip(names, numbers, strict=True):
        if number not in key:
            raise InvalidColumnReference(
                f'column "{name}" referenced in ON DELETE SET action must be part of foreign key'
            )
    return tuple(dict.fromkeys(numbers))


def _referenced_columns(referenced: Table, names: Sequence[str]) -> list[int]:
    """The referenced key: the columns given, which must be a key, or the primary key."""
    if not names:
        key = next((index for index in referenced.indexes if index.primary), None)
        if key is None:
            raise UndefinedObject(f'there is no primary key for referenced table "{referenced.name}"')
        if key.deferrable:
            raise DatabaseError.of(
                "55000", f'cannot use a deferrable primary key for referenced table "{referenced.name}"'
            )
        return [column.column for column in key.columns]
    numbers = _foreign_columns(referenced, names)
    if len(set(numbers)) != len(numbers):
        raise InvalidForeignKey("foreign key referenced-columns list must not contain duplicates")
    for index in referenced.indexes:
        columns = sorted(column.column for column in index.columns)
        if index.unique and index.is_plain and index.is_readable and columns == sorted(numbers):
            if index.deferrable:
                raise DatabaseError.of(
                    "55000",
                    f'cannot use a deferrable unique constraint for referenced table "{referenced.name}"',
                )
            return numbers
    raise InvalidForeignKey(
        f'there is no unique constraint matching given keys for referenced table "{referenced.name}"'
    )


_MOMENTS = frozenset({registry.DATE.oid, registry.TIMESTAMP.oid, registry.TIMESTAMPTZ.oid})


def check_key_types(
    table: Table, numbers: Sequence[int], referenced: Table, referenced_numbers: Sequence[int], name: str
) -> None:
    for number, referenced_number in zip(numbers, referenced_numbers, strict=True):
        left, right = column_numbered(table, number), column_numbered(referenced, referenced_number)
        oids = base_oid(left.type_oid), base_oid(right.type_oid)
        if left.type_oid == right.type_oid or _comparable(*oids) or _crosses(*oids):
            continue
        raise DatatypeMismatch(
            f'foreign key constraint "{name}" cannot be implemented',
            detail=f'Key columns "{left.name}" and "{right.name}" are of incompatible types: '
            f"{registry.format_type(left.type_oid)} and {registry.format_type(right.type_oid)}.",
        )


def _comparable(left: int, right: int) -> bool:
    """Tell whether the key codecs agree; enums, arrays and rows must be of the very same type."""
    kinds = registry.io(left).key_kind, registry.io(right).key_kind
    categories = registry.type_by_oid(left).category, registry.type_by_oid(right).category
    return (
        kinds[0] == kinds[1] and kinds[0] is not None and categories[0] == categories[1] and categories[0] not in "ACDE"
    )


def _crosses(left: int, right: int) -> bool:
    """Whether Postgres compares the two by an operator of their own, or by an implicit cast (exec/foreign_values.py)."""
    implicit = cast(left, right)
    return (implicit is not None and implicit.context == "i") or {left, right} <= _MOMENTS
