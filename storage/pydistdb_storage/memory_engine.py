"""Engines for tests: the same contract in memory, and a mirror that runs two engines and compares every answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from sortedcontainers import SortedDict

from pydistdb_storage.engine import Engine, Picking, Snapshot, Space, WriteBatch

T = TypeVar("T")


class MemorySnapshot:
    """A view of some sorted dictionaries (live for ``latest``, copied for ``snapshot``)."""

    def __init__(self, spaces: list[SortedDict]) -> None:
        self._spaces = spaces

    def get(self, space: Space, key: bytes) -> bytes | None:
        value: bytes | None = self._spaces[space].get(key)
        return value

    def version(self, key: bytes, inverted: bytes) -> tuple[bytes, bytes] | None:
        entry = self.seek(Space.VERSIONS, key + inverted)
        return entry if entry is not None and entry[0][:-8] == key else None

    def seek(self, space: Space, key: bytes) -> tuple[bytes, bytes] | None:
        entries = self._spaces[space]
        position = entries.bisect_left(key)
        if position == len(entries):
            return None
        found: tuple[bytes, bytes] = entries.peekitem(position)
        return found

    def scan(
        self, space: Space, start: bytes, end: bytes, *, reverse: bool = False, picking: Picking | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        entries = self._spaces[space]
        for key in list(entries.irange(start, end, inclusive=(True, False), reverse=reverse)):
            yield key, entries[key]

    def close(self) -> None:
        pass


class MemoryEngine:
    """Sorted dictionaries; "durable" as soon as applied."""

    def __init__(self) -> None:
        self._spaces: list[SortedDict] = [SortedDict() for _ in Space]

    def latest(self) -> Snapshot:
        return MemorySnapshot(self._spaces)

    def snapshot(self) -> Snapshot:
        return MemorySnapshot([space.copy() for space in self._spaces])

    def apply(self, batches: list[WriteBatch]) -> None:
        for batch in batches:
            for space, start, end in batch.cleared:
                entries = self._spaces[space]
                for key in list(entries.irange(start, end, inclusive=(True, False))):
                    del entries[key]
            for space, key, value in batch.operations:
                if value is None:
                    self._spaces[space].pop(key, None)
                else:
                    self._spaces[space][key] = value

    def is_behind(self) -> bool:
        return False

    def size_bytes(self) -> int:
        return sum(len(key) + len(value) for space in self._spaces for key, value in space.items())

    def close(self) -> None:
        pass


class MirrorSnapshot:
    """Two snapshots that must agree."""

    def __init__(self, first: Snapshot, second: Snapshot) -> None:
        self._first = first
        self._second = second

    def get(self, space: Space, key: bytes) -> bytes | None:
        return _same(self._first.get(space, key), self._second.get(space, key))

    def version(self, key: bytes, inverted: bytes) -> tuple[bytes, bytes] | None:
        return _same(self._first.version(key, inverted), self._second.version(key, inverted))

    def seek(self, space: Space, key: bytes) -> tuple[bytes, bytes] | None:
        return _same(self._first.seek(space, key), self._second.seek(space, key))

    def scan(
        self, space: Space, start: bytes, end: bytes, *, reverse: bool = False, picking: Picking | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        first = list(self._first.scan(space, start, end, reverse=reverse))
        return iter(_same(first, list(self._second.scan(space, start, end, reverse=reverse))))

    def close(self) -> None:
        self._first.close()
        self._second.close()


class MirrorEngine:
    """Runs every call on two engines and asserts that their answers are the same."""

    def __init__(self, first: Engine, second: Engine) -> None:
        self._first = first
        self._second = second

    def latest(self) -> Snapshot:
        return MirrorSnapshot(self._first.latest(), self._second.latest())

    def snapshot(self) -> Snapshot:
        return MirrorSnapshot(self._first.snapshot(), self._second.snapshot())

    def apply(self, batches: list[WriteBatch]) -> None:
        self._first.apply(batches)
        self._second.apply(batches)

    def is_behind(self) -> bool:
        return False

    def size_bytes(self) -> int:
        return self._first.size_bytes()

    def close(self) -> None:
        self._first.close()
        self._second.close()


def _same(first: T, second: T) -> T:
    assert first == second, f"engines disagree: {first!r} and {second!r}"
    return first
