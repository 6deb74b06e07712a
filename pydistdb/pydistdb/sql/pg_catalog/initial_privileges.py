"""pg_init_privs: the privileges that a new database comes with; pg_dump writes only what differs from them."""

from __future__ import annotations

from collections.abc import Iterator

from pydistdb.sql.catalog.state import INTERNAL_SCHEMA_OID
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.pg_catalog import registry
from pydistdb.sql.pg_catalog.acl_columns import acl_array
from pydistdb.sql.pg_catalog.define import RowDict, rows_of
from pydistdb.sql.types.base import EvalContext

PG_CLASS, PG_NAMESPACE = 1259, 2615


@rows_of("pg_init_privs")
def pg_init_privs(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    objects = [(PG_NAMESPACE, schema.oid, schema.oid == INTERNAL_SCHEMA_OID) for schema in view.schemas()]
    objects += [
        (PG_CLASS, table.oid, table.schema == "pydistdb_internal") for table in registry.virtual_tables().values()
    ]
    for object_class, oid, of_extension in objects:
        acl = view.access.initial_acl(object_class, oid)
        if acl is not None:
            yield {
                "objoid": oid,
                "classoid": object_class,
                "objsubid": 0,
                "privtype": "e" if of_extension else "i",
                "initprivs": acl_array(view, acl),
            }
