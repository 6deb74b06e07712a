"""A whole range in pieces: how a replica that is new, or too far behind, gets its state.

Raft decides when, and carries the chunks one by one, a bounded number in flight, sending again what got lost
(pydistdb.raft.snapshots).  This module says what is in them, keeps them safe until the last one is there, and installs
them as one step:

    sender     engine snapshot at applied index i: descriptor, then VERSIONS and INTENTS of the span, then the range's
               transaction records and outcomes; each chunk is crc32 ‖ msgpack, refused by the receiver if it does not check
    receiver   every chunk is stored as it came, under STATE "stage/" range ‖ number
    install    1. state.installing = number of chunks, durable: from here on there is no way back
               2. clear the old span and the new one, write the chunks' contents, a few chunks per engine batch
               3. one batch: new descriptor, replica state at i, stage and log removed

How fast chunks are read is up to the sender's node (``SnapshotBudget``; settings ``snapshot.bytes_per_second`` and
``snapshot.cpu_percent``): repairs and moves must not get into the way of statements.

A crash before 1 leaves the old state and a stage that is thrown away; a crash after it is repaired at start by doing 2
and 3 (again).  Memory holds a few chunks at a time, whatever the size of the range.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator, Iterator
from math import inf
from typing import TypeVar

import msgspec
from pydistdb_storage.engine import Snapshot, Space, WriteBatch
from pydistdb_storage.keys import prefix_end

from pydistdb import raft
from pydistdb.kv.api import Timestamp
from pydistdb.kv.command import transaction_prefix
from pydistdb.kv.descriptor import RangeDescriptor, RangeId
from pydistdb.kv.outcomes import outcome_span

T = TypeVar("T")

STAGE_PREFIX = b"stage/"
INSTALL_BATCH_CHUNKS = 4
BURST_SECONDS = 0.25
"""Longer than Raft takes to ask again (a tick), so that no rate is lost."""


class SnapshotChunk(msgspec.Struct, array_like=True):
    """One piece.  Piece 0 names the descriptor and the range's clock (and the rows that fit)."""

    descriptor: RangeDescriptor | None
    rows: list[tuple[int, bytes, bytes]]
    clock: Timestamp = 0
    """The greatest timestamp in the range: whoever leads it next writes above that."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(SnapshotChunk).decode


class _ChunkHead(msgspec.Struct, array_like=True):
    """A chunk whose rows are passed over."""

    descriptor: RangeDescriptor | None
    rows: msgspec.Raw
    clock: Timestamp = 0


_decode_head = msgspec.msgpack.Decoder(_ChunkHead).decode


class SnapshotDamaged(Exception):
    """A chunk's bytes do not match their checksum."""


def stage_prefix(range_id: RangeId) -> bytes:
    return STAGE_PREFIX + range_id.to_bytes(8, "big")


def stage_key(range_id: RangeId, number: int) -> bytes:
    return stage_prefix(range_id) + number.to_bytes(4, "big")


def stage_span(range_id: RangeId) -> tuple[bytes, bytes]:
    prefix = stage_prefix(range_id)
    return prefix, prefix_end(prefix)


def encode_chunk(chunk: SnapshotChunk) -> bytes:
    payload = _encode(chunk)
    return zlib.crc32(payload).to_bytes(4, "big") + payload


def decode_chunk(data: bytes) -> SnapshotChunk:
    """Raises SnapshotDamaged."""
    return _checked(data, _decode)


def chunk_descriptor(data: bytes) -> RangeDescriptor | None:
    """Check a chunk's bytes, without making anything of its rows, for its descriptor; raises SnapshotDamaged."""
    return _checked(data, _decode_head).descriptor


def _checked(data: bytes, decode: Callable[[memoryview], T]) -> T:
    payload = memoryview(data)[4:]
    if len(data) < 4 or zlib.crc32(payload) != int.from_bytes(data[:4], "big"):
        raise SnapshotDamaged("a snapshot chunk does not match its checksum")
    try:
        return decode(payload)
    except msgspec.DecodeError as error:
        raise SnapshotDamaged(str(error)) from error


def data_spans(descriptor: RangeDescriptor) -> list[tuple[Space, bytes, bytes]]:
    """Everything in the engine that belongs to the state of a range, its descriptor and Raft state aside."""
    prefix = transaction_prefix(descriptor.range_id)
    return [
        (Space.VERSIONS, descriptor.start, descriptor.end),
        (Space.INTENTS, descriptor.start, descriptor.end),
        (Space.STATE, prefix, prefix_end(prefix)),
        (Space.STATE, *outcome_span(descriptor.start, descriptor.end)),
    ]


class SnapshotBudget:
    """What the sending of snapshots may take of a node: so many at a time, bytes a second, part of its time.

    Two buckets fill up with time, to what ``BURST_SECONDS`` bring, and every chunk is taken out of them afterwards: as long as
    one of them is in debt no chunk is read.  Nothing is begun while no bytes are allowed at all."""

    def __init__(self, limit: int, now_ns: Callable[[], int]) -> None:
        self._free = limit
        self._now_ns = now_ns
        self.bytes_per_second: Callable[[], float] = lambda: inf
        self.time_share: Callable[[], float] = lambda: 1.0
        """How much of each second may go into reading snapshots."""
        self._filled_ns = now_ns()
        self._bytes = 0.0
        self._ns = 0.0
        self.sent_bytes = 0

    def take(self) -> bool:
        """Begin a snapshot, if possible; whoever must not asks again later."""
        if self._free <= 0 or self.bytes_per_second() <= 0:
            return False
        self._free -= 1
        return True

    def give_back(self) -> None:
        self._free += 1

    def allows_more(self) -> bool:
        """Whether a chunk may be read now."""
        now_ns = self._now_ns()
        seconds, self._filled_ns = (now_ns - self._filled_ns) / 1e9, now_ns
        rate, share = self.bytes_per_second(), self.time_share()
        self._bytes = min(self._bytes + rate * seconds, rate * BURST_SECONDS) if rate < inf else inf
        self._ns = min(self._ns + share * seconds * 1e9, share * BURST_SECONDS * 1e9)
        return rate > 0 and self._bytes >= 0 and self._ns >= 0

    def spend(self, size: int, ns: int) -> None:
        """Pay for a chunk."""
        self.sent_bytes += size
        self._bytes -= size
        self._ns -= ns

    def now_ns(self) -> int:
        return self._now_ns()


class RangeSnapshotReader:
    """Reads a range from an engine snapshot, front to back (``raft.SnapshotReader``)."""

    def __init__(
        self,
        view: Snapshot,
        descriptor: RangeDescriptor,
        meta: raft.SnapshotMeta,
        clock: Timestamp,
        budget: SnapshotBudget,
    ) -> None:
        self._view: Snapshot | None = view
        self._budget = budget
        self._descriptor: RangeDescriptor | None = descriptor
        self._meta = meta
        self._clock = clock
        self._rows = _rows(view, descriptor)
        self._ahead = next(self._rows, None)

    @property
    def meta(self) -> raft.SnapshotMeta:
        return self._meta

    def may_read(self) -> bool:
        return self._budget.allows_more()

    def read(self, max_bytes: int) -> tuple[bytes, bool]:
        begun_ns = self._budget.now_ns()
        chunk = SnapshotChunk(self._descriptor, [], self._clock)
        self._descriptor = None
        row = self._ahead
        while row is not None and max_bytes > 0:
            chunk.rows.append(row)
            max_bytes -= len(row[1]) + len(row[2]) + 8
            row = next(self._rows, None)
        self._ahead = row
        data = encode_chunk(chunk)
        self._budget.spend(len(data), self._budget.now_ns() - begun_ns)
        return data, row is None

    def close(self) -> None:
        if self._view is not None:
            self._rows.close()
            self._view.close()
            self._view = None
            self._budget.give_back()


def _rows(view: Snapshot, descriptor: RangeDescriptor) -> Generator[tuple[int, bytes, bytes], None, None]:
    for space, start, end in data_spans(descriptor):
        for key, value in view.scan(space, start, end):
            yield int(space), key, value


def staged_chunks(view: Snapshot, range_id: RangeId, count: int) -> Iterator[SnapshotChunk]:
    """The chunks of a complete stage, in order."""
    for number in range(count):
        data = view.get(Space.STATE, stage_key(range_id, number))
        assert data is not None, f"range {range_id}: snapshot chunk {number} is missing"
        yield decode_chunk(data)


def install_batches(view: Snapshot, range_id: RangeId, count: int, old: RangeDescriptor | None) -> Iterator[WriteBatch]:
    """Step 2 of an installation, as engine batches."""
    batch = WriteBatch()
    for number, chunk in enumerate(staged_chunks(view, range_id, count)):
        if chunk.descriptor is not None:
            for descriptor in (old, chunk.descriptor):
                if descriptor is not None:
                    batch.cleared.extend(data_spans(descriptor))
        batch.operations += chunk.rows  # type: ignore[arg-type]  # a Space is an int
        if (number + 1) % INSTALL_BATCH_CHUNKS == 0:
            yield batch
            batch = WriteBatch()
    if len(batch):
        yield batch


def staged_head(view: Snapshot, range_id: RangeId) -> tuple[RangeDescriptor, Timestamp]:
    """The descriptor and the clock in the stage's first chunk."""
    head = next(staged_chunks(view, range_id, 1))
    assert head.descriptor is not None, "the first chunk names the descriptor"
    return head.descriptor, head.clock


def removal(descriptor: RangeDescriptor) -> list[tuple[Space, bytes, bytes]]:
    """The spans to clear when a node gives its replica away."""
    start, end = stage_span(descriptor.range_id)
    return [*data_spans(descriptor), (Space.STATE, start, end)]
