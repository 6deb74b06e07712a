"""CREATE TYPE: enums (enums.py) and composite types.

A type takes two oids, its own and that of its arrays; a composite type a third, for its row in pg_class.

Source: PostgreSQL 15 manual, CREATE TYPE.
"""

from __future__ import annotations

from pydistdb.sql.catalog.composites import attributes_of
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.enums import labels_of
from pydistdb.sql.catalog.naming import clip
from pydistdb.sql.catalog.temporary import place
from pydistdb.sql.catalog.type_names import put_type, refuse_taken
from pydistdb.sql.type_statements import CreateType
from pydistdb.sql.types.user import UserType


async def create_type(ddl: DdlContext, statement: CreateType) -> str:
    schema = await place(ddl, statement.name, False)
    name = clip(statement.name.name)
    refuse_taken(ddl, schema.oid, name)
    if statement.kind == "enum":
        oid = await ddl.store.allocate_oids(2)
        labels = await labels_of(ddl, statement.labels, oid)
        put_type(ddl, UserType(oid, name, schema.oid, ddl.database_oid, "e", oid + 1, ddl.role, labels=labels))
    else:
        attributes = attributes_of(statement.attributes)
        for each in attributes:
            ddl.require_type(each.type_oid)
        oid = await ddl.store.allocate_oids(3)
        made = UserType(
            oid, name, schema.oid, ddl.database_oid, "c", oid + 1, ddl.role, attributes=attributes, relation=oid + 2
        )
        put_type(ddl, made)
    return "CREATE TYPE"
