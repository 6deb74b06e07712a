"""The write-ahead log: what ``apply`` was given, appended and synced before anything else happens to it.

A B+tree commit writes a dozen pages all over its file and syncs twice; an append syncs once, in one place: 0.15 ms
against 1.7 ms for the commits of an eight-client TPC-B on the machine of docs/benchmarks.md.  So the log makes a commit
durable, and the tree follows later, many commits at a time (checkpoint.py).

One record per ``apply``, numbered without gaps::

    length (4) | crc32 (4) | sequence (8) | payload: msgpack [[operations, cleared], …]       crc over sequence and payload

Records stand in segments, files named by the first sequence they hold.  When every record of a segment is in the tree,
its file becomes a later segment, so that a busy log overwrites blocks that the file system has allocated long ago.
What it held before does no harm: those sequences are smaller than the ones expected there.

The log ends at the first record that is not whole.  Only one record is ever on its way to the disk, so a whole record
*behind* a broken one means that the disk lost something it had promised to keep: ``StoreCorrupt``, never a silent loss.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from pydistdb_storage.engine import WriteBatch
from pydistdb_storage.errors import StorageError, StoreCorrupt, StoreFull, translated

Operation = tuple[int, bytes, bytes | None]
Span = tuple[int, bytes, bytes]
Record = list[tuple[list[Operation], list[Span]]]
"""One ``apply``: per batch the operations and the spans cleared before them."""

SEGMENT_BYTES = 16 << 20
SPARE_SEGMENTS = 2
"""Segment files kept for reuse beyond those that are needed."""

MAX_RECORD_BYTES = 1 << 30
MAX_SMALL_OPERATIONS = 500
MAX_SMALL_BYTES = 128 << 10
"""A record within both is written into the page cache in some 10 µs."""

_HEADER = struct.Struct("<IIQ")
_SEQUENCE = struct.Struct("<Q")
_SUFFIX = ".log"
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Record).decode


def segments(folder: Path) -> list[int]:
    """The first sequences of the segments in ``folder``, in order."""
    return sorted(int(name.removesuffix(_SUFFIX), 16) for name in os.listdir(folder) if name.endswith(_SUFFIX))


def segment_path(folder: Path, first: int) -> Path:
    return folder / f"{first:016x}{_SUFFIX}"


class LogReader:
    """Reads records in order, beginning behind ``after``; goes on where it was when more have been written."""

    def __init__(self, folder: Path, after: int) -> None:
        self._folder = folder
        self._file = -1
        self._position = 0
        self._wanted = after + 1
        self.next = 0
        """The sequence of the record at the reader's position."""

    def records(self, until: int | None = None) -> Iterator[tuple[int, Record]]:
        """Yield the records up to ``until``, or to the end of the log; raises StoreCorrupt."""
        if self._file < 0 and not self._open_first():
            return
        while until is None or self.next <= until:
            payload = self._whole_record()
            if payload is None:
                if self._open_next():
                    continue
                if until is not None:
                    raise StoreCorrupt(f"log record {self.next} is missing")
                return
            sequence = self.next
            self._position += _HEADER.size + len(payload)
            self.next += 1
            if sequence >= self._wanted:
                yield sequence, _decode(payload)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _open_first(self) -> bool:
        firsts = segments(self._folder)
        before = [first for first in firsts if first <= self._wanted]
        if before:
            self._open(before[-1])
        elif firsts:
            raise StoreCorrupt(f"the log begins at record {firsts[0]}, the store needs it from {self._wanted}")
        return bool(before)

    def _open_next(self) -> bool:
        """The segment is at its end: go to the next one, if that is where the log goes on."""
        later = [first for first in segments(self._folder) if first >= self.next]
        if later and later[0] == self.next and os.fstat(self._file).st_ino != self._inode(self.next):
            self._open(self.next)
            return True
        if later[1:] or (later and later[0] > self.next) or self._finds_later_record():
            raise StoreCorrupt(f"log record {self.next} is damaged, and there are records behind it")
        return False

    def _inode(self, first: int) -> int:
        return segment_path(self._folder, first).stat().st_ino

    def _open(self, first: int) -> None:
        self.close()
        self._file = os.open(segment_path(self._folder, first), os.O_RDONLY | os.O_CLOEXEC)
        self._position = 0
        self.next = first

    def _whole_record(self) -> bytes | None:
        header = os.pread(self._file, _HEADER.size, self._position)
        return self._payload(header, self._position, self.next)

    def _payload(self, header: bytes, position: int, sequence: int) -> bytes | None:
        if len(header) < _HEADER.size:
            return None
        length, checksum, found = _HEADER.unpack(header)
        if found != sequence or length > MAX_RECORD_BYTES:
            return None
        payload = os.pread(self._file, length, position + _HEADER.size)
        if len(payload) < length or _checksum(sequence, payload) != checksum:
            return None
        return payload

    def _finds_later_record(self) -> bool:
        """Whether the successor of a broken record is there, whole."""
        size = os.fstat(self._file).st_size
        rest = os.pread(self._file, size - self._position, self._position)
        successor = _SEQUENCE.pack(self.next + 1)
        found = rest.find(successor, 8)
        while found >= 0:
            start = found - 8
            if self._payload(rest[start : start + _HEADER.size], self._position + start, self.next + 1) is not None:
                return True
            found = rest.find(successor, found + 1)
        return False


class LogWriter:
    """Appends records; one thread at a time.  It always begins a new segment, never behind a torn record."""

    def __init__(self, folder: Path, next_sequence: int) -> None:
        self._folder = folder
        self.file = -1
        """The open segment."""
        self._position = 0
        self._firsts = [first for first in segments(folder) if first < next_sequence]
        self._spare = sorted(folder.glob("*.spare"))  # an earlier process may have left some
        while len(self._spare) > SPARE_SEGMENTS:
            self._spare.pop().unlink()
        self.next = next_sequence
        if self._firsts:
            # The process before may have ended between a record's write and its sync, and the record counts from now on.
            _sync(segment_path(folder, self._firsts[-1]), os.O_RDWR)
        self._begin_segment()

    def append(self, batches: list[WriteBatch]) -> int:
        """Make a record of ``batches`` durable and return its sequence; raises StoreFull with nothing written."""
        payload = _encoded(batches)
        if len(payload) > MAX_RECORD_BYTES:
            raise StorageError(f"a log record of {len(payload)} bytes is beyond the limit of {MAX_RECORD_BYTES}")
        if self._position >= SEGMENT_BYTES:
            self._begin_segment()
        # Written and synced by one call: each one gives the interpreter's lock away, and must get it back.
        return self._write(payload, os.RWF_DSYNC)

    def write(self, batches: list[WriteBatch]) -> int | None:
        """Write a small record that is durable with the next sync of ``file``, and return its sequence.

        None, and nothing written, where that could take long: the segment is full, or the record is large.  Raises StoreFull."""
        if self._position >= SEGMENT_BYTES or sum(map(len, batches)) > MAX_SMALL_OPERATIONS:
            return None
        payload = _encoded(batches)
        return None if len(payload) > MAX_SMALL_BYTES else self._write(payload, 0)

    def _write(self, payload: bytes, flags: int) -> int:
        sequence = self.next
        record = _HEADER.pack(len(payload), _checksum(sequence, payload), sequence) + payload
        try:
            written = os.pwritev(self.file, [record], self._position, flags)
        except OSError as error:
            failure = translated(error)
            if isinstance(failure, StoreFull):
                raise failure from error
            # What a failed sync has left on the disk nobody knows: no second try can make that good.
            raise StorageError(f"the log could not be written: {error}") from error
        if written < len(record):
            raise StoreFull(f"no room left on the disk of {self._folder}")
        self._position += len(record)
        self.next = sequence + 1
        return sequence

    @property
    def segment(self) -> int:
        """The first sequence of the segment that is written at present."""
        return self._firsts[-1]

    def release(self, applied: int) -> None:
        """The records up to ``applied`` are in the tree: reuse the segments that hold nothing else."""
        firsts = self._firsts
        while len(firsts) > 1 and firsts[1] <= applied + 1:
            path = segment_path(self._folder, firsts.pop(0))
            if len(self._spare) < SPARE_SEGMENTS:
                spare = path.with_suffix(".spare")
                path.rename(spare)
                self._spare.append(spare)
            else:
                path.unlink()

    def close(self) -> None:
        if self.file >= 0:
            os.close(self.file)
            self.file = -1
        for spare in self._spare:
            spare.unlink(missing_ok=True)

    def _begin_segment(self) -> None:
        path = segment_path(self._folder, self.next)
        try:
            if self._spare:
                self._spare[-1].rename(path)
                self._spare.pop()
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            sync_folder(self._folder)
        except OSError as error:
            raise translated(error) from error
        if self.file >= 0:
            os.close(self.file)
        self.file = file
        self._position = 0
        self._firsts.append(self.next)


def _encoded(batches: list[WriteBatch]) -> bytes:
    return _encode([(batch.operations, batch.cleared) for batch in batches])


def _checksum(sequence: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(_SEQUENCE.pack(sequence)))


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    file = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
