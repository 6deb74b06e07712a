"""generate_series over integers, numerics and timestamps.

The series are ranges or generators: nothing is held in memory.

    >>> list(integer_series(1, 10, 4))
    [1, 5, 9]

Source: PostgreSQL 15 manual, 9.25.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal

from pydistdb.sql.errors import DatabaseError, InvalidParameterValue
from pydistdb.sql.functions.datetime_arithmetic import timestamp_plus_interval, timestamptz_plus_interval
from pydistdb.sql.functions.define import define, implements
from pydistdb.sql.types import numeric
from pydistdb.sql.types.base import EvalContext, Interval
from pydistdb.sql.types.ordering import interval_key


def zero_step() -> DatabaseError:
    return InvalidParameterValue("step size cannot equal zero")


def integer_series(start: int, stop: int, step: int = 1) -> Sequence[int]:
    if step == 0:
        raise zero_step()
    return range(start, stop + (1 if step > 0 else -1), step)


for _type in ("int4", "int8"):
    define(f"generate_series({_type},{_type})", integer_series)
    define(f"generate_series({_type},{_type},{_type})", integer_series)


def _check_bound(value: Decimal, name: str) -> None:
    if not value.is_finite():
        kind = "NaN" if value.is_nan() else "infinity"
        raise InvalidParameterValue(f"{name} cannot be {kind}")


@implements("generate_series(numeric,numeric)", "generate_series(numeric,numeric,numeric)")
def numeric_series(start: Decimal, stop: Decimal, step: Decimal = numeric.ONE) -> Iterator[Decimal]:
    _check_bound(start, "start value")
    _check_bound(stop, "stop value")
    _check_bound(step, "step size")
    if not step:
        raise zero_step()
    return _numeric_series(start, stop, step)


def _numeric_series(start: Decimal, stop: Decimal, step: Decimal) -> Iterator[Decimal]:
    value = start
    while value <= stop if step > 0 else value >= stop:
        yield value
        value = numeric.add(value, step)


def _sign(step: Interval) -> int:
    key = interval_key(step)
    if key == 0:
        raise zero_step()
    return 1 if key > 0 else -1


@implements("generate_series(timestamp,timestamp,interval)")
def timestamp_series(start: int, stop: int, step: Interval) -> Iterator[int]:
    sign = _sign(step)

    def series() -> Iterator[int]:
        value = start
        while value <= stop if sign > 0 else value >= stop:
            yield value
            value = timestamp_plus_interval(value, step)

    return series()


@implements("generate_series(timestamptz,timestamptz,interval)", context=True)
def timestamptz_series(context: EvalContext, start: int, stop: int, step: Interval) -> Iterator[int]:
    sign = _sign(step)

    def series() -> Iterator[int]:
        value = start
        while value <= stop if sign > 0 else value >= stop:
            yield value
            value = timestamptz_plus_interval(context, value, step)

    return series()
