"""Which ranges are too busy or too large, and what would help: pure judgement over a survey.

A range is *hot* if it gets more than ``HOT_FACTOR`` times the requests that the other ranges get on average, and *warm*
beyond ``WARM_FACTOR``; below ``LEAST_RATE`` requests per second nothing is.  What is recommended, first match:

1. a range above ``LARGE_BYTES``: split;
2. a hot range on a node that is not busier than the nodes are on average: nothing;
3. a hot range that makes up most of its node's load: split, if it has a row boundary inside; a single key cannot be split;
4. a hot range on a node that is busier than another one with a voter of it: move the lease there.

Example: rates 8,500, 750, 750 on three nodes.  The others' mean is 750, so the first is hot; all of its node's load is
its own: split it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydistdb.kv.descriptor import NodeId, RangeId
from pydistdb.kv.survey import RangeReport

LEAST_RATE = 50.0
HOT_FACTOR = 2.0
WARM_FACTOR = 1.3
LARGE_BYTES = 128 << 20
_MOST_OF_NODE = 0.5
_BUSIER = 1.25


@dataclass(frozen=True, slots=True)
class Assessment:
    """``heat``: "hot", "warm" or nothing.  ``target``: where the lease should go (0: stay)."""

    share: float
    """Of the requests to all ranges."""
    heat: str = ""
    recommendation: str = ""
    target: NodeId = 0


def assess(ranges: Sequence[RangeReport], live: Iterable[NodeId]) -> dict[RangeId, Assessment]:
    """Judge every range."""
    total = sum(report.requests_per_second for report in ranges)
    load: dict[NodeId, float] = dict.fromkeys(live, 0.0)
    for report in ranges:
        load[report.leader] = load.get(report.leader, 0.0) + report.requests_per_second
    alive = set(live)
    return {report.range_id: _assess(report, total, len(ranges), load, alive) for report in ranges}


def _assess(
    report: RangeReport, total: float, count: int, load: Mapping[NodeId, float], live: set[NodeId]
) -> Assessment:
    rate = report.requests_per_second
    share = rate / total if total else 0.0
    heat = _heat(rate, (total - rate) / (count - 1)) if count > 1 else ""
    if report.size_bytes is not None and report.size_bytes > LARGE_BYTES:
        return Assessment(share, heat, "split: it is large")
    if heat and report.hot_key:
        return Assessment(share, heat, "one key gets most of it: a split does not help")
    if heat != "hot":
        return Assessment(share, heat)
    if len(load) > 1 and load[report.leader] <= _BUSIER * sum(load.values()) / len(load):
        return Assessment(share, heat)  # the nodes share the load already
    if rate > _MOST_OF_NODE * load[report.leader]:
        if report.keys is None or report.keys > 1:
            return Assessment(share, heat, "split")
        return Assessment(share, heat, "one key gets all of it: a split does not help")
    voters = [node for node, _, role in report.status.replicas if role == "voter" and node in live]
    target = min((node for node in voters if node != report.leader), key=lambda node: load[node], default=0)
    if target and load[report.leader] > _BUSIER * (load[target] + rate):
        return Assessment(share, heat, f"move its lease to node {target}", target)
    return Assessment(share, heat)


def _heat(rate: float, others: float) -> str:
    if rate < LEAST_RATE:
        return ""
    if rate > HOT_FACTOR * others:
        return "hot"
    return "warm" if rate > WARM_FACTOR * others else ""
