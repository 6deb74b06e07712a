"""Relations without rows: what contradicts itself is not read, nor what is joined with it.

A condition that is never true makes ``Values`` of no rows of its relation, and this goes on upwards::

    t JOIN (u WHERE FALSE)           no rows           t LEFT JOIN (u WHERE FALSE)      t with NULLs
    t WHERE EXISTS (… FALSE)         no rows           t WHERE NOT EXISTS (… FALSE)     t
"""

from __future__ import annotations

from collections.abc import Sequence

from pydistdb.sql.tree import Const, Expr, Filter, Limit, Project, Rel, Sort, Values


def is_never(terms: Sequence[Expr]) -> bool:
    """Whether a condition of these terms is false of every row, whatever it may be."""
    return any(isinstance(term, Const) and term.value is not True for term in terms)


def is_empty(relation: Rel) -> bool:
    """Whether a physical relation certainly has no rows."""
    while isinstance(relation, Project | Filter | Sort | Limit):
        relation = relation.input
    return isinstance(relation, Values) and not relation.rows


def joined_with_nothing(kind: str, left: Rel, right: Rel) -> bool:
    """Whether a join certainly has no rows, since one of its sides has none."""
    if kind in ("inner", "semi"):
        return is_empty(left) or is_empty(right)
    return kind in ("left", "anti") and is_empty(left)
