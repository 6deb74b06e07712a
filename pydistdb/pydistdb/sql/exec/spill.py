"""Rows on disk: what sort, hash join, hash aggregate and shared tables use past ``work_mem``.

A ``RowCodec`` knows the columns' types and turns a batch of rows into one msgpack block of storage values and back; a
``SpillFile`` is an anonymous temporary file of such blocks::

    file = held.file(codec); file.write(batch); file.write(batch)
    for batch in file.read(): ...                                     # from the start, as often as wanted

A ``RowBuffer`` keeps rows in memory up to a limit and the rest in such a file.  Whose files they are, and how large they may
get, is in resources.py.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, Protocol

import msgspec

from pydistdb.sql.errors import DatabaseError, FeatureNotSupported
from pydistdb.sql.exec.memory import Holding
from pydistdb.sql.exec.run import BATCH_ROWS
from pydistdb.sql.generate import build
from pydistdb.sql.types import registry as types
from pydistdb.sql.types.base import SqlType

Row = tuple[Any, ...]
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[list[Any]]).decode


def _pickled(value: Any) -> bytes:
    return pickle.dumps(value, protocol=5)


class RowCodec:
    """Blocks of rows with columns of given types."""

    def __init__(self, column_types: Sequence[SqlType]) -> None:
        namespace: dict[str, Any] = {"encode": _encode, "decode": _decode}
        encoders: list[str] = []
        decoders: list[str] = []
        is_plain = True
        for position, type_ in enumerate(column_types):
            cell = f"r[{position}]"
            write, read = _conversions(type_)
            if write is None:
                encoders.append(cell)
            else:
                is_plain = False
                namespace[f"w{position}"] = write
                encoders.append(f"None if {cell} is None else w{position}({cell})")
            if read is None:
                decoders.append(cell)
            else:
                is_plain = False
                namespace[f"d{position}"] = read
                decoders.append(f"None if {cell} is None else d{position}({cell})")
        if is_plain:
            write_source = "encode(rows)"
            read_source = "list(map(tuple, decode(block)))"
        else:
            write_source = f"encode([({', '.join(encoders)},) for r in rows])"
            read_source = f"[({', '.join(decoders)},) for r in decode(block)]"
        source = f"def write(rows):\n    return {write_source}\ndef read(block):\n    return {read_source}\n"
        self.encode: Callable[[list[Row]], bytes] = build(source, namespace, "write")
        self.decode: Callable[[bytes], list[Row]] = namespace["read"]


def _conversions(type_: SqlType) -> tuple[Callable[[Any], Any] | None, Callable[[Any], Any] | None]:
    """How to write and read values of a type; what has no storage form (row values, internal ones) is pickled."""
    try:
        io = types.io(type_.oid)
    except (DatabaseError, FeatureNotSupported, KeyError):
        return _pickled, pickle.loads
    if type_.category == "P" and type_.name != "void":
        return _pickled, pickle.loads
    return io.to_storage, io.from_storage


class BlockCodec(Protocol):
    """Turns rows into a block of bytes and back."""

    encode: Callable[[list[Row]], bytes]
    decode: Callable[[bytes], list[Row]]


class SpillFile:
    """A temporary file of blocks of rows; it goes away with the object."""

    __slots__ = ("_codec", "_end", "_file", "_held", "_offsets", "rows")

    def __init__(self, codec: BlockCodec, held: Holding) -> None:
        self._codec = codec
        self._held = held
        self._file: IO[bytes] | None = None
        self._offsets: list[int] = []
        self._end = 0
        self.rows = 0

    def write(self, rows: list[Row]) -> None:
        """Append a block."""
        if not rows:
            return
        block = self._codec.encode(rows)
        self._held.wrote(len(block))
        try:
            if self._file is None:
                self._file = self._held.resources.open_file(self)
            self._file.seek(self._end)
            self._file.write(block)
        except OSError as error:
            self._held.wrote(-len(block))
            raise DatabaseError.of("53100", f"could not write to temporary file: {error.strerror}") from error
        self._offsets.append(self._end)
        self._end += len(block)
        self.rows += len(rows)

    @property
    def size_bytes(self) -> int:
        return self._end

    @property
    def blocks(self) -> int:
        return len(self._offsets)

    def block(self, number: int) -> list[Row]:
        """One block by its number."""
        assert self._file is not None
        start = self._offsets[number]
        end = self._offsets[number + 1] if number + 1 < len(self._offsets) else self._end
        self._file.seek(start)
        return self._codec.decode(self._file.read(end - start))

    def read(self) -> Iterator[list[Row]]:
        """Every block in order, from the start; several readers may take turns."""
        number = 0
        while number < len(self._offsets):
            yield self.block(number)
            number += 1

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            self._offsets = []
            self._held.resources.forget_file(self, self._end)


class RowBuffer:
    """A table computed once and read often: in memory as far as ``held`` lets it, the rest on disk."""

    __slots__ = ("_codec", "_file", "_held", "batches")

    def __init__(self, codec: Callable[[], RowCodec], held: Holding) -> None:
        self._codec = codec
        self._held = held
        self.batches: list[list[Row]] = []
        self._file: SpillFile | None = None

    def append(self, rows: list[Row]) -> None:
        if self._file is None:
            before = self._held.size_bytes
            self._held.take(rows)
            if not self._held.is_over:
                self.batches.append(rows)
                return
            self._held.resize(before)
            self._file = self._held.file(self._codec())
        self._file.write(rows)

    @property
    def count(self) -> int:
        """How many batches there are."""
        return len(self.batches) + (self._file.blocks if self._file is not None else 0)

    def batch(self, number: int) -> list[Row]:
        if number < len(self.batches):
            return self.batches[number]
        assert self._file is not None
        return self._file.block(number - len(self.batches))

    def read(self) -> Iterator[list[Row]]:
        """Every batch, in order."""
        number = 0
        while number < self.count:
            yield self.batch(number)
            number += 1

    def close(self) -> None:
        """Give back the rows and the file."""
        self.batches = []
        self._held.clear()
        if self._file is not None:
            self._file.close()
            self._file = None


def in_batches(rows: list[Row], size: int = BATCH_ROWS) -> Iterator[list[Row]]:
    """Cut a long list of rows into batches."""
    if len(rows) <= size:
        if rows:
            yield rows
        return
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
