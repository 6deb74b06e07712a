"""Physical plans to running code: ``compile_plan(plan)`` gives a ``CompiledQuery`` to run any number of times."""

from __future__ import annotations

from pydistdb.sql.exec import domains
from pydistdb.sql.exec.bulk import BulkInsert
from pydistdb.sql.exec.foreign_keys import check_deferred
from pydistdb.sql.exec.query import CompiledQuery, compile_plan
from pydistdb.sql.exec.run import RunContext
from pydistdb.sql.exec.violations import unique_violation

assert domains, "imported because it enters its compiler"

__all__ = ["BulkInsert", "CompiledQuery", "RunContext", "check_deferred", "compile_plan", "unique_violation"]
