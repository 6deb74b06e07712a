"""The rows of pg_depend that are about types: what a type needs, and who needs it.

Source: PostgreSQL 15 manual, 53.18; what TypeCreate and heap_create record.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.pg_catalog.define import RowDict
from pydistdb.sql.types.user import FIRST_USER_OID, UserType

PG_TYPE_OID, PG_CLASS_OID, PG_NAMESPACE_OID, PG_CONSTRAINT_OID = 1247, 1259, 2615, 2606


def _row(class_oid: int, oid: int, sub_id: int, on_class: int, on: int, kind: str) -> RowDict:
    return {
        "classid": class_oid,
        "objid": oid,
        "objsubid": sub_id,
        "refclassid": on_class,
        "refobjid": on,
        "refobjsubid": 0,
        "deptype": kind,
    }


def type_dependencies(view: StateView) -> Iterator[RowDict]:
    """Types on their schemas, arrays and constraints on their types, columns and attributes on the types they have."""
    for entry in view.state.types.values():
        yield from _of_type(entry.definition)
    for table in view.tables():
        if table.row_type_oid:
            yield _row(PG_TYPE_OID, table.row_type_oid, 0, PG_CLASS_OID, table.oid, "i")
            yield _row(PG_TYPE_OID, table.row_type_oid + 1, 0, PG_TYPE_OID, table.row_type_oid, "i")
        for column in table.columns:
            if column.type_oid >= FIRST_USER_OID and not column.dropped:
                yield _row(PG_CLASS_OID, table.oid, column.number, PG_TYPE_OID, column.type_oid, "n")


def _of_type(definition: UserType) -> Iterator[RowDict]:
    oid, relation = definition.oid, definition.relation
    yield _row(PG_TYPE_OID, definition.array_oid, 0, PG_TYPE_OID, oid, "i")
    yield _row(PG_TYPE_OID, oid, 0, PG_NAMESPACE_OID, definition.schema, "n")
    if relation:
        yield _row(PG_CLASS_OID, relation, 0, PG_TYPE_OID, oid, "i")
    if definition.base_oid >= FIRST_USER_OID:
        yield _row(PG_TYPE_OID, oid, 0, PG_TYPE_OID, definition.base_oid, "n")
    for check in definition.checks:
        yield _row(PG_CONSTRAINT_OID, check.oid, 0, PG_TYPE_OID, oid, "a")
    for each in definition.attributes:
        if each.type_oid >= FIRST_USER_OID and not each.dropped:
            yield _row(PG_CLASS_OID, relation, each.number, PG_TYPE_OID, each.type_oid, "n")
