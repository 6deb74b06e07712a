"""The merge join gives what the hash join gives, however its sides come in batches."""

from __future__ import annotations

import random
from typing import Any

import pytest
from pydistdb.sql.exec import CompiledQuery, scan
from pydistdb.sql.plan import cost, joins, plan

from tests.sql.laboratory import Laboratory

DDL = """create table a (k int8 primary key, v int4);
create table b (k int8, n int4, w int4, primary key (k, n));
create table c (k int8, n int4, x text, primary key (k, n));
create table d (t text primary key, k int8)"""
QUERIES = [
    "select a.k, a.v, b.n from a join b on a.k = b.k",
    "select a.k, b.n from a left join b on a.k = b.k",
    "select a.k, b.n, b.w from b left join a on a.k = b.k and a.v > b.w",
    "select a.k, b.k, b.n from a full join b on a.k = b.k",
    "select b.k, b.n, c.k, c.n from b full join c on b.k = c.k and b.n = c.n",
    "select b.k, b.n, c.x from b join c on b.k = c.k and b.n = c.n",
    "select b.k, b.n, c.n from b join c on b.k = c.k",
    "select b.k, b.n, c.n from b join c on b.k = c.k and b.w < c.n",
    "select a.k from a where exists (select 1 from b where b.k = a.k)",
    "select a.k from a where not exists (select 1 from b where b.k = a.k and b.w > 3)",
    "select x.k, count(*) from b x join b y on x.k = y.k group by 1",
    "select d.t, e.k from d join d e on d.t = e.t",
]


@pytest.fixture(params=[1, 2, 3])
def lab(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Laboratory:
    rand = random.Random(request.param)
    monkeypatch.setattr(joins, "SPILLED_ROWS", -1)
    monkeypatch.setattr(cost, "LOOKUP_COST", 1e6)
    monkeypatch.setattr(cost, "RESTART_COST", 1e6)
    monkeypatch.setattr(scan, "FIRST_CHUNK_ROWS", rand.randrange(1, 5))
    monkeypatch.setattr(scan, "BATCH_ROWS", rand.randrange(1, 40))
    made = Laboratory(DDL)
    most = rand.choice([4, 40, 200])
    for table in ("b", "c"):
        pairs = {(rand.randrange(most), rand.randrange(9)) for _ in range(rand.randrange(150))}
        for k, n in pairs:
            last = str(n) if table == "b" else f"'x{n}'"
            made.run(f"insert into {table} values ({k}, {n}, {last})")
    for k in rand.sample(range(most), rand.randrange(most)):
        made.run(f"insert into a values ({k}, {rand.randrange(9)})")
    for number in range(30):
        made.run(f"insert into d values ('{chr(60 + number * 7)}é{number}', {number})")
    return made


def answer(lab: Laboratory, query: str, *disabled: str) -> tuple[list[Any], list[str]]:
    compiled = CompiledQuery(plan(lab.bound(query), lab.catalog, frozenset(disabled)))
    return sorted(lab.execute(compiled), key=repr), compiled.explain()


@pytest.mark.parametrize("query", QUERIES)
def test_merged_as_hashed(lab: Laboratory, query: str) -> None:
    expected, hashed = answer(lab, query, "mergejoin")
    found, merged = answer(lab, query)
    assert not any("Merge" in line for line in hashed)
    assert any("Merge" in line for line in merged), merged
    assert found == expected


def test_only_sorted_sides_are_merged(lab: Laboratory) -> None:
    for query in (
        "select 1 from b join c on b.n = c.n",
        "select 1 from b join c on b.k = c.n",
        "select 1 from a join b on a.v = b.k",
        "select 1 from a join b on a.k + 1 = b.k",
        "select 1 from a where k not in (select k from b)",
    ):
        assert not any("Merge" in line for line in answer(lab, query)[1]), query


def test_small_tables_are_hashed() -> None:
    assert "Hash Join" in answer(Laboratory(DDL), QUERIES[0])[1][0]
