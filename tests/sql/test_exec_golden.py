"""What statements return, and how they fail, by golden scripts (Postgres 15 is the model for every line)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sql.script import Script
from tests.support import golden

FOLDER = Path(__file__).parent / "golden"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("exec_*.txt")), ids=lambda path: path.stem)
def test_script(path: Path) -> None:
    golden.run(Script().execute, path)
