"""Skip scans and indexes read together: the same rows wherever the ranges begin and whoever leads them."""

from __future__ import annotations

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
