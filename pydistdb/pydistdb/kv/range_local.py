"""What a leaseholder keeps in memory for one range: ``RangeLocal``.

It is made when a replica becomes leaseholder and thrown away when it ceases to be: lock table, pending writes, the set of
keys with intents, what is known of the transactions behind them.  None of it is needed for correctness after a lease
change: the next leaseholder finds intents and records in the store, and a commit whose locks are gone fails.  Most locks do
not go: they come along with a lease that is handed over, or are taken anew (reclaim.py).

Whatever waits inside a range waits on a completion of its RangeLocal, so that the loss of the lease wakes all of it with
NotLeaseholder, and the routers of the waiting requests go to look for the new one.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import msgspec
from pydistdb_storage.engine import Engine

from pydistdb.kv.answers import TransactionState, TransactionStatus, WrongRange
from pydistdb.kv.api import Timestamp
from pydistdb.kv.command import Clear, Command, MergeStep, MergeStepKind, NotLeaseholder
from pydistdb.kv.command import Write as EngineWrite
from pydistdb.kv.descriptor import NodeId, RangeDescriptor, RangeId
from pydistdb.kv.hlc import HybridClock
from pydistdb.kv.intents import IntentSet
from pydistdb.kv.locks import HeldLocks, LockTable
from pydistdb.kv.names import LeaseName, TransactionId
from pydistdb.kv.pending import PendingWrites
from pydistdb.kv.placement.splitting import KeySampler
from pydistdb.tasks import Completion

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
        "outcomes_swept_us",
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
        self.outcomes_swept_us = 0
        """When the outcomes here were looked through last (outcomes.py)."""
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

    def note_request(self, key: bytes) -> None:
        """Count a request about ``key``: what may have the range split or moved (load.py)."""
        self.requests += 1
        if self.sampler is not None:
            self.sampler.note(key)

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
