"""How values of a type order and when they are equal.

Most runtime values order by themselves (ints, strings, bytes).  Where Python and Postgres disagree, ``sort_key`` gives a
function to a value that Python orders as Postgres orders the original; the same key is the one to hash by.

    >>> sort_key(1186)(Interval(1, 0, 0)) == sort_key(1186)(Interval(0, 30, 0))
    True
    >>> sort_key(23) is None
    True

* float4, float8, numeric: NaN equals itself and is above everything;
* char(n): trailing blanks do not count;
* interval: a month is 30 days and a day 24 hours;
* timetz: by the instant, then by the zone, west last;
* arrays: item by item (NULL last), the shorter first, then the shape;
* jsonb: by kind (object, array, boolean, number, string, null from the top), then by size, then by content.

Source: PostgreSQL 15 manual, 8.14.4 (jsonb), 8.15, 9.25.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from pydistdb.sql.types import known
from pydistdb.sql.types.arrays import PgArray
from pydistdb.sql.types.base import Interval
from pydistdb.sql.types.domains import base_oid
from pydistdb.sql.types.user import FIRST_USER_OID, derived_from_types

MICROSECONDS_PER_DAY = 86_400_000_000

SortKey = Callable[[Any], Any]


def float_key(value: float) -> tuple[int, float]:
    return (0, value) if value == value else (1, 0.0)


def numeric_key(value: Decimal) -> tuple[int, Decimal]:
    return (1, Decimal(0)) if value.is_nan() else (0, value)


def bpchar_key(value: str) -> str:
    return value.rstrip(" ")


def interval_key(value: Interval) -> int:
    months, days, microseconds = value
    return (months * 30 + days) * MICROSECONDS_PER_DAY + microseconds


def timetz_key(value: tuple[int, int]) -> tuple[int, int]:
    microseconds, zone = value
    return (microseconds + zone * 1_000_000, zone)


def jsonb_key(value: str) -> Any:
    # The json module is only needed by those who compare jsonb values.
    from pydistdb.sql.types.json import document_key, load

    return document_key(load(value))


def record_key(value: tuple[Any, ...]) -> tuple[Any, ...]:
    types = getattr(value, "types", None)
    if types is None:
        return tuple([(1,) if item is None else (0, item) for item in value])
    keys = [sort_key(sql_type.oid) for sql_type in types]
    return tuple(
        [
            (1,) if item is None else (0, item if key is None else key(item))
            for item, key in zip(value, keys, strict=True)
        ]
    )


_KEYS: dict[int, SortKey] = {
    known.FLOAT4.oid: float_key,
    known.FLOAT8.oid: float_key,
    known.NUMERIC.oid: numeric_key,
    known.BPCHAR.oid: bpchar_key,
    known.INTERVAL.oid: interval_key,
    known.TIMETZ.oid: timetz_key,
    known.JSONB.oid: jsonb_key,
    known.RECORD.oid: record_key,
}


derived_from_types(_KEYS)


def _array_key(element_oid: int) -> SortKey:
    element_key = sort_key(element_oid)

    def key(array: PgArray) -> Any:
        if element_key is None:
            items = tuple([(1,) if item is None else (0, item) for item in array.items])
        else:
            items = tuple([(1,) if item is None else (0, element_key(item)) for item in array.items])
        return (items, len(array.dimensions), array.dimensions, array.lower_bounds)

    return key


def sort_key(oid: int) -> SortKey | None:
    """Find the function to a value that sorts and hashes as this type does; None where the runtime value itself does."""
    key = _KEYS.get(oid)
    if key is None and oid >= FIRST_USER_OID:
        base = base_oid(oid)
        if base != oid:
            return sort_key(base)
        sql_type = known.TYPES_BY_OID.get(oid)
        if sql_type is not None and sql_type.category == "C":
            from pydistdb.sql.types.composite import composite_key

            key = _KEYS[oid] = composite_key(oid)
            return key
    if key is None:
        sql_type = known.TYPES_BY_OID.get(oid)
        if sql_type is not None and sql_type.element_oid:
            key = _KEYS[oid] = _array_key(sql_type.element_oid)
    return key


def comparator(oid: int) -> Callable[[Any, Any], int]:
    """Give the three-way comparison of a type."""
    key = sort_key(oid)
    if key is None:

        def compare(left: Any, right: Any) -> int:
            return int(left > right) - int(left < right)

        return compare
    find = key

    def compare_keys(left: Any, right: Any) -> int:
        left_key, right_key = find(left), find(right)
        return int(left_key > right_key) - int(left_key < right_key)

    return compare_keys


def equality(oid: int) -> Callable[[Any, Any], bool]:
    """Give the equality of a type."""
    key = sort_key(oid)
    if key is None:
        return lambda left, right: bool(left == right)
    find = key
    return lambda left, right: bool(find(left) == find(right))
