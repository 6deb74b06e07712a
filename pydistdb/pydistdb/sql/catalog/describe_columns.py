"""What a sample of a column's values says of all of them, with Postgres's own estimators.

Haas and Stokes's for the number of distinct values where not all rows' were counted (sketch.py), common values with their
frequencies, and an equi-depth histogram of the rest (manual 76.1; analyze.c's comments name the paper)::

    sample 1 1 1 2 3 of 500 rows        distinct 3 in the sample, 1 of them common (0.6), bounds 2 and 3
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from pydistdb_storage.keys import key_encoder

from pydistdb.sql.catalog.descriptors import Column, ColumnStatistics
from pydistdb.sql.types import registry

DEFAULT_TARGET = 100
"""default_statistics_target."""
ALMOST_ALL = 0.95
"""Sketches are off by a few per cent: so many different values, and none twice in the sample, are as many as there are rows."""
WIDEST_VALUE_BYTES = 1_000
"""Longer values are left out of the statistics."""


def describe_column(
    column: Column, values: Sequence[Any], total: int, target: int = DEFAULT_TARGET, counted: Counted | None = None
) -> ColumnStatistics:
    """Statistics of one column from a sample of ``total`` rows' values: at most ``target`` common values and buckets.

    ``counted``: how many different values were counted in more rows than those of the sample, if they were."""
    if not values:
        return ColumnStatistics()
    io = registry.io(column.type_oid)
    to_storage = io.to_storage or (lambda value: value)
    present = [to_storage(value) for value in values if value is not None]
    null_fraction = 1 - len(present) / len(values)
    widths = _widths(present)
    width = round(sum(widths) / len(present)) if present else 0
    hashable = present
    if max(widths, default=0) > WIDEST_VALUE_BYTES:
        hashable = [value for value, each in zip(present, widths, strict=True) if each <= WIDEST_VALUE_BYTES]
    if not _PLAIN_TYPES.issuperset(map(type, present)):
        hashable = list(map(countable, hashable))
    if not hashable:
        return ColumnStatistics(null_fraction, 0.0 if not present else -1.0, width)
    counts = Counter(hashable)
    distinct = estimate_distinct(counts, len(hashable), total * (1 - null_fraction), counted)
    sample_size = len(values)
    ordered: list[Any] = []
    if io.key_kind is not None:
        ordered = _sorted(io.key_kind, io.from_storage, counts)
        counts = Counter({value: counts[value] for value in ordered})  # so equally common values come in order
    common = _common_values(counts, len(hashable), target)
    minimum = maximum = None
    histogram: tuple[Any, ...] = ()
    if ordered:
        minimum, maximum = ordered[0], ordered[-1]
        taken = {value for value, _ in common}
        rest = [value for value in ordered if value not in taken]
        histogram = _histogram([value for value in rest for _ in range(counts[value])], len(rest), target)
    return ColumnStatistics(
        null_fraction,
        distinct,
        width,
        plain(minimum),
        plain(maximum),
        tuple(plain(value) for value, _ in common),
        tuple(count / sample_size for _, count in common),
        tuple(plain(value) for value in histogram),
    )


def estimate_distinct(counts: Counter[Any], sample_size: int, total: float, counted: Counted | None = None) -> float:
    """Distinct values in all rows, as stadistinct: negative for a share of the rows.

    Haas and Stokes, "Estimating the number of classes in a finite population" (1998), estimator Duj1."""
    once = sum(1 for count in counts.values() if count == 1)
    distinct = len(counts)
    exact = counted is not None and counted.all_rows
    if once == distinct == sample_size and (counted is None or not exact or counted.values >= ALMOST_ALL * total):
        return -1.0
    least = max(counted.values, float(distinct)) if counted is not None else float(distinct)
    if exact or once == 0 or sample_size >= total:
        estimate = min(least, total)
    else:
        estimate = sample_size * distinct / (sample_size - once + once * sample_size / total)
        estimate = min(max(estimate, least), total)
    return -estimate / total if total and estimate > 0.1 * total else float(round(estimate))


def _common_values(counts: Counter[Any], sample_size: int, most: int) -> list[tuple[Any, int]]:
    """Values that are clearly more frequent than the average, most frequent first."""
    if len(counts) <= most and all(count > 1 for count in counts.values()):
        return counts.most_common()
    least = max(2.0, 1.25 * sample_size / len(counts))
    return [(value, count) for value, count in counts.most_common(most) if count >= least]


def _histogram(ordered: list[Any], distinct: int, target: int) -> tuple[Any, ...]:
    """Bounds that cut ``ordered`` into equally populated buckets."""
    if distinct < 2:
        return ()
    buckets = min(target, distinct - 1)
    last = len(ordered) - 1
    return tuple(ordered[index * last // buckets] for index in range(buckets + 1))


def _sorted(kind: str, from_storage: Any, values: Counter[Any]) -> list[Any]:
    if kind in _ORDERED_KINDS:
        return sorted(values)
    if kind == "decimal":  # comparing is five times as fast as encoding
        numbers = {value: from_storage(value) for value in values}
        return sorted(values, key=lambda value: (True, 0) if numbers[value].is_nan() else (False, numbers[value]))
    encode = key_encoder([kind])
    if from_storage is None:
        return sorted(values, key=lambda value: encode([value]))
    return sorted(values, key=lambda value: encode([from_storage(plain(value))]))


_ORDERED_KINDS = frozenset({"bool", "int", "text"})
"""Kinds of keys whose stored values Python orders as their encodings are ordered: characters, too, as their UTF-8 is."""
_PLAIN_TYPES = frozenset({bool, int, float, str, bytes})
"""What can be counted as it is."""


def _widths(values: Sequence[Any]) -> list[int]:
    """Bytes of each value, roughly; all at once where they are of a type that makes it simple."""
    found = set(map(type, values))
    if found <= {str, bytes}:
        return list(map(len, values))
    return [8] * len(values) if found <= {int, float} else list(map(_width, values))


def _width(value: Any) -> int:
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, (list, tuple)):
        return sum(map(_width, value)) + 8
    if isinstance(value, dict):
        return sum(map(_width, value.values())) + 8
    return 1 if isinstance(value, bool) else 8


class Counted(NamedTuple):
    """About how many different ``values`` rows have: all of them, or so many that they are a lower bound."""

    values: float
    all_rows: bool


class _Pairs(tuple[Any, ...]):
    """A stored map (an array with bounds of its own) that can be counted."""


def countable(value: Any) -> Any:
    """A stored value as something that can be counted."""
    if isinstance(value, dict):
        return _Pairs((key, countable(item)) for key, item in value.items())
    return tuple(countable(item) for item in value) if isinstance(value, (list, tuple)) else value


def plain(value: Any) -> Any:
    """The stored value again."""
    if isinstance(value, _Pairs):
        return {key: plain(item) for key, item in value}
    return [plain(item) for item in value] if isinstance(value, tuple) else value
