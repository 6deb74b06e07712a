"""A SERIALIZABLE transaction: a REPEATABLE READ one that notes what it reads, and has it validated when it commits.

Example, write skew (``x + y >= 0`` must hold; both accounts are at 50; each transaction takes 80 from one)::

    A: reads x, y     B: reads x, y      both at their snapshots: 100 ≥ 80
    A: put x -30      B: put y -30
    A: commit         intents on x; nothing that A read has changed: committed at 10
    B: commit         intents on y; x has a version at 10, above B's snapshot: ReadConflict

How validation works is in kv/validation.py, how the commit timestamp is fixed in kv/records.py.  A transaction that writes
nothing has seen one snapshot, and is serialized there without further ado: no commit can come to lie below a timestamp
that was read at.  All of this is in this class, so that other transactions pay nothing for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydistdb.kv.answers import WrongRange
from pydistdb.kv.api import Isolation, RangeUnavailable, Timestamp
from pydistdb.kv.overlay import Chunk, covered_span
from pydistdb.kv.requests import Validate
from pydistdb.kv.router import MAX_CUTS, MAX_PARALLEL_CALLS
from pydistdb.kv.txn.coordinator import Coordinator
from pydistdb.kv.txn.read_set import ReadSet, Span
from pydistdb.tasks import gather

if TYPE_CHECKING:
    from pydistdb.kv.api import ScanBatch
    from pydistdb.kv.gateway import Gateway

MOST_SPANS_PER_CALL = 1_000


class SerializableCoordinator(Coordinator):
    """See the module's docstring."""

    __slots__ = ("_read_set",)

    def __init__(self, gateway: Gateway, read_only: bool, read_set: ReadSet | None = None) -> None:
        super().__init__(gateway, Isolation.SERIALIZABLE, read_only)
        self._reads = self._read_set = ReadSet() if read_set is None else read_set

    def _reader(self) -> Coordinator:
        # What a cursor reads is read by its transaction.
        return SerializableCoordinator(self._gateway, True, self._read_set)

    def try_get(self, key: bytes) -> bytes | None:
        if key not in self._buffer.entries:
            self._read_set.add_point(key)
        return super().try_get(key)

    def _finish_chunk(
        self, chunk: Chunk, start: bytes, end: bytes, first: bytes, last: bytes, limit: int, reverse: bool
    ) -> ScanBatch:
        self._read_set.add_span(*covered_span(first, last, chunk[2], reverse), len(chunk[0]))
        return super()._finish_chunk(chunk, start, end, first, last, limit, reverse)

    def _note_evaluated(self, first: bytes, last: bytes, entries: int) -> None:
        self._read_set.add_span(first, last, entries)

    async def require_unchanged(self, spans: Sequence[Span], since: Timestamp) -> None:
        """Raise ReadConflict if anything in the spans has been written after ``since``."""
        now = self.read_timestamp
        self.read_timestamp = since
        for start, end in spans:
            self._read_set.add_span(start, end, 0)
        await self._validate(now)

    async def _validate(self, timestamp: Timestamp) -> None:
        """Raise ReadConflict unless everything read at the snapshot is the same at ``timestamp``."""
        spans = self._read_set.spans()
        for _ in range(MAX_CUTS):
            calls = await self._calls(spans)
            spans = []
            for first in range(0, len(calls), MAX_PARALLEL_CALLS):
                batch = [self._ask(call, timestamp) for call in calls[first : first + MAX_PARALLEL_CALLS]]
                for left in await gather(self._leases.scheduler, batch):
                    spans += left
            if not spans:
                return
        raise RangeUnavailable("the ranges keep being split")

    async def _calls(self, spans: list[Span]) -> list[list[Span]]:
        """Cut sorted spans up by range."""
        router = self._gateway.router
        calls: list[list[Span]] = []
        range_end = b""
        for start, end in spans:
            while True:
                if not calls or start >= range_end or len(calls[-1]) >= MOST_SPANS_PER_CALL:
                    descriptor = await router.locate(start)
                    # A stale descriptor may be beside the point: the answer to a short span will set it right.
                    range_end = descriptor.end if descriptor.contains(start) else start + b"\0"
                    calls.append([])
                if end <= range_end:  # a point has no end
                    calls[-1].append((start, end))
                    break
                calls[-1].append((start, range_end))
                start = range_end
        return calls

    async def _ask(self, spans: list[Span], timestamp: Timestamp) -> list[Span]:
        """Have one range's spans validated; returns them if they turn out to lie in several ranges."""
        request = Validate(self.transaction_id, spans, self.read_timestamp, timestamp)
        try:
            await self._gateway.router.send(request)
        except WrongRange as wrong:
            self._gateway.router.cache.insert(wrong.descriptor)
            return spans
        return []
