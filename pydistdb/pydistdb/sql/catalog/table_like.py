"""CREATE TABLE … (LIKE source INCLUDING …): what of the source goes into the new table.

Columns with their types and NOT NULL always come along, everything else as asked for::

    CREATE TABLE b (x int, LIKE a INCLUDING DEFAULTS INCLUDING INDEXES)

Constraints and keys become specifications, added as if they had been written; secondary indexes and comments are copied
(and statistics objects)
once the table is there.  CHECK constraints keep their names, indexes get new ones after the new table.

Source: PostgreSQL 15 manual, CREATE TABLE; parse_utilcmd.c.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec.structs import replace

from pydistdb.sql.catalog import constraints, keys
from pydistdb.sql.catalog.acl import SELECT
from pydistdb.sql.catalog.context import DdlContext, not_supported_for
from pydistdb.sql.catalog.descriptors import Column, Index, Table
from pydistdb.sql.catalog.index_elements import key_label
from pydistdb.sql.catalog.naming import choose, distinct_names, join_columns
from pydistdb.sql.catalog.needs import relation_kind
from pydistdb.sql.catalog.state import Change
from pydistdb.sql.catalog.statistics_objects import copies
from pydistdb.sql.errors import WrongObjectType
from pydistdb.sql.pg_catalog.objects import CONSTRAINT_OID_OFFSET
from pydistdb.sql.schema_statements import ColumnSpec, ConstraintSpec, CreateTable
from pydistdb.sql.types import registry

COMMENTS, COMPRESSION, CONSTRAINTS, DEFAULTS, GENERATED, IDENTITY, INDEXES, STATISTICS, STORAGE = (
    1 << bit for bit in range(9)
)
"""Bits of TableLikeOption, as the parser counts them."""
PG_CLASS, PG_CONSTRAINT, PG_STATISTIC_EXT = 1259, 2606, 3381


@dataclass(slots=True)
class Likeness:
    """What all LIKE clauses of a statement bring in; ``columns`` has the statement's own columns as well, in order."""

    columns: list[ColumnSpec] = field(default_factory=list)
    constraints: list[ConstraintSpec] = field(default_factory=list)
    sources: list[tuple[Table, int]] = field(default_factory=list)


def likeness(ddl: DdlContext, statement: CreateTable) -> Likeness:
    """Resolve the LIKE clauses: columns where the clauses stand, and the constraints asked for."""
    result = Likeness()
    position = 0
    for clause in statement.like:
        result.columns += statement.columns[position : clause.position]
        position = clause.position
        source = ddl.table(clause.source, "rvmS")
        if source.kind == "S":
            raise WrongObjectType(
                f'relation "{source.name}" is invalid in LIKE clause',
                detail=not_supported_for(source.kind),
                position=clause.source.position,
            )
        ddl.require(PG_CLASS, source.oid, SELECT, relation_kind(source), source.name)
        result.sources.append((source, clause.options))
        result.columns += [_column(column, clause.options) for column in source.columns if not column.dropped]
        if clause.options & CONSTRAINTS:
            result.constraints += [
                ConstraintSpec("check", check.name, expression=check.expression, no_inherit=check.no_inherit)
                for check in source.checks
            ]
        if clause.options & INDEXES:
            result.constraints += [
                ConstraintSpec(
                    "primary" if index.primary else "unique",
                    columns=_column_names(source, index),
                    deferrable=index.deferrable,
                    deferred=index.deferred,
                    nulls_not_distinct=index.nulls_not_distinct,
                    include=tuple(constraints.column_numbered(source, number).name for number in index.include),
                )
                for index in source.indexes
                if index.oid and index.constraint
            ]
    result.columns += statement.columns[position:]
    return result


def _column(column: Column, options: int) -> ColumnSpec:
    sql_type = registry.type_by_oid(column.type_oid).with_modifier(column.modifier)
    default = generated = None
    identity = column.identity if options & IDENTITY else ""
    if column.generated:
        generated = column.default if options & GENERATED else None
    elif not column.identity and options & DEFAULTS:
        default = column.default
    return ColumnSpec(
        column.name,
        sql_type,
        column.not_null,
        default,
        identity=identity,
        generated=generated,
        collation=column.collation or None,
        storage=column.storage if options & STORAGE else "",
        compression=column.compression if options & COMPRESSION else "",
    )


def _column_names(table: Table, index: Index) -> tuple[str, ...]:
    return tuple(constraints.column_numbered(table, column.column).name for column in index.columns)


async def copy_the_rest(ddl: DdlContext, table: Table, like: Likeness) -> Table:
    """Secondary indexes and comments, now that the new table stands in the overlay."""
    for source, options in like.sources:
        copied: dict[int, int] = {}
        if options & INDEXES:
            for index in source.indexes:
                if index.oid and not index.constraint:
                    table = await _with_index(ddl, table, source, index)
                    copied[index.oid] = table.indexes[-1].oid
        if options & STATISTICS:
            table = await copies(ddl, source, table)
        if options & COMMENTS:
            ddl.apply(_comments(ddl, table, source, options, copied))
    return table


async def _with_index(ddl: DdlContext, table: Table, source: Table, index: Index) -> Table:
    numbers = {column.name: column.number for column in table.columns}
    columns = tuple(
        replace(entry, column=numbers[constraints.column_numbered(source, entry.column).name])
        if entry.column
        else entry
        for entry in index.columns
    )
    include = tuple(numbers[constraints.column_numbered(source, number).name] for number in index.include)
    labels = [key_label(source, entry) for entry in index.columns]
    labels += [constraints.column_numbered(source, number).name for number in index.include]
    names = distinct_names(labels)
    name = choose([table.name, join_columns(names)], "idx", lambda n: constraints.relation_name_taken(ddl, table, n))
    oid = await ddl.store.allocate_oids()
    copy = replace(index, oid=oid, name=name, storage_id=table.next_index_id, columns=columns, include=include)
    if table.sharding is None:
        copy = replace(copy, is_global=True)
    table = replace(table, indexes=(*table.indexes, copy), next_index_id=table.next_index_id + 1)
    ddl.put_table(table)
    return table


def _comments(ddl: DdlContext, table: Table, source: Table, options: int, copied: dict[int, int]) -> list[Change]:
    """Comments of columns, and of the constraints and indexes that came along."""
    view = ddl.view
    numbers = {column.name: column.number for column in table.columns}
    pairs: list[tuple[int, int, int, str | None]] = []
    for column in source.columns:
        if not column.dropped:
            text = view.comment(PG_CLASS, source.oid, column.number)
            pairs.append((PG_CLASS, table.oid, numbers[column.name], text))
    pairs += [(PG_CLASS, new, 0, view.comment(PG_CLASS, old)) for old, new in copied.items()]
    if options & STATISTICS:
        made = table.statistics_objects[-len(source.statistics_objects) :]
        for old, new in zip(source.statistics_objects, made, strict=True):
            pairs.append((PG_STATISTIC_EXT, new.oid, 0, view.comment(PG_STATISTIC_EXT, old.oid)))
    if options & CONSTRAINTS:
        checks = {check.name: check.oid for check in table.checks}
        pairs += [
            (PG_CONSTRAINT, checks[check.name], 0, view.comment(PG_CONSTRAINT, check.oid)) for check in source.checks
        ]
    if options & INDEXES:
        for index in source.indexes:
            if not index.constraint:
                continue
            mine = [
                i for i in table.indexes if i.constraint and _column_names(table, i) == _column_names(source, index)
            ]
            if index.oid and index.constraint and mine:
                pairs.append((PG_CLASS, mine[0].oid, 0, view.comment(PG_CLASS, index.oid)))
                offset = CONSTRAINT_OID_OFFSET
                pairs.append((PG_CONSTRAINT, mine[0].oid + offset, 0, view.comment(PG_CONSTRAINT, index.oid + offset)))
    return [
        (keys.comment_key(table.database, object_class, oid, sub), text)
        for object_class, oid, sub, text in pairs
        if text is not None
    ]
