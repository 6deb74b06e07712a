"""GRANT and REVOKE on objects.

In whose name a privilege is granted is worked out from the list: the owner's, if the role at work is the owner or a superuser,
else that of the role (of those whose privileges it has) that holds the most of the grant options needed.  What it may not
pass on is left out with a warning; if it may pass on nothing and has nothing, that is an error.  A REVOKE on a table
takes the same privileges on its columns along.

Source: PostgreSQL 15 manual, GRANT and REVOKE; aclchk.c (ExecGrant_Relation and its kin, restrict_and_check_grant).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydistdb.sql.catalog import acl as acls
from pydistdb.sql.catalog import keys
from pydistdb.sql.catalog.access import PG_CLASS, PG_DATABASE
from pydistdb.sql.catalog.acl import RIGHTS, Acl, AclItem
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.catalog.grant_targets import FUNCTION_KINDS, Target, find_target, targets_in_schema
from pydistdb.sql.catalog.needs import permission_denied
from pydistdb.sql.catalog.role_names import grantee, named_role
from pydistdb.sql.errors import (
    DatabaseError,
    FeatureNotSupported,
    InsufficientPrivilege,
    InvalidSyntax,
    UndefinedColumn,
)
from pydistdb.sql.role_statements import Grant

_WORDS_OF_KINDS = {"table": "relation"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """The privileges of a statement.  ``everything``: it said ALL; ``columns``: by name, those of single columns."""

    privileges: int
    everything: bool
    columns: tuple[tuple[int, str], ...] = ()


async def grant(ddl: DdlContext, statement: Grant) -> str:
    if statement.grantor is not None and named_role(ddl, statement.grantor).oid != ddl.role:
        raise FeatureNotSupported("grantor must be current user")
    grantees = [grantee(ddl, spec) for spec in statement.grantees]
    if statement.scope == "schemas":
        found = [t for each in statement.targets for t in targets_in_schema(ddl, statement.kind, each.name.name)]
    else:
        found = [find_target(ddl, statement.kind, each) for each in statement.targets]
    wanted = wanted_privileges(statement)
    for target in found:
        _grant_on(ddl, statement, target, wanted, grantees)
    return "GRANT" if statement.is_grant else "REVOKE"


def wanted_privileges(statement: Grant) -> Wanted:
    """The bits that the statement's words stand for, on its kind of object."""
    kind = "function" if statement.kind in FUNCTION_KINDS else statement.kind
    rights = RIGHTS["type" if kind == "domain" else kind] if kind in (*RIGHTS, "domain") else 0
    if not statement.privileges:
        columns = tuple((RIGHTS["column"], name) for name in statement.all_columns)
        return Wanted(0 if columns else rights, True, columns)
    privileges = 0
    by_column: list[tuple[int, str]] = []
    for word, names in statement.privileges:
        bit = acls.WORDS.get(word)
        if bit is None:
            raise InvalidSyntax(f'unrecognized privilege type "{word.lower()}"')
        if names:
            if statement.kind != "table":
                raise DatabaseError.of("0LP01", "column privileges are only valid for relations")
            if bit & ~RIGHTS["column"]:
                raise DatabaseError.of("0LP01", f"invalid privilege type {word} for column")
            by_column += [(bit, name) for name in names]
        elif bit & ~(rights | (RIGHTS["sequence"] if statement.kind == "table" else 0)):
            what = _WORDS_OF_KINDS.get(statement.kind, statement.kind)
            raise DatabaseError.of("0LP01", f"invalid privilege type {word} for {what}")
        else:
            privileges |= bit
    return Wanted(privileges, False, tuple(by_column))


def _grant_on(ddl: DdlContext, statement: Grant, target: Target, wanted: Wanted, grantees: Sequence[int]) -> None:
    privileges = _fitting(ddl, statement, target, wanted)
    access = ddl.view.access
    rights = RIGHTS[target.kind]
    by_column: dict[int, int] = {}
    if privileges:
        old = access.acl(target.object_class, target.oid)
        allowed, grantor = _allowed(ddl, statement, target, old, privileges, wanted.everything, rights)
        new = merge(ddl, statement, old, allowed, grantor, access.owner(target.object_class, target.oid), grantees)
        put_acl(ddl, target.object_class, target.oid, 0, new)
        if not statement.is_grant and isinstance(target.relation, Table) and allowed & RIGHTS["column"]:
            for column in target.relation.columns:
                if access.stored_acl(PG_CLASS, target.oid, column.number):
                    by_column[column.number] = allowed & RIGHTS["column"]
    for bits, name in wanted.columns:
        number = _column_number(target, name)
        by_column[number] = by_column.get(number, 0) | bits
    for number, bits in by_column.items():
        _grant_on_column(ddl, statement, target, number, bits, wanted.everything, grantees)


def _fitting(ddl: DdlContext, statement: Grant, target: Target, wanted: Wanted) -> int:
    """The privileges asked for, as far as the object has them (GRANT ON TABLE is let pass for sequences)."""
    rights = RIGHTS[target.kind]
    if wanted.everything:
        return 0 if wanted.columns else rights
    if wanted.privileges & ~rights:
        if target.kind == "sequence":
            ddl.tell(
                f'sequence "{target.name}" only supports USAGE, SELECT, and UPDATE privileges',
                "0LP01",
                severity="WARNING",
            )
        else:
            raise DatabaseError.of("0LP01", f"invalid privilege type USAGE for {target.word}")
    return wanted.privileges & rights


def _column_number(target: Target, name: str) -> int:
    if isinstance(target.relation, Table):
        for column in target.relation.columns:
            if column.name == name and not column.dropped:
                return column.number
    elif target.relation is not None:
        raise FeatureNotSupported("privileges on columns of system tables are not supported")
    raise UndefinedColumn(f'column "{name}" of relation "{target.name}" does not exist')


def _grantor(ddl: DdlContext, acl: Acl, owner: int, privileges: int) -> tuple[int, int]:
    """In whose name, and for which of the privileges that role has the grant option."""
    closure = ddl.roles.closure(ddl.role, ddl.view.access.database_owner, inherit=True)
    also = sorted(closure, key=lambda oid: (oid != ddl.role, oid))
    return acls.best_grantor(acl, ddl.role, owner, privileges, ddl.is_superuser, also)


def _allowed(
    ddl: DdlContext, statement: Grant, target: Target, old: Acl, privileges: int, everything: bool, rights: int
) -> tuple[int, int]:
    """What of the privileges may be granted or revoked, and in whose name; warns of the rest."""
    access = ddl.view.access
    grantor, options = _grantor(ddl, old, access.owner(target.object_class, target.oid), privileges)
    if not options:
        either = rights | acls.with_options(rights)
        if not access.mask(grantor, target.object_class, target.oid, either):
            raise permission_denied(target.word, target.name)
    allowed = privileges & options
    _warn(ddl, statement, allowed, privileges, everything, f'"{target.name}"')
    return allowed, grantor


def _warn(ddl: DdlContext, statement: Grant, allowed: int, privileges: int, everything: bool, what: str) -> None:
    done, code = ("were granted", "01007") if statement.is_grant else ("could be revoked", "01006")
    if not allowed:
        ddl.tell(f"no privileges {done} for {what}", code, severity="WARNING")
    elif allowed != privileges and not everything:
        ddl.tell(f"not all privileges {done} for {what}", code, severity="WARNING")


def _grant_on_column(
    ddl: DdlContext,
    statement: Grant,
    target: Target,
    number: int,
    privileges: int,
    everything: bool,
    grantees: Sequence[int],
) -> None:
    access = ddl.view.access
    owner = access.owner(PG_CLASS, target.oid)
    table_acl = access.acl(PG_CLASS, target.oid)
    old = access.stored_acl(PG_CLASS, target.oid, number) or ()
    grantor, options = _grantor(ddl, (*table_acl, *old), owner, privileges)
    assert isinstance(target.relation, Table)
    name = next(column.name for column in target.relation.columns if column.number == number)
    if not options:
        rights = RIGHTS["column"]
        either = rights | acls.with_options(rights)
        if not access.mask(grantor, PG_CLASS, target.oid, either) and not access.column_mask(
            grantor, target.oid, number, either
        ):
            raise InsufficientPrivilege(f'permission denied for column "{name}" of relation "{target.name}"')
    allowed = privileges & options
    _warn(ddl, statement, allowed, privileges, everything, f'column "{name}" of relation "{target.name}"')
    new = merge(ddl, statement, old, allowed, grantor, owner, grantees)
    put_acl(ddl, PG_CLASS, target.oid, number, new or None)


def merge(
    ddl: DdlContext,
    statement: Grant,
    old: Acl,
    privileges: int,
    grantor: int,
    owner: int,
    grantees: Sequence[int],
) -> Acl:
    """The list with the privileges given to, or taken from, every grantee."""
    is_grant, option = statement.is_grant, statement.grant_option
    new = old
    for each in grantees:
        if is_grant and option and each == acls.PUBLIC:
            raise DatabaseError.of("0LP01", "grant options can only be granted to roles")
        change = AclItem(
            each,
            grantor,
            privileges if is_grant or not option else 0,
            privileges if not is_grant or option else 0,
        )
        new = acls.update(
            new, change, owner, ddl.view.access.has_privileges_of, grant=is_grant, cascade=statement.cascade
        )
    return new


def put_acl(ddl: DdlContext, object_class: int, oid: int, sub_id: int, acl: Acl | None) -> None:
    """Store an object's list; None: the default privileges again."""
    database = oid if object_class == PG_DATABASE else ddl.database_oid
    ddl.apply([(keys.acl_key(database, object_class, oid, sub_id), acl)])
