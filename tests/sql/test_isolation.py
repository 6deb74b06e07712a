"""Isolation levels and row locks by golden script (isolation.py), in one range and with a range for each row."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sql.isolation import FOLDER, OwnBackend, Script, transcript
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
