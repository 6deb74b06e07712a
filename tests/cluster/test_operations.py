"""Schema proddb on real nodes, and the commands that print it."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from pathlib import Path

import psycopg
import pytest
from pydistdb_tools.cli import main
from pydistdb_tools.failover import simulate
from pydistdb_tools.local_cluster import LocalCluster, stop_cluster

from tests.cluster.conftest import make_cluster


def _rows(cluster: LocalCluster, text: str, node: int = 0) -> list[tuple[object, ...]]:
    with psycopg.connect(cluster.nodes[node].url, autocommit=True) as connection:
        return connection.execute(text).fetchall()


def test_any_node_shows_the_whole_cluster_to_people(three_nodes: LocalCluster) -> None:
    with psycopg.connect(three_nodes.nodes[0].url, autocommit=True) as connection:
        connection.execute("CREATE TABLE watched (id int PRIMARY KEY)")
        connection.execute("INSERT INTO watched SELECT generate_series(1, 10)")
        connection.execute("SELECT proddb.split_at('watched', %s)", ("5",))
        for _ in range(3):
            connection.execute("SELECT count(*) FROM watched AS seen_from_afar")
    found = "SELECT calls, rows FROM proddb.statements WHERE query LIKE '%seen_from_afar'"
    assert _rows(three_nodes, found, 1) == [(3, 3)]
    assert _rows(three_nodes, "SELECT count(*) FROM proddb.transactions_in_doubt WHERE state = 'unknown'", 2) == [(0,)]
    base = f"http://127.0.0.1:{three_nodes.nodes[2].http_port}/console"

    def page(path: str) -> str:
        with urllib.request.urlopen(base + path, timeout=10) as answer:
            return str(answer.read().decode())

    assert {"node1", "node2", "node3"} <= set(re.findall(r">(node\d)<", page("/nodes")))
    assert "3 of 3" in page("")
    assert "watched/5" in page("/ranges?find=watched")
    statements = page("/statements?find=seen_from_afar")
    link = re.search(r'href="/console(/statement\?id=[-.\d]+)"', statements)
    assert link and "Aggregate" in page(link[1])
    assert _rows(three_nodes, "SELECT pg_stat_statements_reset()", 1) == [("",)]
    while "No statement fits" not in page("/statements?find=seen_from_afar"):
        time.sleep(0.1)  # a node without processor time does it when it comes to it


def test_every_node_shows_and_does_the_same(three_nodes: LocalCluster) -> None:
    with psycopg.connect(three_nodes.nodes[0].url, autocommit=True) as connection:
        connection.execute("CREATE TABLE sized (id int8 PRIMARY KEY, v text)")
        connection.execute("INSERT INTO sized SELECT g, repeat('x', 100) FROM generate_series(1, 2000) g")
        connection.execute("SELECT proddb.split_at('sized', %s)", (0,))
    found = "SELECT range_id, keys, bytes > 200000 FROM proddb.ranges WHERE tables = 'sized' ORDER BY start_key"
    for node in range(3):
        ((range_id, keys, is_large),) = _rows(three_nodes, found, node)
        assert (keys, is_large) == (2000, True)
    ((right,),) = _rows(three_nodes, f"SELECT proddb.split_range({range_id})", 2)
    parts = _rows(three_nodes, found, 1)
    assert [row[0] for row in parts] == [range_id, right]
    assert [900 < int(str(row[1])) < 1100 for row in parts] == [True, True]
    ((leaseholder,),) = _rows(three_nodes, f"SELECT leaseholder FROM proddb.ranges WHERE range_id = {right}")
    target = int(str(leaseholder)) % 3 + 1
    _rows(three_nodes, f"SELECT proddb.move_lease({right}, {target})")
    assert _rows(three_nodes, f"SELECT leaseholder FROM proddb.ranges WHERE range_id = {right}", 1) == [(target,)]
    assert _rows(three_nodes, "SELECT DISTINCT status FROM proddb.doctor", 2) == [("ok",)]
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="2 nodes would remain"):
        _rows(three_nodes, "SELECT proddb.decommission(2)")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("split_at('odd', 'x')", 'invalid input syntax for type bigint: "x"'),
        ("split_at('odd', '1', 'b', 'c')", 'a split of table "odd" needs 1 to 2 values, and no NULLs'),
        ("split_at('odd', 1, 'b', 'c')", 'a split of table "odd" needs 1 to 2 values, and no NULLs'),
        ("split_at('keyed')", "function proddb.split_at(unknown) does not exist"),
        ("split_at('keyed', 1, 2)", 'a split of table "keyed" needs 1 value, and no NULLs'),
        ("split_at('odd', NULL)", 'a split of table "odd" needs 1 to 2 values, and no NULLs'),
        ("split_at('spread', '1')", 'a split of table "spread" needs 2 values, and no NULLs'),
        ("split_at('keyless', '1')", 'table "keyless" has no primary key to split it at'),
        ("split_at('seen', '1')", '"seen" is not a table or materialized view'),
        ("split_at('pg_class', '1')", "relation with OID 1259 does not exist"),
        ("split_at('nowhere', '1')", 'relation "nowhere" does not exist'),
        ("split_range(-1)", "there is no range -1"),
        ("move_lease(1, 0)", "there is no node 0"),
        ("move_replica(1, 1, 1)", "node 1 has a replica of range 1 already"),
        ("decommission(1)", "node 1 cannot leave: 0 nodes would remain, and every range has 1 replicas"),
    ],
)
def test_what_cannot_be_done_is_said(one_node: LocalCluster, call: str, message: str) -> None:
    with psycopg.connect(one_node.nodes[0].url, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS odd (a int8, b text, PRIMARY KEY (a, b))")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS spread (a int8, b text, PRIMARY KEY (a, b)) SHARD BY HASH (a, b)"
        )
        connection.execute("CREATE TABLE IF NOT EXISTS keyless (a int8)")
        connection.execute("CREATE TABLE IF NOT EXISTS keyed (a date PRIMARY KEY)")
        connection.execute("CREATE OR REPLACE VIEW seen AS SELECT 1 AS one")
        with pytest.raises(psycopg.Error) as caught:
            connection.execute(f"SELECT proddb.{call}")
        assert caught.value.diag.message_primary == message
        same = "SELECT proddb.split_at('odd', '7') = proddb.split_at('odd', 7), proddb.split_at('keyed', DATE '2026-01-01') > 0"
        assert connection.execute(same).fetchone() == (True, True)
        assert connection.execute("SELECT proddb.split_at(NULL::regclass, 7)").fetchone() == (None,)


def test_only_monitors_look_and_only_superusers_act(three_nodes: LocalCluster) -> None:
    with psycopg.connect(three_nodes.nodes[0].url, autocommit=True) as connection:
        connection.execute("CREATE ROLE watcher IN ROLE pg_monitor")
        connection.execute("CREATE ROLE stranger")
        connection.execute("SET ROLE watcher")
        assert connection.execute("SELECT count(*) FROM proddb.nodes").fetchone() == (3,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match=r"must be superuser to call proddb\.drain"):
            connection.execute("SELECT proddb.drain(1)")
        connection.execute("SET ROLE stranger")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for table nodes"):
            connection.execute("SELECT * FROM proddb.nodes")


def test_the_commands_print_what_sql_tells(three_nodes: LocalCluster, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> list[dict[str, object]]:
        status = main([*arguments, "--format", "json", "--url", three_nodes.nodes[1].url])
        assert status == 0, capsys.readouterr()
        found = json.loads(capsys.readouterr().out)
        return found if isinstance(found, list) else [found]

    with psycopg.connect(three_nodes.nodes[0].url, autocommit=True) as connection:
        connection.execute("CREATE TABLE printed (a text, b int8, PRIMARY KEY (a, b))")
        connection.execute("INSERT INTO printed SELECT 'k' || g % 10, g FROM generate_series(1, 100) g")
    assert {row["node_name"] for row in run("node", "ls")} == {"node1", "node2", "node3"}
    (split,) = run("admin", "split", "--table", "printed", "--key", "k5")
    found = {row["range_id"]: row["keys"] for row in run("admin", "shards")}
    assert found[split["range_id"]] == 50
    ((leaseholder,),) = _rows(
        three_nodes, f"SELECT leaseholder FROM proddb.ranges WHERE range_id = {split['range_id']}"
    )
    target = int(str(leaseholder)) % 3 + 1
    run("admin", "move-lease", "--range", str(split["range_id"]), "--to", f"Node{target}")
    assert {row["status"] for row in run("admin", "doctor")} == {"ok"}
    assert main(["admin", "rebalance", "--check", "--url", three_nodes.nodes[2].url]) == 0
    assert capsys.readouterr().out.startswith("Shard Balance Analysis\n===")
    assert main(["node", "decommission", "node1", "--url", three_nodes.nodes[2].url]) == 1
    assert "2 nodes would remain" in capsys.readouterr().err
    assert main(["node", "drain", "node9", "--url", three_nodes.nodes[2].url]) == 1
    assert "there is no node node9; there are node1 (1)" in capsys.readouterr().err


def test_a_simulated_failover_loses_nothing(fresh_three_nodes: LocalCluster) -> None:
    said: list[str] = []
    outcome = simulate(fresh_three_nodes, "node2", False, said.append)
    assert outcome.is_good, said
    assert outcome.elections and all(election.leader != "node2" for election in outcome.elections)
    assert outcome.acknowledged > 0 and 0 < outcome.gap_seconds < 15
    assert said[-1] == "Cluster healthy, no data loss"
    assert all(node.running for node in fresh_three_nodes.nodes)


def test_a_node_leaves_a_cluster_of_four(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = make_cluster(tmp_path, 4, replication_factor=3)
    try:
        with psycopg.connect(cluster.nodes[0].url, autocommit=True) as connection:
            connection.execute("CREATE TABLE kept (id int8 PRIMARY KEY) SHARD BY HASH (id)")
            connection.execute("INSERT INTO kept SELECT generate_series(1, 500)")
        time.sleep(2)
        assert main(["node", "decommission", "node1", "--url", cluster.nodes[1].url]) == 0
        assert "node1 has no replicas any more" in capsys.readouterr().out
        replicas = _rows(cluster, "SELECT replicas FROM proddb.ranges", 1)
        assert all(sorted(nodes) == [2, 3, 4] for (nodes,) in replicas)  # type: ignore[call-overload]
        assert _rows(cluster, "SELECT mode FROM proddb.nodes WHERE node_id = 1", 2) == [("decommissioned",)]
        assert _rows(cluster, "SELECT count(*) FROM kept", 0) == [(500,)]
    finally:
        stop_cluster(cluster, print)
