"""ALTER TABLE … SHARD BY: what the table is to become.  Getting there is a job (reshard_jobs.py).

The primary index stays the first; other indexes are local or global as the new shard columns allow, and a primary key that
lacks them gets its hidden guard (constraints.py).
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from pydistdb.sql.catalog.constraints import guard_primary_key
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.descriptors import Index, Table
from pydistdb.sql.catalog.sharding import shard
from pydistdb.sql.errors import ActiveTransaction, FeatureNotSupported, ObjectInUse
from pydistdb.sql.schema_statements import Reshard, ShardBy


async def reshard(ddl: DdlContext, statement: Reshard) -> str:
    """The executor of ALTER TABLE … SHARD BY."""
    if ddl.in_transaction_block:
        raise ActiveTransaction("ALTER TABLE ... SHARD BY cannot run inside a transaction block")
    table = ddl.find(statement.name)
    if table is None and statement.missing_ok:
        ddl.tell(f'relation "{statement.name.name}" does not exist, skipping')
        return "ALTER TABLE"
    table = ddl.table(statement.name)
    ddl.require_table_owner(table)
    jobs: Any = ddl.store.index_jobs
    if table.persistence == "t" or jobs is None:
        raise FeatureNotSupported("temporary tables cannot be sharded")
    await jobs.reshard(ddl, statement, getattr(ddl.context.extra, "process_id", 0))
    return "ALTER TABLE"


def check_ready(table: Table) -> None:
    if table.resharding is not None:
        raise ObjectInUse(f'table "{table.name}" is being re-sharded already')
    if any(index.state in ("d", "w", "i") for index in table.indexes):
        raise ObjectInUse(f'table "{table.name}" has an index that is being built, or is invalid')


async def table_to_become(own: DdlContext, table: Table, shard_by: ShardBy) -> Table:
    """The table under the clause, with storage of its own that has no rows yet."""
    first = table.indexes[0]
    # The guard of a primary key without the shard columns is made anew where it is needed.
    visible = tuple(index for index in table.indexes if index is first or index.oid)
    storage_id = await own.store.allocate_oids()
    draft = replace(
        table, storage_id=storage_id, sharding=None, reference=False, indexes=visible, version=table.version + 1
    )
    draft = await shard(own, draft, shard_by)
    return await guard_primary_key(
        own, replace(draft, indexes=tuple(_placed(index, draft, index is first) for index in visible))
    )


def _placed(index: Index, table: Table, is_first: bool) -> Index:
    """An index as the table's sharding has it: local, unless that would let a key come twice."""
    sharding = table.sharding
    if sharding is None or index.is_inverted:
        return replace(index, is_global=True)
    if is_first:
        return replace(index, is_global=False)
    told = {column.column for column in index.columns}.issuperset(sharding.columns)
    return replace(index, is_global=index.unique and not told)
