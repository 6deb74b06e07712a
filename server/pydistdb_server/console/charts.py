"""Lines over time and small bars, as SVG.

Colours are CSS classes, so that they follow the light or dark theme; a chart says in words (``aria-label``) what it shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pydistdb_server.console.html import Html, escape, join, rate, tag

LINES = 9
"""Colours that tell the lines of a chart apart (console.css)."""
RECENT = 6
"""So many of the last values are "now": half a minute."""
WIDTH, HEIGHT = 480, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 6, 8, 20


class Series(NamedTuple):
    name: str
    values: Sequence[float | None]
    """One per point in time; None: nothing is known."""


# ------------------------------------------------------------------------------------------------ lines


class Scale(NamedTuple):
    """Where values stand on the vertical axis, and which of them get a grid line."""

    place: Callable[[float], float]
    """0 at the bottom, 1 at the top."""
    marks: Sequence[float]


def linear(values: Sequence[float]) -> Scale:
    """From 0 to a round number."""
    top = _round_up(max(values, default=0.0))
    return Scale(lambda value: min(value / top, 1.0), [top * part / 4 for part in range(5)])


def logarithmic(values: Sequence[float]) -> Scale:
    """Between powers of ten, for what spans several: latencies."""
    positive = [value for value in values if value > 0]
    low = math.floor(math.log10(min(positive, default=0.1)) + 0.001)
    high = max(math.ceil(math.log10(max(positive, default=1.0)) - 0.001), low + 1)

    def place(value: float) -> float:
        return min(max((math.log10(max(value, 1e-9)) - low) / (high - low), 0.0), 1.0)

    return Scale(place, [10.0**power for power in range(low, high + 1)])


def lines(
    title: str,
    series: Sequence[Series],
    seconds: int,
    unit: str = "",
    scaled: Callable[[Sequence[float]], Scale] = linear,
) -> Html:
    """A chart of the last ``seconds``, with its legend."""
    scale = scaled([value for each in series for value in each.values if value is not None])
    points = max((len(each.values) for each in series), default=1)
    grid = "".join(_grid_line(mark, scale, unit) for mark in scale.marks)
    drawn = "".join(_path(each.values, points, scale, number) for number, each in enumerate(series))
    ticks = "".join(
        f'<text x="{x}" y="{HEIGHT - 5}" text-anchor="{anchor}">{text}</text>'
        for x, anchor, text in (
            (_LEFT, "start", f"{seconds // 60} min ago"),
            (WIDTH - _RIGHT, "end", "now"),
        )
    )
    spoken = "; ".join(f"{each.name} now {_now(each, unit)}" for each in series)
    svg = Html(
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(f"{title}: {spoken}")}">'
        f"{grid}{drawn}{ticks}</svg>"
    )
    items = []
    for number, each in enumerate(series):
        swatch = tag("span", class_=f"swatch line{number % LINES}")
        items.append(tag("li", swatch, f"{each.name} ", tag("b", _now(each, unit))))
    legend = join(*items)
    return tag(
        "figure", tag("figcaption", title), svg, tag("ul", legend, class_="legend", aria_hidden="true"), class_="card"
    )


def _now(each: Series, unit: str) -> str:
    """The latest value: a dash where there was none lately, as for the latency of nothing."""
    last = next((value for value in reversed(each.values[-RECENT:]) if value is not None), None)
    return "–" if last is None else f"{rate(last)}{unit}"


def _round_up(value: float) -> float:
    """The next of 1, 2, 4, 5, 8 × 10ⁿ: four grid lines stand at round numbers."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 5, 8, 10) if step * power >= value * 0.999)


def _grid_line(value: float, scale: Scale, unit: str) -> str:
    y = _y(value, scale)
    text = f"{value:,.0f}" if value >= 10 else f"{value:.3g}"
    return (
        f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>'
        f'<text x="{_LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{text}{unit.strip() if len(unit) < 3 else ""}</text>'
    )


def _y(value: float, scale: Scale) -> float:
    return round(_TOP + (HEIGHT - _TOP - _BOTTOM) * (1 - scale.place(value)), 1)


def _path(values: Sequence[float | None], points: int, scale: Scale, number: int) -> str:
    step = (WIDTH - _LEFT - _RIGHT) / max(points - 1, 1)
    parts: list[str] = []
    drawing = False
    for index, value in enumerate(values):
        if value is None:
            drawing = False
            continue
        parts.append(f"{'L' if drawing else 'M'}{_LEFT + index * step:.1f} {_y(value, scale)}")
        drawing = True
    return f'<path class="line line{number % LINES}" d="{"".join(parts)}"/>'


def bar(share: float, text: str) -> Html:
    """A share of 1 as a small bar with its text."""
    width = round(min(max(share, 0.0), 1.0) * 60, 1)
    return Html(
        f'<svg class="bar" viewBox="0 0 60 8" aria-hidden="true"><rect class="rest" width="60" height="8" rx="2"/>'
        f'<rect class="done" width="{width}" height="8" rx="2"/></svg> <span>{escape(text)}</span>'
    )
