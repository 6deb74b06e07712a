"""ALTER … OWNER TO, REASSIGN OWNED, DROP OWNED.

The new owner takes over what the old one had and gave (acl.with_owner).  Whoever gives something away must own it, must
be a member of the new owner, and the new owner must be allowed to make such a thing where it is; superusers are asked
nothing.  A table takes its indexes and the sequences of its columns along.

Source: PostgreSQL 15 manual, ALTER TABLE, REASSIGN OWNED, DROP OWNED; tablecmds.c (ATExecChangeOwner), pg_shdepend.c.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from pydistdb.sql.catalog import acl as acls
from pydistdb.sql.catalog import keys
from pydistdb.sql.catalog.access import PG_CLASS, PG_DATABASE, PG_NAMESPACE, PG_PROC, PG_STATISTIC_EXT, PG_TYPE
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.descriptors import DefaultAcl, Table
from pydistdb.sql.catalog.drop_owned import drop_owned_objects
from pydistdb.sql.catalog.drop_plan import owned_sequences
from pydistdb.sql.catalog.grant_targets import Target, find_target
from pydistdb.sql.catalog.grants import put_acl
from pydistdb.sql.catalog.needs import permission_denied
from pydistdb.sql.catalog.role_names import check_member, named_role
from pydistdb.sql.catalog.roles import PREDEFINED, Role
from pydistdb.sql.catalog.sequence_numbers import definition_of
from pydistdb.sql.catalog.statistics_names import everything_of
from pydistdb.sql.catalog.statistics_objects import put_statistics
from pydistdb.sql.errors import DependentObjectsStillExist, FeatureNotSupported, InsufficientPrivilege
from pydistdb.sql.role_statements import AlterOwner, DropOwned, ReassignOwned
from pydistdb.sql.statements import RoleSpec

_PREDEFINED_OIDS = frozenset(role.oid for role in PREDEFINED)


async def alter_owner(ddl: DdlContext, statement: AlterOwner) -> str:
    tag = f"ALTER {statement.kind.upper()}"
    role = named_role(ddl, statement.owner)
    target = find_target(ddl, statement.kind, statement.target)
    match statement.kind:
        case "schema":
            if ddl.view.access.owner(PG_NAMESPACE, target.oid) != role.oid:
                ddl.require_owner(PG_NAMESPACE, target.oid, "schema", target.name)
                check_member(ddl, role)
                ddl.require(PG_DATABASE, ddl.database_oid, acls.CREATE, "database", ddl.database_name)
                set_schema_owner(ddl, target.oid, role.oid)
        case "database":
            if ddl.view.access.owner(PG_DATABASE, target.oid) != role.oid:
                ddl.require_owner(PG_DATABASE, target.oid, "database", target.name)
                check_member(ddl, role)
                if not ddl.is_superuser and not ddl.current_role.create_db:
                    raise InsufficientPrivilege("permission denied to change owner of database")
                set_database_owner(ddl, target.oid, role.oid)
        case "function" | "procedure" | "routine" | "type" | "domain" | "statistics":
            _alter_in_schema(ddl, target, role)
        case _:
            raise FeatureNotSupported(f"ALTER {statement.kind.upper()} … OWNER TO is not supported")
    return tag


def _alter_in_schema(ddl: DdlContext, target: Target, role: Role) -> None:
    """The owner of a routine, a type or a statistics object."""
    state = ddl.view.state
    if target.object_class == PG_PROC:
        routine = state.routines.get(target.oid)
        schema = None if routine is None else state.schemas[routine.schema]
    elif target.object_class == PG_STATISTIC_EXT:
        statistics = state.statistics_object(target.oid)
        schema = None if statistics is None else state.schemas[statistics[1].schema]
    else:
        entry = state.types.get(target.oid)
        schema = None if entry is None else state.schemas[entry.definition.schema]
    if ddl.view.access.owner(target.object_class, target.oid) == role.oid and schema is not None:
        return
    ddl.require_owner(target.object_class, target.oid, target.word, target.name)
    if schema is None:
        raise FeatureNotSupported(f"{target.word} {target.name} belongs to the system")
    check_member(ddl, role)
    if not ddl.is_superuser and ddl.view.access.missing(role.oid, PG_NAMESPACE, schema.oid, acls.CREATE):
        raise permission_denied("schema", schema.name)
    if target.object_class == PG_PROC:
        set_routine_owner(ddl, target.oid, role.oid)
    elif target.object_class == PG_STATISTIC_EXT:
        set_statistics_owner(ddl, target.oid, role.oid)
    else:
        set_type_owner(ddl, target.oid, role.oid)


def set_routine_owner(ddl: DdlContext, oid: int, owner: int) -> None:
    routine = ddl.view.state.routines[oid]
    _hand_over(ddl, PG_PROC, oid, 0, routine.owner, owner)
    changed = replace(routine, owner=owner, version=routine.version + 1)
    ddl.apply([(keys.routine_key(routine.database, oid), changed)])


def set_statistics_owner(ddl: DdlContext, oid: int, owner: int) -> None:
    found = ddl.view.state.statistics_object(oid)
    assert found is not None
    put_statistics(ddl, found[0], replace(found[1], owner=owner))


def set_type_owner(ddl: DdlContext, oid: int, owner: int) -> None:
    definition = ddl.view.state.types[oid].definition
    _hand_over(ddl, PG_TYPE, oid, 0, definition.owner, owner)
    ddl.apply([(keys.type_key(definition.database, oid), replace(definition, owner=owner))])


def alter_table_owner(ddl: DdlContext, table: Table, spec: RoleSpec) -> None:
    """ALTER TABLE (VIEW, SEQUENCE) … OWNER TO; the caller holds the table's lock."""
    role = named_role(ddl, spec)
    if table.owner == role.oid:
        return
    if table.kind == "S":
        owner = ddl.view.state.tables.get(definition_of(table).owner_table)
        if owner is not None:
            raise FeatureNotSupported(
                f'cannot change owner of sequence "{table.name}"',
                detail=f'Sequence "{table.name}" is linked to table "{owner.name}".',
            )
    if not ddl.is_superuser:
        check_member(ddl, role)
        if ddl.view.access.missing(role.oid, PG_NAMESPACE, table.schema, acls.CREATE):
            raise permission_denied("schema", ddl.view.state.schemas[table.schema].name)
    set_table_owner(ddl, table, role.oid)


def set_table_owner(ddl: DdlContext, table: Table, owner: int) -> None:
    for each in (table, *owned_sequences(ddl, table.oid)):
        ddl.put_table(replace(each, owner=owner, version=each.version + 1))
        for object_class, oid, sub_id in list(ddl.view.state.acls):
            if object_class == PG_CLASS and oid == each.oid:
                _hand_over(ddl, PG_CLASS, oid, sub_id, each.owner, owner)


def set_schema_owner(ddl: DdlContext, oid: int, owner: int) -> None:
    schema = ddl.view.state.schemas[oid]
    _hand_over(ddl, PG_NAMESPACE, oid, 0, schema.owner, owner)
    ddl.apply([(keys.schema_key(ddl.database_oid, oid), replace(schema, owner=owner))])


def set_database_owner(ddl: DdlContext, oid: int, owner: int) -> None:
    database = ddl.view.catalog_state.databases[oid].descriptor
    _hand_over(ddl, PG_DATABASE, oid, 0, database.owner, owner)
    ddl.apply([(keys.database_key(oid), replace(database, owner=owner))])


def _hand_over(ddl: DdlContext, object_class: int, oid: int, sub_id: int, old: int, new: int) -> None:
    acl = ddl.view.access.stored_acl(object_class, oid, sub_id)
    if acl is not None:
        put_acl(ddl, object_class, oid, sub_id, acls.with_owner(acl, old, new))


# ---------------------------------------------------------------------------------------------------- … OWNED


def _roles(ddl: DdlContext, specs: Sequence[RoleSpec], verb: str, what: str) -> list[Role]:
    roles = [named_role(ddl, spec) for spec in specs]
    for role in roles:
        if not ddl.view.access.has_privileges_of(ddl.role, role.oid):
            raise InsufficientPrivilege(f"permission denied to {verb} objects")
    for role in roles:
        if role.oid in _PREDEFINED_OIDS:
            raise DependentObjectsStillExist(
                f"cannot {what} by role {role.name} because they are required by the database system"
            )
    return roles


async def reassign_owned(ddl: DdlContext, statement: ReassignOwned) -> str:
    roles = _roles(ddl, statement.roles, "reassign", "reassign ownership of objects owned")
    new = named_role(ddl, statement.new_role)
    if not ddl.view.access.has_privileges_of(ddl.role, new.oid):
        raise InsufficientPrivilege("permission denied to reassign objects")
    for role in roles:
        state = ddl.view.state
        tables = [table for table in state.tables.values() if table.owner == role.oid]
        await ddl.ddl.lock_tables([table.oid for table in tables])
        for table in tables:
            current = ddl.view.state.tables[table.oid]
            if current.owner == role.oid:
                set_table_owner(ddl, current, new.oid)
        for routine in list(ddl.view.state.routines.values()):
            if routine.owner == role.oid:
                set_routine_owner(ddl, routine.oid, new.oid)
        for _, statistics in list(everything_of(ddl.view.state)):
            if statistics.owner == role.oid:
                set_statistics_owner(ddl, statistics.oid, new.oid)
        for entry in list(ddl.view.state.types.values()):
            if entry.definition.owner == role.oid:
                set_type_owner(ddl, entry.definition.oid, new.oid)
        for schema in list(ddl.view.state.schemas.values()):
            if schema.database and schema.owner == role.oid:
                set_schema_owner(ddl, schema.oid, new.oid)
        for database in list(ddl.view.catalog_state.databases.values()):
            if database.descriptor.owner == role.oid:
                set_database_owner(ddl, database.descriptor.oid, new.oid)
    return "REASSIGN OWNED"


async def drop_owned(ddl: DdlContext, statement: DropOwned) -> str:
    """Drops what the roles own in this database, and takes every privilege in it from them (and their defaults)."""
    roles = _roles(ddl, statement.roles, "drop", "drop objects owned")
    await drop_owned_objects(ddl, {role.oid for role in roles}, statement.cascade)
    for role in roles:
        _revoke_everything(ddl, role.oid)
    return "DROP OWNED"


def _revoke_everything(ddl: DdlContext, role: int) -> None:
    access = ddl.view.access
    for object_class, oid, sub_id in list(ddl.view.state.acls):
        if object_class != PG_DATABASE:
            _revoke(ddl, object_class, oid, sub_id, role)
    for database in list(ddl.view.catalog_state.databases.values()):
        oid = database.descriptor.oid
        if (PG_DATABASE, oid, 0) in database.acls:
            _revoke(ddl, PG_DATABASE, oid, 0, role)
    for key, entry in list(ddl.view.state.default_acls.items()):
        owner, _, _ = key
        kept: acls.Acl = ()
        if owner != role:
            kept = acls.without_role(entry.items, role, owner, access.has_privileges_of)
        if kept != entry.items:
            changed = DefaultAcl(entry.oid, kept) if owner != role and (kept or not key[1]) else None
            ddl.apply([(keys.default_acl_key(ddl.database_oid, *key), changed)])


def _revoke(ddl: DdlContext, object_class: int, oid: int, sub_id: int, role: int) -> None:
    access = ddl.view.access
    acl = access.stored_acl(object_class, oid, sub_id)
    if acl is None:
        return
    owner = access.owner(object_class, oid)
    kept = acls.without_role(acl, role, owner, access.has_privileges_of)
    if kept != acl:
        put_acl(ddl, object_class, oid, sub_id, (kept or None) if sub_id else kept)
