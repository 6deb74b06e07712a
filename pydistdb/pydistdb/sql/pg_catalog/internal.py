"""pydistdb_internal: the cluster as SQL sees it.  What ranges and nodes there are comes from the server (providers.py)."""

from __future__ import annotations

from collections.abc import Iterator

from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.pg_catalog import providers
from pydistdb.sql.pg_catalog.define import RowDict, SystemColumn, SystemRelation, define_relation
from pydistdb.sql.pg_catalog.key_names import KeyNames
from pydistdb.sql.pg_catalog.objects import array, column_names, schema_name
from pydistdb.sql.types.base import EvalContext, SqlType
from pydistdb.sql.types.known import (
    BOOL,
    BYTEA,
    INT4,
    INT8,
    NAME,
    OID,
    TEXT,
    TIMESTAMPTZ,
    TYPES_BY_OID,
)

SCHEMA = "pydistdb_internal"
_INT4_ARRAY = TYPES_BY_OID[1007]


def _relation(name: str, oid: int, **columns: SqlType) -> SystemRelation:
    described = tuple(SystemColumn(column, sql_type, False) for column, sql_type in columns.items())
    return SystemRelation(SCHEMA, name, oid, "v", described)


def _ranges(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    readable_key = KeyNames(view)
    for each in providers.ranges():
        yield {
            "range_id": each.range_id,
            "start_key": each.start,
            "end_key": each.end,
            "start_pretty": readable_key(each.start),
            "end_pretty": readable_key(each.end),
            "leaseholder": each.leaseholder,
            "replicas": array(each.replicas),
            "term": each.term,
            "keys": each.keys,
            "bytes": each.bytes,
        }


def _nodes(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for each in providers.nodes():
        yield {
            "node_id": each.node_id,
            "address": each.address,
            "is_live": each.is_live,
            "locality": each.locality,
            "ranges": each.ranges,
            "leaders": each.leaders,
            "started_at": each.started_at,
            "node_name": each.name,
            "sql_address": each.sql_address,
            "http_address": each.http_address,
        }


def _tables(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for table in view.tables():
        if table.kind not in "rm":
            continue
        sharding = table.sharding
        group = view.catalog_state.groups.get(sharding.group) if sharding is not None else None
        yield {
            "table_oid": table.oid,
            "schema_name": schema_name(view, table.schema),
            "table_name": table.name,
            "storage_id": table.storage_id,
            "sharding": sharding.strategy if sharding is not None else "reference" if table.reference else "range",
            "shard_columns": ", ".join(column_names(table, sharding.columns)) if sharding is not None else None,
            "colocation_group": sharding.group if sharding is not None else None,
            "shards": group.shards if group is not None else len(sharding.shards) if sharding is not None else None,
        }


define_relation(
    _relation(
        "ranges",
        13_991,
        range_id=INT8,
        start_key=BYTEA,
        end_key=BYTEA,
        start_pretty=TEXT,
        end_pretty=TEXT,
        leaseholder=INT4,
        replicas=_INT4_ARRAY,
        term=INT8,
        keys=INT8,
        bytes=INT8,
    ),
    _ranges,
)
define_relation(
    _relation(
        "nodes",
        13_992,
        node_id=INT4,
        address=TEXT,
        is_live=BOOL,
        locality=TEXT,
        ranges=INT4,
        leaders=INT4,
        started_at=TIMESTAMPTZ,
        node_name=TEXT,
        sql_address=TEXT,
        http_address=TEXT,
    ),
    _nodes,
)
define_relation(
    _relation(
        "tables",
        13_993,
        table_oid=OID,
        schema_name=NAME,
        table_name=NAME,
        storage_id=INT8,
        sharding=TEXT,
        shard_columns=TEXT,
        colocation_group=INT8,
        shards=INT4,
    ),
    _tables,
)
