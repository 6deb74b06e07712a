"""What ANALYZE knows of one column, asked by value: which share of the rows is equal to it, or below it?

The most common values are known one by one; the rest is taken to be spread evenly over the distinct values (equality) or over
the buckets of the histogram, between whose bounds numbers and times are interpolated::

    common 7: 30 %, 8: 20 %   nulls 10 %   histogram [0, 50, 100]
    = 7    0.3                             < 7    half of the rest's 40 % scaled by 7 / 50: 0.028
    = 5    0.4 / (distinct - 2)            > 8    0.4 * (1 - 0.08)

Source: PostgreSQL 15 manual, chapter 76 "How the Planner Uses Statistics".
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from decimal import Decimal
from functools import cached_property, lru_cache
from typing import Any

from pydistdb_storage.keys import key_encoder

from pydistdb.sql.catalog.descriptors import ColumnStatistics
from pydistdb.sql.plan.comparisons import family
from pydistdb.sql.types import known
from pydistdb.sql.types import registry as types
from pydistdb.sql.types.calendar import MICROSECONDS_PER_DAY

MOST_COLUMNS = 500
"""Facts of so many columns are kept, each of some 200 values."""
MOST_TRIALS = 100
"""How many values a function is tried on."""
_MOMENTS = {known.DATE.oid: MICROSECONDS_PER_DAY, known.TIMESTAMP.oid: 1, known.TIMESTAMPTZ.oid: 1}


def _rank(oid: int) -> Callable[[Any], Any] | None:
    """Makes values of a type comparable, with those of like types too; None if that can't be."""
    if oid in _MOMENTS:
        scale = _MOMENTS[oid]
        return lambda value: float(value * scale)
    if types.type_by_oid(oid).category == "N":
        return lambda value: float(value) if isinstance(value, int | float | Decimal) else 0.0
    kind = types.io(oid).key_kind
    if kind is None:
        return None
    encode = key_encoder([kind])
    return lambda value: encode([value])


def _like(oid: int, other: int) -> bool:
    """Whether values of two types can be ranked together."""
    if oid in _MOMENTS or other in _MOMENTS:
        return oid in _MOMENTS and other in _MOMENTS
    categories = {types.type_by_oid(oid).category, types.type_by_oid(other).category}
    return categories == {"N"} or family(oid) == family(other)


class ColumnFacts:
    """The statistics of one column of so many ``rows``."""

    def __init__(self, oid: int, statistics: ColumnStatistics, rows: float) -> None:
        self.oid = oid
        self.statistics = statistics
        self.rows = max(rows, 1.0)
        self.nulls = statistics.null_fraction
        count = statistics.distinct if statistics.distinct >= 0 else -statistics.distinct * rows
        self.distinct = max(count, 1.0)
        self.common_share = sum(statistics.common_frequencies)

    @cached_property
    def _values(self) -> tuple[list[Any], list[Any]]:
        """Common values and histogram bounds as the executor has them."""
        io = types.io(self.oid)
        convert = io.from_storage or (lambda value: value)
        return (
            [convert(value) for value in self.statistics.common_values],
            [convert(value) for value in self.statistics.histogram],
        )

    @cached_property
    def _ranks(self) -> tuple[list[Any], list[Any]] | None:
        rank = _rank(self.oid)
        if rank is None:
            return None
        common, histogram = self._values
        return [rank(value) for value in common], [rank(value) for value in histogram]

    @property
    def rest(self) -> float:
        """The share of values that are neither NULL nor common."""
        return max(1 - self.nulls - self.common_share, 0.0)

    def _rank_of(self, value: Any, oid: int) -> Any:
        if not _like(self.oid, oid):
            return None
        rank = _rank(oid)
        try:
            return None if rank is None else rank(value)
        except (TypeError, ValueError, OverflowError):
            return None

    def equal(self, value: Any, oid: int) -> float:
        """The share of rows that equal a value; by the average if it can't be told."""
        ranks = self._ranks
        rank = None if ranks is None else self._rank_of(value, oid)
        if ranks is None or rank is None:
            return (1 - self.nulls) / self.distinct
        for known_rank, frequency in zip(ranks[0], self.statistics.common_frequencies, strict=False):
            if known_rank == rank:
                return frequency
        return self.rest / max(self.distinct - len(ranks[0]), 1.0)

    def below(self, value: Any, oid: int, inclusive: bool) -> float | None:
        """The share of rows below a value (or equal to it); None if that can't be told."""
        ranks = self._ranks
        rank = None if ranks is None else self._rank_of(value, oid)
        if ranks is None or rank is None:
            return None
        common, histogram = ranks
        if not common and not histogram:
            return None
        share = sum(
            frequency
            for known_rank, frequency in zip(common, self.statistics.common_frequencies, strict=False)
            if known_rank < rank or (inclusive and known_rank == rank)
        )
        return share + self.rest * _position(histogram, rank)

    def tried(self, test: Callable[[Any], Any]) -> float | None:
        """The share of rows for which a function is true, by trying it on the values that are known."""
        common, histogram = self._values
        if not common and len(histogram) < 10:
            return None
        try:
            share = sum(
                frequency
                for value, frequency in zip(common, self.statistics.common_frequencies, strict=False)
                if test(value) is True
            )
            if histogram:
                passed = sum(test(value) is True for value in histogram[:MOST_TRIALS])
                share += self.rest * max(passed / min(len(histogram), MOST_TRIALS), 0.5 / len(histogram))
        except Exception:  # whatever the function thinks of values that the query may never show it
            return None
        return share


class _ByIdentity:
    """Statistics as a key: those of another ANALYZE are others, whatever they say."""

    __slots__ = ("statistics",)

    def __init__(self, statistics: ColumnStatistics) -> None:
        self.statistics = statistics

    def __hash__(self) -> int:
        return id(self.statistics)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByIdentity) and self.statistics is other.statistics


@lru_cache(maxsize=MOST_COLUMNS)
def _remembered(oid: int, key: _ByIdentity, rows: float) -> ColumnFacts:
    return ColumnFacts(oid, key.statistics, rows)


def column_facts(oid: int, statistics: ColumnStatistics, rows: float) -> ColumnFacts:
    """The facts of one column, made once for all statements: to rank a hundred values costs what planning a point select does."""
    return _remembered(oid, _ByIdentity(statistics), rows)


def _position(histogram: list[Any], rank: Any) -> float:
    """Which share of the histogram lies below a value."""
    if len(histogram) < 2:
        return 0.5
    place = bisect_left(histogram, rank)
    if place == 0:
        return 0.0
    if place == len(histogram):
        return 1.0
    low, high = histogram[place - 1], histogram[place]
    inside = 0.5
    if isinstance(low, float) and high > low:
        inside = (rank - low) / (high - low)
    return (place - 1 + inside) / (len(histogram) - 1)
