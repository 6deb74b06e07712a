"""SET CONSTRAINTS: which deferrable constraints wait for the commit, in this transaction.

Those made IMMEDIATE are checked at once for all that the transaction has done so far.

Source: PostgreSQL 15 manual, SET CONSTRAINTS; trigger.c (AfterTriggerSetState).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from pydistdb.kv import api as kv
from pydistdb.sql import statements as st
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.catalog.state_view import StateView
from pydistdb.sql.errors import DatabaseError, InvalidSchemaName, NoActiveTransaction, UndefinedObject, WrongObjectType
from pydistdb.sql.exec import check_deferred
from pydistdb.sql.exec.deferred import Check, DeferredChecks

if TYPE_CHECKING:
    from pydistdb.sql.session.base import SessionBase
    from pydistdb.sql.session.session import ClientSession

MAX_RESTARTS = 20


class _Mark(NamedTuple):
    checks: tuple[Check, ...]
    all: bool | None
    each: dict[int, bool]


class PendingChecks(DeferredChecks):
    """A session's deferred checks: they end with the transaction (transaction.Participant)."""

    __slots__ = ("_marks", "_session")

    def __init__(self, session: SessionBase) -> None:
        super().__init__()
        self._session = session
        self._marks: list[_Mark] = []

    def add(self, check: Check) -> None:
        self._session.transaction.join(self)
        super().add(check)

    def set_all(self, deferred: bool) -> None:
        self._session.transaction.join(self)
        super().set_all(deferred)

    def set_each(self, constraints: list[int], deferred: bool) -> None:
        self._session.transaction.join(self)
        super().set_each(constraints, deferred)

    async def run(self, checks: Iterable[Check]) -> None:
        """Run checks and forget them, on a newer snapshot where the one taken is too old."""
        due = list(checks)
        if not due:
            return
        transaction = self._session.transaction.open()
        for _ in range(MAX_RESTARTS):
            try:
                await check_deferred(due, self._session.run_context())
                break
            except kv.ReadRestart as restart:
                if transaction.isolation is not kv.Isolation.READ_COMMITTED:
                    raise
                transaction.begin_statement(restart.timestamp)
        else:
            raise kv.SerializationConflict("too many read restarts")
        for check in due:
            self.checks.pop(check, None)

    # ------------------------------------------------------------------------------------------ Participant

    def mark(self) -> int:
        self._marks.append(_Mark(tuple(self.checks), self.all, self.each))
        return len(self._marks)

    def rollback_to(self, mark: int) -> None:
        checks, self.all, self.each = self._marks[mark - 1] if mark else _Mark((), None, {})
        self.checks = dict.fromkeys(checks)
        del self._marks[mark:]

    async def before_commit(self) -> None:
        await self.run(self.checks)

    async def before_prepare(self) -> None:
        await self.run(self.checks)

    async def after_commit(self) -> None:
        pass

    def ended(self, committed: bool) -> None:
        self.checks = {}
        self.all, self.each = None, {}
        self._marks.clear()


async def set_constraints(
    session: ClientSession, utility: st.SetConstraints, warn: Callable[[DatabaseError], None]
) -> str:
    if not session.transaction.is_block:
        warn(NoActiveTransaction("SET CONSTRAINTS can only be used in transaction blocks"))
        if not session.transaction.in_block:
            return "SET CONSTRAINTS"
    pending = session.checks
    if utility.names is None:
        pending.set_all(utility.deferred)
    else:
        view = session.view()
        pending.set_each([oid for name in utility.names for oid in _constraints_named(view, name)], utility.deferred)
    if not utility.deferred and pending.checks:
        initially = {
            oid: deferred for table in session.view().tables() for _, oid, _, deferred in _all_constraints(table)
        }
        await pending.run(
            [
                check
                for check in pending.checks
                if not pending.is_deferred(check.constraint, initially.get(check.constraint, False))
            ]
        )
    return "SET CONSTRAINTS"


def _all_constraints(table: Table) -> Iterator[tuple[str, int, bool, bool]]:
    """(name, oid, deferrable, initially deferred) of a table's constraints."""
    for index in table.indexes:
        if index.constraint and index.oid:
            yield index.name, index.oid, index.deferrable, index.deferred
    for key in table.foreign_keys:
        yield key.name, key.oid, key.deferrable, key.deferred
    for check in table.checks:
        yield check.name, check.oid, False, False


def _constraints_named(view: StateView, name: st.Name) -> list[int]:
    """The constraints of that name in the first schema of the path that has any."""
    if name.schema is not None:
        schema = view.schema_named(name.schema)
        if schema is None:
            raise InvalidSchemaName(f'schema "{name.schema}" does not exist')
        schemas = [schema]
    else:
        named = [view.schema_named(each) for each in view.search_path]
        schemas = [schema for schema in named if schema is not None]
    for schema in schemas:
        found = [
            constraint
            for table in view.tables()
            if table.schema == schema.oid
            for constraint in _all_constraints(table)
            if constraint[0] == name.name
        ]
        for _, _, deferrable, _ in found:
            if not deferrable:
                raise WrongObjectType(f'constraint "{name.name}" is not deferrable')
        if found:
            return [oid for _, oid, _, _ in found]
    raise UndefinedObject(f'constraint "{name.name}" does not exist')
