"""EXPLAIN and EXPLAIN ANALYZE: the plan as the executor tells it, with what the session measured.

ANALYZE runs a copy of the plan whose operators take notes (``exec/measure.py``).  BUFFERS and WAL are accepted and add nothing:
there are no shared buffers to tell about.

Source: PostgreSQL 15 manual, EXPLAIN.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydistdb.kv.api import PastReader
from pydistdb.sql import statements as st
from pydistdb.sql.api import Sink
from pydistdb.sql.bind import ParsedStatement
from pydistdb.sql.consistency import COUNTER_BITS, timestamp_text
from pydistdb.sql.errors import DatabaseError, DuplicateTable, FeatureNotSupported, InvalidParameterValue
from pydistdb.sql.exec import RunContext
from pydistdb.sql.exec.query import CompiledQuery
from pydistdb.sql.plan.explain_formats import Actual, Group, PlanNode, Style, fixed, structured, text_lines
from pydistdb.sql.plan_cache import CachedPlan
from pydistdb.sql.schema_statements import CreateTableAs
from pydistdb.sql.session.execute import Execution
from pydistdb.sql.session.named import prepared_plan
from pydistdb.sql.settings import SETTINGS
from pydistdb.sql.types.base import SqlType

if TYPE_CHECKING:
    from pydistdb.sql.session.session import ClientSession

_PLANNER_SETTINGS = frozenset(
    {
        "constraint_exclusion",
        "cursor_tuple_fraction",
        "effective_cache_size",
        "from_collapse_limit",
        "hash_mem_multiplier",
    }
    | {"join_collapse_limit", "plan_cache_mode", "random_page_cost", "search_path", "seq_page_cost", "work_mem"}
)
"""What SETTINGS tells of, if it is not as built in; and all that begin with enable_."""


async def run(
    session: ClientSession,
    plan: CachedPlan,
    utility: st.Explain,
    sink: Sink,
    *,
    simple: bool,
    parameters: Sequence[Any] = (),
) -> str:
    """Send the plan, for these very ``parameters``; with ANALYZE, run the statement too."""
    _check_options(utility)
    if simple and plan.parameter_types:
        raise DatabaseError.of("42P02", "there is no parameter $1")
    started_ns = time.perf_counter_ns()
    try:
        explained, values = await _prepared(session, utility, plan.parameter_types, parameters)
    except _NothingToMake:
        return _send(plan, [], sink, simple=simple)
    planned_ns = time.perf_counter_ns()
    if explained is None:
        return _send(plan, _no_plan(utility.format), sink, simple=simple)
    if explained.denied is not None:
        raise explained.denied.again()
    reader: PastReader | None = None
    summary: list[tuple[str, Any]] = [("Planning Time", (planned_ns - started_ns) / 1e6)]
    assert explained.compiled is not None
    if utility.analyze:
        explained = copy.copy(explained)
        actuals: dict[int, Actual] = {}
        assert explained.compiled is not None
        explained.compiled = CompiledQuery(explained.compiled.plan, actuals)
        reader = await _execute(session, explained, values)
        summary.append(("Execution Time", (time.perf_counter_ns() - planned_ns) / 1e6))
    if not _option(utility, "summary", utility.analyze):
        summary = []
    root = await _tree(session, explained, utility)
    settings = _settings(session) if _option(utility, "settings", False) else []
    style = Style(
        "full" if utility.costs else "none",
        utility.analyze,
        _option(utility, "timing", True),
        utility.verbose,
    )
    if utility.format == "text":
        lines = text_lines(root, style)
        if settings:
            lines.append("Settings: " + ", ".join([f"{name} = '{value}'" for name, value in settings]))
        lines += [f"{name}: {value:.3f} ms" for name, value in summary]
        if reader is not None:
            lines += [f"{name}: {shown}" for name, shown in _past(session, reader)]
    else:
        more: Group = [("Settings", settings)] if settings else []
        more += [(name, fixed(value)) for name, value in summary[:1]]
        more += [("Triggers", [])] if utility.analyze else []
        more += [(name, fixed(value)) for name, value in summary[1:]]
        if reader is not None:
            more += _past(session, reader)
        lines = [structured(utility.format, root, style, more)]
    return _send(plan, lines, sink, simple=simple)


async def _prepared(
    session: ClientSession, utility: st.Explain, types: Sequence[SqlType], parameters: Sequence[Any]
) -> tuple[CachedPlan | None, Sequence[Any]]:
    """The plan of the statement to explain, None if it has none, and the values of the parameters that are left in it."""
    values: Sequence[Any] = ()
    explained = session.plans.explained(utility, tuple(sql_type.oid for sql_type in types))
    if parameters:
        explained = session.plans.with_constants(explained, parameters)
        explained.parameter_types = ()
    if explained.compiled is None:
        inner = explained.utility
        if explained.cursor is not None:
            explained = explained.cursor[1]
        if isinstance(inner, st.Execute):
            explained, values = await _executed(session, explained.parsed, inner, utility.position)
        elif isinstance(inner, CreateTableAs) and inner.execute is None:
            _check_is_new(session, inner)
            if utility.analyze:
                what = "CREATE MATERIALIZED VIEW" if inner.materialized else "CREATE TABLE AS"
                raise FeatureNotSupported(f"EXPLAIN ANALYZE of {what} is not supported")
            explained = session.plans.explained(replace(utility, query=inner.query, position=inner.position), ())
    return (None if explained.compiled is None else explained), values


async def _executed(
    session: ClientSession, parsed: ParsedStatement | None, execute: st.Execute, position: int
) -> tuple[CachedPlan, Sequence[Any]]:
    """The plan of a prepared statement for the arguments of this EXECUTE, which begins at ``position``; or for any, and these."""
    try:
        found, parameters = await prepared_plan(session, execute, parsed)
    except DatabaseError as error:
        if error.position is not None:
            error.position += position
        raise
    if not parameters or session.settings.values["plan_cache_mode"] == "force_generic_plan":
        return found, parameters
    found = session.plans.with_constants(found, parameters)
    found.parameter_types = ()
    return found, ()


def _settings(session: ClientSession) -> Group:
    """The settings that plans depend on and that are not as built in, in the order of their names."""
    values = session.settings.values
    return [
        (key, values[key])
        for key, setting in sorted(SETTINGS.items())
        if (key in _PLANNER_SETTINGS or key.startswith("enable_")) and values[key] != setting.default
    ]


class _NothingToMake(Exception):
    """CREATE TABLE IF NOT EXISTS … AS of a table that is there."""


def _check_is_new(session: ClientSession, statement: CreateTableAs) -> None:
    name = statement.name
    if session.view().relation(name.name, name.schema) is None:
        return
    message = f'relation "{name.name}" already exists'
    if not statement.if_not_exists:
        raise DuplicateTable(message)
    session.tell(message + ", skipping")
    raise _NothingToMake


async def _execute(session: ClientSession, explained: CachedPlan, values: Sequence[Any]) -> PastReader | None:
    """Run the statement; what it read from, if that lay in the past."""
    if explained.parameter_types and not values:
        raise DatabaseError.of("42P02", "there is no parameter $1")
    if explained.writing_tag:
        session.transaction.check_writable(explained.writing_tag)
    execution = Execution(session, explained, values, alone=not session.transaction.in_block)
    try:
        await execution.fetch(0, None)
    except BaseException:
        await execution.close()
        raise
    return execution.reader


def _past(session: ClientSession, reader: PastReader) -> list[tuple[str, str]]:
    """When and where a statement has read."""
    age_us = session.environment.database.now() - reader.read_timestamp >> COUNTER_BITS
    served = ", ".join(f"node {node} ({count})" for node, count in sorted(reader.served.items()))
    return [
        ("Read Timestamp", f"{timestamp_text(reader.read_timestamp)} ({age_us / 1000:.0f} ms ago)"),
        ("Reads Served By", served or "none"),
    ]


async def _tree(session: ClientSession, explained: CachedPlan, utility: st.Explain) -> PlanNode:
    """The plan with the ranges that its scans go to."""
    assert explained.compiled is not None
    environment = session.environment
    run = RunContext(None, environment.database, session.view(), session.context, (), environment.scheduler)
    distributed = _option(utility, "distributed", True)
    return await explained.compiled.explain_tree(run, verbose=utility.verbose, distributed=distributed)


async def plan_lines(plan: CachedPlan, run: RunContext) -> list[str]:
    """A plan as EXPLAIN shows it."""
    assert plan.compiled is not None
    return text_lines(await plan.compiled.explain_tree(run), Style("full", False, True, False))


def _option(utility: st.Explain, name: str, default: bool) -> bool:
    given = dict(utility.options).get(name)
    return default if given is None else given == "on"


def _check_options(utility: st.Explain) -> None:
    for name in ("wal", "timing"):
        if _option(utility, name, False) and not utility.analyze:
            raise InvalidParameterValue(f"EXPLAIN option {name.upper()} requires ANALYZE")


def _no_plan(format: str) -> list[str]:
    words = "Utility statements have no plan structure"
    match format:
        case "json":
            return ['[\n  "Utility Statement"\n]']
        case "yaml":
            return ['- "Utility Statement"']
        case "xml":
            return ['<explain xmlns="http://www.postgresql.org/2009/explain">\n  <Utility-Statement />\n</explain>']
    return [words]


def _send(plan: CachedPlan, lines: list[str], sink: Sink, *, simple: bool) -> str:
    assert plan.fields is not None
    if simple:
        sink.row_description(plan.fields)
    sink.rows([(line,) for line in lines])
    return "EXPLAIN"
