"""EXISTS and IN conditions become semi joins, NOT EXISTS anti joins.

``SELECT … FROM a WHERE EXISTS (SELECT 1 FROM b WHERE b.x = a.x AND b.y > 5)`` becomes ``a ⋉ b`` on ``b.x = a.x``: the
terms of the subquery's WHERE clause that refer to the outer row move into the join condition.  A subquery whose
correlation is anywhere else (below an aggregate, say) stays an expression.
"""

from __future__ import annotations

from dataclasses import replace

from pydistdb.sql.plan.expressions import (
    columns_of,
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
from pydistdb.sql.tree import (
    Call,
    Const,
    Distinct,
    Expr,
    Filter,
    Join,
    Limit,
    Not,
    Project,
    Rel,
    Sort,
    Subquery,
)


def decorrelate(relation: Rel) -> Rel:
    relation = map_parts(map_queries(relation, decorrelate), on_relation=decorrelate)
    if not isinstance(relation, Filter):
        return relation
    source = relation.input
    kept: list[Expr] = []
    for term in conjuncts(relation.condition):
        joined = _joined(source, term)
        if joined is None:
            kept.append(term)
        else:
            source = joined
    if source is relation.input:
        return relation
    return Filter(source.columns, source, conjoin(kept)) if kept else source


def _joined(source: Rel, term: Expr) -> Rel | None:
    kind = "semi"
    if isinstance(term, Not):
        kind, term = "anti", term.argument
    if not isinstance(term, Subquery) or relation_is_volatile(term.query):
        return None
    if term.kind == "exists":
        return _exists(source, term.query, kind)
    if term.kind == "any" and kind == "semi" and term.test is not None and not has_subquery(term.test):
        return _any(source, term.query, term.test)
    return None


def _exists(source: Rel, query: Rel, kind: str) -> Rel | None:
    while True:
        match query:
            case Project() | Sort():
                query = query.input
            case Distinct(on=()):
                query = query.input
            case Limit(offset=None, limit=Const(value=value)) if value is None or value > 0:
                query = query.input
            case _:
                break
    pulled = _pull(query)
    if pulled is None:
        return None
    query, terms = pulled
    return Join(source.columns, kind, source, query, conjoin(terms))


def _any(source: Rel, query: Rel, test: Expr) -> Rel | None:
    if not isinstance(test, Call) and not free_columns(query):
        # Row comparisons and the like are conditions as good as any.
        return Join(source.columns, "semi", source, query, test)
    if isinstance(query, Project) and free_columns(query):
        pulled = _pull(query.input)
        if pulled is None or any(is_volatile(expression) for expression in query.expressions):
            return None
        inner, terms = pulled
        replacements = dict(zip([column.id for column in query.columns], query.expressions, strict=True))
        if free_columns(Project(query.columns, inner, query.expressions)):
            return None
        return Join(source.columns, "semi", source, inner, conjoin([substitute(test, replacements), *terms]))
    pulled = _pull(query)
    if pulled is None:
        return None
    query, terms = pulled
    return Join(source.columns, "semi", source, query, conjoin([test, *terms]))


def _pull(query: Rel) -> tuple[Rel, list[Expr]] | None:
    """Take the correlated terms out of a query's WHERE clause; None if correlation is left somewhere else."""
    if not free_columns(query):
        return query, []
    if isinstance(query, Filter):
        inner = query.input
        outer_terms: list[Expr] = []
        inner_terms: list[Expr] = []
        available = output_ids(inner)
        for term in conjuncts(query.condition):
            if _is_correlated(term, available):
                if has_subquery(term):
                    return None
                outer_terms.append(term)
            else:
                inner_terms.append(term)
        rest = _pull(inner)
        if rest is None:
            return None
        inner, more = rest
        kept = Filter(inner.columns, inner, conjoin(inner_terms)) if inner_terms else inner
        return kept, [*outer_terms, *more]
    if isinstance(query, Join) and query.kind in ("semi", "anti") and not free_columns(query.right):
        if free_columns(replace(query, left=_Nothing(query.left.columns))):
            return None
        rest = _pull(query.left)
        if rest is None:
            return None
        return replace(query, left=rest[0], columns=rest[0].columns), rest[1]
    return None


def _is_correlated(term: Expr, available: set[int]) -> bool:
    return not columns_of(term) <= available


class _Nothing(Rel):
    """Stands for an input while looking at the correlation of the node above it."""

    __slots__ = ()
