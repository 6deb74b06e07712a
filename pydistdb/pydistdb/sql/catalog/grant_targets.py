"""From what GRANT, REVOKE and ALTER … OWNER name to the objects meant."""

from __future__ import annotations

from dataclasses import dataclass

from pydistdb.sql.catalog.access import (
    PG_CLASS,
    PG_DATABASE,
    PG_LANGUAGE,
    PG_NAMESPACE,
    PG_PROC,
    PG_STATISTIC_EXT,
    PG_TYPE,
)
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.catalog.needs import relation_kind
from pydistdb.sql.catalog.statistics_names import named
from pydistdb.sql.catalog.type_names import existing_type, shown
from pydistdb.sql.catalog.view import VirtualTable
from pydistdb.sql.errors import (
    DatabaseError,
    FeatureNotSupported,
    InvalidCatalogName,
    InvalidSchemaName,
    UndefinedFunction,
    UndefinedObject,
    UndefinedTable,
    WrongObjectType,
)
from pydistdb.sql.functions import registry as functions
from pydistdb.sql.role_statements import GrantTarget
from pydistdb.sql.routines import RoutineFunction
from pydistdb.sql.statements import Name
from pydistdb.sql.types import registry as types
from pydistdb.sql.types.base import AggregateFunction, Function

FUNCTION_KINDS = ("function", "procedure", "routine", "aggregate")
_ELEMENT_HINT = "Set the privileges of the element type instead."
LANGUAGES = {"internal": 12, "c": 13, "sql": 14}


@dataclass(frozen=True, slots=True)
class Target:
    """An object found.  ``kind`` as in acl.RIGHTS; ``word``: the kind in the words of the error messages."""

    object_class: int
    oid: int
    kind: str
    word: str
    name: str
    relation: Table | VirtualTable | None = None


def find_target(ddl: DdlContext, kind: str, target: GrantTarget) -> Target:
    """The object of a kind (as the grammar has it) and name."""
    name = target.name
    if kind in ("table", "sequence"):
        return _relation(ddl, kind, name)
    if kind in FUNCTION_KINDS:
        return _function(ddl, target, kind)
    match kind:
        case "schema":
            schema = ddl.schema(name.name)
            return Target(PG_NAMESPACE, schema.oid, "schema", "schema", schema.name)
        case "database":
            database = ddl.view.catalog_state.databases_by_name.get(name.name)
            if database is None:
                raise InvalidCatalogName(f'database "{name.name}" does not exist')
            return Target(PG_DATABASE, database.descriptor.oid, "database", "database", name.name)
        case "type" | "domain":
            sql_type = existing_type(ddl, name)
            entry = ddl.view.type_entry(sql_type.oid)
            if sql_type.element_oid:
                raise DatabaseError.of("0LP01", "cannot set privileges of array types", hint=_ELEMENT_HINT)
            if kind == "domain" and (entry is None or entry.definition.kind != "d"):
                raise WrongObjectType(f'"{name.name}" is not a domain')
            return Target(PG_TYPE, sql_type.oid, "type", "type", shown(ddl, sql_type.oid))
        case "statistics":
            statistics = named(ddl, name)[1]
            return Target(PG_STATISTIC_EXT, statistics.oid, "statistics", "statistics object", statistics.name)
        case "language":
            oid = LANGUAGES.get(name.name)
            if oid is None:
                raise UndefinedObject(f'language "{name.name}" does not exist')
            if name.name != "sql":
                raise WrongObjectType(
                    f'language "{name.name}" is not trusted',
                    detail="GRANT and REVOKE are not allowed on untrusted languages, "
                    "because only superusers can use untrusted languages.",
                )
            return Target(PG_LANGUAGE, oid, "language", "language", name.name)
    raise FeatureNotSupported(f"privileges on {kind} objects are not supported")


def relation_target(relation: Table | VirtualTable) -> Target:
    is_sequence = isinstance(relation, Table) and relation.kind == "S"
    kind = "sequence" if is_sequence else "table"
    return Target(PG_CLASS, relation.oid, kind, relation_kind(relation), relation.name, relation)


def _relation(ddl: DdlContext, kind: str, name: Name) -> Target:
    relation = ddl.view.relation(name.name, name.schema)
    if relation is None:
        if ddl.view.index_by_name(name.name, name.schema) is not None:
            raise WrongObjectType(f'"{name.name}" is an index')
        if name.schema is not None and ddl.view.schema_named(name.schema) is None:
            raise InvalidSchemaName(f'schema "{name.schema}" does not exist')
        raise UndefinedTable(f'relation "{ddl.written(name)}" does not exist')
    if kind == "sequence" and (isinstance(relation, VirtualTable) or relation.kind != "S"):
        raise WrongObjectType(f'"{relation.name}" is not a sequence')
    return relation_target(relation)


def _function(ddl: DdlContext, target: GrantTarget, kind: str) -> Target:
    name = target.name
    known: list[Function | AggregateFunction] = [*ddl.view.routines(name.name, name.schema)]
    known += functions.functions(name.name, name.schema)
    if kind != "routine":
        known = [each for each in known if _is_procedure(each) == (kind == "procedure")]
    if target.arguments is None:
        if not known:
            raise UndefinedFunction(f'could not find a {kind} named "{ddl.written(name)}"')
        if len(known) > 1:
            raise DatabaseError.of(
                "42725",
                f'{kind} name "{ddl.written(name)}" is not unique',
                hint=f"Specify the argument list to select the {kind} unambiguously.",
            )
        return Target(PG_PROC, known[0].oid, "function", kind, name.name)
    wanted = [each.oid for each in target.arguments]
    for function in known:
        if [each.oid for each in function.argument_types] == wanted:
            return Target(PG_PROC, function.oid, "function", kind, name.name)
    signature = ", ".join(types.format_type(each) for each in wanted)
    raise UndefinedFunction(f"{kind} {ddl.written(name)}({signature}) does not exist")


def _is_procedure(function: Function | AggregateFunction) -> bool:
    return isinstance(function, RoutineFunction) and function.routine.kind == "p"


def targets_in_schema(ddl: DdlContext, kind: str, schema_name: str) -> list[Target]:
    """ALL TABLES (or SEQUENCES, FUNCTIONS) IN SCHEMA."""
    schema = ddl.schema(schema_name)
    if kind in FUNCTION_KINDS:
        return [
            Target(PG_PROC, routine.oid, "function", kind, routine.name)
            for routine in ddl.view.state.routines.values()
            if routine.schema == schema.oid and (kind == "routine" or (routine.kind == "p") == (kind == "procedure"))
        ]
    letters = "S" if kind == "sequence" else "rvpmf"
    return [
        relation_target(table) for table in ddl.view.tables() if table.schema == schema.oid and table.kind in letters
    ]
