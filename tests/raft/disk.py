"""A disk for one Raft member: writes take effect in order, one Ready at a time, and only when they are synced.

``submit`` queues what a Ready wants written; ``sync`` makes the oldest queued write durable; a crash forgets the queue.
Reading (LogStorage) sees what is durable.  The state machine is the list of commands applied, kept here as well, since
a store applies in the same transaction that writes the log.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import msgspec
from pydistdb.raft import (
    NORMAL,
    Compacted,
    Entry,
    HardState,
    Membership,
    PeerId,
    Ready,
    SnapshotMeta,
)


class Image(msgspec.Struct, array_like=True):
    """What a snapshot carries: the commands applied so far, with their indexes."""

    commands: list[tuple[int, bytes]]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Image).decode


@dataclass
class Write:
    ready: Ready
    memberships: dict[int, Membership] = field(default_factory=dict)
    """Applied index → membership in force from there."""
    before_term: int = -1
    """Term of the entry before the first one; -1 if it is compacted."""


class Reader:
    """A SnapshotReader over an encoded image."""

    def __init__(self, meta: SnapshotMeta, data: bytes) -> None:
        self.meta = meta
        self._data = data
        self._position = 0
        self.closed = False

    def may_read(self) -> bool:
        return True

    def read(self, max_bytes: int) -> tuple[bytes, bool]:
        assert not self.closed
        chunk = self._data[self._position : self._position + max_bytes]
        self._position += len(chunk)
        return chunk, self._position == len(self._data)

    def close(self) -> None:
        self.closed = True


class Disk:
    def __init__(self, membership: Membership, skip_log: bool = False) -> None:
        self.hard_state = HardState()
        self.membership = membership
        # The founding members share a state that is not in the log, so their log begins behind index 1 (storage.py).
        self.applied = 1 if membership.voters else 0
        self.applied_term = 0
        self.commands: list[tuple[int, bytes]] = []
        self.first = self.applied + 1
        self.before_term = 0
        self.log: list[Entry] = []
        self.staged: list[bytes] = []
        self.queue: deque[Write] = deque()
        self.skip_log = skip_log
        self.snapshots_allowed = True
        self.snapshots_opened = 0

    # ---- LogStorage

    def initial_state(self) -> tuple[HardState, Membership, int]:
        return self.hard_state, self.membership, self.applied

    def first_index(self) -> int:
        return self.first

    def last_index(self) -> int:
        return self.first + len(self.log) - 1

    def term(self, index: int) -> int:
        if index == self.first - 1:
            return self.before_term
        if index < self.first:
            raise Compacted(index)
        return self.log[index - self.first].term

    def entries(self, low: int, high: int, max_bytes: int) -> list[Entry]:
        if low < self.first:
            raise Compacted(low)
        chosen: list[Entry] = []
        size = 0
        for entry in self.log[low - self.first : high - self.first]:
            size += len(entry.data)
            if chosen and size > max_bytes:
                break
            chosen.append(entry)
        return chosen

    def snapshot(self, to: PeerId) -> Reader | None:
        if not self.snapshots_allowed:
            return None
        self.snapshots_opened += 1
        meta = SnapshotMeta(self.applied, self.applied_term, self.membership)
        return Reader(meta, _encode(Image(self.commands)))

    # ---- writing

    def submit(self, write: Write) -> None:
        self.queue.append(write)

    def sync(self) -> Write:
        """Make the oldest queued write durable."""
        write = self.queue.popleft()
        ready = write.ready
        for chunk in ready.snapshot_chunks:
            if chunk.number == 0:
                self.staged = []
            self.staged.append(chunk.data)
        if ready.snapshot is not None:
            self._install(ready.snapshot)
        if ready.entries:
            self._append(ready.entries)
        if ready.hard_state is not None:
            self.hard_state = ready.hard_state
        for entry in ready.committed:
            self._apply(entry, write)
        if self.skip_log and ready.committed_on_persist and self.applied == self.last_index():
            self.compact(self.applied)
        return write

    def _install(self, meta: SnapshotMeta) -> None:
        self.commands = _decode(b"".join(self.staged)).commands
        self.staged = []
        self.applied, self.applied_term, self.membership = meta.index, meta.term, meta.membership
        self.log = []
        self.first, self.before_term = meta.index + 1, meta.term

    def _append(self, entries: list[Entry]) -> None:
        keep = entries[0].index - self.first
        assert 0 <= keep <= len(self.log), "a gap in the log"
        del self.log[keep:]
        self.log += entries

    def _apply(self, entry: Entry, write: Write) -> None:
        assert entry.index == self.applied + 1, "applied out of order"
        self.applied, self.applied_term = entry.index, entry.term
        if entry.kind == NORMAL and entry.data:
            self.commands.append((entry.index, entry.data))
        if entry.index in write.memberships:
            self.membership = write.memberships[entry.index]

    def compact(self, index: int) -> None:
        """Forget log entries up to ``index``, which must be applied."""
        assert index <= self.applied
        if index >= self.first:
            term = self.term(index)
            del self.log[: index + 1 - self.first]
            self.first, self.before_term = index + 1, term

    def crash(self) -> None:
        self.queue.clear()
        self.staged = []

    def set_log(self, terms: list[int]) -> None:
        """Start out with one entry per term given, from index 1."""
        self.applied, self.first, self.before_term = 0, 1, 0
        self.log = [Entry(index, term, NORMAL, b"%d" % index) for index, term in enumerate(terms, 1)]
