"""The groups of GROUP BY: one dictionary per grouping set, and partition files past ``work_mem``.

Once the dictionary is full, rows of groups that are in it are still taken; those of others are dealt out to PARTITIONS files
by the hash of their key, and so are states of such groups that come from other nodes (to files of their own).  Afterwards each
partition is worked off in the same way, with another hash if need be::

    room        1: [3, 17]   2: [1, 5]         group: its states
    no more     a row of group 1 updates it; a row of group 9 goes to file hash(9) % 16

Source: G. Graefe, "Query evaluation techniques for large databases" (1993), 4.2: hybrid hashing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydistdb.sql.exec.codegen import Code, scope, tuple_source
from pydistdb.sql.exec.fragment import Partials, PartialsCodec
from pydistdb.sql.exec.memory import Holding
from pydistdb.sql.exec.operator import Batch
from pydistdb.sql.exec.run import State
from pydistdb.sql.exec.spill import SpillFile, in_batches
from pydistdb.sql.exec.values import row_bytes, sort_template
from pydistdb.sql.plan.distribute import largest_sets
from pydistdb.sql.plan.expressions import rewrite
from pydistdb.sql.tree import ColumnRef, Const, Expr

if TYPE_CHECKING:
    from pydistdb.sql.exec.aggregate import AggregateOperator
    from pydistdb.sql.exec.aggregate_calls import CallPlan

PARTITIONS = 16
DEEPEST_PARTITION = 4
GROUP_BYTES = 200
"""What a group takes besides its key, about."""

Table = dict[Any, list[Any]]


def group_key_source(code: Code, groups: Sequence[Expr]) -> str:
    """Source of a dictionary key that is equal for equal groups (NULLs are equal here)."""
    parts: list[str] = []
    for group in groups:
        source = code.value(group)
        template = sort_template(group.type, code.namespace)
        if template != "{0}":
            if not source.isidentifier():
                name = code.temporary()
                source, part = f"({name} := {source})", template.format(name)
            else:
                part = template.format(source)
            source = f"(None if {source} is None else {part})"
        parts.append(source)
    return parts[0] if len(parts) == 1 else tuple_source(parts)


def _grouping(positions: Sequence[int], chosen: set[int]) -> int:
    """GROUPING() of groups at these positions in a set of groups."""
    return sum((position not in chosen) << bit for bit, position in enumerate(reversed(positions)))


class GroupingSet:
    """The code for one grouping set; groups outside it are NULL."""

    def __init__(self, operator: AggregateOperator, chosen: set[int]) -> None:
        self.operator = operator
        self.chosen = chosen
        self.groups: list[Expr] = [
            group if position in chosen else Const(group.type, None)
            for position, group in enumerate(operator.node.groups)
        ]
        self.calls = [self._call(plan) for plan in operator.calls]
        self.groupings = [_grouping(positions, chosen) for positions in operator.node.groupings]
        sets = operator.node.grouping_sets
        self.is_alone = len(sets) < 2
        largest = largest_sets(sets)
        self._source = next((_grouping(range(len(self.groups)), set(one)) for one in largest if chosen <= set(one)), 0)
        """The GROUPING() of the largest set that this is a part of, of all groups."""
        self._has_sources = len(largest) > 1

    def _call(self, plan: CallPlan) -> CallPlan:
        """The call with its direct arguments as this set has them: they are made of the groups."""
        outside = [group for position, group in enumerate(self.operator.node.groups) if position not in self.chosen]
        call, function = plan.call, plan.function
        if not outside or not function.ordered_set:
            return plan
        count = len(call.order_by) if function.hypothetical else function.direct_count
        direct = [
            rewrite(argument, lambda part: Const(part.type, None) if part in outside else part)
            for argument in call.arguments[:count]
        ]
        return type(plan)(replace(call, arguments=(*direct, *call.arguments[count:])))

    @cached_property
    def keys(self) -> Callable[[Batch, State], list[Any]]:
        code = self.operator.source.code()
        source = group_key_source(code, self.groups)
        function: Callable[[Batch, State], list[Any]] = code.build("f(batch, S)", f"return [{source} for r in batch]")
        return function

    @cached_property
    def take(self) -> Callable[[Batch, Table, bool, State], Batch]:
        """``f(batch, table, room, S)``: updates the groups; returns the rows of new groups if there is no room."""
        operator = self.operator
        code = operator.source.code()
        key = group_key_source(code, self.groups)
        values = tuple_source(list(map(code.value, self.groups)))
        for position, plan in enumerate(self.calls):
            code.namespace[f"initial{position}"] = plan.initial
        initials = "".join(
            f", {'0' if plan.is_star else f'initial{position}()'}" for position, plan in enumerate(self.calls)
        )
        lines = [
            "get = table.get",
            "rest = []",
            "for r in batch:",
            f"    k = {key}",
            "    if (g := get(k)) is None:",
            "        if not room:",
            "            rest.append(r)",
            "            continue",
            f"        g = table[k] = [{values}{initials}]",
        ]
        for position, plan in enumerate(self.calls):
            condition = "" if plan.call.filter is None else code.truth(plan.call.filter)
            rows = operator._row_lines(code, plan, position, f"g[{position + 1}]", condition)
            lines.extend(f"    {line}" for line in rows)
        lines.append("return rest")
        function: Callable[[Batch, Table, bool, State], Batch] = code.build(
            "f(batch, table, room, S)", "\n".join(lines)
        )
        return function

    def finished(self, groups: Iterable[Sequence[Any]], state: State) -> Batch:
        """The rows of groups, each its values and then a state per call."""
        calls, groupings = self.operator.calls, self.groupings
        return [
            (*group[0], *[plan.finish(value, state) for plan, value in zip(calls, group[1:], strict=True)], *groupings)
            for group in groups
        ]

    def adopted(self, batch: Partials) -> Batch:
        """Groups from elsewhere, as tails make them (plan/distribute.py), as groups of this set alone."""
        if self.is_alone:
            return batch
        rows = [row for row in batch if row[-1] == self._source] if self._has_sources else batch
        count, chosen, calls = len(self.groups), self.chosen, self.calls
        return [
            (
                *[row[position] if position in chosen else None for position in range(count)],
                *[plan.joined(plan.initial(), value) for plan, value in zip(calls, row[count:], strict=False)],
            )
            for row in rows
        ]

    def join(self, batch: Partials, table: Table, state: State) -> None:
        """Take groups with states from elsewhere into a table that has room for all."""
        count = len(self.groups)
        for key, row in zip(self.partial_keys(batch, state), batch, strict=True):
            group = table.get(key)
            if group is None:
                table[key] = [row[:count], *row[count:]]
            else:
                for position, plan in enumerate(self.calls, 1):
                    group[position] = plan.joined(group[position], row[count + position - 1])

    @cached_property
    def partial_keys(self) -> Callable[[Batch, State], list[Any]]:
        """As ``keys``, for rows that begin with the values of the groups."""
        columns = [ColumnRef(group.type, position) for position, group in enumerate(self.groups)]
        code = Code(scope(range(len(columns)), set()))
        source = group_key_source(code, columns)
        function: Callable[[Batch, State], list[Any]] = code.build("f(batch, S)", f"return [{source} for r in batch]")
        return function


class GroupingRun:
    """One grouping set in one run (and, after overflow, in one partition of it)."""

    def __init__(self, grouping_set: GroupingSet, held: Holding, level: int = 0) -> None:
        self.set = grouping_set
        self.level = level
        self.table: Table = {}
        self.overflow: list[SpillFile] = []
        self._held = held
        self._partial_overflow: list[SpillFile] = []
        self._group_bytes = 0

    def take(self, batch: Batch, state: State) -> None:
        room = not self.overflow
        rest = self.set.take(batch, self.table, room, state)
        if rest:
            self._spill(rest, state)
        elif room:
            self._check_room()

    def take_partials(self, batch: Partials, state: State) -> None:
        """Take groups with states from elsewhere in."""
        self._take_groups(self.set.adopted(batch), state)

    def _take_groups(self, batch: Batch, state: State) -> None:
        table, room, calls = self.table, not self.overflow, self.set.operator.calls
        count = len(self.set.groups)
        parts: list[Batch] = [[] for _ in self._partial_overflow]
        for key, row in zip(self.set.partial_keys(batch, state), batch, strict=True):
            group = table.get(key)
            if group is not None:
                for position, plan in enumerate(calls, 1):
                    group[position] = plan.joined(group[position], row[count + position - 1])
            elif room:
                table[key] = [row[:count], *row[count:]]
            else:
                parts[hash((self.level, key)) % PARTITIONS].append(row)
        for file, part in zip(self._partial_overflow, parts, strict=True):
            file.write(part)
        if room:
            self._check_room()

    def _check_room(self) -> None:
        held = self._held
        held.resize(self._used_bytes())
        if held.is_over and self.level < DEEPEST_PARTITION:
            self.overflow = [held.file(self.set.operator.source.codec) for _ in range(PARTITIONS)]
            group_types = [group.type for group in self.set.groups]
            self._partial_overflow = [held.file(PartialsCodec(group_types)) for _ in range(PARTITIONS)]
            held.usage.batches += PARTITIONS

    def _used_bytes(self) -> int:
        if not self._group_bytes:
            group = next(iter(self.table.values()), None)
            if group is None:
                return 0
            self._group_bytes = row_bytes(group[0]) + GROUP_BYTES
        return self._group_bytes * len(self.table)

    def _spill(self, rest: Batch, state: State) -> None:
        parts: list[Batch] = [[] for _ in self.overflow]
        for row, key in zip(rest, self.set.keys(rest, state), strict=True):
            parts[hash((self.level, key)) % PARTITIONS].append(row)
        for file, part in zip(self.overflow, parts, strict=True):
            file.write(part)

    async def results(self, state: State) -> AsyncIterator[Batch]:
        if not self.table and not self.set.chosen and self.level == 0:
            nulls = (None,) * len(self.set.groups)
            initials = [plan.initial() for plan in self.set.operator.calls]
            yield self.set.finished([[nulls, *initials]], state)
            return
        groups = list(self.table.values())
        self.table = {}
        for part in in_batches(groups):  # type: ignore[arg-type]
            yield self.set.finished(part, state)
            await state.breathe()
        del groups
        self._held.clear()
        files, self.overflow = zip(self.overflow, self._partial_overflow, strict=True), []
        for file, partial_file in files:
            run = GroupingRun(self.set, self._held, self.level + 1)
            for batch in file.read():
                run.take(batch, state)
                await state.breathe()
            file.close()
            for batch in partial_file.read():
                run._take_groups(batch, state)
                await state.breathe()
            partial_file.close()
            async for output in run.results(state):
                yield output
