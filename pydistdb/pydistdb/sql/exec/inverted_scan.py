"""Reading through an inverted index (sql/inverted.py): sorted streams of candidates, intersected and united.

Entries of one token are sorted by the row's primary key, so questions are answered by merging streams, without a table of
what was seen.  A stream holds a chunk at a time.  ``Every`` drops what lies below the furthest head of its streams, and a
stream whose whole chunk is dropped goes on from there: it leaps over what the rarest token does not have::

    k:rare     17 ............ 9041
    k:common   1 2 3 4 … 255  (leap) 9041 …

Source: Hwang and Lin's merge; "leapfrog" joins (Veldhuizen, 2014).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import cached_property
from typing import Any

from pydistdb_storage.keys import prefix_end

from pydistdb.kv.api import MustWait, Transaction
from pydistdb.sql.exec.codegen import evaluator
from pydistdb.sql.exec.run import BATCH_ROWS, State
from pydistdb.sql.inverted import Question, encode_token
from pydistdb.sql.layout import TableLayout
from pydistdb.sql.plan.physical import Access

FIRST_CHUNK = 64

Candidate = tuple[bytes, bytes]
"""What follows the token in the entry's key, by which streams are sorted; and the row's primary key."""


class Source:
    """A sorted stream of candidates.  ``pairs`` empty after ``fill``: it has ended."""

    def __init__(self) -> None:
        self.pairs: list[Candidate] = []

    async def fill(self) -> None:
        """Make sure that there are pairs, unless the stream has ended."""
        raise NotImplementedError

    def skip(self, low: Candidate) -> None:
        """Leave out what is below ``low``."""
        del self.pairs[: bisect_left(self.pairs, low)]

    def take(self, high: Candidate) -> list[Candidate]:
        """Take away what is not above ``high``."""
        end = bisect_right(self.pairs, high)
        taken = self.pairs[:end]
        del self.pairs[:end]
        return taken


class Token(Source):
    """The candidates of one token."""

    def __init__(self, transaction: Transaction, prefix: bytes) -> None:
        super().__init__()
        self._transaction = transaction
        self._prefix = prefix
        self._start: bytes | None = prefix
        self._end = prefix_end(prefix)
        self._limit = FIRST_CHUNK

    async def fill(self) -> None:
        cut = len(self._prefix)
        while not self.pairs and self._start is not None:
            try:
                found = self._transaction.try_scan(self._start, self._end, limit=self._limit)
            except MustWait:
                found = await self._transaction.scan(self._start, self._end, limit=self._limit)
            keys, values, self._start = found
            self.pairs = [(key[cut:], value) for key, value in zip(keys, values, strict=True)]
            self._limit = min(self._limit * 4, BATCH_ROWS)

    def skip(self, low: Candidate) -> None:
        super().skip(low)
        if not self.pairs and self._start is not None:
            self._start = max(self._start, self._prefix + low[0])


class Every(Source):
    """What is in all sources."""

    def __init__(self, sources: Sequence[Source], breathe: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self._sources = sources
        self._breathe = breathe

    async def fill(self) -> None:
        while not self.pairs:
            await self._breathe()  # it may be long until there is something in all of them
            for source in self._sources:
                await source.fill()
                if not source.pairs:
                    return
            low = max(source.pairs[0] for source in self._sources)
            for source in self._sources:
                source.skip(low)
            if all(source.pairs for source in self._sources):
                high = min(source.pairs[-1] for source in self._sources)
                first, *others = (source.take(high) for source in self._sources)
                self.pairs = sorted(set(first).intersection(*others))

    def skip(self, low: Candidate) -> None:
        super().skip(low)
        if not self.pairs:
            for source in self._sources:
                source.skip(low)


class Some(Source):
    """What is in any of the sources."""

    def __init__(self, sources: Sequence[Source]) -> None:
        super().__init__()
        self._sources = sources

    async def fill(self) -> None:
        if self.pairs:
            return
        for source in self._sources:
            await source.fill()
        live = [source for source in self._sources if source.pairs]
        if live:
            high = min(source.pairs[-1] for source in live)
            self.pairs = sorted(set().union(*(source.take(high) for source in live)))

    def skip(self, low: Candidate) -> None:
        super().skip(low)
        if not self.pairs:
            for source in self._sources:
                source.skip(low)


class InvertedBounds:
    """The questions of an access path made ready."""

    def __init__(self, layout: TableLayout, access: Access) -> None:
        self._index = layout.by_storage_id[access.index.storage_id]
        self._probes = access.probes

    @cached_property
    def _values(self) -> Any:
        return evaluator([probe.value for probe in self._probes])

    def source(self, state: State) -> Source | None:
        """The candidates; None: every row is one."""
        classes = self._index.token_classes
        sources: list[Source] = []
        for probe, value in zip(self._probes, self._values(state), strict=True):
            if value is None:
                return Some(())  # the operators are strict: NULL is the answer for every row
            question = classes[probe.column].question(probe.operator, value)
            if question is not None:
                sources.append(self._source(state, probe.column, question))
        return Every(sources, state.breathe) if sources else None

    def _source(self, state: State, column: int, question: Question) -> Source:
        head = self._index.head
        prefixes = [head + encode_token((bytes((column,)) + token,)) for token in question.tokens]
        tokens = [Token(state.transaction, prefix) for prefix in prefixes]
        if len(tokens) == 1:
            return tokens[0]
        return Every(tokens, state.breathe) if question.every else Some(tokens)


async def candidates(source: Source) -> AsyncIterator[list[bytes]]:
    """Primary keys, chunk by chunk."""
    while True:
        await source.fill()
        if not source.pairs:
            return
        pairs, source.pairs = source.pairs, []
        yield [key for _, key in pairs]
