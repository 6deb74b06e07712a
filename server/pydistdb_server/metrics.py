"""What a node measures: the table of its metrics, and where each gets its value.

``FAMILIES`` is the list that docs/operations.md repeats (a test compares them); ``samples`` fills it in.  Everything is a
counter or a state that is kept anyway: a scrape costs about 0.2 ms, and 1 ms more per thousand replicas.
"""

from __future__ import annotations

import os
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from pydistdb.sql.statement_statistics import BUCKETS_US, quantile_us

from pydistdb_server.exposition import Buckets, Family, Samples, Value
from pydistdb_server.rpc_stream import RpcStream

if TYPE_CHECKING:
    from pydistdb_server.node import Node

_BOUNDS = tuple(bound / 1e6 for bound in BUCKETS_US)
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

_TABLE = """
build_info|gauge|Always 1; labels tell version, node id, node name and cluster.
start_time_seconds|gauge|When the node began to serve, in seconds since 1970.
cpu_seconds_total|counter|Processor time of the process.
resident_memory_bytes|gauge|Memory of the process that is in RAM.
open_files|gauge|File descriptors in use.
sql_connections|gauge|Clients that are connected.
sql_connections_limit|gauge|Clients that may be connected.
sql_connections_total|counter|Clients that ever connected.
sql_sessions|gauge|Sessions by state, as in pg_stat_activity.
sql_statements_total|counter|Statements executed, by kind.
sql_statement_seconds|histogram|How long statements took, by kind. Of the shortest (rows at hand), one in 16 is timed.
sql_requests_total|counter|Statements and protocol steps begun (Parse, Bind, Execute or a simple query).
sql_fast_statements_total|counter|Statements answered at once, from a row at hand.
sql_commits_total|counter|Transactions committed.
sql_rollbacks_total|counter|Transactions rolled back.
sql_errors_total|counter|Errors sent to clients.
sql_retries_total|counter|Statements run again inside, after a conflict that the client need not see.
sql_rows_sent_total|counter|Rows sent to clients.
sql_rows_changed_total|counter|Rows inserted, updated or deleted.
sql_memory_bytes|gauge|Memory that running queries and cursors keep rows in, as they count it.
sql_memory_limit_bytes|gauge|How much that may be (--max-sql-memory).
sql_temporary_files|gauge|Temporary files of queries and cursors.
sql_temporary_bytes|gauge|Bytes in them.
sql_temporary_files_total|counter|Temporary files ever made.
sql_temporary_bytes_total|counter|Bytes ever written to them.
sql_statements_tracked|gauge|Entries of pg_stat_statements.
plan_cache_entries|gauge|Plans kept.
plan_cache_hits_total|counter|Look-ups that found a plan.
plan_cache_misses_total|counter|Look-ups that found none.
transactions_active|gauge|Transactions of this node's sessions that hold locks or have written.
ranges|gauge|Replicas on this node, by their role: leader, follower, candidate, learner, or waiting for a snapshot.
ranges_quiescent|gauge|Replicas whose Raft group is asleep.
ranges_leaderless|gauge|Replicas that know of no leader.
ranges_underreplicated|gauge|Ranges led by this node that have fewer live voters than the replication factor.
leases|gauge|Ranges whose lease this node holds.
lease_requests_per_second|gauge|Requests to the ranges whose lease this node holds.
locks_waiting|gauge|Lock requests that wait, on this node's leases.
intents|gauge|Provisional writes of transactions that are not resolved, on this node's leases.
nodes|gauge|Nodes of the cluster by state, as this one sees them.
raft_rounds_total|counter|Rounds of the writer loop that had something to write.
raft_writes_total|counter|Log entries, states and applied writes put down.
raft_write_failures_total|counter|Writes refused by the store.
raft_messages_sent_total|counter|Raft messages to other nodes.
raft_messages_received_total|counter|Raft messages from other nodes.
raft_ticks_total|counter|Ticks of Raft groups that are awake.
raft_elections_total|counter|Elections begun here.
raft_leases_acquired_total|counter|Leases that came to this node.
raft_snapshots_installed_total|counter|Snapshots taken in.
raft_lag_entries|gauge|Entries that the slowest follower of any range led here has not acknowledged.
range_splits_total|counter|Ranges cut in two.
replica_reads_total|counter|Reads answered by copies that do not hold the lease, at closed timestamps.
replica_refusals_total|counter|Reads that such a copy had to pass on: it was not complete up to then.
closed_timestamp_lag_seconds|gauge|How long ago every copy on this node was complete (0: not known).
commit_groups_total|counter|Group commits: one write to disk each.
commit_batches_total|counter|Batches in them.
commit_busy_seconds_total|counter|Time in which a group was being made durable.
commit_queue|gauge|Batches that wait for the group before them.
store_bytes|gauge|Bytes of the tree and of what waits to be written into it.
store_waiting_bytes|gauge|Bytes that are in the log and in memory only.
store_checkpoints_total|counter|Times that was written into the tree.
store_disk_free_bytes|gauge|Free space where the store lies.
store_disk_total_bytes|gauge|All space where the store lies.
gc_versions_removed_total|counter|Old row versions removed.
gc_threshold_seconds|gauge|Reads older than this timestamp (seconds since 1970) are refused.
rpc_calls_total|counter|Calls to other nodes.
rpc_calls_waiting|gauge|Calls that are not answered yet.
rpc_peers|gauge|Other nodes by the state of the connection to them.
rpc_received_bytes_total|counter|Bytes heard from other nodes.
rpc_sent_bytes_total|counter|Bytes sent to other nodes.
clock_offset_seconds|gauge|Physical clock of each other node against this one's.
clock_max_offset_seconds|gauge|How far clocks may differ.
clock_out_of_bounds|gauge|1 while this node must not serve because its clock is off.
cluster_version|gauge|The version that the cluster is at, as far as this node knows.
cluster_version_known|gauge|The newest version that this node's release knows; an upgrade is not finished while it is greater.
clock_refused_total|counter|Messages whose clock was too far ahead to be believed.
loop_passes_total|counter|Passes of the serving loop.
loop_sleeps_total|counter|Times it had nothing to do.
loop_ready|gauge|Callbacks that are due at this moment.
http_requests_total|counter|HTTP requests answered, this one included.
"""

FAMILIES = {
    name: Family(name, kind, text) for name, kind, text in (line.split("|") for line in _TABLE.strip().splitlines())
}

_STATISTICS = ("commits", "rollbacks", "errors", "retries", "rows_sent", "rows_changed", "fast_statements")
_RAFT = ("rounds", "writes", "write_failures", "messages_sent", "messages_received", "ticks", "elections") + (
    "leases_acquired",
    "snapshots_installed",
)

Found = Iterator[tuple[str, Value | Samples]]


def families(node: Node) -> Iterator[tuple[Family, Samples]]:
    """Every metric of the node with its samples, in the table's order."""
    found: dict[str, Value | Samples] = {}
    for collect in _COLLECTORS:
        found.update(collect(node))
    for name, family in FAMILIES.items():
        value = found[name]
        yield family, [({}, value)] if isinstance(value, float | int | Buckets) else value


def as_json(node: Node) -> dict[str, Any]:
    """The same for programs: a number, or an object by the values of the labels; histograms as quantiles."""
    result: dict[str, Any] = {}
    for family, samples in families(node):
        by_label: dict[str, Any] = {}
        for labels, value in samples:
            by_label[",".join(labels.values())] = _summary(value) if isinstance(value, Buckets) else value
        result[family.name] = by_label[""] if by_label.keys() == {""} else by_label
    return result


def _summary(value: Buckets) -> dict[str, float]:
    count = sum(value.counts)
    return {
        "count": count,
        "mean": value.total / count if count else 0.0,
        **{f"p{percent}": quantile_us(value.counts, percent / 100) / 1e6 for percent in (50, 95, 99)},
    }


# ------------------------------------------------------------------------------------------------ collectors


def _process(node: Node) -> Found:
    identity = node.node_identity
    labels = {
        "version": node.version,
        "node_id": str(identity.node_id),
        "node_name": identity.name,
        "cluster": identity.cluster_id.hex(),
    }
    yield "build_info", [(labels, 1)]
    yield "start_time_seconds", node.started_seconds
    yield "cpu_seconds_total", time.process_time()
    yield "resident_memory_bytes", _resident_bytes()
    yield "open_files", len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    yield "loop_passes_total", node.loop.passes
    yield "loop_sleeps_total", node.loop.sleeps
    yield "loop_ready", node.loop.ready_count
    yield "http_requests_total", node.http_requests


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1_024


def _sql(node: Node) -> Found:
    environment, clients = node.environment, node.clients
    yield "sql_connections", len(clients.clients)
    yield "sql_connections_limit", clients.max_connections
    yield "sql_connections_total", clients.connections_total
    states = Counter({"active": 0, "idle": 0, "idle in transaction": 0})
    for session in environment.sessions.values():
        busy = "active" if session.is_active else "idle"
        states[busy if session.is_active or session.transaction_status == b"I" else "idle in transaction"] += 1
    yield "sql_sessions", [({"state": state}, count) for state, count in states.items()]
    statements = environment.statements
    yield "sql_statements_total", [({"kind": kind}, count) for kind, count in statements.calls().items()]
    yield (
        "sql_statement_seconds",
        [
            ({"kind": kind}, Buckets(_BOUNDS, tuple(histogram.counts), histogram.total_us / 1e6))
            for kind, histogram in statements.histograms.items()
        ],
    )
    yield "sql_statements_tracked", len(statements)
    resources = environment.resources
    yield "sql_memory_bytes", resources.memory_bytes
    yield "sql_memory_limit_bytes", resources.memory_limit_bytes
    yield "sql_temporary_files", resources.files
    yield "sql_temporary_bytes", resources.disk_bytes
    yield "sql_temporary_files_total", resources.files_made
    yield "sql_temporary_bytes_total", resources.bytes_written
    statistics = environment.statistics
    yield "sql_requests_total", statistics.statements
    for name in _STATISTICS:
        yield f"sql_{name}_total", getattr(statistics, name)
    plans = environment.plans
    yield "plan_cache_entries", len(plans)
    yield "plan_cache_hits_total", plans.hits
    yield "plan_cache_misses_total", plans.misses
    yield "transactions_active", len(node.gateway.active)


def _ranges(node: Node) -> Found:
    store = node.store
    roles = Counter(dict.fromkeys(("leader", "follower", "candidate", "learner", "waiting"), 0))
    quiescent = leaderless = underreplicated = lag = 0
    live = set(store.live_nodes())
    members = [record.node_id for record in store.membership.records() if record.is_member]
    wanted = min(store.membership.replication_factor, len(members))
    for replica in store.replicas.values():
        if not replica.is_initialized:
            roles["waiting"] += 1
            continue
        descriptor = replica.descriptor
        own = descriptor.replica(replica.replica_id)
        quiescent += replica.raft.quiescent
        leaderless += not replica.leader_hint
        if own is not None and own.role.name == "LEARNER":
            roles["learner"] += 1
        elif replica.is_leader:
            roles["leader"] += 1
            voters = [other for other in descriptor.replicas if other.role.name != "LEARNER" and other.node_id in live]
            underreplicated += len(voters) < wanted
            last = replica.raft.last_index
            lag = max(lag, max((last - member.match for member in replica.raft.members()), default=0))
        else:
            roles["candidate" if "CANDIDATE" in replica.raft.role.name else "follower"] += 1
    yield "ranges", [({"state": role}, count) for role, count in roles.items()]
    yield "ranges_quiescent", quiescent
    yield "ranges_leaderless", leaderless
    yield "ranges_underreplicated", underreplicated
    yield "raft_lag_entries", lag
    yield "leases", len(store.leased)
    locals_ = node.gateway.leases.each()
    yield "lease_requests_per_second", sum(local.request_rate for local in locals_)
    yield "locks_waiting", sum(len(local.locks.queued) for local in locals_)
    yield "intents", sum(len(local.intents.writes) for local in locals_)
    states = Counter({"live": 0, "dead": 0})
    states.update("live" if node_id in live else "dead" for node_id in members)
    yield "nodes", [({"state": state}, count) for state, count in states.items()]


def _raft_and_store(node: Node) -> Found:
    values = node.store.metric_values()
    for name in _RAFT:
        yield f"raft_{name}_total", values[name]
    yield "range_splits_total", values["splits"]
    yield "replica_reads_total", values["replica_reads"]
    yield "replica_refusals_total", values["replica_refusals"]
    resolved = node.store.closed.resolved()
    yield "closed_timestamp_lag_seconds", max(0, node.clock.last() - resolved >> 12) / 1e6 if resolved else 0
    committer, engine = node.committer, node.engine
    yield "commit_groups_total", committer.groups
    yield "commit_batches_total", committer.batches
    yield "commit_busy_seconds_total", committer.busy_ns / 1e9
    yield "commit_queue", committer.queued
    yield "store_bytes", engine.size_bytes()
    yield "store_waiting_bytes", engine.waiting_bytes
    yield "store_checkpoints_total", engine.checkpoints
    free, total = node.disk_space()
    yield "store_disk_free_bytes", free
    yield "store_disk_total_bytes", total
    garbage = node.store.garbage
    yield "gc_versions_removed_total", garbage.removed
    yield "gc_threshold_seconds", (garbage.threshold >> 12) / 1e6


def _network(node: Node) -> Found:
    transport = node.transport
    yield "rpc_calls_total", transport.calls
    peers = transport.peers()
    yield "rpc_calls_waiting", sum(peer.waiting_calls for peer in peers)
    states = Counter({"connected": 0, "disconnected": 0})
    states.update("connected" if peer.is_connected else "disconnected" for peer in peers)
    yield "rpc_peers", [({"state": state}, count) for state, count in states.items()]
    yield "rpc_received_bytes_total", RpcStream.received_bytes
    yield "rpc_sent_bytes_total", RpcStream.sent_bytes
    offsets = node.store.membership.offsets.offsets_us()
    yield "clock_offset_seconds", [({"peer": str(peer)}, offset / 1e6) for peer, offset in offsets.items()]
    yield "clock_max_offset_seconds", node.clock.max_offset_us / 1e6
    yield "clock_out_of_bounds", int(node.clock.out_of_bounds)
    yield "cluster_version", node.versions.active
    yield "cluster_version_known", node.versions.supported.newest
    yield "clock_refused_total", transport.refused_clocks


_COLLECTORS: tuple[Callable[[Node], Found], ...] = (_process, _sql, _ranges, _raft_and_store, _network)
