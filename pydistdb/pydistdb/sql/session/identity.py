"""Who a session acts as: the three roles of SET SESSION AUTHORIZATION and SET ROLE.

============================  ================================================  ==================================
authenticated                 who connected; never changes                      decides who may be impersonated
session_user                  SET SESSION AUTHORIZATION                         decides which roles may be taken on
current_user                  SET ROLE                                          decides what is allowed
============================  ================================================  ==================================

Both settings live among the session's settings, so SET LOCAL, ROLLBACK and savepoints treat them as they treat the others.
``Identity`` makes roles of them: by name when they are set, and by oid from then on, as a role may be renamed meanwhile.

Source: PostgreSQL 15, miscinit.c and variable.c (check_role, check_session_authorization).
"""

from __future__ import annotations

from pydistdb.sql.catalog.roles import Role, RoleSet
from pydistdb.sql.errors import InsufficientPrivilege, InvalidParameterValue


class Identity:
    """See the module's docstring.  ``restricted``: the current role, or None if it is a superuser."""

    __slots__ = ("_oids", "authenticated", "current", "current_name", "restricted", "session", "session_name")

    def __init__(self, role: Role) -> None:
        self.authenticated = self.session = self.current = role.oid
        self.session_name = self.current_name = role.name
        self.restricted: int | None = None if role.superuser else role.oid
        self._oids = {role.name: role.oid}

    def derive(self, roles: RoleSet, session_authorization: str, role: str) -> None:
        """Take the settings (or the roles, which may have changed) in."""
        self.session = self._oid(roles, session_authorization)
        self.current = self.session if role == "none" else self._oid(roles, role)
        self.session_name = roles.name_of(self.session)
        self.current_name = roles.name_of(self.current)
        self.restricted = None if roles.is_superuser(self.current) else self.current

    def _oid(self, roles: RoleSet, name: str) -> int:
        oid = self._oids.get(name)
        if oid is not None:
            return oid
        role = roles.by_name.get(name)
        return self.authenticated if role is None else role.oid

    def check_role(self, roles: RoleSet, name: str, database_owner: int) -> None:
        """May the session take on this role (SET ROLE)?  "none" gives up the one taken on."""
        if name == "none":
            return
        role = _named(roles, name)
        if not roles.is_member_of(self.session, role.oid, database_owner):
            raise InsufficientPrivilege(f'permission denied to set role "{name}"')
        self._oids[name] = role.oid

    def check_session_authorization(self, roles: RoleSet, name: str) -> None:
        """May the session become this user (SET SESSION AUTHORIZATION)?"""
        role = _named(roles, name)
        if role.oid != self.authenticated and not roles.is_superuser(self.authenticated):
            raise InsufficientPrivilege(f'permission denied to set session authorization "{name}"')
        self._oids[name] = role.oid


def _named(roles: RoleSet, name: str) -> Role:
    role = roles.by_name.get(name)
    if role is None:
        raise InvalidParameterValue(f'role "{name}" does not exist')
    return role
