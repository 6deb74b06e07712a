"""SQL cursors: DECLARE, FETCH, MOVE, CLOSE, WHERE CURRENT OF, and what becomes of them when transactions end.

Theory of operation
-------------------
A cursor is a query taken in pieces (``PiecemealExecution``), and a position in its rows: 0 before the first, n on the nth,
one more than there are rows after the last.  Batches come from the query as they are needed.  A cursor that may go back
keeps what it has read, up to work_mem in memory and the rest in a temporary file; a NO SCROLL cursor keeps one batch::

    DECLARE c SCROLL CURSOR FOR SELECT …      snapshot taken, nothing read
    FETCH 2 FROM c                            rows 1, 2       position 2    one batch read and kept
    FETCH PRIOR FROM c                        row 1           position 1
    FETCH LAST FROM c                         row n           position n    everything read and kept

The snapshot is the one of DECLARE: whatever the transaction writes later is not seen, so every cursor is insensitive, as
in Postgres.  A query with FOR UPDATE locks its rows at the first FETCH, all at once.

WITH HOLD: the commit of the transaction that declared the cursor reads it to its end, and the rows stay.  Other cursors
end with their transaction; ROLLBACK TO SAVEPOINT closes those declared after the savepoint, and leaves the position of
the others where it is.

One cursor's rows and movements are in cursor.py.

Source: PostgreSQL 15 manual, pages DECLARE, FETCH, MOVE, CLOSE and 43.7; SQL:2016 part 2, 14.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pydistdb.sql.api import Field, Sink
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.errors import DatabaseError, FeatureNotSupported, InvalidCursorName, ProgramLimitExceeded
from pydistdb.sql.session.cursor import Cursor
from pydistdb.sql.session.execute import PiecemealExecution
from pydistdb.sql.statements import DeclareCursor

if TYPE_CHECKING:
    from pydistdb.sql.plan_cache import CachedPlan
    from pydistdb.sql.session.base import SessionBase

MAX_CURSORS = 1_000


async def open_piecemeal(session: SessionBase, plan: CachedPlan, parameters: Sequence[Any]) -> PiecemealExecution:
    """A query whose rows the client takes in pieces."""
    execution = PiecemealExecution(session, plan, parameters)
    await execution.open(locks=bool(plan.writing_tag))
    return execution


async def fetch_rows(cursor: Cursor, direction: str, count: int | None, sink: Sink) -> int:
    """Send what FETCH gives; returns how many rows."""
    sent = 0
    async for batch in cursor.fetch(direction, count):
        sent += len(batch)
        sink.rows(cursor.shown(batch))
        await sink.drain()
    return sent


class SessionCursors:
    """The cursors of a session, by name (transaction.Participant)."""

    def __init__(self, session: SessionBase) -> None:
        self._session = session
        self._cursors: dict[str, Cursor] = {}
        self._made = 0

    def __iter__(self) -> Iterator[Cursor]:
        return iter(self._cursors.values())

    def __contains__(self, name: object) -> bool:
        return name in self._cursors

    def get(self, name: str) -> Cursor | None:
        return self._cursors.get(name)

    async def find(self, name: str) -> Cursor:
        """A cursor, or the protocol's portal of this name made one; raises 34000."""
        cursor = self._cursors.get(name) or await self._adopt(name)
        if cursor is None:
            raise InvalidCursorName(f'cursor "{name}" does not exist')
        return cursor

    def fields(self, name: str) -> tuple[Field, ...] | None:
        cursor = self._cursors.get(name)
        if cursor is not None:
            return cursor.fields
        portal = self._session.names.portals.get(name)
        return None if portal is None else portal.fields

    def current_key(self, name: str, table: Table) -> bytes:
        cursor = self._cursors.get(name)
        if cursor is None:
            raise InvalidCursorName(f'cursor "{name}" does not exist')
        return cursor.current_key(table)

    @property
    def tables(self) -> frozenset[int]:
        """The tables that cursors read."""
        return frozenset().union(*(cursor.tables for cursor in self._cursors.values()))

    # ------------------------------------------------------------------------------------------ making

    async def declare(self, utility: DeclareCursor, text: str, plan: CachedPlan, parameters: Sequence[Any]) -> None:
        names = self._session.names
        if utility.name in self._cursors or utility.name in names.portals:
            raise DatabaseError.of("42P03", f'cursor "{utility.name}" already exists')
        if len(self._cursors) >= MAX_CURSORS:
            raise ProgramLimitExceeded(f"a session can have at most {MAX_CURSORS} cursors")
        assert plan.cursor is not None
        query, inner = plan.cursor
        if inner.denied is not None:
            raise inner.denied.again()
        if inner.writing_tag:
            self._session.transaction.check_writable(inner.writing_tag)
        scrolls = query.scrolls if utility.scroll is None else utility.scroll
        execution = PiecemealExecution(self._session, inner, parameters)
        cursor = Cursor(utility.name, text, inner, execution, scrolls)
        cursor.is_binary = utility.binary
        cursor.result_formats = (int(utility.binary),) * len(cursor.result_formats)
        cursor.is_holdable = utility.hold
        cursor.keys = query.keys
        cursor.locks = query.locks
        self._enter(cursor)
        try:
            await cursor.open()
        except BaseException:
            del self._cursors[utility.name]
            raise

    async def _adopt(self, name: str) -> Cursor | None:
        """Make a cursor of a portal of the extended protocol: both share one space of names."""
        portal = self._session.names.portals.get(name)
        if portal is None or portal.plan.compiled is None or portal.plan.fields is None or portal.done:
            return None
        execution = portal.execution
        if execution is None and not portal.plan.writes:
            execution = await open_piecemeal(self._session, portal.plan, portal.parameters)
        if not isinstance(execution, PiecemealExecution):
            return None
        cursor = Cursor(name, portal.statement.text, portal.plan, execution, scrolls=False)
        cursor.result_formats = portal.result_formats
        cursor.adopt_position(execution.rows_sent)
        del self._session.names.portals[name]
        self._enter(cursor)
        return cursor

    def _enter(self, cursor: Cursor) -> None:
        self._made += 1
        cursor.number = self._made
        self._cursors[cursor.name] = cursor
        self._session.transaction.join(self)

    # ------------------------------------------------------------------------------------------ ends

    async def close(self, name: str) -> None:
        cursor = self._cursors.pop(name, None)
        if cursor is None:
            raise InvalidCursorName(f'cursor "{name}" does not exist')
        await cursor.close()

    async def close_all(self) -> None:
        for name in list(self._cursors):
            await self.close(name)

    def _drop(self, cursor: Cursor) -> None:
        del self._cursors[cursor.name]
        self._session.environment.scheduler.spawn(cursor.close(), "close cursor")

    def mark(self) -> int:
        return self._made

    def rollback_to(self, mark: int) -> None:
        """Close the cursors of this transaction that were made after the savepoint."""
        for cursor in list(self._cursors.values()):
            if cursor.number > mark and not cursor.is_held:
                self._drop(cursor)

    async def before_commit(self) -> None:
        for cursor in list(self._cursors.values()):
            if cursor.is_holdable and not cursor.is_held:
                await cursor.persist()

    async def before_prepare(self) -> None:
        if any(cursor.is_holdable and not cursor.is_held for cursor in self._cursors.values()):
            raise FeatureNotSupported("cannot PREPARE a transaction that has created a cursor WITH HOLD")

    async def after_commit(self) -> None:
        pass

    def ended(self, committed: bool) -> None:
        for cursor in list(self._cursors.values()):
            if not cursor.is_held:
                self._drop(cursor)
