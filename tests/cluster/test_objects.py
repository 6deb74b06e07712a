"""Schema objects on several nodes: what one node makes another sees at once; temporary tables go with their session."""

from __future__ import annotations

import os
import signal
import time

import psycopg
import pytest
from pydistdb_tools.local_cluster import LocalCluster

PATIENCE_SECONDS = 10
SWEEP_SECONDS = 60
"""Until the node counts as dead, the next look, and the drop."""


def test_objects_made_on_one_node_work_on_another(three_nodes: LocalCluster) -> None:
    urls = [node.url for node in three_nodes.nodes]
    with psycopg.connect(urls[0], autocommit=True) as first, psycopg.connect(urls[1], autocommit=True) as second:
        first.execute("CREATE TABLE things (a int PRIMARY KEY, b int)")
        first.execute("INSERT INTO things SELECT g, g * g FROM generate_series(1, 10) g")
        first.execute(
            "CREATE FUNCTION book(n int) RETURNS bigint LANGUAGE sql AS "
            "'INSERT INTO things VALUES (n, 0); SELECT count(*) FROM things'"
        )
        first.execute("CREATE MATERIALIZED VIEW squares AS SELECT sum(b) AS total FROM things")
        first.execute("CREATE VIEW small AS SELECT a FROM things WHERE a < 5 WITH CHECK OPTION")
        assert second.execute("SELECT book(11)").fetchone() == (11,)
        assert second.execute("SELECT total FROM squares").fetchone() == (385,)
        with pytest.raises(psycopg.errors.WithCheckOptionViolation):
            second.execute("INSERT INTO small VALUES (50)")
        second.execute("CREATE OR REPLACE FUNCTION book(n int) RETURNS bigint LANGUAGE sql AS 'SELECT 7::bigint'")
        assert first.execute("SELECT book(12)").fetchone() == (7,)


def test_temporary_tables_are_a_session_s_own_and_go_with_it(three_nodes: LocalCluster) -> None:
    urls = [node.url for node in three_nodes.nodes]
    with psycopg.connect(urls[1], autocommit=True) as second:
        with psycopg.connect(urls[0], autocommit=True) as first:
            first.execute("CREATE TEMP TABLE mine AS SELECT generate_series(1, 100) AS n")
            second.execute("CREATE TEMP TABLE mine AS SELECT 1 AS n")
            assert first.execute("SELECT count(*) FROM mine").fetchone() == (100,)
            assert second.execute("SELECT count(*) FROM mine").fetchone() == (1,)
        deadline = time.monotonic() + PATIENCE_SECONDS
        count = "SELECT count(*) FROM pg_class WHERE relname = 'mine'"
        while second.execute(count).fetchone() != (1,):
            assert time.monotonic() < deadline, "the other session's table is still there"
            time.sleep(0.1)
        assert second.execute("SELECT count(*) FROM mine").fetchone() == (1,)


def test_a_dead_node_s_temporary_tables_are_swept_up(fresh_three_nodes: LocalCluster) -> None:
    doomed, other = fresh_three_nodes.nodes[2], fresh_three_nodes.nodes[0]
    with psycopg.connect(doomed.url, autocommit=True) as lost:
        lost.execute("CREATE TEMP TABLE orphan AS SELECT generate_series(1, 100) AS n")
        os.kill(doomed.pid, signal.SIGKILL)
    with psycopg.connect(other.url, autocommit=True) as connection:
        deadline = time.monotonic() + SWEEP_SECONDS
        while connection.execute("SELECT count(*) FROM pg_class WHERE relname = 'orphan'").fetchone() != (0,):
            assert time.monotonic() < deadline, "nobody swept up"
            time.sleep(0.5)
        assert connection.execute("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'pg_temp%'").fetchone() == (0,)
