"""How nodes talk: one-way batches of Raft messages, and calls with an answer.

The store and the transaction layer see only the ``Transport`` protocol; the server implements it over its RPC, tests
over an in-process network that delays, loses and cuts (tests/support/cluster.py).

Whoever implements it puts a reading of the sender's hybrid clock on every message, request and answer alike, and feeds
it to the receiver's ``HybridClock.update`` first; a message that this refuses (ClockOffsetExceeded) is dropped, a call
fails.

Requests and answers are msgspec structs, tagged with the name of their class.  ``register`` makes a class known, so
that one decoder understands all of them::

    class Hello(Message): name: str
    register(Hello)
    decode_message(encode_message(Hello("a"))) == Hello("a")
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeAlias, Union

import msgspec

from pydistdb import raft
from pydistdb.kv.api import KVError, Timestamp
from pydistdb.kv.descriptor import NodeId, RangeId, ReplicaId
from pydistdb.tasks import Completion

MAX_ENVELOPES = 10_000
"""What may wait for one peer; older Raft messages are dropped beyond it (Raft sends again)."""


class NodeUnreachable(KVError):
    """The call did not reach the node, or its answer did not come: the outcome of the request is not known."""

    def __init__(self, node_id: NodeId | str, reason: str = "unreachable") -> None:
        super().__init__(f"node {node_id}: {reason}")
        self.node_id = node_id


class RemoteError(KVError):
    """The remote handler failed in a way that its answer has no field for."""


class Ping(msgspec.Struct, array_like=True, tag=100, frozen=True):
    """The one heartbeat that a node sends to each other node, whatever number of ranges they share."""

    incarnation: int
    sent_ns: int
    """The sender's monotonic clock: a lease counts from here."""
    sent_us: int
    """The sender's physical clock, to measure offsets by."""
    registry_digest: int
    settings_version: int
    replication_factor: int
    replica_count: int
    lease_count: int
    draining: bool = False
    first_range: bytes = b""
    """Descriptor of range 1, from nodes that hold it; the way into the meta range."""
    first_range_leader: NodeId = 0
    load: float = 0.0
    """Requests per second to the ranges that the sender leases."""
    settings: dict[str, str] = {}
    """Those of the cluster's settings that were ever set (settings.py), as of ``settings_version``."""
    cluster_version: int = 0
    """What the sender knows the cluster to be at (versions.py)."""
    emptying_from: int = 0
    """What the sender had to give away when it began to: replicas if it is to leave, leases if it is drained."""


class Pong(msgspec.Struct, array_like=True, tag=101, frozen=True):
    """The answer: "I support your leadership in every group where I follow you, as of ``sent_ns``, under ``epoch``"."""

    epoch: int
    sent_ns: int
    sent_us: int
    physical_us: int


class ReplicaWaiting(msgspec.Struct, array_like=True, tag=102, frozen=True):
    """Asks the leader to probe this replica again: it was missing when the last probe came, or still is."""

    replica_id: ReplicaId


class ReplicaRemoved(msgspec.Struct, array_like=True, tag=103, frozen=True):
    """Says "your replica is no longer part of the range as of ``generation``": the receiver deletes it."""

    replica_id: ReplicaId
    generation: int


class LeadershipCheck(msgspec.Struct, array_like=True, tag=104, frozen=True):
    """Says whom a node takes for the leader of these ranges: the receiver names those that it does not lead.

    Each range comes with the term, and with the asking replica's id so that one that was removed can be told."""

    ranges: tuple[tuple[RangeId, int, ReplicaId], ...]


class LeadershipDenied(msgspec.Struct, array_like=True, tag=105, frozen=True):
    """The answer: find another leader for these ranges, if you still are in these terms."""

    ranges: tuple[tuple[RangeId, int], ...]


class ClosedUpTo(msgspec.Struct, array_like=True, tag=106, frozen=True):
    """Says of every range that the sender leases: all at or below ``timestamp`` lies at or before a log index (closed.py).

    Ranges that are not mentioned stand where the messages before this one have put them, unless it is a ``full`` one."""

    sequence: int
    timestamp: Timestamp
    full: bool
    changed: dict[RangeId, int]
    removed: list[RangeId] = []


class ClosedWanted(msgspec.Struct, array_like=True, tag=107, frozen=True):
    """Asks for a full ClosedUpTo: a message before the last one has not arrived."""


Control: TypeAlias = (
    Ping | Pong | ReplicaWaiting | ReplicaRemoved | LeadershipCheck | LeadershipDenied | ClosedUpTo | ClosedWanted
)


class RaftEnvelope(msgspec.Struct, array_like=True, frozen=True):
    """One message between two replicas of a range, or (range id 0) between two nodes' stores."""

    range_id: RangeId
    epoch: int
    """The sender's support epoch for the receiving node (see liveness.py)."""
    message: raft.Message | Control


class Message(msgspec.Struct, array_like=True, tag=True):
    """Base of every request and answer."""


Handler: TypeAlias = Callable[[NodeId, Any], Awaitable[Message]]


class Transport(Protocol):
    """One node's side of the network."""

    clock_refused: Callable[[NodeId, Timestamp], None]
    """Called with the sender and the reading of every message that is dropped because its clock is too far ahead."""

    def send_raft(self, node_id: NodeId, envelopes: list[RaftEnvelope]) -> None:
        """Send without an answer: best effort, in order per peer, bounded by MAX_ENVELOPES."""

    def call(self, node_id: NodeId, request: Message) -> Completion[Any]:
        """Ask a node; fails with NodeUnreachable (always, in bounded time) or RemoteError."""

    def call_address(self, address: str, request: Message) -> Completion[Any]:
        """Ask whoever answers at ``address`` (joining: its node id is not known yet)."""

    def set_address(self, node_id: NodeId, address: str) -> None:
        """Learn where a node answers."""


_registered: dict[str, type[Message]] = {}
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Any] | None = None


def register(*classes: type[Message]) -> None:
    """Make request and answer classes known to ``decode_message``."""
    global _decoder
    for cls in classes:
        assert _registered.get(cls.__name__, cls) is cls, f"two messages are named {cls.__name__}"
        _registered[cls.__name__] = cls
    _decoder = None


def encode_message(message: Message) -> bytes:
    return _encoder.encode(message)


def decode_message(data: bytes) -> Message:
    """The message of any registered class; raises msgspec.ValidationError on anything else."""
    global _decoder
    if _decoder is None:
        _decoder = msgspec.msgpack.Decoder(Union[tuple(_registered.values())])  # noqa: UP007  # built at run time
    message: Message = _decoder.decode(data)
    return message


encode_envelopes = _encoder.encode
decode_envelopes: Callable[[bytes], list[RaftEnvelope]] = msgspec.msgpack.Decoder(list[RaftEnvelope]).decode


class LoopbackTransport:
    """The transport of a node without peers: calls to itself arrive, everything else is unreachable."""

    def __init__(self, node_id: NodeId = 0) -> None:
        self.node_id = node_id
        self.clock_refused: Callable[[NodeId, Timestamp], None] = lambda node_id, reading: None

    def send_raft(self, node_id: NodeId, envelopes: list[RaftEnvelope]) -> None:
        pass

    def call(self, node_id: NodeId, request: Message) -> Completion[Any]:
        failed: Completion[Any] = Completion()
        failed.fail(NodeUnreachable(node_id))
        return failed

    def call_address(self, address: str, request: Message) -> Completion[Any]:
        failed: Completion[Any] = Completion()
        failed.fail(NodeUnreachable(address))
        return failed

    def set_address(self, node_id: NodeId, address: str) -> None:
        pass
