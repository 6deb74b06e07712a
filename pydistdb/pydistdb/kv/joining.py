"""How a store becomes part of a cluster: bootstrap, join, and who it is ever after.

**Bootstrap** makes a cluster of one: an identity, and one range over all keys with this node as its only replica.

**Join.**  A new process asks any node; the request ends up at the leaseholder of range 1, which takes the next number
from a counter and writes the node's record, both in one command.  A node id is never given twice.  Whoever asks for a
certain one gets it if nobody had it yet (so that node2 of a local cluster is node 2, whichever comes first).  A name that is
already taken means that the node of that name has lost its store: it gets a new id, and the old record is marked
REPLACED, which tells the replicate queue that its replicas will never return::

    n3 (id 3) loses its disk, starts empty, joins as "n3"  →  record 3: REPLACED, record 4: "n3" ACTIVE

A request repeated because its answer got lost carries the same nonce and gets the same id.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from pydistdb_storage import mvcc
from pydistdb_storage.engine import Engine, Space, WriteBatch

from pydistdb.kv.api import KVError
from pydistdb.kv.descriptor import (
    CLUSTER_VERSION_KEY,
    FIRST_RANGE_ID,
    KEY_MAX,
    KEY_MIN,
    NODE_COUNTER_KEY,
    RANGE_COUNTER_KEY,
    REPLICATION_FACTOR_KEY,
    NodeId,
    NodeIdentity,
    NodeRecord,
    RangeDescriptor,
    ReplicaDescriptor,
    decode_identity,
    encode_descriptor,
    encode_identity,
    encode_node,
    meta_key,
    node_key,
)
from pydistdb.kv.hlc import HybridClock
from pydistdb.kv.range_log import descriptor_key, initial_state, state_key
from pydistdb.kv.transport import Message, register
from pydistdb.kv.versions import FIRST_VERSION, THIS_RELEASE, Supported, store_record
from pydistdb.tasks import Completion, Scheduler, sleep

IDENTITY_KEY = b"identity"
REGISTRY_KEY = b"registry"
DEFAULT_REPLICATION_FACTOR = 3
MOST_AHEAD = 100
"""A node may ask for a number so far beyond the last that was given."""

decode_registry = msgspec.msgpack.Decoder(list[NodeRecord]).decode
encode_registry = msgspec.msgpack.Encoder().encode


class JoinRequest(Message):
    """ "Let me in": the record's node id is the one that is asked for, 0 if any will do."""

    record: NodeRecord
    forwarded: bool = False
    supported: Supported = Supported()
    """What the newcomer's release knows."""


class JoinReply(Message):
    cluster_id: bytes
    node_id: NodeId
    nodes: list[NodeRecord]
    version: int = FIRST_VERSION
    """What the cluster is at."""


class JoinRefused(Message):
    """Try again (``reason``), perhaps elsewhere."""

    reason: str


register(JoinRequest, JoinReply, JoinRefused)


class JoinFailed(KVError):
    """No node let this one in."""


class JoinTransport(Protocol):
    """What joining needs of a transport."""

    def call_address(self, address: str, request: Message) -> Completion[Any]:
        """Ask whoever answers at ``address``."""


@dataclass(frozen=True, slots=True)
class NodeAddresses:
    """What a node tells others about itself."""

    address: str
    sql_address: str = ""
    http_address: str = ""
    locality: tuple[tuple[str, str], ...] = ()


def load_identity(engine: Engine) -> NodeIdentity | None:
    """Who this store is; None if it is empty."""
    data = engine.latest().get(Space.STATE, IDENTITY_KEY)
    return None if data is None else decode_identity(data)


def open_identity(engine: Engine) -> NodeIdentity | None:
    """Like ``load_identity``, at the start of a process: begins a new incarnation."""
    identity = load_identity(engine)
    if identity is None:
        return None
    identity = msgspec.structs.replace(identity, incarnation=identity.incarnation + 1)
    batch = WriteBatch()
    batch.put(Space.STATE, IDENTITY_KEY, encode_identity(identity))
    engine.apply([batch])
    return identity


def bootstrap(
    engine: Engine,
    clock: HybridClock,
    cluster_id: bytes,
    name: str,
    addresses: NodeAddresses,
    replication_factor: int = DEFAULT_REPLICATION_FACTOR,
    supported: Supported = THIS_RELEASE,
) -> NodeIdentity:
    """Make an empty store the first node of a new cluster."""
    assert load_identity(engine) is None, "the store belongs to a cluster already"
    identity = NodeIdentity(cluster_id, 1, name, 1)
    record = node_record(1, name, addresses)
    descriptor = RangeDescriptor(FIRST_RANGE_ID, KEY_MIN, KEY_MAX, 1, (ReplicaDescriptor(1, 1),), 2)
    batch = WriteBatch()
    now = clock.now()
    for key, value in (
        (meta_key(KEY_MAX), encode_descriptor(descriptor)),
        (node_key(1), encode_node(record)),
        (NODE_COUNTER_KEY, b"1"),
        (RANGE_COUNTER_KEY, b"1"),
        (REPLICATION_FACTOR_KEY, str(replication_factor).encode()),
        (CLUSTER_VERSION_KEY, str(supported.newest).encode()),
    ):
        mvcc.put_version(batch, key, now, value)
    batch.put(Space.STATE, descriptor_key(FIRST_RANGE_ID), encode_descriptor(descriptor))
    batch.put(Space.STATE, state_key(FIRST_RANGE_ID), msgspec.msgpack.encode(initial_state(1)))
    store_record(batch, supported.newest)
    batch.put(Space.STATE, REGISTRY_KEY, encode_registry([record]))
    batch.put(Space.STATE, IDENTITY_KEY, encode_identity(identity))
    engine.apply([batch])
    return identity


async def join(
    engine: Engine,
    scheduler: Scheduler,
    transport: JoinTransport,
    seeds: list[str],
    name: str,
    addresses: NodeAddresses,
    nonce: bytes,
    timeout_ns: int = 30_000_000_000,
    supported: Supported = THIS_RELEASE,
    wanted: NodeId = 0,
) -> NodeIdentity:
    """Make an empty store a new node of the cluster that one of ``seeds`` belongs to; raises JoinFailed."""
    assert load_identity(engine) is None, "the store belongs to a cluster already"
    record = msgspec.structs.replace(node_record(wanted, name, addresses), nonce=nonce)
    request = JoinRequest(record, supported=supported)
    deadline = scheduler.now_ns() + timeout_ns
    reason = "no seed address was given"
    while scheduler.now_ns() < deadline:
        for seed in seeds:
            try:
                reply = await transport.call_address(seed, request)
            except KVError as error:
                reason = str(error)
                continue
            if isinstance(reply, JoinReply):
                identity = NodeIdentity(reply.cluster_id, reply.node_id, name, 1)
                batch = WriteBatch()
                store_record(batch, reply.version)
                batch.put(Space.STATE, REGISTRY_KEY, encode_registry(reply.nodes))
                batch.put(Space.STATE, IDENTITY_KEY, encode_identity(identity))
                engine.apply([batch])
                return identity
            reason = reply.reason if isinstance(reply, JoinRefused) else "unexpected answer"
        await sleep(scheduler, 300_000_000)
    raise JoinFailed(f"could not join the cluster through {', '.join(seeds) or 'nobody'}: {reason}")


def node_record(node_id: NodeId, name: str, addresses: NodeAddresses) -> NodeRecord:
    return NodeRecord(
        node_id,
        name,
        addresses.address,
        addresses.sql_address,
        addresses.http_address,
        addresses.locality,
        process_id=os.getpid(),
    )
