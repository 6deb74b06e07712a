"""Isolation levels and row locks by golden script (isolation.py), in one range and with a range for each row."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sql.isolation import FOLDER, ClusterBackend, OwnBackend, Script, transcript
from tests.support import golden

SCRIPTS = sorted(FOLDER.glob("*.txt"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script(path: Path) -> None:
    golden.run(Script(OwnBackend()).execute, path)


class _Splitting(OwnBackend):
    """Every statement finds each row of its table in a range of its own."""

    def start(self, session: str, text: str) -> None:
        super().start(session, text)
        if text.startswith("INSERT") and session == "setup":
            self.split()


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_ranges_make_no_difference(path: Path) -> None:
    assert transcript(_Splitting(), path) == transcript(OwnBackend(), path)


@pytest.mark.parametrize("name", ["schema_changes", "savepoint_tables", "lock_monitoring"])
def test_three_nodes_make_no_difference(name: str) -> None:
    path = FOLDER / f"{name}.txt"
    assert transcript(ClusterBackend(), path) == transcript(OwnBackend(), path)


def test_the_victim_of_a_deadlock_finds_its_statement_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    backend = OwnBackend()
    for session, text in (
        ("t1", "CREATE TABLE c (a int PRIMARY KEY, b int)"),
        ("t1", "INSERT INTO c VALUES (1, 1), (2, 2)"),
        ("t1", "BEGIN"),
        ("t2", "BEGIN"),
        ("t1", "UPDATE c SET b = 0 WHERE a = 1"),
        ("t2", "UPDATE c SET b = 0 WHERE a = 2"),
        ("t1", "SELECT pg_current_xact_id()::xid"),
    ):
        backend.start(session, text)
    [xid, _] = backend.finished("t1") or []
    for session, text in (
        ("t1", "UPDATE c SET b = 3 WHERE a = 2"),
        ("t2", "UPDATE c SET b = 4 WHERE a = 1"),
        ("", ""),
    ):
        backend.start(session, text)
    [answer] = backend.finished("t2") or []
    assert answer.endswith("HINT: See server log for query details.")
    [record] = caplog.records
    fields = record.__dict__["fields"]
    assert record.getMessage() == "deadlock detected"
    assert (fields["pid"], fields["statement"]) == (2, "UPDATE c SET b = 4 WHERE a = 1")
    assert f"Process 2 waits for ShareLock on transaction {xid}; blocked by process 1." in fields["detail"]


def test_locks_of_schema_changes_that_were_lost_with_a_lease_cost_a_retry_and_no_more() -> None:
    backend = OwnBackend()

    def run(session: str, text: str) -> list[str] | None:
        backend.start(session, text)
        return backend.finished(session)

    for text in ("BEGIN", "CREATE TABLE c (a int)", "CREATE TABLE d (a int)"):
        run("t1", text)
    backend.node.store.lose_lease(b"\x03")
    backend.node.store.gain_lease(b"\x03")
    assert run("t2", "CREATE TABLE c (b int)") == ["CREATE TABLE"], "nothing is left to wait for"
    [error] = run("t1", "COMMIT") or []
    assert "40001: could not serialize access due to a concurrent schema change" in error
    assert run("t3", "SELECT b FROM c") == ["SELECT 0"]
    assert "does not exist" in (run("t3", "SELECT * FROM d") or [""])[0]


def test_a_lock_timeout_longer_than_a_call_runs_out_at_other_nodes_too() -> None:
    backend = ClusterBackend()

    def run(session: str, text: str) -> list[str] | None:
        backend.start(session, text)
        return backend.finished(session)

    run("t1", "CREATE TABLE c (a int PRIMARY KEY, b int)")
    run("t1", "INSERT INTO c VALUES (1, 1)")
    for session in ("t1", "t2", "t3"):  # one on each node, so at least one of those that wait is not at the leaseholder
        run(session, "SET lock_timeout = '4s'")
    run("t1", "BEGIN")
    assert run("t1", "UPDATE c SET b = 2 WHERE a = 1") == ["UPDATE 1"]
    assert run("t2", "UPDATE c SET b = 3 WHERE a = 1") is None
    assert run("t3", "UPDATE c SET b = 4 WHERE a = 1") is None
    backend.start("", "")
    assert backend.finished("t2") is None, "three seconds"
    assert backend.finished("t3") is None
    backend.start("", "")
    for session in ("t2", "t3"):
        assert backend.finished(session) == ["ERROR: 55P03: canceling statement due to lock timeout"]
    assert run("t1", "COMMIT") == ["COMMIT"]
