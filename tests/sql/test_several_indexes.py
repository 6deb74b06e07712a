"""Skip scans, indexes read together, an index for each arm of an OR: the same rows wherever ranges begin, whoever leads them."""

from __future__ import annotations

import random

import pytest

from tests.support.sql_client import SqlClient, SqlServer

SETUP = (
    "create table t (id int primary key, a int, b int, c text)",
    "insert into t select i, nullif(i % 7, 3), i % 11, chr(97 + i % 3) from generate_series(1, 1200) i",
    "create index t_a on t (a); create index t_b on t (b); create index t_cb on t (c, b desc)",
    "create table r (x text, y int, z int, primary key (x, y))",
    "insert into r select chr(97 + i % 5), i, i from generate_series(1, 600) i",
    "analyze",
)
QUERIES = (
    ("BitmapAnd", "select id from t where a = 5 and b = 5"),
    ("BitmapAnd", "select id from t where a is null and b = 2"),
    ("Skip: x", "select * from r where y = 300"),
    ("Skip: x", "select * from r where y > 590 order by x desc, y desc"),
    ("Skip: x", "update r set z = z + 1 where y = 78 returning *"),
    ("First Entry Of Each: x", "select distinct x from r where x > 'a'"),
    ("First Entry Of Each: x", "select x, min(y) from r group by x"),
    ("First Entry Of Each: a", "select distinct a from t"),
)


def _server(*, must_wait: bool) -> SqlClient:
    client = SqlServer(must_wait=must_wait).connect()
    for text in SETUP:
        assert not any(line.startswith("ERROR") for line in client.execute(text))
    return client


def test_rows_are_the_same_over_ranges_of_other_nodes() -> None:
    near, far = _server(must_wait=False), _server(must_wait=True)
    database = far.server.database
    far.server.scheduler.run(database.split([key for key in list(database.versions)[::150] if key.startswith(b"\x04")]))
    database.distant = True
    for way, query in QUERIES:
        for client in (near, far):
            assert way in "\n".join(line.strip() for line in client.execute(f"explain {query}")), query
        expected = sorted(near.execute(query))
        assert len(expected) > 1, query
        assert sorted(far.execute(query)) == expected, query


def _some_or(generator: random.Random) -> str:
    def term() -> str:
        column = generator.choice("pabcc")
        value = "null" if generator.random() < 0.1 else str(generator.randrange(1, 500 if column == "p" else 60))
        return generator.choice(
            (
                f"{column} = {value}",
                f"{column} in ({value}, {generator.randrange(60)})",
                f"{column} between {value} and {generator.randrange(60)}",
                f"{column} is null" if column != "p" else f"p > 590 and b < {value}",
                f"({column} = {value} and {generator.choice('ab')} is not null)",
                f"not {column} <> {value}",
            )
        )

    return " or ".join(term() for _ in range(generator.randrange(2, 5)))


@pytest.mark.parametrize("clause", ["", "shard by hash (p)", "shard by range (p) (split at values (100, 300))"])
def test_arms_of_an_or_find_every_row_once(clause: str) -> None:
    generator = random.Random(clause)
    client = SqlServer().connect()
    client.execute("create table plain (p int, a int, b int, c int)")
    client.execute(
        "insert into plain select i, nullif(i % 50, 3), nullif(i * 7 % 53, 5), nullif(i, 7) from generate_series(1, 600) i"
    )
    client.execute(f"create table indexed (p int primary key, a int, b int, c int unique) {clause}")
    client.execute("insert into indexed select * from plain")
    client.execute("create index on indexed (a)")
    client.execute("create index on indexed (b desc nulls last, a)")
    client.execute("analyze")
    appended = 0
    for _ in range(150):
        condition = _some_or(generator)
        for tail in ("", " order by p limit 7", " order by p desc", " order by b, p"):
            query = f"select * from {{t}} where {condition}{tail}"
            wanted, found = (client.rows(query.format(t=name)) for name in ("plain", "indexed"))
            if not tail:
                wanted, found = sorted(wanted), sorted(found)
                appended += "Append" in client.execute(f"explain {query.format(t='indexed')}")[0]
            assert found == wanted, query
        some = client.rows(f"select p from indexed where {condition} limit 7")
        everything = client.rows(f"select p from plain where {condition}")
        assert len(set(some)) == min(7, len(everything)) and set(some) <= set(everything), condition
        changes = [client.execute(f"update {name} set a = a where {condition}") for name in ("plain", "indexed")]
        assert changes[0] == changes[1], condition
    assert appended > 5
