"""ANALYZE: estimators, histograms, and what pg_class and pg_stats show of them."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydistdb.sql.catalog.describe_columns import Counted, _sorted, describe_column, estimate_distinct
from pydistdb.sql.catalog.descriptors import Column, JointStatistics, StatisticsObject, Table, TableStatistics
from pydistdb.sql.sampling import Sample, SampleRun, decode_answer
from pydistdb.tasks import sleep
from pydistdb_storage import keys

from tests.support.sql_client import SqlServer

INT4 = Column(1, "a", 23)


def test_a_unique_column() -> None:
    found = describe_column(INT4, list(range(1000)), 1000)
    assert (found.distinct, found.null_fraction, found.minimum, found.maximum) == (-1.0, 0.0, 0, 999)
    assert len(found.histogram) == 101 and found.histogram[0] == 0 and found.histogram[-1] == 999
    assert found.common_values == ()


def test_common_values_and_nulls() -> None:
    values = [None] * 50 + [7] * 30 + [8] * 20
    found = describe_column(INT4, values, 100)
    assert found.null_fraction == 0.5 and found.distinct == 2
    assert found.common_values == (7, 8) and found.common_frequencies == (0.3, 0.2)
    assert found.histogram == ()


def test_only_nulls() -> None:
    found = describe_column(INT4, [None] * 3, 3)
    assert (found.null_fraction, found.distinct, found.minimum) == (1.0, 0.0, None)


def test_distinct_values_are_extrapolated_from_a_sample() -> None:
    sample = Counter(range(3000))
    sample.update(range(500))
    estimate = estimate_distinct(sample, 3500, 100_000)
    assert 3000 < estimate < 100_000
    assert -1 <= estimate_distinct(sample, 3500, 10_000) < -0.1, "many: given as a share of the rows"
    assert estimate_distinct(Counter(dict.fromkeys(range(30), 10)), 300, 100_000) == 30


def test_counted_values_are_all_there_are_or_the_least() -> None:
    sample = Counter(dict.fromkeys(range(30), 10))
    assert estimate_distinct(sample, 300, 100_000, Counted(90.0, True)) == 90
    assert estimate_distinct(sample, 300, 100_000, Counted(90.0, False)) == 90
    sample.update(range(30, 90))
    guess = estimate_distinct(sample, 360, 100_000)
    assert 90 < guess == estimate_distinct(sample, 360, 100_000, Counted(100.0, False))
    assert estimate_distinct(sample, 360, 100_000, Counted(100.0, True)) == 100
    assert estimate_distinct(sample, 360, 100_000, Counted(5_000.0, False)) == 5_000
    unique = Counter(range(300))
    assert estimate_distinct(unique, 300, 100_000, Counted(50_000.0, True)) == -0.5
    assert estimate_distinct(unique, 300, 100_000, Counted(50_000.0, False)) == -1


@given(st.lists(st.one_of(st.none(), st.integers(-50, 50)), min_size=1, max_size=400))
def test_statistics_are_consistent(values: list[int | None]) -> None:
    found = describe_column(INT4, values, len(values))
    present = [value for value in values if value is not None]
    assert abs(found.null_fraction - (1 - len(present) / len(values))) < 1e-9
    if present:
        assert (found.minimum, found.maximum) == (min(present), max(present))
        assert list(found.histogram) == sorted(found.histogram)
        assert set(found.histogram) | set(found.common_values) <= set(present)
        assert sum(found.common_frequencies) <= 1 - found.null_fraction + 1e-9


def test_analyze_and_what_shows_of_it() -> None:
    server = SqlServer()
    client = server.connect()
    client.execute("create table t (id int primary key, word text, n numeric)")
    client.execute(
        "insert into t select g, case when g % 4 = 0 then null else 'w' || g % 3 end, g / 2 from generate_series(1, 600) g"
    )
    assert client.rows("select reltuples from pg_class where relname = 't'") == ["-1"]
    assert client.execute("analyze t") == ["ANALYZE"]
    assert client.rows("select reltuples from pg_class where relname = 't'") == ["600"]
    assert client.rows("select attname, null_frac, n_distinct from pg_stats where tablename = 't' order by 1") == [
        "id|0|-1",
        "n|0|-0.50166667",
        "word|0.25|3",
    ]
    assert client.rows("select most_common_vals, most_common_freqs from pg_stats where attname = 'word'") == [
        "{w0,w1,w2}|{0.25,0.25,0.25}"
    ]
    slots = "stakind1, staop1, stacoll1, stanumbers1, stavalues1, stakind2, stavalues2 is null"
    assert client.rows(f"select staattnum, {slots} from pg_statistic where starelid = 't'::regclass order by 1") == [
        "1|2|97|0|NULL|" + client.rows("select histogram_bounds from pg_stats where attname = 'id'")[0] + "|0|t",
        "2|1|98|100|{0.25,0.25,0.25}|{w0,w1,w2}|0|t",
        "3|2|1754|0|NULL|" + client.rows("select histogram_bounds from pg_stats where attname = 'n'")[0] + "|0|t",
    ]
    view = server.catalog.view("postgres", ("public",))
    table = view.relation("t")
    assert isinstance(table, Table)
    statistics = view.statistics(table.oid)
    assert statistics is not None and statistics.rows == 600 and statistics.bytes_per_row > 10
    client.execute("drop table t")
    assert server.catalog.view("postgres", ("public",)).statistics(table.oid) is None


@pytest.mark.parametrize(
    ("kind", "from_storage", "values"),
    [
        ("bool", None, [True, False]),
        ("int", None, [5, -1, -(2**63), 2**63 - 1, 0]),
        ("text", None, ["", "a", "ä", "Z", "\U0001f600", "\uffee", "a b", "a\tb", "ab"]),
        (
            "decimal",
            Decimal,
            ["1.0", "-1", "NaN", "Infinity", "-Infinity", "0", "1e40", "-0.001", "1.000000000001", "12"],
        ),
    ],
)
def test_values_are_sorted_as_their_keys(kind: str, from_storage: Any, values: list[Any]) -> None:
    encode = keys.key_encoder([kind])
    convert = from_storage or (lambda value: value)
    assert _sorted(kind, from_storage, Counter(values)) == sorted(values, key=lambda value: encode([convert(value)]))


def test_analyze_of_a_hash_sharded_table_counts_only_its_rows() -> None:
    client = SqlServer().connect()
    client.execute("create table a (id int8 primary key) shard by hash (id)")
    client.execute("create table b (id int8 primary key, x int) shard by hash (id)")
    client.execute("create index on b (x)")
    client.execute("insert into a select g from generate_series(1, 700) g")
    client.execute("insert into b select g, g from generate_series(1, 30) g")
    client.execute("analyze")
    rows = client.rows("select relname, reltuples from pg_class where relname in ('a', 'b') order by 1")
    assert rows == ["a|700", "b|30"]


def test_a_sample_is_the_same_however_it_is_cut() -> None:
    keys = [b"key %d" % number for number in range(5_000)]
    values = [b"value %d" % number for number in range(5_000)]

    def taken(part: int) -> Sample:
        sample = Sample(300, 7)
        for start in range(0, len(keys), part):
            run = SampleRun(sample.arguments(None))
            run.take(keys[start : start + part], values[start : start + part])
            sample.add(decode_answer(run.finish()))
        sample.trim()
        return sample

    whole, cut = taken(5_000), taken(100)
    assert whole.values == cut.values and len(cut.values) == 300
    assert cut.count == 5_000 and cut.size == sum(map(len, keys)) + sum(map(len, values))
    half = sum(int(value.split()[1]) < 2_500 for value in cut.values)
    assert 100 < half < 200, "a fair share comes from each half"


def test_tables_of_other_nodes_are_sampled_there() -> None:
    server = SqlServer()
    client = server.connect()
    client.execute(
        "create table t (a int primary key, b text); insert into t select i, i % 9 from generate_series(1, 900) i"
    )
    client.execute("analyze t")
    near = client.rows("select * from pg_stats where tablename = 't'")
    server.database.distant = True
    client.execute("analyze t")
    assert server.database.answers and client.rows("select * from pg_stats where tablename = 't'") == near


def test_tables_that_change_are_analysed_by_themselves() -> None:
    server = SqlServer()
    client = server.connect()
    auto_analyze = server.environment.auto_analyze
    auto_analyze.start()
    client.execute("create table t (a int primary key, b text); create temporary table mine (a int)")
    client.execute(
        "insert into t select i, i % 9 from generate_series(1, 60) i; insert into mine select generate_series(1, 99)"
    )

    def minutes_pass() -> list[str]:
        server.scheduler.run_until(sleep(server.scheduler, 61_000_000_000), 70_000_000_000)
        return client.rows("select reltuples from pg_class where relname in ('t', 'mine') order by relname")

    assert minutes_pass() == ["-1", "60"]
    shown = "select last_analyze is null, last_autoanalyze is null from pg_stat_user_tables where relname = 't'"
    assert client.rows(shown) == ["t|f"]
    client.execute("update t set b = b where a < 50")
    assert minutes_pass()[1] == "60" and sum(auto_analyze.changes().values()) == 49
    for number in range(61, 75):
        client.execute(f"insert into t values ({number}, '')")
    assert minutes_pass()[1] == "74" and not auto_analyze.changes()
    client.execute("delete from t where a > 2")
    client.execute("analyze t")
    assert not auto_analyze.changes() and client.rows(shown) == ["f|t"]
    client.execute("drop table t")
    assert not auto_analyze.changes()
    auto_analyze.stop()


def test_the_node_with_most_changes_analyses() -> None:
    server = SqlServer()
    client = server.connect()
    client.execute("create table t (a int primary key); insert into t select generate_series(1, 40)")
    view = server.catalog.view("postgres", ("public",))
    table = view.relation("t")
    assert isinstance(table, Table)
    here = server.database.node_id
    others: dict[int, bytes | None] = {}

    async def broadcast(topic: str, payload: bytes, timeout_ns: int) -> dict[int, bytes | None]:
        return {here: msgspec.msgpack.encode(list(server.environment.auto_analyze.changes().items())), **others}

    server.database.broadcast = broadcast  # type: ignore[method-assign]

    def looked_at() -> bool:
        server.scheduler.run(server.environment.auto_analyze.look())
        return client.rows("select reltuples from pg_class where relname = 't'") == ["40"]

    assert not looked_at(), "40 rows are too few"
    others[here + 1] = msgspec.msgpack.encode([(table.oid, 41)])
    others[here + 2] = None
    assert not looked_at(), "the other node has more of them"
    others[here + 1] = msgspec.msgpack.encode([(table.oid, 15)])
    assert looked_at() and not server.environment.auto_analyze.changes()


def test_what_older_stores_hold_has_no_statistics_objects() -> None:
    table = Table(1, "t", 2, 5, (INT4,), (), statistics_objects=(StatisticsObject(7, "s", 2, (1,)),))
    statistics = TableStatistics(3.0, joint={7: JointStatistics((((1, 2), 3.0),))})
    for value in (table, statistics):
        fields = msgspec.msgpack.decode(msgspec.msgpack.encode(value))
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(fields), type=type(value)) == value
    older = msgspec.msgpack.encode(msgspec.msgpack.decode(msgspec.msgpack.encode(table))[:-1])
    assert msgspec.msgpack.decode(older, type=Table).statistics_objects == ()
    older = msgspec.msgpack.encode(msgspec.msgpack.decode(msgspec.msgpack.encode(statistics))[:-2])
    found = msgspec.msgpack.decode(older, type=TableStatistics)
    assert (found.joint, found.expressions) == ({}, {})
