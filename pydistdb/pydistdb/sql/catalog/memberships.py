"""GRANT and REVOKE of roles: who is a member of whom.

A membership is kept with the member.  Rings are refused, so walking up always ends.

Source: PostgreSQL 15 manual, 22.3; user.c (AddRoleMems, DelRoleMems).
"""

from __future__ import annotations

from msgspec.structs import replace

from pydistdb.sql.catalog import keys
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.role_names import find_role, named_role
from pydistdb.sql.catalog.roles import DATABASE_OWNER, Membership, Role
from pydistdb.sql.errors import DatabaseError, InsufficientPrivilege
from pydistdb.sql.role_statements import GrantRole


async def grant_role(ddl: DdlContext, statement: GrantRole) -> str:
    grantor = ddl.role if statement.grantor is None else named_role(ddl, statement.grantor).oid
    members = [named_role(ddl, spec) for spec in statement.members]
    for name in statement.roles:
        role = find_role(ddl.roles, name)
        check_may_grant(ddl, role)
        if grantor != ddl.role and not ddl.is_superuser:
            raise InsufficientPrivilege("must be superuser to set grantor")
        for member in members:
            member = ddl.roles.by_oid[member.oid]
            if statement.is_grant:
                add(ddl, role, member, grantor, admin=statement.admin)
            else:
                remove(ddl, role, member, admin_only=statement.admin)
    return "GRANT ROLE" if statement.is_grant else "REVOKE ROLE"


def check_may_grant(ddl: DdlContext, role: Role) -> None:
    """Raise 42501 unless the current role may say who the members of ``role`` are."""
    if role.superuser:
        if not ddl.is_superuser:
            raise InsufficientPrivilege("must be superuser to alter superusers")
    elif not ddl.may_create_roles and not ddl.roles.is_admin_of(ddl.role, role.oid):
        raise InsufficientPrivilege(f'must have admin option on role "{role.name}"')


def add(ddl: DdlContext, role: Role, member: Role, grantor: int, *, admin: bool) -> None:
    """Make ``member`` a member of ``role``, or give it the admin option."""
    if role.oid == DATABASE_OWNER:
        raise DatabaseError.of("XX000", f'role "{role.name}" cannot have explicit members')
    if member.oid == DATABASE_OWNER:
        raise DatabaseError.of("XX000", f'role "{member.name}" cannot be a member of any role')
    if ddl.roles.is_real_member(role.oid, member.oid):
        raise DatabaseError.of("0LP01", f'role "{role.name}" is a member of role "{member.name}"')
    old = next((each for each in member.memberships if each.role == role.oid), None)
    if old is not None and (old.admin or not admin):
        ddl.tell(f'role "{member.name}" is already a member of role "{role.name}"')
        return
    others = tuple(each for each in member.memberships if each.role != role.oid)
    _put(ddl, replace(member, memberships=(*others, Membership(role.oid, grantor, admin))))


def remove(ddl: DdlContext, role: Role, member: Role, *, admin_only: bool) -> None:
    """End a membership, or take its admin option away."""
    old = next((each for each in member.memberships if each.role == role.oid), None)
    if old is None:
        message = f'role "{member.name}" is not a member of role "{role.name}"'
        ddl.tell(message, "01000", severity="WARNING")
        return
    if not admin_only:
        _put(ddl, without(member, role.oid))
        return
    kept = tuple(replace(each, admin=False) if each.role == role.oid else each for each in member.memberships)
    _put(ddl, replace(member, memberships=kept))


def without(member: Role, role: int) -> Role:
    """The member without its membership in a role."""
    return replace(member, memberships=tuple(each for each in member.memberships if each.role != role))


def _put(ddl: DdlContext, role: Role) -> None:
    ddl.apply([(keys.role_key(role.oid), role)])
