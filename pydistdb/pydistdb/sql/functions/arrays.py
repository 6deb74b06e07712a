"""Functions and operators on arrays, and aggregates into arrays.

    >>> concatenate(PgArray.of([1, 2]), PgArray.of([3]))
    PgArray((1, 2, 3), (3,), (1,))

Items are compared as their type says (``sort_key``): NaN equals NaN, char(n) without its blanks.

Source: PostgreSQL 15 manual, 9.19.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pydistdb.sql.errors import DatabaseError, FeatureNotSupported
from pydistdb.sql.functions.define import (
    AggregateBody,
    Body,
    define,
    define_aggregate,
    implements,
    specializes,
)
from pydistdb.sql.functions.limits import check_length, joined
from pydistdb.sql.types.arrays import EMPTY, MOST_ITEMS, PgArray, check_shape, nest
from pydistdb.sql.types.base import SqlType
from pydistdb.sql.types.ordering import sort_key
from pydistdb.sql.types.registry import element_of

Key = Callable[[Any], Any]


def _same(value: Any) -> Any:
    return value


def item_key(array_type: SqlType) -> Key:
    """Give the key by which items compare."""
    return sort_key(element_of(array_type).oid) or _same


# ------------------------------------------------------------------------------------------------ shape


@implements("array_ndims(anyarray)")
def dimension_count(array: PgArray) -> int | None:
    return len(array.dimensions) or None


@implements("array_length(anyarray,int4)")
def length(array: PgArray, axis: int) -> int | None:
    return array.dimensions[axis - 1] if 1 <= axis <= len(array.dimensions) else None


@implements("array_lower(anyarray,int4)")
def lower(array: PgArray, axis: int) -> int | None:
    return array.lower_bounds[axis - 1] if 1 <= axis <= len(array.dimensions) else None


@implements("array_upper(anyarray,int4)")
def upper(array: PgArray, axis: int) -> int | None:
    if not 1 <= axis <= len(array.dimensions):
        return None
    return array.lower_bounds[axis - 1] + array.dimensions[axis - 1] - 1


@implements("array_dims(anyarray)")
def dimensions(array: PgArray) -> str | None:
    pairs = zip(array.lower_bounds, array.dimensions, strict=True)
    return "".join(f"[{low}:{low + extent - 1}]" for low, extent in pairs) or None


define("cardinality(anyarray)", lambda array: len(array.items))

# ------------------------------------------------------------------------------------------------ building


def append(array: PgArray | None, item: Any) -> PgArray:
    if array is None or not array.dimensions:
        return PgArray.of((item,))
    if len(array.dimensions) > 1:
        raise DatabaseError.of("22000", "argument must be empty or one-dimensional array")
    return PgArray((*array.items, item), (array.dimensions[0] + 1,), array.lower_bounds)


def prepend(item: Any, array: PgArray | None) -> PgArray:
    if array is None or not array.dimensions:
        return PgArray.of((item,))
    if len(array.dimensions) > 1:
        raise DatabaseError.of("22000", "argument must be empty or one-dimensional array")
    return PgArray((item, *array.items), (array.dimensions[0] + 1,), array.lower_bounds)


def _incompatible(detail: str) -> DatabaseError:
    return DatabaseError.of("2202E", "cannot concatenate incompatible arrays", detail=detail)


def concatenate(left: PgArray | None, right: PgArray | None) -> PgArray | None:
    if left is None or right is None:
        return right if left is None else left
    if not right.dimensions or not left.dimensions:
        return left if not right.dimensions else right
    difference = len(left.dimensions) - len(right.dimensions)
    if difference == 0:
        if left.dimensions[1:] != right.dimensions[1:] or left.lower_bounds[1:] != right.lower_bounds[1:]:
            raise _incompatible("Arrays with differing element dimensions are not compatible for concatenation.")
        first, bounds = left.dimensions[0] + right.dimensions[0], left.lower_bounds
        rest = left.dimensions[1:]
    elif difference == 1:
        if left.dimensions[1:] != right.dimensions or left.lower_bounds[1:] != right.lower_bounds:
            raise _incompatible("Arrays with differing dimensions are not compatible for concatenation.")
        first, rest, bounds = left.dimensions[0] + 1, right.dimensions, left.lower_bounds
    elif difference == -1:
        if right.dimensions[1:] != left.dimensions or right.lower_bounds[1:] != left.lower_bounds:
            raise _incompatible("Arrays with differing dimensions are not compatible for concatenation.")
        first, rest, bounds = right.dimensions[0] + 1, left.dimensions, right.lower_bounds
    else:
        raise _incompatible(
            f"Arrays of {len(left.dimensions)} and {len(right.dimensions)} dimensions are not compatible for "
            "concatenation."
        )
    shape = (first, *rest)
    check_shape(shape)
    return PgArray(left.items + right.items, shape, bounds)


define("array_append(anycompatiblearray,anycompatible)", append)
define("array_prepend(anycompatible,anycompatiblearray)", prepend)
define("array_cat(anycompatiblearray,anycompatiblearray)", concatenate)


_WRONG_SUBSCRIPTS = "wrong number of array subscripts"


def _fill(value: Any, shape: PgArray | None, bounds: PgArray | None) -> PgArray:
    if shape is None or bounds is None:
        raise DatabaseError.of("22004", "dimension array or low bound array cannot be null")
    if None in shape.items or None in bounds.items:
        raise DatabaseError.of("22004", "dimension values cannot be null")
    if len(shape.dimensions) > 1:
        raise DatabaseError.of("2202E", _WRONG_SUBSCRIPTS, detail="Dimension array must be one dimensional.")
    if len(bounds.items) != len(shape.items) or len(bounds.dimensions) > 1:
        detail = "Low bound array has different size than dimensions array."
        raise DatabaseError.of("2202E", _WRONG_SUBSCRIPTS, detail=detail)
    check_shape(shape.items)
    if any(extent < 0 for extent in shape.items):
        raise DatabaseError.of("54000", f"array size exceeds the maximum allowed ({MOST_ITEMS})")
    size = 1 if shape.items else 0
    for extent in shape.items:
        size *= extent
    return PgArray((value,) * size, tuple(shape.items), tuple(bounds.items)) if size else EMPTY


define(
    "array_fill(anyelement,_int4)",
    lambda value, shape: _fill(value, shape, None if shape is None else PgArray.of([1] * len(shape.items))),
)
define("array_fill(anyelement,_int4,_int4)", _fill)


@implements("trim_array(anyarray,int4)")
def trim(array: PgArray, count: int) -> PgArray:
    first = array.dimensions[0] if array.dimensions else 0
    if not 0 <= count <= first:
        raise DatabaseError.of("2202E", f"number of elements to trim must be between 0 and {first}")
    if count == first:
        return EMPTY
    stride = len(array.items) // first
    kept = first - count
    return PgArray(array.items[: kept * stride], (kept, *array.dimensions[1:]), (1,) * len(array.dimensions))


# ------------------------------------------------------------------------------------------------ searching


def _one_dimensional(array: PgArray, doing: str) -> None:
    if len(array.dimensions) > 1:
        raise FeatureNotSupported(doing)


_NO_SEARCH = "searching for elements in multidimensional arrays is not supported"


def _position(argument_types: tuple[SqlType, ...], return_type: SqlType) -> Body:
    key = item_key(argument_types[0])

    def find(array: PgArray | None, item: Any, start: int | None = 1) -> int | None:
        if array is None:
            return None
        _one_dimensional(array, _NO_SEARCH)
        if start is None:
            raise DatabaseError.of("22004", "initial position must not be null")
        if not array.dimensions:
            return None
        low = array.lower_bounds[0]
        wanted = None if item is None else key(item)
        for position, value in enumerate(array.items, low):
            if position >= start and (wanted is None if value is None else wanted is not None and key(value) == wanted):
                return position
        return None

    return find


define("array_position(anycompatiblearray,anycompatible)", specialize=_position)
define("array_position(anycompatiblearray,anycompatible,int4)", specialize=_position)


@specializes("array_positions(anycompatiblearray,anycompatible)")
def _positions(argument_types: tuple[SqlType, ...], return_type: SqlType) -> Body:
    key = item_key(argument_types[0])

    def find(array: PgArray | None, item: Any) -> PgArray | None:
        if array is None:
            return None
        _one_dimensional(array, _NO_SEARCH)
        wanted = None if item is None else key(item)
        low = array.lower_bounds[0] if array.dimensions else 1
        return PgArray.of(
            position
            for position, value in enumerate(array.items, low)
            if (wanted is None if value is None else wanted is not None and key(value) == wanted)
        )

    return find


@specializes("array_remove(anycompatiblearray,anycompatible)")
def _remove(argument_types: tuple[SqlType, ...], return_type: SqlType) -> Body:
    key = item_key(argument_types[0])

    def remove(array: PgArray | None, item: Any) -> PgArray | None:
        if array is None:
            return None
        _one_dimensional(array, "removing elements from multidimensional arrays is not supported")
        wanted = None if item is None else key(item)
        kept = tuple(
            value
            for value in array.items
            if not (wanted is None if value is None else wanted is not None and key(value) == wanted)
        )
        return PgArray(kept, (len(kept),), array.lower_bounds) if kept else EMPTY

    return remove


@specializes("array_replace(anycompatiblearray,anycompatible,anycompatible)")
def _replace(argument_types: tuple[SqlType, ...], return_type: SqlType) -> Body:
    key = item_key(argument_types[0])

    def replace(array: PgArray | None, item: Any, new: Any) -> PgArray | None:
        if array is None:
            return None
        wanted = None if item is None else key(item)
        return array.with_items(
            new if (wanted is None if value is None else wanted is not None and key(value) == wanted) else value
            for value in array.items
        )

    return replace


@specializes("arraycontains(anyarray,anyarray)")
def _contains(argument_types: tuple[SqlType, ...], return_type: SqlType) -> Body:
    key = item_key(argument_types[0])

    def contains(left: PgArray, right: PgArray) -> bool:
        mine = {key(item) for item in left.items if item is not None}
        return all(item is not None and key(item) in mine for item in right.items)

    return contains


@specializes("arraycontained(anyarray,anyarray)")
def _contained(argument_types: tuple[SqlType, ...], return_type: SqlType) -> Body:
    contains = _contains(argument_types, return_type)
    return lambda left, right: contains(right, left)


@specializes("arrayoverlap(anyarray,anyarray)")
def _overlaps(argument_types: tuple[SqlType, ...], return_type: SqlType) -> Body:
    key = item_key(argument_types[0])

    def overlaps(left: PgArray, right: PgArray) -> bool:
        mine = {key(item) for item in left.items if item is not None}
        return any(item is not None and key(item) in mine for item in right.items)

    return overlaps


def _extreme(builtin: Any) -> Callable[[tuple[SqlType, ...], SqlType], Body]:
    def make(argument_types: tuple[SqlType, ...], return_type: SqlType) -> Body:
        key = sort_key(argument_types[0].oid)
        return lambda left, right: builtin(left, right, key=key)

    return make


define("array_larger(anyarray,anyarray)", specialize=_extreme(max))
define("array_smaller(anyarray,anyarray)", specialize=_extreme(min))

# ------------------------------------------------------------------------------------------------ sets


@implements("unnest(anyarray)")
def unnest(array: PgArray) -> tuple[Any, ...]:
    return array.items


@implements("generate_subscripts(anyarray,int4)")
def subscripts(array: PgArray, axis: int) -> Iterator[int]:
    return iter(_subscripts(array, axis))


def _subscripts(array: PgArray, axis: int) -> range:
    if not 1 <= axis <= len(array.dimensions):
        return range(0)
    low = array.lower_bounds[axis - 1]
    return range(low, low + array.dimensions[axis - 1])


define(
    "generate_subscripts(anyarray,int4,bool)",
    lambda array, axis, backwards: _subscripts(array, axis)[:: -1 if backwards else 1],
)

# ------------------------------------------------------------------------------------------------ aggregates


def _accumulate(state: list[Any] | None, value: Any) -> list[Any]:
    if state is None:
        return [value]
    state.append(value)
    return state


def join_lists(left: list[Any] | None, right: list[Any] | None) -> list[Any] | None:
    """Join the states of aggregates that are lists, None before the first row."""
    if left is None or right is None:
        return left if right is None else [*right]
    left += right
    return left


def _finish_nested(state: list[PgArray | None] | None) -> PgArray | None:
    if state is None:
        return None
    arrays = [array for array in state if array is not None]
    if len(arrays) != len(state):
        raise DatabaseError.of("22004", "cannot accumulate null arrays")
    if any(not array.dimensions for array in arrays):
        raise DatabaseError.of("2202E", "cannot accumulate empty arrays")
    if any(array.dimensions != arrays[0].dimensions for array in arrays):
        raise DatabaseError.of("2202E", "cannot accumulate arrays of different dimensionality")
    return nest(arrays)


define_aggregate(
    "array_agg(anynonarray)",
    AggregateBody(
        lambda: None,
        _accumulate,
        lambda state: None if state is None else PgArray.of(state),
        join_lists,
        strict=False,
    ),
)
define_aggregate(
    "array_agg(anyarray)", AggregateBody(lambda: None, _accumulate, _finish_nested, join_lists, strict=False)
)


def _accumulate_string(state: list[Any] | None, value: Any, delimiter: Any) -> list[Any] | None:
    if value is None:
        return state
    if state is None:
        state = []
    state.append(delimiter)
    state.append(value)
    return state


def _joined_texts(state: list[Any] | None) -> str | None:
    return None if state is None else joined([part for part in state[1:] if part is not None])


def _joined_bytes(state: list[Any] | None) -> bytes | None:
    if state is None:
        return None
    parts = [part for part in state[1:] if part is not None]
    check_length(sum(map(len, parts)))
    return b"".join(parts)


# The first delimiter is kept, as Postgres does: the state may be joined to another.
define_aggregate(
    "string_agg(text,text)", AggregateBody(lambda: None, _accumulate_string, _joined_texts, join_lists, strict=False)
)
define_aggregate(
    "string_agg(bytea,bytea)", AggregateBody(lambda: None, _accumulate_string, _joined_bytes, join_lists, strict=False)
)
