"""A session's statements counted, the slow and the deadlocked ones logged, and the counters of all nodes brought together.

``SessionCounting`` turns a plan into the counters it points to (sql/statement_statistics.py).  ``ClusterStatements`` asks every
node for its counters, has them reset, and fetches the plan of a statement from whichever node has one.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
from weakref import ref

import msgspec

from pydistdb.sql.bind.fingerprint import query_id, without_constants
from pydistdb.sql.errors import DeadlockDetected
from pydistdb.sql.exec import RunContext
from pydistdb.sql.functions.effects import MustAct
from pydistdb.sql.plan_cache import CachedPlan
from pydistdb.sql.session.explain import plan_lines
from pydistdb.sql.statement_statistics import StatementCounts, StatementReport, joined
from pydistdb.sql.types.base import EvalContext

if TYPE_CHECKING:
    from pydistdb.sql.session.base import SessionBase
    from pydistdb.sql.session.environment import Environment

STATEMENTS_TOPIC = "statements.counts"
RESET_TOPIC = "statements.reset"
PLAN_TOPIC = "statements.plan"
ANSWER_TIMEOUT_NS = 2_000_000_000
MOST_REPORTED = 2_000
"""Statements that a node tells others of: those that took most of its time."""
MOST_TEXT = 2_000
"""Characters of each of them."""
MOST_LOGGED_TEXT = 20_000

_UNCOUNTED = frozenset({"EXECUTE", "PREPARE", "DEALLOCATE"})
"""Counted as what they execute, or not at all, as in Postgres."""

log = logging.getLogger("pydistdb.sql.slow")
_encode = msgspec.msgpack.Encoder().encode
_decode_reports = msgspec.msgpack.Decoder(
    list[tuple[int, int, int, str, str, int, int, int, int, int, int, int]]
).decode


def counts_of(session: SessionBase, plan: CachedPlan) -> StatementCounts:
    """The counters that a plan's executions add to; found once for each plan."""
    text = without_constants(plan.parsed.text if plan.parsed is not None else plan.text)
    key = (session.identity.current, session.view().database.oid, query_id(text))
    counts = session.environment.statements.counts(key, text, plan.tag)
    if plan.compiled is not None:
        counts.plan = ref(plan)
    plan.counts = counts
    return counts


def count(session: SessionBase, plan: CachedPlan, tag: str, duration_ns: int) -> None:
    """A statement was executed off the fast path, and ended with this command tag."""
    if plan.kind not in _UNCOUNTED:
        rows = int(tag.rpartition(" ")[2]) if tag[-1:].isdigit() else 0
        (plan.counts or counts_of(session, plan)).count(rows, duration_ns // 1_000)


def _logged(session: SessionBase) -> dict[str, object]:
    """What the log says of the statement that a session runs."""
    return {
        "user": session.user,
        "database": session.database_name,
        "pid": session.process_id,
        "application": session.settings.values["application_name"],
        "statement": session.query[:MOST_LOGGED_TEXT],
    }


def log_deadlock(session: SessionBase, error: DeadlockDetected) -> None:
    """Write the statement that was chosen to break a deadlock to the log, where the error's HINT sends the client."""
    log.warning(error.message, extra={"fields": {**_logged(session), "detail": error.detail}})


def log_slow(session: SessionBase, plan: CachedPlan | None, duration_us: int) -> None:
    """Write a statement that took longer than log_min_duration_statement (or auto_explain's) to the log."""
    fields = {"duration_ms": round(duration_us / 1e3, 3), **_logged(session)}
    if 0 <= session.log_plan_us <= duration_us and plan is not None and plan.compiled is not None:
        run = RunContext(
            None, session.environment.database, session.view(), session.context, (), session.environment.scheduler
        )
        session.environment.scheduler.spawn(_log_with_plan(plan, run, fields), "slow statement")
    else:
        log.warning("slow statement", extra={"fields": fields})


async def _log_with_plan(plan: CachedPlan, run: RunContext, fields: dict[str, object]) -> None:
    try:
        fields["plan"] = "\n".join(await plan_lines(plan, run))
    except (
        Exception
    ) as error:  # the ranges may have moved, the table may be gone: the statement is worth telling anyway
        fields["plan"] = f"not available: {error}"
    log.warning("slow statement", extra={"fields": fields})


class ClusterStatements:
    """One node's answers, and its questions to all."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        database = environment.database
        database.on_broadcast(STATEMENTS_TOPIC, self._on_statements)
        database.on_broadcast(RESET_TOPIC, self._on_reset)
        database.on_broadcast(PLAN_TOPIC, self._on_plan)

    async def all(self) -> list[StatementReport]:
        """The statements of all nodes, those of the same text, user and database as one."""
        answers = await self._ask(STATEMENTS_TOPIC)
        return joined(StatementReport(*fields) for answer in answers for fields in _decode_reports(answer))

    async def plan(self, key: tuple[int, int, int]) -> list[str]:
        """The plan of a statement as EXPLAIN shows it, from a node that has one; nothing if none has."""
        answers = await self._ask(PLAN_TOPIC, _encode(key))
        return next((answer.decode().splitlines() for answer in answers if answer), [])

    async def reset(self, user: int, database: int, query_id: int) -> None:
        await self._ask(RESET_TOPIC, _encode((user, database, query_id)))

    async def _ask(self, topic: str, payload: bytes = b"") -> list[bytes]:
        answers = await self._environment.database.broadcast(topic, payload, ANSWER_TIMEOUT_NS)
        return [answer for _, answer in sorted(answers.items()) if answer is not None]

    async def _on_statements(self, sender: int, payload: bytes) -> bytes:
        reports = self._environment.statements.reports(MOST_REPORTED)
        return _encode([report._replace(text=report.text[:MOST_TEXT]) for report in reports])

    async def _on_reset(self, sender: int, payload: bytes) -> bytes:
        self._environment.statements.reset(*msgspec.msgpack.decode(payload))
        return b""

    async def _on_plan(self, sender: int, payload: bytes) -> bytes:
        environment = self._environment
        user, database_oid, number = msgspec.msgpack.decode(payload)
        counts = environment.statements.find((user, database_oid, number))
        plan = counts.plan() if counts is not None and counts.plan is not None else None
        database = environment.catalog.state.databases.get(database_oid)
        if plan is None or database is None:
            return b""
        view = environment.catalog.view(database.descriptor.name, ("public",))
        context = EvalContext()
        context.catalog = view
        run = RunContext(None, environment.database, view, context, (), environment.scheduler)
        return "\n".join(await plan_lines(plan, run)).encode()


class ResetStatements(MustAct):
    """pg_stat_statements_reset on every node."""

    def __init__(self, session: SessionBase, user: int, database: int, query_id: int) -> None:
        super().__init__("reset of statement statistics")
        self._session = session
        self._which = (user, database, query_id)

    async def act(self) -> str:
        await self._session.environment.cluster_statements.reset(*self._which)
        return ""
