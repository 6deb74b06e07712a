"""Every rule and the choices of the planner, by golden scripts."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydistdb.sql.plan.planner import RULES

from tests.sql.script import Script
from tests.support import golden

FOLDER = Path(__file__).parent / "golden"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("plan_*.txt")), ids=lambda path: path.stem)
def test_script(path: Path) -> None:
    golden.run(Script().execute, path)


def test_every_rule_has_its_script() -> None:
    assert {f"plan_{rule.__name__}" for rule in RULES} <= {path.stem for path in FOLDER.glob("plan_*.txt")}
