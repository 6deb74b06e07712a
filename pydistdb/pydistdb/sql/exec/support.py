"""Helpers that generated code calls: what SQL's expressions need beyond Python's own operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pydistdb.sql.types.arrays import EMPTY, PgArray, nest
from pydistdb.sql.types.base import SqlType
from pydistdb.sql.types.pseudo import Record


def extreme(less: Callable[[Any, Any], Any], greatest: bool, values: Sequence[Any]) -> Any:
    """GREATEST or LEAST: NULLs are left out."""
    best = None
    for value in values:
        if value is not None and (best is None or (less(best, value) if greatest else less(value, best))):
            best = value
    return best


def in_list(equal: Callable[[Any, Any], Any], value: Any, items: Sequence[Any]) -> bool | None:
    """``value IN (items)``."""
    if value is None:
        return None
    has_null = False
    for item in items:
        result = None if item is None else equal(value, item)
        if result:
            return True
        has_null = has_null or result is None
    return None if has_null else False


def any_all(function: Callable[[Any, Any], Any], strict: bool, every: bool, left: Any, array: PgArray | None) -> Any:
    """``left operator ANY (array)``, or ALL if ``every``."""
    if array is None:
        return None
    has_null = False
    for item in array.items:
        result = None if strict and (left is None or item is None) else function(left, item)
        if result is None:
            has_null = True
        elif bool(result) is not every:
            return not every
    return None if has_null else every


def array_set(array: PgArray | None) -> tuple[frozenset[Any], bool] | None:
    """An array's items for ``= ANY``: those that are not NULL, and whether there are NULLs."""
    if array is None:
        return None
    items = frozenset(array.items)
    return items - {None}, None in items


def in_array_set(value: Any, items: tuple[frozenset[Any], bool] | None) -> bool | None:
    if items is None:
        return None
    if value is None:
        return None if items[0] or items[1] else False
    if value in items[0]:
        return True
    return None if items[1] else False


def flat_array(items: tuple[Any, ...]) -> PgArray:
    return PgArray.of(items)


def nested_array(items: tuple[Any, ...]) -> PgArray:
    return nest([EMPTY if item is None else item for item in items])


def array_item(array: PgArray | None, indexes: tuple[int | None, ...]) -> Any:
    """``array[i][j]``: NULL outside the bounds or for the wrong number of indexes."""
    if array is None or len(indexes) != len(array.dimensions):
        return None
    offset = 0
    for index, extent, lower in zip(indexes, array.dimensions, array.lower_bounds, strict=True):
        if index is None or not 0 <= index - lower < extent:
            return None
        offset = offset * extent + index - lower
    return array.items[offset]


def array_slice(array: PgArray | None, bounds: tuple[tuple[int | None, int | None, bool, bool], ...]) -> PgArray | None:
    """``array[a:b]…``: an empty array where nothing lies inside; missing bounds are the array's own."""
    if array is None:
        return None
    if len(bounds) > len(array.dimensions):
        return EMPTY
    ranges: list[range] = []
    for axis, (extent, lower) in enumerate(zip(array.dimensions, array.lower_bounds, strict=True)):
        start, end = lower, lower + extent - 1
        if axis < len(bounds):
            low, high, has_low, has_high = bounds[axis]
            if (has_low and low is None) or (has_high and high is None):
                return None
            start = max(start, low) if has_low and low is not None else start
            end = min(end, high) if has_high and high is not None else end
        if start > end:
            return EMPTY
        ranges.append(range(start - lower, end - lower + 1))
    offsets = [0]
    for extent, chosen in zip(array.dimensions, ranges, strict=True):
        offsets = [offset * extent + index for offset in offsets for index in chosen]
    dimensions = tuple(len(chosen) for chosen in ranges)
    return PgArray(tuple(array.items[offset] for offset in offsets), dimensions, (1,) * len(dimensions))


def record(values: tuple[Any, ...], shape: tuple[tuple[SqlType, ...], tuple[str, ...]]) -> Record:
    """A row value that knows its fields' types and names."""
    return Record(values, *shape)


def record_field(row: tuple[Any, ...] | None, position: int) -> Any:
    """A field of a row; one that was added to its type later is NULL."""
    return None if row is None or position >= len(row) else row[position]


def record_is_null(value: tuple[Any, ...] | None, negated: bool) -> bool:
    """``record IS [NOT] NULL``: all fields are, or none is; a row among them is a value, whatever it holds."""
    if value is None:
        return not negated
    return all((item is not None) if negated else (item is None) for item in value)
