"""Joins and groups over an exchange between the nodes: the gateway's operator.

If the ranges of all that is read are led by one node, the plan below is run as any plan is.  Otherwise every node that leads
some of them takes a share (plan/repartition.py)::

    Open      at nodes 1, 2, 3                   what to do with what they will be dealt (exchange.py)
    Evaluate  each range of orders, customers    the rows go to the nodes by their hash; receipts come here (dealing.py)
    Draw      at nodes 1, 2, 3, side by side     rows, or states of groups, for the step above
    Close     at nodes 1, 2, 3

Rows are read as in any scan at the shards (at_shards.py), at the statement's timestamp, whatever moves meanwhile; what the
transaction itself has written in, and what a leaseholder refuses, is read and dealt out by the gateway.  If a node of the
exchange is lost, or meets an error, everything is done anew without an exchange, at the same timestamp.  So that nobody notices,
rows are held back until all are there or work_mem is full; after that the statement is run again, if nothing of it has left,
and without an exchange when that has happened MOST_LOST times.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from functools import cached_property
from time import perf_counter

from msgspec import structs

from pydistdb.kv.api import ExchangeLost, TransactionAborted
from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.exec.at_shards import AtShardsOperator, ShardsRun
from pydistdb.sql.exec.dealing import TOPIC, Receipt, Sending, decode_receipt
from pydistdb.sql.exec.exchange import Close, Draw, Open, decode_drawn, encode, running
from pydistdb.sql.exec.fragment import DealTo, Row, encode_arguments
from pydistdb.sql.exec.memory import Holding
from pydistdb.sql.exec.operator import Batch, Operator
from pydistdb.sql.exec.part import MOST_REFERENCE_BYTES, Part
from pydistdb.sql.exec.run import State
from pydistdb.sql.exec.scatter import scatter
from pydistdb.sql.exec.tail_run import GroupsTail, RowsTail
from pydistdb.sql.exec.tree_codec import NotPortable
from pydistdb.sql.exec.values import batch_bytes
from pydistdb.sql.plan.cut import Cut
from pydistdb.sql.plan.distribute import Tail
from pydistdb.sql.plan.explain_formats import Actual, ShardActual
from pydistdb.sql.plan.physical import Repartitioned
from pydistdb.sql.tree import Expr
from pydistdb.tasks import gather

LEAST_NODES = 2
MOST_LOST = 2
_Answer = tuple[bytes, ShardActual | None]
"""Rows or a receipt, and where EXPLAIN ANALYZE counts them."""
HELD_SHARE = 4
"""An answer in memory is so many times as long as on its way."""


class _Failed(ExchangeLost):
    """A node has met an error of the statement's own."""

    def __init__(self, sqlstate: str, message: str, detail: str, hint: str) -> None:
        super().__init__(message)
        self.error = DatabaseError.of(sqlstate, message, detail=detail or None, hint=hint or None)

    @property
    def is_final(self) -> bool:
        """It is of memory or disk: without an exchange it would take even more of them at one node."""
        return self.error.sqlstate.startswith("53")


class RepartitionedOperator(Operator):
    """See the module's introduction.  ``plain`` does without an exchange; ``sources`` are what is dealt, ``given`` what is given
    to every node."""

    def __init__(
        self,
        node: Repartitioned,
        found: Cut,
        plain: Operator,
        sources: Sequence[AtShardsOperator | RepartitionedOperator],
        given: Sequence[Operator],
    ) -> None:
        super().__init__(plain.columns, plain.not_null)
        self.node = node
        self.cut = found
        self.plain = plain
        self.sources = tuple(sources)
        self.given = tuple(given)
        self.tail: Tail | None = None
        """What is done at the nodes to the rows (the compiler sets it)."""
        self.input_actuals: list[Actual] | None = None
        """Where EXPLAIN ANALYZE counts what each input was dealt."""

    @cached_property
    def part(self) -> Part | None:
        return self.part_with(self.tail)

    def part_with(self, tail: Tail | None, deal: tuple[Expr, ...] = ()) -> Part | None:
        """What the nodes do; None if it cannot be sent."""
        groups = tuple([each.groups if each is not None else () for each in self.cut.input_tails])
        try:
            return Part(self.cut, (), tail, deal=deal, input_groups=groups)
        except NotPortable:
            return None

    @cached_property
    def input_parts(self) -> list[Part] | None:
        """What is done to the inputs where they are; None if it cannot be sent."""
        parts: list[Part] = []
        for source, exchange, tail in zip(self.sources, self.cut.inputs, self.cut.input_tails, strict=True):
            part = source.part_with(tail, exchange.keys)
            if part is None or (isinstance(source, RepartitionedOperator) and source.input_parts is None):
                return None
            parts.append(part)
        return parts

    def leaves(self) -> list[AtShardsOperator]:
        """Where everything is read."""
        return [
            leaf
            for source in self.sources
            for leaf in ([source] if isinstance(source, AtShardsOperator) else source.leaves())
        ]

    async def nodes(self, state: State) -> tuple[int, ...]:
        """The nodes that lead what is read."""
        found: set[int] = set()
        transaction = state.transaction
        for leaf in self.leaves():
            for start, end in leaf.spans(state):
                while start < end:
                    part = await transaction.part_at(start, end)
                    leader = state.run.database.node_id if part.is_local else part.leader
                    if not leader:
                        leader = (await state.run.database.ranges(part.start, part.end))[0].leader
                    found.add(leader)
                    start = part.end
        return tuple(sorted(found - {0}))

    async def batches(self, state: State) -> AsyncIterator[Batch]:
        is_local = state.transaction.is_local
        spans = [span for leaf in self.leaves() for span in leaf.spans(state)]
        nodes: tuple[int, ...] = ()
        if state.run.attempt < MOST_LOST and not all(is_local(start, end) for start, end in spans):
            nodes = await self.nodes(state)
        if len(nodes) >= LEAST_NODES and self.part is not None and self.input_parts is not None:
            exchange = _Exchanges(nodes, state)
            held: list[Batch] = []
            sent = lost = False
            with state.hold(self.actual) as holding:
                try:
                    async for batch, size_bytes in exchange.rows(self, self.part):
                        if sent:
                            yield batch
                            continue
                        held.append(batch)
                        holding.resize(holding.size_bytes + size_bytes)
                        if holding.is_over:
                            sent = True
                            for each in held:
                                yield each
                            held.clear()
                            holding.clear()
                except ExchangeLost as error:
                    if isinstance(error, _Failed) and (sent or error.is_final):
                        raise error.error from None
                    if sent:
                        raise TransactionAborted(f"an exchange between nodes was lost: {error}") from error
                    lost = True
                finally:
                    exchange.close()
                if not lost:
                    for each in held:
                        yield each
                        await state.breathe()
                    return
        async for batch in self.plain.batches(state):
            yield batch


class _Exchanges:
    """The exchanges of one run."""

    def __init__(self, nodes: tuple[int, ...], state: State) -> None:
        self.nodes = nodes
        self.state = state
        self.database = state.run.database
        self.opened: list[bytes] = []

    async def rows(self, operator: RepartitionedOperator, part: Part) -> AsyncIterator[tuple[Batch, int]]:
        """What the nodes make of what they are dealt, with its size."""
        exchange, counted = await self._fill(operator, part, None)
        async for output, shard in self._drawn(exchange, counted, operator.actual):
            rows = part.read(output)
            if shard is not None:
                shard.rows += len(rows)
            if rows:
                yield rows, len(output) * HELD_SHARE
            await self.state.breathe()

    def close(self) -> None:
        """Have the nodes let go of everything; nobody waits for that."""
        scheduler = self.state.scheduler
        for exchange in self.opened:
            running.discard(exchange)
            for node in self.nodes:
                scheduler.spawn(self._close(node, exchange), "closing an exchange")

    async def _close(self, node: int, exchange: bytes) -> None:
        try:
            await self.database.ask(node, TOPIC, encode(Close(exchange)))
        except Exception:  # it finds out itself that nobody wants it any more
            return

    async def _fill(
        self, operator: RepartitionedOperator, part: Part, deal: DealTo | None
    ) -> tuple[bytes, list[list[bytes]]]:
        """Open an exchange at all nodes and deal out its inputs: its name, and the attempts that count."""
        state = self.state
        exchange = os.urandom(16)
        arguments = structs.replace(part.arguments(state, None), deal=deal)
        with state.hold() as held:
            tables = await _given(operator.given, state, held)
            if tables:
                name, blocks = part.given(tables)
                arguments = structs.replace(arguments, tables=name, blocks=blocks)
            del tables
        message = encode(Open(exchange, part.data, encode_arguments(arguments)))
        self.opened.append(exchange)
        running.add(exchange)
        opening = [state.scheduler.spawn(self.database.ask(node, TOPIC, message), "opening") for node in self.nodes]
        for each in opening:  # not gathered: a statement that is cancelled need not wait for a node that hangs
            await each.completion
        counted: list[list[bytes]] = []
        assert operator.input_parts is not None
        for number, (source, input_part) in enumerate(zip(operator.sources, operator.input_parts, strict=True)):
            actual = None if operator.input_actuals is None else operator.input_actuals[number]
            to = DealTo(exchange, number, self.nodes)
            attempts: list[bytes] = []
            async for receipt in self._dealt(source, input_part, to):
                attempts.append(receipt.attempt)
                _note(actual, receipt)
            counted.append(attempts)
        return exchange, counted

    async def _dealt(
        self, source: AtShardsOperator | RepartitionedOperator, part: Part, to: DealTo
    ) -> AsyncIterator[Receipt]:
        """Have a source dealt out."""
        state = self.state
        if isinstance(source, RepartitionedOperator):
            exchange, counted = await self._fill(source, part, to)
            async for output, shard in self._drawn(exchange, counted, source.actual):
                receipt = decode_receipt(output)
                if shard is not None:
                    shard.rows += sum(receipt.rows.values())
                    shard.bytes += sum(receipt.size_bytes.values())
                yield receipt
            return
        with state.hold(source.actual) as held:
            tables = await source.tables(state, held)
            if tables is None:
                raise ExchangeLost("a table to be sent along is too large")
            if not all(tables[number] for number in source.cut.deciding):
                return
            run = DealingRun(source, part, state, tables, to)
            async for batch in scatter(state.scheduler, run.streams(source.spans(state)), ordered=False):
                for row in batch:
                    yield Receipt(*row)
                await state.breathe()

    async def _drawn(
        self, exchange: bytes, counted: list[list[bytes]], actual: Actual | None
    ) -> AsyncIterator[_Answer]:
        """The answers of all nodes, as they come."""

        async def lanes() -> AsyncIterator[AsyncIterator[_Answer]]:
            for node in self.nodes:
                shard = None if actual is None else actual.shards.setdefault(node, ShardActual(of_node=True))
                yield self._drawn_from(node, exchange, counted, shard)

        async for answer in scatter(self.state.scheduler, lanes(), ordered=False, width=len(self.nodes)):
            yield answer

    async def _drawn_from(
        self, node: int, exchange: bytes, counted: list[list[bytes]], shard: ShardActual | None
    ) -> AsyncIterator[_Answer]:
        while True:
            self.state.run.check_interrupt()
            begun = perf_counter()
            drawn = decode_drawn(await self.database.ask(node, TOPIC, encode(Draw(exchange, counted))))
            counted = []
            if shard is not None:
                shard.calls += 1
                shard.seconds += perf_counter() - begun
                shard.bytes += len(drawn.output)
                shard.nodes.add(node)
                shard.note_held(drawn.memory_bytes, drawn.disk_bytes)
            if drawn.error is not None:
                raise _Failed(*drawn.error)
            if drawn.output:
                yield drawn.output, shard
            if drawn.done:
                return


class DealingRun(ShardsRun):
    """Has a part's rows dealt out where they are; its rows are receipts."""

    def read(self, output: bytes) -> Batch:
        return [structs.astuple(decode_receipt(output))]

    def count(self, rows: Batch) -> int:
        return sum(sum(row[1].values()) for row in rows)

    async def here(self, start: bytes, end: bytes, shard: ShardActual | None) -> AsyncIterator[Batch]:
        """A span read and dealt out by the gateway."""
        assert self.deal is not None
        state, part = State(self.state.run), self.compiled
        state.outer.update(self.state.outer)
        sending = Sending(self.deal)
        try:
            tail = part.make(part, state, 0)
            async for batch in ShardsRun.here(self, start, end, shard):
                tail.bytes += batch_bytes(batch)
                tail.add(batch)
                if tail.is_full:
                    await self._deliver(sending, tail)
                    tail = part.make(part, state, 0)
            await self._deliver(sending, tail)
        finally:
            state.close()
        yield [structs.astuple(decode_receipt(sending.receipt()))]

    async def _deliver(self, sending: Sending, tail: RowsTail) -> None:
        with tail.held:
            outgoing = sending.pack(tail.dealt(len(sending.to.nodes)), partial=isinstance(tail, GroupsTail))
        database = self.state.run.database
        await gather(self.state.scheduler, [database.ask(node, TOPIC, data) for node, data in outgoing])


def _note(actual: Actual | None, receipt: Receipt) -> None:
    """Count for EXPLAIN ANALYZE what a node has been dealt."""
    if actual is None:
        return
    for node, rows in receipt.rows.items():
        shard = actual.shards.setdefault(node, ShardActual(of_node=True))
        shard.rows += rows
        shard.bytes += receipt.size_bytes[node]
        shard.calls += 1


async def _given(operators: Sequence[Operator], state: State, held: Holding) -> list[list[Row]]:
    """The rows of the tables that every node is given."""
    tables: list[list[Row]] = []
    for operator in operators:
        rows: list[Row] = []
        async for batch in operator.batches(state):
            rows += batch
            held.take(batch)
            if held.size_bytes > MOST_REFERENCE_BYTES:
                raise ExchangeLost("a table to be sent along is too large")
        tables.append(rows)
    return tables
