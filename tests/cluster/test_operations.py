"""Schema proddb on real nodes."""

from __future__ import annotations

import psycopg
import pytest
from pydistdb_tools.local_cluster import LocalCluster


def _rows(cluster: LocalCluster, text: str, node: int = 0) -> list[tuple[object, ...]]:
    with psycopg.connect(cluster.nodes[node].url, autocommit=True) as connection:
        return connection.execute(text).fetchall()


def test_every_node_shows_and_does_the_same(three_nodes: LocalCluster) -> None:
    with psycopg.connect(three_nodes.nodes[0].url, autocommit=True) as connection:
        connection.execute("CREATE TABLE sized (id int8 PRIMARY KEY, v text)")
        connection.execute("INSERT INTO sized SELECT g, repeat('x', 100) FROM generate_series(1, 2000) g")
        connection.execute("SELECT proddb.split_at('sized', '0')")
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
