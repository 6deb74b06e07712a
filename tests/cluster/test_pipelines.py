"""Batches of the extended protocol: one transaction up to the Sync, as Postgres has it (manual, 55.2.3)."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import pq
from pydistdb_tools.local_cluster import LocalCluster


@pytest.fixture
def bare(one_node: LocalCluster) -> Iterator[pq.abc.PGconn]:
    with psycopg.connect(one_node.nodes[0].url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS lines")
        connection.execute("CREATE TABLE lines (a int)")
        yield connection.pgconn


def _run(bare: pq.abc.PGconn, *statements: str) -> list[str]:
    """The outcome of each statement: its tag, its value, or its SQLSTATE and message."""
    bare.enter_pipeline_mode()
    for statement in statements:
        if statement == "sync":
            bare.pipeline_sync()
        else:
            bare.send_query_params(statement.encode(), [])
    bare.pipeline_sync()
    left = statements.count("sync") + 1
    found: list[str] = []
    while left:
        result = bare.get_result()
        if result is None:
            continue
        if result.status == pq.ExecStatus.PIPELINE_SYNC:
            left -= 1
        elif result.status == pq.ExecStatus.PIPELINE_ABORTED:
            found.append("skipped")
        elif result.status == pq.ExecStatus.FATAL_ERROR:
            fields = (pq.DiagnosticField.SQLSTATE, pq.DiagnosticField.MESSAGE_PRIMARY)
            found.append(" ".join((result.error_field(field) or b"").decode() for field in fields))
        elif result.status == pq.ExecStatus.TUPLES_OK and result.ntuples == 1:
            found.append((result.get_value(0, 0) or b"").decode())
        else:
            found.append((result.command_status or b"").decode())
    bare.exit_pipeline_mode()
    return found


def test_an_error_undoes_the_batch_up_to_its_sync(bare: pq.abc.PGconn) -> None:
    outcome = _run(
        bare, "insert into lines values (1)", "select 1/0", "insert into lines values (2)", "sync", "select 5"
    )
    assert outcome == ["INSERT 0 1", "22012 division by zero", "skipped", "5"]
    assert _run(bare, "select count(*) from lines") == ["0"]


def test_commit_and_begin_within_a_batch(bare: pq.abc.PGconn) -> None:
    _run(bare, "begin", "insert into lines values (1)", "commit", "insert into lines values (2)", "select 1/0")
    assert _run(bare, "select count(*) from lines") == ["1"]
    _run(bare, "insert into lines values (3)", "begin", "insert into lines values (4)", "sync", "rollback")
    assert _run(bare, "select count(*) from lines") == ["1"]


def test_what_must_be_a_transaction_of_its_own_comes_first_or_not_at_all(bare: pq.abc.PGconn) -> None:
    assert _run(bare, "vacuum", "select 1") == ["VACUUM", "1"]
    assert _run(bare, "select 1", "vacuum") == ["1", "25001 VACUUM cannot be executed within a pipeline"]
    assert _run(bare, "begin", "vacuum") == ["BEGIN", "25001 VACUUM cannot run inside a transaction block"]
    _run(bare, "rollback")
    assert _run(bare, "select 1", "lock table lines") == [
        "1",
        "25P01 LOCK TABLE can only be used in transaction blocks",
    ]


def test_a_cursor_and_a_limited_portal_read_one_snapshot(bare: pq.abc.PGconn) -> None:
    _run(bare, "insert into lines select generate_series(1, 5000)")
    assert _run(
        bare,
        "begin",
        "declare c cursor for select count(*) over () from lines",
        "delete from lines",
        "fetch 1 c",
        "commit",
    ) == ["BEGIN", "DECLARE CURSOR", "DELETE 5000", "5000", "COMMIT"]
