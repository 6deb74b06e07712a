"""UPDATE and DELETE by a condition, the gateway's side: the leaseholders do the rows of their ranges, side by side.

::

    UPDATE t SET v = v + 1 WHERE w < 5      [a, g) node 1          [g, p) node 2          [p, z) node 3
      the first FEW_ROWS of each            (key, new row), to be written with the statement's other writes
      then, and at once if many are seen    laid down there: only their number comes back
      what a leaseholder refuses            read, locked and changed here, as if there were no shards

Rows are laid down where the statement is a transaction of its own: nothing but its end can take that back, and if an answer is
lost all of it is run again (kv/changes.py).  In a transaction block, which may have savepoints, new rows come to the gateway.

Locks are taken in the order of the keys, as all statements take them, or two statements over all rows would each wait for
the other.  Side by side there is no such order.  So a statement that can be run again begins side by side and does not wait:
a locked row ends the attempt, and the next one goes from shard to shard, and waits.  So does any in a transaction block.

A statement over ranges that are all led here does not come by here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from time import perf_counter
from typing import TYPE_CHECKING

from pydistdb.kv.api import LockNotAvailable, SpanPart, TransactionAborted, WaitPolicy
from pydistdb.sql.exec.change import ChangeFragment
from pydistdb.sql.exec.fragment import encode_arguments
from pydistdb.sql.exec.operator import Batch
from pydistdb.sql.exec.run import State
from pydistdb.sql.exec.scan import TableScanOperator
from pydistdb.sql.exec.scatter import WIDTH, scatter
from pydistdb.sql.exec.shards import rows_of, shard_of
from pydistdb.sql.layout import Span

if TYPE_CHECKING:
    from pydistdb.sql.exec.modify import ChangeOperator

FEW_ROWS = 256
"""So many are buffered rather than laid down: a transaction that fits into one range commits with one proposal."""
MOST_ROWS = 2_000
"""What one request changes."""


def changes_at_shards(operator: ChangeOperator, state: State) -> AsyncIterator[Batch] | None:
    """Have the shards change what they can; the rows that are left to the gateway.  None: all of them are."""
    scan = operator.source
    if not operator.is_root or not isinstance(scan, TableScanOperator) or not scan.is_span:
        return None
    spans = scan.bounds.spans(state)
    is_local = state.transaction.is_local
    if all(is_local(span.start, span.end) for span in spans):
        return None
    fragment = operator.fragment
    if fragment is None:
        return None
    return _batches(ShardChange(operator, fragment, scan, state), spans)


async def _batches(change: ShardChange, spans: Sequence[Span]) -> AsyncIterator[Batch]:
    state = change.state
    width = WIDTH if change.is_eager else 1
    async for batch in scatter(state.scheduler, _streams(change, spans), ordered=False, width=width, most=width):
        yield batch
        await state.breathe()


async def _streams(change: ShardChange, spans: Sequence[Span]) -> AsyncIterator[AsyncIterator[Batch]]:
    transaction = change.state.transaction
    for start, end, identity in spans:
        arguments = encode_arguments(change.fragment.arguments(change.state, identity))
        while start < end:
            part = await transaction.part_at(start, end)
            yield change.part(part, arguments, identity)
            start = part.end


class ShardChange:
    """One run of a statement over shards."""

    def __init__(
        self, operator: ChangeOperator, fragment: ChangeFragment, scan: TableScanOperator, state: State
    ) -> None:
        self.operator = operator
        self.fragment = fragment
        self.scan = scan
        self.state = state
        self.may_lay_down = state.run.autocommit and state.transaction.can_lay_down
        self.is_eager = self.may_lay_down and not state.run.attempt
        """It goes to several shards at once, and gives up where it would have to wait for a lock."""
        self.wait = WaitPolicy.NOWAIT if self.is_eager else WaitPolicy.WAIT
        self.is_large = scan.node.rows > FEW_ROWS

    async def part(self, part: SpanPart, arguments: bytes, identity: bytes | None) -> AsyncIterator[Batch]:
        """Change the rows of a part where they lie; the rows from where on that could not be done."""
        state, data = self.state, self.fragment.data
        start, end = part.start, part.end
        shard = shard_of(self.operator.actual, part)
        while start < end:
            state.run.check_interrupt()
            begun = perf_counter()
            lays_down = self.may_lay_down and self.is_large
            most = FEW_ROWS if self.may_lay_down and not lays_down else MOST_ROWS
            try:
                answer = await state.transaction.change(
                    *(data, arguments, start, end, self.operator.strength),
                    most=most,
                    lays_down=lays_down,
                    wait=self.wait,
                )
            except LockNotAvailable as error:
                if not self.is_eager:
                    raise
                raise TransactionAborted("a row that is to be changed is locked") from error
            if answer is None:
                async for batch in rows_of(self.scan, Span(start, end, identity), state, shard):
                    yield batch
                return
            state.affected_rows += answer.changed
            state.writes.pending.update(answer.writes)
            state.writes.given_up.update(self.operator.writer.unique_among(answer.writes))
            self.is_large = self.is_large or state.affected_rows >= FEW_ROWS
            if shard is not None:
                shard.entries += answer.entries
                shard.rows += answer.changed
                shard.bytes += len(data) + len(arguments) + sum(map(_size, answer.writes.items()))
                shard.calls += 1
                shard.seconds += perf_counter() - begun
                shard.nodes.add(answer.node)
            if answer.resume is None:
                return
            start = answer.resume


def _size(write: tuple[bytes, bytes | None]) -> int:
    return len(write[0]) + len(write[1] or b"")
