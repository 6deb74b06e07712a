"""Queries that outgrow their memory: the same rows, an error of their own, and nothing left behind, however they end."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydistdb.sql.errors import QueryCanceled
from pydistdb.sql.exec import run as run_module
from pydistdb.sql.exec import sort as sort_module
from pydistdb.sql.exec.run import BATCH_ROWS, State
from pydistdb.sql.exec.sort import Sorter
from pydistdb.sql.resources import NodeResources

from tests.support.sql_client import SqlClient, SqlServer

ROWS = 3_000
SORTED = [
    "select * from a order by s desc, id",
    "select id, w from a order by s, id limit 1500 offset 700",
    "select id, repeat(w, 50) r from a order by r, id limit 40",
    "select * from a order by g, s, id",
    "select id, g, w from a order by g desc nulls last, w desc limit 20",
    "select id, g, w from a order by nullif(g, 3) nulls first, w, id limit 30 offset 5",
    "select id, sum(id) over (partition by g order by s, id) from a order by g, s, id",
    "select distinct on (s) s, id from a order by s, id desc",
    "select distinct on (w) w, id from a order by w, id",
]
UNSORTED = [
    "select g, count(*), sum(id), array_agg(s order by id) from a group by g",
    "select w, count(*), min(id) from a group by w",
    "select w, count(*), sum(id) from a group by grouping sets ((w), (s, g), ())",
    "select g, string_agg(w, ',' order by id), array_agg(id) from a group by g",
    "select g, count(distinct w), array_agg(distinct s) from a group by g",
    "select count(distinct w), count(distinct (g, s)), string_agg(distinct w, '' order by w desc) from a",
    "select string_agg(w, ',' order by w, id), count(*), array_agg(id) from a",
    "select percentile_disc(0.3) within group (order by w), mode() within group (order by s) from a",
    "select rank('w5') within group (order by w) from a",
    "select distinct s, w from a",
    "select a.id, b.id from a join b on a.w = b.w and a.id < b.id",
    "select a.id, b.id from a left join b on a.w = b.w and b.g = 3",
    "select a.id, b.id from a full join b on a.w = b.w",
    "select id from a where w in (select w from b where g < 5)",
    "select id from a where w not in (select w from b where w is not null)",
    "select id from a where w not in (select w from b)",
    "select s, g, w from a intersect select s, g, w from b",
    "select s, g, w from a except select s, g, w from b",
    "select w from a except all select w from b",
    "select w from a union select w from b",
    "with x as materialized (select * from a) select count(*), sum(p.id) from x p, x q where p.id = q.id",
    "with recursive x(n) as (select 1 union select n + 1 from x where n < 3000) select count(*), sum(n) from x",
    "select id, rank() over (partition by g order by s), lag(w) over (order by id), sum(id) over () from a",
    "select id, count(*) filter (where g > 3) over (order by id rows 3 preceding), ntile(7) over (order by w, id) from a",
    "select id, first_value(w) over x, last_value(s) over x, nth_value(id, 3) over x, array_agg(id) over x from a"
    " window x as (partition by g order by w rows between 3 preceding and 2 following exclude current row)",
    "select id, lead(s, g, w) over (order by id), cume_dist() over (order by g), percent_rank() over (order by s) from a",
    "select id, sum(g) over (order by id range between 40 preceding and 700 following exclude ties) from a",
    "select id, count(w) over (order by g desc range between 2 preceding and current row exclude group) from a",
    "select id, min(w) over (order by g groups between 1 following and 2 following), dense_rank() over (order by g) from a",
    "select id, sum(id) over (order by g range between 5 following and 2 following), row_number() over (order by id) from a",
    "select id, count(*) over (), last_value(id) over (partition by g order by id) from a",
    "select a.id, b.id from a join b on a.id + 1 < b.id and b.id < 8",
    "select id, (select array_agg(w) from b where b.g = a.g and b.id < 100) from a where id < 200",
]


@pytest.fixture(scope="module")
def client() -> SqlClient:
    client = SqlServer().connect()
    rand = random.Random(5)
    for table in "ab":
        client.execute(f"create table {table} (id int4 primary key, g int4, s text, w text)")
        rows = ", ".join(
            f"({number}, {rand.choice(['null', rand.randrange(20)])}, "
            f"{rand.choice(['null', repr('text' + str(rand.randrange(60)))])}, "
            f"{'null' if rand.random() < 0.01 else repr('w' + str(rand.randrange(ROWS)))})"
            for number in range(ROWS)
        )
        assert client.execute(f"insert into {table} values {rows}") == [f"INSERT 0 {ROWS}"]
    client.execute("create index on a (g); analyze")
    return client


@pytest.fixture
def resources(client: SqlClient) -> Iterator[NodeResources]:
    """What the node counts; nothing must be left of it."""
    resources = client.session.environment.resources
    yield resources
    assert (resources.memory_bytes, resources.disk_bytes, resources.files) == (0, 0, 0)
    assert client.session.resources.disk_bytes == 0


@pytest.mark.parametrize("text", SORTED + UNSORTED)
def test_what_does_not_fit_into_memory_comes_out_the_same(
    text: str, client: SqlClient, resources: NodeResources, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [*client.rows(text)]
    assert not resources.files, "fits, so far"
    for limit_bytes in (60_000, 2_000):
        monkeypatch.setattr(run_module, "work_memory_bytes", lambda context, limit=limit_bytes: limit)
        actual = client.rows(text)
        if text in SORTED:
            assert actual == expected
        else:
            assert sorted(actual) == sorted(expected)
        assert not resources.files and not resources.memory_bytes


@pytest.mark.parametrize("text", SORTED)
def test_large_sorts_are_done_in_pieces(
    text: str, client: SqlClient, resources: NodeResources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``list.sort`` cannot be interrupted: however large work_mem is, it gets so many rows at a time, and a batch."""
    expected = [*client.rows(text)]
    monkeypatch.setattr(sort_module, "MOST_SORTED_ROWS", 1_000)
    sizes: list[int] = []
    sort = Sorter.sort

    def counted(sorter: Sorter, rows: list[tuple[object, ...]], state: State) -> None:
        sizes.append(len(rows))
        sort(sorter, rows, state)

    monkeypatch.setattr(Sorter, "sort", counted)
    assert client.rows(text) == expected
    assert 0 < max(sizes) <= 1_000 + 2 * BATCH_ROWS or "limit 1500" in text
    monkeypatch.setattr(run_module, "work_memory_bytes", lambda context: 500_000)
    assert client.rows(text) == expected


def test_ten_times_work_mem(client: SqlClient, resources: NodeResources) -> None:
    """Sort, join, groups, DISTINCT and windows of some 4 MB in 64 kB: all go to disk."""
    text = (
        "select count(*), sum(n), max(r) from (select a.w, count(*) n, rank() over (order by max(a.id), a.w) r"
        " from (select distinct a.id, a.w, b.s from a join b using (w)) a group by a.w) x"
    )
    expected = [*client.rows(text)]
    client.execute("set work_mem = '64kB'; set hash_mem_multiplier = 1")
    plan = client.execute(f"explain (analyze, costs off, timing off, summary off) {text}")
    files = resources.files_made
    assert client.rows(text) == expected
    assert resources.files_made - files > 30
    client.execute("reset all")
    told = [line.strip() for line in plan]
    assert [line for line in told if line.startswith("Sort Method: external merge  Disk: ")], told
    assert len([line for line in told if "  Disk Usage: " in line and not line.startswith("Batches: 1 ")]) >= 3, told


def test_windows_of_ten_times_work_mem(client: SqlClient, resources: NodeResources) -> None:
    """One partition of rows, arguments, peers and frames: what the query holds stays near work_mem."""
    text = (
        "select count(*), sum(r), sum(s), sum(l), min(f), max(n) from (select rank() over (order by g) r,"
        " sum(g) over (order by g) s,"
        " lag(g, 5000) over (order by g) l, first_value(g) over (order by g rows 900 preceding) f, ntile(9) over (order by g) n"
        " from generate_series(1, 20000) g) x"
    )
    expected = [*client.rows(text)]
    client.execute("set work_mem = '64kB'; set proddb.max_query_memory = '400kB'")
    assert client.rows(text) == expected
    client.execute("set proddb.max_query_memory = '60kB'")
    [line] = client.execute(text)
    assert line.startswith("ERROR: 53200: out of memory")
    client.execute("reset all")


@pytest.mark.parametrize(
    "text", [*SORTED[:5], SORTED[6], *UNSORTED[:6], *UNSORTED[9:13], *UNSORTED[16:19], *UNSORTED[26:31]]
)
def test_a_cancelled_query_leaves_nothing(
    text: str, client: SqlClient, resources: NodeResources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled wherever it breathes: some runs have files at that moment, and none has any afterwards."""
    monkeypatch.setattr(run_module, "work_memory_bytes", lambda context: 2_000)
    breathe = State.breathe
    left = most = 0

    async def counted(state: State) -> None:
        nonlocal left, most
        left -= 1
        if not left:
            most = max(most, resources.files)
            raise QueryCanceled("canceling statement due to user request")
        await breathe(state)

    monkeypatch.setattr(State, "breathe", counted)
    for after in (1, 5, 20, 60, 150):
        left = after
        client.execute(text)
        assert (resources.memory_bytes, resources.disk_bytes, resources.files) == (0, 0, 0)
    assert most


def test_an_abandoned_portal_and_cursors(client: SqlClient, resources: NodeResources) -> None:
    client.execute("set work_mem = '64kB'")
    client.execute("begin; declare c cursor for select * from a order by w; fetch 1 from c")
    assert resources.files
    client.execute("rollback")
    client.server.scheduler.run_ready()
    assert not resources.files
    client.execute("set work_mem = '400kB'")
    client.execute("declare h scroll cursor with hold for select * from a order by w")
    assert resources.files == 1 and resources.memory_bytes > 10_000
    assert len(client.execute("fetch all from h")) == ROWS + 1
    client.execute("close h; reset work_mem")


def test_temp_file_limit(client: SqlClient, resources: NodeResources) -> None:
    client.execute("set work_mem = '64kB'; set temp_file_limit = 20")
    [line] = client.execute("select * from a order by w")
    assert line == "ERROR: 53400: temporary file size exceeds temp_file_limit (20kB)"
    assert resources.files == 0
    assert len(client.rows("select id from a order by id limit 5")) == 5
    client.execute("set temp_file_limit = 0")
    [line] = client.execute("select distinct w || s from a")
    assert line.endswith("temp_file_limit (0kB)")
    client.execute("reset all")
    assert client.execute("show temp_file_limit") == ["-1", "SHOW"]


def test_what_cannot_go_to_disk_ends_with_an_error(client: SqlClient, resources: NodeResources) -> None:
    client.execute("set proddb.max_query_memory = '300kB'; set work_mem = '64kB'")
    for text in (
        "select array_agg(w || s) from a, generate_series(1, 5)",
        "with recursive x(n) as (select 1 union select n + 1 from x where n < 100000) select count(*) from x",
        "select id = any (array(select g.g from generate_series(1, 20000) g)) from a",
    ):
        [line] = client.execute(text)
        assert line.startswith("ERROR: 53200: out of memory; DETAIL: The query holds more than 300kB"), text
        assert resources.memory_bytes == 0
    assert len(client.rows("select * from a order by w")) == ROWS
    client.execute("reset all")
    before, resources.memory_limit_bytes = resources.memory_limit_bytes, 400_000
    [line] = client.execute("select * from a order by w")
    assert line.startswith("ERROR: 53200: out of memory; DETAIL: The queries of this node hold more than 390kB")
    client.execute("set work_mem = '64kB'")
    assert len(client.rows("select * from a order by w")) == ROWS
    resources.memory_limit_bytes = before
    client.execute("reset all")


def test_only_superusers_set_the_limits(client: SqlClient, resources: NodeResources) -> None:
    client.execute("create role modest login")
    other = client.server.connect("modest")
    for name in ("temp_file_limit", "proddb.max_query_memory"):
        [line] = other.execute(f"set {name} = 1")
        assert line == f'ERROR: 42501: permission denied to set parameter "{name}"'


def test_the_folder_is_emptied_at_the_start(tmp_path: Path) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    (folder / "pydistdb-left").write_bytes(b"x" * 100)
    resources = NodeResources(folder=folder)
    assert list(folder.iterdir()) == []
    with resources.open_file() as file:
        file.write(b"x")
        file.flush()
        assert list(folder.iterdir()) == [], "a temporary file has no name"
    with pytest.raises(FileNotFoundError):
        NodeResources(folder=tmp_path / "missing" / "folder")
