"""Reading in the past: a transaction that only reads, at a timestamp that copies near by can serve.

Its snapshot lies so far back that no uncertainty is left: whoever reads at T asks for what was committed at or below T,
and for nothing else.  ``floor`` says how far back a statement may look; it is given anew for each statement::

    AS OF SYSTEM TIME T      floor T, exactly                          session        floor: the session's token
    bounded(10 s)            floor: now less 10 s                      eventual       no floor

Unless it is to be exact, a statement reads at the newest timestamp that the copies on this node should all have
(``ClosedTimestamps.resolved``), but not below its floor.  Each read then looks for an answer in this order:

1. this node: as the leaseholder, or from its copy;
2. where the leaseholder's node is silent, and nothing has been read yet at this snapshot: from its copy at an earlier
   timestamp, down to the floor;
3. the nearest node that has a copy, if this one has none (by the round trip of the last ping);
4. the leaseholder, as any other read.

A node's copy of the catalog is that of the present: ``schema_checked`` says that the tables at hand were the same then.

Nothing of this raises anybody's clock or waits for a lock.  There are no writes and no locks: the session takes an
ordinary transaction for statements that need them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pydistdb_storage.engine import Picks

from pydistdb.kv.api import (
    Isolation,
    LockedValue,
    LockStrength,
    MustWait,
    NotClosed,
    PastIsReadOnly,
    RangeUnavailable,
    ScanBatch,
    SnapshotTooOld,
    Timestamp,
    WaitPolicy,
)
from pydistdb.kv.command import ProposalLost
from pydistdb.kv.descriptor import KEY_MAX, NodeId
from pydistdb.kv.follower import ReadAtReplica
from pydistdb.kv.hlc import COUNTER_BITS
from pydistdb.kv.transport import NodeUnreachable, RemoteError
from pydistdb.kv.txn.coordinator import Coordinator

if TYPE_CHECKING:
    from pydistdb.kv.gateway import Gateway

T = TypeVar("T")

UNKNOWN_LAG_US = 3_000_000
"""So far back a statement looks where this node has no copy of anything."""


class StaleReader(Coordinator):
    """kv.api.Transaction at a closed timestamp; see the module's docstring."""

    __slots__ = ("_exact", "_floor", "_floor_of", "_pinned", "schema_checked", "served")

    def __init__(
        self, gateway: Gateway, isolation: Isolation, floor: Callable[[], Timestamp], *, exact: bool = False
    ) -> None:
        super().__init__(gateway, isolation, True)
        self._floor_of = floor
        self._floor: Timestamp = 0
        self._exact = exact
        self._pinned = False
        """Something has been read at this snapshot: it stays."""
        self.served: dict[NodeId, int] = {}
        """How many reads each node has answered (EXPLAIN)."""
        self.schema_checked = False

    # ---------------------------------------------------------------------------------------------------- snapshots

    def begin_statement(self, at_least: Timestamp = 0) -> None:
        self._check_open()
        self.schema_checked = False
        if (
            not self._first_statement
            and self.isolation is not Isolation.READ_COMMITTED
            and at_least <= self.read_timestamp
        ):
            return
        gateway = self._gateway
        clock = self._leases.clock
        clock.check()
        # A transaction's later statements do not see less than its earlier ones.
        earlier = 0 if self._first_statement else self.read_timestamp
        self._floor = floor = max(self._floor_of(), earlier, at_least)
        if self._exact and floor > clock.now():
            raise MustWait  # that time has not come yet
        self._leases.hear(floor)
        if floor and floor < gateway.store.garbage.horizon:
            raise SnapshotTooOld(floor)
        if self._exact:
            self.read_timestamp = floor
        else:
            self.read_timestamp = max(floor, self._newest())
        self._first_statement = False
        self._pinned = False

    def _newest(self) -> Timestamp:
        """What the copies here should all have."""
        gateway = self._gateway
        resolved = gateway.store.closed.resolved()
        if resolved:
            return resolved
        now = self._leases.clock.now()
        return now if len(gateway.router.node_ids()) == 1 else now - (UNKNOWN_LAG_US << COUNTER_BITS)

    def snapshot(self) -> Coordinator:
        self._check_open()
        self._pinned = True
        timestamp = self.read_timestamp
        reader = StaleReader(self._gateway, Isolation.REPEATABLE_READ, lambda: timestamp, exact=True)
        reader.begin_statement()
        reader.schema_checked = True
        reader.served = self.served
        return reader

    def _limit(self) -> Timestamp:
        return self.read_timestamp

    # -------------------------------------------------------------------------------------------------------- reads

    def try_get(self, key: bytes) -> bytes | None:
        if not self.schema_checked:
            raise MustWait
        try:
            value = super().try_get(key)
        except MustWait:
            follower = self._gateway.follower
            return self._from_copy(key, lambda: follower.get(key, self.read_timestamp))
        self._note(self._gateway.node_id)
        return value

    def try_scan(
        self, start: bytes, end: bytes, *, limit: int, reverse: bool = False, picks: Picks | None = None
    ) -> ScanBatch:
        if not self.schema_checked:
            raise MustWait
        try:
            batch = super().try_scan(start, end, limit=limit, reverse=reverse, picks=picks)
        except MustWait:
            follower = self._gateway.follower
            end = min(end, KEY_MAX)
            chunk, first, last = self._from_copy(
                end if reverse else start,
                lambda: follower.chunk(start, end, limit, reverse, self.read_timestamp, picks),
                reverse=reverse,
            )
            return self._finish_chunk(chunk, start, end, first, last, limit, reverse)
        self._note(self._gateway.node_id)
        return batch

    def _from_copy(self, key: bytes, read: Callable[[], T], *, reverse: bool = False) -> T:
        """Read from the copy here, at an earlier timestamp if need be and allowed; raises MustWait."""
        while True:
            try:
                found = read()
            except NotClosed as refused:
                earlier = refused.usable
                if self._pinned or not self._floor <= earlier < self.read_timestamp or not earlier:
                    raise MustWait from None
                if earlier < self._gateway.store.garbage.horizon or self._leader_answers(key, reverse):
                    raise MustWait from None
                self.read_timestamp = earlier
                continue
            self._note(self._gateway.node_id)
            return found

    def _leader_answers(self, key: bytes, reverse: bool) -> bool:
        """Whether the leaseholder of the range here may still be asked."""
        store = self._gateway.store
        replica = store.replica_before(key) if reverse else store.replica_for_key(key)
        leader = None if replica is None else replica.leader_hint
        return leader is not None and leader != self._gateway.node_id and leader in store.live_nodes()

    def _note(self, node_id: NodeId) -> None:
        self._pinned = True
        self.served[node_id] = self.served.get(node_id, 0) + 1

    def is_local(self, start: bytes, end: bytes) -> bool:
        return self._gateway.follower.holds(start, min(end, KEY_MAX), self.read_timestamp)

    async def _send(self, request: Any) -> Any:
        """Have the nearest copy answer, or the leaseholder."""
        self._pinned = True
        router = self._gateway.router
        for node_id in await self._near(request.routing_key):
            try:
                answer = await router.ask_node(node_id, ReadAtReplica(request))
            except (NotClosed, ProposalLost, NodeUnreachable, RemoteError, RangeUnavailable):
                continue
            self._note(node_id)
            return answer
        served: set[NodeId] = set()
        answer = await router.send(request, observed=self._seen(), served=served)
        for node_id in served:
            self._note(node_id)
        return answer

    async def _near(self, key: bytes) -> Sequence[NodeId]:
        """Whom to ask before the leaseholder."""
        gateway = self._gateway
        store = gateway.store
        descriptor = await gateway.router.locate(key)
        live = set(store.live_nodes())
        others = [
            replica.node_id
            for replica in descriptor.replicas
            if replica.node_id != gateway.node_id and replica.node_id in live
        ]
        others.sort(key=store.round_trip_us)
        replica = store.replica_for_key(key)
        if replica is None:
            return others[:1]
        # The copy here could not answer, so that others can is likely only if their leaseholder cannot.
        return () if self._leader_answers(key, False) else others

    # ------------------------------------------------------------------------------------------------ what it is not for

    def try_lock(self, key: bytes, strength: LockStrength) -> LockedValue:
        raise PastIsReadOnly

    async def lock(
        self, keys: Sequence[bytes], strength: LockStrength, wait: WaitPolicy = WaitPolicy.WAIT
    ) -> list[LockedValue]:
        raise PastIsReadOnly

    def put(self, key: bytes, value: bytes) -> None:
        raise PastIsReadOnly

    def put_all(self, entries: dict[bytes, bytes]) -> None:
        raise PastIsReadOnly

    def insert(self, key: bytes, value: bytes) -> None:
        raise PastIsReadOnly

    def delete(self, key: bytes) -> None:
        raise PastIsReadOnly
