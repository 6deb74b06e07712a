"""The virtual tables by name and by oid.

Modules of this package register theirs as they are imported; ``virtual_tables()`` imports them all the first time, so
that the catalog package need not know them (and they may import its types).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from pydistdb.sql.catalog.view import VirtualTable

MODULES: tuple[str, ...] = tuple(
    f"pydistdb.sql.pg_catalog.{name}"
    for name in (
        "define",
        "classes",
        "constraints",
        "type_rows",
        "procedures",
        "operators",
        "access_methods",
        "extensions",
        "initial_privileges",
        "activity",
        "cluster",
        "summaries",
        "information_schema",
        "information_columns",
        "information_constraints",
        "information_types",
        "internal",
        "operations",
        "operations_functions",
        "transaction_log",
        "statements",
        "statistics_objects",
        "functions_definitions",
        "functions_routines",
        "functions_comments",
        "functions_counters",
        "functions_access",
        "functions_sizes",
        "functions_sequences",
        "functions_identity",
        "functions_privileges",
        "privilege_views",
        "roles",
    )
)

_by_name: dict[tuple[str, str], VirtualTable] = {}
_by_oid: dict[int, VirtualTable] = {}
_loaded = False


def register(table: VirtualTable) -> VirtualTable:
    assert (table.schema, table.name) not in _by_name, f"{table.name} is there already"
    assert table.oid not in _by_oid, f"oid {table.oid} is taken by {_by_oid[table.oid].name}"
    _by_name[table.schema, table.name] = table
    _by_oid[table.oid] = table
    return table


def virtual_tables() -> Mapping[tuple[str, str], VirtualTable]:
    """Every virtual table by (schema, name)."""
    global _loaded
    if not _loaded:
        _loaded = True
        for module in MODULES:
            import_module(module)
    return _by_name


def virtual_by_oid(oid: int) -> VirtualTable | None:
    virtual_tables()
    return _by_oid.get(oid)
