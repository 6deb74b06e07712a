"""The way from a session to a schema change, which catalog/ddl.py carries out in the session's transaction.

``change_schema`` refuses what this session may not change now: anything in a read-only transaction (but for maintenance), and
a table that a cursor of its own still reads.  ``ddl_context`` gives DDL what it needs to know of the session: its
transaction, its roles, where its notices go.

    BEGIN; DECLARE c CURSOR FOR SELECT * FROM t; DROP TABLE t        55006: cannot DROP TABLE "t" because it is being used
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pydistdb.sql import schema_statements
from pydistdb.sql import statements as st
from pydistdb.sql.api import Sink
from pydistdb.sql.catalog import ddl as schema
from pydistdb.sql.errors import ActiveTransaction, DatabaseError
from pydistdb.sql.plan_cache import CachedPlan

if TYPE_CHECKING:
    from pydistdb.sql.session.session import ClientSession


_USES = {
    schema_statements.AlterTable: "ALTER TABLE",
    schema_statements.CreateIndex: "CREATE INDEX",
    schema_statements.DropObjects: "DROP TABLE",
    schema_statements.Reshard: "ALTER TABLE",
    schema_statements.Truncate: "TRUNCATE",
}


_MAINTENANCE = (st.Vacuum, schema_statements.Reindex, schema_statements.Cluster)
"""What a read-only transaction may do, as in Postgres: unless it reads the past, where nothing can be written."""


def _check_not_in_use(session: ClientSession, utility: st.Utility) -> None:
    """Raise 55006 where a table is changed that an open cursor reads."""
    command = _USES.get(type(utility))
    if command is None or not session.cursors.tables:
        return
    match utility:
        case schema_statements.Truncate():
            names = utility.tables
        case schema_statements.AlterTable() | schema_statements.Reshard():
            names = (utility.name,)
        case schema_statements.CreateIndex():
            names = (utility.table,)
        case schema_statements.DropObjects(kind="table"):
            names = utility.names
        case _:
            return
    for name in names:
        relation = session.view().relation(name.name, name.schema)
        if relation is not None and relation.oid in session.cursors.tables:
            raise DatabaseError.of(
                "55006", f'cannot {command} "{name.name}" because it is being used by active queries in this session'
            )


async def change_schema(session: ClientSession, plan: CachedPlan, utility: st.Utility, sink: Sink) -> str:
    """DDL, within the transaction."""
    block = session.transaction
    block.open()
    if not isinstance(utility, _MAINTENANCE) or block.reader is not None:
        block.check_writable(plan.kind)
    _check_not_in_use(session, utility)
    context = ddl_context(session, lambda notice, severity="NOTICE": session.send_notice(sink, notice, severity))
    try:
        tag = await schema.execute(utility, context)
    except ActiveTransaction as error:
        command, inside, _ = error.message.partition(" cannot run inside")
        raise (block.refusal(command) if inside else error) from None
    block.statements += 1
    return tag


def commits_at_once(utility: st.Utility) -> bool:
    """A command that is a transaction of its own, even where more of a batch follows."""
    match utility:
        case schema_statements.CreateDatabase() | schema_statements.DropDatabase():
            return True
        case st.Vacuum():
            return utility.vacuum
    return False


def ddl_context(session: ClientSession, notice: Callable[..., None]) -> schema.DdlContext:
    """What a schema change of this session works with."""
    block = session.transaction
    ddl = block.open_ddl()
    ddl.lock_deadline_ns = session.lock_deadline_ns()
    ddl.check_interrupt = session.check_interrupt
    ddl.is_first_statement = block.statements == 0
    block.open().begin_statement(block.least_timestamp)
    return schema.DdlContext(
        ddl,
        session.database_name,
        session.search_path,
        session.context,
        notice,
        block.refuses_alone,
        session.temporary,
        session.checks.concerns,
        session.identity.current,
        session.identity.session,
        session.settings.values["pydistdb.split_new_tables"] == "on",
    )
