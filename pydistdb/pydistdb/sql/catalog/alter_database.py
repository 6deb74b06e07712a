"""ALTER DATABASE … WITH: who may connect, and how many at a time.

Source: PostgreSQL 15 manual, ALTER DATABASE; dbcommands.c (AlterDatabase).
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from pydistdb.sql.catalog import keys
from pydistdb.sql.catalog.access import PG_DATABASE
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.errors import FeatureNotSupported, InvalidCatalogName, InvalidParameterValue, InvalidSyntax
from pydistdb.sql.role_statements import AlterDatabase
from pydistdb.sql.settings import parse_bool

_FLAGS = {"allow_connections": "allows_connections", "is_template": "is_template"}


async def alter_database(ddl: DdlContext, statement: AlterDatabase) -> str:
    found = ddl.view.catalog_state.databases_by_name.get(statement.name)
    changes: dict[str, Any] = {}
    for option, value in statement.options:
        if option in _FLAGS:
            flag = parse_bool(str(value))
            if flag is None:
                raise InvalidSyntax(f"{option} requires a Boolean value")
            changes[_FLAGS[option]] = flag
        elif option == "connection_limit":
            limit = int(str(value))
            if limit < -1:
                raise InvalidParameterValue(f"invalid connection limit: {limit}")
            changes["connection_limit"] = limit
        elif option != "tablespace" or value != "pg_default":
            raise FeatureNotSupported(f"ALTER DATABASE … {option.upper()} is not supported")
    if found is None:
        raise InvalidCatalogName(f'database "{statement.name}" does not exist')
    database = found.descriptor
    ddl.require_owner(PG_DATABASE, database.oid, "database", database.name)
    if changes.get("allows_connections") is False and database.name == ddl.database_name:
        raise InvalidParameterValue("cannot disallow connections for current database")
    ddl.apply([(keys.database_key(database.oid), replace(database, **changes))])
    return "ALTER DATABASE"
