"""Where to cut a busy range: the keys of its requests, sampled, tell.

A range below the rate at which it would be split is not sampled; above it, each request passes a test of one attribute, and
one in seven is noted.  The cut that divides the samples most evenly is best, if it divides them at all::

    a a b c c d d e     → at c: 3 before, 5 from there on
    a a a a a a a b     → at b: 7 before, 1: no good.  One key, or colocated rows, get it all: that cannot be split

Cuts are made between rows, and never between rows that are colocated (``boundary``).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable

SAMPLES = 256
ONE_IN = 7
LEAST_SAMPLES = 64
LEAST_PART = 0.25
"""A cut must leave so much of the load on either side."""


class KeySampler:
    """The last ``SAMPLES`` of one in ``ONE_IN`` keys; about 60 ns a request."""

    __slots__ = ("_count", "_keys")

    def __init__(self) -> None:
        self._count = 0
        self._keys: list[bytes] = []

    def note(self, key: bytes) -> None:
        self._count = count = self._count + 1
        if count % ONE_IN == 0:
            keys = self._keys
            if len(keys) < SAMPLES:
                keys.append(key)
            else:
                keys[count // ONE_IN % SAMPLES] = key

    def keys(self) -> list[bytes]:
        return list(self._keys)


def split_point(keys: list[bytes], start: bytes, boundary: Callable[[bytes], bytes]) -> bytes | None:
    """The best boundary above ``start``; None if the load cannot be divided."""
    if len(keys) < LEAST_SAMPLES:
        return None
    cut = sorted(map(boundary, keys))
    best, part = None, LEAST_PART * len(cut)
    for candidate in sorted(set(cut)):
        left = bisect_left(cut, candidate)
        if candidate > start and min(left, len(cut) - left) >= part:
            best, part = candidate, min(left, len(cut) - left) + 0.5
    return best


def hot_key(keys: list[bytes], boundary: Callable[[bytes], bytes]) -> bytes:
    """The key, or the head of colocated rows, that gets most of the requests."""
    return Counter(map(boundary, keys)).most_common(1)[0][0] if keys else b""
