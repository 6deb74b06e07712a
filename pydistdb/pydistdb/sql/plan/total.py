"""What a physical plan costs as a whole: until its first row, and until its last.

Costs add up from the leaves, in the unit of ``cost.py`` (one row of a sequential scan)::

    Hash Join                  startup = build side + its rows into the table;  total = both sides + all rows hashed
      ->  Seq Scan on t        startup 0, total = rows read, whether or not they pass
      ->  Seq Scan on c

The planner compares plans of whole queries with it (a subquery run for every value, or computed for all at once), and EXPLAIN
shows it.  After PostgreSQL's costsize.c, with the executor's own ratios.
"""

from __future__ import annotations

from typing import NamedTuple

from pydistdb.sql.plan.cost import HASH_ROW_COST, RESTART_COST, ROW_COST, SORT_ROW_COST, lookup_cost, restart_cost
from pydistdb.sql.plan.estimate import Estimator
from pydistdb.sql.plan.expressions import inputs
from pydistdb.sql.plan.physical import (
    Apply,
    HashJoin,
    IncrementalSort,
    LookupJoin,
    MergeJoin,
    NestedLoop,
    TableScan,
    TopN,
    VirtualTableScan,
)
from pydistdb.sql.tree import Aggregate, ColumnRef, Distinct, FirstRows, FunctionScan, Limit, Rel, Sort, Values
from pydistdb.sql.types.known import INT8


class Cost(NamedTuple):
    startup: float
    total: float


def total_cost(relation: Rel, estimator: Estimator) -> Cost:
    """The cost of a plan, its inputs included."""
    if isinstance(relation, TableScan):
        return Cost(0.0, relation.cost)
    if isinstance(relation, Values | FunctionScan | VirtualTableScan):
        return Cost(0.0, estimator.rows(relation) * ROW_COST)
    below = [total_cost(part, estimator) for part in inputs(relation)]
    if not below:
        return Cost(0.0, estimator.rows(relation) * ROW_COST)
    whole = sum(cost.total for cost in below)
    match relation:
        case Apply():
            return Cost(below[0].startup, below[0].total + _subplans(relation, below[1:], estimator))
        case HashJoin():
            left_rows, right_rows = estimator.rows(relation.left), estimator.rows(relation.right)
            build = below[1].total + 2 * right_rows * HASH_ROW_COST
            return Cost(below[0].startup + build, below[0].total + build + left_rows * HASH_ROW_COST)
        case MergeJoin():
            rows = estimator.rows(relation.left) + 2 * estimator.rows(relation.right)
            return Cost(below[0].startup + below[1].startup, whole + rows * HASH_ROW_COST)
        case NestedLoop():
            rows = estimator.rows(relation.left)
            if relation.outer_ids:
                scan = relation.right
                restart = restart_cost(scan.table) if isinstance(scan, TableScan) else RESTART_COST
                return Cost(below[0].startup, whole + max(rows - 1, 0.0) * (restart + below[1].total))
            return Cost(below[0].startup, whole + rows * estimator.rows(relation.right) * ROW_COST)
        case LookupJoin():
            assert isinstance(relation.scan, TableScan)
            each = lookup_cost(relation.scan.table, relation.scan.access.index)
            return Cost(below[0].startup, below[0].total + estimator.rows(relation.left) * each)
        case Sort() | TopN() | IncrementalSort():
            total = whole + estimator.rows(relation.input) * SORT_ROW_COST
            return Cost(total, total)
        case Aggregate() | Distinct() | FirstRows():
            total = whole + estimator.rows(relation.input) * HASH_ROW_COST
            return Cost(total, total)
        case Limit():
            share = min(estimator.rows(relation) / max(estimator.rows(relation.input), 1.0), 1.0)
            return Cost(below[0].startup, below[0].startup + (below[0].total - below[0].startup) * share)
    return Cost(below[0].startup, whole)


def _subplans(relation: Apply, below: list[Cost], estimator: Estimator) -> float:
    """Every query once per combination of the values it takes from the row."""
    rows = estimator.rows(relation.input)
    total = 0.0
    for plan, cost in zip(relation.subplans, below, strict=True):
        runs = 1.0
        for column in plan.outer_ids:
            runs *= estimator.distinct(ColumnRef(INT8, column), rows)
        total += min(runs, rows) * (RESTART_COST + cost.total) if plan.outer_ids else cost.total
    return total
