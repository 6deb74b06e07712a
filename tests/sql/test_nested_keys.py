"""Keys of arrays, rows and jsonb order as the values do, and give equal values back."""

from __future__ import annotations

from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydistdb.sql.types import registry
from pydistdb.sql.types.arrays import PgArray
from pydistdb.sql.types.json import dump
from pydistdb.sql.types.nested_keys import row_kind
from pydistdb.sql.types.ordering import sort_key
from pydistdb_storage.keys import key_decoder, key_encoder

FEW = st.sampled_from
WORDS = st.text(FEW("ab \u00e9\uffff\U0001f600\x01"), max_size=3)
NUMBERS = FEW([Decimal(text) for text in ("-1.5", "-1", "0", "0.0", "1", "1.00", "10", "NaN", "Infinity", "-Infinity")])
FINITE = FEW([Decimal("-1.5"), 0, 1, Decimal("1.00"), 10, Decimal("1e3")])
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | FINITE | WORDS.filter(lambda word: "\x01" not in word),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FEW(["a", "b", "aa", "\u00e9"]), inner, max_size=3),
    max_leaves=6,
)


def _array(item: st.SearchStrategy[Any]) -> st.SearchStrategy[PgArray]:
    items = st.lists(st.none() | item, max_size=4)
    shifted = st.builds(
        lambda found, low: PgArray(tuple(found), (len(found),), (low,)), items.filter(bool), FEW([-1, 1])
    )
    square = st.builds(lambda found: PgArray(tuple(found), (2, 2), (1, 1)), st.lists(item, min_size=4, max_size=4))
    return items.map(PgArray.of) | shifted | square


TYPES: dict[str, tuple[int, st.SearchStrategy[Any]]] = {
    "int4[]": (1007, _array(st.integers(-3, 3))),
    "text[]": (1009, _array(WORDS)),
    "char[]": (1014, _array(FEW(["a", "a ", "a  ", "a b", "", " "]))),
    "numeric[]": (1231, _array(NUMBERS)),
    "jsonb": (3802, DOCUMENTS.map(dump)),
    "jsonb[]": (3807, _array(DOCUMENTS.map(dump))),
}


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("descending", [False, True])
@given(data=st.data())
def test_bytes_order_as_the_values_do(name: str, descending: bool, data: st.DataObject) -> None:
    oid, strategy = TYPES[name]
    rank, kind = sort_key(oid), registry.io(oid).key_kind
    assert rank is not None and kind is not None
    encode = key_encoder([kind, "int"], [descending, False])
    one, other = data.draw(strategy), data.draw(strategy)
    first, second = encode((one, 1)), encode((other, 1))
    if rank(one) == rank(other):
        assert first == second
    else:
        assert (first < second) == ((rank(one) < rank(other)) != descending)
        assert not first.startswith(second) and not second.startswith(first)
    (decoded, number), end = key_decoder([kind, "int"], [descending, False])(first, 0)
    assert rank(decoded) == rank(one) and number == 1 and end == len(first)


def _row_rank(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple((1,) if item is None else (0, item) for item in row)


@given(data=st.data())
def test_rows_order_field_by_field_and_may_grow(data: st.DataObject) -> None:
    rows = st.tuples(st.none() | st.integers(-1, 1), st.none() | FEW(["", "a", "b"]))
    one, other = data.draw(rows), data.draw(rows)
    kind = row_kind(-1, lambda: [(1, "int"), (2, "text")], lambda: 2)
    first, second = (key_encoder([kind])((row,)) for row in (one, other))
    assert (first < second, first == second) == (_row_rank(one) < _row_rank(other), one == other)
    assert key_decoder([kind])(first + b"rest", 0) == ([one], len(first))
    # A third field, of which old rows know nothing: their keys stay, and new ones fit in between.
    longer = row_kind(-2, lambda: [(1, "int"), (2, "text"), (3, "int")], lambda: 3)
    encode = partial(key_encoder([longer]))
    assert encode((one,)) == first == encode(((*one, None),))
    assert encode(((*one, 5),)) < first
    assert (encode(((*one, 5),)) < second) == ((*_row_rank(one), (0, 5)) < (*_row_rank(other), (1,)))
