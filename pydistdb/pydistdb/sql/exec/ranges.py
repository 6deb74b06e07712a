"""Which ranges a plan's scans go to: a line for EXPLAIN.

``Ranges: 3 of 12 (leaders: node 1, node 3)``.  A scan whose bounds come from another table's rows, or from parameters that
are not known yet, is told so instead.  Where ranges are led by other nodes, the scan (and the first half of the step above
it) is done there, and the steps say so: ``Finalize Aggregate`` over ``Gather`` over ``Partial Aggregate``.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydistdb.kv.api import RangeInfo
from pydistdb.sql.exec.run import RunContext, State
from pydistdb.sql.exec.scan import Bounds, TableScanOperator
from pydistdb.sql.layout import Span, TableLayout
from pydistdb.sql.plan.explain_gather import Gathered
from pydistdb.sql.plan.expressions import all_relations, is_constant, walk
from pydistdb.sql.plan.physical import TableScan
from pydistdb.sql.tree import Param, Rel

MOST_SPANS = 64
"""Spans looked up one by one; with more, the range from the first to the last is shown."""


async def range_notes(
    root: Rel, run: RunContext, operators: Mapping[int, TableScanOperator]
) -> tuple[dict[int, str], dict[int, Gathered]]:
    """The note of every table scan, and what is gathered from other nodes, by ``id(node)``."""
    notes: dict[int, str] = {}
    gathered: dict[int, Gathered] = {}
    for scan in all_relations(root):
        if not isinstance(scan, TableScan):
            continue
        notes[id(scan)], touched = await _note(scan, run)
        operator = operators.get(id(scan))
        distant = any(info.leader != run.database.node_id for info in touched)
        if distant and operator is not None and not operator.bounds.is_point and operator.fragment is not None:
            leaders = {info.range_id: info.leader for info in touched}
            gathered[id(scan)] = Gathered(operator.fragment.tail.kind, leaders)
    return notes, gathered


async def _note(scan: TableScan, run: RunContext) -> tuple[str, list[RangeInfo]]:
    expressions = scan.access.expressions
    if not all(map(is_constant, expressions)):
        return "Ranges: by outer row", []
    known = len(run.parameters)
    if any(isinstance(node, Param) and node.index >= known for part in expressions for node in walk(part)):
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
