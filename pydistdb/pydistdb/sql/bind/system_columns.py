"""System columns: tableoid and ctid of a stored table's rows, computed from the rows' keys.

Tables are read with their keys only if the statement's text mentions such a column at all.  The others of Postgres's
(xmin, xmax, cmin, cmax) would tell about row versions and are refused::

    SELECT ctid FROM t          Project([ctid(#1)], Scan(t, key as #1, …))

Source: PostgreSQL 15 manual, 5.5.
"""

from __future__ import annotations

import re

from pydistdb.sql.bind.binder import Binder
from pydistdb.sql.bind.needs import note_system_column
from pydistdb.sql.bind.scope import Scope, Source
from pydistdb.sql.errors import AmbiguousColumn, FeatureNotSupported
from pydistdb.sql.functions.row_keys import KEY_TID, ROW_ID_TID, TABLE_OID
from pydistdb.sql.tree import Call, ColumnRef, Const, Expr
from pydistdb.sql.types.known import BYTEA, OID, TID

SYSTEM_COLUMNS = frozenset({"tableoid", "ctid", "xmin", "xmax", "cmin", "cmax"})
_READ = re.compile("tableoid|ctid", re.IGNORECASE)


def mentions_system_columns(text: str) -> bool:
    return _READ.search(text) is not None


def bare_system_column(b: Binder, scope: Scope, name: str, location: int) -> Expr | None:
    """An unqualified name that no relation has as a column of its own."""
    if name not in SYSTEM_COLUMNS:
        return None
    for level in scope.levels():
        tables = [source for source in level.sources if source.table is not None or source.catalog_oid]
        if len(tables) > 1:
            raise AmbiguousColumn(f'column reference "{name}" is ambiguous', position=b.position(location))
        if tables:
            return system_column(b, tables[0], level, name, location)
    return None


def system_column(b: Binder, source: Source, owner: Scope, name: str, location: int) -> Expr | None:
    """A system column of a relation; None if it is not one, or the relation is not a table."""
    table = source.table
    if name == "tableoid" and source.catalog_oid:
        return Const(OID, source.catalog_oid)
    if name not in SYSTEM_COLUMNS or table is None:
        return None
    if name not in ("tableoid", "ctid"):
        raise FeatureNotSupported(f"system column {name} is not supported", position=b.position(location))
    if source.key_id is None:  # the row that is being written: it is there, so its table is known
        if name == "tableoid":
            return Const(OID, table.oid)
        raise FeatureNotSupported("ctid of a row that is being written is not supported", position=b.position(location))
    key = ColumnRef(BYTEA, source.key_id, name)
    note_system_column(b, source)
    for seen in b.references:
        seen.append(owner)
    b.locations[id(key)] = (key, location)
    if name == "tableoid":
        return Call(OID, TABLE_OID, (key, Const(OID, table.oid)))
    has_row_id = not (table.indexes and table.indexes[0].primary)
    return Call(TID, ROW_ID_TID if has_row_id else KEY_TID, (key,))
