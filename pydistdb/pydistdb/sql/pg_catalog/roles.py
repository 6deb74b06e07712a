"""pg_authid, pg_roles and what else tells of roles: memberships, settings, default privileges.

Source: PostgreSQL 15 manual, 53.8 and the like; system_views.sql for the views.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydistdb.sql.catalog.roles import Role, RoleSet
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.pg_catalog.acl_columns import acl_array
from pydistdb.sql.pg_catalog.define import Lookup, RowDict, Rows, rows_of
from pydistdb.sql.pg_catalog.objects import array
from pydistdb.sql.types.base import EvalContext

_HIDDEN = "********"


def _roles(view: StateView) -> RoleSet:
    return view.catalog_state.roles


def _authid(role: Role) -> RowDict:
    return {
        "oid": role.oid,
        "rolname": role.name,
        "rolsuper": role.superuser,
        "rolinherit": role.inherit,
        "rolcreaterole": role.create_role,
        "rolcreatedb": role.create_db,
        "rolcanlogin": role.can_login,
        "rolreplication": role.replication,
        "rolbypassrls": role.bypass_rls,
        "rolconnlimit": role.connection_limit,
        "rolpassword": role.password,
        "rolvaliduntil": role.valid_until,
    }


def _role(view: StateView, role: Role) -> RowDict:
    return _authid(role) | {"rolpassword": _HIDDEN, "rolconfig": _settings(view, 0, role.oid)}


def _shadow(view: StateView, role: Role) -> RowDict:
    return {
        "usename": role.name,
        "usesysid": role.oid,
        "usecreatedb": role.create_db,
        "usesuper": role.superuser,
        "userepl": role.replication,
        "usebypassrls": role.bypass_rls,
        "passwd": role.password,
        "valuntil": role.valid_until,
        "useconfig": _settings(view, 0, role.oid),
    }


def _user(view: StateView, role: Role) -> RowDict:
    return _shadow(view, role) | {"passwd": _HIDDEN}


def _settings(view: StateView, database: int, role: int) -> Any:
    kept = _roles(view).settings.get((database, role))
    return array([f"{name}={value}" for name, value in kept.items()]) if kept else None


def _of_roles(table: str, oid_column: str, name_column: str, make: Any, logins_only: bool = False) -> None:
    """Register a table that has a row per role, with look-ups by oid and by name."""

    def produce(view: StateView, context: EvalContext) -> Iterator[RowDict]:
        for _, role in sorted(_roles(view).by_oid.items()):
            if role.can_login or not logins_only:
                yield make(view, role)

    def by_oid(view: StateView, context: EvalContext, oid: Any) -> Iterator[RowDict]:
        role = _roles(view).by_oid.get(oid)
        if role is not None and (role.can_login or not logins_only):
            yield make(view, role)

    def by_name(view: StateView, context: EvalContext, name: Any) -> Iterator[RowDict]:
        role = _roles(view).by_name.get(name)
        if role is not None and (role.can_login or not logins_only):
            yield make(view, role)

    rows: Rows = produce
    lookups: dict[str, Lookup] = {oid_column: by_oid, name_column: by_name}
    rows_of(table, lookups)(rows)


_of_roles("pg_authid", "oid", "rolname", lambda view, role: _authid(role))
_of_roles("pg_roles", "oid", "rolname", _role)
_of_roles("pg_shadow", "usesysid", "usename", _shadow, logins_only=True)
_of_roles("pg_user", "usesysid", "usename", _user, logins_only=True)


@rows_of("pg_group")
def pg_group(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    roles = _roles(view)
    for _, role in sorted(roles.by_oid.items()):
        if not role.can_login:
            members = [member.oid for member, _ in roles.members_of(role.oid)]
            yield {"groname": role.name, "grosysid": role.oid, "grolist": array(members)}


@rows_of("pg_auth_members")
def pg_auth_members(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for _, role in sorted(_roles(view).by_oid.items()):
        for membership in role.memberships:
            yield {
                "roleid": membership.role,
                "member": role.oid,
                "grantor": membership.grantor,
                "admin_option": membership.admin,
            }


@rows_of("pg_db_role_setting")
def pg_db_role_setting(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for database, role in sorted(_roles(view).settings):
        yield {"setdatabase": database, "setrole": role, "setconfig": _settings(view, database, role)}


@rows_of("pg_default_acl")
def pg_default_acl(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for (role, schema, letter), entry in sorted(view.state.default_acls.items(), key=lambda item: item[1].oid):
        yield {
            "oid": entry.oid,
            "defaclrole": role,
            "defaclnamespace": schema,
            "defaclobjtype": letter,
            "defaclacl": acl_array(view, entry.items),
        }
