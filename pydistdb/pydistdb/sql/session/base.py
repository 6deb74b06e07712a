"""What a session is apart from the protocols: its settings, its view of the catalog, its bookkeeping, its interruptions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pydistdb.kv.api import RowLocked
from pydistdb.sql.api import Sink
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.catalog.temporary import TemporaryObjects
from pydistdb.sql.clock import now_us
from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.exec import RunContext
from pydistdb.sql.plan_cache import CachedPlan
from pydistdb.sql.resources import SessionResources
from pydistdb.sql.session import login
from pydistdb.sql.session.activity import SignalBackend
from pydistdb.sql.session.advisory import AdvisoryKey, SessionAdvisory
from pydistdb.sql.session.constraints import PendingChecks
from pydistdb.sql.session.cursors import SessionCursors
from pydistdb.sql.session.environment import Environment
from pydistdb.sql.session.execute import explain
from pydistdb.sql.session.identity import Identity
from pydistdb.sql.session.lock_status import AskBlocking
from pydistdb.sql.session.notifications import SessionNotifications
from pydistdb.sql.session.plans import SessionPlans
from pydistdb.sql.session.routines import RoutineRunner
from pydistdb.sql.session.settings import IDENTITY, SessionSettings
from pydistdb.sql.session.statements import StatementStore
from pydistdb.sql.session.statistics import ResetStatements, count, log_slow
from pydistdb.sql.session.transaction import SessionTransaction
from pydistdb.sql.session.transaction_numbers import AskSnapshot, AskStatus
from pydistdb.sql.settings import Setting, find, kilobytes, milliseconds, split_identifiers
from pydistdb.sql.types.base import EvalContext
from pydistdb.tasks import sleep

Report = Callable[[str, str], None]
Notice = Callable[[DatabaseError, str], None]


def ignore_notice(notice: DatabaseError, severity: str) -> None:
    """Nobody takes notices."""


_NOTICE_LEVELS = ("debug5", "debug4", "debug3", "debug2", "debug1", "log", "info", "notice", "warning", "error")

LONGEST_SLEEP_SECONDS = 366 * 86_400.0


class SessionBase:
    """See session.py.  ``report`` is told of reported settings that change."""

    def __init__(
        self,
        environment: Environment,
        user: str,
        database_name: str,
        startup: dict[str, str],
        process_id: int,
        report: Report,
        client_address: str = "",
        notice: Notice = ignore_notice,
    ) -> None:
        self.environment = environment
        self.user = user
        self.database_name = database_name
        self.process_id = process_id
        self.client_address = client_address
        self.connected_us = now_us()
        self.context = EvalContext()
        self.statement_timeout_ms = 0
        self.idle_in_transaction_timeout_ms = 0
        self.idle_session_timeout_ms = 0
        self.lock_timeout_ms = 0
        self.log_statement_us = self.log_plan_us = -1
        self.traces_routes = False
        """Tells after each query where it was done (proddb.trace)."""
        self.takes_long_way = False
        """Every statement goes to the log, or may read in the past: none is answered on the fast path."""
        self.settled = False
        """The settings of the start have taken effect."""
        self._ran: CachedPlan | None = None
        self._locked_row: tuple[RowLocked, CachedPlan, Sequence[Any]] | None = None
        """What the last change by key found locked, if that made it wait."""
        self.search_path: tuple[str, ...] = ()
        self.transaction_status = b"I"
        self.query = ""
        self.query_started_us = 0
        self.state_changed_us = self.connected_us
        self.is_active = False
        self.owed_sleep_ns = 0
        """What pg_sleep has asked for: the statement is parked that long before its rows go on."""
        self.sleeps = False
        self._report = report
        self._notice = notice
        self._interrupt: DatabaseError | None = None
        state = environment.catalog.state
        role = login.admit(state, user, database_name)
        self.identity = Identity(role)
        self._roles = state.roles
        self._view: StateView | None = None
        self.temporary = TemporaryObjects(environment.database.node_id, process_id, self._temporary_schema_changed)
        startup = login.initial_settings(state, role, database_name, startup)
        self.settings = SessionSettings(startup, user, self._setting_changed)
        self.transaction = SessionTransaction(environment, self.settings, database_name, self.temporary)
        self.transaction.process_id = process_id
        self.transaction.warn = self.warn
        self.checks = PendingChecks(self)
        self.plans = SessionPlans(self)
        self.routines = RoutineRunner(self)
        self.names = StatementStore()
        self.cursors = SessionCursors(self)
        self.notifications = SessionNotifications(self)
        self.advisory = SessionAdvisory(self)
        context = self.context
        context.database_name = database_name
        context.settings = self.settings.values
        context.extra = self
        context.resources = self.resources = SessionResources(environment.resources)
        self.settings.show_superuser(role.superuser)
        self._identify()
        self._derive_settings()
        self.transaction.set_lock_timeout(self.lock_timeout_ms * 1_000_000)
        self.view()
        environment.sessions[process_id] = self

    # ------------------------------------------------------------------------------------------ settings

    def reported_settings(self) -> Iterable[tuple[str, str]]:
        return self.settings.reported()

    def _setting_changed(self, setting: Setting, value: str) -> None:
        if setting.reported:
            self._report(setting.name, value)
        if setting.key in IDENTITY:
            self._identify()
        self._derive_settings()
        if setting.key == "lock_timeout":
            self.transaction.set_lock_timeout(self.lock_timeout_ms * 1_000_000)
        elif setting.key.startswith("default_transaction_"):
            self.transaction.defaults_changed()

    def _derive_settings(self) -> None:
        """What is looked at often, worked out once."""
        values = self.settings.values
        self.context.timezone = values["timezone"]
        self.statement_timeout_ms = milliseconds(values["statement_timeout"])
        self.lock_timeout_ms = milliseconds(values["lock_timeout"])
        self.idle_in_transaction_timeout_ms = milliseconds(values["idle_in_transaction_session_timeout"])
        self.idle_session_timeout_ms = milliseconds(values["idle_session_timeout"])
        self.log_statement_us = milliseconds(values["log_min_duration_statement"]) * 1_000
        self.log_plan_us = milliseconds(values["auto_explain.log_min_duration"]) * 1_000
        self.transaction.awaits_all_copies = values["proddb.write_ack"] == "all"
        self.resources.memory_limit_kb = kilobytes(values["proddb.max_query_memory"])
        self.resources.disk_limit_kb = kilobytes(values["temp_file_limit"])
        self.transaction.past.settle(values, at_start=not self.settled)
        self.settled = True
        self.transaction.trace = self.tell if values["proddb.trace_txn"] == "on" else None
        self.traces_routes = values["proddb.trace"] == "on"
        self.takes_long_way = (
            self.traces_routes
            or self.transaction.trace is not None
            or (
                self.log_statement_us == 0
                or self.log_plan_us == 0
                or self.environment.log_statement is not None
                or self.transaction.past.level.kind != "strong"
            )
        )
        names = split_identifiers("search_path", values["search_path"])
        self.search_path = tuple(self.identity.current_name if name == "$user" else name for name in names)
        self._view = None
        self.plans.environment_changed()

    def _temporary_schema_changed(self) -> None:
        self._view = None
        self.plans.environment_changed()

    # ------------------------------------------------------------------------------------------ identity

    def _identify(self) -> None:
        """The settings that say who acts, or the roles, have changed."""
        values, identity, context = self.settings.values, self.identity, self.context
        identity.derive(self._roles, values["session_authorization"], values["role"])
        context.user, context.session_user, context.role = (
            identity.current_name,
            identity.session_name,
            identity.current,
        )
        if self.settings.show_superuser(identity.restricted is None):
            self._report("is_superuser", values["is_superuser"])

    def set_role(self, name: str, *, local: bool) -> None:
        """SET ROLE."""
        view = self.view()
        self.identity.check_role(view.catalog_state.roles, name, view.database.owner)
        self.settings.set(find("role"), name, local=local)

    def set_session_authorization(self, name: str, *, local: bool) -> None:
        """SET SESSION AUTHORIZATION: a role taken on is given up."""
        self.identity.check_session_authorization(self.view().catalog_state.roles, name)
        self.settings.set(find("session_authorization"), name, local=local)
        self.settings.set(find("role"), "none", local=local)

    # ------------------------------------------------------------------------------------------ catalog

    def view(self) -> StateView:
        """The catalog as this session sees it now, its own uncommitted DDL included."""
        ddl = self.transaction.ddl
        catalog = self.environment.catalog
        overlay = ddl.overlay if ddl is not None and ddl.overlay.is_open else None
        state = catalog.state if ddl is None else ddl.state
        view = self._view
        if view is None or view.catalog_state is not state:
            if state.roles is not self._roles:
                self._roles = state.roles
                self._identify()
                self._derive_settings()
            view = self._view = catalog.view(
                self.database_name, self.search_path, overlay, self.temporary.schema_name, self.identity.restricted
            )
            self.context.catalog = view
        return view

    def view_of_role(self, role: int) -> StateView:
        """The catalog as a role sees it: the session's own, or that of a function's owner."""
        view = self.view()
        if role == self.identity.current:
            return view
        return view.restricted_to(None if view.catalog_state.roles.is_superuser(role) else role)

    async def pin(self, plan: CachedPlan) -> CachedPlan:
        """Keep DDL off the plan's tables until the transaction ends; the plan, made anew if it is out of date."""
        catalog = self.environment.catalog
        transaction = self.transaction.open()
        while True:
            await catalog.ensure_fresh()
            if plan.catalog_state is not self.view().catalog_state:
                plan = await self.plans.renew(plan)
            if not catalog.gate.try_enter(transaction, plan.tables, plan.writes):
                await catalog.gate.enter(transaction, plan.tables, plan.writes, self.lock_deadline_ns())
            if plan.catalog_state is self.view().catalog_state:
                return plan

    def run_context(self) -> RunContext:
        """Surroundings for evaluating expressions outside a plan (EXECUTE's arguments)."""
        environment = self.environment
        return RunContext(
            self.transaction.open(),
            environment.database,
            self.view(),
            self.context,
            (),
            environment.scheduler,
            self.check_interrupt,
        )

    def lock_deadline_ns(self) -> int | None:
        """When lock_timeout runs out for a wait that starts now."""
        if not self.lock_timeout_ms:
            return None
        return self.environment.scheduler.now_ns() + self.lock_timeout_ms * 1_000_000

    # ------------------------------------------------------------------------------------------ bookkeeping

    def _begin_statement(self, text: str) -> None:
        """A statement starts: its time, and what pg_stat_activity says."""
        self._interrupt = None
        self.owed_sleep_ns = 0
        now = now_us()
        context = self.context
        context.statement_timestamp = now
        if self.transaction.kv is None and not self.transaction.in_block:
            context.transaction_timestamp = now
        self.query = text
        self._ran = None
        self.query_started_us = self.state_changed_us = now
        self.is_active = True
        self.environment.statistics.statements += 1

    def _end_statement(self) -> None:
        """It has ended; one that failed ends twice, the second time with its transaction."""
        was_active, self.is_active = self.is_active, False
        self.state_changed_us = now_us()
        self.transaction_status = self.transaction.status
        if not was_active:
            return
        duration_us = self.state_changed_us - self.query_started_us
        log = self.environment.log_statement
        if log is not None:
            log(self.user, self.query, duration_us * 1_000)
        if 0 <= self.log_statement_us <= duration_us or 0 <= self.log_plan_us <= duration_us:
            log_slow(self, self._ran, duration_us)

    def count_statement(self, plan: CachedPlan, tag: str, started_ns: int) -> None:
        """A statement has been executed, and took this long."""
        self._ran = plan
        count(self, plan, tag, time.perf_counter_ns() - started_ns)

    advisory_key = staticmethod(AdvisoryKey.of)

    def signal(self, process_id: int, kind: str, timeout_ms: int = 0) -> SignalBackend:
        """pg_cancel_backend and pg_terminate_backend."""
        return SignalBackend(self, process_id, kind, timeout_ms)

    def ask_blocking(self, process_id: int) -> AskBlocking:
        """pg_blocking_pids."""
        return AskBlocking(self, process_id)

    def ask_snapshot(self) -> AskSnapshot:
        """pg_current_snapshot, as of what the statement sees."""
        transaction = self.transaction.kv
        database = self.environment.database
        return AskSnapshot(
            self.environment.numbers, database.now() if transaction is None else transaction.read_timestamp
        )

    def ask_status(self, number: int) -> AskStatus:
        """txid_status."""
        return AskStatus(self.environment.numbers, number)

    def reset_statements(self, user: int, database: int, query_id: int) -> ResetStatements:
        """pg_stat_statements_reset."""
        return ResetStatements(self, user, database, query_id)

    def warn(self, warning: DatabaseError) -> None:
        """A function has a WARNING for the client."""
        if self.shows("WARNING"):
            self._notice(warning, "WARNING")

    def tell(self, text: str) -> None:
        """A transaction, or a query, tells what it does (proddb.trace_txn, proddb.trace)."""
        if self.shows("NOTICE"):
            self._notice(DatabaseError.of("00000", text), "NOTICE")

    def send_notice(self, sink: Sink, notice: DatabaseError, severity: str = "NOTICE") -> None:
        """A statement has a notice for the client."""
        if self.shows(severity):
            sink.notice(notice, "DEBUG" if severity.startswith("DEBUG") else severity)

    def send_warning(self, sink: Sink, warning: DatabaseError) -> None:
        """A statement has a WARNING for the client."""
        self.send_notice(sink, warning, "WARNING")

    def shows(self, severity: str) -> bool:
        """Whether client_min_messages lets a notice through."""
        level = severity.lower()
        least = _NOTICE_LEVELS.index(self.settings.values["client_min_messages"])
        return level == "info" or _NOTICE_LEVELS.index(level if level in _NOTICE_LEVELS else "notice") >= least

    def owe_sleep(self, seconds: float) -> None:
        """pg_sleep: functions cannot wait, so the statement does, between this batch of rows and the next."""
        if seconds > 0:
            self.owed_sleep_ns += int(min(seconds, LONGEST_SLEEP_SECONDS) * 1e9)

    async def sleep_owed(self) -> None:
        """Park the statement for as long as its functions have asked for; a cancellation ends that."""
        owed_ns, self.owed_sleep_ns = self.owed_sleep_ns, 0
        self.check_interrupt()
        self.sleeps = True
        try:
            await sleep(self.environment.scheduler, owed_ns)
        finally:
            self.sleeps = False
        self.check_interrupt()

    def check_interrupt(self) -> None:
        """Raise what ``cancel`` was given."""
        error = self._interrupt
        if error is not None:
            self._interrupt = None
            raise error

    def cancel(self, error: DatabaseError) -> bool:
        if not (self.is_active and self.transaction.can_be_interrupted):
            return False
        self._interrupt = error
        return True

    def explain_error(self, error: Exception) -> Exception:
        """A lower layer's error in SQL's terms."""
        return explain(self, error)
