"""Roles: who there is, who is a member of whom, and whose privileges that gives.

A role is a user if it may log in and a group if it has members; Postgres makes no other difference.  ``RoleSet`` is the
part of a catalog state that all databases share.  Two questions are asked of it:

* ``has_privileges_of(a, b)``: may a do what b may?  Through memberships of roles that INHERIT;
* ``is_member_of(a, b)``: may a become b (SET ROLE)?  Through any memberships.

A superuser is a member of everybody.  ``pg_database_owner`` has one member that no list names: whoever owns the
database in question.  Predefined roles need no entry in the store until somebody changes one (a grant *to* it, or a
password for ``postgres``).

Source: PostgreSQL 15 manual, chapter 22; acl.c (roles_is_member_of).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

BOOTSTRAP_ROLE = 10
DATABASE_OWNER = 6171
READ_ALL_DATA = 6181
WRITE_ALL_DATA = 6182
MONITOR = 3373
READ_ALL_SETTINGS = 3374
READ_ALL_STATS = 3375
STAT_SCAN_TABLES = 3377
SIGNAL_BACKEND = 4200
CHECKPOINT = 4544


class Membership(msgspec.Struct, frozen=True, array_like=True):
    role: int
    """The role of which somebody is a member."""
    grantor: int
    admin: bool = False


class Role(msgspec.Struct, frozen=True, array_like=True):
    oid: int
    name: str
    superuser: bool = False
    inherit: bool = True
    create_role: bool = False
    create_db: bool = False
    can_login: bool = False
    replication: bool = False
    bypass_rls: bool = False
    connection_limit: int = -1
    password: str | None = None
    """A SCRAM-SHA-256 verifier, or what a dump brought along in another form (which then fits nobody)."""
    valid_until: int | None = None
    """timestamptz: until when the password may be used."""
    memberships: tuple[Membership, ...] = ()
    """The roles that this one is a member of."""


def _predefined() -> tuple[Role, ...]:
    names = {
        DATABASE_OWNER: "pg_database_owner",
        READ_ALL_DATA: "pg_read_all_data",
        WRITE_ALL_DATA: "pg_write_all_data",
        READ_ALL_SETTINGS: "pg_read_all_settings",
        READ_ALL_STATS: "pg_read_all_stats",
        STAT_SCAN_TABLES: "pg_stat_scan_tables",
        4569: "pg_read_server_files",
        4570: "pg_write_server_files",
        4571: "pg_execute_server_program",
        SIGNAL_BACKEND: "pg_signal_backend",
        CHECKPOINT: "pg_checkpoint",
    }
    monitored = (READ_ALL_SETTINGS, READ_ALL_STATS, STAT_SCAN_TABLES)
    monitor = Role(MONITOR, "pg_monitor", memberships=tuple(Membership(oid, BOOTSTRAP_ROLE) for oid in monitored))
    bootstrap = Role(BOOTSTRAP_ROLE, "postgres", True, True, True, True, True, True, True)
    return (bootstrap, monitor, *(Role(oid, name) for oid, name in names.items()))


PREDEFINED = _predefined()


class RoleSet:
    """Every role of the cluster, and the settings kept for roles and databases."""

    __slots__ = ("_closures", "by_name", "by_oid", "settings")

    def __init__(self, by_oid: Mapping[int, Role], settings: Mapping[tuple[int, int], Mapping[str, str]]) -> None:
        self.by_oid = by_oid
        self.by_name = {role.name: role for role in by_oid.values()}
        self.settings = settings
        """What ALTER ROLE … SET and ALTER DATABASE … SET say, by (database, role); 0 stands for all."""
        self._closures: dict[tuple[int, int, bool], frozenset[int]] = {}

    def apply(self, changes: Iterable[tuple[str, tuple[int, ...], Any]]) -> RoleSet:
        """The roles after changes of kinds R (roles) and P (settings)."""
        by_oid, settings = dict(self.by_oid), dict(self.settings)
        for kind, numbers, value in changes:
            if kind == "P":
                key = (numbers[0], numbers[1])
                if value:
                    settings[key] = value
                else:
                    settings.pop(key, None)
            elif value is None:
                by_oid.pop(numbers[0], None)
            else:
                by_oid[numbers[0]] = value
        return RoleSet(by_oid, settings)

    def name_of(self, oid: int) -> str:
        """The role's name; its number if it is gone."""
        role = self.by_oid.get(oid)
        return role.name if role is not None else str(oid)

    def is_superuser(self, oid: int) -> bool:
        role = self.by_oid.get(oid)
        return role is not None and role.superuser

    def closure(self, oid: int, database_owner: int, *, inherit: bool) -> frozenset[int]:
        """The role and all that it is a member of, directly or through others (that INHERIT, if ``inherit``)."""
        key = (oid, database_owner, inherit)
        found = self._closures.get(key)
        if found is None:
            found = self._closures[key] = frozenset(self._walk(oid, database_owner, inherit))
        return found

    def _walk(self, oid: int, database_owner: int, inherit: bool) -> dict[int, None]:
        seen = {oid: None}
        todo = [oid]
        while todo:
            number = todo.pop(0)
            role = self.by_oid.get(number)
            if role is None or (inherit and not role.inherit):
                continue
            above = [membership.role for membership in role.memberships]
            if number == database_owner:
                above.append(DATABASE_OWNER)
            for other in above:
                if other not in seen:
                    seen[other] = None
                    todo.append(other)
        return seen

    def has_privileges_of(self, role: int, other: int, database_owner: int) -> bool:
        """Tell whether ``role`` may do whatever ``other`` may."""
        return role == other or self.is_superuser(role) or other in self.closure(role, database_owner, inherit=True)

    def is_member_of(self, role: int, other: int, database_owner: int) -> bool:
        """Tell whether ``role`` may become ``other``."""
        return role == other or self.is_superuser(role) or self.is_real_member(role, other, database_owner)

    def is_real_member(self, role: int, other: int, database_owner: int = 0) -> bool:
        """As ``is_member_of``, without what superusers are."""
        return other in self.closure(role, database_owner, inherit=False)

    def is_admin_of(self, role: int, other: int) -> bool:
        """Tell whether ``role`` may grant ``other``: by the admin option, its own or of a role that it is a member of."""
        if self.is_superuser(role):
            return True
        return any(
            membership.role == other and membership.admin
            for number in self.closure(role, 0, inherit=False)
            if number in self.by_oid
            for membership in self.by_oid[number].memberships
        )

    def members_of(self, oid: int) -> list[tuple[Role, Membership]]:
        """Who is a direct member of a role, and how."""
        return [(role, each) for role in self.by_oid.values() for each in role.memberships if each.role == oid]


NO_ROLES = RoleSet({role.oid: role for role in PREDEFINED}, {})
"""What a new cluster has."""
