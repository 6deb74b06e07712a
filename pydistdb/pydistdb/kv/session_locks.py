"""Advisory locks at the gateway: what this node's sessions hold, and keeping it (see advisory.py).

A session's locks, those it holds for a transaction too, have one owner id, so that a session never waits for itself.  In
the wait-for graph this id and that of the session's transaction count as one (``links``), so that a cycle through a row
lock and an advisory lock is found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from pydistdb.kv.advisory import (
    HOLD_NS,
    AdvisoryGranted,
    AdvisoryLock,
    AdvisoryLocks,
    AdvisoryUnlock,
    ConfirmAdvisory,
    HeldAdvisory,
    HeldLock,
)
from pydistdb.kv.api import KVError, LockStrength, WaitPolicy
from pydistdb.kv.descriptor import NodeId
from pydistdb.kv.names import NO_TRANSACTION, TransactionId, new_transaction_id
from pydistdb.tasks import Completion, Timer

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
        self.process_id = 0
        """The session's, for the report of a deadlock."""

    async def lock(self, key: bytes, strength: LockStrength, wait: WaitPolicy, timeout_ns: int = 0) -> bool:
        keeper = self._keeper
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
            keeper.spawn(self._release([key], before))
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
            await self._release(changed, strength)

    async def _release(self, keys: list[bytes], strength: int) -> None:
        try:
            request = AdvisoryUnlock(self.transaction_id, keys, strength)
            await self._keeper.gateway.router.send(request, timeout_ns=UNLOCK_TIMEOUT_NS)
        except KVError:
            pass  # the next leaseholder asks what is held; and whoever waits finds a session that is gone

    def close(self) -> None:
        if not self.transaction_id:
            return
        self._keeper.forget(self)
        if self.held:
            keys = list(self.held)
            self.held.clear()
            self._keeper.spawn(self._release(keys, 0))


class LockKeeper:
    """All sessions' advisory locks of one node."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.epoch = 0
        """The latest lease whose holder has been told what is held here."""
        self._owners: dict[TransactionId, SessionLocks] = {}
        self._scheduler = gateway.leases.scheduler
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

    def spawn(self, coroutine: object) -> None:
        self._scheduler.spawn(coroutine, "advisory locks")  # type: ignore[arg-type]

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
            self._confirmed_ns = self._scheduler.now_ns()
            self._next()

    def _next(self) -> None:
        self._timer = self._scheduler.call_at(self._scheduler.now_ns() + CONFIRM_INTERVAL_NS, self._confirm_soon)

    def _confirm_soon(self) -> None:
        if not any(locks.held for locks in self._owners.values()):
            self._timer = None
            return
        asking = self._scheduler.spawn(self._confirm(), "confirm advisory locks")
        asking.completion.on_done(self._confirmed)

    def _confirmed(self, asking: Completion[None]) -> None:
        if self._scheduler.now_ns() - self._confirmed_ns > HOLD_NS:
            for locks in list(self._owners.values()):
                if locks.held:
                    locks.held.clear()
                    locks.on_lost()
        self._next()

    async def _confirm(self) -> None:
        asked_ns = self._scheduler.now_ns()
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
