"""An immutable state of the whole catalog, with look-ups by oid and by name.

``CatalogState.apply([(key, object or None), …], version)`` gives the next state; mappings that do not change are
shared between the two, and of those that do the most part (layered.py).  The same method serves loading, refreshing and
the uncommitted DDL of one transaction::

    state = CatalogState.EMPTY.apply(everything_stored, 7)
    mine = state.apply([(table_key(5, 16384), Table(…))], 7)     # what only the transaction sees
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import msgspec

from pydistdb.sql.catalog import keys
from pydistdb.sql.catalog.acl import Acl
from pydistdb.sql.catalog.descriptors import (
    ColocationGroup,
    DatabaseDescriptor,
    DefaultAcl,
    Index,
    Routine,
    Schema,
    StatisticsObject,
    Table,
    TableStatistics,
)
from pydistdb.sql.catalog.keys import unpack_key
from pydistdb.sql.catalog.layered import Draft, Layered
from pydistdb.sql.catalog.roles import NO_ROLES, RoleSet
from pydistdb.sql.catalog.sequence_numbers import definition_of
from pydistdb.sql.types import user
from pydistdb.sql.types.user import Attribute, RowTypeEntry, TypeEntry, UserType

PG_CATALOG_OID = 11
PG_TOAST_OID = 99
PUBLIC_OID = 2200
INFORMATION_SCHEMA_OID = 13207
INTERNAL_SCHEMA_OID = 13990
OPERATIONS_SCHEMA_OID = 13980
FIRST_USER_OID = 16384

SYSTEM_SCHEMAS = (
    Schema(PG_CATALOG_OID, "pg_catalog", 0),
    Schema(PG_TOAST_OID, "pg_toast", 0),
    Schema(INFORMATION_SCHEMA_OID, "information_schema", 0),
    Schema(INTERNAL_SCHEMA_OID, "pydistdb_internal", 0),
    Schema(OPERATIONS_SCHEMA_OID, "proddb", 0),
)
"""Schemas that are computed, not stored; they are the same in every database."""

Change = tuple[bytes, Any]
"""A key and its object; None stands for "dropped"."""


@dataclass(frozen=True, slots=True, eq=False)
class DatabaseState:
    """The objects of one database."""

    descriptor: DatabaseDescriptor
    schemas: Layered[int, Schema] = field(default_factory=lambda: Layered({s.oid: s for s in SYSTEM_SCHEMAS}))
    schemas_by_name: Layered[str, Schema] = field(default_factory=lambda: Layered({s.name: s for s in SYSTEM_SCHEMAS}))
    tables: Layered[int, Table] = field(default_factory=Layered)
    relations: Layered[tuple[int, str], Table] = field(default_factory=Layered)
    """Tables, views and sequences by (schema, name)."""
    indexes: Layered[tuple[int, str], tuple[Table, Index]] = field(default_factory=Layered)
    indexes_by_oid: Layered[int, tuple[Table, Index]] = field(default_factory=Layered)
    types: Layered[int, TypeEntry] = field(default_factory=Layered)
    """Enums, domains and composite types, by oid."""
    types_by_name: Layered[tuple[int, str], TypeEntry] = field(default_factory=Layered)
    """The same by (schema, name)."""
    row_types: Layered[int, RowTypeEntry] = field(default_factory=Layered)
    """The row types of tables and views, by oid."""
    routines: Layered[int, Routine] = field(default_factory=Layered)
    routines_by_name: Layered[tuple[int, str], tuple[Routine, ...]] = field(default_factory=Layered)
    """Functions and procedures by (schema, name); overloaded ones in the order of their making."""
    comments: Layered[tuple[int, int, int], str] = field(default_factory=Layered)
    """By (class oid, object oid, column number)."""
    statistics: Layered[int, TableStatistics] = field(default_factory=Layered)
    statistics_objects: Layered[int, int] = field(default_factory=Layered)
    """The table of each statistics object."""
    acls: Layered[tuple[int, int, int], Acl] = field(default_factory=Layered)
    """Privileges by (class oid, object oid, column number); what is not there has the default ones."""
    default_acls: Layered[tuple[int, int, str], DefaultAcl] = field(default_factory=Layered)
    """By (role, schema or 0, letter of the kind)."""
    changed: Layered[int, int] = field(default_factory=Layered)
    """The catalog version in which a table last changed, as far as this node saw it."""
    reshaped: Layered[int, int] = field(default_factory=Layered)
    """The same without changes that older snapshots need not care about: an index that nobody reads yet."""
    users: Layered[int, tuple[int, ...]] = field(default_factory=Layered)
    """The relations that name an object of users' making: as what they depend on, as a column's type, as their owner."""
    building: Layered[int, Table] = field(default_factory=Layered)
    """Tables with an index that is being built online."""

    def apply(
        self, changes: Iterable[tuple[str, tuple[int, ...], Any]], version: int, committed: bool
    ) -> DatabaseState:
        fields: dict[str, Draft[Any, Any]] = {}
        descriptor = self.descriptor

        def mutable(name: str) -> Draft[Any, Any]:
            if name not in fields:
                fields[name] = getattr(self, name).draft()
            return fields[name]

        for kind, numbers, value in changes:
            match kind:
                case "D":
                    descriptor = value
                case "S":
                    _apply_schema(mutable, numbers[1], value)
                case "T":
                    _apply_table(mutable, numbers[1], value, version, committed)
                case "Y":
                    _apply_type(mutable, numbers[1], value, committed)
                case "F":
                    _apply_routine(mutable, numbers[1], value)
                case "C":
                    _set(mutable("comments"), numbers[1:], value)
                case "L":
                    _set(mutable("acls"), numbers[1:], value)
                case "U":
                    _set(mutable("default_acls"), (numbers[1], numbers[2], chr(numbers[3])), value)
                case "A":
                    _set(mutable("statistics"), numbers[1], value)
        finished: dict[str, Any] = {name: draft.finish() for name, draft in fields.items()}
        return replace(self, descriptor=descriptor, **finished)

    def object_at(self, kind: str, numbers: tuple[int, ...]) -> Any:
        match kind:
            case "D":
                return self.descriptor
            case "S":
                return self.schemas.get(numbers[1])
            case "T":
                return self.tables.get(numbers[1])
            case "Y":
                entry = self.types.get(numbers[1])
                return None if entry is None else entry.definition
            case "F":
                return self.routines.get(numbers[1])
            case "C":
                return self.comments.get((numbers[1], numbers[2], numbers[3]))
            case "L":
                return self.acls.get((numbers[1], numbers[2], numbers[3]))
            case "U":
                return self.default_acls.get((numbers[1], numbers[2], chr(numbers[3])))
            case "A":
                return self.statistics.get(numbers[1])
        return None

    def statistics_object(self, oid: int) -> tuple[Table, StatisticsObject] | None:
        """What CREATE STATISTICS made, with its table."""
        table = self.tables.get(self.statistics_objects.get(oid, 0))
        return None if table is None else next((table, each) for each in table.statistics_objects if each.oid == oid)

    def statistics_named(self, schema: int, name: str) -> tuple[Table, StatisticsObject] | None:
        """The same by schema and name; there are few of them."""
        for oid in self.statistics_objects:
            found = self.statistics_object(oid)
            if found is not None and (found[1].schema, found[1].name) == (schema, name):
                return found
        return None

    def users_of(self, oid: int) -> list[Table]:
        """The relations that name an object."""
        return [self.tables[user] for user in self.users.get(oid, ())]

    def difference(self, older: DatabaseState) -> list[bytes]:
        """The keys whose objects differ."""
        oid = self.descriptor.oid
        found = [] if older.descriptor == self.descriptor else [keys.database_key(oid)]
        found += [keys.schema_key(oid, schema) for schema in _differing(older.schemas, self.schemas)]
        found += [keys.table_key(oid, table) for table in _differing(older.tables, self.tables)]
        found += [
            keys.type_key(oid, number)
            for number in _differing(older.types, self.types)
            if older.object_at("Y", (oid, number)) != self.object_at("Y", (oid, number))
        ]
        found += [keys.routine_key(oid, routine) for routine in _differing(older.routines, self.routines)]
        found += [keys.comment_key(oid, *comment) for comment in _differing(older.comments, self.comments)]
        found += [keys.acl_key(oid, *acl) for acl in _differing(older.acls, self.acls)]
        found += [keys.default_acl_key(oid, *acl) for acl in _differing(older.default_acls, self.default_acls)]
        found += [keys.statistics_key(oid, table) for table in _differing(older.statistics, self.statistics)]
        return found


def _differing(older: Mapping[Any, Any], newer: Mapping[Any, Any]) -> Iterator[Any]:
    """The keys with another value, or none, in one of the mappings."""
    if older is newer:
        return
    if isinstance(older, Layered) and isinstance(newer, Layered):
        yield from older.differing(newer)
        return
    for key, value in newer.items():
        before = older.get(key)
        if before is not value and before != value:
            yield key
    yield from (key for key in older if key not in newer)


def _set(target: MutableMapping[Any, Any], key: Any, value: Any) -> None:
    if value is None:
        target.pop(key, None)
    else:
        target[key] = value


def _apply_schema(mutable: Any, oid: int, schema: Schema | None) -> None:
    schemas, by_name = mutable("schemas"), mutable("schemas_by_name")
    old = schemas.pop(oid, None)
    if old is not None:
        by_name.pop(old.name, None)
    if schema is not None:
        schemas[oid] = by_name[schema.name] = schema


def _apply_routine(mutable: Any, oid: int, routine: Routine | None) -> None:
    routines, by_name = mutable("routines"), mutable("routines_by_name")
    old = routines.pop(oid, None)
    if old is not None:
        left = tuple(each for each in by_name[old.schema, old.name] if each.oid != oid)
        _set(by_name, (old.schema, old.name), left or None)
    if routine is not None:
        routines[oid] = routine
        name = (routine.schema, routine.name)
        by_name[name] = tuple(sorted((*by_name.get(name, ()), routine), key=lambda each: each.oid))


def _apply_table(mutable: Any, oid: int, table: Table | None, version: int, committed: bool) -> None:
    tables, relations = mutable("tables"), mutable("relations")
    indexes, by_oid = mutable("indexes"), mutable("indexes_by_oid")
    old = tables.pop(oid, None)
    if old is not None:
        if relations.get((old.schema, old.name)) is old:
            del relations[old.schema, old.name]
        for index in old.indexes:
            if index.oid:
                found = indexes.get((old.schema, index.name))
                if found is not None and found[1].oid == index.oid:
                    del indexes[old.schema, index.name]
                by_oid.pop(index.oid, None)
    _apply_uses(mutable, oid, _used_by(old), _used_by(table))
    if (old is not None and old.statistics_objects) or (table is not None and table.statistics_objects):
        _apply_statistics_objects(mutable("statistics_objects"), old, table)
    mutable("changed")[oid] = version
    if table is None or old is None or not _only_builds(old, table):
        mutable("reshaped")[oid] = version
    is_building = table is not None and (
        table.resharding is not None or any(index.state in ("d", "w") for index in table.indexes)
    )
    if is_building or oid in mutable("building"):
        _set(mutable("building"), oid, table if is_building else None)
    row_types = mutable("row_types")
    if old is not None:
        row_types.pop(old.row_type_oid, None)
    if table is None:
        if old is not None and old.row_type_oid and committed:
            user.forget(old.row_type_oid)
        return
    if table.row_type_oid and table.kind != "S":
        entry = RowTypeEntry(table.row_type_oid, table.name, table.oid, partial(_row_type, table))
        user.learn_row_type(entry, committed, old is None)
        row_types[table.row_type_oid] = entry
    tables[oid] = relations[table.schema, table.name] = table
    for index in table.indexes:
        if index.oid:
            indexes[table.schema, index.name] = by_oid[index.oid] = (table, index)


def _apply_statistics_objects(owners: MutableMapping[int, int], old: Table | None, table: Table | None) -> None:
    for each in old.statistics_objects if old is not None else ():
        owners.pop(each.oid, None)
    for each in table.statistics_objects if table is not None else ():
        owners[each.oid] = table.oid  # type: ignore[union-attr]


def _used_by(table: Table | None) -> frozenset[int]:
    """The oids of users' objects that a relation names."""
    if table is None:
        return frozenset()
    found = {column.type_oid for column in table.columns if column.type_oid >= FIRST_USER_OID and not column.dropped}
    found.update(table.depends_on)
    if table.kind == "S":
        found.add(definition_of(table).owner_table)
    return frozenset(found)


def _apply_uses(mutable: Any, user: int, before: frozenset[int], after: frozenset[int]) -> None:
    if before == after:
        return
    users = mutable("users")
    for used in before - after:
        _set(users, used, tuple(each for each in users[used] if each != user) or None)
    for used in after - before:
        users[used] = (*users.get(used, ()), user)


def _row_type(table: Table) -> UserType:
    attributes = tuple(
        Attribute(column.number, column.name, column.type_oid, column.modifier, column.dropped)
        for column in table.columns
    )
    oid = table.row_type_oid
    return UserType(
        oid,
        table.name,
        table.schema,
        table.database,
        "c",
        oid + 1,
        table.owner,
        attributes=attributes,
        relation=table.oid,
    )


def _apply_type(mutable: Any, oid: int, definition: UserType | None, committed: bool) -> None:
    types, by_name = mutable("types"), mutable("types_by_name")
    old = types.pop(oid, None)
    if old is not None:
        key = (old.definition.schema, old.definition.name)
        if by_name.get(key) is old:
            del by_name[key]
    if definition is not None:
        entry = TypeEntry(definition)
        user.learn(entry, committed, old is None)
        types[oid] = by_name[definition.schema, definition.name] = entry
    elif committed:
        user.forget(oid)


def _only_builds(old: Table, table: Table) -> bool:
    """Whether nothing but statistics objects and what is not read yet, an index or a table to be, has changed."""
    before = [index for index in old.indexes if index.is_readable]
    after = [index for index in table.indexes if index.is_readable]
    return (
        before == after
        and msgspec.structs.replace(
            table,
            indexes=old.indexes,
            version=old.version,
            next_index_id=old.next_index_id,
            resharding=old.resharding,
            statistics_objects=old.statistics_objects,
        )
        == old
    )


@dataclass(frozen=True, slots=True, eq=False)
class CatalogState:
    """Every object of the cluster, as of one catalog version."""

    EMPTY: ClassVar[CatalogState]

    version: int = 0
    databases: Mapping[int, DatabaseState] = field(default_factory=dict)
    databases_by_name: Mapping[str, DatabaseState] = field(default_factory=dict)
    groups: Mapping[int, ColocationGroup] = field(default_factory=dict)
    roles: RoleSet = NO_ROLES

    def apply(self, changes: Iterable[Change], version: int) -> CatalogState:
        """The state after ``changes``; later ones win."""
        databases = dict(self.databases)
        groups = dict(self.groups)
        by_database: dict[int, list[tuple[str, tuple[int, ...], Any]]] = {}
        of_roles: list[tuple[str, tuple[int, ...], Any]] = []
        for key, value in changes:
            kind, numbers = unpack_key(key)
            if kind == "G":
                _set(groups, numbers[0], value)
            elif kind in "RP":
                of_roles.append((kind, numbers, value))
            elif kind == "D" and value is None:
                databases.pop(numbers[0], None)
                by_database.pop(numbers[0], None)
            else:
                if kind == "D" and numbers[0] not in databases:
                    databases[numbers[0]] = DatabaseState(value)
                by_database.setdefault(numbers[0], []).append((kind, numbers, value))
        for oid, of_database in by_database.items():
            if oid in databases:
                databases[oid] = databases[oid].apply(of_database, version, version > self.version)
        by_name = {database.descriptor.name: database for database in databases.values()}
        roles = self.roles.apply(of_roles) if of_roles else self.roles
        return CatalogState(version, databases, by_name, groups, roles)

    def changed_since(self, version: int, tables: Iterable[int]) -> bool:
        """Tell whether any of the tables changed after catalog version ``version``."""
        return any(database.changed.get(table, 0) > version for table in tables for database in self.databases.values())

    def reshaped_since(self, version: int, tables: Iterable[int]) -> bool:
        """As ``changed_since``, of changes that a snapshot of then would not survive."""
        return any(
            database.reshaped.get(table, 0) > version for table in tables for database in self.databases.values()
        )

    def object_at(self, key: bytes) -> Any:
        """The object at a key; None if there is none."""
        kind, numbers = unpack_key(key)
        match kind:
            case "G":
                return self.groups.get(numbers[0])
            case "R":
                return self.roles.by_oid.get(numbers[0])
            case "P":
                return self.roles.settings.get((numbers[0], numbers[1]))
        database = self.databases.get(numbers[0])
        return None if database is None else database.object_at(kind, numbers)

    def difference(self, older: CatalogState) -> list[bytes]:
        """The keys whose objects differ between two states; quick where most mappings are shared."""
        found = [keys.group_key(group) for group in _differing(older.groups, self.groups)]
        if older.roles is not self.roles:
            found += [keys.role_key(role) for role in _differing(older.roles.by_oid, self.roles.by_oid)]
            settings = _differing(older.roles.settings, self.roles.settings)
            found += [keys.role_settings_key(*place) for place in settings]
        for oid in older.databases.keys() | self.databases.keys():
            before, after = older.databases.get(oid), self.databases.get(oid)
            if before is not after:
                nothing = DatabaseState(DatabaseDescriptor(oid, ""))
                found += (after or nothing).difference(before or nothing)
        return found

    def key_of_table(self, oid: int) -> bytes | None:
        """The key of a table, whatever its database; None if there is none."""
        for database, state in self.databases.items():
            if oid in state.tables:
                return keys.table_key(database, oid)
        return None

    def find_table(self, oid: int) -> Table | None:
        """The table of that oid, whatever its database."""
        found = (database.tables.get(oid) for database in self.databases.values())
        return next((table for table in found if table is not None), None)

    @property
    def is_building(self) -> bool:
        """Tell whether any index is being built online."""
        return any(database.building for database in self.databases.values())


CatalogState.EMPTY = CatalogState()
