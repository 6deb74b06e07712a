"""System columns: computed from the rows' keys (tableoid, ctid) or contents (xmin); the others are 0.

Tables are read with their keys and versions only if the statement's text mentions such a column at all::

    SELECT ctid FROM t          Project([ctid(#1)], Scan(t, key as #1, …))

In RETURNING xmax tells what ON CONFLICT has done: 0 of a row that was inserted, the transaction's number of one that was
updated.  DELETE shows the number too, as in Postgres.

Source: PostgreSQL 15 manual, 5.5.
"""

from __future__ import annotations

import re

from pydistdb.sql.bind.binder import Binder
from pydistdb.sql.bind.needs import note_system_column
from pydistdb.sql.bind.scope import Scope, Source
from pydistdb.sql.errors import AmbiguousColumn, FeatureNotSupported, InvalidColumnReference
from pydistdb.sql.functions.row_keys import KEY_TID, NO_COMMAND, NO_TRANSACTION, ROW_ID_TID, TABLE_OID
from pydistdb.sql.tree import DELETER_NUMBER, VERSION_NUMBER, Call, ColumnId, ColumnRef, Const, Expr
from pydistdb.sql.types.known import BYTEA, CID, OID, TID, XID

SYSTEM_COLUMNS = frozenset({"tableoid", "ctid", "xmin", "xmax", "cmin", "cmax"})
_READ = re.compile("tableoid|ctid|xmin|xmax|cmin|cmax", re.IGNORECASE)


def mentions_system_columns(text: str) -> bool:
    return _READ.search(text) is not None


def wants_system_columns(b: Binder) -> bool:
    """Whether tables are to be read with what system columns are computed from."""
    if b.reads_keys is None:
        b.reads_keys = mentions_system_columns(b.parsed.text)
    return b.reads_keys


def name_written(b: Binder, source: Source, ids: dict[int, ColumnId], is_new: bool = True) -> None:
    """Have RETURNING know xmin and xmax of the rows that are written; ``ids``: their columns' ids by number."""
    if wants_system_columns(b):
        source.deleter_id = ids[DELETER_NUMBER] = b.new_id()
        if is_new:
            source.version_id = ids[VERSION_NUMBER] = b.new_id()


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
    if owner.clause == "MERGE WHEN conditions" and name != "tableoid":
        raise InvalidColumnReference(
            f'cannot use system column "{name}" in MERGE WHEN condition', position=b.position(location)
        )
    if owner.clause == "GENERATED" and name != "tableoid":
        raise InvalidColumnReference(
            f'cannot use system column "{name}" in column generation expression', position=b.position(location)
        )
    own = source.version_id if name == "xmin" else source.deleter_id if name == "xmax" else None
    if own is not None:
        note_system_column(b, source)
        for seen in b.references:
            seen.append(owner)
        version = ColumnRef(XID, own, name)
        b.locations[id(version)] = (version, location)
        return version
    if source.key_id is None:  # the row that is being written: it is there, so its table is known
        if name == "tableoid":
            return Const(OID, table.oid)
        if name in ("cmin", "cmax"):
            return Const(CID, 0)
        raise FeatureNotSupported(
            f"{name} of a row that is being written is not supported here", position=b.position(location)
        )
    key = ColumnRef(BYTEA, source.key_id, name)
    note_system_column(b, source)
    for seen in b.references:
        seen.append(owner)
    b.locations[id(key)] = (key, location)
    if name == "tableoid":
        return Call(OID, TABLE_OID, (key, Const(OID, table.oid)))
    if name == "xmax":
        return Call(XID, NO_TRANSACTION, (key,))
    if name != "ctid":
        return Call(CID, NO_COMMAND, (key,))
    has_row_id = not (table.indexes and table.indexes[0].primary)
    return Call(TID, ROW_ID_TID if has_row_id else KEY_TID, (key,))
