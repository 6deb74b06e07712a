"""ALTER TABLE … SHARD BY while others write: afterwards the new storage has what the rows call for, no more and no less."""

from __future__ import annotations

import random

import pytest
from pydistdb.kv.api import Isolation, ReadRestart, ScanBatch
from pydistdb.sql.catalog import index_jobs, reshard_jobs
from pydistdb.sql.catalog.store import CatalogStore
from pydistdb.sql.exec.index_keys import bound_layout
from pydistdb.tasks import Completion, sleep

from tests.sql.catalog_nodes import Nodes
from tests.sql.test_index_jobs import _die, some_change, start
from tests.support.memory_database import MemoryDatabase, MemoryPastReader, MemoryTransaction
from tests.support.sql_client import SqlClient, SqlServer

ROWS = 100
LISTED = "shard by list (w) (shard few values (1, 2, 3), shard rest default)"
CLAUSES = (
    ("", "shard by hash (id)"),
    ("", "shard by hash (v, k) shards 5"),
    ("", "shard by range (w) (split at values (10, 20, 30))"),
    ("shard by hash (id)", LISTED),
    (LISTED, "shard by directory (k) shards 3"),
    ("shard by range (k) (split at values (50))", "shard by none"),
    ("shard by hash (v)", "shard by reference"),
)


def fill(client: SqlClient, clause: str, name: str = "t") -> None:
    client.execute(f"create table {name} (id int primary key, k int unique, v text, w int) {clause}")
    client.execute(f"create index on {name} (lower(v)) where w > 5")
    client.execute(f"create index on {name} using gin ((array[k, w]))")
    client.execute(f"create index on {name} (w)")
    client.execute(f"insert into {name} select g, g, 'V' || (g % 7), g % 50 from generate_series(1, {ROWS}) g")


def stored(database: MemoryDatabase, start_key: bytes, end: bytes) -> dict[bytes, bytes]:
    now = database.now()
    pairs = [(key, database.read(key, now)[0]) for key in database.versions.irange(start_key, end, (True, False))]
    return {key: value for key, value in pairs if value is not None}


def check_storage(database: MemoryDatabase, catalog: CatalogStore, name: str = "t") -> int:
    """Rows and entries are those that the descriptor calls for, and no other storage is left; returns how many rows."""
    view = catalog.view("postgres", ("public",))
    table = view.relation(name, None)
    assert table is not None
    layout = bound_layout(table, view)
    everything = stored(database, b"\x04", b"\x07")
    span = layout.table_span()
    rows = {
        key: value
        for key, value in everything.items()
        if span.start <= key < span.end and (span.identity is None or key[7:13] == span.identity)
    }
    wanted = set(rows)
    for key, value in rows.items():
        row = layout.decode(value)
        assert key == layout.head_of_row(layout.primary, row) + layout.primary_suffix(key)
        wanted |= {entry.key for entry in layout.entries(row, key)}
    assert set(everything) == wanted
    return len(rows)


@pytest.mark.parametrize(("before", "after"), CLAUSES)
@pytest.mark.parametrize("seed", range(1))
def test_writers_go_on_meanwhile(before: str, after: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reshard_jobs, "COPY_ROWS", 8)
    monkeypatch.setattr(reshard_jobs, "VERIFY_ROWS", 16)
    monkeypatch.setattr(reshard_jobs, "pause", lambda scheduler: sleep(scheduler, generator.randrange(9_000_000)))
    generator = random.Random(seed)
    server = SqlServer()
    client, writer = server.connect(), server.connect()
    fill(client, before)
    model: list[str] = []
    changes = 0

    async def write() -> None:
        nonlocal changes
        while not altering.completion.done:
            change = some_change(generator, changes)
            outcome = await start(writer, change).completion
            if outcome.startswith("ERROR"):
                assert "23505" in outcome, (change, outcome)
                await start(writer, "rollback").completion
            else:
                model.append(change)
            changes += 1
            await sleep(server.scheduler, generator.randrange(9_000_000))

    altering = start(client, f"alter table t {after}")
    writing = server.scheduler.spawn(write(), "writer")
    assert server.scheduler.run_until(altering.completion) == "ALTER TABLE"
    server.scheduler.run_until(writing.completion)
    assert changes > 10
    server.scheduler.advance(20_000_000_000)
    assert check_storage(server.database, server.catalog) == int(client.rows("select count(*) from t")[0])
    assert not list(stored(server.database, b"\x03J", b"\x03K")), "the job's record is gone"
    seen = client.rows("select * from t order by id")
    # The same changes, one after the other, of a table that stays as it is.
    client.execute("drop table t")
    fill(client, "")
    for change in model:
        client.execute(change)
    assert client.rows("select * from t order by id") == seen
    client.execute("drop table t")


def test_writes_in_the_window_of_uncertainty_do_not_keep_it_from_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where old and new rows are led by two other nodes, and change all the time."""
    monkeypatch.setattr(reshard_jobs, "COPY_ROWS", 16)
    monkeypatch.setattr(reshard_jobs, "VERIFY_ROWS", 16)
    monkeypatch.setattr(reshard_jobs, "pause", lambda scheduler: sleep(scheduler, 10_000_000))
    begin_statement, scan = MemoryTransaction.begin_statement, MemoryTransaction.scan

    def begin(self: MemoryTransaction, at_least: int = 0) -> None:
        before = self.read_timestamp
        begin_statement(self, at_least)
        if self.read_timestamp != before and not at_least:
            self.__dict__["first_asked"] = {}

    async def uncertain_scan(
        self: MemoryTransaction,
        start_key: bytes,
        end: bytes,
        *,
        limit: int,
        reverse: bool = False,
        picks: object = None,
    ) -> ScanBatch:
        """Fails for what was written after the snapshot and before the leader of such keys was first asked."""
        found = await scan(self, start_key, end, limit=limit, reverse=reverse)
        database = self.database
        asked = self.__dict__.setdefault("first_asked", {}).setdefault(start_key[:1], database.clock)
        for key in found.keys if not isinstance(self, MemoryPastReader) else ():
            newest = database.read(key, database.clock)[1]
            if self.read_timestamp < newest <= asked:
                raise ReadRestart(newest)
        return found

    monkeypatch.setattr(MemoryTransaction, "begin_statement", begin)
    monkeypatch.setattr(MemoryTransaction, "scan", uncertain_scan)
    server = SqlServer()
    client, writer = server.connect(), server.connect()
    fill(client, "")

    async def write() -> None:
        while not altering.completion.done:
            assert await start(writer, "update t set w = w + 1").completion == f"UPDATE {ROWS}"
            await sleep(server.scheduler, 5_000_000)

    altering = start(client, "alter table t shard by hash (k)")
    server.scheduler.spawn(write(), "writer")
    server.scheduler.advance(3_000_000_000)
    assert altering.completion.done and altering.completion.result() == "ALTER TABLE"
    server.scheduler.advance(20_000_000_000)
    assert check_storage(server.database, server.catalog) == ROWS


def test_a_value_without_a_shard_undoes_it_and_is_refused_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    server = SqlServer()
    client = server.connect()
    fill(client, "")
    assert client.execute("alter table t shard by list (w) (shard few values (1, 2))") == [
        'ERROR: 23514: no shard of relation "t" found for row; DETAIL: Shard key of the failing row contains (w) = (3).'
    ]
    server.scheduler.advance(20_000_000_000)
    assert check_storage(server.database, server.catalog) == ROWS
    assert client.execute("alter table t shard by hash (id)") == ["ALTER TABLE"]


@pytest.mark.parametrize("phase", ["_copy_chunk", "_verify", "_cut_over"])
def test_it_can_be_undone_until_the_cutover(phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reshard_jobs, "COPY_ROWS", 16)
    server = SqlServer()
    client, other = server.connect(), server.connect()
    fill(client, "")
    jobs = server.catalog.index_jobs
    step, hold, reached = getattr(jobs, phase), Completion[None](), Completion[None]()

    async def held(job: object) -> object:
        if not reached.done:
            reached.set(None)
            await hold
        return await step(job)

    monkeypatch.setattr(jobs, phase, held)
    altering = start(client, "alter table t shard by hash (k)")
    server.scheduler.run_until(reached)
    assert other.execute("alter table t add column x int")[0].startswith("ERROR: 55006: cannot change table")
    assert other.execute("create index on t (k, v)")[0].startswith("ERROR: 55006")
    assert other.execute("truncate t")[0].startswith("ERROR: 55006")
    assert other.execute("alter table t shard by none")[0].startswith('ERROR: 55006: table "t" is being re-sharded')
    assert other.execute("update t set v = 'x' where id = 7") == ["UPDATE 1"]
    assert other.rows("select kind, subject from proddb.jobs") == ["re-shard|t"]
    assert other.rows("select proddb.reshard_cancel('t')") == ["t"]
    hold.set(None)
    assert "57014" in server.scheduler.run_until(altering.completion)
    server.scheduler.advance(20_000_000_000)
    assert check_storage(server.database, server.catalog) == ROWS
    assert other.rows("select proddb.reshard_cancel('t')") == ["f"]
    assert other.execute("alter table t add column x int") == ["ALTER TABLE"]


def test_a_table_that_is_dropped_meanwhile_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reshard_jobs, "COPY_ROWS", 16)
    server = SqlServer()
    client, other = server.connect(), server.connect()
    fill(client, "")
    jobs = server.catalog.index_jobs
    step, hold, reached = jobs._verify, Completion[None](), Completion[None]()

    async def held(job: object) -> object:
        reached.set(None)
        await hold
        return await step(job)

    monkeypatch.setattr(jobs, "_verify", held)
    altering = start(client, "alter table t shard by hash (k)")
    server.scheduler.run_until(reached)
    assert other.execute("drop table t") == ["DROP TABLE"]
    hold.set(None)
    server.scheduler.run_until(altering.completion)
    server.scheduler.advance(20_000_000_000)
    assert not stored(server.database, b"\x03J", b"\x03K") and not stored(server.database, b"\x04", b"\x07")


def test_the_old_layout_is_cleared_afterwards_and_that_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from pydistdb.sql.catalog import garbage

    hold, clear = Completion[None](), garbage.clear_garbage

    async def held(*arguments: object) -> bool:
        await hold
        return await clear(*arguments)  # type: ignore[arg-type]

    server = SqlServer()
    client = server.connect()
    fill(client, "")
    monkeypatch.setattr(garbage, "clear_garbage", held)
    assert client.execute("alter table t shard by hash (id)") == ["ALTER TABLE"]
    assert client.rows("select kind, state from proddb.jobs") == ["clear storage|cleaning up"]
    hold.set(None)
    server.scheduler.advance(20_000_000_000)
    assert client.rows("select count(*) from proddb.jobs") == ["0"]
    assert check_storage(server.database, server.catalog) == ROWS


def test_a_copy_that_differs_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    server = SqlServer()
    client = server.connect()
    fill(client, "")
    jobs = server.catalog.index_jobs
    verify = jobs._verify

    async def spoiled(job: object) -> object:
        table = server.catalog.view("postgres", ("public",)).relation("t", None)
        assert table is not None and table.resharding is not None
        storage = table.resharding.storage_id.to_bytes(4, "big")
        key = next(key for key in stored(server.database, b"\x05", b"\x06") if key[7:11] == storage)
        transaction = server.database.begin(Isolation.READ_COMMITTED)
        transaction.begin_statement()
        transaction.put(key, b"\x90")
        await transaction.commit()
        return await verify(job)

    monkeypatch.setattr(jobs, "_verify", spoiled)
    assert client.execute("alter table t shard by hash (id)")[0].startswith("ERROR: XX001: the re-sharded copy differs")
    server.scheduler.advance(20_000_000_000)
    assert check_storage(server.database, server.catalog) == ROWS


@pytest.mark.parametrize("phase", ["_drain", "_copy_chunk", "_verify", "_cut_over", "_give_up"])
def test_another_node_goes_on_where_the_first_died(phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reshard_jobs, "COPY_ROWS", 16)
    nodes = Nodes(2)
    servers = [SqlServer(catalog=store) for store in nodes.stores]
    first, second = (server.connect() for server in servers)
    fill(first, "")
    jobs = nodes.stores[0].index_jobs
    step, calls, forever = getattr(jobs, phase), 0, Completion[None]()

    async def dying(job: object) -> object:
        nonlocal calls
        calls += 1
        if calls == (3 if phase == "_copy_chunk" else 1):
            _die(nodes.databases[0])
            await forever
        return await step(job)

    monkeypatch.setattr(jobs, phase, dying)
    undone = phase == "_give_up"
    clause = "list (w) (shard a values (1))" if undone else "hash (k)"
    start(first, f"alter table t shard by {clause}")
    nodes.scheduler.advance(3_000_000_000)
    assert calls
    if undone:
        assert second.execute("insert into t values (0, 0, 'new', 2)")[0].startswith("ERROR: 23514")
        second.execute("insert into t values (9000, 9000, 'new', 1)")
    else:
        assert second.execute("update t set v = 'meanwhile' where id % 3 = 0") == ["UPDATE 33"]
        assert second.execute("insert into t values (9000, 9000, 'new', 1)") == ["INSERT 0 1"]
    nodes.scheduler.advance(index_jobs.TAKEOVER_NS + 6 * index_jobs.WATCH_INTERVAL_NS)
    assert second.rows("select reloptions from pg_class where relname = 't'") == [
        "NULL" if undone else '{"shard_by=HASH (k)"}'
    ]
    nodes.scheduler.advance(30_000_000_000)
    if not undone:
        assert second.rows("select count(*), sum(k) from t where v = 'meanwhile'") == ["33|1683"]
    assert check_storage(nodes.databases[1], nodes.stores[1]) == ROWS + 1
