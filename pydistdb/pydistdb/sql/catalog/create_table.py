"""CREATE TABLE: from the statement's column and constraint specifications to a descriptor.

Constraints are added in Postgres's order (primary key, unique, checks, foreign keys), so that chosen names and oids come
out alike.  Nothing is written here but the transaction's overlay, except the split points of a new colocation group.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from pydistdb.sql import bind
from pydistdb.sql.catalog import constraints, expressions, sequences, sharding, temporary
from pydistdb.sql.catalog.constraints import SYSTEM_COLUMNS
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.descriptors import Column, Index, IndexColumn, Schema, Table
from pydistdb.sql.catalog.garbage import dropped_garbage
from pydistdb.sql.catalog.naming import clip
from pydistdb.sql.catalog.options import STORAGE_PARAMETERS, checked_options, collation_named
from pydistdb.sql.catalog.qualify import qualified_text
from pydistdb.sql.catalog.storage_settings import checked_compression
from pydistdb.sql.catalog.table_like import copy_the_rest, likeness
from pydistdb.sql.catalog.type_names import refuse_type_of_that_name
from pydistdb.sql.errors import (
    DatabaseError,
    DuplicateColumn,
    DuplicateTable,
    FeatureNotSupported,
    InsufficientPrivilege,
    InvalidTableDefinition,
)
from pydistdb.sql.schema_statements import ColumnSpec, ConstraintSpec, CreateTable
from pydistdb.sql.statements import Name
from pydistdb.sql.types import registry

MOST_COLUMNS = 1_600


async def create_table(ddl: DdlContext, statement: CreateTable) -> str:
    options = checked_options(statement.options.items(), STORAGE_PARAMETERS)
    try:
        schema = await temporary.place(ddl, statement.name, statement.temporary)
    except InsufficientPrivilege as error:
        if error.detail is None:  # Postgres points at the name where the schema is closed, not where it is the system's
            error.position = statement.name.position
        raise
    check_on_commit(schema, statement.on_commit)
    if already_exists(ddl, schema, statement.name, statement.if_not_exists):
        return "CREATE TABLE"
    like = likeness(ddl, statement)
    specs = like.columns
    table = await new_table(ddl, schema, statement.name.name, specs)
    table = replace(
        table,
        on_commit=statement.on_commit,
        options=options,
        persistence="u" if statement.unlogged and table.persistence == "p" else table.persistence,
    )
    temporary.note_commit_action(ddl, table)
    if statement.shard_by is not None:
        if table.persistence == "t":
            raise FeatureNotSupported("temporary tables cannot be sharded")
        table = await sharding.shard(ddl, table, statement.shard_by)
    table = await add_constraints(ddl, table, specs, [*like.constraints, *statement.constraints])
    await copy_the_rest(ddl, table, like)
    return "CREATE TABLE"


def check_on_commit(schema: Schema, on_commit: str) -> None:
    if on_commit and not temporary.is_temporary(schema):
        raise InvalidTableDefinition("ON COMMIT can only be used on temporary tables")


def already_exists(ddl: DdlContext, schema: Schema, name: Name, if_not_exists: bool) -> bool:
    """Whether the name is taken, which is an error unless IF NOT EXISTS (then: a notice)."""
    if not ddl.view.is_name_taken(schema.oid, clip(name.name)):
        refuse_type_of_that_name(ddl, schema.oid, clip(name.name))
        return False
    message = f'relation "{clip(name.name)}" already exists'
    if not if_not_exists:
        raise DuplicateTable(message)
    ddl.tell(message + ", skipping", "42P07")
    return True


async def new_table(ddl: DdlContext, schema: Schema, name: str, specs: Sequence[ColumnSpec], kind: str = "r") -> Table:
    """A table with these columns and a hidden row id, known to nobody yet."""
    first_oid = await ddl.store.allocate_oids(3)  # the table, its row type and the array of that
    if len(specs) > MOST_COLUMNS:
        raise DatabaseError.of("54011", f"tables can have at most {MOST_COLUMNS} columns")
    names: set[str] = set()
    columns = []
    for number, spec in enumerate(specs, 1):
        column = make_column(spec, number, is_stored=kind != "v")
        ddl.require_type(column.type_oid)
        if column.name in names:
            raise DuplicateColumn(f'column "{column.name}" specified more than once')
        names.add(column.name)
        columns.append(column)
    table = Table(
        oid=first_oid,
        name=clip(name),
        schema=schema.oid,
        database=ddl.database_oid,
        columns=tuple(columns),
        indexes=(Index(0, "", constraints.PRIMARY_STORAGE_ID, (IndexColumn(0),)),) if kind in ("r", "m") else (),
        storage_id=first_oid,
        kind=kind,
        row_type_oid=first_oid + 1,
        owner=ddl.role,
        persistence="t" if temporary.is_temporary(schema) else "p",
    )
    return table


def make_column(spec: ColumnSpec, number: int, is_stored: bool = True) -> Column:
    """The column without its default (which needs the catalog to be checked)."""
    name = clip(spec.name)
    if is_stored and name in SYSTEM_COLUMNS:
        raise DuplicateColumn(f'column name "{name}" conflicts with a system column name', position=spec.position)
    if spec.type.category in "PX" and spec.type.oid != registry.UNKNOWN.oid:
        raise InvalidTableDefinition(f'column "{name}" has pseudo-type {spec.type.name}')
    if spec.type.oid == registry.UNKNOWN.oid:
        raise InvalidTableDefinition(f'column "{name}" has pseudo-type unknown')
    collation = collation_named(spec.collation)
    registry.io(spec.type.oid)  # a type that cannot be stored says so here
    return Column(
        number,
        name,
        spec.type.oid,
        spec.type.modifier,
        spec.not_null,
        collation=collation,
        storage=spec.storage,
        compression=checked_compression(name, spec.type.oid, spec.compression),
    )


def _tell(ddl: DdlContext, what: str, part: str = "") -> None:
    """What a CREATE TABLE makes beside the table, for who wants to hear it (client_min_messages = debug1)."""
    ddl.tell(f"CREATE TABLE{part} will create {what}", severity="DEBUG1")


def as_valid(spec: ConstraintSpec) -> ConstraintSpec:
    """NOT VALID says nothing of a new table: it has no rows that could break the constraint."""
    return dataclasses.replace(spec, not_valid=False)


async def add_constraints(
    ddl: DdlContext, table: Table, specs: Sequence[ColumnSpec], table_constraints: Sequence[ConstraintSpec]
) -> Table:
    """Finish a new table: sequences and defaults, then all constraints; puts it into the overlay."""
    table, owned = await with_defaults(ddl, table, specs)
    for sequence, column in zip(owned, [each for each in specs if each.serial or each.identity], strict=True):
        _tell(ddl, f'implicit sequence "{sequence.name}" for serial column "{table.name}.{clip(column.name)}"')
    every = list(all_constraints(specs, table_constraints))
    for kind in ("primary", "unique"):
        for spec, columns in every:
            if spec.kind == kind:
                if spec.using_index is not None:
                    raise InvalidTableDefinition("cannot use an existing index in CREATE TABLE")
                before = table.indexes
                table = await constraints.add_key(ddl, table, spec, columns)
                name = next(index.name for index in table.indexes if index.oid and index not in before)
                key = "PRIMARY KEY" if kind == "primary" else "UNIQUE"
                _tell(ddl, f'implicit index "{name}" for table "{table.name}"', f" / {key}")
    for spec, _ in every:
        if spec.kind == "check":
            assert spec.expression is not None
            used = expressions.check_columns(ddl, table, spec.expression)
            table = await constraints.add_check(ddl, table, as_valid(spec), used)
    ddl.put_table(table, *owned)
    for garbage in dropped_garbage(table, ddl.view.state.tables.values()):
        ddl.ddl.made_storage(garbage, table.storage_id)
    for spec, columns in every:
        if spec.kind == "foreign":
            table = await put_foreign_key(ddl, table, as_valid(spec), columns)
    return table


async def put_foreign_key(ddl: DdlContext, table: Table, spec: ConstraintSpec, columns: Sequence[str]) -> Table:
    """Add a foreign key to a table of the overlay; the referenced table is locked and changed as well."""
    assert spec.foreign is not None
    target = ddl.find(spec.foreign.referenced, "rv")
    if target is not None:
        _check_persistence(table, target)
        await ddl.locked_table(spec.foreign.referenced, "rv")
    table, referenced = await constraints.add_foreign_key(ddl, table, spec, columns)
    if referenced.oid != table.oid:
        ddl.put_table(replace(referenced, version=referenced.version))
    ddl.put_table(table)
    return table


_MAY_REFER_TO = {
    "p": ("p", "permanent tables"),
    "u": ("pu", "permanent or unlogged tables"),
    "t": ("t", "temporary tables"),
}
_PERSISTENCE_WORDS = {"p": "permanent", "u": "unlogged", "t": "temporary"}


def _check_persistence(table: Table, referenced: Table) -> None:
    """A foreign key must not outlive what it refers to."""
    allowed, words = _MAY_REFER_TO[table.persistence]
    if referenced.kind == "r" and referenced.persistence not in allowed:
        kind = _PERSISTENCE_WORDS[table.persistence]
        raise InvalidTableDefinition(f"constraints on {kind} tables may reference only {words}")


def all_constraints(
    specs: Sequence[ColumnSpec], table_constraints: Sequence[ConstraintSpec]
) -> Iterator[tuple[ConstraintSpec, tuple[str, ...]]]:
    """Every constraint with its columns; a column constraint is about its column."""
    for column in specs:
        for spec in column.constraints:
            yield spec, (clip(column.name),)
    for spec in table_constraints:
        if spec.kind == "foreign":
            assert spec.foreign is not None
            yield spec, spec.foreign.columns
        else:
            yield spec, spec.columns


async def with_defaults(ddl: DdlContext, table: Table, specs: Sequence[ColumnSpec]) -> tuple[Table, list[Table]]:
    """The table with defaults, identity and generated columns for its last columns, and the sequences these own."""
    owned: list[Table] = []
    columns = list(table.columns)
    for position, spec in enumerate(specs, len(columns) - len(specs)):
        column = columns[position]
        if spec.serial or spec.identity:
            sequence = await sequences.owned_sequence(
                ddl, table, column, owned, bool(spec.identity), spec.identity_options
            )
            owned.append(sequence)
            default = sequences.next_value_expression(ddl, sequence)
            columns[position] = replace(column, default=default, identity=spec.identity, not_null=True)
        elif spec.generated is not None:
            columns[position] = replace(column, default=qualified_text(ddl.view, spec.generated), generated=True)
        elif spec.default is not None:
            columns[position] = replace(column, default=expressions.stored_default(ddl, spec.default, column))
    table = replace(table, columns=tuple(columns))
    for column in columns[len(columns) - len(specs) :]:
        if column.generated:
            spec = specs[column.number - columns[-len(specs)].number]
            assert spec.generated is not None
            check_generated(ddl, table, spec.generated)
    return table, owned


def check_generated(ddl: DdlContext, table: Table, expression: str) -> None:
    """A generation expression may use the table's other columns, but no generated one; it gives the same for the same."""
    bound = bind.bind_expression(expression, table, ddl.view, ddl.context, clause="GENERATED")
    expressions.refuse_unstorable(bound, "column generation expression")
    if not expressions.is_immutable(bound):
        raise DatabaseError.of("42P17", "generation expression is not immutable")
    for number in expressions.column_numbers_used(ddl, table, expression):
        used = constraints.column_numbered(table, number)
        if used.generated:
            raise DatabaseError.of(
                "42P17",
                f'cannot use generated column "{used.name}" in column generation expression',
                detail="A generated column cannot reference another generated column.",
            )
