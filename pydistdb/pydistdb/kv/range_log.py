"""The durable side of one replica: its Raft log, hard state and applied index, and where they lie in the engine.

::

    STATE  "desc/" range      descriptor            written when it changes
    STATE  "raft/" range      ReplicaState          written with every change of the log or the applied state
    STATE  "tomb/" range      next replica id       after this node lost its replica: older ids never come back
    LOG    range ‖ index      raft.Entry            one record per entry, until it is truncated

``ReplicaState`` goes into the same engine batch as the writes of the commands it counts as applied, so a crash leaves
both or neither.  It is one small record for hard state, applied index and truncation together: a commit on the only
voter of a range costs the data and this record, for the entry itself is applied by the very batch that would have
logged it, and is never written ("elided"; the log then begins behind it).

All that is written passes through a ``Round`` (commit.py); reads only concern entries known to be durable.
"""

from __future__ import annotations

import struct

import msgspec
from pydistdb_storage.engine import Engine, Snapshot, Space

from pydistdb import raft
from pydistdb.kv.api import Timestamp
from pydistdb.kv.commit import Round
from pydistdb.kv.descriptor import (
    NodeId,
    RangeDescriptor,
    RangeId,
    ReplicaDescriptor,
    ReplicaId,
    ReplicaRole,
    decode_descriptor,
)
from pydistdb.kv.snapshot import RangeSnapshotReader, SnapshotBudget

DESCRIPTOR_PREFIX = b"desc/"
STATE_PREFIX = b"raft/"
TOMBSTONE_PREFIX = b"tomb/"

INITIAL_INDEX = 10
"""A new range's log begins behind this index, so that a replica without data can only be filled by a snapshot."""

_log_key = struct.Struct(">QQ").pack
_encode = msgspec.msgpack.Encoder().encode
_decode_entry = msgspec.msgpack.Decoder(raft.Entry).decode


class ReplicaState(msgspec.Struct, array_like=True):
    """What a replica must find again after a crash."""

    replica_id: ReplicaId
    term: int
    vote: ReplicaId
    commit: int
    applied_index: int
    applied_term: int
    truncated_index: int
    truncated_term: int
    installing: int = 0
    """Chunks of the snapshot whose installation must be finished before anything else; 0: none."""
    install_index: int = 0
    install_term: int = 0
    clock: Timestamp = 0
    """The greatest timestamp written here: after a restart the node's clock begins above it, whatever its hardware says."""


_decode_state = msgspec.msgpack.Decoder(ReplicaState).decode


def descriptor_key(range_id: RangeId) -> bytes:
    return DESCRIPTOR_PREFIX + range_id.to_bytes(8, "big")


def state_key(range_id: RangeId) -> bytes:
    return STATE_PREFIX + range_id.to_bytes(8, "big")


def tombstone_key(range_id: RangeId) -> bytes:
    return TOMBSTONE_PREFIX + range_id.to_bytes(8, "big")


def log_key(range_id: RangeId, index: int) -> bytes:
    return _log_key(range_id, index)


def log_span(range_id: RangeId) -> tuple[bytes, bytes]:
    return _log_key(range_id, 0), _log_key(range_id + 1, 0)


def initial_state(replica_id: ReplicaId) -> ReplicaState:
    """The state of a replica of a range that has just come into being (bootstrap, split)."""
    return ReplicaState(replica_id, 0, 0, INITIAL_INDEX, INITIAL_INDEX, 0, INITIAL_INDEX, 0)


def empty_state(replica_id: ReplicaId) -> ReplicaState:
    """The state of a replica that waits for its first snapshot."""
    return ReplicaState(replica_id, 0, 0, 0, 0, 0, 0, 0)


def load_state(snapshot: Snapshot, range_id: RangeId) -> ReplicaState | None:
    data = snapshot.get(Space.STATE, state_key(range_id))
    return None if data is None else _decode_state(data)


def load_descriptor(snapshot: Snapshot, range_id: RangeId) -> RangeDescriptor | None:
    data = snapshot.get(Space.STATE, descriptor_key(range_id))
    return None if data is None else decode_descriptor(data)


def membership_of(descriptor: RangeDescriptor) -> raft.Membership:
    """The Raft configuration that a descriptor's roles spell."""
    roles: dict[ReplicaRole, list[ReplicaId]] = {role: [] for role in ReplicaRole}
    for replica in descriptor.replicas:
        roles[replica.role].append(replica.replica_id)
    outgoing: tuple[ReplicaId, ...] = ()
    if descriptor.is_joint:
        outgoing = tuple(sorted(roles[ReplicaRole.VOTER] + roles[ReplicaRole.OUTGOING]))
    return raft.Membership(
        voters=tuple(sorted(roles[ReplicaRole.VOTER] + roles[ReplicaRole.INCOMING])),
        outgoing=outgoing,
        learners=tuple(sorted(roles[ReplicaRole.LEARNER])),
        auto_leave=bool(outgoing),
    )


def descriptor_for(
    old: RangeDescriptor, membership: raft.Membership, added: dict[ReplicaId, NodeId]
) -> RangeDescriptor:
    """The descriptor after a membership change, with the roles that the Raft configuration gives."""
    nodes = {replica.replica_id: replica.node_id for replica in old.replicas} | added
    replicas = tuple(
        ReplicaDescriptor(nodes[peer], peer, _role_in(membership, peer)) for peer in sorted(membership.peers())
    )
    next_id = max([old.next_replica_id, *(replica_id + 1 for replica_id in added)])
    return msgspec.structs.replace(old, generation=old.generation + 1, replicas=replicas, next_replica_id=next_id)


def _role_in(membership: raft.Membership, peer: ReplicaId) -> ReplicaRole:
    voter = peer in membership.voters
    if not membership.outgoing:
        return ReplicaRole.VOTER if voter else ReplicaRole.LEARNER
    outgoing = peer in membership.outgoing
    if voter:
        return ReplicaRole.VOTER if outgoing else ReplicaRole.INCOMING
    return ReplicaRole.OUTGOING if outgoing else ReplicaRole.LEARNER


class RangeLog:
    """One replica's log and state; implements ``raft.LogStorage``."""

    __slots__ = ("_budget", "_engine", "_logged", "last", "membership", "range_id", "state")

    def __init__(
        self,
        engine: Engine,
        range_id: RangeId,
        state: ReplicaState,
        membership: raft.Membership,
        budget: SnapshotBudget,
    ) -> None:
        self._engine = engine
        self._budget = budget
        self.range_id = range_id
        self.state = state
        self.membership = membership
        self.last = state.truncated_index
        self._logged = 0
        """Bytes of data in the log's records, roughly (what was there at the start counts by its number only)."""
        self._find_last()

    def _find_last(self) -> None:
        start = log_key(self.range_id, self.state.truncated_index + 1)
        end = log_span(self.range_id)[1]
        for key, _ in self._engine.latest().scan(Space.LOG, start, end, reverse=True):
            self.last = int.from_bytes(key[8:], "big")
            break

    # ------------------------------------------------------------------------------------------------- raft.LogStorage

    def initial_state(self) -> tuple[raft.HardState, raft.Membership, int]:
        state = self.state
        return raft.HardState(state.term, state.vote, state.commit), self.membership, state.applied_index

    def first_index(self) -> int:
        return self.state.truncated_index + 1

    def last_index(self) -> int:
        return self.last

    def term(self, index: int) -> int:
        state = self.state
        if index == state.truncated_index:
            return state.truncated_term
        if index < state.truncated_index:
            raise raft.Compacted(index)
        data = self._engine.latest().get(Space.LOG, log_key(self.range_id, index))
        assert data is not None, f"range {self.range_id}: log entry {index} is missing"
        return _decode_entry(data).term

    def entries(self, low: int, high: int, max_bytes: int) -> list[raft.Entry]:
        if low <= self.state.truncated_index:
            raise raft.Compacted(low)
        found: list[raft.Entry] = []
        snapshot = self._engine.latest()
        start, end = log_key(self.range_id, low), log_key(self.range_id, high)
        for _, data in snapshot.scan(Space.LOG, start, end):
            entry = _decode_entry(data)
            max_bytes -= len(entry.data)
            if found and max_bytes < 0:
                break
            found.append(entry)
        assert found and found[0].index == low, f"range {self.range_id}: log entry {low} is missing"
        return found

    def snapshot(self, to: raft.PeerId) -> raft.SnapshotReader | None:
        if not self._budget.take():
            return None
        view = self._engine.snapshot()
        descriptor = load_descriptor(view, self.range_id)
        state = load_state(view, self.range_id)
        # A newcomer must find itself in what it gets.  Were the entry that adds it, or a split before that, still on its way
        # to this disk, it would split a range that it is not part of, and keep the right part for ever.
        if descriptor is None or state is None or state.installing or descriptor.replica(to) is None:
            view.close()
            self._budget.give_back()
            return None
        meta = raft.SnapshotMeta(state.applied_index, state.applied_term, membership_of(descriptor))
        return RangeSnapshotReader(view, descriptor, meta, state.clock, self._budget)

    # --------------------------------------------------------------------------------------------------------- writing

    def append(self, entries: list[raft.Entry], round: Round) -> None:
        """Write entries, replacing whatever the log has at and behind the first of them."""
        first = entries[0].index
        range_id = self.range_id
        if first <= self.last:
            for index in range(first + len(entries), self.last + 1):
                round.write((Space.LOG, log_key(range_id, index), None))
        for entry in entries:
            data = _encode(entry)
            self._logged += len(data)
            round.write((Space.LOG, _log_key(range_id, entry.index), data))
        self.last = entries[-1].index

    def elide(self, entry: raft.Entry, round: Round) -> None:
        """Let the log begin behind ``entry``, which this round applies instead of logging it."""
        state = self.state
        if self.last > state.truncated_index:
            round.clear((Space.LOG, *log_span(self.range_id)))
            self._logged = 0
        self.last = state.truncated_index = entry.index
        state.truncated_term = entry.term

    def truncate(self, index: int, term: int, round: Round) -> None:
        """Forget the entries up to ``index``, which is applied."""
        state = self.state
        if index <= state.truncated_index:
            return
        kept = max(self.last - index, 0) / max(self.last - state.truncated_index, 1)
        self._logged = int(self._logged * kept)
        # Nothing that this round writes lies below: entries there are applied, and so durable.
        round.clear((Space.LOG, log_key(self.range_id, state.truncated_index), log_key(self.range_id, index + 1)))
        state.truncated_index = index
        state.truncated_term = term

    def reset(self, meta: raft.SnapshotMeta, clock: Timestamp) -> None:
        """Stand where the snapshot stands (its installer clears the records)."""
        state = self.state
        state.clock = max(state.clock, clock)
        state.applied_index = state.truncated_index = state.commit = self.last = meta.index
        state.applied_term = state.truncated_term = meta.term
        state.installing = state.install_index = state.install_term = 0
        self.membership = meta.membership
        self._logged = 0

    def encode_state(self) -> bytes:
        return _encode(self.state)

    @property
    def length(self) -> int:
        return self.last - self.state.truncated_index

    @property
    def size_bytes(self) -> int:
        return self._logged
