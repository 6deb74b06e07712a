"""Properties that hold for all values: what is written is read back; arithmetic agrees with exact models."""

from __future__ import annotations

import math
import struct
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from pydistdb.sql.types import arrays, calendar, numeric, ordering, registry
from pydistdb.sql.types.base import EvalContext, Interval
from pydistdb.sql.types.floats import to_single
from pydistdb.sql.types.registry import (
    BYTEA,
    DATE,
    FLOAT4,
    FLOAT8,
    INT4,
    INT8,
    INTERVAL,
    JSONB,
    NUMERIC,
    TEXT,
    TIME,
    TIMESTAMP,
    TIMESTAMPTZ,
    TIMETZ,
    UUID,
    array_of,
)

INT4S = st.integers(-(2**31), 2**31 - 1)
DECIMALS = st.builds(
    lambda digits, scale: numeric.normal(Decimal(digits).scaleb(-scale)),
    st.integers(-(10**30), 10**30),
    st.integers(0, 20),
)
TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=20)
TIMESTAMPS = st.integers(-210866803200000000, 9223371331199999999)
INTERVALS = st.builds(Interval, INT4S, INT4S, st.integers(-(2**62), 2**62))
VALUES: list[tuple[registry.SqlType, st.SearchStrategy[Any]]] = [
    (INT4, INT4S),
    (INT8, st.integers(-(2**63), 2**63 - 1)),
    (FLOAT8, st.floats(allow_nan=False)),
    (FLOAT4, st.floats(allow_nan=False, width=32)),
    (NUMERIC, DECIMALS),
    (TEXT, TEXTS),
    (BYTEA, st.binary(max_size=20)),
    (UUID, st.binary(min_size=16, max_size=16)),
    (DATE, st.integers(-2451545, 2145031948)),
    (TIME, st.integers(0, 86_400_000_000)),
    (TIMETZ, st.tuples(st.integers(0, 86_400_000_000), st.integers(-57599, 57599))),
    (TIMESTAMP, TIMESTAMPS),
    (TIMESTAMPTZ, TIMESTAMPS),
    (INTERVAL, INTERVALS),
]
CASES = st.one_of([strategy.map(lambda value, t=sql_type: (t, value)) for sql_type, strategy in VALUES])


def _context() -> EvalContext:
    context = EvalContext()
    context.timezone = "Europe/Berlin"
    return context


@given(CASES)
def test_text_format_is_read_back(case: tuple[registry.SqlType, Any]) -> None:
    sql_type, value = case
    type_io = registry.io(sql_type.oid)
    text = type_io.format(value, _context())
    assert type_io.parse(text, -1, _context()) == value


@given(CASES)
def test_binary_format_is_read_back(case: tuple[registry.SqlType, Any]) -> None:
    sql_type, value = case
    type_io = registry.io(sql_type.oid)
    assert type_io.decode(type_io.encode(value)) == value


@given(CASES)
def test_storage_format_is_read_back(case: tuple[registry.SqlType, Any]) -> None:
    sql_type, value = case
    type_io = registry.io(sql_type.oid)
    stored = value if type_io.to_storage is None else type_io.to_storage(value)
    stored = msgspec.msgpack.decode(msgspec.msgpack.encode(stored))
    assert (stored if type_io.from_storage is None else type_io.from_storage(stored)) == value


@given(st.lists(st.one_of(st.none(), TEXTS), max_size=6), st.integers(-3, 3))
def test_arrays_are_read_back_in_every_format(items: list[str | None], lower: int) -> None:
    array = arrays.PgArray(tuple(items), (len(items),), (lower,)) if items else arrays.EMPTY
    type_io = registry.io(array_of(TEXT).oid)
    assert type_io.to_storage is not None and type_io.from_storage is not None
    assert type_io.parse(type_io.format(array, _context()), -1, _context()) == array
    assert type_io.decode(type_io.encode(array)) == array
    assert type_io.from_storage(msgspec.msgpack.decode(msgspec.msgpack.encode(type_io.to_storage(array)))) == array


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | TEXTS, lambda x: st.lists(x) | st.dictionaries(TEXTS, x))
)
def test_canonical_json_is_stable(document: Any) -> None:
    type_io = registry.io(JSONB.oid)
    once = type_io.parse(msgspec.json.encode(document).decode(), -1, _context())
    assert type_io.parse(once, -1, _context()) == once


@given(DECIMALS, DECIMALS)
def test_numeric_arithmetic_is_exact(left: Decimal, right: Decimal) -> None:
    assert Fraction(numeric.add(left, right)) == Fraction(left) + Fraction(right)
    assert Fraction(numeric.multiply(left, right)) == Fraction(left) * Fraction(right)
    if right:
        quotient = numeric.divide(left, right)
        error = abs(Fraction(quotient) - Fraction(left) / Fraction(right))
        assert error * 2 <= Fraction(1, 10 ** numeric.scale_of(quotient))


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_float4_text_is_the_shortest(value: float) -> None:
    text = registry.io(FLOAT4.oid).format(value, _context())
    assert to_single(float(text)) == value
    digits = len(text.partition("e")[0].replace("-", "").replace(".", "").strip("0"))
    if digits > 1 and value:
        shorter = float(f"{value:.{digits - 2}e}")
        assert abs(shorter) > 3.4e38 or struct.unpack("f", struct.pack("f", shorter))[0] != value


@given(st.integers(-730119, 2921939))
def test_calendar_agrees_with_python(days: int) -> None:
    expected = date(2000, 1, 1) + timedelta(days)
    assert calendar.civil_of(days) == (expected.year, expected.month, expected.day)
    assert calendar.days_of(expected.year, expected.month, expected.day) == days
    assert calendar.weekday(days) == expected.isoweekday() % 7
    assert calendar.iso_week(days) == tuple(expected.isocalendar())[:2]


@given(st.integers(-(2**31), 2**31))
def test_calendar_is_its_own_inverse_beyond_python(days: int) -> None:
    assert calendar.days_of(*calendar.civil_of(days)) == days


@given(st.lists(st.floats()))
def test_floats_sort_with_nan_last(values: list[float]) -> None:
    ordered = sorted(values, key=ordering.sort_key(FLOAT8.oid))
    count = sum(map(math.isnan, values))
    assert not any(map(math.isnan, ordered[: len(ordered) - count]))
