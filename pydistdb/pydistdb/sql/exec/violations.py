"""Constraint errors in Postgres's words.

``unique_violation(catalog, key, context)`` words the KeyExists of a commit: the key alone tells the table, the index and the
values::

    duplicate key value violates unique constraint "t_pkey"
    DETAIL:  Key (id)=(1) already exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydistdb_storage import keys

from pydistdb.sql.catalog.descriptors import Column, ForeignKey, Table
from pydistdb.sql.catalog.view import CatalogView
from pydistdb.sql.deparse import Undeparsable, index_key
from pydistdb.sql.errors import CheckViolation, DatabaseError, ForeignKeyViolation, NotNullViolation, UniqueViolation
from pydistdb.sql.layout import HASH_HEAD, RANGE_HEAD, IndexLayout, TableLayout, storage_ids_of
from pydistdb.sql.types import registry as types
from pydistdb.sql.types.base import EvalContext
from pydistdb.sql.types.reg import quote_identifier

LONGEST_DETAIL_VALUE = 64
"""Values of columns that the user may not read are told to nobody: they are left out of what follows."""


def schema_name(catalog: CatalogView, table: Table) -> str | None:
    schema = catalog.schema_by_oid(table.schema)
    return None if schema is None else schema.name


def column_named(table: Table, number: int) -> Column:
    return next(column for column in table.columns if column.number == number)


def formatted(table: Table, number: int, value: Any, context: EvalContext) -> str:
    if value is None:
        return "null"
    return types.io(column_named(table, number).type_oid).format(value, context)


def key_text(table: Table, numbers: Sequence[int], values: Sequence[Any], context: EvalContext) -> str:
    """``(a, b)=(1, x)``."""
    names = ", ".join(column_named(table, number).name for number in numbers)
    texts = ", ".join(formatted(table, number, value, context) for number, value in zip(numbers, values, strict=True))
    return f"({names})=({texts})"


def index_key_text(index: IndexLayout, values: Sequence[Any], context: EvalContext) -> str:
    """``(a, lower(b))=(1, x)``."""
    names = [_key_name(index, position) for position in range(len(index.index.columns))]
    texts = [
        "null" if value is None else types.io(oid).format(value, context)
        for value, oid in zip(values, index.types, strict=True)
    ]
    return f"({', '.join(names)})=({', '.join(texts)})"


def _key_name(index: IndexLayout, position: int) -> str:
    column = index.index.columns[position]
    if not column.expression:
        return quote_identifier(column_named(index.table, column.column).name)
    if index.bound is None:
        return column.expression
    try:
        return index_key(index.bound.keys[position], index.table, pretty=True)
    except Undeparsable:
        return column.expression


def duplicate_key(
    catalog: CatalogView, index: IndexLayout, values: Sequence[Any], context: EvalContext
) -> DatabaseError:
    """The error for a second row with ``values`` in a unique index."""
    table = index.table
    shown = may_show(catalog, table, [column.column for column in index.index.columns])
    return UniqueViolation(
        f'duplicate key value violates unique constraint "{index.index.name}"',
        detail=f"Key {index_key_text(index, values, context)} already exists." if shown else None,
        schema=schema_name(catalog, table),
        table=table.name,
        constraint=index.index.name,
    )


def unique_violation(catalog: CatalogView, key: bytes, context: EvalContext | None = None) -> DatabaseError:
    """The error for a key that a commit found taken (kv's KeyExists)."""
    hashed = key[:1] in (b"\x05", b"\x06")
    head = HASH_HEAD if hashed else RANGE_HEAD
    table_storage_id, index_storage_id = storage_ids_of(key)
    for table in catalog.tables():
        if table.storage_id == table_storage_id and table.kind in "rm":
            index = TableLayout.of(table).by_storage_id.get(index_storage_id)
            if index is not None and not index.is_row_id:
                values, _ = keys.key_decoder(index.kinds, index.descending)(key, head.size)
                return duplicate_key(catalog, index, values, context or EvalContext())
    return UniqueViolation("duplicate key value violates unique constraint")


def may_show(catalog: CatalogView, table: Table, numbers: Sequence[int]) -> bool:
    """Tell whether the user may read these columns (0 stands for an expression, over whatever columns)."""
    readable = catalog.readable(table)
    return readable is None or readable.issuperset(numbers)


def failing_row(catalog: CatalogView, table: Table, row: Sequence[Any], context: EvalContext) -> str | None:
    """``Failing row contains (1, null).``, or ``(a, c) = (1, null)`` where that is all that the user may read."""
    readable = catalog.readable(table)
    texts: list[str] = []
    names: list[str] = []
    for column in table.columns:
        if column.dropped or (readable is not None and column.number not in readable):
            continue
        names.append(column.name)
        text = formatted(table, column.number, row[column.number - 1], context)
        encoded = text.encode()
        if len(encoded) > LONGEST_DETAIL_VALUE:
            text = encoded[:LONGEST_DETAIL_VALUE].decode(errors="ignore") + "..."
        texts.append(text)
    if readable is None:
        return f"Failing row contains ({', '.join(texts)})."
    return f"Failing row contains ({', '.join(names)}) = ({', '.join(texts)})." if names else None


def null_in_column(
    catalog: CatalogView, table: Table, number: int, row: Sequence[Any], context: EvalContext
) -> DatabaseError:
    name = column_named(table, number).name
    return NotNullViolation(
        f'null value in column "{name}" of relation "{table.name}" violates not-null constraint',
        detail=failing_row(catalog, table, row, context),
        schema=schema_name(catalog, table),
        table=table.name,
        column=name,
    )


def view_check_failed(catalog: CatalogView, table: Table, view: str, row: Sequence[Any], context: Any) -> DatabaseError:
    """A row that the view it was written through would not show."""
    return DatabaseError.of(
        "44000",
        f'new row violates check option for view "{view}"',
        detail=failing_row(catalog, table, row, context),
    )


def check_failed(
    catalog: CatalogView, table: Table, name: str, row: Sequence[Any], context: EvalContext
) -> DatabaseError:
    return CheckViolation(
        f'new row for relation "{table.name}" violates check constraint "{name}"',
        detail=failing_row(catalog, table, row, context),
        schema=schema_name(catalog, table),
        table=table.name,
        constraint=name,
    )


def parent_missing(
    catalog: CatalogView, child: Table, key: ForeignKey, parent: Table, values: Sequence[Any], context: EvalContext
) -> DatabaseError:
    text = f" {key_text(child, key.columns, values, context)}" if may_show(catalog, child, key.columns) else ""
    return ForeignKeyViolation(
        f'insert or update on table "{child.name}" violates foreign key constraint "{key.name}"',
        detail=f'Key{text} is not present in table "{parent.name}".',
        schema=schema_name(catalog, child),
        table=child.name,
        constraint=key.name,
    )


def mixed_key(catalog: CatalogView, child: Table, key: ForeignKey) -> DatabaseError:
    """MATCH FULL: all of a key or nothing."""
    return ForeignKeyViolation(
        f'insert or update on table "{child.name}" violates foreign key constraint "{key.name}"',
        detail="MATCH FULL does not allow mixing of null and nonnull key values.",
        schema=schema_name(catalog, child),
        table=child.name,
        constraint=key.name,
    )


def still_referenced(
    catalog: CatalogView, parent: Table, key: ForeignKey, child: Table, values: Sequence[Any], context: EvalContext
) -> DatabaseError:
    shown = may_show(catalog, parent, key.referenced_columns)
    text = f" {key_text(parent, key.referenced_columns, values, context)}" if shown else ""
    return ForeignKeyViolation(
        f'update or delete on table "{parent.name}" violates foreign key constraint "{key.name}" '
        f'on table "{child.name}"',
        detail=f'Key{text} is still referenced from table "{child.name}".',
        schema=schema_name(catalog, child),
        table=child.name,
        constraint=key.name,
    )
