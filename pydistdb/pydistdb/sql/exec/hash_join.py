"""The hash join.

It builds a dictionary ``key -> right rows`` and probes it with one generated comprehension per batch::

    return [(l[0], r[1]) for l in batch for r in get(l[0], ()) if l[2] < r[2]]

NULL keys match nothing, so they never enter the table.  If the right side does not fit into ``work_mem``, both sides are
dealt out to PARTITIONS temporary files by the hash of their keys and each pair of files is joined by itself, deeper if
need be (Grace join; Shapiro 1986).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

from pydistdb.sql.exec.codegen import Code
from pydistdb.sql.exec.join import JoinOperator
from pydistdb.sql.exec.key_filter import SentKeys, key_source, make_filter
from pydistdb.sql.exec.memory import Holding
from pydistdb.sql.exec.operator import Batch, Operator, Row
from pydistdb.sql.exec.run import BATCH_ROWS, MOST_PAIRS, State
from pydistdb.sql.exec.scan import TableScanOperator
from pydistdb.sql.exec.spill import SpillFile, in_batches
from pydistdb.sql.plan.physical import HashJoin
from pydistdb.sql.tree import Expr

PARTITIONS = 16
DEEPEST_PARTITION = 4

Table = dict[Any, list[Row]]


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
        add_rows = self.add_rows
        with state.hold(self.actual, hashed=True) as held:
            right = self.right.batches(state)
            async for batch in right:
                held.take(batch)
                add_rows(batch, table, state)
                if held.is_over:
                    rows = [row for found in table.values() for row in found]
                    table = {}
                    async for output in self._partitioned(state, held, rows, right, self.left.batches(state)):
                        yield output
                    return
            if not table and self.kind in ("inner", "semi"):
                return
            if isinstance(self.left, TableScanOperator) and self.left.filter_keys:
                self.send_keys(self.left, table, state)
            async for output in self._joined(state, table, self.left.batches(state)):
                yield output

    @staticmethod
    def send_keys(scan: TableScanOperator, table: Table, state: State) -> None:
        """Have the nodes that the larger side lies on know the keys (key_filter.py)."""
        is_local = state.transaction.is_local
        keys: bytes | None = None
        if state.context.settings.get("enable_shardjoin") != "off" and not all(
            is_local(span.start, span.end) for span in scan.bounds.spans(state)
        ):
            keys = make_filter(table)
        state.shared[id(scan)] = SentKeys(keys, table.__contains__)

    async def _joined(self, state: State, table: Table, left: AsyncIterator[Batch]) -> AsyncIterator[Batch]:
        probe = self.probe
        matched: set[int] = set()
        at_once = probed_at_once(table)
        async for batch in left:
            for start in range(0, len(batch), at_once):
                output = probe(batch[start : start + at_once] if at_once < len(batch) else batch, table, matched, state)
                for part in in_batches(output, 4 * BATCH_ROWS):
                    yield part
                await state.breathe()
        if self.kind == "full":
            rest = [row for rows in table.values() for row in rows if id(row) not in matched]
            for part in in_batches(rest):
                yield self.unmatched(part)
                await state.breathe()

    # ------------------------------------------------------------------------------------------ on disk

    async def _partitioned(
        self, state: State, held: Holding, rows: Batch, right: AsyncIterator[Batch], left: AsyncIterator[Batch]
    ) -> AsyncIterator[Batch]:
        right_files = self._files(held, self.right)
        left_files = self._files(held, self.left)
        async for batch in then(rows, right):
            keyless: Batch = []
            self._deal(batch, self.right_keys(batch, state), right_files, 0, keyless)
            if keyless and self.node.null_aware:
                return  # NOT IN a list with a NULL: no row is known not to be in it
            if keyless and self.kind == "full":
                yield self.unmatched(keyless)
            await state.breathe()
        held.clear()
        # Left rows without a key match nothing: an outer or anti join puts them out at once (NOT IN does not know).
        puts_out = self.kind in ("left", "full", "anti") and not self.node.null_aware
        async for batch in left:
            keyless = []
            self._deal(batch, self.left_keys(batch, state), left_files, 0, keyless)
            if keyless and puts_out:
                output = self.probe(keyless, {}, set(), state)
                if output:
                    yield output
            await state.breathe()
        held.usage.batches = max(held.usage.batches, PARTITIONS)
        for left_file, right_file in zip(left_files, right_files, strict=True):
            async for output in self._join_files(state, held, left_file, right_file, 1):
                yield output

    @staticmethod
    def _files(held: Holding, side: Operator) -> list[SpillFile]:
        return [held.file(side.codec) for _ in range(PARTITIONS)]

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
        self, state: State, held: Holding, left_file: SpillFile, right_file: SpillFile, level: int
    ) -> AsyncIterator[Batch]:
        table: Table = {}
        for batch in right_file.read():
            held.take(batch)
            if held.is_over and level < DEEPEST_PARTITION:
                table = {}
                held.clear()
                async for output in self._split_files(state, held, left_file, right_file, level):
                    yield output
                return
            self.add_rows(batch, table, state)
            await state.breathe()

        async def left() -> AsyncIterator[Batch]:
            for batch in left_file.read():
                yield batch

        async for output in self._joined(state, table, left()):
            yield output
        held.clear()
        left_file.close()
        right_file.close()

    async def _split_files(
        self, state: State, held: Holding, left_file: SpillFile, right_file: SpillFile, level: int
    ) -> AsyncIterator[Batch]:
        left_files = self._files(held, self.left)
        right_files = self._files(held, self.right)
        for batch in left_file.read():
            self._deal(batch, self.left_keys(batch, state), left_files, level, [])
            await state.breathe()
        left_file.close()
        for batch in right_file.read():
            self._deal(batch, self.right_keys(batch, state), right_files, level, [])
            await state.breathe()
        right_file.close()
        held.usage.batches += PARTITIONS - 1
        for left_part, right_part in zip(left_files, right_files, strict=True):
            async for output in self._join_files(state, held, left_part, right_part, level + 1):
                yield output


async def then(rows: Batch, rest: AsyncIterator[Batch]) -> AsyncIterator[Batch]:
    """Rows that were read already, and those that follow."""
    for part in in_batches(rows):
        yield part
    async for batch in rest:
        yield batch


def probed_at_once(table: Table) -> int:
    """How many left rows can be probed in one go: a key that many rows share makes many pairs of each."""
    return max(1, MOST_PAIRS // max(map(len, table.values()), default=1))


class _NullKey:
    """Marks a NULL among the keys of a NOT IN."""


NULL_KEY = _NullKey()
