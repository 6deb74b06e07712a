"""What goes with making and dropping objects, whatever statement does it: their privileges.

``with_privileges`` completes the changes of a DDL statement: an object that was not there before gets the default
privileges of its owner (ALTER DEFAULT PRIVILEGES); the privileges of one that goes are dropped with
it, as are those of a column that goes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydistdb.sql.catalog import keys
from pydistdb.sql.catalog.access import PG_CLASS, PG_NAMESPACE, PG_PROC, PG_TYPE
from pydistdb.sql.catalog.default_acls import initial_acl
from pydistdb.sql.catalog.descriptors import Routine, Schema, Table
from pydistdb.sql.catalog.state import Change
from pydistdb.sql.types.user import UserType

if TYPE_CHECKING:
    from pydistdb.sql.catalog.state_view import StateView

_WITH_OWNER = "TSDFY"
"""Kinds of keys whose objects have an owner."""
_CLASSES = {"T": PG_CLASS, "S": PG_NAMESPACE, "F": PG_PROC, "Y": PG_TYPE}


def with_privileges(view: StateView, changes: list[Change]) -> list[Change]:
    """The changes, with the privileges of what is new and without those of what goes."""
    result: list[Change] = []
    for key, value in changes:
        kind, numbers = keys.unpack_key(key)
        if kind not in _WITH_OWNER:
            result.append((key, value))
        elif value is None:
            result.append((key, value))
            result += _forgotten(view, kind, numbers)
        elif _exists(view, kind, numbers):
            result.append((key, value))
            if isinstance(value, Table) and view.state.acls:
                result += _without_columns(view, value)
        else:
            result.append((key, value))
            result += _born(view, value)
    return result


def _exists(view: StateView, kind: str, numbers: tuple[int, ...]) -> bool:
    database = view.catalog_state.databases.get(numbers[0])
    if database is None:
        return False
    match kind:
        case "T":
            return numbers[1] in database.tables
        case "S":
            return numbers[1] in database.schemas
        case "F":
            return numbers[1] in database.routines
        case "Y":
            return numbers[1] in database.types
    return True


def _born(view: StateView, value: Any) -> list[Change]:
    """The list that default privileges give a new object."""
    match value:
        case Table():
            if value.persistence == "t" and not view.state.default_acls:
                return []
            kind = "sequence" if value.kind == "S" else "table"
            acl = initial_acl(view.access, kind, value.owner, value.schema)
            return [] if acl is None else [(keys.acl_key(value.database, PG_CLASS, value.oid), acl)]
        case Routine():
            acl = initial_acl(view.access, "function", value.owner, value.schema)
            return [] if acl is None else [(keys.acl_key(value.database, PG_PROC, value.oid), acl)]
        case UserType() if not value.relation:
            acl = initial_acl(view.access, "type", value.owner, value.schema)
            return [] if acl is None else [(keys.acl_key(value.database, PG_TYPE, value.oid), acl)]
        case Schema() if value.database == view.database.oid:
            acl = initial_acl(view.access, "schema", value.owner, 0)
            return [] if acl is None else [(keys.acl_key(value.database, PG_NAMESPACE, value.oid), acl)]
    return []


def _forgotten(view: StateView, kind: str, numbers: tuple[int, ...]) -> list[Change]:
    """The lists of an object that goes; with a database go all of its own."""
    database = view.catalog_state.databases.get(numbers[0])
    if database is None:
        return []
    oid = database.descriptor.oid
    if kind == "D":
        gone: list[Change] = [(keys.acl_key(oid, *key), None) for key in database.acls]
        gone += [(keys.default_acl_key(oid, *key), None) for key in database.default_acls]
        settings = view.catalog_state.roles.settings
        return gone + [(keys.role_settings_key(*key), None) for key in settings if key[0] == oid]
    object_class = _CLASSES[kind]
    lists = [key for key in database.acls if key[0] == object_class and key[1] == numbers[1]]
    gone = [(keys.acl_key(oid, *key), None) for key in lists]
    if kind == "S":
        entries = [key for key in database.default_acls if key[1] == numbers[1]]
        gone += [(keys.default_acl_key(oid, *key), None) for key in entries]
    return gone


def _without_columns(view: StateView, table: Table) -> list[Change]:
    """Columns that have just been dropped lose their lists."""
    dropped = {column.number for column in table.columns if column.dropped}
    return [
        (keys.acl_key(table.database, *key), None)
        for key in view.state.acls
        if key[0] == PG_CLASS and key[1] == table.oid and key[2] in dropped
    ]
