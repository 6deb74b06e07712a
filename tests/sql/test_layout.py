"""Rows and index entries: where they go, in which order, and what comes back."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pydistdb.sql.catalog.descriptors import Column, Index, IndexColumn, Sharding, Table
from pydistdb.sql.errors import ProgramLimitExceeded
from pydistdb.sql.layout import MOST_KEY_BYTES, IndexEntry, TableLayout

INT8, TEXT, BPCHAR, NUMERIC = 20, 25, 1042, 1700


def table(
    *columns: tuple[str, int], primary: tuple[int, ...] = (1,), indexes: tuple[Index, ...] = (), **fields: Any
) -> Table:
    key = Index(
        0 if primary == (0,) else 500,
        "t_pkey",
        1,
        tuple(map(IndexColumn, primary)),
        unique=True,
        primary=primary != (0,),
    )
    described = tuple(Column(number, name, oid) for number, (name, oid) in enumerate(columns, 1))
    return Table(400, "t", 2200, 5, described, (key, *indexes), storage_id=7, **fields)


def entries_of(layout: TableLayout, row: list[Any], row_id: int | None = None) -> list[IndexEntry]:
    return layout.entries(row, layout.primary_key(row, row_id))


def test_the_worked_example() -> None:
    by_owner = Index(501, "t_owner", 2, (IndexColumn(2),))
    layout = TableLayout(table(("id", INT8), ("owner", TEXT), indexes=(by_owner,)))
    row = [1, "ann"]
    key = layout.primary_key(row)
    assert key.hex() == "04000000070001" + "108000000000000001"
    assert layout.decode(layout.row_value(row)) == row
    (entry,) = entries_of(layout, row)
    assert entry.key.hex() == "04000000070002" + "10616e6e00" + "108000000000000001"
    assert entry.value == key and not entry.unique


values = st.integers(-(2**63), 2**63 - 1) | st.none()


@given(st.lists(st.tuples(values, st.text(alphabet="abé\x01", max_size=5) | st.none()), min_size=2, max_size=2))
def test_keys_order_as_their_columns_do(rows: list[tuple[int | None, str | None]]) -> None:
    index = Index(501, "i", 2, (IndexColumn(1), IndexColumn(2, descending=True, nulls_first=True)))
    layout = TableLayout(table(("a", INT8), ("b", TEXT), primary=(0,), indexes=(index,)))
    keys = [entries_of(layout, row, 1)[0].key for row in rows]

    def before(left: tuple[int | None, str | None], right: tuple[int | None, str | None]) -> bool:
        if left[0] != right[0]:
            return right[0] is None or (left[0] is not None and left[0] < right[0])
        if left[1] != right[1]:
            return left[1] is None or (right[1] is not None and left[1] > right[1])
        return False

    assert (keys[0] < keys[1]) == before(rows[0], rows[1])


@given(st.lists(values, max_size=20), values, values, st.booleans(), st.booleans(), st.booleans(), st.booleans())
def test_bounds_hold_exactly_the_rows_between(
    column: list[int | None], low: int | None, high: int | None, low_in: bool, high_in: bool, desc: bool, first: bool
) -> None:
    index = Index(501, "i", 2, (IndexColumn(1), IndexColumn(2, descending=desc, nulls_first=first)))
    layout = TableLayout(table(("a", INT8), ("b", INT8), primary=(0,), indexes=(index,)))
    span = layout.bounds(
        layout.indexes[1], [5], None if low is None else (low, low_in), None if high is None else (high, high_in)
    )
    for prefix in (4, 5, 6):
        for row_id, value in enumerate(column):
            row = [prefix, value]
            key = entries_of(layout, row, row_id)[0].key
            inside = span is not None and span.start <= key < span.end
            expected = prefix == 5
            if low is not None:
                expected &= value is not None and (value > low or (low_in and value == low))
            if high is not None:
                expected &= value is not None and (value < high or (high_in and value == high))
            assert inside == expected


def test_unique_entries_collide_unless_a_column_is_null() -> None:
    unique = Index(501, "u", 2, (IndexColumn(2),), unique=True)
    layout = TableLayout(table(("id", INT8), ("k", INT8), indexes=(unique,)))
    first, second = (entries_of(layout, [number, 9])[0] for number in (1, 2))
    assert first.key == second.key and first.unique
    first, second = (entries_of(layout, [number, None])[0] for number in (1, 2))
    assert first.key != second.key and not first.unique


def test_equal_shard_columns_share_the_hash_across_tables() -> None:
    sharding = Sharding((1,), group=3)
    users = TableLayout(table(("id", INT8), ("k", INT8), primary=(1, 2), sharding=sharding))
    orders = TableLayout(table(("uid", INT8), ("no", INT8), primary=(2, 1), sharding=sharding))
    key, other = users.primary_key([42, 1]), orders.primary_key([42, 7])
    assert key[:7] == other[:7] and key[0] == 5
    index = users.primary
    assert users.point_key(index, [42, 1]) == key
    assert users.head_of_prefix(index, [42]) == key[:13]
    assert orders.head_of_prefix(orders.primary, [7]) is None, "the shard column comes second: not decided yet"
    spread = {users.primary_key([number, 0])[5:7] for number in range(1000)}
    assert len(spread) > 950


def test_rows_written_before_a_column_existed_get_its_missing_value() -> None:
    old = TableLayout(table(("id", INT8), ("a", TEXT)))
    value = old.row_value([1, "x"])
    added = (Column(1, "id", INT8), Column(2, "a", TEXT, dropped=True), Column(3, "n", NUMERIC, missing="1.50"))
    new = TableLayout(Table(400, "t", 2200, 5, added, old.table.indexes, storage_id=7, version=2))
    assert [str(cell) for cell in new.decode(value)] == ["1", "None", "1.50"]
    assert new.decode(new.row_value([1, "x", None])) == [1, None, None]


def test_padded_text_is_keyed_without_its_padding() -> None:
    layout = TableLayout(table(("c", BPCHAR)))
    assert layout.primary_key(["ab   "]) == layout.primary_key(["ab"])
    assert layout.decode(layout.row_value(["ab   "])) == ["ab   "]


def test_a_key_that_is_too_long_is_an_error_with_the_limit() -> None:
    layout = TableLayout(table(("t", TEXT)))
    layout.primary_key(["x" * (MOST_KEY_BYTES - 9)])
    try:
        layout.primary_key(["x" * MOST_KEY_BYTES])
    except ProgramLimitExceeded as error:
        assert error.sqlstate == "54000" and str(MOST_KEY_BYTES) in error.message
    else:
        raise AssertionError("no error")
