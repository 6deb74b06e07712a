"""From a text to a plan, for one session: the cache first, then parse, bind, plan and compile.

``try_find`` is the hot path of the simple protocol: the plan by the exact text, or by the text's normalised form with
the literals as parameters.  ``find_single`` also makes the plan of a normalised text that is met for the first time;
if that fails for any reason, the text is planned as it stands, so that error positions are those of the client's
text.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from pydistdb.kv.api import KVError
from pydistdb.sql import bind
from pydistdb.sql.catalog.needs import denial
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.exec import compile_plan
from pydistdb.sql.plan import disabled_ways
from pydistdb.sql.plan import plan as make_plan
from pydistdb.sql.plan.expressions import rewrite_relation_expressions
from pydistdb.sql.plan.literals import literals_may_matter
from pydistdb.sql.plan.planner import PhysicalPlan
from pydistdb.sql.plan.rules.raise_failures import divides_literals
from pydistdb.sql.plan_cache import MAX_CACHED_TEXT_BYTES, CachedPlan
from pydistdb.sql.session.fields import fields_of, utility_fields
from pydistdb.sql.statements import Execute, Explain, Fetch, Utility
from pydistdb.sql.tree import BoundStatement, Const, Expr, Param
from pydistdb.sql.types.base import SqlType
from pydistdb.sql.types.domains import is_domain

if TYPE_CHECKING:
    from pydistdb.sql.session.base import SessionBase

Parameters = Sequence[Any]


class SessionPlans:
    """The plans of one session; ``environment`` is the number under which its settings share plans with others."""

    def __init__(self, session: SessionBase) -> None:
        self._session = session
        self._cache = session.environment.plans
        self.environment = 0
        self.disabled = disabled_ways({})
        """What the ``enable_`` settings rule out."""

    def environment_changed(self) -> None:
        """A setting has changed that may decide what a text means."""
        session = self._session
        values = session.settings.values
        self.disabled = disabled_ways(values)
        self.environment = self._cache.environment(
            session.database_name,
            session.identity.current_name if "$user" in values["search_path"] else "",
            session.search_path,
            session.temporary.schema_name,
            values["timezone"],
            values["datestyle"],
            values["intervalstyle"],
            session.identity.restricted,
            session.identity.current,
            self.disabled,
            values["plan_cache_mode"],
        )

    # ------------------------------------------------------------------------------------------ finding

    def try_find(self, text: str) -> tuple[CachedPlan, Parameters] | None:
        """A cached plan of a single statement and its parameters; no work is done for it beyond normalising."""
        state = self._session.view().catalog_state
        cache, environment = self._cache, self.environment
        if len(text) <= bind.MOST_TEXT:
            shape, integers = bind.split_integers(text)
            if integers:
                plan = cache.get((environment, shape), state)
                if plan is not None:
                    return plan, integers
        else:
            integers = []
        plan = cache.get((environment, text), state)
        if plan is not None:
            return plan, ()
        lifted = bind.normalize(text)
        if lifted is None:
            return None
        plan = cache.get((environment, None, lifted.key), state)
        if plan is None:
            return None
        if integers and bind.shape_decides(shape, integers, lifted):
            cache.put((environment, shape), plan)
        return self._with_values(plan, lifted.literals)

    def _with_values(self, plan: CachedPlan, literals: Sequence[Any]) -> tuple[CachedPlan, Parameters] | None:
        assert plan.normalized is not None
        values = plan.normalized.values(literals, self._session.context)
        return None if values is None else (plan, values)

    def find_single(self, text: str) -> tuple[CachedPlan, Parameters] | None:
        """The plan of a text if it is a single statement that may be cached."""
        found = self.try_find(text)
        if found is not None:
            return found
        if len(text) > MAX_CACHED_TEXT_BYTES or self._is_overlaid:
            return None
        lifted = bind.normalize(text)
        if lifted is None:
            return None
        view = self._session.view()
        if self._cache.is_literal((self.environment, lifted.key), view.catalog_state):
            return None
        normalized = bind.bind_normalized(lifted.key, view, self._session.context)
        if normalized is None:
            return None
        try:
            plan = self._compiled(text, None, normalized.statement, view, normalized)
        except DatabaseError:
            return None
        if plan.compiled is not None and _needs_literals(plan.compiled.plan, lifted.key):
            self._cache.note_literal((self.environment, lifted.key), view.catalog_state)
            return None
        self._cache.put((self.environment, None, lifted.key), plan)
        return self._with_values(plan, lifted.literals)

    def prepared(self, text: str, parameter_oids: tuple[int, ...]) -> CachedPlan | None:
        """A cached plan for a prepared statement."""
        return self._cache.get((self.environment, parameter_oids, text), self._session.view().catalog_state)

    # ------------------------------------------------------------------------------------------ making

    def plan(
        self, parsed: bind.ParsedStatement, parameter_oids: tuple[int, ...] | None = None, text: str | None = None
    ) -> CachedPlan:
        """Plan a parsed statement, and keep the plan under ``text`` if that holds nothing else."""
        if parameter_oids is None and parsed.is_query and "$" in parsed.text:
            bind.refuse_parameters(parsed)
        plan = self.make(parsed, parameter_oids or ())
        if isinstance(
            plan.utility, Execute | Fetch
        ):  # what it returns is a matter of the session's prepared statements and cursors
            return plan
        if text is not None and not self._is_overlaid:
            plan.text = text
            if parameter_oids is not None:
                self._cache.put((self.environment, parameter_oids, text), plan)
            elif not plan.parameter_oids:
                self._cache.put((self.environment, text), plan)
        return plan

    @property
    def _is_overlaid(self) -> bool:
        return self._session.view().overlaid

    def make(self, parsed: bind.ParsedStatement, parameter_oids: tuple[int, ...]) -> CachedPlan:
        """Bind, plan and compile."""
        session = self._session
        view = session.view()
        if parsed.name == "DeclareCursorStmt":
            return self._make_cursor(parsed, view, parameter_oids)
        outcome = bind.analyze(parsed, view, session.context, parameter_oids)
        if isinstance(outcome, Utility):
            return CachedPlan(
                parsed.text,
                parsed,
                self.environment,
                # What FETCH returns is a matter of the cursor, whose columns are looked up at every use.
                None if isinstance(outcome, Fetch) else view.catalog_state,
                utility=outcome,
                fields=utility_fields(outcome, session),
                parameter_types=self._explained_types(outcome, parameter_oids) if isinstance(outcome, Explain) else (),
            )
        plan = self._compiled(parsed.text, parsed, outcome, view, None)
        plan.declared_oids = _with_domains(plan.parameter_oids, parameter_oids)
        return plan

    def _explained_types(self, utility: Explain, parameter_oids: tuple[int, ...]) -> tuple[SqlType, ...]:
        """The parameters that EXPLAIN takes are those of the statement in it."""
        return self.explained(utility, parameter_oids).parameter_types if "$" in utility.query else ()

    def explained(self, utility: Explain, parameter_oids: tuple[int, ...]) -> CachedPlan:
        """The plan of the statement in EXPLAIN."""
        try:
            statements = bind.parse(utility.query)
            if len(statements) != 1:
                raise DatabaseError.of("42601", "EXPLAIN takes one statement")
            return self.make(statements[0], parameter_oids)
        except DatabaseError as error:
            if error.position is not None:
                error.position += utility.position
            raise

    def _make_cursor(
        self, parsed: bind.ParsedStatement, view: StateView, parameter_oids: tuple[int, ...]
    ) -> CachedPlan:
        """DECLARE with the plan of the cursor's query."""
        query = bind.analyze_cursor(parsed, view, self._session.context, parameter_oids)
        plan = self._compiled(parsed.text, parsed, query.bound, view, None)
        plan.fields = fields_of(query.shown)
        made = CachedPlan(
            parsed.text,
            parsed,
            self.environment,
            view.catalog_state,
            utility=query.utility,
            parameter_types=plan.parameter_types,
            cursor=(query, plan),
        )
        made.declared_oids = plan.declared_oids = _with_domains(plan.parameter_oids, parameter_oids)
        return made

    def _compiled(
        self,
        text: str,
        parsed: bind.ParsedStatement | None,
        bound: BoundStatement,
        view: StateView,
        normalized: bind.Normalized | None,
    ) -> CachedPlan:
        compiled = compile_plan(make_plan(bound, view, self.disabled))
        changed = compiled.plan.changed_table
        counters = self._session.environment.statistics.changes
        plan = CachedPlan(
            text,
            parsed,
            self.environment,
            view.catalog_state,
            bound=bound,
            compiled=compiled,
            changes=None if changed is None else counters.of(changed.oid),
            denied=denial(bound.needs, view),
            fields=fields_of(bound),
            parameter_types=bound.parameter_types,
            normalized=normalized,
        )
        mode = self._session.settings.values["plan_cache_mode"]
        plan.gains_by_values &= mode == "force_custom_plan" or (
            mode == "auto" and literals_may_matter(compiled.plan.relations)
        )
        return plan

    def for_values(self, plan: CachedPlan, parameters: Parameters) -> CachedPlan:
        """The plan for these very values of its parameters, where it is worth making one."""
        return self.with_constants(plan, parameters) if plan.gains_by_values else plan

    def with_constants(self, plan: CachedPlan, parameters: Parameters) -> CachedPlan:
        """The plan with the values of its parameters in their places."""
        if plan.bound is None:
            return plan

        def with_value(part: Expr) -> Expr:
            return Const(part.type, parameters[part.index]) if isinstance(part, Param) else part

        query = rewrite_relation_expressions(plan.bound.query, with_value)
        made = copy.copy(plan)
        made.compiled = compile_plan(make_plan(replace(plan.bound, query=query), self._session.view(), self.disabled))
        made.gains_by_values = False
        return made

    def empty(self, text: str) -> CachedPlan:
        """The plan of a text without a statement."""
        return CachedPlan(text, None, self.environment, None)

    async def renew(self, plan: CachedPlan) -> CachedPlan:
        """The same statement, planned for the catalog and the settings of now."""
        session = self._session
        if (
            plan.normalized is not None
        ):  # the same text is planned with its own literals: parameters must keep their types
            return self._renew_normalized(plan, session.query)
        if plan.parsed is None:
            return plan
        if plan.bound is not None and plan.parsed.name == "DeclareCursorStmt":
            made = self.make(plan.parsed, plan.declared_oids).cursor
            assert made is not None
            return made[1]
        found = self.prepared(plan.text, plan.declared_oids)
        if found is not None:
            return found
        try:
            return self.plan(plan.parsed, plan.declared_oids, plan.text)
        except KVError as error:
            raise session.explain_error(error) from error

    def _renew_normalized(self, plan: CachedPlan, text: str) -> CachedPlan:
        """The plan of ``text`` with parameters of the same types, or with its own literals and none."""
        session = self._session
        lifted = bind.normalize(text)
        view = session.view()
        normalized = None if lifted is None else bind.bind_normalized(lifted.key, view, session.context)
        if normalized is not None and normalized.statement.parameter_types == plan.parameter_types:
            renewed = self._compiled(text, None, normalized.statement, view, normalized)
            if renewed.compiled is None or not _needs_literals(renewed.compiled.plan, text):
                return renewed
        (parsed,) = bind.parse(text)
        return self.make(parsed, ())


def _with_domains(oids: tuple[int, ...], declared: tuple[int, ...]) -> tuple[int, ...]:
    """The types of parameters, but the domains that they were declared as."""
    if not any(map(is_domain, declared)):
        return oids
    return tuple(domain if is_domain(domain) else oid for oid, domain in zip_longest(oids, declared, fillvalue=0))


def _needs_literals(plan: PhysicalPlan, text: str) -> bool:
    """Whether a plan for any literals will not do: another may be better for some, or they fail by themselves (1 / 0)."""
    divides = ("/" in text or "%" in text) and divides_literals(plan.statement.query)
    return divides or literals_may_matter(plan.relations)
