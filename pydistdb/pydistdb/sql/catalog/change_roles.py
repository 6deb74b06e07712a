"""CREATE, ALTER and DROP ROLE (USER, GROUP): roles with their attributes and passwords.

Who may change what: superusers everything; roles with CREATEROLE any role that is no superuser, has no REPLICATION and
gets neither; everybody their own password.  A role that owns something, or is mentioned in a list of privileges, cannot
be dropped: the error lists what, as far as the present database can tell.

Source: PostgreSQL 15 manual, 22.2, CREATE ROLE, ALTER ROLE, DROP ROLE; user.c for the checks and their order.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from pydistdb.sql.catalog import keys, memberships
from pydistdb.sql.catalog.access import PG_AUTHID, PG_DATABASE
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.naming import clip
from pydistdb.sql.catalog.passwords import MOST_PASSWORD_BYTES, is_empty, stored_form
from pydistdb.sql.catalog.role_names import find_role, named_role
from pydistdb.sql.catalog.role_objects import Subject, subjects_of
from pydistdb.sql.catalog.roles import PREDEFINED, Role
from pydistdb.sql.catalog.state import Change
from pydistdb.sql.errors import (
    DatabaseError,
    DependentObjectsStillExist,
    DuplicateObject,
    FeatureNotSupported,
    InsufficientPrivilege,
    InvalidParameterValue,
    ObjectInUse,
)
from pydistdb.sql.role_statements import AlterRole, CreateRole, DropRole, RenameRole
from pydistdb.sql.statements import RoleSpec
from pydistdb.sql.types.datetime import parse_timestamptz

MOST_ROLES = 10_000
MOST_LISTED = 100
_FLAGS = {
    "superuser": "superuser",
    "inherit": "inherit",
    "createrole": "create_role",
    "createdb": "create_db",
    "canlogin": "can_login",
    "isreplication": "replication",
    "bypassrls": "bypass_rls",
}
_RESERVED = frozenset({"public", "none", "current_user", "current_role", "session_user"})
_PREDEFINED_OIDS = frozenset(role.oid for role in PREDEFINED)


def put_role(ddl: DdlContext, role: Role) -> None:
    ddl.apply([(keys.role_key(role.oid), role)])


async def create_role(ddl: DdlContext, statement: CreateRole) -> str:
    options = dict(statement.options)
    role = Role(0, clip(statement.name), can_login=statement.kind == "user")
    _check_creation(ddl, options)
    _check_name(role.name)
    if role.name in ddl.roles.by_name:
        raise DuplicateObject(f'role "{role.name}" already exists')
    if len(ddl.roles.by_oid) >= MOST_ROLES:
        raise DatabaseError.of("54000", f"a cluster can have at most {MOST_ROLES} roles")
    if "sysid" in options:
        ddl.tell("SYSID can no longer be specified")
    role = replace(_with_attributes(ddl, role, options), oid=await ddl.store.allocate_oids())
    put_role(ddl, role)
    for option, admin in (("rolemembers", False), ("adminmembers", True)):
        for member in _specs(options.get(option)):
            memberships.add(ddl, role, named_role(ddl, member), ddl.role, admin=admin)
    for other in _specs(options.get("addroleto")):
        above = named_role(ddl, other)
        memberships.check_may_grant(ddl, above)
        memberships.add(ddl, above, ddl.roles.by_oid[role.oid], ddl.role, admin=False)
    return "CREATE ROLE"


def _specs(value: Any) -> tuple[RoleSpec, ...]:
    return value if isinstance(value, tuple) else ()


def _check_creation(ddl: DdlContext, options: dict[str, Any]) -> None:
    if ddl.is_superuser:
        return
    if options.get("superuser"):
        raise InsufficientPrivilege("must be superuser to create superusers")
    if options.get("isreplication"):
        raise InsufficientPrivilege("must be superuser to create replication users")
    if options.get("bypassrls"):
        raise InsufficientPrivilege("must be superuser to create bypassrls users")
    if not ddl.current_role.create_role:
        raise InsufficientPrivilege("permission denied to create role")


def _check_name(name: str) -> None:
    if name in _RESERVED:
        raise DatabaseError.of("42939", f'role name "{name}" is reserved')
    if name.startswith("pg_"):
        raise DatabaseError.of(
            "42939", f'role name "{name}" is reserved', detail='Role names starting with "pg_" are reserved.'
        )


def _with_attributes(ddl: DdlContext, role: Role, options: dict[str, Any]) -> Role:
    changed: dict[str, Any] = {_FLAGS[name]: bool(value) for name, value in options.items() if name in _FLAGS}
    if "connectionlimit" in options:
        changed["connection_limit"] = limit = int(options["connectionlimit"])
        if limit < -1:
            raise InvalidParameterValue(f"invalid connection limit: {limit}")
    if "validUntil" in options:
        text = options["validUntil"]
        changed["valid_until"] = None if text is None else parse_timestamptz(str(text), -1, ddl.context)
    if "password" in options:
        changed["password"] = _password(ddl, options["password"])
    return replace(role, **changed)


def _password(ddl: DdlContext, given: Any) -> str | None:
    if given is None:
        return None
    password = str(given)
    if len(password.encode()) > MOST_PASSWORD_BYTES:
        raise InvalidParameterValue(f"a password is longer than {MOST_PASSWORD_BYTES} bytes")
    if is_empty(password):
        ddl.tell("empty string is not a valid password, clearing password")
        return None
    kept = stored_form(password)
    if kept != password and ddl.context.settings.get("password_encryption") == "md5":
        raise FeatureNotSupported("password encryption with MD5 is not supported", hint="Use scram-sha-256.")
    return kept


# ---------------------------------------------------------------------------------------------------- ALTER


async def alter_role(ddl: DdlContext, statement: AlterRole) -> str:
    role = named_role(ddl, statement.role)
    options = dict(statement.options)
    _check_alteration(ddl, role, options)
    changed = _with_attributes(ddl, role, options)
    if changed != role:
        put_role(ddl, changed)
    for member in _specs(options.get("rolemembers")):
        memberships.check_may_grant(ddl, role)
        other = named_role(ddl, member)
        if statement.removes:
            memberships.remove(ddl, role, other, admin_only=False)
        else:
            memberships.add(ddl, ddl.roles.by_oid[role.oid], other, ddl.role, admin=False)
    return "ALTER ROLE"


def _check_alteration(ddl: DdlContext, role: Role, options: dict[str, Any]) -> None:
    if ddl.is_superuser:
        return
    if "superuser" in options or role.superuser:
        raise InsufficientPrivilege("must be superuser to alter superuser roles or change superuser attribute")
    if "isreplication" in options or role.replication:
        raise InsufficientPrivilege("must be superuser to alter replication roles or change replication attribute")
    if "bypassrls" in options:
        raise InsufficientPrivilege("must be superuser to change bypassrls attribute")
    if ddl.current_role.create_role:
        return
    if set(options) - {"password"} or role.oid != ddl.role:  # one's own password is one's own business
        raise InsufficientPrivilege("permission denied")


async def rename_role(ddl: DdlContext, statement: RenameRole) -> str:
    role = find_role(ddl.roles, statement.name)
    name = clip(statement.new_name)
    if role.oid == ddl.session_role:
        raise FeatureNotSupported("session user cannot be renamed")
    if role.oid == ddl.role:
        raise FeatureNotSupported("current user cannot be renamed")
    if role.oid in _PREDEFINED_OIDS and role.name.startswith("pg_"):
        raise DatabaseError.of(
            "42939", f'role name "{role.name}" is reserved', detail='Role names starting with "pg_" are reserved.'
        )
    _check_name(name)
    if name in ddl.roles.by_name:
        raise DuplicateObject(f'role "{name}" already exists')
    if role.superuser:
        if not ddl.is_superuser:
            raise InsufficientPrivilege("must be superuser to rename superusers")
    elif not ddl.may_create_roles:
        raise InsufficientPrivilege("permission denied to rename role")
    put_role(ddl, replace(role, name=name))
    return "ALTER ROLE"


# ---------------------------------------------------------------------------------------------------- DROP


async def drop_role(ddl: DdlContext, statement: DropRole) -> str:
    if not ddl.may_create_roles:
        raise InsufficientPrivilege("permission denied to drop role")
    for spec in statement.roles:
        if spec.kind != "name":
            raise InvalidParameterValue("cannot use special role specifier in DROP ROLE")
        role = ddl.roles.by_name.get(spec.name)
        if role is None:
            if not statement.missing_ok:
                find_role(ddl.roles, spec.name)
            ddl.tell(f'role "{spec.name}" does not exist, skipping')
            continue
        _check_drop(ddl, role)
        changes: list[Change] = [(keys.role_key(role.oid), None)]
        changes += [
            (keys.role_key(other.oid), memberships.without(other, role.oid))
            for other, _ in ddl.roles.members_of(role.oid)
        ]
        changes += [(keys.role_settings_key(*key), None) for key in ddl.roles.settings if key[1] == role.oid]
        changes += [
            (keys.comment_key(database.descriptor.oid, PG_AUTHID, role.oid, 0), None)
            for database in ddl.view.catalog_state.databases.values()
            if (PG_AUTHID, role.oid, 0) in database.comments
        ]
        ddl.apply(changes)
    return "DROP ROLE"


def _check_drop(ddl: DdlContext, role: Role) -> None:
    if role.oid == ddl.role:
        raise ObjectInUse("current user cannot be dropped")
    if role.oid == ddl.session_role:
        raise ObjectInUse("session user cannot be dropped")
    if role.superuser and not ddl.is_superuser:
        raise InsufficientPrivilege("must be superuser to drop superusers")
    if role.oid in _PREDEFINED_OIDS:
        raise DependentObjectsStillExist(f"cannot drop role {role.name} because it is required by the database system")
    lines = _dependents(ddl, role)
    if lines:
        shown = lines[:MOST_LISTED]
        if len(lines) > MOST_LISTED:
            shown.append(f"and {len(lines) - MOST_LISTED} other objects (see server log for list)")
        raise DependentObjectsStillExist(
            f'role "{role.name}" cannot be dropped because some objects depend on it', detail="\n".join(shown)
        )


def _dependents(ddl: DdlContext, role: Role) -> list[str]:
    """What keeps the role from being dropped: by name in this database, by number in the others."""
    lines = [_described(subject) for subject in subjects_of(ddl.view, role.oid)]
    for database in ddl.view.catalog_state.databases.values():
        if database is ddl.view.state:
            continue
        others = [s for s in subjects_of(ddl.view_of(database), role.oid) if s.object_class != PG_DATABASE]
        if others:
            plural = "object" if len(others) == 1 else "objects"
            lines.append(f"{len(others)} {plural} in database {database.descriptor.name}")
    return lines


def _described(subject: Subject) -> str:
    return {
        "owner": f"owner of {subject.description}",
        "acl": f"privileges for {subject.description}",
        "default": subject.description,
    }[subject.relation]
