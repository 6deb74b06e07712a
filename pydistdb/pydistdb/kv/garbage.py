"""Removing versions that nobody can read any more.

A version may go once a newer one of its key is older than ``ttl``: every statement that could want it started longer ago
than that.  The node's *threshold* (now less ttl) only rises, and the leaseholder refuses reads below it, so a reader
meets a clear error and never a hole.  Removing is each node's own business and goes past Raft: replicas agree on what
can be read at or above the threshold, and on nothing else.

Two ways lead there:

* At write time: ``note_all`` remembers the versions of recently written keys.  A row that is updated a thousand times a
  second sheds its oldest versions as it goes, with one delete per write.
* In the background: a pass over the store in small slices, far apart, if anything was written since the last.

Example, ttl 300 s: a row written at 0 s, 10 s and 20 s.  At 310 s the version of 0 s goes (that of 10 s hides it from
every read at or above the threshold, 10 s); at 320 s that of 10 s; that of 20 s stays for as long as it is the newest.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable

from pydistdb_storage import mvcc
from pydistdb_storage.engine import Engine, Space, WriteBatch
from pydistdb_storage.errors import StorageError

from pydistdb.kv.api import Timestamp
from pydistdb.kv.command import Write
from pydistdb.kv.commit import Committer
from pydistdb.kv.descriptor import KEY_MAX, KEY_MIN
from pydistdb.kv.hlc import COUNTER_BITS, HybridClock
from pydistdb.tasks import Completion, Scheduler, sleep

DEFAULT_TTL_SECONDS = 300.0
PASS_INTERVAL_NS = 300_000_000_000
SLICE_VERSIONS = 500
"""Versions looked at per slice: a fraction of a millisecond."""
SLICE_INTERVAL_NS = 10_000_000
"""Time between slices: a pass over a million rows takes 20 s and a few per cent of the loop."""
MAX_HOT_KEYS = 4_096
MAX_NOTED_WRITES = 64
MAX_REMOVED_PER_WRITE = 16
"""Deletes that one write adds at most, so that a burst is not paid for by one client."""

_VERSIONS = int(Space.VERSIONS)


class GarbageCollector:
    """One node's; ``start`` begins the background passes."""

    def __init__(
        self,
        engine: Engine,
        scheduler: Scheduler,
        committer: Committer,
        clock: HybridClock,
        ttl_seconds: float = DEFAULT_TTL_SECONDS,
    ) -> None:
        self._engine = engine
        self._scheduler = scheduler
        self._committer = committer
        self._clock = clock
        self._ttl: Timestamp = int(ttl_seconds * 1_000_000) << COUNTER_BITS
        self._threshold: Timestamp = 0
        self._hot: OrderedDict[bytes, deque[bytes]] = OrderedDict()
        """Engine keys of the versions written lately, oldest first, by key."""
        self._writes = 0
        self._collected_writes = 0
        self.removed = 0
        self._stopped = False

    @property
    def threshold(self) -> Timestamp:
        """Reads below this timestamp are refused."""
        return self._threshold

    @property
    def horizon(self) -> Timestamp:
        """What any node may have removed by now lies below this; reads in the past keep above it.

        Another node's threshold counts too: a snapshot that it sent lacks what it had removed."""
        oldest = self._clock.now() - self._ttl + (self._clock.max_offset_us << COUNTER_BITS)
        return max(self._threshold, oldest)

    def start(self) -> None:
        self._scheduler.spawn(self._run(), "garbage")

    def stop(self) -> None:
        self._stopped = True

    def note_all(self, writes: list[Write], write: Callable[[Write], None]) -> None:
        """A command is being applied; ``write`` is called with the deletes of what it makes garbage.

        Bulk writes are left to the background pass: they would only drive the hot keys out of memory."""
        self._writes += 1
        if len(writes) <= MAX_NOTED_WRITES:
            for space, engine_key, _ in writes:
                if space == _VERSIONS:
                    self.note(engine_key, write)

    def note(self, engine_key: bytes, write: Callable[[Write], None]) -> None:
        """A version was written; ``write`` is called with deletes of those of its key that are garbage by now."""
        key = engine_key[:-8]
        versions = self._hot.get(key)
        if versions is None:
            self._hot[key] = deque((engine_key,))
            if len(self._hot) > MAX_HOT_KEYS:
                self._hot.popitem(last=False)
            return
        versions.append(engine_key)
        if len(versions) < 3 or _age(versions[1], engine_key) < self._ttl:
            return
        self._raise_threshold()
        for _ in range(MAX_REMOVED_PER_WRITE):
            if len(versions) < 2 or mvcc.split_version(versions[1])[1] > self._threshold:
                break
            write((_VERSIONS, versions.popleft(), None))
            self.removed += 1

    def _raise_threshold(self) -> None:
        self._threshold = max(self._threshold, self._clock.now() - self._ttl)

    async def _run(self) -> None:
        while not self._stopped:
            await sleep(self._scheduler, PASS_INTERVAL_NS)
            if self._writes != self._collected_writes and not self._stopped:
                self._collected_writes = self._writes
                await self.collect()

    async def collect(self) -> int:
        """One pass over everything on this node; returns how many versions it removed."""
        self._raise_threshold()
        before = self.removed
        start: bytes | None = KEY_MIN
        while start is not None and not self._stopped:
            batch = WriteBatch()
            result = mvcc.collect_garbage(self._engine.latest(), batch, start, KEY_MAX, self._threshold, SLICE_VERSIONS)
            if len(batch):
                self.removed += result.removed
                if await self._write(batch) is not None:
                    break  # a full disk: the next pass tries again
            start = result.resume
            await sleep(self._scheduler, SLICE_INTERVAL_NS)
        if self.removed != before:
            self._collected_writes = -1  # there was something: look again, for more may have come of age
        return self.removed - before

    async def _write(self, batch: WriteBatch) -> StorageError | None:
        done: Completion[StorageError | None] = Completion()
        self._committer.submit(batch, done.set)
        return await done


def _age(engine_key: bytes, younger: bytes) -> Timestamp:
    """How much younger another version is."""
    return int.from_bytes(engine_key[-8:], "big") - int.from_bytes(younger[-8:], "big")
