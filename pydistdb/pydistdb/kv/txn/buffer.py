"""A transaction's buffered writes: a dictionary, an order on demand, and an undo log once a savepoint asks for one.

    put a=1      insert b=2                 savepoint() → 0          (from here on every write logs what it covered)
    put a=3      delete b                   get b → deleted
    rollback_to(0)                          a=1, b=2 again
    forget_savepoints()                     (from here on nothing is logged)

``inserted`` holds the keys whose write expects no live value at commit.  Sorting happens when a scan wants the overlay:
the keys that are new by then stand at the end of ``entries``, and are merged in (Timsort merges two runs in linear time).
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import islice
from typing import NamedTuple

from pydistdb.kv.names import LeaseName

ENTRY_OVERHEAD_BYTES = 100
"""What an entry costs besides its key and value."""

_Undo = tuple[bytes, bool, bytes | None, bool]


class LockUndo(NamedTuple):
    """A key that was locked, or more strongly, and how it was locked before (``txn.base.Held``)."""

    key: bytes
    before: tuple[int, int, LeaseName] | None


class WriteBuffer:
    """Buffered writes by key; None as value is a delete."""

    __slots__ = ("_sorted", "entries", "inserted", "size_bytes", "undo")

    def __init__(self) -> None:
        self.entries: dict[bytes, bytes | None] = {}
        self.inserted: set[bytes] = set()
        self.size_bytes = 0
        self._sorted: list[bytes] = []
        """The first keys of ``entries``, in order."""
        self.undo: list[_Undo | LockUndo] | None = None
        """What was covered and locked since the first savepoint; None while there is none."""

    def copy(self) -> WriteBuffer:
        """The same writes, to be read while this buffer goes on."""
        copied = WriteBuffer()
        copied.entries = dict(self.entries)
        copied.inserted = set(self.inserted)
        copied.size_bytes = self.size_bytes
        return copied

    def write(self, key: bytes, value: bytes | None, insert: bool = False) -> None:
        """Buffer a write; about 0.4 µs."""
        entries = self.entries
        if self.undo is not None:
            self.undo.append((key, key in entries, entries.get(key), key in self.inserted))
        if key not in entries:
            self.size_bytes += len(key) + ENTRY_OVERHEAD_BYTES
        entries[key] = value
        if value is not None:
            self.size_bytes += len(value)
        if insert:
            self.inserted.add(key)

    def write_all(self, entries: dict[bytes, bytes]) -> None:
        """Buffer many writes; about 0.15 µs each where none was buffered before."""
        if self.undo is not None or not self.entries.keys().isdisjoint(entries):
            for key, value in entries.items():
                self.write(key, value)
            return
        self.size_bytes += (
            sum(map(len, entries)) + sum(map(len, entries.values())) + ENTRY_OVERHEAD_BYTES * len(entries)
        )
        self.entries.update(entries)

    def span(self, start: bytes, end: bytes, *, reverse: bool = False) -> list[tuple[bytes, bytes | None]]:
        """The buffered entries of [start, end) in scan order."""
        keys = self._sorted
        if len(keys) < len(self.entries):
            keys += islice(self.entries, len(keys), None)
            keys.sort()
        found = keys[bisect_left(keys, start) : bisect_left(keys, end)]
        if reverse:
            found.reverse()
        entries = self.entries
        return [(key, entries[key]) for key in found]

    @property
    def has_savepoint(self) -> bool:
        return self.undo is not None

    def savepoint(self) -> int:
        if self.undo is None:
            self.undo = []
        return len(self.undo)

    def forget_savepoints(self) -> None:
        """No mark is needed any more."""
        self.undo = None

    def note_lock(self, key: bytes, before: tuple[int, int, LeaseName] | None) -> None:
        """A key was locked since a savepoint."""
        assert self.undo is not None
        self.undo.append(LockUndo(key, before))

    def rollback_to(self, mark: int, *, release_locks: bool = False) -> list[LockUndo]:
        """Take the writes since ``mark`` back; returns the locks to give back, the latest first."""
        assert self.undo is not None, "rollback_to without a savepoint"
        resort = False
        locks: list[LockUndo] = []
        while len(self.undo) > mark:
            undo = self.undo.pop()
            if isinstance(undo, LockUndo):
                locks.append(undo)
                continue
            key, known, value, inserted = undo
            if known:
                self.entries[key] = value
            else:
                del self.entries[key]
                self.size_bytes -= len(key) + ENTRY_OVERHEAD_BYTES
                resort = True
            if not inserted:
                self.inserted.discard(key)
        if resort:
            self._sorted = []
        if release_locks:
            return locks
        self.undo.extend(reversed(locks))
        return []
