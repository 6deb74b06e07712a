"""The everyday aggregates: count, sum, avg, min, max, bool_and, bool_or, bit_and, bit_or, bit_xor.

States are plain values: None before the first row of sum or max, a list [count, sum] for averages.  ``batch`` takes a
list of non-null values at once through Python's builtins, which is several times faster than row by row.

The result types guard against overflow: the sum of int4 is int8, that of int8 numeric, the average of integers numeric.

Source: PostgreSQL 15 manual, 9.21.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from decimal import Decimal, InvalidOperation, localcontext
from typing import Any

from pydistdb.sql.functions.arithmetic import check_float, check_int8, float_add, single
from pydistdb.sql.functions.define import AggregateBody, define_aggregate
from pydistdb.sql.types import known, numeric
from pydistdb.sql.types.base import SqlType
from pydistdb.sql.types.ordering import sort_key


def _nothing() -> None:
    return None


def _zero() -> int:
    return 0


def _same(state: Any) -> Any:
    return state


def fold(step: Callable[[Any, Any], Any], batch: Callable[[list[Any]], Any] | None = None) -> AggregateBody:
    """Make an aggregate of an associative function of two values; NULL when there are none."""

    def accumulate(state: Any, value: Any) -> Any:
        return value if state is None else step(state, value)

    def combine(left: Any, right: Any) -> Any:
        return right if left is None else left if right is None else step(left, right)

    return AggregateBody(_nothing, accumulate, _same, combine, batch)


# ------------------------------------------------------------------------------------------------ count


def _define_count() -> None:
    define_aggregate("count(any)", AggregateBody(_zero, lambda state, *values: state + 1, _same, operator.add, len))
    define_aggregate("count()", AggregateBody(_zero, lambda state: state + 1, _same, operator.add, strict=False))


# ------------------------------------------------------------------------------------------------ sums


def _sum_batch(values: list[int]) -> int | None:
    return sum(values) if values else None


def numeric_sum(values: list[Decimal]) -> Decimal:
    """Add exactly; the shortcut through sum() fails only where infinities of both signs meet."""
    try:
        with localcontext(numeric.EXACT):
            total = sum(values, numeric.ZERO)
    except InvalidOperation:
        return numeric.NAN
    return numeric.NAN if total.is_nan() else total


def _float_sum_batch(values: list[float]) -> float | None:
    if not values:
        return None
    total = sum(values[1:], values[0])
    return total if total - total == 0.0 else check_float(total, *values)


def _single_sum(left: float, right: float) -> float:
    return single(float_add(left, right))


def _define_sums() -> None:
    integers = fold(operator.add, _sum_batch)
    for name in ("int2", "int4"):
        define_aggregate(
            f"sum({name})", integers._replace(finish=lambda state: None if state is None else check_int8(state))
        )
    define_aggregate("sum(int8)", integers._replace(finish=lambda state: None if state is None else Decimal(state)))
    define_aggregate(
        "sum(numeric)",
        fold(numeric.add, lambda values: numeric_sum(values) if values else None)._replace(
            finish=lambda state: None if state is None else numeric.normal(state)
        ),
    )
    define_aggregate("sum(float8)", fold(float_add, _float_sum_batch))
    define_aggregate("sum(float4)", fold(_single_sum))


# ------------------------------------------------------------------------------------------------ averages


def average(add: Callable[[Any, Any], Any], zero: Any, total: Callable[[list[Any]], Any], finish: Any) -> AggregateBody:
    """Make an average of its parts; the state is [count, sum]."""

    def accumulate(state: list[Any], value: Any) -> list[Any]:
        state[0] += 1
        state[1] = add(state[1], value)
        return state

    def combine(left: list[Any], right: list[Any]) -> list[Any]:
        return [left[0] + right[0], add(left[1], right[1])]

    def result(state: list[Any]) -> Any:
        return finish(state[1], state[0]) if state[0] else None

    return AggregateBody(lambda: [0, zero], accumulate, result, combine, lambda values: [len(values), total(values)])


def _define_averages() -> None:
    integers = average(operator.add, 0, sum, lambda total, count: numeric.divide(Decimal(total), Decimal(count)))
    for name in ("int2", "int4", "int8"):
        define_aggregate(f"avg({name})", integers)
    define_aggregate(
        "avg(numeric)",
        average(numeric.add, numeric.ZERO, numeric_sum, lambda total, count: numeric.divide(total, Decimal(count))),
    )
    floats = average(float_add, 0.0, lambda values: _float_sum_batch(values) or 0.0, lambda total, count: total / count)
    define_aggregate("avg(float8)", floats)
    define_aggregate("avg(float4)", floats)


# ------------------------------------------------------------------------------------------------ extremes


TIES_SHOW = frozenset({known.NUMERIC.oid, known.FLOAT4.oid, known.FLOAT8.oid, known.INTERVAL.oid, known.TIMETZ.oid})


def extreme(oid: int, greatest: bool) -> AggregateBody:
    """Make max or min of a type.  Of equal values that look different (1.0 and 1.00) the last one counts, as in Postgres."""
    key = sort_key(oid)
    builtin: Any = max if greatest else min
    if known.TYPES_BY_OID[oid].element_oid or oid in TIES_SHOW:

        def later(left: Any, right: Any) -> Any:
            return builtin(right, left, key=key)

        return fold(later, lambda values: builtin(reversed(values), key=key) if values else None)
    if key is None:
        return fold(builtin, lambda values: builtin(values) if values else None)
    find = key

    def step(left: Any, right: Any) -> Any:
        return builtin(left, right, key=find)

    return fold(step, lambda values: builtin(values, key=find) if values else None)


def _extreme_of_arrays(greatest: bool) -> Callable[[tuple[SqlType, ...], SqlType], AggregateBody]:
    return lambda argument_types, return_type: extreme(argument_types[0].oid, greatest)


_ORDERED_TYPES = """
int8 int4 int2 oid float4 float8 date time timetz timestamp timestamptz interval text numeric bpchar tid xid8 pg_lsn
"""


def _define_extremes() -> None:
    for name in _ORDERED_TYPES.split():
        for function, greatest in (("max", True), ("min", False)):
            define_aggregate(f"{function}({name})", extreme(known.TYPES_BY_NAME[name].oid, greatest))
    for function, greatest in (("max", True), ("min", False)):
        define_aggregate(f"{function}(anyarray)", specialize=_extreme_of_arrays(greatest))


# ------------------------------------------------------------------------------------------------ logic and bits


def _define_logic() -> None:
    for name in ("bool_and", "every"):
        define_aggregate(f"{name}(bool)", fold(operator.and_, lambda values: all(values) if values else None))
    define_aggregate("bool_or(bool)", fold(operator.or_, lambda values: any(values) if values else None))
    for width in ("int2", "int4", "int8"):
        define_aggregate(f"bit_and({width})", fold(operator.and_))
        define_aggregate(f"bit_or({width})", fold(operator.or_))
        define_aggregate(f"bit_xor({width})", fold(operator.xor))


_define_count()
_define_sums()
_define_averages()
_define_extremes()
_define_logic()
