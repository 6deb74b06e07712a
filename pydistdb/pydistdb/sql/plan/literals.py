"""Whether a statement is planned once for any values, or for those of each run.

Planning costs a millisecond or two.  That is well spent where the statistics of the very values may choose another index or
join, and wasted where there is nothing to choose::

    SELECT * FROM facts WHERE id BETWEEN $1 AND $2       one index, one scan: planned once, however much it may read
    … AND d = $3, with an index on d                     planned for the values, if it may read CUSTOM_PLAN_COST
    … WHERE name LIKE $1, index ON lower(name)           planned for the values: an index that is not plain
"""

from __future__ import annotations

from collections.abc import Sequence

from pydistdb.sql.plan.expressions import columns_of
from pydistdb.sql.plan.physical import TableScan
from pydistdb.sql.tree import Aggregate, Expr, Filter, Limit, Project, Rel

CUSTOM_PLAN_COST = 10_000.0
"""What is expected to read so much (some 6 ms) is planned for its literals each time."""


def literals_may_matter(relations: Sequence[Rel]) -> bool:
    """Whether another plan than that of these relations might be found if it were known what the parameters are: what a
    partial index's predicate or an index expression says of constants, a plan for any value cannot make use of; and where
    much is read, planning by the statistics of the very values costs little beside it."""
    scans = [part for part in relations if isinstance(part, TableScan)]
    if len(scans) == 1 and not _has_choice(scans[0], relations):
        return False
    if sum(scan.cost for scan in scans if not scan.access.is_point) > CUSTOM_PLAN_COST:
        return True
    return any(not scan.access.is_point and any(not index.is_plain for index in scan.table.indexes) for scan in scans)


def _has_choice(scan: TableScan, parts: Sequence[Rel]) -> bool:
    """Whether the only scan of a plan, by the primary index, could be one of another index, were the values others: of one
    that begins with a column that a condition looks at, or holds more than its key."""
    if scan.access.index is not scan.table.indexes[0]:
        return True
    if not all(isinstance(part, TableScan | Project | Filter | Limit | Aggregate) for part in parts):
        return True
    conditions: list[Expr] = [*scan.access.terms, *(() if scan.condition is None else (scan.condition,))]
    numbers = dict(zip((column.id for column in scan.columns), scan.numbers, strict=True))
    looked_at = {numbers.get(column) for condition in conditions for column in columns_of(condition)}
    return any(
        not index.is_plain or index.include or index.columns[0].column in looked_at for index in scan.table.indexes[1:]
    )
