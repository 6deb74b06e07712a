"""COPY into tables old and new: atomic, visible to its own transaction at once, to others after COMMIT."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from pydistdb_tools.local_cluster import LocalCluster

Connection = psycopg.Connection[tuple[object, ...]]
ROWS = 12_345


@pytest.fixture
def other(one_node: LocalCluster) -> Iterator[Connection]:
    with psycopg.connect(one_node.nodes[0].url, autocommit=True) as opened:
        yield opened


def _copy(connection: Connection, table: str, rows: int = ROWS) -> None:
    with connection.cursor() as cursor, cursor.copy(f"COPY {table} FROM STDIN") as copy:
        copy.write("".join(f"{n}\t{n * 0.5}\trow {n}\n" for n in range(rows)))


def _count(connection: Connection, table: str) -> object:
    row = connection.execute(f"SELECT count(*), sum(v) FROM {table}").fetchone()
    return row


FULL = (ROWS, sum(n * 0.5 for n in range(ROWS)))


def test_into_a_table_made_in_the_same_transaction(connection: Connection, other: Connection) -> None:
    connection.execute("DROP TABLE IF EXISTS fresh")
    connection.execute("BEGIN")
    connection.execute("CREATE TABLE fresh (n int, v float8, t text)")
    _copy(connection, "fresh")
    assert _count(connection, "fresh") == FULL
    with pytest.raises(psycopg.errors.UndefinedTable):
        other.execute("SELECT 1 FROM fresh")
    connection.execute("COMMIT")
    assert _count(other, "fresh") == FULL


def test_into_a_truncated_table_and_rolled_back(connection: Connection, other: Connection) -> None:
    connection.execute("DROP TABLE IF EXISTS cut")
    connection.execute("CREATE TABLE cut (n int, v float8, t text)")
    _copy(connection, "cut", 10)
    connection.execute("BEGIN")
    connection.execute("TRUNCATE cut")
    _copy(connection, "cut")
    assert _count(connection, "cut") == FULL
    connection.execute("ROLLBACK")
    assert _count(other, "cut") == (10, 22.5)


@pytest.mark.parametrize("key", ["", "PRIMARY KEY"])
def test_into_a_table_that_was_there(connection: Connection, other: Connection, key: str) -> None:
    connection.execute("DROP TABLE IF EXISTS old")
    connection.execute(f"CREATE TABLE old (n int {key}, v float8, t text)")
    connection.execute("BEGIN")
    _copy(connection, "old")
    assert _count(connection, "old") == FULL
    assert _count(other, "old") == (0, None)
    connection.execute("COMMIT")
    assert _count(other, "old") == FULL


def test_a_bad_line_leaves_nothing_behind(connection: Connection) -> None:
    connection.execute("DROP TABLE IF EXISTS strict")
    connection.execute("CREATE TABLE strict (n int NOT NULL CHECK (n >= 0), v float8, t text)")
    lines = [f"{n}\t1\tx" for n in range(5000)]
    for bad, state in (("-1\t1\tx", "23514"), ("\\N\t1\tx", "23502"), ("5\tx\tx", "22P02"), ("5\t1", "22P04")):
        with pytest.raises(psycopg.Error) as caught:
            with connection.cursor() as cursor, cursor.copy("COPY strict FROM STDIN") as copy:
                copy.write("\n".join([*lines, bad, *lines]) + "\n")
        assert caught.value.sqlstate == state
        assert "line 5001" in (caught.value.diag.context or "")
        assert connection.execute("SELECT count(*) FROM strict").fetchone() == (0,)


def test_a_duplicate_in_the_data_is_reported(connection: Connection) -> None:
    connection.execute("DROP TABLE IF EXISTS uniq")
    connection.execute("CREATE TABLE uniq (n int PRIMARY KEY, v float8, t text)")
    with pytest.raises(psycopg.errors.UniqueViolation) as caught:
        with connection.cursor() as cursor, cursor.copy("COPY uniq FROM STDIN") as copy:
            copy.write("".join(f"{n}\t1\tx\n" for n in range(3000)) + "17\t1\tx\n")
    assert caught.value.diag.message_detail == "Key (n)=(17) already exists."
    assert connection.execute("SELECT count(*) FROM uniq").fetchone() == (0,)
