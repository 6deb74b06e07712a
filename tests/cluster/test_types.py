"""Types that users make: every node knows them at once, in text and in binary, and still does after a restart."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.types.composite import CompositeInfo, register_composite
from psycopg.types.enum import EnumInfo, register_enum
from pydistdb_tools.local_cluster import LocalCluster, start_cluster, stop_cluster

SETUP = """
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TYPE pair AS (x int, y text);
CREATE DOMAIN percent AS int CHECK (VALUE BETWEEN 0 AND 100);
CREATE TABLE people (id int PRIMARY KEY, m mood, p pair, share percent, ms mood[], b bit(3), i inet);
"""


def test_types_on_every_node(fresh_three_nodes: LocalCluster) -> None:
    urls = [node.url for node in fresh_three_nodes.nodes]
    connections = [psycopg.connect(url, autocommit=True) for url in urls]
    first, second, third = connections
    first.execute(SETUP)
    second.execute("INSERT INTO people VALUES (1, 'happy', (1, 'a'), 50, '{sad,happy}', B'101', '10.0.0.1/8')")
    # A label added on one node sorts where it should on another, for the rows that are there too.
    third.execute("ALTER TYPE mood ADD VALUE 'so so' BEFORE 'happy'")
    second.execute("INSERT INTO people VALUES (2, 'so so', NULL, 7), (3, 'sad', ROW(3, NULL), NULL)")
    order = first.execute("SELECT id FROM people ORDER BY m").fetchall()
    assert order == [(3,), (2,), (1,)]
    # A transaction's change is its own until it is committed.
    with third.transaction():
        third.execute("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'")
        assert third.execute("SELECT m FROM people WHERE id = 3").fetchone() == ("blue",)
        assert first.execute("SELECT m FROM people WHERE id = 3").fetchone() == ("sad",)
    assert first.execute("SELECT m FROM people WHERE id = 3").fetchone() == ("blue",)
    with pytest.raises(psycopg.errors.CheckViolation):
        third.execute("UPDATE people SET share = 101")
    second.execute("ALTER DOMAIN percent ADD CONSTRAINT small CHECK (VALUE < 60)")
    with pytest.raises(psycopg.errors.CheckViolation):
        first.execute("UPDATE people SET share = 61 WHERE id = 1")
    with pytest.raises(psycopg.errors.DependentObjectsStillExist):
        third.execute("DROP TYPE pair")
    for connection in connections:
        connection.close()
    stop_cluster(fresh_three_nodes, print)
    start_cluster(fresh_three_nodes, print)
    with psycopg.connect(urls[1], autocommit=True) as connection:
        assert connection.execute("SELECT m, p, ms FROM people WHERE id = 1").fetchone() == (
            "happy",
            "(1,a)",
            "{blue,happy}",
        )


def test_binary_formats(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    connection.execute(SETUP)
    pair = CompositeInfo.fetch(connection, "pair")
    mood = EnumInfo.fetch(connection, "mood")
    assert pair is not None and mood is not None
    register_composite(pair, connection)
    register_enum(mood, connection)
    assert pair.python_type is not None and mood.enum is not None
    values = (1, mood.enum["happy"], pair.python_type(2, "b c"), 5, [mood.enum["sad"], None], "101", "::1/64")
    with connection.cursor(binary=True) as cursor:
        cursor.execute("INSERT INTO people VALUES (%s, %s, %s, %s, %s, %s, %s)", values)
        row = cursor.execute("SELECT id, m, p, share, ms, i::text FROM people").fetchone()
        assert row == (*values[:5], "::1/64")
        assert cursor.execute("SELECT people FROM people").fetchone() is not None
    with connection.cursor() as cursor, cursor.copy("COPY people TO STDOUT (FORMAT binary)") as out:
        data = b"".join(out)
    connection.execute("TRUNCATE people")
    with connection.cursor() as cursor, cursor.copy("COPY people FROM STDIN (FORMAT binary)") as into:
        into.write(data)
    assert connection.execute("SELECT m, p, b::text, i::text FROM people").fetchone() == (
        mood.enum["happy"],
        pair.python_type(2, "b c"),
        "101",
        "::1/64",
    )
