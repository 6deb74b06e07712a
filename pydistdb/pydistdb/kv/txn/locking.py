"""Row locks of one transaction, taken at the leaseholders as its statements go.

A lock returns the newest version of its key, and the version is kept: the commit hands it over as the expected one, and
fails if that has changed, or if the lock was lost in between with its leaseholder.  A savepoint that is rolled back to
gives back the locks taken since::

    lock a                          locked {a: (version 10, UPDATE)}
    savepoint; lock b               locked {a, b}, and the buffer's undo log knows of b
    rollback to it                  b is given back: at once where the range is led here, else in the background
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydistdb_storage import mvcc
from pydistdb_storage.mvcc import MAX_TIMESTAMP

from pydistdb.kv.answers import OWN_INTENT, SKIPPED, Locked, LockedAfterWaits
from pydistdb.kv.api import (
    Isolation,
    KVError,
    LockedValue,
    LockStrength,
    MustWait,
    RangeWaits,
    RowLocked,
    SerializationConflict,
    WaitPolicy,
)
from pydistdb.kv.descriptor import NodeId, RangeId
from pydistdb.kv.hlc import COUNTER_BITS
from pydistdb.kv.names import LeaseName, begin_of
from pydistdb.kv.range_local import RangeLocal
from pydistdb.kv.records import LONGEST_TRANSACTION_US
from pydistdb.kv.requests import Lock, ReleaseLocks
from pydistdb.kv.txn.base import MISSING
from pydistdb.kv.txn.buffer import LockUndo
from pydistdb.kv.txn.reading import ReadingPart
from pydistdb.tasks import Completion

RELEASE_TIMEOUT_NS = 2_000_000_000

CONFLICT_TEXT = "could not serialize access due to concurrent update"
_DELETED_TEXT = "could not serialize access due to concurrent delete"


class LockingPart(ReadingPart):
    """The locks of a transaction (kv.api.Transaction)."""

    __slots__ = ()

    def try_lock(self, key: bytes, strength: LockStrength) -> LockedValue:
        if self._over or self._failure is not None:
            self._check_open()
        leases = self._leases
        local = leases.find(key)
        if local is None or self._two_phase or not local.locks_known or not local.replica.is_leaseholder():
            raise MustWait
        if key in self._locked and not self._holds_still(local, key):
            raise SerializationConflict(CONFLICT_TEXT)
        local.note_request(key)
        self._lock_starts[local.start] = None
        owner = self._gateway.server.locker.try_lock_one(local, self._id or self.transaction_id, key, strength)
        if owner is None:
            raise RowLocked(key, strength)
        value, version = mvcc.get(leases.latest(), key, MAX_TIMESTAMP)
        owner.seen[key] = version
        return self._note_lock(key, value, version, strength, local.lease_name)

    async def lock(
        self, keys: Sequence[bytes], strength: LockStrength, wait: WaitPolicy = WaitPolicy.WAIT
    ) -> list[LockedValue]:
        if len(keys) == 1:
            try:
                return [self.try_lock(keys[0], strength)]
            except MustWait:
                pass
        try:
            return await self._lock_general(keys, strength, wait)
        except BaseException:
            if self._buffer.has_savepoint:
                # Some of them may be held, or be waited for yet, which the way back to the savepoint knows nothing of.
                self._let_go({key: held[1] if (held := self._locked.get(key)) else 0 for key in keys})
            raise

    async def _lock_general(self, keys: Sequence[bytes], strength: LockStrength, wait: WaitPolicy) -> list[LockedValue]:
        if self._giving_back is not None:
            await self._giving_back  # else that might take away again what is locked now
            self._giving_back = None
        found: dict[bytes, tuple[bytes | None, int]] = {}
        leases: dict[bytes, LeaseName] = {}
        router = self._gateway.router
        transaction_id = self.transaction_id

        async def lock_range(part: list[bytes]) -> None:
            descriptor = await router.locate(part[0])
            self._lock_starts[descriptor.start] = None
            held = [key for key in part if key in self._locked and self._locked[key][0] != OWN_INTENT]
            request = Lock(transaction_id, part, int(strength), int(wait), self.lock_timeout_ns, self.starts_anew, held)
            self.waits_since_ns = self._leases.scheduler.now_ns()
            try:
                answer: Locked = await router.send(request)
            finally:
                self.waits_since_ns = 0
            if isinstance(answer, LockedAfterWaits):
                self._note_waits(descriptor.range_id, router.leader_of(part[0]), answer.waits, answer.waited_ns)
            found.update(zip(part, zip(answer.values, answer.versions, strict=True), strict=True))
            leases.update(dict.fromkeys(part, answer.lease))
            if answer.early:
                self._early = {**(self._early or {}), **dict(zip(part, answer.versions, strict=True))}

        await router.each_range(sorted(set(keys)), lock_range)
        return [self._note_lock(key, *found[key], strength, leases[key]) for key in keys]

    def locked_keys(self) -> Iterable[bytes]:
        return self._locked

    def _note_waits(self, range_id: RangeId, node: NodeId, waits: int, waited_ns: int) -> None:
        if waits and self.lock_waits is not None:
            _, count, seconds = self.lock_waits.get(range_id, (node, 0, 0.0))
            self.lock_waits[range_id] = RangeWaits(node, count + waits, seconds + waited_ns / 1e9)

    async def confirm(self) -> None:
        early, self._early = self._early, None
        self.starts_anew = False
        if not early or self._over:
            return
        try:
            await self._lock_general(list(early), LockStrength.KEY_SHARE, WaitPolicy.WAIT)
        except KVError as error:
            raise SerializationConflict(CONFLICT_TEXT) from error
        if any(self._locked[key][0] != version for key, version in early.items()):
            raise SerializationConflict(CONFLICT_TEXT)

    def _holds_still(self, local: RangeLocal, key: bytes) -> bool:
        """Whether a lock from before has not been lost with a lease, and what was seen under it with that."""
        owner = local.locks.owner(self._id)
        return self._locked[key][0] == OWN_INTENT or (owner is not None and owner.unbroken(key))

    def locked_under(self, lease: LeaseName) -> dict[bytes, int]:
        """What it may claim at a new leaseholder (reclaim.py)."""
        age_us = (self._leases.clock.now() - begin_of(self._id)) >> COUNTER_BITS
        if self._over or self.starts_anew or age_us > LONGEST_TRANSACTION_US:
            return {}
        return {
            key: strength
            for key, (version, strength, under) in self._locked.items()
            if under == lease and version != OWN_INTENT
        }

    def _note_lock(self, key: bytes, value: bytes | None, version: int, strength: int, lease: LeaseName) -> LockedValue:
        if version == SKIPPED:
            return LockedValue(None, False, True)
        known = self._locked.get(key)
        if known is not None:
            if known[0] != version and version != OWN_INTENT and key in self._buffer.entries:
                # The lock was lost with a lease, and somebody else has written since.
                raise SerializationConflict(CONFLICT_TEXT)
            strength = max(strength, known[1])
        changed = version > (self.oldest_read or self.read_timestamp)
        if changed and self.isolation is not Isolation.READ_COMMITTED and not self._may_keep(value, strength):
            is_gone = value is None and strength >= LockStrength.NO_KEY_UPDATE
            raise SerializationConflict(_DELETED_TEXT if is_gone else CONFLICT_TEXT)
        if self._buffer.undo is not None and (known is None or known[1] < strength):
            self._buffer.note_lock(key, known)
        self._locked[key] = (version, strength, lease)
        own = self._buffered(key) if self._buffer.entries or self._spilling_buffer is not None else MISSING
        return LockedValue(value if own is MISSING else own, changed)  # type: ignore[arg-type]

    def _may_keep(self, value: bytes | None, strength: int) -> bool:
        """Whether a row that has changed since the snapshot may be locked: to be kept as it is, it need only be there."""
        return strength == LockStrength.KEY_SHARE and value is not None and self.isolation is Isolation.REPEATABLE_READ

    # -------------------------------------------------------------------------------------------------- giving back

    def _give_back(self, locks: list[LockUndo]) -> None:
        """Give back what was locked since a savepoint."""
        strengths = {lock.key: lock.before[1] if lock.before else 0 for lock in locks}
        for key, strength in strengths.items():
            version, _, lease = self._locked.pop(key)
            if strength:
                self._locked[key] = (version, strength, lease)
            if self._reads is not None:
                self._reads.add_point(key)  # under the lock it was read
        self._let_go(strengths)

    def _let_go(self, strengths: dict[bytes, int]) -> None:
        """Hold keys at these strengths, 0: not at all, and wait for none of them; at once where the range is led here."""
        remote: dict[bytes, int] = {}
        for key, strength in strengths.items():
            local = self._leases.find(key)
            if local is None:
                remote[key] = strength
            else:
                local.locks.give_back(self._id, [(key, strength)])
        if remote:
            self._spawn(self._give_back_remote(remote, self._giving_back))

    async def _give_back_remote(self, strengths: dict[bytes, int], earlier: Completion[None] | None) -> None:
        done = self._giving_back = Completion[None]()
        if earlier is not None:
            await earlier
        router = self._gateway.router

        async def release(part: list[bytes]) -> None:
            request = ReleaseLocks(self._id, part[0], [(key, strengths[key]) for key in part])
            await router.send(request, timeout_ns=RELEASE_TIMEOUT_NS)

        try:
            await router.each_range(sorted(strengths), release)
        except KVError:
            pass  # they go with the others at the end
        finally:
            done.set(None)
