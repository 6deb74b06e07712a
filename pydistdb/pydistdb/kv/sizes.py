"""How large each range is: keys, bytes, a checksum of what can be read, and where its middle lies.

Nothing is counted while rows are written.  Whoever asks has the node go through the replica in slices of ``SLICE_KEYS``
(half a millisecond each, others run in between), and the answer is kept:

* as long as nothing was applied to the replica, it is exact;
* else it serves for ``RESCAN_FACTOR`` times as long as it took to make: asking in a loop costs two per cent of the node.

Example: a million rows take half a second, so their size is at most 25 s old.

Live rows count, newest versions only: what a collection of garbage removes (each node's own business) changes neither size
nor checksum.  Two replicas that have applied the same entries of the log must have equal checksums; if something was
applied while a replica was gone through, the checksum says nothing, and is None.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple
from zlib import crc32

from pydistdb_storage import mvcc

from pydistdb.kv.descriptor import RangeId
from pydistdb.kv.multiraft import MultiRaft
from pydistdb.kv.replica import Replica
from pydistdb.tasks import Completion, give_way

SLICE_KEYS = 1_000
SLICE_NS = 1_500_000
"""What a slice takes, roughly."""
RESCAN_FACTOR = 50
LEAST_AGE_NS = 1_000_000_000
MOST_SAMPLES = 4_096


class RangeSize(NamedTuple):
    """``middle``: the key that has about half of the bytes before it (empty: there are not two keys).  ``duration_ns``: the
    time that measuring took, without that in which others had their turn."""

    keys: int
    size_bytes: int
    checksum: int | None
    middle: bytes
    applied_index: int
    generation: int
    measured_ns: int
    duration_ns: int


class _Samples:
    """Keys at even distances in bytes, at most ``MOST_SAMPLES``: the distance doubles when they become too many."""

    def __init__(self) -> None:
        self._keys: list[tuple[int, bytes]] = []
        self._distance = 1
        self._next = 1

    def add(self, bytes_before: int, key: bytes) -> None:
        if bytes_before < self._next:
            return
        self._keys.append((bytes_before, key))
        if len(self._keys) >= MOST_SAMPLES:
            del self._keys[::2]
            self._distance *= 2
        self._next = bytes_before + self._distance

    def middle(self, total: int) -> bytes:
        if not self._keys:
            return b""
        return min(self._keys, key=lambda sample: abs(2 * sample[0] - total))[1]


class RangeSizes:
    """One node's replicas, measured on request."""

    def __init__(self, store: MultiRaft) -> None:
        self._store = store
        self._known: dict[RangeId, RangeSize] = {}
        self._running: Completion[None] | None = None

    def known(self, range_id: RangeId) -> RangeSize | None:
        """What was measured last."""
        return self._known.get(range_id)

    async def refresh(self, replicas: Iterable[Replica], *, exact: bool = False) -> None:
        """Measure those whose sizes are out of date; ``exact`` puts up with no change since."""
        while self._running is not None:
            await self._running
            if not exact:
                return  # the pass that was under way will do
        running = self._running = Completion()
        try:
            for replica in list(replicas):
                if replica.is_initialized and replica.is_stored and not self._is_fresh(replica, exact):
                    await self._measure(replica)
            alive = self._store.replicas
            for range_id in [range_id for range_id in self._known if range_id not in alive]:
                del self._known[range_id]
        finally:
            self._running = None
            running.set(None)

    def _is_fresh(self, replica: Replica, exact: bool) -> bool:
        size = self._known.get(replica.range_id)
        if size is None or size.generation != replica.descriptor.generation:
            return False
        if size.applied_index == replica.applied_index and size.checksum is not None:
            return True
        age = self._store.scheduler.now_ns() - size.measured_ns
        return not exact and age < max(LEAST_AGE_NS, RESCAN_FACTOR * size.duration_ns)

    async def _measure(self, replica: Replica) -> None:
        store, descriptor = self._store, replica.descriptor
        applied = replica.applied_index
        keys = size = checksum = spent_ns = 0
        samples = _Samples()
        position: bytes | None = descriptor.start
        while position is not None and not store.stopped and not replica.destroyed:
            slice_ns = store.scheduler.now_ns()
            view = store.engine.latest()
            found = mvcc.scan(view, position, descriptor.end, mvcc.MAX_TIMESTAMP, SLICE_KEYS, max_bytes=1 << 20)
            for key, value in zip(found.keys, found.values, strict=True):
                samples.add(size, key)
                size += len(key) + len(value) + mvcc.VERSION_BYTES
                checksum = crc32(value, crc32(key, checksum))
            keys += len(found.keys)
            position = found.resume
            spent_ns += store.scheduler.now_ns() - slice_ns
            await give_way(store.scheduler, SLICE_NS)
        now_ns = store.scheduler.now_ns()
        unchanged = replica.applied_index == applied and replica.descriptor is descriptor
        self._known[replica.range_id] = RangeSize(
            keys,
            size,
            checksum if unchanged else None,
            samples.middle(size),
            applied,
            descriptor.generation,
            now_ns,
            spent_ns,
        )
