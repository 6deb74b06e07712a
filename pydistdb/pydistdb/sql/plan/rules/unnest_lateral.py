"""A LATERAL query that only filters and projects becomes a join like any other, with what it takes of the left row as condition.

::

    a, LATERAL (SELECT b.id, b.v + a.k AS x FROM b WHERE b.v = a.v AND b.id < 9) l
        ->   SELECT …, b.id, b.v + a.k AS x FROM a JOIN (b WHERE b.id < 9) ON b.v = a.v

so that it need not be run for each row of the left side.  The right side of a LEFT JOIN has NULLs where it has no row: only what
is NULL with its columns can be computed above.  Queries with aggregates, LIMIT or queries in their conditions are left as they
are, and so is what differs each time it is computed.

Source: PostgreSQL 15, prepjointree.c (pull_up_simple_subquery).
"""

from __future__ import annotations

from pydistdb.sql.plan.expressions import (
    conjoin,
    conjuncts,
    free_columns,
    has_subquery,
    is_volatile,
    map_parts,
    map_queries,
    output_ids,
    relation_is_volatile,
    substitute,
)
from pydistdb.sql.plan.grouped import pull_correlation
from pydistdb.sql.tree import Call, ColumnRef, Expr, Join, OutputColumn, Project, Rel


def unnest_lateral(relation: Rel) -> Rel:
    relation = map_parts(map_queries(relation, unnest_lateral), on_relation=unnest_lateral)
    if isinstance(relation, Join) and relation.lateral and relation.kind in ("inner", "left"):
        return _unnested(relation) or relation
    return relation


def _unnested(join: Join) -> Rel | None:
    right = join.right
    source = right.input if isinstance(right, Project) else right
    made = right.expressions if isinstance(right, Project) else _references(right.columns)
    pulled = pull_correlation(source)
    if pulled is None or relation_is_volatile(right) or is_volatile(join.condition) or any(map(has_subquery, made)):
        return None
    source, terms = pulled
    own = output_ids(source)
    if free_columns(source) & output_ids(join.left):
        return None
    if join.kind == "left" and not all(_is_null_with(own, each) for each in made):
        return None
    values: dict[int, Expr] = dict(zip([column.id for column in right.columns], made, strict=True))
    condition = conjoin([substitute(term, values) for term in (*conjuncts(join.condition), *terms)])
    joined = Join(join.left.columns + source.columns, join.kind, join.left, source, condition)
    return Project(join.columns, joined, tuple([substitute(each, values) for each in _references(join.columns)]))


def _is_null_with(columns: set[int], expression: Expr) -> bool:
    """Whether an expression is NULL where all these columns are."""
    match expression:
        case ColumnRef():
            return expression.id in columns
        case Call():
            return expression.function.strict and any(_is_null_with(columns, each) for each in expression.arguments)
    return False


def _references(columns: tuple[OutputColumn, ...]) -> tuple[Expr, ...]:
    return tuple([ColumnRef(column.type, column.id, column.name) for column in columns])
