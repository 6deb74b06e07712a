"""``plan``: run the rules over a bound statement, then choose access paths, join order and methods.

The rules are pure passes over the typed tree, in this order; each has a golden script of its name in tests/sql.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.catalog.view import CatalogView
from pydistdb.sql.plan.build import Builder
from pydistdb.sql.plan.cost import NOTHING_DISABLED, Disabled
from pydistdb.sql.plan.cut import at_shards
from pydistdb.sql.plan.depth import deep_stack
from pydistdb.sql.plan.expressions import all_relations
from pydistdb.sql.plan.physical import HashJoin
from pydistdb.sql.plan.repartition import repartition
from pydistdb.sql.plan.rules.contradictions import contradictions
from pydistdb.sql.plan.rules.decorrelate import decorrelate
from pydistdb.sql.plan.rules.drop_joins import drop_joins
from pydistdb.sql.plan.rules.factor import factor
from pydistdb.sql.plan.rules.first_rows import first_rows
from pydistdb.sql.plan.rules.fold import fold
from pydistdb.sql.plan.rules.inline_ctes import inline_ctes
from pydistdb.sql.plan.rules.limit_arms import limit_arms
from pydistdb.sql.plan.rules.limit_joins import limit_joins
from pydistdb.sql.plan.rules.merge_projects import merge_projects
from pydistdb.sql.plan.rules.outer_joins import simplify_outer_joins
from pydistdb.sql.plan.rules.prune import prune
from pydistdb.sql.plan.rules.pushdown import push_down
from pydistdb.sql.plan.rules.raise_failures import raise_failures
from pydistdb.sql.plan.rules.unique_rows import unique_rows
from pydistdb.sql.plan.rules.unnest_lateral import unnest_lateral
from pydistdb.sql.plan.smaller_side import build_smaller
from pydistdb.sql.tree import (
    Aggregate,
    BoundStatement,
    Delete,
    Distinct,
    Insert,
    Merge,
    OutputColumn,
    Rel,
    Update,
    Window,
)

Rule = Callable[[Rel], Rel]

RULES: tuple[Rule, ...] = (
    fold,
    factor,
    inline_ctes,
    merge_projects,
    decorrelate,
    unnest_lateral,
    simplify_outer_joins,
    push_down,
    contradictions,
    merge_projects,
    first_rows,
    limit_arms,
    drop_joins,
    limit_joins,
    unique_rows,
    prune,
    raise_failures,
)


@dataclass(frozen=True, slots=True)
class PhysicalPlan:
    """A plan to compile: ``root`` is a tree of physical operators."""

    statement: BoundStatement
    root: Rel
    relations: tuple[Rel, ...]
    """Every relation in it, those in expressions included."""

    @property
    def columns(self) -> tuple[OutputColumn, ...]:
        return self.statement.query.columns

    @property
    def changed_table(self) -> Table | None:
        """The first table that it changes."""
        return next((part.table for part in self.relations if isinstance(part, Insert | Update | Delete | Merge)), None)


def optimize(relation: Rel) -> Rel:
    """Apply every rule once, in order."""
    for rule in RULES:
        relation = rule(relation)
    return relation


def plan(
    bound: BoundStatement, catalog: CatalogView | None = None, disabled: Disabled = NOTHING_DISABLED
) -> PhysicalPlan:
    """Plan a bound statement against one state of the catalog; ``disabled``: ways to avoid where there is another."""
    with deep_stack():
        query = optimize(bound.query)
        builder = Builder(catalog, query, disabled)
        root = builder.build(query)
        relations = all_relations(root)
        if any(isinstance(part, HashJoin | Aggregate | Distinct | Window) for part in relations):
            estimator = builder.estimator
            root = build_smaller(at_shards(root, estimator), estimator, sending=True)
            root = build_smaller(repartition(root, estimator), estimator)
            relations = all_relations(root)
        return PhysicalPlan(bound, root, tuple(relations))
