"""EXPLAIN's Shard Query is SQL that Postgres's parser reads, and that runs."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pglast
import pytest

from tests.sql import test_at_shards, test_fragments
from tests.sql.laboratory import Laboratory

GOLDEN = Path(__file__).parent / "golden"
HEAD = "Shard Query: "


@pytest.fixture(scope="module")
def far() -> Laboratory:
    lab = test_fragments.laboratory(distant=True)
    test_fragments.cut_up(lab)
    return lab


def shown(text: str) -> list[str]:
    return [line.partition(HEAD)[2] for line in text.splitlines() if HEAD in line]


def check(query: str, lab: Laboratory) -> None:
    pglast.parse_sql(query)
    if "$" not in query:
        lab.run(query)


def test_golden_plans() -> None:
    found = [query for path in GOLDEN.rglob("*.txt") for query in shown(path.read_text())]
    assert len(found) > 10
    for query in found:
        pglast.parse_sql(query)


def test_joins() -> None:
    far, near = test_at_shards.laboratory(distant=True), test_at_shards.laboratory()
    test_at_shards.cut_up(far, 3)
    found = [each for query in test_at_shards.QUERIES for each in shown(test_at_shards.explained(far, query))]
    assert len(found) > 10
    for query in found:
        check(query, near)


def test_scans() -> None:
    far, near = test_fragments.laboratory(distant=True), test_fragments.laboratory()
    test_fragments.cut_up(far)
    rand = random.Random(3)
    count = 0
    for _ in range(80):
        for query in shown(test_fragments.explained(far, test_fragments.some_query(rand)[0])):
            check(query, near)
            count += 1
    assert count > 60


@pytest.mark.parametrize(
    "condition, expected",
    [
        ("g in (1, 2)", "g IN (1, 2)"),
        ("g <> all ('{1,2}')", "g <> ALL (CAST('{1,2}' AS integer[]))"),
        ("n::numeric(10,1) = g", "CAST(n AS numeric(10,1)) = CAST(g AS numeric)"),
        ("s like 'a\\%''b' and not b", "s LIKE CAST('a\\%''b' AS text) AND NOT b"),
        ("v = -5 or g is null", "(v = (-5)) OR (g IS NULL)"),
    ],
)
def test_conditions(far: Laboratory, condition: str, expected: str) -> None:
    (found,) = shown(test_fragments.explained(far, f"select id from t where {condition}"))
    assert found.partition(" WHERE ")[2] == expected


def test_states(far: Laboratory) -> None:
    states = "count(n) AS partial_count, avg(n) AS partial_avg, var_pop(n) AS partial_var_pop"
    text = test_fragments.explained(far, "select stddev(n) from t")
    assert shown(text) == [f"SELECT {states} FROM t"]
    assert "Functions: stddev(combined partial_count, partial_avg, partial_var_pop)" in text


def test_its_writer_is_imported_when_it_is_needed() -> None:
    """It takes a tenth of a second, which neither a server's start nor other statements are to wait for."""
    program = (
        "import json, sys, pydistdb_server.node, pydistdb.sql.session.explain; print(json.dumps(list(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "pydistdb.sql.plan.explain_gather" in json.loads(output)
    assert "sqlglot" not in json.loads(output)
