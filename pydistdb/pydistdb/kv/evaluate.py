"""The leaseholder's front: one object per node that answers every request for the ranges whose lease it holds.

``handle`` is the way in for this node's own gateway (objects in, objects out, errors raised); ``handle_remote`` the one
for other nodes (errors become ``Failure`` messages, and no call waits longer than ``CALL_WAIT_NS``: the other side sends
again, and finds its place in the queue).  Point reads, single locks and one-range commits of the local gateway do not
even come by here (txn/).

    server = RangeServer(node_id, engine, clock, scheduler)
    store.observers.append(server.leases)
    store.register(GetMany, server.handle_remote)            and so on for every request class
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from pydistdb_storage.engine import Engine
from pydistdb_storage.errors import StorageError

from pydistdb.kv.advisory import AdvisoryLock, AdvisoryLocker, AdvisoryUnlock, ConfirmAdvisory
from pydistdb.kv.answers import Applied, Edges, Failure, LocksHanded, RangeDetails, failure_of
from pydistdb.kv.api import ClockOutOfBounds, KVError, OutcomeUnknown, RangeUnavailable, ReadRestart
from pydistdb.kv.bulk import BulkWriter
from pydistdb.kv.changes import Change, ChangeServer
from pydistdb.kv.command import NotLeaseholder, Overtaken, ProposalLost
from pydistdb.kv.deadlock import WaitGraph
from pydistdb.kv.descriptor import NodeId
from pydistdb.kv.fragments import Evaluate, FragmentServer
from pydistdb.kv.hlc import ClockOffsetExceeded, HybridClock
from pydistdb.kv.journal import Journal
from pydistdb.kv.leases import Leases
from pydistdb.kv.locking import Locker
from pydistdb.kv.reads import Reader
from pydistdb.kv.reclaim import Reclaimer
from pydistdb.kv.records import Records
from pydistdb.kv.requests import (
    ClearRange,
    CommitOnePhase,
    EndTransaction,
    ForgetRecord,
    GetMany,
    Increment,
    Ingest,
    Lock,
    LookUpRange,
    Prepare,
    PrepareFresh,
    PrepareRecord,
    PushTransaction,
    QueryVersion,
    RaiseClock,
    RangeAround,
    ReleaseLocks,
    ResolveIntents,
    Scan,
    SplitAt,
    Validate,
    WaitEdges,
)
from pydistdb.kv.resolution import Resolver
from pydistdb.kv.transport import Message
from pydistdb.kv.validation import Validator
from pydistdb.kv.writes import Writer
from pydistdb.tasks import Scheduler

CALL_WAIT_NS = 2_000_000_000
"""How long a request of another node may wait here before it has to be sent again."""

MOST_AGAIN = 2
"""How often a request is evaluated again here: what came behind a split in the log, and then waits for the right part's lease."""


class RangeServer:
    """Answers requests for the ranges whose lease this node holds."""

    def __init__(self, node_id: NodeId, engine: Engine, clock: HybridClock, scheduler: Scheduler) -> None:
        self.leases = Leases(node_id, engine, clock, scheduler)
        self.graph = WaitGraph(self.leases)
        self.resolver = Resolver(self.leases)
        self.locker = Locker(self.leases, self.resolver, self.graph)
        self.advisory = AdvisoryLocker(self.leases, self.locker)
        self.leases.locks_taken = lambda local: self.locker.check_holders(local, local.locks.owners(), patient=True)
        self.journal = Journal(node_id, clock.physical_us)
        self.records = Records(self.leases, self.locker, self.journal)
        self.locker.settle = Reclaimer(self.leases, self.records).settle
        self.reader = Reader(self.leases)
        self.fragments = FragmentServer(self.leases, self.reader)
        self.validator = Validator(self.leases)
        self.writer = Writer(self.leases, self.locker, self.records, self.validator)
        self.bulk = BulkWriter(self.leases)
        self.changes = ChangeServer(self.leases, self.reader, self.locker, self.writer)
        self.split: Callable[[bytes], Awaitable[object]] | None = None
        """Makes a key a boundary of the range leased here (the store)."""
        self.extra_handlers: dict[type[Message], Callable[[NodeId, Any], Awaitable[Message]]] = {}
        """What the gateway of this node answers (QueryTransaction, Broadcast)."""
        self._waiting_handlers: dict[type[Any], Callable[[Any, int], Awaitable[Message]]] = {
            Lock: self.locker.lock,
            AdvisoryLock: self.advisory.lock,
            AdvisoryUnlock: self.advisory.unlock,
            CommitOnePhase: self.writer.commit,
            Prepare: self.writer.prepare,
            Change: self.changes.change,
        }
        self._handlers: dict[type[Any], Callable[[Any], Awaitable[Message]]] = {
            GetMany: self.reader.get_many,
            Scan: self.reader.scan,
            Evaluate: self.fragments.evaluate,
            EndTransaction: self.records.end,
            PrepareRecord: self.records.prepare,
            PushTransaction: self.records.push,
            Validate: self.validator.validate,
            ForgetRecord: self.records.forget,
            ResolveIntents: self.resolver.resolve,
            ReleaseLocks: self._release_locks,
            LocksHanded: self.leases.take_handed,
            ConfirmAdvisory: self.advisory.confirm,
            QueryVersion: self.bulk.query_version,
            PrepareFresh: self.writer.prepare_fresh,
            Ingest: self.bulk.ingest,
            ClearRange: self.bulk.clear_range,
            Increment: self.writer.increment,
            SplitAt: self._split,
            RangeAround: self._range_around,
            LookUpRange: self._look_up_range,
            RaiseClock: self._raise_clock,
            WaitEdges: self._wait_edges,
        }

    def request_classes(self) -> list[type[Message]]:
        """What ``handle_remote`` understands."""
        return [*self._waiting_handlers, *self._handlers, *self.extra_handlers]

    @property
    def node_id(self) -> NodeId:
        return self.leases.node_id

    async def handle(self, request: Any, call_deadline_ns: int = 0) -> Any:
        """Answer a request; raises KVError."""
        extra = self.extra_handlers.get(type(request))
        if extra is not None:
            return await extra(self.node_id, request)
        for _ in range(MOST_AGAIN):
            # The router would ask here again anyway, later.
            try:
                return await self._handle(request, call_deadline_ns)
            except NotLeaseholder as error:
                if error.leader not in (0, self.node_id) or not await self.leases.begins(request.routing_key):
                    raise
            except Overtaken:
                pass
        return await self._handle(request, call_deadline_ns)

    async def _handle(self, request: Any, call_deadline_ns: int) -> Any:
        kind = type(request)
        waiting = self._waiting_handlers.get(kind)
        if waiting is not None:
            return await waiting(request, call_deadline_ns)
        handler = self._handlers.get(kind)
        if handler is None:
            raise KVError(f"no handler for {kind.__name__}")
        return await handler(request)

    async def handle_remote(self, sender: NodeId, request: Any) -> Message:
        """Answer a request of another node; every outcome is a message."""
        extra = self.extra_handlers.get(type(request))
        leases = self.leases
        try:
            if extra is not None:
                return await extra(sender, request)
            answer: Message = await self.handle(request, leases.scheduler.now_ns() + CALL_WAIT_NS)
            return answer
        except ReadRestart as restart:
            failure = failure_of(restart)
            failure.observed = request.observed or leases.clock.now()
            return failure
        except OutcomeUnknown:
            return failure_of(ProposalLost("the outcome of a proposal is not known yet"))
        except KVError as error:
            return failure_of(error)
        except ClockOffsetExceeded as error:
            return failure_of(ClockOutOfBounds(str(error)))
        except StorageError as error:
            return Failure("RangeUnavailable", f"{type(error).__name__}: {error}")

    async def _release_locks(self, request: ReleaseLocks) -> Applied:
        local = self.leases.need(request.start)  # else it goes to where the locks have gone
        if request.keys:
            local.locks.give_back(request.transaction_id, request.keys)
        else:
            self.leases.release(request.transaction_id, request.start)
        return Applied()

    async def _split(self, request: SplitAt) -> Applied:
        local = self.leases.need(request.key)
        if local.start != request.key:
            if self.split is None:
                raise RangeUnavailable("this store cannot split ranges")
            await self.split(request.key)
        return Applied()

    async def _range_around(self, request: RangeAround) -> RangeDetails:
        local = self.leases.need(request.key)
        return RangeDetails(local.replica.descriptor, self.node_id, local.epoch)

    async def _look_up_range(self, request: LookUpRange) -> RangeDetails:
        """What this node's own replica says, whether it holds the lease or not."""
        replica = self.leases.find_replica(request.key)
        if replica is None:
            raise RangeUnavailable("no replica of that range here")
        leader = self.node_id if replica.is_leaseholder() else (replica.leader_hint or 0)
        return RangeDetails(replica.descriptor, leader, replica.lease_epoch)

    async def _raise_clock(self, request: RaiseClock) -> Applied:
        self.leases.hear(request.timestamp)
        return Applied()

    async def _wait_edges(self, request: WaitEdges) -> Edges:
        return Edges(self.graph.edges(), self.graph.links())
