"""EXECUTE: the statement that was prepared under a name, and the values of its parameters.

    PREPARE p (int) AS SELECT … WHERE v = $1;      EXECUTE p (1 + 2)      →  the plan of p, (3,)

Source: PostgreSQL 15 manual, EXECUTE; prepare.c for the messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydistdb.sql import bind
from pydistdb.sql import statements as st
from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.exec.codegen import evaluator
from pydistdb.sql.exec.run import State
from pydistdb.sql.exec.waiting import once
from pydistdb.sql.plan_cache import CachedPlan

if TYPE_CHECKING:
    from pydistdb.sql.session.session import ClientSession


def check_count(utility: st.Execute, expected: int) -> None:
    """Raises 42601 for another number of arguments than there are parameters; where there are none Postgres takes any."""
    if expected and len(utility.arguments) != expected:
        raise DatabaseError.of(
            "42601",
            f'wrong number of parameters for prepared statement "{utility.name}"',
            detail=f"Expected {expected} parameters but got {len(utility.arguments)}.",
        )


async def prepared_plan(
    session: ClientSession, utility: st.Execute, parsed: bind.ParsedStatement | None
) -> tuple[CachedPlan, Sequence[Any]]:
    """The plan of what EXECUTE names, and the values of its arguments, which are in ``parsed``."""
    statement = session.names.statement(utility.name)
    await session.renew_statement(statement)
    plan = statement.plan
    session.check_failed(plan)
    expected = len(plan.parameter_types)
    check_count(utility, expected)
    if not expected:
        return plan, ()
    assert parsed is not None
    expressions = bind.bind_arguments(parsed, plan.parameter_types, session.view(), session.context)
    return plan, await once(evaluator(expressions), State(session.run_context()))
