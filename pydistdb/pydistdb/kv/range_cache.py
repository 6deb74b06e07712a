"""What a node remembers of where ranges lie: descriptors and leaders, perhaps stale (router.py says how that is found out).

The spans it holds never overlap; a newer generation of a range wins over an older one, and anything newly seen over what
it overlaps::

    [a, m) of range 7, [m, z) of range 9     insert(range 7 [a, f), newer)     →  [a, f) of 7, [m, z) of 9; [f, m) unknown
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from pydistdb.kv.descriptor import (
    NodeId,
    RangeDescriptor,
)

MAX_CACHED_RANGES = 100_000


class CachedRange:
    """A descriptor and who led it last (0: unknown)."""

    __slots__ = ("descriptor", "leader")

    def __init__(self, descriptor: RangeDescriptor, leader: NodeId = 0) -> None:
        self.descriptor = descriptor
        self.leader = leader


class RangeCache:
    """Descriptors by the end of their range, without overlaps: the newer generation wins."""

    def __init__(self) -> None:
        self._ends: list[bytes] = []
        self._ranges: list[CachedRange] = []

    def find(self, key: bytes) -> CachedRange | None:
        """The range around ``key``."""
        position = bisect_right(self._ends, key)
        if position < len(self._ends) and self._ranges[position].descriptor.start <= key:
            return self._ranges[position]
        return None

    def find_before(self, end: bytes) -> CachedRange | None:
        """The range that holds the keys just below ``end``."""
        position = bisect_left(self._ends, end)
        if position < len(self._ends) and self._ranges[position].descriptor.start < end:
            return self._ranges[position]
        return None

    def insert(self, descriptor: RangeDescriptor, leader: NodeId = 0) -> CachedRange:
        """Take a descriptor in; older ones that it overlaps go."""
        first = bisect_right(self._ends, descriptor.start)
        last = first
        while last < len(self._ends) and self._ranges[last].descriptor.start < descriptor.end:
            last += 1
        for known in self._ranges[first:last]:
            if known.descriptor.range_id == descriptor.range_id and known.descriptor.generation > descriptor.generation:
                return CachedRange(descriptor, leader)
            if known.descriptor == descriptor:
                known.leader = leader or known.leader
                return known
        entry = CachedRange(descriptor, leader)
        self._ends[first:last] = [descriptor.end]
        self._ranges[first:last] = [entry]
        if len(self._ends) > MAX_CACHED_RANGES:
            del self._ends[0], self._ranges[0]
        return entry

    def drop(self, key: bytes) -> None:
        """Forget the range around ``key``."""
        position = bisect_right(self._ends, key)
        if position < len(self._ends) and self._ranges[position].descriptor.start <= key:
            del self._ends[position], self._ranges[position]
