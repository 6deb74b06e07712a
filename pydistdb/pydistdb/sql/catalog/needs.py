"""What a statement needs privileges for, and whether a role has them.

The binder notes, for every relation that a statement names, what it does with it and which columns it touches.  What stands
in a view is needed by the view's owner, not by whoever reads the view.  When a plan is made, ``denial`` weighs these notes
for the role that asks; the plan keeps the error, if there is one, and whoever runs the plan meets it.  So a plan that is
run a thousand times was checked once: it is tied to the state of the catalog (where privileges are) and to the role. ::

    SELECT a FROM t WHERE b = 1     Need(t, SELECT, selected={1, 2})
    UPDATE t SET a = 1              Need(t, UPDATE, updated={1})

Source: PostgreSQL 15, execMain.c (ExecCheckRTEPerms).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydistdb.sql.catalog.access import PG_CLASS, PG_PROC, Access
from pydistdb.sql.catalog.acl import EXECUTE, INSERT, SELECT, UPDATE
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.catalog.view import VirtualTable
from pydistdb.sql.errors import InsufficientPrivilege

if TYPE_CHECKING:
    from pydistdb.sql.catalog.state_view import StateView

KINDS = {"v": "view", "S": "sequence", "i": "index", "m": "materialized view"}
_BY_COLUMN = SELECT | INSERT | UPDATE
_NONE: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Need:
    """What one mention of a relation needs.  ``role``: who needs it; None is whoever runs the statement."""

    relation: Table | VirtualTable
    privileges: int
    role: int | None = None
    selected: frozenset[int] = _NONE
    """Column numbers; where a privilege is needed and no column is named, one for any column will do."""
    inserted: frozenset[int] = _NONE
    updated: frozenset[int] = _NONE


@dataclass(frozen=True, slots=True)
class FunctionNeed:
    """A call of a function."""

    oid: int
    name: str
    kind: str = "function"


Needs = tuple[Need | FunctionNeed, ...]


def permission_denied(kind: str, name: str, **fields: object) -> InsufficientPrivilege:
    return InsufficientPrivilege(f"permission denied for {kind} {name}", **fields)  # type: ignore[arg-type]


def must_be_owner(kind: str, name: str) -> InsufficientPrivilege:
    return InsufficientPrivilege(f"must be owner of {kind} {name}")


def relation_kind(relation: Table | VirtualTable) -> str:
    return KINDS.get(relation.kind, "table") if isinstance(relation, Table) else "table"


def denial(needs: Iterable[Need | FunctionNeed], view: StateView) -> InsufficientPrivilege | None:
    """The error for running a statement with these needs, if the view's role may not."""
    access: Access | None = None
    for need in needs:
        if isinstance(need, FunctionNeed):
            if view.role is None or not view.state.acls:
                continue
            access = access or view.access
            if access.missing(view.role, PG_PROC, need.oid, EXECUTE):
                return permission_denied(need.kind, need.name)
            continue
        role = view.role if need.role is None else need.role
        if role is None:
            continue
        access = access or view.access
        if not _is_met(access, need, role):
            return permission_denied(relation_kind(need.relation), need.relation.name)
    return None


def require(needs: Iterable[Need | FunctionNeed], view: StateView) -> None:
    """Raise 42501 if the view's role may not run a statement with these needs."""
    error = denial(needs, view)
    if error is not None:
        raise error


def _is_met(access: Access, need: Need, role: int) -> bool:
    relation = need.relation
    left = access.missing(role, PG_CLASS, relation.oid, need.privileges)
    if not left:
        return True
    if left & ~_BY_COLUMN:
        return False
    for privilege, columns in ((SELECT, need.selected), (INSERT, need.inserted), (UPDATE, need.updated)):
        if not left & privilege:
            continue
        if not columns and not access.has_any_column(role, relation, privilege):
            return False
        if not all(access.column_mask(role, relation.oid, number, privilege) for number in columns):
            return False
    return True
