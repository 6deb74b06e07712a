"""Variance, deviation, correlation and regression; percentiles and mode.

Integers and numerics are summed exactly: the state is [count, sum, sum of squares].  Floats use the method of Youngs and
Cramer, [count, sum, sum of squared deviations], which does not lose the digits that the naive sums lose:

    >>> finish_variance(accumulate_floats(accumulate_floats(start_floats(), 1e8), 1e8 + 2))
    2.0

Ordered-set aggregates (percentile_cont …) get their rows sorted; the state collects the values.

Source: PostgreSQL 15 manual, 9.21; Youngs and Cramer, "Some results relevant to choice of sum and sum-of-product
algorithms" (Technometrics 13, 1971).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.functions.arithmetic import float_overflow
from pydistdb.sql.functions.datetime_arithmetic import interval_minus, interval_plus, interval_times
from pydistdb.sql.functions.define import AggregateBody, define_aggregate
from pydistdb.sql.types import numeric
from pydistdb.sql.types.base import HypotheticalPlace, Interval, SqlType
from pydistdb.sql.types.floats import NAN
from pydistdb.sql.types.ordering import sort_key

# ------------------------------------------------------------------------------------------------ exact sums


_EXACT = numeric.EXACT


def _start_exact() -> list[Any]:
    return [0, numeric.ZERO, numeric.ZERO]


def _accumulate_exact(state: list[Any], value: Any) -> list[Any]:
    number = value if type(value) is Decimal else Decimal(value)
    state[0] += 1
    if number.is_finite():  # sums and squares may be larger than any numeric
        state[1] = _EXACT.add(state[1], number)
        state[2] = _EXACT.add(state[2], _EXACT.multiply(number, number))
    else:
        state[1] = numeric.add(state[1], number)
    return state


def _combine_exact(left: list[Any], right: list[Any]) -> list[Any]:
    if left[1].is_finite() and right[1].is_finite():
        return [left[0] + right[0], _EXACT.add(left[1], right[1]), _EXACT.add(left[2], right[2])]
    return [left[0] + right[0], numeric.add(left[1], right[1]), left[2]]


def _finish_exact(sample: bool, root: bool) -> Callable[[list[Any]], Decimal | None]:
    def finish(state: list[Any]) -> Decimal | None:
        count, total, squares = state
        if count == 0 or (sample and count == 1):
            return None
        if not total.is_finite():
            return numeric.NAN
        difference = _EXACT.subtract(_EXACT.multiply(Decimal(count), squares), _EXACT.multiply(total, total))
        if difference <= 0:
            return numeric.ZERO
        divisor = Decimal(count * (count - 1) if sample else count * count)
        scale = numeric.division_scale(difference, divisor)
        variance = numeric.divide_at(difference, divisor, scale)
        if not root:
            return variance
        return _root_at(variance, scale)

    return finish


def _root_at(value: Decimal, scale: int) -> Decimal:
    exact = numeric.EXACT.multiply(value, Decimal(1))
    digits = max(exact.adjusted(), 0) + scale + 10
    context = numeric.EXACT.copy()
    context.prec = digits
    return numeric.rescale(context.sqrt(exact), scale)


# ------------------------------------------------------------------------------------------------ floats


def start_floats() -> list[Any]:
    return [0, 0.0, 0.0]


def _check(value: float, *inputs: float) -> float:
    if math.isinf(value) and not any(math.isinf(number) for number in inputs):
        raise float_overflow()
    return value


def accumulate_floats(state: list[Any], value: float) -> list[Any]:
    count, total, deviations = state
    count += 1
    new_total = total + value
    if count > 1:
        part = value * count - new_total
        deviations += part * part / (count * (count - 1))
        if math.isinf(new_total) or math.isinf(deviations):
            _check(deviations if math.isinf(deviations) else new_total, total, value)
            deviations = NAN
    elif not math.isfinite(value):
        deviations = NAN
    state[0], state[1], state[2] = count, new_total, deviations
    return state


def _combine_floats(left: list[Any], right: list[Any]) -> list[Any]:
    if not left[0] or not right[0]:
        return [*right] if not left[0] else left
    count = left[0] + right[0]
    difference = left[1] / left[0] - right[1] / right[0]
    return [count, left[1] + right[1], left[2] + right[2] + left[0] * right[0] * difference * difference / count]


def finish_variance(state: list[Any]) -> float | None:
    return state[2] / (state[0] - 1) if state[0] > 1 else None


def _finish_floats(sample: bool, root: bool) -> Callable[[list[Any]], float | None]:
    def finish(state: list[Any]) -> float | None:
        count, _, deviations = state
        divisor = count - 1 if sample else count
        if divisor <= 0:
            return None
        variance = deviations / divisor
        return math.sqrt(variance) if root and variance == variance else float(variance)

    return finish


_SPREADS = {
    "variance": (True, False),
    "var_samp": (True, False),
    "var_pop": (False, False),
    "stddev": (True, True),
    "stddev_samp": (True, True),
    "stddev_pop": (False, True),
}


def _define_spreads() -> None:
    for name, (sample, root) in _SPREADS.items():
        for type_name in ("int2", "int4", "int8", "numeric"):
            body = AggregateBody(_start_exact, _accumulate_exact, _finish_exact(sample, root), _combine_exact)
            define_aggregate(f"{name}({type_name})", body)
        for type_name in ("float4", "float8"):
            floats = AggregateBody(start_floats, accumulate_floats, _finish_floats(sample, root), _combine_floats)
            define_aggregate(f"{name}({type_name})", floats)


# ------------------------------------------------------------------------------------------------ two variables


def _start_pairs() -> list[Any]:
    """Count, sum x, deviations x, sum y, deviations y, co-deviations."""
    return [0, 0.0, 0.0, 0.0, 0.0, 0.0]


def _accumulate_pairs(state: list[Any], y: float, x: float) -> list[Any]:
    count, sum_x, dev_x, sum_y, dev_y, dev_xy = state
    count += 1
    sum_x += x
    sum_y += y
    if count > 1:
        part_x, part_y = x * count - sum_x, y * count - sum_y
        scale = 1.0 / (count * (count - 1))
        dev_x += part_x * part_x * scale
        dev_y += part_y * part_y * scale
        dev_xy += part_x * part_y * scale
    elif not (math.isfinite(x) and math.isfinite(y)):
        dev_x = NAN if not math.isfinite(x) else dev_x
        dev_y = NAN if not math.isfinite(y) else dev_y
        dev_xy = NAN
    state[:] = [count, sum_x, dev_x, sum_y, dev_y, dev_xy]
    return state


def _combine_pairs(left: list[Any], right: list[Any]) -> list[Any]:
    if not left[0] or not right[0]:
        return [*right] if not left[0] else left
    count = left[0] + right[0]
    weight = left[0] * right[0] / count
    dx = left[1] / left[0] - right[1] / right[0]
    dy = left[3] / left[0] - right[3] / right[0]
    return [
        count,
        left[1] + right[1],
        left[2] + right[2] + weight * dx * dx,
        left[3] + right[3],
        left[4] + right[4] + weight * dy * dy,
        left[5] + right[5] + weight * dx * dy,
    ]


def _corr(state: list[Any]) -> float | None:
    count, _, dev_x, _, dev_y, dev_xy = state
    if count < 1 or dev_x == 0 or dev_y == 0:
        return None
    return dev_xy / math.sqrt(dev_x * dev_y) if dev_x == dev_x and dev_y == dev_y else NAN


def _r2(state: list[Any]) -> float | None:
    count, _, dev_x, _, dev_y, dev_xy = state
    if count < 1 or dev_x == 0:
        return None
    return 1.0 if dev_y == 0 else (dev_xy * dev_xy) / (dev_x * dev_y)


def _slope(state: list[Any]) -> float | None:
    return state[5] / state[2] if state[0] >= 1 and state[2] != 0 else None


def _intercept(state: list[Any]) -> float | None:
    count, sum_x, dev_x, sum_y, _, dev_xy = state
    return (sum_y - sum_x * dev_xy / dev_x) / count if count >= 1 and dev_x != 0 else None


def _part(position: int) -> Callable[[list[Any]], float | None]:
    return lambda state: state[position] if state[0] else None


def _mean(position: int) -> Callable[[list[Any]], float | None]:
    return lambda state: state[position] / state[0] if state[0] else None


def _define_pairs() -> None:
    finishes: dict[str, Callable[[list[Any]], Any]] = {
        "corr": _corr,
        "covar_pop": lambda state: state[5] / state[0] if state[0] else None,
        "covar_samp": lambda state: state[5] / (state[0] - 1) if state[0] > 1 else None,
        "regr_avgx": _mean(1),
        "regr_avgy": _mean(3),
        "regr_count": lambda state: state[0],
        "regr_intercept": _intercept,
        "regr_r2": _r2,
        "regr_slope": _slope,
        "regr_sxx": _part(2),
        "regr_syy": _part(4),
        "regr_sxy": _part(5),
    }
    for name, finish in finishes.items():
        body = AggregateBody(_start_pairs, _accumulate_pairs, finish, _combine_pairs)
        define_aggregate(f"{name}(float8,float8)", body)


# ------------------------------------------------------------------------------------------------ ordered sets


def _collect(state: list[Any], direct: Any, value: Any) -> list[Any]:
    state[0] = direct
    if value is not None:
        state[1].append(value)
    return state


def _check_fraction(fraction: float) -> None:
    if not 0.0 <= fraction <= 1.0:
        raise DatabaseError.of("22003", f"percentile value {fraction:g} is not between 0 and 1")


def _pick_discrete(values: list[Any], fraction: float) -> Any:
    _check_fraction(fraction)
    return values[max(math.ceil(fraction * len(values)), 1) - 1]


def _between_floats(low: float, high: float, part: float) -> float:
    return low + part * (high - low)


def _between_intervals(low: Interval, high: Interval, part: float) -> Interval:
    return interval_plus(low, interval_times(interval_minus(high, low), part))


def _pick_continuous(values: list[Any], fraction: float, between: Callable[[Any, Any, float], Any]) -> Any:
    _check_fraction(fraction)
    place = fraction * (len(values) - 1)
    low, high = math.floor(place), math.ceil(place)
    if low == high:
        return values[low]
    return between(values[low], values[high], place - low)


def _ordered(pick: Callable[[list[Any], float], Any], many: bool) -> AggregateBody:
    def finish(state: list[Any]) -> Any:
        direct, values = state
        if direct is None or not values:
            return None
        if not many:
            return pick(values, direct)
        return direct.with_items([None if fraction is None else pick(values, fraction) for fraction in direct.items])

    return AggregateBody(lambda: [None, []], _collect, finish, strict=False)


def _mode_of(argument_types: tuple[SqlType, ...], return_type: SqlType) -> AggregateBody:
    key = sort_key(argument_types[0].oid) or (lambda value: value)

    def accumulate(state: list[Any], value: Any) -> list[Any]:
        if value is not None:
            state.append(value)
        return state

    def finish(state: list[Any]) -> Any:
        if not state:
            return None
        counts = Counter([key(value) for value in state])
        most = max(counts.values())
        # Rows come sorted: the first of the most frequent, as Postgres picks it.
        return next(value for value in state if counts[key(value)] == most)

    return AggregateBody(list, accumulate, finish, strict=False)


def _define_ordered() -> None:
    for between, type_name in ((_between_floats, "float8"), (_between_intervals, "interval")):

        def pick(values: list[Any], fraction: float, between: Any = between) -> Any:
            return _pick_continuous(values, fraction, between)

        define_aggregate(f"percentile_cont(float8,{type_name})", _ordered(pick, False))
    define_aggregate(
        "percentile_cont(_float8,float8)",
        _ordered(lambda values, fraction: _pick_continuous(values, fraction, _between_floats), True),
    )
    define_aggregate("percentile_disc(float8,anyelement)", _ordered(_pick_discrete, False))
    define_aggregate("percentile_disc(_float8,anyelement)", _ordered(_pick_discrete, True))
    define_aggregate("mode(anyelement)", specialize=_mode_of)


def _define_hypothetical() -> None:
    """What rank() and its kin would say of one more row; ``HypotheticalPlace()`` when there are no rows."""
    finishes: dict[str, Callable[[HypotheticalPlace], Any]] = {
        "rank": lambda place: place.before + 1,
        "dense_rank": lambda place: place.groups_before + 1,
        "percent_rank": lambda place: place.before / place.rows if place.rows else 0.0,
        "cume_dist": lambda place: (place.before + place.peers + 1) / (place.rows + 1),
    }
    for name, finish in finishes.items():
        define_aggregate(f"{name}(any)", AggregateBody(list, lambda state, *values: state, finish, strict=False))


_define_spreads()
_define_pairs()
_define_ordered()
_define_hypothetical()
