"""Joins: by hash table, by index look-ups in batches, and by nested loops.

The hash join builds a dictionary ``key -> right rows`` and probes it with one generated comprehension per batch::

    return [(l[0], r[1]) for l in batch for r in get(l[0], ()) if l[2] < r[2]]

NULL keys match nothing, so they never enter the table.  If the right side does not fit into ``work_mem``, both sides are
dealt out to PARTITIONS temporary files by the hash of their keys and each pair of files is joined by itself, deeper if
need be (Grace join; Shapiro 1986).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

from pydistdb.sql.exec.codegen import Code, tuple_source
from pydistdb.sql.exec.operator import Batch, Operator, Row
from pydistdb.sql.exec.run import BATCH_ROWS, State
from pydistdb.sql.exec.scan import TableScanOperator, get_many, present
from pydistdb.sql.exec.spill import RowBuffer, SpillFile, in_batches
from pydistdb.sql.exec.values import batch_bytes, sort_template
from pydistdb.sql.plan.physical import HashJoin, LookupJoin, NestedLoop
from pydistdb.sql.tree import Expr, OutputColumn

PARTITIONS = 16
DEEPEST_PARTITION = 4

Table = dict[Any, list[Row]]


def key_source(code: Code, keys: Sequence[Expr]) -> tuple[str, list[str]]:
    """Source of a hash key, and the tests that none of its parts is NULL."""
    parts: list[str] = []
    tests: list[str] = []
    for key in keys:
        source = code.value(key)
        # An assignment cannot stand where a comprehension iterates, but in a condition before it.
        if code.nullable(key) or ":=" in source:
            name = code.temporary()
            tests.append(f"({name} := {source}) is not None")
            source = name
        template = sort_template(key.type, code.namespace)
        if template.count("{0}") > 1 and not source.isidentifier():
            name = code.temporary()
            tests.append(f"({name} := {source}) is not None")
            source = name
        parts.append(template.format(source))
    return (parts[0] if len(parts) == 1 else f"({', '.join(parts)})"), tests


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


class HashJoinOperator(JoinOperator):
    def __init__(self, node: HashJoin, left: Operator, right: Operator) -> None:
        super().__init__(node.kind, left, right, node.columns)
        self.node = node

    @cached_property
    def add_rows(self) -> Callable[[Batch, Table, State], None]:
        """``f(batch, table, S)`` puts right rows into the table."""
        code = self.right.code()
        key, tests = key_source(code, self.node.right_keys)
        body = "get = table.get\nfor r in batch:\n"
        indent = "    "
        if tests:
            body += f"    if {' and '.join(tests)}:\n"
            indent = "        "
        body += f"{indent}k = {key}\n{indent}if (rows := get(k)) is None:\n{indent}    table[k] = [r]\n"
        body += f"{indent}else:\n{indent}    rows.append(r)"
        if tests and (self.node.null_aware or self.kind == "full"):
            body += "\n    else:\n        table.setdefault(NULL_KEY, []).append(r)"
            code.namespace["NULL_KEY"] = NULL_KEY
        function: Callable[[Batch, Table, State], None] = code.build("f(batch, table, S)", body)
        return function

    def _keys(self, side: Operator, keys: Sequence[Expr]) -> Callable[[Batch, State], list[Any]]:
        """``f(batch, S)``: the key of every row, None where it is NULL."""
        code = side.code()
        key, tests = key_source(code, keys)
        source = f"{key} if {' and '.join(tests)} else None" if tests else key
        function: Callable[[Batch, State], list[Any]] = code.build("f(batch, S)", f"return [{source} for r in batch]")
        return function

    @cached_property
    def left_keys(self) -> Callable[[Batch, State], list[Any]]:
        return self._keys(self.left, self.node.left_keys)

    @cached_property
    def right_keys(self) -> Callable[[Batch, State], list[Any]]:
        return self._keys(self.right, self.node.right_keys)

    @cached_property
    def probe(self) -> Callable[[Batch, Table, set[int], State], Batch]:
        """``f(batch, table, matched, S)``: the output for a batch of left rows."""
        code = self.pair_code()
        key, tests = key_source(code, self.node.left_keys)
        residual = "" if self.node.residual is None else code.truth(self.node.residual)
        guard = "".join(f" if {test}" for test in tests)
        code.namespace["NOTHING"] = ()
        if residual and self.kind in ("semi", "anti"):
            code.setup["has_match"] = (
                f"def has_match(l, rows):\n    for r in rows:\n        if {residual}:\n            return True\n"
                "    return False"
            )
        match self.kind:
            case "inner":
                test = f" if {residual}" if residual else ""
                body = f"return [{self.pair} for l in batch{guard} for r in get({key}, NOTHING){test}]"
            case "semi":
                body = f"return [{self.pair} for l in batch if {self._found(key, tests, residual)}]"
            case "anti":
                body = self._anti(code, key, tests, residual)
            case "left" if not residual:
                code.namespace["NO_MATCH"] = (self.null_right,)
                body = f"return [{self.pair} for l in batch for r in get({key}, NO_MATCH)]"
                if tests:
                    body = f"keys = [{key} if {' and '.join(tests)} else None for l in batch]\n"
                    body += f"return [{self.pair} for l, k in zip(batch, keys) for r in get(k, NO_MATCH)]"
            case _:
                body = self._outer_loop(code, key, tests, residual)
        function: Callable[[Batch, Table, set[int], State], Batch] = code.build(
            "f(batch, table, matched, S)", f"get = table.get\n{body}"
        )
        return function

    @staticmethod
    def _found(key: str, tests: list[str], residual: str) -> str:
        guard = "".join(f"{test} and " for test in tests)
        if not residual:
            return f"{guard}{key} in table"
        return f"{guard}has_match(l, get({key}, NOTHING))"

    def _anti(self, code: Code, key: str, tests: list[str], residual: str) -> str:
        if not self.node.null_aware:
            return f"return [{self.pair} for l in batch if not ({self._found(key, tests, residual)})]"
        # NOT IN: an empty list holds nothing; a NULL in it, or a NULL key, leaves every comparison unknown.
        code.namespace["NULL_KEY"] = NULL_KEY
        known = "".join(f"{test} and " for test in tests)
        return (
            f"if not table:\n    return [{self.pair} for l in batch]\nif NULL_KEY in table:\n    return []\n"
            f"return [{self.pair} for l in batch if {known}{key} not in table]"
        )

    def _outer_loop(self, code: Code, key: str, tests: list[str], residual: str) -> str:
        """Left join with a residual, or full join: matches are counted row by row."""
        code.namespace["null_right"] = self.null_right
        condition = " and ".join(tests)
        found = f"(get({key}, NOTHING) if {condition} else NOTHING)" if tests else f"get({key}, NOTHING)"
        test = f"if {residual}:" if residual else "if True:"
        seen = "            matched.add(id(r))\n" if self.kind == "full" else ""
        return (
            "output = []\nappend = output.append\nfor l in batch:\n    lonely = True\n"
            f"    for r in {found}:\n        {test}\n            lonely = False\n{seen}            append({self.pair})\n"
            f"    if lonely:\n        r = null_right\n        append({self.pair})\nreturn output"
        )

    @cached_property
    def unmatched(self) -> Callable[[Iterable[Row]], Batch]:
        """Output for right rows without a partner (full join)."""
        function: Callable[[Iterable[Row]], Batch] = Code({}).build(
            "f(rows)", f"l = {self.null_left!r}\nreturn [{self.pair} for r in rows]"
        )
        return function

    async def batches(self, state: State) -> AsyncIterator[Batch]:
        table: Table = {}
        used_bytes = 0
        add_rows = self.add_rows
        right = self.right.batches(state)
        async for batch in right:
            used_bytes += batch_bytes(batch)
            add_rows(batch, table, state)
            if used_bytes > state.work_memory_bytes and not self.node.null_aware:
                rows = [row for found in table.values() for row in found]
                table = {}
                async for output in self._partitioned(state, rows, right):
                    yield output
                return
        if not table and self.kind in ("inner", "semi"):
            return
        async for output in self._joined(state, table, self.left.batches(state)):
            yield output

    async def _joined(self, state: State, table: Table, left: AsyncIterator[Batch]) -> AsyncIterator[Batch]:
        probe = self.probe
        matched: set[int] = set()
        async for batch in left:
            output = probe(batch, table, matched, state)
            for part in in_batches(output, 4 * BATCH_ROWS):
                yield part
            await state.breathe()
        if self.kind == "full":
            rest = [row for rows in table.values() for row in rows if id(row) not in matched]
            for part in in_batches(rest):
                yield self.unmatched(part)

    # ------------------------------------------------------------------------------------------ on disk

    async def _partitioned(self, state: State, rows: Batch, right: AsyncIterator[Batch]) -> AsyncIterator[Batch]:
        right_files = [SpillFile(self.right.codec) for _ in range(PARTITIONS)]
        left_files = [SpillFile(self.left.codec) for _ in range(PARTITIONS)]
        keeps_lonely_right = self.kind == "full"
        for part in in_batches(rows):
            keyless: Batch = []
            self._deal(part, self.right_keys(part, state), right_files, 0, keyless)
            if keyless and keeps_lonely_right:
                yield self.unmatched(keyless)
        async for batch in right:
            keyless = []
            self._deal(batch, self.right_keys(batch, state), right_files, 0, keyless)
            if keyless and keeps_lonely_right:
                yield self.unmatched(keyless)
            await state.breathe()
        # Left rows without a key match nothing: an outer or anti join puts them out by way of the first partition.
        async for batch in self.left.batches(state):
            keyless = []
            self._deal(batch, self.left_keys(batch, state), left_files, 0, keyless)
            if keyless and self.kind in ("left", "full", "anti"):
                output = self.probe(keyless, {}, set(), state)
                if output:
                    yield output
            await state.breathe()
        for left_file, right_file in zip(left_files, right_files, strict=True):
            async for output in self._join_files(state, left_file, right_file, 1):
                yield output

    @staticmethod
    def _deal(batch: Batch, keys: list[Any], files: list[SpillFile], level: int, keyless: Batch) -> None:
        parts: list[Batch] = [[] for _ in files]
        for row, key in zip(batch, keys, strict=True):
            if key is not None:
                parts[hash((level, key)) % PARTITIONS].append(row)
            else:
                keyless.append(row)
        for file, part in zip(files, parts, strict=True):
            file.write(part)

    async def _join_files(
        self, state: State, left_file: SpillFile, right_file: SpillFile, level: int
    ) -> AsyncIterator[Batch]:
        table: Table = {}
        used_bytes = 0
        for batch in right_file.read():
            used_bytes += batch_bytes(batch)
            if used_bytes > state.work_memory_bytes and level < DEEPEST_PARTITION:
                table = {}
                async for output in self._split_files(state, left_file, right_file, level):
                    yield output
                return
            self.add_rows(batch, table, state)
            await state.breathe()

        async def left() -> AsyncIterator[Batch]:
            for batch in left_file.read():
                yield batch

        async for output in self._joined(state, table, left()):
            yield output
        left_file.close()
        right_file.close()

    async def _split_files(
        self, state: State, left_file: SpillFile, right_file: SpillFile, level: int
    ) -> AsyncIterator[Batch]:
        left_files = [SpillFile(self.left.codec) for _ in range(PARTITIONS)]
        right_files = [SpillFile(self.right.codec) for _ in range(PARTITIONS)]
        for batch in left_file.read():
            self._deal(batch, self.left_keys(batch, state), left_files, level, [])
            await state.breathe()
        for batch in right_file.read():
            self._deal(batch, self.right_keys(batch, state), right_files, level, [])
            await state.breathe()
        for left_part, right_part in zip(left_files, right_files, strict=True):
            async for output in self._join_files(state, left_part, right_part, level + 1):
                yield output


class _NullKey:
    """Marks a NULL among the keys of a NOT IN."""


NULL_KEY = _NullKey()


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
            row_values = await get_many(state.transaction, found)
            pairs = [
                (index_key, key, value)
                for index_key, key, value in zip(keys, found, row_values, strict=True)
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
            buffer = RowBuffer(lambda: self.right.codec, state.work_memory_bytes if self.kind != "full" else 1 << 62)
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
                    if found and self.kind in ("semi", "anti"):
                        break
                    output += rows
                    if len(output) >= BATCH_ROWS:
                        yield output
                        output = []
                    await state.breathe()
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
