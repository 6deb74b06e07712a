"""Who belongs to the cluster: the registry of nodes, and the pings that keep everybody informed.

**Registry.**  Every node keeps all records, in its store too, so that after a restart of everything at once the nodes
find each other before any range has a leader.  A record has a version that only grows.  Each ping carries a digest of
the sender's registry; whoever sees another digest than his own exchanges records with the sender and keeps the newer of
each.  A node that comes back under another address just raises the version of its own record.  The leaseholder of range
1 copies what it learns into the range (``b"\\x02node/"``), where SQL can see it.

**Pings** (every 200 ms) also carry clocks, support (liveness.py), the replication factor, load, and where range 1 is.
A node whose own are due soon sends them along with its answer to another's, so that the nodes fall into step and wake up
together: waking up is most of what an idle cluster costs.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable
from typing import Any

import msgspec
from pydistdb_storage import mvcc
from pydistdb_storage.engine import Space, WriteBatch
from pydistdb_storage.keys import prefix_end

from pydistdb.kv.api import KVError, RangeUnavailable, Timestamp
from pydistdb.kv.command import ProposalLost
from pydistdb.kv.descriptor import (
    FIRST_RANGE_ID,
    NODE_COUNTER_KEY,
    NODE_PREFIX,
    SETTING_PREFIX,
    NodeId,
    NodeRecord,
    NodeState,
    decode_descriptor,
    decode_node,
    encode_descriptor,
    encode_node,
    node_key,
)
from pydistdb.kv.hlc import COUNTER_BITS, OffsetMonitor
from pydistdb.kv.joining import (
    DEFAULT_REPLICATION_FACTOR,
    MOST_AHEAD,
    REGISTRY_KEY,
    JoinFailed,
    JoinRefused,
    JoinReply,
    JoinRequest,
    NodeAddresses,
    bootstrap,
    decode_registry,
    encode_registry,
    join,
    load_identity,
    node_record,
    open_identity,
)
from pydistdb.kv.multiraft import MultiRaft
from pydistdb.kv.placement.directory import Directory
from pydistdb.kv.settings import ClusterSettings
from pydistdb.kv.transport import Message, Ping, Pong, RaftEnvelope, register
from pydistdb.kv.version_gate import VERSION_SETTING, VersionGate, version_of
from pydistdb.tasks import Timer

logger = logging.getLogger(__name__)

MAX_NODES = 1_000
MAX_SETTINGS = 100
_RECONCILE_PINGS = 5


class RegistryExchange(Message):
    """The sender's records; the answer brings the receiver's."""

    nodes: list[NodeRecord]


register(RegistryExchange)


class Membership:
    """This node's registry and its part in keeping everybody's the same."""

    def __init__(self, store: MultiRaft, directory: Directory, addresses: NodeAddresses | None) -> None:
        self._store = store
        self._directory = directory
        self._addresses = addresses
        self.offsets = OffsetMonitor(store.clock)
        self.offsets.judged = self._clock_judged
        store.transport.clock_refused = self._clock_refused
        self.nodes: dict[NodeId, NodeRecord] = {}
        self.replication_factor = DEFAULT_REPLICATION_FACTOR
        self.settings = ClusterSettings({"server.time_until_dead": store.config.dead_after_ns / 1e9})
        self.gate = VersionGate(store, directory, self)
        self.draining = False
        self._emptying = (False, 0)
        """Whether the node was leaving when ``note_emptying`` looked last, and the most that it had to give away since."""
        self.changed: Callable[[], None] = lambda: None
        """Called when a record or the replication factor has changed."""
        self._settings_version: Timestamp = 0
        self._digest = 0
        self._exchanging: set[NodeId] = set()
        self._stored = True
        self._reconciled = False
        self._pings_until_reconcile = 0
        self._next_ping: Timer | None = None
        self._next_ping_ns = 0
        self._started_us = store.clock.physical_us()
        store.register(JoinRequest, self._on_join)
        store.register(RegistryExchange, self._on_exchange)

    # -------------------------------------------------------------------------------------------------------- registry

    def start(self) -> None:
        data = self._store.engine.latest().get(Space.STATE, REGISTRY_KEY)
        self.merge(decode_registry(data) if data is not None else [])
        self._announce_self()
        self._ping()

    def _announce_self(self) -> None:
        """Raise the version of our own record if it does not describe this process."""
        store = self._store
        addresses = self._addresses
        old = self.nodes.get(store.node_id)
        if addresses is None:
            addresses = NodeAddresses(old.address if old is not None else store.identity.name)
        version = old.version + 1 if old is not None else 1
        new = msgspec.structs.replace(
            node_record(store.node_id, store.identity.name, addresses),
            version=version,
            nonce=old.nonce if old is not None else b"",
            state=old.state if old is not None else NodeState.ACTIVE,
            started_us=self._started_us,
        )
        self.merge([new])

    def merge(self, records: list[NodeRecord]) -> bool:
        """Keep the newer of each record; returns whether anything was news."""
        store = self._store
        news = False
        for record in records:
            old = self.nodes.get(record.node_id)
            if old is not None and old.version >= record.version:
                continue
            if len(self.nodes) >= MAX_NODES and old is None:
                logger.error("more than %d nodes: %s is left out", MAX_NODES, record.name)
                continue
            self.nodes[record.node_id] = record
            news = True
            if record.node_id != store.node_id:
                store.transport.set_address(record.node_id, record.address)
                if record.is_member:
                    store.liveness.peer(record.node_id)
                else:
                    # Support for it runs out by itself, as for any node that falls silent.
                    self.offsets.forget(record.node_id)
        if news:
            ordered = sorted((record.node_id, record.version) for record in self.nodes.values())
            self._digest = zlib.crc32(encode_registry(ordered))
            if self._stored:
                self._stored = False
                store.scheduler.call_soon(self._store_registry)
            self._reconciled = False
            self.changed()
        return news

    def records(self) -> list[NodeRecord]:
        return [self.nodes[node_id] for node_id in sorted(self.nodes)]

    def active(self) -> list[NodeRecord]:
        """Those that belong to the cluster, be it on their way out."""
        return [record for record in self.records() if record.is_member]

    @property
    def sheds_leases(self) -> bool:
        """Tell whether this node is to hold no leases."""
        own = self.nodes.get(self._store.node_id)
        return self.draining or (own is not None and own.state is not NodeState.ACTIVE)

    def note_emptying(self) -> int:
        """What this node had to give away when it began to: replicas if it is to leave, leases if it is drained; else 0.

        A node that is started again while it leaves counts from what it has left."""
        store, own = self._store, self.nodes.get(self._store.node_id)
        leaves = own is not None and own.state is NodeState.LEAVING
        left = len(store.replicas) if leaves else len(store.leased) if self.draining else 0
        before = self._emptying[1] if self._emptying[0] == leaves and (leaves or self.draining) else 0
        self._emptying = (leaves, max(before, left))
        return self._emptying[1]

    def set_state(self, node_id: NodeId, state: NodeState) -> None:
        """Write a newer record of a node; the pings spread it."""
        record = self.nodes[node_id]
        self.merge([msgspec.structs.replace(record, state=state, version=record.version + 1)])

    def _retire(self) -> None:
        """Forget nodes that were to leave and have been silent for long."""
        store = self._store
        for record in self.records():
            if record.state is not NodeState.LEAVING or record.node_id == store.node_id:
                continue
            if store.liveness.silent_ns(record.node_id) > self.dead_after_ns:
                self.set_state(record.node_id, NodeState.DRAINED)

    async def _on_exchange(self, from_node: NodeId, request: RegistryExchange) -> Message:
        self.merge(request.nodes)
        return RegistryExchange(self.records())

    async def _exchange(self, node_id: NodeId) -> None:
        self._exchanging.add(node_id)
        try:
            reply = await self._store.call(node_id, RegistryExchange(self.records()))
            self.merge(reply.nodes)
        except KVError:
            pass  # the next ping shows whether there is still a difference
        finally:
            self._exchanging.discard(node_id)

    # ----------------------------------------------------------------------------------------------------------- pings

    def _ping(self) -> None:
        store = self._store
        if store.stopped:
            return
        store.liveness.check()
        others = [record.node_id for record in self.active() if record.node_id != store.node_id]
        if others:
            ping = self._own_ping()
            for node_id in others:
                store.send_envelope(node_id, RaftEnvelope(0, 0, ping))
            store.closed.close(others)
        if self._pings_until_reconcile == 0:
            self._pings_until_reconcile = _RECONCILE_PINGS
            self._reconcile()
            for node_id in others:
                # It may not know our address, and could not even answer a ping.
                if not store.liveness.is_live(node_id) and node_id not in self._exchanging:
                    store.background(self._exchange(node_id), "registry exchange")
        self._pings_until_reconcile -= 1
        # A node alone has nobody to ping, and only looks after its settings now and then.
        interval = store.config.ping_ns if others else store.config.ping_ns * _RECONCILE_PINGS
        self._next_ping_ns = store.scheduler.now_ns() + interval
        self._next_ping = store.scheduler.call_at(self._next_ping_ns, self._ping)

    def _own_ping(self) -> Ping:
        store = self._store
        first = store.replicas.get(FIRST_RANGE_ID)
        descriptor, leader = b"", 0
        if first is not None and first.is_initialized:
            descriptor, leader = encode_descriptor(first.descriptor), first.leader_hint or 0
        return Ping(
            store.identity.incarnation,
            store.scheduler.now_ns(),
            store.clock.physical_us(),
            self._digest,
            self._settings_version,
            self.replication_factor,
            len(store.replicas),
            len(store.leased),
            self.sheds_leases,
            descriptor,
            leader,
            sum(store.range_rates().values()),
            self.settings.given,
            store.versions.active,
            emptying_from=self.note_emptying(),
        )

    def on_ping(self, from_node: NodeId, ping: Ping) -> None:
        store = self._store
        epoch = store.liveness.pinged(from_node, ping)
        self.offsets.record_one_way(from_node, ping.sent_us, store.clock.physical_us())
        pong = Pong(epoch, ping.sent_ns, ping.sent_us, store.clock.physical_us())
        store.send_envelope(from_node, RaftEnvelope(0, 0, pong))
        if self._next_ping is not None and self._next_ping_ns - store.scheduler.now_ns() < store.config.ping_ns // 2:
            self._next_ping.cancel()
            self._ping()  # goes out together with the answer: both nodes wake up once for the two of them
        if ping.settings_version > self._settings_version:
            self._take_settings(ping.settings_version, ping.replication_factor, ping.settings)
        if ping.cluster_version > store.versions.active:
            self.gate.learn(ping.cluster_version)
        if ping.first_range:
            self._directory.learn_first_range(decode_descriptor(ping.first_range), ping.first_range_leader)
        if ping.registry_digest != self._digest and from_node not in self._exchanging:
            store.background(self._exchange(from_node), "registry exchange")

    def _clock_refused(self, from_node: NodeId, reading: Timestamp) -> None:
        """A node that is behind refuses all others, and would never hear of a ping."""
        self.offsets.record_one_way(from_node, reading >> COUNTER_BITS, self._store.clock.physical_us())

    def on_pong(self, from_node: NodeId, pong: Pong) -> None:
        store = self._store
        self.offsets.record(from_node, pong.sent_us, pong.physical_us, store.clock.physical_us())
        if store.liveness.ponged(from_node, pong):
            store.wake_led_with(from_node)

    def _clock_judged(self, out_of_bounds: bool) -> None:
        """This node's clock has left the bound, or is back."""
        for replica in self._store.leased.values():
            replica.lease_until_ns = 0  # checked again before anything else is read
        offsets = self.offsets.offsets_us()
        shown = ", ".join(f"node {peer} {offset / 1_000:+.1f} ms" for peer, offset in sorted(offsets.items()))
        most_ms = self._store.clock.max_offset_us / 1_000
        if out_of_bounds:
            logger.error(
                "the clock of node %d differs too much from those of most others (%s; at most %.0f ms are allowed): "
                "the node stops serving until its clock is right",
                self._store.node_id,
                shown,
                most_ms,
            )
        else:
            logger.warning(
                "the clock of node %d is within %.0f ms of the others again (%s): the node serves again",
                self._store.node_id,
                most_ms,
                shown,
            )

    def _take_settings(self, version: Timestamp, replication_factor: int, given: dict[str, str]) -> None:
        self._settings_version = version
        changed = self.settings.take(given) or replication_factor != self.replication_factor
        self.replication_factor = replication_factor
        if changed:
            self.changed()

    @property
    def dead_after_ns(self) -> int:
        """A node silent for this long is given up."""
        return int(self.settings.value("server.time_until_dead") * 1e9)

    # ------------------------------------------------------------------------------------------------------- reconcile

    def first_range_acquired(self) -> None:
        """This node now keeps the durable records."""
        self._reconciled = False
        self._reconcile()

    def _store_registry(self) -> None:
        self._stored = True
        batch = WriteBatch()
        batch.put(Space.STATE, REGISTRY_KEY, encode_registry(self.records()))
        self._store.write(batch)

    def _reconcile(self) -> None:
        """On range 1's leaseholder: read the settings, and record what gossip brought."""
        store = self._store
        first = store.replicas.get(FIRST_RANGE_ID)
        if first is None or not first.leased or not first.is_leaseholder():
            return
        self._read_settings()
        self._retire()
        self.gate.look()
        if not self._reconciled:
            self._reconciled = True
            store.background(self._record_nodes(), "record nodes")

    def _read_settings(self) -> None:
        """Note the settings in range 1, if any is newer than what is known."""
        view = self._store.engine.latest()
        found = mvcc.scan(view, SETTING_PREFIX, prefix_end(SETTING_PREFIX), mvcc.MAX_TIMESTAMP, MAX_SETTINGS)
        version = max((mvcc.newest_timestamp(view, key) for key in found.keys), default=0)
        if version == self._settings_version:
            return
        texts = {
            key[len(SETTING_PREFIX) :].decode(): value.decode()
            for key, value in zip(found.keys, found.values, strict=True)
        }
        self.gate.learn(version_of(texts.pop(VERSION_SETTING, "")))
        factor = texts.pop("replication_factor", "")
        self._take_settings(version, int(factor) if factor.isdigit() else self.replication_factor, texts)

    async def _record_nodes(self) -> None:
        try:
            durable = self._durable_records()
            self.merge(list(durable.values()))
            newer = [
                record
                for record in self.records()
                if record.node_id not in durable or durable[record.node_id].version < record.version
            ]
            if newer:
                await self._directory.write(
                    lambda view: [(node_key(record.node_id), encode_node(record)) for record in newer]
                )
            self._reconciled = True
        except KVError:
            self._reconciled = False

    def _durable_records(self) -> dict[NodeId, NodeRecord]:
        view = self._store.engine.latest()
        found = mvcc.scan(view, NODE_PREFIX, prefix_end(NODE_PREFIX), mvcc.MAX_TIMESTAMP, MAX_NODES)
        return {record.node_id: record for record in map(decode_node, found.values)}

    # ------------------------------------------------------------------------------------------------------------ join

    async def _on_join(self, from_node: NodeId, request: JoinRequest) -> Message:
        store = self._store
        first = store.replicas.get(FIRST_RANGE_ID)
        if first is not None and first.is_leaseholder():
            try:
                problem = store.versions.conflict(request.supported, request.record.name)
                return JoinRefused(problem) if problem else await self._admit(request.record)
            except (ProposalLost, RangeUnavailable) as error:
                return JoinRefused(str(error))
        leader = self._directory.first_range_leader()
        if request.forwarded or not leader or leader == store.node_id:
            return JoinRefused("the leader of range 1 is not known at present")
        reply = await store.call(leader, msgspec.structs.replace(request, forwarded=True))
        assert isinstance(reply, Message)
        return reply

    async def _admit(self, newcomer: NodeRecord) -> Message:
        """Write the newcomer's record, on range 1's leaseholder."""
        admitted: list[NodeRecord] = []

        def build(view: Any) -> list[tuple[bytes, bytes]]:
            self.merge(list(self._durable_records().values()))
            admitted.clear()
            same_name = [r for r in self.active() if r.name == newcomer.name]
            for record in same_name:
                if record.nonce and record.nonce == newcomer.nonce:
                    admitted.append(record)
                    return []
            last = int(mvcc.get(view, NODE_COUNTER_KEY, mvcc.MAX_TIMESTAMP)[0] or b"0")
            wanted = newcomer.node_id
            number = wanted if 0 < wanted <= last + MOST_AHEAD and wanted not in self.nodes else last + 1
            admitted.append(msgspec.structs.replace(newcomer, node_id=number, version=1))
            for record in same_name:
                admitted.append(msgspec.structs.replace(record, state=NodeState.REPLACED, version=record.version + 1))
            writes = [(node_key(record.node_id), encode_node(record)) for record in admitted]
            return [(NODE_COUNTER_KEY, str(max(last, number)).encode()), *writes]

        await self._directory.write(build)
        self.merge(admitted)
        store = self._store
        return JoinReply(store.identity.cluster_id, admitted[0].node_id, self.records(), store.versions.active)


__all__ = [
    "JoinFailed",
    "Membership",
    "NodeAddresses",
    "bootstrap",
    "join",
    "load_identity",
    "open_identity",
]
