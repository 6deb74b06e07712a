"""CREATE TYPE: enums (enums.py) and composite types.

A type takes two oids, its own and that of its arrays; a composite type a third, for its row in pg_class.

Source: PostgreSQL 15 manual, CREATE TYPE.
"""

from __future__ import annotations

from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.enums import labels_of
from pydistdb.sql.catalog.naming import clip
from pydistdb.sql.catalog.type_names import put_type, refuse_taken
from pydistdb.sql.errors import FeatureNotSupported
from pydistdb.sql.statements import CreateType
from pydistdb.sql.types.user import UserType


async def create_type(ddl: DdlContext, statement: CreateType) -> str:
    await ddl.ddl.open()
    schema = ddl.target_schema(statement.name)
    name = clip(statement.name.name)
    refuse_taken(ddl, schema.oid, name)
    oid = await ddl.store.allocate_oids(2)
    if statement.kind == "enum":
        labels = await labels_of(ddl, statement.labels, oid)
        put_type(ddl, UserType(oid, name, schema.oid, ddl.database_oid, "e", oid + 1, ddl.role, labels=labels))
    else:
        raise FeatureNotSupported("composite types are not supported")
    return "CREATE TYPE"
