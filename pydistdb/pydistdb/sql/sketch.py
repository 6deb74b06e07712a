"""How many different values there are, in 4 kB: HyperLogLog sketches that can be made in parts and merged.

A value's hash says where it counts: its first 12 bits choose one of 4,096 registers, which keeps the longest run of zeros that
the other bits began with.  A run of k zeros is seen about once in 2**k values, so the registers together tell how many there
were::

    hash 000000000101 0001…      register 5: max(what it was, 4)
    merge(a, b)                  register by register, the greater one

The estimate is off by 1.04 / sqrt(4096) = 1.6 % (one standard deviation).  Up to MOST_EXACT values a sketch keeps the hashes
themselves, and is exact.

Source: Flajolet et al., "HyperLogLog" (2007); the estimator without bias tables is Ertl's, "New cardinality estimation algorithms
for HyperLogLog sketches" (2017), section 4; keeping few values exactly is from Heule et al., "HyperLogLog in practice" (2013).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from math import inf, log, sqrt
from typing import Any

import msgspec
from xxhash import xxh3_64_intdigest

INDEX_BITS = 12
REGISTERS = 1 << INDEX_BITS
MOST_EXACT = 512
_REST_BITS = 64 - INDEX_BITS
_REST = (1 << _REST_BITS) - 1

_encode = msgspec.msgpack.Encoder(enc_hook=repr).encode


def value_hash(value: Any) -> int:
    """64 bits that look random and are the same on every node."""
    return xxh3_64_intdigest(_encode(value))


class Sketch:
    """See the module's introduction."""

    __slots__ = ("_few", "_registers")

    def __init__(self, data: bytes = b"") -> None:
        """``data``: what ``to_bytes`` gave."""
        self._registers: bytearray | None = None
        self._few: set[int] = set()
        if len(data) == REGISTERS:
            self._registers = bytearray(data)
        elif data:
            self._few.update(array("Q", data))

    def add(self, hashes: Iterable[int]) -> None:
        """Take in values by their hashes."""
        if self._registers is None:
            self._few.update(hashes)
            if len(self._few) < MOST_EXACT:
                return
            hashes, self._few = self._few, set()
            self._registers = bytearray(REGISTERS)
        registers = self._registers
        for number in hashes:
            place = number >> _REST_BITS
            run = _REST_BITS + 1 - (number & _REST).bit_length()
            if run > registers[place]:
                registers[place] = run

    def merge(self, other: Sketch) -> None:
        """Take in the values of another sketch."""
        if other._registers is None:
            self.add(other._few)
        elif self._registers is None:
            few, self._few = self._few, set()
            self._registers = bytearray(other._registers)
            self.add(few)
        else:
            self._registers = bytearray(map(max, self._registers, other._registers))

    def count(self) -> float:
        """About how many different values there were."""
        return float(len(self._few)) if self._registers is None else _estimate(self._registers)

    def to_bytes(self) -> bytes:
        """The sketch, to be sent."""
        return array("Q", sorted(self._few)).tobytes() if self._registers is None else bytes(self._registers)


def _estimate(registers: bytearray) -> float:
    counts = [0] * (_REST_BITS + 2)
    for run in registers:
        counts[run] += 1
    total = REGISTERS * _tau(1 - counts[_REST_BITS + 1] / REGISTERS)
    for run in range(_REST_BITS, 0, -1):
        total = 0.5 * (total + counts[run])
    total += REGISTERS * _sigma(counts[0] / REGISTERS)
    return REGISTERS * REGISTERS / (2 * log(2)) / total


def _sigma(x: float) -> float:
    if x == 1:
        return inf
    y, total, before = 1.0, x, -1.0
    while total != before:
        x *= x
        before = total
        total += x * y
        y += y
    return total


def _tau(x: float) -> float:
    if x in (0, 1):
        return 0.0
    y, total, before = 1.0, 1 - x, -1.0
    while total != before:
        x = sqrt(x)
        before = total
        y *= 0.5
        total -= (1 - x) ** 2 * y
    return total / 3
