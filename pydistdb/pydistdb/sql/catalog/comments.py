"""COMMENT ON whatever has an owner.

A comment stands with its database.  What is said about a database is kept with that one, what is said about a role with
template0, which nobody can drop; older clusters have both wherever the command was given, so those are removed::

    COMMENT ON TABLE t IS 'people'      'C' own database, pg_class, t's oid, 0
    COMMENT ON ROLE ann IS 'admin'      'C' template0,    pg_authid, ann's oid, 0

Source: PostgreSQL 15 manual, COMMENT.
"""

from __future__ import annotations

from pydistdb.sql.catalog import keys
from pydistdb.sql.catalog.access import (
    PG_AUTHID,
    PG_CLASS,
    PG_DATABASE,
    PG_NAMESPACE,
    PG_PROC,
    PG_STATISTIC_EXT,
    PG_TYPE,
    SHARED_CLASSES,
)
from pydistdb.sql.catalog.constraints import column_named
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.catalog.role_names import find_role
from pydistdb.sql.catalog.routine_names import find_routine, missing_routine
from pydistdb.sql.catalog.state import Change
from pydistdb.sql.catalog.statistics_names import named
from pydistdb.sql.catalog.type_names import alterable, existing_type
from pydistdb.sql.errors import (
    DatabaseError,
    FeatureNotSupported,
    InsufficientPrivilege,
    InvalidCatalogName,
    InvalidSyntax,
    UndefinedColumn,
    UndefinedObject,
    UndefinedTable,
)
from pydistdb.sql.pg_catalog.objects import CONSTRAINT_OID_OFFSET
from pydistdb.sql.schema_statements import Comment
from pydistdb.sql.statements import Name

PG_CONSTRAINT = 2606
TEMPLATE0_OID = 4


async def comment(ddl: DdlContext, statement: Comment) -> str:
    object_class, oid, sub_id = _commented(ddl, statement)
    _check_comment(ddl, statement, object_class, oid)
    about = (object_class, oid, sub_id)
    home = ddl.database_oid
    changes: list[Change] = []
    if object_class in SHARED_CLASSES:
        home = oid if object_class == PG_DATABASE else TEMPLATE0_OID
        for database in ddl.view.catalog_state.databases.values():
            if about in database.comments:
                changes.append((keys.comment_key(database.descriptor.oid, *about), None))
    ddl.apply([*changes, (keys.comment_key(home, *about), statement.text or None)])
    return "COMMENT"


def _check_comment(ddl: DdlContext, statement: Comment, object_class: int, oid: int) -> None:
    """Who may say something about an object: its owner; about roles, those who may make them."""
    last = statement.name[-1]
    match object_class:
        case 1260:
            if ddl.roles.is_superuser(oid) and not ddl.is_superuser:
                raise InsufficientPrivilege("must be superuser")
            if not ddl.may_create_roles:
                raise InsufficientPrivilege("must have CREATEROLE privilege")
        case 2606 if statement.kind == "domconstraint":
            domain = alterable(ddl, _name(statement.name[:-1]), "domain").definition
            ddl.require_owner(PG_TYPE, domain.oid, "type", domain.name)
        case 2606:
            ddl.require_table_owner(ddl.table(_name(statement.name[:-1])))
        case 1259 if statement.kind == "index":
            ddl.require_owner(PG_CLASS, oid, "index", last)
        case 1259 if statement.kind == "column" and oid not in ddl.view.state.tables:
            composite = existing_type(ddl, _name(statement.name[:-1]))
            ddl.require_owner(PG_TYPE, composite.oid, "type", composite.name)
        case 1259 if statement.kind == "column":
            ddl.require_owner(PG_CLASS, oid, "relation", ddl.view.state.tables[oid].name)
        case 1259:
            ddl.require_table_owner(ddl.view.state.tables[oid])
        case _:
            ddl.require_owner(object_class, oid, statement.kind, last)


def _commented(ddl: DdlContext, statement: Comment) -> tuple[int, int, int]:
    """(class, oid, column number) of what the comment is about."""
    *qualifiers, last = statement.name
    match statement.kind:
        case "table" | "view" | "materialized view" | "sequence":
            kinds = {"table": "r", "view": "v", "materialized view": "m", "sequence": "S"}[statement.kind]
            return PG_CLASS, ddl.table(_name(statement.name), kinds).oid, 0
        case "index":
            name = _name(statement.name)
            found = ddl.view.index_by_name(name.name, name.schema)
            if found is None:
                raise UndefinedTable(f'relation "{ddl.written(name)}" does not exist')
            return PG_CLASS, found[1].oid, 0
        case "column" if not qualifiers:
            raise InvalidSyntax("column name must be qualified")
        case "column" if (field := _attribute(ddl, tuple(qualifiers), last)) is not None:
            return field
        case "domconstraint":
            domain = alterable(ddl, _name(tuple(qualifiers)), "domain").definition
            for check in domain.checks:
                if check.name == last:
                    return PG_CONSTRAINT, check.oid, 0
            raise UndefinedObject(f'constraint "{last}" for domain {domain.name} does not exist')
        case "column":
            table = ddl.table(_name(tuple(qualifiers)), "rvm")
            column = column_named(table, last)
            if column is None:
                raise UndefinedColumn(f'column "{last}" of relation "{table.name}" does not exist')
            return PG_CLASS, table.oid, column.number
        case "function" | "procedure" | "routine":
            assert statement.routine is not None
            routine = find_routine(ddl, statement.routine, statement.kind)
            if routine is None:
                raise missing_routine(ddl, statement.routine, statement.kind)
            return PG_PROC, routine.oid, 0
        case "schema":
            return PG_NAMESPACE, ddl.schema(last).oid, 0
        case "database":
            found_database = ddl.view.catalog_state.databases_by_name.get(last)
            if found_database is None:
                raise InvalidCatalogName(f'database "{last}" does not exist')
            return PG_DATABASE, found_database.descriptor.oid, 0
        case "tabconstraint" | "constraint":
            table = ddl.table(_name(tuple(qualifiers)))
            return PG_CONSTRAINT, _constraint_oid(table, last), 0
        case "role":
            return PG_AUTHID, find_role(ddl.roles, last).oid, 0
        case "type":
            return PG_TYPE, existing_type(ddl, _name(statement.name)).oid, 0
        case "statistics object":
            return PG_STATISTIC_EXT, named(ddl, _name(statement.name))[1].oid, 0
        case "domain":
            return PG_TYPE, alterable(ddl, _name(statement.name), "domain").definition.oid, 0
        case _:
            raise FeatureNotSupported(f"COMMENT ON {statement.kind.upper()} is not supported")


def _attribute(ddl: DdlContext, type_name: tuple[str, ...], attribute_name: str) -> tuple[int, int, int] | None:
    """A field of a stand-alone composite type; None if no such type has that name."""
    name = _name(type_name)
    if ddl.view.relation(name.name, name.schema) is not None:
        return None
    sql_type = ddl.view.type_named(name.name, name.schema)
    definition = None if sql_type is None else ddl.view.type_definition(sql_type.oid)
    if definition is None or definition.kind != "c":
        return None
    for attribute in definition.attributes:
        if attribute.name == attribute_name and not attribute.dropped:
            return PG_CLASS, definition.relation, attribute.number
    raise UndefinedColumn(f'column "{attribute_name}" of relation "{definition.name}" does not exist')


def _constraint_oid(table: Table, name: str) -> int:
    for check in table.checks:
        if check.name == name:
            return check.oid
    for key in table.foreign_keys:
        if key.name == name:
            return key.oid
    for index in table.indexes:
        if index.oid and index.constraint and index.name == name:
            return index.oid + CONSTRAINT_OID_OFFSET
    raise UndefinedObject(f'constraint "{name}" for table "{table.name}" does not exist')


def _name(parts: tuple[str, ...]) -> Name:
    if len(parts) > 3:
        raise DatabaseError.of("42601", f"improper qualified name (too many dotted names): {'.'.join(parts)}")
    padded: tuple[str | None, ...] = (None,) * (3 - len(parts)) + parts
    assert padded[2] is not None
    return Name(padded[2], padded[1], padded[0])
