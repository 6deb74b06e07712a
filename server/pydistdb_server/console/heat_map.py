"""The heat map of the key space over time (the "key visualiser"), as SVG.

Time runs to the right, keys run down; a cell is a span of keys in a column of time, its colour the requests per second it got,
on a logarithmic scale of ``LEVELS``.  Ranges come and go, so cells are cut along today's boundaries: what an earlier, larger
range got is shared out evenly among its parts.  Where there are more ranges than ``MOST_BANDS``, neighbours are drawn as one
band, cold ones first.  A level's cells are one path, so an hour of a thousand ranges is some 60 kB.

Source: the idea is Google's Key Visualizer (Bigtable), taken up by TiDB Dashboard and CockroachDB.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from pydistdb_server.console.history import HeatColumn
from pydistdb_server.console.html import Html, escape, join, rate, tag

MOST_BANDS = 80
MOST_MERGED = 1_500
LEVELS = 9
LABEL_HEIGHT = 13


class Band(NamedTuple):
    """A horizontal line of the map: a range, or several neighbours."""

    start: bytes
    end: bytes
    label: str
    """What it holds: tables."""
    first: str
    last: str
    """Where it begins and ends, for people."""
    ranges: int = 1

    @property
    def title(self) -> str:
        return f"{self.first} – {self.last}" + (f" ({self.ranges} ranges)" if self.ranges > 1 else "")


def make_bands(ranges: Sequence[Band], heat: Mapping[bytes, float]) -> list[Band]:
    """At most ``MOST_BANDS`` of the ranges, in key order.  ``heat``: requests per second by where a range begins.

    The cheapest neighbours are drawn as one, again and again: cold ones before hot ones, small groups before large ones, and
    those of one table before others.  So what is hot stays alone, and what is cold is cut evenly."""
    if len(ranges) <= MOST_BANDS:
        return list(ranges)
    total = sum(heat.values()) or 1.0
    count = math.ceil(len(ranges) / MOST_MERGED)  # more than one only to keep the work bounded
    chunks = [ranges[at : at + count] for at in range(0, len(ranges), count)]
    bands = [_merged(chunk) for chunk in chunks]
    groups: list[_Group | None] = [
        _Group([band], sum(heat.get(part.start, 0.0) for part in chunk) / total)
        for band, chunk in zip(bands, chunks, strict=True)
    ]
    following = list(range(1, len(groups) + 1))
    preceding = list(range(-1, len(groups) - 1))

    def offer(left: int) -> tuple[float, int, int, int]:
        one, other = groups[left], groups[following[left]]
        assert one is not None and other is not None
        alike = one.bands[-1].label == other.bands[0].label
        size = len(one.bands) + len(other.bands)
        cost = one.heat + other.heat + size / len(bands) + (0 if alike else 1 / MOST_BANDS)
        return cost, left, following[left], size

    offers = [offer(left) for left in range(len(groups) - 1)]
    heapify(offers)
    left_over = len(groups)
    while left_over > MOST_BANDS:
        _, left, right, size = heappop(offers)
        one, other = groups[left], groups[right]
        if one is None or other is None or len(one.bands) + len(other.bands) != size:
            continue  # one of them has been merged since
        groups[left] = _Group(one.bands + other.bands, one.heat + other.heat)
        groups[right] = None
        following[left] = following[right]
        if following[left] < len(groups):
            preceding[following[left]] = left
            heappush(offers, offer(left))
        if preceding[left] >= 0:
            heappush(offers, offer(preceding[left]))
        left_over -= 1
    return [_merged(group.bands) for group in groups if group is not None]


class _Group(NamedTuple):
    bands: list[Band]
    heat: float
    """Their share of all requests."""


def _merged(group: Sequence[Band]) -> Band:
    if len(group) == 1:
        return group[0]
    labels = list(dict.fromkeys(band.label for band in group))
    label = labels[0] if len(labels) == 1 else f"{labels[0]} … {labels[-1]}"
    return Band(
        group[0].start, group[-1].end, label, group[0].first, group[-1].last, sum(band.ranges for band in group)
    )


class Matrix:
    """Requests per second, by band and column of time; what a span got is shared out among the bands that it covers."""

    def __init__(self, bands: Sequence[Band], slots: Sequence[int]) -> None:
        self._starts = [band.start for band in bands]
        self._place = {slot: number for number, slot in enumerate(slots)}
        self.rows = [[0.0] * len(slots) for _ in bands]

    def add(self, column: HeatColumn) -> None:
        """Take in what one node tells of one column: up to a third of a millisecond."""
        number = self._place.get(column.slot)
        if number is None:
            return
        starts, rows = self._starts, self.rows
        for start, end, requests in column.spans:
            first = max(bisect_right(starts, start) - 1, 0)
            last = max(bisect_left(starts, end) - 1, first)
            for row in range(first, last + 1):
                rows[row][number] += requests / (last - first + 1)


def heat_map(
    bands: Sequence[Band], matrix: Sequence[Sequence[float]], slots: Sequence[int], column_seconds: int
) -> Html:
    """The map with its scale, and the figures for the script that shows them under the pointer.

    ``slots``: when the columns begin, in seconds since 1970."""
    highest = max((max(row, default=0.0) for row in matrix), default=0.0)
    width, gutter, top = 1_000, 170, 4
    row_height = min(max(480 / max(len(bands), 1), 7.0), 30.0)
    cell = (width - gutter) / max(len(slots), 1)
    height = top + row_height * len(bands) + 22

    def cell_path(row: int, first: int, last: int) -> str:
        left = f"{gutter + first * cell:.1f}"
        return f"M{left} {top + row * row_height:.1f}h{(last - first) * cell:.1f}v{row_height:.1f}H{left}z"

    cells: dict[int, list[str]] = {}
    for row, values in enumerate(matrix):
        column = 0
        while column < len(values):
            level = level_of(values[column], highest)
            end = column + 1
            while end < len(values) and level_of(values[end], highest) == level:
                end += 1
            if level:
                cells.setdefault(level, []).append(cell_path(row, column, end))
            column = end
    paths = "".join(f'<path class="heat{level}" d="{"".join(parts)}"/>' for level, parts in sorted(cells.items()))
    labels = "".join(_band_labels(bands, row_height, top, gutter, width))
    minutes = len(slots) * column_seconds / 60
    parts = next((parts for parts in (4, 5, 3) if minutes % parts == 0), 4)  # of whole minutes
    ticks = "".join(
        f'<text x="{gutter + (width - gutter) * part / parts:.0f}" y="{height - 6:.0f}" '
        f'text-anchor="{"start" if not part else "middle" if part < parts else "end"}">'
        f"{'now' if part == parts else f'{minutes * (parts - part) / parts:g} min ago'}</text>"
        for part in range(parts + 1)
    )
    spoken = f"Heat map: {len(bands)} spans of keys, {minutes:.0f} minutes; at most {rate(highest)} requests per second"
    svg = Html(
        f'<svg class="heatmap" id="heatmap" viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{spoken}">'
        f'<rect class="heat0" x="{gutter}" y="{top}" width="{width - gutter}" height="{row_height * len(bands):.1f}"/>'
        f"{paths}{labels}{ticks}</svg>"
    )
    figures = {
        "gutter": gutter / width,
        "top": top / height,
        "bottom": (top + row_height * len(bands)) / height,
        "titles": [f"{band.label}: {band.title}" for band in bands],
        "rates": [[round(value, 1) for value in row] for row in matrix],
        "slots": list(slots),
    }
    text = json.dumps(figures, separators=(",", ":")).replace("<", "\\u003c")
    return join(svg, _scale(highest), Html(f'<script type="application/json" id="heat-figures">{text}</script>'))


def level_of(requests: float, highest: float) -> int:
    """The colour: 0 for nothing, then 1 to ``LEVELS`` on a logarithmic scale."""
    if requests < 0.05 or highest <= 0:
        return 0
    return max(1, min(LEVELS, math.ceil(LEVELS * math.log1p(requests) / math.log1p(highest))))


def _scale(highest: float) -> Html:
    """What the colours mean."""
    steps = [math.expm1(math.log1p(highest) * level / LEVELS) for level in range(1, LEVELS + 1)]
    boxes = "".join(
        f'<rect class="heat{level}" x="{(level - 1) * 40}" width="40" height="10"/>'
        f'<text x="{level * 40}" y="22" text-anchor="end">{rate(step)}</text>'
        for level, step in enumerate(steps, 1)
    )
    return join(
        tag("span", "Requests per second, up to: ", class_="scale-label"),
        Html(f'<svg class="scale" viewBox="0 0 362 26" aria-hidden="true">{boxes}</svg>'),
    )


def _band_labels(bands: Sequence[Band], row_height: float, top: float, gutter: int, width: int) -> Iterable[str]:
    """A line above the first band of each table, and a label there, or at the next where there is room for one."""
    free = 0.0
    before = labelled = ""
    for row, band in enumerate(bands):
        y = top + row * row_height
        if row and band.label != before:
            yield f'<line class="grid" x1="{gutter}" x2="{width}" y1="{y:.1f}" y2="{y:.1f}"/>'
        before = band.label
        if band.label not in (labelled, "–") and y >= free:
            labelled = band.label
            free = y + LABEL_HEIGHT
            text = escape(labelled if len(labelled) <= 21 else labelled[:20] + "…")
            middle = y + min(row_height, 14) * 0.5 + 4
            yield f'<text x="{gutter - 8}" y="{middle:.1f}" text-anchor="end">{text}</text>'
