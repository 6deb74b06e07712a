"""What pydistdb_internal shows of this node: the server's answers.

``register`` hands them to pydistdb.sql.pg_catalog.providers, which the system tables ask.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydistdb.sql.clock import POSTGRES_EPOCH_US
from pydistdb.sql.pg_catalog import providers
from pydistdb.sql.pg_catalog.providers import NodeInfo, RangeRow

if TYPE_CHECKING:
    from pydistdb_server.node import Node


def register(node: Node) -> None:
    """Let the system tables ask this node."""
    providers.nodes = lambda: _nodes(node)
    providers.ranges = lambda: _ranges(node)


def _nodes(node: Node) -> Iterable[NodeInfo]:
    for status in node.store.status().nodes:
        yield NodeInfo(
            status.node_id,
            status.address,
            status.state == "live",
            ",".join(f"{key}={value}" for key, value in status.locality),
            status.replica_count,
            status.lease_count,
            status.started_us - POSTGRES_EPOCH_US if status.started_us else None,
            status.name,
            status.sql_address,
            status.http_address,
        )


def _ranges(node: Node) -> Iterable[RangeRow]:
    """The ranges that have a replica on this node; SHOW RANGES asks the whole cluster."""
    for status in node.store.status().ranges:
        yield RangeRow(
            status.range_id,
            status.start,
            status.end,
            status.leader,
            tuple(member for member, _, _ in status.replicas),
            status.term,
        )
