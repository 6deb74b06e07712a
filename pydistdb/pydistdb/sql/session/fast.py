"""The hot path of a session: statements whose plan and whose answer are at hand, without a coroutine.

Every ``try_`` method answers False (or None) before it has done anything if something is missing: the plan, a fresh catalog,
the key.  The awaitable form then does it all.  A point select by Bind, Execute and Sync costs about 20 µs from here down.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydistdb.kv.api import DeadlockDetected, Isolation, KVError, LockNotAvailable, MustWait, RowLocked
from pydistdb.sql.api import PreparedStatement, Sink
from pydistdb.sql.clock import now_us
from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.exec import RunContext
from pydistdb.sql.plan_cache import CachedPlan
from pydistdb.sql.session.base import SessionBase
from pydistdb.sql.session.statements import SessionPortal, read_parameters, result_formats
from pydistdb.sql.session.statistics import counts_of


class FastSession(SessionBase):
    """See the module's introduction."""

    def _try_run(self, plan: CachedPlan, parameters: Sequence[Any], sink: Sink, *, announce: bool) -> bool:
        """Read or change a row by its key, if that can be done now; False, and no trace is left, if not."""
        block = self.transaction
        environment = self.environment
        catalog = environment.catalog
        view = self.view()
        if (
            not plan.is_fast
            or self.takes_long_way
            or block.failed
            or not catalog.is_fresh
            or plan.catalog_state is not view.catalog_state
        ):
            return False
        transaction = block.kv
        if transaction is None:
            if block.explicit:
                transaction = block.open()
            elif plan.writes or block.isolation is not Isolation.READ_COMMITTED:
                return False
        if plan.writes and block.read_only:
            return False
        if transaction is None:
            if not catalog.gate.admits(plan.tables):
                return False
        elif not catalog.gate.try_enter(transaction, plan.tables, plan.writes):
            return False
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
        except RowLocked as locked:
            self._locked_row = (locked, plan, parameters)
            return False
        except (MustWait, KVError):
            return False
        if rows is None or self.owed_sleep_ns:  # whatever sleeps is run again where it can wait
            plan.is_fast = False
            return False
        if transaction is not None:
            block.statements += 1
        self.query = plan.text
        self.query_started_us = self.state_changed_us = now
        statistics = environment.statistics
        statistics.statements += 1
        statistics.fast_statements += 1
        counts = plan.counts or counts_of(self, plan)
        if plan.writes:
            counts.count_fast(run.affected_rows, now)
            plan.changes.rows += run.affected_rows
            sink.complete(f"{'INSERT 0' if plan.tag == 'INSERT' else plan.tag} {run.affected_rows}")
            return True
        if announce:
            assert plan.fields is not None
            sink.row_description(plan.fields)
        counts.count_fast(len(rows), now)
        statistics.rows_sent += len(rows)
        sink.rows(rows)
        sink.complete(f"SELECT {len(rows)}")
        return True

    async def _try_behind_lock(self, plan: CachedPlan, parameters: Sequence[Any], sink: Sink) -> bool:
        """Wait for the row that a change by key has just found locked, and try again; False as ``_try_run``.

        At READ COMMITTED the change then sees the row as whoever held it has left it (manual, 13.2.1)."""
        found, self._locked_row = self._locked_row, None
        block = self.transaction
        transaction = block.kv
        if (
            found is None
            or found[1] is not plan
            or found[2] != parameters
            or transaction is None
            or not block.explicit
            or block.isolation is not Isolation.READ_COMMITTED
        ):
            return False
        try:
            await transaction.lock([found[0].key], found[0].strength)
        except (LockNotAvailable, DeadlockDetected):
            raise
        except KVError:
            return False  # the long way meets it again, and knows whether to try once more
        self.check_interrupt()
        return self._try_run(plan, parameters, sink, announce=False)

    def _try_begin(self, plan: CachedPlan, sink: Sink) -> bool:
        """BEGIN as almost everybody writes it, outside a block."""
        block = self.transaction
        if not plan.is_plain_begin or self.takes_long_way or block.in_block or block.failed or block.kv is not None:
            return False
        now = now_us()
        context = self.context
        context.statement_timestamp = context.transaction_timestamp = now
        self.query = plan.text
        self.query_started_us = self.state_changed_us = now
        self.environment.statistics.statements += 1
        block.begin(None, None, None)
        self.transaction_status = block.status
        (plan.counts or counts_of(self, plan)).count_fast(0, now)
        sink.complete(plan.kind)
        return True

    def try_simple_query(self, text: str, sink: Sink) -> bool:
        found = self.plans.try_find(text)
        if found is None:
            return False
        plan, parameters = found
        if plan.utility is not None:
            return self._try_begin(plan, sink)
        return self._try_run(plan, parameters, sink, announce=True)

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
        if found is None or found.execution is not None or found.done or most_rows:
            return False
        plan = found.plan
        if plan.utility is not None:
            found.done = last and self._try_begin(plan, sink)
        else:
            found.done = plan.is_fast and self._try_run(plan, found.parameters, sink, announce=False)
        return found.done

    def try_run_prepared(self, statement: PreparedStatement, parameters: Sequence[bytes | None], sink: Sink) -> bool:
        names, block = self.names, self.transaction
        found = names.statements.get(statement.name)
        if found is not statement or block.failed or block.implicit or len(parameters) != len(found.digits):
            return False
        portals = names.portals
        if portals and (not block.explicit or ((old := portals.get("")) is not None and old.execution is not None)):
            return False
        plan = found.plan
        if plan.environment != self.plans.environment:
            return False
        if plan.utility is not None:
            done = plan.catalog_state is self.view().catalog_state and self._try_begin(plan, sink)
        elif not plan.is_fast:
            return False
        else:
            try:
                values = read_parameters(found, "", parameters, (), self.context) if parameters else ()
            except DatabaseError:
                return False
            done = self._try_run(plan, values, sink, announce=False)
        if done and portals:
            portals.pop("", None)
        return done

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
