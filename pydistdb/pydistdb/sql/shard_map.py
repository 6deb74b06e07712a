"""Which shard a row belongs to, by the values of its shard columns.

A shard is a number of 16 bits that stands near the head of the row's keys (layout.py)::

    hash        CRC-32 of the encoded values, upper half       any of 65,536: ranges are cut between some of them
    range       how many of the split values are not greater   SPLIT AT (10, 20):  5 → 0, 10 → 1, 99 → 2; NULL → 2
    list        the shard that lists the value                 eu (de, fr), us (us):  'fr' → 0, 'us' → 1, 'jp' → none
    directory   what the directory says, else by CRC-32        assigned (7 → 2): 7 → 2, all others crc % shards

Values compare as their key encodings do, bytewise.  A value that has no shard is looked for where no row ever is.

Source: Stonebraker, "The Case for Shared Nothing" (1986); DeWitt and Gray, "Parallel Database Systems" (1992), on the three
ways to partition; directories are those of MongoDB's and Vitess's lookup tables.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any
from zlib import crc32

from pydistdb.sql.catalog.descriptors import Sharding

NOWHERE = 0xFFFF
"""The number of no shard."""
MOST_NUMBERED = 1_024
"""Shards of a table that is not sharded by hash."""

Encode = Callable[[Sequence[Any]], bytes]
Limit = tuple[Any, bool] | None
"""(value, inclusive), or no limit."""


class ShardMap:
    """``number(values)``: the shard of a row; made once for a table's layout."""

    def __init__(self, sharding: Sharding, encode: Encode, parse: Callable[[str], Any]) -> None:
        self.sharding = sharding
        self.is_hash = sharding.strategy == "hash"
        self.key = encode
        """The values as bytes: equal for equal values."""
        self._firsts: list[bytes] = []
        self._listed: dict[bytes, int] = {}
        self._default = NOWHERE
        for number, shard in enumerate(sharding.shards):
            encoded = [encode([None if text is None else parse(text)]) for text in shard.values]
            if sharding.strategy == "range":
                self._firsts += encoded
            else:
                self._listed.update(dict.fromkeys(encoded, number))
            if shard.is_default:
                self._default = number
        for text, number in sharding.directory:
            self._listed[encode([parse(text)])] = number
        self.number: Callable[[Sequence[Any]], int] = {
            "hash": self._by_hash,
            "range": self._by_range,
            "list": self._by_list,
            "directory": self._by_directory,
        }[sharding.strategy]

    def _by_hash(self, values: Sequence[Any]) -> int:
        return crc32(self.key(values)) >> 16

    def _by_range(self, values: Sequence[Any]) -> int:
        return bisect_right(self._firsts, self.key(values))

    def _by_list(self, values: Sequence[Any]) -> int:
        return self._listed.get(self.key(values), self._default)

    def _by_directory(self, values: Sequence[Any]) -> int:
        encoded = self.key(values)
        found = self._listed.get(encoded)
        return crc32(encoded) % len(self.sharding.shards) if found is None else found

    def between(self, lower: Limit, upper: Limit) -> Sequence[int]:
        """The shards that may hold values within the limits (not for hash)."""
        every = range(len(self.sharding.shards))
        if lower is None and upper is None:
            return every
        if self.sharding.strategy == "range":
            first = 0 if lower is None else self.number([lower[0]])
            last = every[-1] if upper is None else self.number([upper[0]])
            return range(first, last + 1)
        if self.sharding.strategy == "list":
            least = b"" if lower is None else self.key([lower[0]])
            most = b"\xff" if upper is None else self.key([upper[0]])
            found = {number for value, number in self._listed.items() if least <= value <= most}
            return sorted(found | ({self._default} - {NOWHERE}))
        return every
