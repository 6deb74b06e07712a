"""Volatile expressions of a select list that are computed after the sort, for the rows that LIMIT leaves.

``SELECT nextval('s'), name FROM t ORDER BY name LIMIT 2`` takes two numbers, and in the order of the names::

    Project([nextval('s'), #1])         what is late, over the columns that it needs
      Limit(2)
        Sort(#1)
          Project([name])

Source: PostgreSQL 15, planner.c (make_sort_input_target).
"""

from __future__ import annotations

from collections.abc import Sequence

from pydistdb.sql.bind.rewrite import transform, walk
from pydistdb.sql.bind.targets import Target
from pydistdb.sql.tree import Call, ColumnRef, Expr, Subquery


def postpone(targets: list[Target], sorted_by: Sequence[Target], locks: int) -> dict[int, Target]:
    """Take what can be computed late out of ``targets``; returns it by position.

    The columns that it needs join the targets, hidden, before those of the ``locks``, which stay the last ones."""
    late: dict[int, Target] = {}
    for position, target in enumerate(list(targets)):
        if target not in sorted_by and not target.hidden and _is_late(target.expr):
            late[position] = target
    for target in late.values():
        targets.remove(target)
    needed: dict[int, Target] = {}
    for target in late.values():
        for part in walk(target.expr):
            if isinstance(part, ColumnRef) and part.id not in needed:
                needed[part.id] = Target("", part, target.location, hidden=True)
    end = len(targets) - locks
    targets[end:end] = needed.values()
    for target in late.values():
        target.needs = needed
    return late


def late_expression(target: Target) -> Expr:
    """The postponed expression over the columns below, which have their ids by now."""

    def visit(expr: Expr) -> Expr | None:
        if isinstance(expr, ColumnRef):
            return ColumnRef(expr.type, target.needs[expr.id].id, expr.name, expr.nullable)
        return None

    return transform(target.expr, visit)


def _is_late(expr: Expr) -> bool:
    volatile = False
    for part in walk(expr):
        if isinstance(part, Subquery):
            return False
        volatile = volatile or (isinstance(part, Call) and part.function.volatility == "v")
    return volatile
