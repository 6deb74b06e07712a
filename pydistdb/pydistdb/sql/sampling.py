"""A random sample of rows, taken where they lie, that can be put together from any number of parts.

Every row draws a number: a hash of its key.  The sample is the rows with the SAMPLE lowest numbers, which is a fair sample
without replacement, and needs no knowledge of how many rows there are.  A leaseholder counts all of its part and sends only
rows below the bound that is known so far, so that a large table sends little more than the sample::

    1,000,000 rows, 30,000 wanted        part 1 (100,000 rows): bound 1.0     30,000 kept of what came, bound 0.3
                                         part 2 (100,000 rows): 30,000 come   bound 0.15
                                         part 10:                3,300 come   bound 0.03

On the way rows' values go into a sketch per column (sketch.py): from a sample nobody can tell how many different values there
are in all.  Where the sample has all of the rows, nothing of the kind is needed: it begins with the first row that the sample
may be without.  It costs eight times as much as counting and drawing do, so past the first COUNTED_ROWS it is every second row
that is looked into, past twice as many every fourth, and so on: 170,000 of a million.  The numbers decide which ones.  What
the sketches say then is how many values there are at least.

Source: Cohen and Kaplan, "Summarizing Data using Bottom-k Sketches" (2007).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from itertools import compress
from typing import Any

import msgspec
from pydistdb_storage.rows import decode_row
from xxhash import xxh3_64_intdigest

from pydistdb.sql.layout import HASH_IDENTITY_END, HASH_IDENTITY_START, picks_of
from pydistdb.sql.sketch import Sketch, value_hash

SAMPLE_TEXT = b"sample rows"
"""What this fragment is called (kv/fragments.py)."""
HIGHEST = 1 << 64
MOST_BYTES = 1 << 20
COUNTED_ROWS = 50_000
"""The values of so many rows all go into the sketches, of as many more every second row's, of twice as many every fourth's, …"""
SLACK = 1.5
"""How many times the rows asked for are held before the surplus goes."""
MARGIN = 1.05
"""How many times the rows asked for are kept then.  Numbers lie evenly below the bound, so a lower bound that keeps about as
many is known without sorting them, which took half the time of ANALYZE; of 30,000, 5 % are nine standard deviations."""


class SampleArguments(msgspec.Struct, array_like=True, frozen=True):
    """Rows whose numbers are ``below`` the bound; of a hash-sharded table, those with its ``identity``."""

    seed: int
    below: int | None
    """None: all."""
    identity: bytes | None
    columns: tuple[int, ...] = ()
    """The columns whose different values are to be counted, by number."""
    before: int = 0
    """How many rows other parts have had."""


class SampleAnswer(msgspec.Struct, array_like=True, frozen=True):
    count: int
    size: int
    """Bytes of all rows counted, keys included."""
    numbers: list[int]
    values: list[bytes]
    sketches: list[bytes] = []
    """One for each of the columns."""


def counted_share(before: int) -> int:
    """Rows with numbers below this are looked into, if there have been so many rows before."""
    return HIGHEST >> (before // COUNTED_ROWS).bit_length()


def count_values(rows: Sequence[bytes], columns: Sequence[int], sketches: Iterable[Sketch]) -> None:
    """Put the values of stored rows into the sketches of their columns; of those that repeat here, the first."""
    decoded = list(map(decode_row, rows))
    for number, sketch in zip(columns, sketches, strict=True):
        # Rows written before the column was there are shorter: they have the one value that it was added with.
        column: Collection[Any] = [row[number] for row in decoded if number < len(row)]
        with suppress(TypeError):  # lists and the like have no hash of their own
            column = set(column)
        sketch.add({value_hash(value) for value in column if value is not None})


class SampleRun:
    """The part of a sample that one span has; a fragment run."""

    is_upkeep = True
    """ANALYZE reads as fast as it can, and would be taken for a flood of requests that moves through the table."""

    def __init__(self, arguments: SampleArguments) -> None:
        self._arguments = arguments
        self.picks = picks_of(arguments.identity)
        self._below = HIGHEST if arguments.below is None else arguments.below
        self.count = self.size = self._bytes = 0
        self.numbers: list[int] = []
        self.values: list[bytes] = []
        self.counted = [Sketch() for _ in arguments.columns]

    def take(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        identity = self._arguments.identity
        if identity is not None:
            pairs = [
                (key, value)
                for key, value in zip(keys, values, strict=True)
                if key[HASH_IDENTITY_START:HASH_IDENTITY_END] == identity
            ]
            keys, values = [key for key, _ in pairs], [value for _, value in pairs]
        seed, below = self._arguments.seed, self._below
        counted_below = counted_share(self._arguments.before + self.count)
        self.count += len(keys)
        self.size += sum(map(len, keys)) + sum(map(len, values))
        numbers = [xxh3_64_intdigest(key, seed) for key in keys]
        if self.counted:
            some: Sequence[bytes] = values
            if counted_below < HIGHEST:
                some = [value for number, value in zip(numbers, values, strict=True) if number < counted_below]
            count_values(some, self._arguments.columns, self.counted)
        for number, value in zip(numbers, values, strict=True):
            if number < below:
                self.numbers.append(number)
                self.values.append(value)
                self._bytes += len(value)

    def step(self) -> bool:
        return False

    def close(self, resume: bytes | None, end: bytes) -> bytes | None:
        return resume

    @property
    def is_full(self) -> bool:
        return self._bytes >= MOST_BYTES

    def outgoing(self) -> Sequence[tuple[int, bytes]]:
        return ()

    def finish(self) -> bytes:
        return encode_answer(SampleAnswer(self.count, self.size, self.numbers, self.values, self.sketches))

    @property
    def peaks_bytes(self) -> tuple[int, int]:
        return self._bytes, 0

    def release(self) -> None:
        pass

    @property
    def sketches(self) -> list[bytes]:
        return [sketch.to_bytes() for sketch in self.counted]


class Sample:
    """The sample so far: at most ``most`` rows, in the order they came."""

    def __init__(self, most: int, seed: int, columns: tuple[int, ...] = ()) -> None:
        self.count = self.size = 0
        self.values: list[bytes] = []
        self._numbers: list[int] = []
        self._most = most
        self._seed = seed
        self._below: int | None = None
        self.sketches = {number: Sketch() for number in columns}
        """By column, of the rows that were looked into; empty as long as the sample has all rows."""

    def arguments(self, identity: bytes | None) -> SampleArguments:
        columns = () if self._has_all else tuple(self.sketches)
        return SampleArguments(self._seed, self._below, identity, columns, self.count)

    @property
    def _has_all(self) -> bool:
        """All rows so far are in the sample, and none is in the sketches."""
        return self.count <= self._most

    @property
    def counted_all(self) -> bool:
        """Whether the values of all rows are in the sketches."""
        return self.count <= COUNTED_ROWS

    def add(self, answer: SampleAnswer | SampleRun) -> None:
        had_all = self._has_all
        self.count += answer.count
        self.size += answer.size
        self._numbers += answer.numbers
        self.values += answer.values
        if not had_all:
            counted = answer.counted if isinstance(answer, SampleRun) else map(Sketch, answer.sketches)
            for mine, theirs in zip(self.sketches.values(), counted, strict=True):
                mine.merge(theirs)
        elif not self._has_all and self.sketches:
            count_values(self.values, tuple(self.sketches), self.sketches.values())
        if len(self._numbers) > self._most * SLACK:
            self._thin_out()

    def _thin_out(self) -> None:
        """Drop most of the surplus."""
        before = HIGHEST if self._below is None else self._below
        below = int(before * (self._most * MARGIN / len(self._numbers)))
        kept = [number < below for number in self._numbers]
        if sum(kept) < self._most:
            self.trim()
        else:
            self._keep(below, kept)

    def trim(self) -> None:
        """Keep no more rows than were asked for."""
        if len(self._numbers) > self._most:
            below = sorted(self._numbers)[self._most]
            self._keep(below, [number < below for number in self._numbers])

    def _keep(self, below: int, kept: list[bool]) -> None:
        self._below = below
        self.values = list(compress(self.values, kept))
        self._numbers = list(compress(self._numbers, kept))


encode_arguments = msgspec.msgpack.Encoder().encode
decode_arguments = msgspec.msgpack.Decoder(SampleArguments).decode
encode_answer = msgspec.msgpack.Encoder().encode
decode_answer = msgspec.msgpack.Decoder(SampleAnswer).decode
