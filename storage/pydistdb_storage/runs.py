"""Runs: many keys of one record, in order, kept as two lists instead of a dictionary entry each.

A load of a million rows brings records of some thousand new keys; then its intents are deleted and its versions put, again
by the thousand and in order.  A layer keeps such a record's part as it is.  Runs do not overlap: one that would is refused,
unless it says something new of just the keys of a stretch that is here, as the deletion of intents does::

    add  [k1 k2 k3 k4] = [a b c d]     one run
    add  [k2 k3] = [None None]         the same run, k2 and k3 deleted now
    add  [k0 k2] = …                   refused: the layer takes them one by one

A scan asks what lies below for a run's span once; as a rule there is nothing, and the rest is a ``zip``.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from itertools import chain, islice
from operator import lt
from typing import Any

Entry = tuple[bytes, bytes]
Below = Callable[[bytes, bytes], Iterator[Entry]]

ABSENT: Any = object()
"""Instead of a value: nothing is known here."""


class _Run:
    __slots__ = ("keys", "values")

    def __init__(self, keys: list[bytes], values: list[bytes | None]) -> None:
        self.keys = keys
        self.values = values


class Runs(list[_Run]):
    """The runs of one space of a layer, by their keys."""

    __slots__ = ()

    def add(self, keys: list[bytes], values: list[bytes | None]) -> bool:
        """Take a run in; False if the keys do not rise, or touch another run without being a stretch of it."""
        if not all(map(lt, keys, islice(keys, 1, None))):
            return False
        place = bisect_right(self, keys[0], key=_first)
        if place and self[place - 1].keys[-1] >= keys[0]:
            run = self[place - 1]
            start = bisect_left(run.keys, keys[0])
            if run.keys[start : start + len(keys)] != keys:
                return False
            run.values[start : start + len(keys)] = values
        elif place < len(self) and self[place].keys[0] <= keys[-1]:
            return False
        else:
            self.insert(place, _Run(keys, values))
        return True

    def look_up(self, key: bytes) -> bytes | None:
        """The value at ``key``, None if it was deleted, ABSENT if no run has it."""
        place = bisect_right(self, key, key=_first)
        if place:
            run = self[place - 1]
            position = bisect_left(run.keys, key)
            if position < len(run.keys) and run.keys[position] == key:
                return run.values[position]
        return ABSENT  # type: ignore[no-any-return]

    def may_have(self, row: bytes) -> bool:
        """Whether versions of ``row`` (engine keys without their last 8 bytes) can be here: mostly they cannot."""
        return self[0].keys[0][:-8] <= row <= self[-1].keys[-1][:-8]

    def entries(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes | None]]:
        """What the runs say of the keys in [start, end), in order."""
        for run, first, last in self._parts(start, end):
            yield from zip(run.keys[first:last], run.values[first:last], strict=True)

    def cut(self, start: bytes, end: bytes) -> None:
        """Forget the keys in [start, end)."""
        for run, first, last in self._parts(start, end):
            place = self.index(run)
            outside = ((run.keys[:first], run.values[:first]), (run.keys[last:], run.values[last:]))
            self[place : place + 1] = [_Run(*part) for part in outside if part[0]]

    def scan_over(self, below: Below, start: bytes, end: bytes, *, reverse: bool) -> Iterator[Entry]:
        """The entries of [start, end), where ``below`` gives those that lie below, in the same direction."""
        parts = self._parts(start, end)
        if reverse:
            for run, first, last in reversed(parts):
                after = run.keys[last - 1] + b"\0"
                if after < end:
                    yield from below(after, end)
                end = run.keys[first]
                yield from _over(run, first, last, below(end, after), reverse=True)
        else:
            for run, first, last in parts:
                if start < run.keys[first]:
                    yield from below(start, run.keys[first])
                start = run.keys[last - 1] + b"\0"
                yield from _over(run, first, last, below(run.keys[first], start), reverse=False)
        if start < end:
            yield from below(start, end)

    def _parts(self, start: bytes, end: bytes) -> list[tuple[_Run, int, int]]:
        """The runs with keys in [start, end), and where in them those begin and end."""
        parts = []
        for place in range(max(bisect_right(self, start, key=_first) - 1, 0), bisect_left(self, end, key=_first)):
            keys = self[place].keys
            first, last = bisect_left(keys, start), bisect_left(keys, end)
            if first < last:
                parts.append((self[place], first, last))
        return parts


def _first(run: _Run) -> bytes:
    return run.keys[0]


def _over(run: _Run, first: int, last: int, below: Iterator[Entry], *, reverse: bool) -> Iterator[Entry]:
    """A stretch of a run over what lies below its span."""
    keys, values = run.keys[first:last], run.values[first:last]
    if reverse:
        keys.reverse()
        values.reverse()
    entry = next(below, None)
    if entry is None:
        pairs = zip(keys, values, strict=True)
        yield from (pair for pair in pairs if pair[1] is not None) if None in values else pairs  # type: ignore[misc]
    else:
        rest = iter(keys)
        yield from merged(
            next(rest), rest, dict(zip(keys, values, strict=True)), chain((entry,), below), reverse=reverse
        )


def merged(
    first: bytes, keys: Iterator[bytes], values: dict[bytes, bytes | None], below: Iterator[Entry], *, reverse: bool
) -> Iterator[Entry]:
    key: bytes | None = first
    while key is not None:
        for entry in below:
            found = entry[0]
            while key is not None and (key > found if reverse else key < found):
                value = values[key]
                if value is not None:
                    yield key, value
                key = next(keys, None)
            if key == found:
                value = values[key]
                if value is not None:
                    yield key, value
                key = next(keys, None)
            else:
                yield entry
            if key is None:
                yield from below
                return
        while key is not None:
            value = values[key]
            if value is not None:
                yield key, value
            key = next(keys, None)
