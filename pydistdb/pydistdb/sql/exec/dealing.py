"""Rows dealt out over nodes by the hash of their keys: what a sender makes of them, and where they gather.

Whoever works on rows that are dealt (a leaseholder, a node of an exchange, the gateway) sends them to the nodes in blocks, and
tells the gateway nothing but a *receipt*.  What it does may have to be done again: an answer is lost, a range moves.  So every
attempt has a name of its own, its blocks bear it, and only those count whose receipt has reached the gateway, each once::

    leaseholder of [a, m)   attempt 7f…   blocks to nodes 1, 2, 3    receipt [7f…, rows and bytes per node]  ->  gateway
    the answer is lost; its new leaseholder   attempt c2…   blocks …   receipt [c2…, …]                      ->  gateway
    node 2 is told to begin, with [c2…]       blocks of 7f… are passed over

A sender waits until its blocks have been taken in before it goes on, so there is one block of each sender on its way to each
node, and no more; a node keeps in memory what ``work_mem`` allows, and the rest in a temporary file.

Hash values must be the same on every node, which Python's are not for texts.  Values of kinds unknown here all go to one node.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from decimal import Decimal
from typing import Any

import msgspec
from xxhash import xxh3_64_intdigest

from pydistdb.sql.exec.fragment import DealTo, PartialsCodec
from pydistdb.sql.exec.memory import Holding
from pydistdb.sql.exec.run import State
from pydistdb.sql.exec.spill import RowCodec, SpillFile
from pydistdb.sql.types.base import SqlType

TOPIC = "exchange"
"""Where nodes listen for what belongs to exchanges (kv.api.Database.ask)."""
BLOCK_OVERHEAD_BYTES = 100

Row = tuple[Any, ...]
Outgoing = list[tuple[int, bytes]]
"""Nodes and what they are to be sent."""
_MASK = (1 << 64) - 1
_MULTIPLIER = 0x9E3779B97F4A7C15
_NUMBERS = frozenset({int, float, Decimal, bool})


def spread(key: Any) -> int:
    """32 bits that are the same on every node, and for equal keys."""
    kind = type(key)
    if kind in _NUMBERS:  # Python hashes equal numbers alike, whatever their kind, and without a seed
        found = hash(key)
    elif kind is str:
        found = xxh3_64_intdigest(key.encode("utf-8", "surrogatepass"))
    elif kind is bytes:
        found = xxh3_64_intdigest(key)
    elif isinstance(key, tuple):
        found = 0
        for part in key:
            found = found * 31 + spread(part)
    else:
        found = 0
    return ((found & _MASK) * _MULTIPLIER & _MASK) >> 32


def deal(rows: Sequence[Any], keys: Collection[Any], count: int) -> list[list[Any]]:
    """Rows in ``count`` parts, by the keys that come along."""
    parts: list[list[Any]] = [[] for _ in range(count)]
    append = [part.append for part in parts]
    for row, place in zip(rows, _places(keys, count), strict=True):
        append[place](row)
    return parts


def _places(keys: Collection[Any], count: int) -> list[int]:
    """``spread(key) % count`` of all keys; those of one kind, which is the rule, at a fourth of the cost."""
    kinds = {*map(type, keys)}
    mask, multiplier = _MASK, _MULTIPLIER
    if kinds <= _NUMBERS:
        return [(((hash(key) & mask) * multiplier & mask) >> 32) % count for key in keys]
    if kinds == {str}:
        digest = xxh3_64_intdigest
        return [((digest(key.encode("utf-8", "surrogatepass")) * multiplier & mask) >> 32) % count for key in keys]
    return [spread(key) % count for key in keys]


class Deliver(msgspec.Struct, array_like=True, tag="deliver"):
    """A block of rows for an input of an exchange (``partial``: of groups with states)."""

    exchange: bytes
    input: int
    attempt: bytes
    partial: bool
    block: bytes


class Receipt(msgspec.Struct, array_like=True, frozen=True):
    """What an attempt has sent: rows and bytes by node."""

    attempt: bytes
    rows: dict[int, int]
    size_bytes: dict[int, int]


_encode = msgspec.msgpack.Encoder().encode
_decode_blocks: Callable[[bytes], list[Row]] = msgspec.msgpack.Decoder(list[tuple[bytes, bool, bytes]]).decode
decode_receipt = msgspec.msgpack.Decoder(Receipt).decode


class Sending:
    """One attempt's side of an exchange."""

    def __init__(self, to: DealTo) -> None:
        self.to = to
        self._receipt = Receipt(os.urandom(8), {}, {})

    def pack(self, parts: Sequence[tuple[int, bytes]], *, partial: bool) -> Outgoing:
        """The messages that bring each node its part; a part is a number of rows and a block."""
        outgoing: Outgoing = []
        receipt = self._receipt
        for node, (count, block) in zip(self.to.nodes, parts, strict=True):
            if count:
                receipt.rows[node] = receipt.rows.get(node, 0) + count
                receipt.size_bytes[node] = receipt.size_bytes.get(node, 0) + len(block)
                message = Deliver(self.to.exchange, self.to.input, receipt.attempt, partial, block)
                outgoing.append((node, _encode(message)))
        return outgoing

    def receipt(self) -> bytes:
        return _encode(self._receipt)


class InputCodec:
    """Reads blocks of an input: rows, or groups with states."""

    def __init__(self, column_types: Sequence[SqlType], group_types: Sequence[SqlType]) -> None:
        self.rows = RowCodec(column_types)
        self.partials = PartialsCodec(group_types)

    def decode(self, block: bytes, *, partial: bool) -> list[Row]:
        return self.partials.decode(block) if partial else self.rows.decode(block)


class _Blocks:
    """Blocks as they came, in a temporary file."""

    encode: Callable[[list[Row]], bytes]
    decode: Callable[[bytes], list[Row]]

    def __init__(self) -> None:
        self.encode = _encode
        self.decode = _decode_blocks


class Inbox:
    """What an input of an exchange has been dealt at this node.

    Once it is known which attempts count (``count``), all their blocks are here: what still comes belongs to others, whose
    sender has not heard yet that he has been given up, and is not kept."""

    def __init__(self, codec: InputCodec, held: Holding) -> None:
        self._counted: frozenset[bytes] | None = None
        self._codec = codec
        self._held = held
        self._blocks: deque[Row] = deque()
        self._file: SpillFile | None = None

    def count(self, attempts: Iterable[bytes]) -> None:
        """Say which attempts count, before the rows are read."""
        self._counted = frozenset(attempts)

    def close(self) -> None:
        self._counted = frozenset()
        self._blocks.clear()

    def take(self, message: Deliver) -> None:
        if self._counted is not None:
            return
        size_bytes = len(message.block) + BLOCK_OVERHEAD_BYTES
        block: Row = (message.attempt, message.partial, message.block)
        held = self._held
        if self._file is None:
            held.resize(held.size_bytes + size_bytes)
            if not held.is_over:
                self._blocks.append(block)
                return
            held.resize(held.size_bytes - size_bytes)
            self._file = held.file(_Blocks())
        self._file.write([block])

    async def batches(self, state: State) -> AsyncIterator[list[Row]]:
        """The rows that count, once: what has been read is given back."""
        counted = self._counted or frozenset()
        while self._blocks:
            attempt, partial, block = self._blocks.popleft()
            self._held.resize(self._held.size_bytes - len(block) - BLOCK_OVERHEAD_BYTES)
            if attempt in counted:
                yield self._codec.decode(block, partial=partial)
                await state.breathe()
        if self._file is not None:
            for blocks in self._file.read():
                for attempt, partial, block in blocks:
                    if attempt in counted:
                        yield self._codec.decode(block, partial=partial)
                        await state.breathe()
            self._file.close()
