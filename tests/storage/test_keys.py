"""Key encoding: bytewise order is SQL order, whatever the values."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydistdb_storage.keys import decode_bytes, encode_bytes, key_decoder, key_encoder, prefix_end

INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))
DECIMALS = st.decimals(allow_nan=False, allow_infinity=True, places=None)


def _float_rank(value: float) -> tuple[int, float]:
    return (1, 0.0) if math.isnan(value) else (0, value)


def _interval_span(value: tuple[int, int, int]) -> int:
    return (value[0] * 30 + value[1]) * 86_400_000_000 + value[2]


KINDS: dict[str, tuple[st.SearchStrategy[Any], Any]] = {
    "bool": (st.booleans(), lambda v: v),
    "int": (INT64, lambda v: v),
    "float": (st.floats(), _float_rank),
    "decimal": (DECIMALS, lambda v: v),
    "text": (TEXT, lambda v: v.encode()),
    "bytes": (st.binary(), lambda v: v),
    "uuid": (st.binary(min_size=16, max_size=16), lambda v: v),
    "interval": (
        st.tuples(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1), INT64),
        _interval_span,
    ),
    "timetz": (
        st.tuples(st.integers(0, 86_400_000_000), st.integers(-57_600, 57_600)),
        lambda v: (v[0] + v[1] * 1_000_000, v[1]),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("descending", [False, True])
@given(data=st.data())
def test_bytes_order_as_the_values_do(kind: str, descending: bool, data: st.DataObject) -> None:
    strategy, rank = KINDS[kind]
    one, other = data.draw(strategy), data.draw(strategy)
    encode = key_encoder([kind], [descending])
    first, second = encode((one,)), encode((other,))
    if rank(one) == rank(other):
        assert first == second
    else:
        assert (first < second) == ((rank(one) < rank(other)) != descending)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("descending", [False, True])
@given(data=st.data())
def test_decoding_gives_an_equal_value(kind: str, descending: bool, data: st.DataObject) -> None:
    strategy, rank = KINDS[kind]
    value = data.draw(st.none() | strategy)
    encoded = b"prefix" + key_encoder([kind], [descending])((value,)) + b"rest"
    (decoded,), end = key_decoder([kind], [descending])(encoded, len(b"prefix"))
    assert encoded[end:] == b"rest"
    assert (value is None and decoded is None) or rank(decoded) == rank(value)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_nulls_stand_where_they_are_told_to(kind: str, data: st.DataObject) -> None:
    value = data.draw(KINDS[kind][0])
    for descending in (False, True):
        default = key_encoder([kind], [descending])
        assert (default((None,)) < default((value,))) == descending
        first = key_encoder([kind], [descending], [True])
        assert first((None,)) < first((value,))
        last = key_encoder([kind], [descending], [False])
        assert last((value,)) < last((None,))


@given(st.tuples(TEXT, INT64, st.binary()), st.tuples(TEXT, INT64, st.binary()))
def test_several_columns_order_column_by_column(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    encode = key_encoder(["text", "int", "bytes"])
    ranks = [(values[0].encode(), values[1], values[2]) for values in (one, other)]
    assert (encode(one) < encode(other)) == (ranks[0] < ranks[1])


@given(TEXT, INT64)
def test_a_prefix_of_columns_is_a_prefix_of_bytes(text: str, number: int) -> None:
    encode = key_encoder(["text", "int"])
    prefix, whole = encode((text,)), encode((text, number))
    assert whole.startswith(prefix)
    assert prefix <= whole < prefix_end(prefix)


@given(st.tuples(TEXT, st.binary()), st.tuples(TEXT, st.binary()))
def test_no_key_is_a_proper_prefix_of_another(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    encode = key_encoder(["text", "bytes"])
    first, second = encode(one), encode(other)
    assert first == second or not second.startswith(first)


@given(st.binary(), st.binary())
def test_byte_strings_nest(value: bytes, rest: bytes) -> None:
    encoded = encode_bytes(value)
    assert decode_bytes(encoded + rest) == (value, len(encoded))


@given(st.binary(min_size=1), st.binary())
def test_prefix_end_is_above_everything_with_the_prefix(prefix: bytes, suffix: bytes) -> None:
    end = prefix_end(prefix)
    assert end == b"\xff" or prefix + suffix < end


def test_equal_numerics_have_equal_keys() -> None:
    encode = key_encoder(["decimal"])
    assert encode((Decimal("1.0"),)) == encode((Decimal("1.000"),)) == encode((Decimal("1"),))
    assert encode((Decimal("0.00"),)) == encode((Decimal("-0"),))
    values = ["-Infinity", "-10.01", "-10", "-0.5", "0", "0.05", "0.5", "9.99", "10", "1e20", "Infinity", "NaN"]
    keys = [encode((Decimal(value),)) for value in values]
    assert keys == sorted(keys)
