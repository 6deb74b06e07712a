"""What a schema change lays claim to: objects, names, and the objects that it refers to.

Two transactions may change the catalog side by side as long as their claims do not meet.  Claims are asserted twice:

* by *locks*, while the transaction runs, so that the second of two waits for the first, as in Postgres.  A lock is a row
  lock of the kv layer on a key that never has a value, so waiting, savepoints, lock_timeout and deadlock detection are
  those of rows;
* by *comparison* with what others have committed meanwhile (``collide``), when locks have been taken, and once more
  under the lock that orders commits (transaction.py).  A lock is lost with its leaseholder; the comparison is what
  correctness rests on.

==================================  =====================  =======================================================
claim                               strength               keeps apart
==================================  =====================  =======================================================
an object is dropped, or its table  UPDATE                 everybody who changes it or refers to it
locked against everybody
an object is changed                NO KEY UPDATE          who changes or drops it
a name is taken                     UPDATE                 who takes the same name
an object is referred to            KEY SHARE              who drops it
==================================  =====================  =======================================================

    BEGIN; CREATE TABLE a (e mood)      name a in public: UPDATE;  schema public, type mood: KEY SHARE
    CREATE TABLE b (…)                  goes on: other name, and KEY SHARE is shared
    CREATE TABLE a (…)                  waits, and finds that "a" exists or does not
    DROP TYPE mood                      waits, and finds that column e depends on it

An object that is new needs no lock: nobody else knows its oid.  Nor do the names in a temporary schema.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydistdb.sql.catalog import keys
from pydistdb.sql.catalog.access import (
    PG_AUTHID,
    PG_CLASS,
    PG_DATABASE,
    PG_NAMESPACE,
    PG_PROC,
    PG_STATISTIC_EXT,
    PG_TYPE,
)
from pydistdb.sql.catalog.descriptors import (
    ColocationGroup,
    DatabaseDescriptor,
    DefaultAcl,
    Routine,
    Schema,
    Table,
)
from pydistdb.sql.catalog.garbage import beside
from pydistdb.sql.catalog.roles import Role
from pydistdb.sql.catalog.sequence_numbers import definition_of
from pydistdb.sql.catalog.state import FIRST_USER_OID, CatalogState, DatabaseState
from pydistdb.sql.types.known import TYPES_BY_OID
from pydistdb.sql.types.user import UserType

_DEFINED = "TFY"
"""Kinds of objects that were derived from what they refer to: a change of that matters to them."""
_ACLS_OF = {PG_NAMESPACE: keys.schema_key, PG_PROC: keys.routine_key, PG_TYPE: keys.type_key}


@dataclass(frozen=True, slots=True)
class Claims:
    """What some changes lay claim to.  Everything but names is named by the keys of objects."""

    dropped: frozenset[bytes] = frozenset()
    changed: frozenset[bytes] = frozenset()
    """Of objects that were there before, or whose keys others can know."""
    names: Mapping[bytes, bytes] = field(default_factory=dict)
    """New names, each with the key of its object."""
    references: frozenset[bytes] = frozenset()
    """What is referred to from now on, and must not be dropped."""
    derived_from: frozenset[bytes] = frozenset()
    """The references whose change matters while the statement runs."""


def claims_of(changes: Mapping[bytes, Any], base: CatalogState, state: CatalogState) -> Claims:
    """The claims of changes (keys to objects) to ``base`` that have led to ``state``."""
    dropped, changed = set(), set()
    references: set[bytes] = set()
    derived_from: set[bytes] = set()
    names: dict[bytes, bytes] = {}
    for key, value in changes.items():
        before = base.object_at(key)
        if value is None:
            if before is not None:
                dropped.add(key)
            continue
        if before is not None or not keys.has_own_oid(key):
            changed.add(key)
        held = set() if before is None else set(names_of(before, state))
        names.update((name, key) for name in names_of(value, state) if name not in held)
        found = {reference for reference in references_of(key, value, state) if reference not in changes}
        if before is not None:  # nobody drops what is referred to already without changing this object as well
            found.difference_update(references_of(key, before, state))
        references |= found
        if keys.unpack_key(key)[0] in _DEFINED:
            derived_from |= found
    return Claims(frozenset(dropped), frozenset(changed), names, frozenset(references), frozenset(derived_from))


def collide(claims: Claims, base: CatalogState, newest: CatalogState, *, strict: bool) -> bool:
    """Tell whether something that was committed between ``base`` and ``newest`` meets the claims.

    ``strict``: while a statement is under way, a change of what it refers to counts as well, as does a new user of what it
    changes.  Afterwards the locks have kept away what matters."""
    touched = claims.dropped | claims.changed
    guarded = touched if strict else claims.dropped
    for key in newest.difference(base):
        value = newest.object_at(key)
        if key in touched or (key in claims.references and value is None) or (strict and key in claims.derived_from):
            return True
        if value is not None:
            if any(claims.names.get(name, key) != key for name in names_of(value, newest)):
                return True
            if guarded and not guarded.isdisjoint(references_of(key, value, newest)):
                return True
    return False


def lock_of(key: bytes) -> bytes:
    """The key whose lock stands for the object at ``key``."""
    return keys.LOCK_PREFIX + key[1:]


# ---------------------------------------------------------------------------------------------------- names


def names_of(value: Any, state: CatalogState) -> Iterator[bytes]:
    """The names of an object, as keys to lock; those in temporary schemas are nobody else's business."""
    match value:
        case Table():
            if not _is_temporary(state, value.database, value.schema):
                yield _name("r", value.database, value.schema, value.name)
                for index in value.indexes:
                    if index.oid:
                        yield _name("r", value.database, value.schema, index.name)
            for each in value.statistics_objects:
                if not _is_temporary(state, value.database, each.schema):
                    yield _name("e", value.database, each.schema, each.name)
        case UserType():
            if not _is_temporary(state, value.database, value.schema):
                yield _name("r", value.database, value.schema, value.name)
        case Routine():
            types = b"".join(a.type_oid.to_bytes(4, "big") for a in value.arguments if a.mode in "ibv")
            signature = hashlib.blake2b(types, digest_size=8).digest()
            yield _name("f", value.database, value.schema, value.name) + b"\0" + signature
        case Schema():
            if not value.session:
                yield _name("s", value.database, 0, value.name)
        case DatabaseDescriptor():
            yield _name("d", 0, 0, value.name)
        case Role():
            yield _name("u", 0, 0, value.name)
        case ColocationGroup():
            if value.name:
                yield _name("n", value.database, 0, value.name)
            else:
                yield _name("g", value.database, value.requested_shards, ",".join(value.kinds)[:200])


def _name(kind: str, database: int, schema: int, name: str) -> bytes:
    return b"".join(
        (keys.NAME_PREFIX, kind.encode(), database.to_bytes(4, "big"), schema.to_bytes(4, "big"), name.encode())
    )


def _is_temporary(state: CatalogState, database: int, schema: int) -> bool:
    found = state.databases.get(database)
    return found is not None and schema in found.schemas and bool(found.schemas[schema].session)


# ---------------------------------------------------------------------------------------------------- references


def references_of(key: bytes, value: Any, state: CatalogState) -> Iterator[bytes]:
    """The keys of the objects that an object names."""
    kind, numbers = keys.unpack_key(key)
    database = state.databases.get(numbers[0])
    match value:
        case Role():
            yield from _roles(membership.role for membership in value.memberships)
        case _ if kind == "P":
            yield from _roles([numbers[1]])
            if numbers[0]:
                yield keys.database_key(numbers[0])
        case DatabaseDescriptor():
            yield from _roles([value.owner])
        case ColocationGroup():
            yield keys.database_key(value.database)
        case _ if database is None:
            return
        case Table():
            yield from _of_table(database, value)
        case Routine():
            yield from _in_schema(database, value.schema, value.owner)
            yield from _types(database, [value.return_type, *(argument.type_oid for argument in value.arguments)])
            yield from _relations(database, (*value.depends_on, value.row_of))
        case UserType():
            yield from _in_schema(database, value.schema, value.owner)
            yield from _types(database, [value.base_oid, *(attribute.type_oid for attribute in value.attributes)])
        case Schema():
            yield keys.database_key(numbers[0])
            yield from _roles([value.owner])
        case DefaultAcl():
            yield from _roles([numbers[1], *(item.grantee for item in value.items)])
        case _ if kind == "A":
            yield keys.table_key(*numbers)
        case _ if kind in "CL":
            yield from _described(database, numbers[1], numbers[2])
            if kind == "L":
                yield from _roles(item.grantee for item in value)


def _of_table(database: DatabaseState, table: Table) -> Iterator[bytes]:
    yield from _in_schema(database, table.schema, table.owner)
    yield from _types(database, (column.type_oid for column in table.columns if not column.dropped))
    yield from _relations(database, table.depends_on)
    yield from _relations(database, (key.referenced_table for key in table.foreign_keys))
    if table.sharding is not None and table.sharding.strategy == "hash":
        yield keys.group_key(table.sharding.group)
    yield from _relations(database, (other.oid for other in beside(table, database.tables.values())))
    if table.kind == "S":
        yield from _relations(database, (definition_of(table).owner_table,))
    for each in table.statistics_objects:
        yield from _in_schema(database, each.schema, each.owner)


def _in_schema(database: DatabaseState, schema: int, owner: int) -> Iterator[bytes]:
    found = database.schemas.get(schema)
    if found is None or found.database:  # the system's schemas are nowhere stored
        yield keys.schema_key(database.descriptor.oid, schema)
    yield from _roles([owner])


def _roles(oids: Iterable[int]) -> Iterator[bytes]:
    return (keys.role_key(oid) for oid in oids if oid >= FIRST_USER_OID)


def _types(database: DatabaseState, oids: Iterable[int]) -> Iterator[bytes]:
    """Users' types (or what arrays consist of), and the tables whose row types are used."""
    for oid in oids:
        if oid < FIRST_USER_OID:
            continue
        sql_type = TYPES_BY_OID.get(oid)
        element = oid if sql_type is None else sql_type.element_oid or oid
        if element in database.row_types:
            yield keys.table_key(database.descriptor.oid, database.row_types[element].relation)
        else:
            yield keys.type_key(database.descriptor.oid, element)


def _relations(database: DatabaseState, oids: Iterable[int]) -> Iterator[bytes]:
    for oid in oids:
        if oid >= FIRST_USER_OID:
            make = keys.routine_key if oid in database.routines else keys.table_key
            yield make(database.descriptor.oid, oid)


def _described(database: DatabaseState, object_class: int, oid: int) -> Iterator[bytes]:
    """The object that a comment or a list of privileges is about."""
    if oid < FIRST_USER_OID:
        return
    if object_class == PG_CLASS:
        index = database.indexes_by_oid.get(oid)
        if index is not None or oid in database.tables:
            yield keys.table_key(database.descriptor.oid, oid if index is None else index[0].oid)
    elif object_class == PG_AUTHID:
        yield keys.role_key(oid)
    elif object_class == PG_DATABASE:
        yield keys.database_key(oid)
    elif object_class == PG_STATISTIC_EXT:
        if oid in database.statistics_objects:
            yield keys.table_key(database.descriptor.oid, database.statistics_objects[oid])
    elif object_class in _ACLS_OF:
        yield _ACLS_OF[object_class](database.descriptor.oid, oid)
