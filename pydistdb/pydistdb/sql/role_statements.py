"""Utility statements about roles, ownership and privileges, as the binder hands them on (see statements.py).

A role is written as a name or as a word for one (``CURRENT_USER``); which role that is shows at execution.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydistdb.sql.statements import Name, RoleSpec, Utility
from pydistdb.sql.types.base import SqlType

OptionValue = int | str | bool | None | tuple[RoleSpec, ...]


@dataclass(frozen=True, slots=True)
class CreateRole(Utility):
    """``kind``: role, user or group.  ``options`` by the parser's names: canlogin, password, validUntil, addroleto …"""

    name: str
    kind: str
    options: tuple[tuple[str, OptionValue], ...] = ()


@dataclass(frozen=True, slots=True)
class AlterRole(Utility):
    """``removes``: ALTER GROUP … DROP USER."""

    role: RoleSpec
    options: tuple[tuple[str, OptionValue], ...]
    removes: bool = False


@dataclass(frozen=True, slots=True)
class AlterSettings(Utility):
    """ALTER ROLE … SET, ALTER DATABASE … SET: settings for sessions to come.

    ``role`` and ``database`` None: of all.  ``name`` None: RESET ALL; ``values`` None: RESET name.
    ``from_current``: the value is the session's."""

    role: RoleSpec | None
    database: str | None
    name: str | None
    values: tuple[str, ...] | None = None
    from_current: bool = False


@dataclass(frozen=True, slots=True)
class AlterDatabase(Utility):
    """``options``: connection_limit, allow_connections, is_template."""

    name: str
    options: tuple[tuple[str, OptionValue], ...]


@dataclass(frozen=True, slots=True)
class RenameRole(Utility):
    name: str
    new_name: str


@dataclass(frozen=True, slots=True)
class DropRole(Utility):
    roles: tuple[RoleSpec, ...]
    missing_ok: bool


@dataclass(frozen=True, slots=True)
class GrantRole(Utility):
    """GRANT or REVOKE of memberships.  ``admin``: WITH ADMIN OPTION, or REVOKE ADMIN OPTION FOR."""

    is_grant: bool
    roles: tuple[str, ...]
    members: tuple[RoleSpec, ...]
    admin: bool = False
    grantor: RoleSpec | None = None
    cascade: bool = False


@dataclass(frozen=True, slots=True)
class GrantTarget:
    """An object by name; ``arguments`` None: a function named without its argument types."""

    name: Name
    arguments: tuple[SqlType, ...] | None = None


@dataclass(frozen=True, slots=True)
class Grant(Utility):
    """GRANT or REVOKE on objects.

    ``scope``: objects, schemas (ALL … IN SCHEMA) or defaults (ALTER DEFAULT PRIVILEGES).  ``kind``: table, sequence,
    function, procedure, routine, schema, database, type, domain, language ….  ``privileges``: (word in capitals, columns);
    empty for ALL, whose columns then are in ``all_columns``."""

    is_grant: bool
    scope: str
    kind: str
    targets: tuple[GrantTarget, ...]
    privileges: tuple[tuple[str, tuple[str, ...]], ...]
    grantees: tuple[RoleSpec, ...]
    grant_option: bool = False
    grantor: RoleSpec | None = None
    cascade: bool = False
    all_columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AlterDefaultPrivileges(Utility):
    roles: tuple[RoleSpec, ...]
    schemas: tuple[str, ...]
    grant: Grant


@dataclass(frozen=True, slots=True)
class AlterOwner(Utility):
    """ALTER … OWNER TO of what ALTER TABLE does not serve: schemas, databases, functions, types …."""

    kind: str
    target: GrantTarget
    owner: RoleSpec


@dataclass(frozen=True, slots=True)
class ReassignOwned(Utility):
    roles: tuple[RoleSpec, ...]
    new_role: RoleSpec


@dataclass(frozen=True, slots=True)
class DropOwned(Utility):
    roles: tuple[RoleSpec, ...]
    cascade: bool
