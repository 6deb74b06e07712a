"""The hot path of a session: statements whose plan and whose answer are at hand, without a coroutine.

Every ``try_`` method answers False (or None) before it has done anything if something is missing: the plan, a fresh catalog,
the key.  The awaitable form then does it all.  A point select by Bind, Execute and Sync costs about 20 µs from here down.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydistdb.kv.api import Isolation, KVError, MustWait
from pydistdb.sql.api import Sink
from pydistdb.sql.exec import RunContext
from pydistdb.sql.plan_cache import CachedPlan
from pydistdb.sql.session.base import SessionBase
from pydistdb.sql.session.environment import now_us
from pydistdb.sql.session.execute import Row
from pydistdb.sql.session.statements import SessionPortal, read_parameters, result_formats


class FastSession(SessionBase):
    """See the module's introduction."""

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
        if rows is None or self.owed_sleep_ns:  # whatever sleeps is run again where it can wait
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
