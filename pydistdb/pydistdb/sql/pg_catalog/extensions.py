"""pg_extension: ``pydistdb``, the database's own views, and ``pg_stat_statements``; both are there from the start.

So tools know that schemas pydistdb_internal and proddb are part of the server and nothing of the users': pg_dump leaves
members of an extension out, and built-in extensions (by their low oid) too.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydistdb.sql.catalog.state import INTERNAL_SCHEMA_OID, OPERATIONS_SCHEMA_OID, PG_CATALOG_OID
from pydistdb.sql.functions import registry as functions
from pydistdb.sql.pg_catalog import registry
from pydistdb.sql.pg_catalog.define import RowDict, static_rows
from pydistdb.sql.pg_catalog.objects import OWNER_OID

EXTENSION_NAME, EXTENSION_OID, EXTENSION_VERSION = "pydistdb", 13_989, "1.0"
COMMENT = "state of the cluster: nodes, ranges, sessions"
PG_EXTENSION_OID, PG_CLASS_OID, PG_NAMESPACE_OID, PG_PROC_OID = 3079, 1259, 2615, 1255
STATEMENTS_NAME, STATEMENTS_OID, STATEMENTS_VERSION = "pg_stat_statements", 13_988, "1.10"
STATEMENTS_COMMENT = "track planning and execution statistics of all SQL statements executed"
BUILT_IN_EXTENSIONS = frozenset({EXTENSION_NAME, STATEMENTS_NAME})

static_rows(
    "pg_extension",
    [
        {
            "oid": EXTENSION_OID,
            "extname": EXTENSION_NAME,
            "extowner": OWNER_OID,
            "extnamespace": INTERNAL_SCHEMA_OID,
            "extrelocatable": False,
            "extversion": EXTENSION_VERSION,
        },
        {
            "oid": STATEMENTS_OID,
            "extname": STATEMENTS_NAME,
            "extowner": OWNER_OID,
            "extnamespace": PG_CATALOG_OID,
            "extrelocatable": False,
            "extversion": STATEMENTS_VERSION,
        },
    ],
    by=("oid", "extname"),
)
static_rows(
    "pg_available_extensions",
    [
        {
            "name": EXTENSION_NAME,
            "default_version": EXTENSION_VERSION,
            "installed_version": EXTENSION_VERSION,
            "comment": COMMENT,
        },
        {
            "name": STATEMENTS_NAME,
            "default_version": STATEMENTS_VERSION,
            "installed_version": STATEMENTS_VERSION,
            "comment": STATEMENTS_COMMENT,
        },
    ],
)


def extension_members() -> Iterator[RowDict]:
    """The rows of pg_depend that say what belongs to the extension."""
    members = [(PG_NAMESPACE_OID, INTERNAL_SCHEMA_OID), (PG_NAMESPACE_OID, OPERATIONS_SCHEMA_OID)]
    members += [
        (PG_CLASS_OID, table.oid)
        for table in registry.virtual_tables().values()
        if table.schema in ("pydistdb_internal", "proddb")
    ]
    members += [(PG_PROC_OID, function.oid) for function in functions.all_functions() if function.schema == "proddb"]
    for class_oid, oid in members:
        yield {
            "classid": class_oid,
            "objid": oid,
            "objsubid": 0,
            "refclassid": PG_EXTENSION_OID,
            "refobjid": EXTENSION_OID,
            "refobjsubid": 0,
            "deptype": "e",
        }
