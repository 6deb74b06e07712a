"""Prometheus's text format (version 0.0.4): families of samples with labels, and histograms.

    family = Family("ranges", "gauge", "Replicas on this node, by their role.")
    render([(family, [({"state": "leader"}, 7.0)])])
        # HELP pydistdb_ranges Replicas on this node, by their role.
        # TYPE pydistdb_ranges gauge
        pydistdb_ranges{state="leader"} 7

Source: Prometheus documentation, "Exposition formats".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "pydistdb_"

Labels = Mapping[str, str]


class Family(NamedTuple):
    """``kind``: counter, gauge or histogram."""

    name: str
    kind: str
    help: str


class Buckets(NamedTuple):
    """A histogram's value: upper bounds in seconds, counts (one more, for what exceeds them all), sum in seconds."""

    bounds: Sequence[float]
    counts: Sequence[int]
    total: float


Value = float | Buckets
Samples = Iterable[tuple[Labels, Value]]


def render(families: Iterable[tuple[Family, Samples]]) -> bytes:
    """The exposition of these families."""
    lines: list[str] = []
    for family, samples in families:
        name = PREFIX + family.name
        lines.append(f"# HELP {name} {family.help}")
        lines.append(f"# TYPE {name} {family.kind}")
        for labels, value in samples:
            if isinstance(value, Buckets):
                lines += _histogram(name, labels, value)
            else:
                lines.append(f"{name}{_labels(labels)} {value:.15g}")
    return ("\n".join(lines) + "\n").encode()


def _histogram(name: str, labels: Labels, value: Buckets) -> Iterable[str]:
    for bound, count in zip([f"{b:g}" for b in value.bounds] + ["+Inf"], accumulate(value.counts), strict=True):
        yield f"{name}_bucket{_labels({**labels, 'le': bound})} {count}"
    yield f"{name}_sum{_labels(labels)} {value.total:.15g}"
    yield f"{name}_count{_labels(labels)} {sum(value.counts)}"


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items()) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
