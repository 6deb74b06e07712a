"""What a role has to do with the objects of a database: what it owns, and which lists of privileges mention it.

DROP ROLE refuses because of it, REASSIGN OWNED and DROP OWNED work it off.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydistdb.sql.catalog.access import PG_CLASS, PG_DATABASE, PG_NAMESPACE, PG_PROC, PG_STATISTIC_EXT, PG_TYPE, Access
from pydistdb.sql.catalog.acl import Acl
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.catalog.needs import relation_kind
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.catalog.statistics_names import described_statistics, everything_of
from pydistdb.sql.functions import registry as functions
from pydistdb.sql.types import registry as types

DEFAULT_KINDS = {"r": "relations", "S": "sequences", "f": "functions", "T": "types", "n": "schemas"}
PG_DEFAULT_ACL = 826


@dataclass(frozen=True, slots=True)
class Subject:
    """``relation``: owner, acl (privileges for it), or default (privileges of objects to come)."""

    object_class: int
    oid: int
    sub_id: int
    relation: str
    description: str


def subjects_of(view: StateView, role: int) -> list[Subject]:
    """Everything in the database, and the databases themselves, in the order of the oids."""
    access = view.access
    found = [*_owned(view, access, role), *_mentioned(view, access, role), *_defaults(access, role)]
    return sorted(found, key=lambda subject: (subject.oid, subject.object_class, subject.sub_id, subject.relation))


def _owned(view: StateView, access: Access, role: int) -> Iterator[Subject]:
    for database in access.state.databases.values():
        if database.descriptor.owner == role:
            descriptor = database.descriptor
            yield Subject(PG_DATABASE, descriptor.oid, 0, "owner", f"database {descriptor.name}")
    for schema in access.database.schemas.values():
        if schema.database and schema.owner == role:
            yield Subject(PG_NAMESPACE, schema.oid, 0, "owner", f"schema {schema.name}")
    for table in access.database.tables.values():
        if table.owner == role:
            yield Subject(PG_CLASS, table.oid, 0, "owner", describe(view, PG_CLASS, table.oid))
    for routine in access.database.routines.values():
        if routine.owner == role:
            yield Subject(PG_PROC, routine.oid, 0, "owner", describe(view, PG_PROC, routine.oid))
    for _, statistics in everything_of(access.database):
        if statistics.owner == role:
            description = described_statistics(view, statistics)
            yield Subject(PG_STATISTIC_EXT, statistics.oid, 0, "owner", description)
    for oid, entry in access.database.types.items():
        if entry.definition.owner == role and not entry.definition.relation:
            yield Subject(PG_TYPE, oid, 0, "owner", describe(view, PG_TYPE, oid))


def _mentions(acl: Acl, role: int, owner: int) -> bool:
    return role != owner and any(role in (item.grantee, item.grantor) for item in acl)


def _mentioned(view: StateView, access: Access, role: int) -> Iterator[Subject]:
    for database in access.state.databases.values():
        oid = database.descriptor.oid
        acl = database.acls.get((PG_DATABASE, oid, 0))
        if acl is not None and _mentions(acl, role, database.descriptor.owner):
            yield Subject(PG_DATABASE, oid, 0, "acl", f"database {database.descriptor.name}")
    for (object_class, oid, sub_id), acl in access.database.acls.items():
        if object_class != PG_DATABASE and _mentions(acl, role, access.owner(object_class, oid)):
            yield Subject(object_class, oid, sub_id, "acl", describe(view, object_class, oid, sub_id))


def _defaults(access: Access, role: int) -> Iterator[Subject]:
    for (owner, schema_oid, letter), entry in access.database.default_acls.items():
        mentioned = any(role in (item.grantee, item.grantor) for item in entry.items)
        if owner != role and not mentioned:
            continue
        text = f"default privileges on new {DEFAULT_KINDS[letter]} belonging to role {access.roles.name_of(owner)}"
        schema = access.database.schemas.get(schema_oid)
        if schema is not None:
            text += f" in schema {schema.name}"
        word = "owner of" if owner == role else "privileges for"
        yield Subject(PG_DEFAULT_ACL, entry.oid, 0, "default", f"{word} {text}")


def describe(view: StateView, object_class: int, oid: int, sub_id: int = 0) -> str:
    """The object in words: ``table orders``, ``column id of table orders``."""
    access = view.access
    match object_class:
        case 1259:
            table = access.database.tables.get(oid)
            if table is None:
                return f"relation {oid}"
            name = f"{relation_kind(table)} {_visible_name(view, table)}"
            return f"column {_column(table, sub_id)} of {name}" if sub_id else name
        case 2615:
            schema = access.database.schemas.get(oid)
            return f"schema {schema.name if schema is not None else oid}"
        case 1262:
            database = access.state.databases.get(oid)
            return f"database {database.descriptor.name if database is not None else oid}"
    if object_class == PG_PROC:
        routine = access.database.routines.get(oid)
        function = functions.function_by_oid(oid) if routine is None else view.function_of(routine)
        if function is not None:
            arguments = ",".join(types.format_type(each.oid) for each in function.argument_types)
            word = "procedure" if routine is not None and routine.kind == "p" else "function"
            return f"{word} {function.name}({arguments})"
    elif object_class == PG_TYPE:
        entry = access.database.types.get(oid)
        if entry is not None:
            return f"type {entry.definition.name}"
        return f"type {types.format_type(oid)}"
    return f"object {oid}"


def _visible_name(view: StateView, table: Table) -> str:
    if view.is_visible(table.schema, table.name):
        return table.name
    return f"{view.state.schemas[table.schema].name}.{table.name}"


def _column(table: Table, number: int) -> str:
    return next((column.name for column in table.columns if column.number == number), str(number))
