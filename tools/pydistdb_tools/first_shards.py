"""The shards that a new local cluster has before its first table: ``proddb init`` cuts them and shows how they spread.

Tables that are sharded by the hash of an integer share a colocation group (docs/sql.md).  Its key space is cut at once, one
shard per node, and placement carries replicas and leases from the nodes that were there first to all of them::

    [0000, 5555) on 1 2 3, led by 1                 [0000, 5555) on 1 4 7, led by 1
    [5555, aaaa) on 1 2 3, led by 1      ──►        [5555, aaaa) on 2 5 8, led by 5
    [aaaa, ffff] on 1 2 3, led by 1                 [aaaa, ffff] on 3 6 9, led by 9
"""

from __future__ import annotations

from typing import Any

from pydistdb_tools.local_cluster import LocalCluster, Report, is_replicated, until, wait_replicated
from pydistdb_tools.remote import connect

SPREAD_SECONDS = 6.0
"""How long the shards are given to spread before they are shown as they are; they go on afterwards."""


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
    status = cluster.status()
    for _ in until(SPREAD_SECONDS):
        counts = [node["replicas"] for node in status["nodes"]]
        leases = [node["leases"] for node in status["nodes"]]
        if max(counts) - min(counts) <= 2 and max(leases) - min(leases) <= 2 and _is_settled(status, cluster):
            break
        status = cluster.status()
    hashed = [item for item in status["ranges"] if item["start"].startswith("05")]
    report(f"[INFO] Initial shards: {len(hashed) - 1} ({cluster.replication_factor} replicas each)")
    return status


def _is_settled(status: dict[str, Any], cluster: LocalCluster) -> bool:
    return all(is_replicated(item, cluster.replication_factor) for item in status["ranges"])
