"""Physical plans to running code: ``compile_plan(plan)`` gives a ``CompiledQuery`` to run any number of times."""

from __future__ import annotations

from pydistdb.sql.exec.modify import insert_rows
from pydistdb.sql.exec.query import CompiledQuery, compile_plan
from pydistdb.sql.exec.run import RunContext
from pydistdb.sql.exec.violations import unique_violation

__all__ = ["CompiledQuery", "RunContext", "compile_plan", "insert_rows", "unique_violation"]
