"""Window functions and aggregates done at the shards: what EXPLAIN says of it, and the same answers as where all rows are."""

from __future__ import annotations

import random
from pathlib import Path

import pglast
import pytest

from tests.sql.test_shard_query import shown
from tests.support import golden
from tests.support.golden import Command
from tests.support.sql_client import SqlClient, SqlServer

COLUMNS = "id int8, k int4, a int4, b text, v int8, n numeric(8,2), f float8, d date, i interval, c bool"
DDL = f"""create table h ({COLUMNS}) shard by hash (k);
create table r ({COLUMNS}) shard by range (k) (split at values (3), (6));
create table p ({COLUMNS}, primary key (id))"""
TABLES = ("h", "r", "p")


def filled(rand: random.Random, rows: int = 90) -> str:
    """INSERTs of the same random rows into each table, a seventh of the values NULL."""
    lines = []
    for number in range(rows):
        cells = [
            str(rand.randrange(9)),
            str(rand.randrange(4)),
            f"'b{rand.randrange(4)}'",
            str(rand.randrange(-(1 << 62), 1 << 62)),
            f"{rand.randrange(-500, 500)}.{rand.randrange(100):02}",
            str(rand.randrange(-40, 40) / 8),
            f"date '2020-01-01' + {rand.randrange(20)}",
            f"interval '{rand.randrange(5)} days {rand.randrange(3)} months'",
            rand.choice(["true", "false"]),
        ]
        cells = [cell if rand.random() < 6 / 7 else "null" for cell in cells]
        lines.append(f"({number}, {', '.join(cells)})")
    return ";".join([f"insert into {table} values {', '.join(lines)}" for table in TABLES])


def connected(*, distant: bool) -> SqlClient:
    """A session on a server with the tables, in ranges of two other nodes if ``distant``."""
    server = SqlServer()
    client = server.connect()
    for text in (*DDL.split(";"), *filled(random.Random(11)).split(";")):
        assert client.execute(text)[-1].startswith(("CREATE", "INSERT"))
    if distant:
        rand = random.Random(4)
        keys = [key for key in server.database.versions if key[:1] in (b"\x04", b"\x05", b"\x06")]
        cuts = [
            key[: rand.choice([7, 99])] for key in rand.sample(keys, 25)
        ]  # where buckets and shards begin, and within
        server.scheduler.run(server.database.split(cuts))
        server.database.distant = True
    return client


@pytest.fixture(scope="module")
def near() -> SqlClient:
    return connected(distant=False)


@pytest.fixture(scope="module")
def far() -> SqlClient:
    return connected(distant=True)


def explained(client: SqlClient, query: str) -> str:
    return "\n".join(client.execute(f"explain (costs off) {query}")[:-1])


def check(far: SqlClient, near: SqlClient, query: str) -> None:
    """The answer is the same, and what EXPLAIN says that the shards are asked can be asked."""
    assert sorted(far.rows(query)) == sorted(near.rows(query)), query
    for each in shown(explained(far, query)):
        pglast.parse_sql(each)
        near.rows(each)


ORDERS = ["v", "n desc, id", "d nulls first, id desc", "i, f", "b desc nulls last, id"]
FRAMES = ["", "rows between 2 preceding and current row", "rows between 1 following and 3 following"]
FRAMES += [
    "groups between 1 preceding and 1 following exclude ties",
    "range between unbounded preceding and current row",
]
FRAMES += ["rows between unbounded preceding and unbounded following exclude current row"]
FRAMED = ["sum(n)", "count(*)", "count(v) filter (where c)", "avg(v)", "min(b)", "max(i)", "array_agg(b)", "stddev(n)"]
FRAMED += ["first_value(d)", "last_value(n)", "nth_value(b, 2)", "string_agg(b, ',')", "bool_and(c)"]
NUMBERING = ["row_number()", "rank()", "dense_rank()", "percent_rank()", "cume_dist()", "ntile(3)", "lag(v)"]
NUMBERING += ["lead(n, 2, 0.5)", "lag(b, a, 'none')"]


def some_window(rand: random.Random, table: str) -> str:
    """A query with window functions, whose answer is determined up to the order of its rows."""
    calls = []
    for _ in range(rand.randrange(1, 4)):
        partition = rand.choice(["k", "k", "k, a", "a, k", "a", "k + 1", "b, k"])
        order = rand.choice([f"order by {each}, id" for each in ORDERS])
        if rand.random() < 0.5:
            over = f"(partition by {partition} {order})"
            calls.append(f"{rand.choice(NUMBERING)} over {over}")
        else:
            calls.append(f"{rand.choice(FRAMED)} over (partition by {partition} {order} {rand.choice(FRAMES)})")
    where = rand.choice(["", "", " where a > 1", " where v > 0", " where c is not false"])
    query = (
        f"select id, k, {', '.join([f'{call} as w{number}' for number, call in enumerate(calls)])} from {table}{where}"
    )
    match rand.randrange(6):
        case 0:
            return f"select count(w0), count(distinct k) from ({query}) s"
        case 1:
            return f"select k, count(w0), max(id) from ({query}) s group by k"
        case 2:
            return f"select * from ({query}) s where k > 3 and w0 is not null"
        case 3:
            return f"select s.*, o.n from ({query}) s join {table} o on s.k = o.k and s.id = o.id + 1"
        case 4:
            counting = rand.choice(["row_number", "rank", "dense_rank"])
            order = rand.choice(["v, id", "a", "n desc"]) + (", id" if counting == "row_number" else "")
            numbered = f"select id, k, {counting}() over (partition by k order by {order}) as place from {table}{where}"
            return f"select * from ({numbered}) s where place <= {rand.randrange(1, 4)}"
    return query


@pytest.mark.parametrize("seed", range(3))
def test_windows(near: SqlClient, far: SqlClient, seed: int) -> None:
    rand = random.Random(seed)
    for _ in range(40):
        check(far, near, some_window(rand, rand.choice(TABLES)))


@pytest.mark.parametrize(
    "query",
    [
        "select a.id, b.id from h a join h b on a.k = b.k where b.a > 2 and b.a = 1",
        "select count(*) from h a left join h b on a.k = b.k and b.a = 3 and b.a < 2",
        "select a.k, count(b.id) from h a left join h b on a.k = b.k and b.a > 2 and b.a < 1 group by a.k",
        "select a.id, b.id from (select * from h where a = 1 and a > 2) a full join h b on a.k = b.k",
        "select a.id from h a where exists (select 1 from h b where a.k = b.k and b.a = 3 and b.a < 2) or a.id < 0",
        "select a.id from h a where a.a = 2 and a.a > 2 and exists (select 1 from h b where a.k = b.k and b.a = 3)",
        "select a.id from h a where not exists (select 1 from h b where a.k = b.k and b.a = 3 and b.a < 2)",
    ],
)
def test_tables_of_which_nothing_is_read(near: SqlClient, far: SqlClient, query: str) -> None:
    """The numbers are parameters by the time that a statement is planned: it turns out as it runs that they contradict each
    other (gates.py), for one table of several that the shards join."""
    assert sorted(far.rows(query)) == sorted(near.rows(query))


def test_large_buckets(near: SqlClient, far: SqlClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too much for a shard is done by the gateway, whatever lies in one bucket."""
    monkeypatch.setattr("pydistdb.sql.exec.part_run.MOST_HELD_ENTRIES", 5)
    monkeypatch.setattr("pydistdb.sql.exec.at_shards.MOST_BUCKET_ENTRIES", 5)
    monkeypatch.setattr("pydistdb.sql.exec.at_shards.LOCAL_ENTRIES", 4)
    for query in (
        "select id, rank() over (partition by k order by n, id), sum(n) over (partition by k) from h",
        "select k, array_agg(id order by n, id), count(distinct b) from h group by k",
        "select k, max(place) from (select k, ntile(4) over (partition by k order by id) as place from h) s group by k",
    ):
        assert "whole" in explained(far, query)
        check(far, near, query)


def test_windows_of_whole_partitions_only(far: SqlClient) -> None:
    over = "row_number() over (partition by {} order by id)"
    for partition, table, whole in (("k", "h", True), ("a, k", "h", True), ("a", "h", False), ("k", "r", False)):
        assert ("whole partitions" in explained(far, f"select {over.format(partition)} from {table}")) is whole
    both = f"select {over.format('k')}, {over.format('a')} from h"
    assert "whole partitions" not in explained(far, both)
    assert "whole partitions" not in explained(far, f"select {over.format('k').replace('by id', 'by random()')} from h")


CALLS = [
    "count(*)",
    "count(v)",
    "sum(v)",
    "avg(v)",
    "sum(a)",
    "avg(a)",
    "sum(n)",
    "avg(n)",
    "sum(f)",
    "avg(f)",
    "sum(i)",
    "avg(i)",
]
CALLS += ["min(b)", "max(d)", "min(i)", "max(n)", "min(f)", "max(c::int)", "bool_and(c)", "bool_or(c)", "every(c)"]
CALLS += ["bit_and(a)", "bit_or(v)", "bit_xor(a)", "stddev(n)", "var_pop(a)", "variance(v)", "stddev_samp(a)"]
CALLS += ["sum(n) filter (where c)", "count(*) filter (where a > 1)", "max(v) filter (where k is null)"]
WHOLE = [
    "count(distinct b)",
    "array_agg(id order by id desc)",
    "string_agg(distinct b, ',')",
    "mode() within group (order by a)",
]
WHOLE += ["percentile_disc(0.4) within group (order by n)", "sum(distinct a)", "corr(f, a)", "jsonb_agg(b order by id)"]
LISTS = [
    "array_agg(id order by n desc, id)",
    "string_agg(b, ',' order by v, id)",
    "count(distinct n)",
    "sum(distinct v)",
]
LISTS += ["array_agg(distinct n)", "string_agg(distinct b, '-' order by b desc)", "json_agg(d order by d, id)"]
LISTS += [
    "jsonb_agg(n order by id) filter (where c)",
    "jsonb_object_agg(id, i)",
    "avg(distinct a) filter (where v > 0)",
]
LISTS += [
    "array_agg(i order by i, id)",
    "json_agg(b order by f desc nulls last, id)",
    "min(distinct d)",
    "count(distinct i)",
]
GROUPS = ["k", "a", "b", "k, a", "b, c", "a % 2, k", "upper(b)", "d", "i", "n, b"]
SETS = [
    "rollup ({0}, {1})",
    "cube ({0}, {1})",
    "grouping sets (({0}), ({1}))",
    "grouping sets (({0}, {1}), ())",
    "{0}, rollup ({1})",
]
SETS += [
    "grouping sets (({0}, {1}), ({0}), ({0}))",
    "grouping sets (({0}, c), ({1}, c), (c))",
    "rollup ({0}), cube ({1}, c)",
]


def some_groups(rand: random.Random, table: str, calls: list[str]) -> str:
    """A query with aggregates; their values go by any order of rows."""
    chosen = ", ".join(rand.sample(calls, rand.randrange(1, 5)))
    where = rand.choice(["", "", " where a > 1", " where v > 0", " where false"])
    if rand.random() < 0.4:
        one, other = rand.sample(["k", "a", "b", "d", "i", "a % 2", "upper(b)"], 2)
        sets = rand.choice(SETS).format(one, other)
        having = rand.choice(["", "", f" having grouping({one}) = 0", " having count(*) > 2"])
        return f"select {one}, {other}, grouping({one}, {other}), {chosen} from {table}{where} group by {sets}{having}"
    if rand.random() < 0.2:
        return f"select {chosen} from {table}{where}"
    group = rand.choice(GROUPS)
    having = rand.choice(["", "", "", " having count(v) > 2", " having avg(n) > 0"])
    if rand.random() < 0.2:
        group, join = "o.a", f"{table} t join {table} o on t.k = o.k and t.id = o.id"
        return (
            f"select {group}, count(*), sum(t.n), max(o.b) from {join} group by {rand.choice(['rollup (o.a)', 'o.a'])}"
        )
    return f"select {group}, {chosen} from {table}{where} group by {group}{having}"


@pytest.mark.parametrize("seed", range(3))
def test_groups(near: SqlClient, far: SqlClient, seed: int) -> None:
    rand = random.Random(seed)
    for _ in range(40):
        check(far, near, some_groups(rand, rand.choice(TABLES), CALLS))
        check(far, near, some_groups(rand, rand.choice(TABLES), CALLS + WHOLE + LISTS))


@pytest.mark.parametrize("memory", ["4MB", "64kB"])
def test_lists(near: SqlClient, far: SqlClient, monkeypatch: pytest.MonkeyPatch, memory: str) -> None:
    rand = random.Random(memory)
    far.execute(f"set work_mem = '{memory}'")
    if memory == "64kB":
        monkeypatch.setattr("pydistdb.sql.exec.memory.batch_bytes", lambda rows: 20_000 * len(rows))
        monkeypatch.setattr("pydistdb.sql.exec.tail_run.MOST_BYTES", 500)
    for _ in range(60):
        query = some_groups(rand, rand.choice(TABLES), LISTS + CALLS)
        assert sorted(far.rows(query)) == sorted(near.rows(query)), query
    far.execute("reset work_mem")


def test_lists_are_in_the_order_of_rows(near: SqlClient, far: SqlClient) -> None:
    """Where nothing is said of the order, and rows come in that of a key."""
    for calls in ("array_agg(v), string_agg(b, ','), json_agg(n)", "jsonb_object_agg(id, a), sum(n), array_agg(d)"):
        for group in ("", " group by a"):
            query = f"select {calls} from p{group}"
            assert sorted(far.rows(query)) == sorted(near.rows(query))
            assert "Strategy: partial aggregate" in explained(far, query)


def test_grouping_sets_that_outgrow_memory(near: SqlClient, far: SqlClient, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = [
        f"select id, a, b, grouping(id, a, b), count(*), avg(n), stddev(v), min(i) from r group by {sets}"
        for sets in ("rollup (id, a, b)", "grouping sets ((id), (a, b), (b), ())")
    ]
    expected = [sorted(near.rows(query)) for query in queries]
    monkeypatch.setattr("pydistdb.sql.exec.grouping.GROUP_BYTES", 100_000)
    far.execute("set work_mem = '64kB'")
    assert [sorted(far.rows(query)) for query in queries] == expected
    far.execute("reset work_mem")


def test_halved(far: SqlClient) -> None:
    """Every aggregate whose state is small."""
    for call in (*CALLS, "count(array[a])", "avg(f::float4)", "max(upper(b))", "bit_or(a::bit(3))"):
        assert "Strategy: partial aggregate" in explained(far, f"select a, {call} from r group by a"), call


def run(client: SqlClient, command: Command) -> str:
    """``explain``: the plan; ``sql``: rows, sorted, or what else comes back."""
    if command.name == "explain":
        return explained(client, command.text)
    return "\n".join(sorted(client.execute(command.text)))


def test_plans() -> None:
    """golden/steps_at_shards.txt"""
    client = connected(distant=True)
    golden.run(lambda command: run(client, command), Path(__file__).parent / "golden" / "steps_at_shards.txt")
