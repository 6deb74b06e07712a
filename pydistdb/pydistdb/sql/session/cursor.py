"""One cursor: a query taken in pieces, and a position in its rows (see cursors.py for the whole).

The position is 0 before the first row, n on the nth, and one more than there are rows after the last.  ``_Rows`` reads the
query's batches as far as they are asked for, and keeps them if the cursor may go back: in memory up to work_mem, then in a
temporary file.

How FETCH's directions move (steps of ``Cursor.fetch``) is Postgres's pquery.c, DoPortalRunFetch: for example, ABSOLUTE
rewinds and goes forward if the goal lies in the first half of what has been passed, which a NO SCROLL cursor refuses.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from pydistdb.sql.api import Field
from pydistdb.sql.catalog.descriptors import Table
from pydistdb.sql.clock import now_us
from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.exec.memory import Holding
from pydistdb.sql.exec.run import query_resources, work_memory_bytes
from pydistdb.sql.exec.spill import RowBuffer
from pydistdb.sql.plan.expressions import all_relations
from pydistdb.sql.plan.physical import IncrementalSort, TopN
from pydistdb.sql.resources import QueryResources
from pydistdb.sql.session.execute import PiecemealExecution, Row
from pydistdb.sql.tree import Sort

if TYPE_CHECKING:
    from pydistdb.sql.plan_cache import CachedPlan

FORWARD_ONLY_HINT = "Declare it with SCROLL option to enable backward scan."


class _Rows:
    """The rows of a query by number, from 1, read as far as asked for; ``keep``: all of them, else the newest batch."""

    def __init__(self, execution: PiecemealExecution, keep: bool) -> None:
        self._execution = execution
        self._buffer: RowBuffer | None = None
        self._resources: QueryResources | None = None
        """What the buffer holds: the query's own end with it."""
        self._starts: list[int] = []
        """The number of the first row of every batch in the buffer."""
        self._first = 1
        self._batch: list[Row] = []
        """The batch looked at last, and where it starts."""
        self.count = 0
        self.complete = False
        if keep:
            self.keep()

    @property
    def keeps(self) -> bool:
        return self._buffer is not None

    def keep(self) -> None:
        """From the batch at hand on, keep every row."""
        compiled = self._execution.plan.compiled
        assert compiled is not None
        context = self._execution.session.context
        self._resources = query_resources(context)
        self._buffer = RowBuffer(lambda: compiled.root.codec, Holding(self._resources, work_memory_bytes(context)))
        if self._batch:
            self._append(self._first, self._batch)

    def _append(self, first: int, batch: list[Row]) -> None:
        buffer = self._buffer
        assert buffer is not None
        buffer.append(batch)
        self._starts.append(first)

    async def _read(self) -> None:
        batch = await self._execution.next_batch()
        if batch is None:
            self.complete = True
            return
        self._first, self._batch = self.count + 1, batch
        self.count += len(batch)
        if self._buffer is not None:
            self._append(self._first, batch)

    async def read_all(self) -> None:
        while not self.complete:
            await self._read()

    async def around(self, number: int) -> tuple[int, list[Row]] | None:
        """The batch that holds a row, and the number of its first one; None past the end."""
        while number > self.count:
            if self.complete:
                return None
            await self._read()
        if not self._first <= number < self._first + len(self._batch):
            assert self._buffer is not None, "a forward-only cursor does not go back"
            position = bisect_right(self._starts, number) - 1
            self._first, self._batch = self._starts[position], self._buffer.batch(position)
        return self._first, self._batch

    async def close(self) -> None:
        self._buffer = None
        self._batch = []
        if self._resources is not None:
            self._resources.close()
        await self._execution.close()


class Cursor:
    """A named query and a position in it (api.Portal)."""

    def __init__(self, name: str, text: str, plan: CachedPlan, execution: PiecemealExecution, scrolls: bool) -> None:
        self.name = name
        self.text = text
        self.plan = plan
        assert plan.fields is not None
        self.fields: tuple[Field, ...] | None = plan.fields
        self.result_formats: tuple[int, ...] = (0,) * len(plan.fields)
        self.takes_copy_data = False
        self.scrolls = scrolls
        self.is_binary = False
        self.is_holdable = False
        self.is_held = False
        """Its transaction is over."""
        self.has_failed = False
        self.keys: tuple[tuple[int, int], ...] = ()
        self.locks = False
        self.created_us = now_us()
        self.number = 0
        """Counts the cursors of a session."""
        self.position = 0
        self.current: Row | None = None
        self._execution = execution
        self._rows = _Rows(execution, scrolls)
        self._width = len(plan.fields)

    @property
    def tables(self) -> frozenset[int]:
        """What it reads, as long as it does."""
        return frozenset() if self.is_held else self.plan.tables

    def adopt_position(self, rows: int) -> None:
        """Rows that were taken before it became a cursor."""
        self.position = self._rows.count = rows

    async def open(self) -> None:
        """Take the snapshot; read everything if that is the only way to keep it."""
        await self._execution.open(locks=self.locks)
        if self._execution.must_run_now:
            await self.read_all()

    async def read_all(self) -> None:
        """Read to the end and keep it, from the position on or, if it may go back, from the start."""
        if not self._rows.keeps:
            self._rows.keep()
        await self._rows.read_all()

    async def persist(self) -> None:
        """WITH HOLD, at commit."""
        if not self.has_failed:
            await self.read_all()
        self.is_held = True

    async def close(self) -> None:
        await self._rows.close()

    # ------------------------------------------------------------------------------------------ moving

    async def fetch(self, direction: str, count: int | None) -> AsyncIterator[list[Row]]:
        """Move as FETCH or MOVE says; yields the rows passed by the last step, in the order in which they come up.

        ``count`` None: ALL."""
        self._check_runs()
        try:
            async for batch in self._fetch(direction, count):
                yield batch
        except DatabaseError:
            self.has_failed = True
            raise

    async def _fetch(self, direction: str, count: int | None) -> AsyncIterator[list[Row]]:
        if direction == "absolute":
            count = await self._before_absolute(count or 0)
            direction = "forward"
            if count < 0:
                direction, count = "backward", 1
        elif direction == "relative" and count:
            step = "forward" if count > 0 else "backward"
            await self._skip(step, abs(count) - 1)
            direction, count = step, 1
        if count is not None and count < 0:
            direction, count = {"forward": "backward", "backward": "forward"}[direction], -count
        if direction == "relative" or count == 0:
            direction = "backward" if direction == "backward" else "forward"
            count = 0
            if self.current is not None:  # it comes again
                await self._skip("backward", 1)
                direction, count = "forward", 1
        async for batch in self._go(direction, count):
            yield batch

    async def _before_absolute(self, count: int) -> int:
        """Go next to the row; what is left to do: 1 forward, -1 backward, 0 nothing."""
        if count > 0:
            if count - 1 <= self._passed // 2:
                self._rewind()
                await self._skip("forward", count - 1)
            elif count <= self.position:
                await self._skip("backward", self.position - count + 1)
            else:
                await self._skip("forward", count - self.position - 1)
            return 1
        if count < 0:
            await self._skip("forward", None)
            await self._skip("backward", -count - 1)
            return -1
        self._rewind()
        self.current = None
        return 0

    @property
    def _passed(self) -> int:
        """How many rows lie before or at the position."""
        return min(self.position, self._rows.count)

    async def move(self, direction: str, count: int | None) -> int:
        """MOVE: how many rows FETCH would give."""
        self._check_runs()
        if count == 0 and direction in ("forward", "backward", "relative"):
            return int(self.current is not None)
        if direction == "backward" and count is None:
            passed = max(self.position - 1, 0)
            self._rewind()
            return passed
        moved = 0
        async for batch in self.fetch(direction, count):
            moved += len(batch)
        return moved

    async def _skip(self, direction: str, count: int | None) -> None:
        async for _ in self._go(direction, count):
            pass

    def _rewind(self) -> None:
        if self.position:
            self._check_scrolls()
        self.position = 0
        self.current = None

    def _check_runs(self) -> None:
        if self.has_failed:
            raise DatabaseError.of("55000", f'portal "{self.name}" cannot be run')

    def _check_scrolls(self) -> None:
        if not self.scrolls:
            raise DatabaseError.of("55000", "cursor can only scan forward", hint=FORWARD_ONLY_HINT)

    async def _go(self, direction: str, count: int | None) -> AsyncIterator[list[Row]]:
        if direction == "forward":
            async for batch in self._go_forward(count):
                yield batch
        else:
            self._check_scrolls()
            async for batch in self._go_backward(count):
                yield batch

    async def _go_forward(self, count: int | None) -> AsyncIterator[list[Row]]:
        left = -1 if count is None else count
        while left:
            found = None if self.position > self._rows.count else await self._rows.around(self.position + 1)
            if found is None:
                self.position = self._rows.count + 1
                self.current = None
                return
            first, batch = found
            start = self.position + 1 - first
            part = batch[start:] if left < 0 else batch[start : start + left]
            left -= len(part) if left > 0 else 0
            self.position += len(part)
            self.current = part[-1]
            yield part

    async def _go_backward(self, count: int | None) -> AsyncIterator[list[Row]]:
        left = self.position if count is None else count
        while left and self.position > 1:
            found = await self._rows.around(self.position - 1)
            assert found is not None
            first, batch = found
            part = batch[: self.position - first][-left:]
            part.reverse()
            left -= len(part)
            self.position -= len(part)
            self.current = part[-1]
            yield part
        if left:
            self.position = 0
            self.current = None

    def shown(self, batch: list[Row]) -> list[Row]:
        """The rows without the keys behind them."""
        return [row[: self._width] for row in batch] if self.keys else batch

    # ------------------------------------------------------------------------------------------ WHERE CURRENT OF

    def current_key(self, table: Table) -> bytes:
        """The key of the table's row that the cursor is on; raises 24000."""
        if self.is_held:
            raise DatabaseError.of("24000", f'cursor "{self.name}" is held from a previous transaction')
        positions = [position for oid, position in self.keys if oid == table.oid]
        if self.locks and len(positions) > 1:
            raise DatabaseError.of(
                "24000", f'cursor "{self.name}" has multiple FOR UPDATE/SHARE references to table "{table.name}"'
            )
        if self.locks and not positions:
            raise DatabaseError.of(
                "24000", f'cursor "{self.name}" does not have a FOR UPDATE/SHARE reference to table "{table.name}"'
            )
        if len(positions) != 1 or (not self.locks and _sorts(self.plan)):
            raise DatabaseError.of(
                "24000", f'cursor "{self.name}" is not a simply updatable scan of table "{table.name}"'
            )
        if self.current is None:
            raise DatabaseError.of("24000", f'cursor "{self.name}" is not positioned on a row')
        key: bytes = self.current[positions[0]]
        return key


def _sorts(plan: CachedPlan) -> bool:
    assert plan.compiled is not None
    return any(isinstance(part, Sort | TopN | IncrementalSort) for part in all_relations(plan.compiled.plan.root))
