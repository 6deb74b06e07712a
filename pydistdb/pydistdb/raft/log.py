"""The log of one node: what is on disk, what is on its way there, and how far it is committed and applied.

Theory of operation
-------------------
Recent entries are kept in memory (``_entries``, from index ``_offset``); everything older is read back from LogStorage.
Five indexes walk up the log, each never above the one it follows:

    applied ≤ applying ≤ committed ≤ last_index      what the state machine has done / has been given / may be given
    stable ≤ writing ≤ last_index                    what is durable / has been handed out in a Ready

and ``stable`` is independent of ``committed``: a leader may learn from others that an entry is committed before its own
disk has it.  (With a single voter, ``applying`` may be ahead of ``committed``: see Ready.committed_on_persist.)

An entry leaves memory when it is stable and applied, oldest first, once the cache is over its limit::

    storage: 1 2 3 4 5 6 7          _offset = 5, stable = 7, writing = 8
    memory:          5 6 7 8 9      committed = 6, last_index = 9

A conflicting append (a new leader overwrites what was never committed) cuts the tail; ``stable`` and ``writing`` fall
back, and the next Ready's entries tell the store where to cut.
"""

from __future__ import annotations

from typing import Final

from .errors import Compacted
from .messages import MEMBERSHIP, Entry, SnapshotMeta
from .storage import LogStorage

ENTRY_OVERHEAD_BYTES: Final = 64
"""What an entry costs in memory beside its data, about."""


class RaftLog:
    __slots__ = (
        "_before_term",
        "_cached_bytes",
        "_entries",
        "_floor",
        "_max_cached_bytes",
        "_offset",
        "_storage",
        "applied",
        "applying",
        "committed",
        "last_index",
        "last_term",
        "stable",
        "writing",
    )

    def __init__(self, storage: LogStorage, committed: int, applied: int, max_cached_bytes: int) -> None:
        last = storage.last_index()
        assert applied <= last, "the store has applied entries that its log does not know"
        self._storage = storage
        self._entries: list[Entry] = []
        self._offset = last + 1
        self._before_term = self.last_term = storage.term(last)
        self._floor = 0  # nothing below may be read from storage: a snapshot not yet installed replaces it
        self._cached_bytes = 0
        self._max_cached_bytes = max_cached_bytes
        self.last_index = self.stable = self.writing = last
        self.committed = min(max(committed, applied), last)
        self.applied = self.applying = applied

    # ---- reading

    def term(self, index: int) -> int:
        """The term of the entry at ``index`` (0 for index 0); raises Compacted if that part is gone."""
        position = index - self._offset
        if position >= 0:
            return self._entries[position].term
        if position == -1:
            return self._before_term
        if index == 0:
            return 0
        if index < self._floor:
            raise Compacted(index)
        return self._storage.term(index)

    def matches(self, index: int, term: int) -> bool:
        """Whether the log has an entry of ``term`` at ``index``."""
        if index > self.last_index:
            return False
        try:
            return self.term(index) == term
        except Compacted:
            return False

    def is_behind(self, index: int, term: int) -> bool:
        """Whether a log that ends with (index, term) is at least as up to date as this one (Raft paper §5.4.1)."""
        return term > self.last_term or (term == self.last_term and index >= self.last_index)

    def slice(self, low: int, high: int, max_bytes: int) -> list[Entry]:
        """Entries in [low, high): at least one if there is any, then no more than ``max_bytes`` of data.

        Stops short where memory takes over from storage.  Raises Compacted.
        """
        if low >= high:
            return []
        offset = self._offset
        if low < offset:
            if low <= self._floor:
                raise Compacted(low)
            return self._storage.entries(low, min(high, offset), max_bytes)
        entries = self._entries[low - offset : high - offset]
        if self._cached_bytes > max_bytes:
            total = 0
            for count, entry in enumerate(entries):
                total += len(entry.data)
                if total > max_bytes and count:
                    return entries[:count]
        return entries

    def conflict_hint(self, index: int, term: int) -> tuple[int, int]:
        """The largest index ≤ ``index`` whose entry's term is ≤ ``term``, and that term (0 if it is not known).

        Follower and leader both use it to jump over whole terms that cannot match (Raft paper §5.3, end).
        """
        try:
            while index > 0 and (found := self.term(index)) > term:
                index -= 1
            return (index, found) if index > 0 else (0, 0)
        except Compacted:
            return index, 0

    def has_membership_entry(self, low: int, high: int) -> bool:
        """Whether there is a membership change in [low, high)."""
        while low < high:
            entries = self.slice(low, high, 1 << 20)
            if any(entry.kind == MEMBERSHIP for entry in entries):
                return True
            low += len(entries)
        return False

    # ---- growing

    def append(self, entry: Entry) -> None:
        """Add what a leader proposes."""
        self._entries.append(entry)
        self._cached_bytes += len(entry.data) + ENTRY_OVERHEAD_BYTES
        self.last_index = entry.index
        self.last_term = entry.term

    def accept(self, entries: list[Entry]) -> None:
        """Add what a leader sent, after the consistency check: skips what is there, cuts off what conflicts."""
        first = entries[0].index
        if first <= self.last_index:
            skip = 0
            for entry in entries:
                if entry.index > self.last_index or self.term(entry.index) != entry.term:
                    break
                skip += 1
            if skip == len(entries):
                return
            if skip:
                entries = entries[skip:]
            first = entries[0].index
            if first <= self.last_index:
                assert first > self.committed, "a leader overwrites a committed entry"
                self._cut(first)
        size = 0
        for entry in entries:
            size += len(entry.data)
        self._cached_bytes += size + ENTRY_OVERHEAD_BYTES * len(entries)
        self._entries += entries
        last = entries[-1]
        self.last_index = last.index
        self.last_term = last.term

    def _cut(self, first: int) -> None:
        """Drop everything from ``first`` on."""
        keep = first - self._offset
        if keep < 0:
            self._before_term = self.term(first - 1)
            self._offset = first
            keep = 0
        for entry in self._entries[keep:]:
            self._cached_bytes -= len(entry.data) + ENTRY_OVERHEAD_BYTES
        del self._entries[keep:]
        self.last_index = first - 1
        self.last_term = self.term(first - 1)
        self.stable = min(self.stable, first - 1)
        self.writing = min(self.writing, first - 1)

    def restore(self, meta: SnapshotMeta) -> None:
        """Begin anew behind a snapshot, which the next Ready hands out."""
        self._entries = []
        self._cached_bytes = 0
        self._offset = meta.index + 1
        self._floor = meta.index
        self._before_term = self.last_term = meta.term
        self.last_index = self.writing = self.committed = self.applying = meta.index

    # ---- progress

    @property
    def is_snapshot_pending(self) -> bool:
        """Whether a snapshot has been handed out but is not installed yet."""
        return self.applied < self._floor

    def take_unwritten(self) -> list[Entry]:
        """Entries not yet handed out for writing."""
        entries = self._entries[self.writing + 1 - self._offset :]
        self.writing = self.last_index
        return entries

    def mark_stable(self, index: int, term: int) -> bool:
        """Note that the log is durable up to ``index``, unless a conflict or a snapshot has replaced that entry since."""
        if not max(self.stable + 1, self._offset - 1) <= index <= self.writing or self.term(index) != term:
            return False
        self.stable = index
        return True

    def commit_to(self, index: int) -> None:
        if index > self.committed:
            assert index <= self.last_index, "committed past the end of the log"
            self.committed = index

    def take_committed(self, limit: int, max_bytes: int) -> list[Entry]:
        """Entries up to ``limit`` that the state machine has not been given yet."""
        entries = self.slice(self.applying + 1, limit + 1, max_bytes)
        if entries:
            self.applying = entries[-1].index
        return entries

    def mark_applied(self, index: int) -> None:
        assert index <= self.applying, "applied what was not handed out"
        if index > self.applied:
            self.applied = index
            if self._cached_bytes > self._max_cached_bytes:
                self.trim(self._max_cached_bytes // 2)

    def trim(self, max_bytes: int) -> None:
        """Forget stable, applied entries until at most ``max_bytes`` are cached."""
        most = min(self.stable, self.applied) + 1 - self._offset
        size = self._cached_bytes
        count = 0
        entries = self._entries
        while count < most and size > max_bytes:
            size -= len(entries[count].data) + ENTRY_OVERHEAD_BYTES
            count += 1
        if count:
            self._before_term = entries[count - 1].term
            self._offset += count
            self._cached_bytes = size
            del entries[:count]
