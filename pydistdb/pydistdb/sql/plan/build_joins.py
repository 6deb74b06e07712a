"""Joins of all kinds: clusters of inner joins in the best order, the others as they stand.

A semi or anti join of one relation of a cluster is tried in two places, above the cluster and on that relation::

    (t ⋈ u ⋈ v) ⋉ w   or   (t ⋉ w) ⋈ u ⋈ v
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydistdb.sql.plan import joins
from pydistdb.sql.plan.build_subqueries import SubqueryBuilder
from pydistdb.sql.plan.empty import is_empty, is_never, joined_with_nothing
from pydistdb.sql.plan.expressions import (
    all_relations,
    columns_of,
    conjoin,
    conjuncts,
    flatten_joins,
    free_columns,
    has_subquery,
    output_ids,
)
from pydistdb.sql.plan.joins import Side
from pydistdb.sql.plan.physical import (
    NestedLoop,
    TableScan,
)
from pydistdb.sql.plan.total import total_cost
from pydistdb.sql.tree import (
    Expr,
    Filter,
    Join,
    OutputColumn,
    Rel,
    Scan,
    Values,
    VirtualScan,
)

MOST_EARLY_JOINS = 2
"""With more semi and anti joins than this in a cluster, none is tried in two places: the work doubles with each."""
LARGEST_CLUSTER = 40
"""More relations than this in one inner join are joined in the order written."""


class JoinBuilder(SubqueryBuilder):
    """The part of the builder that sees to joins."""

    def _join(self, relation: Join) -> Rel:
        if relation.lateral:
            return self._lateral(relation)
        if relation.kind == "inner":
            sides: list[Rel] = []
            terms: list[Expr] = []
            flatten_joins(relation, sides, terms)
            if len(sides) <= LARGEST_CLUSTER:
                return self._cluster(relation, sides, terms)
        terms = conjuncts(relation.condition)
        plain = [term for term in terms if not has_subquery(term)]
        if len(plain) < len(terms):
            return self._join_on_subquery(relation)
        left, right = self._side(relation.left), self._side(relation.right)
        if joined_with_nothing(relation.kind, left.relation, right.relation):
            return Values(relation.columns, ())
        if relation.kind == "anti" and is_empty(right.relation):
            return left.relation
        joined = joins.join(relation.kind, left, right, plain, relation.columns, self.estimator, relation.null_aware)
        early = self._join_early(relation)
        return joined.relation if early is None or joined.cost <= early.cost else early.relation

    def _join_early(self, relation: Join) -> Side | None:
        """A semi or anti join of one relation of a cluster, done on that relation before it is joined with the others.

        It is worth it where it leaves few rows, and not where the other joins do."""
        if relation.kind not in ("semi", "anti"):
            return None
        nested = sum(isinstance(part, Join) and part.kind in ("semi", "anti") for part in all_relations(relation.left))
        if nested >= MOST_EARLY_JOINS:
            return None
        parts: list[Rel] = []
        flatten_joins(relation.left, parts, [])
        used = columns_of(relation.condition) - output_ids(relation.right)
        part = next((part for part in parts if used and used <= output_ids(part)), None)
        if part is None or len(parts) < 2:
            return None
        early = replace(relation, left=part, columns=part.columns)
        return self._side(_with_part(relation.left, part, early))

    def _join_on_subquery(self, relation: Join) -> Rel:
        """A query in the condition: of the right row alone if it can be, else evaluated for every pair."""
        terms = conjuncts(relation.condition)
        queries = [term for term in terms if has_subquery(term)]
        if all(not columns_of(term) & output_ids(relation.left) for term in queries) and relation.kind != "full":
            checked = self._checked(self.build(relation.right), queries)
            plain = [term for term in terms if not has_subquery(term)]
            side = self._composite(checked)
            return joins.join(
                relation.kind, self._side(relation.left), side, plain, relation.columns, self.estimator
            ).relation
        left = self.build(relation.left)
        inner = self._checked(self.build(relation.right), terms)
        outer = tuple(sorted(output_ids(left) & set().union(*map(columns_of, terms), set())))
        return NestedLoop(relation.columns, relation.kind, left, inner, None, outer)

    def _lateral(self, relation: Join) -> Rel:
        left = self.build(relation.left)
        terms = conjuncts(relation.condition)
        queries = [term for term in terms if has_subquery(term)]
        plain = [term for term in terms if not has_subquery(term)]
        right = self._checked(self.build(relation.right), queries)
        outer = free_columns(relation.right).union(*map(columns_of, queries)) & output_ids(left)
        rows = self.estimator.rows(left) * self.estimator.rows(right)
        return NestedLoop(
            relation.columns,
            relation.kind,
            left,
            right,
            conjoin(plain) if plain else None,
            tuple(sorted(outer)),
            rows=rows,
        )

    def _side(self, relation: Rel) -> Side:
        scan = relation.input if isinstance(relation, Filter) else relation
        physical = self.build(relation)
        rows = self.estimator.rows(physical)
        if isinstance(scan, Scan) and isinstance(physical, TableScan):
            terms = tuple(conjuncts(relation.condition)) if isinstance(relation, Filter) else ()
            return Side(physical, rows, physical.cost, scan, terms)
        side = self._composite(physical)
        if isinstance(scan, VirtualScan) and not (isinstance(relation, Filter) and has_subquery(relation.condition)):
            terms = tuple(conjuncts(relation.condition)) if isinstance(relation, Filter) else ()
            return replace(side, terms=terms, system_scan=scan)
        return side

    def _composite(self, relation: Rel) -> Side:
        return Side(relation, self.estimator.rows(relation), total_cost(relation, self.estimator).total)

    def _cluster(self, relation: Join, relations: list[Rel], terms: list[Expr]) -> Rel:
        queries = [term for term in terms if has_subquery(term)]
        plain = [term for term in terms if not has_subquery(term)]
        later = output_ids(relation).union(*map(columns_of, queries))

        def wanted(columns: Sequence[OutputColumn]) -> tuple[OutputColumn, ...]:
            return tuple(column for column in columns if column.id in later)

        built = [self._side(part) for part in relations]
        if is_never(plain) or any(is_empty(side.relation) for side in built):
            return Values(relation.columns, ())
        side, rest = joins.order_joins(built, plain, wanted, self.estimator)
        joined = side.relation
        if rest:
            joined = Filter(joined.columns, joined, conjoin(rest))
        return self._checked(joined, queries)


def _with_part(relation: Rel, part: Rel, other: Rel) -> Rel:
    """Nested inner joins with one of their relations exchanged."""
    if relation is part:
        return other
    if isinstance(relation, Join) and relation.kind == "inner" and not relation.lateral:
        left, right = _with_part(relation.left, part, other), _with_part(relation.right, part, other)
        return replace(relation, left=left, right=right)
    return relation
