"""From a text to a plan, for one session: the cache first, then parse, bind, plan and compile.

``try_find`` is the hot path of the simple protocol: the plan by the exact text, or by the text's normalised form with
the literals as parameters.  ``find_single`` also makes the plan of a normalised text that is met for the first time;
if that fails for any reason, the text is planned as it stands, so that error positions are those of the client's
text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydistdb.kv.api import KVError
from pydistdb.sql import bind
from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.exec import compile_plan
from pydistdb.sql.plan import plan as make_plan
from pydistdb.sql.plan_cache import MAX_CACHED_TEXT_BYTES, CachedPlan
from pydistdb.sql.session_fields import fields_of, utility_fields
from pydistdb.sql.statements import Execute, Utility

if TYPE_CHECKING:
    from pydistdb.sql.session import ClientSession

Parameters = tuple[Any, ...]


class SessionPlans:
    """The plans of one session; ``environment`` is the number under which its settings share plans with others."""

    def __init__(self, session: ClientSession) -> None:
        self._session = session
        self._cache = session.environment.plans
        self.environment = 0

    def environment_changed(self) -> None:
        """A setting has changed that may decide what a text means."""
        session = self._session
        values = session.settings.values
        self.environment = self._cache.environment(
            session.database_name,
            session.user if "$user" in values["search_path"] else "",
            session.search_path,
            values["timezone"],
            values["datestyle"],
            values["intervalstyle"],
        )

    # ------------------------------------------------------------------------------------------ finding

    def try_find(self, text: str) -> tuple[CachedPlan, Parameters] | None:
        """A cached plan of a single statement and its parameters; no work is done for it beyond normalising."""
        state = self._session.view().catalog_state
        plan = self._cache.get((self.environment, text), state)
        if plan is not None:
            return plan, ()
        if len(text) > MAX_CACHED_TEXT_BYTES:
            return None
        normalized = bind.normalize(text)
        if normalized is None:
            return None
        plan = self._cache.get((self.environment, None, normalized.key), state)
        return None if plan is None else (plan, normalized.values)

    def find_single(self, text: str) -> tuple[CachedPlan, Parameters] | None:
        """The plan of a text if it is a single statement that may be cached."""
        found = self.try_find(text)
        if found is not None:
            return found
        if len(text) > MAX_CACHED_TEXT_BYTES or self._is_overlaid:
            return None
        normalized = bind.normalize(text)
        if normalized is None:
            return None
        try:
            statements = bind.parse(normalized.text)
            if len(statements) != 1 or not statements[0].is_query:
                return None
            plan = self.make(statements[0], normalized.oids)
        except DatabaseError:
            return None
        if plan.parameter_oids != normalized.oids:
            return None
        self._cache.put((self.environment, None, normalized.key), plan)
        return plan, normalized.values

    def prepared(self, text: str, parameter_oids: tuple[int, ...]) -> CachedPlan | None:
        """A cached plan for a prepared statement."""
        return self._cache.get((self.environment, parameter_oids, text), self._session.view().catalog_state)

    # ------------------------------------------------------------------------------------------ making

    def plan(self, parsed: bind.ParsedStatement, parameter_oids: tuple[int, ...] | None = None) -> CachedPlan:
        """Plan a parsed statement and keep the plan (under its text, if it is all of the text)."""
        plan = self.make(parsed, parameter_oids or ())
        if isinstance(plan.utility, Execute):  # what it returns is a matter of the session's prepared statements
            return plan
        if not self._is_overlaid and parsed.position == 0 and parsed.text == parsed.source:
            if parameter_oids is not None:
                self._cache.put((self.environment, parameter_oids, parsed.text), plan)
            elif not plan.parameter_oids:
                self._cache.put((self.environment, parsed.text), plan)
        return plan

    @property
    def _is_overlaid(self) -> bool:
        return self._session.view().overlaid

    def make(self, parsed: bind.ParsedStatement, parameter_oids: tuple[int, ...]) -> CachedPlan:
        """Bind, plan and compile."""
        session = self._session
        view = session.view()
        outcome = bind.analyze(parsed, view, session.context, parameter_oids)
        if isinstance(outcome, Utility):
            return CachedPlan(
                parsed.text,
                parsed,
                self.environment,
                view.catalog_state,
                utility=outcome,
                fields=utility_fields(outcome, session),
            )
        compiled = compile_plan(make_plan(outcome, view))
        return CachedPlan(
            parsed.text,
            parsed,
            self.environment,
            view.catalog_state,
            bound=outcome,
            compiled=compiled,
            fields=fields_of(outcome),
            parameter_types=outcome.parameter_types,
        )

    def empty(self, text: str) -> CachedPlan:
        """The plan of a text without a statement."""
        return CachedPlan(text, None, self.environment, None)

    async def renew(self, plan: CachedPlan) -> CachedPlan:
        """The same statement, planned for the catalog and the settings of now."""
        if plan.parsed is None:
            return plan
        found = self.prepared(plan.text, plan.parameter_oids)
        if found is not None:
            return found
        try:
            return self.plan(plan.parsed, plan.parameter_oids)
        except KVError as error:
            raise self._session.explain_error(error) from error
