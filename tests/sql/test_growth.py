"""Growth is what theory says, by counting and never by the clock.

Twice the rows are twice the entries read, questions asked and bytes sent by a scan; aggregates send the same however many rows
there are; a point select asks one question of one range, whether there are 3 or 300.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
from pydistdb.kv.api import Isolation, ScanBatch
from pydistdb.sql.catalog import index_chunks
from pydistdb.sql.layout import TableLayout
from pydistdb_storage.engine import Picks

from tests.sql.laboratory import Laboratory
from tests.sql.test_fragments import explained
from tests.support.memory_database import MemoryTransaction

DDL = """create table t (id int8 primary key, g int4, v numeric, s text) shard by hash (id);
create table u (id int8 primary key, w int4) shard by hash (id);
create table small (g int4 primary key, name text)"""
RANGES = 4


def laboratory(rows: int, ranges: int = RANGES) -> Laboratory:
    lab = Laboratory(DDL, distant=True)
    lab.run(
        f"insert into t select i, i % 10, i * 0.5, 'row ' || i % 100 from generate_series(10001, {10_000 + rows}) i"
    )
    lab.run(f"insert into u select i, i % 7 from generate_series(10001, {10_000 + rows}) i")
    lab.run("insert into small select i, 'group ' || i from generate_series(0, 9) i")
    # Buckets are two bytes: as many shards as there would be, cut evenly.
    prefix = next(key for key in lab.database.versions if key[:1] == b"\x05")[:5]
    cuts = [prefix + (65_536 * number // ranges).to_bytes(2, "big") for number in range(1, ranges)]
    lab.scheduler.run(lab.database.split(cuts))
    return lab


def work(lab: Laboratory, query: str) -> Counter[str]:
    """What EXPLAIN ANALYZE counts, over all ranges."""
    found: Counter[str] = Counter()
    for name, number in re.findall(r"(scanned|rows|bytes|calls)=(\d+)", explained(lab, query, analyze=True)):
        found[name] += int(number)
    return found


@pytest.fixture(scope="module")
def once() -> Laboratory:
    return laboratory(1_500)


@pytest.fixture(scope="module")
def twice() -> Laboratory:
    return laboratory(3_000)


def test_a_scan_doubles(once: Laboratory, twice: Laboratory) -> None:
    query = "select id, v, s from t"
    first, second = work(once, query), work(twice, query)
    assert first["scanned"] >= 1_500 and second["scanned"] == pytest.approx(2 * first["scanned"], rel=0.02)
    assert second["calls"] == pytest.approx(2 * first["calls"], rel=0.05)
    assert second["bytes"] == pytest.approx(2 * first["bytes"], rel=0.05)


def test_an_aggregate_reads_twice_as_much_and_sends_the_same_from_each_answer(
    once: Laboratory, twice: Laboratory
) -> None:
    query = "select count(*), sum(v) from t"
    first, second = work(once, query), work(twice, query)
    assert second["scanned"] == pytest.approx(2 * first["scanned"], rel=0.02)
    answers = [found["bytes"] / found["calls"] for found in (first, second)]
    assert answers[1] == pytest.approx(answers[0], rel=0.05)
    assert second["calls"] == pytest.approx(2 * first["calls"], rel=0.05)


@pytest.mark.parametrize(
    "query",
    [
        "select count(*), sum(t.v) from t join u on u.id = t.id where u.w < 3",
        "select small.name, count(*) from t join small using (g) group by 1",
        "select t.id, u.w from t join u on u.id = t.id",
    ],
)
def test_a_join_doubles(once: Laboratory, twice: Laboratory, query: str) -> None:
    first, second = work(once, query), work(twice, query)
    assert second["scanned"] == pytest.approx(2 * first["scanned"], rel=0.02)
    assert second["calls"] <= 2.1 * first["calls"]
    assert second["bytes"] <= 2.1 * first["bytes"]


@pytest.mark.parametrize(
    "query", ["select v from t where id = 10077", "select s, w from t join u using (id) where t.id = 10077"]
)
def test_a_point_select_asks_as_much_of_300_shards_as_of_3(query: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Counter[str] = Counter()
    for name in ("try_get", "get_many", "scan", "try_scan", "evaluate", "part_at"):

        def counted(self: Any, *arguments: Any, name: str = name, **named: Any) -> Any:
            asked[name] += 1
            return getattr(MemoryTransaction, f"_counted_{name}")(self, *arguments, **named)

        monkeypatch.setattr(MemoryTransaction, f"_counted_{name}", getattr(MemoryTransaction, name), raising=False)
        monkeypatch.setattr(MemoryTransaction, name, counted)
    found = []
    for ranges in (3, 300):
        lab = laboratory(200, ranges)
        asked.clear()
        assert len(lab.run(query)) == 1
        found.append(dict(asked))
        assert f"of {ranges}" in explained(lab, "select * from t")
    assert found[0] == found[1] and 0 < sum(found[0].values()) < 6, found


def test_more_shards_are_as_many_more_questions_of_a_scan_and_no_more_rows() -> None:
    few, many = laboratory(600, 3), laboratory(600, 30)
    first, second = work(few, "select id from t"), work(many, "select id from t")
    assert second["scanned"] == first["scanned"]
    assert second["calls"] <= first["calls"] + 30


def test_filling_an_index_passes_over_what_others_have_in_the_same_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory database gives all entries whatever is asked for; the engine heeds ``picks`` (tests/storage/test_picks.py)."""
    lab = laboratory(50)
    wanted: list[Picks | None] = []
    scan = MemoryTransaction.scan

    async def noted(self: MemoryTransaction, *span: bytes, picks: Picks | None = None, **named: Any) -> ScanBatch:
        wanted.append(picks)
        return await scan(self, *span, **named)

    monkeypatch.setattr(MemoryTransaction, "scan", noted)
    layout = TableLayout.of(next(table for table in lab.catalog._tables.values() if table.name == "u"))
    transaction: Any = lab.database.begin(Isolation.READ_COMMITTED)
    transaction.begin_statement()
    rows, _ = lab.scheduler.run(index_chunks.locked_rows(transaction, layout, b"", 10_000))
    assert len(rows) == 50 and wanted and all(picks is not None and picks.marks for picks in wanted)
