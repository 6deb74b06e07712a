"""What a store tells about itself: the data behind ``proddb status`` and ``proddb raft status``.

Plain structs that travel over the wire (``StatusRequest``), gathered on request only.
"""

from __future__ import annotations

import msgspec

from pydistdb.kv.descriptor import NodeId, NodeState, RangeId, ReplicaId, ReplicaRole
from pydistdb.kv.membership import Membership
from pydistdb.kv.multiraft import MultiRaft
from pydistdb.kv.replica import Replica
from pydistdb.kv.transport import Message, register


class NodeStatus(msgspec.Struct, array_like=True):
    """A node as the answering one sees it."""

    node_id: NodeId
    name: str
    process_id: int
    address: str
    sql_address: str
    http_address: str
    state: str
    """"live", "dead", "replaced" or "drained"."""
    replica_count: int
    lease_count: int
    clock_offset_us: int
    started_us: int
    locality: tuple[tuple[str, str], ...]
    mode: str = ""
    """"draining" (gives its leases away), "decommissioning" or "decommissioned" (no replicas any more)."""
    emptying_from: int = 0
    """How many replicas it had when it was decommissioned, or leases when it was drained; 0: neither, or not known."""


class FollowerStatus(msgspec.Struct, array_like=True):
    """A member of a range, as its leader sees it."""

    replica_id: ReplicaId
    node_id: NodeId
    role: str
    match_index: int
    lag: int
    """Entries that it has not acknowledged."""
    state: str


class RangeStatus(msgspec.Struct, array_like=True):
    """One replica on the answering node."""

    range_id: RangeId
    start: bytes
    end: bytes
    generation: int
    replica_id: ReplicaId
    role: str
    """"leader", "follower", "candidate" or "learner"."""
    leader: NodeId
    leaseholder: bool
    term: int
    commit_index: int
    applied_index: int
    last_index: int
    log_length: int
    quiescent: bool
    replicas: tuple[tuple[NodeId, ReplicaId, str], ...]
    followers: list[FollowerStatus]
    """Known to the leader only."""


class StoreStatus(Message):
    node_id: NodeId
    name: str
    cluster_id: bytes
    nodes: list[NodeStatus]
    ranges: list[RangeStatus]
    metrics: dict[str, int]
    replication_factor: int
    write_error: str


register(StoreStatus)


def store_status(store: MultiRaft, membership: Membership) -> StoreStatus:
    """Gather the status of a store."""
    error = store.write_error()
    return StoreStatus(
        store.node_id,
        store.identity.name,
        store.identity.cluster_id,
        _nodes(store, membership),
        [_range(replica) for replica in store.replicas.values() if replica.is_initialized],
        store.metric_values(),
        membership.replication_factor,
        str(error) if error is not None else "",
    )


def _nodes(store: MultiRaft, membership: Membership) -> list[NodeStatus]:
    offsets = membership.offsets.offsets_us()
    nodes: list[NodeStatus] = []
    for record in membership.records():
        node_id = record.node_id
        peer = store.liveness.peers.get(node_id)
        ping = peer.ping if peer is not None else None
        if node_id == store.node_id:
            state, replicas, leases = "live", len(store.replicas), len(store.leased)
        else:
            state = "live" if store.liveness.is_live(node_id) else "dead"
            replicas = ping.replica_count if ping is not None else 0
            leases = ping.lease_count if ping is not None and state == "live" else 0
        draining = membership.draining if node_id == store.node_id else ping is not None and ping.draining
        emptying_from = membership.note_emptying() if node_id == store.node_id else ping.emptying_from if ping else 0
        mode = "draining" if draining else ""
        if record.state is NodeState.LEAVING:
            mode = "decommissioning" if replicas else "decommissioned"
        elif record.state is NodeState.DRAINED:
            mode = "decommissioned"
        elif record.state is NodeState.REPLACED:
            mode = ""  # whatever it said last
        if not record.is_member:
            state = record.state.name.lower()
        nodes.append(
            NodeStatus(
                node_id,
                record.name,
                record.process_id,
                record.address,
                record.sql_address,
                record.http_address,
                state,
                replicas,
                leases,
                offsets.get(node_id, 0),
                record.started_us,
                record.locality,
                mode,
                emptying_from,
            )
        )
    return nodes


def _range(replica: Replica) -> RangeStatus:
    node = replica.raft
    descriptor = replica.descriptor
    own = descriptor.replica(replica.replica_id)
    role = "leader" if replica.is_leader else node.role.name.lower().replace("pre_", "")
    if own is not None and own.role is ReplicaRole.LEARNER:
        role = "learner"
    followers: list[FollowerStatus] = []
    for member in node.members():
        descriptor_entry = descriptor.replica(member.peer)
        if member.peer != replica.replica_id and descriptor_entry is not None:
            followers.append(
                FollowerStatus(
                    member.peer,
                    descriptor_entry.node_id,
                    descriptor_entry.role.name.lower(),
                    member.match,
                    max(node.last_index - member.match, 0),
                    member.state,
                )
            )
    return RangeStatus(
        descriptor.range_id,
        descriptor.start,
        descriptor.end,
        descriptor.generation,
        replica.replica_id,
        role,
        replica.leader_hint or 0,
        replica.leased,
        node.term,
        node.commit_index,
        node.applied_index,
        node.last_index,
        replica.log.length,
        node.quiescent,
        tuple((r.node_id, r.replica_id, r.role.name.lower()) for r in descriptor.replicas),
        followers,
    )
