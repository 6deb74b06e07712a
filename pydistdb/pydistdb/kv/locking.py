"""Getting other transactions out of the way: row locks, and the intents and proposals that stand in a writer's path.

A locker or writer of key k waits, in this order, for

1. the row lock on k (queue of locks.py);
2. a pending proposal on k: it will be applied or lost within a round trip (some need not wait for it: pending.py);
3. another transaction's intent on k: its record is asked.  A finished transaction's intent is resolved on the spot; an
   open one is waited for like a lock holder, and asked for again now and then, since its coordinator may have died.

Then the newest version of k is what any later commit must build on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from enum import Enum
from typing import Any

from msgspec import structs
from pydistdb_storage import mvcc
from pydistdb_storage.engine import Space

from pydistdb.kv.answers import (
    OWN_INTENT,
    SKIPPED,
    Locked,
    LockedAfterWaits,
    StillWaiting,
    TransactionState,
    TransactionStatus,
)
from pydistdb.kv.api import LockNotAvailable, LockStrength, SerializationConflict, WaitPolicy
from pydistdb.kv.deadlock import WaitGraph
from pydistdb.kv.descriptor import NodeId
from pydistdb.kv.intents import IntentInfo, intent_value
from pydistdb.kv.leases import Leases, Sender, bounded
from pydistdb.kv.locks import Owner
from pydistdb.kv.names import TransactionId, gateway_of
from pydistdb.kv.pending import Offer
from pydistdb.kv.range_local import RangeLocal
from pydistdb.kv.requests import Lock, PushTransaction, QueryTransaction
from pydistdb.kv.resolution import Resolver
from pydistdb.kv.transport import NodeUnreachable, RemoteError
from pydistdb.tasks import Task, sleep

FIRST_PUSH_INTERVAL_NS = 20_000_000
LONGEST_PUSH_INTERVAL_NS = 500_000_000
HOLDER_CHECK_INTERVAL_NS = 1_500_000_000
"""How often a waiter asks whether the holders' gateways still know them; more often than a remote waiter's call ends
(evaluate.CALL_WAIT_NS)."""

SILENCE_NS = 2_000_000_000
"""A coordinator whose node has not been heard of for this long counts as dead to those who wait for its transaction: twice
as long as a lease lasts without it."""

PATIENCE_NS = 30_000_000_000
"""To all others it does so only after this time: a process that is stopped, or gets no processor, comes back."""


class Fate(Enum):
    """What is known of a transaction without a record."""

    ALIVE = "its gateway coordinates it"
    SILENT = "nothing has been heard of its gateway for too long"
    GONE = "its gateway does not know it: it has ended there, or that process has"


class WaitLimits:
    """How long one request may wait, on the scheduler's clock (0: no bound)."""

    __slots__ = ("call_deadline_ns", "lock_deadline_ns")

    def __init__(self, lock_deadline_ns: int = 0, call_deadline_ns: int = 0) -> None:
        self.lock_deadline_ns = lock_deadline_ns
        self.call_deadline_ns = call_deadline_ns


NO_LIMITS = WaitLimits()


class _Skip(Exception):
    """SKIP LOCKED passes this key over."""


class Locker:
    """Evaluates Lock, and clears the way for commits."""

    def __init__(self, leases: Leases, resolver: Resolver, graph: WaitGraph) -> None:
        self._leases = leases
        self._resolver = resolver
        self._graph = graph
        self._unreachable_since_ns: dict[TransactionId, int] = {}
        self._checking: set[TransactionId] = set()
        self._heard: set[TransactionId] = set()
        self.settle: Callable[[RangeLocal, int], Awaitable[None]] = _nothing_to_settle
        """Waits until the locks of the lease before are known (reclaim.py)."""
        self.forsake: Callable[[RangeLocal, TransactionId], Awaitable[None]] = _release
        """Lets go of the locks of a transaction whose gateway is silent (records.py)."""

    def try_lock_one(self, local: RangeLocal, transaction_id: TransactionId, key: bytes, strength: int) -> Owner | None:
        """Lock one key; None if anything stands in the way, whether the lock could be had or not; about 1 µs."""
        owner = local.locks.try_acquire(transaction_id, key, strength)
        if key in local.pending.by_key:
            return None
        intents = local.intents
        if (intents.writes or intents.conditions or intents.fresh) and (
            intents.blocking_write(key, transaction_id, strength) is not None
        ):
            return None
        return owner

    async def lock(self, request: Lock, call_deadline_ns: int = 0) -> Locked:
        leases = self._leases
        leases.clock.check()
        local = leases.need(request.keys[0])
        if not local.locks_known:
            await self.settle(local, call_deadline_ns)
            local.check_lease()
        lease = local.lease_name
        local.check_span(min(request.keys), max(request.keys))
        lock_deadline_ns = leases.scheduler.now_ns() + request.timeout_ns if request.timeout_ns else 0
        limits = WaitLimits(lock_deadline_ns, call_deadline_ns)
        transaction_id = request.transaction_id
        policy = WaitPolicy(request.wait)
        skipped: set[bytes] = set()
        waits = waited_ns = 0
        if request.held:
            owner = local.locks.owner(transaction_id)
            if owner is None or not all(map(owner.unbroken, request.held)):
                raise SerializationConflict("could not serialize access due to concurrent update")
        for key in request.keys:
            held_before = local.locks.holds(transaction_id, key)
            if not self.try_lock_one(local, transaction_id, key, request.strength):
                begun_ns = leases.scheduler.now_ns()
                try:
                    waited = await self.acquire(
                        local,
                        transaction_id,
                        key,
                        request.strength,
                        policy,
                        limits,
                        early=request.early,
                        wanted=request.keys,
                    )
                except _Skip:
                    skipped.add(key)
                    if not held_before:
                        local.locks.release_keys(transaction_id, [key])
                else:
                    waits += waited
                    waited_ns += (leases.scheduler.now_ns() - begun_ns) * waited
        local.check_lease()
        local.check_span(min(request.keys), max(request.keys))
        answer = self._newest(local, request, skipped)
        answer.lease = lease
        return LockedAfterWaits(**structs.asdict(answer), waits=waits, waited_ns=waited_ns) if waits else answer

    def _newest(self, local: RangeLocal, request: Lock, skipped: set[bytes]) -> Locked:
        snapshot = self._leases.latest()
        answer = Locked([], [])
        for key in request.keys:
            value: bytes | None
            if key in skipped:
                value, version = None, SKIPPED
            elif local.intents.may_hold(key) and (data := snapshot.get(Space.INTENTS, key)) is not None:
                value, version = intent_value(data), OWN_INTENT
            else:
                offer = _offer(local, key) if request.early else None
                answer.early = answer.early or offer is not None
                value, version = offer or mvcc.get(snapshot, key, mvcc.MAX_TIMESTAMP)
                local.locks.note_version(request.transaction_id, key, version)
            answer.values.append(value)
            answer.versions.append(version)
        return answer

    async def acquire(
        self,
        local: RangeLocal,
        transaction_id: TransactionId,
        key: bytes,
        strength: int,
        policy: WaitPolicy = WaitPolicy.WAIT,
        limits: WaitLimits = NO_LIMITS,
        *,
        early: bool = False,
        wanted: Sequence[bytes] = (),
    ) -> bool:
        """Lock the key and wait until no proposal (``early``: but one that is offered) and no intent stands on it.

        Tells whether another transaction had to end for that, or to give its lock back.

        ``wanted``: what else the request is about.  Whatever the same transaction has left there is cleared away with it, in
        proposals of many keys."""
        waited = False
        while True:
            if not local.locks.try_acquire(transaction_id, key, strength):
                if policy is not WaitPolicy.WAIT:
                    _give_up(policy)
                await self.queue(local, transaction_id, key, strength, limits)
                waited = True
            group = local.pending.by_key.get(key)
            if group is not None:
                if early and group.offered(key) is not None:
                    return waited
                if policy is not WaitPolicy.WAIT:
                    _give_up(policy)  # whoever is about to write it may have let its lock go
                await group.done
                continue
            info = local.intents.blocking_write(key, transaction_id, strength) if local.intents else None
            if info is None:
                return waited
            left, theirs = local.intents.writes, info.transaction_id
            same = [k for k in wanted if k != key and (other := left.get(k)) and other.transaction_id == theirs]
            waited |= await self.clear_intent(local, info, [key, *same], transaction_id, policy, limits, strength)

    async def queue(
        self,
        local: RangeLocal,
        transaction_id: TransactionId,
        key: bytes,
        strength: int,
        limits: WaitLimits,
        unanswered_ns: int = 0,
    ) -> None:
        """Stand in the key's queue until the lock is held (``unanswered_ns``: see ``fate``)."""
        if local.detached or not local.start <= key < local.end:
            raise local.lost()  # while this waited for something else; here nobody would ever grant it
        waiter = local.locks.enqueue(transaction_id, key, strength)
        scheduler = self._leases.scheduler
        since_ns = scheduler.now_ns()
        keep = False
        try:
            while True:
                check_ns = scheduler.now_ns() + HOLDER_CHECK_INTERVAL_NS
                if await self._graph.wait(
                    waiter.granted,
                    transaction_id,
                    lambda: local.locks.blockers(waiter),
                    key,
                    strength,
                    since_ns=since_ns,
                    until_ns=check_ns,
                    lock_deadline_ns=limits.lock_deadline_ns,
                    call_deadline_ns=limits.call_deadline_ns,
                ):
                    keep = True
                    return
                self.check_holders(local, local.locks.blockers(waiter), unanswered_ns)
        except StillWaiting:
            keep = True  # the request will be sent again, and finds its place in the queue
            raise
        finally:
            if not keep:
                local.locks.cancel(waiter)

    def check_holders(
        self, local: RangeLocal, holders: Iterable[TransactionId], unanswered_ns: int = 0, *, patient: bool = False
    ) -> None:
        """Release, soon, what those hold whose gateways do not know them or are dead; an unreachable one takes its time.

        ``patient``: nobody waits for them, so one look is enough."""
        for holder in holders:
            if holder not in self._checking:
                self._checking.add(holder)
                self._leases.scheduler.spawn(
                    self._check_holder(local, holder, unanswered_ns, patient), "check a lock's holder"
                )

    def heard_of(self, transaction_id: TransactionId) -> None:
        """The gateway has spoken of the transaction: a question that is still on its way proves nothing."""
        self._unreachable_since_ns.pop(transaction_id, None)
        if transaction_id in self._checking:
            self._heard.add(transaction_id)

    async def _check_holder(self, local: RangeLocal, holder: TransactionId, unanswered_ns: int, patient: bool) -> None:
        self._heard.discard(holder)
        try:
            while (fate := await self.fate(holder, unanswered_ns, patient=patient)) is Fate.ALIVE:
                if patient or holder not in self._unreachable_since_ns or local.detached:
                    return
                await sleep(self._leases.scheduler, LONGEST_PUSH_INTERVAL_NS)
            if holder not in self._heard and not local.detached:
                if unanswered_ns or fate is Fate.GONE:
                    local.locks.release(holder)
                else:
                    await self.forsake(local, holder)
        finally:
            self._heard.discard(holder)
            self._checking.discard(holder)

    async def clear_intent(
        self,
        local: RangeLocal,
        info: IntentInfo,
        keys: Sequence[bytes],
        transaction_id: TransactionId,
        policy: WaitPolicy = WaitPolicy.WAIT,
        limits: WaitLimits = NO_LIMITS,
        strength: int = LockStrength.UPDATE,
    ) -> bool:
        """Wait until the transaction behind ``info`` has ended, and resolve its intents on ``keys``; False: it had before.

        ``strength``: of the lock that is wanted on the first of them."""
        holder = info.transaction_id
        first, *_ = keys
        interval_ns = FIRST_PUSH_INTERVAL_NS
        scheduler = self._leases.scheduler
        since_ns = scheduler.now_ns()
        waited = False
        while True:
            settled = local.settling(holder)
            asked = self._leases.clock.now()
            status = await self._leases.send(PushTransaction(holder, info.anchor))
            assert isinstance(status, TransactionStatus)
            if status.state != TransactionState.PENDING:
                local.learn(holder, status, asked)
                commit_timestamp = status.timestamp if status.state == TransactionState.COMMITTED else 0
                local.check_lease()
                await self._resolver.resolve_keys(local, holder, keys, commit_timestamp)
                return waited
            if policy is not WaitPolicy.WAIT:
                _give_up(policy)
            waited = True
            if await self._graph.wait(
                settled,
                transaction_id,
                lambda: [holder],
                first,
                strength,
                since_ns=since_ns,
                until_ns=scheduler.now_ns() + interval_ns,
                lock_deadline_ns=limits.lock_deadline_ns,
                call_deadline_ns=limits.call_deadline_ns,
            ):
                return True
            interval_ns = min(interval_ns * 2, LONGEST_PUSH_INTERVAL_NS)

    async def is_reachable(self, transaction_id: TransactionId) -> bool:
        """Whether the transaction's gateway answers."""
        sender = self._leases.sender
        try:
            if sender is not None:
                await sender.ask_node(gateway_of(transaction_id), QueryTransaction(transaction_id))
        except (NodeUnreachable, RemoteError):
            return False
        return True

    async def is_alive(self, transaction_id: TransactionId) -> bool:
        """Whether the transaction's gateway still coordinates it, as far as can be known (``fate``)."""
        return await self.fate(transaction_id) is Fate.ALIVE

    async def fate(self, transaction_id: TransactionId, unanswered_ns: int = 0, *, patient: bool = False) -> Fate:
        """Ask the transaction's gateway whether it still coordinates it; silence counts as yes for a while.

        That is until its node has not been heard of by this one for SILENCE_NS (``patient``: PATIENCE_NS), or, with
        ``unanswered_ns``, until that long after the first question that was not answered: then nobody else can have heard of
        it lately either."""
        sender = self._leases.sender
        if sender is None:
            return Fate.ALIVE
        silent = self._unreachable_since_ns
        now = self._leases.scheduler.now_ns()
        node_id = gateway_of(transaction_id)
        try:
            if unanswered_ns or node_id == self._leases.node_id:
                answer = await sender.ask_node(node_id, QueryTransaction(transaction_id))
            else:
                answer = await self._ask_until_silent(sender, node_id, transaction_id)
                if answer is None:
                    lasts = patient and sender.silent_ns(node_id) < PATIENCE_NS
                    return Fate.ALIVE if lasts else Fate.SILENT
        except (NodeUnreachable, RemoteError):
            since = silent.setdefault(transaction_id, now)
            if len(silent) > 10_000:
                del silent[next(iter(silent))]
            lasts = self._leases.scheduler.now_ns() - since < (unanswered_ns or SILENCE_NS)
            lasts = lasts or (patient and sender.silent_ns(node_id) < PATIENCE_NS)
            return Fate.ALIVE if lasts else Fate.SILENT
        silent.pop(transaction_id, None)
        return Fate.ALIVE if answer.value else Fate.GONE

    async def _ask_until_silent(self, sender: Sender, node_id: NodeId, transaction_id: TransactionId) -> Any:
        """The gateway's answer; None once nothing at all has been heard of its node for SILENCE_NS."""
        question: Task[Any] | None = None
        while (left_ns := SILENCE_NS - sender.silent_ns(node_id)) > 0:
            if question is None:
                asking = sender.ask_node(node_id, QueryTransaction(transaction_id))
                question = self._leases.scheduler.spawn(asking, "ask a coordinator")
            if await bounded(self._leases.scheduler, question.completion, left_ns):
                return question.completion.result()
        return None


async def _nothing_to_settle(local: RangeLocal, call_deadline_ns: int) -> None:
    local.locks_known = True


async def _release(local: RangeLocal, transaction_id: TransactionId) -> None:
    local.locks.release(transaction_id)


def _offer(local: RangeLocal, key: bytes) -> Offer | None:
    group = local.pending.by_key.get(key)
    return None if group is None else group.offered(key)


def _give_up(policy: WaitPolicy) -> None:
    if policy is WaitPolicy.SKIP_LOCKED:
        raise _Skip
    raise LockNotAvailable("could not obtain lock on row")
