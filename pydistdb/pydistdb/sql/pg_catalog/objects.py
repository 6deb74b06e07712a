"""How catalog objects look in pg_catalog: oids that are derived rather than stored, and small helpers."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pydistdb.sql.catalog.descriptors import Column, Index, Table
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.types.arrays import PgArray
from pydistdb.sql.types.reg import quote_identifier

_FLOAT4 = struct.Struct("f")
OWNER_OID = 10
OWNER_NAME = "postgres"
CONSTRAINT_OID_OFFSET = 1 << 31
"""A key's constraint and its index share one descriptor: the constraint's oid is the index's plus this."""
_ATTRIBUTE_DEFAULTS = 3 << 30
MOST_COLUMNS = 1_600


def default_oid(table: Table, column: Column) -> int:
    """The oid of a column default in pg_attrdef."""
    return _ATTRIBUTE_DEFAULTS + (table.oid * MOST_COLUMNS + column.number) % (1 << 30)


def table_indexes(table: Table) -> list[Index]:
    """The indexes that users see."""
    return [index for index in table.indexes if index.oid]


def all_indexes(view: StateView) -> Iterator[tuple[Table, Index]]:
    for table in view.tables():
        for index in table.indexes:
            if index.oid:
                yield table, index


def column_names(table: Table, numbers: Iterable[int]) -> list[str]:
    by_number = {column.number: column.name for column in table.columns}
    return [by_number[number] for number in numbers]


def index_numbers(index: Index) -> list[int]:
    return [column.column for column in index.columns]


def vector(items: Sequence[int]) -> PgArray:
    """An int2vector or oidvector, which count from 0."""
    return PgArray(tuple(items), (len(items),), (0,))


def array(items: Iterable[Any]) -> PgArray:
    return PgArray.of(items)


def single(value: float) -> float:
    """Rounded as a float4 is."""
    return float(_FLOAT4.unpack(_FLOAT4.pack(value))[0])


def schema_name(view: StateView, oid: int) -> str:
    schema = view.schema_by_oid(oid)
    return schema.name if schema is not None else str(oid)


def qualified_name(view: StateView, table: Table) -> str:
    return f"{quote_identifier(schema_name(view, table.schema))}.{quote_identifier(table.name)}"


def visible_name(view: StateView, schema_oid: int, name: str) -> str:
    """The name, qualified if the search path would not find it."""
    if view.is_visible(schema_oid, name):
        return quote_identifier(name)
    return f"{quote_identifier(schema_name(view, schema_oid))}.{quote_identifier(name)}"


def yes(value: bool) -> str:
    """A truth value as the standard's views spell it."""
    return "YES" if value else "NO"
