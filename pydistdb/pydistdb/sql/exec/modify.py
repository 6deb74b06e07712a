"""INSERT, UPDATE and DELETE.

Every statement computes its rows from a snapshot, locks what it changes, checks constraints, and leaves writes and
foreign key checks to the end of the statement (``writer``, ``foreign_keys``).

A row to update or delete may have changed between the snapshot and its lock.  Under READ COMMITTED the statement then
goes on with the newest version, as Postgres does: the condition is evaluated again on it (``recheck``), with whatever FROM
brought, and so are the assignments.  If there are queries in them the whole statement starts again on a new snapshot, with
the locks it has.  So it does in the end if a row is gone, for the row may only have got another key.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from functools import cached_property
from typing import Any

from pydistdb.kv.api import Isolation, LockStrength, MustWait, ReadRestart, SerializationConflict
from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.exec.change import ChangeFragment, change_fragment
from pydistdb.sql.exec.change_shards import changes_at_shards
from pydistdb.sql.exec.checks import Checker, own_checks, row_scope
from pydistdb.sql.exec.codegen import Code, tuple_source
from pydistdb.sql.exec.conflict import ConflictHandler, Updated
from pydistdb.sql.exec.foreign_keys import check_absent
from pydistdb.sql.exec.operator import Batch, Operator
from pydistdb.sql.exec.point import single_key
from pydistdb.sql.exec.run import BATCH_ROWS, State
from pydistdb.sql.exec.scan import TableScanOperator, present
from pydistdb.sql.exec.waiting import begin_row, may_wait, row_by_row, wait_for
from pydistdb.sql.exec.writer import TableWriter
from pydistdb.sql.functions.effects import Effects
from pydistdb.sql.functions.row_keys import row_version
from pydistdb.sql.functions.sessions import transaction_number
from pydistdb.sql.layout import TableLayout
from pydistdb.sql.plan.expressions import has_subquery
from pydistdb.sql.tree import DELETER_NUMBER, KEY_NUMBER, VERSION_NUMBER, ColumnId, Delete, Expr, Insert, Update
from pydistdb.sql.types.transactions import xid_of

Row = list[Any]
NO_COLUMN = -1
MOST_SEARCHES = 10
"""How often a statement starts again to look for rows that may have moved; those that are gone then are passed over."""


class ModifyOperator(Operator):
    """What the three have in common."""

    returning: tuple[Expr, ...]

    def __init__(self, node: Insert | Update | Delete, source: Operator) -> None:
        super().__init__(node.columns)
        self.source = source
        self.table = node.table
        self.layout = TableLayout.of(node.table)
        self.writer = TableWriter(node.table)
        self.returning = node.returning

    def system_scope(self, ids: dict[int, ColumnId], version: str, deleter: str) -> dict[int, tuple[str, bool]]:
        """What RETURNING takes for xmin and xmax, by the ids it has for them, if it has any."""
        sources = {VERSION_NUMBER: version, DELETER_NUMBER: deleter}
        return {ids[number]: (f"({source})", False) for number, source in sources.items() if number in ids}

    @property
    def namespace(self) -> dict[str, Any]:
        """What ``system_scope`` needs."""
        return {
            "row_version": row_version,
            "row_value": self.layout.row_value,
            "number_of": lambda context: xid_of(transaction_number(context)),
        }


class InsertOperator(ModifyOperator):
    def __init__(self, node: Insert, source: Operator, conflict_row: Operator | None = None) -> None:
        super().__init__(node, source)
        self.node = node
        self.conflict = None if node.on_conflict is None else ConflictHandler(self, conflict_row)

    @cached_property
    def prepare(self) -> Callable[[Batch, list[Row], State], None]:
        """``f(batch, rows, S)``: appends complete, checked rows made from the source's."""
        node = self.node
        code = Code({**self.source.scope("s"), **row_scope(node.row_ids, "r")}, ("s", "r"))
        cells = ["None"] * self.layout.column_count
        for position, number in enumerate(node.target_numbers):
            cells[number - 1] = f"s[{position}]"
        for number, default in node.defaults.items():
            if number not in node.target_numbers:
                cells[number - 1] = code.value(default)
        # A generated column is computed from the others once they are there.
        later = [f"r[{number - 1}] = {code.value(value)}" for number, value in node.generated]
        defaults = [value for number, value in node.defaults.items() if number not in node.target_numbers]
        lines = [
            "for s in batch:",
            *(["    begin_row(S)"] if may_wait(defaults) else []),
            f"    r = [{', '.join(cells)}]",
        ]
        code.namespace["begin_row"] = begin_row
        checks = node.checks if node.on_conflict is None else own_checks(node.checks)
        checker = Checker(self.table, checks)
        lines += [f"    {line}" for line in (*later, *checker.lines(code))]
        lines.append("    rows.append(r)")
        function: Callable[[Batch, list[Row], State], None] = code.build("f(batch, rows, S)", "\n".join(lines))
        return function

    async def prepared(self, batch: Batch, state: State) -> list[Row]:
        rows: list[Row] = []
        effects = Effects()
        while True:
            state.context.effects = effects
            try:
                self.prepare(batch[len(rows) :] if rows else batch, rows, state)
                return rows
            except MustWait as need:
                await wait_for(need, len(batch) - len(rows), effects)
            except DatabaseError:
                # Postgres takes row by row: a duplicate among the rows before this one comes first.
                if rows:
                    await self.store(rows, state)
                    await check_absent(list(state.writes.absent), state)
                raise
            finally:
                state.context.effects = None

    async def store(self, rows: list[Row], state: State) -> list[Row]:
        """Insert checked rows, or do what ON CONFLICT says; returns the rows inserted or updated."""
        if self.conflict is not None:
            return await self.conflict.insert(rows, state)
        try:
            await self.writer.insert(rows, state)
        except SerializationConflict:
            if state.transaction.isolation is Isolation.REPEATABLE_READ:
                # Postgres finds duplicates whatever the snapshot is; those that a SERIALIZABLE one may have looked for are
                # conflicts there too.
                await check_absent(await self._unique_keys(rows, state), state)
            raise
        return rows

    async def _unique_keys(self, rows: list[Row], state: State) -> list[bytes]:
        """The keys that new rows must have for themselves, where these can be told from the rows."""
        if self.layout.has_row_id and self.layout.primary.hashed:
            return []
        keys = [b""] * len(rows) if self.layout.has_row_id else await self.writer.keys_of(rows, state)
        return [unique for row, key in zip(rows, keys, strict=True) for _, unique in self.writer.unique_keys(row, key)]

    @cached_property
    def output(self) -> Callable[[Sequence[Row], State], Batch]:
        ids = self.node.row_ids
        deleter = "number_of(S.context) if type(r) is Updated else 0"
        code = Code({**row_scope(ids, "r"), **self.system_scope(ids, "row_version(row_value(r))", deleter)})
        code.namespace.update(self.namespace, Updated=Updated)
        source = tuple_source(list(map(code.value, self.returning)))
        function: Callable[[Sequence[Row], State], Batch] = code.build("f(rows, S)", f"return [{source} for r in rows]")
        return function

    async def batches(self, state: State) -> AsyncIterator[Batch]:
        async for batch in self.source.batches(state):
            rows = await self.store(await self.prepared(batch, state), state)
            state.affected_rows += len(rows)
            if self.returning and rows:
                yield self.output(rows, state)
            await state.breathe()


class ChangeOperator(ModifyOperator):
    """What UPDATE and DELETE have in common: lock the rows, and go on with their newest versions."""

    def __init__(self, node: Update | Delete, source: Operator, strength: LockStrength) -> None:
        super().__init__(node, source)
        self.key_id = node.key_id
        self.old_ids = node.old_ids
        self.recheck_condition = node.recheck
        self.restarts = isinstance(node, Update) and node.has_queries
        """The statement cannot go on with a row's newest version alone: queries were answered for the old one."""
        if node.recheck is not None and has_subquery(node.recheck):
            self.restarts = True
        self.strength = strength
        self.rows_move = not self.layout.has_row_id or self.layout.primary.hashed
        """An UPDATE can give a row another key."""
        self.is_root = False
        """The statement does nothing else (the compiled query sets it)."""
        self.key_position = source.position(node.key_id)
        positions = {column: position for position, column in enumerate(source.ids)}
        self.old_positions = [
            (positions[column], number - 1)
            for number, column in node.old_ids.items()
            if column in positions and number > KEY_NUMBER
        ]
        self.version_position = positions.get(node.old_ids.get(VERSION_NUMBER, NO_COLUMN))

    @cached_property
    def old_row(self) -> Callable[[tuple[Any, ...]], Row]:
        """``f(s)``: the target's row out of a source row."""
        cells = ["None"] * self.layout.column_count
        for position, place in self.old_positions:
            cells[place] = f"s[{position}]"
        function: Callable[[tuple[Any, ...]], Row] = Code({}).build("f(s)", f"return [{', '.join(cells)}]")
        return function

    @cached_property
    def recheck(self) -> Callable[[tuple[Any, ...], State], bool]:
        code = Code(self.source.scope("r"))
        test = "True" if self.recheck_condition is None else code.truth(self.recheck_condition)
        function: Callable[[tuple[Any, ...], State], bool] = code.build("f(r, S)", f"return {test}")
        return function

    def patched(self, row: tuple[Any, ...], value: bytes) -> tuple[Any, ...]:
        """A source row with the target's columns as they are now: as ``value`` has them."""
        newest = self.layout.decode(value)
        cells = list(row)
        if self.version_position is not None:
            cells[self.version_position] = row_version(value)
        for position, place in self.old_positions:
            cells[position] = newest[place]
        return tuple(cells)

    @cached_property
    def point_keys(self) -> Callable[[State], list[bytes]] | None:
        """The keys of the rows to change, if they can be told without reading."""
        source = self.source
        if not isinstance(source, TableScanOperator) or source.is_projected or source.is_secondary:
            return None
        if not source.bounds.is_point:
            return None
        return single_key(source) or source.bounds.points

    async def rows(self, state: State) -> AsyncIterator[Batch]:
        """The rows to change, locked, in batches.

        Rows named by their keys are locked and read in one request, without a look at the snapshot before: what such a
        statement sees is what it would have seen had it started just now."""
        find = self.point_keys
        if find is None:
            at_shards = changes_at_shards(self, state)
            async for batch in self.source.batches(state) if at_shards is None else at_shards:
                yield await self.locked(batch, state)
                await state.breathe()
            return
        assert isinstance(self.source, TableScanOperator)
        keys = [key for key in find(state) if key not in state.writes.touched]
        for start in range(0, len(keys), BATCH_ROWS):
            part = keys[start : start + BATCH_ROWS]
            found, values = present(
                part, [answer.value for answer in await state.transaction.lock(part, self.strength)]
            )
            if found:
                yield self.source.decode(found, values, state)

    async def change(self, row: tuple[Any, ...], state: State) -> None:
        """Do to one locked row what the statement says, RETURNING apart."""
        raise NotImplementedError

    @cached_property
    def fragment(self) -> ChangeFragment | None:
        """The statement as other nodes can do it; None if they cannot."""
        return None

    def looks_again(self, state: State) -> bool:
        """Whether the statement is to start again because a row is gone."""
        return self.rows_move and state.run.attempt < MOST_SEARCHES

    async def locked(self, batch: Batch, state: State) -> Batch:
        """The rows of a batch that are still to be changed, each once, locked and brought up to date."""
        position = self.key_position
        first: dict[bytes, tuple[Any, ...]] = {}
        for row in batch:
            if row[position] not in state.writes.touched:
                first.setdefault(row[position], row)
        if not first:
            return []
        kept: Batch = []
        answers = await state.transaction.lock(list(first), self.strength)
        for row, answer in zip(first.values(), answers, strict=True):
            if answer.changed:
                if answer.value is None:
                    state.writes.has_missed |= self.looks_again(state)
                    continue
                if self.restarts:
                    raise ReadRestart(state.transaction.read_timestamp)
                row = self.patched(row, answer.value)
                if not self.recheck(row, state):
                    continue
            kept.append(row)
        return kept


class UpdateOperator(ChangeOperator):
    def __init__(self, node: Update, source: Operator) -> None:
        self.assigned = [number for number, _ in node.assignments]
        super().__init__(node, source, TableWriter(node.table).lock_strength(self.assigned))
        self.node = node

    @cached_property
    def new_row(self) -> Callable[[tuple[Any, ...], State], Row]:
        """``f(s, S)``: the new row, before its constraints are checked."""
        code = Code(self.source.scope("s"), ("s",))
        cells = ["None"] * self.layout.column_count
        for position, place in self.old_positions:
            cells[place] = f"s[{position}]"
        for number, value in self.node.assignments:
            cells[number - 1] = code.value(value)
        code.columns = {**code.columns, **row_scope(self.node.new_ids, "r")}
        code.variables = ("s", "r")
        lines = [f"r = [{', '.join(cells)}]"]
        lines += [f"r[{number - 1}] = {code.value(value)}" for number, value in self.node.generated]
        function: Callable[[tuple[Any, ...], State], Row] = code.build("f(s, S)", "\n".join([*lines, "return r"]))
        return function

    @cached_property
    def check(self) -> Callable[[Row, State], None]:
        code = Code(row_scope(self.node.new_ids, "r"))
        lines = Checker(self.table, self.node.checks).lines(code, self.assigned)
        function: Callable[[Row, State], None] = code.build("f(r, S)", "\n".join(lines or ["pass"]))
        return function

    @cached_property
    def output(self) -> Callable[[tuple[Any, ...], Row, State], tuple[Any, ...]]:
        ids = self.node.new_ids
        written = {**row_scope(ids, "r"), **self.system_scope(ids, "row_version(row_value(r))", "0")}
        code = Code({**self.source.scope("s"), **written}, ("s", "r"))
        code.namespace.update(self.namespace)
        source = tuple_source(list(map(code.value, self.returning)))
        function: Callable[[tuple[Any, ...], Row, State], tuple[Any, ...]] = code.build(
            "f(s, r, S)", f"return {source}"
        )
        return function

    async def batches(self, state: State) -> AsyncIterator[Batch]:
        async for rows in self.rows(state):
            output: Batch = []
            for row, new in zip(rows, await row_by_row(self.new_row, rows, state), strict=True):
                await self._store(row, new, state)
                if self.returning:
                    output.append(self.output(row, new, state))
            state.affected_rows += len(rows)
            if output:
                yield output

    @cached_property
    def fragment(self) -> ChangeFragment | None:
        return change_fragment(self, self.node)

    async def change(self, row: tuple[Any, ...], state: State) -> None:
        await self._store(row, self.new_row(row, state), state)

    async def _store(self, row: tuple[Any, ...], new: Row, state: State) -> None:
        self.check(new, state)
        await self.writer.update(self.old_row(row), new, row[self.key_position], state)


class DeleteOperator(ChangeOperator):
    def __init__(self, node: Delete, source: Operator) -> None:
        super().__init__(node, source, LockStrength.UPDATE)
        self.node = node

    @cached_property
    def fragment(self) -> ChangeFragment | None:
        return change_fragment(self, self.node)

    @cached_property
    def output(self) -> Callable[[Batch, State], Batch]:
        deleter = self.node.old_ids.get(DELETER_NUMBER)
        own = {} if deleter is None else {deleter: ("number_of(S.context)", False)}
        code = Code({**self.source.scope("r"), **own})
        code.namespace.update(self.namespace)
        source = tuple_source(list(map(code.value, self.returning)))
        function: Callable[[Batch, State], Batch] = code.build("f(batch, S)", f"return [{source} for r in batch]")
        return function

    async def batches(self, state: State) -> AsyncIterator[Batch]:
        async for rows in self.rows(state):
            for row in rows:
                self.writer.delete(self.old_row(row), row[self.key_position], state)
            state.affected_rows += len(rows)
            if self.returning and rows:
                yield self.output(rows, state)

    async def change(self, row: tuple[Any, ...], state: State) -> None:
        self.writer.delete(self.old_row(row), row[self.key_position], state)
