"""Semi-join filters: what the keys of a join's small side are, sent ahead to where its large side is scanned.

A hash join that has built its table, and is about to read a side that lies on other nodes, has most of that side's rows dropped
where they are, if the planner expects few of them to find a partner.  The filter is a Bloom filter with one hash function and
BITS_PER_KEY bits a key, so some six in a hundred of the other rows still come, and never is one missing::

    parts (80 of 2,000) ⋈ lineitem on partkey       160 bytes to each range;  3,000 + 6 % of 57,000 rows instead of 60,000

Hash values must be the same on every node, which Python's are not for texts: only integers and texts, and tuples of them, are
filtered by; other keys pass.

Source: Bloom, "Space/Time Trade-offs in Hash Coding with Allowable Errors" (1970); Mackert and Lohman, "R* Optimizer Validation"
(1986), on Bloomjoins.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from xxhash import xxh3_64_intdigest

from pydistdb.sql.exec.codegen import Code
from pydistdb.sql.exec.values import sort_template
from pydistdb.sql.tree import Expr

BITS_PER_KEY = 16
MOST_KEYS = 500_000
MOST_PARTNERS = 0.5
"""A filter pays where fewer of the large side's rows than this are expected to find a partner."""
_MASK = (1 << 64) - 1
_MULTIPLIER = 0x9E3779B97F4A7C15


def key_source(code: Code, keys: Sequence[Expr]) -> tuple[str, list[str]]:
    """Source of a hash key, and the tests that none of its parts is NULL."""
    parts: list[str] = []
    tests: list[str] = []
    for key in keys:
        source = code.value(key)
        # An assignment cannot stand where a comprehension iterates, but in a condition before it.
        if code.nullable(key) or ":=" in source:
            name = code.temporary()
            tests.append(f"({name} := {source}) is not None")
            source = name
        template = sort_template(key.type, code.namespace)
        if template.count("{0}") > 1 and not source.isidentifier():
            name = code.temporary()
            tests.append(f"({name} := {source}) is not None")
            source = name
        parts.append(template.format(source))
    return (parts[0] if len(parts) == 1 else f"({', '.join(parts)})"), tests


def stable_hash(key: Any) -> int | None:
    """64 bits that are the same on every node; None: there are none."""
    kind = type(key)
    if kind is int:
        spread: int = (key & _MASK) * _MULTIPLIER & _MASK
        return spread
    if kind is str:
        digest: int = xxh3_64_intdigest(key.encode())
        return digest
    if kind is tuple:
        found = 0
        for part in key:
            each = stable_hash(part)
            if each is None:
                return None
            found = (found ^ each) * _MULTIPLIER & _MASK
            found ^= found >> 32
        return found * _MULTIPLIER & _MASK
    return None


def make_filter(keys: Collection[Any]) -> bytes | None:
    """The bits of a filter; None if these keys cannot be filtered by."""
    if not keys or len(keys) > MOST_KEYS:
        return None
    size = max(6, (BITS_PER_KEY * len(keys) - 1).bit_length())
    bits = bytearray(1 << size - 3)
    shift = 64 - size
    for key in keys:
        found = stable_hash(key)
        if found is None:
            return None
        place = found >> shift
        bits[place >> 3] |= 1 << (place & 7)
    return bytes(bits)


class SentKeys(NamedTuple):
    """The keys of a join's table: what nodes are sent of them (None: nothing), and which they are."""

    bits: bytes | None
    holds: Callable[[Any], bool]


class KeyFilter:
    """Tells which keys may be among those that a filter was made of."""

    __slots__ = ("_bits", "_shift")

    def __init__(self, bits: bytes) -> None:
        self._bits = bits
        self._shift = 64 - (len(bits).bit_length() + 2)

    def may_hold(self, key: Any) -> bool:
        found = stable_hash(key)
        if found is None:
            return True
        place = found >> self._shift
        return bool(self._bits[place >> 3] >> (place & 7) & 1)
