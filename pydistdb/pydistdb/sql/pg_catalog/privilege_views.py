"""information_schema's views of roles and privileges.

All of them are made from two questions: what do the lists of privileges say (``_table_grants`` and its kin), and which roles
may look on.  ``…_privileges`` show what concerns PUBLIC or a role whose privileges the user has, ``role_…_grants`` the same
without PUBLIC.

Source: PostgreSQL 15 manual, chapter 37; information_schema.sql.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from pydistdb.sql.catalog import acl as acls
from pydistdb.sql.catalog.access import PG_CLASS, PG_PROC, PG_TYPE
from pydistdb.sql.catalog.acl import Acl
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.functions import registry as functions
from pydistdb.sql.pg_catalog import registry
from pydistdb.sql.pg_catalog.define import RowDict, rows_of
from pydistdb.sql.pg_catalog.objects import schema_name, yes
from pydistdb.sql.types.base import AggregateFunction, EvalContext

_SCHEMA_OIDS = ("pg_catalog", "information_schema")


class _Given(NamedTuple):
    """One privilege that somebody has given somebody."""

    grantor: int
    grantee: int
    word: str
    is_grantable: bool


def _given(view: StateView, acl: Acl, owner: int, rights: int) -> Iterator[_Given]:
    """The single privileges of a list; grant options count as such for the owner, who needs none."""
    for item in acl:
        owns = view.access.has_privileges_of(item.grantee, owner) if item.grantee else False
        for word in acls.words_of(item.privileges & rights):
            yield _Given(item.grantor, item.grantee, word, owns or bool(item.options & acls.WORDS[word]))


def _concerns(view: StateView, context: EvalContext, given: _Given, *, with_public: bool) -> bool:
    """Whether the user may see it."""
    may = view.access.has_privileges_of
    if given.grantee == acls.PUBLIC:
        return with_public
    return may(context.role, given.grantor) or may(context.role, given.grantee)


def _names(view: StateView, given: _Given) -> RowDict:
    name_of = view.catalog_state.roles.name_of
    return {
        "grantor": name_of(given.grantor),
        "grantee": "PUBLIC" if given.grantee == acls.PUBLIC else name_of(given.grantee),
        "privilege_type": given.word,
        "is_grantable": yes(given.is_grantable),
    }


Produce = Callable[[StateView, EvalContext], Iterator[tuple[_Given, RowDict]]]


def _views(privileges: str, role_grants: str, produce: Produce) -> None:
    """Register the two views over the same grants."""

    def make(with_public: bool) -> Callable[[StateView, EvalContext], Iterator[RowDict]]:
        def rows(view: StateView, context: EvalContext) -> Iterator[RowDict]:
            for given, row in produce(view, context):
                if _concerns(view, context, given, with_public=with_public):
                    yield _names(view, given) | row

        return rows

    rows_of(privileges)(make(True))
    rows_of(role_grants)(make(False))


# ---------------------------------------------------------------------------------------------------- tables, columns


def _relations(view: StateView) -> Iterator[tuple[int, RowDict]]:
    catalog = view.database.name
    for virtual in registry.virtual_tables().values():
        yield virtual.oid, {"table_catalog": catalog, "table_schema": virtual.schema, "table_name": virtual.name}
    for table in view.tables():
        if table.kind in "rvpf":
            schema = schema_name(view, table.schema)
            yield table.oid, {"table_catalog": catalog, "table_schema": schema, "table_name": table.name}


def _table_grants(view: StateView, context: EvalContext) -> Iterator[tuple[_Given, RowDict]]:
    for oid, row in _relations(view):
        owner = view.access.owner(PG_CLASS, oid)
        for given in _given(view, view.access.acl(PG_CLASS, oid), owner, acls.TABLE_RIGHTS):
            yield given, row | {"with_hierarchy": yes(given.word == "SELECT")}


def _column_grants(view: StateView, context: EvalContext) -> Iterator[tuple[_Given, RowDict]]:
    """What is granted on a table counts for each of its columns."""
    rights = acls.RIGHTS["column"]
    for oid, row in _relations(view):
        owner = view.access.owner(PG_CLASS, oid)
        of_table = list(_given(view, view.access.acl(PG_CLASS, oid), owner, rights))
        table = view.table_by_oid(oid)
        if table is None:
            virtual = view.virtual_by_oid(oid)
            columns = [] if virtual is None else [(0, name) for name, _ in virtual.columns]
        else:
            columns = [(column.number, column.name) for column in table.columns if not column.dropped]
        for number, name in columns:
            own = view.access.stored_acl(PG_CLASS, oid, number) if number else None
            for given in dict.fromkeys((*of_table, *_given(view, own or (), owner, rights))):
                yield given, row | {"column_name": name}


_views("table_privileges", "role_table_grants", _table_grants)
_views("column_privileges", "role_column_grants", _column_grants)

# ---------------------------------------------------------------------------------------------------- functions, the rest


def _routine_grants(view: StateView, context: EvalContext) -> Iterator[tuple[_Given, RowDict]]:
    catalog = view.database.name
    known = [(each, each.schema) for each in functions.all_functions() if not isinstance(each, AggregateFunction)]
    known += [(f, f.schema) for f in map(view.function_of, view.state.routines.values())]
    for function, schema in known:
        row = {
            "specific_catalog": catalog,
            "specific_schema": schema,
            "specific_name": f"{function.name}_{function.oid}",
            "routine_catalog": catalog,
            "routine_schema": schema,
            "routine_name": function.name,
        }
        acl = view.access.acl(PG_PROC, function.oid)
        for given in _given(view, acl, view.access.owner(PG_PROC, function.oid), acls.EXECUTE):
            yield given, row


def _udt_grants(view: StateView, context: EvalContext) -> Iterator[tuple[_Given, RowDict]]:
    """Row types of tables: those are the types that users have."""
    for table in view.tables():
        if table.row_type_oid and table.kind == "c":
            acl = acls.default_acl("type", table.owner)
            stored = view.access.stored_acl(PG_TYPE, table.row_type_oid)
            row = {
                "udt_catalog": view.database.name,
                "udt_schema": schema_name(view, table.schema),
                "udt_name": table.name,
            }
            for given in _given(view, stored or acl, table.owner, acls.USAGE):
                yield given._replace(word="TYPE USAGE"), row


def _usage_grants(view: StateView, context: EvalContext) -> Iterator[tuple[_Given, RowDict]]:
    for table in view.tables():
        if table.kind == "S":
            row = {
                "object_catalog": view.database.name,
                "object_schema": schema_name(view, table.schema),
                "object_name": table.name,
                "object_type": "SEQUENCE",
            }
            for given in _given(view, view.access.acl(PG_CLASS, table.oid), table.owner, acls.USAGE):
                yield given, row


_views("routine_privileges", "role_routine_grants", _routine_grants)
_views("udt_privileges", "role_udt_grants", _udt_grants)
_views("usage_privileges", "role_usage_grants", _usage_grants)

# ---------------------------------------------------------------------------------------------------- roles


@rows_of("enabled_roles")
def enabled_roles(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for oid, role in sorted(view.catalog_state.roles.by_oid.items()):
        if view.access.has_privileges_of(context.role, oid):
            yield {"role_name": role.name}


@rows_of("applicable_roles")
def applicable_roles(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    roles = view.catalog_state.roles
    for oid, member in sorted(roles.by_oid.items()):
        if not view.access.has_privileges_of(context.role, oid):
            continue
        for membership in member.memberships:
            yield {
                "grantee": member.name,
                "role_name": roles.name_of(membership.role),
                "is_grantable": yes(membership.admin),
            }


@rows_of("administrable_role_authorizations")
def administrable_role_authorizations(view: StateView, context: EvalContext) -> Iterator[RowDict]:
    for row in applicable_roles(view, context):
        if row["is_grantable"] == "YES":
            yield row
