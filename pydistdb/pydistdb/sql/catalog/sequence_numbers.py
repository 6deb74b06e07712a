"""Sequences: descriptors of kind S, and the numbers they hand out.

A sequence's parameters stand in its descriptor (``definition``, as JSON); where it stands is one kv value, outside any
transaction, as in Postgres: numbers are never taken back.  A node takes numbers in blocks, one small transaction each,
and hands them out from memory to all its sessions; so numbers are consecutive while one node works, and a node that
dies leaves a gap.

    key    04 storage_id 0001           value  [last number handed out in a block, is_called]

``try_next`` is what ``nextval`` calls: it answers from the block at hand or raises NeedsBlock; the executor then awaits the
error's ``fill`` and evaluates the row again.
"""

from __future__ import annotations

from collections import deque

import msgspec

from pydistdb.kv.api import Database, Isolation, KVError, LockStrength, MustWait, SerializationConflict
from pydistdb.sql.catalog.descriptors import Column, Table
from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.functions.effects import MustAct
from pydistdb.sql.layout import RANGE_HEAD
from pydistdb.sql.types import registry

BLOCK_NUMBERS = 32
MOST_BLOCKS = 10_000
ATTEMPTS = 10
RESET_TOPIC = "sequence.reset"
RESET_TIMEOUT_NS = 2_000_000_000
TYPE_LIMITS = {21: (1 << 15) - 1, 23: (1 << 31) - 1, 20: (1 << 63) - 1}


class SequenceDefinition(msgspec.Struct, frozen=True):
    """A sequence's parameters."""

    type_oid: int = 20
    start: int = 1
    increment: int = 1
    minimum: int = 1
    maximum: int = (1 << 63) - 1
    cycle: bool = False
    owner_table: int = 0
    owner_column: int = 0
    """The column that owns it (serial, identity); it goes with that column."""
    identity: bool = False
    restart: int | None = None
    """The first number of the present storage, if that is not ``start`` (RESTART WITH)."""
    cache: int = 1
    """As declared; nodes take blocks of a size of their own."""

    @property
    def first(self) -> int:
        return self.start if self.restart is None else self.restart


def definition_of(sequence: Table) -> SequenceDefinition:
    return msgspec.json.decode(sequence.definition, type=SequenceDefinition)


def encode_definition(definition: SequenceDefinition) -> str:
    return msgspec.json.encode(definition).decode()


def new_sequence(oid: int, name: str, schema: int, database: int, definition: SequenceDefinition) -> Table:
    columns = (
        Column(1, "last_value", registry.INT8.oid, not_null=True),
        Column(2, "log_cnt", registry.INT8.oid, not_null=True),
        Column(3, "is_called", registry.BOOL.oid, not_null=True),
    )
    return Table(
        oid=oid,
        name=name,
        schema=schema,
        database=database,
        columns=columns,
        indexes=(),
        storage_id=oid,
        kind="S",
        definition=encode_definition(definition),
    )


# ---------------------------------------------------------------------------------------------------- numbers


class NeedsBlock(MustWait):
    """``nextval`` has no number at hand: await ``fill`` and evaluate again."""

    def __init__(self, numbers: SequenceNumbers, sequence: Table) -> None:
        super().__init__(f"sequence {sequence.name}")
        self._numbers = numbers
        self._sequence = sequence

    async def fill(self, count: int) -> None:
        """Get at least ``count`` numbers (fewer if the sequence ends)."""
        await self._numbers.fill(self._sequence, count)


class NeedsSetting(MustAct):
    """``setval`` has to wait until the new position is stored."""

    def __init__(self, numbers: SequenceNumbers, sequence: Table, value: int, is_called: bool) -> None:
        super().__init__(f"sequence {sequence.name}")
        self._numbers = numbers
        self._wanted = (sequence, value, is_called)

    async def act(self) -> int:
        """Store the position."""
        sequence, value, is_called = self._wanted
        await self._numbers.set_value(sequence, value, is_called)
        return value


class NeedsState(MustAct):
    """``pg_sequence_last_value`` has to look where a sequence stands."""

    def __init__(self, numbers: SequenceNumbers, sequence: Table) -> None:
        super().__init__(f"sequence {sequence.name}")
        self._numbers = numbers
        self._sequence = sequence

    async def act(self) -> int | None:
        """Look."""
        return await self._numbers.last_value(self._sequence)


class _Block:
    """Numbers taken and not yet handed out."""

    __slots__ = ("increment", "left", "next")

    def __init__(self, first: int, count: int, increment: int) -> None:
        self.next = first
        self.left = count
        self.increment = increment


class SequenceNumbers:
    """The blocks of numbers that this node has taken."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._blocks: dict[int, deque[_Block]] = {}
        """By storage id, in the order in which they are handed out."""
        database.on_broadcast(RESET_TOPIC, self._on_reset)

    def try_next(self, sequence: Table) -> int:
        """The next number; raises NeedsBlock."""
        blocks = self._blocks.get(sequence.storage_id)
        if not blocks:
            raise NeedsBlock(self, sequence)
        block = blocks[0]
        number = block.next
        block.next += block.increment
        block.left -= 1
        if not block.left:
            blocks.popleft()
            if not blocks:
                del self._blocks[sequence.storage_id]
        return number

    async def fill(self, sequence: Table, count: int = 1) -> None:
        """Take more numbers: ``count`` or a block, whichever is more (fewer if the sequence ends)."""
        definition = definition_of(sequence)
        first, taken = await self._advance(sequence, definition, max(count, BLOCK_NUMBERS))
        if len(self._blocks) >= MOST_BLOCKS:
            self._blocks.clear()
        blocks = self._blocks.setdefault(sequence.storage_id, deque())
        blocks.append(_Block(first, taken, definition.increment))

    async def _advance(self, sequence: Table, definition: SequenceDefinition, count: int) -> tuple[int, int]:
        """Move the sequence on by up to ``count`` numbers; returns the first one and how many."""
        key = state_key(sequence)
        for attempt in range(ATTEMPTS):
            transaction = self._database.begin(Isolation.READ_COMMITTED)
            transaction.begin_statement()
            try:
                raw = (await transaction.lock([key], LockStrength.UPDATE))[0].value
                last, is_called = (definition.first, False) if raw is None else msgspec.msgpack.decode(raw)
                first = last + definition.increment if is_called else last
                first, taken = _within_limits(sequence, definition, first, count)
                state = (first + (taken - 1) * definition.increment, True)
                transaction.put(key, msgspec.msgpack.encode(state))
                await transaction.commit()
                return first, taken
            except SerializationConflict:
                transaction.rollback()
                if attempt == ATTEMPTS - 1:
                    raise
            except (KVError, DatabaseError):
                transaction.rollback()
                raise
        raise AssertionError("unreachable")

    async def set_value(self, sequence: Table, value: int, is_called: bool) -> None:
        """``setval``: the sequence goes on from ``value``, on every node."""
        definition = definition_of(sequence)
        if not definition.minimum <= value <= definition.maximum:
            raise DatabaseError.of(
                "22003",
                f'setval: value {value} is out of bounds for sequence "{sequence.name}" '
                f"({definition.minimum}..{definition.maximum})",
            )
        await self._database.ingest([(state_key(sequence), msgspec.msgpack.encode((value, is_called)))])
        await forget_blocks(self._database, sequence, give_back=False)

    async def state(self, sequence: Table) -> tuple[int, bool]:
        """(last_value, is_called); numbers that nodes hold in memory are given back first, as far as possible."""
        await forget_blocks(self._database, sequence, give_back=True)
        definition = definition_of(sequence)
        transaction = self._database.begin(Isolation.READ_COMMITTED, read_only=True)
        transaction.begin_statement()
        try:
            raw = (await transaction.get_many([state_key(sequence)]))[0]
        finally:
            transaction.rollback()
        if raw is None:
            return definition.first, False
        value, is_called = msgspec.msgpack.decode(raw)
        if is_called and value == definition.first - definition.increment:  # all that was taken was given back
            return definition.first, False
        return value, is_called

    async def last_value(self, sequence: Table) -> int | None:
        """The last number that was handed out; None: none was."""
        value, is_called = await self.state(sequence)
        return value if is_called else None

    async def _on_reset(self, sender: int, payload: bytes) -> bytes:
        storage_id, give_back = msgspec.msgpack.decode(payload)
        blocks = self._blocks.pop(storage_id, None)
        if blocks and give_back:
            await self._give_back(storage_id, blocks)
        return b"\x01"

    async def _give_back(self, storage_id: int, blocks: deque[_Block]) -> None:
        """Undo the taking of numbers nobody got, if no other node has taken any since."""
        last = blocks[-1].next + (blocks[-1].left - 1) * blocks[-1].increment
        key = RANGE_HEAD.pack(4, storage_id, 1)
        transaction = self._database.begin(Isolation.READ_COMMITTED)
        transaction.begin_statement()
        try:
            raw = (await transaction.lock([key], LockStrength.UPDATE))[0].value
            if raw is None or msgspec.msgpack.decode(raw) != [last, True]:
                transaction.rollback()
                return
            transaction.put(key, msgspec.msgpack.encode((blocks[0].next - blocks[0].increment, True)))
            await transaction.commit()
        except KVError:
            transaction.rollback()


async def forget_blocks(database: Database, sequence: Table, *, give_back: bool) -> None:
    """Make every node drop the numbers it holds in memory, or give them back where that is possible."""
    payload = msgspec.msgpack.encode((sequence.storage_id, give_back))
    await database.broadcast(RESET_TOPIC, payload, RESET_TIMEOUT_NS)


def state_key(sequence: Table) -> bytes:
    return RANGE_HEAD.pack(4, sequence.storage_id, 1)


def _within_limits(sequence: Table, definition: SequenceDefinition, first: int, count: int) -> tuple[int, int]:
    """``first`` after wrapping around, and how many of ``count`` numbers fit."""
    if definition.increment > 0 and first > definition.maximum:
        if not definition.cycle:
            raise DatabaseError.of(
                "2200H",
                f'nextval: reached maximum value of sequence "{sequence.name}" ({definition.maximum})',
            )
        first = definition.minimum
    elif definition.increment < 0 and first < definition.minimum:
        if not definition.cycle:
            raise DatabaseError.of(
                "2200H",
                f'nextval: reached minimum value of sequence "{sequence.name}" ({definition.minimum})',
            )
        first = definition.maximum
    limit = definition.maximum if definition.increment > 0 else definition.minimum
    return first, min(count, abs(limit - first) // abs(definition.increment) + 1)
