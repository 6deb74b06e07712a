"""The door of one node to the cluster's key space: kv.api.Database.

Puts the parts of kv's upper half together around a node's store::

    SQL ─► Gateway.begin ─► Coordinator ──┬─ local lease: RangeServer's parts, by direct call
                                          └─ Router ─► transport ─► RangeServer of another node
    store ─► lease gained or lost ─► RangeServer.leases

    store = Store(...)
    database = Gateway(store)        # before store.start(), so that it hears of every lease
    store.start()
    database.start()

``active`` holds the transactions that have locked or written something: other nodes ask for them (QueryTransaction)
before they clean up after one that seems to be dead.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from pydistdb_storage import mvcc
from pydistdb_storage.engine import Engine
from pydistdb_storage.mvcc import MAX_TIMESTAMP

from pydistdb.kv import api as kv
from pydistdb.kv.advisory import HeldAdvisory
from pydistdb.kv.answers import TOO_LATE, Applied, BroadcastAnswer, Number, RangeDetails
from pydistdb.kv.api import (
    BroadcastHandler,
    ExchangeLost,
    Isolation,
    KVError,
    LockWait,
    MustWait,
    PreparedTransaction,
    RangeInfo,
    Timestamp,
    TransactionTooLarge,
)
from pydistdb.kv.copies import AwaitCopies, CopyWaiter
from pydistdb.kv.descriptor import COUNTER_PREFIX, KEY_MAX, NodeId
from pydistdb.kv.evaluate import RangeServer
from pydistdb.kv.follower import FollowerReader, ReadAtReplica, ReplicaStore
from pydistdb.kv.hlc import HybridClock
from pydistdb.kv.journal import TOPIC as JOURNAL_TOPIC
from pydistdb.kv.leases import Leases
from pydistdb.kv.load import LoadMeter
from pydistdb.kv.names import TransactionId
from pydistdb.kv.reclaim import ClaimedLocks, ClaimLocks, claims_of
from pydistdb.kv.requests import (
    Broadcast,
    ClearRange,
    Increment,
    Ingest,
    QuerySession,
    QueryTransaction,
    RangeAround,
    SplitAt,
)
from pydistdb.kv.router import Router
from pydistdb.kv.session_locks import LockKeeper, SessionLocks
from pydistdb.kv.transport import Message, NodeUnreachable, RemoteError, Transport
from pydistdb.kv.txn.coordinator import Coordinator
from pydistdb.kv.txn.prepared import PreparedTransactions
from pydistdb.kv.txn.recovery import Recovery
from pydistdb.kv.txn.serializable import SerializableCoordinator
from pydistdb.kv.txn.stale import StaleReader
from pydistdb.kv.txn.tracing import begin_traced
from pydistdb.kv.versions import ClusterVersion, Feature
from pydistdb.tasks import Completion, Scheduler, gather, give_way, sleep, with_deadline

MAX_SPLITS_AT_ONCE = 32
INGEST_CHUNK_BYTES = 512 << 10
INGEST_CHUNK_ENTRIES = 5_000
CLEAR_INTERVAL_NS = 50_000_000
CLEAR_NS = 15_000_000
"""What one piece takes, roughly."""
"""Between two proposals that clear a large span, so that others have the commit thread most of the time."""

MAX_BROADCAST_BYTES = 16 << 20


class NodeStore(ReplicaStore, Protocol):
    """What the gateway needs of a node's store (kv/store.py)."""

    node_id: NodeId
    engine: Engine
    clock: HybridClock
    scheduler: Scheduler
    transport: Transport
    observers: list[Any]
    range_rates: Callable[[], Mapping[int, float]]
    versions: ClusterVersion

    def register(self, request: type[Message], handler: Callable[[NodeId, Any], Awaitable[Message]]) -> None:
        """Answer requests of a class."""

    async def split(self, key: bytes) -> Any:
        """Make a key a boundary of the range leased here."""

    def live_nodes(self) -> Iterable[NodeId]:
        """List the nodes that count as alive."""

    def silent_ns(self, node_id: NodeId) -> int:
        """Tell how long nothing at all has been heard of another node."""

    def round_trip_us(self, node_id: NodeId) -> int:
        """Tell how long the last ping to a node took."""

    def known_nodes(self) -> Iterable[NodeId]:
        """List the nodes of the cluster, alive or not."""


class Gateway:
    """kv.api.Database on one node of a cluster."""

    def __init__(self, store: NodeStore) -> None:
        self.store = store
        self.node_id = store.node_id
        self.server = RangeServer(store.node_id, store.engine, store.clock, store.scheduler)
        self.leases: Leases = self.server.leases
        self.load = LoadMeter(self.leases)
        store.range_rates = self.load.rates
        self.router = Router(self.server, store.transport, store.live_nodes, store.silent_ns)
        self.active: dict[TransactionId, object] = {}
        """What other nodes may ask about: transactions that hold locks, and sessions that do."""
        self._handlers: dict[str, BroadcastHandler] = {}
        self._scheduler = store.scheduler
        self.follower = FollowerReader(self.server, store)
        self.copies = CopyWaiter(store, self.router, store.scheduler)
        self.leases.sender = self.router
        self.leases.is_active = store.versions.is_active
        self.leases.closed = lambda: store.closed.last
        self.leases.find_replica = store.replica_for_key
        self.server.split = store.split
        self.server.advisory.known_nodes = store.known_nodes
        self.lock_keeper = LockKeeper(self)
        self.prepared = PreparedTransactions(self)
        self.journal = self.server.journal
        self.server.graph.links = self.lock_keeper.links
        self.server.extra_handlers = {
            QueryTransaction: self._query_transaction,
            QuerySession: self._query_session,
            Broadcast: self._on_broadcast,
            HeldAdvisory: self.lock_keeper.on_held,
            ClaimLocks: self._claim_locks,
            ReadAtReplica: self.follower.answer,
            AwaitCopies: self.copies.answer,
        }
        self.xid_of_session: Callable[[int], int] = lambda process_id: 0
        self.recovery = Recovery(self)
        self.on_broadcast(JOURNAL_TOPIC, self.journal.answer)
        store.observers.append(self.leases)
        for request in self.server.request_classes():
            store.register(request, self.server.handle_remote)

    def start(self) -> None:
        """Begin to look after what dead coordinators have left behind, and to measure the load."""
        self.server.records.start_sweeping()
        self.load.start()

    def stop(self) -> None:
        self.server.records.stop()
        self.load.stop()

    # ------------------------------------------------------------------------------------------------ transactions

    def begin(
        self, isolation: Isolation, *, read_only: bool = False, trace: Callable[[str], None] | None = None
    ) -> Coordinator:
        if trace is not None:
            return begin_traced(self, isolation, read_only, trace)
        if isolation is Isolation.SERIALIZABLE:
            return SerializableCoordinator(self, read_only)
        return Coordinator(self, isolation, read_only)

    def begin_stale(self, isolation: Isolation, floor: Callable[[], Timestamp], *, exact: bool = False) -> StaleReader:
        return StaleReader(self, isolation, floor, exact=exact)

    def lock_waits(self) -> list[LockWait]:
        return self.server.graph.waits()

    async def prepared_transactions(self) -> list[PreparedTransaction]:
        return await self.prepared.all()

    async def finish_prepared(self, name: str, commit: bool, check: Callable[[PreparedTransaction], None]) -> None:
        await self.prepared.finish(name, commit, check)

    @property
    def max_clock_offset_us(self) -> int:
        alone = len(list(self.store.known_nodes())) == 1
        return 0 if alone else self.leases.clock.max_offset_us

    def session_locks(self, current: Callable[[], object], on_lost: Callable[[], None]) -> SessionLocks:
        return SessionLocks(self.lock_keeper, current, on_lost)

    async def wait_for(
        self,
        completion: Completion[None],
        transaction: kv.Transaction,
        holders: Callable[[], Iterable[TransactionId]],
        *,
        since_ns: int = 0,
        deadline_ns: int = 0,
    ) -> None:
        await self.server.graph.wait(
            completion, transaction.transaction_id, holders, since_ns=since_ns, lock_deadline_ns=deadline_ns
        )

    def try_get(self, key: bytes) -> bytes | None:
        leases = self.leases
        local = leases.find(key)
        if (
            local is None
            or key in local.pending.by_key
            or key in local.intents.writes
            or (local.intents.fresh and local.intents.may_hold(key))
        ):
            raise MustWait
        local.note_request(key)
        found = mvcc.get(leases.latest(), key, MAX_TIMESTAMP)[0]
        if not local.replica.is_leaseholder():
            raise MustWait
        return found

    # ------------------------------------------------------------------------------------------------ whole ranges

    async def ingest(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        if not entries:
            return
        values = dict(entries)
        for key in values:
            mvcc.check_key(key)

        async def ingest_range(part: list[bytes]) -> None:
            first, size = 0, 0
            for position, key in enumerate(part, 1):
                size += len(key) + len(values[key]) + 40
                if size >= INGEST_CHUNK_BYTES or position - first >= INGEST_CHUNK_ENTRIES or position == len(part):
                    chunk = [(key, values[key]) for key in part[first:position]]
                    # At a timestamp that is closed by the time it arrives nothing can be written any more.
                    while (await self.router.send(Ingest(self.now(), chunk))).resume == TOO_LATE:
                        pass
                    first, size = position, 0

        await self.router.each_range(sorted(values), ingest_range)

    async def clear_range(self, start: bytes, end: bytes) -> None:
        async def clear(first: bytes, last: bytes) -> None:
            while first < last:
                cleared: Applied = await self.router.send(ClearRange(first, last))
                first = cleared.resume or last
                if cleared.resume:
                    await sleep(self._scheduler, CLEAR_INTERVAL_NS)
                    await give_way(self._scheduler, CLEAR_NS)

        await self.router.each_span(start, min(end, KEY_MAX), clear)

    async def split(self, keys: Sequence[bytes]) -> None:
        await self._split(sorted(set(keys)), MAX_SPLITS_AT_ONCE)

    async def _split(self, keys: Sequence[bytes], at_once: int) -> None:
        """Cut at the middle key, then both parts side by side: splits of one range can only come one after the other."""
        if at_once <= 1:
            for key in keys:
                await self.router.send(SplitAt(key))
        elif keys:
            middle = len(keys) // 2
            await self.router.send(SplitAt(keys[middle]))
            parts = [self._split(part, at_once // 2) for part in (keys[:middle], keys[middle + 1 :])]
            await gather(self._scheduler, parts)

    async def ranges(self, start: bytes, end: bytes) -> list[RangeInfo]:
        found: list[RangeInfo] = []
        position = start
        end = min(end, KEY_MAX)
        while position < end:
            details: RangeDetails = await self.router.send(RangeAround(position))
            descriptor = details.descriptor
            self.router.cache.insert(descriptor, details.leader)
            replicas = tuple(replica.node_id for replica in descriptor.replicas)
            found.append(
                RangeInfo(descriptor.range_id, descriptor.start, descriptor.end, details.leader, replicas, details.term)
            )
            position = descriptor.end
        return found

    async def await_copies(self, spans: Sequence[tuple[bytes, bytes]], timeout_ns: int) -> list[NodeId]:
        return await self.copies.wait(spans, timeout_ns)

    async def require_unchanged(self, spans: Sequence[tuple[bytes, bytes]], since: Timestamp) -> None:
        reader = SerializableCoordinator(self, True)
        try:
            await reader.require_unchanged(spans, since)
        finally:
            reader.rollback()

    async def allocate_ids(self, counter: bytes, count: int = 1) -> int:
        before: Number = await self.router.send(Increment(COUNTER_PREFIX + counter, count))
        return before.value + 1

    # --------------------------------------------------------------------------------------------------- broadcast

    async def broadcast(self, topic: str, payload: bytes, timeout_ns: int) -> dict[int, bytes | None]:
        if len(payload) > MAX_BROADCAST_BYTES:
            raise TransactionTooLarge("a broadcast is too long")
        deadline_ns = self._scheduler.now_ns() + timeout_ns
        nodes = self.router.node_ids()

        async def ask(node_id: NodeId) -> bytes | None:
            task = self._scheduler.spawn(self.router.ask_node(node_id, Broadcast(topic, payload)), "broadcast")
            answer: Completion[Any] = with_deadline(
                self._scheduler, task.completion, deadline_ns, NodeUnreachable(node_id, "no answer in time")
            )
            try:
                found: bytes | None = (await answer).payload
                return found
            except (NodeUnreachable, RemoteError):
                return None
            except KVError:
                if node_id == self.node_id:
                    raise
                return None

        answers = await gather(self._scheduler, [ask(node_id) for node_id in nodes])
        return dict(zip(nodes, answers, strict=True))

    async def ask(self, node_id: NodeId, topic: str, payload: bytes) -> bytes:
        try:
            answer: BroadcastAnswer = await self.router.ask_node(node_id, Broadcast(topic, payload))
        except (NodeUnreachable, RemoteError) as error:
            raise ExchangeLost(str(error)) from error
        if answer.payload is None:
            raise ExchangeLost(f"node {node_id} knows of no {topic}")
        return answer.payload

    def is_active(self, feature: Feature) -> bool:
        return self.store.versions.is_active(feature)

    def on_broadcast(self, topic: str, handler: BroadcastHandler) -> None:
        self._handlers[topic] = handler

    async def _on_broadcast(self, sender: NodeId, request: Broadcast) -> BroadcastAnswer:
        handler = self._handlers.get(request.topic)
        return BroadcastAnswer(None if handler is None else await handler(sender, request.payload))

    async def _query_transaction(self, sender: NodeId, request: QueryTransaction) -> Number:
        return Number(1 if request.transaction_id in self.active else 0)

    async def _query_session(self, sender: NodeId, request: QuerySession) -> Number:
        process_id = getattr(self.active.get(request.transaction_id), "process_id", 0)
        return Number(process_id, self.xid_of_session(process_id))

    async def _claim_locks(self, sender: NodeId, request: ClaimLocks) -> ClaimedLocks:
        return ClaimedLocks(claims_of(self.active.values(), request.lease))

    def now(self) -> Timestamp:
        """A reading of this node's clock."""
        return self.leases.clock.now()
