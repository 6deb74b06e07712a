"""The ranges whose lease this node holds, and what a leaseholder keeps in memory for each.

``RangeLocal`` is made when a replica becomes leaseholder and thrown away when it ceases to be: lock table, pending
writes, the set of keys with intents, what is known of the transactions behind them.  None of it is needed for
correctness after a lease change: the next leaseholder finds intents and records in the store, and a commit whose locks
are gone fails.  Most locks do not go: they come along with a lease that is handed over, or are taken anew (reclaim.py).

Whatever waits inside a range waits on a completion of its RangeLocal, so that the loss of the lease wakes all of it with
NotLeaseholder, and the routers of the waiting requests go to look for the new one.

``Leases`` finds the RangeLocal of a key: a memo of the last one, else one bisection (0.1 and 0.5 µs).

* A split is noticed by the descriptor's generation: the left part keeps its RangeLocal, trimmed; the right part is a new
  range with a lease of its own, and inherits the row locks if that lease is the very next.
* A merge adds what the right range's RangeLocal knew to the left one (``Inheritance``), but only when it is durable: up to
  then the store does not show the right range's transaction records under their new names.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec
from pydistdb_storage.engine import Engine, Snapshot

from pydistdb.kv.api import ClockOutOfBounds, KVError, RangeUnavailable, Timestamp
from pydistdb.kv.command import Clear, Command, MergeStep, MergeStepKind, NotLeaseholder
from pydistdb.kv.command import Write as EngineWrite
from pydistdb.kv.descriptor import NodeId, RangeDescriptor, RangeId
from pydistdb.kv.hlc import ClockOffsetExceeded, HybridClock
from pydistdb.kv.intents import IntentSet
from pydistdb.kv.locks import HeldLocks, LockTable
from pydistdb.kv.pending import PendingWrites
from pydistdb.kv.placement.splitting import KeySampler
from pydistdb.kv.requests import (
    Applied,
    LeaseName,
    LocksHanded,
    ReleaseLocks,
    TransactionId,
    TransactionState,
    TransactionStatus,
    WrongRange,
)
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

MAX_STATUSES = 10_000
"""How many transactions' states a leaseholder remembers for its intents."""


class Replica(Protocol):
    """One copy of a range, as the store keeps it."""

    @property
    def descriptor(self) -> RangeDescriptor:
        """Tell the range's span and copies as of the last applied command."""

    @property
    def leader_hint(self) -> NodeId | None:
        """Tell who leads, as far as is known."""

    @property
    def lease_epoch(self) -> int:
        """Tell the term of the lease."""

    @property
    def previous_epoch(self) -> int:
        """Tell the term of the lease directly before it; 0: there was none."""

    @property
    def is_about_to_lead(self) -> bool:
        """Tell whether the lease may begin here any moment."""

    def is_leaseholder(self) -> bool:
        """Tell whether reads may be served from here right now."""

    def propose(self, command: Command) -> Completion[None]:
        """Replicate; done once applied here, fails with ProposalLost or OutcomeUnknown."""


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


class KnownStatus(NamedTuple):
    """How a transaction stands, as its record's leaseholder has told this one."""

    state: int
    timestamp: Timestamp
    asked: Timestamp
    """When the question was put, on this node's clock: whoever began before that need not ask again."""


class Inheritance(NamedTuple):
    """What the leaseholder of a range that is merged into another one leaves to that."""

    start: bytes
    end: bytes
    lease_start: Timestamp
    promised_floor: Timestamp
    promises: dict[TransactionId, Timestamp] = {}
    locks: HeldLocks = {}
    requests: int = 0
    request_rate: float = 0.0


class RangeLocal:
    """What a leaseholder keeps in memory for one range."""

    __slots__ = (
        "advisory_recovery",
        "cpu_share",
        "deciding",
        "detached",
        "end",
        "epoch",
        "generation",
        "hot_key",
        "inheritances",
        "intents",
        "lease_name",
        "lease_start",
        "load",
        "locks",
        "locks_known",
        "may_have_records",
        "pending",
        "promised_floor",
        "promises",
        "range_id",
        "reclaim",
        "replica",
        "request_rate",
        "requests",
        "resolving",
        "rows",
        "sampler",
        "settled",
        "staged",
        "start",
        "statuses",
    )

    def __init__(self, replica: Replica, engine: Engine, clock: HybridClock) -> None:
        descriptor = replica.descriptor
        self.replica = replica
        self.range_id: RangeId = descriptor.range_id
        self.start = descriptor.start
        self.end = descriptor.end
        self.generation = descriptor.generation
        self.epoch = replica.lease_epoch
        self.lease_name = LeaseName(self.range_id, self.epoch, self.generation)
        self.lease_start: Timestamp = clock.now()
        """Everything committed under earlier leases, or prepared under one and resolved since, is not above this."""
        self.promised_floor: Timestamp = self.lease_start
        """Some transaction that is not in ``promises`` may have been promised to commit only above this."""
        self.promises: dict[TransactionId, Timestamp] = {}
        """Open transactions anchored here, and what their commits must be above, since a reader was told so."""
        self.staged: dict[TransactionId, tuple[Timestamp, Completion[None]]] = {}
        """Transactions that are to commit at an exact timestamp, as soon as their reads are validated at it."""
        self.locks = LockTable()
        self.locks_known = replica.previous_epoch == 0
        """Whether the row locks of the lease before are here, as far as they ever will be; before that none is granted."""
        self.reclaim: Completion[None] | None = None
        """Done when they are (reclaim.py)."""
        self.pending = PendingWrites()
        self.intents = IntentSet.load(engine.latest, self.start, self.end)
        self.statuses: dict[TransactionId, KnownStatus] = {}
        self.deciding: dict[TransactionId, Completion[None]] = {}
        """Transactions whose record is being proposed."""
        self.resolving: set[TransactionId] = set()
        """Transactions whose intents this node resolves on its own account."""
        self.settled: dict[TransactionId, Completion[None]] = {}
        """Done when (some of) the transaction's intents here are resolved."""
        self.advisory_recovery: Completion[None] | None = None
        """Done once the advisory locks of earlier leases are known (advisory.py); None until one is asked for."""
        self.may_have_records = True
        self.requests = 0
        """Requests since the last sample (load.py)."""
        self.rows = 0
        """Entries that scans have gone through since then."""
        self.request_rate = 0.0
        self.load = 0.0
        """The same with what scans go through, as requests: what counts where load is evened out."""
        self.cpu_share = 0.0
        """Processor time that serving the range takes, per second."""
        self.sampler: KeySampler | None = None
        """Notes the keys of requests, while there are many."""
        self.hot_key = b""
        """What gets most of them, where that cannot be divided."""
        self.inheritances: list[Inheritance] = []
        """Of ranges whose merge into this one is applied, but not durable yet."""
        self.detached = False

    def refresh(self) -> None:
        """Follow the descriptor after a split or a change of replicas."""
        descriptor = self.replica.descriptor
        self.generation = descriptor.generation
        self.lease_name = LeaseName(self.range_id, self.epoch, self.generation)
        if descriptor.end >= self.end:
            return  # it grows when the merge is durable
        self.end = descriptor.end
        self.intents.trim(self.start, self.end)
        for waiter in self.locks.trim(self.start, self.end):
            waiter.granted.fail(self.lost())
        settled, self.settled = self.settled, {}
        for completion in settled.values():
            completion.set(None)
        for transaction_id in list(self.staged):
            self.unstage(transaction_id)  # it may be decided in the other part now

    def drop_foreign_intents(self, last: bytes) -> None:
        """Forget intents up to ``last`` as far as the range was cut before it: the right part has found them in the store."""
        if self.end <= last:
            self.intents.trim(self.start, self.end)

    def leave(self) -> Inheritance:
        """What whoever serves these keys next on this node takes over."""
        floor = max(self.promised_floor, self.lease_start, *(floor for floor, _ in self.staged.values()), 0)
        locks = self.locks.part_with(self.start, self.end)
        return Inheritance(
            self.start,
            self.end,
            self.lease_start,
            floor,
            self.promises,
            locks,
            self.requests,
            self.request_rate,
        )

    def inherit(self, engine: Engine) -> None:
        """Serve what durable merges have added."""
        inheritances, self.inheritances = self.inheritances, []
        for each in inheritances:
            end = min(each.end, self.replica.descriptor.end)
            if each.start != self.end or end <= self.end:
                continue  # it was cut off again meanwhile
            gained = IntentSet.load(engine.latest, each.start, end)
            self.intents.writes.update(gained.writes)
            self.intents.conditions.update(gained.conditions)
            self.lease_start = max(self.lease_start, each.lease_start)
            self.promised_floor = max(self.promised_floor, each.promised_floor)
            for transaction_id, floor in each.promises.items():
                self.promise(transaction_id, floor)
            self.locks.take(each.locks)
            self.requests += each.requests
            self.request_rate += each.request_rate
            self.may_have_records = True
            self.end = end

    @property
    def described(self) -> RangeDescriptor:
        """The range as far as it is served here already."""
        descriptor = self.replica.descriptor
        return descriptor if descriptor.end == self.end else msgspec.structs.replace(descriptor, end=self.end)

    def detach(self) -> None:
        """Wake everything that waits here: the lease is gone."""
        self.detached = True
        waiting: list[Completion[None]] = [waiter.granted for waiter in self.locks.queued]
        waiting += self.settled.values()
        waiting += self.deciding.values()
        waiting += [decided for _, decided in self.staged.values()]
        for completion in waiting:
            completion.fail(self.lost())
        for group in self.pending.groups():
            group.finish(self.lost())

    def lost(self) -> NotLeaseholder:
        return NotLeaseholder(self.range_id, self.replica.leader_hint or 0)

    def check_span(self, first: bytes, last: bytes) -> None:
        """Raise WrongRange unless both keys lie here."""
        if not (self.start <= first and last < self.end):
            raise WrongRange(self.described)

    def check_lease(self) -> None:
        """Raise NotLeaseholder unless this is still the lease that the caller began under."""
        if self.detached or not self.replica.is_leaseholder():
            raise self.lost()

    def propose(
        self, writes: list[EngineWrite], clock: Timestamp, clears: list[Clear] | None = None
    ) -> Completion[None]:
        """Replicate byte-level writes that were evaluated just now."""
        return self.replica.propose(Command(self.epoch, self.generation, clock, writes, clears or []))

    def loosen(self) -> Completion[None]:
        """Have it known that the range need not begin where it does (placement/sweeping.py)."""
        step = MergeStep(MergeStepKind.LOOSEN)
        return self.replica.propose(Command(self.epoch, self.generation, 0, [], [], None, step))

    def settling(self, transaction_id: TransactionId) -> Completion[None]:
        """Done when some intents of the transaction here are resolved."""
        completion = self.settled.get(transaction_id)
        if completion is None:
            completion = self.settled[transaction_id] = Completion()
        return completion

    def note_settled(self, transaction_id: TransactionId) -> None:
        completion = self.settled.pop(transaction_id, None)
        if completion is not None:
            completion.set(None)

    def promise(self, transaction_id: TransactionId, floor: Timestamp) -> None:
        """An open transaction anchored here is to commit above ``floor``."""
        if len(self.promises) >= MAX_STATUSES:
            oldest = next(iter(self.promises))
            self.promised_floor = max(self.promised_floor, self.promises.pop(oldest))
        self.promises[transaction_id] = max(floor, self.promises.get(transaction_id, 0))

    def can_commit_at(self, transaction_id: TransactionId, timestamp: Timestamp) -> bool:
        """Whether no promise stands against a commit at exactly ``timestamp``."""
        staged = self.staged.get(transaction_id)
        if staged is not None and staged[0] == timestamp:
            return True
        return timestamp > self.promised_floor and timestamp > self.promises.get(transaction_id, 0)

    def stage(self, transaction_id: TransactionId, timestamp: Timestamp) -> None:
        """Make readers above ``timestamp`` wait until the transaction is decided."""
        self.unstage(transaction_id)
        if len(self.staged) >= MAX_STATUSES:
            self.unstage(next(iter(self.staged)))
        self.staged[transaction_id] = (timestamp, Completion())

    def unstage(self, transaction_id: TransactionId) -> None:
        staged = self.staged.pop(transaction_id, None)
        if staged is not None:
            staged[1].set(None)

    def learn(self, transaction_id: TransactionId, status: TransactionStatus, asked: Timestamp) -> None:
        """Remember how a transaction stands; ``asked``: the clock when the question was put."""
        if len(self.statuses) >= MAX_STATUSES:
            del self.statuses[next(iter(self.statuses))]
        known = self.statuses.get(transaction_id)
        if known is not None and known.state != TransactionState.PENDING:
            return
        self.statuses[transaction_id] = KnownStatus(status.state, status.timestamp, asked)


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
        self._parted_to: dict[TransactionId, list[bytes]] = {}
        """Where splits here have taken locks of transactions that may be released where they were taken."""

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
                    self._parted_to.setdefault(transaction_id, []).append(cut.start)
                while len(self._parted_to) > MAX_STATUSES:
                    del self._parted_to[next(iter(self._parted_to))]
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
        if self._parted_to:
            for parted in self._parted_to.pop(transaction_id, ()):
                for _, locks in self._parted.values():
                    locks.pop(transaction_id, None)
                if not self.release(transaction_id, parted) and self.sender is not None:
                    self.scheduler.spawn(self._release_there(transaction_id, parted), "release locks")
        return local is not None

    @property
    def has_parted(self) -> bool:
        """Whether locks of some transaction went along with a part of a range, or a lease (``release`` follows them)."""
        return bool(self._parted_to)

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

    def need(self, key: bytes) -> RangeLocal:
        """The held range around ``key``; raises NotLeaseholder."""
        local = self.find(key)
        if local is not None:
            if local.replica.is_leaseholder():
                local.requests += 1
                if local.sampler is not None:
                    local.sampler.note(key)
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
