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


def test_windows_of_whole_partitions_only(far: SqlClient) -> None:
    over = "row_number() over (partition by {} order by id)"
    for partition, table, whole in (("k", "h", True), ("a, k", "h", True), ("a", "h", False), ("k", "r", False)):
        assert ("whole partitions" in explained(far, f"select {over.format(partition)} from {table}")) is whole
    both = f"select {over.format('k')}, {over.format('a')} from h"
    assert "whole partitions" not in explained(far, both)
    assert "whole partitions" not in explained(far, f"select {over.format('k').replace('by id', 'by random()')} from h")


def run(client: SqlClient, command: Command) -> str:
    """``explain``: the plan; ``sql``: rows, sorted, or what else comes back."""
    if command.name == "explain":
        return explained(client, command.text)
    return "\n".join(sorted(client.execute(command.text)))


def test_plans() -> None:
    """golden/steps_at_shards.txt"""
    client = connected(distant=True)
    golden.run(lambda command: run(client, command), Path(__file__).parent / "golden" / "steps_at_shards.txt")
