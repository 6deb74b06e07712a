"""Which ranges a plan's scans go to: a line for EXPLAIN.

``Ranges: 3 of 12 (leaders: node 1, node 3)``.  A scan whose bounds come from another table's rows, or from parameters that
are not known yet, is told so instead.
"""

from __future__ import annotations

from pydistdb.kv.api import RangeInfo
from pydistdb.sql.exec.run import RunContext, State
from pydistdb.sql.exec.scan import Bounds
from pydistdb.sql.layout import Span, TableLayout
from pydistdb.sql.plan.expressions import all_relations, is_constant, walk
from pydistdb.sql.plan.physical import Access, TableScan
from pydistdb.sql.tree import Expr, Param, Rel

MOST_SPANS = 64
"""Spans looked up one by one; with more, the range from the first to the last is shown."""


async def range_notes(root: Rel, run: RunContext) -> dict[int, str]:
    """The note of every table scan, by ``id(node)``."""
    return {id(scan): await _note(scan, run) for scan in all_relations(root) if isinstance(scan, TableScan)}


def _expressions(access: Access) -> list[Expr]:
    found = [pair[0] for pair in (*access.lower, *access.upper)]
    for term in access.equal:
        found.extend(term.alternatives)
        if term.array is not None:
            found.append(term.array)
    return found


async def _note(scan: TableScan, run: RunContext) -> str:
    expressions = _expressions(scan.access)
    if not all(map(is_constant, expressions)):
        return "Ranges: by outer row"
    known = len(run.parameters)
    if any(isinstance(node, Param) and node.index >= known for part in expressions for node in walk(part)):
        return "Ranges: by parameter"
    layout = TableLayout.of(scan.table)
    bounds = Bounds(layout, scan.access)
    state = State(run)
    spans = [Span(key, key + b"\0") for key in bounds.points(state)] if bounds.is_point else bounds.spans(state)
    if not spans:
        return "Ranges: none"
    if len(spans) > MOST_SPANS:
        spans = [Span(min(span.start for span in spans), max(span.end for span in spans))]
    touched: dict[int, RangeInfo] = {}
    for span in spans:
        for info in await run.database.ranges(span.start, span.end):
            touched[info.range_id] = info
    whole = layout.index_span(scan.access.index)
    total = len(await run.database.ranges(whole.start, whole.end))
    leaders = ", ".join(f"node {node}" for node in sorted({info.leader for info in touched.values()}))
    return f"Ranges: {len(touched)} of {max(total, len(touched))} (leaders: {leaders})"
