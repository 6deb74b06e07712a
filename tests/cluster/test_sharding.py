"""Shards that are bound to places, and a table that is re-sharded, on real nodes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from pydistdb_tools.local_cluster import (
    LocalCluster,
    free_base_port,
    plan_cluster,
    start_cluster,
    stop_cluster,
)

from tests.cluster.conftest import _FIRST_PORT, make_cluster

REGIONS = ["region=us,zone=a", "region=us,zone=b", "region=us,zone=c", "region=eu,zone=a"]


@pytest.fixture(scope="module")
def two_regions(tmp_path_factory: pytest.TempPathFactory) -> object:
    folder: Path = tmp_path_factory.mktemp("regions")
    cluster = plan_cluster(folder, 4, 3, free_base_port(_FIRST_PORT, 4), REGIONS)
    try:
        start_cluster(cluster, print)
        yield cluster
    finally:
        stop_cluster(cluster, print)


def _rows(cluster: LocalCluster, text: str, node: int = 0) -> list[tuple[object, ...]]:
    with psycopg.connect(cluster.nodes[node].url, autocommit=True) as connection:
        return connection.execute(text).fetchall()


def _names(cluster: LocalCluster) -> dict[object, str]:
    """Nodes take their numbers in the order in which they join."""
    return {node["id"]: node["name"] for node in cluster.status()["nodes"]}


def _until(found: Callable[[], object], wanted: object, pause: float = 0.2) -> None:
    deadline = time.monotonic() + 60
    while (seen := found()) != wanted:
        assert time.monotonic() < deadline, seen
        time.sleep(pause)


def test_a_placed_shard_lies_at_its_place_and_stays_there(two_regions: LocalCluster) -> None:
    with psycopg.connect(two_regions.nodes[0].url, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE people (id int8, country text, PRIMARY KEY (country, id)) SHARD BY LIST (country) ("
            "SHARD eu VALUES ('de', 'fr') PLACED IN (region 'eu'), "
            "SHARD us VALUES ('us') PLACED IN (region = 'us', zone = 'b'), SHARD rest DEFAULT)"
        )
        connection.execute(
            "INSERT INTO people SELECT g, c FROM generate_series(1, 50) g, unnest('{de,us,jp}'::text[]) c"
        )
        connection.execute("CREATE TABLE pets (id int8, country text) SHARD BY LIST (country) COLOCATE WITH people")
        connection.execute("INSERT INTO pets SELECT id, country FROM people WHERE id < 10")
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="no node is in region mars"):
            connection.execute(
                "CREATE TABLE x (a text) SHARD BY LIST (a) (SHARD m VALUES ('m') PLACED IN (region 'mars'))"
            )

    names = _names(two_regions)

    def places() -> dict[object, list[str]]:
        found = _rows(two_regions, "SELECT start_pretty, replicas FROM proddb.ranges WHERE tables LIKE '%people%'", 1)
        return {name: sorted(map(names.get, replicas)) for name, replicas in found if "/shard" in str(name)}  # type: ignore

    _until(
        lambda: {shard: places().get(f"people+pets/shard {shard}") for shard in ("eu", "us")},
        {"eu": ["node4"], "us": ["node2"]},
    )
    assert len(places()["people+pets/shard rest"]) == 3
    eu, us = (next(number for number, name in names.items() if name == wanted) for wanted in ("node4", "node2"))
    # A part that is cut off belongs to the shard still; what people ask for does not override the rule.
    ((right,),) = _rows(two_regions, "SELECT proddb.split_at('people', 'de', '25')")
    assert _rows(two_regions, f"SELECT replicas FROM proddb.ranges WHERE range_id = {right}") == [([eu],)]
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="placed elsewhere"):
        _rows(two_regions, f"SELECT proddb.move_replica({right}, {eu}, {us})")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="a shard that is placed"):
        _rows(two_regions, f"SELECT proddb.merge_range({right})")
    plan = [str(line) for (line,) in _rows(two_regions, "EXPLAIN SELECT * FROM people WHERE country = 'fr'", 2)]
    assert any("Shards: eu (1 of 3)" in line for line in plan) and any(f"leaders: node {eu}" in line for line in plan)
    plan = [str(line) for (line,) in _rows(two_regions, "EXPLAIN SELECT * FROM pets WHERE country = 'fr'", 2)]
    assert any(f"leaders: node {eu}" in line for line in plan), "what is colocated is placed alike"
    assert _rows(two_regions, "SELECT count(*) FROM pets WHERE country = 'us'", 1) == [(9,)]
    counted = _rows(two_regions, "SELECT country, count(*) FROM people GROUP BY 1 ORDER BY 1", 2)
    assert counted == [("de", 50), ("jp", 50), ("us", 50)]


def test_every_node_has_a_copy_of_a_reference_table_and_reads_it(two_regions: LocalCluster) -> None:
    with psycopg.connect(two_regions.nodes[0].url, autocommit=True) as connection:
        connection.execute("CREATE TABLE codes (code text PRIMARY KEY, name text) SHARD BY REFERENCE")
        connection.execute("INSERT INTO codes VALUES ('de', 'Germany'), ('fr', 'France')")
    copies = "SELECT cardinality(replicas), cardinality(learners) FROM proddb.ranges WHERE tables = 'codes'"
    _until(lambda: _rows(two_regions, copies), [(3, 1)])
    ((replicas,),) = _rows(two_regions, "SELECT replicas FROM proddb.ranges WHERE tables = 'codes'")
    outside, name = next(each for each in _names(two_regions).items() if each[0] not in replicas)  # type: ignore
    there = next(node for node in two_regions.nodes if node.name == name)
    options = "-c proddb.read_consistency=bounded(1min)"
    with psycopg.connect(there.url, autocommit=True, options=options) as reader:

        def served() -> bool:
            shown = reader.execute("EXPLAIN (ANALYZE) SELECT * FROM codes").fetchall()
            return any(f"Reads Served By: node {outside}" in str(line) for (line,) in shown)

        _until(served, True)
        names = "SELECT name FROM codes ORDER BY 1"
        _until(lambda: reader.execute(names).fetchall(), [("France",), ("Germany",)])
    jobs = "SELECT count(*) FROM proddb.jobs WHERE kind = 'add replica' AND subject IN "
    assert _rows(two_regions, jobs + "(SELECT 'range ' || range_id FROM proddb.ranges WHERE tables = 'codes')") == [
        (0,)
    ]
    # TRUNCATE gives it new storage, of which every node gets a copy as well.
    with psycopg.connect(two_regions.nodes[1].url, autocommit=True) as connection:
        connection.execute("TRUNCATE codes")
        connection.execute("INSERT INTO codes VALUES ('it', 'Italy')")
    _until(lambda: _rows(two_regions, copies), [(3, 1)])
    assert _rows(two_regions, "SELECT status FROM proddb.doctor WHERE area = 'checksums'", 2) == [("ok",)]


def test_a_node_killed_in_mid_migration_is_taken_over(tmp_path: Path) -> None:
    cluster = make_cluster(tmp_path, 3)
    try:
        with psycopg.connect(cluster.nodes[0].url, autocommit=True) as connection:
            connection.execute("CREATE TABLE moved (id int8 PRIMARY KEY, v int8, t text)")
            connection.execute("CREATE INDEX ON moved (t)")
            connection.execute("INSERT INTO moved SELECT g, g, 'x' || g % 100 FROM generate_series(1, 30000) g")
        victim, other = cluster.nodes[2], cluster.nodes[1]

        def alter() -> None:
            try:
                with psycopg.connect(victim.url, autocommit=True) as connection:
                    connection.execute("ALTER TABLE moved SHARD BY HASH (v) SHARDS 4")
            except psycopg.OperationalError:
                pass  # its node dies

        altering = threading.Thread(target=alter)
        altering.start()
        copied = "SELECT state FROM proddb.jobs WHERE kind = 're-shard'"
        _until(lambda: _rows(cluster, copied, 1), [("copying",)], 0.02)
        os.kill(victim.pid, signal.SIGKILL)
        altering.join(30)
        sum_of = "SELECT count(*), sum(v) FROM moved"
        wanted = 30_000, sum(range(1, 30_001))
        with psycopg.connect(other.url, autocommit=True) as connection:
            for number in range(20):
                connection.execute("INSERT INTO moved VALUES (%s, %s, 'new')", (40_000 + number, number))
                connection.execute("UPDATE moved SET v = v + 1 WHERE id = %s", (number * 1_250 + 1,))
        wanted = wanted[0] + 20, wanted[1] + sum(range(20)) + 20
        _until(
            lambda: _rows(cluster, "SELECT reloptions FROM pg_class WHERE relname = 'moved'", 1),
            [(["shard_by=HASH (v) SHARDS 4"],)],
        )
        for node in (0, 1):
            assert _rows(cluster, sum_of, node) == [wanted]
            by_index = "SELECT count(*) FROM moved WHERE t = 'new' AND v BETWEEN 0 AND 100"
            assert _rows(cluster, by_index, node) == [(20,)]
        assert _rows(cluster, "SELECT v FROM moved WHERE id = 2501", 1) == [(2502,)]
        _until(lambda: _rows(cluster, "SELECT count(*) FROM proddb.jobs WHERE kind = 're-shard'", 1), [(0,)])
    finally:
        stop_cluster(cluster, print)
