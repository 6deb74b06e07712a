"""A short range of whole numbers or days as the values in it, where rows lie by the hash of a column.

Neighbours have nothing in common there, so a range of the column says nothing of the shards, but each value does::

    u SHARD BY HASH (id):   id BETWEEN 10 AND 12        the shards of 10, 11 and 12, in each of which 10..12 is looked for
                            id >= $1 AND id < $2        likewise if few values lie between, else all shards: each run sees
                            id > 10                     all shards

Which values lie between bounds that are parameters turns out in each run, so the whole condition is checked on every row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydistdb.sql.plan.paths import Search, bound
from pydistdb.sql.plan.physical import Term
from pydistdb.sql.tree import Const, Expr
from pydistdb.sql.types import known
from pydistdb.sql.types import registry as types
from pydistdb.sql.types.domains import base_oid

MOST_VALUES = 64
"""Each costs about what opening a scan does: some rows more or less, wherever they lie."""
ASSUMED_VALUES = 16.0
"""Between bounds that are not known yet."""

_COUNTABLE = frozenset({types.INT2.oid, types.INT4.oid, types.INT8.oid, known.DATE.oid})
"""Types whose runtime values are Python's integers, one after the other (of some days at both ends there are no dates,
and nothing is found for them)."""


def values_between(lower: tuple[Any, bool], upper: tuple[Any, bool]) -> Sequence[int] | None:
    """What lies between two (value, inclusive) bounds, which may be NULL; None if there are too many values.

    >>> list(values_between((10, True), (13, False)))
    [10, 11, 12]
    """
    if lower[0] is None or upper[0] is None:
        return ()
    first, end = lower[0] + (not lower[1]), upper[0] + upper[1]
    return range(first, end) if end - first <= MOST_VALUES else None


def few_values(search: Search, number: int) -> tuple[Term, float, list[Expr]] | None:
    """(term, how many values, the condition's terms) where the condition has two bounds for a column, and there is a
    chance that few values lie between them."""
    column = next((each for each in search.table.columns if each.number == number), None)
    if column is None or base_oid(column.type_oid) not in _COUNTABLE:
        return None
    candidates = search.found.get(number, ())
    lower, lower_term = bound(candidates, (">", ">="))
    upper, upper_term = bound(candidates, ("<", "<="))
    if lower_term is None or upper_term is None:
        return None
    (least, takes_least), (most, takes_most) = lower[0], upper[0]
    count = ASSUMED_VALUES
    if isinstance(least, Const) and isinstance(most, Const):
        values = values_between((least.value, takes_least), (most.value, takes_most))
        if values is None:
            return None
        count = max(float(len(values)), 1.0)
    return Term(between=(*lower, *upper)), count, [lower_term, upper_term]
