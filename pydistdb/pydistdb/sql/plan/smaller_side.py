"""Semi, anti and left joins by hash whose left side is the smaller one: that side is built into the table.

A hash join keeps its right side in memory and lets the left one pass.  Of a semi join of 8,000 rows with 600,000 that is the
wrong way round; and where the larger side lies on other nodes, the keys of the smaller one, sent ahead, keep most of it there
(exec/key_filter.py), below the GROUP BY of a correlated subquery, too::

    lines (8,590) SEMI l2 (600,000 on three nodes)        table: l2, 600,000 rows sent
    Hash Right Semi Join                                  table: lines; l2 by their keys: some 50,000 rows sent

Inner joins have been turned by cost (joins.py); what shards and nodes do for themselves stays as it is, and needs no filter.

Source: Mackert and Lohman, "R* Optimizer Validation" (1986), on Bloomjoins; PostgreSQL 15's "Hash Right Join".
"""

from __future__ import annotations

from dataclasses import fields

from pydistdb.sql.plan.estimate import Estimator
from pydistdb.sql.plan.expressions import map_parts, output_ids
from pydistdb.sql.plan.physical import AtShards, HashJoin, Repartitioned, RightHashJoin, TableScan
from pydistdb.sql.tree import Aggregate, Filter, Project, Rel

LEAST_ROWS = 2_000.0
"""On the right; below it does not matter."""
LEAST_RATIO = 4.0
"""How many times the rows of the left side must be on the right.  Estimates are off, and turned the wrong way it costs more."""
MOST_PARTNERS = 0.5
"""Keys are sent ahead where fewer of the right side's rows than this are expected to find a partner."""


def build_smaller(relation: Rel, estimator: Estimator, *, sending: bool = False) -> Rel:
    """The plan with such joins turned; ``sending``: those only whose keys a scan on the right, grouped or not, can be sent."""

    def turned(part: Rel) -> Rel:
        if isinstance(part, AtShards | Repartitioned):
            return part
        part = map_parts(part, on_relation=turned)
        if type(part) is not HashJoin or part.kind not in ("semi", "anti", "left") or part.null_aware:
            return part
        left, right = estimator.rows(part.left), estimator.rows(part.right)
        if right < LEAST_ROWS or left * LEAST_RATIO > right:
            return part
        if sending and not _is_scan(part.right):
            return part
        partners = estimator.partner_share(part.condition, left, output_ids(part.left))
        if sending and partners >= MOST_PARTNERS:
            return part
        same = {field.name: getattr(part, field.name) for field in fields(part)}
        return RightHashJoin(**same, sends_keys=partners < MOST_PARTNERS)

    return turned(relation)


def _is_scan(relation: Rel) -> bool:
    while isinstance(relation, Filter | Project | Aggregate):
        relation = relation.input
    return isinstance(relation, TableScan)
