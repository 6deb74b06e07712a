"""What ANALYZE finds for statistics objects: how the values of several columns go together, from the table's one sample.

Each attribute's values are numbered once; the combinations of some attributes are numbered by pairing the numbers of all
but the last with the last's, so each set of attributes costs one pass::

    city  zip      numbers (city) 0 0 1     (zip) 0 1 2     (city, zip) 0 1 2
    A     10       distinct       city, zip: 3
    A     11       dependencies   zip => city: 1 (each zip has one city), city => zip: 1/3 (only B's row)
    B     20       mcv            the combinations that are frequent enough, and how frequent they would be by chance

NULL counts as a value.

Source: PostgreSQL 15 manual, 14.2.2 and 76.2; mvdistinct.c, dependencies.c (degree of a dependency), mcv.c (least count).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations, permutations
from typing import Any

from pydistdb.sql.catalog.constraints import column_numbered
from pydistdb.sql.catalog.context import DdlContext
from pydistdb.sql.catalog.describe_columns import countable, describe_column, estimate_distinct, plain
from pydistdb.sql.catalog.descriptors import (
    Column,
    ColumnStatistics,
    CommonCombination,
    JointStatistics,
    StatisticsObject,
    Table,
)
from pydistdb.sql.types import registry
from pydistdb.tasks import give_way

TURN_NS = 5_000_000
TURN_ROWS = 1_000
"""For how many rows expressions are computed in one go."""
Numbers = list[int]


def joint_target(table: Table, statistics: StatisticsObject, default: int) -> int:
    """How many combinations to keep: the object's own target, else the highest of its columns'."""
    if statistics.target >= 0:
        return statistics.target
    own = max((column_numbered(table, number).statistics for number in statistics.columns), default=-1)
    return own if own >= 0 else default


async def describe_together(
    ddl: DdlContext, table: Table, statistics: StatisticsObject, rows: Sequence[Any], total: int, target: int
) -> JointStatistics:
    """Describe a sample's ``rows`` of ``total`` by a statistics object."""
    values = await _values(ddl, table, statistics, rows)
    computed = values[len(statistics.columns) :]
    expressions = tuple(
        describe_column(Column(1, "", each.type_oid), column, total, target)
        for each, column in zip(statistics.expressions, computed, strict=True)
    )
    if not rows or not statistics.kinds:
        return JointStatistics(expressions=expressions)
    types = [column_numbered(table, number).type_oid for number in statistics.columns]
    types += [expression.type_oid for expression in statistics.expressions]
    stored = [_stored(type_oid, column) for type_oid, column in zip(types, values, strict=True)]
    sample = _Sample(ddl, statistics.attributes, stored, total)
    await sample.number_combinations()
    return JointStatistics(
        tuple(sample.distinct()) if "d" in statistics.kinds else (),
        tuple(sample.dependencies()) if "f" in statistics.kinds else (),
        tuple(sample.common(target)) if "m" in statistics.kinds else (),
        expressions,
    )


async def describe_indexed(
    ddl: DdlContext, table: Table, rows: Sequence[Any], total: int, target: int
) -> dict[str, ColumnStatistics]:
    """Describe the expressions of the table's indexes, by their text (not of partial ones: not every row has them)."""
    found = {
        column.expression: column.type_oid
        for index in table.indexes
        if index.is_readable and not index.predicate
        for column in index.columns
        if column.expression
    }
    if not found or not target:
        return {}
    computed = await _computed(ddl, table, list(found), rows)
    return {
        text: describe_column(Column(1, "", oid), values, total, target)
        for (text, oid), values in zip(found.items(), computed, strict=True)
    }


async def _values(ddl: DdlContext, table: Table, statistics: StatisticsObject, rows: Sequence[Any]) -> list[list[Any]]:
    """The sample's values of each attribute."""
    values = [[row[number - 1] for row in rows] for number in statistics.columns]
    if statistics.expressions:
        values += await _computed(ddl, table, [each.text for each in statistics.expressions], rows)
    return values


async def _computed(ddl: DdlContext, table: Table, texts: list[str], rows: Sequence[Any]) -> list[list[Any]]:
    """The sample's values of each expression."""
    from pydistdb.sql.exec.index_keys import row_function

    compute = row_function(table, texts, ddl.view)
    computed: list[Any] = []
    for start in range(0, len(rows), TURN_ROWS):
        computed += map(compute, rows[start : start + TURN_ROWS])
        await give_way(ddl.store.scheduler, TURN_NS)
    return [list(column) for column in zip(*computed, strict=True)] or [[] for _ in texts]


def _stored(type_oid: int, values: Sequence[Any]) -> list[Any]:
    to_storage = registry.io(type_oid).to_storage or (lambda value: value)
    return [None if value is None else countable(to_storage(value)) for value in values]


class _Sample:
    """Some rows' values by attribute, and the numbers of all their combinations."""

    def __init__(self, ddl: DdlContext, attributes: tuple[int, ...], values: list[list[Any]], total: int) -> None:
        self._ddl = ddl
        self._attributes = attributes
        self._values = values
        self._total = total
        self._size = len(values[0])
        self._numbers: dict[tuple[int, ...], Numbers] = {}
        """By the places of the attributes, ascending."""
        self._counts: dict[tuple[int, ...], list[int]] = {}
        """How many rows have each number."""

    async def number_combinations(self) -> None:
        places = range(len(self._attributes))
        for size in range(1, len(self._attributes) + 1):
            for chosen in combinations(places, size):
                last = self._numbers.get(chosen[-1:])
                if size == 1:
                    numbers = _numbered(self._values[chosen[0]])
                else:
                    assert last is not None
                    numbers = _numbered(list(zip(self._numbers[chosen[:-1]], last, strict=True)))
                self._numbers[chosen] = numbers
                counts = [0] * (max(numbers) + 1)
                for number in numbers:
                    counts[number] += 1
                self._counts[chosen] = counts
                await give_way(self._ddl.store.scheduler, TURN_NS)

    def _named(self, places: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(self._attributes[place] for place in places)

    def distinct(self) -> list[tuple[tuple[int, ...], float]]:
        found = []
        for chosen, counts in self._counts.items():
            if len(chosen) > 1:
                estimate = estimate_distinct(Counter(dict(enumerate(counts))), self._size, float(self._total))
                count = estimate if estimate >= 0 else -estimate * self._total
                found.append((self._named(chosen), float(round(count))))
        return found

    def dependencies(self) -> list[tuple[tuple[int, ...], float]]:
        """Of every attribute on every set of others: the share of rows whose set of values goes with one value only."""
        found = []
        places = range(len(self._attributes))
        for size in range(2, len(self._attributes) + 1):
            for order in permutations(places, size):
                given = order[:-1]
                if given != tuple(sorted(given)):
                    continue
                degree = self._degree(given, tuple(sorted(order)))
                if degree > 0:
                    found.append((self._named(order), degree))
        return found

    def _degree(self, given: tuple[int, ...], whole: tuple[int, ...]) -> float:
        pairs = set(zip(self._numbers[given], self._numbers[whole], strict=True))
        partners = Counter(number for number, _ in pairs)
        counts = self._counts[given]
        return sum(counts[number] for number, partner_count in partners.items() if partner_count == 1) / self._size

    def common(self, target: int) -> list[CommonCombination]:
        """The most frequent combinations, if they are frequent enough to be told from chance."""
        whole = tuple(range(len(self._attributes)))
        counts = self._counts[whole]
        least = _least_count(self._size, self._total)
        chosen = sorted((number for number, count in enumerate(counts) if count >= least), key=lambda n: -counts[n])
        chosen = chosen[:target]
        example = {number: row for row, number in enumerate(self._numbers[whole])}
        found = []
        for number in chosen:
            row = example[number]
            base = 1.0
            for place in whole:
                base *= self._counts[place,][self._numbers[place,][row]] / self._size
            values = tuple(plain(column[row]) for column in self._values)
            found.append(CommonCombination(values, counts[number] / self._size, base))
        return found


def _numbered(values: Sequence[Any]) -> Numbers:
    """Equal values get the same number, from 0 on."""
    known: dict[Any, int] = {}
    return [known.setdefault(value, len(known)) for value in values]


def _least_count(size: int, total: int) -> float:
    """How often a combination must occur for its frequency to be known within a fifth or so (mcv.c)."""
    numerator = size * (total - size)
    denominator = total - size + 0.04 * size * (total - 1)
    return numerator / denominator if denominator else 0.0
