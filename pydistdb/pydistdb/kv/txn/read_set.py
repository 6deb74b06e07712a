"""What a SERIALIZABLE transaction has read: points and spans, kept small.

A span is (start, end); a point is a span without an end.  Absent keys and empty spans count as read, since somebody else
may write there::

    get a            points {a}
    scan [c, f)      spans [(c, f)]
    scan [f, h)      spans [(c, h)]        the next chunk of the same scan: the last span grows
    spans()          [(a, b""), (c, h)]    sorted, without overlaps

Past MOST_SPANS, neighbours are made into one span, those with the longest common prefix first (rows of one table before
rows of two).  What lies between them then counts as read as well: a needless conflict at worst, never a missed one.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise

from pydistdb_storage.keys import prefix_end

MOST_SPANS = 4_096
"""About half a megabyte of keys."""

MOST_READS_AT_ONCE = 5_000
"""Up to so many rows are validated without a pause, by the proposal that commits: a few milliseconds."""

Span = tuple[bytes, bytes]


class ReadSet:
    """See the module's docstring."""

    __slots__ = ("_points", "_spans", "rows")

    def __init__(self) -> None:
        self._points: dict[bytes, None] = {}
        self._spans: list[Span] = []
        self.rows = 0
        """How many rows were read, about."""

    def __bool__(self) -> bool:
        return bool(self._points) or bool(self._spans)

    def add_point(self, key: bytes) -> None:
        """Note a read of one key, whether it was there or not."""
        self._points[key] = None
        self.rows += 1
        if len(self._points) > MOST_SPANS:
            self._shrink()

    def add_span(self, start: bytes, end: bytes, rows: int) -> None:
        """Note a read of everything in [start, end)."""
        self.rows += rows
        spans = self._spans
        if spans:
            first, last = spans[-1]
            if last == start:
                spans[-1] = (first, end)
                return
            if first == end:
                spans[-1] = (start, last)
                return
        spans.append((start, end))
        if len(spans) > MOST_SPANS:
            self._shrink()

    def spans(self) -> list[Span]:
        """Everything read, sorted, without overlaps."""
        merged = _merged(self._spans)
        starts = [start for start, _ in merged]
        points = []
        for key in self._points:
            position = bisect_right(starts, key) - 1
            if position < 0 or merged[position][1] <= key:
                points.append((key, b""))
        return sorted(merged + points)

    def lies_in(self, start: bytes, end: bytes) -> bool:
        """Tell whether all of it lies in a range."""
        return all(start <= key < end for key in self._points) and all(
            start <= first and last <= end for first, last in self._spans
        )

    def _shrink(self) -> None:
        """Halve the number of spans."""
        spans = [(start, end or prefix_end(start)) for start, end in self.spans()]
        likeness = [_common_length(left[1], right[0]) for left, right in pairwise(spans)]
        gaps = sorted(range(len(likeness)), key=lambda gap: -likeness[gap])
        closed = set(gaps[: max(0, len(spans) - MOST_SPANS // 2)])
        shrunk: list[Span] = []
        for number, (start, end) in enumerate(spans):
            if number - 1 in closed:
                shrunk[-1] = (shrunk[-1][0], end)
            else:
                shrunk.append((start, end))
        self._spans = shrunk
        self._points = {}


def _common_length(left: bytes, right: bytes) -> int:
    """How many bytes two keys have in common at their heads."""
    for position, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return position
    return min(len(left), len(right))


def _merged(spans: list[Span]) -> list[Span]:
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            if end > merged[-1][1]:
                merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged
