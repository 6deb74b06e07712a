"""LIMIT over UNION ALL, pushed into the arms: the rows that cutting off the whole result gives, wherever they lie."""

from __future__ import annotations

import random

import pytest

from tests.sql.laboratory import Laboratory
from tests.sql.test_fragments import explained

DDL = """create table t (id int8 primary key, v int4); create table u (id int8 primary key, v int4, s text);
create index on u (v)"""
FILL = """insert into t select g, nullif(g * 7 % 40, 3) from generate_series(1, 120) g;
insert into u select g, nullif(g * 5 % 30, 4), 's' || g from generate_series(101, 260) g"""
ARMS = [
    "select id, v from t",
    "select id, v from u where v > 3",
    "select id + 1000, v from u",
    "select max(id), v from t group by v",
    "(select id, v from u order by s limit 9)",
    "select 5000, 7",
    "select id, v from t where false",
]


@pytest.fixture(scope="module", params=[False, True])
def lab(request: pytest.FixtureRequest) -> Laboratory:
    made = Laboratory(DDL, FILL, distant=request.param)
    made.scheduler.run(made.database.split(sorted(made.database.versions)[::60]))
    return made


@pytest.mark.parametrize("seed", range(20))
def test_the_first_of_all(lab: Laboratory, seed: int) -> None:
    rand = random.Random(seed)
    union = " union all ".join(rand.sample(ARMS, rand.randrange(2, 5)))
    order = rand.choice(["1", "1 desc", "2, 1", "2 desc nulls last, 1", "v nulls first, id desc"])
    if "v" in order:
        union, order = f"select * from ({union}) x (id, v)", f"-{order.replace(', id', ', -id')}"
    limit, offset = rand.randrange(1, 30), rand.choice([0, 0, 5, 60])
    everything = lab.run(f"{union} order by {order}")
    found = lab.run(f"{union} order by {order} limit {limit} offset {offset}")
    assert found == everything[offset : offset + limit]
    assert len(lab.run(f"{union} limit {limit} offset {offset}")) == len(found)


@pytest.mark.parametrize("limit", [0, 1, 7, None])
def test_a_parameter(lab: Laboratory, limit: int | None) -> None:
    query = "select id from t union all select id from u order by 1 limit $1"
    everything = [row[0] for row in lab.run("select id from t union all select id from u order by 1")]
    found = [row[0] for row in lab.execute(lab.compile(query, (20,)), limit)]
    assert found == everything[:limit]


def test_shards_send_no_more_than_is_wanted() -> None:
    lab = Laboratory(DDL, FILL, distant=True)
    text = explained(lab, "select v from t union all select v from u order by 1 limit 3", analyze=True)
    sent = [int(line.split(" rows=")[1].split()[0]) for line in text.splitlines() if "scanned=" in line]
    calls = [int(line.split(" calls=")[1].split()[0]) for line in text.splitlines() if "scanned=" in line]
    assert sent and sum(sent) <= 3 * sum(calls), text
