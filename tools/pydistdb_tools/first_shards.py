"""The shards that a new local cluster has before its first table: ``proddb init`` cuts them, and lays them out over the nodes.

Tables that are sharded by the hash of an integer share a colocation group (docs/sql.md).  Its key space is cut at once, one
shard per node.  All are on the same few nodes then; placement would even that out by and by, each node a little at a time so
that nothing is copied in vain.  Here it is known from the beginning what is wanted: nodes in a circle, neighbours as far
from each other as they can be, and each shard on one node and those behind it::

    circle 1 4 7 2 5 8 3 6 9                  (1 2 3 are in one region, 4 5 6 in another, 7 8 9 in a third)
    [0000, 1c71) on 1 2 3, led by 1           [0000, 1c71) on 1 4 7, led by 1
    [1c71, 38e3) on 1 2 3, led by 1     ──►   [1c71, 38e3) on 4 7 2, led by 4
    …                                         …
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from typing import Any

import psycopg

from pydistdb_tools.local_cluster import LocalCluster, Report, is_replicated, until, wait_replicated
from pydistdb_tools.remote import connect

SPREAD_SECONDS = 6.0
"""How long placement is given for the rest before the shards are shown as they are; it goes on afterwards."""
MOVE_SECONDS = 8
SHARDS_AT_ONCE = 4
HASHED = "05"
"""What the keys of hash-sharded tables begin with."""


def prepare_shards(cluster: LocalCluster, report: Report) -> dict[str, Any]:
    """Cut the shards of the tables to come that are sharded by an integer's hash, one per node, and see them spread."""
    if len(cluster.nodes) == 1:
        return cluster.status()
    with connect(cluster.nodes[0].url) as connection:
        # What is cut belongs to the colocation group, and outlives the table that founded it.
        connection.execute(
            "BEGIN; CREATE TABLE proddb_first_table (id bigint PRIMARY KEY) SHARD BY HASH (id);"
            "DROP TABLE proddb_first_table; COMMIT"
        )
    wait_replicated(cluster, report)
    _lay_out(cluster)
    status = cluster.status()
    for _ in until(SPREAD_SECONDS):
        counts = [node["replicas"] for node in status["nodes"]]
        leases = [node["leases"] for node in status["nodes"]]
        if max(counts) - min(counts) <= 2 and max(leases) - min(leases) <= 2 and _is_settled(status, cluster):
            break
        status = cluster.status()
    hashed = [item for item in status["ranges"] if item["start"].startswith(HASHED)]
    report(f"[INFO] Initial shards: {len(hashed) - 1} ({cluster.replication_factor} replicas each)")
    return status


def circle(nodes: Sequence[Mapping[str, Any]]) -> list[int]:
    """The nodes' ids, those of one region as far from each other as they can be."""
    regions: dict[str, list[int]] = {}
    for node in nodes:
        regions.setdefault(node["locality"].get("region", ""), []).append(node["id"])
    rounds = zip_longest(*regions.values())
    return [node_id for each in rounds for node_id in each if node_id is not None]


def _lay_out(cluster: LocalCluster) -> None:
    status = cluster.status()
    order = circle(status["nodes"])
    hashed = [item for item in status["ranges"] if item["start"].startswith(HASHED)][: len(order)]
    wanted = [(order[place:] + order[:place])[: cluster.replication_factor] for place in range(len(hashed))]
    with ThreadPoolExecutor(SHARDS_AT_ONCE) as pool:
        list(pool.map(lambda item, nodes: _move(cluster.nodes[0].url, item, nodes), hashed, wanted))


def _move(url: str, item: Mapping[str, Any], wanted: Sequence[int]) -> None:
    """Bring a shard to the nodes it is to be on, led by the first of them."""
    present = [replica["node_id"] for replica in item["replicas"]]
    leaving = [node for node in present if node not in wanted]
    coming = [node for node in wanted if node not in present]
    try:
        with connect(url) as connection:
            connection.execute(f"SET statement_timeout = '{MOVE_SECONDS}s'")  # placement may be at the same shard
            for away, to in zip(leaving, coming, strict=False):
                connection.execute("SELECT proddb.move_replica(%s, %s, %s)", (item["id"], away, to))
            connection.execute("SELECT proddb.move_lease(%s, %s)", (item["id"], wanted[0]))
    except psycopg.Error:
        pass  # placement was faster: it sees to the rest as well


def _is_settled(status: dict[str, Any], cluster: LocalCluster) -> bool:
    return all(is_replicated(item, cluster.replication_factor) for item in status["ranges"])
