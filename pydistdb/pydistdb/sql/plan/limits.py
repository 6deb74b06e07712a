"""What a LIMIT says of the rules that carry it further down: how many rows, and the first ones by which keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pydistdb.sql.plan.expressions import map_parts, map_queries, substitute
from pydistdb.sql.tree import Const, Expr, Limit, Param, Project, Rel, SortKey
from pydistdb.sql.types.known import INT8


def carry_down(relation: Rel, most: int, limited: Callable[[Rel, Expr], Rel]) -> Rel:
    """The tree with the input of every LIMIT of up to ``most`` rows as ``limited`` makes it: given the input and how many of its
    rows are taken, it returns the very input where there is nothing to carry further."""

    def rule(part: Rel) -> Rel:
        return carry_down(part, most, limited)

    relation = map_queries(relation, rule)
    if isinstance(relation, Limit) and not relation.with_ties:
        taken = rows_taken(relation, most)
        if taken is not None:
            source = limited(relation.input, taken)
            relation = relation if source is relation.input else replace(relation, input=source)
    return map_parts(relation, on_relation=rule)


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
