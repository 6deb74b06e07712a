"""Physical plans to running code: ``compile_plan(plan)`` gives a ``CompiledQuery`` to run any number of times."""

from __future__ import annotations

from pydistdb.sql.exec.query import CompiledQuery, compile_plan
from pydistdb.sql.exec.run import RunContext

__all__ = ["CompiledQuery", "RunContext", "compile_plan"]
