"""Hash joins that build their left side give what those give that build the right one; keys sent ahead change nothing."""

from __future__ import annotations

from typing import Any

import pytest
from pydistdb.sql.exec import CompiledQuery
from pydistdb.sql.exec.hash_join import HashJoinOperator
from pydistdb.sql.plan import cost, cut, plan, smaller_side

from tests.sql.laboratory import Laboratory
from tests.sql.test_fragments import explained

DDL = """create table a (id int8 primary key, k int4, s text);
create table b (id int8 primary key, k int4, s text, v numeric)"""
FILL = """insert into a select g, nullif(g % 40, 7), 'é' || g % 9 from generate_series(1, 60) g;
insert into b select g, nullif(g % 90, 5), 'é' || g % 13, g % 17 from generate_series(1, 900) g"""
QUERIES = [
    "select id from a where exists (select 1 from b where b.k = a.k)",
    "select id, s from a where exists (select 1 from b where b.k = a.k and b.v > a.id)",
    "select id from a where exists (select 1 from b where b.k = a.k and b.s = a.s and b.id <> a.id)",
    "select id from a where not exists (select 1 from b where b.k = a.k)",
    "select id from a where not exists (select 1 from b where b.k = a.k and b.v > a.id)",
    "select a.id, b.id from a left join b on a.k = b.k",
    "select a.id, b.v from a left join b on a.k = b.k and a.id < b.v",
    "select a.s, b.id from a left join b on a.s = b.s and b.v = 4",
    "select id from a where id > (select avg(v) from b where b.k = a.k)",
    "select id, (select count(*) from b where b.k = a.k and b.v > 2) from a",
    "select a.id, t.n from a left join (select k, s, count(*) n from b group by k, s having max(v) > 6) t"
    " on t.k = a.k and t.s = a.s",
    "select a.id from a where exists (select 1 from (select k + 1 as k, v from b) c where c.k = a.k and c.v > 15)",
    "select id from a where k < 0 and exists (select 1 from b where b.k = a.k)",
    "select id from a where k < 0 and not exists (select 1 from b where b.k = a.k)",
]


def laboratory(**options: Any) -> Laboratory:
    return Laboratory(DDL, FILL, **options)


def cut_up(lab: Laboratory) -> None:
    lab.scheduler.run(lab.database.split(sorted(lab.database.versions)[::100]))


@pytest.fixture(autouse=True)
def every_join_is_turned(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOKUP_COST", "RESTART_COST", "FAR_CALL_COST"):
        monkeypatch.setattr(cost, name, 1e6)
    monkeypatch.setattr(cut, "MOST_BROADCAST_ROWS", 0)
    monkeypatch.setattr(smaller_side, "LEAST_ROWS", 0)
    monkeypatch.setattr(smaller_side, "LEAST_RATIO", 0)
    monkeypatch.setattr(smaller_side, "MOST_PARTNERS", 100)


def rows_and_plan(lab: Laboratory, query: str) -> tuple[list[Any], list[str]]:
    disabled = frozenset({"nestloop", "mergejoin", "repartition"})
    compiled = CompiledQuery(plan(lab.bound(query), lab.catalog, disabled))
    return sorted(lab.execute(compiled), key=repr), compiled.explain()


def turned(text: list[str]) -> bool:
    return any("Hash Right" in line for line in text)


@pytest.mark.parametrize("work_mem", ["4MB", "64"])
@pytest.mark.parametrize("query", QUERIES)
def test_the_same_rows(
    near: Laboratory, far: Laboratory, query: str, work_mem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    spilled: list[int] = []
    partitioned = HashJoinOperator._partitioned

    def counted(*arguments: Any) -> Any:
        spilled.append(1)
        return partitioned(*arguments)

    monkeypatch.setattr(HashJoinOperator, "_partitioned", counted)
    for lab in (near, far):
        monkeypatch.setitem(lab.context.settings, "work_mem", work_mem)
        monkeypatch.setitem(lab.context.settings, "hash_mem_multiplier", "0.05" if work_mem == "64" else "2")
        found[lab], text = rows_and_plan(lab, query)
        assert turned(text), text
    assert bool(spilled) == (work_mem == "64" and "k < 0" not in query)
    monkeypatch.setattr(smaller_side, "LEAST_ROWS", 1e12)
    expected, text = rows_and_plan(near, query)
    assert not turned(text)
    assert found[near] == expected and found[far] == expected
    assert expected or "k < 0" in query


def test_what_has_no_partner_is_not_sent(far: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below a GROUP BY, too: 900 rows in 91 groups, and three of them are wanted."""
    query = "select id from a where id < 4 and id > (select avg(v) from b where b.k = a.k)"
    sent = {}
    for most in (0, 100):
        monkeypatch.setattr(smaller_side, "MOST_PARTNERS", most)
        text = explained(far, query, analyze=True)
        groups = text[text.index("HashAggregate") :].splitlines()
        sent[most] = sum(int(line.split(" rows=")[1].split()[0]) for line in groups if "scanned=" in line)
    assert sent[0] > 500 and 3 <= sent[100] < 120, text
