"""MERGE on rows that another transaction is changing: it waits, then goes by what the rows have become, as in Postgres 15."""

from __future__ import annotations

import threading
import time

import psycopg
import pytest
from pydistdb_tools.local_cluster import LocalCluster

UPSERT = "WHEN MATCHED THEN UPDATE SET c = 'other' WHEN NOT MATCHED THEN INSERT VALUES (s.a, 0, 'new')"
CASES = {
    "the newest version decides which action": (
        "UPDATE t SET b = b + 1 WHERE a = 1",
        f"MERGE INTO t USING s ON t.a = s.a WHEN MATCHED AND t.b = 11 THEN UPDATE SET c = 'eleven' {UPSERT}",
        [(1, 11, "eleven"), (2, 20, "other"), (3, 0, "new")],
    ),
    "a row deleted meanwhile is not matched": (
        "DELETE FROM t WHERE a = 1",
        f"MERGE INTO t USING s ON t.a = s.a {UPSERT}",
        [(1, 0, "new"), (2, 20, "other"), (3, 0, "new")],
    ),
    "a row that fails the ON condition now is not matched": (
        "UPDATE t SET b = 99 WHERE a = 1",
        "MERGE INTO t USING s ON t.a = s.a AND t.b = 10 WHEN MATCHED THEN DELETE "
        "WHEN NOT MATCHED AND s.a = 1 THEN INSERT VALUES (s.a + 10, 0, 'new')",
        [(1, 99, "x"), (2, 20, "y"), (11, 0, "new")],
    ),
}


@pytest.mark.parametrize(("change", "merge", "rows"), CASES.values(), ids=CASES)
def test_merge_waits_and_decides_again(
    one_node: LocalCluster, change: str, merge: str, rows: list[tuple[int, int, str]]
) -> None:
    url = one_node.nodes[0].url
    with psycopg.connect(url, autocommit=True) as first, psycopg.connect(url, autocommit=True) as second:
        first.execute("DROP TABLE IF EXISTS t, s")
        first.execute("CREATE TABLE t (a int PRIMARY KEY, b int, c text); CREATE TABLE s (a int)")
        first.execute("INSERT INTO t VALUES (1, 10, 'x'), (2, 20, 'y'); INSERT INTO s VALUES (1), (2), (3)")
        first.execute("BEGIN")
        first.execute(change)
        merging = threading.Thread(target=second.execute, args=(merge,))
        merging.start()
        time.sleep(0.2)
        assert merging.is_alive()
        first.execute("COMMIT")
        merging.join(10)
        assert first.execute("SELECT * FROM t ORDER BY a").fetchall() == rows
        first.execute("DROP TABLE t, s")
