"""Executing schema statements: which module does which, and the command tag that comes back.

    tag = await execute(statement, DdlContext(ddl, "postgres", ("public",), context))

Every statement runs inside the session's transaction (transaction.py): what it changes is seen by this session at once,
by everybody at commit, by nobody after a rollback.
"""

from __future__ import annotations

from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.create_index import create_index
from pydistdb.sql.catalog.create_table import create_table
from pydistdb.sql.catalog.drop import drop_objects
from pydistdb.sql.errors import FeatureNotSupported
from pydistdb.sql.statements import CreateIndex, CreateTable, DropObjects, Unsupported, Utility

__all__ = ["DdlContext", "execute"]


async def execute(statement: Utility, ddl: DdlContext) -> str:
    """Execute a schema statement; returns its command tag."""
    match statement:
        case CreateTable():
            return await create_table(ddl, statement)
        case CreateIndex():
            return await create_index(ddl, statement)
        case DropObjects():
            return await drop_objects(ddl, statement)
        case Unsupported():
            raise FeatureNotSupported(f"{statement.what} is not supported")
        case _:
            raise FeatureNotSupported(f"{type(statement).__name__} is not supported")
