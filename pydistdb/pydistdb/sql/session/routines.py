"""Running functions written in SQL: every statement of the body, within the statement that calls.

The body is bound and planned once per state of the catalog and set of settings.  Its statements see the snapshot of the
calling statement and everything the transaction has written so far; their tables are pinned as those of any statement.
Rows that the caller reads afterwards may include what the body wrote, so callers read all their input before the first
call of a VOLATILE function (exec/apply.py).

    SELECT fact(3)  ->  rows(fact, (3,))  ->  SELECT CASE … $1 * fact($1 - 1) END  ->  rows(fact, (2,))  -> …

The statements run with the privileges of whoever calls, or of the function's owner if it is SECURITY DEFINER: then with
an evaluation context of its own, in which current_user is the owner.

Calls may nest ``MOST_NESTED`` deep (54001).
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydistdb.sql.bind.overloads import for_types
from pydistdb.sql.bind.parse import stack_depth_exceeded
from pydistdb.sql.bind.routines import bind_body
from pydistdb.sql.catalog.needs import denial
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.exec import CompiledQuery, RunContext, compile_plan
from pydistdb.sql.plan import plan as make_plan
from pydistdb.sql.routines import VOID_OID, RoutineFunction
from pydistdb.sql.settings import split_identifiers
from pydistdb.sql.tree import BoundStatement
from pydistdb.sql.types.base import EvalContext

if TYPE_CHECKING:
    from pydistdb.sql.session.base import SessionBase

Row = tuple[Any, ...]

MOST_NESTED = 100
MOST_BODIES = 256
FRAMES_PER_CALL = 60
"""Python frames that a nested call may need: the interpreter's own limit must lie above ours."""


class _Statement:
    __slots__ = ("bound", "compiled", "denied", "writes")

    def __init__(self, bound: BoundStatement, compiled: CompiledQuery, denied: DatabaseError | None) -> None:
        self.bound = bound
        self.denied = denied
        self.compiled = compiled
        self.writes = compiled.plan.changed_table is not None


class _Body:
    """A body made ready for one state of the catalog."""

    __slots__ = ("catalog_state", "environment", "statements", "tables", "writes")

    def __init__(self, catalog_state: object, environment: int, statements: list[_Statement]) -> None:
        self.catalog_state = catalog_state
        self.environment = environment
        self.statements = statements
        self.tables: frozenset[int] = frozenset().union(*(s.bound.tables for s in statements))
        self.writes = any(s.writes for s in statements)


class RoutineRunner:
    """One session's runner; see the module's docstring."""

    def __init__(self, session: SessionBase) -> None:
        self._session = session
        self._bodies: dict[tuple[int, int, str, tuple[object, ...]], _Body] = {}
        """By function, acting role, search_path and RoutineFunction.variant."""
        self._paths: dict[tuple[int, str], tuple[StateView, StateView]] = {}
        """Views along another search_path than the session's, with the view that each was made of."""
        self._depth = 0

    async def rows(
        self, function: RoutineFunction, values: Sequence[Any], run: RunContext, *, top_level: bool = False
    ) -> AsyncIterator[list[Row]]:
        """Run the body; yields what its last statement returns.

        ``top_level``: a CALL, whose statements take snapshots of their own."""
        if self._depth >= MOST_NESTED:
            raise stack_depth_exceeded()
        if self._depth == 1:
            sys.setrecursionlimit(max(sys.getrecursionlimit(), 1_000 + MOST_NESTED * FRAMES_PER_CALL))
        self._depth += 1
        number = 0
        try:
            context = self._acting(function, run)
            body = await self._pinned(function, context)
            for number, statement in enumerate(body.statements, 1):
                if statement.denied is not None:
                    raise statement.denied.again()
                if statement.writes:
                    self._session.transaction.check_writable(statement.bound.tag)
                if top_level and number > 1 and run.transaction is not None:
                    run.transaction.begin_statement(self._session.transaction.least_timestamp)
                batches = statement.compiled.run(self._context(run, context, values))
                if number < len(body.statements) or function.routine.return_type == VOID_OID:
                    async for _ in batches:
                        pass
                else:
                    async for batch in batches:
                        yield batch
        except DatabaseError as error:
            if error.where is None:
                where = f" statement {number}" if number else " during startup"
                error.where = f'SQL function "{function.name}"{where}'
            raise
        finally:
            self._depth -= 1

    def _acting(self, function: RoutineFunction, run: RunContext) -> EvalContext:
        """The evaluation context of whoever the function's statements act for."""
        routine = function.routine
        acts_as_owner = routine.security_definer and routine.owner != run.context.role
        if not acts_as_owner and routine.search_path is None:
            return run.context
        context = copy(run.context)
        if acts_as_owner:
            context.role = routine.owner
            context.user = self._session.view().catalog_state.roles.name_of(routine.owner)
        if routine.search_path is not None:
            context.settings = {**context.settings, "search_path": routine.search_path}
        context.catalog = self._view(context)
        return context

    def _view(self, context: EvalContext) -> StateView:
        """The catalog as the acting role sees it, along the search_path of the innermost function that sets it."""
        session = self._session
        view = session.view_of_role(context.role)
        own = session.settings.values["search_path"]
        text = context.settings.get("search_path", own)
        if text == own:
            return view
        known = self._paths.get((context.role, text))
        if known is None or known[0] is not view:
            names = split_identifiers("search_path", text)
            made = view.with_path([context.user if name == "$user" else name for name in names])
            if len(self._paths) >= MOST_BODIES:
                self._paths.clear()
            known = self._paths[context.role, text] = view, made
        return known[1]

    def _context(self, run: RunContext, context: EvalContext, values: Sequence[Any]) -> RunContext:
        view = self._view(context)
        return RunContext(run.transaction, run.database, view, context, values, run.scheduler, run.check_interrupt)

    async def _pinned(self, function: RoutineFunction, context: EvalContext) -> _Body:
        """The body, with its tables kept from changing until the transaction ends."""
        session = self._session
        gate = session.environment.catalog.gate
        transaction = session.transaction.open()
        while True:
            body = self._prepared(function, context)
            if not gate.try_enter(transaction, body.tables, body.writes):
                await gate.enter(transaction, body.tables, body.writes, session.lock_deadline_ns())
            if body.catalog_state is session.view().catalog_state:
                block = session.transaction
                if block.reader is not None:
                    await block.past.check_body(session.environment.catalog, block.reader, body.tables)
                return body

    def _prepared(self, function: RoutineFunction, context: EvalContext) -> _Body:
        session = self._session
        view = self._view(context)
        key = function.oid, context.role, context.settings.get("search_path", ""), function.variant
        body = self._bodies.get(key)
        if (
            body is None
            or body.catalog_state is not view.catalog_state
            or body.environment != session.plans.environment
        ):
            routine = view.routine_by_oid(function.oid)
            if routine is not None:
                fresh = for_types(view.function_of(routine), function.actual_oids)
                listed = function.listed
                function = replace(fresh, out_columns=function.out_columns, listed=True) if listed else fresh
            bound = bind_body(function, view, context)
            statements = [
                _Statement(each, compile_plan(make_plan(each, view, session.plans.disabled)), denial(each.needs, view))
                for each in bound
            ]
            body = _Body(view.catalog_state, session.plans.environment, statements)
            if len(self._bodies) >= MOST_BODIES:
                self._bodies.clear()
            self._bodies[key] = body
        return body
