"""pg_constraint, pg_depend, pg_description, pg_rewrite: what hangs on what."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pydistdb.sql.catalog.access import PG_STATISTIC_EXT, SHARED_CLASSES
from pydistdb.sql.catalog.descriptors import Check, ForeignKey, Index, Table
from pydistdb.sql.catalog.sequence_numbers import definition_of
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.functions.registry import operator_for
from pydistdb.sql.pg_catalog.defaults import sequences_used
from pydistdb.sql.pg_catalog.define import RowDict, rows_of
from pydistdb.sql.pg_catalog.descriptions import built_in_descriptions, descriptions_of
from pydistdb.sql.pg_catalog.extensions import extension_members
from pydistdb.sql.pg_catalog.objects import CONSTRAINT_OID_OFFSET, array, default_oid, index_numbers, table_indexes
from pydistdb.sql.pg_catalog.type_dependencies import type_dependencies
from pydistdb.sql.types.arrays import PgArray
from pydistdb.sql.types.base import EvalContext
from pydistdb.sql.types.domains import base_oid
from pydistdb.sql.types.user import UserType

PG_CLASS_OID, PG_CONSTRAINT_OID, PG_ATTRDEF_OID, PG_REWRITE_OID, PG_NAMESPACE_OID = 1259, 2606, 2604, 2618, 2615
PG_DATABASE_OID, PG_PROC_OID, PG_TYPE_OID = 1262, 1255, 1247
REWRITE_OID_OFFSET = 1 << 31
"""A view's rule has the view's oid plus this."""


def _constraint(table: Table, oid: int, name: str, kind: str, **more: Any) -> RowDict:
    return {**_constraint_defaults(oid, name, table.schema, kind), "conrelid": table.oid, **more}


def _constraint_defaults(oid: int, name: str, schema: int, kind: str) -> RowDict:
    return {
        "oid": oid,
        "conname": name,
        "connamespace": schema,
        "contype": kind,
        "condeferrable": False,
        "condeferred": False,
        "convalidated": True,
        "conrelid": 0,
        "contypid": 0,
        "conindid": 0,
        "conparentid": 0,
        "confrelid": 0,
        "confupdtype": " ",
        "confdeltype": " ",
        "confmatchtype": " ",
        "conislocal": True,
        "coninhcount": 0,
        "connoinherit": kind != "c",
    }


def _key(table: Table, index: Index) -> RowDict:
    return _constraint(
        table,
        index.oid + CONSTRAINT_OID_OFFSET,
        index.name,
        "p" if index.primary else "u",
        conindid=index.oid,
        conkey=array(index_numbers(index)),
        condeferrable=index.deferrable,
        condeferred=index.deferred,
    )


def _check(table: Table, check: Check, used: PgArray | None) -> RowDict:
    return _constraint(
        table,
        check.oid,
        check.name,
        "c",
        conbin=check.expression,
        conkey=used,
        convalidated=check.validated,
        connoinherit=check.no_inherit,
    )


def _equalities(parent: int, child: int) -> tuple[int, int, int]:
    """The operators by which referenced and referring values are compared: with one another, and each among themselves.

    Without an operator of their own the referring values are cast to the referenced type."""

    def equality(left: int, right: int) -> int:
        operator = operator_for("=", left, right)
        return 0 if operator is None else operator.oid

    among = equality(parent, parent)
    between = equality(parent, child)
    return (between, among, equality(child, child)) if between else (among, among, among)


def _foreign(view: StateView, table: Table, key: ForeignKey) -> RowDict:
    referenced = view.table_by_oid(key.referenced_table)
    index_oid = 0
    equality: list[tuple[int, int, int]] = []
    if referenced is not None:
        wanted = sorted(key.referenced_columns)
        index_oid = next(
            (
                i.oid
                for i in table_indexes(referenced)
                if i.is_arbiter and i.is_plain and sorted(index_numbers(i)) == wanted
            ),
            0,
        )
        theirs = {column.number: base_oid(column.type_oid) for column in referenced.columns}
        own = {column.number: base_oid(column.type_oid) for column in table.columns}
        equality = [
            _equalities(theirs[referred], own[number])
            for number, referred in zip(key.columns, key.referenced_columns, strict=True)
        ]
    return _constraint(
        table,
        key.oid,
        key.name,
        "f",
        conindid=index_oid,
        confrelid=key.referenced_table,
        confupdtype=key.on_update,
        confdeltype=key.on_delete,
        confmatchtype="f" if key.match_full else "s",
        confdelsetcols=array(key.delete_columns) if key.delete_columns else None,
        condeferrable=key.deferrable,
        condeferred=key.deferred,
        convalidated=key.validated,
        conkey=array(key.columns),
        confkey=array(key.referenced_columns),
        conpfeqop=array(operators[0] for operators in equality),
        conppeqop=array(operators[1] for operators in equality),
        conffeqop=array(operators[2] for operators in equality),
    )


def _columns_of_check(view: StateView, context: EvalContext, table: Table, check: Check) -> PgArray | None:
    from pydistdb.sql.pg_catalog.check_columns import columns_used

    return array(columns_used(view, context, table, check))


def _constraints_of(view: StateView, context: EvalContext, oid: Any) -> Iterator[RowDict]:
    table = view.table_by_oid(oid)
    if table is None:
        return
    for check in table.checks:
        yield _check(table, check, _columns_of_check(view, context, table, check))
    for index in table_indexes(table):
        if index.constraint:
            yield _key(table, index)
    for key in table.foreign_keys:
        yield _foreign(view, table, key)


def _referring(view: StateView, context: EvalContext, oid: Any) -> Iterator[RowDict]:
    """The foreign keys to a table (for 0: all that is no foreign key)."""
    if not oid:
        yield from (row for row in pg_constraint(view, context) if not row["confrelid"])
        return
    table = view.table_by_oid(oid)
    for other_oid in table.referenced_by if table is not None else ():
        other = view.table_by_oid(other_oid)
        for key in other.foreign_keys if other is not None else ():
            if key.referenced_table == oid:
                assert other is not None
                yield _foreign(view, other, key)


def _by_index(view: StateView, context: EvalContext, oid: Any) -> Iterator[RowDict]:
    if not oid:
        yield from (row for row in pg_constraint(view, context) if not row["conindid"])
        return
    found = view.index_by_oid(oid)
    if found is None:
        return
    table, index = found
    if index.constraint:
        yield _key(table, index)
    yield from (row for row in _referring(view, context, table.oid) if row["conindid"] == oid)


def _of_domain(definition: UserType) -> Iterator[RowDict]:
    for check in definition.checks:
        yield {
            **_constraint_defaults(check.oid, check.name, definition.schema, "c"),
            "convalidated": check.validated,
            "contypid": definition.oid,
            "connoinherit": False,
            "conbin": check.expression,
        }


def _of_type(view: StateView, context: EvalContext, oid: Any) -> Iterable[RowDict]:
    if not oid:
        return (row for row in pg_constraint(view, context) if not row["contypid"])
    entry = view.type_entry(oid)
    return () if entry is None else _of_domain(entry.definition)


@rows_of(
    "pg_constraint",
    lookups={"conrelid": _constraints_of, "confrelid": _referring, "conindid": _by_index, "contypid": _of_type},
)
def pg_constraint(view: StateView, context: EvalContext) -> Iterable[RowDict]:
    for table in view.tables():
        yield from _constraints_of(view, context, table.oid)
    for entry in view.state.types.values():
        yield from _of_domain(entry.definition)


# ---------------------------------------------------------------------------------------------------- pg_depend


def _dependency(classid: int, objid: int, refclassid: int, refobjid: int, refobjsubid: int, kind: str) -> RowDict:
    return {
        "classid": classid,
        "objid": objid,
        "objsubid": 0,
        "refclassid": refclassid,
        "refobjid": refobjid,
        "refobjsubid": refobjsubid,
        "deptype": kind,
    }


@rows_of("pg_depend")
def pg_depend(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    yield from extension_members()
    yield from type_dependencies(view)
    sequences: dict[int, Table] = {}
    for routine in view.state.routines.values():
        yield _dependency(PG_PROC_OID, routine.oid, PG_NAMESPACE_OID, routine.schema, 0, "n")
        for used in routine.depends_on:
            class_oid = PG_PROC_OID if used in view.state.routines else PG_CLASS_OID
            yield _dependency(PG_PROC_OID, routine.oid, class_oid, used, 0, "n")
        if routine.row_of:
            yield _dependency(PG_PROC_OID, routine.oid, PG_TYPE_OID, routine.return_type, 0, "n")
    for table in view.tables():
        yield _dependency(PG_CLASS_OID, table.oid, PG_NAMESPACE_OID, table.schema, 0, "n")
        if table.kind == "S":
            sequences[table.oid] = table
            definition = definition_of(table)
            if definition.owner_table:
                kind = "i" if definition.identity else "a"
                yield _dependency(
                    PG_CLASS_OID, table.oid, PG_CLASS_OID, definition.owner_table, definition.owner_column, kind
                )
        elif table.kind in "vm":
            rule = table.oid + REWRITE_OID_OFFSET
            yield _dependency(PG_REWRITE_OID, rule, PG_CLASS_OID, table.oid, 0, "i")
            for used in table.depends_on:
                class_oid = PG_PROC_OID if used in view.state.routines else PG_CLASS_OID
                yield _dependency(PG_REWRITE_OID, rule, class_oid, used, 0, "n")
        yield from _constraint_dependencies(table)
        for column in table.columns:
            if column.default is not None and not column.identity and not column.dropped:
                oid = default_oid(table, column)
                yield _dependency(PG_ATTRDEF_OID, oid, PG_CLASS_OID, table.oid, column.number, "a")
                for used in sequences_used(view, column.default):
                    yield _dependency(PG_ATTRDEF_OID, oid, PG_CLASS_OID, used, 0, "n")


def _constraint_dependencies(table: Table) -> Iterator[RowDict]:
    for index in table_indexes(table):
        if index.constraint:
            constraint = index.oid + CONSTRAINT_OID_OFFSET
            yield _dependency(PG_CLASS_OID, index.oid, PG_CONSTRAINT_OID, constraint, 0, "i")
            for number in index_numbers(index):
                yield _dependency(PG_CONSTRAINT_OID, constraint, PG_CLASS_OID, table.oid, number, "a")
        else:
            for number in (*index_numbers(index), *index.include):
                if number:
                    yield _dependency(PG_CLASS_OID, index.oid, PG_CLASS_OID, table.oid, number, "a")
    for key in table.foreign_keys:
        for number in key.columns:
            yield _dependency(PG_CONSTRAINT_OID, key.oid, PG_CLASS_OID, table.oid, number, "a")
        for number in key.referenced_columns:
            yield _dependency(PG_CONSTRAINT_OID, key.oid, PG_CLASS_OID, key.referenced_table, number, "n")
    for check in table.checks:
        yield _dependency(PG_CONSTRAINT_OID, check.oid, PG_CLASS_OID, table.oid, 0, "a")
    for statistics in table.statistics_objects:
        yield _dependency(PG_STATISTIC_EXT, statistics.oid, PG_NAMESPACE_OID, statistics.schema, 0, "n")
        for number in statistics.columns or (0,):
            yield _dependency(PG_STATISTIC_EXT, statistics.oid, PG_CLASS_OID, table.oid, number, "a")


# ---------------------------------------------------------------------------------------------------- comments


def _comments_on(view: StateView, context: EvalContext, oid: Any) -> Iterator[RowDict]:
    for (class_oid, object_oid, sub_id), text in view.state.comments.items():
        if class_oid not in SHARED_CLASSES and oid in (None, object_oid):
            yield {"objoid": object_oid, "classoid": class_oid, "objsubid": sub_id, "description": text}


def _descriptions_of(view: StateView, context: EvalContext, oid: Any) -> Iterator[RowDict]:
    yield from _comments_on(view, context, oid)
    for class_oid, text in descriptions_of(oid):
        yield {"objoid": oid, "classoid": class_oid, "objsubid": 0, "description": text}


@rows_of("pg_description", lookups={"objoid": _descriptions_of})
def pg_description(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    yield from _comments_on(view, context, None)
    for (class_oid, oid), text in built_in_descriptions().items():
        yield {"objoid": oid, "classoid": class_oid, "objsubid": 0, "description": text}


@rows_of("pg_shdescription")
def pg_shdescription(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for database in view.catalog_state.databases.values():
        for (class_oid, object_oid, _), text in database.comments.items():
            if class_oid in SHARED_CLASSES:
                yield {"objoid": object_oid, "classoid": class_oid, "description": text}


@rows_of("pg_rewrite")
def pg_rewrite(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for table in view.tables():
        if table.kind in "vm":
            yield {
                "oid": table.oid + REWRITE_OID_OFFSET,
                "rulename": "_RETURN",
                "ev_class": table.oid,
                "ev_type": "1",
                "ev_enabled": "O",
                "is_instead": True,
                "ev_qual": "<>",
                "ev_action": table.definition,
            }
