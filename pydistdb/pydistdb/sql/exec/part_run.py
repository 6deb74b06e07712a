"""A part of a plan at the leaseholder: joins and all, over the entries of one range.

The entries of a span come in chunks, in key order.  Those of all scans of a bucket-wise part lie mixed in them, bucket after
bucket (plan/cut.py); each chunk is cut at the last bucket that begins in it, whose rest comes with the next chunk::

    chunk 1   bucket 7: u u o o o o    bucket 8: u u o          run over bucket 7, hold bucket 8 back
    chunk 2   bucket 8: o o            bucket 9: u o            run over bucket 8, …
    the end   of the range                                      bucket 9 is whole if the range ends where a bucket does

The entries of a chunk are dealt out to the scans by the table's identity in their keys, decoded, and the operators above are
run anew for each chunk: they never wait, so their coroutines can be stepped through by hand.  Where a range ends amid a
bucket, its answer speaks up to the beginning of that bucket only, and the gateway does the bucket itself.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import lru_cache

from msgspec import structs
from pydistdb_storage.keys import prefix_end
from xxhash import xxh3_128_digest

from pydistdb.kv.fragments import TooLong
from pydistdb.sql.exec.aggregate import AggregateOperator
from pydistdb.sql.exec.dealing import Inbox, InputCodec, Outgoing, Sending
from pydistdb.sql.exec.first_rows import FirstRowsOperator
from pydistdb.sql.exec.fragment import Arguments, Row, encode_arguments
from pydistdb.sql.exec.hash_join import HashJoinOperator, Table, probed_at_once
from pydistdb.sql.exec.kept import kept
from pydistdb.sql.exec.operator import Batch, FilterOperator, Operator, ProjectOperator
from pydistdb.sql.exec.part import NAME_HEAD, decode_part
from pydistdb.sql.exec.run import BATCH_ROWS, State
from pydistdb.sql.exec.scan import TableScanOperator, of_identity
from pydistdb.sql.exec.setops import DistinctOperator
from pydistdb.sql.exec.spill import RowCodec, in_batches
from pydistdb.sql.exec.tail_run import Compiled, GroupsTail, leaf_of
from pydistdb.sql.exec.tree_codec import load
from pydistdb.sql.exec.values import batch_bytes
from pydistdb.sql.exec.window import WindowOperator
from pydistdb.sql.layout import BUCKET_BYTES, HASH_IDENTITY_END, HASH_IDENTITY_START, picks_of
from pydistdb.sql.plan.expressions import map_parts
from pydistdb.sql.plan.physical import HashJoin, Leaf
from pydistdb.sql.resources import NodeResources
from pydistdb.sql.tree import Aggregate, Distinct, Filter, FirstRows, Project, Rel, Window

MOST_COMPILED = 256
MOST_DECODED = 4
"""The tables given to so many parts are at hand as rows: a span takes many answers."""
MOST_HELD_ENTRIES = 100_000
"""A larger bucket is left to the gateway."""
MOST_CHUNK_ROWS = 200_000
"""What a chunk may come to; what multiplies more is left to the gateway, which need not hold it."""
MOST_HELD_BYTES = 64 << 20
"""The same for the entries of a bucket, as they are stored, and for the rows that a chunk comes to, as Python's objects."""

Entries = tuple[Sequence[bytes], Sequence[bytes]]
"""Keys and values."""
ENTRY_OVERHEAD_BYTES = 80
MOST_RUNS_KEPT = 4
_LEAF, _GIVEN = 1 << 40, 1 << 41
"""Where the rows of leaves and given tables are in a run's shared values."""


class GivenTable:
    """A table that was sent along: its rows, and the hash table of the join with it once that has been built."""

    __slots__ = ("built", "rows", "size_bytes")

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows
        self.size_bytes = batch_bytes(rows)
        self.built: tuple[Table, int] | None = None


class Stream:
    """The rows of a leaf as they are read, once."""

    __slots__ = ("_source",)

    def __init__(self, source: AsyncIterator[Batch]) -> None:
        self._source = source

    def batches(self, state: State) -> AsyncIterator[Batch]:
        return self._source


class LeafOperator(Operator):
    """The rows of a leaf, as they are at hand."""

    def __init__(self, node: Leaf) -> None:
        super().__init__(node.columns, frozenset(node.not_null))
        self.place = (_GIVEN if node.broadcast else _LEAF) + node.number

    async def batches(self, state: State) -> AsyncIterator[Batch]:
        rows: list[Row] | Inbox | Stream | GivenTable = state.shared[self.place]
        if isinstance(rows, Inbox | Stream):
            async for batch in rows.batches(state):
                yield batch
            return
        for batch in in_batches(rows.rows if isinstance(rows, GivenTable) else rows):
            yield batch


class GivenJoinOperator(HashJoinOperator):
    """A hash join with a given table: built once for all chunks and answers of a run."""

    def __init__(self, node: HashJoin, left: Operator, right: LeafOperator) -> None:
        super().__init__(node, left, right)
        self.place = right.place

    async def batches(self, state: State) -> AsyncIterator[Batch]:
        given: GivenTable = state.shared[self.place]
        if given.built is None:
            built: Table = {}
            async for batch in self.right.batches(state):
                self.add_rows(batch, built, state)
            given.built = built, probed_at_once(built)
        table, at_once = given.built
        if not table and self.kind in ("inner", "semi"):
            return
        async for batch in self.left.batches(state):
            for start in range(0, len(batch), at_once):
                output = self.probe(batch[start : start + at_once], table, set(), state)
                for part in in_batches(output, 4 * BATCH_ROWS):
                    yield part
                await state.breathe()


def operator_of(node: Rel) -> Operator:
    """The operator of a part's relation."""
    match node:
        case Leaf():
            return LeafOperator(node)
        case Filter():
            return FilterOperator(operator_of(node.input), node.condition)
        case Project():
            return ProjectOperator(operator_of(node.input), node.columns, node.expressions)
        case HashJoin(right=Leaf(broadcast=True) as right):
            return GivenJoinOperator(node, operator_of(node.left), LeafOperator(right))
        case HashJoin():
            return HashJoinOperator(node, operator_of(node.left), operator_of(node.right))
        case Aggregate():
            return AggregateOperator(operator_of(node.input), node)
        case Distinct():
            return DistinctOperator(operator_of(node.input), node.on)
        case Window():
            return WindowOperator(operator_of(node.input), node)
        case FirstRows():
            return FirstRowsOperator(operator_of(node.input), node)
    raise AssertionError(f"{type(node).__name__} in a part of a plan")


class CompiledPart(Compiled):
    """The operators of a part; ``scan`` is the topmost one."""

    def __init__(self, data: bytes) -> None:
        text = decode_part(data[len(b"part") :])
        scans, given, part, self.outer, self.parameters, keys, groups, calls, inputs, self.dealt_by, *sets = load(
            text.tree
        )
        self.by_bucket = text.by_bucket
        self.scans: list[TableScanOperator] = []
        self.identities = [each.identity for each in text.scans]
        self.picks = picks_of(*self.identities)
        for each, (columns, condition, output_columns, output) in zip(text.scans, scans, strict=True):
            self.scans.append(leaf_of(each, columns, condition).project(output_columns, output))
        self.given = [RowCodec([column.type for column in columns]) for columns in given]
        self.inputs = [
            InputCodec([column.type for column in columns], [group.type for group in groups_of])
            for columns, groups_of in inputs
        ]
        self.scan = operator_of(with_not_null(part, self.scans))
        self.set_tail(text.kind, keys, groups, calls, *sets)

    def deal(self, keys: Sequence[bytes], values: Sequence[bytes], state: State) -> bool:
        """Put the rows behind entries before the leaves; False: there are none."""
        if len(self.scans) == 1:
            rows = state.shared[_LEAF] = self.decoded(keys, values, state)
            return bool(rows)
        dealt: dict[bytes, tuple[list[bytes], list[bytes]]] = {identity: ([], []) for identity in self.identities}
        get = dealt.get
        for key, value in zip(keys, values, strict=True):
            mine = get(key[HASH_IDENTITY_START:HASH_IDENTITY_END])
            if mine is not None:
                mine[0].append(key)
                mine[1].append(value)
        some = False
        for number, (scan, identity) in enumerate(zip(self.scans, self.identities, strict=True)):
            mine = dealt[identity]
            rows = state.shared[_LEAF + number] = scan.decode(*mine, state) if mine[0] else []
            some = some or bool(rows)
        return some

    def dealt_bytes(self, state: State) -> int:
        """What the rows before the leaves take in memory."""
        return sum([batch_bytes(state.shared[_LEAF + number]) for number in range(len(self.scans))])

    def decoded(self, keys: Sequence[bytes], values: Sequence[bytes], state: State) -> list[Row]:
        """The rows behind entries, where there is one scan."""
        if self.identities[0]:
            keys, values = of_identity(keys, values, self.identities[0])
        return self.scans[0].decode(keys, values, state) if keys else []

    def set_stream(self, source: AsyncIterator[Batch], state: State) -> None:
        """Have the leaf of the one scan read rows as they come."""
        state.shared[_LEAF] = Stream(source)

    def set_inputs(self, inboxes: Sequence[Inbox], state: State) -> None:
        """Have the leaves read what has been dealt to this node."""
        for number, inbox in enumerate(inboxes):
            state.shared[_LEAF + number] = inbox

    def decode_given(self, blocks: Sequence[bytes]) -> list[GivenTable]:
        return [GivenTable(codec.decode(block)) for codec, block in zip(self.given, blocks, strict=True)]

    def set_given(self, tables: Sequence[GivenTable], state: State) -> None:
        for number, table in enumerate(tables):
            state.shared[_GIVEN + number] = table


@lru_cache(maxsize=MOST_DECODED)
def given_rows(part: CompiledPart, name: bytes) -> list[list[Row]]:
    """The rows of the tables given to a part; raises Lacking."""
    return [codec.decode(block) for codec, block in zip(part.given, kept.get(name), strict=True)]


def with_not_null(part: Rel, scans: Sequence[TableScanOperator]) -> Rel:
    """The part with what is known of its leaves' columns."""

    def known(relation: Rel) -> Rel:
        if isinstance(relation, Leaf):
            given = relation.broadcast or not scans
            return relation if given else replace(relation, not_null=tuple(scans[relation.number].not_null))
        return map_parts(relation, on_relation=known)

    return known(part)


compiled_part = lru_cache(maxsize=MOST_COMPILED)(CompiledPart)


class GivenTables:
    """The given tables of the runs that were asked for last: a span takes many answers, and neither reading the rows nor
    building their hash tables is done anew for each.  A run is known by its part and arguments, time included."""

    def __init__(self) -> None:
        self._runs: OrderedDict[tuple[CompiledPart, bytes], list[GivenTable]] = OrderedDict()

    def of(self, part: CompiledPart, arguments: Arguments) -> list[GivenTable]:
        """Raises Lacking."""
        run = part, encode_arguments(structs.replace(arguments, blocks=[]))
        found = self._runs.get(run)
        if found is None:
            if arguments.blocks:
                kept.put(arguments.tables, arguments.blocks)
            found = self._runs[run] = [GivenTable(rows) for rows in given_rows(part, arguments.tables)]
            if len(self._runs) > MOST_RUNS_KEPT:
                self._runs.popitem(last=False)
        self._runs.move_to_end(run)
        return found

    def clear(self) -> None:
        self._runs.clear()


given_tables = GivenTables()


def part_run(text: bytes, arguments: Arguments, node: NodeResources | None = None) -> PartRun:
    """Begin the run of a part that came, or is known, by ``text``."""
    if text.startswith(NAME_HEAD):
        (text,) = kept.get(text)
    else:
        kept.put(NAME_HEAD + xxh3_128_digest(text), [text])
    return PartRun(compiled_part(text), arguments, node)


def bucket_of(key: bytes) -> bytes:
    """Where the bucket that a key lies in begins."""
    return key[:BUCKET_BYTES]


def bucket_end(key: bytes) -> bytes:
    """Where the bucket that a key lies in ends."""
    return prefix_end(bucket_of(key))


def entries_bytes(keys: Sequence[bytes], values: Sequence[bytes]) -> int:
    """What entries take in memory."""
    return sum(map(len, keys)) + sum(map(len, values)) + len(keys) * ENTRY_OVERHEAD_BYTES


class Buckets:
    """Cuts chunks of entries into whole buckets and what may go on in the next chunk."""

    def __init__(self, by_bucket: bool, most_entries: int, most_bytes: int) -> None:
        self._by_bucket = by_bucket
        self._most_entries = most_entries
        self._most_bytes = most_bytes
        self.size_bytes = 0
        """Of what is held back."""
        self.keys: list[bytes] = []
        self.values: list[bytes] = []

    def take(self, keys: Sequence[bytes], values: Sequence[bytes]) -> Entries | None:
        """The entries to work on now that these have come."""
        if not keys:
            return None
        if not self._by_bucket:
            return keys, values
        whole = bisect_left(keys, bucket_of(keys[-1]))
        same = bool(self.keys) and bucket_of(self.keys[0]) == bucket_of(keys[-1])
        if same or (not whole and not self.keys):
            self.keys += keys
            self.values += values
            self.size_bytes += entries_bytes(keys, values)
            if len(self.keys) > self._most_entries or self.size_bytes > self._most_bytes:
                raise TooLong
            return None
        ready = self.keys + list(keys[:whole]), self.values + list(values[:whole])
        self.keys, self.values = list(keys[whole:]), list(values[whole:])
        self.size_bytes = entries_bytes(self.keys, self.values)
        return ready

    def close(self, resume: bytes | None, end: bytes) -> tuple[bytes | None, Entries | None]:
        """How far whole buckets reach, if entries have come up to ``resume`` (None: ``end``), and the last ones to work on."""
        if not self._by_bucket:
            return resume, None
        held = self.keys, self.values
        self.keys, self.values = [], []
        self.size_bytes = 0
        if resume is None and len(end) <= BUCKET_BYTES:
            return None, held if held[0] else None
        return bucket_of(held[0][0] if held[0] else end if resume is None else resume), None


class PartRun:
    """One evaluation of a part over a span; a fragment run."""

    is_upkeep = False

    def __init__(self, part: CompiledPart, arguments: Arguments, node: NodeResources | None) -> None:
        self.part = part
        self.picks = part.picks
        self.state = part.state(arguments, node)
        self._held = self.state.hold()
        self.tail = part.make(part, self.state, arguments.wanted)
        self.sending = None if arguments.deal is None else Sending(arguments.deal)
        self._given_bytes = 0
        if arguments.tables:
            given = given_tables.of(part, arguments)
            part.set_given(given, self.state)
            self._given_bytes = sum([table.size_bytes for table in given])
        self._buckets = Buckets(part.by_bucket, MOST_HELD_ENTRIES, MOST_HELD_BYTES)
        self._work: AsyncIterator[Batch] | None = None
        self._rows = 0

    def take(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        self._begin(self._buckets.take(keys, values))

    def _begin(self, entries: Entries | None) -> None:
        self._rows = 0
        if entries is not None and self.part.deal(*entries, self.state):
            self._work = self.part.scan.batches(self.state)
        rows_bytes = 0 if self._work is None else self.part.dealt_bytes(self.state)
        self._held.resize(self._given_bytes + self._buckets.size_bytes + rows_bytes)

    def step(self) -> bool:
        if self._work is None:
            return False
        try:
            self._work.__anext__().__await__().send(None)
        except StopIteration as found:
            batch: Batch = found.value
        except StopAsyncIteration:
            self._work = None
            return False
        else:
            raise AssertionError("a part of a plan never waits")
        self._rows += len(batch)
        self.tail.bytes += batch_bytes(batch)
        self.tail.add(batch)
        if self._rows > MOST_CHUNK_ROWS or self.tail.held.size_bytes > MOST_HELD_BYTES:
            raise TooLong
        return True

    def close(self, resume: bytes | None, end: bytes) -> bytes | None:
        covered, entries = self._buckets.close(resume, end)
        self._begin(entries)
        return covered

    @property
    def is_full(self) -> bool:
        return self.tail.is_full

    def outgoing(self) -> Outgoing:
        sending = self.sending
        if sending is None:
            return []
        return sending.pack(self.tail.dealt(len(sending.to.nodes)), partial=isinstance(self.tail, GroupsTail))

    def finish(self) -> bytes:
        return self.tail.finish() if self.sending is None else self.sending.receipt()

    @property
    def peaks_bytes(self) -> tuple[int, int]:
        return self.state.resources.peaks_bytes

    def release(self) -> None:
        self._work = None
        self.state.shared.clear()
        self.state.close()
