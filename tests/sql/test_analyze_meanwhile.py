"""ANALYZE reads for long and locks nothing: what others change meanwhile must not be contradicted by what it found."""

from __future__ import annotations

from typing import Any

import pytest
from pydistdb.sql.catalog import analyze

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
