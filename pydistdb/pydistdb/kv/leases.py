"""The ranges whose lease this node holds; what is kept in memory for each is a ``RangeLocal`` (range_local.py).

``Leases`` finds the RangeLocal of a key: a memo of the last one, else one bisection (0.1 and 0.5 µs).

* A split is noticed by the descriptor's generation: the left part keeps its RangeLocal, trimmed; the right part is a new
  range with a lease of its own, and inherits the row locks if that lease is the very next.
* A merge adds what the right range's RangeLocal knew to the left one (``Inheritance``), but only when it is durable: up to
  then the store does not show the right range's transaction records under their new names.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from pydistdb_storage.engine import Engine, Snapshot

from pydistdb.kv.answers import Applied, LocksHanded
from pydistdb.kv.api import ClockOutOfBounds, KVError, RangeUnavailable, Timestamp
from pydistdb.kv.command import NotLeaseholder
from pydistdb.kv.descriptor import NodeId, RangeId
from pydistdb.kv.hlc import ClockOffsetExceeded, HybridClock
from pydistdb.kv.locks import HeldLocks
from pydistdb.kv.names import TransactionId
from pydistdb.kv.range_local import MAX_STATUSES, Inheritance, RangeLocal, Replica
from pydistdb.kv.requests import ReleaseLocks
from pydistdb.kv.transport import Message, NodeUnreachable, RemoteError
from pydistdb.kv.versions import Feature
from pydistdb.tasks import Completion, Scheduler

T = TypeVar("T")

ELECTION_WAIT_NS = 100_000_000
"""How long a request waits for the lease that is about to begin here, before it is sent away."""

MAX_PARTED = 1_000
"""Ranges that row locks are kept for until their lease begins here."""

MAX_HANDED = 10_000
"""More locks than this do not go along with a lease; their transactions fail."""


class Sender(Protocol):
    """The way to other leaseholders and nodes (the router)."""

    async def send(self, request: Any, *, timeout_ns: int = 0) -> Any:
        """Have the leaseholder of the request's key answer it."""

    async def ask_node(self, node_id: NodeId, request: Message) -> Any:
        """Have a node answer; raises NodeUnreachable."""

    def node_ids(self) -> Iterable[NodeId]:
        """List the nodes that count as alive."""

    def silent_ns(self, node_id: NodeId) -> int:
        """Tell how long nothing at all has been heard of a node."""


class Leases:
    """The leaseholder side of one node: its ranges, its clock, and the way to the others."""

    def __init__(self, node_id: NodeId, engine: Engine, clock: HybridClock, scheduler: Scheduler) -> None:
        self.node_id = node_id
        self.engine = engine
        self.clock = clock
        self.scheduler = scheduler
        self.latest: Callable[[], Snapshot] = engine.latest
        self.sender: Sender | None = None
        self.is_active: Callable[[Feature], bool] = lambda feature: True
        """Tells whether every node of the cluster knows something (versions.py)."""
        self.find_replica: Callable[[bytes], Replica | None] = lambda key: None
        """Finds this node's replica around a key, leaseholder or not (for hints)."""
        self.threshold: Callable[[], Timestamp] = lambda: 0
        """Below this timestamp versions may have been collected."""
        self.closed: Callable[[], Timestamp] = lambda: 0
        """Nothing is written at or below this timestamp under a lease of this node any more (closed.py)."""
        self._starts: list[bytes] = []
        self._locals: list[RangeLocal] = []
        self._last: RangeLocal | None = None
        self._begun: dict[RangeId, Completion[None]] = {}
        """Done when the lease begins here that requests wait for."""
        self.losses = 0
        """How many leases have been lost so far."""
        self._parted: dict[RangeId, tuple[int, HeldLocks]] = {}
        """The row locks in right parts of splits, and in ranges whose leases are being handed to this node, until these get
        their leases; and the term in which they were held."""
        self.locks_taken: Callable[[RangeLocal], None] = lambda local: None
        """Told of a range that has got its locks from another lease: some of their transactions may have ended meanwhile."""
        self.parted_to: dict[TransactionId, list[bytes]] = {}
        """Where splits here have taken locks of transactions that may be released where they were taken (``release`` follows
        them)."""

    def lease_acquired(self, replica: Replica) -> None:
        """Hear from the store that a replica of this node may serve its range."""
        self.lease_lost(replica)
        local = RangeLocal(replica, self.engine, self.clock)
        epoch, locks = self._parted.pop(local.range_id, (0, {}))
        if local.epoch <= epoch + 1:  # nobody else can have led it since
            local.locks.take(locks)
            local.locks_known = True
        position = bisect_right(self._starts, local.start)
        self._starts.insert(position, local.start)
        self._locals.insert(position, local)
        if len(local.locks):
            self.locks_taken(local)
        begun = self._begun.pop(local.range_id, None)
        if begun is not None:
            begun.set(None)

    async def begins(self, key: bytes) -> bool:
        """Wait a little if the lease of the range around ``key`` is about to begin here; tells whether it has.

        The right part of a split is led by nobody for some round trips: whoever is to lead it knows when it does."""
        replica = self.find_replica(key)
        if replica is None or not replica.is_about_to_lead:
            return False
        range_id = replica.descriptor.range_id
        begun = self._begun.get(range_id)
        if begun is None:
            begun = self._begun[range_id] = Completion()
        if await bounded(self.scheduler, begun, ELECTION_WAIT_NS):
            return True
        if self._begun.get(range_id) is begun:
            del self._begun[range_id]
        return False

    def lease_handed(self, replica: Replica, to: NodeId) -> None:
        """Hear from the store that another node is to have the lease: nothing is served here from now on, so the locks stay
        as they are, and go along."""
        local = self._local_of(replica)
        if local is None or self.sender is None or len(local.locks) > MAX_HANDED:
            return
        parted = local.locks.part_with(local.start, local.end)
        locks = {
            owner: kept
            for owner, keys in parted.items()
            if (kept := {key: strength for key, strength in keys.items() if strength > 0})
        }
        if locks:
            self.scheduler.spawn(self._hand(to, LocksHanded(local.range_id, local.epoch, locks)), "hand locks over")

    async def _hand(self, to: NodeId, handed: LocksHanded) -> None:
        assert self.sender is not None
        try:
            await self.sender.ask_node(to, handed)
        except (KVError, NodeUnreachable, RemoteError):
            pass  # they are lost, and the commits find that out

    async def take_handed(self, handed: LocksHanded) -> Applied:
        """Keep locks for the lease that is to begin here."""
        self._parted[handed.range_id] = handed.epoch, handed.locks
        if len(self._parted) > MAX_PARTED:
            del self._parted[next(iter(self._parted))]
        return Applied()

    def lease_lost(self, replica: Replica) -> None:
        """Hear from the store that it may not any more."""
        local = self._local_of(replica)
        if local is not None:
            position = bisect_left(self._starts, local.start)
            del self._locals[position]
            del self._starts[position]
            self._last = None
            self.losses += 1
            local.detach()

    def range_split(self, left: Replica, right: Replica) -> None:
        """Hear from the store that a range here was cut; the right part gets a lease of its own."""
        # Only the left part's span has changed, and where it starts has not: nothing else is looked at, however many there are.
        local = self._local_of(left)
        if local is not None:
            cut = right.descriptor
            locks = local.locks.part_with(cut.start, cut.end)
            if locks:
                self._parted[cut.range_id] = right.lease_epoch, locks
                if len(self._parted) > MAX_PARTED:
                    del self._parted[next(iter(self._parted))]
                for transaction_id in locks:
                    self.parted_to.setdefault(transaction_id, []).append(cut.start)
                while len(self.parted_to) > MAX_STATUSES:
                    del self.parted_to[next(iter(self.parted_to))]
            local.refresh()

    def range_merged(self, left: Replica, right: Replica) -> None:
        """Hear from the store that ``right`` ends and its keys are the left range's from now on."""
        heir = self._local_of(left)
        if heir is not None:
            local = self._local_of(right)
            descriptor, now = right.descriptor, self.clock.now()
            heir.inheritances.append(
                Inheritance(descriptor.start, descriptor.end, now, now) if local is None else local.leave()
            )

    def merge_settled(self, left: Replica) -> None:
        """Hear that the merge is durable here."""
        local = self._local_of(left)
        if local is not None:
            local.inherit(self.engine)

    def release(self, transaction_id: TransactionId, start: bytes) -> bool:
        """Release a transaction's locks in the range around ``start``, and those that a split has taken from there; tells
        whether the range is held here."""
        local = self.find(start)
        if local is not None:
            local.locks.release(transaction_id)
        if self.parted_to:
            for parted in self.parted_to.pop(transaction_id, ()):
                for _, locks in self._parted.values():
                    locks.pop(transaction_id, None)
                if not self.release(transaction_id, parted) and self.sender is not None:
                    self.scheduler.spawn(self._release_there(transaction_id, parted), "release locks")
        return local is not None

    async def _release_there(self, transaction_id: TransactionId, start: bytes) -> None:
        try:
            await self.send(ReleaseLocks(transaction_id, start))
        except KVError:
            pass  # whoever waits for such a lock finds that the transaction is gone

    def _local_of(self, replica: Replica) -> RangeLocal | None:
        position = bisect_right(self._starts, replica.descriptor.start) - 1
        if position >= 0 and (local := self._locals[position]).replica is replica:
            return local
        return None

    def each(self) -> Sequence[RangeLocal]:
        """Every range held, in key order; not to be kept over a wait."""
        return self._locals

    def all(self) -> list[RangeLocal]:
        """Every range held, in key order."""
        return list(self._locals)

    def find(self, key: bytes) -> RangeLocal | None:
        """The held range around ``key``, if there is one (its lease may have run out just now)."""
        local = self._last
        if local is None or not local.start <= key < local.end:
            position = bisect_right(self._starts, key) - 1
            if position < 0:
                return None
            local = self._locals[position]
            if key >= local.end:
                return None
            self._last = local
        if local.replica.descriptor.generation != local.generation:
            local.refresh()
            return self.find(key)
        return local

    def find_before(self, end: bytes) -> RangeLocal | None:
        """The held range that holds the keys just below ``end``, if there is one."""
        position = bisect_left(self._starts, end) - 1
        if position < 0:
            return None
        local = self._locals[position]
        if local.replica.descriptor.generation != local.generation:
            local.refresh()
        return local if local.start < end <= local.end else None

    def hear(self, timestamp: Timestamp) -> None:
        """Raise the clock to a reading of another node."""
        try:
            self.clock.update(timestamp)
        except ClockOffsetExceeded as error:
            raise ClockOutOfBounds(str(error)) from error

    def need(self, key: bytes, *, counts: bool = True) -> RangeLocal:
        """The held range around ``key``; raises NotLeaseholder.  What ``counts`` may have the range split (load.py)."""
        local = self.find(key)
        if local is not None:
            if local.replica.is_leaseholder():
                if counts:
                    local.note_request(key)
                return local
            raise local.lost()
        replica = self.find_replica(key)
        if replica is None:
            raise NotLeaseholder(0, 0)
        raise NotLeaseholder(replica.descriptor.range_id, replica.leader_hint or 0)

    async def send(self, request: Any, timeout_ns: int = 0) -> Any:
        """Ask another leaseholder."""
        if self.sender is None:
            raise RangeUnavailable("this node is not connected")
        return await self.sender.send(request, timeout_ns=timeout_ns)


async def bounded(scheduler: Scheduler, completion: Completion[Any], duration_ns: int) -> bool:
    """Wait for ``completion`` or for ``duration_ns``; tells whether it is done.  Its error is raised."""
    if not completion.done:
        either: Completion[None] = Completion()
        wake: Callable[[Completion[Any]], None] = lambda _: either.set(None)  # noqa: E731
        completion.on_done(wake)
        timer = scheduler.call_at(scheduler.now_ns() + duration_ns, lambda: either.set(None))
        try:
            await either
        finally:
            timer.cancel()
            completion.remove_callback(wake)
    if completion.done:
        completion.result()
        return True
    return False
