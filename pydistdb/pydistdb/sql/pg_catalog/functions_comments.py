"""Comments and names of objects: obj_description, col_description, pg_describe_object, pg_get_userbyid and the like.

Comments stand in the catalog by (oid of the system table, oid of the object, column number or 0)::

    COMMENT ON COLUMN t.a IS 'first'        (1259, t's oid, 1)
    col_description('t'::regclass, 1)       first

Source: PostgreSQL 15 manual, 9.26 (comment information functions).
"""

from __future__ import annotations

from pydistdb.sql.catalog.access import PG_CLASS, PG_NAMESPACE, PG_STATISTIC_EXT, SHARED_CLASSES
from pydistdb.sql.catalog.descriptors import Index, Table
from pydistdb.sql.catalog.statistics_names import described_statistics
from pydistdb.sql.pg_catalog.define import RELATIONS
from pydistdb.sql.pg_catalog.descriptions import built_in_descriptions, descriptions_of
from pydistdb.sql.pg_catalog.objects import column_names, visible_name
from pydistdb.sql.pg_catalog.provide import provides, view_of
from pydistdb.sql.types.base import EvalContext


def _class_oid(name: str) -> int | None:
    relation = RELATIONS.get(name)
    return relation.oid if relation is not None else None


@provides("obj_description(oid,name)")
def obj_description(context: EvalContext, oid: int, class_name: str) -> str | None:
    class_oid = _class_oid(class_name)
    if class_oid is None or class_oid in SHARED_CLASSES:
        return None
    return view_of(context).comment(class_oid, oid) or built_in_descriptions().get((class_oid, oid))


@provides("obj_description(oid)")
def obj_description_any(context: EvalContext, oid: int) -> str | None:
    """Whatever has the oid: oids of different system tables may be alike, so this is deprecated."""
    for (class_oid, object_oid, sub_id), text in view_of(context).state.comments.items():
        if object_oid == oid and not sub_id and class_oid not in SHARED_CLASSES:
            return text
    return next((text for _, text in descriptions_of(oid)), None)


@provides("col_description(oid,int4)")
def col_description(context: EvalContext, oid: int, number: int) -> str | None:
    return view_of(context).comment(PG_CLASS, oid, number) if number else None


@provides("shobj_description(oid,name)")
def shobj_description(context: EvalContext, oid: int, class_name: str) -> str | None:
    class_oid = _class_oid(class_name)
    if class_oid not in SHARED_CLASSES:
        return None
    for database in view_of(context).catalog_state.databases.values():
        text = database.comments.get((class_oid, oid, 0))
        if text is not None:
            return text
    return None


@provides("pg_get_userbyid(oid)")
def pg_get_userbyid(context: EvalContext, oid: int) -> str:
    role = view_of(context).catalog_state.roles.by_oid.get(oid)
    return role.name if role is not None else f"unknown (OID={oid})"


@provides("pg_describe_object(oid,oid,int4)")
def pg_describe_object(context: EvalContext, class_oid: int, oid: int, sub_id: int) -> str | None:
    view = view_of(context)
    kinds = {"r": "table", "v": "view", "m": "materialized view", "S": "sequence"}
    table = view.table_by_oid(oid)
    if class_oid == PG_CLASS and table is not None:
        text = f"{kinds[table.kind]} {visible_name(view, table.schema, table.name)}"
        return f"column {column_names(table, [sub_id])[0]} of {text}" if sub_id else text
    found: tuple[Table, Index] | None = view.index_by_oid(oid)
    if class_oid == PG_CLASS and found is not None:
        return f"index {visible_name(view, found[0].schema, found[1].name)}"
    schema = view.schema_by_oid(oid)
    if class_oid == PG_NAMESPACE and schema is not None:
        return f"schema {schema.name}"
    statistics = view.state.statistics_object(oid)
    if class_oid == PG_STATISTIC_EXT and statistics is not None:
        return described_statistics(view, statistics[1])
    return None
