"""CREATE, ALTER and DROP of schemas and databases.

A database is a name space of its own: its schemas, tables and comments carry its oid in their keys.  CREATE DATABASE
makes an empty one (with schema public), whatever the template, and refuses templates that have tables.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pydistdb.sql import bind
from pydistdb.sql.catalog import keys
from pydistdb.sql.catalog.access import PG_DATABASE, PG_NAMESPACE
from pydistdb.sql.catalog.acl import CREATE
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.descriptors import DatabaseDescriptor, Schema
from pydistdb.sql.catalog.follow import put_renamed_schema
from pydistdb.sql.catalog.garbage import dropped_garbage, group_garbage
from pydistdb.sql.catalog.naming import clip
from pydistdb.sql.catalog.role_names import check_member, find_role, named_role
from pydistdb.sql.catalog.roles import DATABASE_OWNER, Role
from pydistdb.sql.catalog.state import PUBLIC_OID, SYSTEM_SCHEMAS, Change, DatabaseState
from pydistdb.sql.catalog.store import PUBLIC_COMMENT
from pydistdb.sql.errors import (
    ActiveTransaction,
    DatabaseError,
    DuplicateDatabase,
    DuplicateObject,
    DuplicateSchema,
    FeatureNotSupported,
    InsufficientPrivilege,
    InvalidCatalogName,
    InvalidParameterValue,
    ObjectInUse,
    WrongObjectType,
)
from pydistdb.sql.pg_catalog.extensions import BUILT_IN_EXTENSIONS
from pydistdb.sql.schema_statements import (
    AlterSchema,
    CreateDatabase,
    CreateExtension,
    CreateSchema,
    DropDatabase,
)
from pydistdb.sql.statements import Utility
from pydistdb.tasks import sleep

SESSIONS_TOPIC = "catalog.sessions"
END_SESSIONS_TOPIC = "catalog.end_sessions"
SESSIONS_TIMEOUT_NS = 2_000_000_000
SESSIONS_PATIENCE_NS = 5_000_000_000
"""How long DROP DATABASE waits for others to leave: as long as Postgres does."""
SESSIONS_RETRY_NS = 100_000_000
_ENCODINGS = frozenset({"utf8", "utf-8", "unicode", "6"})
_LOCALES = frozenset({"c", "posix", "c.utf-8", "c.utf8", "en_us.utf-8", "en_us.utf8"})


async def create_schema(ddl: DdlContext, statement: CreateSchema) -> str:
    owner = ddl.current_role if statement.owner is None else named_role(ddl, statement.owner)
    name = clip(statement.name or owner.name)
    ddl.require(PG_DATABASE, ddl.database_oid, CREATE, "database", ddl.database_name)
    check_member(ddl, owner)
    if ddl.view.schema_named(name) is not None:
        if not statement.if_not_exists:
            raise DuplicateSchema(f'schema "{name}" already exists')
        ddl.tell(f'schema "{name}" already exists, skipping', "42P06")
        return "CREATE SCHEMA"
    _check_schema_name(name)
    oid = await ddl.store.allocate_oids()
    database = ddl.database_oid
    ddl.apply([(keys.schema_key(database, oid), Schema(oid, name, database, owner.oid))])
    await _create_elements(ddl, name, statement.elements)
    return "CREATE SCHEMA"


_ELEMENT_ORDER = ("CREATE SEQUENCE", "CREATE TABLE", "CREATE VIEW", "CREATE INDEX")
"""Elements may refer to one another whatever their order, as far as this one allows."""


async def _create_elements(ddl: DdlContext, name: str, texts: Sequence[str]) -> None:
    """Execute the statements inside CREATE SCHEMA; unqualified names are of the new schema."""
    from pydistdb.sql.catalog.ddl import execute

    statements = [parsed for text in texts for parsed in bind.parse(text)]
    statements.sort(key=lambda p: _ELEMENT_ORDER.index(p.kind) if p.kind in _ELEMENT_ORDER else len(_ELEMENT_ORDER))
    inner = dataclasses.replace(ddl, search_path=(name, *ddl.search_path), _view=None)
    for parsed in statements:
        statement = bind.analyze(parsed, inner.view, ddl.context)
        assert isinstance(statement, Utility)
        await execute(statement, inner)
    ddl.forget_view()
    ddl.context.catalog = ddl.view


async def alter_schema(ddl: DdlContext, statement: AlterSchema) -> str:
    """RENAME TO, OWNER TO."""
    schema = ddl.schema(statement.name)
    if schema.oid in {each.oid for each in SYSTEM_SCHEMAS}:
        raise InsufficientPrivilege(f"permission denied for schema {schema.name}")
    ddl.require_owner(PG_NAMESPACE, schema.oid, "schema", schema.name)
    name = clip(statement.new_name)
    if ddl.view.schema_named(name) is not None:
        raise DuplicateSchema(f'schema "{name}" already exists')
    _check_schema_name(name)
    await put_renamed_schema(ddl, schema, name)
    return "ALTER SCHEMA"


async def create_extension(ddl: DdlContext, statement: CreateExtension) -> str:
    """Only what is built in can be had."""
    if statement.name not in BUILT_IN_EXTENSIONS:
        raise FeatureNotSupported(
            f'extension "{statement.name}" is not available', detail="Only what is built in can be used."
        )
    message = f'extension "{statement.name}" already exists'
    if not statement.if_not_exists:
        raise DuplicateObject(message)
    ddl.tell(message + ", skipping", "42710")
    return "CREATE EXTENSION"


def _check_schema_name(name: str) -> None:
    if name.startswith("pg_"):
        raise DatabaseError.of(
            "42939",
            f'unacceptable schema name "{name}"',
            detail='The prefix "pg_" is reserved for system schemas.',
        )


async def create_database(ddl: DdlContext, statement: CreateDatabase) -> str:
    if ddl.in_transaction_block:
        raise ActiveTransaction("CREATE DATABASE cannot run inside a transaction block")
    name = clip(statement.name)
    _check_database_options(ddl, statement)
    owner = _database_owner(ddl, statement.options.get("owner"))
    limit = int(statement.options.get("connection_limit", "-1"))
    if limit < -1:
        raise InvalidParameterValue(f"invalid connection limit: {limit}")
    if name in ddl.view.catalog_state.databases_by_name:
        raise DuplicateDatabase(f'database "{name}" already exists')
    oid = await ddl.store.allocate_oids()
    ddl.apply(
        [
            (keys.database_key(oid), DatabaseDescriptor(oid, name, owner.oid, limit)),
            (keys.schema_key(oid, PUBLIC_OID), Schema(PUBLIC_OID, "public", oid, DATABASE_OWNER)),
            (keys.comment_key(oid, PG_NAMESPACE, PUBLIC_OID, 0), PUBLIC_COMMENT),
        ]
    )
    return "CREATE DATABASE"


def _database_owner(ddl: DdlContext, name: str | None) -> Role:
    """Whose a new database will be; raises 42501 if the current role may not make one, or not for others."""
    mine = ddl.current_role
    if not ddl.is_superuser and not mine.create_db:
        raise InsufficientPrivilege("permission denied to create database")
    owner = mine if name is None else find_role(ddl.roles, name)
    check_member(ddl, owner)
    return owner


def _check_database_options(ddl: DdlContext, statement: CreateDatabase) -> None:
    for option, value in statement.options.items():
        match option.lower():
            case "owner" | "connection_limit":
                pass
            case "template":
                template = ddl.view.catalog_state.databases_by_name.get(value)
                if template is None:
                    raise InvalidCatalogName(f'template database "{value}" does not exist')
                if template.tables:
                    raise FeatureNotSupported("copying a template database that has tables is not supported")
            case "encoding":
                if value.lower() not in _ENCODINGS:
                    raise FeatureNotSupported(f'encoding "{value}" is not supported', detail="All text is UTF8.")
            case "locale" | "lc_collate" | "lc_ctype" | "collate" | "ctype":
                if value.lower() not in _LOCALES:
                    raise DatabaseError.of("42809", f'invalid locale name: "{value}"')
            case "allow_connections" | "is_template" | "strategy" | "oid" | "tablespace":
                if (option.lower(), value.lower()) != ("tablespace", "pg_default"):
                    raise FeatureNotSupported(f"CREATE DATABASE … {option.upper()} is not supported")
            case _:
                raise InvalidParameterValue(f'option "{option}" not recognized')


async def drop_database(ddl: DdlContext, statement: DropDatabase) -> str:
    if ddl.in_transaction_block:
        raise ActiveTransaction("DROP DATABASE cannot run inside a transaction block")
    found = ddl.view.catalog_state.databases_by_name.get(statement.name)
    if found is None:
        message = f'database "{statement.name}" does not exist'
        if not statement.missing_ok:
            raise InvalidCatalogName(message)
        ddl.tell(message + ", skipping", "00000")
        return "DROP DATABASE"
    ddl.require_owner(PG_DATABASE, found.descriptor.oid, "database", statement.name)
    if statement.name in ("template0", "template1"):
        raise WrongObjectType("cannot drop a template database")
    if statement.name == ddl.database_name:
        raise ObjectInUse("cannot drop the currently open database")
    await _refuse_other_sessions(ddl, statement)
    await ddl.ddl.lock_tables(found.tables)
    ddl.apply(_everything_in(ddl, found))
    return "DROP DATABASE"


async def _refuse_other_sessions(ddl: DdlContext, statement: DropDatabase) -> None:
    """Every node answers with the number of its sessions in the database (session/environment.py)."""
    database, scheduler = ddl.store.database, ddl.store.scheduler
    name = statement.name.encode()
    if statement.force:
        await database.broadcast(END_SESSIONS_TOPIC, name, SESSIONS_TIMEOUT_NS)
    deadline_ns = scheduler.now_ns() + SESSIONS_PATIENCE_NS
    while True:
        answers = await database.broadcast(SESSIONS_TOPIC, name, SESSIONS_TIMEOUT_NS)
        count = sum(int(answer) for answer in answers.values() if answer)
        if not count:
            return
        if scheduler.now_ns() >= deadline_ns:
            break
        ddl.ddl.check_interrupt()
        await sleep(scheduler, SESSIONS_RETRY_NS)
    plural = "is 1 other session" if count == 1 else f"are {count} other sessions"
    raise ObjectInUse(
        f'database "{statement.name}" is being accessed by other users',
        detail=f"There {plural} using the database.",
    )


def _everything_in(ddl: DdlContext, database: DatabaseState) -> list[Change]:
    oid = database.descriptor.oid
    changes: list[Change] = [(keys.table_key(oid, table), None) for table in database.tables]
    changes += [(keys.type_key(oid, sql_type), None) for sql_type in database.types]
    changes += [(keys.routine_key(oid, routine), None) for routine in database.routines]
    changes += [(keys.schema_key(oid, schema.oid), None) for schema in database.schemas.values() if schema.database]
    changes += [(keys.comment_key(oid, *comment), None) for comment in database.comments]
    changes += [(keys.statistics_key(oid, table), None) for table in database.statistics]
    groups = ddl.view.catalog_state.groups.values()
    for group in groups:
        if group.database == oid:
            changes.append((keys.group_key(group.group), None))
            ddl.ddl.dropped_storage(group_garbage(group.group))
    changes.append((keys.database_key(oid), None))
    for table in database.tables.values():
        if table.kind != "v":
            for garbage in dropped_garbage(table, ()):
                ddl.ddl.dropped_storage(garbage)
    return changes
