"""A fragment at the leaseholder: compiled once by the executor's own code, then run over chunks of entries.

``run_fragment(text, arguments)`` is what a node registers with its range server (kv/fragments.py)::

    gateway.server.fragments.start = run_fragment

Compiled fragments are kept by their text, the MOST_COMPILED used last.  An answer is bounded: MOST_ROWS rows, MOST_BYTES of
entries behind them, or MOST_GROUPS groups, whatever comes first; the gateway asks for the rest of the span again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, cast

from pydistdb.kv.fragments import FragmentRun
from pydistdb.sql.exec.aggregate import AggregateOperator
from pydistdb.sql.exec.fragment import Arguments, decode_arguments, decode_text, pack_states
from pydistdb.sql.exec.grouping import GroupingSet
from pydistdb.sql.exec.run import RunContext, State
from pydistdb.sql.exec.scan import TableScanOperator, of_identity
from pydistdb.sql.exec.setops import row_keys
from pydistdb.sql.exec.sort import MOST_TOP_ROWS, Sorter
from pydistdb.sql.exec.tree_codec import load, runtime_form
from pydistdb.sql.plan.physical import Access, TableScan
from pydistdb.sql.sampling import SAMPLE_TEXT, SampleRun
from pydistdb.sql.sampling import decode_arguments as decode_sample_arguments
from pydistdb.sql.tree import Aggregate, AggregateCall, ColumnRef, Expr, OutputColumn, Param, SortKey
from pydistdb.sql.types.base import EvalContext

MOST_COMPILED = 256
MOST_ROWS = 4_096
MOST_BYTES = 256 << 10
MOST_GROUPS = 10_000
_ARRAY_BYTES = 16

Row = tuple[Any, ...]


class CompiledFragment:
    """A scan operator and the functions of its tail; shared by all runs."""

    def __init__(self, data: bytes) -> None:
        text = decode_text(data)
        columns, condition, output_columns, output, outer, parameters, keys, groups, calls = load(text.tree)
        index = next(index for index in text.table.indexes if index.storage_id == text.index)
        node = TableScan(
            columns,
            text.table,
            text.table.name,
            text.numbers,
            Access(index),
            condition[0] if condition else None,
            index_only=text.index_only,
        )
        self.scan = TableScanOperator(node).project(output_columns, output)
        self.outer: tuple[ColumnRef, ...] = outer
        self.parameters: tuple[Param, ...] = parameters
        self.kind = text.kind
        self.make: Callable[[CompiledFragment, State, Arguments], FragmentRun] = RowsRun
        if self.kind == "sort":
            self.sorter = Sorter(self.scan.code(), cast(tuple[SortKey, ...], keys))
            self.make = TopRun
        elif self.kind == "distinct":
            self.keys = row_keys(self.scan.columns)
            self.make = DistinctRun
        elif self.kind == "aggregate":
            self.operator = AggregateOperator(self.scan, _aggregate(self.scan, groups, calls))
            self.set = GroupingSet(self.operator, set(range(len(groups))))
            self.group_types = [group.type for group in groups]
            self.make = GroupsRun if groups else AggregateRun

    def state(self, arguments: Arguments) -> State:
        context = EvalContext()
        context.transaction_timestamp = arguments.transaction_timestamp
        context.statement_timestamp = arguments.statement_timestamp
        context.timezone = arguments.timezone
        context.settings = arguments.settings
        count = max((parameter.index for parameter in self.parameters), default=-1) + 1
        values: list[Any] = [None] * count
        for parameter, stored in zip(self.parameters, arguments.parameters, strict=True):
            values[parameter.index] = runtime_form(parameter.type, stored)
        nothing = cast(Any, None)
        state = State(RunContext(None, nothing, nothing, context, values, _NoClock()))
        for column, stored in zip(self.outer, arguments.outer, strict=True):
            state.outer[column.id] = runtime_form(column.type, stored)
        return state


def _aggregate(scan: TableScanOperator, groups: tuple[Expr, ...], calls: tuple[AggregateCall, ...]) -> Aggregate:
    parts = [*(group.type for group in groups), *(call.function.return_type for call in calls)]
    columns = tuple([OutputColumn(-1 - number, "", kind) for number, kind in enumerate(parts)])
    return Aggregate(columns, cast(Any, None), groups, calls)


class _NoClock:
    """A fragment is given its turns from outside."""

    def now_ns(self) -> int:
        return 0

    def __getattr__(self, name: str) -> Any:
        raise NotImplementedError(name)


compiled = lru_cache(maxsize=MOST_COMPILED)(CompiledFragment)


def run_fragment(text: bytes, arguments: bytes) -> FragmentRun:
    """Begin a run; raises whatever is wrong with the fragment."""
    if text == SAMPLE_TEXT:
        return SampleRun(decode_sample_arguments(arguments))
    fragment = compiled(text)
    values = decode_arguments(arguments)
    return fragment.make(fragment, fragment.state(values), values)


class RowsRun:
    """The rows themselves; the first of them, if no more than ``most`` are wanted."""

    def __init__(self, fragment: CompiledFragment, state: State, arguments: Arguments) -> None:
        self.fragment = fragment
        self.state = state
        self.most = arguments.most
        self.identity = arguments.identity
        self.rows: list[Row] = []
        self.bytes = 0

    def take(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        if self.identity:
            keys, values = of_identity(keys, values, self.identity)
        if keys:
            rows = self.fragment.scan.decode(keys, values, self.state)
            if rows:
                self.bytes += len(rows) * (sum(map(len, values)) // len(values) + _ARRAY_BYTES)
                self.add(rows)

    def add(self, rows: list[Row]) -> None:
        self.rows += rows

    @property
    def is_full(self) -> bool:
        count = len(self.rows)
        return count >= MOST_ROWS or self.bytes >= MOST_BYTES or (self.most > 0 and count >= self.most)

    def finish(self) -> bytes:
        rows = self.rows[: self.most] if self.most else self.rows
        return self.fragment.scan.codec.encode(rows)


class TopRun(RowsRun):
    """The first ``most`` rows of an order."""

    def add(self, rows: list[Row]) -> None:
        self.rows += rows
        if 0 < self.most <= MOST_TOP_ROWS and len(self.rows) >= 2 * self.most + MOST_ROWS:
            self._cut()

    def _cut(self) -> None:
        self.fragment.sorter.sort(self.rows, self.state)
        del self.rows[self.most :]

    @property
    def is_full(self) -> bool:
        return not 0 < self.most <= MOST_TOP_ROWS and (len(self.rows) >= MOST_ROWS or self.bytes >= MOST_BYTES)

    def finish(self) -> bytes:
        if 0 < self.most <= MOST_TOP_ROWS:
            self._cut()
        return self.fragment.scan.codec.encode(self.rows)


class DistinctRun(RowsRun):
    """One row of each kind."""

    def __init__(self, fragment: CompiledFragment, state: State, arguments: Arguments) -> None:
        super().__init__(fragment, state, arguments)
        self.seen: dict[Any, Row] = {}

    def add(self, rows: list[Row]) -> None:
        setdefault = self.seen.setdefault
        for key, row in zip(self.fragment.keys(rows, self.state), rows, strict=True):
            setdefault(key, row)

    @property
    def is_full(self) -> bool:
        return len(self.seen) >= MOST_GROUPS

    def finish(self) -> bytes:
        return self.fragment.scan.codec.encode(list(self.seen.values()))


class AggregateRun(RowsRun):
    """The states of aggregates over all rows."""

    def __init__(self, fragment: CompiledFragment, state: State, arguments: Arguments) -> None:
        super().__init__(fragment, state, arguments)
        self.states = [plan.initial() for plan in fragment.operator.calls]

    def add(self, rows: list[Row]) -> None:
        self.fragment.operator.feed(rows, self.states, self.state)

    @property
    def is_full(self) -> bool:
        return False

    def finish(self) -> bytes:
        return pack_states([((), *self.states)], ())


class GroupsRun(RowsRun):
    """Groups with the states of their aggregates."""

    def __init__(self, fragment: CompiledFragment, state: State, arguments: Arguments) -> None:
        super().__init__(fragment, state, arguments)
        self.table: dict[Any, list[Any]] = {}

    def add(self, rows: list[Row]) -> None:
        self.fragment.set.take(rows, self.table, True, self.state)

    @property
    def is_full(self) -> bool:
        return len(self.table) >= MOST_GROUPS

    def finish(self) -> bytes:
        return pack_states(self.table.values(), self.fragment.group_types)
