"""Semi, anti and left joins that build the left side into the table and let the right one pass (plan/smaller_side.py).

A left row leaves the table when its first partner comes by (semi, anti), or is noted (left); what is there in the end had none::

    table {1: [a], 2: [b, c]}     right 2, 2, 3     semi: b, c     anti: a     left: (b, 2), (c, 2), (b, 2), (c, 2), (a, NULL)

If the left side does not fit into ``work_mem`` after all, both sides go to disk, as those of any hash join.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import cached_property

from pydistdb.sql.exec.codegen import Code
from pydistdb.sql.exec.hash_join import HashJoinOperator, Table, probed_at_once, then
from pydistdb.sql.exec.key_filter import key_source
from pydistdb.sql.exec.operator import Batch, Operator
from pydistdb.sql.exec.run import BATCH_ROWS, State
from pydistdb.sql.exec.scan import TableScanOperator
from pydistdb.sql.exec.spill import in_batches
from pydistdb.sql.plan.physical import RightHashJoin


class RightHashJoinOperator(HashJoinOperator):
    def __init__(self, node: RightHashJoin, left: Operator, right: Operator) -> None:
        super().__init__(node, left, right)
        self.filtered: TableScanOperator | None = None
        """The scan that the keys are sent to (the compiler sets it)."""

    @cached_property
    def add_left(self) -> Callable[[Batch, Table, Batch, State], None]:
        """``f(batch, table, keyless, S)`` puts left rows into the table."""
        code = self.left.code()
        key, tests = key_source(code, self.node.left_keys)
        store = f"setdefault({key}, []).append(r)"
        if tests:
            store = f"if {' and '.join(tests)}:\n        {store}\n    else:\n        keyless.append(r)"
        body = f"setdefault = table.setdefault\nfor r in batch:\n    {store}"
        function: Callable[[Batch, Table, Batch, State], None] = code.build("f(batch, table, keyless, S)", body)
        return function

    @cached_property
    def pass_by(self) -> Callable[[Batch, Table, set[int], State], Batch]:
        """``f(batch, table, matched, S)``: the output for a batch of right rows."""
        code = self.pair_code()
        key, tests = key_source(code, self.node.right_keys)
        guard = "".join(f" if {test}" for test in tests)
        residual = "True" if self.node.residual is None else code.truth(self.node.residual)
        code.namespace["NOTHING"] = ()
        append = "" if self.kind == "anti" else f"append({self.pair})"
        if self.kind == "left":
            each = f"    for l in get(key, NOTHING):\n        if {residual}:\n            add(id(l))\n            {append}\n"
        elif self.node.residual is None:
            each = "    rows = pop(key, NOTHING)\n"
            each += f"    for l in rows:\n        {append}\n" if append else ""
        else:
            each = (
                "    rows = get(key)\n    if rows is None:\n        continue\n    lonely = []\n"
                f"    for l in rows:\n        if {residual}:\n            {append or 'pass'}\n"
                "        else:\n            lonely.append(l)\n"
                "    if not lonely:\n        del table[key]\n"
                "    elif len(lonely) < len(rows):\n        table[key] = lonely\n"
            )
        body = (
            "output = []\nappend = output.append\nget = table.get\npop = table.pop\nadd = matched.add\n"
            f"for r, key in [(r, {key}) for r in batch{guard}]:\n{each}return output"
        )
        function: Callable[[Batch, Table, set[int], State], Batch] = code.build("f(batch, table, matched, S)", body)
        return function

    @cached_property
    def lonely(self) -> Callable[[Batch], Batch]:
        """Output for left rows without a partner."""
        function: Callable[[Batch], Batch] = Code({}).build(
            "f(rows)", f"r = {self.null_right!r}\nreturn [{self.pair} for l in rows]"
        )
        return function

    async def batches(self, state: State) -> AsyncIterator[Batch]:
        table: Table = {}
        keyless: Batch = []
        if self.filtered is not None:
            state.shared.pop(id(self.filtered), None)
        with state.hold(self.actual, hashed=True) as held:
            left = self.left.batches(state)
            async for batch in left:
                held.take(batch)
                self.add_left(batch, table, keyless, state)
                if held.is_over:
                    rows = [*keyless, *(row for found in table.values() for row in found)]
                    table = {}
                    both = self._partitioned(state, held, [], self.right.batches(state), then(rows, left))
                    async for output in both:
                        yield output
                    return
            if table:
                if self.filtered is not None:
                    self.send_keys(self.filtered, table, state)
                async for output in self._passed_by(table, keyless, state):
                    yield output
            if self.kind != "semi":
                for part in in_batches([*keyless, *(row for found in table.values() for row in found)]):
                    yield self.lonely(part)
                    await state.breathe()

    async def _passed_by(self, table: Table, keyless: Batch, state: State) -> AsyncIterator[Batch]:
        """The right side passes; what is left in the table has no partner."""
        matched: set[int] = set()
        at_once = probed_at_once(table)
        async for batch in self.right.batches(state):
            for start in range(0, len(batch), at_once):
                output = self.pass_by(batch[start : start + at_once], table, matched, state)
                for part in in_batches(output, 4 * BATCH_ROWS):
                    yield part
                await state.breathe()
            if not table:
                break
        if matched:
            rest = [row for found in table.values() for row in found if id(row) not in matched]
            table.clear()
            keyless += rest
