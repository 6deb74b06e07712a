"""Advisory locks at the leaseholder: locks that sessions hold, whatever becomes of their transactions.

Theory of operation
-------------------
An advisory lock is a key below ``ADVISORY_PREFIX``, in range 1, which never splits.  It lives in that range's lock table
(locks.py) as row locks do, so queues, fairness and deadlock detection are the same; its owner is a session's id
(session_locks.py).  Other than a row lock it is not checked at any commit, so it must not get lost with the lease::

    new lease        every node is asked what its sessions hold; until all have answered nothing is granted.
                     A node that does not answer for TAKEOVER_NS is taken for dead: its locks are free
    every second     each node confirms its sessions' locks here.  A node that gets no confirmation for HOLD_NS ends
                     the sessions that hold some: HOLD_NS < TAKEOVER_NS, so nobody else has had them before

A grant that was on its way when the lease moved is not in the answers.  So answers carry the epoch of the new lease, and a
node that has answered for epoch 7 does not believe a grant of epoch 6: it asks again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pydistdb.kv.answers import Applied, StillWaiting
from pydistdb.kv.api import KVError, WaitPolicy
from pydistdb.kv.descriptor import NodeId
from pydistdb.kv.leases import Leases, bounded
from pydistdb.kv.locking import Locker, WaitLimits
from pydistdb.kv.names import TransactionId, gateway_of
from pydistdb.kv.range_local import RangeLocal
from pydistdb.kv.transport import Message, NodeUnreachable, RemoteError, register
from pydistdb.tasks import Completion, gather, sleep

ADVISORY_PREFIX = b"\x02advisory/"

HOLD_NS = 6_000_000_000
"""A node whose locks have not been confirmed for this long gives them up."""
TAKEOVER_NS = 7_500_000_000
"""A node that has been silent for this long has given them up."""
ASK_AGAIN_NS = 250_000_000

HeldLock = tuple[TransactionId, bytes, int]
"""Owner, key, strength."""


class AdvisoryLock(Message):
    """Lock a key for a session."""

    transaction_id: TransactionId
    key: bytes
    strength: int
    wait: int
    timeout_ns: int = 0

    @property
    def routing_key(self) -> bytes:
        return self.key


class AdvisoryGranted(Message):
    """Whether it was; ``epoch``: the lease's."""

    granted: bool
    epoch: int


class AdvisoryUnlock(Message):
    """Release keys of a session, or keep them at ``strength``; requests for them that wait are withdrawn."""

    transaction_id: TransactionId
    keys: list[bytes]
    strength: int = 0

    @property
    def routing_key(self) -> bytes:
        return ADVISORY_PREFIX


class ConfirmAdvisory(Message):
    """A node's sessions hold these locks; the answer names those that somebody else has."""

    locks: list[HeldLock]

    @property
    def routing_key(self) -> bytes:
        return ADVISORY_PREFIX


class HeldAdvisory(Message):
    """Asked of a node by a new leaseholder: what do your sessions hold?"""

    epoch: int


class AdvisoryLocks(Message):
    locks: list[HeldLock]


register(AdvisoryLock, AdvisoryGranted, AdvisoryUnlock, ConfirmAdvisory, HeldAdvisory, AdvisoryLocks)


class AdvisoryLocker:
    """Grants advisory locks while this node leads range 1."""

    def __init__(self, leases: Leases, locker: Locker) -> None:
        self._leases = leases
        self._locker = locker
        self.known_nodes: Callable[[], Iterable[NodeId]] = lambda: (leases.node_id,)
        """Every node of the cluster, whether it answers or not."""

    async def lock(self, request: AdvisoryLock, call_deadline_ns: int = 0) -> AdvisoryGranted:
        local = self._leases.need(request.key)
        await self._recovered(local, call_deadline_ns)
        owner, key, strength = request.transaction_id, request.key, request.strength
        self._locker.heard_of(owner)
        if not local.locks.try_acquire(owner, key, strength):
            if request.wait != WaitPolicy.WAIT:
                self._check_holders(local, key)
                return AdvisoryGranted(False, local.epoch)
            now = self._leases.scheduler.now_ns()
            limits = WaitLimits(now + request.timeout_ns if request.timeout_ns else 0, call_deadline_ns)
            await self._locker.queue(local, owner, key, strength, limits, unanswered_ns=TAKEOVER_NS)
        local.check_lease()
        return AdvisoryGranted(True, local.epoch)

    def _check_holders(self, local: RangeLocal, key: bytes) -> None:
        """Who asks again and again without waiting must not be refused forever for the sake of a node that is gone."""
        sender = self._leases.sender
        if sender is not None:
            live = set(sender.node_ids())
            holders = [holder for holder in local.locks.holders(key) if gateway_of(holder) not in live]
            self._locker.check_holders(local, holders, TAKEOVER_NS)

    async def unlock(self, request: AdvisoryUnlock, call_deadline_ns: int = 0) -> Applied:
        local = self._leases.need(ADVISORY_PREFIX)
        await self._recovered(local, call_deadline_ns)  # as a request to lock does that came before, and is given up
        local.check_lease()
        local.locks.withdraw(request.transaction_id, request.keys)
        if request.strength:
            for key in request.keys:
                local.locks.weaken(request.transaction_id, key, request.strength)
        else:
            local.locks.release_keys(request.transaction_id, request.keys)
        return Applied()

    async def confirm(self, request: ConfirmAdvisory) -> AdvisoryLocks:
        local = self._leases.need(ADVISORY_PREFIX)
        for owner, _, _ in request.locks:
            self._locker.heard_of(owner)
        lost = [lock for lock in request.locks if not local.locks.try_acquire(*lock)]
        return AdvisoryLocks(lost)

    # ------------------------------------------------------------------------------------------ a new lease

    async def _recovered(self, local: RangeLocal, call_deadline_ns: int) -> None:
        """Wait until the locks of earlier leases are known."""
        recovery = local.advisory_recovery
        if recovery is None:
            recovery = local.advisory_recovery = Completion()
            self._leases.scheduler.spawn(self._recover(local, recovery), "recover advisory locks")
        if recovery.done:
            recovery.result()
            return
        scheduler = self._leases.scheduler
        left_ns = call_deadline_ns - scheduler.now_ns() if call_deadline_ns else 2 * TAKEOVER_NS
        if not await bounded(scheduler, recovery, max(left_ns, 1)):
            raise StillWaiting("advisory locks are being recovered")

    async def _recover(self, local: RangeLocal, recovery: Completion[None]) -> None:
        scheduler = self._leases.scheduler
        deadline_ns = scheduler.now_ns() + TAKEOVER_NS
        answered: set[NodeId] = set()
        try:
            while True:
                silent = [node for node in self.known_nodes() if node not in answered]
                if not silent or scheduler.now_ns() >= deadline_ns:
                    break
                answers = await gather(scheduler, [self._ask(node, local.epoch) for node in silent])
                local.check_lease()
                for node, locks in zip(silent, answers, strict=True):
                    if locks is not None:
                        answered.add(node)
                        for lock in locks:
                            local.locks.try_acquire(*lock)
                if None in answers:
                    await sleep(scheduler, ASK_AGAIN_NS)
        except KVError as error:
            local.advisory_recovery = None
            recovery.fail(error)
        else:
            recovery.set(None)

    async def _ask(self, node: NodeId, epoch: int) -> list[HeldLock] | None:
        """What the sessions of a node hold; None if it does not answer."""
        sender = self._leases.sender
        assert sender is not None
        try:
            answer: AdvisoryLocks = await sender.ask_node(node, HeldAdvisory(epoch))
        except (NodeUnreachable, RemoteError):
            return None
        return answer.locks
