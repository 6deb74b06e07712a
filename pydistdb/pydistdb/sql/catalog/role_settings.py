"""ALTER ROLE … SET and ALTER DATABASE … SET: settings that sessions to come start with (session/login.py).

They are checked here as SET would check them, so that a session does not start with what is impossible.

Source: PostgreSQL 15 manual, ALTER ROLE, ALTER DATABASE; pg_db_role_setting.c.
"""

from __future__ import annotations

from pydistdb.sql.catalog import keys
from pydistdb.sql.catalog.access import PG_DATABASE
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.needs import must_be_owner
from pydistdb.sql.catalog.role_names import named_role
from pydistdb.sql.errors import InsufficientPrivilege, InvalidCatalogName, InvalidParameterValue
from pydistdb.sql.role_statements import AlterSettings
from pydistdb.sql.settings import Setting, canonical, check_settable, find, join_identifiers

_LISTS = frozenset({"search_path", "datestyle", "temp_tablespaces"})
MOST_SETTINGS = 1_000


async def alter_settings(ddl: DdlContext, statement: AlterSettings) -> str:
    tag = "ALTER DATABASE" if statement.role is None and statement.database is not None else "ALTER ROLE"
    database = _database(ddl, statement)
    role = _role(ddl, statement, database)
    kept = dict(ddl.roles.settings.get((database, role), {}))
    if statement.name is None:
        kept = {} if ddl.is_superuser else {name: text for name, text in kept.items() if not _may_set(ddl, name)}
    else:
        setting = find(statement.name)
        if not _may_set(ddl, setting.name):
            raise InsufficientPrivilege(f'permission denied to set parameter "{setting.name}"')
        value = _value(ddl, setting, statement)
        if value is None:
            kept.pop(setting.name, None)
        else:
            kept[setting.name] = value
    if len(kept) > MOST_SETTINGS:
        raise InvalidParameterValue(f"at most {MOST_SETTINGS} settings can be kept for a role or a database")
    ddl.apply([(keys.role_settings_key(database, role), kept or None)])
    return tag


def _may_set(ddl: DdlContext, name: str) -> bool:
    return ddl.is_superuser or find(name).context == "user"


def _database(ddl: DdlContext, statement: AlterSettings) -> int:
    if statement.database is None:
        return 0
    found = ddl.view.catalog_state.databases_by_name.get(statement.database)
    if found is None:
        raise InvalidCatalogName(f'database "{statement.database}" does not exist')
    oid = found.descriptor.oid
    if statement.role is None and not ddl.view.access.owns(ddl.role, PG_DATABASE, oid):
        raise must_be_owner("database", statement.database)
    return oid


def _role(ddl: DdlContext, statement: AlterSettings, database: int) -> int:
    if statement.role is None:
        if not database and not ddl.is_superuser:
            raise InsufficientPrivilege("must be superuser to alter settings globally")
        return 0
    role = named_role(ddl, statement.role)
    if role.superuser:
        if not ddl.is_superuser:
            raise InsufficientPrivilege("must be superuser to alter superusers")
    elif not ddl.may_create_roles and role.oid != ddl.role:
        raise InsufficientPrivilege("permission denied")
    return role.oid


def _value(ddl: DdlContext, setting: Setting, statement: AlterSettings) -> str | None:
    """The setting's text; None for RESET and DEFAULT."""
    check_settable(setting)
    if statement.from_current:
        return ddl.context.settings.get(setting.key, setting.default)
    if statement.values is None:
        return None
    if len(statement.values) > 1 and setting.key not in _LISTS:
        raise InvalidParameterValue(f"SET {setting.name} takes only one argument")
    if setting.key == "search_path":
        text = join_identifiers(statement.values)
    else:
        text = ", ".join(statement.values)
    canonical(setting, text)
    return text
