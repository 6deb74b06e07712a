"""CALL: a procedure's statements run one after the other, each with a snapshot of its own under READ COMMITTED.

A procedure with OUT or INOUT arguments returns one row of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydistdb.sql import bind, type_statements
from pydistdb.sql.api import Field, Sink
from pydistdb.sql.catalog.needs import FunctionNeed, require
from pydistdb.sql.exec.codegen import evaluator
from pydistdb.sql.exec.run import State

if TYPE_CHECKING:
    from pydistdb.sql.session.base import SessionBase


def call_fields(session: SessionBase, utility: type_statements.Call) -> tuple[Field, ...] | None:
    """The columns of the row that CALL returns, if it does."""
    call = bind.bind_call_statement(utility, session.view(), session.context)
    if not call.function.out_columns:
        return None
    return tuple(
        Field(name, sql_type.oid, sql_type.length, sql_type.modifier) for name, sql_type in call.function.out_columns
    )


async def run(session: SessionBase, utility: type_statements.Call, sink: Sink, *, simple: bool) -> str:
    """Execute CALL."""
    block = session.transaction
    call = bind.bind_call_statement(utility, session.view(), session.context)
    require([FunctionNeed(call.function.oid, call.function.name, "procedure")], session.view())
    block.open().begin_statement(block.least_timestamp)
    context = session.run_context()
    values = evaluator(call.arguments)(State(context))
    fields = call_fields(session, utility)
    rows = []
    async for batch in session.routines.rows(call.function, values, context, top_level=True):
        rows += batch
    block.statements += 1
    if fields is not None:
        if simple:
            sink.row_description(fields)
        sink.rows(rows[:1] or [(None,) * len(fields)])
    return "CALL"
