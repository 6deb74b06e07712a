"""Who may do what with which object: the questions that the executor, DDL, the system tables and ``has_…_privilege`` ask.

An ``Access`` answers for one database in one state of the catalog.  Objects are named as everywhere in Postgres's catalogs:
by the oid of the system table that describes them, their own oid, and a column's number. ::

    access.missing(role, PG_CLASS, table.oid, SELECT | UPDATE)      bits that the role does not have; 0: it may go on
    access.owns(role, PG_CLASS, table.oid)

A superuser has everything.  ``pg_read_all_data`` and ``pg_write_all_data`` come on top of what the lists say.  An object
without a list has the built-in default, except for those that a new Postgres database has lists for: the schema public,
the system schemas and tables, and the templates.

Source: PostgreSQL 15 manual, 5.7 and 22.5; aclchk.c (pg_class_aclmask and its kin).
"""

from __future__ import annotations

from functools import cached_property

from pydistdb.sql.catalog import acl as acls
from pydistdb.sql.catalog.acl import Acl, AclItem
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.catalog.roles import (
    BOOTSTRAP_ROLE,
    DATABASE_OWNER,
    MONITOR,
    READ_ALL_DATA,
    WRITE_ALL_DATA,
    RoleSet,
)
from pydistdb.sql.catalog.state import PG_TOAST_OID, PUBLIC_OID, CatalogState, DatabaseState
from pydistdb.sql.catalog.view import VirtualTable
from pydistdb.sql.pg_catalog import registry

PG_CLASS, PG_NAMESPACE, PG_DATABASE, PG_PROC, PG_TYPE = 1259, 2615, 1262, 1255, 1247
PG_LANGUAGE, PG_TABLESPACE, PG_AUTHID, PG_STATISTIC_EXT = 2612, 1213, 1260, 3381
SHARED_CLASSES = frozenset({PG_DATABASE, PG_AUTHID})
"""Databases and roles: what is said about them can be read in every database."""

SECRET_TABLES = frozenset(
    {"pg_authid", "pg_shadow", "pg_statistic", "pg_statistic_ext_data", "pg_user_mapping", "pg_largeobject"}
)
"""System tables that only superusers may read."""
_WRITES = acls.INSERT | acls.UPDATE | acls.DELETE
_TEMPLATES = ("template0", "template1")
_PUBLIC_READS = (
    AclItem(BOOTSTRAP_ROLE, BOOTSTRAP_ROLE, acls.TABLE_RIGHTS),
    AclItem(acls.PUBLIC, BOOTSTRAP_ROLE, acls.SELECT),
)
_ONLY_SUPERUSERS = (_PUBLIC_READS[0],)
_MONITORED = (_PUBLIC_READS[0], AclItem(MONITOR, BOOTSTRAP_ROLE, acls.SELECT))
"""Of our own system tables: ranges begin and end with keys, which hold values."""
_ALL_OF_SCHEMA = acls.USAGE | acls.CREATE
_SYSTEM_SCHEMA = (
    AclItem(BOOTSTRAP_ROLE, BOOTSTRAP_ROLE, _ALL_OF_SCHEMA),
    AclItem(acls.PUBLIC, BOOTSTRAP_ROLE, acls.USAGE),
)
_PUBLIC_SCHEMA = (
    AclItem(DATABASE_OWNER, DATABASE_OWNER, _ALL_OF_SCHEMA),
    AclItem(acls.PUBLIC, DATABASE_OWNER, acls.USAGE),
)
_TEMPLATE = (
    AclItem(acls.PUBLIC, BOOTSTRAP_ROLE, acls.CONNECT),
    AclItem(BOOTSTRAP_ROLE, BOOTSTRAP_ROLE, acls.RIGHTS["database"]),
)


class Access:
    """See the module's docstring."""

    def __init__(self, state: CatalogState, database: DatabaseState) -> None:
        self.state = state
        self.database = database

    @property
    def roles(self) -> RoleSet:
        return self.state.roles

    @cached_property
    def database_owner(self) -> int:
        return self.database.descriptor.owner

    def has_privileges_of(self, role: int, other: int) -> bool:
        return self.roles.has_privileges_of(role, other, self.database_owner)

    def is_member_of(self, role: int, other: int) -> bool:
        return self.roles.is_member_of(role, other, self.database_owner)

    # ------------------------------------------------------------------------------------------ objects

    def kind(self, object_class: int, oid: int) -> str:
        """The kind of an object, as ``acl.RIGHTS`` names it."""
        if object_class == PG_CLASS:
            table = self.database.tables.get(oid)
            return "sequence" if table is not None and table.kind == "S" else "table"
        return {
            PG_NAMESPACE: "schema",
            PG_DATABASE: "database",
            PG_PROC: "function",
            PG_TYPE: "type",
            PG_LANGUAGE: "language",
            PG_TABLESPACE: "tablespace",
        }[object_class]

    def owner(self, object_class: int, oid: int) -> int:
        """Whose the object is; what the system brings along is the bootstrap superuser's."""
        match object_class:
            case 1259:
                table = self.database.tables.get(oid)
                if table is None and (found := self.database.indexes_by_oid.get(oid)) is not None:
                    table = found[0]
                return BOOTSTRAP_ROLE if table is None else table.owner
            case 2615:
                schema = self.database.schemas.get(oid)
                return BOOTSTRAP_ROLE if schema is None else schema.owner
            case 1262:
                database = self.state.databases.get(oid)
                return BOOTSTRAP_ROLE if database is None else database.descriptor.owner
            case 1255:
                routine = self.database.routines.get(oid)
                return BOOTSTRAP_ROLE if routine is None else routine.owner
            case 1247:
                return self._type_owner(oid)
            case 3381:
                statistics = self.database.statistics_object(oid)
                return BOOTSTRAP_ROLE if statistics is None else statistics[1].owner
        return BOOTSTRAP_ROLE

    def _type_owner(self, oid: int) -> int:
        """Row types are the table's owner's."""
        entry = self.database.types.get(oid)
        if entry is None:
            return BOOTSTRAP_ROLE
        table = self.database.tables.get(entry.definition.relation)
        return entry.definition.owner if table is None else table.owner

    def stored_acl(self, object_class: int, oid: int, sub_id: int = 0) -> Acl | None:
        """The object's list as pg_class.relacl and its like show it: None for the default privileges."""
        database = self.state.databases.get(oid) if object_class == PG_DATABASE else self.database
        if database is None:
            return None
        found = database.acls.get((object_class, oid, sub_id))
        return found if found is not None or sub_id else self.initial_acl(object_class, oid)

    def initial_acl(self, object_class: int, oid: int) -> Acl | None:
        """The list that a new database has for the object."""
        match object_class:
            case 2615:
                if oid == PUBLIC_OID:
                    return _PUBLIC_SCHEMA
                schema = self.database.schemas.get(oid)
                return _SYSTEM_SCHEMA if schema is not None and not schema.database and oid != PG_TOAST_OID else None
            case 1262:
                database = self.state.databases.get(oid)
                return _TEMPLATE if database is not None and database.descriptor.name in _TEMPLATES else None
            case 1259:
                virtual = registry.virtual_by_oid(oid)
                if virtual is not None and virtual.schema in ("pydistdb_internal", "proddb"):
                    return _MONITORED
                if virtual is not None:
                    return _ONLY_SUPERUSERS if virtual.name in SECRET_TABLES else _PUBLIC_READS
        return None

    def acl(self, object_class: int, oid: int, sub_id: int = 0) -> Acl:
        """The object's list, or what it amounts to without one."""
        stored = self.stored_acl(object_class, oid, sub_id)
        if stored is not None:
            return stored
        if sub_id:
            return ()
        return acls.default_acl(self.kind(object_class, oid), self.owner(object_class, oid))

    # ------------------------------------------------------------------------------------------ questions

    def owns(self, role: int, object_class: int, oid: int) -> bool:
        """Tell whether the role may do what only the owner may."""
        return self.has_privileges_of(role, self.owner(object_class, oid))

    def mask(self, role: int, object_class: int, oid: int, wanted: int) -> int:
        """Which of the wanted bits (privileges, and grant options above them) the role has."""
        if self.roles.is_superuser(role):
            return wanted
        owner = self.owner(object_class, oid)
        found = acls.acl_mask(self.acl(object_class, oid), role, owner, wanted, self.has_privileges_of)
        left = wanted & ~found
        if left and object_class == PG_CLASS:
            if left & acls.SELECT and self.has_privileges_of(role, READ_ALL_DATA):
                found |= acls.SELECT
            if left & _WRITES and oid in self.database.tables and self.has_privileges_of(role, WRITE_ALL_DATA):
                found |= left & _WRITES
        elif (
            left & acls.USAGE
            and object_class == PG_NAMESPACE
            and (self.has_privileges_of(role, READ_ALL_DATA) or self.has_privileges_of(role, WRITE_ALL_DATA))
        ):
            found |= acls.USAGE
        return found

    def missing(self, role: int, object_class: int, oid: int, wanted: int) -> int:
        """Which of the wanted bits the role lacks."""
        return wanted & ~self.mask(role, object_class, oid, wanted)

    def column_mask(self, role: int, table: int, number: int, wanted: int) -> int:
        """Which of the wanted bits the role has for one column by the column's own list."""
        if self.roles.is_superuser(role):
            return wanted
        found = self.stored_acl(PG_CLASS, table, number)
        if not found:
            return 0
        return acls.acl_mask(found, role, self.owner(PG_CLASS, table), wanted, self.has_privileges_of)

    def has_column(self, role: int, table: int, number: int, wanted: int) -> bool:
        """Tell whether the role has the bits for a column: by its list or the table's."""
        left = self.missing(role, PG_CLASS, table, wanted)
        return not left & ~self.column_mask(role, table, number, left) if left else True

    def has_any_column(self, role: int, relation: Table | VirtualTable, wanted: int) -> bool:
        """Tell whether the role has the bits for the table or, each of them, for at least one column."""
        left = self.missing(role, PG_CLASS, relation.oid, wanted)
        if left and isinstance(relation, Table):
            for column in relation.columns:
                if left and not column.dropped:
                    left &= ~self.column_mask(role, relation.oid, column.number, left)
        return not left
