"""Advisory locks at the gateway: what this node's sessions hold, and keeping it (see advisory.py).

A session's locks, those it holds for a transaction too, have one owner id, so that a session never waits for itself.  In
the wait-for graph this id and that of the session's transaction count as one (``links``), so that a cycle through a row
lock and an advisory lock is found.

What is let go is released by a task of its own, for as long as that takes and the session lives: the statement that has asked for
it may be stopped, or have waited long enough.  The session's next lock waits for that task, which might take it away again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from pydistdb.kv.advisory import (
    ASK_AGAIN_NS,
    HOLD_NS,
    AdvisoryGranted,
    AdvisoryLock,
    AdvisoryLocks,
    AdvisoryUnlock,
    ConfirmAdvisory,
    HeldAdvisory,
    HeldLock,
)
from pydistdb.kv.api import KVError, LockStrength, RangeUnavailable, WaitPolicy
from pydistdb.kv.descriptor import NodeId
from pydistdb.kv.leases import bounded
from pydistdb.kv.names import NO_TRANSACTION, TransactionId, new_transaction_id
from pydistdb.kv.router import DEFAULT_TIMEOUT_NS
from pydistdb.tasks import Completion, Timer, sleep

if TYPE_CHECKING:
    from pydistdb.kv.gateway import Gateway

CONFIRM_INTERVAL_NS = 1_000_000_000
UNLOCK_TIMEOUT_NS = 5_000_000_000


class SessionLocks:
    """kv.api.SessionLocks."""

    def __init__(self, keeper: LockKeeper, current: Callable[[], object], on_lost: Callable[[], None]) -> None:
        self._keeper = keeper
        self.current = current
        self.on_lost = on_lost
        self.transaction_id: TransactionId = NO_TRANSACTION
        self.held: dict[bytes, int] = {}
        self._releasing: Completion[None] | None = None
        """Done once everything that was let go so far is released."""
        self.process_id = 0
        """The session's, for the report of a deadlock."""

    async def lock(self, key: bytes, strength: LockStrength, wait: WaitPolicy, timeout_ns: int = 0) -> bool:
        keeper = self._keeper
        if self._releasing is not None and not await bounded(keeper.scheduler, self._releasing, DEFAULT_TIMEOUT_NS):
            raise RangeUnavailable("an advisory lock could not be released in time")
        if not self.transaction_id:
            self.transaction_id = keeper.register(self)
        before = self.held.get(key, 0)
        try:
            while True:
                request = AdvisoryLock(self.transaction_id, key, int(strength), int(wait), timeout_ns)
                answer: AdvisoryGranted = await keeper.gateway.router.send(request)
                if not answer.granted:
                    return False
                if answer.epoch >= keeper.epoch:
                    break
        except BaseException:
            # It may be granted yet, or stand in the queue.
            self._release_soon([key], before)
            raise
        self.held[key] = max(before, int(strength))
        keeper.start_confirming()
        return True

    async def unlock(self, keys: Iterable[bytes], strength: int = 0) -> None:
        changed = [key for key in keys if key in self.held]
        for key in changed:
            if strength:
                self.held[key] = strength
            else:
                del self.held[key]
        if changed:
            await bounded(self._keeper.scheduler, self._release_soon(changed, strength), UNLOCK_TIMEOUT_NS)

    def _release_soon(self, keys: list[bytes], strength: int) -> Completion[None]:
        releasing = self._release(keys, strength, self._releasing)
        self._releasing = self._keeper.scheduler.spawn(releasing, "advisory locks").completion
        return self._releasing

    async def _release(self, keys: list[bytes], strength: int, earlier: Completion[None] | None) -> None:
        if earlier is not None:
            await earlier
        keeper = self._keeper
        request = AdvisoryUnlock(self.transaction_id, keys, strength)
        while True:
            try:
                await keeper.gateway.router.send(request, timeout_ns=UNLOCK_TIMEOUT_NS)
                return
            except KVError:
                if not keeper.knows(self):
                    return  # whoever waits finds a session that is gone
            await sleep(keeper.scheduler, ASK_AGAIN_NS)

    def close(self) -> None:
        if not self.transaction_id:
            return
        self._keeper.forget(self)
        if self.held:
            keys = list(self.held)
            self.held.clear()
            self._release_soon(keys, 0)


class LockKeeper:
    """All sessions' advisory locks of one node."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.epoch = 0
        """The latest lease whose holder has been told what is held here."""
        self._owners: dict[TransactionId, SessionLocks] = {}
        self.scheduler = gateway.leases.scheduler
        self._timer: Timer | None = None
        self._confirmed_ns = 0

    def register(self, locks: SessionLocks) -> TransactionId:
        leases = self.gateway.leases
        transaction_id = new_transaction_id(leases.clock.now(), leases.node_id)
        self._owners[transaction_id] = locks
        self.gateway.active[transaction_id] = locks
        return transaction_id

    def forget(self, locks: SessionLocks) -> None:
        self._owners.pop(locks.transaction_id, None)
        self.gateway.active.pop(locks.transaction_id, None)

    def knows(self, locks: SessionLocks) -> bool:
        """Whether the session lives."""
        return locks.transaction_id in self._owners

    def links(self) -> list[tuple[TransactionId, TransactionId]]:
        """(a session's transaction, the session's id) for sessions that have both."""
        found = []
        for owner, locks in self._owners.items():
            transaction_id = getattr(locks.current(), "known_id", NO_TRANSACTION)
            if transaction_id:
                found.append((transaction_id, owner))
        return found

    def held(self) -> list[HeldLock]:
        return [(owner, key, strength) for owner, locks in self._owners.items() for key, strength in locks.held.items()]

    async def on_held(self, sender: NodeId, request: HeldAdvisory) -> AdvisoryLocks:
        """A new leaseholder asks."""
        self.epoch = max(self.epoch, request.epoch)
        return AdvisoryLocks(self.held())

    # ------------------------------------------------------------------------------------------ confirming

    def start_confirming(self) -> None:
        if self._timer is None:
            self._confirmed_ns = self.scheduler.now_ns()
            self._next()

    def _next(self) -> None:
        self._timer = self.scheduler.call_at(self.scheduler.now_ns() + CONFIRM_INTERVAL_NS, self._confirm_soon)

    def _confirm_soon(self) -> None:
        if not any(locks.held for locks in self._owners.values()):
            self._timer = None
            return
        asking = self.scheduler.spawn(self._confirm(), "confirm advisory locks")
        asking.completion.on_done(self._confirmed)

    def _confirmed(self, asking: Completion[None]) -> None:
        if self.scheduler.now_ns() - self._confirmed_ns > HOLD_NS:
            for locks in list(self._owners.values()):
                if locks.held:
                    locks.held.clear()
                    locks.on_lost()
        self._next()

    async def _confirm(self) -> None:
        asked_ns = self.scheduler.now_ns()
        held = self.held()
        try:
            answer: AdvisoryLocks = await self.gateway.router.send(ConfirmAdvisory(held), timeout_ns=HOLD_NS)
        except KVError:
            return
        self._confirmed_ns = asked_ns
        for owner, key, _ in answer.locks:
            locks = self._owners.get(owner)
            if locks is not None and locks.held.pop(key, None) is not None:
                locks.on_lost()
