"""psycopg 3 beyond the everyday: asynchronous connections, pipelines, server cursors, COPY in both formats, two-phase commit,
notifications, prepared statements, arrays, enums and composites, cancelling."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import class_row, dict_row, namedtuple_row
from psycopg.types.composite import CompositeInfo, register_composite
from psycopg.types.enum import EnumInfo, register_enum
from psycopg.types.json import Jsonb
from pydistdb_tools.local_cluster import LocalCluster

ROWS = 2_500


@pytest.fixture
def url(one_node: LocalCluster) -> Iterator[str]:
    with psycopg.connect(one_node.nodes[0].url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS numbers")
        connection.execute("CREATE TABLE numbers (n int PRIMARY KEY, name text, half float8, tags text[])")
        connection.execute(
            "INSERT INTO numbers SELECT g, 'n' || g, g / 2.0, ARRAY['a', g::text] FROM generate_series(1, 2500) g"
        )
    yield one_node.nodes[0].url


@pytest.mark.parametrize("scrollable", [None, True])
def test_server_cursors(url: str, scrollable: bool | None) -> None:
    with psycopg.connect(url) as connection:
        with connection.cursor("all_of_them", scrollable=scrollable, withhold=bool(scrollable)) as cursor:
            cursor.itersize = 300
            cursor.execute("SELECT n, half FROM numbers WHERE n > %s ORDER BY n", (10,))
            assert cursor.fetchone() == (11, 5.5) and [row[0] for row in cursor.fetchmany(3)] == [12, 13, 14]
            if scrollable:
                cursor.scroll(-2)
                assert cursor.fetchone() == (13, 6.5)
                cursor.scroll(0, mode="absolute")
                connection.commit()
                assert sum(1 for _ in cursor) == ROWS - 10
            else:
                assert sum(1 for _ in cursor) == ROWS - 14


def test_pipelines(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        with connection.pipeline() as pipeline:
            cursors = [connection.execute("SELECT name FROM numbers WHERE n = %s", (n,)) for n in range(1, 101)]
            connection.execute("UPDATE numbers SET half = -1 WHERE n = 5")
            pipeline.sync()
            assert [cursor.fetchone() for cursor in cursors] == [(f"n{n}",) for n in range(1, 101)]
        with pytest.raises(psycopg.errors.UniqueViolation), connection.pipeline():
            connection.execute("UPDATE numbers SET half = -2 WHERE n = 5")
            connection.execute("INSERT INTO numbers VALUES (1)")
        # What stands before the error in one batch is one transaction with it.
        assert connection.execute("SELECT half FROM numbers WHERE n = 5").fetchone() == (-1,)


@pytest.mark.parametrize("binary", [False, True])
def test_copy_both_ways(url: str, binary: bool) -> None:
    form = sql.SQL("(FORMAT BINARY)" if binary else "(FORMAT TEXT)")
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        with cursor.copy(sql.SQL("COPY numbers TO STDOUT {}").format(form)) as copy:
            copy.set_types(["int4", "text", "float8", "text[]"])
            rows = sorted(copy.rows())
        assert rows[1] == (2, "n2", 1.0, ["a", "2"]) and len(rows) == ROWS
        cursor.execute("TRUNCATE numbers")
        with cursor.copy(sql.SQL("COPY numbers FROM STDIN {}").format(form)) as copy:
            copy.set_types(["int4", "text", "float8", "text[]"])
            for row in rows:
                copy.write_row(row)
        assert cursor.execute("SELECT count(*), sum(half) FROM numbers").fetchone() == (ROWS, ROWS * (ROWS + 1) / 4)


def test_two_phase_commit(url: str) -> None:
    connection = psycopg.connect(url)
    xid = connection.xid(42, "driver test", "one")
    connection.tpc_begin(xid)
    connection.execute("DELETE FROM numbers WHERE n = 1")
    connection.tpc_prepare()
    connection.close()
    with psycopg.connect(url) as other:
        assert [(found.gtrid, found.bqual) for found in other.tpc_recover()] == [("driver test", "one")]
        other.rollback()
        other.tpc_commit(xid)
        assert other.execute("SELECT count(*) FROM numbers").fetchone() == (ROWS - 1,)


def test_rows_as_one_likes_and_prepared_statements(url: str) -> None:
    class Number:
        def __init__(self, n: int, name: str) -> None:
            self.n, self.name = n, name

    with psycopg.connect(url) as connection:
        for _ in range(3):
            found = connection.execute("SELECT n, name FROM numbers WHERE n = %s", (7,), prepare=True)
        assert found.fetchone() == (7, "n7")
        assert connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (1,)
        with connection.cursor(row_factory=dict_row) as cursor:
            assert cursor.execute("SELECT 1 AS a, NULL AS b").fetchone() == {"a": 1, "b": None}
        with connection.cursor(row_factory=namedtuple_row) as named:
            assert named.execute("SELECT 1 AS a").fetchone() == (1,)
        with connection.cursor(row_factory=class_row(Number)) as objects:
            [number] = objects.execute("SELECT n, name FROM numbers WHERE n = ANY(%s)", ([9],)).fetchall()
            assert number.name == "n9"
        value: Any = {"deep": [1, None, {"x": "ü"}]}
        assert connection.execute("SELECT %s::jsonb -> 'deep' -> 2 ->> 'x'", (Jsonb(value),)).fetchone() == ("ü",)


def test_users_types(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP TYPE IF EXISTS pair, mood")
        connection.execute("CREATE TYPE mood AS ENUM ('sad', 'glad')")
        connection.execute("CREATE TYPE pair AS (n int, feeling mood)")
        mood = EnumInfo.fetch(connection, "mood")
        assert mood is not None
        register_enum(mood, connection)
        pair = CompositeInfo.fetch(connection, "pair")
        assert pair is not None
        register_composite(pair, connection)
        row = connection.execute("SELECT 'glad'::mood, ROW(1, 'sad')::pair, ARRAY['sad', NULL]::mood[]").fetchone()
        assert row is not None and row[0].name == "glad" and (row[1].n, row[1].feeling.name) == (1, "sad")
        assert [item and item.name for item in row[2]] == ["sad", None]
        connection.execute("DROP TYPE pair, mood")


def test_notifications_and_cancelling(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as listener, psycopg.connect(url, autocommit=True) as other:
        listener.execute("LISTEN news")
        other.execute("SELECT pg_notify('news', 'fresh')")
        [notification] = listener.notifies(timeout=10, stop_after=1)
        assert (notification.channel, notification.payload) == ("news", "fresh")
        timer = threading.Timer(0.2, listener.cancel_safe)
        timer.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            listener.execute("SELECT pg_sleep(60)")
        timer.join()
        assert listener.execute("SELECT 1").fetchone() == (1,)


def test_a_prepared_change_waits_for_a_locked_row(url: str) -> None:
    """It goes on when the row is free, sees it as its holder has left it, and waits no longer than lock_timeout."""
    change = "UPDATE numbers SET half = half * 10 WHERE n = %s"
    with psycopg.connect(url, autocommit=True) as holder, psycopg.connect(url, autocommit=True) as other:
        for connection in (holder, other):
            connection.execute("BEGIN")
            for n in (5, 6):
                connection.execute(change, (n,), prepare=True)
            connection.execute("ROLLBACK")
        holder.execute("BEGIN")
        holder.execute("UPDATE numbers SET half = half + 1 WHERE n = 2")
        other.execute("BEGIN")
        timer = threading.Timer(0.3, lambda: holder.execute("COMMIT"))
        timer.start()
        assert other.execute(change, (2,), prepare=True).rowcount == 1
        timer.join()
        other.execute("COMMIT")
        assert other.execute("SELECT half FROM numbers WHERE n = 2").fetchone() == (20.0,)
        holder.execute("BEGIN")
        holder.execute("DELETE FROM numbers WHERE n IN (2, 3)")
        other.execute("SET lock_timeout = '50ms'")
        other.execute("BEGIN")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            other.execute(change, (3,), prepare=True)
        other.execute("ROLLBACK")
        other.execute("RESET lock_timeout")
        other.execute("BEGIN")
        timer = threading.Timer(0.3, lambda: holder.execute("COMMIT"))
        timer.start()
        assert other.execute(change, (2,), prepare=True).rowcount == 0
        timer.join()
        other.execute("ROLLBACK")


def test_asynchronous_connections(url: str) -> None:
    async def work() -> None:
        async with await psycopg.AsyncConnection.connect(url) as connection:
            async with connection.transaction():
                with pytest.raises(psycopg.errors.DivisionByZero):
                    async with connection.transaction():
                        await connection.execute("SELECT 1 / 0")
                await connection.execute("UPDATE numbers SET name = 'kept' WHERE n = 3")
            async with connection.cursor() as cursor:
                await cursor.execute("SELECT name FROM numbers WHERE n = 3")
                assert await cursor.fetchone() == ("kept",)
                total = 0
                async for (n,) in await cursor.execute("SELECT n FROM numbers"):
                    total += n
                assert total == ROWS * (ROWS + 1) // 2
        connections = [await psycopg.AsyncConnection.connect(url, autocommit=True) for _ in range(5)]
        await asyncio.gather(*(c.execute("UPDATE numbers SET half = half + 1 WHERE n = 4") for c in connections))
        found = await connections[0].execute("SELECT half FROM numbers WHERE n = 4")
        assert await found.fetchone() == (7.0,)
        for connection in connections:
            await connection.close()

    asyncio.run(work())


def test_explain_takes_the_parameters_of_its_statement(url: str) -> None:
    with psycopg.connect(url) as connection:
        query = "EXPLAIN (COSTS OFF) SELECT name FROM numbers WHERE n = %s AND half > %s"
        lines = [line for (line,) in connection.execute(query, (7, 1.5))]
        assert any("(n = 7)" in line for line in lines) and any("1.5" in line for line in lines)
        rows = connection.execute("EXPLAIN (ANALYZE, FORMAT JSON) DELETE FROM numbers WHERE n < %s", (3,)).fetchone()
        assert rows is not None and rows[0][0]["Plan"]["Operation"] == "Delete"
        assert connection.execute("SELECT min(n) FROM numbers").fetchone() == (3,)


def test_prepare_transaction_outside_a_block_prepares_nothing(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        done = connection.execute("PREPARE TRANSACTION 'nothing'", binary=True)
        assert done.statusmessage == "ROLLBACK"
        assert connection.execute("SELECT count(*) FROM pg_prepared_xacts WHERE gid = 'nothing'").fetchone() == (0,)


@pytest.mark.parametrize("binary", [False, True])
def test_an_altered_type_is_written_as_its_transaction_sees_it(url: str, binary: bool) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS spots")
        connection.execute("DROP TYPE IF EXISTS spot, shade")
        connection.execute("CREATE TYPE shade AS ENUM ('dark')")
        connection.execute("CREATE TYPE spot AS (x int, s shade)")
        connection.execute("CREATE TABLE spots (p spot)")
        connection.execute("INSERT INTO spots VALUES ((1, 'dark'))")
        query = "SELECT p, (p).s FROM spots"
        before = connection.execute(query, binary=binary).pgresult
        connection.execute("BEGIN")
        connection.execute("ALTER TYPE spot ADD ATTRIBUTE note text")
        connection.execute("ALTER TYPE shade RENAME VALUE 'dark' TO 'dim'")
        inside = connection.execute(query, binary=binary).pgresult
        connection.execute("COMMIT")
        after = connection.execute(query, binary=binary).pgresult
        assert before is not None and inside is not None and after is not None
        assert [inside.get_value(0, i) for i in range(2)] == [after.get_value(0, i) for i in range(2)]
        assert inside.get_value(0, 1) == b"dim" and before.get_value(0, 1) == b"dark"
