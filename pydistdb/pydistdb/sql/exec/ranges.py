"""Which ranges a plan's scans go to: a line for EXPLAIN.

``Ranges: 3 of 12 (leaders: node 1, node 3)``.  A scan whose bounds come from another table's rows, or from parameters that
are not known yet, is told so instead.  Where ranges are led by other nodes, the scan (and the first half of the step above
it) is done there, and the steps say so: ``Finalize Aggregate`` over ``Gather`` over ``Partial Aggregate``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydistdb.kv.api import RangeInfo
from pydistdb.sql.exec.at_shards import AtShardsOperator
from pydistdb.sql.exec.modify import ChangeOperator
from pydistdb.sql.exec.operator import Operator
from pydistdb.sql.exec.repartition import LEAST_NODES, RepartitionedOperator
from pydistdb.sql.exec.run import RunContext, State
from pydistdb.sql.exec.scan import Bounds, TableScanOperator
from pydistdb.sql.layout import Span, TableLayout
from pydistdb.sql.plan.explain_gather import Gathered, strategy
from pydistdb.sql.plan.expressions import all_relations, is_constant, walk
from pydistdb.sql.plan.physical import AtShards, Repartitioned, TableScan
from pydistdb.sql.tree import Expr, Param, Rel

MOST_SPANS = 64
"""Spans looked up one by one; with more, the range from the first to the last is shown."""


@dataclass(slots=True)
class Touched:
    """Where a plan's rows are read."""

    notes: dict[int, str] = field(default_factory=dict)
    """The note of every table scan, by ``id(node)``."""
    gathered: dict[int, Gathered] = field(default_factory=dict)
    """What is gathered from other nodes, by ``id(node)``."""
    ranges: set[int] = field(default_factory=set)
    strategies: list[str] = field(default_factory=list)
    """Of each scan and each part done at the shards, wherever these are."""


async def touched_ranges(
    operator: Operator,
    root: Rel,
    run: RunContext,
    scans: Mapping[int, TableScanOperator],
    parts: Mapping[int, AtShardsOperator],
    exchanges: Mapping[int, RepartitionedOperator],
) -> Touched:
    """Where a plan reads, as far as that can be told beforehand."""
    result = Touched()
    inside: set[int] = set()
    """Scans of parts that are told of as a whole."""
    for relation in all_relations(root):
        if isinstance(relation, Repartitioned) and id(relation) in exchanges:
            await _note_exchange(exchanges[id(relation)], run, result)
        if isinstance(relation, AtShards) and id(relation) in parts:
            operator = parts[id(relation)]
            infos = await _part_ranges(operator, run)
            if operator.part is None or not infos:
                continue
            tail = operator.part.tail.kind
            words = strategy(tail, operator.cut)
            result.strategies.append(words)
            inside.update(id(scan.node) for scan in operator.cut.scans)
            if any(info.leader != run.database.node_id for info in infos):
                leaders = {info.range_id: info.leader for info in infos}
                result.gathered[id(relation)] = Gathered(tail, leaders, words)
        elif isinstance(relation, TableScan):
            result.notes[id(relation)], infos = await _note(relation, run)
            result.ranges.update(info.range_id for info in infos)
            if isinstance(operator, ChangeOperator) and operator.fragment is not None:
                words = type(root).__name__.lower()
                result.strategies.append(words)
                if any(info.leader != run.database.node_id for info in infos):
                    result.gathered[id(root)] = Gathered("rows", {i.range_id: i.leader for i in infos}, words)
                continue
            scan = scans.get(id(relation))
            if id(relation) in inside or scan is None or scan.bounds.is_point or scan.fragment is None:
                continue
            words = strategy(scan.fragment.tail.kind, filters=bool(scan.filter_keys))
            result.strategies.append(words)
            if any(info.leader != run.database.node_id for info in infos):
                leaders = {info.range_id: info.leader for info in infos}
                result.gathered[id(relation)] = Gathered(scan.fragment.tail.kind, leaders, words)
    return result


async def _note_exchange(operator: RepartitionedOperator, run: RunContext, result: Touched) -> None:
    """The nodes of an exchange, if there is one: several lead what it reads."""
    infos = [info for leaf in operator.leaves() for info in await _part_ranges(leaf, run)]
    nodes = tuple(sorted({info.leader for info in infos} - {0}))
    if operator.part is None or operator.input_parts is None or len(nodes) < LEAST_NODES:
        return
    tail = "" if operator.tail is None else operator.tail.kind
    words = strategy(tail, exchange=operator.node)
    result.strategies.append(words)
    result.gathered[id(operator.node)] = Gathered(tail or "rows", {}, words, nodes)
    for exchange in operator.cut.inputs:
        result.gathered[id(exchange)] = Gathered("dealt", {}, "", nodes)


async def _part_ranges(operator: AtShardsOperator, run: RunContext) -> list[RangeInfo]:
    """The ranges that a part goes to; empty if its bounds are not known yet."""
    access = operator.cut.scans[0].node.access
    expressions = [*access.expressions, *access.gate]
    if not _are_known(expressions, run):
        return []
    found: dict[int, RangeInfo] = {}
    for start, end in operator.spans(State(run))[:MOST_SPANS]:
        for info in await run.database.ranges(start, end):
            found[info.range_id] = info
    return sorted(found.values(), key=lambda info: info.start)


def _are_known(expressions: list[Expr], run: RunContext) -> bool:
    known = len(run.parameters)
    return all(map(is_constant, expressions)) and not any(
        isinstance(node, Param) and node.index >= known for part in expressions for node in walk(part)
    )


async def _note(scan: TableScan, run: RunContext) -> tuple[str, list[RangeInfo]]:
    expressions = [*scan.access.expressions, *scan.access.gate]
    if not all(map(is_constant, expressions)):
        return "Ranges: by outer row", []
    if not _are_known(expressions, run):
        return "Ranges: by parameter", []
    layout = TableLayout.of(scan.table)
    bounds = Bounds(layout, scan.access)
    state = State(run)
    spans = [Span(key, key + b"\0") for key in bounds.points(state)] if bounds.is_point else bounds.spans(state)
    if not spans:
        return "Ranges: none", []
    if len(spans) > MOST_SPANS:
        spans = [Span(min(span.start for span in spans), max(span.end for span in spans))]
    touched: dict[int, RangeInfo] = {}
    for span in spans:
        for info in await run.database.ranges(span.start, span.end):
            touched[info.range_id] = info
    whole = layout.index_span(scan.access.index)
    total = len(await run.database.ranges(whole.start, whole.end))
    leaders = ", ".join(f"node {node}" for node in sorted({info.leader for info in touched.values()}))
    note = f"Ranges: {len(touched)} of {max(total, len(touched))} (leaders: {leaders})"
    return note, sorted(touched.values(), key=lambda info: info.start)
