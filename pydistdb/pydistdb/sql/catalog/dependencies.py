"""Who depends on whom, found by looking: views on relations, column defaults on sequences.

Catalogs are small and DROP is rare, so dependencies are computed from the descriptors instead of being kept up to date
beside them (a second truth that could go wrong).  A view's dependencies are those of its bound definition.
"""

from __future__ import annotations

import re

from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.descriptors import Table

_KIND_NAMES = {"r": "table", "v": "view", "S": "sequence"}
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


def depending_views(ddl: DdlContext, table: Table) -> list[Table]:
    """The views whose definition uses the relation."""
    views = [relation for relation in ddl.view.tables() if relation.kind == "v" and relation.oid != table.oid]
    if not views:
        return []
    from pydistdb.sql.catalog.views import relations_used

    return [view for view in views if table.oid in relations_used(ddl, view)]


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
