"""What would have to go if functions went: views and functions that use them, defaults and CHECK conditions of tables.

Expressions of tables are stored as text, so those that mention a function's name are bound once more, with an eye on which
functions are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pydistdb.sql import bind
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.descriptors import Routine, Table
from pydistdb.sql.catalog.recording import RecordingView
from pydistdb.sql.errors import DatabaseError


class UsedIn(NamedTuple):
    """An expression of a table: ``kind`` default (of column ``number``), check or statistics (of that oid)."""

    table: Table
    kind: str
    number: int


def uses_of(ddl: DdlContext, routine: Routine) -> Iterator[UsedIn]:
    """The expressions of tables that call the routine."""
    for table in ddl.view.tables():
        for column in table.columns:
            if column.default is not None and not column.dropped and _calls(ddl, table, column.default, routine):
                yield UsedIn(table, "default", column.number)
        for check in table.checks:
            if _calls(ddl, table, check.expression, routine):
                yield UsedIn(table, "check", check.oid)
        for statistics in table.statistics_objects:
            if any(_calls(ddl, table, expression.text, routine) for expression in statistics.expressions):
                yield UsedIn(table, "statistics", statistics.oid)


def _calls(ddl: DdlContext, table: Table, text: str, routine: Routine) -> bool:
    if routine.name not in text:
        return False
    recording = RecordingView(ddl.view)
    try:
        bind.bind_expression(text, table, recording, ddl.context)
    except DatabaseError:
        return True
    return routine.oid in recording.routine_oids
