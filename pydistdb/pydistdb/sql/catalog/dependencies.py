"""Who depends on whom, found by looking: views on relations, column defaults on sequences.

Catalogs are small and DROP is rare, so dependencies are computed from the descriptors instead of being kept up to date
beside them (a second truth that could go wrong).  Whether a view needs a certain column is found out by binding it
without.
"""

from __future__ import annotations

import re

from msgspec.structs import replace

from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.catalog.keys import table_key
from pydistdb.sql.catalog.queries import bind_query
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.errors import DatabaseError

_KIND_NAMES = {"r": "table", "v": "view", "m": "materialized view", "S": "sequence"}
_SEQUENCE_USE = re.compile(r"nextval\((\d+)::regclass\)|nextval\('([^']+)'(?:::regclass|::text)?\)", re.IGNORECASE)


def described(ddl: DdlContext, table: Table) -> str:
    """``table orders``, with the schema if it is not on the search_path."""
    return f"{_KIND_NAMES[table.kind]} {visible_name(ddl, table)}"


def visible_name(ddl: DdlContext, table: Table) -> str:
    if ddl.view.is_visible(table.schema, table.name):
        return quoted(table.name)
    return f"{quoted(ddl.view.state.schemas[table.schema].name)}.{quoted(table.name)}"


def quoted(name: str) -> str:
    """The identifier as it must be written."""
    return name if re.fullmatch(r"[a-z_][a-z0-9_$]*", name) else '"' + name.replace('"', '""') + '"'


def depending_views(ddl: DdlContext, oid: int) -> list[Table]:
    """The views whose query names the relation or function."""
    return [view for view in ddl.view.state.users_of(oid) if oid in view.depends_on]


def views_broken_by(ddl: DdlContext, table: Table, candidate: Table) -> list[Table]:
    """The views that would no longer be what they are if ``candidate`` took the place of ``table``."""
    views = depending_views(ddl, table.oid)
    if not views:
        return []
    state = ddl.view.catalog_state
    changed = state.apply([(table_key(table.database, table.oid), candidate)], state.version)
    catalog = StateView(changed, ddl.database_name, ddl.search_path, overlaid=True)
    return [view for view in views if not _still_binds(ddl, view, catalog)]


def _still_binds(ddl: DdlContext, view: Table, catalog: StateView) -> bool:
    try:
        columns = bind_query(ddl, view.definition, catalog).columns
    except DatabaseError:
        return False
    found = [(column.type.oid, column.type.modifier) for column in columns]
    return found == [(column.type_oid, column.modifier) for column in view.columns]


def number_defaults(ddl: DdlContext, sequence: Table) -> None:
    """Have defaults name a sequence by its oid that did so by its name (as a regclass): it gets another one."""
    schema = ddl.view.state.schemas[sequence.schema].name
    names = {sequence.name, f"{schema}.{sequence.name}"}

    def numbered(match: re.Match[str]) -> str:
        return f"nextval({sequence.oid}::regclass)" if match[2] in names and "::text" not in match[0] else match[0]

    for table, _ in depending_columns(ddl, sequence):
        current = ddl.view.state.tables[table.oid]
        columns = tuple(
            each if each.default is None else replace(each, default=_SEQUENCE_USE.sub(numbered, each.default))
            for each in current.columns
        )
        if columns != current.columns:
            ddl.put_table(replace(current, columns=columns, version=current.version + 1))


def depending_columns(ddl: DdlContext, sequence: Table) -> list[tuple[Table, int]]:
    """The columns (table and number) whose default takes numbers from the sequence."""
    found = []
    schema = ddl.view.state.schemas[sequence.schema].name
    names = {sequence.name, f"{schema}.{sequence.name}"}
    for table in ddl.view.tables():
        for column in table.columns:
            if column.default is None or column.dropped:
                continue
            for match in _SEQUENCE_USE.finditer(column.default):
                if match[1] == str(sequence.oid) or match[2] in names:
                    found.append((table, column.number))
                    break
    return found
