"""pg_class, pg_attribute, pg_attrdef, pg_index: relations and their columns.

System tables are listed beside the users' own, as in Postgres; their rows are made once, since they never change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pydistdb.sql import bind
from pydistdb.sql.catalog.access import PG_CLASS
from pydistdb.sql.catalog.descriptors import Column, Index, Table
from pydistdb.sql.catalog.state import (
    FIRST_USER_OID,
    INFORMATION_SCHEMA_OID,
    INTERNAL_SCHEMA_OID,
    OPERATIONS_SCHEMA_OID,
    PG_CATALOG_OID,
)
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.pg_catalog import registry
from pydistdb.sql.pg_catalog.acl_columns import acl_array, acl_column
from pydistdb.sql.pg_catalog.defaults import column_default
from pydistdb.sql.pg_catalog.define import RowDict, facts_of, rows_of
from pydistdb.sql.pg_catalog.objects import (
    OWNER_OID,
    all_indexes,
    array,
    default_oid,
    index_numbers,
    single,
    table_indexes,
    vector,
)
from pydistdb.sql.pg_catalog.shard_text import sharding_text
from pydistdb.sql.pg_catalog.type_facts import (
    METHOD_OIDS,
    TYPE_FACTS,
    facts_of_type,
    key_type,
    operator_class,
    operator_class_named,
)
from pydistdb.sql.types.base import EvalContext, SqlType
from pydistdb.sql.types.reg import C_COLLATION_OID, COLLATIONS
from pydistdb.sql.types.user import UserType

HEAP_OID = 2
BLOCK_BYTES = 8_192
_SHARED_NAMES = """
pg_authid pg_auth_members pg_database pg_db_role_setting pg_parameter_acl pg_replication_origin pg_shdepend
pg_shdescription pg_shseclabel pg_subscription pg_tablespace
"""
SHARED_RELATIONS = frozenset(_SHARED_NAMES.split())
_SCHEMA_OIDS = {
    "pg_catalog": PG_CATALOG_OID,
    "information_schema": INFORMATION_SCHEMA_OID,
    "pydistdb_internal": INTERNAL_SCHEMA_OID,
    "proddb": OPERATIONS_SCHEMA_OID,
}


# ---------------------------------------------------------------------------------------------------- pg_class


def _class_row(oid: int, name: str, schema: int, kind: str, columns: int, **more: Any) -> RowDict:
    return {
        "oid": oid,
        "relname": name,
        "relnamespace": schema,
        "reltype": 0,
        "reloftype": 0,
        "relowner": OWNER_OID,
        "relam": 0,
        "relfilenode": 0,
        "reltablespace": 0,
        "relpages": 0,
        "reltuples": -1.0,
        "relallvisible": 0,
        "reltoastrelid": 0,
        "relhasindex": False,
        "relisshared": False,
        "relpersistence": "p",
        "relkind": kind,
        "relnatts": columns,
        "relchecks": 0,
        "relhasrules": kind in ("v", "m"),
        "relhastriggers": False,
        "relhassubclass": False,
        "relrowsecurity": False,
        "relforcerowsecurity": False,
        "relispopulated": True,
        "relreplident": "d" if kind in ("r", "m") and oid >= FIRST_USER_OID else "n",
        "relispartition": False,
        "relrewrite": 0,
        "relfrozenxid": 0,
        "relminmxid": 0,
        **more,
    }


def _table_row(view: StateView, table: Table) -> RowDict:
    statistics = view.statistics(table.oid)
    rows = -1.0 if statistics is None else statistics.rows
    size = 0.0 if statistics is None else statistics.rows * statistics.bytes_per_row
    if table.kind == "S":
        rows, size = 1.0, BLOCK_BYTES
    elif table.kind == "v":
        rows = 0.0
    return _class_row(
        table.oid,
        table.name,
        table.schema,
        table.kind,
        max((column.number for column in table.columns), default=0),
        relowner=table.owner,
        relacl=acl_column(view, PG_CLASS, table.oid),
        reltype=table.row_type_oid,
        relam=HEAP_OID if table.kind in "rm" else 0,
        relfilenode=table.storage_id if table.kind != "v" else 0,
        relpages=int(-(-size // BLOCK_BYTES)),
        reltuples=single(rows),
        relhasindex=bool(table_indexes(table)),
        relchecks=len(table.checks),
        relhastriggers=bool(table.foreign_keys or table.referenced_by),
        relpersistence=table.persistence,
        relispopulated=table.populated,
        reloptions=_options(view, table),
        **({"relreplident": table.replica_identity} if table.kind in "rm" else {}),
    )


def _options(view: StateView, table: Table) -> Any:
    """The options, and of a table how it is sharded: so pg_dump and \\d+ show it."""
    group = None if table.sharding is None else view.catalog_state.groups.get(table.sharding.group)
    sharded = sharding_text(table, group)
    options = table.options if sharded is None else (*table.options, f"shard_by={sharded}")
    return array(options) if options else None


def _index_row(view: StateView, table: Table, index: Index) -> RowDict:
    statistics = view.statistics(table.oid)
    return _class_row(
        index.oid,
        index.name,
        table.schema,
        "i",
        len(index.columns),
        relowner=table.owner,
        relam=METHOD_OIDS[index.method],
        relfilenode=index.oid,
        relpersistence=table.persistence,
        reltuples=0.0 if statistics is None else single(statistics.rows),
        relpages=1,
        reloptions=array(index.options) if index.options else None,
    )


_system: dict[int, RowDict] = {}


def _system_rows() -> dict[int, RowDict]:
    if not _system:
        for table in registry.virtual_tables().values():
            facts = facts_of(table)
            kind = facts.kind if facts is not None else "v"
            _system[table.oid] = _class_row(
                table.oid,
                table.name,
                _SCHEMA_OIDS[table.schema],
                kind,
                len(table.columns),
                relam=HEAP_OID if kind == "r" else 0,
                relfilenode=table.oid if kind == "r" else 0,
                relisshared=table.name in SHARED_RELATIONS,
            )
    return _system


def _with_acl(view: StateView, row: RowDict) -> RowDict:
    """A system table's row: nearly all of them have the same list of privileges."""
    return row | {"relacl": acl_array(view, view.access.stored_acl(PG_CLASS, row["oid"]))}


def _composites(view: StateView) -> Iterator[UserType]:
    """The composite types that are no table's row type: they have rows in pg_class too."""
    for entry in view.state.types.values():
        if entry.definition.kind == "c":
            yield entry.definition


def _composite_row(definition: UserType) -> RowDict:
    columns = max((each.number for each in definition.attributes), default=0)
    more = {"reltype": definition.oid, "relowner": definition.owner}
    return _class_row(definition.relation, definition.name, definition.schema, "c", columns, **more)


def _composite_attributes(definition: UserType) -> Iterator[RowDict]:
    for each in definition.attributes:
        type_oid, modifier = (0, -1) if each.dropped else (each.type_oid, each.modifier)
        yield _attribute(definition.relation, each.name, type_oid, each.number, modifier, attisdropped=each.dropped)


def _class_by_oid(view: StateView, context: EvalContext, oid: Any) -> Iterator[RowDict]:
    table = view.table_by_oid(oid)
    if table is not None:
        yield _table_row(view, table)
        return
    found = view.index_by_oid(oid)
    if found is not None:
        yield _index_row(view, *found)
    elif oid in _system_rows():
        yield _with_acl(view, _system[oid])
    else:
        yield from (_composite_row(each) for each in _composites(view) if each.relation == oid)


def _class_by_name(view: StateView, context: EvalContext, name: Any) -> Iterator[RowDict]:
    state = view.state
    for schema in state.schemas:
        table = state.relations.get((schema, name))
        if table is not None:
            yield _table_row(view, table)
        found = state.indexes.get((schema, name))
        if found is not None:
            yield _index_row(view, *found)
    for row in _system_rows().values():
        if row["relname"] == name:
            yield _with_acl(view, row)
    yield from (_composite_row(each) for each in _composites(view) if each.name == name)


@rows_of("pg_class", lookups={"oid": _class_by_oid, "relname": _class_by_name})
def pg_class(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for row in _system_rows().values():
        yield _with_acl(view, row)
    for table in view.tables():
        yield _table_row(view, table)
        for index in table_indexes(table):
            yield _index_row(view, table, index)
    for definition in _composites(view):
        yield _composite_row(definition)


# ---------------------------------------------------------------------------------------------------- pg_attribute

SYSTEM_COLUMNS = (
    ("tableoid", -6, 26),
    ("cmax", -5, 29),
    ("xmax", -4, 28),
    ("cmin", -3, 29),
    ("xmin", -2, 28),
    ("ctid", -1, 27),
)


def _attribute(relation: int, name: str, type_oid: int, number: int, modifier: int, **more: Any) -> RowDict:
    facts = facts_of_type(type_oid) if type_oid else None
    return {
        "attrelid": relation,
        "attname": name,
        "atttypid": type_oid,
        "attstattarget": -1,
        "attlen": facts.length if facts else 0,
        "attnum": number,
        "attndims": 1 if facts is not None and facts.category == "A" else 0,
        "attcacheoff": -1,
        "atttypmod": modifier,
        "attbyval": facts.by_value if facts else False,
        "attalign": facts.alignment if facts else "i",
        "attstorage": facts.storage if facts else "p",
        "attcompression": "",
        "attnotnull": False,
        "atthasdef": False,
        "atthasmissing": False,
        "attidentity": "",
        "attgenerated": "",
        "attisdropped": False,
        "attislocal": True,
        "attinhcount": 0,
        "attcollation": facts.collation if facts else 0,
        **more,
    }


def _column_row(view: StateView, table: Table, column: Column) -> RowDict:
    if column.dropped:
        return _attribute(table.oid, column.name, 0, column.number, -1, attisdropped=True)
    return _attribute(
        table.oid,
        column.name,
        column.type_oid,
        column.number,
        column.modifier,
        attnotnull=column.not_null,
        atthasdef=column.default is not None and not column.identity,
        atthasmissing=column.missing is not None,
        attidentity=column.identity,
        attgenerated="s" if column.generated else "",
        attacl=acl_column(view, PG_CLASS, table.oid, column.number),
        attstorage=column.storage or facts_of_type(column.type_oid).storage,
        attcompression=column.compression,
        attstattarget=column.statistics,
        attoptions=array(column.options) if column.options else None,
        **({"attcollation": COLLATIONS[column.collation]} if column.collation else {}),
    )


def _table_attributes(view: StateView, table: Table) -> Iterator[RowDict]:
    for column in table.columns:
        yield _column_row(view, table, column)
    if table.kind in "rm":
        for name, number, type_oid in SYSTEM_COLUMNS:
            yield _attribute(table.oid, name, type_oid, number, -1, attnotnull=True)


def _index_attributes(table: Table, index: Index) -> Iterator[RowDict]:
    columns = {column.number: column for column in table.columns}
    names: set[str] = set()
    labels = []
    for entry in index.columns:
        label = columns[entry.column].name if entry.column else bind.expression_label(entry.expression) or "expr"
        labels.append((label, entry.column, entry.type_oid))
    labels += [(columns[number].name, number, 0) for number in index.include]
    for position, (label, number, type_oid) in enumerate(labels, 1):
        name, count = label, 0
        while name in names:
            count += 1
            name = f"{label}{count}"
        names.add(name)
        more: dict[str, Any] = {}
        if number:
            column = columns[number]
            type_oid = column.type_oid
            more = {"attstorage": column.storage or facts_of_type(type_oid).storage}
        if index.is_inverted:
            type_oid = key_type(index.columns[position - 1].operator_class, type_oid)
            more = {}
        elif position <= len(index.columns):
            more = {**more, "attstattarget": index.columns[position - 1].statistics}
        yield _attribute(index.oid, name, type_oid, position, columns[number].modifier if number else -1, **more)


_system_attributes_by_oid: dict[int, list[RowDict]] = {}


def _system_attribute(relation: int, name: str, sql_type: SqlType, number: int, required: bool) -> RowDict:
    row = _attribute(relation, name, sql_type.oid, number, sql_type.modifier, attnotnull=required)
    if row["attcollation"]:
        row["attcollation"] = C_COLLATION_OID
    return row


def _system_attributes() -> dict[int, list[RowDict]]:
    if not _system_attributes_by_oid:
        for table in registry.virtual_tables().values():
            facts = facts_of(table)
            not_null = [column.not_null for column in facts.columns] if facts else [False] * len(table.columns)
            _system_attributes_by_oid[table.oid] = [
                _system_attribute(table.oid, name, sql_type, number, required)
                for number, ((name, sql_type), required) in enumerate(zip(table.columns, not_null, strict=True), 1)
            ]
    return _system_attributes_by_oid


def _attributes_of(view: StateView, context: EvalContext, oid: Any) -> Iterable[RowDict]:
    table = view.table_by_oid(oid)
    if table is not None:
        return _table_attributes(view, table)
    found = view.index_by_oid(oid)
    if found is not None:
        return _index_attributes(*found)
    for definition in _composites(view):
        if definition.relation == oid:
            return _composite_attributes(definition)
    return _system_attributes().get(oid, ())


@rows_of("pg_attribute", lookups={"attrelid": _attributes_of})
def pg_attribute(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for rows in _system_attributes().values():
        yield from rows
    for table in view.tables():
        yield from _table_attributes(view, table)
        for index in table_indexes(table):
            yield from _index_attributes(table, index)
    for definition in _composites(view):
        yield from _composite_attributes(definition)


# ---------------------------------------------------------------------------------------------------- pg_attrdef


def _defaults_of(view: StateView, context: EvalContext, oid: Any) -> Iterator[RowDict]:
    table = view.table_by_oid(oid)
    if table is not None:
        for column in table.columns:
            if column.default is not None and not column.identity and not column.dropped:
                yield {
                    "oid": default_oid(table, column),
                    "adrelid": table.oid,
                    "adnum": column.number,
                    "adbin": column_default(view, context, column),
                }


@rows_of("pg_attrdef", lookups={"adrelid": _defaults_of})
def pg_attrdef(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for table in view.tables():
        yield from _defaults_of(view, context, table.oid)


# ---------------------------------------------------------------------------------------------------- pg_index


def _index_facts(table: Table, index: Index) -> RowDict:
    columns = {column.number: column for column in table.columns}
    type_oids = [column.type_oid or columns[column.column].type_oid for column in index.columns]
    expressions = [column.expression for column in index.columns if column.expression]
    return {
        "indexrelid": index.oid,
        "indrelid": table.oid,
        "indnatts": len(index.columns) + len(index.include),
        "indnkeyatts": len(index.columns),
        "indisunique": index.unique,
        "indnullsnotdistinct": index.nulls_not_distinct,
        "indisprimary": index.primary,
        "indisexclusion": False,
        "indimmediate": not index.deferrable,
        "indisclustered": index.clustered,
        "indisvalid": index.is_readable,
        "indcheckxmin": False,
        "indisready": index.state != "d",
        "indislive": True,
        "indisreplident": table.replica_identity == "i" and table.replica_index == index.oid,
        "indkey": vector([*index_numbers(index), *index.include]),
        "indcollation": vector([TYPE_FACTS[oid].collation if oid in TYPE_FACTS else 0 for oid in type_oids]),
        "indclass": vector(
            [
                (operator_class_named(column.operator_class, index.method) if column.operator_class else 0)
                or operator_class(oid, index.method)
                for column, oid in zip(index.columns, type_oids, strict=True)
            ]
        ),
        "indoption": vector([column.descending + 2 * column.nulls_first for column in index.columns]),
        "indexprs": ", ".join(_unwrapped(text) for text in expressions) if expressions else None,
        "indpred": index.predicate or None,
    }


def _unwrapped(text: str) -> str:
    """A key without the parentheses that CREATE INDEX asks for around it."""
    return text[1:-1] if text.startswith("(") and text.endswith(")") else text


def _index_by_oid(view: StateView, context: EvalContext, oid: Any) -> Iterator[RowDict]:
    found = view.index_by_oid(oid)
    if found is not None:
        yield _index_facts(*found)


def _indexes_of(view: StateView, context: EvalContext, oid: Any) -> Iterator[RowDict]:
    table = view.table_by_oid(oid)
    if table is not None:
        for index in table_indexes(table):
            yield _index_facts(table, index)


@rows_of("pg_index", lookups={"indexrelid": _index_by_oid, "indrelid": _indexes_of})
def pg_index(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for table, index in all_indexes(view):
        yield _index_facts(table, index)
