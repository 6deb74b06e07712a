"""``/metrics``: the node's counters in Prometheus's text format (version 0.0.4)."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydistdb_server.rpc_stream import RpcStream

if TYPE_CHECKING:
    from pydistdb_server.node import Node

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Sample = tuple[str, str, float]
"""name, kind (counter or gauge), value."""


def render(samples: Iterable[Sample]) -> bytes:
    """The exposition of samples without labels."""
    lines = []
    for name, kind, value in samples:
        lines.append(f"# TYPE pydistdb_{name} {kind}")
        lines.append(f"pydistdb_{name} {value:.15g}")
    return ("\n".join(lines) + "\n").encode()


def node_samples(node: Node) -> Iterable[Sample]:
    """Everything worth watching on a node."""
    usage = time.process_time()
    yield "cpu_seconds_total", "counter", usage
    yield "sql_connections", "gauge", len(node.clients.clients)
    yield "sql_connections_total", "counter", node.clients.connections_total
    statistics = node.environment.statistics
    for name, value in dataclasses.asdict(statistics).items():
        yield f"sql_{name}_total", "counter", value
    plans = node.environment.plans
    yield "plan_cache_entries", "gauge", len(plans)
    yield "plan_cache_hits_total", "counter", plans.hits
    yield "plan_cache_misses_total", "counter", plans.misses
    yield "commit_groups_total", "counter", node.committer.groups
    yield "commit_batches_total", "counter", node.committer.batches
    yield "commit_busy_seconds_total", "counter", node.committer.busy_ns / 1e9
    yield "commit_queue", "gauge", node.committer.queued
    yield "loop_passes_total", "counter", node.loop.passes
    yield "loop_sleeps_total", "counter", node.loop.sleeps
    yield "rpc_received_bytes_total", "counter", RpcStream.received_bytes
    yield "store_bytes", "gauge", node.engine.size_bytes()
    yield "store_waiting_bytes", "gauge", node.engine.waiting_bytes
    yield "store_checkpoints_total", "counter", node.engine.checkpoints
    yield "ranges", "gauge", len(node.store.replicas)
    yield "leases", "gauge", len(node.store.leased_replicas())
    for name, value in node.store.metric_values().items():
        yield f"kv_{name}_total", "counter", value
