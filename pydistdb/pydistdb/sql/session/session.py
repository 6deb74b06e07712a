"""One client's conversation with the database: the simple and the extended protocol over plans and transactions.

Theory of operation
-------------------
``ClientSession`` implements ``sql.api.Session``.  It turns texts into plans (plans.py, through the shared
plan cache), runs them (execute.py), keeps transaction blocks (transaction.py), settings
(settings.py), prepared statements and portals (statements.py), and hands everything that is neither a
query nor a change of rows to utility.py.

The life of ``SELECT … WHERE id = 7`` on the hot path (fast.py): ``try_simple_query`` finds the plan by the text's
normalised form and asks the compiled query for the row; nothing waits, no coroutine is made.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from pydistdb_storage.errors import StorageError

from pydistdb.kv.api import KVError
from pydistdb.sql import bind
from pydistdb.sql.api import Notification, Portal, Sink
from pydistdb.sql.catalog.temporary import drop_schemas
from pydistdb.sql.clock import now_us
from pydistdb.sql.errors import DatabaseError, DeadlockDetected, InFailedTransaction, InvalidSyntax
from pydistdb.sql.plan_cache import CachedPlan
from pydistdb.sql.session import own, variables
from pydistdb.sql.session import utility as utilities
from pydistdb.sql.session.alone import can_begin_anew, run_alone
from pydistdb.sql.session.cursor import Cursor
from pydistdb.sql.session.cursors import fetch_rows, open_piecemeal
from pydistdb.sql.session.execute import Execution
from pydistdb.sql.session.fast import FastSession
from pydistdb.sql.session.fields import check_same_columns
from pydistdb.sql.session.schema_changes import commits_at_once
from pydistdb.sql.session.statements import SessionPortal, SessionStatement, read_parameters, result_formats
from pydistdb.sql.session.statistics import log_deadlock
from pydistdb.sql.settings import find
from pydistdb.sql.statements import Commit, Fetch, PrepareTransaction, Rollback, Savepoint, Utility

FAILED_MESSAGE = "current transaction is aborted, commands ignored until end of transaction block"


class ClientSession(FastSession):
    """See the module's introduction."""

    def set_config(self, name: str, value: str | None, local: bool) -> str:
        """set_config(): SET as a function; None stands for the default."""
        if value is None:
            value = self.settings.default(find(name))
        return variables.assign(self, name, value, local=local, in_query=True)

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
        started_ns = time.perf_counter_ns()
        if plan.utility is not None:
            if alone and can_begin_anew(plan.utility):
                tag = await run_alone(self, plan, sink, simple=True)
            else:
                tag = await utilities.run(self, plan, plan.utility, sink, simple=True)
                if last and not block.explicit:
                    await block.commit()
            self.count_statement(plan, tag, started_ns)
            sink.complete(tag)
            return
        if plan.writing_tag:
            block.check_writable(plan.writing_tag)
        execution = Execution(self, plan, parameters, alone=alone, announces=True)
        try:
            await execution.fetch(0, sink)
        except BaseException:
            await execution.close()
            raise
        if last and block.implicit:
            await block.commit()  # before the last statement is called complete
        tag = execution.tag
        self.count_statement(execution.plan, tag, started_ns)
        sink.complete(tag)

    def check_failed(self, plan: CachedPlan) -> None:
        """Raise 25P02 in a failed block, unless the statement ends it."""
        if self.transaction.failed and not _ends_failed_block(plan.utility):
            raise InFailedTransaction(FAILED_MESSAGE)

    def _check_failed_kind(self, kind: str) -> None:
        if self.transaction.failed and kind not in ("COMMIT", "ROLLBACK", "PREPARE TRANSACTION"):
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
            if portal and portal in self.cursors:
                raise DatabaseError.of("42P03", f'cursor "{portal}" already exists')
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
        if isinstance(plan.utility, Fetch):  # what it returns is the cursor's affair
            statement.plan = self.plans.make(plan.parsed, plan.declared_oids)
            return
        if plan.catalog_state is self.view().catalog_state and plan.environment == self.plans.environment:
            return
        plan = await self.plans.renew(plan)
        check_same_columns(statement.fields, plan.fields)
        statement.plan = plan

    def portal(self, name: str) -> Portal:
        return self.cursors.get(name) or self._portal(name)

    def _portal(self, name: str) -> SessionPortal:
        if self.transaction.failed and name not in self.names.portals:
            raise InFailedTransaction(FAILED_MESSAGE)  # the failure has taken the portal with it
        return self.names.portal(name)

    async def execute(self, portal: str, most_rows: int, sink: Sink, last: bool = False) -> None:
        cursor = self.cursors.get(portal)
        if cursor is not None:
            await self._execute_cursor(cursor, most_rows, sink)
            return
        found = self._portal(portal)
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

    async def _execute_cursor(self, cursor: Cursor, most_rows: int, sink: Sink) -> None:
        """Execute on what DECLARE made."""
        self._begin_statement(cursor.text)
        try:
            self.check_failed(cursor.plan)
            count = await fetch_rows(cursor, "forward", most_rows or None, sink)
            if most_rows and count == most_rows:
                sink.suspended()
            else:
                sink.complete(f"SELECT {count}")
        except (KVError, StorageError) as error:
            raise self.explain_error(error) from error
        finally:
            self._end_statement()

    async def _execute(self, portal: SessionPortal, most_rows: int, sink: Sink, last: bool) -> None:
        plan = portal.plan
        block = self.transaction
        started_ns = time.perf_counter_ns()
        if portal.done:
            if plan.utility is not None or plan.fields is None:
                raise DatabaseError.of("55000", f'portal "{portal.name}" cannot be run')
            sink.complete("SELECT 0" if plan.tag == "SELECT" else plan.tag)
            return
        # The first of a batch, with a Sync behind it, is a transaction of its own.
        alone = last and not block.in_block and block.kv is None
        if not alone:
            block.begin_implicit(pipeline=True)
        if plan.utility is not None:
            portal.done = True
            if alone and can_begin_anew(plan.utility):
                tag = await run_alone(self, plan, sink, simple=False, parameters=portal.parameters)
            else:
                tag = await utilities.run(self, plan, plan.utility, sink, simple=False, parameters=portal.parameters)
                if not block.explicit and (alone or commits_at_once(plan.utility)):
                    await block.commit()
            block.has_run = block.implicit
            self.count_statement(plan, tag, started_ns)
            sink.complete(tag)
            return
        block.has_run = block.implicit
        if plan.writing_tag:
            block.check_writable(plan.writing_tag)
        execution = portal.execution
        if execution is None:
            if (
                plan.writes
                and self._locked_row is not None
                and await self._try_behind_lock(plan, portal.parameters, sink)
            ):
                portal.done = True
                return
            if most_rows and not alone and not plan.writes:
                execution = await open_piecemeal(self, plan, portal.parameters)
            else:
                execution = Execution(self, plan, portal.parameters, alone=alone)
            portal.execution = execution
        sent_before = execution.rows_sent
        if await execution.fetch(most_rows, sink):
            portal.done = True
            portal.execution = None
            tag = execution.tag
            self.count_statement(execution.plan, tag, started_ns)
            sink.complete(f"SELECT {execution.rows_sent - sent_before}" if plan.tag == "SELECT" else tag)
        else:
            sink.suspended()

    def close_statement(self, name: str) -> None:
        self.names.statements.pop(name, None)

    def close_portal(self, name: str) -> None:
        if name in self.cursors:
            self.environment.scheduler.spawn(self.cursors.close(name), "close cursor")
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

    # ------------------------------------------------------------------------------------------ notifications

    def on_notification(self, callback: Callable[[], None]) -> None:
        self.notifications.on_arrival = callback

    def take_notifications(self) -> list[Notification]:
        return self.notifications.take() if self.transaction_status == b"I" else []

    # ------------------------------------------------------------------------------------------ ends

    async def failed(self, error: DatabaseError) -> None:
        self.environment.statistics.errors += 1
        if isinstance(error, DeadlockDetected):
            log_deadlock(self, error)
        await self._drop_portals()
        self.transaction.fail(error.message)
        self._end_statement()

    async def close(self) -> None:
        await self._drop_portals()
        self.transaction.rollback()
        await self.cursors.close_all()
        self.notifications.close()
        self.advisory.close()
        self.environment.sessions.pop(self.process_id, None)
        self._drop_temporary_schema()

    def _drop_temporary_schema(self) -> None:
        """Temporary objects go with the session, in the background."""
        environment = self.environment
        database = environment.catalog.state.databases_by_name.get(self.database_name)
        schema = None if database is None else database.schemas_by_name.get(self.temporary.schema_name)
        if database is not None and schema is not None:
            dropping = drop_schemas(environment.catalog, [(database.descriptor.oid, schema.oid)])
            environment.scheduler.spawn(dropping, "drop temporary schema")


own.register()


def _ends_failed_block(utility: Utility | None) -> bool:
    match utility:
        case Commit() | Rollback() | PrepareTransaction():
            return True
        case Savepoint():
            return utility.action == "rollback_to"
    return False
