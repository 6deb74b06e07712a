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


def test_three_nodes_make_no_difference_to_schema_changes() -> None:
    path = FOLDER / "schema_changes.txt"
    assert transcript(ClusterBackend(), path) == transcript(OwnBackend(), path)


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
