"""Sketches of distinct values: how far off they are, that they can be merged, and who uses them."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydistdb.sql import sampling
from pydistdb.sql.sketch import MOST_EXACT, REGISTERS, Sketch, value_hash
from pydistdb_storage.rows import decode_row, encode_row

from tests.sql.laboratory import Laboratory
from tests.support.sql_client import SqlServer


def sketch_of(numbers: range | list[int]) -> Sketch:
    sketch = Sketch()
    sketch.add(map(value_hash, numbers))
    return sketch


@pytest.mark.parametrize("size", [600, 2_000, 5_000, 10_000, 20_000, 60_000])
def test_estimates_are_within_four_standard_deviations(size: int) -> None:
    errors = []
    for start in range(0, 3 * size, size):
        counted = sketch_of(range(start, start + size)).count()
        errors.append(counted / size - 1)
        assert abs(errors[-1]) < 4 * 1.04 / REGISTERS**0.5
    assert abs(sum(errors) / 3) < 3 * 1.04 / REGISTERS**0.5


def test_few_values_are_counted_exactly() -> None:
    for size in (0, 1, 100, MOST_EXACT - 1):
        assert sketch_of([*range(size), *range(size)]).count() == size
        assert Sketch(sketch_of(range(size)).to_bytes()).count() == size


@given(st.lists(st.integers(0, 1_500), max_size=8), st.integers(1, 5))
def test_a_sketch_is_the_same_however_it_is_put_together(edges: list[int], repeated: int) -> None:
    whole = sketch_of(range(1_500))
    parts = Sketch()
    cuts = sorted({0, *edges, 1_500})
    for first, last in [*pairwise(cuts)] * repeated:
        parts.merge(Sketch(sketch_of(range(first, last)).to_bytes()))
    assert parts.to_bytes() == whole.to_bytes()


def test_the_aggregate_counts_as_equal_what_is() -> None:
    lab = Laboratory("create table t (a numeric, b float8, c text, d int4[], e jsonb)")
    lab.run(
        "insert into t values (1.0, 0, 'x', '{1,2}', '{\"a\": 1}'), (1.00, '-0', 'y', '{1,2}', '{\"a\": 1.0}'),"
        " ('NaN', 'NaN', 'x', '{2}', '[]'), ('NaN', 'NaN', null, null, null)"
    )
    names = ", ".join(f"proddb.approx_count_distinct({name})" for name in "abcde")
    exact = ", ".join(f"count(distinct {name})" for name in "abcde")
    assert lab.run(f"select {names} from t") == lab.run(f"select {exact} from t") == [(2, 2, 2, 2, 2)]
    assert lab.run("select proddb.approx_count_distinct(a) from t where false") == [(0,)]
    assert lab.run("select c, proddb.approx_count_distinct(b) from t group by c order by c") == [
        ("x", 2),
        ("y", 1),
        (None, 1),
    ]


@pytest.mark.parametrize(
    "query",
    [
        "select proddb.approx_count_distinct(v) from t",
        "select g, proddb.approx_count_distinct(v) from t group by g order by g",
    ],
)
def test_shards_send_sketches(query: str) -> None:
    labs = [
        Laboratory("create table t (id int8 primary key, g int4, v int4)", distant=distant) for distant in (False, True)
    ]
    for lab in labs:
        lab.run("insert into t select g, g % 3, g * 7 % 2500 from generate_series(1, 5000) g")
    near, far = [lab.run(query) for lab in labs]
    assert near == far
    assert labs[1].database.answers and sum(given.entries for given in labs[1].database.answers) >= 5000
    for row in far:
        assert abs(row[-1] / (2500 if len(row) == 1 else 1667) - 1) < 0.05


def test_analyze_counts_different_values_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    from pydistdb.sql.catalog import analyze

    monkeypatch.setattr(analyze, "SAMPLE_ROWS", 300)
    server = SqlServer()
    client = server.connect()
    # Half of the rows have one value, the other half 750: the sample sees 140 of these or so.
    client.execute("create table t (id int primary key, v int, w text, u int, o int)")
    client.execute(
        "insert into t select g, case when g % 2 = 0 then 0 else g % 1500 end, 'w' || g % 40, 5000 - g, nullif(g % 2, 0)"
        " from generate_series(1, 3000) g"
    )
    for distant in (False, True):
        server.database.distant = distant
        client.execute("analyze t")
        found = dict(
            line.split("|") for line in client.rows("select attname, n_distinct from pg_stats where tablename = 't'")
        )
        distinct = -float(found["v"]) * 3000
        assert abs(distinct / 751 - 1) < 0.05
        assert (found["id"], found["w"], found["u"], found["o"]) == ("-1", "40", "-1", "1")


def test_of_many_rows_some_are_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "COUNTED_ROWS", 1_000)
    rows = [encode_row(1, [place, place % 7]) for place in range(10_000)]
    keys = [b"%05d" % place for place in range(10_000)]
    looked_into: list[int] = []
    monkeypatch.setattr(sampling, "decode_row", lambda row: looked_into.append(0) or decode_row(row))
    sample = sampling.Sample(500, 3, (1, 2))
    for first in range(0, 10_000, 2_500):  # parts, as of ranges, that take chunks
        run = sampling.SampleRun(sample.arguments(None))
        for start in range(first, first + 2_500, 500):
            run.take(keys[start : start + 500], rows[start : start + 500])
        sample.add(sampling.decode_answer(run.finish()))
    assert (sample.count, sample.counted_all) == (10_000, False)
    # 2,500 of the first part, which the sample had whole, 375 of the next 1,500, 500 of 4,000, 125 of the last 2,000
    assert abs(len(looked_into) - 3_500) < 300
    assert abs(sample.sketches[1].count() / len(looked_into) - 1) < 0.06
    assert sample.sketches[2].count() == 7


def test_nothing_is_looked_into_where_the_sample_has_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [encode_row(1, [place, place % 7]) for place in range(1_000)]
    keys = [b"%05d" % place for place in range(1_000)]
    looked_into: list[int] = []
    monkeypatch.setattr(sampling, "decode_row", lambda row: looked_into.append(0) or decode_row(row))
    sample = sampling.Sample(500, 3, (1, 2))

    def take(first: int, last: int) -> None:
        run = sampling.SampleRun(sample.arguments(None))
        run.take(keys[first:last], rows[first:last])
        sample.add(sampling.decode_answer(run.finish()))

    take(0, 300)
    take(300, 500)
    assert (sample.count, looked_into, sample.sketches[1].count()) == (500, [], 0)
    take(500, 600)  # asked for before it was known that there is more
    assert len(looked_into) == 600 and abs(sample.sketches[1].count() / 600 - 1) < 0.06
    take(600, 1_000)
    assert len(looked_into) == 1_000 and abs(sample.sketches[1].count() / 1_000 - 1) < 0.06


def test_random_sketches_merge_as_sets_do() -> None:
    rand = random.Random(4)
    left = {rand.randrange(1 << 40) for _ in range(3_000)}
    right = {rand.randrange(1 << 40) for _ in range(200)} | set(list(left)[:1_000])
    merged = sketch_of(list(left))
    merged.merge(sketch_of(list(right)))
    assert merged.to_bytes() == sketch_of(list(left | right)).to_bytes()
