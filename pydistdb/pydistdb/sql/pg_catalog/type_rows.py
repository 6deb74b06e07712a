"""pg_type and pg_enum: built-in types from ``type_facts.py``, row types of tables, enums, composites and domains.

A built-in type's row never changes and is made once.  The others come from the catalog at hand: every relation has a row
type and its array, every type that a user made has one row for itself and one for its array.

    CREATE TABLE t (a int)              pg_type gets t (typtype c, typrelid t's oid) and _t (typelem t's row type)
    CREATE TYPE mood AS ENUM ('sad')    pg_type gets mood (typtype e) and _mood, pg_enum one row per label

Source: PostgreSQL 15 manual, chapter 53.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pydistdb.sql.catalog.access import PG_TYPE
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.catalog.state import PG_CATALOG_OID
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.pg_catalog.acl_columns import with_acls
from pydistdb.sql.pg_catalog.defaults import domain_default
from pydistdb.sql.pg_catalog.define import RowDict, rows_of
from pydistdb.sql.pg_catalog.objects import OWNER_OID, single
from pydistdb.sql.pg_catalog.type_facts import ARRAY_OF_ROW_TYPE, ENUM, ROW_TYPE, TYPE_FACTS, TypeFacts, facts_of_type
from pydistdb.sql.types.base import EvalContext
from pydistdb.sql.types.known import TYPES_BY_OID
from pydistdb.sql.types.user import RANK_GAP, RowTypeEntry, TypeEntry, array_name

MOST_NAME_BYTES = 63


def _type(facts: TypeFacts, **more: Any) -> RowDict:
    return {
        "oid": facts.oid,
        "typname": facts.name,
        "typnamespace": PG_CATALOG_OID,
        "typowner": OWNER_OID,
        "typlen": facts.length,
        "typbyval": facts.by_value,
        "typtype": facts.kind,
        "typcategory": facts.category,
        "typispreferred": facts.preferred,
        "typisdefined": True,
        "typdelim": facts.delimiter,
        "typrelid": 0,
        "typsubscript": facts.subscript,
        "typelem": facts.element,
        "typarray": facts.array,
        "typinput": facts.input,
        "typoutput": facts.output,
        "typreceive": facts.receive,
        "typsend": facts.send,
        "typmodin": facts.modifier_in,
        "typmodout": facts.modifier_out,
        "typanalyze": facts.analyze,
        "typalign": facts.alignment,
        "typstorage": facts.storage,
        "typnotnull": False,
        "typbasetype": 0,
        "typtypmod": -1,
        "typndims": 0,
        "typcollation": facts.collation,
        **more,
    }


_BUILT_IN = {facts.oid: _type(facts) for facts in TYPE_FACTS.values()}


_BUILT_IN_BY_NAME = {row["typname"]: row for row in _BUILT_IN.values()}


def _row_types(table: Table) -> Iterator[RowDict]:
    """A table's row type and the array of it."""
    if table.row_type_oid:
        yield _type(
            ROW_TYPE,
            oid=table.row_type_oid,
            typname=table.name,
            typnamespace=table.schema,
            typowner=table.owner,
            typrelid=table.oid,
            typarray=table.row_type_oid + 1,
        )
        yield _type(
            ARRAY_OF_ROW_TYPE,
            oid=table.row_type_oid + 1,
            typname=array_name(table.name),
            typnamespace=table.schema,
            typowner=table.owner,
            typelem=table.row_type_oid,
        )


def _user_type(view: StateView, entry: TypeEntry) -> Iterator[RowDict]:
    """A user's type and the array of it."""
    definition = entry.definition
    owned = {"typnamespace": definition.schema, "typowner": definition.owner}
    more: RowDict = {}
    facts = ENUM
    if definition.kind == "d":
        facts = facts_of_type(definition.base_oid)._replace(kind="d", preferred=False, modifier_in=0, modifier_out=0)
        facts = facts._replace(input=2597, receive=2598, subscript=0, element=0)
        more = {
            "typnotnull": definition.not_null,
            "typbasetype": definition.base_oid,
            "typtypmod": definition.base_modifier,
            "typdefault": domain_default(view, EvalContext(), definition),
            "typdefaultbin": domain_default(view, EvalContext(), definition),
        }
    elif definition.kind == "c":
        facts = ROW_TYPE
        more = {"typrelid": definition.relation}
    yield _type(facts, oid=definition.oid, typname=definition.name, typarray=definition.array_oid, **owned | more)
    array = {"oid": definition.array_oid, "typname": entry.array.name, "typelem": definition.oid}
    yield _type(ARRAY_OF_ROW_TYPE, typalign=facts.alignment, **array, **owned)


def _all_row_types(view: StateView) -> Iterator[RowDict]:
    for table in view.tables():
        yield from _row_types(table)
    for entry in view.state.types.values():
        yield from _user_type(view, entry)


def _type_by_oid(view: StateView, context: EvalContext, oid: Any) -> Iterator[RowDict]:
    found = [_BUILT_IN[oid]] if oid in _BUILT_IN else []
    sql_type = TYPES_BY_OID.get(oid)
    entry = None if sql_type is None else view.type_entry(sql_type.element_oid or oid)
    if entry is not None:
        found += (row for row in _rows_of_entry(view, entry) if row["oid"] == oid)
    return with_acls(view, PG_TYPE, "typacl", found)


def _rows_of_entry(view: StateView, entry: TypeEntry) -> Iterator[RowDict]:
    if isinstance(entry, RowTypeEntry):
        table = view.table_by_oid(entry.relation)
        return iter(()) if table is None else _row_types(table)
    return _user_type(view, entry)


def _type_by_name(view: StateView, context: EvalContext, name: Any) -> Iterator[RowDict]:
    found = [_BUILT_IN_BY_NAME[name]] if name in _BUILT_IN_BY_NAME else []
    state = view.state
    for schema in state.schemas:
        for own_name in (name, name[1:]):  # arrays are called like their items, with an underscore before it
            table = state.relations.get((schema, own_name))
            entry = state.types_by_name.get((schema, own_name))
            rows = list(_row_types(table)) if table is not None else []
            rows += [] if entry is None else _user_type(view, entry)
            found += (row for row in rows if row["typname"] == name)
    if len(name.encode()) == MOST_NAME_BYTES and not found:  # an array's name that had to be cut off
        found += (row for row in _all_row_types(view) if row["typname"] == name)
    return with_acls(view, PG_TYPE, "typacl", found)


@rows_of("pg_type", lookups={"oid": _type_by_oid, "typname": _type_by_name})
def pg_type(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    yield from with_acls(view, PG_TYPE, "typacl", _BUILT_IN.values())
    yield from with_acls(view, PG_TYPE, "typacl", _all_row_types(view))


def _enum_labels(view: StateView, entries: Iterable[TypeEntry]) -> Iterator[RowDict]:
    for entry in entries:
        for label in entry.definition.labels:
            yield {
                "oid": label.oid,
                "enumtypid": entry.definition.oid,
                "enumsortorder": single(label.rank / RANK_GAP),
                "enumlabel": label.name,
            }


def _enum_labels_of(view: StateView, context: EvalContext, oid: Any) -> Iterator[RowDict]:
    entry = view.type_entry(oid)
    return _enum_labels(view, [] if entry is None else [entry])


@rows_of("pg_enum", lookups={"enumtypid": _enum_labels_of})
def pg_enum(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    yield from _enum_labels(view, view.state.types.values())
