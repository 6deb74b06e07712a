"""Utility statements: whatever is neither a query nor a change of rows, one function each.

``run`` is the table of contents: it hands a statement of ``sql/statements.py`` to whoever carries it out, and gives its
command tag; notices go to the sink.  Blocks are in transaction_control.py, SET and SHOW in variables.py, COPY in copy.py,
DDL in schema_changes.py.  Here stay the statements about statements: PREPARE, EXECUTE, DEALLOCATE and cursors.

    EXECUTE p(1)        the arguments are bound and evaluated, then the prepared plan runs as if it had been sent itself

Messages are Postgres's (manual, part VI).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydistdb.sql import bind, type_statements
from pydistdb.sql import statements as st
from pydistdb.sql.api import Sink
from pydistdb.sql.catalog.roles import CHECKPOINT
from pydistdb.sql.errors import DatabaseError, FeatureNotSupported, InsufficientPrivilege, InvalidStatementName
from pydistdb.sql.plan_cache import CachedPlan
from pydistdb.sql.schema_statements import CreateTableAs
from pydistdb.sql.session import calls, copy, explain
from pydistdb.sql.session.constraints import set_constraints
from pydistdb.sql.session.cursors import fetch_rows
from pydistdb.sql.session.execute import Execution
from pydistdb.sql.session.fields import check_same_columns
from pydistdb.sql.session.named import check_count, prepared_plan
from pydistdb.sql.session.schema_changes import change_schema
from pydistdb.sql.session.transaction_control import control, lock_table, set_transaction
from pydistdb.sql.session.variables import discard, set_variable, show
from pydistdb.sql.types.registry import format_type

if TYPE_CHECKING:
    from pydistdb.sql.session.session import ClientSession


async def run(
    session: ClientSession,
    plan: CachedPlan,
    utility: st.Utility,
    sink: Sink,
    *,
    simple: bool,
    parameters: Sequence[Any] = (),
) -> str:
    """Execute a utility statement; returns its command tag.  ``simple``: rows are announced before they are sent."""
    match utility:
        case st.Begin() | st.Commit() | st.Rollback() | st.Savepoint() | st.PrepareTransaction() | st.FinishPrepared():
            return await control(session, plan, utility, sink)
        case st.SetTransaction():
            return set_transaction(session, plan, utility, sink)
        case st.SetConstraints():
            return await set_constraints(session, utility, lambda warning: session.send_warning(sink, warning))
        case st.SetVariable():
            return set_variable(session, plan, utility, sink)
        case st.ShowVariable():
            return show(session, plan, utility, sink, simple=simple)
        case st.Discard():
            return await discard(session, utility)
        case st.Explain():
            return await explain.run(session, plan, utility, sink, simple=simple, parameters=parameters)
        case st.Prepare():
            return await _prepare(session, plan, utility)
        case st.Execute():
            return await _execute(session, plan, utility, sink, simple=simple)
        case st.Deallocate():
            return _deallocate(session, utility)
        case st.DeclareCursor():
            return await _declare(session, plan, utility, parameters)
        case st.Fetch():
            return await _fetch(session, plan, utility, sink, simple=simple)
        case st.Notify():
            session.notifications.notify(utility.channel, utility.payload)
            return "NOTIFY"
        case st.Listen():
            session.notifications.listen(utility.channel)
            return "LISTEN"
        case st.Unlisten():
            session.notifications.unlisten(utility.channel)
            return "UNLISTEN"
        case st.CloseCursor():
            return await _close_cursor(session, utility)
        case type_statements.Call():
            return await calls.run(session, utility, sink, simple=simple)
        case st.Copy():
            return await copy.run(session, plan.parsed, utility, sink)
        case st.LockTable():
            return await lock_table(session, utility)
        case st.Checkpoint():
            return _checkpoint(session)
        case st.Unsupported():
            raise FeatureNotSupported(f"{utility.what} is not supported")
        case CreateTableAs(execute=st.Execute() as execute):
            query = _text_with_arguments(session, execute)
            return await change_schema(session, plan, replace(utility, query=query, execute=None), sink)
        case _:
            return await change_schema(session, plan, utility, sink)


async def _prepare(session: ClientSession, plan: CachedPlan, utility: st.Prepare) -> str:
    session.names.check_new_statement(utility.name)
    oids = [parameter.oid for parameter in utility.parameter_types]
    parsed = plan.parsed
    assert parsed is not None
    try:
        statement = await session.prepare_statement(utility.name, utility.query, oids, from_sql=True)
    except DatabaseError as error:
        if error.position is not None:
            error.position += parsed.position + parsed.text.rfind(utility.query)
        raise
    statement.shown_text = parsed.source
    return "PREPARE"


def _text_with_arguments(session: ClientSession, utility: st.Execute) -> str:
    """The text of a prepared query with its arguments in the place of $1, $2 …"""
    statement = session.names.statement(utility.name)
    if statement.plan.utility is not None or statement.plan.writes or statement.plan.writing_tag:
        raise DatabaseError.of("42809", "prepared statement is not a SELECT")
    types = statement.plan.parameter_types
    check_count(utility, len(types))
    typed = [
        f"CAST(({text}) AS {format_type(each.oid, -1)})" for text, each in zip(utility.arguments, types, strict=True)
    ]
    return bind.with_parameters(statement.text, typed)


async def _execute(session: ClientSession, outer: CachedPlan, utility: st.Execute, sink: Sink, *, simple: bool) -> str:
    started_ns = time.perf_counter_ns()
    plan, parameters = await prepared_plan(session, utility, outer.parsed)
    if not simple:  # another statement may have this name by now
        check_same_columns(outer.fields, plan.fields)
    if plan.utility is not None:
        tag = await run(session, plan, plan.utility, sink, simple=simple)
        session.count_statement(plan, tag, started_ns)
        return tag
    if plan.writing_tag:
        session.transaction.check_writable(plan.writing_tag)
    if simple and plan.fields is not None:
        sink.row_description(plan.fields)
    execution = Execution(session, plan, parameters, alone=not session.transaction.in_block)
    try:
        await execution.fetch(0, sink)
    except BaseException:
        await execution.close()
        raise
    session.count_statement(execution.plan, execution.tag, started_ns)
    return execution.tag


def _deallocate(session: ClientSession, utility: st.Deallocate) -> str:
    if utility.name is None:
        session.names.statements.clear()
        return "DEALLOCATE ALL"
    if session.names.statements.pop(utility.name, None) is None:
        raise InvalidStatementName(f'prepared statement "{utility.name}" does not exist')
    return "DEALLOCATE"


async def _declare(
    session: ClientSession, plan: CachedPlan, utility: st.DeclareCursor, parameters: Sequence[Any]
) -> str:
    if not utility.hold:
        session.transaction.require_block("DECLARE CURSOR")
    assert plan.parsed is not None
    await session.cursors.declare(utility, plan.parsed.source, plan, parameters)
    return "DECLARE CURSOR"


async def _fetch(session: ClientSession, plan: CachedPlan, utility: st.Fetch, sink: Sink, *, simple: bool) -> str:
    cursor = await session.cursors.find(utility.cursor)
    if utility.move:
        return f"MOVE {await cursor.move(utility.direction, utility.count)}"
    if simple:
        assert cursor.fields is not None
        sink.row_description(cursor.fields, cursor.is_binary)
    else:
        check_same_columns(plan.fields, cursor.fields)
    return f"FETCH {await fetch_rows(cursor, utility.direction, utility.count, sink)}"


async def _close_cursor(session: ClientSession, utility: st.CloseCursor) -> str:
    if utility.name is None:
        await session.cursors.close_all()
        return "CLOSE CURSOR ALL"
    await session.cursors.close(utility.name)
    return "CLOSE CURSOR"


def _checkpoint(session: ClientSession) -> str:
    view, role = session.view(), session.identity.restricted
    if role is not None and not view.access.has_privileges_of(role, CHECKPOINT):
        raise InsufficientPrivilege("must be superuser or have privileges of pg_checkpoint to do CHECKPOINT")
    return "CHECKPOINT"
