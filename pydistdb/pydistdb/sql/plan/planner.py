"""``plan``: run the rules over a bound statement, then choose access paths, join order and methods."""

from __future__ import annotations

from dataclasses import dataclass

from pydistdb.sql.catalog.view import CatalogView
from pydistdb.sql.tree import BoundStatement, OutputColumn, Rel


@dataclass(frozen=True, slots=True)
class PhysicalPlan:
    """A plan to compile: ``root`` is a tree of physical operators."""

    statement: BoundStatement
    root: Rel

    @property
    def columns(self) -> tuple[OutputColumn, ...]:
        return self.statement.query.columns


def plan(bound: BoundStatement, catalog: CatalogView) -> PhysicalPlan:
    """Plan a bound statement against one state of the catalog."""
    return PhysicalPlan(bound, bound.query)
