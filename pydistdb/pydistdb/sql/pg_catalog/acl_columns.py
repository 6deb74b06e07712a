"""relacl, nspacl, attacl and their like: lists of privileges as arrays of aclitem."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pydistdb.sql.catalog.acl import Acl, item_text
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.types.arrays import PgArray

RowDict = dict[str, Any]


def acl_array(view: StateView, acl: Acl | None) -> PgArray | None:
    """A list as an aclitem[]; NULL for the default privileges."""
    if acl is None:
        return None
    name_of = view.catalog_state.roles.name_of
    return PgArray.of([item_text(item, name_of) for item in acl])


def acl_column(view: StateView, object_class: int, oid: int, sub_id: int = 0) -> PgArray | None:
    """An object's list, as its system table shows it."""
    return acl_array(view, view.access.stored_acl(object_class, oid, sub_id))


def with_acls(view: StateView, object_class: int, column: str, rows: Iterable[RowDict]) -> Iterator[RowDict]:
    """Rows of objects of which few have a list of their own, with the lists of those that do."""
    acls = view.state.acls
    for row in rows:
        acl = acls.get((object_class, row["oid"], 0))
        yield row if acl is None else row | {column: acl_array(view, acl)}


def owner_name(view: StateView, owner: int) -> str:
    return view.catalog_state.roles.name_of(owner)
