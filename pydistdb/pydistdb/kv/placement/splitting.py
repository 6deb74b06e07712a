"""Where to cut a busy range: the keys of its requests, sampled, tell.

A range below the rate at which it would be split is not sampled; above it, each request passes a test of one attribute, and
at first all are noted, then every second one, every fourth and so on: one of four parts that 2,000 samples cut off is wrong by a
twentieth of its size, by 350 it would be an eighth.  The cut that divides the samples most evenly is best, if it divides
them at all::

    a a b c c d d e     → at c: 3 before, 5 from there on
    a a a a a a a b     → at b: 7 before, 1: no good.  One key, or colocated rows, get it all: that cannot be split

A range that is much too busy is cut into several equal parts at once: halves of halves would soon be of very different size,
since those that are not quite busy enough stay as they are.

Cuts are made between rows, and never between rows that are colocated (``boundary``).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable

SAMPLES = 2_048
LEAST_SAMPLES = 64
LEAST_PART = 0.5
"""Every part must have so much of a fair share of the load."""


class KeySampler:
    """At most ``SAMPLES`` keys, evenly chosen from all so far; about 60 ns a request."""

    __slots__ = ("_keys", "_skip", "_stride")

    def __init__(self) -> None:
        self._keys: list[bytes] = []
        self._skip = 0
        self._stride = 1

    def note(self, key: bytes) -> None:
        if self._skip:
            self._skip -= 1
            return
        self._skip = self._stride - 1
        keys = self._keys
        keys.append(key)
        if len(keys) >= SAMPLES:
            del keys[1::2]
            self._stride *= 2

    def keys(self) -> list[bytes]:
        return list(self._keys)


def split_points(keys: list[bytes], start: bytes, boundary: Callable[[bytes], bytes], parts: int = 2) -> list[bytes]:
    """The boundaries above ``start`` that divide the load into so many equal parts, or the fewer that can be; in order.

    Empty if the load cannot be divided."""
    if len(keys) < LEAST_SAMPLES:
        return []
    cut = sorted(map(boundary, keys))
    total, least = len(cut), LEAST_PART * len(cut) / parts
    candidates = [(bisect_left(cut, candidate), candidate) for candidate in sorted(set(cut)) if candidate > start]
    found: list[bytes] = []
    before = 0
    for part in range(1, parts):
        # None so near to the cut before it or to the end that it would leave too little.
        possible = [each for each in candidates if each[0] - before >= least and total - each[0] >= least]
        if not possible:
            break
        left, best = min(possible, key=lambda each: abs(each[0] * parts - part * total))
        if left * parts < (part + 1) * total - least * parts:  # else it is the next one's
            found.append(best)
            before = left
    return found or (split_points(keys, start, boundary, parts - 1) if parts > 2 else [])


def hot_key(keys: list[bytes], boundary: Callable[[bytes], bytes]) -> bytes:
    """The key, or the head of colocated rows, that gets most of the requests."""
    return Counter(map(boundary, keys)).most_common(1)[0][0] if keys else b""
