"""Temporary tables, views and sequences: a schema of the session's own, dropped when the session ends.

The first temporary object of a session makes the schema ``pg_temp_N`` (N: its process id, which no other session of the
cluster has); names are looked up there first, so a temporary table hides a permanent one of its name::

    CREATE TEMP TABLE t (a int)        ->  Schema pg_temp_17 (session: node 2, process 17), Table t in it
    SELECT * FROM t, public.t          ->  pg_temp_17.t and the permanent one
    (the session ends)                 ->  DROP SCHEMA pg_temp_17 CASCADE, in the background

Descriptors and rows are stored as those of other tables are, so that schema changes in transactions, savepoints and
dependencies need nothing of their own.  Nobody else takes names in such a schema, so making a temporary table waits for
nobody and keeps nobody waiting (claims.py).  What a session could not drop itself is found by its schema's ``session``: a
node that starts drops the schemas of its former life, and every node looks now and then for schemas whose owner the
cluster counts as dead, or whose owner no longer knows the session (``Sweeper``).  It looks, too, for storage of dropped
tables that nobody clears any more.

ON COMMIT DELETE ROWS and DROP are carried out inside the transaction, right before it commits.

Source: PostgreSQL 15 manual, CREATE TABLE and 20.11.1 (search_path); namespace.c.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import msgspec

from pydistdb.kv.api import KVError, Transaction
from pydistdb.sql.catalog import keys
from pydistdb.sql.catalog.access import PG_DATABASE
from pydistdb.sql.catalog.acl import TEMPORARY
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.descriptors import Garbage, Schema, Table
from pydistdb.sql.catalog.drop_plan import drop_tables
from pydistdb.sql.catalog.garbage import forget_garbage, recorded_garbage, table_garbage
from pydistdb.sql.catalog.state import CatalogState
from pydistdb.sql.catalog.store import CatalogStore
from pydistdb.sql.catalog.transaction import DdlTransaction, in_own_transaction
from pydistdb.sql.errors import DatabaseError, InsufficientPrivilege, InvalidTableDefinition
from pydistdb.sql.statements import Name
from pydistdb.sql.types.base import EvalContext

TEMPORARY_TOPIC = "catalog.temporary"
ANSWER_TIMEOUT_NS = 2_000_000_000
SWEEP_INTERVAL_NS = 20_000_000_000
SCAN_ROWS = 1_024
PREFIX = "pg_temp_"


@dataclass(slots=True, eq=False)
class TemporaryObjects:
    """What a session knows of its temporary schema.  ``changed`` is told when it gets one."""

    node_id: int
    process_id: int
    changed: Callable[[], None]
    schema_name: str = ""
    has_commit_actions: bool = False
    """Whether a table ON COMMIT DELETE ROWS or DROP was ever made: commits look for them only then."""


async def place(ddl: DdlContext, name: Name, temporary: bool) -> Schema:
    """The schema that a CREATE [TEMPORARY] of ``name`` puts its object into."""
    own = ddl.temporary.schema_name if ddl.temporary is not None else ""
    if name.schema is not None:
        if name.schema == "pg_temp" or (own and name.schema == own):
            return await own_schema(ddl)
        if temporary:
            raise InvalidTableDefinition(
                "cannot create temporary relation in non-temporary schema", position=name.position
            )
        if is_temporary(ddl.schema(name.schema, name.position)):
            raise InvalidTableDefinition(
                "cannot create relations in temporary schemas of other sessions", position=name.position
            )
        return ddl.target_schema(name)
    if temporary or ddl.view.creates_temporary:
        return await own_schema(ddl)
    return ddl.target_schema(name)


def is_temporary(schema: Schema) -> bool:
    return bool(schema.session)


def has_temporary(ddl: DdlContext, tables: Iterable[Table]) -> bool:
    return any(table.persistence == "t" for table in tables)


async def own_schema(ddl: DdlContext) -> Schema:
    """The session's temporary schema, made if need be."""
    temporary = ddl.temporary
    if temporary is None:
        raise DatabaseError.of("0A000", "temporary objects need a session")
    role = ddl.view.role
    if role is not None and ddl.view.access.missing(role, PG_DATABASE, ddl.database_oid, TEMPORARY):
        raise InsufficientPrivilege(f'permission denied to create temporary tables in database "{ddl.database_name}"')
    found = ddl.view.state.schemas_by_name.get(temporary.schema_name)
    if found is not None:
        return found
    taken = ddl.view.state.schemas_by_name
    number = temporary.process_id
    while f"{PREFIX}{number}" in taken:  # of an earlier session with this number, which has not been dropped yet
        number += 1
    name = f"{PREFIX}{number}"
    oid = await ddl.store.allocate_oids()
    schema = Schema(oid, name, ddl.database_oid, session=(temporary.node_id, temporary.process_id))
    temporary.schema_name = name
    ddl.forget_view()
    ddl.apply([(keys.schema_key(ddl.database_oid, oid), schema)])
    temporary.changed()
    return schema


def note_commit_action(ddl: DdlContext, table: Table) -> None:
    if table.on_commit and ddl.temporary is not None:
        ddl.temporary.has_commit_actions = True


# ---------------------------------------------------------------------------------------------------- commit


def tables_with_action(state: CatalogState, database: str, schema_name: str) -> list[Table]:
    """The session's tables that a commit empties or drops."""
    found = state.databases_by_name.get(database)
    schema = None if found is None else found.schemas_by_name.get(schema_name)
    if found is None or schema is None:
        return []
    return [table for table in found.tables.values() if table.on_commit and table.schema == schema.oid]


async def delete_rows(transaction: Transaction, table: Table) -> None:
    """Delete everything stored for a table: nobody else can know its keys."""
    for garbage in table_garbage(table):
        for start, end in garbage.spans:
            position: bytes | None = start
            while position is not None:
                batch = await transaction.scan(position, end, limit=SCAN_ROWS)
                for key in batch.keys:
                    transaction.delete(key)
                position = batch.resume


# ---------------------------------------------------------------------------------------------------- the end


async def drop_everything(ddl: DdlContext, schema: Schema, *, keep_schema: bool) -> None:
    """Drop all objects of a temporary schema, and what depends on them."""
    from pydistdb.sql.catalog import drop_type

    state = ddl.view.state
    members = [table for table in ddl.view.tables() if table.schema == schema.oid]
    await drop_tables(ddl, members, [each for each in state.routines.values() if each.schema == schema.oid])
    types = {oid: entry for oid, entry in state.types.items() if entry.definition.schema == schema.oid}
    if types:
        await drop_type.carry_out(ddl, *drop_type.collect(ddl, types))
    if not keep_schema:
        ddl.apply([(keys.schema_key(schema.database, schema.oid), None)])


async def drop_schema(store: CatalogStore, database_oid: int, schema_oid: int) -> None:
    """Drop a temporary schema in a transaction of its own, if it is still there."""

    async def drop(ddl: DdlTransaction) -> None:
        database = ddl.overlay.state.databases.get(database_oid)
        schema = None if database is None else database.schemas.get(schema_oid)
        if database is not None and schema is not None:
            context = DdlContext(ddl, database.descriptor.name, (), EvalContext())
            await drop_everything(context, schema, keep_schema=False)

    await in_own_transaction(store, drop)


async def drop_schemas(store: CatalogStore, schemas: Iterable[tuple[int, int]]) -> None:
    """Drop temporary schemas (database and schema oid each); what fails is left to the next sweep."""
    for database_oid, schema_oid in schemas:
        try:
            await drop_schema(store, database_oid, schema_oid)
        except (KVError, DatabaseError):
            return


def temporary_schemas(state: CatalogState) -> list[tuple[int, Schema]]:
    """Every temporary schema of the cluster with its database."""
    return [
        (oid, schema)
        for oid, database in state.databases.items()
        for schema in database.schemas.values()
        if schema.session
    ]


class Sweeper:
    """Drops the temporary schemas of sessions that are no more.  ``live`` lists this node's (database, name) pairs."""

    def __init__(self, store: CatalogStore, live: Callable[[], Iterable[tuple[str, str]]]) -> None:
        self._store = store
        self._live = live
        self._running = False
        self._garbage: set[int] = set()
        """The pieces of dropped storage that were recorded when last looked at."""
        self._clean_version = -1
        """A version of the catalog at which none was; whatever drops storage makes another version."""
        store.database.on_broadcast(TEMPORARY_TOPIC, self._on_question)

    def start(self) -> None:
        """Drop what an earlier process of this node left; then look for others' leftovers now and then."""
        if self._running:
            return
        self._running = True
        store = self._store
        node_id = store.database.node_id
        left = [(oid, s.oid) for oid, s in temporary_schemas(store.state) if s.session[0] == node_id]
        if left:
            store.scheduler.spawn(drop_schemas(store, left), "drop temporary schemas")
        self._schedule()

    def stop(self) -> None:
        self._running = False

    def _schedule(self) -> None:
        scheduler = self._store.scheduler
        scheduler.call_at(scheduler.now_ns() + SWEEP_INTERVAL_NS, self._tick)

    def _tick(self) -> None:
        if not self._running:
            return
        if temporary_schemas(self._store.state) or self._store.version != self._clean_version:
            self._store.scheduler.spawn(self._sweep_and_go_on(), "sweep temporary schemas")
        else:
            self._schedule()

    async def _sweep_and_go_on(self) -> None:
        try:
            await self.sweep(await self._abandoned_garbage())
        except KVError:
            pass
        finally:
            self._schedule()

    async def _abandoned_garbage(self) -> list[tuple[int, Garbage]]:
        """What was recorded a look ago already: most likely the node that dropped it is gone."""
        store = self._store
        version = store.version
        if version == self._clean_version:
            return []
        recorded, before = await recorded_garbage(store.database), self._garbage
        self._garbage = {number for number, _ in recorded}
        if not recorded:
            self._clean_version = version
        return [(number, garbage) for number, garbage in recorded if number in before]

    async def sweep(self, abandoned: Sequence[tuple[int, Garbage]] = ()) -> None:
        """One look; the node with the lowest number among the living does it."""
        store = self._store
        candidates = temporary_schemas(store.state)
        if not candidates and not abandoned:
            return
        answers = await store.database.broadcast(TEMPORARY_TOPIC, b"", ANSWER_TIMEOUT_NS)
        if store.database.node_id != min(answers):
            return
        in_use: set[tuple[int, str, str]] = set()
        for node, answer in answers.items():
            if answer is not None:
                in_use.update((node, database, name) for database, name in msgspec.msgpack.decode(answer))
        names = {oid: database.descriptor.name for oid, database in store.state.databases.items()}
        gone = []
        for database_oid, schema in candidates:
            node = schema.session[0]
            silent = node in answers and answers[node] is None
            if not silent and (node, names.get(database_oid, ""), schema.name) not in in_use:
                gone.append((database_oid, schema.oid))
        await drop_schemas(store, gone)
        for number, garbage in abandoned:
            await forget_garbage(store.database, store.scheduler, number, garbage)

    async def _on_question(self, sender: int, payload: bytes) -> bytes:
        return msgspec.msgpack.encode(list(self._live()))
