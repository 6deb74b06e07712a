"""The picture of a chaos run: throughput, latency and faults over time, as SVG, and the verdict in words.

timeline.svg    per second what succeeded, failed, and is unknown; below it the median and the worst latency of that second
                (logarithmic); behind both the faults, as bands with their names
report.md       the verdict, per workload its counts and problems, and the list of faults
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from itertools import pairwise
from math import log10
from statistics import median
from typing import Any

from tests.chaos.history import FAILED, OK, UNKNOWN, Operation

WIDTH, PANEL, MARGIN = 1100, 170, 50
COLOURS = {OK: "#2a9d4a", FAILED: "#e0a030", UNKNOWN: "#c03040"}
SLOWEST_MS, FASTEST_MS = 30_000.0, 1.0


@dataclass
class Fault:
    begin: float
    end: float
    name: str
    gap_seconds: float = 0.0
    """The longest time without any success that overlaps it."""


def note_gaps(faults: list[Fault], operations: list[Operation]) -> float:
    """Fill in every fault's gap; returns the longest of all."""
    ends = sorted(op.end for op in operations if op.outcome == OK)
    gaps = list(pairwise(ends))
    for fault in faults:
        overlapping = [after - before for before, after in gaps if before < fault.end and after > fault.begin]
        fault.gap_seconds = max(overlapping, default=0.0)
    return max((fault.gap_seconds for fault in faults), default=0.0)


def timeline(operations: list[Operation], faults: list[Fault], seconds: float, title: str) -> str:
    """The picture."""
    across = WIDTH / max(seconds, 1.0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH + 2 * MARGIN}" height="{2 * PANEL + 4 * MARGIN}" '
        f'font-family="sans-serif" font-size="11">',
        f'<rect width="100%" height="100%" fill="white"/><text x="{MARGIN}" y="20" font-size="14">{escape(title)}</text>',
        f'<g transform="translate({MARGIN},{MARGIN})">',
    ]
    height = 2 * PANEL + MARGIN
    for number, fault in enumerate(faults):
        left, width = fault.begin * across, max((fault.end - fault.begin) * across, 1.0)
        parts.append(f'<rect x="{left:.1f}" width="{width:.1f}" height="{height}" fill="#d8d8e8" opacity="0.7"/>')
        parts.append(
            f'<text x="{left:.1f}" y="{height + 14 + number % 4 * 12}" font-size="9">{escape(fault.name)}</text>'
        )
    parts += _throughput(operations, across, int(seconds) + 1)
    parts.append(f'<g transform="translate(0,{PANEL + MARGIN})">')
    parts += _latency(operations, across, int(seconds) + 1)
    parts.append("</g></g></svg>")
    return "\n".join(parts)


def _throughput(operations: list[Operation], across: float, seconds: int) -> list[str]:
    counts = {outcome: [0] * seconds for outcome in COLOURS}
    for op in operations:
        counts[op.outcome][min(int(op.end), seconds - 1)] += 1
    most = max(1, *(max(values) for values in counts.values()))
    parts = [f'<text x="-40" y="10">{most}/s</text>', _frame(across * seconds)]
    for outcome, values in counts.items():
        points = [(second + 0.5) * across for second in range(seconds)]
        line = [(x, PANEL - PANEL * value / most) for x, value in zip(points, values, strict=True)]
        parts.append(_line(line, COLOURS[outcome]))
    for n, outcome in enumerate(COLOURS):
        parts.append(f'<text x="{n * 80}" y="-6" fill="{COLOURS[outcome]}">{outcome}</text>')
    return parts


def _latency(operations: list[Operation], across: float, seconds: int) -> list[str]:
    by_second: list[list[float]] = [[] for _ in range(seconds)]
    for op in operations:
        if op.outcome == OK:
            by_second[min(int(op.end), seconds - 1)].append((op.end - op.start) * 1_000)
    parts = [_frame(across * seconds), '<text x="0" y="-6">latency of what succeeded: median, worst</text>']
    for exponent in range(5):
        y = _height(10.0**exponent)
        parts.append(f'<text x="-48" y="{y + 4:.0f}">{10**exponent} ms</text>')
        parts.append(f'<line x2="{across * seconds:.0f}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ccc"/>')
    for function, colour in ((median, "#3060c0"), (max, "#a060c0")):
        line = [((n + 0.5) * across, _height(function(values))) for n, values in enumerate(by_second) if values]
        parts.append(_line(line, colour))
    return parts


def _height(milliseconds: float) -> float:
    bounded = min(max(milliseconds, FASTEST_MS), SLOWEST_MS)
    return PANEL * (1 - log10(bounded / FASTEST_MS) / log10(SLOWEST_MS / FASTEST_MS))


def _line(points: list[tuple[float, float]], colour: str) -> str:
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def _frame(width: float) -> str:
    return f'<rect width="{width:.0f}" height="{PANEL}" fill="none" stroke="#888"/>'


def words(verdict: dict[str, Any], faults: list[Fault]) -> str:
    """The report as Markdown."""
    lines = [
        f"# {verdict['nemesis']}: {'valid' if verdict['valid'] else 'INVALID'}",
        "",
        f"{verdict['nodes']} nodes, {verdict['seconds']:.0f} s, seed {verdict['seed']}; "
        f"longest time in which nothing succeeded: {verdict['longest_gap_seconds']:.1f} s",
        "",
        "| workload | ok | failed | unknown | problems |",
        "|---|---|---|---|---|",
    ]
    for found in verdict["workloads"]:
        counts = found["operations"]
        lines.append(
            f"| {found['workload']} | {counts[OK]} | {counts[FAILED]} | {counts[UNKNOWN]} | {found['problem_count']} |"
        )
    lines.append("")
    for found in verdict["workloads"]:
        lines += [f"* {found['workload']}: {problem}" for problem in found["problems"]]
    lines += [f"* {problem}" for problem in verdict["problems"]]
    lines += [f"* skipped: {skipped}" for skipped in verdict["skipped"]]
    lines += [f"* {what}: {count} times" for what, count in sorted(verdict["orders"].items())]
    lines += ["", "![timeline](timeline.svg)", "", "| from | to | fault | longest gap |", "|---|---|---|---|"]
    lines += [f"| {fault.begin:.1f} | {fault.end:.1f} | {fault.name} | {fault.gap_seconds:.2f} s |" for fault in faults]
    return "\n".join(lines) + "\n"
