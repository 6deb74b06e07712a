"""A correlated subquery for all outer rows at once: grouped by what correlates it, and joined.

An ``Apply`` runs its query once per combination of outer values: right where an index leads to the few rows each time, and
quadratic where every run reads the whole table.  The same values come from one pass::

    SELECT … FROM ps WHERE qty > (SELECT sum(q) / 2 FROM l WHERE l.part = ps.part AND l.day < '1995-01-01')

    HashJoin left ps.part = l.part        value: sum / 2 (NULL where there was no partner)
      ->  ps
      ->  Aggregate by l.part of sum(q)
            ->  Scan l, filter day < '1995-01-01'

``count`` over nothing is 0, not NULL, hence COALESCE.  EXISTS (where it could not become a semi join: in a select list, under
OR) joins the distinct keys and asks whether there was a partner.  The planner builds both forms and takes the cheaper.
Groups that no outer row asks for are computed too, so only expressions that cannot fail may stand in the query.

Source: Kim, "On Optimizing an SQL-like Nested Query" (1982); the count bug: Ganski and Wong (1987).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from pydistdb.sql.plan.comparisons import comparison_terms, operator_name, written_operator
from pydistdb.sql.plan.expressions import (
    all_relations,
    columns_of,
    conjoin,
    conjuncts,
    direct_parts,
    free_columns,
    has_subquery,
    output_ids,
    relation_is_volatile,
    substitute,
    walk,
)
from pydistdb.sql.tree import (
    Aggregate,
    Call,
    Coalesce,
    ColumnRef,
    Const,
    Distinct,
    Expr,
    Filter,
    IsNull,
    Join,
    Limit,
    OutputColumn,
    Project,
    Rel,
    Sort,
    Subquery,
)
from pydistdb.sql.types.known import BOOL, INT8

NULL_OF_NOTHING = frozenset({"sum", "avg", "min", "max", "bool_and", "bool_or", "every", "bit_and", "bit_or"})
"""Aggregates whose value over no rows is NULL; count is told apart."""
HARMLESS_OPERATORS = frozenset({"+", "-", "*", "||", "~~", "!~~", "~~*", "!~~*"})


@dataclass(frozen=True, slots=True)
class Grouped:
    """``right`` joined to the outer rows on ``outer_keys = inner_keys`` (columns of ``right``) gives ``value``."""

    right: Rel
    outer_keys: tuple[Expr, ...]
    inner_keys: tuple[Expr, ...]
    terms: tuple[Expr, ...]
    value: Expr


def grouped(subquery: Subquery, outer: set[int], ids: Iterator[int]) -> Grouped | None:
    """The subquery as a relation to join; None if it is not of the kind.  ``outer``: the columns at hand."""
    query = subquery.query
    taken = free_columns(query)
    if not taken or not taken <= outer or relation_is_volatile(query):
        return None
    if any(has_subquery(part) for relation in all_relations(query) for part in direct_parts(relation)[0]):
        return None  # building both forms at every level would double the work with each
    if subquery.kind == "exists":
        return _existence(query, outer, ids)
    if subquery.kind == "scalar":
        return _aggregate(query, outer, ids)
    return None


def _aggregate(query: Rel, outer: set[int], ids: Iterator[int]) -> Grouped | None:
    value: Expr | None = None
    if isinstance(query, Project) and len(query.expressions) == 1:
        value, query = query.expressions[0], query.input
    if not isinstance(query, Aggregate) or query.groups or query.grouping_sets or query.groupings:
        return None
    names = {call.function.name for call in query.calls}
    if not names <= NULL_OF_NOTHING | {"count"} or not query.calls or not _cannot_fail(query):
        return None
    if value is None:
        value = ColumnRef(query.columns[0].type, query.columns[0].id)
    if columns_of(value) & outer or has_subquery(value):
        return None
    keys = _keys(query.input, outer)
    if keys is None:
        return None
    source, outer_keys, inner_keys, terms = keys
    groups = tuple([OutputColumn(next(ids), "", key.type) for key in inner_keys])
    right = replace(query, columns=groups + query.columns, input=source, groups=tuple(inner_keys))
    zeros: dict[int, Expr] = {
        column.id: Coalesce(INT8, (ColumnRef(column.type, column.id), Const(INT8, 0)))
        for column, call in zip(query.columns, query.calls, strict=True)
        if call.function.name == "count"
    }
    found = tuple([ColumnRef(column.type, column.id) for column in groups])
    return Grouped(right, tuple(outer_keys), found, tuple(terms), substitute(value, zeros))


def _existence(query: Rel, outer: set[int], ids: Iterator[int]) -> Grouped | None:
    while True:
        match query:
            case Project() | Sort() | Distinct(on=()):
                query = query.input
            case Limit(offset=None, limit=Const(value=count)) if count is None or count > 0:
                query = query.input
            case _:
                break
    keys = _keys(query, outer)
    if keys is None:
        return None
    source, outer_keys, inner_keys, terms = keys
    columns = tuple([OutputColumn(next(ids), "", key.type) for key in inner_keys])
    right = Distinct(columns, Project(columns, source, tuple(inner_keys)))
    found = tuple([ColumnRef(column.type, column.id) for column in columns])
    return Grouped(right, tuple(outer_keys), found, tuple(terms), IsNull(BOOL, found[0], True))


def _keys(source: Rel, outer: set[int]) -> tuple[Rel, list[Expr], list[Expr], list[Expr]] | None:
    """The source without its correlation, which must be equalities: of the outer keys with the inner ones."""
    pulled = pull_correlation(source)
    if pulled is None:
        return None
    source, terms = pulled
    inner = output_ids(source)
    outer_keys: list[Expr] = []
    inner_keys: list[Expr] = []
    for term in terms:
        found = comparison_terms(term)
        if found is None or found[0] != "=":
            return None
        for here, there in ((found[1], found[2]), (found[2], found[1])):
            if columns_of(here) and columns_of(here) <= outer and columns_of(there) and columns_of(there) <= inner:
                outer_keys.append(here)
                inner_keys.append(there)
                break
        else:
            return None
    return (source, outer_keys, inner_keys, terms) if terms and not free_columns(source) else None


def pull_correlation(relation: Rel) -> tuple[Rel, list[Expr]] | None:
    """Take correlated terms out of a relation; its columns become all that there are below, for them to refer to."""
    if not free_columns(relation):
        return relation, []
    match relation:
        case Filter():
            below = pull_correlation(relation.input)
            if below is None:
                return None
            source, pulled = below
            available = output_ids(source)
            kept = [term for term in conjuncts(relation.condition) if columns_of(term) <= available]
            out = [term for term in conjuncts(relation.condition) if not columns_of(term) <= available]
            if any(map(has_subquery, out)):
                return None
            filtered = Filter(source.columns, source, conjoin(kept)) if kept else source
            return filtered, [*pulled, *out]
        case Join(kind="inner", lateral=False):
            left, right = pull_correlation(relation.left), pull_correlation(relation.right)
            if left is None or right is None:
                return None
            columns = left[0].columns + right[0].columns
            available = {column.id for column in columns}
            terms = conjuncts(relation.condition)
            kept = [term for term in terms if columns_of(term) <= available]
            out = [term for term in terms if not columns_of(term) <= available]
            if any(map(has_subquery, out)):
                return None
            joined = replace(relation, columns=columns, left=left[0], right=right[0], condition=conjoin(kept))
            return joined, [*left[1], *right[1], *out]
    return None


def _cannot_fail(query: Aggregate) -> bool:
    for relation in all_relations(query):
        for expression in direct_parts(relation)[0]:
            for node in walk(expression):
                if isinstance(node, Call) and not _is_harmless(node):
                    return False
    return True


def _is_harmless(call: Call) -> bool:
    if operator_name(call.function) is not None or written_operator(call.function) in HARMLESS_OPERATORS:
        return True
    # Widening casts, to numeric mostly.
    types = [argument.type.category for argument in call.arguments]
    return types == ["N"] and call.type.name in ("numeric", "float8", "int8")
