"""Reads at a closed timestamp, from whatever copy of a range this node has.

A replica that is complete up to C (closed.py) answers a read at T ≤ C by itself: every version at or below T that there
will ever be is here, or is still an intent.  An intent at or below T is the one thing it cannot judge: the record may say
"committed below T", and may be gone already, since the leaseholder, being ahead, has resolved the intent and forgotten
the record.  So the reader is sent on, with the timestamp up to which this replica can do without::

    closed up to 30            read k at 25          → the version at 20
    k: version 20, intent 28   read k at 29          → NotClosed(27): go to the leaseholder, or read at 27
    j: version 20              read j at 29          → the version at 20
                               read j at 40          → NotClosed(30)

There is no lease to check and no clock to raise.  What may have been removed as garbage is refused.  ``ReadAtReplica``
carries a read to another node's copy; if that node turns out to lease the range it answers as the leaseholder does.
"""

from __future__ import annotations

from typing import Protocol

from pydistdb_storage import mvcc
from pydistdb_storage.engine import Picks, Space

from pydistdb.kv.answers import Entries, Values, WrongRange
from pydistdb.kv.api import NotClosed, SnapshotTooOld, Timestamp
from pydistdb.kv.closed import ClosedTimestamps
from pydistdb.kv.descriptor import NodeId
from pydistdb.kv.evaluate import RangeServer
from pydistdb.kv.fragments import Evaluate, Evaluated
from pydistdb.kv.garbage import GarbageCollector
from pydistdb.kv.intents import intent_info, is_condition
from pydistdb.kv.overlay import Chunk, covered_span
from pydistdb.kv.reads import MAX_SCAN_LIMIT
from pydistdb.kv.replica import Replica
from pydistdb.kv.requests import GetMany, Scan
from pydistdb.kv.store_config import Metrics
from pydistdb.kv.transport import Message, register


class ReadAtReplica(Message):
    """Asked of a node that has a copy of the range: answer ``request`` at its read timestamp, leaseholder or not."""

    request: GetMany | Scan | Evaluate


register(ReadAtReplica)


class ReplicaStore(Protocol):
    """What reading from copies needs of a node's store."""

    closed: ClosedTimestamps
    garbage: GarbageCollector
    metrics: Metrics

    def replica_for_key(self, key: bytes) -> Replica | None:
        """Find this node's replica around a key."""

    def replica_before(self, end: bytes) -> Replica | None:
        """Find this node's replica around the keys just below ``end``."""


class FollowerReader:
    """Reads from this node's copies."""

    def __init__(self, server: RangeServer, store: ReplicaStore) -> None:
        self._server = server
        self._leases = server.leases
        self._store = store

    # ------------------------------------------------------------------------------------------------- without waiting

    def get(self, key: bytes, timestamp: Timestamp) -> bytes | None:
        """The value at ``key``; raises NotClosed."""
        self._need(self._store.replica_for_key(key), timestamp)
        snapshot = self._leases.latest()
        data = snapshot.get(Space.INTENTS, key)
        if data is not None:
            _check_intent(data, timestamp)
        self._store.metrics.replica_reads += 1
        return mvcc.get(snapshot, key, timestamp)[0]

    def chunk(
        self,
        start: bytes,
        end: bytes,
        limit: int,
        reverse: bool,
        timestamp: Timestamp,
        picks: Picks | None = None,
    ) -> tuple[Chunk, bytes, bytes]:
        """One chunk of the part of [start, end) at its head that lies in one range here, and that part's bounds."""
        store = self._store
        replica = self._need(store.replica_before(end) if reverse else store.replica_for_key(start), timestamp)
        first, last = max(start, replica.descriptor.start), min(end, replica.descriptor.end)
        snapshot = self._leases.latest()
        found = mvcc.scan(snapshot, first, last, timestamp, min(limit, MAX_SCAN_LIMIT), reverse=reverse, picks=picks)
        for _, data in snapshot.scan(Space.INTENTS, *covered_span(first, last, found.resume, reverse)):
            if not is_condition(data):
                _check_intent(data, timestamp)
        store.metrics.replica_reads += 1
        return (found.keys, found.values, found.resume), first, last

    def holds(self, start: bytes, end: bytes, timestamp: Timestamp) -> bool:
        """Whether copies here are complete up to ``timestamp`` over all of [start, end)."""
        while start < end:
            replica = self._store.replica_for_key(start)
            if replica is None or (not replica.is_leaseholder() and self._store.closed.at(replica) < timestamp):
                return False
            start = replica.descriptor.end
        return True

    def _need(self, replica: Replica | None, timestamp: Timestamp) -> Replica:
        if replica is None:
            raise NotClosed(0)
        closed = self._store.closed.at(replica)
        if closed < timestamp:
            self._store.metrics.replica_refusals += 1
            raise NotClosed(closed)
        if timestamp < self._store.garbage.horizon:
            raise SnapshotTooOld(timestamp)
        return replica

    # -------------------------------------------------------------------------------------------------- for other nodes

    async def answer(self, sender: NodeId, asked: ReadAtReplica) -> Message:
        request = asked.request
        local = self._leases.find(request.routing_key)
        if local is not None and local.replica.is_leaseholder():
            answer: Message = await self._server.handle(request)
            return answer
        match request:
            case GetMany():
                return Values([self.get(key, request.read_timestamp) for key in request.keys])
            case Scan():
                return await self._scan(request)
            case Evaluate():
                evaluated: Evaluated = await self._server.fragments.evaluate(request, self._scan)
                return evaluated

    async def _scan(self, request: Scan) -> Entries:
        chunk, first, last = self.chunk(
            request.start, request.end, request.limit, request.reverse, request.read_timestamp, request.picks
        )
        if first > request.start or last < request.end:
            replica = self._store.replica_for_key(first)
            assert replica is not None
            raise WrongRange(replica.descriptor)
        return Entries(*chunk)


def _check_intent(data: bytes, timestamp: Timestamp) -> None:
    written = intent_info(data).timestamp
    if written <= timestamp:
        raise NotClosed(written - 1)
