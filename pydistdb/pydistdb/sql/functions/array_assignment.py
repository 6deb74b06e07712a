"""Replacing elements of arrays, for ``UPDATE … SET a[2] = x``.

A one-dimensional array grows as needed, with NULLs in between; one of several dimensions does not::

    >>> array_set(PgArray.of([1, 2]), 9, 4)
    PgArray((1, 2, None, 9), (4,), (1,))

Not in pg_proc; only the binder calls these.

Source: PostgreSQL 15, arrayfuncs.c (array_set_element, array_set_slice).
"""

from __future__ import annotations

from typing import Any

from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.types.arrays import EMPTY, MOST_ITEMS, PgArray
from pydistdb.sql.types.base import Function
from pydistdb.sql.types.known import ANY, ANYARRAY, INT4


def _subscript_error(message: str) -> DatabaseError:
    return DatabaseError.of("2202E", message)


def array_set(array: PgArray | None, value: Any, *indexes: int | None) -> PgArray:
    numbers = [index for index in indexes if index is not None]
    if len(numbers) < len(indexes):
        raise DatabaseError.of("22004", "array subscript in assignment must not be null")
    if array is None or not array.dimensions:
        return PgArray((value,), (1,) * len(numbers), tuple(numbers))
    if len(numbers) != len(array.dimensions):
        raise _subscript_error("wrong number of array subscripts")
    if len(numbers) == 1:
        return _spread(array, numbers[0], [value])
    offset = 0
    for index, extent, lower in zip(numbers, array.dimensions, array.lower_bounds, strict=True):
        if not 0 <= index - lower < extent:
            raise _subscript_error("array subscript out of range")
        offset = offset * extent + index - lower
    return array.with_items((*array.items[:offset], value, *array.items[offset + 1 :]))


def _spread(array: PgArray, start: int, values: list[Any]) -> PgArray:
    """Put values into a one-dimensional array from ``start`` on, making room."""
    lower = array.lower_bounds[0]
    items = list(array.items)
    if start < lower:
        _check_size(lower - start + len(items))
        items = [None] * (lower - start) + items
        lower = start
    end = start - lower + len(values)
    if end > len(items):
        _check_size(end)
        items += [None] * (end - len(items))
    items[start - lower : end] = values
    return PgArray(tuple(items), (len(items),), (lower,))


def _check_size(count: int) -> None:
    if count > MOST_ITEMS:
        raise DatabaseError.of("54000", f"array size exceeds the maximum allowed ({MOST_ITEMS})")


def array_set_slice(array: PgArray | None, source: PgArray | None, low: int | None, high: int | None) -> PgArray | None:
    if source is None:
        return array
    array = EMPTY if array is None else array
    if len(array.dimensions) > 1:
        raise DatabaseError.of("0A000", "assigning to slices of several dimensions is not supported")
    if not array.dimensions:
        if low is None or high is None:
            raise _subscript_error("array slice subscript must provide both boundaries")
        array = PgArray((), (0,), (low,))
    lower = array.lower_bounds[0]
    start = lower if low is None else low
    end = lower + len(array.items) - 1 if high is None else high
    if start > end + 1:
        raise _subscript_error("upper bound cannot be less than lower bound")
    if len(source.items) < end - start + 1:
        raise _subscript_error("source array too small")
    made = _spread(array, start, list(source.items[: end - start + 1]))
    return made if made.items else EMPTY


ARRAY_SET = Function(0, "array_set", (ANYARRAY, ANY, INT4), ANYARRAY, array_set, strict=False)
ARRAY_SET_SLICE = Function(
    0, "array_set_slice", (ANYARRAY, ANYARRAY, INT4, INT4), ANYARRAY, array_set_slice, strict=False
)
