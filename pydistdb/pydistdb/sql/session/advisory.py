"""Advisory locks of a session: counts per lock, for the session and for its transaction, over kv's SessionLocks.

A lock can be taken several times, exclusively and shared, for the session (until it is unlocked as often) and for the
transaction (until that ends).  The cluster hears only of the first time and of the last::

    pg_advisory_lock(7)              counts {7: session exclusive 1}                          kv: lock 7 for update
    pg_advisory_xact_lock_shared(7)  counts {7: session exclusive 1, transaction shared 1}    held strongly enough
    pg_advisory_unlock(7)            counts {7: transaction shared 1}                         kv: weaken 7
    COMMIT                           counts {}                                                kv: unlock 7

A lock is one of the session's database, and named by one 64-bit number or by two of 32 bits; the two kinds never meet.

Functions cannot wait, so what has to ask the cluster raises ``MustAct`` (functions/effects.py).

Source: PostgreSQL 15 manual, 9.27.10 and 13.3.5.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from pydistdb.kv.advisory import ADVISORY_PREFIX
from pydistdb.kv.api import LockStrength, WaitPolicy
from pydistdb.sql.errors import AdminShutdown, DatabaseError, FeatureNotSupported, ProgramLimitExceeded
from pydistdb.sql.functions.effects import MustAct

if TYPE_CHECKING:
    from pydistdb.sql.session.base import SessionBase

MAX_LOCKS = 10_000

_KEY = struct.Struct(">IBII").pack

MODES = {True: "ShareLock", False: "ExclusiveLock"}


class AdvisoryKey(NamedTuple):
    """What pg_locks shows as classid, objid and objsubid (1: one number, 2: two)."""

    class_id: int
    object_id: int
    sub_id: int

    @staticmethod
    def of(numbers: tuple[int, ...]) -> AdvisoryKey:
        if len(numbers) == 1:
            number = numbers[0] & 0xFFFFFFFFFFFFFFFF
            return AdvisoryKey(number >> 32, number & 0xFFFFFFFF, 1)
        return AdvisoryKey(numbers[0] & 0xFFFFFFFF, numbers[1] & 0xFFFFFFFF, 2)


class _Hold:
    """How often one lock is held; ``counts``: (for the transaction, shared) → times."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: dict[tuple[bool, bool], int] = {}

    @property
    def strength(self) -> int:
        if self.counts.get((False, False)) or self.counts.get((True, False)):
            return LockStrength.UPDATE
        return LockStrength.SHARE if any(self.counts.values()) else 0


class AdvisoryWait(NamedTuple):
    """What the session waits for."""

    key: AdvisoryKey
    shared: bool


class SessionAdvisory:
    """See the module's introduction (transaction.Participant)."""

    def __init__(self, session: SessionBase) -> None:
        self._session = session
        self._locks = session.environment.database.session_locks(lambda: session.transaction.kv, self._lost)
        self._locks.process_id = session.process_id
        self._holds: dict[AdvisoryKey, _Hold] = {}
        self._log: list[tuple[AdvisoryKey, bool]] = []
        """What the transaction has locked: (key, shared)."""
        self.waiting: AdvisoryWait | None = None

    @property
    def owner_id(self) -> bytes:
        """What the cluster knows the session by; nothing before its first lock."""
        return self._locks.transaction_id

    def held(self) -> Iterable[tuple[AdvisoryKey, bool]]:
        """(key, shared) of every lock held."""
        for key, hold in self._holds.items():
            for shared in (False, True):
                if hold.counts.get((False, shared)) or hold.counts.get((True, shared)):
                    yield key, shared

    # ------------------------------------------------------------------------------------------ functions

    def lock(self, key: AdvisoryKey, *, shared: bool, transaction: bool, wait: bool) -> MustAct | None:
        """Take a lock: None if that is done; else what it takes, which gives whether it is held."""
        hold = self._holds.get(key)
        if hold is not None and hold.strength >= _strength(shared):
            self._count(key, shared, transaction)
            return None
        if len(self._holds) >= MAX_LOCKS:
            raise ProgramLimitExceeded(f"a session can hold at most {MAX_LOCKS} advisory locks")
        return _TakeLock(self, key, shared, transaction, wait)

    def unlock(self, key: AdvisoryKey, *, shared: bool) -> MustAct | bool:
        """Give back one of the session's locks; False if it has none, with a warning."""
        hold = self._holds.get(key)
        count = 0 if hold is None else hold.counts.get((False, shared), 0)
        if hold is None or not count:
            self._session.warn(DatabaseError.of("01000", f"you don't own a lock of type {MODES[shared]}"))
            return False
        before = hold.strength
        hold.counts[False, shared] = count - 1
        if hold.strength == before:
            return True
        return _ReleaseLocks(self, [key])

    def unlock_all(self) -> MustAct | None:
        """Give back all of the session's locks; the transaction's stay."""
        changed = []
        for key, hold in self._holds.items():
            before = hold.strength
            hold.counts.pop((False, False), None)
            hold.counts.pop((False, True), None)
            if hold.strength != before:
                changed.append(key)
        return _ReleaseLocks(self, changed) if changed else None

    async def release_all(self) -> None:
        """pg_advisory_unlock_all, for DISCARD ALL."""
        deed = self.unlock_all()
        if deed is not None:
            await deed.act()

    def _count(self, key: AdvisoryKey, shared: bool, transaction: bool) -> None:
        hold = self._holds.setdefault(key, _Hold())
        hold.counts[transaction, shared] = hold.counts.get((transaction, shared), 0) + 1
        if transaction:
            self._log.append((key, shared))
            self._session.transaction.join(self)

    # ------------------------------------------------------------------------------------------ the cluster

    def _kv_key(self, key: AdvisoryKey) -> bytes:
        return ADVISORY_PREFIX + _KEY(self._session.view().database.oid, key.sub_id, key.class_id, key.object_id)

    async def take(self, key: AdvisoryKey, shared: bool, transaction: bool, wait: bool) -> bool:
        session = self._session
        policy = WaitPolicy.WAIT if wait else WaitPolicy.NOWAIT
        self.waiting = AdvisoryWait(key, shared)
        try:
            timeout_ns = session.lock_timeout_ms * 1_000_000
            if not await self._locks.lock(self._kv_key(key), _strength(shared), policy, timeout_ns):
                return False
        finally:
            self.waiting = None
        self._count(key, shared, transaction)
        session.check_interrupt()
        return True

    async def settle(self, keys: Iterable[AdvisoryKey]) -> None:
        """Tell the cluster how strongly these are held now."""
        by_strength: dict[int, list[bytes]] = {}
        for key in keys:
            hold = self._holds.get(key)
            strength = 0 if hold is None else hold.strength
            if not strength:
                self._holds.pop(key, None)
            by_strength.setdefault(strength, []).append(self._kv_key(key))
        for strength, kv_keys in by_strength.items():
            await self._locks.unlock(kv_keys, strength)

    def _lost(self) -> None:
        """This node was cut off, and others may have the locks: the session must not go on as if it held them."""
        self._holds.clear()
        self._session.environment.end_backend(
            self._session.process_id,
            AdminShutdown("terminating connection because its advisory locks could not be kept"),
        )

    def close(self) -> None:
        self._locks.close()

    # ------------------------------------------------------------------------------------------ the transaction

    def mark(self) -> int:
        return len(self._log)

    def rollback_to(self, mark: int) -> None:
        self._settle_soon(self._uncount(mark))

    async def before_commit(self) -> None:
        pass

    async def before_prepare(self) -> None:
        if self._log:
            raise FeatureNotSupported("cannot PREPARE a transaction that holds advisory locks")

    async def after_commit(self) -> None:
        await self.settle(self._uncount(0))

    def ended(self, committed: bool) -> None:
        self._settle_soon(self._uncount(0))

    def _uncount(self, mark: int) -> list[AdvisoryKey]:
        """Take back what the transaction has locked since the mark; the locks that are held less strongly now."""
        changed: dict[AdvisoryKey, None] = {}
        for key, shared in self._log[mark:]:
            hold = self._holds.get(key)
            if hold is not None:
                before = hold.strength
                hold.counts[True, shared] -= 1
                if hold.strength != before:
                    changed[key] = None
        del self._log[mark:]
        return list(changed)

    def _settle_soon(self, keys: list[AdvisoryKey]) -> None:
        if keys:
            self._session.environment.scheduler.spawn(self.settle(keys), "advisory locks")


def _strength(shared: bool) -> LockStrength:
    return LockStrength.SHARE if shared else LockStrength.UPDATE


class _TakeLock(MustAct):
    def __init__(self, locks: SessionAdvisory, key: AdvisoryKey, shared: bool, transaction: bool, wait: bool) -> None:
        super().__init__("advisory lock")
        self._locks = locks
        self._wanted = (key, shared, transaction, wait)

    async def act(self) -> bool:
        return await self._locks.take(*self._wanted)


class _ReleaseLocks(MustAct):
    def __init__(self, locks: SessionAdvisory, keys: list[AdvisoryKey]) -> None:
        super().__init__("advisory unlock")
        self._locks = locks
        self._keys = keys

    async def act(self) -> bool:
        await self._locks.settle(self._keys)
        return True
