"""ANALYZE reads for long and locks nothing: what others change meanwhile must not be contradicted by what it found."""

from __future__ import annotations

from typing import Any

import pytest
from pydistdb.sql.catalog import analyze, analyze_joint

from tests.support.sql_client import SqlServer


def test_a_type_that_changes_while_rows_are_read_leaves_no_findings_of_the_old_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = SqlServer()
    client, other = server.connect(), server.connect()
    client.execute("CREATE TABLE t (a int PRIMARY KEY, b int, c int)")
    client.execute("INSERT INTO t SELECT i, i / 2, i % 3 FROM generate_series(1, 400) i")
    gather = analyze.gather_statistics
    changed: list[str] = []

    async def gather_and_alter(ddl: Any, table: Any) -> Any:
        found = await gather(ddl, table)
        if not changed:
            await other.session.simple_query("ALTER TABLE t ALTER b TYPE text", other.sink)
            changed.extend(other.sink.lines)
        return found

    monkeypatch.setattr(analyze, "gather_statistics", gather_and_alter)
    assert client.execute("ANALYZE t") == ["ANALYZE"]
    assert changed == ["ALTER TABLE"]
    assert client.rows("SELECT count(*) FROM t WHERE b = 7::text AND c = 2") == ["1"]
    assert client.rows("SELECT attname FROM pg_stats WHERE tablename = 't' ORDER BY 1") == ["a", "c"]


def test_expressions_are_computed_for_many_rows_before_others_get_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn after each row took 30 s for 1,000 rows on a busy node."""
    client = SqlServer().connect()
    client.execute("CREATE TABLE t (a int, b int)")
    client.execute("INSERT INTO t SELECT i % 10, i % 50 FROM generate_series(1, 2000) i")
    client.execute("CREATE STATISTICS s (mcv) ON a, (b + 1) FROM t")
    turns = 0
    give_way = analyze_joint.give_way

    async def counted(scheduler: Any, work_ns: int) -> None:
        nonlocal turns
        turns += 1
        await give_way(scheduler, work_ns)

    monkeypatch.setattr(analyze_joint, "give_way", counted)
    assert client.execute("ANALYZE t") == ["ANALYZE"]
    assert 0 < turns < 20
