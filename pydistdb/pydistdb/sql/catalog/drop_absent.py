"""DROP of what there can be none of here: triggers, rules, policies, publications, foreign tables and their like.

    DROP TRIGGER IF EXISTS stamp ON orders;       NOTICE:  trigger "stamp" for relation "orders" does not exist, skipping
    DROP PUBLICATION changes;                     42704: publication "changes" does not exist

Scripts that make a schema anew (pg_dump --clean --if-exists, migrations) begin with these, and the answer is Postgres's
for a database without such objects.  CREATE of them is refused (0A000).

Source: PostgreSQL 15, dropcmds.c (does_not_exist_skipping) and objectaddress.c.
"""

from __future__ import annotations

from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.errors import (
    DependentObjectsStillExist,
    InvalidSchemaName,
    UndefinedObject,
    UndefinedTable,
    WrongObjectType,
)
from pydistdb.sql.schema_statements import DropAbsent
from pydistdb.sql.statements import Name

_BUILT_IN = {
    "language": {"internal", "c", "sql", "plpgsql"},
    "access method": {"heap", "btree", "hash", "gist", "gin", "spgist", "brin"},
    "collation": {"default", "C", "POSIX", "ucs_basic"},
    "extension": {"pydistdb", "pg_stat_statements"},
    "tablespace": {"pg_default", "pg_global"},
}


async def drop_absent(ddl: DdlContext, statement: DropAbsent) -> str:
    for each in statement.names:
        problem = _problem(ddl, statement, each)
        if not statement.missing_ok:
            raise problem
        ddl.tell(f"{problem.message}, skipping")
    return statement.tag


def _problem(
    ddl: DdlContext, statement: DropAbsent, name: Name
) -> UndefinedObject | UndefinedTable | InvalidSchemaName:
    """Why there is nothing to drop; raises if there is something, which cannot be dropped."""
    kind = statement.kind
    relation = statement.relation
    qualified = relation or name
    if qualified.schema is not None and ddl.view.schema_named(qualified.schema) is None:
        return InvalidSchemaName(f'schema "{qualified.schema}" does not exist')
    if relation is not None:
        if ddl.find(relation, "rvmS") is None:
            return UndefinedTable(f'relation "{ddl.written(relation)}" does not exist')
        of = "relation" if statement.missing_ok or kind == "rule" else "table"
        return UndefinedObject(f'{kind} "{name.name}" for {of} "{relation.name}" does not exist')
    if name.name in _BUILT_IN.get(kind, ()):
        raise DependentObjectsStillExist(
            f"cannot drop {kind} {name.name} because it is required by the database system"
        )
    if kind == "foreign table":
        if ddl.view.relation(name.name, name.schema) is not None:
            raise WrongObjectType(f'"{name.name}" is not a foreign table', hint="Use DROP TABLE to remove a table.")
        return UndefinedTable(f'foreign table "{name.name}" does not exist')
    behind = f' for access method "{statement.method}"' if statement.method else ""
    if kind == "collation" and not statement.missing_ok:
        return UndefinedObject(f'collation "{name.name}" for encoding "UTF8" does not exist')
    return UndefinedObject(f'{kind} "{name.name}" does not exist{behind}')
