"""What dropped tables were cut into does not stay: neither on one node nor where several nodes lead the ranges."""

from __future__ import annotations

import time

import psycopg
from pydistdb_tools.local_cluster import LocalCluster

PATIENCE_SECONDS = 40


def starts(connection: psycopg.Connection[tuple[str]]) -> set[str]:
    return {row[0] for row in connection.execute("SELECT start_key::text FROM proddb.ranges")}


def test_ranges_go_with_their_tables(three_nodes: LocalCluster) -> None:
    url = three_nodes.nodes[0].url
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("CREATE DATABASE dropped")
        before = starts(admin)
        database = url.rsplit("/", 1)[0] + "/dropped"
        with psycopg.connect(database, autocommit=True, options="-c pydistdb.split_new_tables=on") as connection:
            connection.execute("CREATE TABLE kept (a int PRIMARY KEY)")
            connection.execute("INSERT INTO kept SELECT generate_series(1, 30)")
            with_kept = starts(admin)
            connection.execute("CREATE TABLE gone (a int PRIMARY KEY, b text UNIQUE, c int)")
            connection.execute("INSERT INTO gone SELECT i, i::text, i FROM generate_series(1, 30) i")
            connection.execute("CREATE TABLE sharded (a int PRIMARY KEY) SHARD BY HASH (a) SHARDS 5")
            connection.execute(
                "CREATE TABLE listed (a text) SHARD BY LIST (a) (SHARD x VALUES ('x'), SHARD rest DEFAULT)"
            )
            connection.execute("BEGIN; CREATE TABLE undone (a int PRIMARY KEY); ROLLBACK")
            assert len(starts(admin)) > len(with_kept) + 20
            connection.execute("DROP TABLE gone, listed")
            assert connection.execute("SELECT count(*), sum(a) FROM kept").fetchone() == (30, 465)
        admin.execute("DROP DATABASE dropped WITH (FORCE)")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (left := starts(admin)) - before and time.monotonic() < deadline:
            time.sleep(0.5)
        assert not left - before
