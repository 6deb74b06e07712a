"""A scan over ranges of which some are led elsewhere: parts of it, side by side.

Each span is cut up by range.  A part that is led here is read as ever; one that is led elsewhere is evaluated there as a
fragment (``fragment.py``), answer by answer; one that cannot be (the transaction's own writes lie in it, the leaseholder
refuses, the scan is not portable) is read entry by entry.  Whatever changes about the ranges meanwhile, every part is read
at the statement's timestamp, and an answer says how far it goes::

    spans  [a, z)       parts  [a, g) here: rows        [g, p) node 2: groups        [p, z) node 3: groups

Parts come in the order of the scan if the rows do, and as they come if a tail (plan/distribute.py) has no use for order.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

from msgspec import structs
from xxhash import xxh3_128_digest

from pydistdb.kv.api import SpanPart
from pydistdb.sql.exec.fragment import Arguments, Fragment, encode_arguments
from pydistdb.sql.exec.key_filter import SentKeys
from pydistdb.sql.exec.last_answers import SAME, last_answers
from pydistdb.sql.exec.operator import Batch
from pydistdb.sql.exec.run import State
from pydistdb.sql.exec.scatter import WIDTH, scatter
from pydistdb.sql.layout import Span
from pydistdb.sql.plan.explain_formats import Actual, ShardActual

if TYPE_CHECKING:
    from pydistdb.sql.exec.scan import TableScanOperator


async def over_shards(scan: TableScanOperator, spans: Sequence[Span], state: State) -> AsyncIterator[Batch]:
    """The rows of the scan in batches, those of other nodes with the scan's tail done to them."""
    fragment = scan.fragment
    kind = "" if scan.tail is None else scan.tail.kind
    hurried = kind == "limit" or bool(scan.node.most_rows)
    streams = _streams(scan, fragment, spans, state)
    ordered = scan.tail is None or scan.tail.is_ordered
    async for batch in scatter(state.scheduler, streams, ordered=ordered, width=1 if hurried else WIDTH):
        yield batch
        await state.breathe()


async def _streams(
    scan: TableScanOperator, fragment: Fragment | None, spans: Sequence[Span], state: State
) -> AsyncIterator[AsyncIterator[Batch]]:
    reverse = scan.node.access.reverse
    transaction = state.transaction
    for start, end, identity in spans:
        arguments = None if fragment is None else _arguments(scan, fragment, identity, state)
        while start < end:
            part = await transaction.part_at(start, end, reverse=reverse)
            if fragment is None or arguments is None or part.is_local:
                yield rows_of(scan, Span(part.start, part.end, identity), state, shard_of(scan.actual, part))
            else:
                yield _evaluated(scan, fragment, arguments, part, identity, state)
            if reverse:
                end = part.start
            else:
                start = part.end


class Sent(NamedTuple):
    """The arguments of a run: ``whole``, and without what a node should know by now."""

    arguments: Arguments
    whole: bytes
    named: bytes
    holders: set[int]
    """The nodes that have been sent the whole."""

    def for_node(self, node: int) -> bytes:
        if node in self.holders:
            return self.named
        self.holders.add(node)
        return self.whole

    def knowing(self, output: bytes) -> bytes:
        """The arguments for a node that need not give this answer again."""
        return encode_arguments(structs.replace(self.arguments, known=xxh3_128_digest(output)))


def _arguments(scan: TableScanOperator, fragment: Fragment, identity: bytes | None, state: State) -> Sent:
    arguments = fragment.arguments(state, identity)
    sent: SentKeys | None = state.shared.get(id(scan)) if scan.filter_keys else None
    keys = None if sent is None else sent.bits
    if keys is None:
        encoded = encode_arguments(arguments)
        return Sent(arguments, encoded, encoded, set())
    named = structs.replace(arguments, tables=xxh3_128_digest(keys))
    return Sent(named, encode_arguments(structs.replace(named, blocks=[keys])), encode_arguments(named), set())


async def rows_of(scan: TableScanOperator, span: Span, state: State, shard: ShardActual | None) -> AsyncIterator[Batch]:
    """A part read entry by entry."""
    begun = perf_counter()
    async for keys, values in scan.chunks(state, [span]):
        output = scan.wanted(scan.decode(keys, values, state), state)
        if shard is not None:
            shard.entries += len(keys)
            shard.rows += len(output)
            shard.seconds += perf_counter() - begun
        if output:
            yield output
        begun = perf_counter()


async def _evaluated(
    scan: TableScanOperator,
    fragment: Fragment,
    sent: Sent,
    part: SpanPart,
    identity: bytes | None,
    state: State,
) -> AsyncIterator[Batch]:
    """A part evaluated where it lies."""
    reverse = scan.node.access.reverse
    start, end = part.start, part.end
    shard = shard_of(scan.actual, part)
    arguments = sent.for_node(part.leader)
    remembers = scan.node.table.reference and not scan.filter_keys
    while start < end:
        state.run.check_interrupt()
        begun = perf_counter()
        question = fragment.data, start, end
        last = last_answers.get(question) if remembers else None
        if last is not None:
            arguments = sent.knowing(last)
        answer = await state.transaction.evaluate(fragment.data, arguments, start, end, reverse=reverse)
        if answer is not None and answer.lacking and arguments is not sent.whole:
            arguments = sent.whole
            continue
        if answer is None or answer.lacking:
            async for batch in rows_of(scan, Span(start, end, identity), state, shard):
                yield batch
            return
        output = answer.output
        if last is not None and output == SAME:
            output = last
        elif remembers:
            last_answers.put(question, output)
        rows = fragment.read(output)
        if shard is not None:
            shard.entries += answer.entries
            shard.rows += len(rows)
            shard.bytes += len(answer.output) + len(fragment.data) + len(arguments)
            shard.calls += 1
            shard.seconds += perf_counter() - begun
            shard.nodes.add(answer.node)
            shard.note_held(answer.memory_bytes, answer.disk_bytes)
        arguments = sent.named
        if rows:
            yield rows
        if answer.resume is None:
            return
        if reverse:
            end = answer.resume
        else:
            start = answer.resume


def shard_of(actual: Actual | None, part: SpanPart) -> ShardActual | None:
    """Where EXPLAIN ANALYZE counts what is done in a range."""
    if actual is None:
        return None
    return actual.shards.setdefault(part.range_id, ShardActual())
