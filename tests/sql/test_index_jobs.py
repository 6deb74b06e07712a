"""CREATE INDEX CONCURRENTLY while others write: afterwards the index has exactly the entries that the rows call for."""

from __future__ import annotations

import random

import pytest
from pydistdb.sql.catalog import index_jobs
from pydistdb.sql.catalog.store import CatalogStore
from pydistdb.sql.exec.index_keys import bound_layout
from pydistdb.tasks import Completion, Task, sleep

from tests.sql.catalog_nodes import NodeDatabase, Nodes
from tests.support.memory_database import MemoryDatabase
from tests.support.sql_client import SqlClient, SqlServer, error_text

ROWS = 300
INDEXES = (
    "create index concurrently made on t (v)",
    "create unique index concurrently made on t (k)",
    "create unique index concurrently made on t (k) include (v, w)",
    "create index concurrently made on t (lower(v) desc, w) where w > 20",
    "create unique index concurrently made on t ((k * 2)) where w is not null",
    "create index concurrently made on t using gin ((array[k, w])) where w > 5",
)


def contents(
    database: MemoryDatabase, catalog: CatalogStore
) -> tuple[set[tuple[bytes, bytes]], set[tuple[bytes, bytes]]]:
    """What stands in the index ``made``, and what should."""
    view = catalog.view("postgres", ("public",))
    found = view.index_by_name("made")
    assert found is not None
    table, index = found
    layout = bound_layout(table, view)
    now = database.now()

    def stored(start: bytes, end: bytes) -> list[tuple[bytes, bytes]]:
        pairs = [(key, database.read(key, now)[0]) for key in database.versions.irange(start, end, (True, False))]
        return [(key, value) for key, value in pairs if value is not None]

    rows = stored(*layout.table_span()[:2])
    made = layout.by_storage_id[index.storage_id]
    wanted = [entry for key, value in rows for entry in layout.entries_in(made, layout.decode(value), key)]
    return (
        set(stored(*layout.index_span(index)[:2])),
        {(entry.key, entry.value) for entry in wanted},
    )


def start(client: SqlClient, text: str) -> Task[str]:
    """Run a statement beside others; its outcome is its last line."""

    async def run() -> str:
        client.sink.lines = []
        try:
            await client.session.simple_query(text, client.sink)
        except Exception as error:
            await client.session.failed(error)  # type: ignore[arg-type]
            return error_text(error)  # type: ignore[arg-type]
        return client.sink.lines[-1]

    return client.server.scheduler.spawn(run(), "statement")


def fill(client: SqlClient) -> None:
    client.execute("create table t (id int primary key, k int, v text, w int)")
    client.execute(f"insert into t select g, g, 'V' || (g % 7), g % 50 from generate_series(1, {ROWS}) g")


def some_change(generator: random.Random, number: int) -> str:
    row = generator.randrange(1, ROWS)
    return generator.choice(
        (
            f"insert into t values ({1000 + number}, {5000 + number}, 'new{number}', {number % 40})",
            f"update t set v = 'changed{number}' where id = {row}",
            f"update t set k = -k, w = null where id = {row}",
            f"update t set id = id + 100000 where id = {row}",
            f"delete from t where id = {row}",
            f"delete from t where id between {row} and {row + 3}",
            f"insert into t values ({row}, {row}, 'back', 30) on conflict (id) do update set v = 'again', w = 40",
            f"begin; update t set w = w + 1 where id < {row}; delete from t where id = {row + 1}; commit",
            f"begin; delete from t where id = {row}; insert into t values ({row}, {row}, 'same', 21); rollback",
        )
    )


@pytest.mark.parametrize("text", INDEXES)
@pytest.mark.parametrize("seed", range(4))
def test_writers_go_on_during_a_build(text: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_jobs, "CHUNK_ROWS", 8)
    monkeypatch.setattr(index_jobs, "pause", lambda scheduler: sleep(scheduler, generator.randrange(9_000_000)))
    generator = random.Random(seed)
    server = SqlServer()
    builder, writer = server.connect(), server.connect()
    fill(builder)
    changes = 0

    async def write() -> None:
        nonlocal changes
        while not building.completion.done:
            await start(writer, some_change(generator, changes)).completion
            changes += 1
            await sleep(server.scheduler, generator.randrange(9_000_000))

    building = start(builder, text)
    writing = server.scheduler.spawn(write(), "writer")
    assert server.scheduler.run_until(building.completion) == "CREATE INDEX"
    server.scheduler.run_until(writing.completion)
    assert changes > 10
    present, wanted = contents(server.database, server.catalog)
    assert present == wanted and len(present) > 50
    assert builder.rows("select indisvalid from pg_index where indexrelid = 'made'::regclass") == ["t"]
    server.scheduler.advance(20_000_000_000)
    left = list(server.database.versions.irange(b"\x03J", b"\x03K"))
    assert all(server.database.read(key, server.database.now())[0] is None for key in left)


def test_duplicates_leave_an_invalid_index_that_is_kept_up() -> None:
    server = SqlServer()
    client = server.connect()
    fill(client)
    client.execute("insert into t values (999, 1, 'twice', 1)")
    assert client.execute("create unique index concurrently made on t (k)") == [
        'ERROR: 23505: could not create unique index "made"; DETAIL: Key (k)=(1) is duplicated.'
    ]
    assert client.rows("select indisvalid, indisready from pg_index where indexrelid = 'made'::regclass") == ["f|t"]
    assert "Seq Scan" in client.execute("explain (costs off) select * from t where k = 5")[0]
    client.execute("insert into t values (1000, 7777, 'x', 1)")
    assert client.execute("insert into t values (1001, 7777, 'x', 1)")[0].startswith("ERROR: 23505")
    client.execute("delete from t where id = 999")
    client.execute("drop index made")
    assert client.execute("create unique index concurrently made on t (k)") == ["CREATE INDEX"]
    present, wanted = contents(server.database, server.catalog)
    assert present == wanted


def test_a_row_without_entry_takes_away_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a unique index is built: row 9 has no entry yet, another gets its key, and row 9 goes."""
    monkeypatch.setattr(index_jobs, "CHUNK_ROWS", 2)
    server = SqlServer()
    builder, writer = server.connect(), server.connect()
    builder.execute("create table t (id int primary key, k int, v text, w int)")
    builder.execute("insert into t select g, g, 'v', 1 from generate_series(1, 9) g")
    jobs = server.catalog.index_jobs
    chunk, hold, reached = jobs._chunk, Completion[None](), Completion[None]()

    async def held(job: object) -> object:
        if not reached.done and getattr(job, "rows_done", 0) >= 4:
            reached.set(None)
            await hold
        return await chunk(job)

    monkeypatch.setattr(jobs, "_chunk", held)
    building = start(builder, "create unique index concurrently made on t (k)")
    server.scheduler.run_until(reached)
    assert writer.rows("select phase, tuples_done from pg_stat_progress_create_index") == ["building index|4"]
    assert writer.execute("insert into t values (0, 9, 'v', 1)") == ["INSERT 0 1"]
    assert writer.execute("delete from t where id = 9") == ["DELETE 1"]
    assert writer.execute("update t set k = k + 100 where id > 6") == ["UPDATE 2"]
    assert writer.execute("insert into t values (10, 9, 'v', 1)")[0].startswith("ERROR: 23505")
    hold.set(None)
    assert server.scheduler.run_until(building.completion) == "CREATE INDEX"
    present, wanted = contents(server.database, server.catalog)
    assert present == wanted and len(present) == 9


def test_another_node_goes_on_where_the_builder_died(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_jobs, "CHUNK_ROWS", 16)
    nodes = Nodes(2)
    servers = [SqlServer(catalog=store) for store in nodes.stores]
    first, second = (server.connect() for server in servers)
    fill(first)
    jobs = nodes.stores[0].index_jobs
    chunk, dead, chunks = jobs._chunk, Completion[None](), 0

    async def dying(job: object) -> object:
        nonlocal chunks
        chunks += 1
        if chunks > 3:
            _die(nodes.databases[0])
            await dead
        return await chunk(job)

    monkeypatch.setattr(jobs, "_chunk", dying)
    start(first, "create index concurrently made on t (v)")
    nodes.scheduler.advance(1_000_000_000)
    assert chunks == 4
    second.execute("update t set v = 'meanwhile' where id % 3 = 0")
    assert second.rows("select indisvalid from pg_index where indexrelid = 'made'::regclass") == ["f"]
    nodes.scheduler.advance(index_jobs.TAKEOVER_NS + 3 * index_jobs.WATCH_INTERVAL_NS)
    assert second.rows("select indisvalid from pg_index where indexrelid = 'made'::regclass") == ["t"]
    present, wanted = contents(nodes.databases[1], nodes.stores[1])
    assert present == wanted and len(present) == ROWS


def _die(database: NodeDatabase) -> None:
    database.up = False
    database.handlers.clear()
