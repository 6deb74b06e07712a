"""Queries over ranges on three nodes: the answers of one node, at a fraction of the bytes."""

from __future__ import annotations

import random
import re
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from psycopg.errors import QueryCanceled
from pydistdb_tools.local_cluster import LocalCluster, LocalNode

from tests.sql.test_fragments import some_query

ROWS = 20_000
Connection = psycopg.Connection[tuple[object, ...]]
COLUMNS = "(id int8 primary key, g int4, v int8, n numeric(10,2), f float8, s text, d date, i interval, b bool)"
FILL = f"""INSERT INTO {{0}} SELECT id, id % 6, id * 7919 % 1000 - 300, id % 977 / 4.0, id % 64 / 8.0, 'text ' || id % 9,
    date '2020-01-01' + id::int % 50, id % 5 * interval '1 day', id % 3 = 0 FROM generate_series(1, {ROWS}) AS id"""


@pytest.fixture(scope="module")
def filled(three_nodes: LocalCluster) -> Iterator[LocalCluster]:
    """``t`` and ``u`` in several ranges each, ``one_t`` and ``one_u`` in one range each."""
    with psycopg.connect(three_nodes.nodes[0].url, autocommit=True) as connection:
        for prefix, clause in (("", "SHARD BY HASH ({}) SHARDS 6"), ("one_", "")):
            connection.execute(f"CREATE TABLE {prefix}t {COLUMNS} {clause.format('id')}")
            connection.execute(
                f"CREATE TABLE {prefix}u (a int4, k text, c int8, PRIMARY KEY (a, k)) {clause.format('a')}"
            )
            connection.execute(FILL.format(f"{prefix}t"))
            connection.execute(
                f"INSERT INTO {prefix}u SELECT k % 10, 'key ' || k, k % 7 FROM generate_series(1, 120) k"
            )
    time.sleep(4)  # leases spread
    yield three_nodes


def received_bytes(cluster: LocalCluster) -> int:
    total = 0
    for node in cluster.nodes:
        with urllib.request.urlopen(f"http://127.0.0.1:{node.http_port}/metrics") as answer:
            found = re.search(r"rpc_received_bytes_total (\d\S*)", answer.read().decode())
            assert found is not None
            total += int(float(found[1]))
    return total


def _rounded(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Sums of floats depend on the order of the rows in their last digits, and shards have an order of their own."""
    return [tuple(f"{value:.11g}" if isinstance(value, float) else value for value in row) for row in rows]


def test_same_answers_on_every_node(filled: LocalCluster) -> None:
    rand = random.Random(11)
    for node in filled.nodes:
        with psycopg.connect(node.url, autocommit=True) as connection:
            for _ in range(20):
                query, ordered = some_query(rand)
                if "string_agg" in query:
                    continue
                of_one = query
                for word, table in (("from", "t"), ("from", "u"), ("join", "u")):
                    of_one = of_one.replace(f"{word} {table}", f"{word} one_{table} {table}")
                one = connection.execute(of_one)
                expected, found = _rounded(one.fetchall()), _rounded(connection.execute(query).fetchall())
                assert (found if ordered else sorted(found, key=repr)) == (
                    expected if ordered else sorted(expected, key=repr)
                ), query


@pytest.mark.parametrize(
    "query", ["SELECT count(*) FROM t", "SELECT sum(v), avg(n) FROM t", "SELECT s, count(*), sum(v) FROM t GROUP BY s"]
)
def test_few_bytes_cross_the_network(filled: LocalCluster, query: str) -> None:
    with psycopg.connect(filled.nodes[1].url, autocommit=True) as connection:
        before = received_bytes(filled)
        rows = connection.execute("SELECT id, s, v, n FROM t").fetchall()
        shipped = received_bytes(filled) - before
        assert len(rows) == ROWS
        before = received_bytes(filled)
        connection.execute(query)
        moved = received_bytes(filled) - before
        print(f"{query}: {moved} bytes instead of {shipped}")
        assert moved < shipped / 10


def test_transactions_see_their_own_writes(filled: LocalCluster) -> None:
    with (
        psycopg.connect(filled.nodes[0].url) as first,
        psycopg.connect(filled.nodes[2].url, autocommit=True) as second,
    ):
        (count,) = first.execute("SELECT count(*) FROM t").fetchone() or (0,)
        first.execute("INSERT INTO t (id, v) VALUES (-1, 5)")
        first.execute("UPDATE t SET v = v + 1 WHERE id <= 10")
        assert first.execute("SELECT count(*) FROM t").fetchone() == (count + 1,)  # type: ignore[operator]
        assert second.execute("SELECT count(*) FROM t").fetchone() == (count,)
        second.execute("INSERT INTO t (id, v) VALUES (-2, 7)")
        first.rollback()
        assert second.execute("SELECT count(*) FROM t").fetchone() == (count + 1,)  # type: ignore[operator]
        changed = second.execute("DELETE FROM t WHERE g IS NULL AND v BETWEEN 5 AND 9")
        assert changed.rowcount == 1
        assert second.execute("SELECT count(*) FROM t").fetchone() == (count,)


def test_cancelled_in_the_middle(filled: LocalCluster) -> None:
    with psycopg.connect(filled.nodes[1].url, autocommit=True) as connection:
        timer = threading.Timer(0.3, connection.cancel)
        timer.start()
        begun = time.monotonic()
        with pytest.raises(QueryCanceled):
            connection.execute("SELECT (SELECT count(*) FROM t AS b WHERE b.v > a.v AND b.id <> a.id) FROM t AS a")
        assert time.monotonic() - begun < 3
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (ROWS,)


@pytest.fixture(scope="module")
def sharded(filled: LocalCluster) -> LocalCluster:
    """``users`` and ``orders`` sharded by the user, ``visits`` by something else, ``city`` small."""
    with psycopg.connect(filled.nodes[0].url, autocommit=True) as connection:
        for text in (
            "CREATE TABLE users (user_id int8 PRIMARY KEY, name text, city int, age int) SHARD BY HASH (user_id) SHARDS 3",
            "CREATE TABLE orders (id int8, user_id int8, amount numeric(9,2), note text, PRIMARY KEY (user_id, id)) "
            "SHARD BY HASH (user_id) SHARDS 3",
            "CREATE TABLE visits (id int8 PRIMARY KEY, user_id int8, city int) SHARD BY HASH (id) SHARDS 5",
            "CREATE TABLE city (city int PRIMARY KEY, label text)",
            "INSERT INTO users SELECT g, 'user ' || g, g % 20, 18 + g % 60 FROM generate_series(1, 10000) g",
            "INSERT INTO orders SELECT g, 1 + g * 7919 % 10000, g % 1000 / 4.0, 'a note to order ' || g "
            "FROM generate_series(1, 30000) g",
            "INSERT INTO visits SELECT g, g % 10000, g % 23 FROM generate_series(1, 10000) g",
            "INSERT INTO city SELECT g, 'city ' || g FROM generate_series(0, 19) g",
            "ANALYZE",
        ):
            connection.execute(text)
    for node in filled.nodes:
        wait_for_statistics(node)
    time.sleep(4)  # leases spread
    return filled


def wait_for_statistics(node: LocalNode) -> None:
    """The node plans by what ANALYZE has found at another one: without, it would join in other ways."""
    known = "SELECT count(*) FROM pg_class WHERE relname IN ('users', 'orders', 'visits', 'city') AND reltuples > 0"
    with psycopg.connect(node.url, autocommit=True) as connection:
        for _ in range(600):
            if connection.execute(known).fetchone() == (4,):
                return
            time.sleep(0.1)
    raise AssertionError("the statistics do not arrive")


def sum_of(explained: object) -> int:
    """The bytes that all shards have received and sent."""
    return sum(map(int, re.findall(r"'Bytes': (\d+)", str(explained))))


JOIN = "users u JOIN orders o ON u.user_id = o.user_id"


def test_collocated_joins_move_a_hundredth_of_the_rows(sharded: LocalCluster) -> None:
    """Each shard sends its groups, once.  A call lasts 100 ms at most, so on a busy machine it takes several, each with groups of
    its own: what counts is one call of each.  Rows would take calls, too, and of many more bytes."""
    query = f"SELECT u.city, count(*), sum(o.amount) FROM {JOIN} GROUP BY u.city ORDER BY 1"
    seen = 0.0
    for node in sharded.nodes:
        with psycopg.connect(node.url, autocommit=True) as connection:
            rows = connection.execute(query).fetchall()
            text = str(connection.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}").fetchone())
            calls = [(int(size), int(count)) for size, count in re.findall(r"'Bytes': (\d+), 'Calls': (\d+)", text)]
            moved = sum(size / max(1, count) for size, count in calls)
            shipped = sum_of(connection.execute("EXPLAIN (ANALYZE, FORMAT JSON) SELECT * FROM users").fetchone())
            shipped += sum_of(connection.execute("EXPLAIN (ANALYZE, FORMAT JSON) SELECT * FROM orders").fetchone())
            connection.execute("SET enable_shardjoin = off")
            assert connection.execute(query).fetchall() == rows
        print(f"{moved:.0f} bytes instead of {shipped}; {calls}")
        assert moved <= shipped / 100
        seen += moved
    assert seen > 0  # no node leads all shards, so that some ask others


def _plan(node: LocalNode, query: str) -> str:
    with psycopg.connect(node.url, autocommit=True) as connection:
        return "\n".join(str(line) for (line,) in connection.execute(f"EXPLAIN {query}"))


def test_joins_say_where_they_are_done(sharded: LocalCluster) -> None:
    with psycopg.connect(sharded.nodes[1].url, autocommit=True) as connection:
        notices: list[str] = []
        connection.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
        connection.execute("SET proddb.trace = on")
        for query, expected in (
            (f"SELECT u.city, count(*) FROM {JOIN} GROUP BY 1", "collocated join, partial aggregate, 3 shards"),
            (
                f"SELECT u.name, count(o.id) c FROM {JOIN} GROUP BY u.user_id ORDER BY c DESC LIMIT 10",
                "collocated join, whole groups, top-N, 3 shards",
            ),
            (
                "SELECT c.label, count(*) FROM visits JOIN city c USING (city) GROUP BY 1",
                "broadcast join, partial aggregate, 6",
            ),
        ):
            connection.execute(query)
            assert re.fullmatch(rf"\[Distributed query, {expected}.* queried\] \[\d+ ms\]", notices[-1]), notices[-1]
        connection.execute("SELECT * FROM users WHERE user_id = 12345")
        assert notices[-1].startswith("[Single-shard query, 1 shard queried] [")
    # A node that leads all three shards gathers nothing, so that not every node is asked to.
    plans = [_plan(node, f"SELECT u.city, avg(o.amount) FROM {JOIN} GROUP BY 1") for node in sharded.nodes]
    gathering = [plan for plan in plans if "Strategy: collocated join, partial aggregate" in plan]
    assert gathering, plans
    for plan in gathering:
        assert re.search(r"Shards: Range \d+ \(node \d\), Range \d+ \(node \d\), Range \d+ \(node \d\)", plan)
        assert re.search(
            r"Shard Query: SELECT u.city, sum\(o.amount\) AS partial_sum, count\(o.amount\) AS partial_count", plan
        )


def test_ranges_split_and_move_under_a_join(sharded: LocalCluster) -> None:
    query = f"SELECT count(*), sum(o.amount), count(DISTINCT u.user_id) FROM {JOIN}"
    with psycopg.connect(sharded.nodes[0].url, autocommit=True) as connection:
        expected = connection.execute(query).fetchall()
        stop = threading.Event()
        answers: list[object] = []

        def read() -> None:
            with psycopg.connect(sharded.nodes[2].url, autocommit=True) as other:
                while not stop.is_set():
                    answers.append(other.execute(query).fetchall())

        reader = threading.Thread(target=read)
        reader.start()
        try:
            for number in (100, 5_000, 9_000):
                connection.execute(f"SELECT proddb.split_at('orders', '{number}')")
                time.sleep(0.3)
        finally:
            stop.set()
            reader.join()
        assert answers and all(answer == expected for answer in answers)


REPARTITIONED = [
    "SELECT v.city, count(*), sum(o.amount) FROM orders o JOIN visits v ON v.id = o.id GROUP BY 1 ORDER BY 1",
    "SELECT count(*), sum(u.age) FROM orders o JOIN users u USING (user_id) JOIN visits v ON v.city = u.city AND v.id = o.id",
    "SELECT count(DISTINCT amount), sum(DISTINCT amount) FROM orders",
    "SELECT count(DISTINCT city) FROM visits",
    "SELECT amount, count(*), count(DISTINCT user_id) FROM orders GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 7",
    "SELECT o.note, v.id FROM visits v LEFT JOIN orders o ON o.id = v.id AND o.amount > 10 WHERE v.city > 3 ORDER BY 2, 1",
    "SELECT count(*) FROM (SELECT DISTINCT user_id, city FROM visits) d JOIN users u ON u.city = d.city",
]


def wait_until_apart(node: LocalNode) -> None:
    """Several nodes lead the visits, and the orders, and ``node`` knows of them; leases that stay together are moved."""
    with psycopg.connect(node.url, autocommit=True) as connection:
        for table in ("visits", "orders"):
            for turn in range(600):
                plan = str(connection.execute(f"EXPLAIN SELECT * FROM {table}").fetchall())
                if len(set(re.findall(r"node ([1-9])", plan))) > 1:  # node 0: nobody knows at the moment
                    break
                if turn % 50 == 49:
                    move_a_lease(connection, table)
                time.sleep(0.1)
            else:
                raise AssertionError(f"all of {table} stays at one node: {plan}")


def move_a_lease(connection: Connection, table: str) -> None:
    found = connection.execute(
        "SELECT range_id, leaseholder %% 3 + 1 FROM proddb.ranges WHERE tables ~ %s AND leaseholder > 0",
        [rf"\m{table}\M"],
    ).fetchone()
    if found is not None:
        with suppress(psycopg.Error):  # it may have moved, or be about to
            connection.execute(f"SELECT proddb.move_lease({found[0]}, {found[1]})")


@pytest.fixture(scope="module")
def apart(sharded: LocalCluster) -> LocalCluster:
    wait_until_apart(sharded.nodes[0])
    return sharded


def test_repartitioned_queries_give_the_same(apart: LocalCluster) -> None:
    for node in apart.nodes[:2]:
        with psycopg.connect(node.url) as connection:
            notices: list[str] = []
            connection.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))  # noqa: B023
            connection.execute("SET proddb.trace = on")
            for text in (  # what the transaction itself has written counts, wherever it lies
                "INSERT INTO visits SELECT g, g % 100, 3 FROM generate_series(20001, 20050) g",
                "UPDATE orders SET amount = amount + 1 WHERE user_id < 20",
                "DELETE FROM users WHERE user_id BETWEEN 100 AND 120",
            ):
                connection.execute(text)
            for query in REPARTITIONED:
                connection.execute("SET enable_repartition = off")
                expected = connection.execute(query).fetchall()
                connection.execute("SET enable_repartition = on; SET enable_gatewayjoin = off")
                for _ in range(10):  # leases move
                    assert connection.execute(query).fetchall() == expected, query
                    if "[Distributed query, repartitioned " in notices[-1]:
                        break
                    wait_until_apart(node)
                else:
                    plan = "\n".join(str(line) for (line,) in connection.execute(f"EXPLAIN {query}"))
                    raise AssertionError(f"{query}\n{notices}\n{plan}")
            connection.rollback()


def test_repartitioned_joins_tell_what_moves(apart: LocalCluster) -> None:
    with psycopg.connect(apart.nodes[0].url, autocommit=True) as connection:
        connection.execute("SET enable_gatewayjoin = off")
        for _ in range(3):  # an exchange that is lost is done without; a few groups are dealt as well
            text = "\n".join(str(line) for (line,) in connection.execute(f"EXPLAIN ANALYZE {REPARTITIONED[0]}"))
            dealt = [int(rows) for rows in re.findall(r"To node \d: rows=(\d\d\d+) bytes=\d+", text)]
            if sum(dealt) == 40_000:
                break
            wait_until_apart(apart.nodes[0])
        assert "Repartition by hash (o.id)" in text and "Repartition by hash (v.id)" in text
        assert sum(dealt) == 40_000 and max(dealt) < 20_000
        assert re.search(r"Node \d: rows=\d+ bytes=\d+ calls=\d+ time=", text)
