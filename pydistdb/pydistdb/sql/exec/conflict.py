"""ON CONFLICT: find out whether a unique key is taken, and update the row that has it, or leave it.

To lock the key and look is one request, but keeps everybody else from it.  So DO NOTHING, and DO UPDATE where foreign keys refer
to the table, look at the snapshot first: a row that is there is locked no more strongly than is needed (KEY SHARE to leave
it), and sessions that make sure that one parent row exists before they add children do not wait for each other::

    t1 INSERT INTO parent VALUES (1) ON CONFLICT DO NOTHING      there already: KEY SHARE
    t2 INSERT INTO parent VALUES (1) ON CONFLICT DO NOTHING      the same, at once

So does DO UPDATE by another key than the primary one: an UPDATE or DELETE locks its row, then the unique key that the row
leaves, and whoever held that key while waiting for the row would be in its way.

Queries in DO UPDATE are computed per conflict, by a small plan over a CTE whose one row is the existing row and the one that
was to be inserted.

Source: PostgreSQL 15 manual, INSERT.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydistdb.kv.api import LockStrength
from pydistdb.sql.errors import CardinalityViolation
from pydistdb.sql.exec import violations
from pydistdb.sql.exec.checks import Checker, row_scope
from pydistdb.sql.exec.codegen import Code
from pydistdb.sql.exec.operator import Batch, Operator, collect
from pydistdb.sql.exec.run import State
from pydistdb.sql.exec.scan import get_many
from pydistdb.sql.layout import IndexLayout
from pydistdb.sql.plan.physical import Apply
from pydistdb.sql.tree import KEY_NUMBER, VIEW_CHECK, OutputColumn, Rel

if TYPE_CHECKING:
    from pydistdb.sql.exec.modify import InsertOperator

Row = list[Any]
SourceRow = tuple[Any, ...]


class Updated(list[Any]):
    """A row that was there already, among those that RETURNING shows."""


class ConflictHandler:
    """ON CONFLICT: what to do with rows whose unique key is taken."""

    def __init__(self, operator: InsertOperator, row: Operator | None) -> None:
        self.row = row
        on_conflict = operator.node.on_conflict
        assert on_conflict is not None
        self.operator = operator
        self.node = on_conflict
        self.writer = operator.writer
        self.layout = operator.layout
        self.arbiters: list[IndexLayout] = [
            index
            for index in self.layout.indexes
            if (on_conflict.indexes is None or index.index.storage_id in on_conflict.indexes) and not index.is_row_id
        ]
        self.updates = bool(on_conflict.assignments)
        assigned = [number for number, _ in (*on_conflict.assignments, *operator.node.generated)]
        self.strength = self.writer.lock_strength(assigned) if self.updates else LockStrength.KEY_SHARE
        self.looks_first = (
            not self.updates
            or bool(operator.table.referenced_by)
            or any(index is not self.layout.primary for index in self.arbiters)
        )

    @cached_property
    def change(self) -> Callable[[Row, Row, SourceRow, State], Row | None]:
        """``f(r, e, q, S)``: the existing row as updated, given the excluded one and the values of queries; None if the
        condition is not met."""
        ids = self.operator.node.row_ids
        queries = {} if self.row is None else self.row.scope("q")
        code = Code({**queries, **row_scope(ids, "r"), **row_scope(self.node.excluded_ids, "e")}, ("r", "e", "q"))
        lines: list[str] = []
        if self.node.condition is not None:
            lines += [f"if not {code.truth(self.node.condition)}:", "    return None"]
        lines.append("n = list(r)")
        lines += [f"n[{number - 1}] = {code.value(value)}" for number, value in self.node.assignments]
        lines.append("r = n")
        lines += [f"r[{number - 1}] = {code.value(value)}" for number, value in self.operator.node.generated]
        lines.append("return r")
        function: Callable[[Row, Row, SourceRow, State], Row | None] = code.build("f(r, e, q, S)", "\n".join(lines))
        return function

    @cached_property
    def check_new(self) -> Callable[[Row, State], None] | None:
        """The conditions of the views that the row is inserted through; None if there are none."""
        node = self.operator.node
        conditions = [check for check in node.checks if check[0].startswith(VIEW_CHECK)]
        if not conditions:
            return None
        code = Code(row_scope(node.row_ids, "r"))
        lines = Checker(self.operator.table, conditions).lines(code, ())
        function: Callable[[Row, State], None] = code.build("f(r, S)", "\n".join(lines))
        return function

    @cached_property
    def check(self) -> Callable[[Row, State], None]:
        node = self.operator.node
        code = Code(row_scope(node.row_ids, "r"))
        numbers = [number for number, _ in self.node.assignments]
        lines = Checker(self.operator.table, node.checks).lines(code, numbers)
        function: Callable[[Row, State], None] = code.build("f(r, S)", "\n".join(lines or ["pass"]))
        return function

    async def insert(self, rows: list[Row], state: State) -> list[Row]:
        """Insert what can be, update what is there (or leave it); returns the rows inserted or updated."""
        writer, writes = self.writer, state.writes
        keys = await writer.keys_of(rows, state)
        wanted = [writer.unique_keys(row, key) for row, key in zip(rows, keys, strict=True)]
        taken = await self._met(wanted, state) if self.looks_first else {}
        free = [pairs for pairs in wanted if not any(key in taken for _, key in pairs)] if taken else wanted
        taken.update(await writer.lock_free(dict.fromkeys(key for pairs in free for _, key in pairs), state))
        done: list[Row] = []
        for row, key, pairs in zip(rows, keys, wanted, strict=True):
            conflict: tuple[IndexLayout, bytes] | None = None
            for index, unique_key in pairs:
                value = writes.pending.get(unique_key, taken.get(unique_key))
                if value is None:
                    continue
                if index not in self.arbiters:
                    if conflict is None and not self._arbiter_taken(pairs, taken, state):
                        raise violations.duplicate_key(state.run.catalog, index, index.values(row), state.context)
                elif conflict is None:
                    conflict = (index, key if index is self.layout.primary else index.row_keys([value])[0])
            if conflict is None:
                if self.check_new is not None:
                    self.check_new(row, state)
                writer.write_new(row, key, state)
                done.append(row)
            elif self.updates:
                updated = await self._update(conflict[1], row, state)
                if updated is not None:
                    done.append(Updated(updated))
        return done

    async def _met(self, wanted: Sequence[Sequence[tuple[IndexLayout, bytes]]], state: State) -> dict[bytes, bytes]:
        """The arbiters' keys that are taken at the snapshot and stay so: the rows behind them are locked."""
        pending = state.writes.pending
        indexes = {
            key: index for pairs in wanted for index, key in pairs if index in self.arbiters and key not in pending
        }
        values = await get_many(state.transaction, list(indexes))
        there = {key: value for key, value in zip(indexes, values, strict=True) if value is not None}
        primary = self.layout.primary
        row_keys = {
            key: key if indexes[key] is primary else indexes[key].row_keys([value])[0] for key, value in there.items()
        }
        locked = list(dict.fromkeys(row_keys.values()))
        answers = dict(zip(locked, await state.transaction.lock(locked, self.strength), strict=True)) if locked else {}
        met = {}
        for key, value in there.items():
            row_key = row_keys[key]
            row = answers[row_key].value
            if row is None:
                continue
            index = indexes[key]
            entry = None if index is primary else self.layout.entry(index, self.layout.decode(row), row_key)
            if index is primary or (entry is not None and entry.key == key):
                met[key] = value
        return met

    def _arbiter_taken(
        self, pairs: Sequence[tuple[IndexLayout, bytes]], taken: dict[bytes, bytes], state: State
    ) -> bool:
        return any(
            state.writes.pending.get(key, taken.get(key)) is not None for index, key in pairs if index in self.arbiters
        )

    async def _update(self, key: bytes, row: Row, state: State) -> Row | None:
        """Update the row at ``key``, which the proposed ``row`` met."""
        if key in state.writes.touched:
            raise CardinalityViolation(
                "ON CONFLICT DO UPDATE command cannot affect row a second time",
                hint="Ensure that no rows proposed for insertion within the same command have duplicate constrained "
                "values.",
            )
        [locked] = await state.transaction.lock([key], self.strength)
        if locked.value is None:
            return None
        old = self.layout.decode(locked.value)
        new = self.change(old, row, await self._queries(old, row, state), state)
        if new is None:
            return None
        self.check(new, state)
        await self.writer.update(old, new, key, state)
        return new

    async def _queries(self, old: Row, excluded: Row, state: State) -> SourceRow:
        """The values of the queries in SET and WHERE, behind the two rows that they may refer to."""
        node = self.node
        if self.row is None or node.row is None:
            return ()
        both = ((self.operator.node.row_ids, old), (node.excluded_ids, excluded))
        values = {id: row[number - 1] for ids, row in both for number, id in ids.items() if number > KEY_NUMBER}
        state.shared[node.row_id] = OneRow(tuple([values[column.id] for column in row_columns(node.row)]))
        [row] = await collect(self.row, state, state.hold())
        return row


def row_columns(row: Rel) -> tuple[OutputColumn, ...]:
    """The columns of the CTE at the bottom of ``OnConflict.row``: those of the existing and of the excluded row."""
    while isinstance(row, Apply):
        row = row.input
    return row.columns


class OneRow:
    """What the CTE of ``OnConflict.row`` reads: the rows at hand."""

    def __init__(self, row: SourceRow) -> None:
        self.row = row

    async def read(self) -> AsyncIterator[Batch]:
        yield [self.row]
