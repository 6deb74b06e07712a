"""A LIMIT over UNION ALL holds for each of its arms: none has more than that many rows to give.

With an ORDER BY it is the first rows of each arm that matter, which an index may deliver and shards can find for themselves::

    (a UNION ALL b) ORDER BY x LIMIT 10 OFFSET 5   ->   ((a ORDER BY x LIMIT 15) UNION ALL (b …)) ORDER BY x LIMIT 10 OFFSET 5

The LIMIT itself stays.  Numbers that are not known while planning are left alone if there are two of them to be added up; so are
LIMIT 0 and what is an error, WITH TIES, and sort keys that are not the same every time they are computed.

Source: PostgreSQL 15, pathnode.c and prepunion.c (the bound that a Limit gives to a MergeAppend below it).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pydistdb.sql.plan.expressions import has_subquery, is_volatile
from pydistdb.sql.plan.limits import below, carry_down, in_terms_of
from pydistdb.sql.tree import ColumnRef, Expr, Limit, Project, Rel, SetOperation, Sort, SortKey

MOST_ROWS = 100_000
"""A greater number leaves hardly anything out, and would have each arm sorted for it."""


def limit_arms(relation: Rel) -> Rel:
    return carry_down(relation, MOST_ROWS, _limited)


def _limited(relation: Rel, most: Expr) -> Rel:
    """The relation with every arm of a UNION ALL in it limited; the relation itself if it is none."""
    match relation:
        case Project():
            source = _limited(relation.input, most)
            return relation if source is relation.input else replace(relation, input=source)
        case Sort():
            source = _sorted(relation.input, relation.keys, most)
            return relation if source is relation.input else replace(relation, input=source)
        case SetOperation(kind="union", all=True):
            return _arms(relation, lambda arm: Limit(arm.columns, arm, most, None))
    return relation


def _sorted(relation: Rel, keys: tuple[SortKey, ...], most: Expr) -> Rel:
    """The same where it is the first rows by ``keys`` that are wanted."""
    if any(is_volatile(key.expression) or has_subquery(key.expression) for key in keys):
        return relation
    match relation:
        case Project():
            source = _sorted(relation.input, below(keys, relation), most)
            return relation if source is relation.input else replace(relation, input=source)
        case SetOperation(kind="union", all=True) as union:

            def first(arm: Rel) -> Rel:
                values: dict[int, Expr] = {
                    column.id: ColumnRef(inner.type, inner.id, inner.name)
                    for column, inner in zip(union.columns, arm.columns, strict=True)
                }
                return Limit(arm.columns, Sort(arm.columns, arm, in_terms_of(keys, values)), most, None)

            return _arms(union, first)
    return relation


def _arms(union: SetOperation, limited: Callable[[Rel], Rel]) -> SetOperation:
    # An arm that is a UNION ALL itself has its own arms limited when the rule comes to it.
    return replace(union, left=limited(union.left), right=limited(union.right))
