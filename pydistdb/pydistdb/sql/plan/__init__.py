"""From the binder's tree to a physical plan: rules, access paths, join order."""

from __future__ import annotations

from pydistdb.sql.plan.cost import disabled_ways
from pydistdb.sql.plan.planner import PhysicalPlan, plan

__all__ = ["PhysicalPlan", "disabled_ways", "plan"]
