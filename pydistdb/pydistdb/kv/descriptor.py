r"""What a range is and who holds it; what a node is and where it answers; where both are kept.

A range is a span of keys and the set of its replicas.  Each change (split, merge, replica added or removed) makes a new
descriptor with a greater ``generation``, so that two descriptors that name a key can always be told apart by age.  A range
keeps its start for as long as it lives: whoever finds that key in another, younger range knows that it was merged away.

A replica has an id of its own, never used twice in its range: a node that lost a replica and gets one again is a
stranger to Raft, and late messages to the old one cannot confuse the new one.

The meta range holds a copy of every descriptor under ``meta_key(end)``, so that the range holding key k is found by one
seek to the first record after ``meta_key(k)``::

    [a, m) → \x01m        lookup "k": seek \x01k‖next → \x01m → descriptor of [a, m)
    [m, z) → \x01z        lookup "m": seek \x01m‖next → \x01z → descriptor of [m, z)
"""

from __future__ import annotations

from enum import IntEnum

import msgspec
from pydistdb_storage.keys import encode_bytes

NodeId = int
RangeId = int
ReplicaId = int

KEY_MIN = b""
KEY_MAX = b"\xff"
META_PREFIX = b"\x01"
NODE_PREFIX = b"\x02node/"
COUNTER_PREFIX = b"\x02counter/"
SETTING_PREFIX = b"\x02setting/"
FIRST_SPLIT_KEY = b"\x03"
"""Range 1 always holds everything below this key: addressing and system records never move out of it."""
FIRST_RANGE_ID: RangeId = 1

REPLICATION_FACTOR_KEY = SETTING_PREFIX + b"replication_factor"
CLUSTER_VERSION_KEY = SETTING_PREFIX + b"cluster.version"
NODE_COUNTER_KEY = COUNTER_PREFIX + b"node"
RANGE_COUNTER_KEY = COUNTER_PREFIX + b"range"
"""Values of counters and settings are decimal digits in ASCII."""

MAX_REPLICATION_FACTOR = 7


class ReplicaRole(IntEnum):
    """What a replica counts for.  INCOMING and OUTGOING exist only while a change of two or more is under way (Raft's
    joint consensus): INCOMING votes in the new set only, OUTGOING in the old set only."""

    VOTER = 1
    LEARNER = 2
    INCOMING = 3
    OUTGOING = 4


class ReplicaDescriptor(msgspec.Struct, frozen=True, array_like=True):
    """One copy of a range."""

    node_id: NodeId
    replica_id: ReplicaId
    role: ReplicaRole = ReplicaRole.VOTER


_INCOMING, _OUTGOING = ReplicaRole.INCOMING, ReplicaRole.OUTGOING


class RangeDescriptor(msgspec.Struct, frozen=True, array_like=True):
    """A span of keys [start, end) and its copies."""

    range_id: RangeId
    start: bytes
    end: bytes
    generation: int
    replicas: tuple[ReplicaDescriptor, ...]
    next_replica_id: ReplicaId
    merging: RangeId = 0
    """The right neighbour that this range is about to take in (merging.py): until that is decided neither span nor
    replicas change otherwise."""
    frozen: bool = False
    """The left neighbour takes this range in: nothing is served or written meanwhile."""
    automatic: bool = False
    """Cut off its left neighbour by itself, or for something that is gone: it may be merged with that by itself
    (placement/reshaping.py, placement/sweeping.py)."""

    def contains(self, key: bytes) -> bool:
        return self.start <= key < self.end

    def replica_on(self, node_id: NodeId) -> ReplicaDescriptor | None:
        """The replica that ``node_id`` holds."""
        for replica in self.replicas:
            if replica.node_id == node_id:
                return replica
        return None

    def replica(self, replica_id: ReplicaId) -> ReplicaDescriptor | None:
        for replica in self.replicas:
            if replica.replica_id == replica_id:
                return replica
        return None

    @property
    def is_joint(self) -> bool:
        """Tell whether a joint change is under way."""
        for replica in self.replicas:  # asked for every range several times a second
            role = replica.role
            if role is _INCOMING or role is _OUTGOING:
                return True
        return False

    @property
    def is_changing(self) -> bool:
        """Tell whether a change is under way that no other may come in between of."""
        return self.is_joint or self.frozen or self.merging != 0

    def voters(self) -> list[ReplicaDescriptor]:
        """The replicas that vote in the newest set."""
        return [r for r in self.replicas if r.role in (ReplicaRole.VOTER, ReplicaRole.INCOMING)]


class NodeState(IntEnum):
    ACTIVE = 1
    REPLACED = 2
    """Its store was lost and its name came back under another id: its replicas will never return."""
    DRAINED = 3
    """It has left the cluster."""
    LEAVING = 4
    """Its replicas are going elsewhere; until they have, it is a member like others."""


class NodeRecord(msgspec.Struct, frozen=True, array_like=True):
    """What the cluster knows of a node; the record with the greatest version holds."""

    node_id: NodeId
    name: str
    address: str
    sql_address: str = ""
    http_address: str = ""
    locality: tuple[tuple[str, str], ...] = ()
    """Tiers from the widest to the narrowest: (("region", "eu"), ("zone", "a"))."""
    state: NodeState = NodeState.ACTIVE
    version: int = 1
    process_id: int = 0
    nonce: bytes = b""
    """Drawn by the joining process, so that a repeated join request is recognized."""
    started_us: int = 0

    @property
    def is_member(self) -> bool:
        """Tell whether the node may hold replicas."""
        return self.state in (NodeState.ACTIVE, NodeState.LEAVING)


class NodeIdentity(msgspec.Struct, frozen=True, array_like=True):
    """Who this store is; kept in the store itself."""

    cluster_id: bytes
    node_id: NodeId
    name: str
    incarnation: int
    """Counts the starts of this store: promises of an earlier process are void."""


def meta_key(end: bytes) -> bytes:
    """Where the descriptor of the range that ends at ``end`` is published.

    Self-delimiting: one range may end at a table's prefix and the next at a row of it, and no key may be a proper
    prefix of another one (mvcc.py)."""
    return META_PREFIX + encode_bytes(end)


def node_key(node_id: NodeId) -> bytes:
    return NODE_PREFIX + node_id.to_bytes(4, "big")


_encoder = msgspec.msgpack.Encoder()
encode_descriptor = _encoder.encode
decode_descriptor = msgspec.msgpack.Decoder(RangeDescriptor).decode
encode_node = _encoder.encode
decode_node = msgspec.msgpack.Decoder(NodeRecord).decode
encode_identity = _encoder.encode
decode_identity = msgspec.msgpack.Decoder(NodeIdentity).decode
