"""Row locks of one range, in the memory of its leaseholder.

Postgres's four strengths and its conflict table (manual, 13.3.2)::

                     KEY SHARE   SHARE   NO KEY UPDATE   UPDATE
    KEY SHARE                                              X
    SHARE                                      X           X
    NO KEY UPDATE                  X           X           X
    UPDATE               X         X           X           X

Requests for one key are granted in the order they came; a request also stands behind earlier waiters that it conflicts
with, so that a stream of shared locks cannot starve an update.  A transaction that holds the key already (an upgrade)
goes to the head of the queue::

    A locks k UPDATE           granted
    B locks k UPDATE           waits for A
    C locks k KEY SHARE        waits for A and, behind it, for B
    A ends                     B granted; C goes on waiting

Nothing here is durable.  A commit proves by versions that what it changes is what it has seen, and by ``unbroken`` that its
locks have been held ever since they were taken: a shared lock leaves no version behind, so whoever has lost a lock cannot
know what others have done under theirs.  A lease that is handed over takes its locks along (leases.py); with a leaseholder
that dies they are gone, and those transactions fail.

An uncontended lock costs two dictionary entries and no object: ``_table`` maps the key to its one owner, and the owner's
``keys`` maps it to the strength.  Only contention makes a ``_Contended``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from pydistdb.kv.answers import StillWaiting
from pydistdb.kv.api import KVError, LockStrength
from pydistdb.kv.names import TransactionId
from pydistdb.tasks import Completion

MAX_WAITERS_PER_KEY = 10_000

_NO_KEY_UPDATE = int(LockStrength.NO_KEY_UPDATE)

_CONFLICTS: tuple[frozenset[int], ...] = (
    frozenset(),
    frozenset({4}),
    frozenset({3, 4}),
    frozenset({2, 3, 4}),
    frozenset({1, 2, 3, 4}),
)
"""By strength: the strengths it conflicts with."""


def conflicts(left: int, right: int) -> bool:
    """Tell whether two transactions cannot hold locks of these strengths at once."""
    return right in _CONFLICTS[left]


HeldLocks = dict[TransactionId, dict[bytes, int]]
"""Locks by owner: key → strength; negative where the transaction has not been told yet that it holds the key."""

UNKNOWN = -9


class Owner:
    """One transaction's locks in this range: key → strength."""

    __slots__ = ("keys", "seen", "transaction_id")

    def __init__(self, transaction_id: TransactionId) -> None:
        self.transaction_id = transaction_id
        self.keys: dict[bytes, int] = {}
        self.seen: dict[bytes, int] = {}
        """The newest version that was found under a lock, as long as the lock is the same: gone as soon as it is taken anew.
        UNKNOWN: another version may be there since (it was taken more strongly, or under another lease)."""

    def gain(self, key: bytes, strength: int) -> None:
        if self.seen and key in self.seen:
            if key in self.keys:
                self.seen[key] = UNKNOWN
            else:
                del self.seen[key]
        self.keys[key] = strength

    def keeps(self, key: bytes, version: int) -> bool:
        """Whether ``version`` was found under a lock that has kept every other writer out ever since."""
        return self.seen.get(key) == version and self.keys.get(key, 0) >= _NO_KEY_UPDATE

    def unbroken(self, key: bytes) -> bool:
        """Whether the key has been held ever since the transaction locked it."""
        return key in self.seen and key in self.keys


class Waiter:
    """One request in a key's queue; ``granted`` is done once the lock is held."""

    __slots__ = ("granted", "key", "strength", "transaction_id")

    def __init__(self, transaction_id: TransactionId, key: bytes, strength: int) -> None:
        self.transaction_id = transaction_id
        self.key = key
        self.strength = strength
        self.granted: Completion[None] = Completion()


class _Contended:
    __slots__ = ("holders", "waiters")

    def __init__(self) -> None:
        self.holders: dict[TransactionId, Owner] = {}
        self.waiters: deque[Waiter] = deque()


class LockTable:
    """All locks of one range under one lease."""

    __slots__ = ("_owners", "_table", "queued")

    def __init__(self) -> None:
        self._table: dict[bytes, Owner | _Contended] = {}
        self._owners: dict[TransactionId, Owner] = {}
        self.queued: dict[Waiter, None] = {}
        """Every request that waits."""

    def __len__(self) -> int:
        return len(self._table)

    def holds(self, transaction_id: TransactionId, key: bytes) -> int:
        """The strength at which the transaction holds the key; 0 if it does not."""
        owner = self._owners.get(transaction_id)
        return 0 if owner is None else owner.keys.get(key, 0)

    def owner(self, transaction_id: TransactionId) -> Owner | None:
        return self._owners.get(transaction_id)

    @property
    def owner_count(self) -> int:
        return len(self._owners)

    def owners(self) -> list[TransactionId]:
        """Every transaction that holds a lock here."""
        return list(self._owners)

    def holds_any(self, transaction_id: TransactionId, prefix: bytes) -> bool:
        """Tell whether it holds a key with this prefix."""
        owner = self._owners.get(transaction_id)
        return owner is not None and any(key.startswith(prefix) for key in owner.keys)

    def try_acquire(self, transaction_id: TransactionId, key: bytes, strength: int) -> Owner | None:
        """Take the lock if nobody stands in the way; about 0.5 µs.  Returns what the transaction holds, the lock included."""
        owner = self._owners.get(transaction_id)
        if owner is None:
            owner = self._owners[transaction_id] = Owner(transaction_id)
        held = self._table.get(key)
        if held is None:
            self._table[key] = owner
            owner.gain(key, strength)
            return owner
        if held is owner:
            if owner.keys[key] < strength:
                owner.gain(key, strength)
            return owner
        return self._try_contended(owner, held, key, strength)

    def note_version(self, transaction_id: TransactionId, key: bytes, version: int) -> None:
        """The newest version of a key that the transaction holds, as it is now."""
        owner = self._owners.get(transaction_id)
        if owner is not None and key in owner.keys:
            owner.seen[key] = version

    def forget_version(self, keys: Iterable[bytes], version: int) -> None:
        """The version that somebody may have found under a lock on these keys never came to be."""
        for owner in self._owners.values():
            for key in keys:
                if owner.seen.get(key) == version:
                    owner.seen[key] = UNKNOWN

    def is_free(self, transaction_id: TransactionId, key: bytes, strength: int) -> bool:
        """Tell whether the transaction could have the lock at once."""
        held = self._table.get(key)
        if held is None:
            return True
        owner = self._owners.get(transaction_id)
        upgrade = owner is not None and key in owner.keys
        return not any(True for _ in self._blockers(transaction_id, key, strength, upgrade=upgrade))

    def _try_contended(self, owner: Owner, held: Owner | _Contended, key: bytes, strength: int) -> Owner | None:
        mine = owner.keys.get(key, 0)
        if mine >= strength:
            return owner
        blocked = any(True for _ in self._blockers(owner.transaction_id, key, strength, upgrade=mine > 0))
        if blocked:
            self._drop_idle(owner)
            return None
        contended = self._contend(key)
        contended.holders[owner.transaction_id] = owner
        owner.gain(key, strength)
        return owner

    def enqueue(self, transaction_id: TransactionId, key: bytes, strength: int) -> Waiter:
        """Stand in the queue; a request that already stands there is found again."""
        contended = self._contend(key)
        for waiter in contended.waiters:
            if waiter.transaction_id == transaction_id and waiter.strength >= strength:
                return waiter
        if len(contended.waiters) >= MAX_WAITERS_PER_KEY:
            raise KVError("too many transactions wait for one row")
        waiter = Waiter(transaction_id, key, strength)
        if self.holds(transaction_id, key):
            contended.waiters.appendleft(waiter)
        else:
            contended.waiters.append(waiter)
        self.queued[waiter] = None
        return waiter

    def blockers(self, waiter: Waiter) -> list[TransactionId]:
        """Whom the waiter waits for: holders, and conflicting requests before it."""
        if waiter not in self.queued:
            return []
        return list(self._blockers(waiter.transaction_id, waiter.key, waiter.strength, stop_at=waiter))

    def _blockers(
        self,
        transaction_id: TransactionId,
        key: bytes,
        strength: int,
        *,
        upgrade: bool = False,
        stop_at: Waiter | None = None,
    ) -> Iterable[TransactionId]:
        held = self._table.get(key)
        if held is None:
            return
        against = _CONFLICTS[strength]
        if isinstance(held, Owner):
            if held.transaction_id != transaction_id and held.keys[key] in against:
                yield held.transaction_id
            return
        for owner in held.holders.values():
            if owner.transaction_id != transaction_id and owner.keys[key] in against:
                yield owner.transaction_id
        if upgrade:
            return
        for waiter in held.waiters:
            if waiter is stop_at:
                return
            if waiter.transaction_id != transaction_id and waiter.strength in against:
                yield waiter.transaction_id

    def cancel(self, waiter: Waiter) -> None:
        """Leave the queue; whoever else waits with this request (it was sent twice) asks again."""
        held = self._table.get(waiter.key)
        if isinstance(held, _Contended) and waiter in held.waiters:
            held.waiters.remove(waiter)
            self.queued.pop(waiter, None)
            waiter.granted.fail(StillWaiting("the request was withdrawn"))
            self._grant(waiter.key, held)

    def release(self, transaction_id: TransactionId) -> None:
        """Release everything the transaction holds, and take back what it still waits for."""
        if self.queued:
            for waiter in [waiter for waiter in self.queued if waiter.transaction_id == transaction_id]:
                self.cancel(waiter)
        owner = self._owners.pop(transaction_id, None)
        if owner is None:
            return
        table = self._table
        for key in owner.keys:
            held = table[key]
            if held is owner:
                del table[key]
            else:
                assert isinstance(held, _Contended)
                del held.holders[transaction_id]
                self._grant(key, held)

    def release_keys(self, transaction_id: TransactionId, keys: Iterable[bytes]) -> None:
        """Release just these keys."""
        owner = self._owners.get(transaction_id)
        if owner is None:
            return
        for key in keys:
            if owner.keys.pop(key, None) is None:
                continue
            held = self._table[key]
            if held is owner:
                del self._table[key]
            else:
                assert isinstance(held, _Contended)
                del held.holders[transaction_id]
                self._grant(key, held)
        self._drop_idle(owner)

    def holders(self, key: bytes) -> list[TransactionId]:
        """Who holds the key."""
        held = self._table.get(key)
        if held is None:
            return []
        return [held.transaction_id] if isinstance(held, Owner) else list(held.holders)

    def weaken(self, transaction_id: TransactionId, key: bytes, strength: int) -> None:
        """Go on holding the key, less strongly."""
        owner = self._owners.get(transaction_id)
        if owner is None or key not in owner.keys:
            return
        owner.keys[key] = strength
        held = self._table[key]
        if isinstance(held, _Contended):
            self._grant(key, held)

    def give_back(self, transaction_id: TransactionId, keys: Iterable[tuple[bytes, int]]) -> None:
        """Hold each key at a weaker strength, or (0) no more, and wait for it no more."""
        for key, strength in keys:
            self.withdraw(transaction_id, (key,))
            if strength:
                self.weaken(transaction_id, key, strength)
            else:
                self.release_keys(transaction_id, (key,))

    def withdraw(self, transaction_id: TransactionId, keys: Iterable[bytes]) -> None:
        """Take back what the transaction waits for among these keys."""
        if self.queued:
            wanted = set(keys)
            for waiter in [w for w in self.queued if w.transaction_id == transaction_id and w.key in wanted]:
                self.cancel(waiter)

    def trim(self, start: bytes, end: bytes) -> list[Waiter]:
        """Forget every lock outside [start, end) (after a split); returns the requests that waited for one."""
        stranded: list[Waiter] = []
        for key in [key for key in self._table if not start <= key < end]:
            held = self._table.pop(key)
            if isinstance(held, Owner):
                del held.keys[key]
                self._drop_idle(held)
                continue
            for owner in held.holders.values():
                del owner.keys[key]
                self._drop_idle(owner)
            for waiter in held.waiters:
                self.queued.pop(waiter, None)
            stranded.extend(held.waiters)
        return stranded

    def part_with(self, start: bytes, end: bytes) -> HeldLocks:
        """What is held in [start, end), by owner, for another table to take (the requests that wait are not part of it)."""
        parted: HeldLocks = {}
        for owner in self._owners.values():
            seen = owner.seen
            keys = {key: held if key in seen else -held for key, held in owner.keys.items() if start <= key < end}
            if keys:
                parted[owner.transaction_id] = keys
        return parted

    def take(self, parted: HeldLocks) -> None:
        """Hold what another table held, of keys that nobody has a lock on here."""
        for transaction_id, keys in parted.items():
            for key, strength in keys.items():
                if self.try_acquire(transaction_id, key, abs(strength)) and strength > 0:
                    self.note_version(transaction_id, key, UNKNOWN)

    def _contend(self, key: bytes) -> _Contended:
        held = self._table.get(key)
        if isinstance(held, _Contended):
            return held
        contended = _Contended()
        if held is not None:
            contended.holders[held.transaction_id] = held
        self._table[key] = contended
        return contended

    def _grant(self, key: bytes, contended: _Contended) -> None:
        waiters = contended.waiters
        for waiter in list(waiters):
            if any(True for _ in self._blockers(waiter.transaction_id, key, waiter.strength, stop_at=waiter)):
                continue
            waiters.remove(waiter)
            self.queued.pop(waiter, None)
            owner = self._owners.get(waiter.transaction_id)
            if owner is None:
                owner = self._owners[waiter.transaction_id] = Owner(waiter.transaction_id)
            owner.gain(key, max(owner.keys.get(key, 0), waiter.strength))
            contended.holders[waiter.transaction_id] = owner
            waiter.granted.set(None)
        if not waiters and len(contended.holders) <= 1:
            if contended.holders:
                [owner] = contended.holders.values()
                self._table[key] = owner
            elif self._table.get(key) is contended:
                del self._table[key]

    def _drop_idle(self, owner: Owner) -> None:
        if not owner.keys:
            self._owners.pop(owner.transaction_id, None)
