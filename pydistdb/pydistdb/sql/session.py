"""One client's conversation with the database: the simple and the extended protocol over plans and transactions.

Theory of operation
-------------------
``ClientSession`` implements ``sql.api.Session``.  It turns texts into plans (session_plans.py, through the shared
plan cache), runs them (session_execute.py), keeps transaction blocks (session_transaction.py), settings
(session_settings.py), prepared statements and portals (session_statements.py), and hands everything that is neither a
query nor a change of rows to session_utility.py and session_copy.py.

The life of ``SELECT … WHERE id = 7`` on the hot path: ``try_simple_query`` finds the plan by the text's normalised
form, ``_try_run`` asks the compiled query for the row; nothing waits, no coroutine is made.  If anything is missing
(plan, fresh catalog, the key is not at hand) the ``try_`` method answers False before it has done anything, and the
awaitable form does it all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pydistdb_storage.errors import StorageError

from pydistdb.kv.api import Isolation, KVError, MustWait
from pydistdb.sql import bind, session_utility
from pydistdb.sql.api import Field, Sink
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.errors import DatabaseError, FeatureNotSupported, InFailedTransaction, InvalidSyntax
from pydistdb.sql.exec import RunContext
from pydistdb.sql.plan_cache import CachedPlan
from pydistdb.sql.session_environment import Environment, now_us
from pydistdb.sql.session_execute import Execution, Row, explain
from pydistdb.sql.session_plans import SessionPlans
from pydistdb.sql.session_settings import SessionSettings
from pydistdb.sql.session_statements import (
    SessionPortal,
    SessionStatement,
    StatementStore,
    read_parameters,
    result_formats,
)
from pydistdb.sql.session_transaction import SessionTransaction
from pydistdb.sql.settings import Setting, milliseconds, split_identifiers
from pydistdb.sql.statements import Commit, Rollback, Savepoint, Utility
from pydistdb.sql.types.base import EvalContext

Report = Callable[[str, str], None]

FAILED_MESSAGE = "current transaction is aborted, commands ignored until end of transaction block"


class ClientSession:
    """See the module's introduction.  ``report`` is told of reported settings that change."""

    def __init__(
        self,
        environment: Environment,
        user: str,
        database_name: str,
        startup: dict[str, str],
        process_id: int,
        report: Report,
        client_address: str = "",
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
        self.search_path: tuple[str, ...] = ()
        self.transaction_status = b"I"
        self.query = ""
        self.query_started_us = 0
        self.state_changed_us = self.connected_us
        self.is_active = False
        self._report = report
        self._interrupt: DatabaseError | None = None
        self._view: StateView | None = None
        self.settings = SessionSettings(startup, user, self._setting_changed)
        self.transaction = SessionTransaction(environment, self.settings)
        self.plans = SessionPlans(self)
        self.names = StatementStore()
        context = self.context
        context.user = user
        context.database_name = database_name
        context.settings = self.settings.values
        context.extra = self
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
        names = split_identifiers("search_path", values["search_path"])
        self.search_path = tuple(self.user if name == "$user" else name for name in names)
        self._view = None
        self.plans.environment_changed()

    # ------------------------------------------------------------------------------------------ catalog

    def view(self) -> StateView:
        """The catalog as this session sees it now, its own uncommitted DDL included."""
        ddl = self.transaction.ddl
        catalog = self.environment.catalog
        overlay = ddl.overlay if ddl is not None and ddl.overlay.is_open else None
        state = catalog.state if overlay is None else overlay.state
        view = self._view
        if view is None or view.catalog_state is not state:
            view = self._view = catalog.view(self.database_name, self.search_path, overlay)
            self.context.catalog = view
        return view

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
        now = now_us()
        context = self.context
        context.statement_timestamp = now
        if self.transaction.kv is None and not self.transaction.in_block:
            context.transaction_timestamp = now
        self.query = text
        self.query_started_us = self.state_changed_us = now
        self.is_active = True
        self.environment.statistics.statements += 1

    def _end_statement(self) -> None:
        self.is_active = False
        self.state_changed_us = now_us()
        self.transaction_status = self.transaction.status
        log = self.environment.log_statement
        if log is not None:
            log(self.user, self.query, (self.state_changed_us - self.query_started_us) * 1_000)

    def check_interrupt(self) -> None:
        """Raise what ``cancel`` was given."""
        error = self._interrupt
        if error is not None:
            self._interrupt = None
            raise error

    def set_config(self, name: str, value: str, local: bool) -> str:
        """set_config(): SET as a function."""
        return session_utility.assign(self, name, value, local=local)

    def cancel(self, error: DatabaseError) -> bool:
        if self.transaction.is_committing or not self.is_active:
            return False
        self._interrupt = error
        return True

    def explain_error(self, error: Exception) -> Exception:
        """A lower layer's error in SQL's terms."""
        return explain(self, error)

    # ------------------------------------------------------------------------------------------ hot path

    def _try_run(self, plan: CachedPlan, parameters: Sequence[Any]) -> list[Row] | None:
        """The rows of a read by key, if it can be answered now; no trace is left if not."""
        block = self.transaction
        environment = self.environment
        catalog = environment.catalog
        view = self.view()
        if not plan.is_fast or block.failed or not catalog.is_fresh or plan.catalog_state is not view.catalog_state:
            return None
        transaction = block.kv
        if transaction is None and (block.explicit or block.isolation is not Isolation.READ_COMMITTED):
            return None
        pins: Any = transaction if transaction is not None else self
        if not catalog.gate.try_enter(pins, plan.tables, False):
            return None
        context = self.context
        now = now_us()
        context.statement_timestamp = now
        if transaction is None:
            context.transaction_timestamp = now
        assert plan.compiled is not None
        run = RunContext(
            transaction, environment.database, view, context, parameters, environment.scheduler, self.check_interrupt
        )
        try:
            if transaction is not None:
                transaction.begin_statement(block.least_timestamp)
            rows = plan.compiled.try_run(run)
        except (MustWait, KVError):
            return None
        finally:
            if transaction is None:
                catalog.gate.leave(pins)
        if rows is None:
            plan.is_fast = False
            return None
        if transaction is not None:
            block.statements += 1
        self.query = plan.text
        self.query_started_us = self.state_changed_us = now
        statistics = environment.statistics
        statistics.statements += 1
        statistics.fast_statements += 1
        statistics.rows_sent += len(rows)
        return rows

    def try_simple_query(self, text: str, sink: Sink) -> bool:
        found = self.plans.try_find(text)
        if found is None:
            return False
        plan, parameters = found
        rows = self._try_run(plan, parameters)
        if rows is None:
            return False
        assert plan.fields is not None
        sink.row_description(plan.fields)
        sink.rows(rows)
        sink.complete(f"SELECT {len(rows)}")
        return True

    def try_bind(
        self,
        portal: str,
        statement: str,
        parameters: Sequence[bytes | None],
        parameter_formats: Sequence[int],
        result_codes: Sequence[int],
    ) -> SessionPortal | None:
        found = self.names.statements.get(statement)
        if found is None or portal or self.transaction.failed:
            return None
        old = self.names.portals.get(portal)
        if old is not None and old.execution is not None:
            return None
        plan = found.plan
        if plan.catalog_state is not self.view().catalog_state or plan.environment != self.plans.environment:
            return None
        values = read_parameters(found, portal, parameters, parameter_formats, self.context) if parameters else ()
        if not parameters and found.parameter_oids:
            return None
        bound = SessionPortal(portal, found, plan, values, result_formats(plan, result_codes))
        self.names.portals[portal] = bound
        return bound

    def try_execute(self, portal: str, most_rows: int, sink: Sink, last: bool = False) -> bool:
        found = self.names.portals.get(portal)
        if found is None or found.execution is not None or found.done or most_rows or not found.plan.is_fast:
            return False
        rows = self._try_run(found.plan, found.parameters)
        if rows is None:
            return False
        found.done = True
        sink.rows(rows)
        sink.complete(f"SELECT {len(rows)}")
        return True

    def try_sync(self) -> bool:
        block = self.transaction
        if block.implicit or (block.kv is not None and not block.explicit):
            return False
        if not block.explicit:
            portals = self.names.portals
            for open_portal in portals.values():
                if open_portal.execution is not None:
                    return False
            portals.clear()
        return True

    # ------------------------------------------------------------------------------------------ simple protocol

    async def simple_query(self, text: str, sink: Sink) -> None:
        self._begin_statement(text)
        try:
            await self.environment.catalog.ensure_fresh()
            await self._drop_portals("")
            plan = self.plans.find_single(text)
            if plan is not None:
                await self._simple_statement(*plan, sink, alone=not self.transaction.in_block)
                return
            statements = bind.parse(text)
            if not statements:
                sink.empty_query()
                return
            if len(statements) > 1:
                await self._simple_string(statements, sink)
                return
            planned = self.plans.plan(statements[0], None, text)
            await self._simple_statement(planned, (), sink, alone=not self.transaction.in_block)
        except (KVError, StorageError) as error:
            raise self.explain_error(error) from error
        finally:
            self._end_statement()

    async def _simple_string(self, statements: list[bind.ParsedStatement], sink: Sink) -> None:
        """Several statements are one transaction, unless they say otherwise."""
        block = self.transaction
        for number, parsed in enumerate(statements, 1):
            if not block.explicit:
                block.begin_implicit()
            last = number == len(statements)
            self._check_failed_kind(parsed.kind)
            plan = self.plans.plan(parsed)
            await self._simple_statement(plan, (), sink, alone=False, last=last)
            self.transaction_status = block.status

    async def _simple_statement(
        self, plan: CachedPlan, parameters: Sequence[Any], sink: Sink, *, alone: bool, last: bool = True
    ) -> None:
        self.check_failed(plan)
        block = self.transaction
        if plan.utility is not None:
            tag = await session_utility.run(self, plan, plan.utility, sink, simple=True)
            if last and not block.explicit:
                await block.commit()
            sink.complete(tag)
            return
        if plan.writes:
            block.check_writable(plan.tag)
        if plan.fields is not None:
            sink.row_description(plan.fields)
        execution = Execution(self, plan, parameters, alone=alone)
        try:
            await execution.fetch(0, sink)
        except BaseException:
            await execution.close()
            raise
        if last and block.implicit:
            await block.commit()  # before the last statement is called complete
        sink.complete(execution.tag)

    def check_failed(self, plan: CachedPlan) -> None:
        """Raise 25P02 in a failed block, unless the statement ends it."""
        if self.transaction.failed and not _ends_failed_block(plan.utility):
            raise InFailedTransaction(FAILED_MESSAGE)

    def _check_failed_kind(self, kind: str) -> None:
        if self.transaction.failed and kind not in ("COMMIT", "ROLLBACK"):
            raise InFailedTransaction(FAILED_MESSAGE)

    # ------------------------------------------------------------------------------------------ extended protocol

    async def prepare(self, name: str, text: str, parameter_oids: Sequence[int]) -> SessionStatement:
        self._begin_statement(text)
        try:
            self.names.check_new_statement(name)
            return await self.prepare_statement(name, text, parameter_oids, from_sql=False)
        except (KVError, StorageError) as error:
            raise self.explain_error(error) from error
        finally:
            self._end_statement()

    async def prepare_statement(
        self, name: str, text: str, parameter_oids: Sequence[int], *, from_sql: bool
    ) -> SessionStatement:
        """Plan a text and keep it under ``name``."""
        await self.environment.catalog.ensure_fresh()
        plan = self.plans.prepared(text, tuple(parameter_oids))
        if plan is None:
            statements = bind.parse(text)
            if len(statements) > 1:
                raise InvalidSyntax("cannot insert multiple commands into a prepared statement")
            if statements:
                self._check_failed_kind(statements[0].kind)
                plan = self.plans.plan(statements[0], tuple(parameter_oids), text)
            else:
                plan = self.plans.empty(text)
        self.check_failed(plan)
        statement = SessionStatement(name, text, plan, from_sql=from_sql, prepared_us=now_us())
        self.names.statements[name] = statement
        return statement

    def statement(self, name: str) -> SessionStatement:
        return self.names.statement(name)

    async def bind(
        self,
        portal: str,
        statement: str,
        parameters: Sequence[bytes | None],
        parameter_formats: Sequence[int],
        result_codes: Sequence[int],
    ) -> SessionPortal:
        found = self.names.statement(statement)
        self._begin_statement(found.text)
        try:
            self.check_failed(found.plan)
            await self.environment.catalog.ensure_fresh()
            await self.renew_statement(found)
            values = read_parameters(found, portal, parameters, parameter_formats, self.context)
            if not portal:
                await self._drop_portals("")
            bound = SessionPortal(portal, found, found.plan, values, result_formats(found.plan, result_codes))
            self.names.add_portal(bound)
            return bound
        except (KVError, StorageError) as error:
            raise self.explain_error(error) from error
        finally:
            self._end_statement()

    async def renew_statement(self, statement: SessionStatement) -> None:
        """Plan a prepared statement again if the catalog or a setting it depends on has changed."""
        plan = statement.plan
        if plan.parsed is None:
            return
        if plan.catalog_state is self.view().catalog_state and plan.environment == self.plans.environment:
            return
        plan = await self.plans.renew(plan)
        if plan.fields != statement.fields and _shape(plan.fields) != _shape(statement.fields):
            raise FeatureNotSupported("cached plan must not change result type")
        statement.plan = plan

    def portal(self, name: str) -> SessionPortal:
        return self.names.portal(name)

    async def execute(self, portal: str, most_rows: int, sink: Sink, last: bool = False) -> None:
        found = self.names.portal(portal)
        self._begin_statement(found.statement.text)
        try:
            if found.plan.parsed is None:
                sink.empty_query()
                return
            self.check_failed(found.plan)
            await self._execute(found, most_rows, sink, last)
        except (KVError, StorageError) as error:
            raise self.explain_error(error) from error
        finally:
            self._end_statement()

    async def _execute(self, portal: SessionPortal, most_rows: int, sink: Sink, last: bool) -> None:
        plan = portal.plan
        block = self.transaction
        if portal.done:
            if plan.utility is not None or plan.fields is None:
                raise DatabaseError.of("55000", f'portal "{portal.name}" cannot be run')
            sink.complete("SELECT 0" if plan.tag == "SELECT" else plan.tag)
            return
        # The first of a batch, with a Sync behind it, is a transaction of its own.
        alone = last and not block.in_block and block.kv is None
        if not alone:
            block.begin_implicit()
        if plan.utility is not None:
            portal.done = True
            tag = await session_utility.run(self, plan, plan.utility, sink, simple=False)
            if alone and not block.explicit:
                await block.commit()
            sink.complete(tag)
            return
        if plan.writes:
            block.check_writable(plan.tag)
        execution = portal.execution
        if execution is None:
            execution = portal.execution = Execution(self, plan, portal.parameters, alone=alone)
        sent_before = execution.rows_sent
        if await execution.fetch(most_rows, sink):
            portal.done = True
            portal.execution = None
            tag = execution.tag
            sink.complete(f"SELECT {execution.rows_sent - sent_before}" if plan.tag == "SELECT" else tag)
        else:
            sink.suspended()

    def close_statement(self, name: str) -> None:
        self.names.statements.pop(name, None)

    def close_portal(self, name: str) -> None:
        portal = self.names.portals.pop(name, None)
        if portal is not None and portal.execution is not None:
            self.environment.scheduler.spawn(portal.execution.close(), "close portal")

    async def _drop_portals(self, *names: str) -> None:
        """Forget these portals, or all of them."""
        portals = self.names.portals
        for name in names or list(portals):
            portal = portals.pop(name, None)
            if portal is not None and portal.execution is not None:
                await portal.execution.close()

    async def drop_started_portals(self) -> None:
        """Forget the portals that hold on to a run of the transaction."""
        names = [name for name, portal in self.names.portals.items() if portal.execution is not None]
        if names:
            await self._drop_portals(*names)

    async def sync(self) -> None:
        block = self.transaction
        if block.explicit:
            return
        self.is_active = True
        try:
            await self._drop_portals()
            if block.implicit or block.kv is not None:
                await block.commit()
        except (KVError, StorageError) as error:
            raise self.explain_error(error) from error
        finally:
            self._end_statement()

    # ------------------------------------------------------------------------------------------ ends

    async def failed(self, error: DatabaseError) -> None:
        self.environment.statistics.errors += 1
        await self._drop_portals()
        self.transaction.fail()
        self._end_statement()

    async def close(self) -> None:
        await self._drop_portals()
        self.transaction.rollback()
        self.environment.sessions.pop(self.process_id, None)


def _shape(fields: tuple[Field, ...] | None) -> list[tuple[str, int, int]] | None:
    """What a client has been told about the columns."""
    return None if fields is None else [(field.name, field.type_oid, field.modifier) for field in fields]


def _ends_failed_block(utility: Utility | None) -> bool:
    match utility:
        case Commit() | Rollback():
            return True
        case Savepoint():
            return utility.action == "rollback_to"
    return False
