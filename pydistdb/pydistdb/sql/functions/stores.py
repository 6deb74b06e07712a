"""New values made of old ones with a part replaced: array items and slices, fields of rows, paths into jsonb.

    set_item({1,2,3}, 9, 5)           {1,2,3,NULL,9}: an array of one dimension grows, filled up with NULLs
    jsonb_assign({"a": 1}, 2, 'b')    {"a": 1, "b": 2}

Source: PostgreSQL 15 manual, 8.15.4, 8.14.5; arrayfuncs.c and jsonfuncs.c for where what is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.functions.json_reading import path_index
from pydistdb.sql.types.arrays import EMPTY, PgArray, check_shape
from pydistdb.sql.types.json import dump, load


def field_setter(position: int, width: int) -> Callable[[Any, Any], tuple[Any, ...]]:
    """Make the function that replaces one field of a row of ``width`` slots."""

    def set_field(row: tuple[Any, ...] | None, value: Any) -> tuple[Any, ...]:
        items = list(row or ())
        items += [None] * (width - len(items))
        items[position] = value
        return tuple(items)

    return set_field


# ------------------------------------------------------------------------------------------------ arrays


def _out_of_range() -> DatabaseError:
    return DatabaseError.of("2202E", "array subscript out of range")


def _wrong_number() -> DatabaseError:
    return DatabaseError.of("2202E", "wrong number of array subscripts")


def _given(indexes: tuple[int | None, ...]) -> tuple[int, ...]:
    if None in indexes:
        raise DatabaseError.of("22004", "array subscript in assignment must not be null")
    return tuple(index for index in indexes if index is not None)


def _grown(array: PgArray, low: int, high: int) -> PgArray:
    """An array of one dimension that reaches at least from ``low`` to ``high``."""
    lower, extent = array.lower_bounds[0], array.dimensions[0]
    before, after = max(0, lower - low), max(0, high - (lower + extent - 1))
    if not before and not after:
        return array
    check_shape((before + extent + after,))
    return PgArray((None,) * before + array.items + (None,) * after, (before + extent + after,), (lower - before,))


def set_item(array: PgArray | None, value: Any, *indexes: int | None) -> PgArray:
    """``array[i][j] = value``."""
    where = _given(indexes)
    if array is None or not array.dimensions:
        return PgArray((value,), (1,) * len(where), where)
    if len(where) != len(array.dimensions):
        raise _wrong_number()
    if len(where) == 1:
        array = _grown(array, where[0], where[0])
    offset = 0
    for index, extent, lower in zip(where, array.dimensions, array.lower_bounds, strict=True):
        if not 0 <= index - lower < extent:
            raise _out_of_range()
        offset = offset * extent + index - lower
    return array.with_items((*array.items[:offset], value, *array.items[offset + 1 :]))


def slice_setter(given: tuple[tuple[bool, bool], ...]) -> Callable[..., PgArray | None]:
    """Make the function that replaces a slice; ``given`` tells which bounds were written."""

    def set_slice(array: PgArray | None, source: PgArray | None, *bounds: int | None) -> PgArray | None:
        pairs: list[tuple[int | None, int | None]] = []
        for axis, (has_low, has_high) in enumerate(given):
            low, high = bounds[2 * axis], bounds[2 * axis + 1]
            if (has_low and low is None) or (has_high and high is None):
                raise DatabaseError.of("22004", "array subscript in assignment must not be null")
            pairs.append((low if has_low else None, high if has_high else None))
        if source is None:
            return array
        return _replace_slice(array or EMPTY, source, pairs)

    return set_slice


def _replace_slice(array: PgArray, source: PgArray, pairs: list[tuple[int | None, int | None]]) -> PgArray:
    if not array.dimensions:
        return _fresh_slice(source, pairs)
    if len(pairs) > len(array.dimensions):
        raise _wrong_number()
    ranges: list[tuple[int, int]] = []
    for axis, (extent, lower) in enumerate(zip(array.dimensions, array.lower_bounds, strict=True)):
        low, high = pairs[axis] if axis < len(pairs) else (None, None)
        ranges.append((lower if low is None else low, lower + extent - 1 if high is None else high))
        if ranges[-1][0] > ranges[-1][1]:
            raise DatabaseError.of("2202E", "upper bound cannot be less than lower bound")
    if len(ranges) == 1:
        array = _grown(array, *ranges[0])
    offsets = [0]
    for (low, high), extent, lower in zip(ranges, array.dimensions, array.lower_bounds, strict=True):
        if low < lower or high > lower + extent - 1:
            raise _out_of_range()
        offsets = [offset * extent + index - lower for offset in offsets for index in range(low, high + 1)]
    if len(source.items) < len(offsets):
        raise DatabaseError.of("2202E", "source array too small")
    items = list(array.items)
    for offset, item in zip(offsets, source.items, strict=False):
        items[offset] = item
    return array.with_items(items)


def _fresh_slice(source: PgArray, pairs: list[tuple[int | None, int | None]]) -> PgArray:
    """A slice of nothing: the new array has the slice's bounds."""
    dimensions: list[int] = []
    lower_bounds: list[int] = []
    size = 1
    for low, high in pairs:
        if low is None or high is None:
            raise DatabaseError.of(
                "2202E",
                "array slice subscript must provide both boundaries",
                detail="When assigning to a slice of an empty array value, slice boundaries must be fully specified.",
            )
        if low > high:
            raise DatabaseError.of("2202E", "upper bound cannot be less than lower bound")
        dimensions.append(high - low + 1)
        lower_bounds.append(low)
        size *= high - low + 1
    check_shape(dimensions)
    if len(source.items) < size:
        raise DatabaseError.of("2202E", "source array too small")
    return PgArray(source.items[:size], tuple(dimensions), tuple(lower_bounds))


# ------------------------------------------------------------------------------------------------ jsonb

MOST_FILLED_ITEMS = 10_000_000


def jsonb_assign(document: str | None, value: str | None, *path: str | None) -> str:
    """``document[path…] = value``; what is missing on the way is made, gaps in arrays are filled with nulls."""
    if None in path:
        raise DatabaseError.of("22004", "jsonb subscript in assignment must not be null")
    steps = [step for step in path if step is not None]
    new = None if value is None else load(value)
    if document is None:
        root: Any = [] if path_index(steps[0]) is not None else {}
    else:
        root = load(document)
    if type(root) not in (dict, list):
        raise _no_container()
    _assign(root, steps, 0, new)
    return dump(root)


def _no_container() -> DatabaseError:
    return DatabaseError.of(
        "22023",
        "cannot replace existing key",
        detail="The path assumes key is a composite object, but it is a scalar value.",
    )


def _assign(container: Any, steps: list[str], position: int, value: Any) -> None:
    key, where = steps[position], None
    if type(container) is list:
        where = _place(container, key, position)
    if position + 1 < len(steps):
        missing = (where is not None and container[where] is _Missing) or (where is None and key not in container)
        if missing:
            inner: Any = [] if path_index(steps[position + 1]) is not None else {}
        else:
            inner = container[key if where is None else where]
            if type(inner) not in (dict, list):
                raise _no_container()
        _assign(inner, steps, position + 1, value)
        value = inner
    container[key if where is None else where] = value


class _Missing:
    """Stands where an item is about to be put."""


def _place(items: list[Any], key: str, position: int) -> int:
    """The index that a step means, with the list grown to have it."""
    index = path_index(key)
    if index is None:
        raise DatabaseError.of("22P02", f'path element at position {position + 1} is not an integer: "{key}"')
    if index < 0:
        if -index > len(items):
            raise DatabaseError.of("22023", f"path element at position {position + 1} is out of range: {index}")
        index += len(items)
    if index >= len(items):
        if index > MOST_FILLED_ITEMS:
            raise DatabaseError.of("54000", f"jsonb arrays are filled up to at most {MOST_FILLED_ITEMS} items")
        items.extend([None] * (index - len(items)))
        items.append(_Missing)
    return index
