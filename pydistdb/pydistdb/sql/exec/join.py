"""Joins other than by hash table: by index look-ups in batches, and by nested loops.

A look-up join asks for the right rows of a whole batch of left rows in one request, by the keys of a unique index; a nested
loop runs its right side once and keeps the rows (on disk past ``work_mem``), or anew for every left row it depends on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from functools import cached_property
from typing import Any

from pydistdb.sql.exec.codegen import Code, tuple_source
from pydistdb.sql.exec.operator import Batch, Operator, Row
from pydistdb.sql.exec.run import BATCH_ROWS, State
from pydistdb.sql.exec.scan import TableScanOperator, get_many, present
from pydistdb.sql.exec.spill import RowBuffer
from pydistdb.sql.plan.physical import LookupJoin, NestedLoop
from pydistdb.sql.tree import OutputColumn


def output_columns(kind: str, left: Operator, right: Operator) -> tuple[tuple[OutputColumn, ...], frozenset[int]]:
    """The columns of a join, and which of them are never NULL."""
    if kind in ("semi", "anti"):
        return left.columns, left.not_null
    not_null = frozenset() if kind == "full" else left.not_null
    if kind == "inner":
        not_null |= right.not_null
    return left.columns + right.columns, not_null


class JoinOperator(Operator):
    """What joins share: the output row, and functions over pairs of rows ``l`` and ``r``."""

    def __init__(self, kind: str, left: Operator, right: Operator, wanted: Sequence[OutputColumn]) -> None:
        self.kind = kind
        self.left = left
        self.right = right
        _, not_null = output_columns(kind, left, right)
        super().__init__(wanted, not_null & {column.id for column in wanted})

    def pair_code(self) -> Code:
        return Code({**self.left.scope("l"), **self.right.scope("r")}, ("l", "r"))

    @cached_property
    def pair(self) -> str:
        """Source of the output row."""
        columns = {**self.left.scope("l"), **self.right.scope("r")}
        if self.ids == self.left.ids + self.right.ids:
            return "l + r"
        if self.ids == self.left.ids:
            return "l"
        return tuple_source([columns[column][0] for column in self.ids])

    @cached_property
    def null_right(self) -> Row:
        return (None,) * len(self.right.columns)

    @cached_property
    def null_left(self) -> Row:
        return (None,) * len(self.left.columns)


class LookupJoinOperator(JoinOperator):
    """Fetches, for each batch of left rows, the right rows by a unique index in one request."""

    def __init__(self, node: LookupJoin, left: Operator, right: TableScanOperator) -> None:
        super().__init__(node.kind, left, right, node.columns)
        self.node = node
        self.scan = right

    @cached_property
    def left_keys(self) -> Callable[[Batch, State], list[Any]]:
        """``f(batch, S)``: per left row the key to fetch, None where a part is NULL."""
        code = self.left.code()
        parts: list[str] = []
        tests: list[str] = []
        for key in self.node.keys:
            source = code.value(key)
            if code.nullable(key):
                name = code.temporary()
                tests.append(f"({name} := {source}) is not None")
                source = name
            parts.append(source)
        layout, index = self.scan.layout, self.scan.bounds.index
        if index.hashed:
            code.namespace["key_of"] = lambda values: layout.point_key(index, values)
            call = f"key_of({tuple_source(parts)})"
        else:
            code.namespace.update(encode=index.encode, head=index.head)
            call = f"head + encode({tuple_source(parts)})"
        source = f"({call} if {' and '.join(tests)} else None)" if tests else call
        function: Callable[[Batch, State], list[Any]] = code.build("f(batch, S)", f"return [{source} for r in batch]")
        return function

    @cached_property
    def combine(self) -> Callable[[Batch, list[Any], dict[bytes, Row], State], Batch]:
        code = self.pair_code()
        residual = "" if self.node.residual is None else code.truth(self.node.residual)
        test = f" and {residual}" if residual else ""
        match self.kind:
            case "inner":
                body = f"return [{self.pair} for l, k in zip(batch, keys) if (r := get(k)) is not None{test}]"
            case "left":
                code.namespace["null_right"] = self.null_right
                body = (
                    "output = []\nfor l, k in zip(batch, keys):\n    r = get(k)\n"
                    f"    if r is None or not ({residual or True}):\n        r = null_right\n"
                    f"    output.append({self.pair})\nreturn output"
                )
            case "semi":
                body = f"return [{self.pair} for l, k in zip(batch, keys) if (r := get(k)) is not None{test}]"
            case _:
                body = f"return [{self.pair} for l, k in zip(batch, keys) if not ((r := get(k)) is not None{test})]"
        function: Callable[[Batch, list[Any], dict[bytes, Row], State], Batch] = code.build(
            "f(batch, keys, table, S)", f"get = table.get\n{body}"
        )
        return function

    async def batches(self, state: State) -> AsyncIterator[Batch]:
        combine = self.combine
        async for batch in self.left.batches(state):
            keys = self.left_keys(batch, state)
            wanted = sorted({key for key in keys if key is not None})
            output = combine(batch, keys, await self._fetch(state, wanted), state)
            if output:
                yield output
            await state.breathe()

    async def _fetch(self, state: State, wanted: list[bytes]) -> dict[bytes, Row]:
        """The decoded right rows by index key (rows that fail the scan's own condition are left out)."""
        scan = self.scan
        values = await get_many(state.transaction, wanted)
        keys, found = present(wanted, values)
        index_keys = keys
        if scan.is_secondary:
            row_keys = scan.bounds.index.row_keys(found)
            row_values = await get_many(state.transaction, row_keys)
            pairs = [
                (index_key, key, value)
                for index_key, key, value in zip(keys, row_keys, row_values, strict=True)
                if value is not None
            ]
            index_keys = [pair[0] for pair in pairs]
            keys = [pair[1] for pair in pairs]
            found = [pair[2] for pair in pairs]
        if scan.node.condition is None:
            return dict(zip(index_keys, scan.decode(keys, found, state), strict=True))
        table: dict[bytes, Row] = {}
        for index_key, key, value in zip(index_keys, keys, found, strict=True):
            rows = scan.decode([key], [value], state)
            if rows:
                table[index_key] = rows[0]
        return table


class NestedLoopOperator(JoinOperator):
    """Pairs every left row with every right row; the right side is run anew where it depends on the left row."""

    def __init__(self, node: NestedLoop, left: Operator, right: Operator) -> None:
        super().__init__(node.kind, left, right, node.columns)
        self.node = node
        self.outer_positions = [(column, left.position(column)) for column in node.outer_ids]

    @cached_property
    def pairs(self) -> Callable[[Row, Batch, State], Batch]:
        """``f(l, rows, S)``: the output for one left row and a batch of right rows (right rows, for a full join)."""
        code = self.pair_code()
        test = "" if self.node.condition is None else f" if {code.truth(self.node.condition)}"
        row = "r" if self.kind in ("full", "semi", "anti") else self.pair
        function: Callable[[Row, Batch, State], Batch] = code.build(
            "f(l, rows, S)", f"return [{row} for r in rows{test}]"
        )
        return function

    @cached_property
    def unknown(self) -> Callable[[Row, Batch, State], bool]:
        """Whether the condition is NULL for some pair (NOT IN: then the row is not in the result either)."""
        code = self.pair_code()
        assert self.node.condition is not None
        function: Callable[[Row, Batch, State], bool] = code.build(
            "f(l, rows, S)", f"return any([{code.value(self.node.condition)} is None for r in rows])"
        )
        return function

    @cached_property
    def make_pair(self) -> Callable[[Row, Row], Row]:
        function: Callable[[Row, Row], Row] = Code({}).build("f(l, r)", f"return {self.pair}")
        return function

    async def batches(self, state: State) -> AsyncIterator[Batch]:
        output: Batch = []
        buffer: RowBuffer | None = None
        matched: set[int] = set()
        if not self.outer_positions:
            held = state.hold(self.actual)
            if self.kind == "full":  # which tells rows apart by where they lie in memory
                held.limit_bytes = 1 << 62
            buffer = RowBuffer(lambda: self.right.codec, held)
            async for batch in self.right.batches(state):
                buffer.append(batch)
        async for left_batch in self.left.batches(state):
            for left in left_batch:
                found = False
                async for right_batch in self._right(state, left, buffer):
                    rows = self.pairs(left, right_batch, state)
                    if self.node.null_aware and not rows and self.unknown(left, right_batch, state):
                        found = True
                    if rows:
                        found = True
                        if self.kind == "full":
                            matched.update(map(id, rows))
                            rows = [self.make_pair(left, row) for row in rows]
                    await state.breathe()
                    if found and self.kind in ("semi", "anti"):
                        break
                    output += rows
                    if len(output) >= BATCH_ROWS:
                        yield output
                        output = []
                if (self.kind == "semi" and found) or (not found and self.kind == "anti"):
                    output.append(self.make_pair(left, ()))
                elif not found and self.kind in ("left", "full"):
                    output.append(self.make_pair(left, self.null_right))
            if len(output) >= BATCH_ROWS:
                yield output
                output = []
        if self.kind == "full" and buffer is not None:
            for batch in buffer.read():
                output += [self.make_pair(self.null_left, row) for row in batch if id(row) not in matched]
                await state.breathe()
        if output:
            yield output

    async def _right(self, state: State, left: Row, buffer: RowBuffer | None) -> AsyncIterator[Batch]:
        if buffer is not None:
            for batch in buffer.read():
                yield batch
            return
        for column, position in self.outer_positions:
            state.outer[column] = left[position]
        async for batch in self.right.batches(state):
            yield batch
