"""Laying out local clusters: impossible wishes are refused with a message that says what to do."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from pydistdb_tools.cli import main
from pydistdb_tools.first_shards import circle
from pydistdb_tools.local_cluster import (
    ClusterError,
    LocalCluster,
    LocalNode,
    free_base_port,
    is_replicated,
    node_environment,
    parse_localities,
    plan_cluster,
)
from pydistdb_tools.status import cluster_report, raft_report, topology_report


def test_ports_follow_the_base_port(tmp_path: Path) -> None:
    base = free_base_port(31_000, 3)
    cluster = plan_cluster(tmp_path, 3, 3, base)
    assert [node.sql_port for node in cluster.nodes] == [base, base + 1, base + 2]
    assert cluster.nodes[2].url == f"postgresql://postgres@127.0.0.1:{base + 2}/postgres"


@pytest.mark.parametrize(
    ("nodes", "factor", "port", "message"),
    [
        (0, 1, 5433, "--nodes must be"),
        (3, 4, 5433, "--replication-factor must be between 1 and the number of nodes"),
        (3, 3, 70000, "--base-port must be"),
    ],
)
def test_impossible_numbers(tmp_path: Path, nodes: int, factor: int, port: int, message: str) -> None:
    with pytest.raises(ClusterError, match=message):
        plan_cluster(tmp_path, nodes, factor, port)


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    base = free_base_port(31_000, 1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", base + 100))
        with pytest.raises(ClusterError, match=f"port {base + 100} is in use"):
            plan_cluster(tmp_path, 1, 1, base)


def test_the_file_comes_back_as_it_went(tmp_path: Path) -> None:
    cluster = plan_cluster(tmp_path, 2, 1, free_base_port(31_000, 2))
    cluster.save()
    assert LocalCluster.load(tmp_path) == cluster


def test_a_recycled_pid_is_not_ours() -> None:
    node = LocalNode("n", 1, 2, 3, "store", "log", pid=os.getpid(), started=1)
    assert not node.running


def test_localities_are_given_per_node_or_as_zones(tmp_path: Path) -> None:
    assert parse_localities(["region=eu,zone=a", "region=us"]) == ["region=eu,zone=a", "region=us"]
    zones = parse_localities(["us-east-1a,us-east-1b, eu"])
    assert zones == ["region=us-east-1,zone=us-east-1a", "region=us-east-1,zone=us-east-1b", "region=eu,zone=eu"]
    cluster = plan_cluster(tmp_path, 3, 3, free_base_port(31_000, 3), zones[:2])
    assert [node.locality for node in cluster.nodes] == [zones[0], zones[1], zones[0]]
    for wrong in ("", "a=b,c", "c,a=b"):
        with pytest.raises(ClusterError, match="--locality"):
            parse_localities([wrong])


def test_neighbours_in_the_circle_are_far_from_each_other() -> None:
    def node(number: int, *place: tuple[str, str]) -> dict[str, object]:
        return {"id": number, "locality": dict(place)}

    regions = [node(n, ("region", r)) for n, r in enumerate(["us", "us", "us", "eu", "eu", "ap"], 1)]
    assert circle(regions) == [1, 4, 6, 2, 5, 3]
    assert circle([node(1), node(2), node(3)]) == [1, 2, 3]


def test_nodes_share_their_bytecode_where_python_may_not_leave_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr("sys.pycache_prefix", None)
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", "/elsewhere")
    assert node_environment(tmp_path)["PYTHONPYCACHEPREFIX"] == "/elsewhere"
    monkeypatch.delenv("PYTHONPYCACHEPREFIX")
    found = node_environment(tmp_path)
    assert found["PYTHONPYCACHEPREFIX"].startswith(str(tmp_path)) and "PYTHONDONTWRITEBYTECODE" not in found
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE")
    monkeypatch.delenv("PYTHONPYCACHEPREFIX", raising=False)
    assert "PYTHONPYCACHEPREFIX" not in node_environment(tmp_path)


@pytest.mark.parametrize("content", ["", "{}", '{"nodes": [{"x": 1}], "replication_factor": 1}', "\0"])
def test_a_damaged_file_is_a_clear_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "cluster.json").write_text(content)
    with pytest.raises(ClusterError, match="is damaged"):
        LocalCluster.load(tmp_path)


def test_commands_without_a_cluster_say_how_to_make_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--dir", str(tmp_path)]) == 1
    assert "make one with: proddb init" in capsys.readouterr().err
    assert main(["sql", "--url", "postgresql://postgres@127.0.0.1:1/postgres", "-c", "SELECT 1"]) == 1
    assert "cannot connect to" in capsys.readouterr().err
    assert main(["sql", "--url", "http://127.0.0.1:8080", "-c", "SELECT 1"]) == 1
    assert "is no Postgres URL" in capsys.readouterr().err
    assert main(["slt", str(tmp_path / "nowhere")]) == 1
    assert "no such file or folder" in capsys.readouterr().err


STATUS = {
    "nodes": [
        {
            "id": number,
            "name": f"node{number}",
            "pid": 100 + number,
            "sql_address": f"127.0.0.1:{5432 + number}",
            "http_address": f"127.0.0.1:{5532 + number}",
            "rpc_address": f"127.0.0.1:{5632 + number}",
            "state": "live" if number != 3 else "dead",
        }
        for number in (1, 2, 3)
    ],
    "ranges": [
        {
            "id": 1,
            "span": "[min, max)",
            "table": None,
            "leader": 2,
            "term": 2,
            "followers": [1, 3],
            "lag": 0,
            "replicas": [
                {
                    "node_id": n,
                    "role": "leader" if n == 2 else "follower",
                    "term": 2,
                    "log_length": 2,
                    "commit_index": 2,
                }
                for n in (1, 2, 3)
            ],
        }
    ],
}


def test_the_topology_names_leader_and_followers() -> None:
    last = cluster_report(STATUS).splitlines()[-1]
    assert last.split() == ["1", "[min,", "max)", "node2", "2", "node1,", "node3", "0"]


def test_the_topology_is_a_tree_of_shards() -> None:
    nodes = [{"id": n, "name": f"node{n}", "locality": {"region": "eu", "zone": f"eu-{n}"}} for n in (1, 2)]
    shards = [
        {"id": 1, "span": "[/min, /group 1)", "table": "system", "leader": 1, "followers": [2]},
        {"id": 2, "span": "", "table": "", "leader": 2, "followers": [1]},
        {"id": 3, "span": "", "table": "users", "leader": 0, "followers": [1, 2]},
        {"id": 4, "span": "[/group 2, /max)", "table": "", "leader": 2, "followers": [1]},
    ]
    spans = [
        ("", "0500000001"),
        ("0500000001", "05000000015555"),
        ("05000000015555", "0500000002"),
        ("0500000002", "ff"),
    ]
    for shard, (start, end) in zip(shards, spans, strict=True):
        shard.update(start=start, end=end)
    assert topology_report({"nodes": nodes, "ranges": shards}).splitlines()[3:] == [
        "  ├── node1 (leader, eu-1)",
        "  └── node2 (follower, eu-2)",
        "",
        "Shard 2 (range: 0x0000-0x5555)",
        "  ├── node2 (leader, eu-2)",
        "  └── node1 (follower, eu-1)",
        "",
        "Shard 3 (range: 0x5555-0xFFFF, users)",
        "  ├── (none) (leader)",
        "  ├── node1 (follower, eu-1)",
        "  └── node2 (follower, eu-2)",
        "",
        "Shard 4 (keys from /group 2 on)",
        "  ├── node2 (leader, eu-2)",
        "  └── node1 (follower, eu-1)",
    ]


def test_the_raft_report_shows_each_replica() -> None:
    lines = raft_report(STATUS).splitlines()
    assert lines[0] == "Range 1 [min, max)  leader node2 (term=2)"
    assert lines[1].split() == ["Node", "State", "Term", "Log", "Length", "Commit", "Index"]
    assert [line.split() for line in lines[3:]] == [
        ["node1", "Follower", "2", "2", "2"],
        ["node2", "Leader", "2", "2", "2"],
        ["node3", "(down)"],
    ]


def test_a_range_with_a_learner_is_not_replicated_yet() -> None:
    """It could not bear the loss of one node more than before."""

    def replicated(*roles: str, leader: int = 1) -> bool:
        return is_replicated({"leader": leader, "replicas": [{"role": role} for role in roles]}, 3)

    assert replicated("leader", "follower", "follower")
    assert not replicated("leader", "follower", "learner")
    assert not replicated("leader", "follower")
    assert not replicated("follower", "follower", "follower", leader=0)
    assert not replicated("leader", "follower", "follower", "learner")
