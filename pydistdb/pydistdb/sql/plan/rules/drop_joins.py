"""A LEFT JOIN that adds nothing goes: nobody reads the right side's columns, and it has at most one row for each left one.

``SELECT o.id FROM orders o LEFT JOIN users u ON u.id = o.user_id`` is ``SELECT id FROM orders``: ``users.id`` is unique.  Views
and object-relational mappers write such joins all day long.  Within the right side only filters and projections may stand above
the table.
"""

from __future__ import annotations

from dataclasses import replace

from pydistdb.sql.plan.comparisons import comparison_terms
from pydistdb.sql.plan.expressions import (
    columns_of,
    conjuncts,
    direct_parts,
    free_columns,
    is_volatile,
    map_parts,
    output_ids,
    rewrite,
    substitute,
)
from pydistdb.sql.tree import Aggregate, ColumnRef, Expr, Filter, Join, Limit, Project, Rel, Scan, Sort, Subquery


def drop_joins(relation: Rel) -> Rel:
    return _drop(relation, output_ids(relation))


def _in_expression(expression: Expr) -> Expr:
    return map_parts(expression, on_relation=drop_joins) if isinstance(expression, Subquery) else expression


def _drop(relation: Rel, needed: set[int]) -> Rel:
    """``needed``: the columns that somebody above reads."""
    relation = map_parts(relation, lambda part: rewrite(part, _in_expression))
    own = set().union(*map(columns_of, direct_parts(relation)[0]), set())
    match relation:
        case Join(kind="left", lateral=False) if not needed & output_ids(relation.right) and _adds_nothing(relation):
            return _drop(relation.left, needed)
        case Join():
            wanted = needed | own
            right = _drop(relation.right, wanted)
            left = _drop(relation.left, wanted | free_columns(relation.right))
            available = left.columns if relation.kind in ("semi", "anti") else left.columns + right.columns
            kept = output_ids(relation)
            columns = tuple([column for column in available if column.id in kept])
            return replace(relation, left=left, right=right, columns=columns)
        case Project() | Aggregate():
            return replace(relation, input=_drop(relation.input, own))
        case Filter() | Sort() | Limit():
            source = _drop(relation.input, needed | own)
            return replace(relation, input=source, columns=source.columns)
    return map_parts(relation, on_relation=drop_joins)


def _adds_nothing(join: Join) -> bool:
    scan = join.right
    terms = conjuncts(join.condition)
    while isinstance(scan, Filter | Project):
        if isinstance(scan, Filter):
            terms.extend(conjuncts(scan.condition))
        else:
            if any(map(is_volatile, scan.expressions)):
                return False
            replacements = dict(zip([column.id for column in scan.columns], scan.expressions, strict=True))
            terms = [substitute(term, replacements) for term in terms]
        scan = scan.input
    if not isinstance(scan, Scan) or any(map(is_volatile, terms)):
        return False
    numbers = {column.id: number for column, number in zip(scan.columns, scan.numbers, strict=True)}
    bound: set[int] = set()
    for term in terms:
        found = comparison_terms(term)
        if found is None or found[0] != "=":
            continue
        for column, value in ((found[1], found[2]), (found[2], found[1])):
            if isinstance(column, ColumnRef) and column.id in numbers and not columns_of(value) & numbers.keys():
                bound.add(numbers[column.id])
    return any(
        index.unique
        and index.is_plain
        and index.is_readable
        and not index.deferrable
        and bound >= {column.column for column in index.columns}
        for index in scan.table.indexes
    )
