"""RETURNING with queries in it: the change returns plain columns, and a projection above it does the rest.

::

    Delete(t, returning (SELECT max(b) FROM s WHERE s.a = t.a))
    ->  Project((SELECT max(b) FROM s WHERE s.a = #1), Delete(t, returning #1))
"""

from __future__ import annotations

from dataclasses import replace

from pydistdb.sql.plan.expressions import has_subquery, output_ids, rewrite_deep
from pydistdb.sql.tree import ColumnRef, Const, Delete, Expr, Insert, OutputColumn, Project, Update
from pydistdb.sql.types.known import INT4


def split_returning(relation: Insert | Update | Delete, new_id: int) -> tuple[Insert | Update | Delete, Project] | None:
    """The change with plain columns, and the projection to put above it; None if RETURNING holds no queries."""
    if not any(map(has_subquery, relation.returning)):
        return None
    produced = output_ids(relation.source)
    for name in ("row_ids", "old_ids", "new_ids"):
        produced |= set(getattr(relation, name, {}).values())
    found: dict[int, ColumnRef] = {}

    def collect(expression: Expr) -> Expr:
        if isinstance(expression, ColumnRef) and expression.id in produced:
            found[expression.id] = expression
        return expression

    for expression in relation.returning:
        rewrite_deep(expression, collect)
    returning: tuple[Expr, ...] = tuple(found.values())
    columns = tuple(OutputColumn(column.id, column.name, column.type) for column in found.values())
    if not returning:  # a row for each row changed, even so
        returning, columns = (Const(INT4, 0),), (OutputColumn(new_id, "", INT4),)
    inner = replace(relation, columns=columns, returning=returning)
    return inner, Project(relation.columns, inner, relation.returning)
