"""Window functions over small partitions, as PostgreSQL answers them."""

from __future__ import annotations

import pytest
from pydistdb.sql.errors import DatabaseError
from pydistdb.sql.functions import window
from pydistdb.sql.functions.window import Partition

PEERS = [0, 1, 1, 2]


def test_ranks_treat_peers_alike() -> None:
    partition = Partition(4, PEERS)
    assert list(window.row_number(partition)) == [1, 2, 3, 4]
    assert list(window.rank(partition)) == [1, 2, 2, 4]
    assert list(window.dense_rank(partition)) == [1, 2, 2, 3]
    assert list(window.percent_rank(partition)) == [0.0, 1 / 3, 1 / 3, 1.0]
    assert list(window.cume_dist(partition)) == [0.25, 0.75, 0.75, 1.0]


def test_a_single_row_has_percent_rank_zero() -> None:
    assert list(window.percent_rank(Partition(1, [0]))) == [0.0]
    assert list(window.cume_dist(Partition(1, [0]))) == [1.0]


@pytest.mark.parametrize(
    ("size", "count", "expected"),
    [(5, 2, [1, 1, 1, 2, 2]), (2, 4, [1, 2]), (3, 3, [1, 2, 3]), (0, 1, [])],
)
def test_ntile_gives_the_first_buckets_more(size: int, count: int, expected: list[int]) -> None:
    assert list(window.ntile(Partition(size), [count] * size)) == expected


def test_ntile_refuses_zero() -> None:
    with pytest.raises(DatabaseError, match="greater than zero") as caught:
        list(window.ntile(Partition(1), [0]))
    assert caught.value.sqlstate == "22014"


def test_lag_and_lead_look_around() -> None:
    partition = Partition(3)
    assert list(window.lag(partition, ["a", "b", "c"])) == [None, "a", "b"]
    assert list(window.lead(partition, ["a", "b", "c"], [2, 2, 2], ["x", "y", "z"])) == ["c", "y", "z"]
    assert list(window.lag(partition, ["a", "b", "c"], [None, 0, -1])) == [None, "b", None]


def test_frame_functions_read_frames() -> None:
    partition = Partition(3, frames=[range(0, 1), range(0, 2), [0, 2]])
    values = ["a", "b", "c"]
    assert list(window.first_value(partition, values)) == ["a", "a", "a"]
    assert list(window.last_value(partition, values)) == ["a", "b", "c"]
    assert list(window.nth_value(partition, values, [2, 2, 2])) == [None, "b", "c"]


def test_an_empty_frame_has_no_values() -> None:
    assert list(window.first_value(Partition(1, frames=[range(0)]), ["a"])) == [None]
