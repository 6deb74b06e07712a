"""EXPLAIN and EXPLAIN ANALYZE: the plan as the executor tells it, with what the session measured.

Only the text format is there; what else Postgres offers (BUFFERS, WAL, FORMAT JSON …) is refused, since it would have
to be made up.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pydistdb.sql import bind
from pydistdb.sql import statements as st
from pydistdb.sql.api import Sink
from pydistdb.sql.errors import DatabaseError, FeatureNotSupported, InvalidParameterValue
from pydistdb.sql.exec import RunContext
from pydistdb.sql.plan_cache import CachedPlan
from pydistdb.sql.session.execute import Execution

if TYPE_CHECKING:
    from pydistdb.sql.session.session import ClientSession


async def run(session: ClientSession, plan: CachedPlan, utility: st.Explain, sink: Sink, *, simple: bool) -> str:
    """Send the lines of the plan; with ANALYZE, run the statement too."""
    _check_options(utility)
    started_ns = time.perf_counter_ns()
    try:
        statements = bind.parse(utility.query)
        if len(statements) != 1:
            raise DatabaseError.of("42601", "EXPLAIN takes one statement")
        explained = session.plans.make(statements[0], ())
    except DatabaseError as error:
        if error.position is not None:
            error.position += utility.position
        raise
    planned_ns = time.perf_counter_ns()
    if explained.compiled is None:
        inner = explained.utility
        if explained.cursor is not None:
            explained = explained.cursor[1]
        if isinstance(inner, st.Execute):
            explained = session.names.statement(inner.name).plan
        if explained.compiled is None:
            lines = ["Utility statements have no plan structure"]
            return _send(plan, lines, sink, simple=simple)
    if explained.denied is not None:
        raise explained.denied.again()
    if not utility.analyze:
        return _send(plan, await _lines(session, explained, utility), sink, simple=simple)
    if explained.parameter_types:
        raise DatabaseError.of("42P02", "there is no parameter $1")
    if explained.writing_tag:
        session.transaction.check_writable(explained.writing_tag)
    execution = Execution(session, explained, (), alone=not session.transaction.in_block)
    try:
        await execution.fetch(0, None)
    except BaseException:
        await execution.close()
        raise
    ended_ns = time.perf_counter_ns()
    assert explained.compiled is not None
    lines = await _lines(session, explained, utility)
    lines.append(f"Rows: {execution.affected_rows if explained.writes else execution.rows_sent}")
    if dict(utility.options).get("summary", "on") == "on":
        lines.append(f"Planning Time: {(planned_ns - started_ns) / 1e6:.3f} ms")
        lines.append(f"Execution Time: {(ended_ns - planned_ns) / 1e6:.3f} ms")
    return _send(plan, lines, sink, simple=simple)


async def _lines(session: ClientSession, explained: CachedPlan, utility: st.Explain) -> list[str]:
    """The plan with the ranges that its scans go to."""
    assert explained.compiled is not None
    environment = session.environment
    run = RunContext(None, environment.database, session.view(), session.context, (), environment.scheduler)
    return await explained.compiled.explain_ranges(run, costs=utility.costs)


def _check_options(utility: st.Explain) -> None:
    if utility.format not in ("text", "json", "xml", "yaml"):
        raise InvalidParameterValue(f'unrecognized value for EXPLAIN option "format": "{utility.format}"')
    if utility.format != "text":
        raise FeatureNotSupported(f"EXPLAIN (FORMAT {utility.format.upper()}) is not supported")
    for name, value in utility.options:
        if name in ("buffers", "wal", "settings") and value == "on":
            raise FeatureNotSupported(f"EXPLAIN option {name.upper()} is not supported")


def _send(plan: CachedPlan, lines: list[str], sink: Sink, *, simple: bool) -> str:
    assert plan.fields is not None
    if simple:
        sink.row_description(plan.fields)
    sink.rows([(line,) for line in lines])
    return "EXPLAIN"
