"""Queries in expressions: lifted out into columns that the operator's input has.

::

    Project([a + (SELECT max(x) …)], t)   ->   Project([a + $7], Apply([7: SELECT max(x) …], t))

or joined with their groups for all rows at once where that is cheaper (grouped.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import TypeVar

from pydistdb.sql.catalog.view import CatalogView
from pydistdb.sql.plan.comparisons import comparison_terms
from pydistdb.sql.plan.cost import NOTHING_DISABLED, Disabled
from pydistdb.sql.plan.estimate import Estimator
from pydistdb.sql.plan.expressions import (
    all_relations,
    columns_of,
    conjoin,
    free_columns,
    greatest_id,
    has_subquery,
    map_parts,
    output_ids,
    relation_is_volatile,
)
from pydistdb.sql.plan.grouped import grouped
from pydistdb.sql.plan.guards import map_guarded
from pydistdb.sql.plan.physical import (
    Apply,
    HashJoin,
    SubPlan,
    TableScan,
)
from pydistdb.sql.plan.total import total_cost
from pydistdb.sql.tree import (
    Call,
    ColumnRef,
    Const,
    Expr,
    Filter,
    Limit,
    OnConflict,
    OutputColumn,
    Project,
    Rel,
    Subquery,
)
from pydistdb.sql.types.known import INT8

R = TypeVar("R", bound="Rel | OnConflict")


class SubqueryBuilder:
    """The part of the builder that sees to queries in expressions."""

    def __init__(self, catalog: CatalogView | None, statement: Rel, disabled: Disabled = NOTHING_DISABLED) -> None:
        self.estimator = Estimator(catalog, disabled)
        self.ids = count(greatest_id(statement) + 1)

    def build(self, relation: Rel) -> Rel:
        """Build the physical form of a relation."""
        raise NotImplementedError

    def _lift(self, source: Rel, relation: R) -> tuple[Rel, R]:
        """Turn queries in the expressions of ``relation`` into columns of an Apply over ``source``.

        ``(SELECT …) IN (SELECT …)`` needs the first value to judge the second query's rows: another Apply above."""
        plans: list[SubPlan] = []
        columns: list[OutputColumn] = []

        def lift(expression: Expr, guard: Expr | None) -> Expr:
            nonlocal source
            if not isinstance(expression, Subquery):
                return map_guarded(expression, lift, guard) if has_subquery(expression) else expression
            if expression.test is not None:
                expression = replace(expression, test=lift(expression.test, guard))
            joined = self._grouped(source, expression)
            if joined is not None:
                source = joined[0]
                return joined[1]
            plan = replace(self._subplan(expression), guard=guard)
            asked_first = [part for part in (plan.test, plan.guard) if part is not None]
            if any(columns_of(part) & {below.id for below in plans} for part in asked_first):
                source = Apply(source.columns + tuple(columns), source, tuple(plans))
                plans.clear()
                columns.clear()
            plans.append(plan)
            columns.append(OutputColumn(plan.id, "", expression.type))
            return ColumnRef(expression.type, plan.id)

        lifted = map_parts(relation, lambda expression: lift(expression, None))
        if not plans:
            return source, lifted
        return Apply(source.columns + tuple(columns), source, tuple(plans)), lifted

    def _grouped(self, source: Rel, subquery: Subquery) -> tuple[Rel, Expr] | None:
        """A correlated query as a join with its groups, and its value there; None where running it per value is cheaper."""
        found = grouped(subquery, output_ids(source), self.ids)
        if found is None:
            return None
        rows = self.estimator.rows(source)
        join = HashJoin(
            source.columns + found.right.columns,
            "left",
            source,
            self.build(found.right),
            found.outer_keys,
            found.inner_keys,
            condition=found.terms,
            rows=rows,
        )
        plan = self._subplan(subquery)
        if any(self._looks_up_unknown(part) for part in all_relations(plan.query)):
            return None
        applied = Apply(source.columns, source, (plan,))
        if total_cost(applied, self.estimator).total <= total_cost(join, self.estimator).total:
            return None
        return join, found.value

    def _looks_up_unknown(self, part: Rel) -> bool:
        """Bounds keep a look-up short, however large a table is of which nothing is known."""
        return (
            isinstance(part, TableScan)
            and bool(part.access.equal)
            and bool(free_columns(part))
            and not self.estimator.knows(part.table)
        )

    def _subplan(self, subquery: Subquery) -> SubPlan:
        query = subquery.query
        if subquery.kind == "exists":
            query = Limit(query.columns, query, Const(INT8, 1), None)
        probe = None
        if subquery.kind == "any" and subquery.test is not None:
            probe = _probe(subquery.test, query)
        physical = self.build(query)
        return SubPlan(
            next(self.ids),
            subquery.kind,
            physical,
            tuple(sorted(free_columns(subquery.query))),
            subquery.test,
            probe,
            relation_is_volatile(subquery.query)
            and (subquery.kind in ("call", "rows") or bool(free_columns(subquery.query))),
        )

    def _checked(self, source: Rel, terms: Sequence[Expr]) -> Rel:
        """``source`` filtered by terms with queries in them; the Apply's columns are dropped again."""
        if not terms:
            return source
        condition = Filter(source.columns, source, conjoin(terms))
        applied, lifted = self._lift(source, condition)
        filtered = replace(lifted, input=applied, columns=applied.columns)
        if applied is source:
            return filtered
        return Project(source.columns, filtered, tuple(ColumnRef(c.type, c.id, c.name) for c in source.columns))


def _probe(test: Expr, query: Rel) -> Expr | None:
    """The outer operand of ``operand = (first column of the query)``."""
    found = comparison_terms(test)
    if found is None or found[0] != "=" or len(query.columns) != 1 or not isinstance(test, Call):
        return None
    inner = query.columns[0].id
    for column, value in ((found[1], found[2]), (found[2], found[1])):
        if isinstance(column, ColumnRef) and column.id == inner and inner not in columns_of(value):
            return value
    return None
