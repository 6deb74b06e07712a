"""Constraint checks that wait: for the end of the statement, for SET CONSTRAINTS … IMMEDIATE, or for the commit.

A deferrable constraint is never checked as rows are written.  The statement notes what is to be looked at, and at its end
either checks it or, where the constraint is deferred at the time, hands it to the transaction's ``DeferredChecks``::

    BEGIN
    INSERT INTO child VALUES (7)        ChildCheck(child_fkey, row, (7,)) is kept
    INSERT INTO parent VALUES (7)
    COMMIT                              … and run: the parent is there

What is looked at is the state at the time of the check, not the row as it was written: a row that has gone, or refers
elsewhere by now, has nothing to answer for.

Source: PostgreSQL 15 manual, SET CONSTRAINTS; trigger.c (afterTriggers), ri_triggers.c, unique_key_recheck.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pydistdb.sql.errors import ProgramLimitExceeded

MOST_CHECKS = 1_000_000
"""Checks that one transaction may owe."""


class UniqueCheck(NamedTuple):
    """No two rows may have this key; ``key`` is what their entries in the index start with."""

    constraint: int
    table: int
    storage_id: int
    key: bytes
    values: tuple[Any, ...]


class ChildCheck(NamedTuple):
    """The row at ``row_key`` refers to a parent with these values (if it still does)."""

    constraint: int
    table: int
    row_key: bytes
    values: tuple[Any, ...]


class ParentCheck(NamedTuple):
    """No row of ``child`` may refer to these values unless there is a parent with them again."""

    constraint: int
    table: int
    child: int
    values: tuple[Any, ...]


Check = UniqueCheck | ChildCheck | ParentCheck


class DeferredChecks:
    """What one transaction has still to check, and which constraints it has deferred."""

    __slots__ = ("all", "checks", "each")

    def __init__(self) -> None:
        self.checks: dict[Check, None] = {}
        """In the order in which they came up."""
        self.all: bool | None = None
        """SET CONSTRAINTS ALL: deferred or immediate."""
        self.each: dict[int, bool] = {}
        """SET CONSTRAINTS of single ones since, by oid."""

    def is_deferred(self, constraint: int, initially: bool) -> bool:
        """Tell whether a deferrable constraint's checks wait at present."""
        deferred = self.each.get(constraint, self.all)
        return initially if deferred is None else deferred

    def add(self, check: Check) -> None:
        if len(self.checks) >= MOST_CHECKS:
            raise ProgramLimitExceeded(
                f"a transaction can defer at most {MOST_CHECKS} constraint checks",
                hint="Use SET CONSTRAINTS ALL IMMEDIATE from time to time.",
            )
        self.checks[check] = None

    def set_all(self, deferred: bool) -> None:
        self.all = deferred
        self.each = {}

    def set_each(self, constraints: list[int], deferred: bool) -> None:
        self.each = {**self.each, **dict.fromkeys(constraints, deferred)}

    def concerns(self, table: int) -> bool:
        """Tell whether checks of the table are pending."""
        return any(check.table == table for check in self.checks)
