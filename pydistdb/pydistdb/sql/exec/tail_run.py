"""What is done at the leaseholder to the rows of a fragment: nothing, or the first half of the step above (distribute.py).

A tail takes batches of rows and gives one answer of bounded size: MOST_ROWS rows, MOST_BYTES of them, or MOST_GROUPS groups,
whatever comes first; the gateway asks for the rest of the span again.  So it never goes to disk: what holds MOST_HELD_BYTES,
be it a few groups with long keys or lists, or a top-N of wide rows, is given as far as it has come::

    GroupsTail    add([(3, 'a'), (3, 'b')]), add([(4, 'c')])     finish() = [[3, 2], [4, 1]]        count(*) by the first column
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import islice
from typing import Any, cast

from pydistdb.sql.exec.aggregate import AggregateOperator
from pydistdb.sql.exec.dealing import deal
from pydistdb.sql.exec.first_rows import Picker
from pydistdb.sql.exec.fragment import Arguments, Text, pack_states
from pydistdb.sql.exec.operator import Operator
from pydistdb.sql.exec.part import ScanText
from pydistdb.sql.exec.run import RunContext, State
from pydistdb.sql.exec.scan import TableScanOperator
from pydistdb.sql.exec.setops import Keys, keys_function, row_keys
from pydistdb.sql.exec.sort import MOST_TOP_ROWS, Sorter
from pydistdb.sql.exec.tree_codec import runtime_form
from pydistdb.sql.exec.values import batch_bytes
from pydistdb.sql.plan.distribute import FIRST_OF_GROUPS
from pydistdb.sql.plan.physical import Access, TableScan
from pydistdb.sql.plan.rules.first_rows import MOST_FIRST_ROWS
from pydistdb.sql.resources import NodeResources, session_elsewhere
from pydistdb.sql.tree import Aggregate, AggregateCall, ColumnRef, Expr, OutputColumn, Param, SortKey
from pydistdb.sql.types.base import EvalContext
from pydistdb.tasks import Scheduler

MOST_ROWS = 4_096
MOST_BYTES = 256 << 10
MOST_GROUPS = 10_000
MOST_HELD_BYTES = 4 << 20
"""Of rows and states as Python's objects, after a chunk of entries; MOST_BYTES counts what they were made of."""
_SAMPLE = 8
_ENTRY_BYTES = 100
"""Of a dictionary; keys are made of the values."""

Row = tuple[Any, ...]


def leaf_of(text: Text | ScanText, columns: Any, condition: Sequence[Any]) -> TableScanOperator:
    """The scan that a decoded text describes."""
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
    return TableScanOperator(node)


class Compiled:
    """An operator (``scan``) and the functions of the tail on it; shared by all runs."""

    scan: Operator
    outer: tuple[ColumnRef, ...]
    parameters: tuple[Param, ...]
    dealt_by: tuple[Expr, ...] = ()

    def set_tail(
        self,
        kind: str,
        keys: tuple[SortKey, ...],
        groups: tuple[Expr, ...],
        calls: tuple[AggregateCall, ...],
        sets: tuple[tuple[int, ...], ...] = (),
    ) -> None:
        """Say what is done to the operator's rows (plan/distribute.py)."""
        self.make: Callable[[Compiled, State, int], RowsTail] = RowsTail
        if kind == "sort":
            self.sorter = Sorter(self.scan.code(), keys)
            self.make = TopTail
        elif kind in FIRST_OF_GROUPS:
            self.first = Picker(self.scan.code, groups, keys, kind)
            self.make = FirstTail
        elif kind == "distinct":
            self.keys = row_keys(self.scan.columns)
            self.make = DistinctTail
        elif kind == "aggregate":
            self.operator = AggregateOperator(self.scan, _aggregate(groups, calls, sets))
            self.sets = self.operator.grouping_sets
            self.group_types = [group.type for group in groups]
            self.make = SetsTail if sets else GroupsTail if groups else AggregateTail

    @cached_property
    def deal_keys(self) -> Keys:
        """What rows are dealt out by."""
        return keys_function(self.scan.code(), self.dealt_by)

    def reduced(self, states: Sequence[Any], state: State) -> list[Any]:
        """The states of calls as they are sent: what has been collected in order, and without doublets."""
        return [
            plan.reduced(value, state) if plan.collects else value
            for plan, value in zip(self.operator.calls, states, strict=True)
        ]

    def state(
        self, arguments: Arguments, node: NodeResources | None = None, scheduler: Scheduler | None = None
    ) -> State:
        """What a run starts from; ``node``: where what it holds is counted."""
        context = EvalContext()
        if node is not None:
            context.resources = session_elsewhere(node, arguments.settings)
        context.transaction_timestamp = arguments.transaction_timestamp
        context.statement_timestamp = arguments.statement_timestamp
        context.timezone = arguments.timezone
        context.settings = arguments.settings
        count = max((parameter.index for parameter in self.parameters), default=-1) + 1
        values: list[Any] = [None] * count
        for parameter, stored in zip(self.parameters, arguments.parameters, strict=True):
            values[parameter.index] = runtime_form(parameter.type, stored)
        nothing = cast(Any, None)
        state = State(RunContext(None, nothing, nothing, context, values, scheduler or _NoClock()))
        for column, stored in zip(self.outer, arguments.outer, strict=True):
            state.outer[column.id] = runtime_form(column.type, stored)
        return state


def _aggregate(
    groups: tuple[Expr, ...], calls: tuple[AggregateCall, ...], sets: tuple[tuple[int, ...], ...]
) -> Aggregate:
    parts = [*(group.type for group in groups), *(call.function.return_type for call in calls)]
    columns = tuple([OutputColumn(-1 - number, "", kind) for number, kind in enumerate(parts)])
    return Aggregate(columns, cast(Any, None), groups, calls, sets, (tuple(range(len(groups))),) if sets else ())


class _NoClock:
    """A fragment is given its turns from outside."""

    def now_ns(self) -> int:
        return 0

    def __getattr__(self, name: str) -> Any:
        raise NotImplementedError(name)


class RowsTail:
    """The rows themselves; the first of them, if no more than ``most`` are wanted."""

    def __init__(self, fragment: Compiled, state: State, most: int) -> None:
        self.fragment = fragment
        self.state = state
        self.most = most
        self.rows: list[Row] = []
        self.bytes = 0
        self.held = state.hold()

    def add(self, rows: list[Row]) -> None:
        self.rows += rows
        self.held.take(rows)

    @property
    def is_full(self) -> bool:
        return self.has_enough or 0 < self.most <= len(self.rows)

    @property
    def has_enough(self) -> bool:
        """There are rows for an answer."""
        return len(self.rows) >= MOST_ROWS or self.bytes >= MOST_BYTES or self.holds_much

    @property
    def holds_much(self) -> bool:
        return self.held.size_bytes >= MOST_HELD_BYTES

    def _count_new(self, table: dict[Any, Any], before: int) -> None:
        """Count what has come into ``table`` since it had so many entries: more of them, each as large as some of them are."""
        if count := len(table) - before:
            sample = list(islice(reversed(table.values()), 0, count, -(-count // _SAMPLE)))
            self.held.resize(self.held.size_bytes + (batch_bytes(sample) // len(sample) + _ENTRY_BYTES) * count)

    def finish(self) -> bytes:
        return self.fragment.scan.codec.encode(self.final())

    def final(self) -> list[Row]:
        return self.rows[: self.most] if self.most else self.rows

    def dealt(self, count: int) -> list[tuple[int, bytes]]:
        """What ``finish`` would give in ``count`` parts by the hash of the keys, each with its number of rows."""
        rows = self.final()
        parts = deal(rows, self.fragment.deal_keys(rows, self.state), count)
        encode = self.fragment.scan.codec.encode
        return [(len(part), encode(part) if part else b"") for part in parts]


class TopTail(RowsTail):
    """The first ``most`` rows of an order."""

    def __init__(self, fragment: Compiled, state: State, most: int) -> None:
        super().__init__(fragment, state, most)
        self.cuts = 0 < most <= MOST_TOP_ROWS
        self.full = False

    def add(self, rows: list[Row]) -> None:
        super().add(rows)
        if self.cuts and (len(self.rows) >= 2 * self.most + MOST_ROWS or self.holds_much):
            self._cut()

    def _cut(self) -> None:
        self.fragment.sorter.sort(self.rows, self.state)
        del self.rows[self.most :]
        self.held.resize(batch_bytes(self.rows))
        self.full = 2 * self.held.size_bytes >= MOST_HELD_BYTES

    @property
    def is_full(self) -> bool:
        return self.full if self.cuts else self.has_enough

    def final(self) -> list[Row]:
        if self.cuts:
            self._cut()
        return self.rows


class FirstTail(RowsTail):
    """The first ``most`` rows of each group."""

    def __init__(self, fragment: Compiled, state: State, most: int) -> None:
        super().__init__(fragment, state, most)
        self.cuts = 0 < most <= MOST_FIRST_ROWS
        self.next_cut = 2 * MOST_ROWS
        self.full = False

    def add(self, rows: list[Row]) -> None:
        super().add(rows)
        if self.cuts and (len(self.rows) >= self.next_cut or self.bytes >= 2 * MOST_BYTES or self.holds_much):
            self._cut()

    def _cut(self) -> None:
        before = len(self.rows)
        self.rows = self.fragment.first.pick(self.rows, self.most, self.state)
        kept = len(self.rows)
        self.bytes = self.bytes * kept // max(before, 1)
        self.next_cut = kept + 2 * MOST_ROWS
        self.held.resize(batch_bytes(self.rows))
        self.full = kept >= MOST_ROWS or self.bytes >= MOST_BYTES or 2 * self.held.size_bytes >= MOST_HELD_BYTES

    @property
    def is_full(self) -> bool:
        return self.full if self.cuts else self.has_enough

    def final(self) -> list[Row]:
        if self.cuts:
            self._cut()
        return self.rows


class DistinctTail(RowsTail):
    """One row of each kind."""

    def __init__(self, fragment: Compiled, state: State, most: int) -> None:
        super().__init__(fragment, state, most)
        self.seen: dict[Any, Row] = {}

    def add(self, rows: list[Row]) -> None:
        before = len(self.seen)
        setdefault = self.seen.setdefault
        for key, row in zip(self.fragment.keys(rows, self.state), rows, strict=True):
            setdefault(key, row)
        self._count_new(self.seen, before)

    @property
    def is_full(self) -> bool:
        return len(self.seen) >= MOST_GROUPS or self.holds_much

    def final(self) -> list[Row]:
        return list(self.seen.values())


class AggregateTail(RowsTail):
    """The states of aggregates over all rows; some take more memory with each of them (``grows``)."""

    def __init__(self, fragment: Compiled, state: State, most: int) -> None:
        super().__init__(fragment, state, most)
        self.states = [plan.initial() for plan in fragment.operator.calls]

    def add(self, rows: list[Row]) -> None:
        self.fragment.operator.feed(rows, self.states, self.state)
        if self.fragment.operator.grows:
            self.held.take(rows)

    @property
    def is_full(self) -> bool:
        return self.fragment.operator.grows and (self.bytes >= MOST_BYTES or self.holds_much)

    def finish(self) -> bytes:
        return pack_states([((), *self.fragment.reduced(self.states, self.state))], ())


class GroupsTail(RowsTail):
    """Groups with the states of their aggregates."""

    def __init__(self, fragment: Compiled, state: State, most: int) -> None:
        super().__init__(fragment, state, most)
        self.table: dict[Any, list[Any]] = {}

    def add(self, rows: list[Row]) -> None:
        before = len(self.table)
        self.fragment.sets[0].take(rows, self.table, True, self.state)
        self._count_new(self.table, before)
        if self.fragment.operator.grows:
            self.held.take(rows)

    @property
    def is_full(self) -> bool:
        grows = self.fragment.operator.grows
        return len(self.table) >= MOST_GROUPS or (grows and self.bytes >= MOST_BYTES) or self.holds_much

    def finish(self) -> bytes:
        groups: Iterable[list[Any]] = self.table.values()
        if self.fragment.operator.grows:
            groups = [[group[0], *self.fragment.reduced(group[1:], self.state)] for group in groups]
        return pack_states(groups, self.fragment.group_types)

    def dealt(self, count: int) -> list[tuple[int, bytes]]:
        parts = deal(list(self.table.values()), self.table, count)
        types = self.fragment.group_types
        return [(len(part), pack_states(part, types) if part else b"") for part in parts]


class SetsTail(RowsTail):
    """The groups of several grouping sets, each followed by its GROUPING()."""

    def __init__(self, fragment: Compiled, state: State, most: int) -> None:
        super().__init__(fragment, state, most)
        self.tables: list[dict[Any, list[Any]]] = [{} for _ in fragment.sets]

    def add(self, rows: list[Row]) -> None:
        for grouping_set, table in zip(self.fragment.sets, self.tables, strict=True):
            before = len(table)
            grouping_set.take(rows, table, True, self.state)
            self._count_new(table, before)
        if self.fragment.operator.grows:
            self.held.take(rows)

    @property
    def is_full(self) -> bool:
        grows = self.fragment.operator.grows
        full = sum(map(len, self.tables)) >= MOST_GROUPS or (grows and self.bytes >= MOST_BYTES)
        return full or self.holds_much

    def finish(self) -> bytes:
        groups = [
            [group[0], *self.fragment.reduced(group[1:], self.state), *grouping_set.groupings]
            for grouping_set, table in zip(self.fragment.sets, self.tables, strict=True)
            for group in table.values()
        ]
        return pack_states(groups, self.fragment.group_types)
