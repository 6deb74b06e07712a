"""``kv.api.Database`` over one sorted dictionary in memory: no ranges, no Raft, no waiting.

SQL tests run on it.  It keeps every version, so snapshots are real; locks are no-ops, but a commit whose locked key
changed in between fails with SerializationConflict, so a lost update still shows.  ``MemoryDatabase(must_wait=True)``
makes every ``try_`` call raise MustWait, which sends callers down their awaitable path.

Example::

    database = MemoryDatabase()
    txn = database.begin(Isolation.READ_COMMITTED)
    txn.insert(b"k", b"v")
    run_inline(txn.commit())
    assert database.try_get(b"k") == b"v"
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

from pydistdb.kv.api import (
    BroadcastHandler,
    ChangeAnswer,
    ExchangeLost,
    FragmentAnswer,
    Isolation,
    KeyExists,
    KVError,
    LockedValue,
    LockStrength,
    LockWait,
    MustWait,
    PastIsReadOnly,
    PreparedExists,
    PreparedMissing,
    PreparedTransaction,
    RangeInfo,
    RangeWaits,
    ScanBatch,
    SerializationConflict,
    SpanPart,
    Timestamp,
    Transaction,
    TransactionAborted,
    WaitPolicy,
)
from pydistdb.kv.fragments import Lacking
from pydistdb.kv.locks import LockTable
from pydistdb.kv.versions import Feature
from pydistdb.sql.exec.change_run import run_change
from pydistdb.sql.exec.fragment_run import run_fragment
from pydistdb.tasks import Completion
from pydistdb_storage.engine import Picks
from pydistdb_storage.keys import prefix_end
from sortedcontainers import SortedDict

_END_OF_KEYS = b"\xff"
FRAGMENT_ENTRIES = 7
"""What a fragment is fed at once."""


class MemoryDatabase:
    """One node's whole key space in a dictionary of version lists (oldest first)."""

    node_id = 1

    def __init__(self, *, must_wait: bool = False, distant: bool = False) -> None:
        self.must_wait = must_wait
        self.distant = distant
        """Scans take the way to ranges of other nodes, with fragments."""
        self.answers: list[FragmentAnswer] = []
        """What fragments have given."""
        self.fragment_chunks = 1
        """How many chunks a fragment is fed before it must answer."""
        self.changes: list[tuple[int, bool]] = []
        """How many rows each request has changed, and whether it wrote them."""
        self.versions: SortedDict[bytes, list[tuple[Timestamp, bytes | None]]] = SortedDict()
        self.boundaries: list[bytes] = []
        self.counters: dict[bytes, int] = {}
        self.handlers: dict[str, BroadcastHandler] = {}
        self.clock: Timestamp = 0
        self.lock_table = LockTable()
        self.lock_owners = 0
        self.prepared: dict[str, tuple[PreparedTransaction, MemoryTransaction]] = {}
        self.peers: dict[int, BroadcastHandler] = {}
        """What answers for nodes that are asked (exchanges); they lead the ranges in turn."""

    max_clock_offset_us = 0

    def now(self) -> Timestamp:
        """A timestamp above every one given out before."""
        self.clock = max(self.clock + 1, time.time_ns() // 1000 << 12)
        return self.clock

    def read(self, key: bytes, timestamp: Timestamp) -> tuple[bytes | None, Timestamp]:
        """The newest value at or below ``timestamp`` and its own timestamp (0 if there is none)."""
        for version, value in reversed(self.versions.get(key, ())):
            if version <= timestamp:
                return value, version
        return None, 0

    def write(self, key: bytes, value: bytes | None, timestamp: Timestamp) -> None:
        self.versions.setdefault(key, []).append((timestamp, value))

    async def ask(self, node_id: int, topic: str, payload: bytes) -> bytes:
        if node_id not in self.peers:
            raise ExchangeLost(f"node {node_id} is down")
        return await self.peers[node_id](self.node_id, payload)

    def begin(
        self, isolation: Isolation, *, read_only: bool = False, trace: Callable[[str], None] | None = None
    ) -> MemoryTransaction:
        return MemoryTransaction(self, isolation)

    xid_of_session: Callable[[int], int]

    def lock_waits(self) -> list[LockWait]:
        return []

    async def prepared_transactions(self) -> list[PreparedTransaction]:
        return [prepared for prepared, _ in self.prepared.values()]

    async def finish_prepared(self, name: str, commit: bool, check: Callable[[PreparedTransaction], None]) -> None:
        if name not in self.prepared:
            raise PreparedMissing(name)
        prepared, transaction = self.prepared[name]
        check(prepared)
        del self.prepared[name]
        transaction.over = False
        if commit:
            await transaction.commit()

    def begin_stale(
        self, isolation: Isolation, floor: Callable[[], Timestamp], *, exact: bool = False
    ) -> MemoryPastReader:
        return MemoryPastReader(self, isolation, floor, exact)

    def session_locks(self, current: Callable[[], object], on_lost: Callable[[], None]) -> MemorySessionLocks:
        self.lock_owners += 1
        return MemorySessionLocks(self.lock_table, self.lock_owners.to_bytes(16, "big"))

    def try_get(self, key: bytes) -> bytes | None:
        if self.must_wait:
            raise MustWait
        return self.read(key, self.clock)[0]

    async def wait_for(
        self,
        completion: Completion[None],
        transaction: Transaction,
        holders: Callable[[], Iterable[bytes]],
        *,
        since_ns: int = 0,
        deadline_ns: int = 0,
    ) -> None:
        await completion

    async def ingest(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        timestamp = self.now()
        for key, value in entries:
            self.write(key, value, timestamp)

    async def clear_range(self, start: bytes, end: bytes) -> None:
        for key in list(self.versions.irange(start, end, inclusive=(True, False))):
            del self.versions[key]

    async def split(self, keys: Sequence[bytes]) -> None:
        self.boundaries = sorted({*self.boundaries, *keys})

    async def ranges(self, start: bytes, end: bytes) -> list[RangeInfo]:
        edges = [b"", *self.boundaries, _END_OF_KEYS]
        return [
            RangeInfo(number, left, right, self._leader(number), (self.node_id,), 1)
            for number, (left, right) in enumerate(pairwise(edges), 1)
            if left < end and start < right
        ]

    def _leader(self, number: int) -> int:
        if self.peers:
            return sorted(self.peers)[number % len(self.peers)]
        return self.node_id + number % 2 * self.distant

    async def await_copies(self, spans: Sequence[tuple[bytes, bytes]], timeout_ns: int) -> list[int]:
        return []

    async def require_unchanged(self, spans: Sequence[tuple[bytes, bytes]], since: Timestamp) -> None:
        pass

    async def allocate_ids(self, counter: bytes, count: int = 1) -> int:
        first = self.counters.get(counter, 1)
        self.counters[counter] = first + count
        return first

    async def broadcast(self, topic: str, payload: bytes, timeout_ns: int) -> dict[int, bytes | None]:
        handler = self.handlers.get(topic)
        return {self.node_id: None if handler is None else await handler(self.node_id, payload)}

    def is_active(self, feature: Feature) -> bool:
        return True

    def on_broadcast(self, topic: str, handler: BroadcastHandler) -> None:
        self.handlers[topic] = handler


class MemorySessionLocks:
    """Advisory locks of one session; see kv.api.SessionLocks."""

    def __init__(self, table: LockTable, owner: bytes) -> None:
        self.table = table
        self.transaction_id = owner
        self.process_id = 0

    async def lock(self, key: bytes, strength: LockStrength, wait: WaitPolicy, timeout_ns: int = 0) -> bool:
        if not self.table.try_acquire(self.transaction_id, key, int(strength)):
            if wait is not WaitPolicy.WAIT:
                return False
            await self.table.enqueue(self.transaction_id, key, int(strength)).granted
        return True

    async def unlock(self, keys: Iterable[bytes], strength: int = 0) -> None:
        for key in list(keys):
            if strength:
                self.table.weaken(self.transaction_id, key, strength)
            else:
                self.table.release_keys(self.transaction_id, [key])

    def close(self) -> None:
        self.table.release(self.transaction_id)


class MemoryTransaction:
    """A transaction over a MemoryDatabase; see kv.api.Transaction."""

    def __init__(self, database: MemoryDatabase, isolation: Isolation) -> None:
        self.database = database
        self.isolation = isolation
        self.lock_timeout_ns = 0
        self.starts_anew = False
        self.process_id = 0
        database.lock_owners += 1
        self.transaction_id = database.lock_owners.to_bytes(16, "big")
        self.read_timestamp: Timestamp = database.now()
        self.oldest_read: Timestamp = 0
        self.lock_waits: dict[int, RangeWaits] | None = None
        self.gives_up = False
        self.waits_since_ns = 0
        self.buffer: SortedDict[bytes, bytes | None] = SortedDict()
        self.expected: dict[bytes, Timestamp] = {}
        self.inserted: set[bytes] = set()
        self.undo: list[tuple[bytes, bool, bytes | None, bool]] = []
        self.over = False
        self._first_statement = True

    @property
    def known_id(self) -> bytes:
        return self.transaction_id

    @property
    def holds_rows(self) -> bool:
        return bool(self.expected or self.buffer)

    def locked_keys(self) -> Iterable[bytes]:
        return self.expected

    def begin_statement(self, at_least: Timestamp = 0) -> None:
        self._check_open()
        if self._first_statement or self.isolation is Isolation.READ_COMMITTED:
            self.read_timestamp = max(self.database.now(), at_least)
            self._first_statement = False

    def _check_open(self) -> None:
        if self.over:
            raise TransactionAborted("the transaction is over")

    def _get(self, key: bytes) -> bytes | None:
        self._check_open()
        if key in self.buffer:
            return self.buffer[key]
        return self.database.read(key, self.read_timestamp)[0]

    def try_get(self, key: bytes) -> bytes | None:
        if self.database.must_wait:
            raise MustWait
        return self._get(key)

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self._get(key) for key in keys]

    def _keys(self, start: bytes, end: bytes, reverse: bool) -> Iterator[bytes]:
        stored = self.database.versions.irange(start, end, inclusive=(True, False))
        buffered = self.buffer.irange(start, end, inclusive=(True, False))
        yield from sorted({*stored, *buffered}, reverse=reverse)

    def _scan(self, start: bytes, end: bytes, limit: int, reverse: bool) -> ScanBatch:
        self._check_open()
        keys: list[bytes] = []
        values: list[bytes] = []
        for key in self._keys(start, end, reverse):
            if len(keys) >= limit:
                return ScanBatch(keys, values, keys[-1] if reverse else prefix_end(keys[-1]))
            value = self._get(key)
            if value is not None:
                keys.append(key)
                values.append(value)
        return ScanBatch(keys, values, None)

    def try_scan(
        self, start: bytes, end: bytes, *, limit: int, reverse: bool = False, picks: Picks | None = None
    ) -> ScanBatch:
        if self.database.must_wait:
            raise MustWait
        return self._scan(start, end, limit, reverse)

    async def scan(
        self, start: bytes, end: bytes, *, limit: int, reverse: bool = False, picks: Picks | None = None
    ) -> ScanBatch:
        return self._scan(start, end, limit, reverse)

    def is_local(self, start: bytes, end: bytes) -> bool:
        return not self.database.distant

    async def part_at(self, start: bytes, end: bytes, *, reverse: bool = False) -> SpanPart:
        parts = await self.database.ranges(start, end)
        part = parts[-1] if reverse else parts[0]
        return SpanPart(max(start, part.start), min(end, part.end), part.range_id, False, part.leader)

    async def evaluate(
        self, fragment: bytes, arguments: bytes, start: bytes, end: bytes, *, reverse: bool = False
    ) -> FragmentAnswer | None:
        if any(True for _ in self.buffer.irange(start, end, inclusive=(True, False))):
            return None
        part = await self.part_at(start, end, reverse=reverse)
        first, last, entries = part.start, part.end, 0
        try:
            run = run_fragment(fragment, arguments)
            for _ in range(self.database.fragment_chunks):
                keys, values, resume = self._scan(first, last, FRAGMENT_ENTRIES, reverse)
                entries += len(keys)
                run.take(keys, values)
                while run.step():
                    pass
                if resume is None or run.is_full:
                    break
                first, last = (first, resume) if reverse else (resume, last)
            resume = run.close(resume, part.end)
            while run.step():
                pass
            for node, data in run.outgoing():
                await self.database.ask(node, "exchange", data)
            output, peaks = run.finish(), run.peaks_bytes
            run.release()
        except Lacking:
            return FragmentAnswer(b"", start, 0, lacking=True)
        except ExchangeLost:
            raise
        except Exception:
            return None
        if resume is None:
            resume = (part.start if part.start > start else None) if reverse else (part.end if part.end < end else None)
        self.database.answers.append(FragmentAnswer(output, resume, entries, False, 0, *peaks))
        return self.database.answers[-1]

    async def confirm(self) -> None:
        pass

    async def change(
        self,
        fragment: bytes,
        arguments: bytes,
        start: bytes,
        end: bytes,
        strength: LockStrength,
        *,
        most: int,
        lays_down: bool = False,
        wait: WaitPolicy = WaitPolicy.WAIT,
    ) -> ChangeAnswer | None:
        if any(True for _ in self.buffer.irange(start, end, inclusive=(True, False))):
            return None
        part = await self.part_at(start, end)
        keys, values, resume = self._scan(part.start, part.end, FRAGMENT_ENTRIES, False)
        try:
            run = run_change(fragment, arguments)
            run.take(keys, values)
            locked = await self.lock(run.keys, strength)
            found = run.changes(0, [(answer.value, answer.changed) for answer in locked])
        except KVError:
            raise
        except Exception:
            return None
        if resume is None:
            resume = part.end if part.end < end else None
        writes = {run.keys[number]: value for number, value in found}
        self.database.changes.append((len(found), lays_down))
        if lays_down:
            for key, value in writes.items():
                self._write(key, value, False)
        return ChangeAnswer(len(found), resume, len(keys), dict(run.more) | ({} if lays_down else writes))

    async def lock(
        self, keys: Sequence[bytes], strength: LockStrength, wait: WaitPolicy = WaitPolicy.WAIT
    ) -> list[LockedValue]:
        return [self.try_lock(key, strength) for key in keys]

    def try_lock(self, key: bytes, strength: LockStrength) -> LockedValue:
        self._check_open()
        value, newest = self.database.read(key, self.database.clock)
        changed = newest > (self.oldest_read or self.read_timestamp)
        if changed and self.isolation is not Isolation.READ_COMMITTED:
            raise SerializationConflict("could not serialize access due to concurrent update")
        self.expected[key] = newest
        return LockedValue(self.buffer.get(key, value), changed)

    def put(self, key: bytes, value: bytes) -> None:
        assert value, "a value is never empty: an empty one stands for a delete"
        self._write(key, value, key in self.inserted)

    can_lay_down = True

    async def lay_down_fresh(self, entries: list[tuple[bytes, bytes]]) -> None:
        self.put_all(dict(entries))

    def put_all(self, entries: dict[bytes, bytes]) -> None:
        for key, value in entries.items():
            self.put(key, value)

    def insert(self, key: bytes, value: bytes) -> None:
        if self.buffer.get(key) is not None:
            raise KeyExists(key)
        self._write(key, value, key not in self.buffer or key in self.inserted)

    def delete(self, key: bytes) -> None:
        self._write(key, None, key in self.inserted)

    def _write(self, key: bytes, value: bytes | None, inserted: bool) -> None:
        self._check_open()
        self.undo.append((key, key in self.buffer, self.buffer.get(key), key in self.inserted))
        self.buffer[key] = value
        if inserted:
            self.inserted.add(key)

    def savepoint(self) -> int:
        return len(self.undo)

    def forget_savepoints(self) -> None:
        self.undo.clear()

    def rollback_to(self, mark: int, *, release_locks: bool = False) -> None:
        while len(self.undo) > mark:
            key, was_there, value, was_inserted = self.undo.pop()
            if was_there:
                self.buffer[key] = value
            else:
                del self.buffer[key]
            if not was_inserted:
                self.inserted.discard(key)

    def snapshot(self) -> MemoryTransaction:
        self._check_open()
        reader = MemoryTransaction(self.database, Isolation.REPEATABLE_READ)
        reader.read_timestamp = self.read_timestamp
        reader._first_statement = False
        reader.buffer = SortedDict(self.buffer)
        return reader

    def written_spans(self) -> list[tuple[bytes, bytes]]:
        return [(key, key + b"\0") for key in self.buffer]

    @property
    def has_writes(self) -> bool:
        return bool(self.buffer)

    is_spilling = False

    async def relieve(self) -> None:
        return None

    async def commit(self) -> Timestamp:
        self._check_open()
        self.over = True
        database = self.database
        if not self.buffer:
            return self.read_timestamp
        for key in sorted(self.inserted):
            if database.read(key, database.clock)[0] is not None:
                raise KeyExists(key)
        for key, expected in self.expected.items():
            if database.read(key, database.clock)[1] != expected:
                raise SerializationConflict("could not serialize access due to concurrent update")
        timestamp = database.now()
        for key, value in self.buffer.items():
            database.write(key, value, timestamp)
        return timestamp

    async def prepare(self, name: str, facts: bytes) -> None:
        self._check_open()
        self.over = True
        prepared = self.database.prepared
        if name in prepared:
            raise PreparedExists(name)
        prepared[name] = (PreparedTransaction(name, self.transaction_id, facts), self)

    def rollback(self, reason: str = "") -> None:
        if not self.over:
            self.buffer.clear()
        self.over = True


class MemoryPastReader(MemoryTransaction):
    """Reads at the floor, or now."""

    def __init__(
        self, database: MemoryDatabase, isolation: Isolation, floor: Callable[[], Timestamp], exact: bool
    ) -> None:
        super().__init__(database, isolation)
        self.floor, self.exact = floor, exact
        self.served: dict[int, int] = {}
        self.schema_checked = False

    def begin_statement(self, at_least: Timestamp = 0) -> None:
        super().begin_statement(at_least)
        self.schema_checked = False
        if self.exact:
            self.read_timestamp = max(self.floor(), at_least)

    def _write(self, key: bytes, value: bytes | None, inserted: bool) -> None:
        raise PastIsReadOnly

    def try_lock(self, key: bytes, strength: LockStrength) -> LockedValue:
        raise PastIsReadOnly
