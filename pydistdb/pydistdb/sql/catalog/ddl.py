"""Executing schema statements: which module does which, and the command tag that comes back.

    tag = await execute(statement, DdlContext(ddl, "postgres", ("public",), context))

Every statement runs inside the session's transaction (transaction.py): what it changes is seen by this session at once,
by everybody at commit, by nobody after a rollback.
"""

from __future__ import annotations

from pydistdb.sql.catalog.alter_table import alter_table
from pydistdb.sql.catalog.alter_type import alter_type
from pydistdb.sql.catalog.analyze import vacuum
from pydistdb.sql.catalog.comments import comment
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.create_domain import create_domain
from pydistdb.sql.catalog.create_index import create_index
from pydistdb.sql.catalog.create_sequence import alter_sequence, create_sequence
from pydistdb.sql.catalog.create_table import create_table
from pydistdb.sql.catalog.create_table_as import create_table_as
from pydistdb.sql.catalog.create_type import create_type
from pydistdb.sql.catalog.drop import drop_objects
from pydistdb.sql.catalog.drop_absent import drop_absent
from pydistdb.sql.catalog.materialized_views import refresh_view
from pydistdb.sql.catalog.presplit import split_new_indexes
from pydistdb.sql.catalog.reindex import cluster, reindex
from pydistdb.sql.catalog.reshard import reshard
from pydistdb.sql.catalog.role_ddl import ROLE_EXECUTORS
from pydistdb.sql.catalog.routines import alter_routine, create_routine, drop_routines
from pydistdb.sql.catalog.schemas import (
    alter_schema,
    create_database,
    create_extension,
    create_schema,
    drop_database,
)
from pydistdb.sql.catalog.statistics_objects import alter_statistics, create_statistics
from pydistdb.sql.catalog.truncate import truncate
from pydistdb.sql.catalog.views import create_view
from pydistdb.sql.errors import FeatureNotSupported
from pydistdb.sql.schema_statements import (
    AlterSchema,
    AlterSequence,
    AlterStatistics,
    AlterTable,
    Cluster,
    Comment,
    CreateDatabase,
    CreateExtension,
    CreateIndex,
    CreateSchema,
    CreateSequence,
    CreateStatistics,
    CreateTable,
    CreateTableAs,
    CreateView,
    DropAbsent,
    DropDatabase,
    DropObjects,
    RefreshView,
    Reindex,
    Reshard,
    Truncate,
)
from pydistdb.sql.statements import Unsupported, Utility, Vacuum
from pydistdb.sql.type_statements import AlterRoutine, AlterType, CreateDomain, CreateRoutine, CreateType, DropRoutines

__all__ = ["DDL_STATEMENTS", "DdlContext", "execute"]

_EXECUTORS = {
    **ROLE_EXECUTORS,
    AlterRoutine: alter_routine,
    AlterSchema: alter_schema,
    AlterSequence: alter_sequence,
    AlterStatistics: alter_statistics,
    AlterTable: alter_table,
    AlterType: alter_type,
    Cluster: cluster,
    Comment: comment,
    CreateDatabase: create_database,
    CreateDomain: create_domain,
    CreateExtension: create_extension,
    CreateIndex: create_index,
    CreateRoutine: create_routine,
    CreateSchema: create_schema,
    CreateSequence: create_sequence,
    CreateStatistics: create_statistics,
    CreateTable: create_table,
    CreateTableAs: create_table_as,
    CreateType: create_type,
    CreateView: create_view,
    DropAbsent: drop_absent,
    DropDatabase: drop_database,
    DropObjects: drop_objects,
    DropRoutines: drop_routines,
    Reindex: reindex,
    Reshard: reshard,
    RefreshView: refresh_view,
    Truncate: truncate,
    Vacuum: vacuum,
}
DDL_STATEMENTS = tuple(_EXECUTORS)
"""The statement classes that ``execute`` takes."""


async def execute(statement: Utility, ddl: DdlContext) -> str:
    """Execute a schema statement; returns its command tag."""
    executor = _EXECUTORS.get(type(statement))
    if executor is None:
        what = statement.what if isinstance(statement, Unsupported) else type(statement).__name__
        raise FeatureNotSupported(f"{what} is not supported")
    tag: str = await ddl.ddl.statement(lambda: executor(ddl, statement))  # type: ignore[operator]
    if ddl.splits_new_tables:
        await split_new_indexes(ddl)
    return tag
