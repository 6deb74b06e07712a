"""The engine interface: ordered byte keys in a few named spaces, snapshots, atomic durable batches.

One writer, many readers.  ``apply`` makes a ``WriteBatch`` durable and visible as one unit; the server calls it from
its commit thread with everything that was waiting (group commit).  ``latest`` is the hot path of point reads: a view
that the engine keeps open between commits, so a read costs one seek and no transaction begin.

Spaces (each is one LMDB database):

* ``VERSIONS``  ``key ‖ ~timestamp`` → value; the committed versions of every range (see mvcc.py).
* ``INTENTS``   ``key`` → provisional value of a prepared transaction.
* ``LOG``       ``range id (8) ‖ index (8)`` → Raft log entry.
* ``STATE``     replica state (hard state, applied index, descriptor), node identity, store version.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple, Protocol


class Space(IntEnum):
    VERSIONS = 0
    INTENTS = 1
    LOG = 2
    STATE = 3


MAX_KEY_BYTES = 511
"""LMDB's limit, the version suffix included."""
MOST_SEEKS = 2_000
"""Some 2 ms."""


class WriteBatch:
    """Writes that become durable and visible together.

    ``operations`` is applied in order; each item is ``(space, key, value)``, with None as value for a delete, or
    ``(space, start, end)`` in ``cleared`` (applied before the operations) for "delete every key in [start, end)".
    """

    __slots__ = ("cleared", "operations")

    def __init__(self) -> None:
        self.operations: list[tuple[Space, bytes, bytes | None]] = []
        self.cleared: list[tuple[Space, bytes, bytes]] = []

    def put(self, space: Space, key: bytes, value: bytes) -> None:
        self.operations.append((space, key, value))

    def delete(self, space: Space, key: bytes) -> None:
        self.operations.append((space, key, None))

    def clear_range(self, space: Space, start: bytes, end: bytes) -> None:
        self.cleared.append((space, start, end))

    def __len__(self) -> int:
        return len(self.operations) + len(self.cleared)


class Picks(NamedTuple):
    """What of a span its reader has a use for: keys with one of ``marks`` (rising, of one length) at ``place``.

    Tables that share buckets have their rows in turns, and a reader of a small one need not look at all the others'::

        bucket 7   u1 o1 o2 o3 …   bucket 8   o4 o5 …   bucket 9   u2 o6 …        marks (u,): u1 and u2, by two seeks"""

    place: int
    marks: tuple[bytes, ...]


class Picking:
    """Picks at work in one scan, which ends after MOST_SEEKS of them at ``stopped_at``: whoever reads has others to serve."""

    __slots__ = ("picks", "seeks_left", "stopped_at")

    def __init__(self, picks: Picks) -> None:
        self.picks = picks
        self.seeks_left = MOST_SEEKS
        self.stopped_at: bytes | None = None


class Snapshot(Protocol):
    """A consistent view of the store."""

    def get(self, space: Space, key: bytes) -> bytes | None:
        """Return the value at ``key``, None if there is none."""

    def version(self, key: bytes, inverted: bytes) -> tuple[bytes, bytes] | None:
        """Return the entry of VERSIONS at or after ``key ‖ inverted`` (8 bytes), None if that is not one of ``key``."""

    def seek(self, space: Space, key: bytes) -> tuple[bytes, bytes] | None:
        """Return the first entry at or after ``key``, None past the end."""

    def scan(
        self, space: Space, start: bytes, end: bytes, *, reverse: bool = False, picking: Picking | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield the entries in [start, end) in order (from the end down if ``reverse``).

        What ``picking`` has no use for may be left out, and what lies behind the key that it is stopped at is."""

    def close(self) -> None:
        """Let go of the view; a closed snapshot must not be used."""


class Engine(Protocol):
    """One node's store."""

    def latest(self) -> Snapshot:
        """Return a view of the newest commit, valid until this thread next waits; the engine closes it."""

    def snapshot(self) -> Snapshot:
        """Open a view that stays valid across commits; the caller closes it (at most MAX_SNAPSHOTS at once)."""

    def apply(self, batches: list[WriteBatch]) -> None:
        """Write all batches durably as one unit; raises StoreFull, StoreReadOnly or StoreCorrupt."""

    def size_bytes(self) -> int:
        """Return the bytes in use."""

    def is_behind(self) -> bool:
        """Tell whether so much waits to be put in order that whoever can wait should: before long every writer must."""

    def close(self) -> None:
        """Close the store; open snapshots become invalid."""
