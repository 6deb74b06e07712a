"""Times, limits, counters of a store, and who listens to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pydistdb.kv.descriptor import (
    NodeId,
)
from pydistdb.kv.garbage import DEFAULT_TTL_SECONDS
from pydistdb.kv.replica import Replica
from pydistdb.kv.transport import (
    Ping,
    Pong,
)

_MILLISECOND = 1_000_000


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Times and limits of a store; all nodes must agree on ``election_timeout_ns``."""

    tick_ns: int = 100 * _MILLISECOND
    election_timeout_ns: int = 1_000 * _MILLISECOND
    ping_ns: int = 200 * _MILLISECOND
    closed_ns: int = 600 * _MILLISECOND
    """How often timestamps are closed (a whole number of pings): about how old what followers can serve is."""
    clock_drift_percent: int = 10
    campaign_stagger_ns: int = 150 * _MILLISECOND
    audit_ns: int = 5_000 * _MILLISECOND
    """How often followers ask whether the leader they know of still leads."""
    write_retry_ns: int = 1_000 * _MILLISECOND
    split_patience_ns: int = 1_000 * _MILLISECOND
    """How long a replica may be unknown here because the split that makes it is not applied yet."""
    log_entries_kept: int = 1_000
    log_entries_most: int = 3_000
    log_bytes_most: int = 8 << 20
    quiesce_after_ticks: int = 4
    dead_after_ns: int = 300_000 * _MILLISECOND
    """A node silent for this long is given up: its replicas are replaced (unless ``server.time_until_dead`` says otherwise)."""
    replicate_ns: int = 1_000 * _MILLISECOND
    snapshots_at_once: int = 16
    """Snapshots that this node sends at a time; each pins old pages of the engine."""
    garbage_ttl_seconds: float = DEFAULT_TTL_SECONDS
    """How long versions are kept that a newer one hides (``--gc-ttl``)."""


class RangeObserver(Protocol):
    """Who serves the requests of ranges leased here."""

    def lease_acquired(self, replica: Replica) -> None:
        """Begin to serve: ``replica.local`` is the observer's."""

    def lease_lost(self, replica: Replica) -> None:
        """Stop; what waits must be sent elsewhere."""

    def lease_handed(self, replica: Replica, to: NodeId) -> None:
        """Pass on what ``to`` needs to serve in this one's place: it is about to get the lease."""

    def range_split(self, left: Replica, right: Replica) -> None:
        """Note that keys from ``right.descriptor.start`` on have left ``left``, which keeps its lease."""

    def range_merged(self, left: Replica, right: Replica) -> None:
        """Take over what is kept in memory for ``right``, which is about to end; ``left`` serves its keys later."""

    def merge_settled(self, left: Replica) -> None:
        """Serve the keys that a merge brought to ``left``: it is durable here."""


class ClusterHooks:
    """What the cluster's side of a node (membership.py, placement/) wants to hear of."""

    def descriptor_changed(self, replica: Replica) -> None:
        pass

    def lease_acquired(self, replica: Replica) -> None:
        pass

    def node_lost(self, node_id: NodeId) -> None:
        pass

    def node_found(self, node_id: NodeId) -> None:
        pass

    def write_refused(self) -> None:
        pass

    def leaderless(self, replica: Replica) -> None:
        pass

    def control(self, from_node: NodeId, message: Ping | Pong) -> None:
        pass


@dataclass(slots=True)
class Metrics:
    """Plain counters."""

    rounds: int = 0
    writes: int = 0
    write_failures: int = 0
    messages_sent: int = 0
    messages_received: int = 0
    ticks: int = 0
    elections: int = 0
    leases_acquired: int = 0
    splits: int = 0
    merges: int = 0
    snapshots_installed: int = 0
    replica_reads: int = 0
    """Reads answered by a copy that does not hold the lease, at a closed timestamp."""
    replica_refusals: int = 0
    """Reads that such a copy could not answer: they went on to another one."""
