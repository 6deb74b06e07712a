"""Skip scans: what is looked for behind the leading columns of an index, for each of their values.

The next value is found by a seek behind the last one, so what lies between is never read::

    index (a, b), b = 7      seek: first entry is (1, …)      read (1, 7)
                             seek behind (1, …): (4, …)       read (4, 7)      and so on

``first``: the entry that the seek finds is all that is wanted of each value (DISTINCT, min of a group).

Spans behind a value are computed once per run, as bytes to hang onto it: the encoding of a key is that of its columns, one
after the other.

Source: see plan/several_indexes.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydistdb_storage.keys import key_decoder, prefix_end

from pydistdb.kv.api import MustWait
from pydistdb.sql.exec.codegen import evaluator
from pydistdb.sql.exec.run import BATCH_ROWS, State
from pydistdb.sql.layout import MOST_KEY_BYTES, Span

if TYPE_CHECKING:
    from pydistdb.sql.exec.scan import Bounds

Entries = tuple[Sequence[bytes], Sequence[bytes]]


class SkipBounds:
    """A skip made ready."""

    def __init__(self, bounds: Bounds) -> None:
        assert bounds.access.skip is not None
        self._bounds = bounds
        self._skip = bounds.access.skip
        index, count = bounds.index, self._skip.columns
        self._decode = key_decoder(index.kinds[:count], index.descending[:count])

    @cached_property
    def _values(self) -> Callable[[State], tuple[Any, ...]]:
        return evaluator(self._skip.expressions)

    def _behind(self, state: State) -> list[tuple[bytes, bytes | None]]:
        """What to read behind each value: from, to (None: to the end of the value)."""
        index, layout, skip = self._bounds.index, self._bounds.layout, self._skip
        values = iter(self._values(state))
        combinations = list(self._bounds.combinations(skip.equal, values))
        limits = self._bounds.limits(skip.lower, skip.upper, values)
        if limits is None:
            return []
        dummy = [None] * skip.columns
        lead = index.head + index.encode(dummy)
        found: set[tuple[bytes, bytes | None]] = set()
        for each in combinations:
            span = layout.bounds(index, [*dummy, *each], *limits)
            if span is not None and span.start.startswith(lead):
                end = span.end[len(lead) :] if span.end.startswith(lead) else None
                found.add((span.start[len(lead) :], end))
        return sorted(found, key=lambda pair: pair[0], reverse=self._bounds.access.reverse)

    async def entries(self, state: State) -> AsyncIterator[Entries]:
        """The first entry of each value."""
        keys: list[bytes] = []
        values: list[bytes] = []
        async for _, key, value in self._seek(state):
            keys.append(key)
            values.append(value)
            if len(keys) >= BATCH_ROWS:
                yield keys, values
                keys, values = [], []
        if keys:
            yield keys, values

    async def spans(self, state: State) -> AsyncIterator[Sequence[Span]]:
        """The spans to read, value by value."""
        behind = self._behind(state)
        if not behind:
            return
        async for prefix, _, _ in self._seek(state):
            last = prefix_end(prefix)
            yield [
                Span((prefix + start)[:MOST_KEY_BYTES], last if end is None else (prefix + end)[:MOST_KEY_BYTES])
                for start, end in behind
            ]

    async def _seek(self, state: State) -> AsyncIterator[tuple[bytes, bytes, bytes]]:
        """Each value of the leading columns, as the start of its keys; and its first entry."""
        transaction, reverse = state.transaction, self._bounds.access.reverse
        head = len(self._bounds.index.head)
        for start, end, _ in self._bounds.spans(state):
            while start < end:
                try:
                    keys, values, resume = transaction.try_scan(start, end, limit=1, reverse=reverse)
                except MustWait:
                    keys, values, resume = await transaction.scan(start, end, limit=1, reverse=reverse)
                if not keys:
                    if resume is None:
                        break
                    start, end = (start, resume) if reverse else (resume, end)
                    continue
                prefix = keys[0][: self._decode(keys[0], head)[1]]
                yield prefix, keys[0], values[0]
                start, end = (start, prefix) if reverse else (prefix_end(prefix), end)
                await state.breathe()
