"""A part of the plan done where its rows lie: the gateway's operator.

If all its ranges are led here, the part is run as any plan is.  Otherwise it is cut into leaves and what is above them
(plan/cut.py), tables to be given to every node are computed, and the ranges are asked side by side for what they make of
their entries; a range that is led here is worked on here, in the same way but without answers of bounded size::

    AtShards(Project(users ⋈ orders))        ranges  [05 group 0000, 5555) node 1, here      rows
                                                     [05 group 5555, AAAA) node 2            Evaluate → groups
                                                     [05 group AAAA, FFFF] node 3            Evaluate → groups

Buckets must not be torn apart (part_run.py): spans are asked from the beginning of a bucket to the beginning of another, and
a bucket that crosses the boundary between two ranges is read entry by entry and done here.  So is what a node refuses, and
what the transaction itself has written in; a part of one scan, windows or groups, takes its rows there as they come, so that a
bucket may be larger than memory.  Every entry is read at the statement's timestamp, whatever moves meanwhile.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from functools import cached_property
from time import perf_counter

from msgspec import structs

from pydistdb.kv.api import MustWait, SpanPart
from pydistdb.kv.fragments import TooLong
from pydistdb.sql.errors import ProgramLimitExceeded
from pydistdb.sql.exec.fragment import DealTo, Row, encode_arguments
from pydistdb.sql.exec.kept import holders
from pydistdb.sql.exec.memory import Holding
from pydistdb.sql.exec.operator import Batch, Operator
from pydistdb.sql.exec.part import Part, most_given_bytes
from pydistdb.sql.exec.part_run import (
    Buckets,
    CompiledPart,
    Entries,
    GivenTable,
    bucket_end,
    bucket_of,
    compiled_part,
)
from pydistdb.sql.exec.run import BATCH_ROWS, State
from pydistdb.sql.exec.scan import Bounds
from pydistdb.sql.exec.scatter import WIDTH, scatter
from pydistdb.sql.exec.shards import shard_of
from pydistdb.sql.exec.tree_codec import NotPortable
from pydistdb.sql.layout import BUCKET_BYTES, TableLayout
from pydistdb.sql.plan.cut import Cut
from pydistdb.sql.plan.distribute import Tail
from pydistdb.sql.plan.explain_formats import ShardActual
from pydistdb.sql.plan.physical import AtShards
from pydistdb.sql.tree import Expr

MOST_BUCKET_ENTRIES = 2_000_000
"""What lies in one bucket is held in memory at once."""
LOCAL_ENTRIES = 4 * BATCH_ROWS


class AtShardsOperator(Operator):
    """See the module's introduction.  ``plain`` does the part at the gateway, ``given`` make the tables to be sent along."""

    def __init__(self, node: AtShards, cut: Cut, plain: Operator, given: Sequence[Operator]) -> None:
        super().__init__(plain.columns, plain.not_null)
        self.node = node
        self.cut = cut
        self.plain = plain
        self.given = tuple(given)
        self.tail: Tail | None = None
        """What is done at the shards to the part's rows (the compiler sets it)."""
        self.layouts = [TableLayout.of(scan.node.table) for scan in cut.scans]

    @cached_property
    def part(self) -> Part | None:
        """What is sent; None if it cannot be."""
        return self.part_with(self.tail) or self.part_with(None)

    def part_with(self, tail: Tail | None, deal: tuple[Expr, ...] = ()) -> Part | None:
        """The part with another tail, whose rows are dealt out by ``deal``."""
        identities = []
        for scan, layout in zip(self.cut.scans, self.layouts, strict=True):
            index = layout.by_storage_id[scan.node.access.index.storage_id]
            identities.append(index.identity if index.hashed else b"")
        try:
            return Part(self.cut, identities, tail, deal=deal)
        except NotPortable:
            return None

    @cached_property
    def bounds(self) -> Bounds:
        return Bounds(self.layouts[0], self.cut.scans[0].node.access)

    def spans(self, state: State) -> list[tuple[bytes, bytes]]:
        """Where the part's entries lie."""
        return [(span.start, span.end) for span in self.bounds.spans(state)]

    async def batches(self, state: State) -> AsyncIterator[Batch]:
        spans = self.spans(state)
        is_local = state.transaction.is_local
        if self.part is None or all(is_local(start, end) for start, end in spans):
            async for batch in self.plain.batches(state):
                yield batch
            return
        with state.hold(self.actual) as held:
            tables = await self.tables(state, held)
            if tables is not None and not all(tables[number] for number in self.cut.deciding):
                return
            source = self.plain.batches(state) if tables is None else self._scattered(self.part, tables, spans, state)
            async for batch in source:
                yield batch
                await state.breathe()

    def _scattered(
        self, part: Part, tables: Sequence[list[Row]], spans: Sequence[tuple[bytes, bytes]], state: State
    ) -> AsyncIterator[Batch]:
        kind = "" if self.tail is None else self.tail.kind
        return scatter(
            state.scheduler,
            ShardsRun(self, part, state, tables).streams(spans),
            ordered=self.tail is None or self.tail.is_ordered,
            width=1 if kind == "limit" else WIDTH,
        )

    async def tables(self, state: State, held: Holding) -> list[list[Row]] | None:
        """The rows of the tables to be given to the shards; None if they are too many."""
        tables: list[list[Row]] = []
        most_bytes = most_given_bytes(self.cut)
        for operator in self.given:
            rows: list[Row] = []
            async for batch in operator.batches(state):
                rows += batch
                held.take(batch)
                if held.size_bytes > most_bytes:
                    held.clear()
                    return None
            tables.append(rows)
        return tables


class ShardsRun:
    """The operator at work for one statement.  ``deal``: where the rows go, if not to the gateway (repartition.py)."""

    def __init__(
        self,
        operator: AtShardsOperator,
        part: Part,
        state: State,
        tables: Sequence[list[Row]],
        deal: DealTo | None = None,
    ) -> None:
        self.operator = operator
        self.part = part
        self.state = state
        self.given = [GivenTable(rows) for rows in tables]
        self.deal = deal
        self.by_bucket = part.cut.by_bucket
        self.reverse = not self.by_bucket and part.cut.scans[0].node.access.reverse
        whole = structs.replace(part.arguments(state, None), deal=deal)
        if tables:
            name, blocks = part.given(tables)
            whole = structs.replace(whole, tables=name, blocks=blocks)
        self.whole = part.data, encode_arguments(whole)
        self.named = part.name, encode_arguments(structs.replace(whole, blocks=[]))
        self.holders = holders.of(part.name + whole.tables)
        """The nodes that have been sent the whole of it."""

    @cached_property
    def compiled(self) -> CompiledPart:
        return compiled_part(self.part.data)

    async def streams(self, spans: Sequence[tuple[bytes, bytes]]) -> AsyncIterator[AsyncIterator[Batch]]:
        for start, end in spans:
            while start < end:
                found = await self.state.transaction.part_at(start, end, reverse=self.reverse)
                if self.by_bucket and len(found.end) > BUCKET_BYTES and found.end < end:
                    # The range ends amid a bucket.
                    edge = bucket_of(found.end)
                    stop = edge if edge > start else min(bucket_end(start), end)
                    found = found._replace(end=stop, is_local=found.is_local or stop > edge)
                shard = shard_of(self.operator.actual, found)
                if found.is_local:
                    yield self.here(found.start, found.end, shard)
                else:
                    yield self._there(found, shard)
                if self.reverse:
                    end = found.start
                else:
                    start = found.end

    async def _there(self, found: SpanPart, shard: ShardActual | None) -> AsyncIterator[Batch]:
        """A span worked on by its leaseholder, answer by answer."""
        state, reverse = self.state, self.reverse
        start, end = found.start, found.end
        sent = self.named
        if found.leader not in self.holders:
            sent = self.whole
            self.holders.add(found.leader)
        while start < end:
            state.run.check_interrupt()
            begun = perf_counter()
            answer = await state.transaction.evaluate(*sent, start, end, reverse=reverse)
            if shard is not None and answer is not None:
                shard.calls += 1
                shard.seconds += perf_counter() - begun
                shard.bytes += len(answer.output) + sum(map(len, sent))
            if answer is not None and answer.lacking and sent is not self.whole:
                sent = self.whole
                continue
            if answer is None or answer.lacking:
                async for batch in self.here(start, end, shard):
                    yield batch
                return
            if shard is not None and shard.cached is None:
                shard.cached = sent is self.named
            sent = self.named
            self.holders.add(answer.node)  # the leader may have been another one than was thought
            rows = self.read(answer.output)
            if shard is not None:
                shard.entries += answer.entries
                shard.rows += self.count(rows)
                shard.nodes.add(answer.node)
                shard.note_held(answer.memory_bytes, answer.disk_bytes)
            if answer.resume == start and not reverse:
                # The range has been split amid a bucket.
                stop = min(bucket_end(start), end)
                async for batch in self.here(start, stop, shard):
                    yield batch
                start = stop
                continue
            if rows:
                yield rows
            if answer.resume is None:
                return
            if reverse:
                end = answer.resume
            else:
                start = answer.resume

    def read(self, output: bytes) -> Batch:
        """What an answer says."""
        return self.part.read(output)

    def count(self, rows: Batch) -> int:
        return len(rows)

    async def here(self, start: bytes, end: bytes, shard: ShardActual | None) -> AsyncIterator[Batch]:
        """A span read entry by entry, from whatever ranges, and worked on at this node."""
        state = State(self.state.run)
        state.outer.update(self.state.outer)
        part = self.compiled
        part.set_given(self.given, state)
        begun = perf_counter()
        output = self._streamed if len(part.scans) == 1 else self._by_bucket
        try:
            async for batch in output(start, end, shard, state):
                if shard is not None:
                    shard.rows += len(batch)
                    shard.seconds += perf_counter() - begun
                yield batch
                begun = perf_counter()
        finally:
            if shard is not None:
                shard.note_held(*state.resources.peaks_bytes)
            state.close()

    async def _streamed(
        self, start: bytes, end: bytes, shard: ShardActual | None, state: State
    ) -> AsyncIterator[Batch]:
        """With one scan nothing has to meet: buckets may be as large as they like, the steps above go to disk."""
        part = self.compiled

        async def rows() -> AsyncIterator[Batch]:
            async for entries in self._entries(start, end, shard):
                yield part.decoded(*entries, state)
                await state.breathe()

        part.set_stream(rows(), state)
        async for batch in part.scan.batches(state):
            yield batch

    async def _by_bucket(
        self, start: bytes, end: bytes, shard: ShardActual | None, state: State
    ) -> AsyncIterator[Batch]:
        part = self.compiled
        buckets = Buckets(self.by_bucket, MOST_BUCKET_ENTRIES, sys.maxsize)
        held = state.hold()
        async for entries in self._entries(start, end, shard):
            try:
                ready = buckets.take(*entries)
                held.resize(buckets.size_bytes)
            except TooLong:
                raise ProgramLimitExceeded(
                    f"more than {MOST_BUCKET_ENTRIES} rows have the same hash of their shard columns",
                    hint="SET enable_shardjoin = off joins tables without regard to how they are sharded.",
                ) from None
            if ready is not None and part.deal(*ready, state):
                async for batch in part.scan.batches(state):
                    yield batch
            await state.breathe()
        rest = buckets.close(None, b"")[1]
        if rest is not None and part.deal(*rest, state):
            async for batch in part.scan.batches(state):
                yield batch

    async def _entries(self, start: bytes, end: bytes, shard: ShardActual | None) -> AsyncIterator[Entries]:
        """The entries of a span, chunk by chunk."""
        transaction = self.state.transaction
        picks = self.compiled.picks
        while True:
            try:
                found = transaction.try_scan(start, end, limit=LOCAL_ENTRIES, reverse=self.reverse, picks=picks)
            except MustWait:
                found = await transaction.scan(start, end, limit=LOCAL_ENTRIES, reverse=self.reverse, picks=picks)
            keys, values, resume = found
            if shard is not None:
                shard.entries += len(keys)
            yield keys, values
            if resume is None:
                return
            if self.reverse:
                end = resume
            else:
                start = resume
