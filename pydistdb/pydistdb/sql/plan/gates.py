"""Terms of a condition that are the same for every row of a scan: tested once, before anything is read.

::

    WHERE $1 IS NULL AND …                      reads nothing where $1 has a value
    WHERE a = $1 AND a = $2                     a = $1 and $1 = $2 (rules/contradictions.py): nothing where they differ
    WHERE b > $1 AND b < $2, no index on b      nothing where $1 < $2 is not true

What an index's bounds contradict needs no gate: their span is empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydistdb.sql.plan.comparisons import MIRRORED, comparison_terms
from pydistdb.sql.plan.expressions import columns_of, conjoin, conjuncts, substitute, walk
from pydistdb.sql.plan.physical import TableScan
from pydistdb.sql.tree import ColumnRef, Const, Expr, Param, Scan


def gates(scan: Scan, terms: Sequence[Expr]) -> list[Expr]:
    """The terms that speak of no column of the table."""
    own = {column.id for column in scan.columns}
    return [term for term in terms if own.isdisjoint(columns_of(term))]


def gated(scan: TableScan, gate: Sequence[Expr]) -> TableScan:
    """The scan with a gate before it; of a row or two its terms are checked as others are."""
    access = scan.access
    if access.is_point or access.probes or access.also or scan.current_of:
        return replace(scan, condition=conjoin([*gate, *conjuncts(scan.condition)])) if gate else scan
    if not (access.equal or access.lower or access.upper):
        gate = [*gate, *_meeting(conjuncts(scan.condition))]
    return replace(scan, access=replace(access, gate=tuple(gate))) if gate else scan


def _meeting(terms: Sequence[Expr]) -> list[Expr]:
    """What must be true of the bounds of a column that are parameters, if anything is to lie between them."""
    lower: dict[int, Expr] = {}
    upper: list[tuple[ColumnRef, Expr]] = []
    for term in terms:
        found = comparison_terms(term)
        if found is None or found[0] in ("=", "<>"):
            continue
        name, left, right, _ = found
        if isinstance(right, ColumnRef):
            name, left, right = MIRRORED[name], right, left
        if isinstance(left, ColumnRef) and isinstance(right, Const | Param):
            if name in ("<", "<="):
                upper.append((left, term))
            elif right.type.oid == left.type.oid:
                lower.setdefault(left.id, right)
    meeting = [substitute(term, {column.id: lower[column.id]}) for column, term in upper if column.id in lower]
    return [term for term in meeting if any(isinstance(part, Param) for part in walk(term))]
