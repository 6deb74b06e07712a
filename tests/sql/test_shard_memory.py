"""What fragments hold where they run: it is bounded, told by EXPLAIN ANALYZE, counted for the node, and given back."""

from __future__ import annotations

import json
import re

import pytest
from pydistdb.sql.resources import LIMITS, NodeResources, QueryResources, session_elsewhere

from tests.support.memory_database import MemoryTransaction
from tests.support.sql_client import SqlClient, SqlServer

ROWS = 600
KEY_BYTES = 900
FILL = f"insert into {{}} select n, lpad(n::text, {KEY_BYTES}, 'x'), n % 7 from generate_series(1, {ROWS}) n"
BOUND = 100_000
CHUNK = 7 * 3 * (KEY_BYTES + 400)
"""A chunk of entries is taken in before anybody looks."""


def connected(*, distant: bool) -> tuple[SqlServer, SqlClient]:
    """A session on a server with a table of wide rows, in ranges of other nodes if ``distant``."""
    server = SqlServer()
    client = server.connect()
    client.execute("create table p (id int8 primary key, k text, g int4)")
    client.execute("create table h (id int8, k text, g int4) shard by hash (g)")
    for table in ("p", "h"):
        assert client.execute(FILL.format(table))[-1] == f"INSERT 0 {ROWS}"
    server.database.distant = distant
    server.database.fragment_chunks = 1_000
    return server, client


QUERIES = {
    "groups": "select k, count(*) from p group by k",
    "states": "select id, max(k) from p group by id",
    "sets": "select k, g, count(*) from p group by grouping sets ((k), (g), ())",
    "lists": "select g, array_agg(k) from p group by g",
    "one list": "select array_agg(k) from p",
    "distinct": "select distinct k from p",
    "top": "select k from p order by g, id limit 400",
    "first of groups": "select id, k from (select *, row_number() over (partition by g order by id) as n from p) s where n < 50",
    "rows": "select k from p where g < 5",
    "grown rows": "select repeat(id::text, 1000) from p",
}


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_a_fragment_gives_what_it_has_before_it_holds_too_much(query: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pydistdb.sql.exec.tail_run.MOST_HELD_BYTES", BOUND)
    (_, near), (server, far) = connected(distant=False), connected(distant=True)
    assert sorted(far.rows(query)) == sorted(near.rows(query))
    answers = server.database.answers
    assert len(answers) > 1 and sum(answer.entries for answer in answers) == ROWS
    peaks = [answer.memory_bytes for answer in answers]
    assert BOUND // 10 < max(peaks) < 2 * BOUND + CHUNK and not any(answer.disk_bytes for answer in answers)


def shards(client: SqlClient, query: str) -> list[dict[str, object]]:
    text = "\n".join(client.execute(f"explain (analyze, costs off, format json) {query}")[:-1])

    def found(node: dict[str, object]) -> list[dict[str, object]]:
        own = [shard for shard in node.get("Shards", []) if isinstance(shard, dict)]  # type: ignore[attr-defined]
        return [*own, *[each for child in node.get("Plans", []) for each in found(child)]]  # type: ignore[attr-defined]

    return found(json.loads(text)[0]["Plan"])


def test_explain_analyze_tells_of_memory() -> None:
    _, far = connected(distant=True)
    query = "select k, count(*) from p group by k"
    text = "\n".join(far.execute(f"explain (analyze, timing off) {query}"))
    assert text.count("Memory Usage") == 1  # of the half at the gateway; the other's is told per range
    (shard,) = shards(far, query)
    memory = shard["Peak Memory Usage"]
    assert ROWS * KEY_BYTES < memory * 1024 < 2 * ROWS * KEY_BYTES  # type: ignore[operator]
    assert shard["Disk Usage"] == 0
    (line,) = [line for line in far.execute(f"explain (analyze, timing off) {query}") if "Range " in line]
    assert f" calls=1 memory={memory}kB" in line
    (line,) = [line for line in far.execute("explain (analyze, timing off) select count(*) from p") if "Range " in line]
    assert "memory" not in line  # a number needs none worth telling


def test_parts_go_to_disk_past_the_sessions_work_mem() -> None:
    """All rows with one value of the shard column lie in one bucket, which is worked on as a whole."""
    _, far = connected(distant=True)
    query = "select id, rank() over (partition by g order by k) from h"
    before = far.rows(query)
    assert not any(shard["Disk Usage"] for shard in shards(far, query))
    far.execute("set work_mem = '64kB'")
    assert all(shard["Disk Usage"] > 64 for shard in shards(far, query))  # type: ignore[operator]
    assert sorted(far.rows(query)) == sorted(before)
    lines = [line for line in far.execute(f"explain (analyze, timing off) {query}") if "Range " in line]
    assert all(re.search(r" memory=\d+kB disk=\d+kB", line) for line in lines)


def test_what_is_too_much_for_a_node_is_left_to_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits of one query hold at each node; the gateway then reads the rows, and need not hold them."""
    _, far = connected(distant=True)
    query = "select id, rank() over (partition by g order by k) from h"
    expected = far.rows(query)
    monkeypatch.setattr("pydistdb.sql.exec.part_run.MOST_HELD_BYTES", 10_000)
    given: list[bool] = []
    evaluate = MemoryTransaction.evaluate

    async def noted(self: MemoryTransaction, *args: bytes, reverse: bool = False) -> object:
        answer = await evaluate(self, *args, reverse=reverse)  # type: ignore[arg-type]
        given.append(answer is not None)
        return answer

    monkeypatch.setattr(MemoryTransaction, "evaluate", noted)
    assert sorted(far.rows(query)) == sorted(expected)
    assert given and not any(given)


def test_a_query_counts_the_most_it_held_elsewhere() -> None:
    node = NodeResources(1 << 30)
    settings = dict(zip(LIMITS, ("1MB", "2", "-1", "10kB"), strict=True))
    held = QueryResources(session_elsewhere(node, settings))
    held.grow(4_000)
    held.grow(-3_000)
    held.grow_file(500)
    with pytest.raises(Exception, match="out of memory"):
        held.grow(10_000)
    assert held.peaks_bytes == (11_000, 500)
    held.close()
    assert node.memory_bytes == 0
