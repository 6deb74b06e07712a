"""The customer's first session, through psql and through the shell, on every node."""

from __future__ import annotations

import json
import subprocess
import sys

import psycopg
import pytest
from pydistdb_tools.local_cluster import LocalCluster

ORDERS_BY_USER = (
    "CREATE TABLE orders (id BIGINT, user_id BIGINT REFERENCES users(id), amount DECIMAL, status TEXT,"
    " PRIMARY KEY (user_id, id)) SHARD BY HASH(user_id);"
)
ORDERS_BY_ID = (
    "CREATE TABLE orders (id BIGINT PRIMARY KEY, user_id BIGINT REFERENCES users(id), amount DECIMAL, status TEXT)"
    " SHARD BY HASH(user_id);"
)
SESSION = """
DROP TABLE IF EXISTS orders; DROP TABLE IF EXISTS users;
CREATE TABLE users (id BIGINT PRIMARY KEY, name TEXT, email TEXT, created_at TIMESTAMP) SHARD BY HASH(id);
{orders}
INSERT INTO users VALUES (1, 'Alice', 'alice@example.com', NOW());
BEGIN;
UPDATE users SET name = 'Alicia' WHERE id = 1;
INSERT INTO orders VALUES (100, 1, 99.99, 'pending');
COMMIT;
SELECT u.name, SUM(o.amount) FROM users u JOIN orders o ON u.id = o.user_id GROUP BY u.id;
"""
TAGS = ["CREATE TABLE", "CREATE TABLE", "INSERT 0 1", "BEGIN", "UPDATE 1", "INSERT 0 1", "COMMIT"]
ANSWER = "  name  |  sum  \n--------+-------\n Alicia | 99.99\n(1 row)"


@pytest.mark.parametrize("node", [0, 1, 2])
@pytest.mark.parametrize("orders", [ORDERS_BY_USER, ORDERS_BY_ID], ids=["by user", "by id"])
@pytest.mark.parametrize("client", ["psql", "proddb"])
def test_the_first_session(three_nodes: LocalCluster, client: str, orders: str, node: int) -> None:
    url = three_nodes.nodes[node].url
    command = {
        "psql": ["psql", "-X", "-v", "ON_ERROR_STOP=1", url],
        "proddb": [sys.executable, "-m", "pydistdb_tools.entry", "sql", "--url", url],
    }[client]
    done = subprocess.run(command, input=SESSION.format(orders=orders), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if line in TAGS] == TAGS
    assert ANSWER in done.stdout


def test_a_primary_key_without_the_shard_column_is_unique_across_the_cluster(three_nodes: LocalCluster) -> None:
    with psycopg.connect(three_nodes.nodes[1].url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS wide")
        connection.execute("CREATE TABLE wide (id bigint PRIMARY KEY, owner bigint) SHARD BY HASH(owner)")
        connection.execute("INSERT INTO wide SELECT n, n * 7 FROM generate_series(1, 50) AS n")
        for owner in range(20):
            with pytest.raises(psycopg.errors.UniqueViolation) as caught:
                connection.execute("INSERT INTO wide VALUES (17, %s)", (owner,))
            assert caught.value.diag.constraint_name == "wide_pkey"
            assert caught.value.diag.message_detail == "Key (id)=(17) already exists."
        assert connection.execute("SELECT owner FROM wide WHERE id = 17").fetchone() == (119,)


def test_what_one_node_commits_the_others_read_at_once(three_nodes: LocalCluster) -> None:
    connections = [psycopg.connect(node.url, autocommit=True) for node in three_nodes.nodes]
    try:
        connections[0].execute("DROP TABLE IF EXISTS turns")
        connections[0].execute("CREATE TABLE turns (id int PRIMARY KEY, n int)")
        connections[0].execute("INSERT INTO turns VALUES (1, 0)")
        for turn in range(1, 31):
            connections[turn % 3].execute("UPDATE turns SET n = n + 1 WHERE id = 1")
            assert connections[(turn + 1) % 3].execute("SELECT n FROM turns WHERE id = 1").fetchone() == (turn,)
    finally:
        for connection in connections:
            connection.close()


def test_schema_changes_reach_every_node_before_they_return(three_nodes: LocalCluster) -> None:
    connections = [psycopg.connect(node.url, autocommit=True) for node in three_nodes.nodes]
    try:
        connections[0].execute("DROP TABLE IF EXISTS shape")
        connections[0].execute("CREATE TABLE shape (a int PRIMARY KEY)")
        connections[1].execute("INSERT INTO shape VALUES (1)")
        for number in range(6):
            connections[number % 3].execute(f"ALTER TABLE shape ADD COLUMN c{number} int DEFAULT {number}")
            row = connections[(number + 1) % 3].execute(f"SELECT c{number} FROM shape").fetchone()
            assert row == (number,)
        connections[2].execute("CREATE UNIQUE INDEX ON shape (c0)")
        with pytest.raises(psycopg.errors.UniqueViolation):
            connections[1].execute("INSERT INTO shape (a, c0) VALUES (2, 0)")
    finally:
        for connection in connections:
            connection.close()


def test_status_by_url_and_by_folder_tell_the_same(three_nodes: LocalCluster) -> None:
    found = []
    for where in (["--url", three_nodes.nodes[1].url], ["--dir", str(three_nodes.folder)]):
        command = [sys.executable, "-m", "pydistdb_tools.entry", "status", "--format", "json", *where]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        found.append(json.loads(done.stdout))
    for status in found:
        assert {node["name"] for node in status["nodes"]} == {"node1", "node2", "node3"}
        assert {(node["pid"], node["state"]) for node in status["nodes"]} == {
            (n.pid, "live") for n in three_nodes.nodes
        }
        for item in status["ranges"]:
            assert {"id", "span", "table", "leader", "term", "followers", "lag"} <= set(item)
            assert len(item["followers"]) == 2
        assert any("users" in item["table"] and "orders" in item["table"] for item in status["ranges"])
