"""What a LIMIT says of the rules that carry it further down: how many rows, and the first ones by which keys."""

from __future__ import annotations

from dataclasses import replace

from pydistdb.sql.plan.expressions import substitute
from pydistdb.sql.tree import Const, Expr, Limit, Param, Project, SortKey
from pydistdb.sql.types.known import INT8


def rows_taken(relation: Limit, most: int) -> Expr | None:
    """How many rows the Limit takes, those that it passes over included; None if that is not known, or more than ``most``.

    So are LIMIT 0 and what is an error, and two numbers of which one is not known."""
    limit, offset = relation.limit, relation.offset
    if isinstance(limit, Param) and offset is None:
        return limit
    if not isinstance(limit, Const) or not isinstance(limit.value, int) or limit.value < 1:
        return None
    if offset is None:
        return limit if limit.value <= most else None
    if not isinstance(offset, Const) or not isinstance(offset.value, int) or offset.value < 0:
        return None
    both = limit.value + offset.value
    return Const(INT8, both) if both <= most else None


def below(keys: tuple[SortKey, ...], project: Project) -> tuple[SortKey, ...]:
    """The keys in terms of what a projection is made from."""
    return in_terms_of(keys, dict(zip([column.id for column in project.columns], project.expressions, strict=True)))


def in_terms_of(keys: tuple[SortKey, ...], values: dict[int, Expr]) -> tuple[SortKey, ...]:
    return tuple([replace(key, expression=substitute(key.expression, values)) for key in keys])
