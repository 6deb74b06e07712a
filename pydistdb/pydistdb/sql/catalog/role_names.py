"""From the roles that a statement names to roles that exist."""

from __future__ import annotations

from pydistdb.sql.catalog.acl import PUBLIC
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.roles import Role, RoleSet
from pydistdb.sql.errors import InsufficientPrivilege, UndefinedObject
from pydistdb.sql.statements import RoleSpec


def find_role(roles: RoleSet, name: str) -> Role:
    """The role of that name; raises UndefinedObject."""
    role = roles.by_name.get(name)
    if role is None:
        raise UndefinedObject(f'role "{name}" does not exist')
    return role


def named_role(ddl: DdlContext, spec: RoleSpec) -> Role:
    """The role that a statement means."""
    match spec.kind:
        case "current":
            return ddl.current_role
        case "session":
            session = ddl.roles.by_oid.get(ddl.session_role)
            return ddl.current_role if session is None else session
        case "public":
            return find_role(ddl.roles, "public")
    return find_role(ddl.roles, spec.name)


def grantee(ddl: DdlContext, spec: RoleSpec) -> int:
    """The oid of a role that privileges go to; PUBLIC is one here."""
    return PUBLIC if spec.kind == "public" else named_role(ddl, spec).oid


def check_member(ddl: DdlContext, role: Role) -> None:
    """Raise 42501 unless the current role may become the other one."""
    if not ddl.view.access.is_member_of(ddl.role, role.oid):
        raise InsufficientPrivilege(f'must be member of role "{role.name}"')
