"""A whole range in pieces: how a replica that is new, or too far behind, gets its state.

Raft decides when, and carries the chunks one by one, a bounded number in flight, sending again what got lost
(pydistdb.raft.snapshots).  This module says what is in them, keeps them safe until the last one is there, and installs
them as one step:

    sender     engine snapshot at applied index i: descriptor, then VERSIONS and INTENTS of the span, then the range's
               transaction records; each chunk is crc32 ‖ msgpack, refused by the receiver if it does not check
    receiver   every chunk is stored as it came, under STATE "stage/" range ‖ number
    install    1. state.installing = number of chunks, durable: from here on there is no way back
               2. clear the old span and the new one, write the chunks' contents, a few chunks per engine batch
               3. one batch: new descriptor, replica state at i, stage and log removed

A crash before 1 leaves the old state and a stage that is thrown away; a crash after it is repaired at start by doing 2
and 3 (again).  Memory holds a few chunks at a time, whatever the size of the range.
"""

from __future__ import annotations

import zlib
from collections.abc import Generator, Iterator

import msgspec
from pydistdb_storage.engine import Snapshot, Space, WriteBatch
from pydistdb_storage.keys import prefix_end

from pydistdb import raft
from pydistdb.kv.api import Timestamp
from pydistdb.kv.command import transaction_prefix
from pydistdb.kv.descriptor import RangeDescriptor, RangeId

STAGE_PREFIX = b"stage/"
INSTALL_BATCH_CHUNKS = 8


class SnapshotChunk(msgspec.Struct, array_like=True):
    """One piece.  Piece 0 names the descriptor and the range's clock (and the rows that fit)."""

    descriptor: RangeDescriptor | None
    rows: list[tuple[int, bytes, bytes]]
    clock: Timestamp = 0
    """The greatest timestamp in the range: whoever leads it next writes above that."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(SnapshotChunk).decode


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
    payload = memoryview(data)[4:]
    if len(data) < 4 or zlib.crc32(payload) != int.from_bytes(data[:4], "big"):
        raise SnapshotDamaged("a snapshot chunk does not match its checksum")
    try:
        return _decode(payload)
    except msgspec.DecodeError as error:
        raise SnapshotDamaged(str(error)) from error


def data_spans(descriptor: RangeDescriptor) -> list[tuple[Space, bytes, bytes]]:
    """Everything in the engine that belongs to the state of a range, its descriptor and Raft state aside."""
    prefix = transaction_prefix(descriptor.range_id)
    return [
        (Space.VERSIONS, descriptor.start, descriptor.end),
        (Space.INTENTS, descriptor.start, descriptor.end),
        (Space.STATE, prefix, prefix_end(prefix)),
    ]


class SnapshotSlots:
    """Bounds how many snapshots a node has open for sending; whoever gets none asks again later."""

    def __init__(self, limit: int) -> None:
        self._free = limit

    def take(self) -> bool:
        if self._free <= 0:
            return False
        self._free -= 1
        return True

    def give_back(self) -> None:
        self._free += 1


class RangeSnapshotReader:
    """Reads a range from an engine snapshot, front to back (``raft.SnapshotReader``)."""

    def __init__(
        self,
        view: Snapshot,
        descriptor: RangeDescriptor,
        meta: raft.SnapshotMeta,
        clock: Timestamp,
        slots: SnapshotSlots,
    ) -> None:
        self._view: Snapshot | None = view
        self._slots = slots
        self._descriptor: RangeDescriptor | None = descriptor
        self._meta = meta
        self._clock = clock
        self._rows = _rows(view, descriptor)
        self._ahead = next(self._rows, None)

    @property
    def meta(self) -> raft.SnapshotMeta:
        return self._meta

    def read(self, max_bytes: int) -> tuple[bytes, bool]:
        chunk = SnapshotChunk(self._descriptor, [], self._clock)
        self._descriptor = None
        row = self._ahead
        while row is not None and max_bytes > 0:
            chunk.rows.append(row)
            max_bytes -= len(row[1]) + len(row[2]) + 8
            row = next(self._rows, None)
        self._ahead = row
        return encode_chunk(chunk), row is None

    def close(self) -> None:
        if self._view is not None:
            self._rows.close()
            self._view.close()
            self._view = None
            self._slots.give_back()


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
        batch.operations.extend((Space(space), key, value) for space, key, value in chunk.rows)
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
