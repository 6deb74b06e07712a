"""MERGE: decide for each row of the join what to do, lock what is to be changed, decide again where it had changed.

A batch goes through three steps: every row's action is chosen from the snapshot; the target rows of updates and deletes
are locked in one request; then the actions are done, updates and deletes first.  A target row that another transaction
has changed in between is taken as it is now: if it does not meet the ON condition any more the source row counts as not
matched (Postgres's rule).  If it is gone, the statement starts again: it may have another key now.  A target row is changed
at most once, else 21000.

Source: PostgreSQL 15 manual, MERGE and 13.2.1; nodeModifyTable.c (ExecMerge).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import cached_property
from typing import Any

from pydistdb.kv.api import LockStrength, ReadRestart
from pydistdb.sql.errors import CardinalityViolation
from pydistdb.sql.exec.modify import ChangeOperator, InsertOperator, UpdateOperator
from pydistdb.sql.exec.operator import Batch, Operator
from pydistdb.sql.exec.run import State
from pydistdb.sql.exec.waiting import row_by_row
from pydistdb.sql.tree import Delete, Insert, Merge, MergeAction, Update

SourceRow = tuple[Any, ...]
NOTHING = -1


class MergeOperator(ChangeOperator):
    def __init__(self, node: Merge, source: Operator) -> None:
        target = Delete((), node.table, node.source, node.key_id, node.old_ids, node.condition)
        super().__init__(target, source, LockStrength.UPDATE)
        self.node = node
        self.restarts = self.restarts or node.has_queries
        self.doers: list[UpdateOperator | InsertOperator | None] = [self._doer(action) for action in node.actions]
        strengths = [
            doer.strength if isinstance(doer, UpdateOperator) else LockStrength.UPDATE
            for doer, action in zip(self.doers, node.actions, strict=True)
            if action.kind in ("update", "delete")
        ]
        self.strength = max(strengths, default=LockStrength.UPDATE)
        self.target_positions = [self.key_position, *(position for position, _ in self.old_positions)]
        if self.version_position is not None:
            self.target_positions.append(self.version_position)

    def _doer(self, action: MergeAction) -> UpdateOperator | InsertOperator | None:
        node = self.node
        if action.kind == "update":
            update = Update(
                (),
                node.table,
                node.source,
                node.key_id,
                node.old_ids,
                action.values,
                node.row_ids,
                node.checks,
                generated=node.generated,
            )
            return UpdateOperator(update, self.source)
        if action.kind == "insert":
            values = dict(action.values)
            insert = Insert(
                (), node.table, node.source, (), values, node.checks, node.row_ids, generated=node.generated
            )
            return InsertOperator(insert, self.source)
        return None

    @cached_property
    def choose(self) -> Callable[[SourceRow, State], int]:
        """``f(r, S)``: the number of the action for a row of the join."""
        code = self.source.code()
        lines: list[str] = []
        for matched in (True, False):
            lines.append(f"if r[{self.key_position}] is {'not ' if matched else ''}None:")
            for number, action in enumerate(self.node.actions):
                if action.matched is matched:
                    answer = NOTHING if action.kind == "nothing" else number
                    test = "True" if action.condition is None else code.truth(action.condition)
                    lines.append(f"    if {test}: return {answer}")
            lines.append(f"    return {NOTHING}")
        function: Callable[[SourceRow, State], int] = code.build("f(r, S)", "\n".join(lines))
        return function

    def _without_target(self, row: SourceRow) -> SourceRow:
        cells = list(row)
        for position in self.target_positions:
            cells[position] = None
        return tuple(cells)

    async def _decided(self, batch: Batch, state: State) -> list[tuple[int, SourceRow]]:
        """Each row with its action, those to change locked and up to date."""
        decided = list(zip(await row_by_row(self.choose, batch, state), batch, strict=True))
        keys = dict.fromkeys(
            row[self.key_position]
            for number, row in decided
            if number != NOTHING and row[self.key_position] is not None
        )
        wanted = [key for key in keys if key not in state.writes.touched]
        if not wanted:
            return decided
        answers = dict(zip(wanted, await state.transaction.lock(wanted, self.strength), strict=True))
        result: list[tuple[int, SourceRow]] = []
        for number, row in decided:
            answer = answers.get(row[self.key_position])
            if number != NOTHING and answer is not None and answer.changed:
                if self.restarts or (answer.value is None and self.looks_again(state)):
                    raise ReadRestart(state.transaction.read_timestamp)
                newest = None if answer.value is None else self.patched(row, answer.value)
                if newest is None or not self.recheck(newest, state):
                    newest = self._without_target(row)
                number, row = self.choose(newest, state), newest
            result.append((number, row))
        return result

    async def _change(self, number: int, row: SourceRow, state: State) -> None:
        """Update or delete the target row."""
        key = row[self.key_position]
        if key in state.writes.touched:
            raise CardinalityViolation(
                "MERGE command cannot affect row a second time",
                hint="Ensure that not more than one source row matches any one target row.",
            )
        doer = self.doers[number]
        if isinstance(doer, UpdateOperator):
            [new] = await row_by_row(doer.new_row, [row], state)
            doer.check(new, state)
            await doer.writer.update(self.old_row(row), new, key, state)
        else:
            self.writer.delete(self.old_row(row), key, state)

    async def batches(self, state: State) -> AsyncIterator[Batch]:
        # A row that one batch has inserted has not been seen by any source row: only the target's own rows count.
        async for batch in self.source.batches(state):
            inserts: dict[int, Batch] = {}
            for number, row in await self._decided(batch, state):
                if number == NOTHING:
                    continue
                state.affected_rows += 1
                if self.node.actions[number].kind == "insert":
                    inserts.setdefault(number, []).append(row)
                else:
                    await self._change(number, row, state)
            for number, rows in inserts.items():
                doer = self.doers[number]
                assert isinstance(doer, InsertOperator)
                await doer.store(await doer.prepared(rows, state), state)
            await state.breathe()
        return
        yield []
