"""Writes of one transaction: buffered at the gateway until the commit, or laid down as intents early.

A buffer beyond SPILL_BYTES is laid down as intents in the background: the transaction then commits in two phases, and its
reads see those intents as its own at the leaseholders.  While a savepoint may still be rolled back to, nothing is
spilled, and the buffer may grow to MAX_BUFFER_BYTES::

    put …  4 MB are full      buffer ──► spilling buffer ──► intents (two_phase.py)
    put …                     a new buffer fills meanwhile; reads look into both, then at the leaseholders
    commit                    what is left goes the same way if it is more than MOST_AT_COMMIT writes

Spilling is a task of its own: whoever waits for it can be interrupted at any time, also within ``commit`` (``is_spilling``).
The transaction is rolled back then; the task sends nothing more, and what it has under way ends before the intents are dropped.
"""

from __future__ import annotations

from pydistdb_storage.errors import KeyTooLong
from pydistdb_storage.mvcc import MAX_MVCC_KEY_BYTES

from pydistdb.kv.answers import OWN_INTENT
from pydistdb.kv.api import (
    KeyExists,
    TransactionTooLarge,
)
from pydistdb.kv.requests import BLIND, INSERT, Condition, Write
from pydistdb.kv.txn.base import MISSING
from pydistdb.kv.txn.buffer import WriteBuffer
from pydistdb.kv.txn.locking import LockingPart
from pydistdb.kv.txn.two_phase import TwoPhase
from pydistdb.tasks import Completion

SPILL_BYTES = 4 << 20
MAX_BUFFER_BYTES = 256 << 20
MAX_TRANSACTION_BYTES = 8 << 30
MOST_AT_COMMIT = 256
"""More writes are not laid down by the commit itself, which nothing can interrupt."""

MOST_SPANS = 1_000
"""More keys than this are named by one span around them all."""


class WritingPart(LockingPart):
    """The writes of a transaction (kv.api.Transaction)."""

    __slots__ = ()

    def put(self, key: bytes, value: bytes) -> None:
        assert value, "a value is never empty: an empty one stands for a delete"
        self._write(key, value, False)

    @property
    def can_lay_down(self) -> bool:
        return not self._buffer.has_savepoint

    async def lay_down_fresh(self, entries: list[tuple[bytes, bytes]]) -> None:
        self._check_open()
        size_bytes = sum(len(key) + len(value) for key, value in entries)
        if self._spilled_bytes + size_bytes > MAX_TRANSACTION_BYTES:
            raise TransactionTooLarge("the transaction writes too much")
        self._spilled_bytes += size_bytes
        longest = max(len(key) for key, _ in entries)
        if longest > MAX_MVCC_KEY_BYTES:
            raise KeyTooLong(longest, MAX_MVCC_KEY_BYTES)
        if self._two_phase is None:
            self._two_phase = TwoPhase(self._leases, self._gateway.router, self.transaction_id)
        entries.sort(key=_key_of)
        await self._two_phase.lay_down_fresh(entries)

    def put_all(self, entries: dict[bytes, bytes]) -> None:
        if self._over or self._failure is not None:
            self._check_open()
        longest = max(map(len, entries), default=0)
        if longest > MAX_MVCC_KEY_BYTES:
            raise KeyTooLong(longest, MAX_MVCC_KEY_BYTES)
        assert all(entries.values()), "a value is never empty: an empty one stands for a delete"
        buffer = self._buffer
        buffer.write_all(entries)
        if buffer.size_bytes > SPILL_BYTES:
            self._overflow()

    def insert(self, key: bytes, value: bytes) -> None:
        assert value, "a value is never empty: an empty one stands for a delete"
        own = self._buffered(key)
        if own is MISSING:
            self._write(key, value, True)
        elif own is not None:
            raise KeyExists(key)
        else:
            self._write(key, value, False)

    def delete(self, key: bytes) -> None:
        self._write(key, None, False)

    def _write(self, key: bytes, value: bytes | None, insert: bool) -> None:
        if self._over or self._failure is not None:
            self._check_open()
        if len(key) > MAX_MVCC_KEY_BYTES:
            raise KeyTooLong(len(key), MAX_MVCC_KEY_BYTES)
        buffer = self._buffer
        buffer.write(key, value, insert)
        if buffer.size_bytes > SPILL_BYTES:
            self._overflow()

    def savepoint(self) -> int:
        self._check_open()
        return self._buffer.savepoint()

    def rollback_to(self, mark: int, *, release_locks: bool = False) -> None:
        if self._over:
            self._check_open()
        locks = self._buffer.rollback_to(mark, release_locks=release_locks)
        if locks:
            self._give_back(locks)

    def forget_savepoints(self) -> None:
        self._buffer.forget_savepoints()

    @property
    def has_writes(self) -> bool:
        return bool(self._buffer.entries) or self._two_phase is not None

    @property
    def holds_rows(self) -> bool:
        return bool(self._locked) or self.waits_since_ns > 0 or self.has_writes

    # -------------------------------------------------------------------------------------------- what a commit checks

    def written_spans(self) -> list[tuple[bytes, bytes]]:
        keys = [*self._buffer.entries, *(self._spilling_buffer.entries if self._spilling_buffer is not None else ())]
        if len(keys) > MOST_SPANS:
            keys.sort()
            spans = [(keys[0], keys[-1] + b"\0")]
        else:
            spans = [(key, key + b"\0") for key in keys]
        if self._two_phase is not None:
            spans += self._two_phase.laid_down_spans()
        return spans

    def _writes_of(self, buffer: WriteBuffer) -> list[Write]:
        entries, inserted, locked = buffer.entries, buffer.inserted, self._locked
        if len(entries) == 1 and not inserted:  # as most have it
            [(key, value)] = entries.items()
            return [(key, value, locked[key][0] if key in locked else BLIND)]
        if not locked and not inserted:
            return [(key, value, BLIND) for key, value in entries.items()]
        return [
            (key, value, INSERT if key in inserted else locked[key][0] if key in locked else BLIND)
            for key, value in entries.items()
        ]

    def _conditions(self) -> list[Condition]:
        """What was locked but is not written."""
        locked = self._locked
        entries = self._buffer.entries
        if len(locked) == 1 and len(entries) >= 1 and next(iter(locked)) in entries:
            return []
        return [
            (key, version, strength)
            for key, (version, strength, _) in locked.items()
            if key not in entries and version != OWN_INTENT
        ]

    # ------------------------------------------------------------------------------------------------------ spill

    def _overflow(self) -> None:
        """The buffer is large: start laying it down, unless that is under way or a savepoint needs it."""
        buffer = self._buffer
        if self._spilled_bytes + buffer.size_bytes > MAX_TRANSACTION_BYTES:
            raise TransactionTooLarge("the transaction writes too much")
        if self._spilling is None and not buffer.has_savepoint:
            self._begin_spill([])
        elif buffer.size_bytes > MAX_BUFFER_BYTES:
            raise TransactionTooLarge("the transaction's write buffer is full")

    def _begin_spill(self, conditions: list[Condition]) -> Completion[None]:
        buffer = self._buffer
        spilling = self._spilling = Completion[None]()
        self._spilling_buffer = buffer
        self._spilled_bytes += buffer.size_bytes
        self._buffer = WriteBuffer()
        self._leases.scheduler.call_soon(lambda: self._spawn(self._spill(buffer, conditions, spilling)))
        return spilling

    async def _spill(self, buffer: WriteBuffer, conditions: list[Condition], spilling: Completion[None]) -> None:
        try:
            if not self._over:
                await self._lay_down(buffer, conditions)
        except Exception as error:  # raised where the transaction goes on
            self._failure = error
        finally:
            self._spilling = None
            self._spilling_buffer = None
            spilling.set(None)

    @property
    def is_spilling(self) -> bool:
        return self._spilling is not None

    async def _spilled(self) -> None:
        """Wait for what is being laid down; raises what that ran into."""
        while self._spilling is not None:
            await self._spilling
        self._check_open()

    async def _lay_down_rest(self, conditions: list[Condition]) -> None:
        """What the commit still has to lay down."""
        if len(self._buffer.entries) + len(conditions) <= MOST_AT_COMMIT:
            self._laying_down().gives_up = self.gives_up
            await self._lay_down(self._buffer, conditions)
        else:
            await self._begin_spill(conditions)
            self._check_open()

    def _laying_down(self) -> TwoPhase:
        if self._two_phase is None:
            self._two_phase = TwoPhase(self._leases, self._gateway.router, self.transaction_id)
        return self._two_phase

    async def _lay_down(self, buffer: WriteBuffer, conditions: list[Condition]) -> None:
        two_phase = self._laying_down()
        writes = self._writes_of(buffer)
        writes.sort(key=_key_of)
        await two_phase.lay_down(writes, conditions)
        if self._locked:
            for write in writes:
                self._locked.pop(write[0], None)

    async def relieve(self) -> None:
        """Wait while much more is buffered than has been laid down; bulk writers await this between batches.

        Raises what laying down the earlier part ran into."""
        self._check_open()
        while self._spilling is not None and self._buffer.size_bytes > SPILL_BYTES // 2:
            await self._spilling
            self._check_open()


def _key_of(write: Write | tuple[bytes, bytes]) -> bytes:
    return write[0]
