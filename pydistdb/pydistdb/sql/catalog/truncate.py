"""TRUNCATE: the table gets new, empty storage; the old is cleared after the commit.

Like Postgres's, it is transactional, and not visible to snapshots as such: a transaction with an older snapshot has to be
retried (gate.py).  RESTART IDENTITY gives the owned sequences new storage in the same way.
"""

from __future__ import annotations

from pydistdb.sql.catalog.access import PG_CLASS
from pydistdb.sql.catalog.acl import TRUNCATE
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.catalog.drop_plan import owned_sequences
from pydistdb.sql.catalog.rewrite import with_new_storage
from pydistdb.sql.errors import FeatureNotSupported
from pydistdb.sql.schema_statements import Truncate


async def truncate(ddl: DdlContext, statement: Truncate) -> str:
    tables: dict[int, Table] = {}
    for name in statement.tables:
        table = ddl.table(name)
        _check_privilege(ddl, table)
        tables[table.oid] = table
    todo = list(tables.values())
    while todo:
        table = todo.pop(0)
        for oid in table.referenced_by:
            other = ddl.view.state.tables.get(oid)
            if other is None or oid in tables:
                continue
            if not statement.cascade:
                raise FeatureNotSupported(
                    "cannot truncate a table referenced in a foreign key constraint",
                    detail=f'Table "{other.name}" references "{table.name}".',
                    hint=f'Truncate table "{other.name}" at the same time, or use TRUNCATE ... CASCADE.',
                )
            ddl.tell(f'truncate cascades to table "{other.name}"')
            _check_privilege(ddl, other)
            tables[oid] = other
            todo.append(other)
    for table in tables.values():
        ddl.check_not_in_use(table, "TRUNCATE")
    await ddl.ddl.lock_tables(tables)
    for oid in tables:
        ddl.put_table(await with_new_storage(ddl, ddl.view.state.tables[oid]))
        if statement.restart_identity:
            for sequence in owned_sequences(ddl, oid):
                ddl.put_table(await with_new_storage(ddl, sequence))
    return "TRUNCATE TABLE"


def _check_privilege(ddl: DdlContext, table: Table) -> None:
    ddl.require(PG_CLASS, table.oid, TRUNCATE, "table", table.name)
